"""Discovery and synchronization of a learner: what is on disk before anything is said, and what a crash at any moment leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.local_server import LocalServer
from tests.fakes.replies import create as create_request
from tests.fakes.replies import delete, multi, set_data
from tests.unit.core.zab.learner_host import (
    UP_TO_DATE,
    Host,
    commit,
    committed,
    create,
    filler,
    inform,
    leader_info,
    new_leader,
    packet,
    payloads,
    proposal,
    txns,
    zxid,
)
from zkpy.core.data_tree import DataTree
from zkpy.core.owners import OwnerRules
from zkpy.core.zab.effects import InstallSnapshot, MarkCurrentEpoch, SaveAcceptedEpoch, TruncateLog
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketType
from zkpy_protocol.records import QuorumPacket, decode_learner_info

if TYPE_CHECKING:
    from zkpy.core.txn import Txn


def diff(zxid_: int) -> QuorumPacket:
    return packet(PacketType.DIFF, zxid_)


def trunc(zxid_: int) -> QuorumPacket:
    return packet(PacketType.TRUNC, zxid_)


def snap(zxid_: int) -> QuorumPacket:
    return packet(PacketType.SNAP, zxid_)


def tree_of(*history: Txn) -> DataTree:
    """The state after some txns, as a leader would send it."""
    tree = DataTree(OwnerRules(False, emulate_353=False))
    for txn in history:
        tree.apply(txn, None)
    return tree


def names(*history: Txn) -> list[str]:
    return sorted(txn.record.path for txn in history)


# -- discovery (§7.1)


def test_a_follower_introduces_itself_with_the_epoch_it_has_promised() -> None:
    host = Host(server_id=2, epoch=3, accepted_epoch=4)
    host.connect()
    (info,) = host.sent_packets()
    assert (info.type, info.zxid) == (PacketType.FOLLOWER_INFO, 4 << 32)
    learner_info, _ = decode_learner_info(info.data or b"", 0)
    assert (learner_info.serverid, learner_info.protocol_version, learner_info.config_version) == (
        2,
        0x10000,
        0,
    )


def test_an_observer_introduces_itself_as_one() -> None:
    host = Host(observer=True)
    host.connect()
    assert host.sent() == [("OBSERVER_INFO", 0)]


def test_a_new_epoch_is_promised_on_disk_before_it_is_acked() -> None:
    """ZOOKEEPER-2307, -2354: file, then memory, then network."""
    host = Host(history=txns(1, 1, 3), epoch=1)
    host.connect()
    host.sent()
    host.receive(leader_info(5))
    assert host.asked() == ["SaveAcceptedEpoch"]
    assert host.state.accepted_epoch == 1
    assert host.sent() == []
    assert host.carry_out() == SaveAcceptedEpoch(5)
    assert host.disk.accepted_epoch == 5
    (ack,) = host.sent_packets()
    assert (ack.type, ack.zxid, ack.data) == (PacketType.ACK_EPOCH, zxid(1, 3), (1).to_bytes(4))


def test_an_epoch_that_was_promised_before_is_no_new_promise() -> None:
    host = Host(history=txns(1, 1, 3), epoch=1, accepted_epoch=2)
    host.connect()
    host.sent()
    host.receive(leader_info(2))
    assert host.asked() == []
    (ack,) = host.sent_packets()
    assert (ack.type, ack.zxid, ack.data) == (PacketType.ACK_EPOCH, zxid(1, 3), b"\xff\xff\xff\xff")


def test_an_older_epoch_is_never_answered() -> None:
    host = Host(epoch=3)
    host.connect()
    host.sent()
    host.receive(leader_info(2))
    assert host.sent() == []
    assert host.over() == "the leader's epoch 2 is older than the accepted epoch 3"


def test_a_database_that_is_not_trusted_has_no_zxid() -> None:
    host = Host()
    host.state.database.is_trusted = False
    host.connect()
    host.receive(leader_info(1))
    host.settle()
    assert host.sent() == [("FOLLOWER_INFO", 0), ("ACK_EPOCH", -1)]


def test_a_database_is_trusted_when_it_is_the_leaders() -> None:
    host = Host()
    host.state.database.is_trusted = False
    host.discover(1)
    host.receive(snap(zxid(1, 2)))
    host.snapshot(tree_of(*txns(1, 1, 2)))
    host.receive(new_leader(1))
    host.carry_out()
    host.carry_out()
    assert [host.state.database.is_trusted] == [False]
    host.carry_out()
    assert [host.state.database.is_trusted] == [True]


def test_what_comes_while_the_promise_is_written_waits_in_order() -> None:
    host = Host()
    host.connect()
    host.sent()
    host.receive(leader_info(1), diff(0), new_leader(1))
    assert host.is_busy()
    assert host.asked() == ["SaveAcceptedEpoch"]
    host.carry_out()
    assert host.sent() == [("ACK_EPOCH", 0)]
    assert host.asked() == ["MarkCurrentEpoch"]


@pytest.mark.parametrize("type_", [PacketType.NEW_LEADER, PacketType.PING, PacketType.DIFF, 77])
def test_anything_but_leaderinfo_ends_discovery(type_: int) -> None:
    host = Host()
    host.connect()
    host.receive(packet(type_, 1 << 32))
    assert host.over() == f"packet of type {type_} in the phase DISCOVERY"
    assert host.link.closed == host.over()


def test_a_mode_is_needed_before_proposals() -> None:
    host = Host()
    host.discover(1)
    host.receive(proposal(create(zxid(1, 1))))
    assert host.over() == "packet of type 2 in the phase MODE"


def test_the_role_is_not_over_while_a_promise_is_being_written() -> None:
    """Else the next leader could be promised the same epoch, with another history."""
    host = Host()
    host.connect()
    host.receive(leader_info(4))
    host.sent()
    host.learner.disconnected("gone")
    assert host.over() is None
    host.carry_out()
    assert host.over() == "gone"
    assert host.sent() == []
    assert host.state.accepted_epoch == 4


# -- the order of the steps (§8.7): ZOOKEEPER-3911, -4643, -4646, -4785


def test_a_diff_is_acked_when_its_txns_and_then_the_epoch_are_durable() -> None:
    """ZOOKEEPER-3911, -4643, -4646, -4785: disk, currentEpoch, ACK; and currentEpoch.tmp before it all (-4269)."""
    old, new = txns(1, 1, 2), txns(2, 1, 3)
    host = Host(history=old, epoch=1)
    host.discover(2)
    host.receive(diff(zxid(2, 3)), *committed(*new))
    assert (host.asked(), host.unlogged()) == ([], [])
    assert host.paths == names(*old), "nothing is applied before the disk knows of the epoch"
    host.receive(new_leader(2))
    assert (host.asked(), host.unlogged()) == (["MarkCurrentEpoch"], [])
    assert host.carry_out() == MarkCurrentEpoch(2)
    assert (host.asked(), host.unlogged()) == ([], [txn.zxid for txn in new])
    host.persist(2)
    assert host.asked() == []
    host.persist(1)
    assert host.asked() == ["SaveCurrentEpoch"]
    assert host.sent() == []
    host.carry_out()
    assert host.sent() == [("ACK", 2 << 32)], "one ACK, none for the txns"
    assert host.disk.current_epoch == 2
    assert host.paths == names(*old, *new)
    assert host.state.database.is_trusted


def test_a_snapshot_is_on_disk_before_the_epoch_and_the_ack() -> None:
    state, late = txns(2, 1, 3), txns(2, 4, 5)
    host = Host(history=txns(1, 1, 9), epoch=1)
    host.discover(2)
    host.receive(snap(zxid(2, 3)))
    host.snapshot(tree_of(*state), {7: 4000})
    host.receive(*committed(*late), new_leader(2))
    assert host.asked() == ["MarkCurrentEpoch"]
    assert len(host.disk.snapshots) == 1
    host.carry_out()
    assert host.asked() == ["InstallSnapshot"]
    assert host.sent() == []
    effect = host.carry_out()
    assert isinstance(effect, InstallSnapshot)
    assert effect.zxid == zxid(2, 5), "what was committed meanwhile is in it"
    assert host.asked() == ["SaveCurrentEpoch"]
    assert host.sent() == []
    host.carry_out()
    assert host.sent() == [("ACK", 2 << 32)]
    assert host.unlogged() == []
    again = host.restarted()
    assert again.paths == names(*state, *late)
    assert again.state.database.sessions == {7: 4000}


def test_a_cut_log_is_on_disk_before_the_epoch_and_the_ack() -> None:
    """ZOOKEEPER-5094: the file is cut after the memory was built, so that neither is ever behind the other unnoticed."""
    history = txns(1, 1, 9)
    host = Host(history=history, epoch=1)
    host.discover(2)
    host.receive(trunc(zxid(1, 4)), new_leader(2))
    assert host.asked() == ["LoadDatabase"]
    host.carry_out()
    assert host.tree.last_zxid == zxid(1, 4)
    assert host.paths == names(*history[:4])
    assert host.asked() == ["MarkCurrentEpoch"]
    host.carry_out()
    assert host.asked() == ["TruncateLog"]
    assert len(host.disk.log) == 9
    assert host.carry_out() == TruncateLog(zxid(1, 4), ())
    assert host.sent() == []
    assert host.asked() == ["SaveCurrentEpoch"]
    host.carry_out()
    assert host.sent() == [("ACK", 2 << 32)]
    assert host.restarted().paths == names(*history[:4])


def test_the_first_ack_is_that_of_newleader() -> None:
    """ZOOKEEPER-4685: an ack of a proposal that overtakes it can block the leader's quorum."""
    open_txn = create(zxid(1, 1))
    host = Host()
    host.discover(1)
    host.receive(diff(0), proposal(open_txn), new_leader(1))
    host.settle()
    assert host.sent() == [("ACK", 1 << 32)]
    assert host.unlogged() == [], "an open proposal is logged when the leader serves"
    host.receive(UP_TO_DATE)
    assert host.sent() == [("ACK", 1 << 32)]
    assert host.unlogged() == [open_txn.zxid]
    host.persist()
    assert host.sent() == [("ACK", open_txn.zxid)]


