"""Rules on znode paths, as pure functions on strings."""

from __future__ import annotations

import re
from typing import Final

ROOT: Final = "/"
CONFIG_NODE: Final = "/zookeeper/config"
QUOTA_ROOT: Final = "/zookeeper/quota"
RESERVED: Final = ("/", "/zookeeper", QUOTA_ROOT, CONFIG_NODE)

# Compat: what PathUtils of Apache refuses. Java counts UTF-16 units, so every code point above U+FFFF is
# refused through its surrogates; private use and the specials at the end of the plane go with them.
_FORBIDDEN: Final = re.compile(
    # Written with chr: a compiler such as mypyc takes no surrogates in a literal.
    f"[\x00-\x1f\x7f-\x9f{chr(0xD800)}-{chr(0xF8FF)}{chr(0xFFF0)}-{chr(0xFFFF)}{chr(0x10000)}-{chr(0x10FFFF)}]"
)
_ODD_COMPONENT: Final = re.compile(r"//|/\.(?:/|$)|/\.\.(?:/|$)")


def is_valid(path: str | None) -> bool:
    """Whether a node may have this path (applied to the result of create, to setData, setACL, check)."""
    if not path or path[0] != "/":
        return False
    if path == "/":
        return True
    if path[-1] == "/" or not ((path.isascii() and path.isprintable()) or _FORBIDDEN.search(path) is None):
        return False
    return ("/." not in path and "//" not in path) or _ODD_COMPONENT.search(path) is None


def parent_of(path: str) -> str:
    """Everything before the last slash, for which the root is called ``/``. `path` must contain a slash."""
    return path[: path.rindex("/")] or ROOT


def top_namespace(path: str) -> str | None:
    """First component, the key of metrics per namespace; None for the root (PathUtils.getTopNamespace)."""
    if len(path) < 2:
        return None
    end = path.find("/", 1)
    return path[1:] if end < 0 else path[1:end]
