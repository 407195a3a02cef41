"""Authentication providers: which ids a connection gets, which ACL ids are valid, which of them match.

Owns: the provider interface, Apache's built-in providers, the registry of those that are loaded, and the
rule that refuses work on connections without an id of a required scheme. Does not know: connections,
sessions, opcodes, configuration files. A provider is asked by plain calls and keeps no per-connection
state; the ids it returns live with the connection, never with the session.

Two schemes have no provider. `world` has the one id `anyone`, which the ACL check accepts by itself, so
every other `world` id is invalid and an add_auth for it fails. `super` skips all checks of the ACL; it is
handed out beside an ordinary id (superDigest, superUser) and never valid in an ACL.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from zkpy.auth import java_rules, x500
from zkpy_protocol.records import Id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

SUPER_SCHEME = "super"


class AuthFailed(Exception):  # noqa: N818  an outcome with its own reply, not a defect
    """The provider refused: the caller answers AUTHFAILED (-115) and closes the connection."""


class AuthCloseSilently(Exception):  # noqa: N818  an outcome, not a defect
    """The peer is to be disconnected without a reply, so that it tries another server."""


class AuthConfigError(ValueError):
    """A setting about authentication cannot be used; the message names its key and the remedy."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What a provider may know of a connection.

    `address` is the peer's address in Java's form (`java_rules.host_address`), `x509_subject` the subject of
    the client certificate that the TLS handshake verified, in RFC 2253 form, or None.
    """

    address: str
    x509_subject: str | None = None


class AuthProvider(Protocol):
    """One scheme. Apache: AuthenticationProvider."""

    @property
    def scheme(self) -> str: ...

    @property
    def is_authenticated(self) -> bool:
        """Whether an ACL entry of scheme `auth` expands to the caller's ids of this scheme."""

    def is_valid(self, acl_id: str) -> bool:
        """Whether `acl_id` may be stored in an ACL."""

    def matches(self, caller_id: str, acl_id: str) -> bool:
        """Whether a caller with `caller_id` is meant by the ACL entry `acl_id`."""

    def handle_authentication(self, auth: bytes | None, peer: PeerInfo) -> list[Id]:
        """The ids that an add_auth packet earns.

        Raises:
            AuthFailed: answer -115 and close.
            AuthCloseSilently: close without an answer.
        """

    def user_name(self, caller_id: str) -> str:
        """The part of an id that names the user, for the audit log and whoAmI."""


class IpProvider:
    """Scheme `ip`: every connection has its address as an id; ACL ids are addresses with optional `/bits`."""

    __slots__ = ()
    scheme = "ip"
    is_authenticated = False

    def is_valid(self, acl_id: str) -> bool:
        return _parse_network(acl_id) is not None

    def matches(self, caller_id: str, acl_id: str) -> bool:
        network = _parse_network(acl_id)
        caller = _parse_address(caller_id)
        if network is None or caller is None:
            return False
        address, bits = network
        if len(address) != len(caller):
            return False
        shift = len(address) * 8 - bits
        return int.from_bytes(address) >> shift == int.from_bytes(caller) >> shift

    def handle_authentication(self, auth: bytes | None, peer: PeerInfo) -> list[Id]:  # noqa: ARG002  any data is fine
        return [Id(self.scheme, peer.address)]

    def user_name(self, caller_id: str) -> str:
        return caller_id


def _parse_network(acl_id: str) -> tuple[bytes, int] | None:
    text, slash, bits_text = acl_id.partition("/")
    address = _parse_address(text)
    if address is None:
        return None
    bits_max = len(address) * 8
    if not slash:
        return address, bits_max
    bits = java_rules.parse_int(bits_text)
    if bits is None or not 0 <= bits <= bits_max:
        return None
    return address, bits


def _parse_address(text: str) -> bytes | None:
    if ":" in text:
        return _parse_ipv6(text)
    return _parse_ipv4(text)


def _parse_ipv4(text: str) -> bytes | None:
    parts = text.split(".")
    if len(parts) != 4:
        return None
    values = [java_rules.parse_int(part) for part in parts]
    octets = [value for value in values if value is not None and 0 <= value <= 255]
    return bytes(octets) if len(octets) == 4 else None


