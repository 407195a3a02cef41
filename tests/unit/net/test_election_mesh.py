"""Election ports over real sockets, on both event loops: who keeps a connection, what is sent again, strangers, silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from functools import partial
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from tests.fakes.wire_client import TIMEOUT_S
from zkpy.core.membership import EnsembleView, parse_membership
from zkpy.core.zab.election import Election
from zkpy.net import election_mesh
from zkpy.net.election_mesh import ElectionMesh, ElectionPortError, MeshOptions, _Connection
from zkpy_protocol.election import (
    OBSERVER_SERVER_ID,
    InitialMessage,
    Notification,
    ServerState,
    decode_notification,
    encode_initial_message,
    frame_notification,
    parse_initial_message,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    Address = tuple[str, int]

HOST = "127.0.0.1"
VECTORS = Path(__file__).parents[3] / "protocol" / "vectors"
CAPTURES = {
    capture["name"]: [bytes.fromhex(m["hex"]) for m in capture["messages"] if "->" in m["dir"]]
    for capture in json.loads((VECTORS / "quorum-wire.json").read_text(encoding="utf-8"))["captures"]
    if capture["name"].startswith("fle-")
}

_handed_out: set[int] = set()


def free_port() -> int:
    """A port nobody has, outside the range from which connections take theirs."""
    first = 12000 + os.getpid() * 41 % 18000
    for port in range(first, first + 2000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port not in _handed_out:
                probe.bind((HOST, port))
                _handed_out.add(port)
                return port
    raise AssertionError("no free port")


def vote(leader: int, zxid: int = 0, config: str = "server.1=h:1:2:participant\nversion=0") -> Notification:
    return Notification(ServerState.LOOKING, leader, zxid, 1, 0, config=config)


async def until(condition: Callable[[], Any]) -> None:
    """Turn the loop until it has come there."""

    async def turn() -> None:
        while not condition():  # noqa: ASYNC110  anything may be the condition
            await asyncio.sleep(0.001)

    await asyncio.wait_for(turn(), TIMEOUT_S)


class Member:
    """A mesh and what it has handed over."""

    def __init__(self, server_id: int, **options: Any) -> None:
        self.server_id = server_id
        self.addresses: list[Address] = [(HOST, free_port())]
        self.received: list[tuple[int, int]] = []
        capture = structlog.testing.LogCapture()
        self.records = capture.entries
        self.hand_over: Callable[[int, Notification], None] = self.note
        self.mesh = ElectionMesh(
            server_id,
            asyncio.get_running_loop(),
            MeshOptions(**({"handshake_timeout_ms": 20_000, "cnx_timeout_ms": 20_000} | options)),
            self.on_notification,
            structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.BoundLogger),
        )

    def on_notification(self, sender: int, notification: Notification) -> None:
        self.hand_over(sender, notification)

    def note(self, sender: int, notification: Notification) -> None:
        self.received.append((sender, notification.zxid))

    def events(self, *but: str) -> list[tuple[str, Any]]:
        """Log lines apart from those of success."""
        return [
            (record["event"], record.get("peer"))
            for record in self.records
            if record["event"] not in {"election.connected", *but}
        ]

    def reasons(self) -> list[str]:
        return [record["reason"] for record in self.records if "reason" in record]

    async def start(self, members: Mapping[int, Sequence[Address]]) -> None:
        self.mesh.set_members(members)
        await self.mesh.start(self.addresses)

    def connection(self, server_id: int) -> Any:
        peer = self.mesh._members.get(server_id) or self.mesh._strangers.get(server_id)
        return None if peer is None else peer.connection

    async def dialled(self) -> Wire:
        """Somebody's socket to this member."""
        return Wire(*await asyncio.wait_for(asyncio.open_connection(*self.addresses[0]), TIMEOUT_S))


