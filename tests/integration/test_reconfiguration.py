"""A member of an ensemble, on real sockets and files, that goes where a reconfiguration puts it.

An ensemble of one reconfigures itself without anybody else; what several servers make of it is shown by
conformance/reconfig_run.py.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.wire_client import TIMEOUT_S, WireClient, connect_frame
from tests.unit.net.test_election_mesh import free_port, until
from zkpy.core.membership import ClientAddress
from zkpy.ensemble import EXIT_ELECTION_PORT
from zkpy.ops.config_loader import load_config
from zkpy.server import EXIT_INVOCATION, Server, StartError
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import GetDataRequest, ReconfigRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = "127.0.0.1"
CONFIG = "/zookeeper/config"


class Place:
    """Where the only server is to be."""

    def __init__(self) -> None:
        self.quorum, self.election, self.client = free_port(), free_port(), free_port()

    @property
    def line(self) -> str:
        return f"server.1={HOST}:{self.quorum}:{self.election}:participant;{HOST}:{self.client}"


@pytest.fixture
def start(servers: list[Server]) -> Callable[[Path], Any]:

    async def make(file: Path) -> Server:
        server = Server(load_config([str(file)], {}))
        servers.append(server)
        await server.start()
        return server

    return make


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def file(tmp_path: Path, place: Place) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    (data / "myid").write_text("1")
    keys = [f"dataDir={data}", "tickTime=500", "initLimit=10", "syncLimit=5", "standaloneEnabled=false"]
    keys += ["reconfigEnabled=true", "skipACL=yes", "# a comment", place.line]
    (tmp_path / "zoo.cfg").write_text("\n".join(keys) + "\n")
    return tmp_path / "zoo.cfg"


async def client_at(port: int) -> WireClient:
    """A client with a session, as soon as somebody takes one there."""
    for _ in range(TIMEOUT_S * 100):
        client = await WireClient.open(port)
        client.writer.write(connect_frame())
        try:
            assert (await client.connect_response()).session_id
        except (asyncio.IncompleteReadError, ConnectionResetError):
            await client.close()
            await asyncio.sleep(0.01)
        else:
            return client
    raise AssertionError("nobody serves")


async def reconfigure(client: WireClient, place: Place) -> str:
    """The answer: the text of the new configuration."""
    reply = await client.call(OpCode.RECONFIG, ReconfigRequest(place.line, None, None, -1))
    assert reply.err == 0
    return (reply.data or b"").decode()


def content(file: Path) -> str:
    return file.read_text()


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


async def test_the_client_port_moves_and_connections_stay(
    start: Callable[[Path], Any], file: Path, place: Place
) -> None:
    server = await start(file)
    before = place.client
    client = await client_at(before)
    place.client = free_port()
    text = await reconfigure(client, place)
    assert text.splitlines()[0] == place.line
    await until(lambda: server.port == place.client and refuses(before))
    other = await client_at(place.client)
    for one in (client, other):
        assert (await one.call(OpCode.GET_DATA, GetDataRequest(CONFIG, False))).data == text.encode()
        await one.close()
    await server.close()
    assert refuses(place.client)


async def test_a_client_port_that_cannot_be_had_is_one_that_nobody_listens_at(
    start: Callable[[Path], Any], file: Path, place: Place
) -> None:
    """Compat: as with Apache. The next configuration may name another one."""
    await start(file)
    before = place.client
    client = await client_at(before)
    with socket.create_server((HOST, 0)) as taken:
        place.client = taken.getsockname()[1]
        await reconfigure(client, place)
        await until(lambda: refuses(before))
    place.client = free_port()
    await reconfigure(client, place)
    await (await client_at(place.client)).close()
    await client.close()


async def test_a_client_port_that_is_to_move_again_before_it_has_moved_is_where_it_was_sent_last(
    start: Callable[[Path], Any], file: Path, place: Place
) -> None:
    server = await start(file)
    before, passed, last, never = place.client, free_port(), free_port(), free_port()
    await (await client_at(before)).close()
    for port in (passed, last):
        server._move_client_port(ClientAddress(HOST, port))
    await until(lambda: server.port == last)
    await (await client_at(last)).close()
    assert refuses(before)
    assert refuses(passed)
    await server.close()
    server._move_client_port(ClientAddress(HOST, never))
    await asyncio.sleep(0)
    assert (refuses(never), server._moving) == (True, None)


async def test_election_and_quorum_ports_move(start: Callable[[Path], Any], file: Path, place: Place) -> None:
    await start(file)
    client = await client_at(place.client)
    before = (place.quorum, place.election)
    place.quorum, place.election = free_port(), free_port()
    await reconfigure(client, place)
    await until(
        lambda: all(map(refuses, before)) and not refuses(place.quorum) and not refuses(place.election)
    )
    await client.close()


async def test_an_election_port_that_cannot_be_had_stops_the_server(
    start: Callable[[Path], Any], file: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zkpy.net.election_mesh.BIND_RETRY_S", 0.01)
    server = await start(file)
    client = await client_at(place.client)
    with socket.create_server((HOST, 0)) as taken:
        place.election = taken.getsockname()[1]
        await reconfigure(client, place)
        assert await asyncio.wait_for(server.stopped(), TIMEOUT_S) == EXIT_ELECTION_PORT
    await client.close()


async def test_the_files_follow_and_are_what_the_next_start_reads(
    start: Callable[[Path], Any], file: Path, place: Place
) -> None:
    original = content(file)
    server = await start(file)
    client = await client_at(place.client)
    place.client = free_port()
    text = await reconfigure(client, place)
    await client.close()
    await server.close()
    version = text.rpartition("=")[2]
    assert file.with_name("zoo.cfg.bak").read_text() == original
    assert file.with_name(f"zoo.cfg.dynamic.{version}").read_text() == place.line
    assert not file.with_name("zoo.cfg.dynamic.next").exists()
    assert content(file).splitlines()[-1] == f"dynamicConfigFile={file}.dynamic.{version}"
    await start(file)
    client = await client_at(place.client)
    assert (await client.call(OpCode.GET_DATA, GetDataRequest(CONFIG, False))).data == text.encode()
    await client.close()
    assert file.with_name("zoo.cfg.bak").read_text() == original, "there is nothing to save any more"


async def test_without_room_for_the_backup_the_file_stays_as_it_is(
    start: Callable[[Path], Any], file: Path
) -> None:
    original = content(file)
    file.with_name("zoo.cfg.bak").mkdir()
    with pytest.raises(StartError, match="cannot be copied") as error:
        await start(file)
    assert error.value.exit_code == EXIT_INVOCATION
    assert content(file) == original