def test_a_commit_before_uptodate_is_kept_for_later() -> None:
    """ZOOKEEPER-4394: a NullPointerException in Apache up to 3.9.2."""
    first, second = txns(1, 1, 2)
    host = Host()
    host.discover(1)
    host.receive(diff(0), proposal(first), new_leader(1))
    host.settle()
    host.sent()
    host.receive(commit(first), proposal(second))
    assert host.paths == []
    host.receive(UP_TO_DATE)
    assert host.paths == names(first)
    assert host.unlogged() == [first.zxid, second.zxid]
    assert host.sent() == [("ACK", 1 << 32)]
    host.persist()
    assert host.sent() == [("ACK", first.zxid), ("ACK", second.zxid)]
    assert [txn.zxid for txn in host.learner.pending] == [second.zxid]


def test_everything_committed_in_a_diff_enters_the_committed_log() -> None:
    """ZOOKEEPER-4925: a leader whose committed log has holes gives DIFFs that lose txns."""
    history = txns(1, 1, 8)
    host = Host(history=history[:3], epoch=1)
    host.discover(1)
    host.receive(diff(zxid(1, 7)), *committed(*history[3:5]), proposal(history[5]), new_leader(1))
    host.settle()
    host.receive(UP_TO_DATE, commit(history[5]), *committed(*history[6:]))
    assert payloads(host.state.database.committed_log.txns()) == payloads(history)


