"""Invariant: a decoder gives a record and an end within the buffer, or DecodeError; what it gave can be encoded, and decoding
that gives the same record. The same for the requests of a multi and for the payload of a txn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.replies import create, multi, set_data
from tests.fakes.scripted_server import make_txns
from tests.fuzz import smoke
from tests.strategies import sample
from zkpy_protocol import records
from zkpy_protocol.codegen import snake
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.multi import iter_multi_request
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.schema import ALL_RECORDS
from zkpy_protocol.txns import decode_payload, encode_payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = sorted(snake(name) for name in ALL_RECORDS)


def check(data: bytes) -> None:
    """The first byte says which decoder."""
    which, body = data[0] if data else 0, data[1:]
    try:
        if which < len(NAMES):
            _check_record(NAMES[which], body)
        elif which % 2:
            for op, record in iter_multi_request(body):
                assert op >= 0
                repr(record)
        else:
            _check_payload(body)
    except DecodeError:
        pass


def _check_record(name: str, body: bytes) -> None:
    decode = getattr(records, f"decode_{name}")
    record, end = decode(body)
    assert 0 <= end <= len(body)
    encoded = getattr(records, f"encode_{name}")(record)
    assert decode(encoded) == (record, len(encoded))
    repr(record)


def _check_payload(body: bytes) -> None:
    header, record, digest = decode_payload(body)
    if header.type == OpCode.CHECK or (record is None and digest is not None):
        return  # forms that can be read and must not be written
    again = decode_payload(encode_payload(header, record, digest))
    if digest is not None:
        assert again == (header, record, digest)
    assert again[:2] == (header, record)


def seeds() -> Iterator[bytes]:
    for name, record in ALL_RECORDS.items():
        encode: Callable[[object], bytes] = getattr(records, f"encode_{snake(name)}")
        yield bytes([NAMES.index(snake(name))]) + encode(sample(record))
    yield b"\xff" + multi((OpCode.CREATE, create("/a")), (OpCode.SET_DATA, set_data("/a")))
    for txn in make_txns(30, seed=1, data_max=20).txns:
        yield b"\xfe" + txn.payload


_SEEDS = list(seeds())


@smoke
@given(st.integers(0, 255), st.binary(max_size=120))
def test_any_bytes(which: int, body: bytes) -> None:
    check(bytes([which]) + body)


@smoke
@given(st.sampled_from(_SEEDS), st.data())
def test_good_bytes_with_a_change(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(1, len(changed) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(changed[: data.draw(st.integers(1, len(changed)))]))


def test_every_seed_is_good() -> None:
    assert len(NAMES) < 0xFE, "the first byte cannot say everything any more"
    for seed in _SEEDS:
        check(seed)
