"""One connection of the peer port as the core sees it: what to send, in order, and when to close.

The shell owns the socket, finds the packets in what it reads (`zkpy_protocol.quorum_packets`) and hands them to the
role in the order of their arrival. It takes `out` whenever the link is in the `dirty` list it was made with. Both
ends use it: a learner has one to its leader, a leader one to every learner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zkpy.core.data_tree import DataTree


class SnapshotBody:
    """Stands in a link's queue for the raw stream behind a SNAP packet (quorum protocol §8.5).

    The shell has to take the image of `tree` and `sessions` when it takes this from `out`, before the core gets its next
    input: then it is exactly the state of the SNAP packet's zxid.
    """

    __slots__ = ("sessions", "tree")

    def __init__(self, tree: DataTree, sessions: Mapping[int, int]) -> None:
        self.tree = tree
        self.sessions = sessions


class QuorumLink:
    """A connection to another server of the ensemble.

    Attributes:
        name: address of the other side, for people.
        out: encoded packets, and at most one snapshot body, in the order of sending.
        closed: why it is closed, None while it is open. What is in `out` is still sent.
        is_paused: the role cannot take packets for now; the shell reads nothing meanwhile, so that they do not pile up.
        shell: the shell's own handle; the core never looks at it.
    """

    __slots__ = ("closed", "dirty", "is_paused", "name", "out", "shell")

    def __init__(self, dirty: list[QuorumLink], name: str) -> None:
        self.dirty = dirty
        self.name = name
        self.out: list[bytes | SnapshotBody] = []
        self.closed: str | None = None
        self.is_paused = False
        self.shell: object | None = None

    def send(self, item: bytes | SnapshotBody) -> None:
        """Queue an encoded packet, or the body that follows a SNAP packet. Nothing is queued to a closed link."""
        if self.closed is not None:
            return
        if not self.out:
            self.dirty.append(self)
        self.out.append(item)

    def take(self) -> list[bytes | SnapshotBody]:
        """Everything to send, in order; the shell's part of `out`."""
        taken = self.out
        self.out = []
        return taken

    def pause(self, is_paused: bool) -> None:
        """Read nothing, or go on reading."""
        if is_paused is not self.is_paused:
            self.is_paused = is_paused
            if not self.out:
                self.dirty.append(self)

    def close(self, reason: str) -> None:
        """Close once everything queued so far is sent. The first reason counts."""
        if self.closed is None:
            self.closed = reason
            if not self.out:
                self.dirty.append(self)
