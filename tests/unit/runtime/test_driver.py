"""The driver: what the service proposes reaches the disk in batches, and nothing is told before it is there."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from tests.fakes.driven_server import AwaitedClient, DrivenServer, GatedFs, logged_zxids
from tests.fakes.memory_fs import MemoryFs
from tests.fakes.replies import Reply, create, delete, set_data
from tests.fakes.wire_client import request_frame
from zkpy.runtime import clock
from zkpy.runtime.lookout import Lookout
from zkpy.storage.errors import LogFailedError
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import GetDataRequest

Start = Callable[..., DrivenServer]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    servers: list[DrivenServer] = []

    def begin(fs: MemoryFs | None = None, **options: Any) -> DrivenServer:
        servers.append(DrivenServer(fs, **options))
        return servers[-1]

    yield begin
    for server in servers:
        if isinstance(server.fs, GatedFs):
            server.fs.gate.set()
        server.close()


async def replies(client: AwaitedClient, count: int) -> list[Reply]:
    messages = await client.next(count)
    return [message for message in messages if isinstance(message, Reply)]


def in_thread(wait: Callable[[float], bool]) -> Awaitable[bool]:
    """Wait for something that the log thread does."""
    return asyncio.get_running_loop().run_in_executor(None, wait, 20)


async def test_a_write_is_answered_when_it_would_survive_a_power_cut(start: Start) -> None:
    server = start()
    client = await server.client()
    for number in range(5):
        client.send(OpCode.CREATE, create(f"/{number}"))
        (reply,) = await replies(client, 1)
        assert logged_zxids(server.fs.after_power_cut(number))[-1] == reply.zxid


async def test_nothing_is_told_while_the_disk_has_not_confirmed_it(start: Start) -> None:
    fs = GatedFs()
    server = start(fs)
    client, other = await server.client(), await server.client()
    fs.gate.clear()
    client.send(OpCode.CREATE, create("/a", b"1"))
    assert await in_thread(fs.syncing.wait)
    other.send(OpCode.GET_DATA, GetDataRequest("/a", False))
    assert (await replies(other, 1))[0].err == ErrorCode.NONODE
    assert client.inbox == []
    fs.gate.set()
    assert (await replies(client, 1))[0].path == "/a"


async def test_what_gathers_while_the_disk_is_busy_is_one_batch(start: Start) -> None:
    fs = GatedFs()
    server = start(fs)
    client = await server.client()
    fs.gate.clear()
    client.send(OpCode.CREATE, create("/0"))
    assert await in_thread(fs.syncing.wait)
    for number in range(1, 8):
        client.send(OpCode.CREATE, create(f"/{number}"))
    for _ in range(3):
        await asyncio.sleep(0)  # whatever the loop has to do
    assert len(server.service.unlogged) == 7
    fs.gate.set()
    assert [reply.path for reply in await replies(client, 8)] == [f"/{number}" for number in range(8)]
    sizes = server.driver.log_stats.batch_size
    assert (sizes.count, sizes.sum, sizes.max) == (3, 9, 7)
    assert server.driver.log_stats.queue_size.max == 7


class ToldQuorum:
    """The server alone is enough; notes up to where its log is durable whenever the service is told."""

    def __init__(self, server: DrivenServer) -> None:
        self.told: list[int] = []
        self._proposals = server.service.proposals
        self._proposals.change_quorum(self, self._proposals.last_committed + 1)

    def is_quorum(self, acks: AbstractSet[int]) -> bool:
        self.told += [self._proposals.acked_by(server_id) for server_id in acks]
        return True


async def test_what_is_written_at_once_is_told_behind_what_the_thread_had_before_it(start: Start) -> None:
    """The disk turns out to be fast while more has gathered: the second batch is durable before the first one is told."""
    fs = GatedFs()
    server = start(fs)
    quorum = ToldQuorum(server)
    client = await server.client()
    fs.gate.clear()
    client.send(OpCode.CREATE, create("/0"))
    assert await in_thread(fs.syncing.wait)
    client.send(OpCode.CREATE, create("/1"))
    server.worker._pace.is_fast = True
    fs.gate.set()
    assert [reply.path for reply in await replies(client, 2)] == ["/0", "/1"]
    assert quorum.told == [1, 2, 3]


async def test_a_batch_has_at_most_the_configured_size(start: Start) -> None:
    server = start(log={"max_batch_size": 3})
    client = await server.client()
    for number in range(8):
        client.send(OpCode.CREATE, create(f"/{number}"))
    await replies(client, 8)
    assert server.driver.log_stats.batch_size.max == 3
    assert server.driver.log_stats.batch_size.count == 4


async def test_everything_of_one_turn_of_the_loop_is_one_batch(start: Start) -> None:
    server = start()
    clients = [await server.client() for _ in range(3)]
    before = server.driver.log_stats.batch_size.count
    for client in clients:
        client.send(OpCode.CREATE, create("/n", flags=2))
    for client in clients:
        await replies(client, 1)
    assert server.driver.log_stats.batch_size.count == before + 1


class StoppedClock:
    """Time passes when a test says so."""

    def __init__(self) -> None:
        self.now_ms = clock.mono_ms()

    def wall_ms(self) -> int:
        return clock.wall_ms()

    def mono_ms(self) -> int:
        return self.now_ms


async def test_before_the_loop_waits_for_the_disk_it_takes_what_keeps_coming(start: Start) -> None:
    server = start(clock=StoppedClock())
    client = await server.client()
    server.worker._pace.is_fast = True
    sizes = server.driver.log_stats.batch_size
    before = sizes.count
    for number in range(20):
        client.send(OpCode.CREATE, create(f"/{number}"))
        await asyncio.sleep(0)  # one turn of the loop
    assert len(await replies(client, 20)) == 20
    assert (sizes.count, sizes.max) == (before + 1, 20)


async def test_but_for_a_millisecond_only(start: Start) -> None:
    time = StoppedClock()
    server = start(clock=time)
    client = await server.client()
    server.worker._pace.is_fast = True
    for number in range(20):
        if number == 5:
            time.now_ms += 1
        client.send(OpCode.CREATE, create(f"/{number}"))
        await asyncio.sleep(0)
    assert len(await replies(client, 20)) == 20
    assert server.driver.log_stats.batch_size.max == 14, "what came in the second millisecond"


async def test_a_flush_delay_waits_for_more_until_the_batch_is_full(start: Start) -> None:
    server = start(log={"flush_delay_ms": 1, "max_batch_size": 2})
    client = await server.client()
    client.send(OpCode.CREATE, create("/a"))
    await replies(client, 1)
    client.send(OpCode.CREATE, create("/b"))
    client.send(OpCode.CREATE, create("/c"))
    await replies(client, 2)
    assert server.driver.log_stats.batch_size.max == 2


async def test_a_flush_that_finds_nothing_left_does_nothing(start: Start) -> None:
    server = start()
    client = await server.client()
    batches = server.driver.log_stats.batch_size.count
    client.send(OpCode.CREATE, create("/a"))
    server.service.log_rolled_back(server.mono_ms)
    server.driver.send()
    assert (await replies(client, 1))[0].err == ErrorCode.SYSTEMERROR
    await asyncio.sleep(0)
    assert server.driver.log_stats.batch_size.count == batches


# -- a full disk


async def test_a_full_disk_refuses_writes_and_serves_everything_else(start: Start) -> None:
    fs = MemoryFs(capacity=1 << 16)
    server = start(fs)
    client = await server.client()
    client.send(OpCode.CREATE, create("/a", b"kept"))
    await replies(client, 1)
    client.send(OpCode.SET_DATA, set_data("/a", bytes(1 << 17)))
    client.send(OpCode.GET_DATA, GetDataRequest("/a", False))
    refused, read = await replies(client, 2)
    assert (refused.err, read.data) == (ErrorCode.SYSTEMERROR, b"kept")
    assert "log.disk_full" in server.events()
    client.send(OpCode.DELETE, delete("/a"))
    assert (await replies(client, 1))[0].err == ErrorCode.SYSTEMERROR
    assert not server.fatal.done()


async def fill(server: DrivenServer, client: AwaitedClient) -> list[int]:
    """Small writes, more than the disk has room for; what they were answered."""
    errors: list[int] = []
    for number in range(100):
        client.send(OpCode.CREATE, create(f"/{number}", bytes(500)))
        errors += [reply.err for reply in await replies(client, 1)]
    return errors


async def test_writes_go_on_by_themselves_when_there_is_room_again(start: Start) -> None:
    fs = MemoryFs(capacity=20_000)
    server = start(fs)
    client = await server.client()
    kept = (await fill(server, client)).count(0)
    server.driver.tick()
    client.send(OpCode.CREATE, create("/a"))
    assert (await replies(client, 1))[0].err == ErrorCode.SYSTEMERROR, "there still is none"
    fs.capacity = 1 << 24
    server.driver.tick()
    assert server.events()[-1] == "log.has_space_again"
    client.send(OpCode.CREATE, create("/a"))
    assert (await replies(client, 1))[0].path == "/a"
    assert logged_zxids(fs.after_power_cut(1)) == list(range(1, kept + 3))


async def test_a_disk_that_is_nearly_full_is_noticed_before_a_write_is_lost(start: Start) -> None:
    fs = MemoryFs(capacity=20_000)
    server = start(fs)
    client = await server.client()
    errors = await fill(server, client)
    assert errors.count(0) > 10
    assert errors == sorted(errors, reverse=True), "once refused, all are"
    assert errors[-1] == ErrorCode.SYSTEMERROR
    assert server.events().count("log.disk_full") == 1
    client.send(OpCode.CLOSE_SESSION)
    (reply,) = await replies(client, 1)
    assert reply.err == 0, "there is room for what must be logged"
    assert client.closed


# -- a log that cannot be trusted


async def test_a_disk_that_fails_when_it_is_asked_for_room_stops_the_server(start: Start) -> None:
    fs = MemoryFs(capacity=20_000)
    server = start(fs)
    client = await server.client()
    await fill(server, client)
    fs.fail_at = {fs.operations + 1: errno.EIO}
    server.driver.tick()
    assert isinstance(await asyncio.wait_for(server.fatal, 20), LogFailedError)


async def test_a_failed_sync_stops_the_server_and_nothing_is_acknowledged(start: Start) -> None:
    fs = MemoryFs()
    server = start(fs)
    client = await server.client()
    fs.fail_at = {fs.operations + 2: errno.EIO}  # a write, then the sync
    client.send(OpCode.CREATE, create("/a"))
    error = await asyncio.wait_for(server.fatal, 20)
    assert isinstance(error, LogFailedError)
    assert client.inbox == []


# -- snapshots


async def test_a_snapshot_is_due_when_enough_was_logged_and_the_log_has_rolled(start: Start) -> None:
    server = start(log={"snap_count": 4})
    client = await server.client()
    for number in range(12):
        client.send(OpCode.CREATE, create(f"/{number}"))
        await replies(client, 1)
    assert 2 <= server.snapshots_due <= 5
    files = [name for name in server.fs.names("/log") if name.startswith("log.")]
    assert len(files) in (server.snapshots_due, server.snapshots_due + 1)
    assert logged_zxids(server.fs) == list(range(1, 14))


async def test_the_smallest_count_asks_for_a_snapshot_at_every_second_txn(start: Start) -> None:
    """Apache's rule: more than half of snapCount, plus what was drawn below the other half."""
    server = start(log={"snap_count": 2})
    client = await server.client()
    due = [server.snapshots_due]
    for number in range(4):
        client.send(OpCode.CREATE, create(f"/{number}"))
        await replies(client, 1)
        due.append(server.snapshots_due)
    assert due == [0, 1, 1, 2, 2]


