"""Elections of several servers in one thread, under virtual time: delays, losses and repetitions come from one seed."""

from __future__ import annotations

import heapq
import random
from itertools import count
from typing import TYPE_CHECKING

from zkpy.core.membership import EnsembleView, Membership, parse_membership
from zkpy.core.zab.election import Election
from zkpy_protocol.election import Notification, ServerState, decode_notification, encode_notification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zkpy.core.zab.votes import Vote


def membership(
    voters: Iterable[int],
    observers: Iterable[int] = (),
    groups: dict[int, tuple[int, ...]] | None = None,
    weights: dict[int, int] | None = None,
    version: int = 0,
) -> Membership:
    """Servers on made-up hosts."""
    lines = {f"server.{n}": f"host{n}:2888:3888:participant" for n in voters}
    lines |= {f"server.{n}": f"host{n}:2888:3888:observer" for n in observers}
    lines |= {f"group.{n}": ":".join(map(str, members)) for n, members in (groups or {}).items()}
    lines |= {f"weight.{n}": str(weight) for n, weight in (weights or {}).items()}
    return parse_membership(lines, version)


class Node:
    """One server: what it has on disk, and its election while it is up."""

    def __init__(self, server_id: int, zxid: int, peer_epoch: int) -> None:
        self.server_id = server_id
        self.zxid = zxid
        self.peer_epoch = peer_epoch
        self.election: Election | None = None
        self.incarnation = 0


class Network:
    """Servers and the messages between them.

    Messages of one pair arrive in their order unless lost; each has crossed the codec. `sent` is everything ever sent, as
    (time, sender, receiver, notification).
    """

    def __init__(
        self,
        view: EnsembleView,
        *,
        seed: int = 0,
        delay_ms: tuple[int, int] = (1, 10),
        loss: float = 0,
        duplication: float = 0,
        max_notification_interval_ms: int = 60000,
    ) -> None:
        self.view = view
        self.now = 0
        self.sent: list[tuple[int, int, int, Notification]] = []
        self.delay_ms = delay_ms
        self.loss = loss
        self.duplication = duplication
        self._max_interval_ms = max_notification_interval_ms
        self._random = random.Random(seed)
        self._events: list[tuple[int, int, Callable[[], object]]] = []
        self._sequence = count()
        self._last: dict[tuple[int, int], bytes] = {}
        self._arrival: dict[tuple[int, int], int] = {}
        self.cut: set[frozenset[int]] = set()
        self.nodes: dict[int, Node] = {}

    def add(self, server_id: int, zxid: int = 0, peer_epoch: int = 0) -> Node:
        self.nodes[server_id] = Node(server_id, zxid, peer_epoch)
        return self.nodes[server_id]

    def start(self, server_id: int) -> Election:
        """Start the process; its peers connect and send their last message again, however stale."""
        node = self.nodes[server_id]
        node.incarnation += 1
        node.election = Election(server_id, self.view, max_notification_interval_ms=self._max_interval_ms)
        for other, peer in self.nodes.items():
            if peer.election is not None and (other, server_id) in self._last:
                self._deliver(other, server_id, self._last[other, server_id])
        self.look(server_id)
        return node.election

    def look(self, server_id: int) -> None:
        """Begin an election with what the server has on disk."""
        node = self.nodes[server_id]
        assert node.election is not None
        is_participant = server_id in self.view.committed.voters
        node.election.start(node.zxid, node.peer_epoch, is_participant, self.now)
        self._settle(node)

    def stop(self, server_id: int) -> None:
        """The process ends; what it kept in memory is gone."""
        self.nodes[server_id].election = None

    def at(self, mono_ms: int, action: Callable[[], object]) -> None:
        heapq.heappush(self._events, (mono_ms, next(self._sequence), action))

    def run(self, until_ms: int, condition: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass up to `until_ms`, or until the condition holds; the return value says which."""
        while not condition():
            timers = [
                (deadline, server_id)
                for server_id, election in self.elections().items()
                if (deadline := election.next_deadline_ms) is not None
            ]
            timer = min(timers, default=(until_ms + 1, 0))
            event = self._events[0][0] if self._events else until_ms + 1
            self.now = min(event, timer[0])
            if self.now > until_ms:
                self.now = until_ms
                return condition()
            if event <= timer[0]:
                heapq.heappop(self._events)[2]()
            else:
                node = self.nodes[timer[1]]
                assert node.election is not None
                node.election.tick(self.now)
                self._settle(node)
        return True

    def elections(self) -> dict[int, Election]:
        return {
            server_id: node.election
            for server_id, node in sorted(self.nodes.items())
            if node.election is not None
        }

    def decisions(self) -> dict[int, Vote | None]:
        """What every running server has decided."""
        return {server_id: election.decided for server_id, election in self.elections().items()}

    def leaders(self) -> set[int | None]:
        return {None if vote is None else vote.leader for vote in self.decisions().values()}

    def agree(self) -> bool:
        """Every running server stands behind one leader, which leads."""
        leaders = self.leaders()
        if len(leaders) != 1 or None in leaders:
            return False
        (leader,) = leaders
        assert leader is not None
        elections = self.elections()
        return leader in elections and elections[leader].state == ServerState.LEADING

    def _settle(self, node: Node) -> None:
        election = node.election
        assert election is not None
        outbox, election.outbox = election.outbox, []
        for receiver, notification in outbox:
            assert receiver != node.server_id
            self.sent.append((self.now, node.server_id, receiver, notification))
            content = encode_notification(notification)
            self._last[node.server_id, receiver] = content
            if self._random.random() < self.loss:
                continue
            self._deliver(node.server_id, receiver, content)
            if self._random.random() < self.duplication:
                self._deliver(node.server_id, receiver, content)

    def _deliver(self, sender: int, receiver: int, content: bytes) -> None:
        pair = (sender, receiver)
        arrival = max(self.now + self._random.randint(*self.delay_ms), self._arrival.get(pair, 0))
        self._arrival[pair] = arrival
        to = self.nodes.get(receiver)
        incarnation = to.incarnation if to is not None else 0

        def receive() -> None:
            node = self.nodes.get(receiver)
            if node is None or node.election is None or node.incarnation != incarnation:
                return
            if frozenset(pair) in self.cut:
                return
            node.election.receive(sender, decode_notification(content), self.now)
            self._settle(node)

        self.at(arrival, receive)