class Wire:
    """The other end of a connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    def introduce(self, server_id: int, addresses: Sequence[Address] = (("h", 1),)) -> None:
        self.say(encode_initial_message(server_id, addresses))

    async def initial(self) -> InitialMessage:
        head = await asyncio.wait_for(self.reader.readexactly(20), TIMEOUT_S)
        text = await asyncio.wait_for(self.reader.readexactly(int.from_bytes(head[16:], "big")), TIMEOUT_S)
        parsed = parse_initial_message(head + text)
        assert parsed is not None
        return parsed[0]

    async def notification(self) -> Notification:
        length = int.from_bytes(await asyncio.wait_for(self.reader.readexactly(4), TIMEOUT_S), "big")
        return decode_notification(await asyncio.wait_for(self.reader.readexactly(length), TIMEOUT_S))

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), TIMEOUT_S)
        except ConnectionResetError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Acceptor:
    """An election port that does nothing by itself."""

    def __init__(self) -> None:
        self.address: Address = (HOST, free_port())
        self.wires: asyncio.Queue[Wire] = asyncio.Queue()
        self.listener: asyncio.Server

    async def listen(self) -> None:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.wires.put(Wire(reader, writer))

        self.listener = await asyncio.start_server(accepted, *self.address)

    async def wire(self) -> Wire:
        return await asyncio.wait_for(self.wires.get(), TIMEOUT_S)


class World:
    """Makes things and takes them down."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.acceptors: list[Acceptor] = []
        self.wires: list[Wire] = []

    def member(self, server_id: int, **options: Any) -> Member:
        self.members.append(Member(server_id, **options))
        return self.members[-1]

    async def acceptor(self) -> Acceptor:
        self.acceptors.append(Acceptor())
        await self.acceptors[-1].listen()
        return self.acceptors[-1]

    async def wire_to(self, member: Member) -> Wire:
        self.wires.append(await member.dialled())
        return self.wires[-1]

    async def wire_from(self, acceptor: Acceptor) -> Wire:
        self.wires.append(await acceptor.wire())
        return self.wires[-1]

    async def lone(
        self, server_id: int = 2, others: Mapping[int, Sequence[Address]] | None = None, **options: Any
    ) -> Member:
        """A started member; 1 and 3 are members whom nobody has seen, unless `others` says where they are."""
        member = self.member(server_id, **options)
        await member.start({1: [], 3: []} if others is None else others)
        return member

    async def ensemble(self, *server_ids: int) -> list[Member]:
        members = [self.member(server_id) for server_id in server_ids]
        for member in members:
            await member.start({other.server_id: other.addresses for other in members})
        return members

    async def end(self) -> None:
        for wire in self.wires:
            await wire.close()
        for member in self.members:
            await member.mesh.close()
        for acceptor in self.acceptors:
            acceptor.listener.close()
            while not acceptor.wires.empty():
                await acceptor.wires.get_nowait().close()
            await acceptor.listener.wait_closed()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.end()


# -- meshes among themselves


def pairs(members: Sequence[Member]) -> set[tuple[int, int, int]]:
    """Who has heard what from whom: receiver, sender, zxid."""
    return {(member.server_id, *heard) for member in members for heard in member.received}


@pytest.mark.parametrize("first", [1, 2])
async def test_of_two_servers_the_larger_dials_whoever_speaks_first(world: World, first: int) -> None:
    """§2.1: one connection for both directions, dialled by 2; 1 can only knock."""
    one, two = await world.ensemble(1, 2)
    speaker, listener = (one, two) if first == 1 else (two, one)
    speaker.mesh.send(listener.server_id, vote(1, zxid=10))
    await until(lambda: listener.received)
    listener.mesh.send(speaker.server_id, vote(2, zxid=20))
    await until(lambda: speaker.received)
    assert listener.received == [(first, 10)]
    assert speaker.received == [(listener.server_id, 20)]
    assert two.connection(1)._is_dialled
    assert not one.connection(2)._is_dialled
    assert one.events() == two.events() == []


async def test_three_servers_hear_each_other_although_all_speak_at_once(world: World) -> None:
    """Knocks, dials and dials back cross; every message gets there, and each pair keeps one connection."""
    members = await world.ensemble(1, 2, 3)
    for zxid in range(1, 4):
        for member in members:
            for other in members:
                if other is not member:
                    member.mesh.send(other.server_id, vote(1, zxid))
        heard = {(member.server_id, sender, zxid) for member in members for sender in (1, 2, 3)}
        heard -= {(server_id, server_id, zxid) for server_id in (1, 2, 3)}
        await until(partial(lambda wanted: wanted <= pairs(members), heard))
    await until(lambda: not any(peer.dial for member in members for peer in member.mesh._members.values()))
    for member in members:
        for other in members:
            if other is not member:
                connection = member.connection(other.server_id)
                assert connection._is_dialled == (member.server_id > other.server_id)
    assert [member.events() for member in members] == [[], [], []]


async def test_three_elections_on_three_meshes_elect_the_best_and_take_in_a_late_one(world: World) -> None:
    """All parts together, with real time."""
    members = [world.member(server_id) for server_id in (1, 2, 3)]
    view = EnsembleView(
        parse_membership({f"server.{m.server_id}": f"{HOST}:1:{m.addresses[0][1]}" for m in members})
    )
    loop = asyncio.get_running_loop()
    elections: dict[int, Election] = {}

    def now() -> int:
        return int(loop.time() * 1000)

    def settle(member: Member) -> None:
        election = elections[member.server_id]
        outbox, election.outbox = election.outbox, []
        for receiver, notification in outbox:
            member.mesh.send(receiver, notification)
        if (deadline := election.next_deadline_ms) is not None:
            loop.call_later(max(0, deadline - now()) / 1000 + 0.001, tick, member)

    def tick(member: Member) -> None:
        elections[member.server_id].tick(now())
        settle(member)

    async def start(member: Member, zxid: int) -> None:
        election = elections[member.server_id] = Election(member.server_id, view)

        def receive(sender: int, notification: Notification) -> None:
            election.receive(sender, notification, now())
            settle(member)

        member.hand_over = receive
        await member.start({other.server_id: other.addresses for other in members})
        election.start(zxid, 1, is_participant=True, mono_ms=now())
        settle(member)

    await start(members[0], zxid=7)
    await start(members[2], zxid=5)
    await until(lambda: all(election.decided for election in elections.values()))
    assert {n: election.state for n, election in elections.items()} == {
        1: ServerState.LEADING,
        3: ServerState.FOLLOWING,
    }
    await start(members[1], zxid=99)
    await until(lambda: elections[2].decided)
    decided = elections[2].decided
    assert decided is not None
    assert (decided.leader, decided.zxid) == (1, 7)


