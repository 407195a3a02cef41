"""What a start makes of the configuration and of the disk, and what the server says of both: one loop, real files and sockets."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tests.fakes.replies import OPEN, create
from tests.fakes.wire_client import WireClient, connect_frame
from tests.integration.test_server import configuration, connected
from tests.unit.net.test_election_mesh import until
from tests.unit.net.test_tls import Files
from zkpy.core.data_tree import DataTree
from zkpy.core.owners import OwnerRules
from zkpy.core.txn import Txn
from zkpy.server import EXIT_DATA_DIR, EXIT_INVOCATION, EXIT_SNAPSHOT, EXIT_UNEXPECTED, Server, StartError
from zkpy.storage.snapshot import write_snapshot
from zkpy.storage.txn_log import TxnLog, encode_entry
from zkpy.storage.vfs import RealFs
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import AuthPacket, CreateTxn, ExistsRequest, GetDataRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from pathlib import Path

Said = list["MutableMapping[str, Any]"]
RULES = OwnerRules(extended=False, emulate_353=False)


@pytest.fixture
def server_of(servers: list[Server], tmp_path: Path) -> Callable[..., Server]:
    """Makes servers of lines of zoo.cfg, and of changes of what was read from them."""

    def make(*lines: str, **changes: Any) -> Server:
        servers.append(Server(replace(configuration(tmp_path, *lines), **changes)))
        return servers[-1]

    return make


@pytest.fixture
def said() -> Iterator[Said]:
    """All log records."""
    with structlog.testing.capture_logs() as records:
        yield records


def of(said: Said, event: str) -> Said:
    return [record for record in said if record["event"] == event]


async def happens(said: Said, event: str) -> MutableMapping[str, Any]:
    """The first record of an event, as soon as it is there."""
    await until(lambda: of(said, event))
    return of(said, event)[0]


def version_2(directory: Path) -> Path:
    return directory / "version-2"


def names(directory: Path, kind: str) -> list[str]:
    return sorted(path.name for path in version_2(directory).glob(f"{kind}.*"))


async def fill(server: Server, count: int) -> None:
    """A life with some znodes."""
    await server.start()
    client = await connected(server)
    for number in range(count):
        assert (await client.call(OpCode.CREATE, create(f"/{number}", b"x" * 100))).err == 0
    await client.close()
    await server.close()


# -- the disk


async def test_old_snapshots_go_at_the_start_and_a_new_one_is_not_needed(
    server_of: Callable[..., Server], tmp_path: Path, said: Said
) -> None:
    version_2(tmp_path).mkdir()
    for zxid in range(1, 6):
        write_snapshot(RealFs(), str(version_2(tmp_path)), DataTree(RULES), {}, zxid, "")
    server = server_of("autopurge.purgeInterval=1", "autopurge.snapRetainCount=3")
    await server.start()
    assert names(tmp_path, "snapshot") == ["snapshot.3", "snapshot.4", "snapshot.5"]
    assert [record["removed"] for record in of(said, "purge.done")] == [2]
    await server.close()
    assert names(tmp_path, "snapshot") == ["snapshot.3", "snapshot.4", "snapshot.5"]


async def test_a_purge_that_fails_costs_nothing_but_space(
    server_of: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("zkpy.server.purge", fail)
    server = server_of("autopurge.purgeInterval=1")
    await server.start()
    assert [record["reason"] for record in of(said, "purge.failed")] == ["[Errno 5] Input/output error"]
    await (await connected(server)).close()


async def test_a_damaged_log_stops_the_start_and_stays_as_it_is(
    server_of: Callable[..., Server], tmp_path: Path
) -> None:
    await fill(server_of(), 5)
    (name,) = names(tmp_path, "log")
    log = version_2(tmp_path) / name
    data = bytearray(log.read_bytes())
    data[data.index(b"x" * 100)] ^= 1
    log.write_bytes(data)
    with pytest.raises(StartError, match=name) as error:
        await server_of().start()
    assert error.value.exit_code == EXIT_UNEXPECTED
    assert log.read_bytes() == data


async def test_an_entry_that_was_cut_off_is_told_of_and_everything_before_it_is_there(
    server_of: Callable[..., Server], tmp_path: Path, said: Said
) -> None:
    await fill(server_of(), 3)
    (name,) = names(tmp_path, "log")
    log = version_2(tmp_path) / name
    data = log.read_bytes()
    start = data.index(b"x" * 100, data.index(b"/2"))
    log.write_bytes(data[: start + 50])
    server = server_of()
    await server.start()
    (notice,) = [record["notice"] for record in of(said, "storage.recovered")]
    assert name in notice
    client = await connected(server)
    found = [(await client.call(OpCode.EXISTS, ExistsRequest(f"/{n}", False))).err for n in range(3)]
    assert found == [0, 0, ErrorCode.NONODE]
    await client.close()


async def test_a_file_that_cannot_be_read_stops_the_start_with_its_name(
    server_of: Callable[..., Server], tmp_path: Path
) -> None:
    (version_2(tmp_path) / "log.1").mkdir(parents=True)
    with pytest.raises(StartError, match=r"version-2/log\.1: Is a directory") as error:
        await server_of().start()
    assert error.value.exit_code == EXIT_DATA_DIR


async def test_without_room_for_the_first_snapshot_nothing_begins(
    server_of: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zkpy.server.write_snapshot", fail)
    with pytest.raises(StartError, match=f"{tmp_path}: no snapshot can be written: No space left") as error:
        await server_of().start()
    assert error.value.exit_code == EXIT_SNAPSHOT
    assert names(tmp_path, "log") == []


async def test_txns_that_give_another_tree_than_they_did_are_counted_and_told(
    server_of: Callable[..., Server], tmp_path: Path, said: Said
) -> None:
    version_2(tmp_path).mkdir()
    write_snapshot(RealFs(), str(version_2(tmp_path)), DataTree(RULES), {}, 0, "")
    log = TxnLog(RealFs(), str(version_2(tmp_path)))
    made = Txn.make(1, 1, 1, 1, OpCode.CREATE, CreateTxn("/a", b"", OPEN, False, 1), 4711)
    log.append(1, [encode_entry(made.payload)])
    log.sync()
    log.close()
    server = server_of("4lw.commands.whitelist=mntr")
    await server.start()
    assert [record["txns"] for record in of(said, "storage.digest_mismatch")] == [1]
    assert "zk_digest_mismatches_count\t1" in (await word(server, b"mntr")).splitlines()


async def word(server: Server, name: bytes) -> str:
    assert server.port is not None
    client = await WireClient.open(server.port)
    client.writer.write(name)
    answer = await client.rest()
    await client.close()
    return answer.decode()


# -- snapshots of a running server


async def test_snapshots_are_written_one_at_a_time(
    server_of: Callable[..., Server], tmp_path: Path, said: Said
) -> None:
    server = server_of()
    await server.start()
    client = await connected(server)
    zxid = server._driver.service.tree.last_zxid
    server._start_snapshot()
    server._start_snapshot()
    assert (await happens(said, "snapshot.written"))["zxid"] == zxid
    assert not server._snapshots.running
    assert names(tmp_path, "snapshot") == ["snapshot.0", f"snapshot.{zxid:x}"]
    await client.call(OpCode.CREATE, create("/a"))
    server._start_snapshot()
    await until(lambda: len(of(said, "snapshot.written")) == 2)
    assert names(tmp_path, "snapshot")[2:] == [f"snapshot.{zxid + 1:x}"]
    await client.close()


async def test_a_snapshot_that_cannot_be_written_is_tried_again_in_time(
    server_of: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server = server_of()
    await server.start()
    client = await connected(server)
    with monkeypatch.context() as patched:
        patched.setattr("zkpy.server.write_snapshot", fail)
        server._start_snapshot()
        assert "No space left on device" in (await happens(said, "snapshot.failed"))["reason"]
    assert names(tmp_path, "snapshot") == ["snapshot.0"]
    server._start_snapshot()
    await happens(said, "snapshot.written")
    await client.call(OpCode.CREATE, create("/a"))
    await client.close()


# -- who may come in


JAAS = "java.security.auth.login.config={}"
SASL = "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
TLS = ["secureClientPort=0", "ssl.keyStore.location={}/key.pem", "ssl.clientAuth=none"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["authProvider.1=org.example.Nonsense"], "org.example.Nonsense"),
        ([f"{JAAS}/absent"], "absent"),
        (
            [f"{JAAS}/jaas", SASL, "sessionRequireClientSASLAuth=true"],
            "jaas: no section Server, but SASL is required of every client",
        ),
        ([*TLS, "ssl.keyStore.location={}/absent"], "absent"),
        ([*TLS, "ssl.authProvider=nobody"], "ssl.authProvider=nobody: no such provider"),
    ],
)
async def test_what_cannot_be_configured_stops_the_start_with_its_reason(
    server_of: Callable[..., Server], tmp_path: Path, lines: list[str], reason: str
) -> None:
    Files(tmp_path).key_store()
    (tmp_path / "jaas").write_text("Other { org.apache.zookeeper.server.auth.DigestLoginModule required; };")
    with pytest.raises(StartError, match=reason) as error:
        await server_of(*(line.format(tmp_path) for line in lines)).start()
    assert error.value.exit_code == EXIT_INVOCATION


async def test_users_of_a_jaas_file_that_nobody_can_be_are_told_of(
    server_of: Callable[..., Server], tmp_path: Path, said: Said
) -> None:
    """FIPS mode is on unless it is switched off, and its clients cannot use MD5."""
    jaas = tmp_path / "jaas"
    jaas.write_text(
        'Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_bob="secret"; };'
    )
    for fips, count in (("true", 1), ("false", 0)):
        server = server_of(f"java.security.auth.login.config={jaas}", f"fips-mode={fips}")
        await server.start()
        await server.close()
        assert len(of(said, "sasl.refused")) == count
        said.clear()


async def test_the_sample_provider_reads_its_key_from_the_tree(
    server_of: Callable[..., Server], said: Said
) -> None:
    server = server_of("authProvider.1=org.apache.zookeeper.server.auth.KeyAuthenticationProvider")
    await server.start()
    client = await connected(server)
    answers = []
    for key in (b"7", b"10"):
        client.send(OpCode.AUTH, AuthPacket(0, "key", key))
        answers.append((await client.reply()).err)
        if key == b"7":
            await client.call(OpCode.CREATE, create("/key", b"5"))
    client.send(OpCode.AUTH, AuthPacket(0, "key", b"7"))
    answers.append((await client.reply()).err)
    assert answers == [0, 0, ErrorCode.AUTHFAILED]
    assert await client.rest() == b""
    await client.close()
    (failure,) = of(said, "auth.failed")
    assert (failure["scheme"], failure["reason"]) == ("key", "the number is no multiple of the one in /key")


async def test_throttles_are_those_of_the_configuration(server_of: Callable[..., Server]) -> None:
    server = server_of(
        "connection_throttle_tokens=1",
        "connection_throttle_fill_time=3600000",
        "request_throttle_max_requests=5",
    )
    await server.start()
    client = await connected(server)
    assert server.port is not None
    second = await WireClient.open(server.port)
    second.writer.write(connect_frame())
    assert await second.rest() == b""
    assert server._driver.service.stats.connections_rejected == 1
    assert server._driver.service.request_throttle is not None
    for one in (client, second):
        await one.close()


async def test_whoever_never_says_anything_is_closed(
    server_of: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zkpy.server._SILENCE_CHECK_S", 0.01)
    server = server_of("nio.sessionlessCnxnTimeout=20")
    await server.start()
    assert server.port is not None
    silent = await WireClient.open(server.port)
    assert await silent.rest() == b""
    assert server._driver.service.stats.sessionless_expired == 1
    await silent.close()


# -- TLS


async def test_a_server_may_have_a_secure_port_only(
    server_of: Callable[..., Server], tmp_path: Path, said: Said
) -> None:
    files = Files(tmp_path)
    server = server_of(
        "secureClientPort=0",
        f"ssl.keyStore.location={files.key_store().location}",
        "ssl.clientAuth=none",
        client_port=None,
    )
    await server.start()
    assert server.port is None
    assert server.secure_port
    client = await WireClient.open(server.secure_port, files.client(None))
    client.writer.write(connect_frame())
    assert (await client.connect_response()).session_id
    await client.call(OpCode.CREATE, create("/a", b"1"))
    assert (await client.call(OpCode.GET_DATA, GetDataRequest("/a", False))).data == b"1"
    plain = await WireClient.open(server.secure_port)
    plain.writer.write(connect_frame())
    assert await plain.rest() == b""
    (refusal,) = of(said, "tls.handshake_failed")
    assert refusal["client"] == "127.0.0.1"
    stats = server._driver.service.stats
    assert (stats.unsuccessful_handshakes, stats.auth_failed) == (1, 1)
    (serving,) = of(said, "server.serving")
    assert (serving["client_port"], serving["secure_client_port"]) == (None, server.secure_port)
    await server.close()
    assert await client.rest() == b""
    for one in (client, plain):
        await one.close()
