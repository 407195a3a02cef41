"""Invariant: the token of a client is judged right or wrong, or SaslFailed says why it cannot be; nobody becomes somebody without
a response hash in the token, and after one token the exchange is over.
"""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import smoke
from zkpy.auth.digest_md5 import DigestMd5Server, SaslFailed, parse_directives

if TYPE_CHECKING:
    from collections.abc import Iterator

USERS = {"bob": "bobsecret", "jürgen": "grüß", "": ""}
NONCE = "5MCh2Eik+clBulq+4FuQC5JDzHcYijwYxA/qRK5D"
# The golden exchange of Apache 3.9.5 (vectors sasl.sasl_ok_*).
RESPONSE = (
    f'charset=utf-8,username="bob",realm="zk-sasl-md5",nonce="{NONCE}",nc=00000001,cnonce="0123456789abcdef",'
    'digest-uri="zookeeper/zk-sasl-md5",maxbuf=65536,response=50089389c00ea8a2a4ef307f3344867c,qop=auth'
).encode()


def check(data: bytes) -> None:
    server = DigestMd5Server(USERS, lambda size: base64.b64decode(NONCE)[:size])
    assert server.step(b"anything").authorization_id is None
    with contextlib.suppress(SaslFailed):
        step = server.step(data)
        assert step.authorization_id
        assert len(parse_directives(data)["response"]) == 32
    with contextlib.suppress(SaslFailed):
        server.step(RESPONSE)
        raise AssertionError("a second token was judged")


def seeds() -> Iterator[bytes]:
    yield RESPONSE
    yield RESPONSE.replace(b"charset=utf-8,", b"").replace(b'username="bob"', b"username=bob")
    yield RESPONSE.replace(b",", b" ,\t") + b',authzid="bob",cipher="des",nonce-count=1'
    yield b'username="j\xc3\xbcrgen",realm="zk\\-sasl-md5"'
    yield b""


@smoke
@given(st.binary(max_size=60) | st.text(',="\\ usernamorlqp', max_size=40).map(str.encode))
def test_any_token(data: bytes) -> None:
    check(data)


@smoke
@given(st.sampled_from(list(seeds())), st.data())
def test_a_good_token_with_a_change(seed: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(seed)))
    check(
        seed[:position] + data.draw(st.binary(max_size=3)) + seed[position + data.draw(st.integers(0, 3)) :]
    )


def test_every_seed() -> None:
    for seed in seeds():
        check(seed)
