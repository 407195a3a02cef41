"""Snapshots that do not stall serving: a forked child writes its frozen copy of the tree.

fork gives the child a consistent image at the price of copied pages while both run; the loop itself only
pays for the fork (a few ms per GB). The child does nothing but write the file and report through a pipe.

Invariants:
    * the child holds none of the server's descriptors: a socket that the server closes is closed for its client, and port
      and directory lock of a server that was killed are free at once.
    * the child does not outlive the server, so that two processes never write into one directory.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_STDERR = 2
_REPORT_MAX = 4096  # fits a pipe's buffer, so the child never waits for its parent


class SnapshotWriter:
    """At most one child at a time."""

    __slots__ = ("_lifeline", "_loop", "_on_done", "_pid", "_pipe", "_zxid")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_done: Callable[[int, str | None], None]) -> None:
        """`on_done(zxid, error)` is called in the loop when a snapshot is durable or has failed."""
        self._loop = loop
        self._on_done = on_done
        self._pid = 0
        self._pipe = -1
        self._lifeline = -1  # closed by the end of this process, whatever ends it
        self._zxid = 0

    @property
    def running(self) -> bool:
        """Whether a child is writing."""
        return self._pid != 0

    def start(self, zxid: int, write: Callable[[], object]) -> None:
        """Let a child call `write` on the state of this moment, which is that after txn `zxid`."""
        assert not self.running
        self._zxid = zxid
        self._pipe, report = os.pipe()
        watched, self._lifeline = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:  # pragma: no cover  another process, which ends in os._exit
            _child(report, watched, write)
        os.close(report)
        os.close(watched)
        self._loop.add_reader(self._pipe, self._reap)

    def _reap(self) -> None:
        report = os.read(self._pipe, _REPORT_MAX)
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        self._forget_pipes()
        error = report.decode(errors="replace") or None
        if error is None and status != 0:
            error = f"the writing process ended with status {status}"
        self._on_done(self._zxid, error)

    def _forget_pipes(self) -> None:
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        os.close(self._lifeline)
        self._pipe = self._lifeline = -1

    def stop(self) -> None:
        """Shutdown: a child that is still writing is ended; its unfinished file is not a snapshot."""
        if self.running:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            self._forget_pipes()


def _child(
    report: int, watched: int, write: Callable[[], object]
) -> None:  # pragma: no cover  runs in the child only
    _close_all_but(report, watched)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
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
        os.write(report, f"{type(error).__name__}: {error}".encode()[:_REPORT_MAX])
    finally:
        os._exit(status)


def _close_all_but(*kept: int) -> None:  # pragma: no cover  runs in the child only
    """Close what was inherited, apart from the standard streams."""
    for fd in map(int, os.listdir("/dev/fd")):  # noqa: PTH208  the names are numbers, not paths
        if fd > _STDERR and fd not in kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is gone already
                os.close(fd)


def _end_with_parent(watched: int) -> None:  # pragma: no cover  runs in the child only
    os.read(watched, 1)
    os._exit(1)
