"""A member of an ensemble as an object in a loop: what it makes of what it finds on disk, and who may lead.

An ensemble of one (``standaloneEnabled=false``) has everything of a large one but others; one of three that is alone has no leader.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fakes.replies import create, encode
from tests.fakes.wire_client import WireClient, connect_frame, framed
from tests.unit.net.test_election_mesh import free_port, until
from zkpy.ensemble import EXIT_ELECTION_PORT
from zkpy.ops.config_loader import load_config
from zkpy.server import EXIT_UNEXPECTED, Server, StartError
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import ConnectRequest, ExistsRequest, GetDataRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zkpy.core.peer import Peer
    from zkpy.ops.config import ServerConfig


@pytest.fixture
def member_of(servers: list[Server], tmp_path: Path) -> Callable[..., Server]:
    def make(*lines: str, size: int = 1) -> Server:
        servers.append(Server(configuration(tmp_path, size, *lines)))
        return servers[-1]

    return make


def configuration(directory: Path, size: int, *lines: str) -> ServerConfig:
    data = directory / "data"
    data.mkdir(exist_ok=True)
    (data / "myid").write_text("1")
    file = directory / "zoo.cfg"
    members = [f"server.{n}=127.0.0.1:{free_port()}:{free_port()}" for n in range(1, size + 1)]
    text = [
        f"dataDir={data}",
        "clientPort=2181",
        "clientPortAddress=127.0.0.1",
        "tickTime=500",
        "initLimit=10",
        "syncLimit=5",
        "standaloneEnabled=false",
        *members,
        *lines,
    ]
    file.write_text("\n".join(text) + "\n")
    return replace(load_config([str(file)], {}), client_port=0)


def files(directory: Path) -> set[str]:
    """What is on disk, apart from the log that was begun and has nothing in it."""
    found = {path.name for path in (directory / "data" / "version-2").iterdir()}
    return {name for name in found if "log" not in name}


def peer_of(server: Server) -> Peer:
    assert server._peer is not None
    return server._peer


async def served(server: Server) -> WireClient:
    """A client with a session, as soon as the server takes one."""
    while not server._driver.service.is_serving:  # noqa: ASYNC110  nothing else tells of it
        await asyncio.sleep(0.01)
    assert server.port is not None
    client = await WireClient.open(server.port)
    client.writer.write(connect_frame())
    assert (await client.connect_response()).session_id
    return client


async def test_an_empty_database_is_trusted_and_saved_before_the_first_election(
    member_of: Callable[..., Server], tmp_path: Path
) -> None:
    await member_of(size=3).start()
    assert files(tmp_path) == {"snapshot.0", "acceptedEpoch", "currentEpoch"}
    assert (tmp_path / "data" / "version-2" / "acceptedEpoch").read_text() == "0"


async def test_without_autocreate_an_empty_database_is_an_accident(
    member_of: Callable[..., Server], tmp_path: Path
) -> None:
    """Quorum protocol §5.3: it votes for nobody and promises nothing until it got the data from others."""
    server = member_of("db.autocreate=false", size=3)
    await server.start()
    state = peer_of(server).state
    assert (state.database.is_trusted, state.database.tree.last_zxid) == (False, -1)
    vote = peer_of(server).election.vote
    assert vote is not None
    assert vote.zxid == -1
    assert files(tmp_path) == set()


async def test_a_file_initialize_counts_once(member_of: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    mark = tmp_path / "data" / "initialize"
    mark.touch()
    server = member_of("db.autocreate=false", size=3)
    await server.start()
    assert (peer_of(server).state.database.is_trusted, mark.exists()) == (True, False)
    assert "snapshot.0" in files(tmp_path)


async def test_an_ensemble_of_one_leads_and_keeps_what_it_has(
    member_of: Callable[..., Server], tmp_path: Path
) -> None:
    for epoch in (1, 2):
        server = member_of()
        await server.start()
        client = await served(server)
        assert server._driver.service.mode == "leader"
        if epoch == 1:
            await client.call(OpCode.CREATE, create("/a", b"1"))
        assert (await client.call(OpCode.GET_DATA, GetDataRequest("/a", False))).data == b"1"
        assert peer_of(server).state.current_epoch == epoch
        await client.close()
        await server.close()
    assert (tmp_path / "data" / "version-2" / "currentEpoch").read_text() == "2"


async def test_the_last_txns_are_in_memory_after_a_restart(member_of: Callable[..., Server]) -> None:
    """A follower that was away for a moment gets a DIFF, also from a leader that was (ZooKeeper fills its committed log too)."""
    first = member_of()
    await first.start()
    client = await served(first)
    for number in range(3):
        await client.call(OpCode.CREATE, create(f"/{number}"))
    await client.close()
    await first.close()
    second = member_of(size=3)
    await second.start()
    zxids = [txn.zxid & 0xFFFFFFFF for txn in peer_of(second).state.database.committed_log.txns()]
    assert zxids == [1, 2, 3, 4]


async def test_3781_logs_without_a_snapshot_that_are_trusted_get_one_before_the_first_election(
    member_of: Callable[..., Server], tmp_path: Path
) -> None:
    """Else the next start finds none again, and nobody trusts it any more."""
    first = member_of()
    await first.start()
    client = await served(first)
    last_zxid = peer_of(first).state.database.tree.last_zxid
    await client.close()
    await first.close()
    for path in (tmp_path / "data" / "version-2").glob("snapshot.*"):
        path.unlink()
    second = member_of("snapshot.trust.empty=true", size=3)
    await second.start()
    assert f"snapshot.{last_zxid:x}" in files(tmp_path)


async def test_epochs_that_are_older_than_the_data_stop_the_start(
    member_of: Callable[..., Server], tmp_path: Path
) -> None:
    server = member_of()
    await server.start()
    client = await served(server)
    await client.close()
    await server.close()
    (tmp_path / "data" / "version-2" / "acceptedEpoch").write_text("0")
    with pytest.raises(StartError, match=r"acceptedEpoch.*accepted epoch 0 is less") as error:
        await member_of().start()
    assert error.value.exit_code == EXIT_UNEXPECTED


async def test_a_current_epoch_that_a_crash_left_behind_the_data_is_mended_and_told_of(
    member_of: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sync with the leader of epoch 2 was cut short between its txns and currentEpoch."""
    for _ in range(2):
        server = member_of()
        await server.start()
        client = await served(server)
        await client.call(OpCode.CREATE, create("/a"))
        await client.close()
        await server.close()
    current = tmp_path / "data" / "version-2" / "currentEpoch"
    current.write_text("1")
    capsys.readouterr()
    server = member_of(size=3)
    await server.start()
    assert (peer_of(server).state.current_epoch, current.read_text()) == (2, "2")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "storage.recovered" in line]
    assert "1 became 2, the epoch of the last txn" in line


