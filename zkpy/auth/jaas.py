"""The JAAS login configuration file: named sections of login modules with options.

Owns: its grammar (that of Java's `javax.security.auth.login.Configuration`), with errors that name file and
line. Does not know what a module or an option means.

    Server {                                               // a section; its name may be quoted
        org.apache.zookeeper.server.auth.DigestLoginModule required
        user_bob="bobsecret";                              /* options end at the semicolon */
    };
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FLAGS = frozenset({"required", "requisite", "sufficient", "optional"})
_TOKEN = re.compile(
    r"""
      (?P<blank> [\x00-\x20]+ | //[^\n\r]* | /\*.*?\*/ )
    | (?P<word> [A-Za-z0-9$_.*\x80-\U0010ffff-]+ )
    | " (?P<quoted> (?: [^"\\\n\r] | \\[^\n\r] )* ) "
    | (?P<mark> [{}=;] )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\([0-3][0-7]{0,2}|[4-7][0-7]?|.)")
_CONTROL_CHARACTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class JaasError(ValueError):
    """The file cannot be used; the message starts with `file:line`."""


@dataclass(frozen=True, slots=True)
class LoginModule:
    """One entry of a section."""

    java_class: str
    flag: str
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    line: int
    is_mark: bool = False


def load(path: str) -> dict[str, list[LoginModule]]:
    """The sections of a file.

    Raises:
        JaasError: it cannot be read, or not understood.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise JaasError(
            f"{path}: java.security.auth.login.config cannot be read: {error.strerror}"
        ) from error
    return parse(text, path)


def parse(text: str, file_name: str) -> dict[str, list[LoginModule]]:
    """The sections of the text of a file; `file_name` is for messages."""
    return _Parser(_tokenize(text, file_name), file_name).sections()


def _tokenize(text: str, file_name: str) -> list[_Token]:
    tokens = []
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise JaasError(f"{file_name}:{line}: {_describe_defect(text, position)}")
        if match["word"] is not None:
            tokens.append(_Token(match["word"], line))
        elif match["quoted"] is not None:
            tokens.append(_Token(_ESCAPE.sub(_unescape, match["quoted"]), line))
        elif match["mark"] is not None:
            tokens.append(_Token(match["mark"], line, is_mark=True))
        line += match[0].count("\n")
        position = match.end()
    tokens.append(_Token("end of file", line, is_mark=True))
    return tokens


def _describe_defect(text: str, position: int) -> str:
    if text[position] == '"':
        return "the quoted text does not end on its line"
    if text.startswith("/*", position):
        return "the comment does not end"
    return f"{text[position]!r} is not allowed here; put the value in double quotes"


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _CONTROL_CHARACTERS.get(code, code)


class _Parser:
    __slots__ = ("_file_name", "_position", "_tokens")

    def __init__(self, tokens: Sequence[_Token], file_name: str) -> None:
        self._tokens = tokens
        self._file_name = file_name
        self._position = 0

    def sections(self) -> dict[str, list[LoginModule]]:
        sections: dict[str, list[LoginModule]] = {}
        while self._position < len(self._tokens) - 1:
            name = self._text("name of a section")
            if name.text in sections:
                raise self._error(name, f"a second section {name.text}")
            self._mark("{")
            modules = []
            while not self._accept("}"):
                modules.append(self._module())
            self._mark(";")
            sections[name.text] = modules
        return sections

    def _module(self) -> LoginModule:
        java_class = self._text("class of a login module").text
        flag = self._text("required, requisite, sufficient or optional")
        if flag.text.lower() not in _FLAGS:
            raise self._error(flag, f"{flag.text} where required, requisite, sufficient or optional belongs")
        options = {}
        while not self._accept(";"):
            key = self._text("option or ;").text
            self._mark("=")
            options[key] = self._option_value()
        return LoginModule(java_class, flag.text.lower(), options)

    def _option_value(self) -> str:
        value = self._text("value of the option")
        if "${" in value.text:
            raise self._error(value, "properties like ${...} are not expanded; write the value itself")
        return value.text

    def _text(self, expected: str) -> _Token:
        token = self._tokens[self._position]
        if token.is_mark:
            raise self._error(token, f"{token.text} where the {expected} belongs")
        self._position += 1
        return token

    def _mark(self, mark: str) -> None:
        if not self._accept(mark):
            token = self._tokens[self._position]
            raise self._error(token, f"{token.text} where {mark} belongs")

    def _accept(self, mark: str) -> bool:
        token = self._tokens[self._position]
        if not token.is_mark or token.text != mark:
            return False
        self._position += 1
        return True

    def _error(self, token: _Token, message: str) -> JaasError:
        return JaasError(f"{self._file_name}:{token.line}: {message}")
