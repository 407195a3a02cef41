"""SASL requests: every row of what they are answered, as observed on Apache 3.9.5."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode
from pathlib import Path

import pytest

from zkpy.auth.jaas import LoginModule
from zkpy.auth.providers import AuthCloseSilently, AuthConfigError
from zkpy.auth.sasl import FIPS_REASON, SaslAnswer, SaslPolicy, SaslSession, SaslSettings, users_of_section
from zkpy_protocol.records import Id

USERS = {"bob": "bobsecret", "super": "adminsecret"}
AUTHFAILED, REQUIRED = -115, -124


def policy(
    *,
    users: dict[str, str] | None = USERS,
    fips_mode: bool = False,
    super_users: frozenset[str] = frozenset(),
    super_password: str | None = None,
    allow_failed_clients: bool = False,
    is_required: bool = False,
) -> SaslPolicy:
    settings = SaslSettings(users, fips_mode, super_users, super_password, allow_failed_clients)
    return SaslPolicy(settings, lambda size: bytes(range(size)), is_required=is_required)


def response(challenge: bytes | None, user: str, password: str) -> bytes:
    assert challenge is not None
    found = re.search(r'nonce="([^"]*)"', challenge.decode())
    assert found
    nonce, uri = found[1], "zookeeper/zk-sasl-md5"

    def md5(data: bytes) -> bytes:
        return hashlib.md5(data).digest()

    a1 = md5(f"{user}:zk-sasl-md5:{password}".encode()) + f":{nonce}:c".encode()
    a2 = md5(f"AUTHENTICATE:{uri}".encode())
    value = md5(f"{md5(a1).hex()}:{nonce}:00000001:c:auth:{a2.hex()}".encode()).hex()
    return (
        f'username="{user}",realm="zk-sasl-md5",nonce="{nonce}",cnonce="c",nc=00000001,qop=auth,'
        f'digest-uri="{uri}",response={value}'
    ).encode()


def login(session: SaslSession, user: str, password: str) -> SaslAnswer:
    return session.step(response(session.step(b"").token, user, password))


VECTORS = Path(__file__).parents[3] / "protocol" / "vectors" / "client-wire-3.9.5.json"


@pytest.mark.parametrize("name", ["sasl_ok", "sasl_bad_password", "sasl_unknown_user"])
def test_the_golden_exchanges_are_reproduced(name: str) -> None:
    """Reply header error, token and whether the connection is closed, as Apache 3.9.5 answered."""
    vectors = {vector["name"]: vector for vector in json.loads(VECTORS.read_text())["vectors"]}
    challenge, final = vectors[f"sasl.{name}_challenge"], vectors[f"sasl.{name}_response"]
    nonce = re.search(r'nonce="([^"]*)"', challenge["response_token"])
    assert nonce
    settings = SaslSettings(USERS, fips_mode=False)
    session = SaslSession(SaslPolicy(settings, lambda _size: b64decode(nonce[1])))
    assert session.step(b"").token == challenge["response_token"].encode()
    answer = session.step(final["request_token"].encode())
    reply = bytes.fromhex(final["response_hex"])
    assert answer.error == int.from_bytes(reply[16:20], signed=True)
    assert answer.token == (reply[24:] if reply[20:24] != b"\xff" * 4 else None)
    assert answer.close is final["closed"]


def test_the_challenge_comes_without_ids_and_success_adds_the_sasl_id() -> None:
    session = SaslSession(policy())
    challenge = session.step(b"")
    assert (challenge.error, challenge.ids, challenge.close, challenge.reason) == (0, [], False, None)
    answer = session.step(response(challenge.token, "bob", "bobsecret"))
    assert answer.token is not None
    assert answer.token.startswith(b"rspauth=")
    assert (answer.error, answer.ids, answer.close, answer.reason) == (0, [Id("sasl", "bob")], False, None)


def test_a_wrong_password_is_answered_authfailed_with_a_null_token_and_closed() -> None:
    session = SaslSession(policy())
    answer = login(session, "bob", "wrong")
    assert (answer.error, answer.token, answer.ids, answer.close) == (AUTHFAILED, None, (), True)
    assert answer.reason == "DIGEST-MD5: user 'bob' is unknown or its password is wrong"


def test_where_sasl_is_required_a_failure_is_answered_124_even_if_failed_clients_are_allowed() -> None:
    session = SaslSession(policy(is_required=True, allow_failed_clients=True))
    answer = login(session, "bob", "wrong")
    assert (answer.error, answer.token, answer.close) == (REQUIRED, None, True)


def test_allowed_failed_clients_get_a_null_token_and_stay_without_the_id() -> None:
    session = SaslSession(policy(allow_failed_clients=True))
    for token in (response(session.step(b"").token, "bob", "wrong"), b"", b"x" * 5000):
        answer = session.step(token)
        assert (answer.error, answer.token, answer.ids, answer.close) == (0, None, (), False)
        assert answer.reason


def test_a_token_after_success_fails() -> None:
    session = SaslSession(policy())
    login(session, "bob", "bobsecret")
    answer = session.step(b"")
    assert (answer.error, answer.close) == (AUTHFAILED, True)


@pytest.mark.parametrize("is_required", [False, True])
def test_without_a_login_every_token_is_answered_with_a_null_token(is_required: bool) -> None:
    session = SaslSession(policy(users=None, fips_mode=True, is_required=is_required))
    for token in (b"", b"zz"):
        answer = session.step(token)
        assert (answer.error, answer.token, answer.ids, answer.close, answer.reason) == (
            0,
            None,
            (),
            False,
            None,
        )


@pytest.mark.parametrize("users", [None, USERS])
def test_a_null_token_closes_the_connection_without_an_answer(users: dict[str, str] | None) -> None:
    with pytest.raises(AuthCloseSilently):
        SaslSession(policy(users=users)).step(None)


def test_fips_mode_refuses_digest_md5_and_names_the_key() -> None:
    fips = policy(fips_mode=True)
    answer = SaslSession(fips).step(b"")
    assert (answer.error, answer.token, answer.close, answer.reason) == (AUTHFAILED, None, True, FIPS_REASON)
    assert "fips-mode=false" in FIPS_REASON
    assert fips.refusal == FIPS_REASON
    assert policy().refusal is None
    assert policy(users=None, fips_mode=True).refusal is None
    assert SaslSettings().fips_mode


def test_a_super_user_gets_the_super_id_too() -> None:
    session = SaslSession(policy(super_users=frozenset({"bob", "eve"})))
    answer = login(session, "bob", "bobsecret")
    assert answer.ids == [Id("sasl", "bob"), Id("super", "")]


def test_the_name_super_alone_does_not_earn_the_super_id() -> None:
    session = SaslSession(policy())
    answer = login(session, "super", "adminsecret")
    assert answer.ids == [Id("sasl", "super")]


def test_an_empty_name_is_never_super() -> None:
    session = SaslSession(policy(users={"": "x"}, super_users=frozenset({""})))
    answer = login(session, "", "x")
    assert answer.ids == [Id("sasl", "")]


def test_the_super_password_replaces_the_one_of_the_file() -> None:
    for password, error in (("other", 0), ("adminsecret", AUTHFAILED)):
        session = SaslSession(policy(super_password="other"))
        assert login(session, "super", password).error == error


def test_the_super_password_does_not_bring_a_user() -> None:
    session = SaslSession(policy(users={"bob": "bobsecret"}, super_password="other"))
    assert login(session, "super", "other").error == AUTHFAILED


def test_the_settings_are_not_changed_by_the_super_password() -> None:
    policy(super_password="other")
    assert USERS["super"] == "adminsecret"


DIGEST = "org.apache.zookeeper.server.auth.DigestLoginModule"


def test_users_are_the_options_that_begin_with_user() -> None:
    modules = [
        LoginModule(DIGEST, "required", {"user_bob": "a", "user_": "b", "username": "c", "debug": "true"}),
        LoginModule(DIGEST, "required", {"user_bob": "d"}),
    ]
    assert users_of_section(modules, "Server") == {"bob": "d", "": "b"}


def test_kerberos_is_refused_with_a_clear_error() -> None:
    modules = [LoginModule("com.sun.security.auth.module.Krb5LoginModule", "required", {})]
    with pytest.raises(
        AuthConfigError, match=r"section Server: .*Krb5LoginModule means Kerberos \(GSSAPI\).*not built"
    ):
        users_of_section(modules, "Server")


def test_an_unknown_login_module_is_refused() -> None:
    with pytest.raises(AuthConfigError, match=r"section Server: login module com\.example\.Mine is unknown"):
        users_of_section([LoginModule("com.example.Mine", "required", {})], "Server")
