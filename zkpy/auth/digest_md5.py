"""DIGEST-MD5 (RFC 2831), server side, without I/O: a challenge, one response, a proof in return.

Owns: the text of the challenge, the grammar of a response, the hash that both sides compute, and the order of
the checks. Does not know: connections, JAAS files, who is super, where randomness comes from. Protocol,
server name and realm are parameters, because the quorum speaks the same mechanism under other names.

Invariants: one exchange per object; after a response was judged, right or wrong, every further token fails.
Whatever a peer sends, nothing but `SaslFailed` is raised.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zkpy.auth import java_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RESPONSE_LENGTH_MAX = 4096  # RFC 2831, 2.1.2
_NONCE_SIZE = 30  # 40 characters in base64, as Java sends
_BLANKS = frozenset(b" \t\r\n")
# Compat: Java looks for "nonce-count", so the nc that clients really send is not checked; it is 1 in the hash.
_DIRECTIVES = frozenset({
    "username", "realm", "nonce", "cnonce", "nonce-count", "qop", "digest-uri", "response", "maxbuf", "charset",
    "cipher", "authzid",
})  # fmt: skip


class SaslFailed(Exception):  # noqa: N818  an outcome of the exchange, not a defect
    """The peer is not who it says, or broke the mechanism's rules; the message is for the log only."""


@dataclass(frozen=True, slots=True)
class SaslStep:
    """What one token led to: the token to send back, and who the peer is once the exchange is complete."""

    token: bytes
    authorization_id: str | None = None


class DigestMd5Server:
    """One peer's exchange. `users` maps names to passwords, `random_bytes(n)` is a cryptographic source."""

    __slots__ = ("_digest_uri", "_is_over", "_nonce", "_random_bytes", "_server_name", "_users")

    def __init__(
        self,
        users: Mapping[str, str],
        random_bytes: Callable[[int], bytes],
        *,
        protocol: str = "zookeeper",
        server_name: str = "zk-sasl-md5",
    ) -> None:
        self._users = users
        self._random_bytes = random_bytes
        self._server_name = server_name
        self._digest_uri = f"{protocol}/{server_name}"
        self._nonce = b""
        self._is_over = False

    def step(self, token: bytes) -> SaslStep:
        """Take the peer's next token.

        Raises:
            SaslFailed: the exchange is over without success.
        """
        if len(token) > _RESPONSE_LENGTH_MAX:
            raise SaslFailed(f"token of {len(token)} bytes, at most {_RESPONSE_LENGTH_MAX} are allowed")
        if not self._nonce:
            # RFC 2831, 2.2: a server that does not resume former exchanges ignores an initial response.
            return SaslStep(self._challenge())
        if self._is_over:
            raise SaslFailed("the exchange is over")
        self._is_over = True
        return self._judge(parse_directives(token))

    def _challenge(self) -> bytes:
        self._nonce = b64encode(self._random_bytes(_NONCE_SIZE))
        return b'realm="%b",nonce="%b",charset=utf-8,algorithm=md5-sess' % (
            self._server_name.encode(),
            self._nonce,
        )

    def _judge(self, response: Mapping[str, bytes]) -> SaslStep:
        for name in ("username", "nonce", "cnonce", "response"):
            if name not in response:
                raise SaslFailed(f"response without {name}")
        if response.get("charset", b"utf-8") != b"utf-8":
            raise SaslFailed("charset is not utf-8")
        if _text(response.get("realm", b"")) != self._server_name:
            raise SaslFailed("another realm")
        if response["nonce"] != self._nonce:
            raise SaslFailed("another nonce")
        if response.get("qop", b"auth") != b"auth":
            raise SaslFailed("qop is not auth")
        if java_rules.parse_int(_text(response.get("nonce-count", b"1")), 16) != 1:
            raise SaslFailed("nonce-count is not 1")
        if java_rules.parse_int(_text(response.get("maxbuf", b"65536"))) is None:
            raise SaslFailed("maxbuf is no number")
        digest_uri = response.get("digest-uri", b"")
        if _text(digest_uri).lower() != self._digest_uri:
            raise SaslFailed("another digest-uri")
        username = _text(response["username"])
        password = self._users.get(username)
        # An unknown user costs the same work as a wrong password.
        secret = hash_secret(username, self._server_name, password or "")
        authzid = response.get("authzid")
        expected = response_value(
            secret, self._nonce, response["cnonce"], b"AUTHENTICATE:" + digest_uri, authzid
        )
        if not hmac.compare_digest(expected, response["response"]) or password is None:
            raise SaslFailed(f"user {username!r} is unknown or its password is wrong")
        proof = response_value(secret, self._nonce, response["cnonce"], b":" + digest_uri, authzid)
        # Compat: the id is the name that was proven; an authzid only takes part in the hash.
        return SaslStep(b"rspauth=" + proof, username)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def hash_secret(username: str, realm: str, password: str) -> bytes:
    """H(username:realm:password), each in ISO 8859-1 if it fits and UTF-8 if not (RFC 2831, 2.1.2.1)."""
    return _md5(b":".join(_latin1_or_utf8(part) for part in (username, realm, password)))