@pytest.mark.parametrize(
    "stream",
    [
        [committed(create(zxid(1, 4)))],
        [committed(create(zxid(1, 3)), create(zxid(1, 5)))],
        [committed(create(zxid(1, 3)), create(zxid(1, 3)))],
        [[proposal(create(zxid(1, 3))), proposal(create(zxid(1, 5)))]],
        [committed(create(zxid(2, 2)))],
    ],
    ids=["first", "inside", "twice", "open", "new epoch"],
)
def test_a_gap_in_the_history_ends_the_sync(stream: list[list[QuorumPacket]]) -> None:
    """ZOOKEEPER-4925, -2846: what comes behind a gap would be applied to a state that is not the leader's."""
    host = Host(history=txns(1, 1, 2), epoch=1)
    host.discover(3)
    host.receive(diff(zxid(1, 9)), *(each for part in stream for each in part))
    assert "gap" in (host.over() or "")
    assert not host.learner.database_lost
    assert host.unlogged() == []
    assert host.restarted().paths == names(*txns(1, 1, 2))


def test_a_later_epoch_may_begin_in_a_diff() -> None:
    host = Host(history=txns(1, 1, 2), epoch=1)
    new = [*txns(1, 3, 4), *txns(3, 1, 2)]
    host.discover(4)
    host.receive(diff(zxid(3, 2)), *committed(*new), new_leader(4))
    host.settle()
    assert host.sent() == [("ACK", 4 << 32)]
    assert payloads(host.disk.log[2:]) == payloads(new)


def test_a_txn_of_an_epoch_after_the_leaders_ends_the_sync() -> None:
    host = Host(history=txns(1, 1, 2), epoch=1)
    host.discover(2)
    host.receive(diff(zxid(3, 1)), *committed(create(zxid(3, 1))))
    assert host.over() == "txn 0x300000001 is of a later epoch than its leader"


@pytest.mark.parametrize(
    "packets",
    [
        [commit(create(zxid(1, 3)))],
        [proposal(create(zxid(1, 3))), proposal(create(zxid(1, 4))), commit(create(zxid(1, 4)))],
    ],
    ids=["no proposal", "not the oldest"],
)
def test_a_commit_in_a_sync_is_for_the_oldest_proposal(packets: list[QuorumPacket]) -> None:
    host = Host(history=txns(1, 1, 2), epoch=1)
    host.discover(1)
    host.receive(diff(zxid(1, 4)), *packets)
    assert (host.over() or "").endswith("which is not the oldest proposal")
    assert host.learner.fatal is None


def test_uptodate_does_not_stand_for_newleader() -> None:
    host = Host()
    host.discover(1)
    host.receive(diff(0), UP_TO_DATE)
    assert host.over() == "UPTODATE before NEWLEADER"