# -- dialling


async def test_a_smaller_server_is_dialled_and_told_everything_at_once(world: World) -> None:
    """The initial message is one write, and what waits follows it."""
    acceptor = await world.acceptor()
    member = await world.lone(2, {1: [acceptor.address]})
    member.mesh.send(1, vote(2, zxid=1))
    member.mesh.send(1, vote(2, zxid=2))
    wire = await world.wire_from(acceptor)
    initial = encode_initial_message(2, member.addresses)
    expected = initial + frame_notification(vote(2, zxid=2))
    assert await asyncio.wait_for(wire.reader.readexactly(len(expected)), TIMEOUT_S) == expected
    wire.say(frame_notification(vote(1, zxid=3)))
    await until(lambda: member.received == [(1, 3)])


async def test_whoever_is_dialled_gets_the_introduction_in_one_write(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§17 rule 2: Apache takes the address with a single read."""
    written: list[bytes] = []
    write = _Connection.write

    def noted(connection: _Connection, data: bytes) -> None:
        written.append(data)
        write(connection, data)

    monkeypatch.setattr(_Connection, "write", noted)
    acceptor = await world.acceptor()
    two = await world.lone(2, {1: [acceptor.address]})
    two.mesh.send(1, vote(7))
    wire = await world.wire_from(acceptor)
    await wire.initial()
    await wire.notification()
    assert written == [encode_initial_message(2, two.addresses), frame_notification(vote(7))]


async def test_a_larger_server_hears_a_knock_and_no_more(world: World) -> None:
    """The connection is closed after the initial message; what is said meanwhile does not cause another one."""
    acceptor = await world.acceptor()
    member = await world.lone(2, {3: [acceptor.address]})
    member.mesh.send(3, vote(2, zxid=1))
    wire = await world.wire_from(acceptor)
    assert await wire.rest() == encode_initial_message(2, member.addresses)
    member.mesh.send(3, vote(2, zxid=2))
    back = await world.wire_to(member)
    back.introduce(3)
    assert (await back.notification()).zxid == 2
    assert acceptor.wires.empty()


async def test_a_knock_that_is_not_answered_can_be_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server may not have been able to dial back."""
    monkeypatch.setattr(election_mesh, "KNOCK_S", 0.001)
    acceptor = await world.acceptor()
    member = await world.lone(2, {3: [acceptor.address]})
    for _ in range(3):
        member.mesh.send(3, vote(2))
        assert await (await world.wire_from(acceptor)).rest()
        await until(lambda: member.mesh._members[3].dial is None)


async def test_a_server_that_comes_later_is_dialled_again_on_demand(world: World) -> None:
    """Its message waits, the newest of them; that it cannot be reached is one line, and so it is after it was reached."""
    member = await world.lone(2, {1: [(HOST, free_port())]})
    for zxid in range(5):
        member.mesh.send(1, vote(2, zxid))
        await until(lambda: member.mesh._members[1].dial is None)
    assert member.events() == [("election.unreachable", 1)]
    acceptor = await world.acceptor()
    member.mesh.set_members({1: [acceptor.address]})
    member.mesh.send(1, vote(2, 5))
    wire = await world.wire_from(acceptor)
    await wire.initial()
    assert (await wire.notification()).zxid == 5
    await wire.close()
    await until(lambda: member.connection(1) is None)
    assert member.mesh._members[1].dial is None, "nothing waits for it"


async def test_every_address_is_tried_in_order(world: World) -> None:
    """A name among them, which the loop resolves, and one that nothing can resolve."""
    acceptor = await world.acceptor()
    dead = [("a" * 70 + ".invalid", 1), (HOST, free_port()), ("\x00", 5)]
    member = await world.lone(2, {1: [*dead, ("localhost", acceptor.address[1])]})
    member.mesh.send(1, vote(2))
    assert (await (await world.wire_from(acceptor)).initial()).server_id == 2
    assert member.events() == []


@contextlib.contextmanager
def address_that_does_not_answer() -> Iterator[Address]:
    """A listener whose queue is full drops whatever comes."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind((HOST, free_port()))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(full.getsockname())
        yield full.getsockname()


async def test_zookeeper_2164_an_address_that_does_not_answer_holds_nobody_up(world: World) -> None:
    """Each server has a dial of its own, and never two."""
    acceptor = await world.acceptor()
    with address_that_does_not_answer() as address:
        member = await world.lone(3, {1: [address], 2: [acceptor.address]})
        member.mesh.send(1, vote(3))
        dial = member.mesh._members[1].dial
        member.mesh.send(1, vote(3))
        member.mesh.send(2, vote(3))
        assert (await (await world.wire_from(acceptor)).initial()).server_id == 3
        assert dial is not None
        assert member.mesh._members[1].dial is dial


async def test_an_address_that_does_not_answer_is_not_waited_for_if_there_is_another(world: World) -> None:
    """A network that is down must not cost the time of a whole dial."""
    acceptor = await world.acceptor()
    with address_that_does_not_answer() as address:
        member = await world.lone(3, {1: [address, acceptor.address]}, cnx_timeout_ms=3_600_000)
        member.mesh.send(1, vote(3))
        assert (await (await world.wire_from(acceptor)).initial()).server_id == 3


async def test_only_as_many_addresses_are_dialled_as_it_takes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(election_mesh, "HEAD_START_S", 3600)
    first, second = await world.acceptor(), await world.acceptor()
    member = await world.lone(3, {1: [(HOST, free_port()), first.address, second.address]})
    member.mesh.send(1, vote(3))
    assert (await (await world.wire_from(first)).initial()).server_id == 3
    assert second.wires.empty()


@pytest.mark.parametrize("count", [1, 2])
async def test_a_connection_that_does_not_get_through_ends_in_time_if_there_is_another_address(
    world: World, count: int
) -> None:
    acceptor = await world.acceptor()
    addresses = [acceptor.address, (HOST, free_port())][:count]
    member = await world.lone(3, {1: addresses}, reachability_timeout_ms=1234)
    member.mesh.send(1, vote(3))
    await world.wire_from(acceptor)
    await until(lambda: member.connection(1))
    sock = member.connection(1)._transport.get_extra_info("socket")
    expected = 1234 if count == 2 else 0
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == expected


async def test_zookeeper_2164_a_dial_has_a_deadline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next address is tried long before."""
    monkeypatch.setattr(election_mesh, "HEAD_START_S", 0.001)
    acceptor = await world.acceptor()
    with address_that_does_not_answer() as address:
        member = await world.lone(3, {1: [address], 2: [address, acceptor.address]}, cnx_timeout_ms=200)
        member.mesh.send(1, vote(3))
        member.mesh.send(2, vote(3))
        await until(lambda: member.mesh._members[1].dial is None)
        assert (await (await world.wire_from(acceptor)).initial()).server_id == 3
        assert member.reasons() == [f"{HOST}:{address[1]}: no answer within 200 ms"]


async def test_several_addresses_are_named_only_when_that_is_on(world: World) -> None:
    """Both forms, with both addresses listened on."""
    acceptor = await world.acceptor()
    for multi_address in (False, True):
        member = world.member(2, multi_address_enabled=multi_address)
        member.addresses.append((HOST, free_port()))
        await member.start({1: [acceptor.address]})
        member.mesh.send(1, vote(2))
        wire = await world.wire_from(acceptor)
        assert (await wire.initial()).addresses == tuple(member.addresses[: 2 if multi_address else 1])
        for _, port in member.addresses:
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            await writer.wait_closed()


# -- being dialled


async def test_a_larger_server_is_served_on_the_connection_it_dialled(world: World) -> None:
    """However the bytes are cut."""
    member = await world.lone(2)
    wire = await world.wire_to(member)
    for byte in encode_initial_message(3, [("h", 1)]) + frame_notification(vote(3, zxid=7)):
        wire.say(bytes([byte]))
        await wire.writer.drain()
        await asyncio.sleep(0)
    await until(lambda: member.received == [(3, 7)])
    member.mesh.send(3, vote(2, zxid=8))
    assert (await wire.notification()).zxid == 8


async def test_a_server_of_3_4_says_only_its_id(world: World) -> None:
    """`fle-init-34`: frames follow directly, here in the same piece."""
    member = await world.lone(2, {4: []})
    wire = await world.wire_to(member)
    wire.say(b"".join(CAPTURES["fle-init-34"]))
    await until(lambda: member.received == [(4, 0)])


async def test_a_smaller_server_that_knocks_is_dialled_back_where_it_says(world: World) -> None:
    """Its own word counts before the configuration; a connection it had is given up, for it knows nothing of it."""
    configured, named = await world.acceptor(), await world.acceptor()
    member = await world.lone(2, {1: [configured.address]})
    member.mesh.send(1, vote(2, zxid=5))
    first = await world.wire_from(configured)
    await first.initial()
    await first.notification()
    knock = await world.wire_to(member)
    knock.introduce(1, [named.address])
    assert await knock.rest() == b""
    assert await first.rest() == b""
    second = await world.wire_from(named)
    assert (await second.initial()).server_id == 2
    assert (await second.notification()).zxid == 5


async def test_a_wildcard_is_no_address_to_dial_back(world: World) -> None:
    """`fle-init-wildcard`: the configured one is taken, as for a server of 3.4, which names none."""
    configured = await world.acceptor()
    member = await world.lone(5, {4: [configured.address]})
    for initial in (CAPTURES["fle-init-wildcard"][0], pack(">q", 4)):
        (await world.wire_to(member)).say(initial)
        wire = await world.wire_from(configured)
        assert (await wire.initial()).server_id == 5


async def test_a_new_connection_of_a_larger_server_replaces_the_old_one(world: World) -> None:
    """It has crashed, and the old one never ended."""
    member = await world.lone(2)
    old, new = await world.wire_to(member), await world.wire_to(member)
    old.introduce(3)
    await until(lambda: member.connection(3) is not None)
    first = member.connection(3)
    new.introduce(3)
    await until(lambda: member.connection(3) is not first)
    assert await old.rest() == b""
    member.mesh.send(3, vote(2, zxid=4))
    assert (await new.notification()).zxid == 4


async def test_zookeeper_2164_a_connection_that_claims_the_own_id_is_refused(world: World) -> None:
    """One line; no dial back to oneself."""
    member = await world.lone(2)
    wire = await world.wire_to(member)
    wire.introduce(2, member.addresses)
    wire.say(frame_notification(vote(9)))
    assert await wire.rest() == b""
    assert member.events() == [("election.refused", None)]
    assert member.received == []


# -- what is sent again


async def test_a_new_connection_hears_the_last_message_again(world: World) -> None:
    """§2.5: the other end may not have read it."""
    member = await world.lone(2)
    for _ in range(3):
        wire = await world.wire_to(member)
        wire.introduce(3)
        if not member.mesh._members[3].last:
            member.mesh.send(3, vote(2, zxid=9))
        assert (await wire.notification()).zxid == 9
        await wire.close()
        await until(lambda: member.connection(3) is None)


async def test_a_new_connection_hears_what_waits_instead_of_the_last_message(world: World) -> None:
    """Only the newest."""
    member = await world.lone(2)
    wire = await world.wire_to(member)
    wire.introduce(3)
    member.mesh.send(3, vote(2, zxid=1))
    await wire.notification()
    await wire.close()
    await until(lambda: member.connection(3) is None)
    for zxid in (2, 3):
        member.mesh.send(3, vote(2, zxid))
    wire = await world.wire_to(member)
    wire.introduce(3)
    assert (await wire.notification()).zxid == 3
    member.mesh.send(3, vote(2, zxid=4))
    assert (await wire.notification()).zxid == 4


async def test_who_does_not_read_gets_the_newest_message_when_it_does(world: World) -> None:
    """And costs one message of memory and nobody else's time."""
    member = await world.lone(2, {3: [], 4: []})
    deaf, other = await world.wire_to(member), await world.wire_to(member)
    cast("asyncio.Transport", deaf.writer.transport).pause_reading()
    deaf.introduce(3)
    other.introduce(4)
    await until(lambda: member.connection(3) and member.connection(4))
    large = "x" * 400_000
    for zxid in range(100):
        member.mesh.send(3, vote(2, zxid, large))
    peer = member.mesh._members[3]
    assert peer.waiting == frame_notification(vote(2, 99, large))
    assert peer.connection._transport.get_write_buffer_size() <= 500_000  # type: ignore[union-attr]
    member.mesh.send(4, vote(2, zxid=5))
    assert (await other.notification()).zxid == 5
    cast("asyncio.Transport", deaf.writer.transport).resume_reading()
    heard: list[int] = []
    while not heard or heard[-1] != 99:
        heard.append((await deaf.notification()).zxid)
    assert len(heard) < 50


# -- strangers and noise


@pytest.mark.parametrize("name", ["fle-init-badproto", "fle-init-badaddr", "fle-init-emptyaddr"])
async def test_zookeeper_3720_an_unreadable_introduction_ends_the_connection(world: World, name: str) -> None:
    """Without an answer, as recorded; with one line."""
    member = await world.lone(1)
    wire = await world.wire_to(member)
    wire.say(b"".join(CAPTURES[name]))
    assert await wire.rest() == b""
    assert member.events() == [("election.refused", None)]


@pytest.mark.parametrize("frame", [CAPTURES["fle-frame-toolong"][0][35:], bytes(4), b"\xff" * 4])
async def test_an_impossible_length_ends_the_connection(world: World, frame: bytes) -> None:
    """What was complete before it is handed over, what follows is not."""
    member = await world.lone(2)
    wire = await world.wire_to(member)
    wire.introduce(3)
    wire.say(frame_notification(vote(3, 1)) + frame + frame_notification(vote(3, 2)))
    assert await wire.rest() == b""
    assert member.received == [(3, 1)]
    assert member.events() == [("election.refused", 3)]


async def test_a_mesh_that_moves_keeps_its_connections_and_says_where_it_is(world: World) -> None:
    small, large = await world.ensemble(1, 2)
    small.mesh.send(2, vote(1, 0x11))
    await until(lambda: large.received)
    before, small.addresses = small.addresses, [(HOST, free_port())]
    await small.mesh.move(small.addresses)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*before[0])
    small.mesh.send(2, vote(1, 0x12))
    await until(lambda: len(large.received) == 2)
    acceptor = await world.acceptor()
    small.mesh.set_members({2: large.addresses, 3: [acceptor.address]})
    small.mesh.send(3, vote(1, 0x13))
    knock = await world.wire_from(acceptor)
    assert (await knock.initial()).addresses == tuple(small.addresses)
    wire = await world.wire_to(small)
    wire.introduce(3)
    assert (await wire.notification()).zxid == 0x13


