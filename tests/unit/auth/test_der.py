"""The DER reader: right on what stores and certificates hold, one exception on everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkpy.auth import der


def test_a_long_length_is_read() -> None:
    element, end = der.read_element(b"\x04\x82\x01\x00" + bytes(256) + b"rest")
    assert (element.tag, element.content, end) == (4, bytes(256), 260)
    assert element.encoded == b"\x04\x82\x01\x00" + bytes(256)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x30",
        b"\x30\x02\x05",
        b"\x30\x80\x00\x00",  # indefinite length is BER
        b"\x30\x85\x00\x00\x00\x00\x01\x05",
        b"\x1f\x81\x01\x00",
    ],
)
def test_broken_elements_are_refused(encoded: bytes) -> None:
    with pytest.raises(der.DerError):
        der.read_element(encoded)


def test_the_only_element_must_fill_the_buffer_and_have_the_tag() -> None:
    assert der.read_only_element(b"\x05\x00").content == b""
    with pytest.raises(der.DerError, match="1 bytes behind"):
        der.read_only_element(b"\x05\x00\x00")
    with pytest.raises(der.DerError, match="tag 0x5 where 0x30 belongs"):
        der.read_only_element(b"\x05\x00", der.SEQUENCE)


@pytest.mark.parametrize(
    ("content", "dotted"),
    [
        ("550403", "2.5.4.3"),
        ("2a864886f70d010901", "1.2.840.113549.1.9.1"),
        ("883703", "2.999.3"),
        ("27", "0.39"),
        ("28", "1.0"),
        ("78", "2.40"),
    ],
)
def test_object_identifiers_are_dotted(content: str, dotted: str) -> None:
    assert der.object_identifier(bytes.fromhex(content)) == dotted


@pytest.mark.parametrize("content", ["", "5584"])
def test_a_cut_object_identifier_is_refused(content: str) -> None:
    with pytest.raises(der.DerError):
        der.object_identifier(bytes.fromhex(content))


@given(st.binary(max_size=64))
def test_any_bytes_give_elements_or_a_der_error(content: bytes) -> None:
    try:
        elements = der.read_elements(content)
    except der.DerError:
        return
    assert b"".join(element.encoded for element in elements) == content
