"""Invariant: a client certificate has a subject, or DerError says that it is none; a text is a valid name or not. Nothing else is
raised, and a subject is the same each time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import smoke
from zkpy.auth import der, x500

if TYPE_CHECKING:
    from collections.abc import Iterator


def element(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return bytes([tag, len(content)]) + content


def attribute(oid: str, value: bytes, tag: int = 0x0C) -> bytes:
    return element(0x31, element(0x30, element(6, bytes.fromhex(oid)), element(tag, value)))


def certificate(*names: bytes, version: bool = True) -> bytes:
    """The shape of one, as far as its subject."""
    fields = [element(0xA0, b"\2\1\2")] if version else []
    fields += [b"\2\1\1", element(0x30), element(0x30), element(0x30), element(0x30, *names), element(0x30)]
    return element(0x30, element(0x30, *fields), element(0x30), element(3, b"\0"))


def check(data: bytes) -> None:
    with contextlib.suppress(der.DerError):
        subject = x500.subject_of_certificate(data)
        assert subject == x500.subject_of_certificate(data)
    assert x500.is_valid_name(data.decode(errors="replace")) in {True, False}


def seeds() -> Iterator[bytes]:
    name, unit = attribute("550403", b" z,k "), attribute("55040b", b"\x00u", 0x1E)
    yield certificate(name, unit, attribute("2a864886f70d010901", b"a@b", 0x16))
    yield certificate(attribute("550403", b"\xff\xfe", 0x13), attribute("2a03", b"?", 0x04), version=False)
    yield certificate()
    yield b'CN=a\\,b+OU="x",O=\\C3\\BC , 1.2.3=#0403'
    yield b"CN=a; OU=b"


@smoke
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    check(data)


@smoke
@given(st.sampled_from(list(seeds())), st.data())
def test_a_good_one_with_a_change(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(changed[: data.draw(st.integers(1, len(changed)))]))


def test_every_seed() -> None:
    for seed in seeds():
        check(seed)
    assert x500.subject_of_certificate(next(seeds())).endswith("CN=\\ z\\,k\\ ")