def test_newleader_has_the_epoch_that_was_accepted() -> None:
    host = Host()
    host.discover(2)
    host.receive(diff(0), new_leader(1))
    assert host.over() == "NEWLEADER of 0x100000000 from the leader of epoch 2"


def test_no_ping_is_answered_before_the_leader_serves() -> None:
    host = Host()
    ping = packet(PacketType.PING, 0)
    host.discover(1)
    host.receive(diff(0), ping, new_leader(1))
    host.settle()
    host.receive(ping)
    assert host.sent() == [("ACK", 1 << 32)]
    host.receive(UP_TO_DATE, ping)
    assert host.sent() == [("ACK", 1 << 32), ("PING", 0)]


@pytest.mark.parametrize("data", [None, b"", b"\0" * 20], ids=["null", "empty", "cut"])
def test_a_proposal_that_cannot_be_read_ends_the_sync(data: bytes | None) -> None:
    host = Host()
    host.discover(1)
    host.receive(diff(0), packet(PacketType.PROPOSAL, zxid(1, 1), data))
    assert "cut short" in (host.over() or "")


def test_a_proposal_under_another_zxid_ends_the_sync() -> None:
    host = Host()
    host.discover(1)
    host.receive(diff(0), packet(PacketType.PROPOSAL, zxid(1, 2), create(zxid(1, 1)).payload))
    assert host.over() == "packet of 0x100000002 holds txn 0x100000001"


# -- SNAP


def test_a_snap_that_breaks_off_leaves_the_disk_to_begin_again_from() -> None:
    """ZOOKEEPER-3642: never a DIFF on top of a half received SNAP. And the memory never holds two states."""
    host = Host(history=txns(1, 1, 3), epoch=1)
    host.discover(2)
    host.receive(snap(zxid(2, 9)))
    assert host.paths == []
    host.learner.disconnected("in the middle of the stream")
    assert host.over() == "in the middle of the stream"
    assert host.learner.database_lost
    assert host.restarted().paths == names(*txns(1, 1, 3))


def test_a_snap_whose_sync_fails_has_to_be_forgotten() -> None:
    host = Host(history=txns(1, 1, 3), epoch=1)
    host.discover(2)
    host.receive(snap(zxid(2, 9)))
    host.snapshot(tree_of(*txns(2, 1, 9)))
    host.learner.disconnected("before NEWLEADER")
    assert host.over() is not None
    assert host.learner.database_lost
    assert host.restarted().paths == names(*txns(1, 1, 3))


def test_once_the_steps_have_begun_they_are_finished_without_the_leader() -> None:
    """The next election must not see log, memory and currentEpoch of different moments."""
    host = Host(history=txns(1, 1, 3), epoch=1)
    host.discover(2)
    host.receive(snap(zxid(2, 9)))
    host.snapshot(tree_of(*txns(2, 1, 9)))
    host.receive(new_leader(2))
    host.learner.disconnected("after NEWLEADER")
    for step in ("MarkCurrentEpoch", "InstallSnapshot", "SaveCurrentEpoch"):
        assert host.over() is None
        assert host.asked() == [step]
        host.carry_out()
    assert host.over() == "after NEWLEADER"
    assert not host.learner.database_lost
    assert host.sent() == []
    assert host.state.current_epoch == 2


def test_the_same_with_a_diff_that_waits_for_the_log() -> None:
    host = Host(history=txns(1, 1, 3), epoch=1)
    host.discover(2)
    host.receive(diff(zxid(2, 1)), *committed(create(zxid(2, 1))), new_leader(2))
    host.carry_out()
    host.learner.disconnected("gone")
    assert host.over() is None
    host.persist()
    host.carry_out()
    assert host.over() == "gone"
    assert host.learner.pending == []
    assert (host.state.current_epoch, host.tree.last_zxid) == (2, zxid(2, 1))


def test_proposals_up_to_the_snap_are_left_out() -> None:
    """§8.5 (b): what was applied before the leader began to send comes again; the state is complete without it."""
    history = txns(1, 1, 6)
    host = Host()
    host.discover(1)
    host.receive(snap(zxid(1, 4)))
    host.snapshot(tree_of(*history[:4]))
    host.receive(*committed(*history[2:]), new_leader(1))
    host.settle()
    assert host.sent() == [("ACK", 1 << 32)]
    assert host.paths == names(*history)
    assert payloads(host.state.database.committed_log.txns()) == payloads(history[4:])