async def test_a_snapshot_is_due_when_enough_bytes_were_logged(start: Start) -> None:
    server = start(log={"snap_size_limit_bytes": 2000})
    client = await server.client()
    for number in range(3):
        client.send(OpCode.CREATE, create(f"/{number}", bytes(2000)))
        await replies(client, 1)
    assert server.snapshots_due == 3


async def test_a_size_limit_of_zero_is_none(start: Start) -> None:
    server = start(log={"snap_size_limit_bytes": 0})
    client = await server.client()
    client.send(OpCode.CREATE, create("/a", bytes(100_000)))
    await replies(client, 1)
    assert server.snapshots_due == 0


async def test_what_gathered_behind_a_roll_is_logged_too(start: Start) -> None:
    fs = GatedFs()
    server = start(fs, log={"snap_count": 2, "max_batch_size": 1})
    client = await server.client()
    fs.gate.clear()
    for number in range(6):
        client.send(OpCode.CREATE, create(f"/{number}"))
    fs.gate.set()
    assert len(await replies(client, 6)) == 6
    assert logged_zxids(fs) == list(range(1, 8))


# -- the rest


async def test_a_tick_sends_what_it_brings_about(start: Start) -> None:
    server = start(min_session_timeout_ms=0)
    client = AwaitedClient(server)
    client.connect(timeout_ms=0)
    await client.opened()
    now = server.mono_ms
    for step in range(1, 4):
        server.service.tracker.expired(now + 2000 * step)
    server.service.tracker.reopen(client.session_id, server.mono_ms - 10_000)
    server.driver.tick()
    while not client.closed:
        await client._wait()
    assert server.service.sessions.committed == {}


