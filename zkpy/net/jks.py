"""Java key stores (JKS), read only: private keys with their chains, and trusted certificates.

Format, all integers big-endian:

    magic 0xFEEDFEED, version (1 or 2), count, count entries, SHA-1 digest
    entry:  tag (1 private key, 2 trusted certificate), alias, creation time (8 bytes), then
            1: length and bytes of the protected key, number of certificates, certificates (leaf first)
            2: one certificate
    certificate:  in version 2 its type, then length and bytes of the DER
    text:   2 bytes length, (modified) UTF-8

The digest covers password, the words "Mighty Aphrodite" and everything before it, so it cannot tell
a wrong password from a damaged file. A protected key is the PKCS #8 key under Sun's own cipher: a key stream
of chained SHA-1 over password and salt, and a SHA-1 of password and key to check it.

Does not know: files, PEM, TLS. Nothing but `JksError` is raised, whatever the bytes are.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from struct import Struct

from zkpy.auth import der

MAGIC = b"\xfe\xed\xfe\xed"
_PRIVATE_KEY, _TRUSTED_CERTIFICATE = 1, 2
_KEY_PROTECTOR = "1.3.6.1.4.1.42.2.17.1.1"
_DIGEST_SIZE = 20
_INT = Struct(">i")
_SHORT = Struct(">H")


class JksError(ValueError):
    """The bytes are no key store, or are damaged."""


class JksPasswordError(JksError):
    """The password is wrong (or, for the digest of the whole store, the store is damaged)."""


@dataclass(frozen=True, slots=True)
class PrivateKeyEntry:
    """A key, still protected, and its certificates, leaf first, in DER."""

    alias: str
    protected_key: bytes
    chain: list[bytes]


@dataclass(frozen=True, slots=True)
class KeyStore:
    """The entries of a store in the order of the file."""

    keys: list[PrivateKeyEntry]
    trusted: list[bytes]


def read(data: bytes, password: str) -> KeyStore:
    """The entries of a store whose digest fits the password."""
    if data[:4] != MAGIC or len(data) < 12 + _DIGEST_SIZE:
        raise JksError("not a JKS file")
    body, digest = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    if not hmac.compare_digest(_sha1(_password_bytes(password) + b"Mighty Aphrodite" + body), digest):
        raise JksPasswordError("the password is wrong or the file is damaged")
    return _Reader(body, 4).key_store()


def recover_key(entry: PrivateKeyEntry, password: str) -> bytes:
    """The PKCS #8 key (DER) of an entry."""
    protected = _protected_content(entry)
    salt, cipher, check = protected[:20], protected[20:-20], protected[-20:]
    secret = _password_bytes(password)
    stream = bytearray()
    block = salt
    while len(stream) < len(cipher):
        block = _sha1(secret + block)
        stream += block
    key = bytes(a ^ b for a, b in zip(cipher, stream, strict=False))
    if not hmac.compare_digest(_sha1(secret + key), check):
        raise JksPasswordError(f"the password does not open the key {entry.alias}")
    return key


def _protected_content(entry: PrivateKeyEntry) -> bytes:
    try:
        algorithm, content = der.read_elements(
            der.read_only_element(entry.protected_key, der.SEQUENCE).content
        )
        oid = der.object_identifier(der.read_element(algorithm.content)[0].content)
    except ValueError as error:  # DerError among them
        raise JksError(f"the key {entry.alias} is damaged: {error}") from error
    if oid != _KEY_PROTECTOR or len(content.content) < 40:
        raise JksError(f"the key {entry.alias} is protected in an unknown way ({oid})")
    return content.content


class _Reader:
    __slots__ = ("_data", "_position", "_version")

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._version = 0

    def key_store(self) -> KeyStore:
        self._version = self._int()
        if self._version not in (1, 2):
            raise JksError(f"version {self._version} is unknown")
        store = KeyStore([], [])
        for _ in range(self._int()):
            self._entry(store)
        if self._position != len(self._data):
            raise JksError("bytes behind the last entry")
        return store

    def _entry(self, store: KeyStore) -> None:
        tag = self._int()
        alias = self._text()
        self._take(8)  # time of creation
        if tag == _PRIVATE_KEY:
            key = self._take(self._int())
            chain = [self._certificate() for _ in range(self._int())]
            store.keys.append(PrivateKeyEntry(alias, key, chain))
        elif tag == _TRUSTED_CERTIFICATE:
            store.trusted.append(self._certificate())
        else:
            raise JksError(f"entry {alias} has the unknown tag {tag}")

    def _certificate(self) -> bytes:
        if self._version == 2:
            self._text()  # always X.509
        return self._take(self._int())

    def _text(self) -> str:
        (size,) = _SHORT.unpack(self._take(_SHORT.size))
        return self._take(size).decode(errors="replace")

    def _int(self) -> int:
        (value,) = _INT.unpack(self._take(_INT.size))
        return int(value)

    def _take(self, size: int) -> bytes:
        end = self._position + size
        if size < 0 or end > len(self._data):
            raise JksError(f"cut off at offset {self._position}")
        taken = self._data[self._position : end]
        self._position = end
        return taken


def _password_bytes(password: str) -> bytes:
    return password.encode("utf-16-be", errors="replace")


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()  # the format prescribes it
