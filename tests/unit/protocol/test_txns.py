"""Payloads of txns: the cases that on-disk formats of several versions bring."""

from __future__ import annotations

import pytest

from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import (
    ACL,
    CheckVersionTxn,
    CloseSessionTxn,
    CreateContainerTxn,
    CreateSessionTxn,
    CreateTTLTxn,
    CreateTxn,
    CreateTxnV0,
    DeleteTxn,
    ErrorTxn,
    Id,
    MultiTxn,
    SetACLTxn,
    SetDataTxn,
    Txn,
    TxnDigest,
    TxnHeader,
    encode_check_version_txn,
    encode_create_txn_v0,
    encode_txn_digest,
    encode_txn_header,
)
from zkpy_protocol.txns import (
    PARENT_C_VERSION_UNKNOWN,
    TXN_RECORDS,
    TxnRecord,
    decode_payload,
    decode_record,
    encode_payload,
    encode_record,
)

OPEN = [ACL(31, Id("world", "anyone"))]
DIGEST = TxnDigest(2, -5)

SAMPLES: dict[int, TxnRecord] = {
    OpCode.CREATE: CreateTxn("/a", b"x", OPEN, True, 3),
    OpCode.CREATE2: CreateTxn("/a", None, OPEN, False, 3),
    OpCode.CREATE_TTL: CreateTTLTxn("/a", b"", OPEN, 3, 1000),
    OpCode.CREATE_CONTAINER: CreateContainerTxn("/a", b"", OPEN, 3),
    OpCode.DELETE: DeleteTxn("/a"),
    OpCode.DELETE_CONTAINER: DeleteTxn("/a"),
    OpCode.SET_DATA: SetDataTxn("/a", b"x", 1),
    OpCode.RECONFIG: SetDataTxn("/zookeeper/config", b"version=1", -1),
    OpCode.SET_ACL: SetACLTxn("/a", OPEN, 1),
    OpCode.CHECK: CheckVersionTxn("/a", 1),
    OpCode.CREATE_SESSION: CreateSessionTxn(4000),
    OpCode.CLOSE_SESSION: CloseSessionTxn(["/a"]),
    OpCode.ERROR: ErrorTxn(-101),
    OpCode.MULTI: MultiTxn([Txn(OpCode.CHECK, b"data"), Txn(OpCode.ERROR, b"data")]),
}


def header(txn_type: int) -> TxnHeader:
    return TxnHeader(0x100000000000001, 7, 0x200000003, 1_795_152_111_787, txn_type)


def test_every_txn_type_has_a_sample() -> None:
    assert SAMPLES.keys() == TXN_RECORDS.keys()


@pytest.mark.parametrize("txn_type", SAMPLES)
def test_a_record_comes_back_whole(txn_type: int) -> None:
    wire = encode_record(txn_type, SAMPLES[txn_type])
    assert decode_record(txn_type, b"\x00" + wire, 1) == (SAMPLES[txn_type], 1 + len(wire))


@pytest.mark.parametrize("digest", [None, DIGEST])
@pytest.mark.parametrize("txn_type", SAMPLES.keys() - {OpCode.CHECK})
def test_a_payload_comes_back_with_or_without_digest(txn_type: int, digest: TxnDigest | None) -> None:
    payload = encode_payload(header(txn_type), SAMPLES[txn_type], digest)
    assert decode_payload(payload) == (header(txn_type), SAMPLES[txn_type], digest)


def test_the_bytes_of_a_create_session_are_those_of_the_reference() -> None:
    """The first entry of a real log."""
    payload = bytes.fromhex(
        "0100002730770000 00000000 0000000000000001 000001a1f769ae6c fffffff6 00007530 00000002 0000000051c6d660"
    )
    decoded = (
        TxnHeader(0x0100002730770000, 0, 1, 0x1A1F769AE6C, OpCode.CREATE_SESSION),
        CreateSessionTxn(30000),
        TxnDigest(2, 1371985504),
    )
    assert decode_payload(payload) == decoded
    assert encode_payload(*decoded) == payload


def test_a_create_from_before_3_4_has_no_parent_cversion() -> None:
    old = encode_txn_header(header(OpCode.CREATE)) + encode_create_txn_v0(CreateTxnV0("/a", b"x", OPEN, True))
    record = CreateTxn("/a", b"x", OPEN, True, PARENT_C_VERSION_UNKNOWN)
    assert decode_payload(old) == (header(OpCode.CREATE), record, None)


def test_only_type_create_has_the_old_form() -> None:
    old = encode_txn_header(header(OpCode.CREATE2)) + encode_create_txn_v0(
        CreateTxnV0("/a", b"x", OPEN, True)
    )
    with pytest.raises(DecodeError):
        decode_payload(old)


def test_a_close_session_may_end_behind_its_header() -> None:
    payload = encode_txn_header(header(OpCode.CLOSE_SESSION))
    assert decode_payload(payload) == (header(OpCode.CLOSE_SESSION), None, None)
    assert encode_payload(header(OpCode.CLOSE_SESSION), None, None) == payload


def test_a_close_session_without_record_but_with_digest_cannot_be_read() -> None:
    with pytest.raises(DecodeError):
        decode_payload(encode_txn_header(header(OpCode.CLOSE_SESSION)) + encode_txn_digest(DIGEST))


def test_no_other_txn_may_end_behind_its_header() -> None:
    with pytest.raises(DecodeError):
        decode_payload(encode_txn_header(header(OpCode.ERROR)))


def test_bytes_too_few_for_a_digest_are_none() -> None:
    payload = encode_payload(header(OpCode.ERROR), ErrorTxn(-101), None)
    assert decode_payload(payload + bytes(11))[2] is None
    assert decode_payload(payload + bytes(12))[2] == TxnDigest(0, 0)


def test_a_check_outside_a_multi_is_refused() -> None:
    with pytest.raises(DecodeError, match="check"):
        decode_payload(
            encode_txn_header(header(OpCode.CHECK)) + encode_check_version_txn(CheckVersionTxn("/a", 1))
        )


@pytest.mark.parametrize("txn_type", [0, 3, 99, -2])
def test_an_unknown_type_is_refused(txn_type: int) -> None:
    with pytest.raises(DecodeError, match="unknown txn type"):
        decode_payload(encode_txn_header(header(txn_type)) + bytes(40))


def test_a_payload_shorter_than_its_header_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_payload(bytes(31))


@pytest.mark.parametrize(
    ("txn_type", "record", "digest"),
    [
        (OpCode.CHECK, CheckVersionTxn("/a", 1), None),
        (OpCode.CLOSE_SESSION, None, DIGEST),
        (OpCode.DELETE, None, None),
    ],
)
def test_what_no_server_could_read_is_not_written(
    txn_type: int, record: TxnRecord | None, digest: TxnDigest | None
) -> None:
    with pytest.raises(AssertionError):
        encode_payload(header(txn_type), record, digest)