async def test_a_mesh_that_cannot_move_is_closed(world: World) -> None:
    member = await world.lone(bind_retries=1)
    acceptor = await world.acceptor()
    with pytest.raises(ElectionPortError, match=str(acceptor.address[1])):
        await member.mesh.move([acceptor.address])
    with pytest.raises(ConnectionRefusedError):
        await member.dialled()


async def test_a_mesh_that_is_closed_while_it_moves_does_not_listen(world: World) -> None:
    member = await world.lone()
    member.addresses = [(HOST, free_port())]
    moving = asyncio.ensure_future(member.mesh.move(member.addresses))
    await member.mesh.close()
    await moving
    with pytest.raises(ConnectionRefusedError):
        await member.dialled()


@pytest.mark.parametrize("name", ["fle-msg-36", "fle-msg-short", "fle-msg-badconfiglen"])
async def test_zookeeper_3769_a_malformed_notification_is_dropped_and_the_connection_kept(
    world: World, name: str
) -> None:
    """However many there are: one line."""
    member = await world.lone(1, {4: []})
    wire = await world.wire_to(member)
    initial, *messages = CAPTURES[name]
    malformed = messages[: 2 if name == "fle-msg-badconfiglen" else 1]
    wire.say(initial + b"".join(malformed * 3) + frame_notification(vote(4, zxid=6)))
    await until(lambda: member.received == [(4, 6)])
    assert member.events() == [("election.malformed", 4)]
    assert member.connection(4) is not None


