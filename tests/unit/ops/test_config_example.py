"""zoo.cfg.example says what the code does: which keys have an effect, and their real defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zkpy.ops.config import KEYS
from zkpy.ops.config_loader import BUILT_IN_FILE, config_from_text

EXAMPLE = Path(__file__).parents[3] / "zoo.cfg.example"
TEXT = EXAMPLE.read_text(encoding="ascii")
LINE = re.compile(r"#?([A-Za-z0-9][\w.-]*)=(.*)")


def documented() -> dict[str, tuple[str, str]]:
    """Key -> (value shown, the comment above it)."""
    found: dict[str, tuple[str, str]] = {}
    comment: list[str] = []
    for line in TEXT.splitlines():
        if match := LINE.fullmatch(line):
            found[match[1]] = (match[2], " ".join(comment))
        elif line.startswith("# "):
            comment.append(line)
        else:
            comment = []
    return found


DOCUMENTED = documented()
BASE = "dataDir=/var/zk\n"
# Keys that are refused unless another one is there too.
COMPANIONS = {"clientPortAddress": "clientPort=1\n", "secureClientPortAddress": "secureClientPort=2\n"}
UNREADABLE = {"dynamicConfigFile"}  # names a file that is not there


def test_the_example_as_it_stands_is_what_a_server_without_a_file_runs_with() -> None:
    example = config_from_text(TEXT)
    built_in = config_from_text(BUILT_IN_FILE)
    assert example.notices == ()
    for name in built_in.__slots__:
        if name not in {"config_file", "config_text"}:
            assert getattr(example, name) == getattr(built_in, name), name


def test_every_key_with_an_effect_is_in_the_example_and_those_without_say_so() -> None:
    keys = {key.name: key for key in KEYS}
    families = {"authProvider.1", "superUser"}
    assert {name for name, key in keys.items() if key.is_effective} | families <= set(DOCUMENTED)
    for name in set(DOCUMENTED) - families:
        _, comment = DOCUMENTED[name]
        assert ("[no effect yet]" in comment) != keys[name].is_effective, name


@pytest.mark.parametrize("key", sorted(set(DOCUMENTED) - UNREADABLE - {"dataDir", "clientPort", "tickTime"}))
def test_a_documented_value_is_the_default_unless_it_says_that_there_is_none(key: str) -> None:
    value, comment = DOCUMENTED[key]
    base = BASE + COMPANIONS.get(key, "")
    before = config_from_text(base)
    after = config_from_text(f"{base}{key}={value}\n")
    has_effect = "[no effect yet]" not in comment
    assert [notice.event for notice in after.notices] == (
        [] if has_effect else ["config.keys_without_effect"]
    )
    changed = {
        name
        for name in before.__slots__
        if name not in {"config_file", "config_text", "system_properties", "notices"}
        and getattr(before, name) != getattr(after, name)
    }
    if changed:
        assert "Not set" in comment, f"{key}={value} is not the default, see {changed}"


def test_the_example_says_where_else_a_key_may_be_given() -> None:
    for key in KEYS:
        if key.name in DOCUMENTED:
            _, comment = DOCUMENTED[key.name]
            assert key.is_static == ("[zoo.cfg only]" in comment), key.name
            assert key.is_as_is == ("[plain]" in comment), key.name
