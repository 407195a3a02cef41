"""Snapshots that do not stall serving: a forked child writes its frozen copy of the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.storage.forked_writer import ForkedWriter

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class SnapshotWriter:
    """At most one child at a time."""

    __slots__ = ("_child", "_loop", "_on_done", "_zxid")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_done: Callable[[int, str | None], None]) -> None:
        """`on_done(zxid, error)` is called in the loop when a snapshot is durable or has failed."""
        self._loop = loop
        self._on_done = on_done
        self._child: ForkedWriter | None = None
        self._zxid = 0

    @property
    def running(self) -> bool:
        """Whether a child is writing."""
        return self._child is not None

    def start(self, zxid: int, write: Callable[[], object]) -> None:
        """Let a child call `write` on the state of this moment, which is that after txn `zxid`."""
        assert not self.running
        self._zxid = zxid
        self._child = ForkedWriter(write)
        self._loop.add_reader(self._child.report, self._done)

    def _done(self) -> None:
        self._on_done(self._zxid, self._reap())

    def stop(self) -> None:
        """Shutdown: a child that is still writing is ended; its unfinished file is not a snapshot."""
        if self._child is not None:
            self._child.kill()
            self._reap()

    def _reap(self) -> str | None:
        child = self._child
        assert child is not None
        self._child = None
        self._loop.remove_reader(child.report)
        return child.reap()
