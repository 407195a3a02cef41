"""What may stand in a multi, and what txn each of its operations becomes (client protocol §14).

Read operation by operation, as Apache does, because what is found first decides whether the failed request
uses a zxid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zkpy.core.errors import KeeperError
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.multi import MULTI_END, iter_multi_request
from zkpy_protocol.opcodes import CreateFlags, ErrorCode, OpCode
from zkpy_protocol.records import (
    CreateRequest,
    ErrorResponse,
    MultiHeader,
    encode_error_response,
    encode_multi_header,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

READ_OPS = (OpCode.GET_DATA, OpCode.GET_CHILDREN)
_CREATE_OPS = (OpCode.CREATE, OpCode.CREATE2, OpCode.CREATE_CONTAINER)
_TTL_FLAGS = (CreateFlags.PERSISTENT_WITH_TTL, CreateFlags.PERSISTENT_SEQUENTIAL_WITH_TTL)


def read_write_ops(frame: bytes, pos: int) -> list[tuple[int, Any]]:
    """The operations of a multi as (txn type, request record).

    Raises:
        DecodeError: the request is refused and uses a zxid.
        KeeperError: it is refused before it gets one.
    """
    ops: list[tuple[int, Any]] = []
    op: Any
    for header_type, op in iter_multi_request(frame, pos):
        if header_type in READ_OPS:
            raise DecodeError("a read in a multi")
        type_ = header_type
        if header_type in _CREATE_OPS:
            type_ = _create_type(header_type, op)
        elif header_type == OpCode.CREATE_TTL and op.flags not in _TTL_FLAGS:
            type_ = OpCode.CREATE_CONTAINER if op.flags == CreateFlags.CONTAINER else OpCode.CREATE
            op = CreateRequest(op.path, op.data, op.acl, op.flags)  # noqa: PLW2901  the ttl is ignored
        ops.append((type_, op))
    if any(op.path is None for _, op in ops):
        raise DecodeError("null path in a multi")
    return ops


def _create_type(header_type: int, op: Any) -> int:
    """The flags decide, then the header; TTL flags have no ttl here."""
    if not CreateFlags.PERSISTENT <= op.flags <= CreateFlags.PERSISTENT_SEQUENTIAL_WITH_TTL:
        raise DecodeError(f"create flags {op.flags}")
    if op.acl is None:
        raise KeeperError(ErrorCode.MARSHALLINGERROR)
    if op.flags in _TTL_FLAGS:
        raise DecodeError(f"create flags {op.flags} without a ttl")
    return OpCode.CREATE_CONTAINER if op.flags == CreateFlags.CONTAINER else header_type


def result(type_: int, body: bytes) -> bytes:
    """One successful entry of a result list."""
    return encode_multi_header(MultiHeader(type_, False, 0)) + body


def error_result(code: int) -> bytes:
    """The entry of an operation that failed, or did not happen."""
    return encode_multi_header(MultiHeader(OpCode.ERROR, False, code)) + encode_error_response(
        ErrorResponse(code)
    )


def result_list(results: Iterable[bytes]) -> bytes:
    """The record of a multi reply."""
    return b"".join(results) + MULTI_END
