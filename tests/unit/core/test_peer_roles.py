"""How a peer goes from one role to the next: named leaders, adopted configurations, pauses, read-only service, the order of effects."""

from __future__ import annotations

import gc
import random
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.local_server import Client, Gate
from tests.fakes.member_services import make_parts
from tests.unit.core.test_peer import (
    STRANGER,
    carry_out_all,
    confirm,
    elected,
    finish,
    following,
    hear,
    serving_follower,
    serving_leader,
    votes,
)
from tests.unit.core.zab.learner_host import (
    LEADER,
    MEMBERS,
    UP_TO_DATE,
    Host,
    commit,
    leader_info,
    new_leader,
    packet,
    proposal,
    reconfig,
    txns,
    zxid,
)
from zkpy.core.peer import Peer
from zkpy.core.read_only import ReadOnlyService
from zkpy.core.service import NoService
from zkpy.core.txn import Txn
from zkpy.core.zab.database import CommittedLog
from zkpy.core.zab.effects import (
    MarkCurrentEpoch,
    SaveAcceptedEpoch,
    SaveCommittedConfig,
    SaveCurrentEpoch,
    SaveProposedConfig,
)
from zkpy.core.zab.leader import Leader
from zkpy.core.zab.learner import Learner
from zkpy.core.zab.learner_packets import ack, ack_epoch, learner_info
from zkpy.core.zab.peer_state import PeerState
from zkpy.core.zab.quorum_link import QuorumLink
from zkpy_protocol.election import Notification, ServerState
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketType
from zkpy_protocol.records import ACL, CreateRequest, ErrorTxn, ExistsRequest, Id, decode_quorum_packet

if TYPE_CHECKING:
    from zkpy.core.service import Service
    from zkpy_protocol.records import QuorumPacket

TWO_HUNDRED = range(200)
WITHOUT_3 = "\n".join(line for line in MEMBERS.splitlines() if not line.startswith("server.3"))


def looking(**options: Any) -> tuple[Host, Peer]:
    """A peer that looks for a leader and has heard nothing."""
    host = Host(**options)
    peer = Peer(host.state, random.Random(1))
    peer.start(host.mono_ms)
    return host, peer


class ClientPort(Gate):
    """Where clients of a peer come to."""

    def __init__(self, host: Host, peer: Peer) -> None:
        super().__init__(host)
        self.host = host
        self.peer = peer

    @property
    def service(self) -> Service:
        return self.peer.service


