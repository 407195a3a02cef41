"""Invariant: a text is a properties file or PropertiesError, and a configuration or ConfigError; nothing else is raised."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import smoke
from zkpy.core.properties import PropertiesError, parse_properties
from zkpy.ops.config import ConfigError, known_key_names
from zkpy.ops.config_loader import config_from_text

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "/fuzz/zoo.cfg"
EXAMPLE = Path(__file__).parents[2] / "zoo.cfg.example"
KEYS = sorted(known_key_names())
LINES = [
    b"dataDir=/fuzz/data",
    b"clientPort=2181",
    b"clientPortAddress=::1",
    b"tickTime=2000",
    b"server.1=a:1:2;3",
    b"server.2=[::1]:1:2:observer|b:3:4;127.0.0.1:5",
    b"group.1=1:2",
    b"weight.1=3",
    b"reconfigEnabled=true",
    b"autopurge.purgeInterval=1",
    b"4lw.commands.whitelist=*",
    b"authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
    b"secureClientPort=2281",
    b"ssl.keyStore.location=k.jks",
    b"unknown.key=\\u00e9 \\\n  continued",
    b"! comment",
]


def check(data: bytes) -> None:
    with contextlib.suppress(PropertiesError):
        for key, (value, line) in parse_properties(data).items():
            assert isinstance(key + value, str)
            assert 1 <= line <= data.count(b"\n") + data.count(b"\r") + 1
    if b"dynamicConfigFile" in data or b"\\u" in data.lower():
        return  # it may name any file of this machine, also in another spelling
    with contextlib.suppress(ConfigError):
        config = config_from_text(data, file=FILE)
        assert config.data_dir
        assert config.min_session_timeout_ms <= config.max_session_timeout_ms


def seeds() -> Iterator[bytes]:
    yield b"\n".join(LINES[:4])
    yield b"\n".join(LINES)
    for line in LINES:
        yield LINES[0] + b"\n" + LINES[1] + b"\n" + line
    example = EXAMPLE.read_bytes()
    yield example
    yield example.replace(b"\n#", b"\n")


_NUMBERS = st.integers(-(2**70), 2**70).map(lambda number: str(number).encode())
_VALUES = st.binary(max_size=20) | _NUMBERS | st.sampled_from([b"true", b"", b"1:2:3", b"a,b", b"::1"])
_ANY_LINE = st.binary(max_size=30) | st.sampled_from(LINES)
_KEY_LINE = st.builds(lambda key, value: key.encode() + b"=" + value, st.sampled_from(KEYS), _VALUES)


@smoke
@given(st.lists(_ANY_LINE | _KEY_LINE, max_size=6))
def test_any_lines(lines: list[bytes]) -> None:
    check(b"\n".join(lines))


@smoke
@given(st.lists(_KEY_LINE, max_size=6))
def test_any_values_of_known_keys(lines: list[bytes]) -> None:
    check(b"\n".join([*LINES[:4], *lines]))


@smoke
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=10), st.text(max_size=20), max_size=5))
def test_any_system_properties(properties: dict[str, str]) -> None:
    named = {f"zookeeper.{key}": value for key, value in properties.items() if key != "dynamicConfigFile"}
    with contextlib.suppress(ConfigError):
        config_from_text(b"\n".join(LINES[:4]), named | properties, file=FILE)


def test_every_seed() -> None:
    for seed in seeds():
        check(seed)
