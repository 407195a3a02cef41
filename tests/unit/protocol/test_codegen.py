"""The generator: its output is committed, and it copes with every shape the primitives allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zkpy_protocol import codegen
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.schema import ALL_RECORDS
from zkpy_protocol.schema.primitives import (
    Boolean,
    Buffer,
    Int,
    Long,
    Record,
    Trailing,
    Ustring,
    Vector,
    record,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_the_committed_codec_is_what_the_schema_says() -> None:
    assert codegen.RECORDS_FILE.read_text(encoding="utf-8") == codegen.generate(ALL_RECORDS.values())


def test_check_tells_a_changed_file_and_writing_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(codegen, "RECORDS_FILE", tmp_path / "records.py")
    codegen.RECORDS_FILE.write_text("edited by hand", encoding="utf-8")
    assert codegen.main(["--check"]) == 1
    assert "make generate" in capsys.readouterr().err
    assert codegen.main([]) == 0
    assert codegen.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GetACLRequest", "get_acl_request"),
        ("CreateTTLTxn", "create_ttl_txn"),
        ("Create2Response", "create2_response"),
        ("WhoAmIResponse", "who_am_i_response"),
        ("ACL", "acl"),
        ("CreateTxnV0", "create_txn_v0"),
    ],
)
def test_names_are_in_snake_case(name: str, expected: str) -> None:
    assert codegen.snake(name) == expected


Point = record("Point", x=Long, y=Long, set=Boolean)
Flag = record("Flag", on=Boolean)


def compiled(*declared: Record) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(compile(codegen.generate(declared), "generated", "exec"), namespace)  # the module under test
    return namespace


def test_records_of_fixed_width_stand_in_vectors_and_beside_other_fields() -> None:
    shape = record(
        "Shape", kind=Int, centre=Point, corners=Vector(Point), last=Point, visible=Boolean, name=Ustring
    )
    made = compiled(Point, shape)
    point = made["Point"]
    value = made["Shape"](
        7, point(1, 2, True), [point(3, 4, False), point(5, 6, True)], point(8, 9, True), True, "n"
    )
    wire = made["encode_shape"](value)
    assert len(wire) == 4 + 17 + 4 + 2 * 17 + 17 + 1 + 4 + 1
    assert made["decode_shape"](wire) == (value, len(wire))
    for end in range(len(wire)):
        with pytest.raises(DecodeError):
            made["decode_shape"](wire[:end])


def test_vectors_stand_in_vectors_and_a_lone_boolean_between_strings() -> None:
    deep = record("Deep", first=Buffer, flag=Flag, rows=Vector(Vector(Int)), second=Buffer)
    made = compiled(Flag, deep)
    value = made["Deep"](b"a", made["Flag"](True), [[1, 2], None, []], b"")
    wire = made["encode_deep"](value)
    assert made["decode_deep"](wire) == (value, len(wire))
    for end in range(len(wire)):
        with pytest.raises(DecodeError):
            made["decode_deep"](wire[:end])


def test_a_string_in_front_of_a_trailing_field_is_checked_by_itself() -> None:
    """The next read of a field that must be there usually tells that a string was cut; here there is none."""
    tail = record("Tail", name=Ustring, size=Trailing(Long))
    made = compiled(tail)
    assert made["decode_tail"](b"\0\0\0\x01a") == (made["Tail"]("a", None), 5)
    assert made["decode_tail"](b"\0\0\0\x01a" + bytes(8)) == (made["Tail"]("a", 0), 13)
    with pytest.raises(DecodeError):
        made["decode_tail"](b"\0\0\0\x02a")