# -- ports


async def test_an_election_port_that_is_taken_stops_the_start(member_of: Callable[..., Server]) -> None:
    server = member_of("electionPortBindRetry=1")
    port = server._config.ensemble.membership.servers[1].addresses[0].election_port
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartError, match=f":{port}") as error:
        await server.start()
    assert error.value.exit_code == EXIT_ELECTION_PORT


async def test_a_leader_whose_quorum_port_is_taken_says_so_and_leads_who_does_not_need_it(
    member_of: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server = member_of()
    port = server._config.ensemble.membership.servers[1].addresses[0].quorum_port
    with socket.create_server(("127.0.0.1", port)):
        await server.start()
        client = await served(server)
        assert (await client.call(OpCode.CREATE, create("/a"))).err == 0
        await client.close()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "quorum.no_learner_port" in line]
    assert f"127.0.0.1:{port}: Address already in use" in line


async def test_of_several_quorum_addresses_those_are_used_that_can_be_had(
    member_of: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    quorum, election = free_port(), free_port()
    addresses = "|".join(f"{host}:{quorum}:{election}" for host in ("127.0.0.1", "203.0.113.7"))
    server = member_of("multiAddress.enabled=true", f"server.1={addresses}")
    await server.start()
    await (await served(server)).close()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "quorum.address_unusable" in line]
    assert f"203.0.113.7:{quorum}: Cannot assign requested address" in line
    socket.create_connection(("127.0.0.1", quorum)).close()


@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_quorum_port_is_open_on_every_interface_if_that_is_wanted(
    member_of: Callable[..., Server], everywhere: bool
) -> None:
    server = member_of(f"quorumListenOnAllIPs={str(everywhere).lower()}")
    address = server._config.ensemble.membership.servers[1].addresses[0]
    await server.start()
    await (await served(server)).close()
    for port in (address.quorum_port, address.election_port):
        with socket.socket() as probe:
            assert (probe.connect_ex(("127.0.0.2", port)) == 0) is everywhere


# -- without a leader


async def test_a_server_without_a_role_writes_no_snapshots(member_of: Callable[..., Server]) -> None:
    """In the middle of a sync its tree is ahead of what the log can prove (quorum protocol §8.8)."""
    server = member_of(size=3)
    await server.start()
    server._start_snapshot()
    assert not server._snapshots.running


@pytest.mark.slow
async def test_a_server_without_a_leader_says_so_and_serves_those_who_are_content_with_reads(
    member_of: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server = member_of("readonlymode.enabled=true", "localSessionsEnabled=true", size=3)
    await server.start()
    await until(lambda: server._driver.service.is_read_only)
    assert server.port is not None
    answers: list[object] = []
    for read_only in (True, False):
        client = await WireClient.open(server.port)
        client.writer.write(framed(encode(ConnectRequest(0, 0, 10_000, 0, bytes(16), read_only))))
        if read_only:
            answers.append((await client.connect_response()).read_only)
            for op, record in ((OpCode.EXISTS, ExistsRequest("/", False)), (OpCode.CREATE, create("/a"))):
                answers.append((await client.call(op, record)).err)
        else:
            answers.append(await client.rest())
        await client.close()
    assert answers == [True, 0, ErrorCode.NOTREADONLY, b""]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "server.only_reads" in line]
    assert "there is no quorum" in line


# -- the end


@pytest.mark.parametrize(
    ("operation", "error", "reason"),
    [
        ("pwrite", OSError(errno.ENOSPC, "No space left on device"), "no space for "),
        ("fdatasync", OSError(errno.EIO, "Input/output error"), "sync failed: [Errno 5] Input/output error"),
    ],
)
async def test_a_member_whose_log_fails_answers_nothing_and_ends_with_a_line_and_a_code(
    member_of: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    operation: str,
    error: OSError,
    reason: str,
) -> None:
    """Others of the ensemble go on; this server cannot take back what they have heard, nor go on without it."""
    server = member_of()
    await server.start()
    client = await served(server)

    def fail_once(*_: object) -> None:
        monkeypatch.undo()
        raise error

    monkeypatch.setattr(os, operation, fail_once)
    client.send(OpCode.CREATE, create("/a"))
    assert await server.stopped() == EXIT_UNEXPECTED
    assert await client.rest() == b""
    await client.close()
    lines = [line for line in capsys.readouterr().out.splitlines() if "log.failed" in line]
    assert len(lines) == 1
    assert reason in lines[0]
    assert "critical" in lines[0]
