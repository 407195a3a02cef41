"""Invariant: a text is a list of sections or a JaasError that begins with file and line; nothing else is raised."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import smoke
from zkpy.auth.jaas import JaasError, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "/fuzz/jaas.conf"
TOKENS = [
    "Server", "{", "}", ";", "=", "required", "org.apache.zookeeper.server.auth.DigestLoginModule", 'user_bob="x"',
    '"quoted \\" \\101 name"', "// end\n", "/* a\nb */", "/*", '"', "\n", " ", "useKeyTab=true", "${user.home}",
]  # fmt: skip


def check(data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        sections = parse(text, FILE)
    except JaasError as error:
        place = re.match(rf"{FILE}:(\d+): .", str(error), re.DOTALL)
        assert place is not None
        assert 1 <= int(place[1]) <= text.count("\n") + 1
    else:
        for modules in sections.values():
            for module in modules:
                assert module.flag in {"required", "requisite", "sufficient", "optional"}


def seeds() -> Iterator[bytes]:
    yield b'Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_bob="secret" user_x=y; };'
    yield b'Client {\n a.B optional /* c */ k="\\101\\n";\n c.D sufficient;\n}; // end\nOther { };'
    yield "".join(TOKENS).encode()


@smoke
@given(st.lists(st.sampled_from(TOKENS) | st.text(max_size=5), max_size=20))
def test_any_tokens(tokens: list[str]) -> None:
    check(" ".join(tokens).encode(errors="replace"))


@smoke
@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    check(data)


@smoke
@given(st.sampled_from(list(seeds())), st.data())
def test_a_good_file_with_a_change(seed: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(seed)))
    check(
        seed[:position] + data.draw(st.binary(max_size=3)) + seed[position + data.draw(st.integers(0, 3)) :]
    )


def test_every_seed() -> None:
    for seed in seeds():
        check(seed)
