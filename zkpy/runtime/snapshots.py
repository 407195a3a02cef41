"""Snapshots that do not stall serving: a forked child writes its frozen copy of the tree.

fork gives the child a consistent image at the price of copied pages while both run; the loop itself only
pays for the fork (a few ms per GB). The child does nothing but write the file and report through a pipe.
"""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_REPORT_MAX = 4096  # fits a pipe's buffer, so the child never waits for its parent


class SnapshotWriter:
    """At most one child at a time."""

    __slots__ = ("_loop", "_on_done", "_pid", "_pipe", "_zxid")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_done: Callable[[int, str | None], None]) -> None:
        """`on_done(zxid, error)` is called in the loop when a snapshot is durable or has failed."""
        self._loop = loop
        self._on_done = on_done
        self._pid = 0
        self._pipe = -1
        self._zxid = 0

    @property
    def running(self) -> bool:
        """Whether a child is writing."""
        return self._pid != 0

    def start(self, zxid: int, write: Callable[[], object]) -> None:
        """Let a child call `write` on the state of this moment, which is that after txn `zxid`."""
        assert not self.running
        self._zxid = zxid
        self._pipe, child_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:  # pragma: no cover  another process, which ends in os._exit
            _child(child_end, write)
        os.close(child_end)
        self._loop.add_reader(self._pipe, self._reap)

    def _reap(self) -> None:
        report = os.read(self._pipe, _REPORT_MAX)
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        self._forget_pipe()
        error = report.decode(errors="replace") or None
        if error is None and status != 0:
            error = f"the writing process ended with status {status}"
        self._on_done(self._zxid, error)

    def _forget_pipe(self) -> None:
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        self._pipe = -1

    def stop(self) -> None:
        """Shutdown: a child that is still writing is ended; its unfinished file is not a snapshot."""
        if self.running:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            self._forget_pipe()


def _child(pipe: int, write: Callable[[], object]) -> None:  # pragma: no cover  runs in the child only
    # A collection would touch, and so copy, every page; and the parent's signals are not the child's.
    gc.disable()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    status = 1
    try:
        write()
        status = 0
    except BaseException as error:  # noqa: BLE001  whatever it was, the parent has to hear of it
        os.write(pipe, f"{type(error).__name__}: {error}".encode()[:_REPORT_MAX])
    finally:
        os._exit(status)