def leaders_history() -> tuple[LocalServer, list[Txn]]:
    """Txns of epoch 1 as a leader makes them: digests, ephemerals, a multi, a closed session."""
    tree = DataTree(OwnerRules(False, emulate_353=False))
    tree.last_zxid = 1 << 32
    server = LocalServer(tree=tree)
    stays, goes = server.client(), server.client()
    stays.call(OpCode.CREATE, create_request("/p", b"1"))
    goes.call(OpCode.CREATE, create_request("/p/e", flags=1))
    stays.call(OpCode.SET_DATA, set_data("/p", b"2"))
    stays.call(OpCode.CREATE, create_request("/p/gone"))
    stays.call(OpCode.DELETE, delete("/p/gone"))
    stays.call(
        OpCode.MULTI,
        multi((OpCode.CREATE, create_request("/m")), (OpCode.SET_DATA, set_data("/p", b"3"))),
    )
    goes.call(OpCode.CLOSE_SESSION)
    stays.call(OpCode.CREATE, create_request("/p/e", flags=1))
    return server, server.log


@pytest.mark.parametrize("at", range(11))
def test_a_snap_that_was_changed_while_it_was_sent_becomes_the_leaders_state(at: int) -> None:
    """§8.5 (a), ZOOKEEPER-2355, -3145, -3127: the state is newer than the zxid of the SNAP, its txns come once more."""
    server, history = leaders_history()
    assert len(history) == 10
    sessions = dict(server.service.sessions.committed)
    host = Host()
    host.discover(1)
    host.receive(snap(zxid(1, at)))
    host.snapshot(server.tree, sessions)
    host.receive(*committed(*history[max(0, at - 2) :]), new_leader(1))
    host.settle()
    host.receive(UP_TO_DATE)
    assert host.sent() == [("ACK", 1 << 32)] * 2
    assert host.tree.digest == server.tree.digest
    assert host.tree.digest_mismatches == 0
    assert host.state.database.sessions == sessions
    assert host.tree.ephemerals_of(history[0].client_id) == ["/p/e"]
    again = host.restarted()
    assert (again.tree.digest, again.tree.last_zxid) == (server.tree.digest, zxid(1, 10))


def test_log_entries_above_a_snap_are_gone_when_it_is_acked() -> None:
    host = Host(history=txns(1, 1, 9), epoch=1)
    host.discover(1)
    host.receive(snap(zxid(1, 4)))
    host.snapshot(tree_of(*txns(1, 1, 4)))
    host.receive(new_leader(1))
    host.settle()
    assert host.restarted().paths == names(*txns(1, 1, 4))


def test_acked_proposals_that_come_again_behind_a_snap_stay_in_the_log() -> None:
    history = txns(1, 1, 7)
    host = Host(history=history[:6], epoch=1)
    host.discover(1)
    host.receive(snap(zxid(1, 3)))
    host.snapshot(tree_of(*history[:3]))
    again = [*committed(history[3]), *map(proposal, history[4:])]
    lefts = crash_everywhere(host, *again, new_leader(1))
    assert [left.tree.last_zxid for left in lefts] == [zxid(1, 6)] * 4
    assert sorted(host.disk.snapshots) == [0, zxid(1, 4)]
    host.receive(UP_TO_DATE)
    assert host.sent() == [("ACK", 1 << 32)] * 2 + [("ACK", zxid(1, 5)), ("ACK", zxid(1, 6))]
    assert host.unlogged() == [zxid(1, 7)]


def test_a_state_of_3_4_gets_the_config_node() -> None:
    tree = tree_of()
    del tree.nodes["/zookeeper/config"]
    parent = tree.nodes["/zookeeper"]
    assert parent.children is not None
    del parent.children["/zookeeper/config"]
    host = Host()
    host.discover(1)
    host.receive(snap(1 << 32))
    host.snapshot(tree)
    node = host.tree.get("/zookeeper/config")
    assert node is not None
    assert node.data == host.state.view.committed.text().encode()
    assert [(acl.perms, acl.id.id) for acl in node.acl.entries] == [(1, "anyone")]
    assert (node.version, node.aversion, node.mtime) == (-1, -1, host.wall_ms)


@pytest.mark.parametrize("mode", ["DIFF", "SNAP", "TRUNC"])
def test_the_own_configuration_is_written_over_the_leaders(mode: str) -> None:
    """ZOOKEEPER-2819."""
    host = Host(history=txns(1, 1, 3), epoch=1)
    other = tree_of()
    node = other.get("/zookeeper/config")
    assert node is not None
    node.data = b"server.9=elsewhere:1:2:participant\nversion=0"
    host.discover(1)
    host.receive(packet(PacketType[mode], zxid(1, 3)))
    if mode == "SNAP":
        host.snapshot(other)
    host.settle()
    node = host.tree.get("/zookeeper/config")
    assert node is not None
    assert node.data == host.state.view.committed.text().encode()


# -- TRUNC


