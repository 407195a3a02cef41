"""One transaction in memory and as a payload."""

from __future__ import annotations

import pytest

from tests.fakes.replies import OPEN
from zkpy.core.txn import Txn
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import CloseSessionTxn, CreateTxn, TxnDigest, TxnHeader
from zkpy_protocol.txns import encode_payload

RECORD = CreateTxn("/a", b"1", OPEN, False, 3)
HEADER = TxnHeader(5, 6, 7, 8, OpCode.CREATE)


def test_a_payload_is_header_record_and_digest() -> None:
    txn = Txn.make(5, 6, 7, 8, OpCode.CREATE, RECORD, -9)
    assert txn.payload == encode_payload(HEADER, RECORD, TxnDigest(2, -9))
    assert Txn.make(5, 6, 7, 8, OpCode.CREATE, RECORD, None).payload == encode_payload(HEADER, RECORD, None)


@pytest.mark.parametrize("digest", [None, 0, -(1 << 63), (1 << 63) - 1])
def test_a_txn_comes_back_out_of_its_payload(digest: int | None) -> None:
    txn = Txn.make(-5, 6, 7, 8, OpCode.CREATE, RECORD, digest)
    again = Txn.from_payload(txn.payload)
    assert (again.client_id, again.cxid, again.zxid, again.time, again.type) == (-5, 6, 7, 8, OpCode.CREATE)
    assert (again.record, again.digest, again.payload) == (RECORD, digest, txn.payload)


def test_a_digest_of_another_version_cannot_be_compared() -> None:
    payload = encode_payload(HEADER, RECORD, TxnDigest(1, 5))
    assert Txn.from_payload(payload).digest is None


def test_a_close_session_without_a_record_is_a_header_alone() -> None:
    txn = Txn.make(5, 0, 7, 8, OpCode.CLOSE_SESSION, None, None)
    assert len(txn.payload) == 32
    assert Txn.from_payload(txn.payload).record is None
    listed = Txn.make(5, 0, 7, 8, OpCode.CLOSE_SESSION, CloseSessionTxn([]), 1)
    assert Txn.from_payload(listed.payload).record == CloseSessionTxn([])


def test_a_digest_without_a_record_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        Txn.make(5, 0, 7, 8, OpCode.CLOSE_SESSION, None, 1)


@pytest.mark.parametrize("payload", [b"", bytes(31), bytes(40)])
def test_what_is_no_txn_cannot_be_decoded(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        Txn.from_payload(payload)


def test_the_record_of_a_txn_that_was_prepared_here_is_in_its_payload() -> None:
    payload = Txn.make(5, 6, 7, 8, OpCode.CREATE, RECORD, -9).payload
    assert Txn(5, 6, 7, 8, OpCode.CREATE, None, -9, payload, []).record == RECORD
    payload = Txn.make(5, 0, 7, 8, OpCode.CLOSE_SESSION, None, None).payload
    assert Txn(5, 0, 7, 8, OpCode.CLOSE_SESSION, None, None, payload, []).record is None
