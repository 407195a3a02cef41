"""One transaction: the decoded record for the tree, the encoded payload for log and proposals.

A txn is encoded once, when it is prepared (or read from a log); the same payload bytes are what is
logged, proposed and sent to learners.
"""

from __future__ import annotations

import struct
from typing import Any

from zkpy_protocol.txns import decode_fields, encode_record

DIGEST_VERSION = 2

# TxnHeader and TxnDigest; encoded for every write, so without making the records.
_HEADER = struct.Struct(">qiqqi").pack
_DIGEST = struct.Struct(">iq").pack


class Txn:
    """Header fields, record and payload of one transaction.

    Attributes:
        client_id: session that asked for it.
        cxid: xid of the request, 0 for what the server does itself.
        time: wall clock of the proposer, ms since 1970.
        record: the record class that belongs to `type`, None where the log holds none.
        digest: tree digest after this txn as the proposer computed it, None where there is none.
        payload: ``TxnHeader record [TxnDigest]``.
        members: type and record of each member of a multi that was prepared here; None when it has to be decoded.
    """

    __slots__ = ("client_id", "cxid", "digest", "members", "payload", "record", "time", "type", "zxid")

    def __init__(
        self,
        client_id: int,
        cxid: int,
        zxid: int,
        time: int,
        type_: int,
        record: Any,
        digest: int | None,
        payload: bytes,
    ) -> None:
        self.client_id = client_id
        self.cxid = cxid
        self.zxid = zxid
        self.time = time
        self.type = type_
        self.record = record
        self.digest = digest
        self.payload = payload
        self.members: list[tuple[int, Any]] | None = None

    @classmethod
    def make(
        cls, client_id: int, cxid: int, zxid: int, time: int, type_: int, record: Any, digest: int | None
    ) -> Txn:
        """Encode a new txn."""
        payload = _HEADER(client_id, cxid, zxid, time, type_)
        if record is not None:
            payload += encode_record(type_, record)
            if digest is not None:
                payload += _DIGEST(DIGEST_VERSION, digest)
        else:
            # Behind a closeSession without record a digest would be taken for the record.
            assert digest is None
        return cls(client_id, cxid, zxid, time, type_, record, digest, payload)

    @classmethod
    def from_payload(cls, payload: bytes) -> Txn:
        """Decode a logged or proposed txn.

        Raises:
            DecodeError: the payload is not a txn this version knows.
        """
        client_id, cxid, zxid, time, type_, record, digest = decode_fields(payload)
        comparable = digest[1] if digest is not None and digest[0] == DIGEST_VERSION else None
        return cls(client_id, cxid, zxid, time, type_, record, comparable, payload)