def test_acked_proposals_that_come_again_stay_in_the_log() -> None:
    """Between TRUNC and the same proposals once more, this server's acks are true at every moment."""
    history = txns(1, 1, 8)
    host = Host(history=history[:7], epoch=1)
    host.discover(1)
    host.receive(trunc(zxid(1, 4)), *committed(history[4]), *map(proposal, history[5:]), new_leader(1))
    seen = []
    while host.state.effects or host.state.unlogged:
        host.persist()
        if host.state.effects:
            host.carry_out()
        seen.append(len(host.disk.log))
    assert set(seen) == {7}, "nothing was cut, nothing written twice"
    assert host.sent() == [("ACK", 1 << 32)]
    assert host.paths == names(*history[:5])
    assert [txn.zxid for txn in host.learner.pending] == [zxid(1, 6), zxid(1, 7)]
    host.receive(UP_TO_DATE)
    assert host.sent() == [("ACK", 1 << 32), ("ACK", zxid(1, 6)), ("ACK", zxid(1, 7))]
    assert host.unlogged() == [zxid(1, 8)]
    host.persist()
    assert host.sent() == [("ACK", zxid(1, 8))]
    assert payloads(host.disk.log) == payloads(history)
    host.receive(*map(commit, history[5:]))
    assert host.paths == names(*history)


def test_proposals_that_do_not_come_again_are_cut() -> None:
    mine, theirs = txns(1, 1, 7), [*txns(1, 1, 4), filler(zxid(1, 5)), create(zxid(1, 6))]
    host = Host(history=mine, epoch=1)
    host.discover(1)
    host.receive(trunc(zxid(1, 4)), *committed(*theirs[4:]), new_leader(1))
    host.settle()
    assert payloads(host.disk.log) == payloads(theirs)
    assert host.restarted().tree.digest == host.tree.digest


def test_a_trunc_removes_snapshots_above_it() -> None:
    """ZOOKEEPER-4837: they would bring the cut txns back."""
    host = Host(history=txns(1, 1, 7), epoch=1)
    host.disk.snapshots[zxid(1, 6)] = (tree_of(*txns(1, 1, 6)), {})
    host.discover(1)
    host.receive(trunc(zxid(1, 4)), new_leader(1))
    host.settle()
    assert sorted(host.disk.snapshots) == [0]
    assert host.restarted().paths == names(*txns(1, 1, 4))


def test_a_trunc_may_go_to_the_start_of_an_epoch() -> None:
    """A leader that has committed nothing in its epoch yet: the zxid is in no log."""
    host = Host(history=[*txns(1, 1, 3), *txns(2, 1, 2)], epoch=2)
    host.discover(2)
    host.receive(trunc(2 << 32), new_leader(2))
    host.settle()
    assert host.sent() == [("ACK", 2 << 32)]
    assert payloads(host.disk.log) == payloads(txns(1, 1, 3))
    assert host.tree.last_zxid == 2 << 32
    host.receive(UP_TO_DATE, *committed(create(zxid(2, 1))))
    assert host.unlogged() == [zxid(2, 1)]


def unable_to_go_back(oldest: int | None) -> Host:
    """A server that is told to go back to a txn that its disk does not hold, and has connected again."""
    history = [each for each in txns(1, 1, 9) if oldest or each.zxid != zxid(1, 4)]
    host = Host(history=history, epoch=1)
    if oldest is not None:
        host.disk.snapshots = {oldest: (tree_of(*txns(1, 1, 5)), {})}
    host.discover(1)
    host.receive(trunc(zxid(1, 4)), new_leader(1))
    host.settle()
    assert host.over() == "TRUNC to 0x100000004, which is not on disk any more"
    assert host.learner.fatal is None
    assert not host.learner.database_lost
    assert host.tree.last_zxid == zxid(1, 9)
    assert host.sent() == []
    assert host.disk.marked_epoch is None
    host.begin_role()
    host.connect()
    return host


@pytest.mark.parametrize("oldest", [zxid(1, 5), None])
def test_a_server_that_cannot_go_back_asks_for_the_whole_state(oldest: int | None) -> None:
    """It says that it has nothing, as one whose empty database is not trusted; Apache stops."""
    host = unable_to_go_back(oldest)
    host.receive(leader_info(1))
    (answer,) = host.sent_packets()[1:]
    assert (PacketType(answer.type), answer.zxid, answer.data) == (
        PacketType.ACK_EPOCH,
        -1,
        b"\xff\xff\xff\xff",
    )
    host.receive(snap(zxid(1, 4)))
    host.snapshot(tree_of(*txns(1, 1, 4)))
    host.receive(new_leader(1))
    host.settle()
    assert host.sent() == [("ACK", 1 << 32)]
    assert host.restarted().paths == names(*txns(1, 1, 4))
    host.begin_role()
    host.connect()
    host.receive(leader_info(1))
    assert host.sent()[1:] == [("ACK_EPOCH", zxid(1, 4))]


