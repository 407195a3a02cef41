"""Connections between servers and clients, as TCP has them.

Within a connection bytes arrive in order and none is missing, until it breaks: then each side has got some beginning of what
the other one sent, cut anywhere, and learns of it soon, late, or not before it sends something. So a message is lost with its
connection and all behind it, and overtaken on other connections only. While one side cannot reach the other, what it sent waits
and arrives when the way is open again.

Items are bytes, or lists whose elements are not cut. What is sent while something is about to arrive may arrive with it in one piece.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario
    from tests.simulation.world import World

_MOMENT_US = 200
_NOTICE_US = 1_500_000


class Shell(Protocol):
    """Who gets what arrives at an end."""

    def received(self, data: Any) -> None:
        """Something came."""

    def lost(self, reason: str) -> None:
        """The connection is gone; not called for an end that was dropped."""


class End:
    """One end of a connection.

    Attributes:
        node: the server's id; negative for a client.
        peer: the other end.
        is_open: this side has not closed it, nor learned that it is gone.
        is_broken: what this side sends goes nowhere.
        shell: who gets what arrives.
        notes: what the sender wants the receiver's checks to know, in the order of sending.
    """

    __slots__ = ("arrives_us", "flight", "is_broken", "is_open", "node", "notes", "peer", "shell", "stalled")

    def __init__(self, node: int) -> None:
        self.node = node
        self.peer: End
        self.shell: Shell
        self.is_open = True
        self.is_broken = False
        # What this end has sent and the other one has not got.
        self.flight: deque[Any] = deque()
        self.arrives_us = 0
        self.stalled = 0
        self.notes: deque[Any] = deque()


_FIN = object()


class Network:
    """All connections, and who can reach whom.

    Attributes:
        blocked: (from, to) pairs of servers between which nothing arrives for now.
        slow: how much longer it takes from one server to another for now.
        loss: probability that a connection breaks at something that is sent.
        connections: first ends of the open ones, in the order they were made.
    """

    def __init__(self, world: World, scenario: Scenario) -> None:
        self._world = world
        self._delay_us = scenario.network_delay_us
        self._jitter_us = scenario.network_jitter_us
        self._splits = scenario.splits_pieces
        self.loss = scenario.loss
        self.blocked: set[tuple[int, int]] = set()
        self.slow: dict[tuple[int, int], int] = {}
        self.connections: dict[End, None] = {}
        # When the last of what is on its way to a node arrives, and on which connection.
        self._latest: dict[int, tuple[int, End]] = {}

    # -- ways

    def delay_us(self, source: int, target: int) -> int:
        """How long it takes this time."""
        delay = self._world.between(self._delay_us, self._delay_us + self._jitter_us)
        factor = self.slow.get((source, target))
        if factor is None:
            return delay
        self._world.occurred["delay"] += 1
        return delay * factor

    def reaches(self, one: int, other: int) -> bool:
        """Whether both ways are open."""
        return (one, other) not in self.blocked and (other, one) not in self.blocked

    def set_blocked(self, blocked: set[tuple[int, int]]) -> None:
        """From now on exactly these ways are closed; what waited on the others goes on."""
        self.blocked = blocked
        for first in list(self.connections):
            for end in (first, first.peer):
                if end.stalled and (end.node, end.peer.node) not in blocked:
                    count, end.stalled = end.stalled, 0
                    for _ in range(count):
                        self._schedule(end)

    # -- connections

    def connect(self, one: int, other: int) -> tuple[End, End]:
        """A new connection; the shells of its ends are to be set at once."""
        first, second = End(one), End(other)
        first.peer, second.peer = second, first
        self.connections[first] = None
        return first, second

    def send(self, end: End, item: Any) -> None:
        """Bytes, or a list of what is not cut."""
        if not end.is_open:
            return
        if end.is_broken:
            self._refused(end)
            return
        self._put(end, item)
        if self.loss and self._world.rng.random() < self.loss:
            self.break_off(end)

    def _put(self, end: End, item: Any) -> None:
        world = self._world
        flight = end.flight
        soonest = world.now_us + self.delay_us(end.node, end.peer.node)
        if (
            flight
            and not end.stalled
            and soonest <= end.arrives_us
            and flight[-1] is not _FIN
            and item is not _FIN
        ):
            flight[-1] += item
            return
        if self._splits and type(item) is bytes and len(item) > 1 and world.rng.random() < 0.05:
            at = world.rng.randrange(1, len(item))
            flight.append(item[:at])
            end.arrives_us = max(soonest, end.arrives_us)
            world.after(end.arrives_us - world.now_us, self._arrive, end)
            item = item[at:]
            soonest += 1
        flight.append(item)
        arrives_us = end.arrives_us = max(soonest, end.arrives_us)
        world.after(arrives_us - world.now_us, self._arrive, end)
        node = end.peer.node
        latest_us, behind = self._latest.get(node, (0, end))
        if arrives_us >= latest_us:
            self._latest[node] = (arrives_us, end)
        elif behind is not end:
            world.occurred["reordering"] += 1

    def _schedule(self, end: End) -> None:
        world = self._world
        end.arrives_us = max(world.now_us + self.delay_us(end.node, end.peer.node), end.arrives_us)
        world.after(end.arrives_us - world.now_us, self._arrive, end)

    def _arrive(self, end: End) -> None:
        if not end.flight:
            return
        if (end.node, end.peer.node) in self.blocked:
            end.stalled += 1
            return
        item = end.flight.popleft()
        receiver = end.peer
        if not receiver.is_open:
            self._refused(end)
        elif item is _FIN:
            self._lost(receiver, "the other side has closed the connection")
        else:
            receiver.shell.received(item)

    def close(self, end: End) -> None:
        """Close from one side, after what was sent; its own shell hears of it too, a moment later."""
        if end.is_open:
            if not end.is_broken:
                self._put(end, _FIN)
            self._world.after(self._world.between(0, _MOMENT_US), self._lost, end, "closed here")

    def drop(self, end: End) -> None:
        """The process at this end is gone: nobody is told here; there it is as if the network had lost the connection."""
        end.is_open = False
        self._forget(end)

    def abort(self, end: End) -> None:
        """Close from one side without sending what waits; the other side gets a reset."""
        if end.is_open:
            self._cut(end)
            self._world.after(self._world.between(0, _MOMENT_US), self._lost, end, "aborted here")
            self._world.after(self.delay_us(end.node, end.peer.node), self._reset, end.peer)

    def break_off(self, end: End) -> None:
        """The network loses a connection."""
        for side in (end, end.peer):
            self._cut(side)
        for side in (end, end.peer):
            if self._world.rng.random() < 0.75:
                self._world.after(self._world.between(_MOMENT_US, _NOTICE_US), self._reset, side)

    def process_died(self, end: End, *, silently: bool) -> None:
        """The process at this end is gone; `silently` with its whole machine."""
        self.drop(end)
        peer = end.peer
        peer.is_broken = True
        if peer.flight:
            self._world.occurred["loss"] += 1
            peer.flight.clear()
        if silently:
            self._cut(end)
            if self._world.rng.random() < 0.5:
                self._world.after(self._world.between(_MOMENT_US, _NOTICE_US), self._reset, peer)
        elif not end.is_broken:
            self._put_anyway(end)

    def _put_anyway(self, end: End) -> None:
        """What the kernel still sends for a process that has died: everything, or a beginning; then the end."""
        if self._world.rng.random() < 0.5:
            self._truncate(end)
        end.flight.append(_FIN)
        self._schedule(end)

    def _cut(self, end: End) -> None:
        """Of what this end has sent only a beginning will arrive, and nothing more."""
        if not end.is_broken:
            end.is_broken = True
            self._truncate(end)

    def _truncate(self, end: End) -> None:
        rng = self._world.rng
        flight = end.flight
        if not flight:
            return
        kept = rng.randrange(len(flight) + 1)
        if kept < len(flight):
            self._world.occurred["loss"] += 1
        partial = flight[kept] if kept < len(flight) else None
        while len(flight) > kept:
            flight.pop()
        if partial is not None and partial is not _FIN and len(partial) > 1:
            flight.append(partial[: rng.randrange(1, len(partial))])

    def _refused(self, end: End) -> None:
        """Whoever sends into a connection that is gone is told so, if anything comes back."""
        if self.reaches(end.node, end.peer.node):
            self._world.after(2 * self.delay_us(end.node, end.peer.node), self._reset, end)

    def _reset(self, end: End) -> None:
        if (end.peer.node, end.node) not in self.blocked:
            self._lost(end, "connection reset")

    def _lost(self, end: End, reason: str) -> None:
        if end.is_open:
            end.is_open = False
            end.is_broken = True
            self._forget(end)
            end.shell.lost(reason)

    def _forget(self, end: End) -> None:
        if not end.peer.is_open:
            self.connections.pop(end, None)
            self.connections.pop(end.peer, None)
