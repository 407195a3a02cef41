"""The peer port over real sockets, on both event loops: order, snapshots of any size, ends of every kind, dialling."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest

from tests.fakes.scripted_server import OWNERS, make_txns, state_of
from zkpy.core.data_tree import DataTree, Node
from zkpy.core.zab.quorum_link import QuorumLink, SnapshotBody
from zkpy.net import quorum_port, snapshot_relay, sockets
from zkpy.net.quorum_port import LeaderDialler, LearnerPort, QuorumConnection
from zkpy.storage.snapshot_stream import SnapshotStream, serialize_stream
from zkpy_protocol.quorum_packets import PacketType, encode_packet

if TYPE_CHECKING:
    from zkpy_protocol.records import QuorumPacket

TIMEOUT_S = 20
DATA_MAX = 1 << 20
LOCALHOST = "127.0.0.1"
SNAP = encode_packet(PacketType.SNAP, 7)
SMALL = make_txns(60, seed=3)


def large_tree(count: int = 30_000, size: int = 20) -> DataTree:
    """So many nodes with so much data in each, besides the reserved ones."""
    tree = DataTree(OWNERS, digest_enabled=False)
    for number in range(count):
        tree.attach(f"/node-{number:06}", Node(bytes(size), tree.acls.open, 0, number, number))
    return tree


def stream_of(tree: DataTree, sessions: dict[int, int] | None = None) -> bytes:
    return b"".join(serialize_stream(tree, sessions or {}))


def commit(zxid: int) -> bytes:
    return encode_packet(PacketType.COMMIT, zxid)


def free_port() -> int:
    """A port nobody has, outside the range from which connections take theirs."""
    first = 12000 + os.getpid() * 37 % 20000
    for port in range(first, first + 500):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOCALHOST, port))
            return port
    raise AssertionError("no free port")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


async def until(condition: Callable[[], object]) -> None:
    """Turn the loop until it has come there."""

    async def turn() -> None:
        while not condition():  # noqa: ASYNC110  anything may be the condition
            await asyncio.sleep(0)

    await asyncio.wait_for(turn(), TIMEOUT_S)


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait for the end, of either kind, with nothing before it."""
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), TIMEOUT_S) == b""


class Handler:
    """What a driver does with links, and everything it has heard, in order."""

    def __init__(self) -> None:
        self.quorum_dirty: list[QuorumLink] = []
        self.heard: list[Any] = []
        # How often a piece of a snapshot showed that the other side is there.
        self.pieces = 0
        self.links: list[QuorumLink] = []
        self.images: list[tuple[DataTree, dict[int, int]]] = []
        self.on_connected: Callable[[QuorumLink], object] = lambda _link: None
        self.on_packet: Callable[[QuorumLink, QuorumPacket], object] = lambda _link, _packet: None

    @property
    def link(self) -> QuorumLink:
        (link,) = self.links
        return link

    @property
    def connection(self) -> QuorumConnection:
        return cast("QuorumConnection", self.link.shell)

    def send(self) -> None:
        while self.quorum_dirty:
            links = self.quorum_dirty.copy()
            self.quorum_dirty.clear()
            for link in links:
                cast("QuorumConnection", link.shell).flush()

    def connected(self, link: QuorumLink) -> None:
        self.links.append(link)
        self.heard.append("connected")
        self.on_connected(link)
        self.send()

    def receive(self, link: QuorumLink, packets: Sequence[QuorumPacket]) -> None:
        assert link in self.links
        self.pieces += not packets
        for packet in packets:
            self.heard.append((packet.type, packet.zxid))
            self.on_packet(link, packet)
        self.send()

    def snapshot(self, link: QuorumLink, tree: DataTree, sessions: dict[int, int]) -> None:
        assert link in self.links
        self.heard.append("snapshot")
        self.images.append((tree, sessions))
        self.send()

    def disconnected(self, link: QuorumLink, reason: str) -> None:
        assert link in self.links
        assert link.closed == reason
        self.heard.append(reason)


class Ends:
    """Ports and diallers of one test, and the raw sockets that play the other side."""

    def __init__(self) -> None:
        self.leader = Handler()
        self.learner = Handler()
        self.closables: list[LearnerPort | LeaderDialler] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def port(self, *addresses: tuple[str | None, int]) -> LearnerPort:
        port = LearnerPort(self.leader, DATA_MAX, addresses or [(LOCALHOST, 0)])
        self.closables.append(port)
        assert await port.start() == []
        return port

    def dialler(self, *addresses: tuple[str, int], **options: Any) -> LeaderDialler:
        settings = {"connect_timeout_ms": 20_000, "retry_delay_ms": 1} | options
        dialler = LeaderDialler(
            self.learner, DATA_MAX, lambda: SnapshotStream(OWNERS, digest_enabled=True), addresses, **settings
        )
        self.closables.append(dialler)
        return dialler

    async def connect(self) -> LearnerPort:
        """A leader and its learner."""
        port = await self.port()
        self.dialler((LOCALHOST, port.ports[0]))
        await until(lambda: self.leader.links and self.learner.links)
        return port

    async def raw_learner(self, port: LearnerPort) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(LOCALHOST, port.ports[0], limit=1 << 16)
        self.writers.append(writer)
        await until(lambda: self.leader.links)
        return reader, writer

    async def raw_leader(self) -> asyncio.StreamWriter:
        """A leader that says what it is told, with a learner connected."""
        accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()

        def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer)

        server = await asyncio.start_server(accept, LOCALHOST, 0)
        self.dialler((LOCALHOST, server.sockets[0].getsockname()[1]))
        self.writers.append(await accepted)
        server.close()
        await until(lambda: self.learner.links)
        return self.writers[-1]

    async def close(self) -> None:
        for one in self.closables:
            one.close()
        for writer in self.writers:
            writer.transport.abort()
        for one in self.closables:
            await asyncio.wait_for(one.wait_closed(), TIMEOUT_S)
            one.close()
        for writer in self.writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    await made.close()