def _parse_ipv6(text: str) -> bytes | None:
    # Compat: an embedded IPv4 tail is refused; a group may carry a sign ("::-1" is accepted as ::ffff).
    halves = text.split("::")
    groups = [half.split(":") if half else [] for half in halves]
    count = sum(len(part) for part in groups)
    if len(halves) > 2 or (len(halves) == 1 and count != 8) or (len(halves) == 2 and count >= 8):
        return None
    packed = [_pack_groups(part) for part in groups]
    head, tail = packed[0], packed[-1] if len(packed) == 2 else b""
    if head is None or tail is None:
        return None
    return head + bytes(16 - len(head) - len(tail)) + tail


def _pack_groups(groups: list[str]) -> bytes | None:
    packed = bytearray()
    for group in groups:
        value = java_rules.parse_int(group, 16) if len(group) <= 4 else None
        if value is None:
            return None
        packed += (value & 0xFFFF).to_bytes(2)
    return bytes(packed)


# Names of java.security.MessageDigest, upper-cased, to those of hashlib. MD2 is the only one missing here.
_DIGEST_ALGORITHMS: Mapping[str, str] = {
    "SHA": "sha1", "SHA1": "sha1", "SHA-1": "sha1", "MD5": "md5",
    "SHA-224": "sha224", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512",
    "SHA-512/224": "sha512_224", "SHA-512/256": "sha512_256",
    "SHA3-224": "sha3_224", "SHA3-256": "sha3_256", "SHA3-384": "sha3_384", "SHA3-512": "sha3_512",
}  # fmt: skip


class DigestProvider:
    """Scheme `digest`: `user:password` earns `user:base64(hash of all of it)`; nothing is ever refused."""

    __slots__ = ("_algorithm", "_super_digest")
    scheme = "digest"
    is_authenticated = True

    def __init__(self, algorithm: str = "SHA1", super_digest: str | None = None) -> None:
        name = _DIGEST_ALGORITHMS.get(algorithm.upper())
        if name is None:
            raise AuthConfigError(
                f"DigestAuthenticationProvider.digestAlg={algorithm}: no such hash; "
                f"use one of {', '.join(sorted(_DIGEST_ALGORITHMS))}"
            )
        self._algorithm = name
        self._super_digest = super_digest

    def generate_digest(self, id_password: str) -> str:
        """The id of `user:password`; a text without a colon is user and password at once."""
        user = id_password.partition(":")[0]
        digest = hashlib.new(self._algorithm, id_password.encode(), usedforsecurity=False).digest()
        return f"{user}:{base64.b64encode(digest).decode()}"

    def is_valid(self, acl_id: str) -> bool:
        return len(java_rules.split(acl_id, ":")) == 2

    def matches(self, caller_id: str, acl_id: str) -> bool:
        return caller_id == acl_id

    def handle_authentication(self, auth: bytes | None, peer: PeerInfo) -> list[Id]:  # noqa: ARG002  a password counts from anywhere
        if auth is None:
            raise AuthFailed("digest needs user:password, the packet has no data")
        digest = self.generate_digest(auth.decode(errors="replace"))
        ids = [Id(self.scheme, digest)]
        if digest == self._super_digest:
            ids.insert(0, Id(SUPER_SCHEME, ""))
        return ids

    def user_name(self, caller_id: str) -> str:
        return caller_id.partition(":")[0]


_KERBEROS_NAME = re.compile(r"[^/@]*(/[^/@]*)?@[^/@]*")


def is_kerberos_name(name: str) -> bool:
    """Whether `name` is a simple name (no `@`) or `service[/host]@realm`, each part possibly empty."""
    return "@" not in name or _KERBEROS_NAME.fullmatch(name) is not None


class SaslProvider:
    """Scheme `sasl`: ids come from the SASL exchange (`zkpy.auth.sasl`), never from an add_auth packet."""

    __slots__ = ("_let_any_sasl_user_do",)
    scheme = "sasl"
    is_authenticated = True

    def __init__(self, let_any_sasl_user_do: str | None = None) -> None:
        self._let_any_sasl_user_do = let_any_sasl_user_do

    def is_valid(self, acl_id: str) -> bool:
        return is_kerberos_name(acl_id)

    def matches(self, caller_id: str, acl_id: str) -> bool:
        return caller_id in ("super", acl_id) or acl_id == self._let_any_sasl_user_do

    def handle_authentication(self, auth: bytes | None, peer: PeerInfo) -> list[Id]:  # noqa: ARG002  always refused
        raise AuthFailed("sasl is negotiated by opcode 102, not by an auth packet")

    def user_name(self, caller_id: str) -> str:
        return caller_id


