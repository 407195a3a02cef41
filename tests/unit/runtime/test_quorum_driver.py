"""The driver of a member: the order of what it does, what waits for the disk, and what happens when the disk fails."""

from __future__ import annotations

import asyncio
import errno
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.driven_member import DATA, FINALIZE_MS, DrivenMember, Wire
from tests.fakes.driven_server import AwaitedClient, GatedFs
from tests.fakes.replies import Reply, create, delete
from tests.unit.core.zab.learner_host import (
    UP_TO_DATE,
    commit,
    committed,
    leader_info,
    new_leader,
    packet,
    proposal,
    txns,
    zxid,
)
from zkpy.core.data_tree import DataTree
from zkpy.core.leading import LeadingService
from zkpy.core.owners import OwnerRules
from zkpy.core.txn import Txn
from zkpy.core.zab.effects import ReadHistory, TruncateLog
from zkpy.core.zab.learner_packets import ack, ack_epoch, learner_info, request
from zkpy.storage.errors import DiskFullError, LogFailedError
from zkpy_protocol.election import Notification, ServerState
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.quorum_packets import PacketType
from zkpy_protocol.records import (
    ACL,
    CreateSessionTxn,
    CreateTxn,
    ExistsRequest,
    Id,
    decode_quorum_packet,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.fakes.memory_fs import MemoryFs
    from zkpy_protocol.records import QuorumPacket

    Make = Callable[..., DrivenMember]

LEADER = 3
DIFF = packet(PacketType.DIFF, 0)


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    members: list[DrivenMember] = []

    def begin(*, voters: tuple[int, ...] = (1, 2, 3), **options: Any) -> DrivenMember:
        members.append(DrivenMember(voters=voters, **options))
        members[-1].start()
        return members[-1]

    yield begin
    for member in members:
        member.close()


async def leading(make: Make, **options: Any) -> DrivenMember:
    """An ensemble of one."""
    member = make(voters=(1,), **options)
    await member.leads()
    member.took_place()
    return member


async def quiet(member: DrivenMember) -> None:
    """The disk has done all it was asked."""
    peer = member.peer
    await member.until(lambda: not (peer.effect_under_way or peer.state.effects or peer._own_effects))


async def following(make: Make, *history: QuorumPacket, **options: Any) -> tuple[DrivenMember, Wire]:
    """A follower of epoch 1 that serves, and its link to the leader."""
    member = make(**options)
    leader = member.join(LEADER)
    for each in (leader_info(1), DIFF, *history, new_leader(1)):
        leader.say(each)
        await quiet(member)
        await member.until(lambda: not member.peer.unlogged and not member.driver._in_flight)
    await quiet(member)
    leader.say(UP_TO_DATE)
    assert member.driver.service.mode == "follower"
    leader.written()
    member.took_place()
    return member, leader


async def leading_others(make: Make, **options: Any) -> tuple[DrivenMember, Wire]:
    """The leader of epoch 1 with one follower."""
    member = make(**options)
    member.driver.notified(2, Notification(ServerState.LOOKING, 1, 0, 1, 0))
    member.driver.notified(3, Notification(ServerState.LOOKING, 1, 0, 1, 0))
    member.fire()
    follower = member.connect("follower")
    for each in (learner_info(2, 0, 0, is_observer=False), ack_epoch(0, 0), ack(zxid(1, 0))):
        say(follower, each)
        await quiet(member)
    assert member.driver.service.mode == "leader"
    follower.written()
    member.took_place()
    return member, follower


def say(wire: Wire, *packets: bytes) -> None:
    wire.say(*[decode_quorum_packet(each)[0] for each in packets])


async def reply(client: AwaitedClient) -> Reply:
    (message,) = await client.next(1)
    assert isinstance(message, Reply)
    return message


def in_thread(wait: Callable[[float], bool]) -> Awaitable[bool]:
    """Wait for something that another thread does."""
    return asyncio.get_running_loop().run_in_executor(None, wait, 20)


def create_session(session_id: int) -> bytes:
    return request(session_id, 0, OpCode.CREATE_SESSION, struct.pack(">i", 10_000), None)


# -- what is done after an input, and in which order


async def test_a_server_begins_by_asking_the_others(make: Make) -> None:
    member = make()
    notified = member.took_place()
    assert [(what, server_id) for what, server_id, *_ in notified] == [("notify", 2), ("notify", 3)]
    assert member.driver.service.is_serving is False


async def test_an_elected_leader_listens_and_serves_when_its_epochs_are_on_disk(make: Make) -> None:
    member = make(voters=(1,))
    await member.leads()
    assert member.took_place() == [
        ("listen", True),
        ("carry out", "SaveAcceptedEpoch", "log"),
        ("carry out", "SaveCurrentEpoch", "log"),
        ("serve", "leader"),
    ]
    assert (member.peer.state.accepted_epoch, member.peer.state.current_epoch) == (1, 1)


async def test_a_follower_dials_its_leader_until_it_is_connected(make: Make) -> None:
    member = make()
    member.took_place()
    member.join(LEADER)
    assert member.took_place() == [("dial", LEADER), ("dial", None), ("write", "leader")]


async def test_who_serves_comes_before_bytes_and_bytes_before_notifications(make: Make) -> None:
    """So a client that is told of its closed connection finds nobody at the old role, and the vote is the last word."""
    member, follower = await leading_others(make)
    member.driver.disconnected(follower.link, "gone")
    member.tick(2)
    kinds = [event[0] for event in member.took_place()]
    assert kinds == ["serve", "listen", "notify", "notify"]
    assert member.driver.service.mode == ""


async def test_a_leader_that_gives_up_closes_its_learners_before_it_asks_for_another(make: Make) -> None:
    """ZOOKEEPER-1277: somebody has asked for the zxid behind the last one of the epoch."""
    member, follower = await leading_others(make)
    use_up(member)
    say(follower, create_session(0x200000000000001))
    assert [event[:2] for event in member.took_place()] == [
        ("serve", ""),
        ("listen", False),
        ("close", "follower"),
        ("notify", 2),
        ("notify", 3),
    ]


def use_up(member: DrivenMember) -> None:
    """The zxids of epoch 1 are used up."""
    service = member.driver.service
    assert isinstance(service, LeadingService)
    service._prep.last_zxid = zxid(1, 0xFFFFFFFE)


async def test_what_is_answered_at_once_leaves_before_the_disk_is_asked(make: Make) -> None:
    member = make()
    leader = member.join(LEADER)
    member.took_place()
    leader.say(leader_info(1))
    await quiet(member)
    assert member.took_place() == [("carry out", "SaveAcceptedEpoch", "log"), ("write", "leader")]
    assert leader.written() == [("FOLLOWER_INFO", 0), ("ACK_EPOCH", 0)]


async def test_everything_for_a_server_is_one_write(make: Make) -> None:
    member, leader = await following(make)
    leader.say(*map(proposal, txns(1, 1, 3)))
    await member.until(lambda: len(member.logged()) == 3)
    await member.until(lambda: member.happened)
    assert member.took_place("write") == [("write", "leader")]
    assert leader.written() == [("ACK", txn.zxid) for txn in txns(1, 1, 3)]


async def test_nothing_is_acked_that_would_not_survive_a_power_cut(make: Make) -> None:
    fs = GatedFs()
    member, leader = await following(make, fs=fs)
    fs.gate.clear()
    leader.say(*map(proposal, txns(1, 1, 2)))
    assert await in_thread(fs.syncing.wait)
    leader.say(commit(txns(1, 1, 1)[0]))
    assert "/n100000001" in member.driver.service.tree.nodes, "a quorum of others has it"
    assert leader.written() == []
    fs.gate.set()
    await member.until(lambda: member.happened)
    assert leader.written() == [("ACK", zxid(1, 1)), ("ACK", zxid(1, 2))]


async def test_clients_of_a_member_are_answered(make: Make) -> None:
    member = await leading(make)
    client = await member.client()
    client.send(OpCode.CREATE, create("/a"))
    answered = await reply(client)
    assert (answered.path, answered.zxid) == ("/a", zxid(1, 2))
    assert member.logged() == [zxid(1, 1), zxid(1, 2)]


async def test_what_happened_is_logged_once_with_warnings_as_such(make: Make) -> None:
    member = await leading(make)
    member.pump()
    levels = {record["event"]: record["log_level"] for record in member.records}
    assert levels["leader.established"] == "info"
    assert member.peer.state.trace == []
    assert member.events().count("leader.established") == 1


async def test_the_end_of_a_role_and_a_lost_learner_are_warnings_and_the_rest_is_not(make: Make) -> None:
    events = {
        "election.started": "info",
        "election.undecided": "warning",
        "election.decided": "info",
        "leader.established": "info",
        "learner.synchronizing": "info",
        "learner.synced": "info",
        "learner.disconnected": "warning",
        "learner.dropped": "warning",
        "role.over": "warning",
    }
    member = make()
    member.records.clear()
    trace = member.peer.state.trace
    trace += [(event, {"epoch": 7}) for event in events]
    member.pump()
    assert [(record["event"], record["log_level"], record["epoch"]) for record in member.records] == [
        (event, level, 7) for event, level in events.items()
    ]
    assert trace == []


# -- a role that serves and goes on costs little


async def test_inputs_of_clients_do_not_step_the_peer(make: Make) -> None:
    """What others are to hear of the election goes out after a step, and would here."""
    member = await leading(make)
    client = await member.client()
    said = (2, Notification(ServerState.LEADING, 1, 0, 1, 1))
    member.peer.election.outbox.append(said)
    assert client.call(OpCode.EXISTS, ExistsRequest("/", False)).err == 0
    member.pump()
    assert member.took_place("notify") == []
    assert member.peer.election.outbox == [said]
    member.driver.notified(2, Notification(ServerState.FOLLOWING, 1, 0, 1, 1))
    assert ("notify", *said) in member.took_place("notify")


async def test_a_client_whose_write_ends_the_role_ends_it_at_once(make: Make) -> None:
    member = await leading(make)
    client = await member.client()
    use_up(member)
    client.send(OpCode.CREATE, create("/a"))
    assert [event[0] for event in member.took_place()] == ["serve", "listen"]
    assert member.peer.election.state == ServerState.LOOKING
    assert "role.over" in member.events()


async def test_a_reconfig_of_a_client_reaches_disk_and_sockets_at_once(make: Make) -> None:
    member = await leading(
        make, reconfig_enabled=True, standalone_enabled=False, service={"reconfig_enabled": True}
    )
    view = member.peer.state.view
    role = member.peer.role
    assert role is not None
    role.reconfigured(view.committed.with_version(zxid(1, 9)))  # type: ignore[union-attr]
    member.pump()
    assert member.took_place("view") == [("view", view.committed.version)]
    await quiet(member)
    assert ("carry out", "SaveProposedConfig", "log") in member.happened


async def test_a_vote_is_answered_while_the_role_goes_on(make: Make) -> None:
    member, _ = await leading_others(make)
    member.driver.notified(3, Notification(ServerState.LOOKING, 3, 0, 5, 0))
    ((_, server_id, answer),) = member.took_place("notify")
    assert (server_id, answer.state, answer.leader) == (3, ServerState.LEADING, 1)


# -- the deadline of the election


async def test_one_timer_waits_for_the_deadline(make: Make) -> None:
    member = make()
    (timer,) = member.loop.pending()
    assert timer.delay_ms == 200
    member.pump()
    assert member.loop.pending() == [timer], "it is not set anew when nothing has changed"
    member.fire()
    assert [one.delay_ms for one in member.loop.pending()] == [400]
    assert [event[0] for event in member.took_place()][-2:] == ["notify", "notify"]


async def test_the_timer_follows_the_deadline(make: Make) -> None:
    member = make()
    member.fire()
    member.mono_ms += 100
    member.driver.notified(2, Notification(ServerState.LOOKING, 1, 0, 1, 0))
    assert [one.delay_ms for one in member.loop.pending()] == [FINALIZE_MS]
    member.fire()
    assert member.loop.pending() == [], "a decided election waits for nothing"


async def test_a_deadline_that_is_past_is_due_at_once(make: Make) -> None:
    member = make()
    member.mono_ms += 10_000
    (timer,) = member.loop.pending()
    timer.cancel()
    member.driver._wake()
    assert member.loop.pending()[0].delay_ms >= 0


async def test_a_stopped_driver_wakes_no_more(make: Make) -> None:
    member = make()
    member.driver.stop()
    assert member.loop.pending() == []


# -- the disk


async def test_effects_are_carried_out_one_by_one(make: Make) -> None:
    member = make()
    leader = member.join(LEADER)
    member.disk.gate.clear()
    leader.say(leader_info(1), DIFF, new_leader(1))
    assert await in_thread(member.disk.busy.wait)
    for _ in range(5):
        member.pump()
    assert member.took_place("carry out") == [("carry out", "SaveAcceptedEpoch", "log")]
    assert leader.written() == [("FOLLOWER_INFO", 0)]
    member.disk.gate.set()
    await member.until(lambda: leader.written() == [("ACK", zxid(1, 0))])
    assert member.took_place("carry out") == [
        ("carry out", "MarkCurrentEpoch", "log"),
        ("carry out", "SaveCurrentEpoch", "log"),
    ]


async def test_an_epoch_waits_for_the_batch_in_front_of_it(make: Make) -> None:
    """One thread has log and epochs: currentEpoch is never ahead of the txns it stands for."""
    fs = GatedFs()
    member = make(fs=fs)
    leader = member.join(LEADER)
    leader.say(leader_info(1))
    await quiet(member)
    fs.gate.clear()
    leader.say(DIFF, *committed(*txns(1, 1, 2)), new_leader(1))
    assert await in_thread(fs.syncing.wait)
    member.pump()
    assert fs.read(f"{DATA.snap_dir}/currentEpoch") == b"0"
    assert [event[1] for event in member.took_place("carry out")] == ["SaveAcceptedEpoch", "MarkCurrentEpoch"]
    fs.gate.set()
    await quiet(member)
    await member.until(lambda: leader.written()[-1:] == [("ACK", zxid(1, 0))])
    assert fs.read(f"{DATA.snap_dir}/currentEpoch") == b"1"
    assert member.logged() == [zxid(1, 1), zxid(1, 2)]


async def test_history_is_read_beside_the_log(make: Make) -> None:
    """It may take long; meanwhile writes go on."""
    member, follower = await leading_others(make)
    client = await acked_client(member, follower)
    member.disk.gate.clear()
    member.peer.state.effects.append(ReadHistory(follower.link, 1, 2))
    member.pump()
    assert await in_thread(member.disk.busy.wait)
    ((_, name, thread),) = member.took_place("carry out")
    assert (name, thread == "log") == ("ReadHistory", False)
    client.send(OpCode.CREATE, create("/a"))
    await member.until(lambda: ("PROPOSAL", zxid(1, 2)) in follower.written())
    say(follower, ack(zxid(1, 2)))
    assert (await reply(client)).path == "/a"
    await member.until(lambda: member.logged() == [zxid(1, 1), zxid(1, 2)])
    member.disk.gate.set()
    await quiet(member)


async def acked_client(member: DrivenMember, follower: Wire) -> AwaitedClient:
    """A client of a leader, whose follower acks its session."""
    client = AwaitedClient(member)
    client.connect()
    say(follower, ack(zxid(1, 1)))
    await client.opened()
    follower.written()
    return client


@pytest.mark.parametrize("mode", ["TRUNC", "SNAP"])
async def test_nobody_writes_a_snapshot_of_a_history_that_is_cut_or_replaced(make: Make, mode: str) -> None:
    fs = GatedFs()
    first, leader = await following(make, *committed(*txns(1, 1, 4)), fs=fs)
    first.driver.stop()
    member = make(fs=fs)
    leader = member.join(LEADER)
    leader.say(leader_info(2))
    await quiet(member)
    member.took_place()
    if mode == "TRUNC":
        leader.say(packet(PacketType.TRUNC, zxid(1, 2)), new_leader(2))
    else:
        leader.say(packet(PacketType.SNAP, zxid(1, 4)))
        tree = DataTree(OwnerRules(extended=True, emulate_353=False))
        tree.last_zxid = zxid(1, 4)
        member.driver.snapshot(leader.link, tree, {})
        leader.say(new_leader(2))
    await quiet(member)
    steps = [
        event[1] if event[0] == "carry out" else event[0]
        for event in member.took_place("carry out", "rewrite")
    ]
    changes = {"TRUNC": "TruncateLog", "SNAP": "InstallSnapshot"}[mode]
    assert steps[-3:] == ["rewrite", changes, "SaveCurrentEpoch"]
    assert steps.count("rewrite") == 1


async def test_a_failed_effect_ends_the_server_and_nothing_is_promised(make: Make) -> None:
    member = make()
    leader = member.join(LEADER)
    member.disk.failure = OSError(errno.ENOSPC, "No space left on device")
    leader.say(leader_info(1))
    await member.until(lambda: member.failed)
    member.pump()
    assert leader.written() == [("FOLLOWER_INFO", 0)]
    (failure,) = member.failed
    assert isinstance(failure, LogFailedError)
    assert str(failure) == "SaveAcceptedEpoch failed: [Errno 28] No space left on device"
    assert member.peer.state.accepted_epoch == 0


async def test_5094_a_disk_that_fails_in_the_middle_stops_the_server_and_the_peer_hears_nothing(
    make: Make,
) -> None:
    """What is in memory may be ahead of it, or behind."""
    member, leader = await following(make)
    effect = TruncateLog(zxid(1, 0), ())
    member.peer.state.effects.append(effect)
    member.disk.failure = OSError("no such device")
    member.pump()
    await member.until(lambda: member.failed)
    await asyncio.sleep(0)
    assert member.peer.effect_under_way is effect, "it is not done"
    assert str(member.failed[0]) == "TruncateLog failed: no such device"
    assert leader.written() == []


async def test_history_that_cannot_be_read_ends_the_server(make: Make) -> None:
    member, follower = await leading_others(make)
    member.disk.failure = OSError(errno.EIO, "Input/output error")
    member.peer.state.effects.append(ReadHistory(follower.link, 1, 2))
    member.pump()
    await member.until(lambda: member.failed)
    assert str(member.failed[0]) == "ReadHistory failed: [Errno 5] Input/output error"


# -- a disk that is full, or fails (what Apache calls an unrecoverable error)


def next_operation(fs: MemoryFs, error: int, what: str) -> None:
    """The next operation of this kind fails; it is this one, if nothing else comes between."""
    offset = {"write": 1, "datasync": 2}[what]
    fs.fail_at[fs.operations + offset] = error


@pytest.mark.parametrize(
    ("what", "error", "reason"),
    [
        ("write", errno.ENOSPC, "no space for"),
        ("write", errno.EIO, "write failed"),
        ("datasync", errno.EIO, "sync failed"),
        ("datasync", errno.ENOSPC, "sync failed"),
    ],
)
async def test_a_follower_whose_log_fails_ends_and_acks_nothing(
    make: Make, what: str, error: int, reason: str
) -> None:
    member, leader = await following(make)
    next_operation(member.fs, error, what)
    leader.say(*map(proposal, txns(1, 1, 2)))
    await member.until(lambda: member.failed)
    member.tick(4)
    leader.say(proposal(txns(1, 3, 3)[0]))
    await asyncio.sleep(0)
    assert [reason in str(failure) for failure in member.failed] == [True], "once"
    assert not any(name == "ACK" for name, _ in leader.written())
    assert member.peer.effect_under_way is None


@pytest.mark.parametrize(("what", "error"), [("write", errno.ENOSPC), ("datasync", errno.EIO)])
async def test_a_leader_whose_log_fails_ends_and_what_a_quorum_of_others_has_is_committed(
    make: Make, what: str, error: int
) -> None:
    member, follower = await leading_others(make)
    say(follower, create_session(0x200000000000001))
    next_operation(member.fs, error, what)
    await member.until(lambda: member.failed)
    assert ("PROPOSAL", zxid(1, 1)) in follower.written()
    say(follower, ack(zxid(1, 1)))
    assert follower.written() == [], "one of three is no quorum"
    third = member.connect("third")
    say(third, learner_info(3, 1, 0, is_observer=False))
    say(third, ack_epoch(0, 0))
    say(third, ack(zxid(1, 0)), ack(zxid(1, 1)))
    assert follower.written() == [("COMMIT", zxid(1, 1))]
    member.tick()
    assert len(member.failed) == 1


async def test_an_ensemble_of_one_whose_log_fails_answers_nothing(make: Make) -> None:
    member = await leading(make)
    client = await member.client()
    next_operation(member.fs, errno.EIO, "datasync")
    client.send(OpCode.CREATE, create("/a"))
    await member.until(lambda: member.failed)
    member.pump()
    assert client.inbox == []
    assert "/a" not in member.driver.service.tree.nodes


async def test_a_follower_with_little_space_refuses_its_own_clients_and_goes_on_acking(make: Make) -> None:
    fs = GatedFs()
    member, leader = await following(make, fs=fs)
    used = -fs.room() + (1 << 60)
    fs.capacity = used + (1 << 12)
    first, second, third = txns(1, 1, 3)
    await fill(member, leader, first, second)
    refuses = [member.driver.service.refuse_writes]
    assert member.events().count("log.disk_full") == 1
    client = await follower_client(member, leader, third.zxid)
    client.send(OpCode.DELETE, delete("/n100000001"))
    assert (await reply(client)).err == ErrorCode.SYSTEMERROR
    assert client.call(OpCode.EXISTS, ExistsRequest("/n100000001", False)).err == 0
    assert member.failed == []
    fs.capacity = None
    member.tick()
    refuses.append(member.driver.service.refuse_writes)
    assert refuses == [True, False]
    assert "log.has_space_again" in member.events()


async def fill(member: DrivenMember, leader: Wire, *history: Any) -> None:
    """Txns that use the space ahead of the log up."""
    for txn in history:
        record = CreateTxn(
            f"/n{txn.zxid:x}", bytes(5000), [ACL(31, Id("world", "anyone"))], False, txn.zxid & 0xFFFF
        )
        big = Txn.make(0, 0, txn.zxid, 1, OpCode.CREATE, record, None)
        leader.say(proposal(big), commit(big))
        await member.until(lambda: len(leader.written()) == 1)


async def follower_client(member: DrivenMember, leader: Wire, next_zxid: int) -> AwaitedClient:
    """A client with a session; the leader says that it is there."""
    client = AwaitedClient(member)
    refuses, member.driver.service.refuse_writes = member.driver.service.refuse_writes, False
    client.connect()
    member.driver.service.refuse_writes = refuses
    session = client.link.session_id
    txn = Txn.make(session, 0, next_zxid, 1, OpCode.CREATE_SESSION, CreateSessionTxn(10_000), None)
    leader.say(proposal(txn), commit(txn))
    await client.opened()
    await member.until(lambda: ("ACK", next_zxid) in leader.written())
    return client


async def test_a_leader_with_little_space_ends_so_that_another_one_leads(make: Make) -> None:
    fs = GatedFs()
    member, follower = await leading_others(make, fs=fs)
    fs.capacity = -fs.room() + (1 << 60) + (1 << 12)
    for number in range(300):
        say(follower, create_session(0x200000000000001 + number))
        if member.failed:
            break
        await member.until(lambda: not member.driver._in_flight and not member.peer.unlogged)
        if member.failed:
            break
    (failure,) = member.failed
    assert isinstance(failure, DiskFullError)
    assert "free space in dataLogDir" in str(failure)


async def test_nobody_asks_for_space_while_an_effect_has_the_log(make: Make) -> None:
    member = await leading(make)
    service = member.driver.service
    service.refuse_writes = True
    member.disk.gate.clear()
    member.peer.state.effects.append(ReadHistory(Wire(member, "nobody").link, 1, 2))
    space = member.log.headroom_bytes
    member.tick()
    assert not service.refuse_writes, "this tick comes before the effect"
    more = member.log.headroom_bytes
    assert more > space
    service.refuse_writes = True
    member.tick()
    assert (service.refuse_writes, member.log.headroom_bytes) == (True, more)
    member.disk.gate.set()
    await quiet(member)
    member.tick()
    assert not service.refuse_writes


# -- the end


async def test_a_member_that_must_stop_says_so_once_and_does_nothing_more(make: Make) -> None:
    member, leader = await following(make)
    first, second, third = txns(1, 1, 3)
    leader.say(proposal(first), proposal(second))
    leader.say(commit(second))
    leader.say(proposal(third))
    member.tick(3)
    ((_, code, reason),) = member.took_place("fatal")
    assert (code, "COMMIT of 0x100000002" in reason) == (12, True)
    assert member.took_place("notify") == []


async def test_a_stopped_driver_asks_the_shells_for_nothing(make: Make) -> None:
    member, leader = await following(make)
    member.driver.stop()
    member.driver.disconnected(leader.link, "gone")
    member.driver.notified(2, Notification(ServerState.LOOKING, 2, 0, 1, 0))
    assert [event[0] for event in member.took_place()] == []


async def test_a_snapshot_is_due_when_enough_was_logged(make: Make) -> None:
    member, leader = await following(make, log={"snap_count": 2})
    leader.say(*map(proposal, txns(1, 1, 3)))
    await member.until(lambda: member.snapshots_due)


async def test_a_batch_under_way_is_finished_by_a_stop(make: Make) -> None:
    fs = GatedFs()
    member, leader = await following(make, fs=fs)
    fs.gate.clear()
    leader.say(proposal(txns(1, 1, 1)[0]))
    assert await in_thread(fs.syncing.wait)
    fs.gate.set()
    member.driver.stop()
    assert member.logged() == [zxid(1, 1)]
