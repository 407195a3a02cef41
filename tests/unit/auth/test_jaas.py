"""The JAAS file: the grammar of Java's parser, and errors that say where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkpy.auth import jaas
from zkpy.auth.jaas import JaasError, LoginModule

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
// users of the client port
Server {
    org.apache.zookeeper.server.auth.DigestLoginModule required
        user_super="adminsecret"   /* two
                                      lines */
        user_bob="bobsecret";
};
"Quorum Server" {
    com.example.First optional;
    com.example.Second SUFFICIENT debug=true path="/etc/zk" "user_a@B" = "x" ;
};
Empty { };
"""


def test_sections_modules_and_options_are_read() -> None:
    assert jaas.parse(FILE, "jaas.conf") == {
        "Server": [
            LoginModule(
                "org.apache.zookeeper.server.auth.DigestLoginModule",
                "required",
                {"user_super": "adminsecret", "user_bob": "bobsecret"},
            )
        ],
        "Quorum Server": [
            LoginModule("com.example.First", "optional", {}),
            LoginModule(
                "com.example.Second", "sufficient", {"debug": "true", "path": "/etc/zk", "user_a@B": "x"}
            ),
        ],
        "Empty": [],
    }


def test_an_empty_file_has_no_sections() -> None:
    assert jaas.parse("// nothing\n", "jaas.conf") == {}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r'"a\"b"', 'a"b'),
        (r'"a\\b"', "a\\b"),
        (r'"\a\b\f\n\r\t\v"', "\a\b\f\n\r\t\v"),
        (r'"\q"', "q"),
        (r'"\101\7\4012"', "A\a 12"),
        ('"{};=// /* */"', "{};=// /* */"),
        ('"grüß"', "grüß"),
        ('""', ""),
        ("plain-word_1.2$*", "plain-word_1.2$*"),
    ],
)
def test_values_are_words_or_quoted_with_javas_escapes(written: str, value: str) -> None:
    sections = jaas.parse(f"S {{ m required k={written}; }};", "jaas.conf")
    assert sections["S"][0].options == {"k": value}


def test_the_last_of_several_equal_options_counts() -> None:
    assert jaas.parse("S { m required k=a k=b; };", "f")["S"][0].options == {"k": "b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("S", "f:1: end of file where { belongs"),
        ("S {", "f:1: end of file where the class of a login module belongs"),
        ("S {\n m\n}", "f:3: } where the required, requisite, sufficient or optional belongs"),
        ("S {\n m always;\n};", "f:2: always where required"),
        ("S { m required k };", "f:1: } where = belongs"),
        ("S { m required k=;", "f:1: ; where the value of the option belongs"),
        ("S { m required }", "f:1: } where the option or ; belongs"),
        ("S { m required; }", "f:1: end of file where ; belongs"),
        ("S { m required; };\n\nS { };", "f:3: a second section S"),
        ("{ };", "f:1: { where the name of a section belongs"),
        ('S { m required k="a\n"; };', "f:1: the quoted text does not end on its line"),
        ("/* a\n b", "f:1: the comment does not end"),
        ("S { m required\n k=/etc; };", "f:2: '/' is not allowed here; put the value in double quotes"),
        ('S { m required k="${user.home}"; };', r"f:1: properties like \$\{...\} are not expanded"),
    ],
)
def test_defects_are_reported_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(JaasError, match=f"^{message}"):
        jaas.parse(text, "f")


def test_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "jaas.conf"
    path.write_text("S { };")
    assert jaas.load(str(path)) == {"S": []}


def test_a_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    path = str(tmp_path / "none.conf")
    with pytest.raises(
        JaasError, match=r"none\.conf: java\.security\.auth\.login\.config cannot be read: No such"
    ):
        jaas.load(path)


@given(st.text(alphabet='S{};="\\/* \nmk0', max_size=30))
def test_any_text_gives_sections_or_a_jaas_error(text: str) -> None:
    try:
        sections = jaas.parse(text, "f")
    except JaasError:
        return
    assert all(isinstance(modules, list) for modules in sections.values())
