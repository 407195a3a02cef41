"""The little of DER that names and key stores need: one tag, one length, one value at a time.

Owns: reading definite-length elements with single-byte tags. Does not know what they mean. Every defect of
the input is a `DerError`, whatever the bytes are.
"""

from __future__ import annotations

from dataclasses import dataclass

SEQUENCE = 0x30
SET = 0x31
OBJECT_IDENTIFIER = 0x06


class DerError(ValueError):
    """The bytes are not the DER that was expected here."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element: `content` without and `encoded` with its tag and length."""

    tag: int
    content: bytes
    encoded: bytes


def read_element(buffer: bytes, position: int = 0) -> tuple[Element, int]:
    """The element at `position` and the offset behind it."""
    header_end = position + 2
    if header_end > len(buffer):
        raise DerError(f"element at offset {position} is cut off")
    tag, length = buffer[position], buffer[position + 1]
    if tag & 0x1F == 0x1F:
        raise DerError(f"tag of several bytes at offset {position}")
    if length >= 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise DerError(f"length of {size} bytes at offset {position}")
        length = int.from_bytes(buffer[header_end : header_end + size])
        header_end += size
    end = header_end + length
    if end > len(buffer):
        raise DerError(f"element at offset {position} is cut off")
    return Element(tag, buffer[header_end:end], buffer[position:end]), end


def read_only_element(buffer: bytes, tag: int | None = None) -> Element:
    """The one element that fills `buffer`, of the given tag if one is given."""
    element, end = read_element(buffer)
    if end != len(buffer):
        raise DerError(f"{len(buffer) - end} bytes behind the element")
    if tag is not None and element.tag != tag:
        raise DerError(f"tag {element.tag:#x} where {tag:#x} belongs")
    return element


def read_elements(content: bytes) -> list[Element]:
    """All elements of a SEQUENCE's or SET's content."""
    elements = []
    position = 0
    while position < len(content):
        element, position = read_element(content, position)
        elements.append(element)
    return elements


def object_identifier(content: bytes) -> str:
    """The dotted form of an OBJECT IDENTIFIER's content."""
    if not content or content[-1] & 0x80:
        raise DerError("object identifier is cut off")
    arcs = []
    value = 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))
