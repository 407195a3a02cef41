"""One transaction: the decoded record for the tree, the encoded payload for log and proposals.

A txn is encoded once, when it is prepared (or read from a log); the same payload bytes are what is
logged, proposed and sent to learners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from librt.strings import BytesWriter, write_i32_be, write_i64_be

from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.txns import decode_fields, encode_record

if TYPE_CHECKING:
    from zkpy.core.pipeline.changes import ChangeRecord

DIGEST_VERSION: Final = 2


def encode_txn(
    client_id: int, cxid: int, zxid: int, time: int, type_: int, body: bytes | None, digest: int | None
) -> bytes:
    """``TxnHeader record [TxnDigest]`` without making records of header and digest, for every write.

    `body` is the encoded record; only a closeSession has none, and then no digest, which would be taken for the record.
    """
    writer = BytesWriter()
    write_i64_be(writer, client_id)
    write_i32_be(writer, cxid)
    write_i64_be(writer, zxid)
    write_i64_be(writer, time)
    write_i32_be(writer, type_)
    if body is None:
        assert type_ == OpCode.CLOSE_SESSION
        assert digest is None
        return writer.getvalue()
    writer.write(body)
    if digest is not None:
        write_i32_be(writer, DIGEST_VERSION)
        write_i64_be(writer, digest)
    return writer.getvalue()


class Txn:
    """Header fields, record and payload of one transaction.

    Attributes:
        client_id: session that asked for it.
        cxid: xid of the request, 0 for what the server does itself.
        time: wall clock of the proposer, ms since 1970.
        digest: tree digest after this txn as the proposer computed it, None where there is none.
        payload: ``TxnHeader record [TxnDigest]``.
        prepared: what each operation leaves, None for one that changes nothing, where this server made the txn; the tree
            takes it over instead of computing it again. None for a txn that came from elsewhere.
    """

    __slots__ = ("_record", "client_id", "cxid", "digest", "payload", "prepared", "time", "type", "zxid")

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
        prepared: list[ChangeRecord | None] | None = None,
    ) -> None:
        self.client_id = client_id
        self.cxid = cxid
        self.zxid = zxid
        self.time = time
        self.type = type_
        self._record = record
        self.digest = digest
        self.payload = payload
        self.prepared = prepared

    @property
    def record(self) -> Any:
        """The record that belongs to `type`, None where the log holds none."""
        if self._record is None and self.prepared is not None:
            self._record = decode_fields(self.payload)[5]
        return self._record

    @classmethod
    def make(
        cls, client_id: int, cxid: int, zxid: int, time: int, type_: int, record: Any, digest: int | None
    ) -> Txn:
        """Encode a new txn."""
        body = None if record is None else encode_record(type_, record)
        payload = encode_txn(client_id, cxid, zxid, time, type_, body, digest)
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
