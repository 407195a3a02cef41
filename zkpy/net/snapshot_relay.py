"""The stream of a large tree on its way to a learner: a forked child makes it, the loop passes it on.

A tree of a million nodes takes seconds to serialize. The child has the image of the moment of the SNAP packet and
writes it into a pipe, as fast as the pipe is emptied; so the learner's pace is the child's, and no more than a pipe's content and
a piece of it is ever held here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zkpy.storage.forked_writer import ForkedWriter
from zkpy.storage.snapshot_stream import serialize_stream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from zkpy.core.zab.quorum_link import SnapshotBody

_PIECE = 1 << 18


class SnapshotRelay:
    """One stream, from the fork to its last byte or until it is given up."""

    __slots__ = ("_child", "_is_reading", "_loop", "_on_end", "_on_gone", "_pipe", "_write")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        body: SnapshotBody,
        write: Callable[[bytes], object],
        on_end: Callable[[str | None], object],
        on_gone: Callable[[SnapshotRelay], object],
    ) -> None:
        """Take the image of `body` as it is now; nothing is written before `resume`.

        Args:
            loop: where all callbacks come from.
            body: the tree and the sessions to send.
            write: takes the next piece; may call `pause`.
            on_end: all is written (None), or why no more will be. Not called for a relay that was given up.
            on_gone: the child has ended, in either case.

        Raises:
            OSError: no child can be made.
        """
        self._loop = loop
        self._write = write
        self._on_end = on_end
        self._on_gone = on_gone
        self._is_reading = False
        self._pipe, target = os.pipe()
        try:
            self._child = ForkedWriter(lambda: _write_stream(body, target), target)
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(target)

    def resume(self) -> None:
        """Pass on what comes."""
        if not self._is_reading:
            self._is_reading = True
            self._loop.add_reader(self._pipe, self._relay)

    def pause(self) -> None:
        """Leave it in the pipe for now, where the child has to wait."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._pipe)

    def give_up(self) -> None:
        """End the child."""
        self._close()
        self._child.kill()
        # It takes the kernel a while to take its memory apart.
        self._loop.add_reader(self._child.report, self._reap)

    def _relay(self) -> None:
        piece = os.read(self._pipe, _PIECE)
        if piece:
            self._write(piece)
            return
        self._close()
        self._on_end(self._reap())

    def _close(self) -> None:
        self.pause()
        os.close(self._pipe)

    def _reap(self) -> str | None:
        self._loop.remove_reader(self._child.report)
        error = self._child.reap()
        self._on_gone(self)
        return error


def _write_stream(body: SnapshotBody, target: int) -> None:  # pragma: no cover  runs in the child only
    for chunk in serialize_stream(body.tree, body.sessions):
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(target, rest) :]
