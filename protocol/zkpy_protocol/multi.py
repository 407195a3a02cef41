"""The request of multi and multiRead: headers and records until a header says done.

Owns the grammar only. Which of the operations may stand together, and what a bad one is answered with, is for the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import (
    CheckVersionRequest,
    CreateRequest,
    CreateTTLRequest,
    DeleteRequest,
    GetChildrenRequest,
    GetDataRequest,
    MultiHeader,
    SetDataRequest,
    decode_check_version_request,
    decode_create_request,
    decode_create_ttl_request,
    decode_delete_request,
    decode_get_children_request,
    decode_get_data_request,
    decode_multi_header,
    decode_set_data_request,
    encode_multi_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MultiOp = (
    CreateRequest
    | CreateTTLRequest
    | DeleteRequest
    | SetDataRequest
    | CheckVersionRequest
    | GetDataRequest
    | GetChildrenRequest
)

# Closes the list of operations, and likewise the list of results.
MULTI_END = encode_multi_header(MultiHeader(-1, True, -1))

_OPS: dict[int, Callable[[bytes, int], tuple[MultiOp, int]]] = {
    OpCode.CREATE: decode_create_request,
    OpCode.CREATE2: decode_create_request,
    OpCode.CREATE_CONTAINER: decode_create_request,
    OpCode.CREATE_TTL: decode_create_ttl_request,
    OpCode.DELETE: decode_delete_request,
    OpCode.SET_DATA: decode_set_data_request,
    OpCode.CHECK: decode_check_version_request,
    OpCode.GET_DATA: decode_get_data_request,
    OpCode.GET_CHILDREN: decode_get_children_request,
}


def iter_multi_request(buf: bytes, pos: int = 0) -> Iterator[tuple[int, MultiOp]]:
    """The operations as (type of the header, record), each decoded when it is asked for."""
    while True:
        header, pos = decode_multi_header(buf, pos)
        if header.done:
            return
        decode = _OPS.get(header.type)
        if decode is None:
            raise DecodeError(f"no operation of a multi: {header.type}")
        record, pos = decode(buf, pos)
        yield header.type, record