@pytest.fixture
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quorum_port, "_LINGER_S", 0.01)


# -- packets


async def turns(count: int) -> None:
    """Whatever the loop has to do in so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_nothing_is_read_while_the_role_cannot_take_it(ends: Ends) -> None:
    """What the leader goes on sending stays in the kernel and with the leader, not in this process."""
    leader = await ends.raw_leader()
    learner = ends.learner
    learner.on_packet = lambda link, packet: link.pause(packet.zxid == 0)
    count = 100_000
    leader.write(commit(0))
    await until(lambda: len(learner.heard) > 1)
    leader.write(b"".join(commit(zxid) for zxid in range(1, count)))
    await turns(300)
    assert learner.heard == ["connected", (4, 0)]
    learner.link.pause(False)
    learner.send()
    await until(lambda: len(learner.heard) > count)
    assert learner.heard[1:] == [(4, zxid) for zxid in range(count)]


async def test_a_link_may_be_paused_and_closed(ends: Ends) -> None:
    port = await ends.connect()
    ends.learner.link.pause(True)
    ends.learner.send()
    ends.learner.link.send(commit(3))
    ends.learner.link.close("enough")
    ends.learner.send()
    await until(lambda: port.connections == 0)
    assert ends.leader.heard[1] == (4, 3)


async def test_a_pause_in_the_middle_of_a_snapshot_lasts(ends: Ends) -> None:
    leader = await ends.raw_leader()
    learner = ends.learner
    hear = learner.receive

    def pause_at_a_piece(link: QuorumLink, packets: Sequence[QuorumPacket]) -> None:
        link.pause(not packets and not learner.pieces)
        hear(link, packets)

    learner.receive = pause_at_a_piece  # type: ignore[method-assign]
    leader.write(SNAP + stream_of(large_tree(8, 1 << 20)))
    await until(lambda: learner.pieces)
    await turns(300)
    assert learner.pieces == 1
    learner.link.pause(False)
    learner.send()
    await until(lambda: learner.images)


async def test_packets_go_both_ways_in_order(ends: Ends) -> None:
    def answer(link: QuorumLink, packet: QuorumPacket) -> None:
        link.send(encode_packet(PacketType.ACK, packet.zxid))
        link.send(encode_packet(PacketType.PING, packet.zxid))

    ends.learner.on_packet = answer
    ends.leader.on_connected = lambda link: link.send(commit(1))
    await ends.connect()
    ends.leader.link.send(encode_packet(PacketType.PROPOSAL, 2, b"data"))
    ends.leader.link.send(commit(2))
    ends.leader.send()
    await until(lambda: len(ends.leader.heard) == 7)
    assert ends.learner.heard == ["connected", (4, 1), (2, 2), (4, 2)]
    assert ends.leader.heard == ["connected", (3, 1), (5, 1), (3, 2), (5, 2), (3, 2), (5, 2)]


async def test_a_learner_may_send_byte_by_byte(ends: Ends) -> None:
    _, writer = await ends.raw_learner(await ends.port())
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in encode_packet(PacketType.FOLLOWER_INFO, 1, b"info") + encode_packet(PacketType.ACK, 2):
        writer.write(bytes([number]))
        await asyncio.sleep(0)
    await until(lambda: len(ends.leader.heard) == 3)
    assert ends.leader.heard == ["connected", (11, 1), (3, 2)]


async def test_everything_of_one_step_is_one_write(ends: Ends) -> None:
    reader, _ = await ends.raw_learner(await ends.port())
    writes: list[bytes] = []

    class Transport:
        def __init__(self, inner: asyncio.Transport) -> None:
            self._inner = inner

        def write(self, data: bytes) -> None:
            writes.append(data)
            self._inner.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    connection = ends.leader.connection
    connection._transport = cast("Any", Transport(connection._transport))
    for zxid in range(3):
        ends.leader.link.send(commit(zxid))
    ends.leader.send()
    expected = b"".join(map(commit, range(3)))
    assert writes == [expected]
    assert await reader.readexactly(60) == expected


async def test_small_packets_are_not_held_back_by_the_kernel(ends: Ends) -> None:
    await ends.connect()
    for handler in (ends.leader, ends.learner):
        sock = handler.connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_links_have_the_address_of_the_other_side(ends: Ends) -> None:
    port = await ends.connect()
    assert ends.learner.link.name == f"{LOCALHOST}:{port.ports[0]}"
    host, _, number = ends.leader.link.name.partition(":")
    assert (host, number.isdigit()) == (LOCALHOST, True)


async def test_many_learners(ends: Ends) -> None:
    port = await ends.port()
    ends.learner.on_connected = lambda link: link.send(encode_packet(PacketType.ACK, len(ends.learner.links)))
    ends.leader.on_packet = lambda link, packet: link.send(commit(packet.zxid))
    for _ in range(100):
        ends.dialler((LOCALHOST, port.ports[0]))
    await until(lambda: len(ends.learner.heard) == 200)
    expected = {(4, zxid) for zxid in range(1, 101)}
    assert set(ends.learner.heard) == {"connected", *expected}
    assert port.connections == 100
    port.close()
    await port.wait_closed()
    assert port.connections == 0
    await until(lambda: len(ends.learner.heard) == 300)


# -- snapshots


async def test_a_small_snapshot_comes_between_the_packets_around_it(ends: Ends) -> None:
    await ends.connect()
    link = ends.leader.link
    for item in (commit(1), SNAP, SnapshotBody(SMALL.tree, SMALL.sessions), commit(8), commit(9)):
        link.send(item)
    ends.leader.send()
    await until(lambda: len(ends.learner.heard) == 6)
    assert ends.learner.heard == ["connected", (4, 1), (15, 7), "snapshot", (4, 8), (4, 9)]
    (tree, sessions) = ends.learner.images[0]
    tree.last_zxid = SMALL.tree.last_zxid
    assert state_of(tree, sessions) == state_of(SMALL.tree, SMALL.sessions)


async def test_a_snapshot_may_trickle_in_with_packets_around_it(ends: Ends) -> None:
    writer = await ends.raw_leader()
    stream = commit(1) + SNAP + stream_of(SMALL.tree) + commit(8)
    for start in range(0, len(stream), 5):
        writer.write(stream[start : start + 5])
        if start % 500 == 0:
            await writer.drain()
            await asyncio.sleep(0)
    await until(lambda: len(ends.learner.heard) == 5)
    assert ends.learner.heard == ["connected", (4, 1), (15, 7), "snapshot", (4, 8)]


@pytest.mark.slow
async def test_a_turn_of_the_loop_takes_one_piece_of_a_snapshot(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is to read: elections go on meanwhile."""
    turns: list[int] = [0]
    loop = asyncio.get_running_loop()

    def turn() -> None:
        turns.append(0)
        handle[0] = loop.call_soon(turn)

    feed = SnapshotStream.feed

    def count(stream: SnapshotStream, data: bytes) -> bool:
        turns[-1] += 1
        return feed(stream, data)

    monkeypatch.setattr(SnapshotStream, "feed", count)
    stream = SNAP + stream_of(large_tree(40, 1 << 20))
    with socket.create_server((LOCALHOST, 0)) as listener:
        ends.dialler((LOCALHOST, listener.getsockname()[1]))
        await until(lambda: ends.learner.links)
        accepted, _ = listener.accept()
    with accepted:
        sending = asyncio.create_task(asyncio.to_thread(accepted.sendall, stream))
        handle = [loop.call_soon(turn)]
        await until(lambda: ends.learner.images)
        handle[0].cancel()
        await sending
    assert sum(turns) > 100
    assert max(turns) <= 2  # the one that the SNAP packet is in, and the next


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(30_000, 20), (20, 1 << 20)])
async def test_a_large_snapshot_comes_between_the_packets_around_it(
    ends: Ends, count: int, size: int
) -> None:
    """Large by its nodes, or by what is in them. Packets of later steps wait for it as well."""
    tree = large_tree(count, size)
    await ends.connect()
    link = ends.leader.link
    for item in (commit(1), SNAP, SnapshotBody(tree, {5: 4000}), commit(8)):
        link.send(item)
    ends.leader.send()
    assert ends.leader.connection._connections.relays
    for zxid in range(9, 20):
        link.send(commit(zxid))
        ends.leader.send()
        await asyncio.sleep(0)
    await until(lambda: len(ends.learner.heard) == 16)
    assert ends.learner.heard == ["connected", (4, 1), (15, 7), "snapshot", *((4, z) for z in range(8, 20))]
    assert [stream_of(*image) for image in ends.learner.images] == [stream_of(tree, {5: 4000})]
    assert not ends.leader.connection._connections.relays
    # 256 KiB a piece at most: the leader must not take a learner for dead that receives all the time.
    assert ends.leader.pieces >= len(stream_of(tree)) >> 18
    link.send(commit(20))
    ends.leader.send()
    await until(lambda: ends.learner.heard[-1] == (4, 20))