async def test_slow_syncs_are_reported(start: Start) -> None:
    server = start(log={"fsync_warning_threshold_ms": -1})
    await server.client()
    assert server.events() == ["log.slow_sync"]
    stats = server.driver.log_stats
    assert stats.slow_syncs == 1
    assert stats.sync_ms.count == 1
    stats.reset()
    assert (stats.slow_syncs, stats.sync_ms.count, stats.batch_size.count, stats.queue_size.count) == (
        0,
        0,
        0,
        0,
    )


async def test_refused_connections_are_one_line_with_their_reason(start: Start) -> None:
    server = start()
    server.driver.refused("connection.rejected", "10.0.0.1", 4711, "too many")
    (record,) = server.records
    assert record["event"] == "connection.rejected"
    assert (record["client"], record["reason"]) == ("10.0.0.1:4711", "too many")


async def test_four_letter_words_are_passed_on(start: Start) -> None:
    server = start()
    server.words[b"ruok"] = [b"imok"]
    assert server.driver.four_letter_word(b"ruok", b"") == b"imok"


async def test_stopping_twice_is_stopping_once(start: Start) -> None:
    server = start()
    await server.client()
    server.driver.stop()
    server.driver.stop()


async def test_whoever_was_answered_is_looked_out_for(start: Start) -> None:
    now_us = 1_000
    lookout = Lookout(asyncio.get_running_loop().call_soon, lambda: now_us, 100)

    def looks() -> bool:
        return lookout.is_looking

    fs = GatedFs()
    server = start(fs, lookout=lookout)
    client = await server.client()  # which is an answer
    assert looks()
    now_us += 200
    await asyncio.sleep(0)
    assert not looks()
    fs.gate.clear()
    for number in range(3):
        client.send(OpCode.CREATE, create(f"/{number}"))
        assert not looks(), "there is no answer yet"
    fs.gate.set()
    await replies(client, 3)
    client.send(OpCode.GET_DATA, GetDataRequest("/0", False))
    assert looks()
    server.driver.count_input(1)
    for _ in range(3):
        now_us += 40
        await asyncio.sleep(0)
    assert looks(), "120 us after the answer, but 80 after the input was seen"


async def test_the_wall_clock_is_asked_once_a_millisecond(start: Start) -> None:
    asked = 0

    class Watch:
        now_ms = 0

        def wall_ms(self) -> int:
            nonlocal asked
            asked += 1
            return 1_700_000_000_000 + asked

        def mono_ms(self) -> int:
            return self.now_ms

    watch = Watch()
    server = start(clock=watch)
    client = await server.client()
    ctimes = []
    before = asked
    for number in range(4):
        watch.now_ms = number // 2
        frame = request_frame(number + 1, OpCode.CREATE, create(f"/{number}"))[4:]
        assert server.driver.offer(client.link, [frame], 0, watch.now_ms, watch.now_ms) == 1
        server.driver.after_input()
        await replies(client, 1)
        ctimes.append(server.service.tree.nodes[f"/{number}"].ctime - 1_700_000_000_000 - before)
    assert ctimes == [1, 1, 2, 2]
