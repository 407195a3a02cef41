"""The generated codec is bound to the schema: construct is slow and obviously right, the generated code must agree."""

from __future__ import annotations

import io
from typing import Any

import pytest
from construct import ConstructError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import INTS, from_construct, instances, sample, to_construct
from zkpy_protocol import records
from zkpy_protocol.codegen import fields_of, snake
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.schema import ALL_RECORDS
from zkpy_protocol.schema.primitives import Record, Trailing

each_record = pytest.mark.parametrize("record", ALL_RECORDS.values(), ids=ALL_RECORDS)
few = settings(max_examples=20, derandomize=True, deadline=None)


def encode(record: Record, value: Any) -> bytes:
    encoded: bytes = getattr(records, f"encode_{snake(record.record_name)}")(value)
    return encoded


def decode(record: Record, buf: bytes, pos: int = 0) -> tuple[Any, int]:
    decoded: tuple[Any, int] = getattr(records, f"decode_{snake(record.record_name)}")(buf, pos)
    return decoded


def trailing_size(record: Record, value: Any) -> int:
    """Bytes at the end that may be missing."""
    return sum(
        field.subcon.field.sizeof()
        for field in record.subcons
        if isinstance(field.subcon, Trailing) and getattr(value, field.name) is not None
    )


@each_record
@few
@given(data=st.data())
def test_what_construct_builds_is_encoded_and_decoded(record: Record, data: st.DataObject) -> None:
    value = data.draw(instances(record))
    wire = record.build(to_construct(record, value))
    assert encode(record, value) == wire
    assert decode(record, wire) == (value, len(wire))


@each_record
@few
@given(data=st.data())
def test_a_record_is_decoded_in_the_middle_of_a_buffer(record: Record, data: st.DataObject) -> None:
    """The offset is honoured, and bytes behind the record are left alone."""
    value = data.draw(instances(record))
    wire = encode(record, value)
    before = data.draw(st.binary(max_size=8))
    complete = all(
        getattr(value, field.name) is not None
        for field in record.subcons
        if isinstance(field.subcon, Trailing)
    )
    behind = data.draw(st.binary(max_size=8)) if complete else b""
    assert decode(record, before + wire + behind, len(before)) == (value, len(before) + len(wire))


@each_record
@few
@given(data=st.data())
def test_a_record_that_is_cut_short_is_refused(record: Record, data: st.DataObject) -> None:
    value = data.draw(instances(record))
    wire = encode(record, value)
    required = len(wire) - trailing_size(record, value)
    for end in range(required):
        with pytest.raises(DecodeError):
            decode(record, wire[:end])
    for end in range(required, len(wire)):
        assert decode(record, wire[:end])[0] != value, "a trailing field is missing, the rest is there"


@st.composite
def damaged(draw: st.DrawFn, record: Record) -> bytes:
    """Any bytes, or an encoded record with one int written over it: lengths and counts are what goes wrong."""
    wire = bytearray(encode(record, draw(instances(record))))
    if len(wire) < 4 or draw(st.booleans()):
        return draw(st.binary(max_size=100))
    at = draw(st.integers(0, len(wire) - 4))
    wire[at : at + 4] = draw(st.integers(-3, 40) | INTS).to_bytes(4, "big", signed=True)
    return bytes(wire)


def agree(record: Record, wire: bytes) -> None:
    """Both accept the bytes, with the same record and the same end, or both refuse them."""
    stream = io.BytesIO(wire)
    try:
        expected = from_construct(record, record.parse_stream(stream))
    except ConstructError:
        with pytest.raises(DecodeError):
            decode(record, wire)
    else:
        assert decode(record, wire) == (expected, stream.tell())


@each_record
@few
@given(data=st.data())
def test_any_bytes_give_what_construct_gives(record: Record, data: st.DataObject) -> None:
    agree(record, data.draw(damaged(record)))


@each_record
def test_damage_at_every_offset_gives_what_construct_gives(record: Record) -> None:
    """Null, a negative length, a huge length and bytes that are no text, in every place."""
    wire = encode(record, sample(record))
    for at in range(len(wire)):
        for damage in (b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe", b"\x7f\xff\xff\xff", b"\xff"):
            agree(record, wire[:at] + damage + wire[at + len(damage) :])


@each_record
def test_records_are_equal_field_by_field_and_show_all_fields(record: Record) -> None:
    value = sample(record)
    assert value == sample(record)
    assert value != object()
    assert eval(repr(value), vars(records)) == value  # a repr is an expression of constructors and literals
    for name, kind in fields_of(record):
        other = sample(record)
        setattr(other, name, sample(kind, other=True))
        assert value != other