async def test_a_large_snapshot_is_that_of_the_moment_it_was_taken(ends: Ends) -> None:
    """The tree goes on; the learner gets the difference behind the snapshot."""
    tree = large_tree()
    before = stream_of(tree)
    await ends.connect()
    ends.leader.link.send(SNAP)
    ends.leader.link.send(SnapshotBody(tree, {}))
    ends.leader.send()
    tree.attach("/later", Node(b"", tree.acls.open, 0, 9, 9))
    await until(lambda: ends.learner.images)
    assert stream_of(*ends.learner.images[0]) == before


@pytest.mark.slow
async def test_several_snapshots_on_their_way_at_once(ends: Ends) -> None:
    tree = large_tree()
    port = await ends.port()

    def send(link: QuorumLink) -> None:
        link.send(SNAP)
        link.send(SnapshotBody(tree, {}))
        link.send(commit(8))

    ends.leader.on_connected = send
    for _ in range(3):
        ends.dialler((LOCALHOST, port.ports[0]))
    await until(lambda: ends.learner.heard.count((4, 8)) == 3)
    assert len(ends.learner.images) == 3


@pytest.mark.slow
async def test_a_learner_that_does_not_read_holds_up_its_snapshot_and_nothing_else(ends: Ends) -> None:
    """The stream stays in the child; memory here is bounded, and other learners are served meanwhile."""
    tree = large_tree(64, 1 << 20)
    port = await ends.port()
    reader, _ = await ends.raw_learner(port)
    link, connection = ends.leader.link, ends.leader.connection
    link.send(SNAP)
    link.send(SnapshotBody(tree, {}))
    link.send(commit(8))
    ends.leader.send()
    await until(lambda: connection._is_paused)
    ends.leader.on_packet = lambda link, packet: link.send(commit(packet.zxid))
    _, other = await asyncio.open_connection(LOCALHOST, port.ports[0])
    ends.writers.append(other)
    for zxid in range(100):
        other.write(encode_packet(PacketType.ACK, zxid))
        await until(lambda: ends.leader.heard[-1] == (3, zxid))  # noqa: B023  called before the next turn
    assert connection._transport.get_write_buffer_size() < 1 << 20
    assert await asyncio.wait_for(reader.readexactly(len(SNAP)), TIMEOUT_S) == SNAP
    expected = stream_of(tree)
    assert await asyncio.wait_for(reader.readexactly(len(expected)), TIMEOUT_S) == expected
    assert await reader.readexactly(20) == commit(8)