class X509Provider:
    """Scheme `x509`: the subject of the certificate that the TLS handshake verified."""

    __slots__ = ("_super_user",)
    scheme = "x509"
    is_authenticated = True

    def __init__(self, super_user: str | None = None) -> None:
        self._super_user = super_user

    def is_valid(self, acl_id: str) -> bool:
        return x500.is_valid_name(acl_id)

    def matches(self, caller_id: str, acl_id: str) -> bool:
        return caller_id in (self._super_user, acl_id)

    def handle_authentication(self, auth: bytes | None, peer: PeerInfo) -> list[Id]:  # noqa: ARG002  the chain counts, not the data
        """Called by the shell once after the handshake, and again for every add_auth of this scheme."""
        subject = peer.x509_subject
        if subject is None:
            raise AuthFailed("x509 needs a client certificate, the connection has none")
        ids = [Id(self.scheme, subject)]
        if subject == self._super_user:
            ids.insert(0, Id(SUPER_SCHEME, subject))
        return ids

    def user_name(self, caller_id: str) -> str:
        return caller_id


class EnsembleProvider:
    """Scheme `ensemble`: no identity; a client that means another ensemble is turned away.

    The counters are Apache's metrics ensemble_auth_success, ensemble_auth_fail and ensemble_auth_skip.
    """

    __slots__ = ("_names", "fail_count", "skip_count", "success_count")
    scheme = "ensemble"
    is_authenticated = False

    def __init__(self, names_csv: str | None = None) -> None:
        self._names = None if names_csv is None else frozenset(name.strip() for name in names_csv.split(","))
        self.success_count = 0
        self.fail_count = 0
        self.skip_count = 0

    def is_valid(self, acl_id: str) -> bool:  # noqa: ARG002  never usable in an ACL
        return False

    def matches(self, caller_id: str, acl_id: str) -> bool:  # noqa: ARG002  never usable in an ACL
        return False

    def handle_authentication(self, auth: bytes | None, peer: PeerInfo) -> list[Id]:
        if not auth or self._names is None:
            self.skip_count += 1
            return []
        name = auth.decode(errors="replace")
        if name in self._names:
            self.success_count += 1
            return []
        self.fail_count += 1
        # Compat: no error reply, which a client would take as fatal; closed, it tries its next server.
        raise AuthCloseSilently(f"{peer.address} wants ensemble {name!r}, this server is not of it")

    def user_name(self, caller_id: str) -> str:
        return caller_id


class KeyProvider:
    """Scheme `key`, Apache's sample: data divisible by the number in znode /key is accepted.

    `read_key` returns the data of /key, or None while there is no such znode; then everybody is accepted, so
    that the first client can write it.
    """

    __slots__ = ("_read_key",)
    scheme = "key"
    is_authenticated = True

    def __init__(self, read_key: Callable[[], bytes | None]) -> None:
        self._read_key = read_key

    def is_valid(self, acl_id: str) -> bool:  # noqa: ARG002  every id is
        return True

    def matches(self, caller_id: str, acl_id: str) -> bool:
        return caller_id == acl_id

    def handle_authentication(self, auth: bytes | None, peer: PeerInfo) -> list[Id]:  # noqa: ARG002  accepted from anywhere
        if auth is None:
            raise AuthFailed("key needs a number, the packet has no data")
        key = self._read_key()
        if key is not None and not _is_multiple(auth, key):
            raise AuthFailed("the number is no multiple of the one in /key")
        return [Id(self.scheme, "")]

    def user_name(self, caller_id: str) -> str:
        return caller_id