async def test_a_stranger_with_a_larger_id_is_heard_and_answered_and_then_forgotten(world: World) -> None:
    """A joiner that is in no configuration yet; while it is away nothing is kept for it."""
    member = await world.lone(2)
    member.mesh.send(77, vote(2))
    wire = await world.wire_to(member)
    wire.introduce(77)
    wire.say(frame_notification(vote(77, zxid=1)))
    await until(lambda: member.received == [(77, 1)])
    member.mesh.send(77, vote(2, zxid=2))
    assert (await wire.notification()).zxid == 2
    await wire.close()
    await until(lambda: not member.mesh._strangers)


async def test_a_stranger_that_connects_again_is_the_same_one(world: World) -> None:
    member = await world.lone(2)
    first, second = await world.wire_to(member), await world.wire_to(member)
    first.introduce(77)
    await until(lambda: member.connection(77))
    second.introduce(77)
    assert await first.rest() == b""
    member.mesh.send(77, vote(2, zxid=2))
    assert (await second.notification()).zxid == 2
    assert set(member.mesh._strangers) == {77}


async def test_a_stranger_that_becomes_a_member_keeps_its_connection(world: World) -> None:
    """And the other way round."""
    member = await world.lone(2)
    wire = await world.wire_to(member)
    wire.introduce(77)
    await until(lambda: member.connection(77))
    for members in ({77: [(HOST, 1)]}, {1: [(HOST, 1)]}):
        member.mesh.set_members(members)
        member.mesh.send(77, vote(2, zxid=2))
        assert (await wire.notification()).zxid == 2
    assert set(member.mesh._strangers) == {77}
    member.mesh.set_members({77: []})
    assert not member.mesh._strangers
    assert set(member.mesh._members) == {77}


