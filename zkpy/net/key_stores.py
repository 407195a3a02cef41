"""Key stores and trust stores in the forms Apache reads: PEM, PKCS #12, JKS.

Owns: telling the forms apart, passwords, picking key, chain and trusted certificates, and messages that name
file, key and remedy. Does not know: TLS versions, contexts. Imported only when TLS is configured, because
`cryptography` is slow to load.

Of several keys in a store the first one is used.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from zkpy.net import jks
from zkpy.net.tls import StoreSettings, TlsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12KeyAndCertificates

_TYPES = ("JKS", "PEM", "PKCS12")
_TYPE_OF_EXTENSION = {".jks": "JKS", ".pem": "PEM", ".p12": "PKCS12", ".pfx": "PKCS12"}


def load_key(store: StoreSettings) -> bytes:
    """The private key and its chain, leaf first, as PEM.

    Raises:
        TlsError: the store cannot be used.
    """
    if not store.location:
        raise TlsError(f"{store.key}.location is not set; a TLS port needs a private key and its certificate")
    with _reporting(store):
        key, certificates = _key_and_certificates(store)
        if key is None:
            raise _Unusable("has no private key; put the key and its certificate into it")
        leaf = next((one for one in certificates if one.public_key() == key.public_key()), None)
        if leaf is None:
            raise _Unusable("has no certificate of its private key; add it and the chain behind it")
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem + b"".join(one.public_bytes(Encoding.PEM) for one in _chain(leaf, certificates))


def load_trusted(store: StoreSettings) -> list[bytes]:
    """The certificates of a trust store in DER.

    All of a PEM or PKCS #12 file; of a JKS file those marked as trusted and the first of each key's chain.

    Raises:
        TlsError: the store cannot be used.
    """
    with _reporting(store):
        certificates = _trusted_certificates(store)
        if not certificates:
            raise _Unusable("has no certificate to trust; add that of the authority that signs the clients'")
        return [one.public_bytes(Encoding.DER) for one in certificates]


class _Unusable(Exception):  # noqa: N818  becomes a TlsError that names file and key
    pass


class _WrongPassword(Exception):  # noqa: N818  becomes a TlsError that names file and keys
    pass


@contextmanager
def _reporting(store: StoreSettings) -> Iterator[None]:
    """Turn every failure to read a store into a TlsError with file, key and remedy."""
    where = f"{store.key}.location={store.location}:"
    try:
        yield
    except _Unusable as error:
        raise TlsError(f"{where} {error}") from None
    except (_WrongPassword, jks.JksPasswordError):
        source = f"the text in {store.password_path}" if store.password_path else f"{store.key}.password"
        raise TlsError(
            f"{where} the password is wrong or the file is damaged; check {source} "
            f"({store.key}.passwordPath wins over {store.key}.password)"
        ) from None
    except OSError as error:
        raise TlsError(f"{where} {error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TlsError(
            f"{where} cannot be understood: {error}; check the file and {store.key}.type"
        ) from error


def _key_and_certificates(store: StoreSettings) -> tuple[PrivateKeyTypes | None, list[x509.Certificate]]:
    store_type, data, password = _open(store)
    if store_type == "PEM":
        return _pem_key(data, password), x509.load_pem_x509_certificates(
            data
        ) if _PEM_CERTIFICATE in data else []
    if store_type == "PKCS12":
        contents = _pkcs12(data, password)
        return contents.key, _pkcs12_certificates(contents)
    entries = jks.read(data, password).keys
    if not entries:
        return None, []
    try:
        key = jks.recover_key(entries[0], password)
    except jks.JksPasswordError as error:
        raise _Unusable(f"{error}; give key and store one password with keytool -keypasswd") from None
    return load_der_private_key(key, None), [x509.load_der_x509_certificate(one) for one in entries[0].chain]


def _trusted_certificates(store: StoreSettings) -> list[x509.Certificate]:
    store_type, data, password = _open(store)
    if store_type == "PEM":
        return x509.load_pem_x509_certificates(data) if _PEM_CERTIFICATE in data else []
    if store_type == "PKCS12":
        return _pkcs12_certificates(_pkcs12(data, password))
    contents = jks.read(data, password)
    leaves = [entry.chain[0] for entry in contents.keys if entry.chain]
    return [x509.load_der_x509_certificate(one) for one in contents.trusted + leaves]


_PEM_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def _open(store: StoreSettings) -> tuple[str, bytes, str]:
    """Type, content and password."""
    data = Path(store.location).read_bytes()
    store_type = store.type.upper() or _TYPE_OF_EXTENSION.get(Path(store.location).suffix.lower(), "")
    if store_type not in _TYPES:
        setting = (
            f"{store.key}.type={store.type}"
            if store.type
            else f"{store.key}.type is not set and the name does not tell"
        )
        raise _Unusable(f"{setting}; JKS, PEM and PKCS12 are supported")
    if store_type != "PEM":
        store_type = _type_of_binary(data)
    password = store.password
    if store.password_path:
        password = Path(store.password_path).read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    return store_type, data, password


def _type_of_binary(data: bytes) -> str:
    """JKS or PKCS12 by content: as in Java, a file of either form may go by either name."""
    if data.startswith(jks.MAGIC):
        return "JKS"
    if data.startswith(b"\x30"):
        return "PKCS12"
    raise _Unusable(
        "is neither a JKS nor a PKCS #12 file; convert it with "
        "keytool -importkeystore -srckeystore OLD -destkeystore NEW.p12 -deststoretype PKCS12"
    )


def _pem_key(data: bytes, password: str) -> PrivateKeyTypes | None:
    if b"PRIVATE KEY-----" not in data:
        return None
    if b"ENCRYPTED" not in data:
        return load_pem_private_key(data, None)
    try:
        return load_pem_private_key(data, password.encode())
    except (TypeError, ValueError) as error:  # no password, or a wrong one
        raise _WrongPassword from error


def _pkcs12(data: bytes, password: str) -> PKCS12KeyAndCertificates:
    try:
        return load_pkcs12(data, password.encode())
    except ValueError as error:
        raise _WrongPassword from error


def _pkcs12_certificates(contents: PKCS12KeyAndCertificates) -> list[x509.Certificate]:
    first = [] if contents.cert is None else [contents.cert]
    return [one.certificate for one in first + contents.additional_certs]


def _chain(leaf: x509.Certificate, certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    chain = [leaf]
    while True:
        issuer = next(
            (one for one in certificates if one.subject == chain[-1].issuer and one not in chain), None
        )
        if issuer is None:
            return chain
        chain.append(issuer)
