"""A learner under leaders whose behaviour is drawn: legal histories and syncs, disks of any speed, crashes at any moment.

Checked all the time:
    * an ACK is sent for what is on disk only, in order, once each; that of NEWLEADER before all others, with the epoch on disk
      and everything that was committed before it;
    * a proposal that was acked to a leader stays on disk as long as that leader leads;
    * what a crash leaves is a prefix of a leader's history, under epochs with which a server starts;
    * while it serves, the tree is the leader's at the same zxid, and the committed log is the end of its history, without gaps.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.fakes.local_server import Client, LocalServer
from tests.fakes.replies import create as create_request
from tests.fakes.replies import delete, multi, set_data
from tests.fakes.trees import copied
from tests.unit.core.zab.learner_host import (
    UP_TO_DATE,
    Host,
    commit,
    inform,
    leader_info,
    new_leader,
    packet,
    payloads,
    proposal,
)
from zkpy.core.data_tree import DataTree
from zkpy.core.owners import OwnerRules
from zkpy.core.zab.peer_state import counter_of, epoch_of
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketType

if TYPE_CHECKING:
    from zkpy.core.txn import Txn
    from zkpy_protocol.records import QuorumPacket

NAMES = [f"/{letter}" for letter in "abcd"]


class DrawnLeader:
    """The history of one epoch on top of a committed one, and the states along it.

    Attributes:
        history: all txns, the uncommitted ones at the end.
        count: how many of them are committed.
        states: tree and sessions after so many txns.
    """

    def __init__(self, rng: random.Random, epoch: int, before: DrawnLeader | None) -> None:
        self.rng = rng
        self.epoch = epoch
        if before is None:
            self.history: list[Txn] = []
            tree, sessions = DataTree(OwnerRules(False, emulate_353=False)), dict[int, int]()
            self.states = [(tree, sessions)]
        else:
            # What it has logged of the open proposals counts as committed, the rest is lost.
            known = rng.randint(before.count, len(before.history))
            self.history = before.history[:known]
            self.states = before.states[: known + 1]
        self.count: int = len(self.history)
        before_it, sessions = self.states[-1]
        tree = copied(before_it)
        tree.last_zxid = epoch << 32
        self.server = LocalServer(tree=tree, sessions=dict(sessions))
        self.clients: list[Client] = []

    def propose(self) -> list[Txn]:
        """Some requests become txns."""
        before = len(self.server.log)
        self._request()
        txns = self.server.log[before:]
        if txns:
            # One request, one txn, apart from what a client needs to begin.
            self.states += [self._state()] * len(txns)
            self.history += txns
        return txns

    def _state(self) -> tuple[DataTree, dict[int, int]]:
        server = self.server
        return copied(server.tree), dict(server.service.sessions.committed)

    def _request(self) -> None:
        rng = self.rng
        if not self.clients or rng.random() < 0.1:
            self.clients.append(self.server.client())
            return
        client = rng.choice(self.clients)
        name = rng.choice(NAMES)
        match rng.randrange(6):
            case 0 | 1:
                path = name if rng.random() < 0.5 else f"{rng.choice(NAMES)}{name}"
                client.call(OpCode.CREATE, create_request(path, flags=rng.choice((0, 0, 1))))
            case 2:
                client.call(OpCode.SET_DATA, set_data(name, rng.randbytes(3)))
            case 3:
                client.call(OpCode.DELETE, delete(name))
            case 4:
                ops = [(OpCode.CREATE, create_request(name)), (OpCode.SET_DATA, set_data(name, b"multi"))]
                client.call(OpCode.MULTI, multi(*ops))
            case _:
                self.clients.remove(client)
                client.call(OpCode.CLOSE_SESSION)

    # -- what it sends

    def sync(
        self, peer_zxid: int, observer: bool
    ) -> tuple[list[QuorumPacket], DataTree | None, dict[int, int]]:
        """Everything up to NEWLEADER, and the state that belongs behind a SNAP."""
        rng = self.rng
        committed = self.history[: self.count]
        zxids = [txn.zxid for txn in committed]
        last = zxids[-1] if zxids else 0
        state: DataTree | None = None
        sessions: dict[int, int] = {}
        if (peer_zxid == 0 or peer_zxid in zxids) and rng.random() < 0.7:
            start = zxids.index(peer_zxid) + 1 if peer_zxid else 0
            packets = [packet(PacketType.DIFF, last)]
        elif peer_zxid > last and epoch_of(peer_zxid) == epoch_of(last) and rng.random() < 0.7:
            start = self.count
            packets = [packet(PacketType.TRUNC, last)]
        else:
            # The state is walked while the leader goes on: it may be newer, and some of what is in it comes again.
            start = rng.randint(max(0, self.count - 2), self.count)
            self.count = rng.randint(self.count, len(self.history))
            state, sessions = self.states[self.count]
            packets = [packet(PacketType.SNAP, last)]
        for txn in self.history[start : self.count]:
            packets += [proposal(txn), commit(txn)]
        if not observer:
            packets += map(proposal, self.history[self.count :])
        return [*packets, new_leader(self.epoch)], state, sessions

    def live(self, observer: bool) -> list[QuorumPacket]:
        """Something happens."""
        if self.count < len(self.history) and self.rng.random() < 0.5:
            txn = self.history[self.count]
            self.count += 1
            return [inform(txn) if observer else commit(txn)]
        txns = self.propose()
        return [] if observer else list(map(proposal, txns))


class Run:
    """One server, one leader after the other."""

    def __init__(self, seed: int, observer: bool) -> None:
        self.rng = random.Random(seed)
        self.observer = observer
        self.host = Host(observer=observer)
        self.leader = DrawnLeader(self.rng, 1, None)
        # State of the tree behind each txn that any leader ever proposed.
        self.digests: dict[bytes, int] = {}
        self.acked: dict[int, Txn] = {}
        self.role_acks: list[int] = []
        self.is_synced = False
        self.committed_before = 0
        # What of the disk was looked at.
        self.seen: object = None

    # -- checks

    def look(self) -> None:
        self.note_history()
        self.check_acks()
        self.check_disk()
        self.check_memory()

    def note_history(self) -> None:
        leader = self.leader
        for txn, (tree, _) in zip(leader.history, leader.states[1:], strict=True):
            self.digests[txn.payload] = tree.digest

    def check_acks(self) -> None:
        host, leader = self.host, self.leader
        for each in host.sent_packets():
            if each.type != PacketType.ACK:
                continue
            if counter_of(each.zxid) == 0:
                assert each.zxid == leader.epoch << 32
                if not self.is_synced:
                    self.is_synced = True
                    assert self.role_acks == []
                    assert host.disk.current_epoch == leader.epoch
                    assert host.disk.last_zxid >= self.committed_before
                continue
            assert self.is_synced, "an ACK of a txn before that of NEWLEADER"
            assert not self.observer
            self.role_acks.append(each.zxid)
            self.acked[each.zxid] = next(txn for txn in leader.history if txn.zxid == each.zxid)
            self.seen = None
        assert self.role_acks == sorted(set(self.role_acks))

    def check_disk(self) -> None:
        disk = self.host.disk
        state = (len(disk.log), disk.last_zxid, sorted(disk.snapshots), disk.marked_epoch, disk.current_epoch)
        if state == self.seen:
            return
        self.seen = state
        on_disk = {txn.payload for txn in disk.log}
        newest = max(disk.snapshots)
        for txn in self.acked.values():
            assert txn.payload in on_disk or txn.zxid <= newest, f"0x{txn.zxid:x} was acked"
        restarted = self.host.restarted()
        log = [txn for txn in disk.log if txn.zxid > newest]
        if log:
            assert restarted.tree.digest == self.digests[log[-1].payload]

    def check_memory(self) -> None:
        host = self.host
        assert host.learner.fatal is None
        assert host.learner.pending == [txn for txn in host.learner.pending if txn.zxid > host.tree.last_zxid]
        if host.is_serving():
            history = self.leader.history
            applied = [txn for txn in history if txn.zxid <= host.tree.last_zxid]
            assert len(applied) <= self.leader.count, "more is applied than committed"
            tree, sessions = self.leader.states[len(applied)]
            assert host.tree.digest == tree.digest
            assert host.tree.digest_mismatches == 0
            assert host.state.database.sessions == sessions
            log = payloads(host.state.database.committed_log.txns())
            assert log == payloads(applied)[len(applied) - len(log) :]

    # -- what happens

    def disk_step(self) -> None:
        state = self.host.state
        if state.effects and (not state.unlogged or self.rng.random() < 0.5):
            self.host.carry_out()
        elif state.unlogged:
            self.host.persist(self.rng.randint(1, 4))

    def role(self, steps: int) -> bool:
        """One role. False if the server has crashed in it."""
        rng, host, leader = self.rng, self.host, self.leader
        self.role_acks = []
        self.is_synced = False
        self.committed_before = 0
        host.connect()
        queue = [leader_info(leader.epoch)]
        state: DataTree | None = None
        sessions: dict[int, int] = {}
        begun = uptodate = False
        while steps or (queue and rng.random() < 0.9):
            steps = max(0, steps - 1)
            if rng.random() < 0.004:
                return False
            if not begun and host.learner._phase.name == "MODE":
                begun = True
                more, state, sessions = leader.sync(host.tree.last_zxid, self.observer)
                self.committed_before = leader.history[leader.count - 1].zxid if leader.count else 0
                queue += more
            elif self.is_synced and not uptodate:
                uptodate = True
                queue.append(UP_TO_DATE)
            match rng.randrange(6):
                case 0 if queue:
                    count = 1 if queue[0].type == PacketType.SNAP else rng.randint(1, 3)
                    names = [each.type for each in queue[:count]]
                    if PacketType.SNAP in names:
                        count = names.index(PacketType.SNAP) + 1
                    sent, queue = queue[:count], queue[count:]
                    host.receive(*sent)
                    if sent[-1].type == PacketType.SNAP:
                        assert state is not None
                        host.snapshot(state, sessions)
                case 1 if begun:
                    queue += leader.live(self.observer)
                case 2 if begun:
                    queue.append(packet(PacketType.PING, 5))
                case _:
                    self.disk_step()
            assert host.over() is None
            self.look()
        return True

    def end(self) -> None:
        """The leader is lost; what is on its way reaches the disk, as `Peer` waits for."""
        host = self.host
        host.learner.disconnected("the leader is lost")
        while host.state.effects or host.state.unlogged:
            self.disk_step()
            self.look()
        assert host.over() == "the leader is lost"
        if not host.learner.database_lost:
            for txn in host.learner.pending:
                host.state.database.apply(txn)
            again = host.restarted()
            assert again.tree.digest == host.tree.digest
            assert again.tree.last_zxid in (host.tree.last_zxid, 0)
            assert host.state.current_epoch == again.state.current_epoch

    def go(self, roles: int) -> None:
        for _ in range(roles):
            if self.role(self.rng.randint(1, 200)):
                self.end()
            self.host = self.host.restarted()
            if self.rng.random() < 0.3:
                self.leader = DrawnLeader(self.rng, self.leader.epoch + 1, self.leader)
                self.acked.clear()


@pytest.mark.parametrize("observer", [False, True], ids=["follower", "observer"])
@pytest.mark.parametrize("seed", range(20))
def test_a_learner_keeps_its_promises(seed: int, observer: bool) -> None:
    Run(seed, observer).go(8)
