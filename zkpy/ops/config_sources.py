"""Values of keys as they were written, in files, in properties and on the command line.

Owns which source wins, which key is a property and under which name, the files themselves, and what is said about a value that
cannot be read or a key that has no effect. Does not know what keys demand of one another. Opens nothing but configuration
files and logs nothing: what should be said goes into ``notices``.

Sources, weakest first: defaults; ``-D`` in SERVER_JVMFLAGS, in JVMFLAGS, on the command line; the file.
"""

from __future__ import annotations

from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zkpy.core.membership import is_membership_key
from zkpy.core.properties import PropertiesError, parse_properties
from zkpy.ops import known_keys, values
from zkpy.ops.config import KEYS, PROPERTY_PREFIX, ConfigError, Notice, keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zkpy.ops.config import Key

MULTI_ADDRESS_PROPERTY = PROPERTY_PREFIX + "multiAddress.enabled"
"""A property although the key is one of the file."""

_NO_FILE = "(no file)"
_STATIC_KEYS = frozenset(key.name for key in KEYS if key.is_static) | frozenset(known_keys.STATIC)
_AS_IS_KEYS = frozenset(key.name for key in KEYS if key.is_as_is) | known_keys.AS_IS
_PROPERTIES = {key.property_name: key for key in KEYS if not key.is_static}
# Properties of several numbered or named keys, gathered into one field.
_FAMILIES = ("authProvider.", "superUser.")
_YES_NO = (values.is_yes, values.is_not_no)


class Setting(NamedTuple):
    """A value as written, and where."""

    value: str
    where: str


class Sources:
    """One file and the properties.

    Attributes:
        content: of the file, as it stands there.
        file: its absolute path; None: there is no file.
        properties: by full name, those of the file included.
        static: keys that Apache itself parses in the file.
        membership_lines: server, group and weight lines of the file.
        notices: what is to be said so far.
    """

    __slots__ = ("content", "file", "membership_lines", "notices", "properties", "static")

    def __init__(
        self,
        content: bytes,
        file: str | None,
        properties: Mapping[str, Setting],
        static: Mapping[str, Setting] | None = None,
    ) -> None:
        """`static`: of a server without a file; a line of the file wins.

        Raises:
            ConfigError: the file is not one of keys and values.
        """
        self.content = content
        self.file = file
        self.properties = dict(properties)
        self.static = dict(static or {})
        self.membership_lines: dict[str, Setting] = {}
        self.notices: list[Notice] = []
        for key, setting in parse_file(content, self.name).items():
            self._add(key, setting)

    @property
    def name(self) -> str:
        """What stands for the file in a refusal."""
        return self.file or _NO_FILE

    def values_of(self, cls: type) -> dict[str, Any]:
        """The fields of a class that keys fill, as the sources say or as by default.

        A field without a default is None where no source sets it; one of the rules has to fill it.

        Raises:
            ConfigError: a value cannot be read.
        """
        found: dict[str, Any] = {}
        for name, key, declared in keys_of(cls):
            setting = self._setting_of(key)
            if setting is not None:
                found[name] = self._parsed(key.name, key.parse, setting)
            else:
                found[name] = None if declared.default is MISSING else declared.default
        return found

    def family(self, prefix: str) -> dict[str, str]:
        """Properties that begin alike: what follows the prefix, and the value."""
        full = PROPERTY_PREFIX + prefix
        return {
            name.removeprefix(full): setting.value
            for name, setting in self.properties.items()
            if name.startswith(full)
        }

    def refusal(self, key: str, reason: str) -> ConfigError:
        """A ConfigError about a key as it stands in the file, or about its absence."""
        setting = self.static.get(key) or self.membership_lines.get(key)
        if setting is None:
            return ConfigError(f"{self.name}: {key}: {reason}")
        return ConfigError(f"{setting.where}: {key}={setting.value}: {reason}")

    def warn(self, event: str, **details: object) -> None:
        self.notices.append(Notice("warning", event, details))

    def notice_keys_without_effect(self) -> None:
        """One notice names those that are known, one those that are not.

        Raises:
            ConfigError: a value cannot be read that Apache would parse.
        """
        accepted: list[str] = []
        unknown: list[str] = []
        effective_static = {key.name for key in KEYS if key.is_static and key.is_effective}
        for name, setting in self.static.items():
            if name in known_keys.STATIC:
                self._parsed(name, known_keys.STATIC[name], setting)
            if name not in effective_static and name != "electionAlg":
                accepted.append(name)
        for name in self.properties:
            short = name.removeprefix(PROPERTY_PREFIX)
            key = _PROPERTIES.get(name)
            if key is not None:
                if not key.is_effective:
                    accepted.append(short)
            elif name in known_keys.AS_IS:
                accepted.append(name)
            elif (
                name == MULTI_ADDRESS_PROPERTY
                or not name.startswith(PROPERTY_PREFIX)
                or short in known_keys.SILENT
                or _is_family(short)
            ):
                continue
            elif short in known_keys.PROPERTIES or short.startswith(known_keys.PROPERTY_PREFIXES):
                accepted.append(short)
            else:
                unknown.append(short)
        if accepted:
            self.notices.append(Notice("info", "config.keys_without_effect", {"keys": sorted(accepted)}))
        if unknown:
            self.warn("config.unknown_keys", keys=sorted(unknown))

    def _add(self, key: str, setting: Setting) -> None:
        if key in _STATIC_KEYS or key.startswith(known_keys.STATIC_PREFIXES):
            self.static[key] = setting
        elif is_membership_key(key):
            self.membership_lines[key] = setting
        elif key in _AS_IS_KEYS or key.startswith(known_keys.AS_IS_PREFIXES):
            self.properties[key] = setting
        else:
            self.properties[PROPERTY_PREFIX + key] = setting

    def _setting_of(self, key: Key) -> Setting | None:
        if key.is_static:
            return self.static.get(key.name)
        setting = self.properties.get(key.property_name)
        return self.properties.get(key.alias) if setting is None and key.alias else setting

    def _parsed(self, name: str, parse: Callable[[str], object], setting: Setting) -> object:
        try:
            value = parse(setting.value)
        except ValueError as error:
            raise ConfigError(f"{setting.where}: {name}={setting.value}: {error}") from None
        if parse in _YES_NO and setting.value not in {"yes", "no"}:
            self.warn(
                "config.not_yes_or_no", key=name, value=setting.value, where=setting.where, taken_as=value
            )
        return value


def _is_family(short: str) -> bool:
    return short == "superUser" or short.startswith(_FAMILIES)


def jvm_properties(flags: Sequence[str], where: str) -> dict[str, Setting]:
    """The system properties among the flags of a JVM; the rest (-Xmx, -ea, -cp ...) only concerns a JVM."""
    properties: dict[str, Setting] = {}
    for flag in flags:
        if flag.startswith("-D"):
            name, _, value = flag[2:].partition("=")
            properties[name] = Setting(value.strip(), where)
    return properties


def read_file(file: str) -> bytes:
    """All of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None


def parse_file(content: bytes, name: str) -> dict[str, Setting]:
    """The properties of a file with keys and values trimmed, as Apache does.

    Raises:
        ConfigError: it is not one of keys and values.
    """
    try:
        parsed = parse_properties(content)
    except PropertiesError as error:
        raise ConfigError(f"{name}:{error.line}: {error.reason}") from None
    return {key.strip(): Setting(value.strip(), f"{name}:{line}") for key, (value, line) in parsed.items()}