def test_the_leader_of_another_epoch_is_told_what_there_is() -> None:
    """It may be elected by that."""
    host = unable_to_go_back(None)
    host.receive(leader_info(2))
    host.settle()
    assert host.sent()[1:] == [("ACK_EPOCH", zxid(1, 9))]


def test_a_leader_that_gives_no_state_to_who_needs_one_is_left_or_the_server_stops() -> None:
    """Exit code 13, as a truncation that fails with Apache; the disk stays as it is, for the operator."""
    host = unable_to_go_back(None)
    host.receive(leader_info(1), diff(zxid(1, 9)))
    assert host.over() == "DIFF to a server that needs the whole state"
    host = unable_to_go_back(None)
    host.receive(leader_info(1), trunc(zxid(1, 4)))
    host.settle()
    assert host.learner.fatal == (13, "TRUNC to 0x100000004, which is not on disk any more; remove the data")
    assert host.disk.marked_epoch is None


def test_a_trunc_to_what_comes_later_is_refused() -> None:
    host = Host(history=txns(1, 1, 3), epoch=1)
    host.discover(1)
    host.receive(trunc(zxid(1, 4)))
    assert host.over() == "TRUNC to 0x100000004, but the last txn here is 0x100000003"
    assert not host.learner.database_lost


def test_the_role_is_not_over_while_the_memory_is_rebuilt() -> None:
    host = Host(history=txns(1, 1, 3), epoch=1)
    host.discover(1)
    host.receive(trunc(zxid(1, 2)))
    host.learner.disconnected("gone")
    assert host.over() is None
    host.carry_out()
    assert host.over() == "gone"
    assert host.paths == names(*txns(1, 1, 3)), "the database is the one on disk"
    assert not host.learner.database_lost


def test_a_trunc_whose_sync_fails_has_to_be_forgotten() -> None:
    host = Host(history=txns(1, 1, 3), epoch=1)
    host.discover(1)
    host.receive(trunc(zxid(1, 2)))
    host.carry_out()
    host.learner.disconnected("before NEWLEADER")
    assert host.learner.database_lost
    assert host.learner.pending == []
    assert host.restarted().paths == names(*txns(1, 1, 3))


# -- observers


def test_an_observer_logs_what_was_committed_before_it_acks() -> None:
    history = txns(1, 1, 5)
    host = Host(observer=True)
    host.discover(1)
    host.receive(diff(zxid(1, 2)), *committed(*history[:2]), inform(history[2]), new_leader(1))
    host.settle()
    assert host.sent() == [("ACK", 1 << 32)]
    assert payloads(host.disk.log) == payloads(history[:3])
    host.receive(inform(history[3]), UP_TO_DATE, inform(history[4]))
    assert host.sent() == [("ACK", 1 << 32)]
    assert host.unlogged() == [zxid(1, 4), zxid(1, 5)]
    assert host.paths == names(*history)
    host.persist()
    assert host.sent() == [], "an observer acks no txn"
    assert host.learner.pending == []


def test_an_observer_waits_for_the_inform_of_an_open_proposal() -> None:
    """Old leaders send those to observers too."""
    first, second = txns(1, 1, 2)
    host = Host(observer=True)
    host.discover(1)
    host.receive(diff(0), proposal(first), proposal(second), new_leader(1))
    host.settle()
    host.receive(proposal(first), commit(first), UP_TO_DATE)
    assert (host.unlogged(), host.paths) == ([], [])
    host.receive(inform(first), inform(second))
    assert host.paths == names(first, second)


def test_an_observer_without_a_log_only_applies() -> None:
    history = txns(1, 1, 4)
    host = Host(observer=True, sync_enabled=False)
    host.discover(1)
    host.receive(diff(zxid(1, 2)), *committed(*history[:2]), new_leader(1))
    host.settle()
    host.receive(inform(history[2]), UP_TO_DATE, inform(history[3]))
    assert host.paths == names(*history)
    assert (host.unlogged(), host.disk.log) == ([], [])


def test_an_observer_without_a_log_begins_again_from_its_disk_when_it_has_to_go_back() -> None:
    host = Host(observer=True, sync_enabled=False, history=txns(1, 1, 2), epoch=1)
    host.state.database.apply(create(zxid(1, 3)))
    host.discover(1)
    host.receive(trunc(zxid(1, 2)))
    assert host.over() == "TRUNC for an observer that keeps no log"
    assert host.learner.database_lost


def test_an_observer_leaves_out_what_it_is_told_twice() -> None:
    history = txns(1, 1, 4)
    host = Host(observer=True)
    host.discover(1)
    host.receive(snap(zxid(1, 3)))
    host.snapshot(tree_of(*history[:3]))
    host.receive(inform(history[2]), inform(history[3]), new_leader(1))
    host.settle()
    assert host.paths == names(*history)
    assert host.sent() == [("ACK", 1 << 32)]


