"""Rules on paths."""

from __future__ import annotations

import pytest

from zkpy.core.paths import is_valid, parent_of, top_namespace


@pytest.mark.parametrize(
    "path",
    ["/", "/a", "/a/b", "/...", "/.x", "/..x", "/a/...b/c", "/a b", "/ä", "/￯", "/豈", "/~", "/a..", "/a/b."],
)
def test_a_path_with_odd_but_harmless_names_is_valid(path: str) -> None:
    assert is_valid(path)


@pytest.mark.parametrize(
    "path",
    [
        None,
        "",
        "a",
        "a/b",
        "/a/",
        "//",
        "/a//b",
        "/.",
        "/..",
        "/a/.",
        "/a/..",
        "/a/./b",
        "/a/../b",
        "/./a",
        "/../a",
    ],
)
def test_a_path_with_an_empty_or_dotted_component_is_refused(path: str | None) -> None:
    assert not is_valid(path)


@pytest.mark.parametrize(
    "code",
    [0, 1, 0x1F, 0x7F, 0x9F, 0xD800, 0xDFFF, 0xE000, 0xF8FF, 0xFFF0, 0xFFFD, 0xFFFF, 0x10000, 0x10FFFF],
)
def test_control_surrogate_private_and_special_characters_are_refused(code: int) -> None:
    assert not is_valid(f"/a{chr(code)}b")


@pytest.mark.parametrize("code", [0x20, 0x7E, 0xA0, 0xD7FF, 0xF900, 0xFFEF])
def test_the_characters_next_to_the_forbidden_ranges_are_allowed(code: int) -> None:
    assert is_valid(f"/a{chr(code)}b")


def test_the_parent_of_a_top_level_node_is_called_slash() -> None:
    assert [parent_of(path) for path in ("/a", "/a/b", "/", "//", "a/b")] == ["/", "/a", "/", "/", "a"]


def test_the_namespace_of_a_path_is_its_first_component() -> None:
    assert top_namespace("/a/b/c") == "a"
    assert top_namespace("/a") == "a"
    assert top_namespace("/") is None
    assert top_namespace("") is None