def advance(host: Host, peer: Peer, ms: int) -> None:
    """Time passes for a peer, in half ticks."""
    for _ in range(ms // 500):
        host.wall_ms += 500
        host.mono_ms += 500
        peer.tick(host.wall_ms, host.mono_ms)


def connected(host: Host, peer: Peer, name: str = "leader") -> QuorumLink:
    link = QuorumLink(host.state.quorum_dirty, name)
    peer.connected(link, host.wall_ms, host.mono_ms)
    return link


def hear_and_do(host: Host, peer: Peer, link: QuorumLink, *packets: QuorumPacket) -> None:
    """One packet after the other, with all that the disk has to do."""
    for each in packets:
        hear(host, peer, link, each)
        while peer.unlogged:
            confirm(host, peer, *peer.take_unlogged(99))
        carry_out_all(host, peer)


def reconfigurable() -> tuple[Host, Peer, QuorumLink]:
    """A follower that serves and may be reconfigured."""
    host = Host(reconfig_enabled=True)
    peer = elected(host, ServerState.FOLLOWING)
    link = connected(host, peer)
    hear_and_do(host, peer, link, leader_info(1), packet(PacketType.DIFF, 0), new_leader(1), UP_TO_DATE)
    return host, peer, link


def activation(zxid_: int, leader_id: int) -> QuorumPacket:
    return packet(PacketType.COMMIT_AND_ACTIVATE, zxid_, struct.pack(">q", leader_id))


# -- a leader that was named (§12)


def test_a_follower_goes_straight_to_the_leader_that_a_reconfig_names() -> None:
    host, peer, link = reconfigurable()
    hear_and_do(host, peer, link, proposal(reconfig(zxid(1, 1), WITHOUT_3)))
    hear_and_do(host, peer, link, activation(zxid(1, 1), 2))
    assert isinstance(peer.role, Learner)
    assert (peer.role.leader_id, peer.wanted_leader) == (2, 2)
    assert votes(peer) == set(), "there is no election"
    assert host.disk.configs[-1][0] == "committed"
    peer.notified(2, Notification(ServerState.LOOKING, 2, 0, 1, 0), host.wall_ms, host.mono_ms)
    ((_, told),) = peer.election.outbox
    assert (told.state, told.leader, told.zxid, told.peer_epoch) == (ServerState.FOLLOWING, 2, zxid(1, 1), 1)


def test_a_server_that_a_reconfig_names_leads_without_an_election() -> None:
    host, peer, link = reconfigurable()
    hear_and_do(host, peer, link, proposal(reconfig(zxid(1, 1), WITHOUT_3)))
    hear_and_do(host, peer, link, activation(zxid(1, 1), 1))
    assert isinstance(peer.role, Leader)
    assert (peer.wants_learners, peer.election.state) == (True, ServerState.LEADING)
    assert peer.role.epoch == 2
    assert host.tree.last_zxid == zxid(1, 1)


def test_the_named_leader_is_followed_when_the_log_has_everything() -> None:
    host, peer, link = reconfigurable()
    hear(host, peer, link, proposal(reconfig(zxid(1, 1), WITHOUT_3)))
    (txn,) = peer.take_unlogged(9)
    hear(host, peer, link, activation(zxid(1, 1), 2))
    carry_out_all(host, peer)
    assert peer.role is None
    confirm(host, peer, txn)
    assert peer.wanted_leader == 2


def test_a_leader_follows_the_one_it_has_named() -> None:
    host, peer, _ = serving_leader()
    leader = peer.role
    assert isinstance(leader, Leader)
    leader.designated_leader = 1
    leader._step_down("server 1 leads by the new configuration")
    peer.step(host.wall_ms, host.mono_ms)
    assert (peer.wanted_leader, peer.wants_learners, votes(peer)) == (1, False, set())


def test_a_named_leader_that_is_not_there_means_an_election() -> None:
    host, peer, link = reconfigurable()
    hear_and_do(host, peer, link, proposal(reconfig(zxid(1, 1), WITHOUT_3)))
    hear_and_do(host, peer, link, activation(zxid(1, 1), 2))
    advance(host, peer, 11_000)
    assert peer.election.state == ServerState.LOOKING
    assert votes(peer) == {(ServerState.LOOKING, zxid(1, 1), 1)}


# -- a configuration that another server knows (§3.4)


def newer(version: int = 0x500000000, servers: str = MEMBERS) -> str:
    return f"{servers}\nversion={version:x}"


def test_a_newer_configuration_is_adopted_written_and_elected_by() -> None:
    host, peer = looking(reconfig_enabled=True)
    votes(peer)
    before = peer.election.election_epoch
    seen = Notification(ServerState.LOOKING, 2, 0, 1, 0, config=newer(servers=WITHOUT_3))
    peer.notified(2, seen, host.wall_ms, host.mono_ms)
    assert host.state.view.committed.version == 0x500000000
    assert host.state.view.committed.voters == {1, 2}
    assert peer.election.election_epoch == before + 1
    assert {server_id for server_id, _ in peer.election.outbox} == {2}
    effect = peer.take_effect()
    assert isinstance(effect, SaveCommittedConfig)


def test_an_adopted_configuration_leaves_one_that_is_still_proposed() -> None:
    host, peer = looking(reconfig_enabled=True, history=[reconfig(zxid(6, 1), WITHOUT_3)], epoch=6)
    seen = Notification(ServerState.LOOKING, 2, 0, 1, 0, config=newer())
    peer.notified(2, seen, host.wall_ms, host.mono_ms)
    view = host.state.view
    assert (view.committed.version, view.last_seen.version) == (0x500000000, zxid(6, 1))


def test_a_reconfiguration_in_the_log_is_last_seen_also_where_a_crash_came_before_its_file() -> None:
    host, peer = looking(reconfig_enabled=True, history=[reconfig(zxid(1, 1), WITHOUT_3)], epoch=1)
    assert host.state.view.committed.version == 0
    assert host.state.view.last_seen.voters == {1, 2}
    peer.notified(3, Notification(ServerState.LOOKING, 1, zxid(1, 1), 1, 1), host.wall_ms, host.mono_ms)
    for _ in range(3):
        host.mono_ms += 200
        peer.wake(host.wall_ms, host.mono_ms)
    assert peer.role is None, "servers 1 and 3 are no quorum of the new members"


@pytest.mark.parametrize(
    ("text", "enabled"),
    [(WITHOUT_3, False), ("no configuration", True), ("server.1=127.0.0.1:1:2:observer", True)],
)
def test_other_data_of_the_configuration_node_means_nothing(text: str, enabled: bool) -> None:
    host, _ = looking(reconfig_enabled=enabled, history=[reconfig(zxid(1, 1), text)], epoch=1)
    assert host.state.view.last_seen.version == 0


def test_without_reconfig_configurations_of_others_mean_nothing() -> None:
    host, peer = looking()
    seen = Notification(ServerState.LOOKING, 2, 0, 1, 0, config=newer(servers=WITHOUT_3))
    peer.notified(2, seen, host.wall_ms, host.mono_ms)
    assert host.state.view.committed.version == 0
    assert peer.take_effect() is None


def test_a_role_begins_beside_the_configuration_that_is_being_written() -> None:
    """The role did not ask for it, and is not told; what it asks for comes behind it."""
    host, peer = looking(reconfig_enabled=True)
    seen = Notification(ServerState.FOLLOWING, LEADER, 0, 1, 1, config=newer())
    peer.notified(2, seen, host.wall_ms, host.mono_ms)
    writing = peer.take_effect()
    assert isinstance(writing, SaveCommittedConfig)
    leads = Notification(ServerState.LEADING, LEADER, 0, 1, 1, config=newer())
    peer.notified(LEADER, leads, host.wall_ms, host.mono_ms)
    link = connected(host, peer)
    hear(host, peer, link, leader_info(3))
    assert peer.take_effect() is None, "one at a time"
    finish(host, peer, writing)
    assert isinstance(peer.role, Learner)
    assert peer.take_effect() == SaveAcceptedEpoch(3)


# -- observers do not all come at once (§4.7)


def test_an_observer_pauses_before_it_looks_for_a_leader_again() -> None:
    observer = MEMBERS.replace(
        "server.1=127.0.0.1:2181:2191:participant", "server.1=127.0.0.1:2181:2191:observer"
    )
    host = Host(observer=True, members=observer)
    peer = elected(host, ServerState.OBSERVING)
    link = connected(host, peer)
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    due_ms = peer.next_deadline_ms
    assert due_ms is not None
    assert due_ms - host.mono_ms in TWO_HUNDRED
    peer.wake(host.wall_ms, due_ms - 1)
    assert votes(peer) == set()
    peer.wake(host.wall_ms, due_ms)
    assert {state for state, _, _ in votes(peer)} == {ServerState.LOOKING}
    assert peer.next_deadline_ms == due_ms + 200


def test_a_log_that_was_given_nothing_has_nothing_to_confirm() -> None:
    host, peer, link = serving_follower()
    assert peer.take_unlogged(9) == []
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    assert votes(peer) == {(ServerState.LOOKING, 0, 1)}


def test_a_voter_does_not_pause() -> None:
    host, peer = following()
    link = connected(host, peer)
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    assert votes(peer) == {(ServerState.LOOKING, 0, 0)}


# -- reads without a quorum (§4.8)


@pytest.mark.parametrize(("tick_time_ms", "after_ms"), [(1000, 2000), (3000, 3000)])
def test_a_server_without_a_leader_serves_reads_after_a_while(tick_time_ms: int, after_ms: int) -> None:
    host, peer = looking(read_only_mode_enabled=True, tick_time_ms=tick_time_ms)
    advance(host, peer, after_ms - 500)
    assert isinstance(peer.service, NoService)
    advance(host, peer, 500)
    assert isinstance(peer.service, ReadOnlyService)
    assert peer.service.tree is host.state.database.tree


def test_sessions_of_readers_expire() -> None:
    host = Host(read_only_mode_enabled=True)
    known = host.state
    parts = make_parts(1, local_sessions_enabled=True)
    peer = Peer(PeerState(known.options, known.view, known.database, parts, 0, 0), random.Random(1))
    peer.start(host.mono_ms)
    advance(host, peer, 2000)
    port = ClientPort(host, peer)
    silent, lively = Client(port), Client(port)
    for client in (silent, lively):
        client.connect(read_only=True, timeout_ms=4000)
    for _ in range(3):
        advance(host, peer, 2000)
        lively.call(OpCode.PING, xid=-2)
    port.pump()
    assert (silent.closed, lively.closed) == (True, False)


def test_without_the_option_it_serves_nobody() -> None:
    host, peer = looking()
    advance(host, peer, 60_000)
    assert isinstance(peer.service, NoService)


def test_reads_end_when_a_role_begins_and_not_when_only_the_configuration_changes() -> None:
    host, peer = looking(read_only_mode_enabled=True, reconfig_enabled=True)
    advance(host, peer, 2000)
    reads = peer.service
    seen = Notification(ServerState.FOLLOWING, LEADER, 0, 1, 1, config=newer())
    peer.notified(2, seen, host.wall_ms, host.mono_ms)
    assert (peer.service, reads.is_serving) == (reads, True)
    leads = Notification(ServerState.LEADING, LEADER, 0, 1, 1, config=newer())
    peer.notified(LEADER, leads, host.wall_ms, host.mono_ms)
    assert [reads.is_serving] == [False]
    assert isinstance(peer.service, NoService)


def test_the_wait_begins_anew_with_every_election() -> None:
    host, peer = looking(read_only_mode_enabled=True)
    advance(host, peer, 1500)
    for server_id, state in ((2, ServerState.FOLLOWING), (LEADER, ServerState.LEADING)):
        peer.notified(server_id, Notification(state, LEADER, 0, 1, 1), host.wall_ms, host.mono_ms)
    link = connected(host, peer)
    advance(host, peer, 1500)
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    advance(host, peer, 1500)
    assert isinstance(peer.service, NoService)
    advance(host, peer, 500)
    assert isinstance(peer.service, ReadOnlyService)


def test_a_new_configuration_does_not_make_readers_wait_longer() -> None:
    host, peer = looking(read_only_mode_enabled=True, reconfig_enabled=True)
    advance(host, peer, 1500)
    seen = Notification(ServerState.LOOKING, 2, 0, 1, 0, config=newer())
    peer.notified(2, seen, host.wall_ms, host.mono_ms)
    advance(host, peer, 500)
    assert (peer.service.mode, peer.service.is_serving) == ("read-only", True)


# -- the disk


def test_effects_come_one_by_one_and_epochs_are_known_before_the_role_goes_on() -> None:
    host, peer = following()
    link = connected(host, peer)
    hear(host, peer, link, leader_info(4), packet(PacketType.DIFF, 0), new_leader(4))
    taken: list[object] = []
    while (effect := peer.take_effect()) is not None:
        taken.append(effect)
        assert peer.take_effect() is None
        assert peer.effect_under_way is effect
        finish(host, peer, effect)
        taken.append((host.state.accepted_epoch, host.state.current_epoch))
    assert taken == [
        SaveAcceptedEpoch(4),
        (4, 0),
        MarkCurrentEpoch(0),
        (4, 0),
        SaveCurrentEpoch(4),
        (4, 4),
    ]
    assert peer.effect_under_way is None


def test_a_proposed_configuration_reaches_the_disk_although_its_role_is_over() -> None:
    """Elections count it from the moment on in which it was seen."""
    host, peer, link = reconfigurable()
    hear(host, peer, link, proposal(reconfig(zxid(1, 1), WITHOUT_3)))
    confirm(host, peer, *peer.take_unlogged(9))
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    assert peer.election.state == ServerState.FOLLOWING, "it does not vote before"
    effect = peer.take_effect()
    assert isinstance(effect, SaveProposedConfig)
    finish(host, peer, effect)
    assert peer.election.state == ServerState.LOOKING
    assert host.state.view.last_seen.version == zxid(1, 1)


def test_what_the_log_confirms_late_is_not_taken_for_all_of_it() -> None:
    host, peer, link = serving_follower()
    hear(host, peer, link, *map(proposal, txns(1, 1, 3)))
    first = peer.take_unlogged(1)
    second = peer.take_unlogged(2)
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    confirm(host, peer, *first)
    assert votes(peer) == set()
    confirm(host, peer, *second)
    assert votes(peer) == {(ServerState.LOOKING, zxid(1, 3), 1)}


def test_a_database_that_is_not_trusted_has_no_vote() -> None:
    host = Host()
    host.state.database.is_trusted = False
    peer = Peer(host.state, random.Random(1))
    peer.start(host.mono_ms)
    assert votes(peer) == {(ServerState.LOOKING, -1, 0)}


def test_the_state_before_is_let_go_of_while_a_snap_comes() -> None:
    """Without waiting for a collection of garbage, which is rare on purpose."""
    collects = gc.isenabled()
    gc.disable()
    try:
        for ended in (serving_follower, serving_leader):
            host, peer, link = ended()
            tree = host.state.database.tree
            peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
            advance(host, peer, 1000)
            assert peer.role is None
            for server_id in sorted({1, 2, 3} - {host.state.server_id}):
                state = ServerState.LEADING if server_id == 2 else ServerState.FOLLOWING
                peer.notified(server_id, Notification(state, 2, 0, 2, 2), host.wall_ms, host.mono_ms)
            again = connected(host, peer)
            del link
            hear_and_do(host, peer, again, leader_info(3), packet(PacketType.SNAP, zxid(2, 9)))
            assert host.state.database.tree is not tree
            assert sys.getrefcount(tree) <= 2, "this variable, and the argument"
    finally:
        if collects:
            gc.enable()


class ManyRoles(ClientPort):
    """Server 3 leads and follows in turn, with clients, requests and connections that do not outlive the role."""

    def __init__(self) -> None:
        super().__init__(*looking(server_id=LEADER))
        self.session_id = 0
        self.password = bytes(16)

    def change(self) -> None:
        """Two roles, from LOOKING to LOOKING."""
        for act in (self._lead, self._follow):
            link = connected(self.host, self._elected(LEADER if act == self._lead else 2))
            act(link)
            self.peer.disconnected(link, "gone", self.host.wall_ms, self.host.mono_ms)
            advance(self.host, self.peer, 1000)
            self._log()
            assert (self.peer.role, self.peer.election.state) == (None, ServerState.LOOKING)
            self.pump()
            votes(self.peer)
            for taken in (self.host.state.trace, self.host.state.quorum_dirty, self.host.disk.log):
                taken.clear()
            self.host.state.database.committed_log = CommittedLog(0)  # it grows for a while, as it should

    def _elected(self, leader_id: int) -> Peer:
        host, peer = self.host, self.peer
        for server_id in (1, 2):
            state = ServerState.LEADING if server_id == leader_id else ServerState.FOLLOWING
            if leader_id == LEADER:
                state = ServerState.LOOKING
            zxid_, round_ = host.tree.last_zxid, peer.election.election_epoch
            seen = Notification(state, leader_id, zxid_, round_, host.state.current_epoch)
            peer.notified(server_id, seen, host.wall_ms, host.mono_ms)
        advance(host, peer, 500)
        peer.wake(host.wall_ms, host.mono_ms)
        return peer

    def _lead(self, link: QuorumLink) -> None:
        state = self.host.state
        said = (
            learner_info(1, state.accepted_epoch, 0, is_observer=False),
            ack_epoch(self.host.tree.last_zxid, state.current_epoch),
            ack(zxid(state.accepted_epoch + 1, 0)),
        )
        hear_and_do(self.host, self.peer, link, *(decode_quorum_packet(each)[0] for each in said))
        assert self.service.mode == "leader"
        client = Client(self)
        client.connect(timeout_ms=4000, session_id=self.session_id, password=self.password)
        self._commit(link)
        assert client.connect_response is not None
        self.session_id, self.password = client.session_id, client.password
        client.send(OpCode.EXISTS, ExistsRequest("/watched", True))
        client.send(OpCode.CREATE, create_request("/made"))
        self._commit(link)
        client.send(OpCode.CREATE, create_request("/never committed"))

    def _follow(self, link: QuorumLink) -> None:
        epoch = self.host.state.accepted_epoch + 1
        synced = (leader_info(epoch), packet(PacketType.DIFF, 0), new_leader(epoch), UP_TO_DATE)
        hear_and_do(self.host, self.peer, link, *synced)
        assert self.service.mode == "follower"
        Client(self).connect()  # the leader does not answer
        first, second = (
            Txn.make(0, 0, zxid(epoch, counter), self.wall_ms, OpCode.ERROR, ErrorTxn(-101), None)
            for counter in (1, 2)
        )
        hear_and_do(self.host, self.peer, link, proposal(first), commit(first), proposal(second))

    def _log(self) -> None:
        while self.peer.unlogged:
            confirm(self.host, self.peer, *self.peer.take_unlogged(99))
        carry_out_all(self.host, self.peer)

    def _commit(self, link: QuorumLink) -> None:
        """The log of this server and that of the follower have everything."""
        self._log()
        hear(self.host, self.peer, link, decode_quorum_packet(ack(self.host.disk.last_zxid))[0])
        self.pump()


def create_request(path: str) -> CreateRequest:
    return CreateRequest(path, b"", [ACL(31, Id("world", "anyone"))], 1)


def test_a_hundred_roles_leave_no_more_in_memory_than_one() -> None:
    roles = ManyRoles()
    for _ in range(10):
        roles.change()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(50):
        roles.change()
    gc.collect()
    assert sys.getallocatedblocks() - before < 300, "three for each, less than a link has"
    assert roles.host.tree.last_zxid == zxid(120, 2)
    assert sorted(roles.host.state.database.sessions) == [roles.session_id]


# -- links that belong to no role, or to another one


def test_whoever_connects_to_a_server_without_a_role_is_turned_away() -> None:
    host, peer = looking()
    assert connected(host, peer).closed == "this server neither leads nor follows"


def test_packets_of_a_link_of_an_earlier_role_mean_nothing() -> None:
    host, peer, link = serving_follower()
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    hear(host, peer, link, proposal(txns(1, 1, 1)[0]))
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    assert peer.unlogged == []
    for server_id, state in ((2, ServerState.FOLLOWING), (LEADER, ServerState.LEADING)):
        peer.notified(server_id, Notification(state, LEADER, 0, 5, 1), host.wall_ms, host.mono_ms)
    assert peer.wanted_leader == LEADER
    hear(host, peer, link, leader_info(7))
    tree = host.state.database.tree
    peer.snapshot(link, tree, {}, host.wall_ms, host.mono_ms)
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    assert peer.wanted_leader == LEADER
    assert peer.take_effect() is None


def test_a_second_connection_to_the_leader_is_not_wanted() -> None:
    host, peer = following()
    first = connected(host, peer)
    second = connected(host, peer)
    assert (first.closed, second.closed) == (None, "no connection to a leader was wanted")


# -- the end


def test_a_server_that_must_stop_keeps_its_role_and_says_why() -> None:
    """What it has in memory is not what others have: it must not go on in any other role."""
    host, peer, link = serving_follower()
    first, second = txns(1, 1, 2)
    hear(host, peer, link, proposal(first), proposal(second), packet(PacketType.COMMIT, second.zxid))
    assert peer.fatal is not None
    assert peer.fatal[0] == 12
    confirm(host, peer, *peer.take_unlogged(9))
    advance(host, peer, 20_000)
    assert votes(peer) == set()
    assert isinstance(peer.role, Learner)


def test_a_new_role_takes_the_place_of_the_service_of_the_one_before() -> None:
    host, peer, link = serving_follower()
    served = peer.service
    peer.disconnected(link, "gone", host.wall_ms, host.mono_ms)
    assert not served.is_serving
    between = peer.service
    assert isinstance(between, NoService)
    for server_id, state in ((2, ServerState.FOLLOWING), (LEADER, ServerState.LEADING)):
        peer.notified(server_id, Notification(state, LEADER, 0, 5, 1), host.wall_ms, host.mono_ms)
    peer.notified(9, STRANGER, host.wall_ms, host.mono_ms)
    assert peer.service is between
    again = connected(host, peer)
    hear_and_do(host, peer, again, leader_info(1), packet(PacketType.DIFF, 0), new_leader(1), UP_TO_DATE)
    assert (peer.service.mode, peer.service.is_serving) == ("follower", True)
    assert peer.service is not served
