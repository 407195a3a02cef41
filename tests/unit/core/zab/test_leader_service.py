"""A leader and its service: acks that come together, nodes that nobody owns any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.core.zab.led import OPEN, TICK_MS, Led, P, ScriptedLearner, z
from zkpy.core.data_tree import DataTree
from zkpy.core.owners import OwnerRules
from zkpy.core.txn import Txn
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import encode_packet
from zkpy_protocol.records import CreateTxn, decode_quorum_packet

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from zkpy_protocol.records import QuorumPacket

SESSION = 0x200000000000001


def established(*followers: int, **options: object) -> tuple[Led, list[ScriptedLearner]]:
    led = Led(**options)  # type: ignore[arg-type]
    return led, led.establish(*followers)


def send_together(learner: ScriptedLearner, *packets: bytes) -> None:
    """What one read of the socket brings."""
    decoded: list[QuorumPacket] = [decode_quorum_packet(packet)[0] for packet in packets]
    led = learner.led
    led.leader.receive(learner.link, decoded, led.wall_ms, led.mono_ms)


class AskedQuorum:
    """Decides as the ensemble does from the next proposal on, and remembers for whom it was asked."""

    def __init__(self, led: Led) -> None:
        self.asked: list[list[int]] = []
        self._view = led.state.view
        proposals = led.service.proposals
        proposals.change_quorum(self, proposals.last_committed + 1)

    def is_quorum(self, acks: AbstractSet[int]) -> bool:
        self.asked.append(sorted(acks))
        return self._view.is_quorum(acks)


def test_acks_that_come_together_are_counted_once() -> None:
    led, (follower,) = established(2)
    quorum = AskedQuorum(led)
    zxids = [led.propose() for _ in range(4)]
    led.settle()
    follower.raw()
    quorum.asked.clear()
    send_together(follower, *(encode_packet(P.ACK, zxid) for zxid in zxids[:3]))
    assert quorum.asked == [[1], [1, 2]], "for all four, and for three of them"
    assert led.service.proposals.last_committed == zxids[2]
    assert follower.received() == [("COMMIT", zxid) for zxid in zxids[:3]]


def test_an_ack_that_says_nothing_new_is_not_counted() -> None:
    led, (follower,) = established(2)
    quorum = AskedQuorum(led)
    zxid = led.propose()
    follower.ack(zxid)
    assert quorum.asked
    quorum.asked.clear()
    follower.ack(zxid)
    send_together(follower, encode_packet(P.PING, 0), encode_packet(P.ACK, zxid))
    assert quorum.asked == []


def test_what_comes_between_acks_is_looked_at_in_its_order() -> None:
    """A sync between two acks is answered behind what was proposed before it, and not before that is committed."""
    led, (follower, _) = established(2, 3, voters=(1, 2, 3))
    zxids = [led.propose(), led.propose()]
    led.settle()
    follower.raw()
    sync = b"\0" * 8 + b"\0\0\0\5" + OpCode.SYNC.to_bytes(4, "big") + b"\0\0\0\1/"
    send_together(
        follower,
        encode_packet(P.ACK, zxids[0]),
        encode_packet(P.REQUEST, -1, sync),
        encode_packet(P.ACK, zxids[1]),
    )
    assert follower.received() == [("COMMIT", zxids[0]), ("COMMIT", zxids[1]), ("SYNC", 0)]


def test_the_acks_of_a_learner_that_breaks_the_protocol_behind_them_do_not_count() -> None:
    """It is gone, and may come back with less."""
    led, (follower,) = established(2)
    zxid = led.propose()
    led.settle()
    send_together(follower, encode_packet(P.ACK, zxid), encode_packet(P.ACK, zxid + 1))
    assert not follower.is_open()
    assert led.service.proposals.last_committed == z(1, 0)
    assert led.service.proposals.acked_by(2) == -1


def test_acks_together_with_that_of_newleader_count_behind_it() -> None:
    led, _ = established(2)
    zxid = led.propose()
    led.settle()
    late = led.learner(3).introduce(1)
    late.ack_epoch(0, 0)
    late.raw()
    send_together(late, encode_packet(P.ACK, zxid), encode_packet(P.ACK, z(1, 0)))
    assert led.service.proposals.last_committed == zxid
    assert late.received() == [("UP_TO_DATE", -1), ("COMMIT", zxid)]


def test_nodes_of_sessions_that_nobody_knows_go_from_every_tree() -> None:
    """ZooKeeper's leader deletes them in its own alone (§11.1)."""
    tree = DataTree(OwnerRules(False, emulate_353=False))
    record = CreateTxn("/e", b"", OPEN, True, 1)
    tree.apply(Txn.make(SESSION, 0, z(1, 1), 1, OpCode.CREATE, record, None), None)
    led = Led(tree=tree, current_epoch=1)
    learner = led.learner(2).introduce(1)
    led.settle()
    learner.ack_epoch(z(1, 1), 1)
    led.settle()
    learner.raw()
    learner.ack_new_leader()
    assert learner.received() == [("UP_TO_DATE", -1), ("PROPOSAL", z(2, 1))]
    learner.ack(z(2, 1))
    led.settle()
    assert "/e" not in led.state.database.tree.nodes
    assert [(txn.client_id, txn.type) for txn in led.log] == [(SESSION, OpCode.CLOSE_SESSION)]


def test_a_session_that_expires_at_once_is_closed_once() -> None:
    led, (follower,) = established(2)
    led.service.database.sessions[SESSION] = 4000
    led.service.tracker.track(SESSION, 4000, led.mono_ms)
    follower.raw()
    for _ in range(4 * 4000 // TICK_MS):
        led.beat()
        follower.ack(z(1, 0))
    proposals = [packet for packet in follower.received() if packet[0] == "PROPOSAL"]
    assert proposals == [("PROPOSAL", z(1, 1))]
