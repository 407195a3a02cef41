"""Auth and SASL packets of client links: from the wire to providers and back to an answer.

What `zkpy.core.service` asks through `zkpy.core.auth.Authenticator`. Owns the replies (client protocol §12.2, §12.3);
does not know how a credential is checked. Reasons of refusals go to `report`, which logs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from zkpy.auth.providers import AuthCloseSilently, AuthFailed, PeerInfo
from zkpy.auth.sasl import SaslSession
from zkpy.core.auth import AuthOutcome
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import ErrorCode
from zkpy_protocol.records import (
    SetSASLResponse,
    decode_auth_packet,
    decode_get_sasl_request,
    encode_set_sasl_response,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zkpy.auth.providers import AuthEnforcement, ProviderRegistry
    from zkpy.auth.sasl import SaslPolicy
    from zkpy.core.link import ClientLink
    from zkpy_protocol.records import Id

_HEADER_BYTES = 8


class LinkAuthenticator:
    """Answers the auth and sasl packets of every link."""

    __slots__ = ("_enforcement", "_registry", "_report", "_sasl")

    def __init__(
        self,
        registry: ProviderRegistry,
        enforcement: AuthEnforcement,
        sasl: SaslPolicy,
        report: Callable[[ClientLink, str, str], None],
    ) -> None:
        """`report(link, scheme, reason)` is told why an authentication failed."""
        self._registry = registry
        self._enforcement = enforcement
        self._sasl = sasl
        self._report = report

    @property
    def required(self) -> bool:
        """Whether every connection must authenticate."""
        return self._enforcement.is_enabled

    def satisfied_by(self, ids: Sequence[Id]) -> bool:
        """Whether a connection with `ids` may work."""
        return self._enforcement.allows(ids)

    def packet(self, link: ClientLink, frame: bytes) -> AuthOutcome:
        """Check the credentials of an auth packet."""
        try:
            request, _ = decode_auth_packet(frame, _HEADER_BYTES)
        except DecodeError:
            # Compat: Apache cannot read it either and ends the connection.
            return AuthOutcome(answered=False, close=True)
        scheme = request.scheme
        provider = self._registry.get(scheme)
        if provider is None:
            return self._failed(link, str(scheme), f"no provider for scheme {scheme}")
        try:
            ids = provider.handle_authentication(request.auth, PeerInfo(link.host, link.x509_subject))
        except AuthFailed as error:
            return self._failed(link, provider.scheme, str(error))
        except AuthCloseSilently as error:
            self._report(link, provider.scheme, str(error))
            return AuthOutcome(answered=False, close=True, failed=True)
        return AuthOutcome(ids=ids)

    def sasl(self, link: ClientLink, frame: bytes) -> AuthOutcome:
        """One round of a SASL exchange."""
        try:
            request, _ = decode_get_sasl_request(frame, _HEADER_BYTES)
            if link.sasl is None:
                link.sasl = SaslSession(self._sasl)
            answer = cast("SaslSession", link.sasl).step(request.token)
        except (DecodeError, AuthCloseSilently) as error:
            self._report(link, "sasl", str(error))
            return AuthOutcome(answered=False, close=True)
        if answer.reason is not None:
            self._report(link, "sasl", answer.reason)
        return AuthOutcome(
            answer.error,
            encode_set_sasl_response(SetSASLResponse(answer.token)),
            answer.ids,
            close=answer.close,
            failed=answer.reason is not None,
        )

    def _failed(self, link: ClientLink, scheme: str, reason: str) -> AuthOutcome:
        self._report(link, scheme, reason)
        return AuthOutcome(ErrorCode.AUTHFAILED, close=True, failed=True)
