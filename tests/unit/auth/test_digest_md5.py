"""DIGEST-MD5: the golden exchange of Apache 3.9.5, the checks of a response, garbage."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkpy.auth.digest_md5 import DigestMd5Server, SaslFailed, parse_directives

USERS = {"bob": "bobsecret", "jürgen": "grüß", "日本": "東", 'q"u\\o': "x"}
URI = "zookeeper/zk-sasl-md5"
# Taken from the golden vectors sasl.sasl_ok_* and sasl.sasl_bad_password_* of Apache 3.9.5.
NONCE = "5MCh2Eik+clBulq+4FuQC5JDzHcYijwYxA/qRK5D"
CHALLENGE = f'realm="zk-sasl-md5",nonce="{NONCE}",charset=utf-8,algorithm=md5-sess'
RESPONSE = (
    f'charset=utf-8,username="bob",realm="zk-sasl-md5",nonce="{NONCE}",nc=00000001,cnonce="0123456789abcdef",'
    f'digest-uri="{URI}",maxbuf=65536,response=50089389c00ea8a2a4ef307f3344867c,qop=auth'
)
PROOF = "rspauth=7e3b87ab25e4b656476cc635166203d3"


def server() -> DigestMd5Server:
    """A server that has sent the golden challenge."""
    server = DigestMd5Server(USERS, lambda size: b64decode(NONCE)[:size])
    assert server.step(b"").token.decode() == CHALLENGE
    return server


def formula(
    user: bytes, password: bytes, a2: str, authzid: str | None = None, realm: str = "zk-sasl-md5"
) -> str:
    """RFC 2831, 2.1.2.1, spelled out a second time."""

    def md5(data: bytes) -> bytes:
        return hashlib.md5(data).digest()

    a1 = md5(user + f":{realm}:".encode() + password) + f":{NONCE}:0123456789abcdef".encode()
    if authzid is not None:
        a1 += f":{authzid}".encode()
    return md5(
        f"{md5(a1).hex()}:{NONCE}:00000001:0123456789abcdef:auth:{md5(a2.encode()).hex()}".encode()
    ).hex()


def directives(**changes: str | None) -> bytes:
    """The golden response with directives replaced, added or (None) left out."""
    fields: dict[str, str | None] = {
        "charset": "utf-8", "username": '"bob"', "realm": '"zk-sasl-md5"', "nonce": f'"{NONCE}"', "nc": "00000001",
        "cnonce": '"0123456789abcdef"', "digest-uri": f'"{URI}"', "maxbuf": "65536",
        "response": formula(b"bob", b"bobsecret", f"AUTHENTICATE:{URI}"), "qop": "auth",
    }  # fmt: skip
    fields |= {key.replace("_", "-"): value for key, value in changes.items()}
    return ",".join(f"{key}={value}" for key, value in fields.items() if value is not None).encode()


def test_the_golden_exchange_is_reproduced_byte_for_byte() -> None:
    step = server().step(RESPONSE.encode())
    assert step.token.decode() == PROOF
    assert step.authorization_id == "bob"
    assert directives().decode() == RESPONSE
    assert "rspauth=" + formula(b"bob", b"bobsecret", f":{URI}") == PROOF


def test_the_golden_wrong_password_is_refused() -> None:
    response = RESPONSE.replace(
        "50089389c00ea8a2a4ef307f3344867c", formula(b"bob", b"wrong", f"AUTHENTICATE:{URI}")
    )
    with pytest.raises(SaslFailed, match="'bob' is unknown or its password is wrong"):
        server().step(response.encode())


def test_a_user_without_a_password_entry_is_refused_even_with_an_empty_password() -> None:
    response = directives(username='"eve"', response=formula(b"eve", b"", f"AUTHENTICATE:{URI}"))
    with pytest.raises(SaslFailed, match="'eve' is unknown"):
        server().step(response)


def test_a_first_token_that_is_not_empty_is_ignored() -> None:
    exchange = DigestMd5Server(USERS, lambda size: b64decode(NONCE)[:size])
    assert exchange.step(b"zzz").token.decode() == CHALLENGE
    assert exchange.step(RESPONSE.encode()).authorization_id == "bob"


def test_the_nonce_is_forty_characters_of_the_random_source() -> None:
    challenge = DigestMd5Server(USERS, lambda size: b"\xff" * size).step(b"").token
    assert b'nonce="' + b"/" * 40 + b'"' in challenge


def test_the_quorum_speaks_under_its_own_names() -> None:
    exchange = DigestMd5Server(
        {"learner": "secret"},
        lambda size: b64decode(NONCE)[:size],
        protocol="zookeeper-quorum",
        server_name="zk-quorum-sasl-md5",
    )
    assert exchange.step(b"").token.startswith(b'realm="zk-quorum-sasl-md5",nonce=')
    uri, realm = "zookeeper-quorum/zk-quorum-sasl-md5", "zk-quorum-sasl-md5"
    response = directives(
        username='"learner"',
        realm=f'"{realm}"',
        digest_uri=f'"{uri}"',
        response=formula(b"learner", b"secret", f"AUTHENTICATE:{uri}", realm=realm),
    )
    assert exchange.step(response).authorization_id == "learner"


def test_after_success_every_further_token_fails() -> None:
    exchange = server()
    exchange.step(RESPONSE.encode())
    with pytest.raises(SaslFailed, match="over"):
        exchange.step(b"")


def test_after_failure_the_right_response_fails_too() -> None:
    exchange = server()
    with pytest.raises(SaslFailed):
        exchange.step(b"garbage")
    with pytest.raises(SaslFailed, match="over"):
        exchange.step(RESPONSE.encode())


def test_a_long_token_fails_but_does_not_start_the_exchange() -> None:
    exchange = DigestMd5Server(USERS, bytes)
    with pytest.raises(SaslFailed, match="4097 bytes"):
        exchange.step(b"x" * 4097)
    assert exchange.step(b"x" * 4096).token.startswith(b"realm=")


@pytest.mark.parametrize(
    ("user", "password", "quoted"),
    [
        ("jürgen".encode("latin-1"), "grüß".encode("latin-1"), '"jürgen"'),
        ("日本".encode(), "東".encode(), '"日本"'),
        (b'q"u\\o', b"x", r'"q\"u\\o"'),
    ],
)
def test_names_outside_ascii_are_hashed_as_java_does(user: bytes, password: bytes, quoted: str) -> None:
    response = directives(username=quoted, response=formula(user, password, f"AUTHENTICATE:{URI}"))
    assert server().step(response).authorization_id in USERS


def test_an_authzid_is_hashed_but_gives_nobody_elses_id() -> None:
    response = directives(
        authzid='"super"', response=formula(b"bob", b"bobsecret", f"AUTHENTICATE:{URI}", "super")
    )
    step = server().step(response)
    assert step.authorization_id == "bob"
    assert step.token.decode() == "rspauth=" + formula(b"bob", b"bobsecret", f":{URI}", "super")


def test_the_uri_is_compared_without_case_and_hashed_as_it_came() -> None:
    uri = "ZooKeeper/ZK-sasl-md5"
    response = directives(
        digest_uri=f'"{uri}"', response=formula(b"bob", b"bobsecret", f"AUTHENTICATE:{uri}")
    )
    assert server().step(response).token.decode() == "rspauth=" + formula(b"bob", b"bobsecret", f":{uri}")


@pytest.mark.parametrize(
    "changes",
    [
        {"qop": None},
        {"charset": None},
        {"maxbuf": None},
        {"nc": None},
        {"nc": "00000007"},  # Java does not look at it
        {"nonce_count": "00000001"},
        {"unknown": "1"},
        {"realm": "zk-sasl-md5"},
    ],
)
def test_optional_and_unknown_directives_do_not_matter(changes: dict[str, str | None]) -> None:
    assert server().step(directives(**changes)).authorization_id == "bob"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"username": None}, "response without username"),
        ({"nonce": None}, "response without nonce"),
        ({"cnonce": None}, "response without cnonce"),
        ({"response": None}, "response without response"),
        ({"charset": "latin1"}, "charset"),
        ({"realm": None}, "another realm"),
        ({"realm": '"ZK-SASL-MD5"'}, "another realm"),
        ({"nonce": '"x"'}, "another nonce"),
        ({"cnonce": '"x"'}, "password is wrong"),
        ({"qop": "auth-int"}, "qop is not auth"),
        ({"nonce_count": "00000002"}, "nonce-count"),
        ({"nonce_count": "x"}, "nonce-count"),
        ({"maxbuf": "x"}, "maxbuf"),
        ({"digest_uri": None}, "another digest-uri"),
        ({"digest_uri": '"zookeeper/other"'}, "another digest-uri"),
        ({"response": "5008"}, "password is wrong"),
        ({"Username": '"bob"'}, "more than one username"),
    ],
)
def test_a_wrong_directive_fails_the_exchange(changes: dict[str, str | None], message: str) -> None:
    with pytest.raises(SaslFailed, match=message):
        server().step(directives(**changes))


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b"", {}),
        (b" ,, \r\n\t,", {}),
        (b'realm="a,b" , qop = auth\tnonce=x', {"realm": b"a,b", "qop": b"auth", "nonce": b"x"}),
        (b'REALM="a\\"\\\\b"', {"realm": b'a"\\b'}),
        (b'realm=""', {"realm": b""}),
        (b"realm=,qop=auth", {"realm": b"", "qop": b"auth"}),
        (b"stale=true,realm=a=b", {"realm": b"a=b"}),
    ],
)
def test_directives_are_split_at_commas_and_blanks(token: bytes, expected: dict[str, bytes]) -> None:
    assert parse_directives(token) == expected


@pytest.mark.parametrize(
    "token",
    [
        b"realm",
        b"realm,x=y",
        b"realm x",
        b"=x",
        b"realm=",
        b"realm= ",
        b'realm="a',
        b'realm="a\\',
        b'realm="a"b',
        b'realm="',
    ],
)
def test_what_is_no_list_of_directives_fails(token: bytes) -> None:
    with pytest.raises(SaslFailed):
        parse_directives(token)


@given(st.binary(max_size=80) | st.text(alphabet='realmnocx=",\\ \t', max_size=60).map(str.encode))
def test_garbage_fails_and_raises_nothing_else(token: bytes) -> None:
    with pytest.raises(SaslFailed):
        server().step(token)


@given(
    st.integers(0, len(RESPONSE) - 1),
    st.integers(0, 255),
)
def test_one_changed_byte_never_lets_another_user_in(position: int, byte: int) -> None:
    token = bytearray(RESPONSE.encode())
    token[position] = byte
    try:
        step = server().step(bytes(token))
    except SaslFailed:
        return
    assert step.authorization_id == "bob"
    assert re.fullmatch(rb"rspauth=[0-9a-f]{32}", step.token)
