"""Stores of every form: what is read, and what the operator is told when it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    load_pem_private_key,
    pkcs12,
)

from tests.unit.net.certificates import Identity, issue
from tests.unit.net.test_jks import DATA, blob, entry, header, sealed, text
from zkpy.net.key_stores import load_key, load_trusted
from zkpy.net.tls import StoreSettings, TlsError

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = issue("ca", is_authority=True)
MIDDLE = issue("middle", AUTHORITY, is_authority=True)
SERVER = issue("server", MIDDLE, address="127.0.0.1")


def store(
    path: Path, data: bytes | None = None, *, password: str = "", password_path: str = "", kind: str = ""
) -> StoreSettings:
    if data is not None:
        path.write_bytes(data)
    return StoreSettings("ssl.keyStore", str(path), password, password_path, kind)


def subjects(pem: bytes) -> list[str]:
    return [one.subject.rfc4514_string() for one in x509.load_pem_x509_certificates(pem)]


def is_key_of(pem: bytes, identity: Identity) -> bool:
    return load_pem_private_key(pem, None).public_key() == identity.key.public_key()


def pkcs12_file(identity: Identity | None, others: list[Identity], password: str = "pw") -> bytes:
    return pkcs12.serialize_key_and_certificates(
        b"name",
        identity.key if identity else None,
        identity.certificate if identity else None,
        [one.certificate for one in others],
        BestAvailableEncryption(password.encode()) if password else NoEncryption(),
    )


# --- keys -------------------------------------------------------------------------------------------------


def test_a_pem_file_holds_key_and_chain_in_any_order(tmp_path: Path) -> None:
    data = AUTHORITY.pem + SERVER.pem + SERVER.key_pem() + MIDDLE.pem
    pem = load_key(store(tmp_path / "key.pem", data))
    assert is_key_of(pem, SERVER)
    assert subjects(pem) == ["CN=server,O=test", "CN=middle,O=test", "CN=ca,O=test"]


def test_certificates_outside_the_chain_are_not_sent(tmp_path: Path) -> None:
    data = SERVER.key_pem() + SERVER.pem + issue("stranger").pem
    assert subjects(load_key(store(tmp_path / "key.pem", data))) == ["CN=server,O=test"]


def test_an_encrypted_pem_key_is_opened_with_the_password(tmp_path: Path) -> None:
    data = SERVER.key_pem("pw") + SERVER.pem
    assert is_key_of(load_key(store(tmp_path / "key.pem", data, password="pw")), SERVER)


@pytest.mark.parametrize("password", ["", "wrong"])
def test_an_encrypted_pem_key_needs_the_right_password(tmp_path: Path, password: str) -> None:
    data = SERVER.key_pem("pw") + SERVER.pem
    with pytest.raises(TlsError, match=r"key\.pem: the password is wrong.*check ssl\.keyStore\.password "):
        load_key(store(tmp_path / "key.pem", data, password=password))


def test_a_password_for_a_plain_pem_key_does_no_harm(tmp_path: Path) -> None:
    settings = store(tmp_path / "key.pem", SERVER.key_pem() + SERVER.pem, password="pw")
    assert is_key_of(load_key(settings), SERVER)


@pytest.mark.parametrize("password", ["pw", ""])
def test_a_pkcs12_file_holds_key_and_chain(tmp_path: Path, password: str) -> None:
    data = pkcs12_file(SERVER, [AUTHORITY, MIDDLE], password)
    pem = load_key(store(tmp_path / "key.p12", data, password=password))
    assert is_key_of(pem, SERVER)
    assert subjects(pem) == ["CN=server,O=test", "CN=middle,O=test", "CN=ca,O=test"]


def test_stores_of_keytool_are_read() -> None:
    assert subjects(load_key(store(DATA / "server.jks", password="storepass"))) == [
        "CN=server,OU=zkpy,O=test"
    ]
    assert subjects(load_key(store(DATA / "client.p12", password="storepass"))) == [
        "CN=client\\, one,OU=zkpy,O=test"
    ]


def test_jks_and_pkcs12_are_told_apart_by_content_as_java_does(tmp_path: Path) -> None:
    jks = store(tmp_path / "a.p12", (DATA / "server.jks").read_bytes(), password="storepass")
    assert subjects(load_key(jks)) == ["CN=server,OU=zkpy,O=test"]
    p12 = store(tmp_path / "b.jks", pkcs12_file(SERVER, []), password="pw")
    assert subjects(load_key(p12)) == ["CN=server,O=test"]


def test_the_type_setting_wins_over_the_extension(tmp_path: Path) -> None:
    settings = store(tmp_path / "key.jks", SERVER.key_pem() + SERVER.pem, kind="pem")
    assert is_key_of(load_key(settings), SERVER)


def test_the_password_file_wins_over_the_password(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pw\n")
    data = pkcs12_file(SERVER, [])
    settings = store(tmp_path / "key.pfx", data, password="wrong", password_path=str(secret))
    assert is_key_of(load_key(settings), SERVER)


def test_only_one_line_end_is_cut_off_the_password_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pw\n\n")
    settings = store(tmp_path / "key.p12", pkcs12_file(SERVER, []), password_path=str(secret))
    with pytest.raises(TlsError, match=r"the password is wrong.*check the text in .*secret "):
        load_key(settings)


# --- trust ------------------------------------------------------------------------------------------------


def names(certificates: list[bytes]) -> list[str]:
    return [x509.load_der_x509_certificate(one).subject.rfc4514_string() for one in certificates]


def test_all_certificates_of_a_pem_file_are_trusted(tmp_path: Path) -> None:
    trusted = load_trusted(store(tmp_path / "trust.pem", AUTHORITY.pem + MIDDLE.pem))
    assert names(trusted) == ["CN=ca,O=test", "CN=middle,O=test"]


def test_all_certificates_of_a_pkcs12_file_are_trusted(tmp_path: Path) -> None:
    trusted = load_trusted(store(tmp_path / "trust.p12", pkcs12_file(SERVER, [AUTHORITY]), password="pw"))
    assert names(trusted) == ["CN=server,O=test", "CN=ca,O=test"]


def test_trust_stores_of_keytool_are_read() -> None:
    assert names(load_trusted(store(DATA / "trust.jks", password="storepass"))) == [
        "CN=client\\, one,OU=zkpy,O=test"
    ]
    assert names(load_trusted(store(DATA / "trust.p12", password="storepass"))) == [
        "CN=server,OU=zkpy,O=test"
    ]


def test_of_a_jks_key_the_first_certificate_is_trusted(tmp_path: Path) -> None:
    chain = [one.certificate.public_bytes(Encoding.DER) for one in (SERVER, MIDDLE)]
    body = (
        header(2)
        + entry(1, blob(b"key") + b"\0\0\0\2" + b"".join(text("X.509") + blob(one) for one in chain))
        + entry(1, blob(b"key") + b"\0\0\0\0")
    )
    trusted = load_trusted(store(tmp_path / "trust.jks", sealed(body), password="pw"))
    assert names(trusted) == ["CN=server,O=test"]


# --- what the operator is told ----------------------------------------------------------------------------


def test_a_missing_location_is_named() -> None:
    with pytest.raises(TlsError, match=r"^ssl\.keyStore\.location is not set"):
        load_key(StoreSettings("ssl.keyStore"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match=r"ssl\.keyStore\.location=.*none\.pem cannot be read: No such file"):
        load_key(store(tmp_path / "none.pem"))


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    settings = store(tmp_path / "key.p12", pkcs12_file(SERVER, []), password_path=str(tmp_path / "none"))
    with pytest.raises(TlsError, match=r"key\.p12: .*/none cannot be read: No such file"):
        load_key(settings)


@pytest.mark.parametrize("data", [b"", b"hello", AUTHORITY.pem])
def test_a_key_store_without_a_key_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(TlsError, match=r"key\.pem: has no private key; put the key"):
        load_key(store(tmp_path / "key.pem", data))


def test_trust_stores_are_no_key_stores(tmp_path: Path) -> None:
    for name in ("trust.jks", "trust.p12"):
        with pytest.raises(TlsError, match="has no private key"):
            load_key(store(DATA / name, password="storepass"))


@pytest.mark.parametrize("data", [SERVER.key_pem(), SERVER.key_pem() + AUTHORITY.pem])
def test_a_key_without_its_certificate_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(TlsError, match="has no certificate of its private key"):
        load_key(store(tmp_path / "key.pem", data))


@pytest.mark.parametrize("data", [b"", SERVER.key_pem()])
def test_a_trust_store_without_certificates_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(TlsError, match="has no certificate to trust"):
        load_trusted(store(tmp_path / "trust.pem", data))


def test_damaged_pem_is_refused(tmp_path: Path) -> None:
    data = AUTHORITY.pem.replace(b"\nMII", b"\nMIX")
    with pytest.raises(TlsError, match=r"cannot be understood: .*; check the file and ssl\.keyStore\.type"):
        load_trusted(store(tmp_path / "trust.pem", data))


@pytest.mark.parametrize("name", ["server.jks", "client.p12"])
@pytest.mark.parametrize("load", [load_key, load_trusted])
def test_a_wrong_store_password_is_told(name: str, load: type) -> None:
    with pytest.raises(
        TlsError, match=r"the password is wrong or the file is damaged; check ssl\.keyStore\.password"
    ):
        load(store(DATA / name, password="wrong"))


def test_a_key_with_another_password_than_its_store_is_told(tmp_path: Path) -> None:
    body = (DATA / "server.jks").read_bytes()[:-20]
    with pytest.raises(TlsError, match="does not open the key server; give key and store one password"):
        load_key(store(tmp_path / "key.jks", sealed(body, "other"), password="other"))


def test_other_binary_stores_are_refused_with_the_way_out(tmp_path: Path) -> None:
    settings = store(tmp_path / "key.jks", b"\xce\xce\xce\xce" + bytes(64))
    with pytest.raises(TlsError, match=r"neither a JKS nor a PKCS #12 file; convert it with keytool"):
        load_key(settings)


def test_damaged_jks_is_refused(tmp_path: Path) -> None:
    settings = store(tmp_path / "key.jks", sealed(header(1)), password="pw")
    with pytest.raises(TlsError, match="cannot be understood: cut off"):
        load_key(settings)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("key.jks", "BCFKS", r"ssl\.keyStore\.type=BCFKS; JKS, PEM and PKCS12 are supported"),
        ("key.bcfks", "", r"ssl\.keyStore\.type is not set and the name does not tell"),
        ("key", "", r"ssl\.keyStore\.type is not set and the name does not tell"),
    ],
)
def test_unknown_types_are_refused(tmp_path: Path, name: str, kind: str, message: str) -> None:
    with pytest.raises(TlsError, match=message):
        load_key(store(tmp_path / name, b"x", kind=kind))