# -- a crash at any moment


def crash_everywhere(host: Host, *packets: QuorumPacket) -> list[Host]:
    """What the disk holds after a crash before and after each step, from the oldest to the newest."""
    left = [host.restarted()]
    host.receive(*packets)
    while host.state.effects or host.state.unlogged:
        if host.state.unlogged:
            host.persist(1)
        else:
            host.carry_out()
        left.append(host.restarted())
    return left


def test_a_crash_in_a_diff_leaves_a_prefix_under_an_epoch_that_fits() -> None:
    """ZOOKEEPER-4269, -4643: no crash leaves txns of an epoch that the server does not know to be in; `restarted` checks it."""
    history = [*txns(1, 1, 2), *txns(2, 1, 3)]
    host = Host(history=history[:2], epoch=1)
    host.discover(2)
    lefts = crash_everywhere(host, diff(zxid(2, 3)), *committed(*history[2:]), new_leader(2))
    lengths = [len(left.disk.log) for left in lefts]
    assert lengths == [2, 2, 3, 4, 5, 5]
    for left in lefts:
        assert left.paths == names(*history[: len(left.disk.log)])
    assert [left.disk.current_epoch for left in lefts] == [1, 1, 2, 2, 2, 2]


def test_a_crash_in_a_snap_leaves_the_old_state_or_the_new_one() -> None:
    mine, theirs = [*txns(1, 1, 2), filler(zxid(1, 3))], [*txns(1, 1, 3), *txns(2, 1, 3)]
    host = Host(history=mine, epoch=1)
    host.discover(2)
    host.receive(snap(zxid(2, 2)))
    host.snapshot(tree_of(*theirs[:5]))
    lefts = crash_everywhere(host, *committed(theirs[5]), new_leader(2))
    assert [left.paths for left in lefts] == [names(*mine[:2])] * 2 + [names(*theirs)] * 2
    assert [left.disk.current_epoch for left in lefts] == [1, 1, 2, 2]


def test_a_crash_in_a_trunc_never_takes_back_an_ack() -> None:
    """What was logged and comes again is on disk at every moment (the hole that Apache leaves open)."""
    history = txns(1, 1, 7)
    host = Host(history=history[:6], epoch=1)
    host.discover(1)
    again = [*committed(history[4]), *map(proposal, history[5:])]
    lefts = crash_everywhere(host, trunc(zxid(1, 4)), *again, new_leader(1))
    assert len(lefts) == 5
    for left in lefts:
        assert left.tree.last_zxid >= zxid(1, 6)
    host.receive(UP_TO_DATE)
    assert host.restarted().tree.last_zxid == zxid(1, 6)


def test_an_epoch_without_txns_does_not_outlive_a_crash_before_it_is_established() -> None:
    """currentEpoch.tmp alone proves nothing: it is ignored when the log holds nothing of its epoch."""
    host = Host(history=txns(1, 1, 2), epoch=1)
    host.discover(2)
    host.receive(diff(zxid(1, 2)), new_leader(2))
    assert host.carry_out() == MarkCurrentEpoch(1)
    assert host.disk.marked_epoch is None
    assert host.restarted().disk.current_epoch == 1


@pytest.mark.parametrize("durable", [1, 2, 3])
def test_a_crash_in_a_sync_claims_no_epoch_whose_leader_may_not_be_established(durable: int) -> None:
    """An Apache server that starts on it takes the mark as it is, and could win an election with half of a history."""
    host = Host(history=txns(1, 1, 2), epoch=1)
    host.discover(5)
    host.receive(diff(zxid(3, 1)), *committed(*txns(2, 1, 2), *txns(3, 1, 1)), new_leader(5))
    assert host.carry_out() == MarkCurrentEpoch(3)
    host.persist(durable)
    again = host.restarted()
    assert again.state.current_epoch == 3
    assert again.state.accepted_epoch == 5


def test_the_mark_of_a_snap_is_the_epoch_of_its_last_txn() -> None:
    host = Host(history=txns(1, 1, 2), epoch=1)
    host.discover(5)
    host.receive(snap(zxid(3, 2)))
    host.snapshot(tree_of(*txns(3, 1, 2)))
    host.receive(proposal(create(zxid(3, 3))), new_leader(5))
    assert host.carry_out() == MarkCurrentEpoch(3)


def test_a_snap_of_an_established_epoch_without_txns_is_marked_with_it() -> None:
    """A leader's own zxid is the start of its epoch from the moment on in which a quorum has its history."""
    host = Host(history=txns(1, 1, 2), epoch=1)
    host.discover(5)
    host.receive(snap(zxid(5, 0)))
    host.snapshot(tree_of(*txns(3, 1, 2)))
    host.receive(new_leader(5))
    assert host.carry_out() == MarkCurrentEpoch(5)
