"""TLS of the client port: a context from Apache's ssl.* settings, and who the peer is.

Owns: which protocol versions and cipher suites are offered, whether a client certificate is asked for, and
messages that name file, key and remedy. Does not know: how stores are laid out (`key_stores`), sockets,
zoo.cfg. The private key reaches OpenSSL through anonymous memory and is never written to a disk.

`cryptography` is imported where a store is read, so a server without TLS starts without it.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zkpy.auth import x500
from zkpy.auth.der import DerError

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
# Accepted in lists beside a usable version, because Apache's documentation and old files have them.
_OLD_VERSIONS = frozenset({"SSLv2Hello", "SSLv3", "TLSv1", "TLSv1.1"})
_CLIENT_AUTH = {"none": ssl.CERT_NONE, "want": ssl.CERT_OPTIONAL, "need": ssl.CERT_REQUIRED}
_TLS13_SUITES = frozenset({
    "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_CCM_SHA256",
    "TLS_AES_128_CCM_8_SHA256",
})  # fmt: skip
# TLS 1.2 suites: Java writes TLS_<exchange>_WITH_<cipher>, OpenSSL the two values one after the other.
_EXCHANGES = {
    "RSA": "", "DHE_RSA": "DHE-RSA-", "DHE_DSS": "DHE-DSS-", "ECDHE_RSA": "ECDHE-RSA-", "ECDHE_ECDSA": "ECDHE-ECDSA-",
}  # fmt: skip
_CIPHERS = {
    "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "AES_128_CBC_SHA256": "AES128-SHA256",
    "AES_256_CBC_SHA384": "AES256-SHA384",
    "AES_256_CBC_SHA256": "AES256-SHA256",
    "AES_128_CBC_SHA": "AES128-SHA",
    "AES_256_CBC_SHA": "AES256-SHA",
    "AES_128_CCM": "AES128-CCM",
    "AES_256_CCM": "AES256-CCM",
    "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
}


class TlsError(ValueError):
    """TLS cannot be set up; the message names file, key and remedy."""


class PeerRejected(Exception):  # noqa: N818  an outcome of the handshake, not a defect
    """The peer completed the handshake and is refused all the same; the message is for the log."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """A key store or trust store: the values of `<key>.location`, `.password`, `.passwordPath`, `.type`."""

    key: str
    location: str = ""
    password: str = ""
    password_path: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Settings of TLS; empty texts mean that the key is not set. The comment names the key."""

    key_store: StoreSettings = field(default_factory=lambda: StoreSettings("ssl.keyStore"))
    trust_store: StoreSettings = field(default_factory=lambda: StoreSettings("ssl.trustStore"))
    protocol: str = ""  # ssl.protocol
    enabled_protocols: str = ""  # ssl.enabledProtocols, split at commas
    ciphersuites: str = ""  # ssl.ciphersuites, split at commas, Java's names
    client_auth: str = ""  # ssl.clientAuth
    hostname_verification: bool = True  # ssl.hostnameVerification; off switches the next one off too
    client_hostname_verification: bool = False  # ssl.clientHostnameVerification


class ServerTls:
    """TLS of one port: the context for its connections, and the check of a peer after the handshake."""

    __slots__ = ("_verify_client_host", "context")

    def __init__(self, settings: TlsSettings) -> None:
        """Read the stores.

        Raises:
            TlsError: a setting or a store cannot be used.
        """
        self.context = _server_context(settings)
        self._verify_client_host = settings.hostname_verification and settings.client_hostname_verification

    def client_subject(self, ssl_object: ssl.SSLObject, address: str) -> str | None:
        """The subject of the verified client certificate as Java writes it, None if the client sent none.

        Raises:
            PeerRejected: the certificate does not belong to a client at this address, or has no subject.
        """
        certificate = ssl_object.getpeercert(binary_form=True)
        if certificate is None:
            return None
        try:
            subject = x500.subject_of_certificate(certificate)
        except DerError as error:
            raise PeerRejected(f"the subject of the client certificate is damaged: {error}") from error
        if self._verify_client_host and not _names_address(certificate, address):
            raise PeerRejected(
                f"the certificate of {subject} is not for {address} (ssl.clientHostnameVerification)"
            )
        return subject


def _names_address(certificate: bytes, address: str) -> bool:
    """Whether a certificate's alternative names hold the address, or its common name if it has none."""
    from cryptography import x509

    decoded = x509.load_der_x509_certificate(certificate)
    try:
        names = decoded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return address in [
            name.value for name in decoded.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        ]
    return ipaddress.ip_address(address) in names.get_values_for_type(x509.IPAddress)


