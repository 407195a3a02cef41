"""Requests of multi and multiRead."""

from __future__ import annotations

import pytest

from zkpy_protocol.errors import DecodeError
from zkpy_protocol.multi import MULTI_END, MultiOp, iter_multi_request
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import (
    ACL,
    CheckVersionRequest,
    CreateRequest,
    CreateTTLRequest,
    DeleteRequest,
    GetChildrenRequest,
    GetDataRequest,
    Id,
    MultiHeader,
    SetDataRequest,
    encode_check_version_request,
    encode_create_request,
    encode_create_ttl_request,
    encode_delete_request,
    encode_get_children_request,
    encode_get_data_request,
    encode_multi_header,
    encode_set_data_request,
)

OPEN = [ACL(31, Id("world", "anyone"))]
CREATE = CreateRequest("/a", b"", OPEN, 0)
CREATE_TTL = CreateTTLRequest("/a", b"", OPEN, 5, 1000)

OPS: list[tuple[int, MultiOp, bytes]] = [
    (OpCode.CREATE, CREATE, encode_create_request(CREATE)),
    (OpCode.CREATE2, CREATE, encode_create_request(CREATE)),
    (OpCode.CREATE_CONTAINER, CREATE, encode_create_request(CREATE)),
    (OpCode.CREATE_TTL, CREATE_TTL, encode_create_ttl_request(CREATE_TTL)),
    (OpCode.DELETE, DeleteRequest("/a", -1), encode_delete_request(DeleteRequest("/a", -1))),
    (OpCode.SET_DATA, SetDataRequest("/a", b"", 2), encode_set_data_request(SetDataRequest("/a", b"", 2))),
    (OpCode.CHECK, CheckVersionRequest("/a", 3), encode_check_version_request(CheckVersionRequest("/a", 3))),
    (OpCode.GET_DATA, GetDataRequest("/a", True), encode_get_data_request(GetDataRequest("/a", True))),
    (
        OpCode.GET_CHILDREN,
        GetChildrenRequest("/a", False),
        encode_get_children_request(GetChildrenRequest("/a", False)),
    ),
]


def op(txn_type: int, body: bytes) -> bytes:
    return encode_multi_header(MultiHeader(txn_type, False, -1)) + body


def test_operations_are_read_until_a_header_says_done() -> None:
    """All types may stand in one request here: what may be mixed is decided by the server."""
    wire = b"".join(op(txn_type, body) for txn_type, _, body in OPS) + MULTI_END
    expected = [(txn_type, record) for txn_type, record, _ in OPS]
    assert list(iter_multi_request(b"??" + wire + b"behind", 2)) == expected


def test_operations_before_a_bad_one_are_given_first() -> None:
    """Each is decoded when it is asked for: whether the first is legal may be known before the second is looked at."""
    operations = iter_multi_request(op(OpCode.DELETE, OPS[4][2]) + op(OpCode.SET_ACL, b""))
    assert next(operations) == (OpCode.DELETE, DeleteRequest("/a", -1))
    with pytest.raises(DecodeError):
        next(operations)


def test_a_multi_may_be_empty() -> None:
    assert MULTI_END == b"\xff\xff\xff\xff\x01\xff\xff\xff\xff"
    assert list(iter_multi_request(MULTI_END)) == []


@pytest.mark.parametrize(
    "txn_type", [OpCode.SET_ACL, OpCode.EXISTS, OpCode.DELETE_CONTAINER, OpCode.MULTI, -1, 99]
)
def test_other_types_are_refused(txn_type: int) -> None:
    with pytest.raises(DecodeError, match=str(txn_type)):
        list(iter_multi_request(op(txn_type, b"") + MULTI_END))


def test_a_multi_that_is_cut_short_is_refused() -> None:
    wire = b"".join(op(txn_type, body) for txn_type, _, body in OPS) + MULTI_END
    for end in range(len(wire)):
        with pytest.raises(DecodeError):
            list(iter_multi_request(wire[:end]))
