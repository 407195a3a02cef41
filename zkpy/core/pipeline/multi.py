"""What may stand in a multi, and what txn each of its operations becomes (client protocol §14).

Read operation by operation, as Apache does, because what is found first decides whether the failed request
uses a zxid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from librt.strings import BytesWriter, read_i32_be, write_i32_be

from zkpy.core.errors import KeeperError
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.multi import MULTI_END
from zkpy_protocol.opcodes import CreateFlags, ErrorCode, OpCode
from zkpy_protocol.requests import read_int, read_long, read_path_and_data, read_path_and_version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zkpy.core.acl import AclReader, RequestedAcl

READ_OPS: Final = (OpCode.GET_DATA, OpCode.GET_CHILDREN)
_CREATE_OPS: Final = (OpCode.CREATE, OpCode.CREATE2, OpCode.CREATE_CONTAINER, OpCode.CREATE_TTL)
_TTL_FLAGS: Final = (CreateFlags.PERSISTENT_WITH_TTL, CreateFlags.PERSISTENT_SEQUENTIAL_WITH_TTL)
_HEADER_SIZE: Final = 9
NO_TTL: Final = -1


class WriteOp:
    """One operation of a multi, as it was asked for.

    Attributes:
        type: txn type.
        head: path, and data where there is any, as they stand in the request and will in the txn.
        number: version of setData, delete and check, flags of a create.
        acl: of a create.
    """

    __slots__ = ("acl", "data", "head", "number", "path", "ttl", "type")

    def __init__(
        self,
        type_: int,
        path: str,
        data: bytes | None,
        head: bytes,
        number: int,
        acl: RequestedAcl | None = None,
        ttl: int = NO_TTL,
    ) -> None:
        self.type = type_
        self.path = path
        self.data = data
        self.head = head
        self.number = number
        self.acl = acl
        self.ttl = ttl


def read_write_ops(frame: bytes, pos: int, acls: AclReader) -> list[WriteOp]:
    """The operations of a multi.

    Raises:
        DecodeError: the request is refused and uses a zxid.
        KeeperError: it is refused before it gets one.
    """
    ops: list[WriteOp] = []
    has_null_path = False
    while True:
        try:
            header_type: int = read_i32_be(frame, pos)
            is_end = frame[pos + 4] != 0
            read_i32_be(frame, pos + 5)  # an error, which means nothing in a request
        except IndexError:
            raise DecodeError("cut short: MultiHeader") from None
        if is_end:
            break
        pos += _HEADER_SIZE
        start = pos
        path: str | None
        if header_type == OpCode.SET_DATA:
            path, data, pos = read_path_and_data(frame, pos)
            op = WriteOp(header_type, path or "", data, frame[start:pos], read_int(frame, pos))
            pos += 4
        elif header_type in (OpCode.DELETE, OpCode.CHECK):
            path, version, pos = read_path_and_version(frame, pos)
            op = WriteOp(header_type, path or "", None, frame[start : pos - 4], version)
        elif header_type in _CREATE_OPS:
            path, data, pos = read_path_and_data(frame, pos)
            head = frame[start:pos]
            acl, pos = acls.read(frame, pos)
            flags = read_int(frame, pos)
            pos += 4
            ttl = NO_TTL
            if header_type == OpCode.CREATE_TTL:
                ttl = read_long(frame, pos)
                pos += 8
            op = WriteOp(_create_type(header_type, flags, acl), path or "", data, head, flags, acl, ttl)
        else:
            raise DecodeError(f"no write of a multi: {header_type}")
        has_null_path |= path is None
        ops.append(op)
    if has_null_path:
        # Last, because what else is wrong with the request goes before.
        raise DecodeError("null path in a multi")
    return ops


def _create_type(header_type: int, flags: int, acl: RequestedAcl) -> int:
    """The flags decide, then the header; TTL flags need a ttl, which others ignore."""
    if header_type == OpCode.CREATE_TTL:
        if flags in _TTL_FLAGS:
            return OpCode.CREATE_TTL
        return OpCode.CREATE_CONTAINER if flags == CreateFlags.CONTAINER else OpCode.CREATE
    if not CreateFlags.PERSISTENT <= flags <= CreateFlags.PERSISTENT_SEQUENTIAL_WITH_TTL:
        raise DecodeError(f"create flags {flags}")
    if acl.entries is None:
        raise KeeperError(ErrorCode.MARSHALLINGERROR)
    if flags in _TTL_FLAGS:
        raise DecodeError(f"create flags {flags} without a ttl")
    return OpCode.CREATE_CONTAINER if flags == CreateFlags.CONTAINER else header_type


def result(type_: int, body: bytes) -> bytes:
    """One successful entry of a result list."""
    writer = BytesWriter()
    _write_header(writer, type_)
    writer.write(body)
    return writer.getvalue()


def error_result(code: int) -> bytes:
    """The entry of an operation that failed, or did not happen."""
    writer = BytesWriter()
    _write_header(writer, OpCode.ERROR, code)
    write_i32_be(writer, code)
    return writer.getvalue()


def _write_header(writer: BytesWriter, type_: int, err: int = 0) -> None:
    write_i32_be(writer, type_)
    writer.append(0)
    write_i32_be(writer, err)


def result_list(results: Iterable[bytes]) -> bytes:
    """The record of a multi reply."""
    return b"".join(results) + MULTI_END
