"""Auth and SASL packets from the bytes of the request to the outcome that the core carries out."""

from __future__ import annotations

import pytest

from zkpy.auth.authenticator import LinkAuthenticator
from zkpy.auth.providers import (
    AuthEnforcement,
    DigestProvider,
    EnsembleProvider,
    IpProvider,
    ProviderRegistry,
    SaslProvider,
    X509Provider,
)
from zkpy.auth.sasl import SaslPolicy, SaslSettings
from zkpy.core.link import ClientLink
from zkpy_protocol.records import (
    AuthPacket,
    GetSASLRequest,
    Id,
    SetSASLResponse,
    decode_set_sasl_response,
    encode_auth_packet,
    encode_get_sasl_request,
)

HEADER = b"\xff\xff\xff\xfc\0\0\0\x64"
AUTHFAILED = -115


class Server:
    """An authenticator with all it needs, and what it reported."""

    def __init__(self, schemes: tuple[str, ...] = ()) -> None:
        self.reports: list[tuple[str, str]] = []
        self.registry = ProviderRegistry(
            [IpProvider(), DigestProvider(), SaslProvider(), X509Provider(), EnsembleProvider("east")]
        )
        self.authenticator = LinkAuthenticator(
            self.registry,
            AuthEnforcement(schemes),
            SaslPolicy(SaslSettings({"bob": "bobsecret"}, fips_mode=False), bytes),
            lambda _link, scheme, reason: self.reports.append((scheme, reason)),
        )


@pytest.fixture
def server() -> Server:
    return Server()


def link() -> ClientLink:
    return ClientLink([], "127.0.0.1", 2181, ())


def auth(scheme: str | None, data: bytes | None) -> bytes:
    return HEADER + encode_auth_packet(AuthPacket(0, scheme, data))


def sasl(token: bytes | None) -> bytes:
    return HEADER + encode_get_sasl_request(GetSASLRequest(token))


def test_a_good_credential_gives_its_ids(server: Server) -> None:
    outcome = server.authenticator.packet(link(), auth("digest", b"bob:secret"))
    assert outcome.ids == [Id("digest", "bob:fyVmFCwVbTJYrznoSu1koqYEYF0=")]
    assert (outcome.err, outcome.body, outcome.answered, outcome.close, outcome.failed) == (
        0,
        b"",
        True,
        False,
        False,
    )
    assert server.reports == []


def test_the_provider_sees_the_peer(server: Server) -> None:
    secure = link()
    secure.x509_subject = "CN=zk"
    assert server.authenticator.packet(secure, auth("ip", None)).ids == [Id("ip", "127.0.0.1")]
    assert server.authenticator.packet(secure, auth("x509", None)).ids == [Id("x509", "CN=zk")]


@pytest.mark.parametrize(
    ("scheme", "data", "reason"),
    [
        ("nope", b"x", "no provider for scheme nope"),
        (None, b"x", "no provider for scheme None"),
        ("world", b"anyone", "no provider for scheme world"),
        ("digest", None, "digest needs user:password"),
        ("sasl", b"x", "sasl is negotiated by opcode 102"),
        ("x509", b"x", "x509 needs a client certificate"),
    ],
)
def test_a_refusal_is_answered_authfailed_reported_and_closed(
    server: Server, scheme: str | None, data: bytes | None, reason: str
) -> None:
    outcome = server.authenticator.packet(link(), auth(scheme, data))
    assert (outcome.err, outcome.ids, outcome.answered, outcome.close, outcome.failed) == (
        AUTHFAILED,
        (),
        True,
        True,
        True,
    )
    assert [(str(scheme), True)] == [(name, text.startswith(reason)) for name, text in server.reports]


def test_another_ensemble_is_closed_without_an_answer(server: Server) -> None:
    outcome = server.authenticator.packet(link(), auth("ensemble", b"west"))
    assert (outcome.answered, outcome.close, outcome.failed) == (False, True, True)
    assert server.reports[0][0] == "ensemble"


@pytest.mark.parametrize("cut", [1, 5])
def test_an_unreadable_packet_is_closed_without_an_answer(server: Server, cut: int) -> None:
    outcome = server.authenticator.packet(link(), auth("digest", b"a:b")[:-cut])
    assert (outcome.answered, outcome.close) == (False, True)
    outcome = server.authenticator.sasl(link(), sasl(b"abcd")[:-cut])
    assert (outcome.answered, outcome.close) == (False, True)


def test_a_sasl_exchange_lives_on_its_link(server: Server) -> None:
    first, second = link(), link()
    for one in (first, second):
        outcome = server.authenticator.sasl(one, sasl(b""))
        answer, _ = decode_set_sasl_response(outcome.body)
        assert (answer.token or b"").startswith(b"realm=")
    outcome = server.authenticator.sasl(first, sasl(b"garbage"))
    assert (outcome.err, outcome.close, outcome.failed) == (AUTHFAILED, True, True)
    assert decode_set_sasl_response(outcome.body)[0] == SetSASLResponse(None)
    assert server.reports == [("sasl", "DIGEST-MD5: a directive is not key=value")]


def test_a_null_sasl_token_is_closed_without_an_answer(server: Server) -> None:
    outcome = server.authenticator.sasl(link(), sasl(None))
    assert (outcome.answered, outcome.close) == (False, True)


def test_enforcement_is_passed_on(server: Server) -> None:
    assert not server.authenticator.required
    assert server.authenticator.satisfied_by(())
    strict = Server(("digest",)).authenticator
    assert strict.required
    assert not strict.satisfied_by([Id("ip", "127.0.0.1")])
    assert strict.satisfied_by([Id("digest", "bob:x")])
