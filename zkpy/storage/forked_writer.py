"""A child process that writes a frozen image of the state, while the server goes on.

fork gives the child a consistent image at the price of copied pages while both run; the loop itself only
pays for the fork (a few ms per GB). The child does nothing but write and report through a pipe.

Invariants:
    * the child holds none of the server's descriptors but those it is given: a socket that the server closes is closed for
      its client, and port and directory lock of a server that was killed are free at once.
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
    from collections.abc import Callable

_STDERR = 2
_REPORT_MAX = 4096  # fits a pipe's buffer, so the child never waits for its parent


class ForkedWriter:
    """One child, from its start until `reap`, which has to be called.

    Attributes:
        report: a descriptor that becomes readable when the child is done, or dead: time to reap it.
    """

    __slots__ = ("_lifeline", "_pid", "report")

    def __init__(self, write: Callable[[], object], *kept: int) -> None:
        """Let a child call `write` on the state of this moment, with the descriptors `kept` in its hands.

        Raises:
            OSError: no descriptor or no process is to be had.
        """
        descriptors: list[int] = []
        try:
            descriptors += os.pipe()
            descriptors += os.pipe()
            self._pid = os.fork()
        except OSError:
            for fd in descriptors:
                os.close(fd)
            raise
        self.report, report, watched, self._lifeline = descriptors
        if self._pid == 0:  # pragma: no cover  another process, which ends in os._exit
            _child(report, watched, write, kept)
        os.close(report)
        os.close(watched)

    def kill(self) -> None:
        """End the child, which leaves its work unfinished; `report` becomes readable soon."""
        os.kill(self._pid, signal.SIGKILL)

    def reap(self) -> str | None:
        """Wait for the child's end, which is no wait once `report` is readable; why it has failed, None if it has not."""
        _, status = os.waitpid(self._pid, 0)
        report = os.read(self.report, _REPORT_MAX)
        os.close(self.report)
        os.close(self._lifeline)
        error = report.decode(errors="replace") or None
        if error is None and status != 0:
            error = f"the writing process ended with status {status}"
        return error


def _child(
    report: int, watched: int, write: Callable[[], object], kept: tuple[int, ...]
) -> None:  # pragma: no cover  runs in the child only
    _close_all_but(report, watched, *kept)
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
    # The parent's end of this pipe is closed by the end of its process, whatever ends it.
    os.read(watched, 1)
    os._exit(1)