def _is_multiple(auth: bytes, key: bytes) -> bool:
    key_value = java_rules.parse_int(key.decode(errors="replace"))
    auth_value = java_rules.parse_int(auth.decode(errors="replace"))
    if key_value is None or auth_value is None:
        return False
    return key_value == 0 or auth_value % key_value == 0


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Settings of the providers; the comment is the key of zoo.cfg (or `zookeeper.` property) behind each."""

    provider_classes: Mapping[str, str] = field(default_factory=dict)  # authProvider.<name> -> Java class
    digest_enabled: bool = True  # DigestAuthenticationProvider.enabled
    digest_algorithm: str = "SHA1"  # DigestAuthenticationProvider.digestAlg
    super_digest: str | None = None  # DigestAuthenticationProvider.superDigest
    let_any_sasl_user_do: str | None = None  # letAnySaslUserDoX
    x509_super_user: str | None = None  # X509AuthenticationProvider.superUser
    ensemble_auth_name: str | None = None  # ensembleAuthName
    has_secure_port: bool = False  # secureClientPort or client.portUnification is set
    enforce_enabled: bool = False  # enforce.auth.enabled
    enforce_schemes: Sequence[str] = ()  # enforce.auth.schemes, split at commas
    session_require_sasl: bool = False  # sessionRequireClientSASLAuth


def _no_key() -> bytes | None:
    return None


class ProviderRegistry:
    """The providers of this server by scheme; at most one of each."""

    __slots__ = ("_by_scheme",)

    def __init__(self, providers: Iterable[AuthProvider]) -> None:
        self._by_scheme = {provider.scheme: provider for provider in providers}

    @classmethod
    def from_config(
        cls, settings: AuthSettings, read_key: Callable[[], bytes | None] = _no_key
    ) -> ProviderRegistry:
        """The set of ip and digest, x509 where there is a secure port, and what authProvider.<name> asks for.

        Raises:
            AuthConfigError: a class that has no built-in counterpart, or an unusable setting of a provider.
        """
        makers: dict[str, Callable[[], AuthProvider]] = {
            "IPAuthenticationProvider": IpProvider,
            "DigestAuthenticationProvider": lambda: DigestProvider(
                settings.digest_algorithm, settings.super_digest
            ),
            "SASLAuthenticationProvider": lambda: SaslProvider(settings.let_any_sasl_user_do),
            "X509AuthenticationProvider": lambda: X509Provider(settings.x509_super_user),
            "EnsembleAuthenticationProvider": lambda: EnsembleProvider(settings.ensemble_auth_name),
            "KeyAuthenticationProvider": lambda: KeyProvider(read_key),
        }
        wanted = ["IPAuthenticationProvider"]
        if settings.digest_enabled:
            wanted.append("DigestAuthenticationProvider")
        if settings.has_secure_port:
            wanted.append("X509AuthenticationProvider")
        for name, java_class in sorted(settings.provider_classes.items()):
            package, _, simple_name = java_class.strip().rpartition(".")
            if package != _JAVA_PACKAGE or simple_name not in makers:
                known = ", ".join(f"{_JAVA_PACKAGE}.{known}" for known in sorted(makers))
                raise AuthConfigError(
                    f"authProvider.{name}={java_class}: Java classes cannot be loaded; built in are {known}"
                )
            wanted.append(simple_name)
        return cls(makers[simple_name]() for simple_name in dict.fromkeys(wanted))

    def get(self, scheme: str | None) -> AuthProvider | None:
        """The provider of `scheme`, None for world, super, auth and everything unknown."""
        return None if scheme is None else self._by_scheme.get(scheme)

    def schemes(self) -> list[str]:
        return sorted(self._by_scheme)


_JAVA_PACKAGE = "org.apache.zookeeper.server.auth"


class AuthEnforcement:
    """Whether a connection may work at all: it needs an id of one of `schemes`, if there are any.

    Asked before every request except auth and sasl; a refusal is answered SESSIONCLOSEDREQUIRESASLAUTH (-124)
    and the connection is closed.
    """

    __slots__ = ("_schemes", "is_sasl_required")

    def __init__(self, schemes: Iterable[str] = ()) -> None:
        self._schemes = frozenset(schemes)
        self.is_sasl_required = "sasl" in self._schemes  # a failed SASL exchange is then answered -124 too

    @classmethod
    def from_config(cls, settings: AuthSettings, registry: ProviderRegistry) -> AuthEnforcement:
        """Raises AuthConfigError for an empty list of schemes and for one that no provider serves."""
        if settings.session_require_sasl:
            key, schemes = "sessionRequireClientSASLAuth", ["sasl"]
        elif settings.enforce_enabled:
            key, schemes = "enforce.auth.schemes", [s.strip() for s in settings.enforce_schemes if s.strip()]
        else:
            return cls()
        if not schemes:
            raise AuthConfigError("enforce.auth.enabled is true, so enforce.auth.schemes must name a scheme")
        for scheme in schemes:
            if registry.get(scheme) is None:
                raise AuthConfigError(
                    f"{key}: scheme {scheme} has no provider (loaded: {', '.join(registry.schemes())}); "
                    f"load one with authProvider.1=<class>"
                )
        return cls(schemes)

    @property
    def is_enabled(self) -> bool:
        return bool(self._schemes)

    def allows(self, ids: Iterable[Id]) -> bool:
        return not self._schemes or any(entry.scheme in self._schemes for entry in ids)
