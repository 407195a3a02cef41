"""Invariant: whatever another server sends to either end of the peer port, nothing is raised; how it is cut into pieces changes
nothing of what the handler hears; and of a stream that is broken it hears one reason, last.

The real connection (`zkpy.net.quorum_port`); only the socket is not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.scripted_server import OWNERS, make_txns
from tests.fuzz import smoke
from zkpy.net.quorum_port import Connections
from zkpy.storage.snapshot_stream import SnapshotStream, serialize_stream
from zkpy_protocol.quorum_packets import PacketType, encode_packet
from zkpy_protocol.records import Id, QuorumPacket, encode_quorum_packet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zkpy.core.data_tree import DataTree
    from zkpy.core.zab.quorum_link import QuorumLink

DATA_MAX = 1000
LEARNER = 1  # in the first byte of an input: the end that is connected to a leader


class Socket(asyncio.Transport):
    """Takes everything."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 2888)})
        self.is_gone = False

    def is_closing(self) -> bool:
        return self.is_gone

    def abort(self) -> None:
        self.is_gone = True

    def pause_reading(self) -> None:
        assert not self.is_gone

    def resume_reading(self) -> None:
        assert not self.is_gone


class Heard:
    """A handler that only listens."""

    def __init__(self) -> None:
        self.quorum_dirty: list[QuorumLink] = []
        self.packets: list[QuorumPacket] = []
        self.snapshots: list[bytes] = []
        self.order: list[str] = []

    def connected(self, link: QuorumLink) -> None:
        assert link.closed is None
        self.order.append("connected")

    def receive(self, link: QuorumLink, packets: Sequence[QuorumPacket]) -> None:
        assert link.closed is None
        self.packets += packets
        self.order += ["packet"] * len(packets)

    def snapshot(self, link: QuorumLink, tree: DataTree, sessions: dict[int, int]) -> None:
        assert link.closed is None
        self.snapshots.append(b"".join(serialize_stream(tree, sessions)))
        self.order.append("snapshot")

    def disconnected(self, link: QuorumLink, reason: str) -> None:
        assert link.closed == reason
        # The offset is one that the bytes in question are behind, by as much as was looked at together.
        self.order.append("snapshot stream" if reason.startswith("snapshot stream") else reason)


async def hear(stream: bytes, size: int, *, is_learner: bool) -> Heard:
    """Everything that comes of a stream in pieces of `size` bytes, and of its end."""
    heard = Heard()
    connections = Connections(heard, DATA_MAX, (lambda: SnapshotStream(OWNERS, True)) if is_learner else None)
    connection = connections.make()
    sock = Socket()
    connection.connection_made(sock)
    if is_learner:
        connection.begin()
    for start in range(0, len(stream), size):
        if not sock.is_gone:
            connection.data_received(stream[start : start + size])
            await asyncio.sleep(0)
    was_broken = sock.is_gone
    connection.eof_received()
    connection.connection_lost(None)
    assert (connection.link.closed != "the other side has closed the connection") == was_broken
    return heard


def check(data: bytes) -> None:
    mode, stream = data[0] if data else 0, data[1:]
    is_learner = bool(mode & LEARNER)

    async def hear_both() -> tuple[Heard, Heard]:
        return (
            await hear(stream, max(1, len(stream)), is_learner=is_learner),
            await hear(stream, 1 + mode // 2 % 16, is_learner=is_learner),
        )

    with asyncio.Runner() as runner:
        one, other = runner.run(hear_both())
    assert one.order == other.order
    assert one.packets == other.packets
    assert one.snapshots == other.snapshots
    assert one.order.count("connected") == 1
    reasons = [said for said in one.order if said not in {"connected", "packet", "snapshot"}]
    assert reasons == one.order[-1:]
    assert len(one.snapshots) <= sum(packet.type == PacketType.SNAP for packet in one.packets)


def seeds() -> Iterator[bytes]:
    history = make_txns(12, seed=4, data_max=20)
    snapshot = b"".join(serialize_stream(history.tree, history.sessions))
    packets = [
        encode_packet(PacketType.PROPOSAL, 3, b"data"),
        encode_packet(PacketType.COMMIT, 3),
        encode_quorum_packet(QuorumPacket(PacketType.REQUEST, -1, b"data", [Id("ip", "127.0.0.1")])),
    ]
    for mode in (0, LEARNER, LEARNER | 6):
        yield bytes([mode]) + b"".join(packets)
        yield bytes([mode]) + encode_packet(PacketType.SNAP, 12) + snapshot + b"".join(packets)


@smoke
@given(st.integers(0, 255), st.binary(max_size=200))
def test_any_stream(mode: int, stream: bytes) -> None:
    check(bytes([mode]) + stream)


@smoke
@given(st.sampled_from(list(seeds())), st.data())
def test_good_input_with_a_change(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(changed[: data.draw(st.integers(1, len(changed)))]))


def test_every_seed() -> None:
    for seed in seeds():
        check(seed)
