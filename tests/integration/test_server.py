"""A server as a process with kazoo as its client, and as an object in a loop: start, restart, crash, what stops a start."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from tests.fakes.replies import create, create_ttl
from tests.fakes.wire_client import WireClient, connect_frame
from zkpy.ops.config_loader import config_from_text
from zkpy.server import EXIT_DATA_DIR, EXIT_OK, EXIT_UNEXPECTED, Server, StartError
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import ExistsRequest, GetDataRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zkpy.ops.config import ServerConfig


class Process:
    """``zkpy server`` on a port of its own choice.

    Attributes:
        records: what it has logged, as far as it was read.
    """

    def __init__(self, directory: Path, *properties: str) -> None:
        config = directory / "zoo.cfg"
        config.write_text(
            f"dataDir={directory / 'data'}\nclientPort=0\nclientPortAddress=127.0.0.1\ntickTime=500\n"
        )
        self.records: list[dict[str, Any]] = []
        command = [sys.executable, "-m", "zkpy", "server", *properties, str(config)]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def until(self, event: str) -> dict[str, Any]:
        """Read the log up to an event."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.records.append(json.loads(line))
            if self.records[-1]["event"] == event:
                return self.records[-1]
        raise AssertionError(f"the process ended without {event}: {self.records}")

    @property
    def address(self) -> str:
        record = next((r for r in self.records if r["event"] == "server.serving"), None)
        return f"127.0.0.1:{(record or self.until('server.serving'))['client_port']}"

    def end(self, number: int) -> int:
        """Send a signal and wait; the exit code."""
        self.popen.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit code, after the rest of the log."""
        assert self.popen.stdout is not None
        if not self.popen.stdout.closed:
            self.records += [json.loads(line) for line in self.popen.stdout]
            self.popen.stdout.close()
        return self.popen.wait(20)


@contextmanager
def running(directory: Path, *properties: str) -> Iterator[Process]:
    process = Process(directory, *properties)
    try:
        yield process
    finally:
        process.end(signal.SIGKILL)


@contextmanager
def kazoo(process: Process, **options: Any) -> Iterator[KazooClient]:
    client = KazooClient(process.address, timeout=4, **options)
    client.start(20)
    try:
        yield client
    finally:
        client.stop()
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_exits_with_0_and_has_everything_when_it_comes_back(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path) as process, kazoo(process) as client:
        client.create("/a", b"1")
        client.create("/a/n-", b"2", sequence=True)
        before = client.get("/a")[1]
        client.stop()
        assert process.end(number) == EXIT_OK
        assert process.records[-1]["event"] == "server.stopped"
    with running(tmp_path) as process, kazoo(process) as client:
        data, stat = client.get("/a")
        assert (data, stat) == (b"1", before)
        assert client.get_children("/a") == ["n-0000000000"]
        assert client.create("/a/n-", sequence=True) == "/a/n-0000000001"


@pytest.mark.slow
def test_a_killed_server_has_everything_it_has_acknowledged(tmp_path: Path) -> None:
    with running(tmp_path) as process, kazoo(process) as client:
        results = [client.create_async(f"/n{number}", str(number).encode()) for number in range(300)]
        acknowledged = [result.get(20) for result in results[:200]]
        process.end(signal.SIGKILL)
    with running(tmp_path) as process, kazoo(process) as client:
        for path in acknowledged:
            assert client.get(path)[0] == path[2:].encode()


@pytest.mark.slow
def test_a_session_outlives_a_restart_with_its_ephemerals(tmp_path: Path) -> None:
    with running(tmp_path) as process, kazoo(process) as client:
        client.create("/e", ephemeral=True)
        identity = client.client_id
        process.end(signal.SIGKILL)
    with running(tmp_path) as process:
        with kazoo(process, client_id=identity) as client:
            assert client.client_id == identity
            assert client.get("/e")[1].ephemeralOwner == identity[0]
        with kazoo(process) as client, pytest.raises(NoNodeError):
            client.get("/e")


@pytest.mark.slow
def test_a_server_writes_snapshots_while_it_works_and_starts_from_them(tmp_path: Path) -> None:
    with running(tmp_path, "-Dzookeeper.snapCount=10") as process, kazoo(process) as client:
        for number in range(30):
            client.create(f"/n{number}")
        written = process.until("snapshot.written")
        assert int(str(written["zxid"]), 16) > 0
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
    snapshots = list((tmp_path / "data/version-2").glob("snapshot.*"))
    assert len(snapshots) >= 2
    with running(tmp_path) as process, kazoo(process) as client:
        assert len(client.get_children("/")) == 31


@pytest.mark.slow
def test_a_second_server_on_the_same_directory_does_not_start(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        first.until("server.serving")
        with running(tmp_path) as second:
            refused = second.until("server.cannot_start")
            assert "data" in refused["reason"]
            assert second.wait() == EXIT_DATA_DIR
        with kazoo(first) as client:
            assert client.exists("/") is not None


# -- in this process, on both loops


@pytest.fixture
def server_of(servers: list[Server], tmp_path: Path) -> Callable[..., Server]:

    def make(*lines: str, **changes: Any) -> Server:
        servers.append(Server(configuration(tmp_path, *lines, **changes)))
        return servers[-1]

    return make


def configuration(directory: Path, *lines: str, client_port: int = 0) -> ServerConfig:
    text = "\n".join([f"dataDir={directory}", "clientPort=2181", "clientPortAddress=127.0.0.1", *lines])
    return replace(config_from_text(text), client_port=client_port)


async def connected(server: Server) -> WireClient:
    assert server.port is not None
    client = await WireClient.open(server.port)
    client.writer.write(connect_frame())
    assert (await client.connect_response()).session_id
    return client


async def test_stopping_closes_clients_without_a_byte_and_may_be_repeated(
    server_of: Callable[..., Server],
) -> None:
    server = server_of()
    await server.start()
    client = await connected(server)
    assert (await client.call(OpCode.CREATE, create("/a", b"1"))).path == "/a"
    await server.close()
    await server.close()
    assert await client.rest() == b""
    await client.close()
    again = server_of()
    await again.start()
    client = await connected(again)
    assert (await client.call(OpCode.GET_DATA, GetDataRequest("/a", False))).data == b"1"
    await client.close()


async def test_the_configuration_reaches_the_core(server_of: Callable[..., Server]) -> None:
    server = server_of("extendedTypesEnabled=true", "jute.maxbuffer=5000")
    await server.start()
    client = await connected(server)
    assert (await client.call(OpCode.CREATE_TTL, create_ttl("/t", 60_000))).path == "/t"
    await client.close()


async def test_a_port_in_use_stops_the_start_with_its_number(server_of: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"127.0.0.1:{number}") as error:
            await server_of(client_port=number).start()
        assert error.value.exit_code == EXIT_UNEXPECTED


async def test_orphans_of_unknown_sessions_are_gone_after_a_start_without_extended_types(
    server_of: Callable[..., Server], tmp_path: Path
) -> None:
    """Compat: without extendedTypesEnabled a TTL node looks like an ephemeral of a session that nobody knows."""
    first = server_of("extendedTypesEnabled=true")
    await first.start()
    client = await connected(first)
    await client.call(OpCode.CREATE_TTL, create_ttl("/t", 60_000))
    await client.call(OpCode.CREATE, create("/t/child"))
    await client.close()
    await first.close()
    for start in range(3):
        second = server_of()
        await second.start()
        client = await connected(second)
        for path in ("/t", "/t/child"):
            assert (await client.call(OpCode.EXISTS, ExistsRequest(path, False))).err == ErrorCode.NONODE
        if start:
            for old in sorted((tmp_path / "version-2").glob("snapshot.*"))[:-1]:
                old.unlink()  # so that the newest has to do
        await client.close()
        await second.close()


async def test_serve_ends_when_it_is_asked_to(server_of: Callable[..., Server]) -> None:
    server = server_of()
    serving = asyncio.create_task(server.serve())
    while server.port is None:  # noqa: ASYNC110  nothing else tells of it
        await asyncio.sleep(0)
    server.stop()
    assert await asyncio.wait_for(serving, 20) == EXIT_OK
