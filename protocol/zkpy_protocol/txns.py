"""A txn's payload: what the log stores and proposals carry, bytes ↔ TxnHeader, record and digest.

    payload = TxnHeader · record of its type · [TxnDigest]

Owns the rules that a schema cannot express: which record belongs to a type, what may be missing, and the two old forms
that are still read. Does not know files, checksums or packets, and never computes a digest.

Invariants: decoding raises nothing but DecodeError; an encoded payload can be read by Apache ZooKeeper (a check outside a
multi, and a digest behind a closeSession without record, cannot, and are refused as our bug).
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import (
    CheckVersionTxn,
    CloseSessionTxn,
    CreateContainerTxn,
    CreateSessionTxn,
    CreateTTLTxn,
    CreateTxn,
    DeleteTxn,
    ErrorTxn,
    MultiTxn,
    SetACLTxn,
    SetDataTxn,
    TxnDigest,
    TxnHeader,
    decode_check_version_txn,
    decode_close_session_txn,
    decode_create_container_txn,
    decode_create_session_txn,
    decode_create_ttl_txn,
    decode_create_txn,
    decode_create_txn_v0,
    decode_delete_txn,
    decode_error_txn,
    decode_multi_txn,
    decode_set_acl_txn,
    decode_set_data_txn,
    encode_check_version_txn,
    encode_close_session_txn,
    encode_create_container_txn,
    encode_create_session_txn,
    encode_create_ttl_txn,
    encode_create_txn,
    encode_delete_txn,
    encode_error_txn,
    encode_multi_txn,
    encode_set_acl_txn,
    encode_set_data_txn,
    encode_txn_digest,
    encode_txn_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TxnRecord = (
    CreateTxn
    | CreateTTLTxn
    | CreateContainerTxn
    | DeleteTxn
    | SetDataTxn
    | SetACLTxn
    | CheckVersionTxn
    | ErrorTxn
    | CreateSessionTxn
    | CloseSessionTxn
    | MultiTxn
)

# What a create before 3.4 did not record: the parent's cversion, to be counted up on replay.
PARENT_C_VERSION_UNKNOWN = -1

_HEADER_SIZE: Final = 32
_DIGEST_SIZE: Final = 12
_CLOSE_SESSION = int(OpCode.CLOSE_SESSION)
_CHECK = int(OpCode.CHECK)
_unpack_header: Final = Struct(">qiqqi").unpack_from
_unpack_digest: Final = Struct(">iq").unpack_from


def _decode_create(buf: bytes, pos: int) -> tuple[CreateTxn, int]:
    """CreateTxn, or the CreateTxnV0 of a log from before 3.4, whose payload ends where the last field would begin."""
    try:
        return decode_create_txn(buf, pos)
    except DecodeError:
        old, end = decode_create_txn_v0(buf, pos)
        return CreateTxn(old.path, old.data, old.acl, old.ephemeral, PARENT_C_VERSION_UNKNOWN), end


# The codec of each txn type. The types of a MultiTxn's members are among them.
TXN_RECORDS: dict[int, tuple[Callable[[bytes, int], tuple[TxnRecord, int]], Callable[[Any], bytes]]] = {
    OpCode.CREATE: (_decode_create, encode_create_txn),
    OpCode.CREATE2: (decode_create_txn, encode_create_txn),
    OpCode.CREATE_TTL: (decode_create_ttl_txn, encode_create_ttl_txn),
    OpCode.CREATE_CONTAINER: (decode_create_container_txn, encode_create_container_txn),
    OpCode.DELETE: (decode_delete_txn, encode_delete_txn),
    OpCode.DELETE_CONTAINER: (decode_delete_txn, encode_delete_txn),
    OpCode.SET_DATA: (decode_set_data_txn, encode_set_data_txn),
    OpCode.RECONFIG: (decode_set_data_txn, encode_set_data_txn),
    OpCode.SET_ACL: (decode_set_acl_txn, encode_set_acl_txn),
    OpCode.CHECK: (decode_check_version_txn, encode_check_version_txn),
    OpCode.CREATE_SESSION: (decode_create_session_txn, encode_create_session_txn),
    OpCode.CLOSE_SESSION: (decode_close_session_txn, encode_close_session_txn),
    OpCode.ERROR: (decode_error_txn, encode_error_txn),
    OpCode.MULTI: (decode_multi_txn, encode_multi_txn),
}


def decode_record(txn_type: int, buf: bytes, pos: int = 0) -> tuple[TxnRecord, int]:
    """The record of a txn type: behind a TxnHeader, or as `data` of a member of a MultiTxn."""
    codec = TXN_RECORDS.get(txn_type)
    if codec is None:
        raise DecodeError(f"unknown txn type {txn_type}")
    return codec[0](buf, pos)


def encode_record(txn_type: int, record: TxnRecord) -> bytes:
    return TXN_RECORDS[txn_type][1](record)


def decode_payload(payload: bytes) -> tuple[TxnHeader, TxnRecord | None, TxnDigest | None]:
    """Take a payload apart. The record is None only for a closeSession that lists no paths because it has no record.

    Bytes behind the record that are too few for a digest are no digest, as with Apache.
    """
    client_id, cxid, zxid, time, txn_type, record, digest = decode_fields(payload)
    header = TxnHeader(client_id, cxid, zxid, time, txn_type)
    return header, record, None if digest is None else TxnDigest(*digest)


def decode_fields(payload: bytes) -> tuple[int, int, int, int, int, TxnRecord | None, tuple[int, int] | None]:
    """The same without making records of header and digest, for whoever reads a log of a million txns.

    Returns:
        client_id, cxid, zxid, time, type of the header; record; (version, tree digest).
    """
    try:
        client_id, cxid, zxid, time, txn_type = _unpack_header(payload)
    except struct.error:
        raise DecodeError("cut short: TxnHeader") from None
    if txn_type == _CLOSE_SESSION and len(payload) == _HEADER_SIZE:
        return client_id, cxid, zxid, time, txn_type, None, None
    if txn_type == _CHECK:
        raise DecodeError("check is no txn of its own")
    record, pos = decode_record(txn_type, payload, _HEADER_SIZE)
    digest = _unpack_digest(payload, pos) if len(payload) - pos >= _DIGEST_SIZE else None
    return client_id, cxid, zxid, time, txn_type, record, digest


def encode_payload(header: TxnHeader, record: TxnRecord | None, digest: TxnDigest | None) -> bytes:
    """Put a payload together; `record` is None for a closeSession without paths, which then has no digest either."""
    assert header.type != OpCode.CHECK, "no server could read it back"
    if record is None:
        assert header.type == OpCode.CLOSE_SESSION
        assert digest is None, "the digest would be taken for the record"
        return encode_txn_header(header)
    payload = encode_txn_header(header) + TXN_RECORDS[header.type][1](record)
    return payload if digest is None else payload + encode_txn_digest(digest)
