"""Members of one ensemble in one loop, on real sockets and files: three that vote and an observer that learns from a follower.

Each has an address of loopback of its own, as the port for observers is the same number everywhere.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.fakes.replies import create
from tests.fakes.wire_client import TIMEOUT_S, WireClient
from tests.integration.test_reconfiguration import client_at
from tests.unit.net.test_election_mesh import free_port, until
from zkpy.ops.config_loader import load_config
from zkpy.server import Server
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import GetDataRequest, ReconfigRequest, SyncRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from zkpy.core.peer import Peer
    from zkpy.ensemble import EnsembleSockets

pytestmark = pytest.mark.slow

VOTERS = (1, 2, 3)
OBSERVER = 4
EVERYBODY = (*VOTERS, OBSERVER)


class Members:
    """The servers of a test, by id, and how to find them."""

    def __init__(self, directory: Path, made: list[Server]) -> None:
        self.directory = directory
        self._made = made
        self.quorum = dict.fromkeys(EVERYBODY, free_port())
        self.election, self.for_observers = free_port(), free_port()
        self.clients = {server_id: free_port() for server_id in EVERYBODY}
        self.servers: dict[int, Server] = {}
        self.opened: list[WireClient] = []

    def host(self, server_id: int) -> str:
        return f"127.0.0.{server_id}"

    def line(self, server_id: int) -> str:
        role = "observer" if server_id == OBSERVER else "participant"
        address = f"{self.host(server_id)}:{self.quorum[server_id]}:{self.election}:{role}"
        return f"server.{server_id}={address};127.0.0.1:{self.clients[server_id]}"

    async def start(self, server_id: int) -> Server:
        """A server as of now; its data stay from one start to the next."""
        data = self.directory / str(server_id)
        data.mkdir(exist_ok=True)
        (data / "myid").write_text(str(server_id))
        keys = [f"dataDir={data}", "tickTime=500", "initLimit=10", "syncLimit=5", "skipACL=yes"]
        keys += ["reconfigEnabled=true", f"observerMasterPort={self.for_observers}"]
        if server_id == OBSERVER:
            keys.append("peerType=observer")
        file = data / "zoo.cfg"
        if not file.exists():
            file.write_text("\n".join([*keys, *map(self.line, EVERYBODY)]) + "\n")
        server = self.servers[server_id] = Server(load_config([str(file)], {}))
        self._made.append(server)
        await server.start()
        return server

    async def client(self, server_id: int) -> WireClient:
        """A client with a session at a server, as soon as it has one."""
        self.opened.append(await client_at(self.clients[server_id]))
        return self.opened[-1]

    async def leader(self) -> int:
        """The id of the server that leads, as soon as all that run serve."""
        running = {id_: server for id_, server in self.servers.items() if server._is_running}
        await until(lambda: all(server._driver.service.is_serving for server in running.values()))
        (leader,) = [id_ for id_, one in running.items() if one._driver.service.mode == "leader"]
        return leader

    def peer(self, server_id: int) -> Peer:
        peer = self.servers[server_id]._peer
        assert peer is not None
        return peer

    def sockets(self, server_id: int) -> EnsembleSockets:
        sockets = self.servers[server_id]._sockets
        assert sockets is not None
        return sockets

    def observed_at(self) -> list[int]:
        """The servers with observers at their port for them."""
        ports = {id_: self.sockets(id_)._observers for id_ in self.servers}
        return [id_ for id_, port in ports.items() if port is not None and port.connections]

    def is_open(self, server_id: int, port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host(server_id), port)) == 0


@pytest.fixture
async def members(servers: list[Server], tmp_path: Path) -> AsyncIterator[Members]:
    made = Members(tmp_path, servers)
    yield made
    for client in made.opened:
        await client.close()


async def read(client: WireClient, path: str) -> bytes | None:
    """What the ensemble has there, not only this server."""
    assert (await client.call(OpCode.SYNC, SyncRequest(path))).err == 0
    return (await client.call(OpCode.GET_DATA, GetDataRequest(path, False))).data


async def test_what_one_writes_all_have_also_behind_the_death_of_the_leader(members: Members) -> None:
    for server_id in VOTERS:
        await members.start(server_id)
    first = await members.leader()
    for server_id in VOTERS:
        client = await members.client(server_id)
        assert (await client.call(OpCode.CREATE, create(f"/{server_id}", b"%d" % server_id))).err == 0
    await members.servers[first].close()
    second = await members.leader()
    assert second != first
    client = await members.client(second)
    assert (await client.call(OpCode.CREATE, create("/later", b"5"))).err == 0
    await members.start(first)
    assert await members.leader() == second
    for server_id in VOTERS:
        client = await members.client(server_id)
        assert [await read(client, f"/{n}") for n in VOTERS] == [b"1", b"2", b"3"]
        assert await read(client, "/later") == b"5"
    assert {members.peer(server_id).state.current_epoch for server_id in VOTERS} == {2}
    zxids = {members.peer(server_id).state.database.tree.last_zxid for server_id in VOTERS}
    digests = {members.peer(server_id).state.database.tree.digest for server_id in VOTERS}
    assert (len(zxids), len(digests)) == (1, 1)


async def test_an_observer_learns_from_a_follower_that_moves_and_one_that_is_removed_goes_on(
    members: Members,
) -> None:
    for server_id in EVERYBODY:
        await members.start(server_id)
    leader = await members.leader()
    assert members.peer(OBSERVER).service.mode == "observer"
    (master,) = members.observed_at()
    assert master in set(VOTERS) - {leader}
    observing = await members.client(OBSERVER)
    assert (await observing.call(OpCode.CREATE, create("/a", b"1"))).err == 0
    asking = await members.client(leader)
    assert await read(asking, "/a") == b"1"

    before = members.quorum[master]
    members.quorum[master] = free_port()
    moved = await asking.call(OpCode.RECONFIG, ReconfigRequest(members.line(master), None, None, -1))
    assert members.line(master) in (moved.data or b"").decode().splitlines()
    await until(
        lambda: members.sockets(master)._learns_at == [(members.host(master), members.quorum[master])]
    )
    await until(lambda: members.is_open(master, members.for_observers))
    assert members.observed_at() == [master], "it did not lose its observer"
    assert not members.is_open(master, before)
    assert (await observing.call(OpCode.CREATE, create("/b", b"2"))).err == 0
    assert await read(asking, "/b") == b"2"

    (other,) = set(VOTERS) - {leader, master}
    removed = await asking.call(OpCode.RECONFIG, ReconfigRequest(None, str(other), None, -1))
    assert f"server.{other}=" not in (removed.data or b"").decode()
    await until(lambda: other not in members.peer(other).state.view.committed.servers)
    assert members.is_open(other, members.election), "it stays where it was"
    client = await members.client(other)
    assert (await client.call(OpCode.CREATE, create("/c", b"3"))).err == 0
    assert await read(observing, "/c") == b"3"
    assert members.peer(other).service.mode == "follower"


async def test_a_server_that_stops_does_not_wait_for_others(members: Members) -> None:
    """Nor for an address that it has been trying to get."""
    for server_id in VOTERS:
        await members.start(server_id)
    leader = await members.leader()
    asking = await members.client(leader)
    with socket.create_server((members.host(leader), 0)) as taken:
        line = members.line(leader).replace(f":{members.election}:", f":{taken.getsockname()[1]}:")
        moved = await asking.call(OpCode.RECONFIG, ReconfigRequest(line, None, None, -1))
        assert moved.err == 0
        await until(lambda: bool(members.sockets(leader)._tasks))
        async with asyncio.timeout(TIMEOUT_S):
            for server_id in VOTERS:
                await members.servers[server_id].close()
    assert not members.sockets(leader)._tasks
    assert not any(members.is_open(server_id, members.election) for server_id in VOTERS)