async def test_a_child_does_not_outlive_its_connection(ends: Ends) -> None:
    tree = large_tree(64, 1 << 20)
    _, writer = await ends.raw_learner(await ends.port())
    connections = ends.leader.connection._connections
    ends.leader.link.send(SNAP)
    ends.leader.link.send(SnapshotBody(tree, {}))
    ends.leader.send()
    (relay,) = connections.relays
    pid = relay._child._pid
    await until(lambda: ends.leader.connection._is_paused)
    writer.transport.abort()
    await until(lambda: not connections.relays)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(ends.leader.heard) == 2


async def test_a_child_that_fails_ends_the_connection(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner must not take what came for a snapshot."""

    def fail(*_: object) -> NoReturn:
        raise MemoryError("no page left")

    monkeypatch.setattr(snapshot_relay, "serialize_stream", fail)
    tree = large_tree()
    await ends.connect()
    ends.leader.link.send(SNAP)
    ends.leader.link.send(SnapshotBody(tree, {}))
    ends.leader.link.send(commit(8))
    ends.leader.send()
    await until(lambda: len(ends.learner.heard) == 3 and len(ends.leader.heard) == 2)
    assert ends.leader.heard[1] == "its snapshot could not be written: MemoryError: no page left"
    assert ends.learner.images == []
    assert (4, 8) not in ends.learner.heard


async def test_no_process_for_a_snapshot_ends_the_connection(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> NoReturn:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fail)
    tree = large_tree()
    await ends.connect()
    descriptors = open_descriptors()
    ends.leader.link.send(SNAP)
    ends.leader.link.send(SnapshotBody(tree, {}))
    ends.leader.send()
    assert open_descriptors() == descriptors
    await until(lambda: len(ends.leader.heard) == 2)
    assert ends.leader.heard[1] == "no process to write its snapshot: Resource temporarily unavailable"


async def test_a_connection_that_is_broken_off_may_still_be_told_of_its_socket(ends: Ends) -> None:
    """Packets that waited behind a snapshot wait for nothing then."""
    await ends.connect()
    connection = ends.leader.connection
    connection._waiting.append(commit(8))
    connection._break_off("enough")
    connection.pause_writing()
    connection.resume_writing()
    await until(lambda: len(ends.leader.heard) == 2)


# -- what the other side does wrong


LARGE = encode_packet(PacketType.PROPOSAL, 1, bytes(DATA_MAX + 1))


@pytest.mark.parametrize(
    ("stream", "packets", "size"),
    [
        (b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n", 0, 774966538),
        (commit(3) + LARGE, 1, DATA_MAX + 1),
        (commit(3) + LARGE[:16] + commit(9), 1, DATA_MAX + 1),
    ],
    ids=["http", "large", "announced"],
)
async def test_what_is_no_packet_ends_the_connection_with_one_reason(
    ends: Ends, stream: bytes, packets: int, size: int
) -> None:
    reader, writer = await ends.raw_learner(await ends.port())
    writer.write(stream)
    await ended(reader)
    await until(lambda: len(ends.leader.heard) == 2 + packets)
    assert ends.leader.heard == [
        "connected",
        *[(4, 3)] * packets,
        f"packet with {size} bytes of data, at most 1048576 allowed",
    ]


async def test_a_stream_that_is_no_snapshot_ends_the_connection(ends: Ends) -> None:
    writer = await ends.raw_leader()
    good = stream_of(SMALL.tree)
    writer.write(SNAP + good[:-10] + b"BenWasNot!" + commit(8))
    await until(lambda: len(ends.learner.heard) == 3)
    assert ends.learner.heard[:2] == ["connected", (15, 7)]
    assert "snapshot stream" in ends.learner.heard[2]


async def test_a_snapshot_that_breaks_off_is_none(ends: Ends) -> None:
    writer = await ends.raw_leader()
    writer.write(SNAP + stream_of(SMALL.tree)[:-1])
    writer.close()
    await until(lambda: len(ends.learner.heard) == 3)
    assert ends.learner.heard[2] == "the other side has closed the connection"
    assert ends.learner.images == []


async def test_a_snap_packet_for_a_leader_is_one_like_any_other(ends: Ends) -> None:
    _, writer = await ends.raw_learner(await ends.port())
    writer.write(SNAP + commit(8))
    await until(lambda: len(ends.leader.heard) == 3)
    assert ends.leader.heard == ["connected", (15, 7), (4, 8)]


async def test_the_end_of_the_other_side_is_told_behind_its_last_packet(ends: Ends) -> None:
    _, writer = await ends.raw_learner(await ends.port())
    writer.write(commit(3))
    writer.write_eof()
    await until(lambda: len(ends.leader.heard) == 3)
    assert ends.leader.heard == ["connected", (4, 3), "the other side has closed the connection"]


async def test_a_server_that_does_not_read_is_cut_off(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quorum_port, "SEND_QUEUE_MAX", 100_000)
    await ends.raw_learner(await ends.port())
    link = ends.leader.link
    sent = 0
    while link.closed is None:
        link.send(encode_packet(PacketType.PROPOSAL, 1, bytes(1000)))
        ends.leader.send()
        sent += 1020
    await until(lambda: len(ends.leader.heard) == 2)
    assert ends.leader.heard[1].endswith("bytes wait for a server that does not read")
    assert 100_000 < int(ends.leader.heard[1].split()[0]) <= 100_000 + 1020
    assert sent < 100_000_000


async def test_one_step_may_send_more_than_may_gather(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long DIFF is what the learner needs; what gathers behind it has its own limit, until all of that is read."""
    monkeypatch.setattr(quorum_port, "SEND_QUEUE_MAX", 100_000)
    reader, _ = await ends.raw_learner(await ends.port())
    link, transport = ends.leader.link, ends.leader.connection._transport
    diff = encode_packet(PacketType.PROPOSAL, 1, bytes(1000)) * 20_000
    link.send(diff)
    ends.leader.send()
    more = encode_packet(PacketType.PROPOSAL, 2, bytes(70_000))
    link.send(more)
    ends.leader.send()
    assert link.closed is None
    total = len(diff) + len(more)
    assert len(await asyncio.wait_for(reader.readexactly(total), TIMEOUT_S)) == total
    await until(lambda: transport.get_write_buffer_size() == 0)
    link.send(more)
    ends.leader.send()
    assert ends.leader.connection._allowed == 100_000
    assert await asyncio.wait_for(reader.readexactly(len(more)), TIMEOUT_S) == more


async def test_what_waits_behind_a_snapshot_is_limited(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = large_tree(64, 1 << 20)
    monkeypatch.setattr(quorum_port, "SEND_QUEUE_MAX", 1_000_000)
    await ends.raw_learner(await ends.port())
    link = ends.leader.link
    link.send(SNAP)
    link.send(SnapshotBody(tree, {}))
    ends.leader.send()
    await until(lambda: ends.leader.connection._is_paused)
    proposal = encode_packet(PacketType.PROPOSAL, 1, bytes(1000))
    for _ in range(1_000_000 // len(proposal)):
        assert link.closed is None or "bytes wait" in link.closed
        link.send(proposal)
        ends.leader.send()
    link.send(proposal)
    ends.leader.send()
    await until(lambda: len(ends.leader.heard) == 2)
    assert ends.leader.heard[1].endswith("bytes wait for a server that does not read")


# -- ends


async def test_what_is_queued_is_sent_before_a_link_closes(ends: Ends) -> None:
    reader, _ = await ends.raw_learner(await ends.port())
    link = ends.leader.link
    link.send(commit(1))
    link.close("enough")
    link.send(commit(2))
    ends.leader.send()
    assert await asyncio.wait_for(reader.read(), TIMEOUT_S) == commit(1)
    await until(lambda: len(ends.leader.heard) == 2)
    assert ends.leader.heard == ["connected", "enough"]


async def test_a_large_snapshot_is_finished_before_a_link_closes(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that is soon. What comes from the other side meanwhile is nothing to anybody."""
    monkeypatch.setattr(quorum_port, "_LINGER_S", TIMEOUT_S)
    tree = large_tree()
    reader, writer = await ends.raw_learner(await ends.port())
    link = ends.leader.link
    for item in (SNAP, SnapshotBody(tree, {}), commit(8)):
        link.send(item)
    link.close("enough")
    writer.write(commit(3))
    await writer.drain()
    ends.leader.send()
    data = await asyncio.wait_for(reader.read(), TIMEOUT_S)
    assert data == SNAP + stream_of(tree) + commit(8)
    await until(lambda: ends.leader.heard[1:])
    assert ends.leader.heard == ["connected", "enough"]


async def test_nothing_is_heard_of_a_link_that_was_closed(ends: Ends) -> None:
    ends.leader.on_packet = lambda link, _packet: link.close("enough")
    _, writer = await ends.raw_learner(await ends.port())
    writer.write(commit(3))
    await until(lambda: ends.leader.link.closed)
    writer.write(commit(4))
    await until(lambda: len(ends.leader.heard) == 3)
    assert ends.leader.heard == ["connected", (4, 3), "enough"]


@pytest.mark.usefixtures("short_linger")
@pytest.mark.parametrize("item", [bytes(32 << 20), SnapshotBody(large_tree(32, 1 << 20), {})], ids=type)
async def test_a_closed_link_does_not_wait_for_a_server_that_does_not_read(
    ends: Ends, item: bytes | SnapshotBody
) -> None:
    await ends.raw_learner(await ends.port())
    connections = ends.leader.connection._connections
    ends.leader.link.send(item)
    ends.leader.link.close("enough")
    ends.leader.send()
    await until(lambda: len(ends.leader.heard) == 2)
    await until(lambda: not connections.relays)
    assert ends.leader.heard == ["connected", "enough"]


async def test_a_port_that_closes_sends_what_is_queued_and_says_nothing_more(ends: Ends) -> None:
    port = await ends.port()
    reader, writer = await ends.raw_learner(port)
    ends.leader.link.send(commit(1))
    port.close()
    port.close()
    writer.write(commit(2))
    assert await asyncio.wait_for(reader.readexactly(20), TIMEOUT_S) == commit(1)
    await ended(reader)
    await port.wait_closed()
    assert ends.leader.heard == ["connected"]
    ends.leader.send()


async def test_a_port_can_be_opened_again_and_again(ends: Ends) -> None:
    """At the same address, while connections of the time before are still going away."""
    address = (LOCALHOST, free_port())
    for _ in range(4):
        port = await ends.port(address)
        ends.learner = Handler()
        ends.leader = ends.closables[-1]._connections.handler = Handler()
        ends.dialler(address)
        await until(lambda: ends.leader.links and ends.learner.links)
        ends.leader.link.send(commit(1))
        port.close()
        await until(lambda: len(ends.learner.heard) == 3)
        assert ends.learner.heard[:2] == ["connected", (4, 1)]


async def test_a_port_that_moves_keeps_its_learners(ends: Ends) -> None:
    port = await ends.connect()
    before = port.ports
    there = free_port()
    assert await port.move([(LOCALHOST, there)]) == []
    assert port.ports == [there]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(LOCALHOST, before[0])
    ends.leader.link.send(commit(1))
    ends.leader.send()
    await until(lambda: (4, 1) in ends.learner.heard)
    ends.closables[-1].close()
    await until(lambda: len(ends.leader.heard) == 2)
    assert ends.leader.heard == ["connected", "the other side has closed the connection"]


async def test_who_connects_to_a_port_that_closes_is_turned_away(ends: Ends) -> None:
    """Between the kernel's accepting and ours."""
    port = await ends.port()
    with socket.create_connection((LOCALHOST, port.ports[0])) as client:
        port.close()
        await port.wait_closed()
        for _ in range(5):
            await asyncio.sleep(0)
        client.settimeout(TIMEOUT_S)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert ends.leader.heard == []


async def test_a_connection_made_behind_the_end_is_turned_away(ends: Ends) -> None:
    port = await ends.port()
    make = port._connections.make
    port.close()
    late = await asyncio.get_running_loop().create_server(make, LOCALHOST, 0)
    reader, writer = await asyncio.open_connection(*late.sockets[0].getsockname())
    ends.writers.append(writer)
    await ended(reader)
    late.close()
    assert ends.leader.heard == []


# -- listening


async def test_a_port_listens_on_every_interface_where_it_is_told_to(ends: Ends) -> None:
    port = await ends.port((None, 0))
    ends.dialler((LOCALHOST, port.ports[0]))
    await until(lambda: ends.leader.links)
    assert ends.leader.link.name.rpartition(":")[0] == LOCALHOST


async def test_a_port_listens_on_several_addresses_and_tells_which_it_cannot_have(ends: Ends) -> None:
    taken = socket.create_server((LOCALHOST, 0))
    number = taken.getsockname()[1]
    with taken:
        port = LearnerPort(ends.leader, DATA_MAX, [(LOCALHOST, number), ("localhost", 0)])
        ends.closables.append(port)
        assert await port.start() == [f"{LOCALHOST}:{number}: {os.strerror(errno.EADDRINUSE)}"]
        ends.dialler((LOCALHOST, port.ports[-1]))
        await until(lambda: ends.leader.links)
        none = LearnerPort(ends.leader, DATA_MAX, [(LOCALHOST, number)])
        with pytest.raises(OSError, match=r"learners cannot be listened for: 127\.0\.0\.1:"):
            await none.start()
        none.close()
        await none.wait_closed()


@pytest.mark.parametrize("turns", range(4))
async def test_a_port_that_is_closed_while_it_opens_does_not_listen(ends: Ends, turns: int) -> None:
    await ends.port()  # with the first one uvloop opens something for itself
    port = LearnerPort(ends.leader, DATA_MAX, [(LOCALHOST, 0), (LOCALHOST, 0)])
    before = open_descriptors()
    opening = asyncio.create_task(port.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    port.close()
    await opening
    await port.wait_closed()
    await until(lambda: open_descriptors() == before)
    assert port.ports == []


async def test_of_the_addresses_of_a_name_those_are_listened_at_that_can_be_had(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET, LOCALHOST)]

    async def resolve(_host: str, _port: int) -> list[tuple[socket.AddressFamily, str]]:
        return found

    monkeypatch.setattr(quorum_port, "resolve", resolve)
    port = LearnerPort(ends.leader, DATA_MAX, [("zk1", 0)])
    ends.closables.append(port)
    assert await port.start() == [f"192.0.2.1:0: {os.strerror(errno.EADDRNOTAVAIL)}"]
    assert len(port.ports) == 1


async def test_a_name_that_nobody_knows_cannot_be_listened_at(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_host: str, _port: int) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(quorum_port, "resolve", fail)
    port = LearnerPort(ends.leader, DATA_MAX, [("zk1.invalid", 2888), (None, 0)])
    ends.closables.append(port)
    assert await port.start() == ["zk1.invalid:2888: Name or service not known"]


# -- dialling


async def test_a_learner_dials_until_the_leader_listens(ends: Ends) -> None:
    address = (LOCALHOST, free_port())
    dialler = ends.dialler(address)
    await until(lambda: dialler.failure)
    assert dialler.failure == os.strerror(errno.ECONNREFUSED)
    assert ends.learner.heard == []
    await ends.port(address)
    await until(lambda: ends.learner.links)
    dialler.stop()
    ends.learner.link.send(commit(1))
    ends.learner.send()
    await until(lambda: (4, 1) in ends.leader.heard)


Connect = Callable[..., Coroutine[None, None, socket.socket]]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Ports at which nobody ever answers."""
    ports: set[int] = set()
    connect: Connect = sockets._connect

    async def connect_or_wait(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
        if port in ports:
            await asyncio.Event().wait()
        return await connect(family, address, port)

    monkeypatch.setattr(sockets, "_connect", connect_or_wait)
    return ports


async def test_all_addresses_of_the_leader_are_dialled_at_once(ends: Ends, silent: set[int]) -> None:
    port = await ends.port()
    silent.add(1)
    ends.dialler((LOCALHOST, 1), (LOCALHOST, free_port()), (LOCALHOST, port.ports[0]))
    await until(lambda: ends.learner.links and ends.leader.links)
    assert ends.learner.heard == ["connected"]


async def test_of_two_addresses_that_answer_one_is_taken(ends: Ends) -> None:
    port = await ends.port((LOCALHOST, 0), (LOCALHOST, 0))
    dialler = ends.dialler(*((LOCALHOST, number) for number in port.ports))
    await until(lambda: ends.learner.links and ends.leader.links)
    await dialler._task
    ends.learner.link.send(commit(1))
    ends.learner.send()
    await until(lambda: (4, 1) in ends.leader.heard)
    await until(lambda: port.connections == 1)
    assert ends.learner.heard == ["connected"]


async def test_an_address_that_refuses_ends_the_waiting_for_a_dead_one(ends: Ends, silent: set[int]) -> None:
    """A leader that does not listen yet is found at the next try, not when the time for its other address is over."""
    there = (LOCALHOST, free_port())
    silent.add(1)
    dialler = ends.dialler((LOCALHOST, 1), there, connect_timeout_ms=3_600_000, address_patience_ms=1)
    await until(lambda: dialler.failure)
    assert dialler.failure == "Connection refused"
    await ends.port(there)
    await until(lambda: ends.learner.links)


async def test_an_address_may_be_slower_than_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, refusing = 1, 2
    refused = asyncio.Event()
    answer = socket.socket()

    async def connect(_family: socket.AddressFamily, _address: str, port: int) -> socket.socket:
        if port == refusing:
            refused.set()
            raise ConnectionRefusedError(111, "refused")
        await refused.wait()
        await asyncio.sleep(0.001)
        return answer

    monkeypatch.setattr(sockets, "_connect", connect)
    for patience_s in (None, 3600):
        refused.clear()
        both = [(LOCALHOST, refusing), (LOCALHOST, slow)]
        assert await asyncio.wait_for(sockets.dial(both, patience_s), TIMEOUT_S) is answer
    answer.close()


async def test_a_try_has_its_time(ends: Ends, silent: set[int]) -> None:
    port = await ends.port()
    silent.add(port.ports[0])
    dialler = ends.dialler((LOCALHOST, port.ports[0]), connect_timeout_ms=1)
    await until(lambda: dialler.failure)
    assert dialler.failure == "no answer in time"
    silent.clear()
    await until(lambda: ends.learner.links)


async def test_a_name_that_nobody_knows_is_tried_again(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_host: str, _port: int) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    port = await ends.port()
    with monkeypatch.context() as patch:
        patch.setattr(sockets, "resolve", fail)
        dialler = ends.dialler(("zk1.invalid", port.ports[0]))
        await until(lambda: dialler.failure)
        assert dialler.failure == "Name or service not known"
        dialler.close()
    ends.dialler(("localhost", port.ports[0]))
    await until(lambda: ends.learner.links)


async def test_a_dialler_that_is_stopped_does_not_connect(ends: Ends, silent: set[int]) -> None:
    port = await ends.port()
    silent.add(port.ports[0])
    dialler = ends.dialler((LOCALHOST, port.ports[0]))
    await asyncio.sleep(0)
    dialler.stop()
    silent.clear()
    await dialler.wait_closed()
    assert ends.learner.heard == []
    assert dialler._task.cancelled()


async def test_every_failure_of_a_dialler_is_told_and_may_be_its_last(ends: Ends) -> None:
    """As a driver does it: from within the call that tells it of the fifth one."""
    port = await ends.port()
    number = port.ports[0]
    port.close()
    await port.wait_closed()
    reasons: list[str] = []
    dialler: LeaderDialler

    def failed(reason: str) -> None:
        reasons.append(reason)
        if len(reasons) == 5:
            dialler.stop()

    dialler = ends.dialler((LOCALHOST, number), failed=failed)
    await dialler.wait_closed()
    assert len(reasons) == 5
    assert "refused" in reasons[0].lower()
    assert ends.learner.heard == []


async def test_a_dialler_that_is_stopped_when_it_has_connected_leaves_the_connection(ends: Ends) -> None:
    """As a driver does it: from within the call that tells it of the connection."""
    port = await ends.port()
    dialler: LeaderDialler
    ends.learner.on_connected = lambda _link: dialler.stop()
    dialler = ends.dialler((LOCALHOST, port.ports[0]))
    await until(lambda: ends.learner.links and ends.leader.links)
    ends.leader.link.send(commit(1))
    ends.leader.link.close("enough")
    ends.leader.send()
    await until(lambda: len(ends.learner.heard) == 3)
    assert ends.learner.heard == ["connected", (4, 1), "the other side has closed the connection"]
    assert not dialler._task.cancelled()
    dialler.stop()
    await dialler.wait_closed()


async def test_a_handler_may_close_the_link_as_soon_as_it_hears_of_it(ends: Ends) -> None:
    """Everything that was opened for it is closed once: its descriptors are others' by then."""
    port = await ends.port()
    ends.learner.on_connected = lambda link: link.close("never mind")
    before = open_descriptors()
    dialler = ends.dialler((LOCALHOST, port.ports[0]))
    await until(lambda: len(ends.learner.heard) == 2)
    assert ends.learner.heard == ["connected", "never mind"]
    await until(lambda: len(ends.leader.heard) == 2)
    dialler.close()
    await dialler.wait_closed()
    assert open_descriptors() == before


async def test_a_dialler_that_is_closed_while_it_hands_over_says_nothing(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await ends.port()
    dialled = sockets.dial
    dialler: LeaderDialler

    async def dial_and_close(addresses: Sequence[tuple[str, int]], patience_s: float | None) -> socket.socket:
        sock = await dialled(addresses, patience_s)
        asyncio.get_running_loop().call_soon(dialler.close)
        return sock

    monkeypatch.setattr(quorum_port, "dial", dial_and_close)
    before = open_descriptors()
    dialler = ends.dialler((LOCALHOST, port.ports[0]))
    await dialler._task
    await dialler.wait_closed()
    assert ends.learner.heard == []
    await until(lambda: port.connections == 0)
    await until(lambda: open_descriptors() == before)


async def test_what_comes_while_a_connection_is_handed_over_is_kept(ends: Ends) -> None:
    """A leader that speaks first; uvloop reads before the dialler knows that it has connected."""
    with socket.create_server((LOCALHOST, 0)) as listener:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        connect = sockets._connect
        accepted: list[socket.socket] = []

        async def connect_and_wait(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
            sock = await connect(family, address, port)
            accepted.append((await loop.sock_accept(listener))[0])
            accepted[-1].sendall(commit(3))
            return sock

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sockets, "_connect", connect_and_wait)
            ends.dialler((LOCALHOST, listener.getsockname()[1]))
            await until(lambda: len(ends.learner.heard) == 2)
    assert ends.learner.heard == ["connected", (4, 3)]
    (sock,) = accepted
    sock.close()


async def test_a_leader_that_is_gone_before_the_first_packet_is_dialled_again(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await ends.port()
    begin = QuorumConnection.begin
    gone: list[QuorumConnection] = []

    def lose_the_first(connection: QuorumConnection) -> bool:
        if connection._connections.make_stream is not None and not gone:
            gone.append(connection)
            connection._transport.abort()
        return begin(connection)

    monkeypatch.setattr(QuorumConnection, "begin", lose_the_first)
    dialler = ends.dialler((LOCALHOST, port.ports[0]))
    await until(lambda: ends.learner.links)
    assert dialler.failure == "the other side has closed the connection"
    assert ends.learner.connection not in gone


async def test_what_a_handler_raises_is_reported_to_the_loop(ends: Ends) -> None:
    """It is a bug of ours, and the owner of the loop decides what to do."""
    port = await ends.port()
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    def fail(_link: QuorumLink) -> NoReturn:
        raise AssertionError("a bug")

    ends.learner.on_connected = fail
    ends.dialler((LOCALHOST, port.ports[0]))
    await until(lambda: reported)
    assert str(reported[0]["exception"]) == "a bug"


async def test_a_dialler_that_is_closed_says_nothing_more(ends: Ends) -> None:
    port = await ends.port()
    dialler = ends.dialler((LOCALHOST, port.ports[0]))
    await until(lambda: ends.learner.links and ends.leader.links)
    dialler.close()
    await dialler.wait_closed()
    await until(lambda: len(ends.leader.heard) == 2)
    assert ends.learner.heard == ["connected"]


async def test_a_socket_does_not_take_itself_for_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the port is one that outgoing connections are given, TCP connects a socket to itself."""
    number = free_port()

    class Bound(socket.socket):
        def setblocking(self, flag: bool) -> None:
            self.bind((LOCALHOST, number))
            super().setblocking(flag)

    monkeypatch.setattr(sockets, "socket", SimpleNamespace(**vars(socket) | {"socket": Bound}))
    with pytest.raises(OSError, match="is the dialling socket itself"):
        await sockets.dial([(LOCALHOST, number)])


async def test_there_is_nobody_to_dial_without_an_address() -> None:
    with pytest.raises(OSError, match="there is no address"):
        await sockets.dial([])