async def test_a_server_that_is_no_member_any_more_is_not_dialled(world: World) -> None:
    """Nor is anything kept for it; its dial under way is given up."""
    with address_that_does_not_answer() as address:
        member = await world.lone(2, {1: [address]})
        member.mesh.send(1, vote(2))
        dial = member.mesh._members[1].dial
        assert dial is not None
        member.mesh.set_members({2: [address], 3: [address]})
        await asyncio.wait([dial])
        assert dial.cancelled()
        member.mesh.send(1, vote(2))
        assert set(member.mesh._members) == {3}
        assert member.mesh._members[3].dial is None


async def test_an_observer_without_an_id_is_given_one_and_dialled_back(world: World) -> None:
    """§2.2: -1, -2 and so on, which are smaller than any id."""
    acceptor = await world.acceptor()
    member = await world.lone(2)
    for given in (-1, -2):
        knock = await world.wire_to(member)
        knock.introduce(OBSERVER_SERVER_ID, [acceptor.address])
        wire = await world.wire_from(acceptor)
        assert (await wire.initial()).server_id == 2
        wire.say(frame_notification(vote(1, zxid=given)))
        await until(partial(member.received.count, (given, given)))
        member.mesh.send(given, vote(2, zxid=7))
        assert (await wire.notification()).zxid == 7


