"""What the core needs to know of authentication: who a connection has proved to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.link import ClientLink
    from zkpy_protocol.records import Id


class AuthOutcome:
    """The answer to an auth or sasl packet.

    Attributes:
        err: code for the reply header.
        body: record of the reply.
        ids: identities the connection has gained.
        answered: False closes the connection without a reply.
        close: close behind the reply.
        failed: counts as a failed authentication.
    """

    __slots__ = ("answered", "body", "close", "err", "failed", "ids")

    def __init__(
        self,
        err: int = 0,
        body: bytes = b"",
        ids: Sequence[Id] = (),
        *,
        answered: bool = True,
        close: bool = False,
        failed: bool = False,
    ) -> None:
        self.err = err
        self.body = body
        self.ids = ids
        self.answered = answered
        self.close = close
        self.failed = failed


class Authenticator(Protocol):
    """Checks credentials. Its answers may depend on nothing but its arguments and its configuration."""

    @property
    def required(self) -> bool:
        """Whether connections without certain identities are refused every request."""

    def satisfied_by(self, ids: Sequence[Id]) -> bool:
        """Whether `ids` are enough for a server that requires authentication."""

    def packet(self, link: ClientLink, frame: bytes) -> AuthOutcome:
        """An auth packet (opcode 100), header included."""

    def sasl(self, link: ClientLink, frame: bytes) -> AuthOutcome:
        """A SASL token (opcode 102), header included."""
