"""The types jute is made of, as construct sees them. Every wire quirk is a type here, never a special case in a server.

* `Int`, `Long`: big endian, signed. `Boolean`: one byte, any non-zero byte reads as true.
* `Buffer`, `Ustring`: int length and bytes; -1 is null, which is not the same as empty; other negative lengths are errors.
  Text is UTF-8 and bad bytes are replaced (see `text.py`), never refused.
* `Vector(item)`: int count and items; -1 is null, every other negative count reads as an empty vector.
* `Trailing(fixed)`: a last field that old peers leave out; None when fewer bytes are left than it needs.
* `record(name, **fields)`: fields in order, no tags, no padding.
"""

# ruff: noqa: ARG002  construct hands every hook a context and a path

from __future__ import annotations

from typing import Any

from construct import (
    Adapter,
    Byte,
    Construct,
    Int32sb,
    Int64sb,
    StreamError,
    Struct,
    stream_read,
    stream_write,
)

from zkpy_protocol.text import replace_bad

Int = Int32sb
Long = Int64sb


class _Boolean(Adapter):
    def _decode(self, obj: int, context: Any, path: str) -> bool:
        return obj != 0

    def _encode(self, obj: bool, context: Any, path: str) -> int:
        return int(obj)


class _Buffer(Construct):
    def _parse(self, stream: Any, context: Any, path: str) -> bytes | None:
        length: int = Int.parse_stream(stream)
        if length == -1:
            return None
        if length < 0:
            raise StreamError(f"length {length}", path=path)
        data: bytes = stream_read(stream, length, path)
        return data

    def _build(self, obj: bytes | None, stream: Any, context: Any, path: str) -> bytes | None:
        Int.build_stream(-1 if obj is None else len(obj), stream)
        if obj is not None:
            stream_write(stream, obj, len(obj), path)
        return obj


class _Ustring(Adapter):
    def _decode(self, obj: bytes | None, context: Any, path: str) -> str | None:
        return None if obj is None else _text(obj)

    def _encode(self, obj: str | None, context: Any, path: str) -> bytes | None:
        return None if obj is None else obj.encode()


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return replace_bad(raw)


Boolean = _Boolean(Byte)
Buffer = _Buffer()
Ustring = _Ustring(Buffer)


class Vector(Construct):
    """`vector<item>`."""

    def __init__(self, item: Construct) -> None:
        super().__init__()
        self.item = item

    def _parse(self, stream: Any, context: Any, path: str) -> list[Any] | None:
        count: int = Int.parse_stream(stream)
        if count == -1:
            return None
        return [self.item.parse_stream(stream) for _ in range(max(count, 0))]

    def _build(self, obj: list[Any] | None, stream: Any, context: Any, path: str) -> list[Any] | None:
        Int.build_stream(-1 if obj is None else len(obj), stream)
        for element in obj or ():
            self.item.build_stream(element, stream)
        return obj


class Trailing(Construct):
    """A fixed-width field at the end of a record that may be absent."""

    def __init__(self, field: Construct) -> None:
        super().__init__()
        self.field = field
        self.flagbuildnone = True

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        position = stream.tell()
        try:
            return self.field.parse_stream(stream)
        except StreamError:
            stream.seek(position)
            return None

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if obj is not None:
            self.field.build_stream(obj, stream)
        return obj


class Record(Struct):
    """A jute record: a named sequence of fields."""

    def __init__(self, record_name: str, fields: dict[str, Construct]) -> None:
        super().__init__(**fields)
        self.record_name = record_name


def record(record_name: str, /, **fields: Construct) -> Record:
    """Declare a record; it gets the name it has in zookeeper.jute, its fields theirs in snake case."""
    return Record(record_name, fields)