async def test_a_smaller_stranger_without_an_address_is_forgotten(world: World) -> None:
    """There is no way to it."""
    member = await world.lone(2)
    wire = await world.wire_to(member)
    wire.say(pack(">q", 0))
    assert await wire.rest() == b""
    await until(lambda: not member.mesh._strangers)
    assert member.events() == [("election.unreachable", 0)]


async def test_only_so_many_strangers_are_talked_to(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest makes room; members do not count and are not touched."""
    monkeypatch.setattr(election_mesh, "STRANGERS_MAX", 3)
    member = await world.lone(2)
    first = await world.wire_to(member)
    first.introduce(3)
    await until(lambda: member.connection(3))
    strangers = []
    for server_id in range(70, 75):
        strangers.append(await world.wire_to(member))
        strangers[-1].introduce(server_id)
        await until(partial(member.connection, server_id))
    assert [await wire.rest() for wire in strangers[:2]] == [b"", b""]
    assert set(member.mesh._strangers) == {72, 73, 74}
    member.mesh.send(3, vote(2, zxid=1))
    assert (await first.notification()).zxid == 1


async def test_a_stranger_that_is_being_dialled_makes_room_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(election_mesh, "STRANGERS_MAX", 1)
    member = await world.lone(5)
    with address_that_does_not_answer() as address:
        knock = await world.wire_to(member)
        knock.introduce(2, [address])
        assert await knock.rest() == b""
        await until(lambda: 2 in member.mesh._strangers)
        dial = member.mesh._strangers[2].dial
        assert dial is not None
        wire = await world.wire_to(member)
        wire.introduce(77)
        await until(lambda: member.connection(77))
        await asyncio.wait([dial], timeout=TIMEOUT_S)
        assert dial.cancelled()
    assert set(member.mesh._strangers) == {77}


async def test_silent_connections_hold_nobody_up(world: World) -> None:
    """§2.2: an Apache acceptor stops accepting here. Half an introduction is silence too."""
    member = await world.lone(2)
    silent = [await world.wire_to(member) for _ in range(3)]
    silent[1].say(bytes.fromhex("ffffffff"))
    wire = await world.wire_to(member)
    wire.introduce(3)
    wire.say(frame_notification(vote(3, zxid=1)))
    await until(lambda: member.received == [(3, 1)])
    await until(lambda: len(member.mesh._pending) == 3)


async def test_a_silent_connection_is_closed(world: World) -> None:
    """With one line; bytes that complete nothing do not buy time."""
    member = await world.lone(2, handshake_timeout_ms=40)
    silent, hesitant = await world.wire_to(member), await world.wire_to(member)
    hesitant.say(bytes.fromhex("ffffffff"))
    assert [await silent.rest(), await hesitant.rest()] == [b""] * 2
    assert member.reasons() == ["it does not say who it is"] * 2


async def test_an_established_connection_may_be_silent_for_ever(world: World) -> None:
    """There is nothing to say between elections."""
    member = await world.lone(2, handshake_timeout_ms=40)
    talking = await world.wire_to(member)
    talking.introduce(3)
    assert await (await world.wire_to(member)).rest() == b""
    assert member.connection(3) is not None


async def test_only_so_many_connections_may_be_silent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest makes room, so that one that speaks always gets through."""
    monkeypatch.setattr(election_mesh, "PENDING_MAX", 3)
    member = await world.lone(2)
    silent = [await world.wire_to(member) for _ in range(5)]
    assert [await one.rest() for one in silent[:2]] == [b""] * 2
    wire = await world.wire_to(member)
    wire.introduce(3)
    await until(lambda: member.connection(3))
    assert await silent[2].rest() == b""
    assert len(member.mesh._pending) == 2


# -- listening and ending


@contextlib.contextmanager
def taken(address: Address) -> Iterator[None]:
    """Somebody else listens there for a while."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        yield


async def test_an_election_port_that_is_taken_is_tried_so_many_times(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the exception says which and how often."""
    monkeypatch.setattr(election_mesh, "BIND_RETRY_S", 0.001)
    member = world.member(2, bind_retries=3)
    (address,) = member.addresses
    expected = rf"{HOST}:{address[1]} .* tried 3 times"
    with taken(address), pytest.raises(ElectionPortError, match=expected):
        await member.start({})
    assert member.events() == [("election.bind_failed", None)] * 2


async def test_of_several_election_addresses_one_is_enough(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other is tried as often as configured, and given up with a warning."""
    monkeypatch.setattr(election_mesh, "BIND_RETRY_S", 0.01)
    member = world.member(2, bind_retries=3)
    member.addresses.append((HOST, free_port()))
    with taken(member.addresses[0]):
        await member.start({})
        wire = Wire(*await asyncio.open_connection(*member.addresses[1]))
        wire.introduce(3)
        await until(lambda: member.connection(3))
        await until(lambda: ("election.address_unusable", None) in member.events())
        await wire.close()
    assert member.events("election.address_unusable") == [("election.bind_failed", None)] * 2


async def test_an_election_address_that_is_free_later_is_listened_at_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With electionPortBindRetry=0 the start does not wait for it."""
    monkeypatch.setattr(election_mesh, "BIND_RETRY_S", 0.001)
    member = world.member(2, bind_retries=0)
    member.addresses.append((HOST, free_port()))
    with taken(member.addresses[1]):
        await asyncio.wait_for(member.start({}), TIMEOUT_S)
    await until(lambda: len(member.mesh._listeners) == 2)
    wire = Wire(*await asyncio.open_connection(*member.addresses[1]))
    wire.introduce(3)
    await until(lambda: member.connection(3))
    await wire.close()


async def test_with_0_retries_binding_is_tried_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it succeeds."""
    monkeypatch.setattr(election_mesh, "BIND_RETRY_S", 0.001)
    member = world.member(2, bind_retries=0)
    with taken(member.addresses[0]):
        starting = asyncio.ensure_future(member.start({}))
        await until(lambda: len(member.records) > 5)
    await asyncio.wait_for(starting, TIMEOUT_S)


async def test_a_name_that_cannot_be_resolved_cannot_be_bound(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be known at the next attempt."""
    monkeypatch.setattr(election_mesh, "BIND_RETRY_S", 0.001)
    member = world.member(2, bind_retries=2)
    member.addresses = [("a" * 70 + ".invalid", 3888)]
    with pytest.raises(ElectionPortError, match="tried 2 times"):
        await member.start({})


async def test_all_interfaces_are_listened_on_if_wished(world: World) -> None:
    """quorumListenOnAllIPs: the own address is only told to others."""
    member = world.member(2, listen_on_all_ips=True)
    port = member.addresses[0][1]
    member.addresses = [("192.0.2.1", port), ("192.0.2.2", port)]
    await member.start({})
    wire = Wire(*await asyncio.open_connection(HOST, port))
    wire.introduce(3)
    await until(lambda: member.connection(3))
    await wire.close()


@pytest.mark.parametrize("keepalive", [False, True])
async def test_keepalive_is_as_configured(world: World, keepalive: bool) -> None:
    """On connections of both kinds."""
    acceptor = await world.acceptor()
    member = await world.lone(2, {1: [acceptor.address], 3: []}, keepalive=keepalive)
    member.mesh.send(1, vote(2))
    (await world.wire_to(member)).introduce(3)
    await until(lambda: member.connection(1) and member.connection(3))
    for server_id in (1, 3):
        sock = member.connection(server_id)._transport.get_extra_info("socket")
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == keepalive
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_connection_made_behind_the_end_is_turned_away(world: World) -> None:
    """The loop may have accepted it before."""
    member = await world.lone(2)
    await member.mesh.close()
    loop = asyncio.get_running_loop()
    late = await loop.create_server(lambda: election_mesh._Connection(member.mesh), HOST, 0)
    reader, writer = await asyncio.open_connection(*late.sockets[0].getsockname())
    wire = Wire(reader, writer)
    world.wires.append(wire)
    assert await wire.rest() == b""
    late.close()
    assert (member.mesh._pending, member.events()) == ({}, [])


async def test_closing_ends_everything_and_may_be_repeated(world: World) -> None:
    """Listeners, connections, dials; what is sent later goes nowhere."""
    acceptor = await world.acceptor()
    member = await world.lone(2, {1: [(HOST, free_port())], 3: [acceptor.address]})
    member.mesh.send(3, vote(2))
    await (await world.wire_from(acceptor)).rest()
    established, silent = await world.wire_to(member), await world.wire_to(member)
    established.introduce(3)
    await until(lambda: member.connection(3) and member.mesh._pending)
    await member.mesh.close()
    await member.mesh.close()
    await established.rest()
    assert await silent.rest() == b""
    member.mesh.send(1, vote(2))
    assert member.mesh._members[1].dial is None
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection(*member.addresses[0])
    assert member.events() == []
