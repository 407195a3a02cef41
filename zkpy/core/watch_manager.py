"""Who wants to hear about which path, and the order in which they are told.

Watches belong to connections. Two tables: *data* (set by exists and getData) and *child* (getChildren);
each entry is a set of modes. Rules of triggering, matching and delivery: client protocol §15. Watchers of
one trigger are told in the order in which they registered.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from zkpy.core.errors import KeeperError
from zkpy.core.link import DROPPED
from zkpy_protocol.opcodes import ErrorCode, EventType, KeeperState, Perms, WatcherType
from zkpy_protocol.records import SetWatches2
from zkpy_protocol.text import encode_as_java

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zkpy.core.acl import AccessRules, AclList
    from zkpy.core.data_tree import Change, DataTree
    from zkpy.core.link import ClientLink
    from zkpy.core.stats import CoreStats
    from zkpy_protocol.records import SetWatches

STANDARD: Final = 1
PERSISTENT: Final = 2
RECURSIVE: Final = 4
NULL_PATH: Final = "null"
"""Stand-in for a null path, which Apache takes for a persistent watch that never fires, and shows so."""
ANY_MODE: Final = STANDARD | PERSISTENT | RECURSIVE

_EVENT: Final = struct.Struct(">iiqiiii").pack
_EVENT_FIXED: Final = 28  # reply header, type, state, path length
_CATCH_UP_ZXID: Final = -1


class WatchTable:
    """Watches by path and by connection."""

    __slots__ = ("_by_link", "_by_path", "_recursive")

    def __init__(self) -> None:
        self._by_path: dict[str, dict[ClientLink, int]] = {}
        self._by_link: dict[ClientLink, dict[str, None]] = {}
        self._recursive = 0

    def __len__(self) -> int:
        return sum(len(paths) for paths in self._by_link.values())

    def add(self, path: str, link: ClientLink, mode: int) -> None:
        """Add `mode` to what `link` has at `path`."""
        links = self._by_path.setdefault(path, {})
        modes = links.get(link, 0)
        links[link] = modes | mode
        if not modes:
            self._by_link.setdefault(link, {})[path] = None
        if mode & RECURSIVE and not modes & RECURSIVE:
            self._recursive += 1

    def has(self, path: str, link: ClientLink, mode: int) -> bool:
        """Whether `link` watches `path` in any of the modes."""
        links = self._by_path.get(path)
        return links is not None and bool(links.get(link, 0) & mode)

    def remove(self, path: str, link: ClientLink, mode: int) -> bool:
        """Take modes away; False when none of them was there."""
        links = self._by_path.get(path)
        modes = 0 if links is None else links.get(link, 0)
        if links is None or not modes & mode:
            return False
        if modes & mode & RECURSIVE:
            self._recursive -= 1
        self._set(path, links, link, modes & ~mode)
        return True

    def remove_link(self, link: ClientLink) -> None:
        """The connection is gone."""
        for path in self._by_link.pop(link, ()):
            links = self._by_path[path]
            if links.pop(link) & RECURSIVE:
                self._recursive -= 1
            if not links:
                del self._by_path[path]

    def trigger(self, path: str) -> dict[ClientLink, None] | None:
        """The connections to tell of a change of `path`; uses up their standard watches."""
        links = self._by_path.get(path)
        found: dict[ClientLink, None] | None = None
        if links:
            found = dict.fromkeys(links)
            for link, modes in list(links.items()):
                if modes & STANDARD:
                    self._set(path, links, link, modes & ~STANDARD)
        if self._recursive:
            while path and path != "/":
                path = path[: path.rindex("/")] or "/"
                for link, modes in self._by_path.get(path, {}).items():
                    if modes & RECURSIVE:
                        if found is None:
                            found = {}
                        found[link] = None
        return found

    def _set(self, path: str, links: dict[ClientLink, int], link: ClientLink, modes: int) -> None:
        if modes:
            links[link] = modes
            return
        del links[link]
        if not links:
            del self._by_path[path]
        paths = self._by_link[link]
        del paths[path]
        if not paths:
            del self._by_link[link]

    def by_path(self) -> dict[str, list[int]]:
        """Session ids by watched path."""
        return {path: [link.session_id for link in links] for path, links in self._by_path.items()}

    def by_session(self) -> dict[int, list[str]]:
        """Watched paths by session id."""
        return {link.session_id: list(paths) for link, paths in self._by_link.items()}

    def summary(self) -> tuple[int, int, int]:
        """Connections with watches, watched paths, watches."""
        return len(self._by_link), len(self._by_path), len(self)


class WatchManager:
    """Both tables, and the delivery of events."""

    __slots__ = ("_access", "_stats", "child", "data")

    def __init__(self, access: AccessRules, stats: CoreStats) -> None:
        self._access = access
        self._stats = stats
        self.data = WatchTable()
        self.child = WatchTable()

    def __len__(self) -> int:
        return len(self.data) + len(self.child)

    def __bool__(self) -> bool:
        """Whether anybody watches anything."""
        return bool(self.data._by_path) or bool(self.child._by_path)  # noqa: SLF001  same module

    def fire(self, changes: Iterable[Change], zxid: int) -> None:
        """Tell everybody about the changes of one txn, in order."""
        for kind, path, acl in changes:
            if kind == EventType.NODE_CHILDREN_CHANGED:
                self._deliver(self.child.trigger(path), kind, path, acl, zxid)
                continue
            told = self.data.trigger(path)
            self._deliver(told, kind, path, acl, zxid)
            if kind == EventType.NODE_DELETED:
                watchers = self.child.trigger(path)
                if watchers and told:
                    watchers = {link: None for link in watchers if link not in told}
                self._deliver(watchers, kind, path, acl, zxid)

    def _deliver(
        self, watchers: dict[ClientLink, None] | None, kind: int, path: str, acl: AclList, zxid: int
    ) -> None:
        if not watchers:
            return
        self._stats.watchers_told[kind].add(len(watchers))
        frame = event_frame(kind, path, zxid)
        everybody = acl.anyone & Perms.READ
        for link in watchers:
            # A link that was dropped just now keeps its watches until its socket is gone.
            if link.state != DROPPED and (everybody or self._access.allows(acl, Perms.READ, link.ids)):
                self._send(link, frame)

    def _send(self, link: ClientLink, frame: bytes) -> None:
        link.send(frame)
        link.sent += 1
        self._stats.sent += 1
        self._stats.watch_bytes += len(frame) - 4

    def add_persistent(self, path: str, link: ClientLink, recursive: bool) -> None:
        """AddWatch."""
        if recursive:
            self.data.add(path, link, RECURSIVE)
        else:
            self.data.add(path, link, PERSISTENT)
            self.child.add(path, link, PERSISTENT)

    def rearm(self, tree: DataTree, link: ClientLink, request: SetWatches | SetWatches2) -> None:
        """SetWatches and setWatches2: set again what the client had, tell it at once what it has missed.

        Raises:
            KeeperError: MARSHALLINGERROR for a null list or path. Compat: what stands before it has happened.
        """
        relative_zxid = request.relative_zxid
        for path in _listed(request.data_watches):
            node = tree.get(path)
            if node is None:
                self._catch_up(link, EventType.NODE_DELETED, path)
            elif node.mzxid > relative_zxid:
                self._catch_up(link, EventType.NODE_DATA_CHANGED, path)
            else:
                self.data.add(path, link, STANDARD)
        for path in _listed(request.exist_watches):
            if tree.get(path) is not None:
                self._catch_up(link, EventType.NODE_CREATED, path)
            else:
                self.data.add(path, link, STANDARD)
        for path in _listed(request.child_watches):
            node = tree.get(path)
            if node is None:
                self._catch_up(link, EventType.NODE_DELETED, path)
            elif node.pzxid > relative_zxid:
                self._catch_up(link, EventType.NODE_CHILDREN_CHANGED, path)
            else:
                self.child.add(path, link, STANDARD)
        if isinstance(request, SetWatches2):
            for path in _listed(request.persistent_watches, null=NULL_PATH):
                self.add_persistent(path, link, recursive=False)
            for path in _listed(request.persistent_recursive_watches, null=NULL_PATH):
                self.add_persistent(path, link, recursive=True)

    def _catch_up(self, link: ClientLink, kind: int, path: str) -> None:
        self._send(link, event_frame(kind, path, _CATCH_UP_ZXID))

    def has(self, path: str, link: ClientLink, kind: int) -> bool:
        """CheckWatches."""
        if kind == WatcherType.CHILDREN:
            return self.child.has(path, link, STANDARD)
        if kind == WatcherType.DATA:
            return self.data.has(path, link, STANDARD)
        if kind == WatcherType.ANY:
            return self.child.has(path, link, ANY_MODE) or self.data.has(path, link, ANY_MODE)
        if kind == WatcherType.PERSISTENT:
            return self.data.has(path, link, PERSISTENT)
        return self.data.has(path, link, RECURSIVE)

    def remove(self, path: str, link: ClientLink, kind: int) -> bool:
        """RemoveWatches."""
        if kind == WatcherType.CHILDREN:
            return self.child.remove(path, link, STANDARD)
        if kind == WatcherType.DATA:
            return self.data.remove(path, link, STANDARD)
        if kind == WatcherType.ANY:
            from_child = self.child.remove(path, link, ANY_MODE)
            return self.data.remove(path, link, ANY_MODE) or from_child
        if kind == WatcherType.PERSISTENT:
            from_child = self.child.remove(path, link, PERSISTENT)
            return self.data.remove(path, link, PERSISTENT) or from_child
        return self.data.remove(path, link, RECURSIVE)

    def remove_link(self, link: ClientLink) -> None:
        """The connection is gone."""
        self.data.remove_link(link)
        self.child.remove_link(link)


def event_frame(kind: int, path: str, zxid: int) -> bytes:
    """One notification with its length prefix."""
    raw = encode_as_java(path)
    return _EVENT(_EVENT_FIXED + len(raw), -1, zxid, 0, kind, KeeperState.SYNC_CONNECTED, len(raw)) + raw


def _listed(paths: Sequence[str | None] | None, null: str | None = None) -> Iterator[str]:
    """The paths of a list in a request, up to the first thing that is null and has no stand-in."""
    if paths is None:
        raise KeeperError(ErrorCode.MARSHALLINGERROR)
    for path in paths:
        found = null if path is None else path
        if found is None:
            raise KeeperError(ErrorCode.MARSHALLINGERROR)
        yield found
