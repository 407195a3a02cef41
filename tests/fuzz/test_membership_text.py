"""Invariant: a configuration string is a membership that reads back from its own text, or MembershipError; nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import smoke
from zkpy.core.membership import EnsembleView, Membership, MembershipError

if TYPE_CHECKING:
    from collections.abc import Iterator

LINES = [
    "server.1=a:1:2",
    "server.2=[::1]:1:2:observer|10.1:3:4;127.0.0.1:5",
    "server.3=c:1:2:participant;2181",
    "server.-4=d:1:2",
    "group.1=1:2",
    "group.2=3:-4",
    "weight.1=3",
    "weight.2=0",
    "version=1ff",
    "server.5 : \\u0065:\\\n 1:2",
    "! comment",
]


def check(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(MembershipError):
        membership = Membership.from_text(text)
        assert Membership.from_text(membership.text()) == membership
        assert membership.text().encode()
        assert not EnsembleView(membership).is_quorum(set())


def seeds() -> Iterator[bytes]:
    yield "\n".join(LINES[:3]).encode()
    yield "\n".join(LINES).encode()
    for line in LINES:
        yield f"{LINES[0]}\n{line}".encode()


_NUMBERS = st.integers(-(2**70), 2**70).map(str)
_KEYS = st.builds(
    lambda kind, number: kind + number, st.sampled_from(["server.", "group.", "weight."]), _NUMBERS
)
_PARTS = st.lists(_NUMBERS | st.text(max_size=4) | st.sampled_from(["a", "::1", "observer", "1"]), max_size=5)
_VALUES = st.builds(lambda separator, parts: separator.join(parts), st.sampled_from(":;|"), _PARTS)
_MADE_LINES = st.builds(
    lambda key, value: f"{key}={value}", _KEYS | st.sampled_from(["version", "group.1"]), _VALUES
)


@smoke
@given(st.lists(st.text(max_size=30) | st.sampled_from(LINES) | _MADE_LINES, max_size=6))
def test_any_lines(lines: list[str]) -> None:
    check("\n".join(lines).encode("utf-8", "surrogatepass"))


@smoke
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    check(data)


def test_every_seed() -> None:
    for seed in seeds():
        check(seed)