def _server_context(settings: TlsSettings) -> ssl.SSLContext:
    from zkpy.net import key_stores

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could keep the server busy with it
    suites = _split(settings.ciphersuites)
    _set_versions(context, settings, suites)
    _set_suites(context, suites)
    client_auth = settings.client_auth.lower() or "need"
    if client_auth not in _CLIENT_AUTH:
        raise TlsError(f"ssl.clientAuth={settings.client_auth}: use none, want or need")
    context.verify_mode = _CLIENT_AUTH[client_auth]
    _load_key(context, settings.key_store, key_stores.load_key(settings.key_store))
    if settings.trust_store.location:
        # Java trusts every certificate of the store as it is, whether it is a root or not.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=b"".join(key_stores.load_trusted(settings.trust_store)))
    elif client_auth == "need":
        raise TlsError(
            "ssl.trustStore.location is not set, so no client certificate could be trusted although ssl.clientAuth "
            "is need, its default; set the trust store, or ssl.clientAuth=none"
        )
    return context


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _set_versions(context: ssl.SSLContext, settings: TlsSettings, suites: Sequence[str]) -> None:
    key, names = _wanted_versions(settings)
    unknown = [name for name in names if name not in _VERSIONS and name not in _OLD_VERSIONS]
    usable = [name for name in ("TLSv1.2", "TLSv1.3") if name in names]
    if unknown or not usable:
        raise TlsError(f"{key}={','.join(names)}: TLSv1.2 and TLSv1.3 are supported")
    if suites:
        # As in Java, a version without an enabled suite is not negotiated.
        has_suite = {
            "TLSv1.2": not _TLS13_SUITES.issuperset(suites),
            "TLSv1.3": not _TLS13_SUITES.isdisjoint(suites),
        }
        usable = [name for name in usable if has_suite[name]]
        if not usable:
            raise TlsError(
                f"ssl.ciphersuites has no suite for {','.join(names)} ({key}); add one or drop the key"
            )
    context.minimum_version = _VERSIONS[usable[0]]
    context.maximum_version = _VERSIONS[usable[-1]]


def _wanted_versions(settings: TlsSettings) -> tuple[str, list[str]]:
    if settings.enabled_protocols:
        return "ssl.enabledProtocols", _split(settings.enabled_protocols)
    # Both by default: Apache 3.9 takes TLSv1.3 alone, while Kafka 3.9 offers TLSv1.2 alone. As in newer
    # Apache servers, ssl.protocol=TLSv1.3 means "up to"; ssl.enabledProtocols restricts it.
    if settings.protocol in ("", "TLS", "TLSv1.3"):
        return "ssl.protocol", ["TLSv1.2", "TLSv1.3"]
    return "ssl.protocol", [settings.protocol]


def _set_suites(context: ssl.SSLContext, suites: Sequence[str]) -> None:
    # OpenSSL's TLS 1.3 suites cannot be chosen from here; all of them are sound, so naming some enables all.
    names = [openssl_suite(suite) for suite in suites if suite not in _TLS13_SUITES]
    if not names:
        return
    try:
        context.set_ciphers(":".join(names))
    except ssl.SSLError as error:
        raise TlsError(f"ssl.ciphersuites: OpenSSL has none of {', '.join(names)}") from error


def openssl_suite(suite: str) -> str:
    """OpenSSL's name of a TLS 1.2 cipher suite in Java's naming.

    Raises:
        TlsError: no such suite.
    """
    exchange, _, cipher = suite.removeprefix("TLS_").partition("_WITH_")
    if exchange not in _EXCHANGES or cipher not in _CIPHERS:
        raise TlsError(
            f"ssl.ciphersuites: {suite} is unknown; use names like TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
        )
    return _EXCHANGES[exchange] + _CIPHERS[cipher]


def _load_key(context: ssl.SSLContext, store: StoreSettings, pem: bytes) -> None:
    """Hand over key and chain. OpenSSL wants a file name; the file is anonymous memory of this process."""
    memory = os.memfd_create("zkpy-key-store")
    try:
        os.write(memory, pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    except ssl.SSLError as error:
        raise TlsError(
            f"{store.key}.location={store.location}: key or certificate is unusable: {error.reason}"
        ) from error
    finally:
        os.close(memory)
