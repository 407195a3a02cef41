"""JKS files: stores of Java's keytool, stores written here, and every kind of damage."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkpy.net import jks
from zkpy.net.jks import JksError, JksPasswordError, PrivateKeyEntry

DATA = Path(__file__).parents[2] / "data" / "tls"


def sealed(body: bytes, password: str = "pw") -> bytes:
    secret = password.encode("utf-16-be")
    return body + hashlib.sha1(secret + b"Mighty Aphrodite" + body).digest()


def text(value: str) -> bytes:
    return len(value).to_bytes(2) + value.encode()


def blob(value: bytes) -> bytes:
    return len(value).to_bytes(4) + value


def header(count: int, version: int = 2) -> bytes:
    return jks.MAGIC + version.to_bytes(4) + count.to_bytes(4)


def entry(tag: int, rest: bytes) -> bytes:
    return tag.to_bytes(4) + text("alias") + bytes(8) + rest


def test_a_key_store_of_keytool_gives_key_and_chain() -> None:
    store = jks.read((DATA / "server.jks").read_bytes(), "storepass")
    assert [key.alias for key in store.keys] == ["server"]
    assert store.trusted == []
    assert len(store.keys[0].chain) == 1
    assert jks.recover_key(store.keys[0], "storepass").startswith(b"\x30")


def test_a_trust_store_of_keytool_gives_its_certificates() -> None:
    store = jks.read((DATA / "trust.jks").read_bytes(), "storepass")
    assert store.keys == []
    assert [certificate[:1] for certificate in store.trusted] == [b"\x30"]


def test_a_wrong_password_is_told_from_other_defects() -> None:
    with pytest.raises(JksPasswordError):
        jks.read((DATA / "server.jks").read_bytes(), "wrong")


def test_a_key_with_its_own_password_is_told_from_a_wrong_store_password() -> None:
    store = jks.read((DATA / "server.jks").read_bytes(), "storepass")
    with pytest.raises(JksPasswordError, match="the password does not open the key server"):
        jks.recover_key(store.keys[0], "wrong")


def test_version_1_certificates_have_no_type() -> None:
    store = jks.read(sealed(header(1, version=1) + entry(2, blob(b"cert"))), "pw")
    assert store.trusted == [b"cert"]


def test_several_entries_keep_their_order() -> None:
    chain = (2).to_bytes(4) + text("X.509") + blob(b"leaf") + text("X.509") + blob(b"ca")
    body = header(2) + entry(1, blob(b"key") + chain) + entry(2, text("X.509") + blob(b"other"))
    store = jks.read(sealed(body), "pw")
    assert store.keys == [PrivateKeyEntry("alias", b"key", [b"leaf", b"ca"])]
    assert store.trusted == [b"other"]


@pytest.mark.parametrize("data", [b"", b"\x30\x82", jks.MAGIC + bytes(8), b"\xce\xce\xce\xce" + bytes(64)])
def test_what_is_no_jks_file_is_refused(data: bytes) -> None:
    with pytest.raises(JksError, match="not a JKS file"):
        jks.read(data, "pw")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (header(0, version=3), "version 3 is unknown"),
        (header(1), "cut off at offset 12"),
        (header(1) + entry(3, b""), "entry alias has the unknown tag 3"),
        (header(1) + entry(2, text("X.509") + (-1 & 0xFFFFFFFF).to_bytes(4)), "cut off"),
        (header(1) + entry(2, text("X.509") + (99).to_bytes(4)), "cut off"),
        (header(0) + b"x", "bytes behind the last entry"),
    ],
)
def test_a_sealed_but_malformed_store_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(JksError, match=message):
        jks.read(sealed(body), "pw")


@pytest.mark.parametrize("position", range(0, 600, 37))
def test_a_changed_byte_is_noticed(position: int) -> None:
    data = bytearray((DATA / "server.jks").read_bytes())
    data[position] ^= 1
    with pytest.raises(JksError):
        jks.read(bytes(data), "storepass")


@pytest.mark.parametrize(
    ("protected", "message"),
    [
        (b"", "the key alias is damaged"),
        (b"\x30\x00", "the key alias is damaged"),
        (b"\x30\x04\x30\x00\x04\x00", "the key alias is damaged"),
        (b"\x30\x07\x30\x03\x06\x01\x28\x04\x00", r"protected in an unknown way \(1\.0\)"),
        (bytes.fromhex("3011300d060a2b060104012a021101010400") + b"", "damaged|unknown way"),
    ],
)
def test_a_key_that_is_not_under_suns_cipher_is_refused(protected: bytes, message: str) -> None:
    with pytest.raises(JksError, match=message):
        jks.recover_key(PrivateKeyEntry("alias", protected, []), "pw")


@given(st.binary(max_size=120))
def test_any_sealed_bytes_give_a_store_or_a_jks_error(body: bytes) -> None:
    try:
        store = jks.read(sealed(header(1) + body), "pw")
    except JksError:
        return
    assert len(store.keys) + len(store.trusted) == 1


@given(st.binary(max_size=120))
def test_any_protected_key_is_refused(protected: bytes) -> None:
    with pytest.raises(JksError):
        jks.recover_key(PrivateKeyEntry("alias", protected, []), "pw")
