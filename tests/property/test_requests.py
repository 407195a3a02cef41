"""Requests of writes read field by field: the same as the generated decoders find, or refused as they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.strategies import instances
from zkpy.core.acl import AclReader
from zkpy_protocol import records
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.requests import (
    read_int,
    read_long,
    read_path_and_data,
    read_path_and_version,
    read_set_data,
)
from zkpy_protocol.schema import ALL_RECORDS

some = settings(max_examples=150, derandomize=True, deadline=None)


def read_create(buf: bytes) -> Any:
    """All fields, and the end."""
    path, data, pos = read_path_and_data(buf, 0)
    acl, pos = AclReader().read(buf, pos)
    return records.CreateRequest(path, data, acl.entries, read_int(buf, pos)), pos + 4


def read_create_ttl(buf: bytes) -> Any:
    create, pos = read_create(buf)
    ttl = read_long(buf, pos)
    return records.CreateTTLRequest(create.path, create.data, create.acl, create.flags, ttl), pos + 8


def read_set(buf: bytes) -> Any:
    path, data, version, pos = read_set_data(buf, 0)
    return records.SetDataRequest(path, data, version), pos


def read_delete(buf: bytes) -> Any:
    path, version, pos = read_path_and_version(buf, 0)
    return records.DeleteRequest(path, version), pos


@pytest.mark.parametrize(
    ("name", "read", "encode", "decode"),
    [
        ("CreateRequest", read_create, records.encode_create_request, records.decode_create_request),
        (
            "CreateTTLRequest",
            read_create_ttl,
            records.encode_create_ttl_request,
            records.decode_create_ttl_request,
        ),
        ("SetDataRequest", read_set, records.encode_set_data_request, records.decode_set_data_request),
        ("DeleteRequest", read_delete, records.encode_delete_request, records.decode_delete_request),
    ],
)
@some
@given(data=st.data())
def test_fields_and_ends_are_those_of_the_generated_decoder(
    name: str, read: Any, encode: Any, decode: Any, data: st.DataObject
) -> None:
    """Whole requests, and such as are cut short or damaged in one byte."""
    raw = bytearray(encode(data.draw(instances(ALL_RECORDS[name]))))
    raw += data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    buf = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        expected = decode(buf, 0)
    except DecodeError:
        with pytest.raises(DecodeError):
            read(buf)
    else:
        assert read(buf) == expected


ACLS = st.lists(
    st.sampled_from(
        [
            b"\xff\xff\xff\xff",
            b"\0\0\0\0",
            *(
                records.encode_set_acl_request(records.SetACLRequest("", acl, 0))[4:-4]
                for acl in (
                    [records.ACL(31, records.Id("world", "anyone"))],
                    [records.ACL(31, records.Id("world", "anyone")), records.ACL(1, records.Id("auth", ""))],
                    [records.ACL(1, records.Id("auth", None))],
                )
            ),
        ]
    ),
    max_size=6,
)


@some
@example([b"\0\0\0\0", b"\0\0\0\x01"])
@given(ACLS)
def test_an_acl_is_read_the_same_whatever_was_read_before(raws: list[bytes]) -> None:
    reader = AclReader()
    for raw in raws:
        buf = b"head" + raw + b"tail"
        try:
            expected = AclReader().read(buf, 4)
        except DecodeError:
            with pytest.raises(DecodeError):
                reader.read(buf, 4)
        else:
            found, end = reader.read(buf, 4)
            assert (found.entries, found.raw, end) == (expected[0].entries, raw, expected[1])
