"""Hypothesis strategies shared by property tests: values of every record, from the schema that declares it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from zkpy_protocol import records
from zkpy_protocol.codegen import fields_of
from zkpy_protocol.schema.primitives import Boolean, Buffer, Int, Long, Record, Trailing, Ustring, Vector

if TYPE_CHECKING:
    from construct import Construct

INTS = st.integers(-(2**31), 2**31 - 1)
LONGS = st.integers(-(2**63), 2**63 - 1)
# Whatever can be encoded: everything but lone surrogates, which decoding never makes.
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def class_of(record: Record) -> Any:
    return getattr(records, record.record_name)


def values(kind: Construct) -> st.SearchStrategy[Any]:
    """Values of a field: nulls and empties included."""
    if kind is Int:
        return INTS
    if kind is Long:
        return LONGS
    if kind is Boolean:
        return st.booleans()
    if kind is Buffer:
        return st.none() | st.binary(max_size=24)
    if kind is Ustring:
        return st.none() | TEXT
    if isinstance(kind, Vector):
        return st.none() | st.lists(values(kind.item), max_size=3)
    assert isinstance(kind, Record)
    return instances(kind)


@st.composite
def instances(draw: st.DrawFn, record: Record) -> Any:
    """Records of one type. Behind an absent trailing field there is nothing more."""
    arguments: list[Any] = []
    absent = False
    for _, kind in fields_of(record):
        if isinstance(kind, Trailing):
            absent = absent or draw(st.booleans())
            arguments.append(None if absent else draw(values(kind.field)))
        else:
            arguments.append(draw(values(kind)))
    return class_of(record)(*arguments)


def sample(kind: Construct, *, other: bool = False) -> Any:
    """One value with nothing null, empty or absent, so that every field has bytes that can be damaged; or another."""
    if kind is Int or kind is Long:
        return 8 if other else 7
    if kind is Boolean:
        return not other
    if kind is Buffer:
        return b"uvw" if other else b"xyz"
    if kind is Ustring:
        return "cd" if other else "ab"
    if isinstance(kind, Vector):
        return [sample(kind.item, other=other), sample(kind.item)]
    if isinstance(kind, Trailing):
        return sample(kind.field, other=other)
    assert isinstance(kind, Record)
    return class_of(kind)(*(sample(field, other=other) for _, field in fields_of(kind)))


def to_construct(kind: Construct, value: Any) -> Any:
    """A record as construct builds it: dictionaries in place of records."""
    if isinstance(kind, Record):
        return {name: to_construct(field, getattr(value, name)) for name, field in fields_of(kind)}
    if isinstance(kind, Vector) and value is not None:
        return [to_construct(kind.item, item) for item in value]
    return value


def from_construct(kind: Construct, value: Any) -> Any:
    """What construct has parsed, as a record."""
    if isinstance(kind, Record):
        return class_of(kind)(*(from_construct(field, value[name]) for name, field in fields_of(kind)))
    if isinstance(kind, Vector) and value is not None:
        return [from_construct(kind.item, item) for item in value]
    return value


@st.composite
def split_up(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """A byte stream in pieces, as a socket may deliver it; empty pieces do not occur."""
    cuts = sorted(draw(st.sets(st.integers(1, max(len(stream) - 1, 1)), max_size=12)))
    edges = [0, *(cut for cut in cuts if cut < len(stream)), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]
