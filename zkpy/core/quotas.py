"""Quota records: the text in ``zookeeper_limits`` and ``zookeeper_stats`` nodes, and which paths have one.

The text is Apache's (StatsTrack), odd ``=`` included. `QuotaPaths` knows prefixes only; the tree keeps
the numbers, the pipeline enforces the limits.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from zkpy.core.paths import QUOTA_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_NAME: Final = "zookeeper_limits"
STATS_NAME: Final = "zookeeper_stats"

_SEPARATORS = re.compile("[,;]+")
_LONG = re.compile(r"[+-]?[0-9]+\Z")


class MalformedQuotaError(ValueError):
    """The text of a limits or stats node cannot be read."""


def limits_path(path: str) -> str:
    """Node that holds the limits of `path`."""
    return f"{QUOTA_ROOT}{path}/{LIMIT_NAME}"


def stats_path(path: str) -> str:
    """Node that holds the usage of `path`."""
    return f"{QUOTA_ROOT}{path}/{STATS_NAME}"


class QuotaTrack:
    """One record of counts and bytes; -1 is unset."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, int]) -> None:
        self._values = values

    @classmethod
    def parse(cls, data: bytes | None) -> QuotaTrack:
        """Read the text of a node.

        Raises:
            MalformedQuotaError: where Apache throws a number format or index exception.
        """
        if data is None:
            raise MalformedQuotaError("null")
        text = data.decode("utf-8", "replace")
        values: dict[str, int] = {}
        if not text:
            return cls(values)
        pairs = _SEPARATORS.split(text)
        while len(pairs) > 1 and not pairs[-1]:  # Java's split drops trailing empty strings
            pairs.pop()
        for pair in pairs:
            key, equals, rest = pair.partition("=")
            if not equals:
                raise MalformedQuotaError(text)
            value = rest.partition("=")[0]
            if not value and not rest.strip("="):
                raise MalformedQuotaError(text)  # Java's split leaves no second element
            values[key] = cls._number(value)
        return cls(values)

    @staticmethod
    def _number(text: str) -> int:
        if not text:
            return -1
        if not _LONG.match(text) or not -(1 << 63) <= int(text) < 1 << 63:
            raise MalformedQuotaError(text)
        return int(text)

    def get(self, key: str) -> int:
        """``count``, ``bytes``, ``countHardLimit`` or ``byteHardLimit``; -1 when unset."""
        return self._values.get(key, -1)

    def add(self, count: int, size: int) -> None:
        """Account for nodes that came, went or changed their size in bytes."""
        self._values["count"] = self.get("count") + count
        self._values["bytes"] = self.get("bytes") + size

    def encode(self) -> bytes:
        """The text to store, with the unknown keys sorted behind the two old ones."""
        others = sorted(key for key in self._values if key not in {"count", "bytes"})
        tail = "".join(f";{key}={self._values[key]}" for key in others)
        return f"count={self.get('count')},bytes={self.get('bytes')}{'=' if tail else ''}{tail}".encode()


class QuotaPaths:
    """The set of paths with a quota, searched for the deepest prefix of a path."""

    __slots__ = ("paths",)

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def add(self, path: str) -> None:
        """`path` has a limits node now."""
        self.paths.add(path)

    def discard(self, path: str) -> None:
        """The limits node of `path` is gone."""
        self.paths.discard(path)

    def deepest_prefix(self, path: str) -> str | None:
        """The nearest ancestor of `path`, or itself, that has a quota; the root cannot have one."""
        if not self.paths:
            return None
        while path:
            if path in self.paths:
                return path
            path = path[: path.rindex("/")]
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.paths))