def response_value(
    secret: bytes, nonce: bytes, cnonce: bytes, a2: bytes, authzid: bytes | None = None
) -> bytes:
    """The hex digest that proves `secret`; `a2` is what distinguishes the two directions (qop auth, nc 1)."""
    a1 = b":".join([secret, nonce, cnonce] + ([] if authzid is None else [authzid]))
    parts = [_hex(_md5(a1)), nonce, b"00000001", cnonce, b"auth", _hex(_md5(a2))]
    return _hex(_md5(b":".join(parts)))


def _latin1_or_utf8(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode(errors="replace")


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()  # the mechanism prescribes it


def _hex(data: bytes) -> bytes:
    return data.hex().encode()


def parse_directives(token: bytes) -> dict[str, bytes]:
    """Split a response into its directives; unknown ones are passed over, known ones may occur once.

    Compat: elements may be separated by blanks as well as by commas, as Java has it.

    Raises:
        SaslFailed: the token is no list of `key=value`.
    """
    directives: dict[str, bytes] = {}
    position = _skip(token, 0, _SEPARATORS)
    while position < len(token):
        key, position = _key(token, position)
        value, position = _value(token, position)
        name = key.decode("latin-1").lower()
        if name in _DIRECTIVES:
            if name in directives:
                raise SaslFailed(f"more than one {name}")
            directives[name] = value
        position = _skip(token, position, _SEPARATORS)
    return directives


_SEPARATORS = _BLANKS | frozenset(b",")


def _skip(token: bytes, position: int, characters: frozenset[int]) -> int:
    while position < len(token) and token[position] in characters:
        position += 1
    return position


def _key(token: bytes, start: int) -> tuple[bytes, int]:
    """The key at `start` and the offset of its value."""
    end = start
    while end < len(token) and token[end] not in _KEY_END:
        end += 1
    equals = _skip(token, end, _BLANKS)
    if end == start or token[equals : equals + 1] != b"=":
        raise SaslFailed("a directive is not key=value")
    position = _skip(token, equals + 1, _BLANKS)
    if position == len(token):
        raise SaslFailed("the last directive has no value")
    return token[start:end], position


_KEY_END = _SEPARATORS | frozenset(b"=")


def _value(token: bytes, start: int) -> tuple[bytes, int]:
    if token[start] == ord('"'):
        return _quoted_value(token, start + 1)
    end = start
    while end < len(token) and token[end] not in _SEPARATORS:
        end += 1
    return token[start:end], end


def _quoted_value(token: bytes, start: int) -> tuple[bytes, int]:
    value = bytearray()
    position = start
    while position < len(token) and token[position] != ord('"'):
        if token[position] == ord("\\"):
            position += 1
        value += token[position : position + 1]
        position += 1
    end = position + 1
    if position >= len(token):
        raise SaslFailed("a quoted value does not end")
    if end < len(token) and token[end] not in _SEPARATORS:
        raise SaslFailed("a quoted value is not followed by a comma")
    return bytes(value), end
