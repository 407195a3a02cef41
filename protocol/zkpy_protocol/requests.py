"""Requests of writes, field by field instead of as records.

The record of a txn begins with the same bytes as that of its request, so whoever makes txns wants to know where fields
end, and needs no object in between. Same rules as the decoders of records.py: nothing is read outside the buffer, and
DecodeError is the only exception (tests/property/test_codec.py compares them).
"""

from __future__ import annotations

from typing import Final

from librt.strings import read_i32_be, read_i64_be

from zkpy_protocol.errors import DecodeError
from zkpy_protocol.records import ACL, decode_acl
from zkpy_protocol.text import replace_bad

_ACL_SIZE_MIN: Final = 12


def read_path_and_data(buf: bytes, pos: int) -> tuple[str | None, bytes | None, int]:
    """What create and setData begin with, and the offset behind it.

    Data may reach beyond the buffer: then so does the offset, and reading the next field fails.
    """
    path: str | None = None
    data: bytes | None = None
    try:
        length: int = read_i32_be(buf, pos)
        pos += 4
        if length >= 0:
            end = pos + length
            try:
                path = buf[pos:end].decode()
            except UnicodeDecodeError:
                path = replace_bad(buf[pos:end])
            pos = end
        elif length != -1:
            raise DecodeError("negative length: path")
        length = read_i32_be(buf, pos)
    except IndexError:
        raise DecodeError("cut short: path and data") from None
    pos += 4
    if length >= 0:
        end = pos + length
        data = buf[pos:end]
        pos = end
    elif length != -1:
        raise DecodeError("negative length: data")
    return path, data, pos


def read_set_data(buf: bytes, pos: int) -> tuple[str | None, bytes | None, int, int]:
    """All of setData: path, data, version, and the offset behind it."""
    path: str | None = None
    data: bytes | None = None
    try:
        length: int = read_i32_be(buf, pos)
        pos += 4
        if length >= 0:
            end = pos + length
            try:
                path = buf[pos:end].decode()
            except UnicodeDecodeError:
                path = replace_bad(buf[pos:end])
            pos = end
        elif length != -1:
            raise DecodeError("negative length: path")
        length = read_i32_be(buf, pos)
        pos += 4
        if length >= 0:
            end = pos + length
            data = buf[pos:end]
            pos = end
        elif length != -1:
            raise DecodeError("negative length: data")
        version: int = read_i32_be(buf, pos)
    except IndexError:
        raise DecodeError("cut short: setData") from None
    return path, data, version, pos + 4


def read_path_and_version(buf: bytes, pos: int) -> tuple[str | None, int, int]:
    """All of delete and check, and the offset behind it."""
    path: str | None = None
    try:
        length: int = read_i32_be(buf, pos)
        pos += 4
        if length >= 0:
            end = pos + length
            try:
                path = buf[pos:end].decode()
            except UnicodeDecodeError:
                path = replace_bad(buf[pos:end])
            pos = end
        elif length != -1:
            raise DecodeError("negative length: path")
        version: int = read_i32_be(buf, pos)
    except IndexError:
        raise DecodeError("cut short: path and version") from None
    return path, version, pos + 4


def read_int(buf: bytes, pos: int) -> int:
    """Version or flags."""
    try:
        return read_i32_be(buf, pos)
    except IndexError:
        raise DecodeError("cut short: int") from None


def read_long(buf: bytes, pos: int) -> int:
    """A ttl."""
    try:
        return read_i64_be(buf, pos)
    except IndexError:
        raise DecodeError("cut short: long") from None


def read_acl(buf: bytes, pos: int) -> tuple[list[ACL] | None, int]:
    """A vector of ACL entries, and the offset behind it."""
    count = read_int(buf, pos)
    pos += 4
    if count == -1:
        return None, pos
    if count * _ACL_SIZE_MIN > len(buf) - pos:
        raise DecodeError("cut short: ACL")
    entries: list[ACL] = []
    for _ in range(count):
        entry, pos = decode_acl(buf, pos)
        entries.append(entry)
    return entries, pos
