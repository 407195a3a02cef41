"""SASL on the client port (opcode 102): what one request of the exchange is answered.

Owns: the users of the JAAS section, the rules of success and failure, who becomes super. Does not know: the
wire, connections, loggers. Reasons of refusals leave as text in the answer, and the shell logs them.

One `SaslPolicy` per server, one `SaslSession` per connection that sent a SASL request. GSSAPI (Kerberos) is
not built: a section that asks for it is refused at start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zkpy.auth.digest_md5 import DigestMd5Server, SaslFailed
from zkpy.auth.providers import SUPER_SCHEME, AuthCloseSilently, AuthConfigError
from zkpy_protocol.opcodes import ErrorCode
from zkpy_protocol.records import Id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zkpy.auth.jaas import LoginModule

_USER_PREFIX = "user_"
FIPS_REASON = (
    "DIGEST-MD5 is refused because fips-mode is true, its default; "
    "to allow it set fips-mode=false (-Dzookeeper.fips-mode=false)"
)


@dataclass(frozen=True, slots=True)
class SaslSettings:
    """Settings of SASL; the comment is the key of zoo.cfg (or `zookeeper.` property) behind each."""

    users: Mapping[str, str] | None = None  # of the JAAS section; None where there is none: no SASL here
    fips_mode: bool = True  # fips-mode
    super_users: frozenset[str] = frozenset()  # superUser and superUser.<x>
    super_password: str | None = None  # SASLAuthenticationProvider.superPassword
    allow_failed_clients: bool = False  # allowSaslFailedClients


@dataclass(frozen=True, slots=True)
class SaslAnswer:
    """The answer to one request: reply header error and token, then ids to add, then perhaps the end.

    `reason` is for the log: why authentication failed.
    """

    error: int = 0
    token: bytes | None = None
    ids: Sequence[Id] = ()
    close: bool = False
    reason: str | None = None


def users_of_section(modules: Sequence[LoginModule], section: str) -> dict[str, str]:
    """The users and passwords of a server's JAAS section.

    Raises:
        AuthConfigError: it asks for a login module that is not built in.
    """
    users: dict[str, str] = {}
    for module in modules:
        simple_name = module.java_class.rpartition(".")[2]
        if simple_name == "Krb5LoginModule":
            raise AuthConfigError(
                f"JAAS section {section}: {module.java_class} means Kerberos (GSSAPI), which is not built; "
                f"use org.apache.zookeeper.server.auth.DigestLoginModule"
            )
        if simple_name != "DigestLoginModule":
            raise AuthConfigError(
                f"JAAS section {section}: login module {module.java_class} is unknown; "
                f"use org.apache.zookeeper.server.auth.DigestLoginModule"
            )
        users |= {
            key.removeprefix(_USER_PREFIX): password
            for key, password in module.options.items()
            if key.startswith(_USER_PREFIX)
        }
    return users


class SaslPolicy:
    """What holds for every connection. `random_bytes(n)` must be a cryptographic source."""

    __slots__ = ("is_required", "random_bytes", "settings", "users")

    def __init__(
        self, settings: SaslSettings, random_bytes: Callable[[int], bytes], *, is_required: bool = False
    ) -> None:
        """`is_required`: an id of scheme sasl is enforced (`AuthEnforcement.is_sasl_required`)."""
        self.settings = settings
        self.random_bytes = random_bytes
        self.is_required = is_required
        self.users = None if settings.users is None else dict(settings.users)
        # Compat: the password replaces that of a user super of the section, it does not bring the user.
        if self.users is not None and "super" in self.users and settings.super_password is not None:
            self.users["super"] = settings.super_password

    @property
    def refusal(self) -> str | None:
        """Why no client can succeed although users are configured; to be logged at start."""
        return FIPS_REASON if self.settings.fips_mode and self.users is not None else None

    def is_super(self, authorization_id: str) -> bool:
        return authorization_id in self.settings.super_users and bool(authorization_id)


class SaslSession:
    """The exchange on one connection."""

    __slots__ = ("_policy", "_server")

    def __init__(self, policy: SaslPolicy) -> None:
        self._policy = policy
        self._server = DigestMd5Server(policy.users or {}, policy.random_bytes)

    def step(self, token: bytes | None) -> SaslAnswer:
        """Answer one request with the client's `token`.

        Raises:
            AuthCloseSilently: the token is null.
        """
        if token is None:
            raise AuthCloseSilently("SASL request with a null token")
        policy = self._policy
        if policy.users is None:
            return SaslAnswer()  # the null token tells the client that this server does no SASL
        if policy.settings.fips_mode:
            return self._failed(FIPS_REASON)
        try:
            step = self._server.step(token)
        except SaslFailed as failure:
            return self._failed(f"DIGEST-MD5: {failure}")
        ids = []
        if step.authorization_id is not None:
            ids.append(Id("sasl", step.authorization_id))
            if policy.is_super(step.authorization_id):
                ids.append(Id(SUPER_SCHEME, ""))
        return SaslAnswer(token=step.token, ids=ids)

    def _failed(self, reason: str) -> SaslAnswer:
        if self._policy.is_required:
            return SaslAnswer(ErrorCode.SESSIONCLOSEDREQUIRESASLAUTH, close=True, reason=reason)
        if self._policy.settings.allow_failed_clients:
            return SaslAnswer(reason=reason)  # the connection goes on without the id
        return SaslAnswer(ErrorCode.AUTHFAILED, close=True, reason=reason)
