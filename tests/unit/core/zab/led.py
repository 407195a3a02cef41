"""A `Leader` without sockets, disk and clock: scripted learners, and effects that are done when the test says so.

    led = Led(voters=(1, 2, 3))             # server 1 leads, nothing is on disk yet
    led.settle()                            # the disk does what it was asked
    follower = led.learner(2).introduce()   # FOLLOWERINFO
    follower.received()                     # [LEADERINFO]

Disk and driver keep their contracts: effects are done one by one, in order, epochs are in the state before `done`, and the log
confirms txns in order.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from tests.fakes.local_server import MONO_MS, WALL_MS, PacketAuth
from zkpy.auth.providers import DigestProvider, IpProvider, ProviderRegistry
from zkpy.core.data_tree import DataTree
from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.owners import OwnerRules
from zkpy.core.pipeline.request import Request
from zkpy.core.service import ServiceOptions, ServiceParts
from zkpy.core.txn import Txn
from zkpy.core.zab.database import CommittedLog, Database
from zkpy.core.zab.effects import Effect, ReadHistory, SaveAcceptedEpoch, SaveCurrentEpoch
from zkpy.core.zab.leader import Leader, Phase
from zkpy.core.zab.peer_state import PeerOptions, PeerState, epoch_of, first_of
from zkpy.core.zab.quorum_link import QuorumLink, SnapshotBody
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketType, encode_packet
from zkpy_protocol.records import (
    ACL,
    CreateRequest,
    CreateTxn,
    Id,
    LearnerInfo,
    QuorumPacket,
    decode_quorum_packet,
    encode_create_request,
    encode_learner_info,
    encode_quorum_packet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from zkpy.core.leading import LeadingService

P = PacketType
TICK_MS = 2000
OPEN = [ACL(31, Id("world", "anyone"))]


def z(epoch: int, counter: int) -> int:
    return first_of(epoch) + counter


def created(zxid: int, path: str | None = None) -> Txn:
    """The txn that creates a node, as a real one has it but for the digest."""
    name = path or f"/n{zxid:x}"
    return Txn.make(0, 0, zxid, WALL_MS, OpCode.CREATE, CreateTxn(name, b"", OPEN, False, 1), None)


def members(voters: Iterable[int], observers: Iterable[int] = (), *, version: int = 0) -> Membership:
    lines = [f"server.{n}=h{n}:1:2:participant" for n in voters]
    lines += [f"server.{n}=h{n}:1:2:observer" for n in observers]
    return Membership.from_text("\n".join(lines)).with_version(version)


class ScriptedLearner:
    """The other end of a connection to the leader."""

    def __init__(self, led: Led, server_id: int, *, is_observer: bool) -> None:
        self.led = led
        self.server_id = server_id
        self.is_observer = is_observer
        self.link = QuorumLink(led.state.quorum_dirty, f"learner {server_id}")
        led.leader.connected(self.link)

    @property
    def closed(self) -> str | None:
        return self.link.closed

    def is_open(self) -> bool:
        return self.link.closed is None

    # -- to the leader

    def send_bytes(self, data: bytes) -> None:
        packet, end = decode_quorum_packet(data)
        assert end == len(data)
        self.led.leader.receive(self.link, [packet], self.led.wall_ms, self.led.mono_ms)

    def send(self, kind: PacketType, zxid: int, data: bytes | None = None) -> None:
        self.send_bytes(encode_packet(kind, zxid, data))

    def introduce(self, accepted_epoch: int = 0, *, config_version: int = 0) -> ScriptedLearner:
        kind = P.OBSERVER_INFO if self.is_observer else P.FOLLOWER_INFO
        info = encode_learner_info(LearnerInfo(self.server_id, 0x10000, config_version))
        self.send(kind, first_of(accepted_epoch), info)
        return self

    def ack_epoch(self, zxid: int = 0, current_epoch: int = 0) -> None:
        self.send(P.ACK_EPOCH, zxid, struct.pack(">i", current_epoch))

    def ack(self, zxid: int) -> None:
        self.send(P.ACK, zxid)

    def ack_new_leader(self) -> None:
        self.ack(first_of(self.led.leader.epoch))

    def follow(self, zxid: int = 0, *, accepted_epoch: int = 0, current_epoch: int = 0) -> ScriptedLearner:
        """Everything up to UPTODATE, if the leader goes along."""
        self.introduce(accepted_epoch)
        self.ack_epoch(zxid, current_epoch)
        self.ack_new_leader()
        return self

    def request(
        self, session_id: int, cxid: int, op: int, record: bytes, ids: Sequence[Id] | None = None
    ) -> None:
        data = struct.pack(">qii", session_id, cxid, op) + record
        self.send_bytes(
            encode_quorum_packet(QuorumPacket(P.REQUEST, -1, data, None if ids is None else list(ids)))
        )

    def create(self, session_id: int, cxid: int, path: str, flags: int = 0) -> None:
        record = encode_create_request(CreateRequest(path, b"", OPEN, flags))
        self.request(session_id, cxid, OpCode.CREATE, record, [Id("ip", "127.0.0.1")])

    # -- from the leader

    def raw(self) -> list[bytes | SnapshotBody]:
        """What was sent since the last look, as it goes on the wire."""
        return self.link.take()

    def packets(self) -> list[QuorumPacket | SnapshotBody]:
        found: list[QuorumPacket | SnapshotBody] = []
        for item in self.raw():
            if isinstance(item, SnapshotBody):
                found.append(item)
            else:
                packet, end = decode_quorum_packet(item)
                assert end == len(item)
                found.append(packet)
        return found

    def received(self) -> list[tuple[str, int]]:
        """Names and zxids of what was sent since the last look; the stream behind a SNAP is ``BODY``."""
        return [
            ("BODY", item.tree.last_zxid)
            if isinstance(item, SnapshotBody)
            else (P(item.type).name, item.zxid)
            for item in self.packets()
        ]


class Led:
    """A leader and its surroundings.

    Attributes:
        log: txns that are durable here.
        disk: effects that are done, in order.
        read: answers ReadHistory; None from it means that the files do not give that.
    """

    def __init__(
        self,
        *,
        voters: Iterable[int] = (1, 2, 3),
        observers: Iterable[int] = (),
        server_id: int = 1,
        history: Iterable[Txn] = (),
        current_epoch: int | None = None,
        accepted_epoch: int | None = None,
        view: EnsembleView | None = None,
        tree: DataTree | None = None,
        committed_in_memory: int = 500,
        **options: Any,
    ) -> None:
        self.wall_ms = WALL_MS
        self.mono_ms = MONO_MS
        self.disk: list[Effect] = []
        self.log: list[Txn] = list(history)
        self.read: Callable[[ReadHistory], list[Txn] | None] = lambda _: None
        base = DataTree(OwnerRules(False, emulate_353=False), True) if tree is None else tree
        database = Database(base, {}, CommittedLog(500))
        for txn in self.log:
            database.apply(txn)
        if committed_in_memory < len(self.log):
            database.committed_log = CommittedLog(500, self.log[len(self.log) - committed_in_memory :])
        settings = {
            "tick_time_ms": TICK_MS,
            "init_limit": 10,
            "sync_limit": 5,
        } | options
        reconfig_enabled = bool(settings.get("reconfig_enabled"))
        digest = DigestProvider()
        parts = ServiceParts(
            ServiceOptions(server_id=server_id, tick_time_ms=TICK_MS, reconfig_enabled=reconfig_enabled),
            ProviderRegistry([IpProvider(), digest]),
            PacketAuth(digest),
        )
        epoch = epoch_of(database.tree.last_zxid) if current_epoch is None else current_epoch
        self.state = PeerState(
            PeerOptions(server_id=server_id, **settings),
            EnsembleView(members(voters, observers)) if view is None else view,
            database,
            parts,
            epoch if accepted_epoch is None else accepted_epoch,
            epoch,
        )
        self.leader = Leader(self.state, self.wall_ms, self.mono_ms)

    @property
    def service(self) -> LeadingService:
        service = self.leader.service
        assert service is not None, "not established"
        return service

    def is_over(self) -> bool:
        return self.leader.over is not None

    def is_in(self, phase: Phase) -> bool:
        return self.leader.phase is phase

    def is_established(self) -> bool:
        return self.leader.service is not None

    def learner(self, server_id: int, *, is_observer: bool = False) -> ScriptedLearner:
        return ScriptedLearner(self, server_id, is_observer=is_observer)

    def establish(self, *followers: int) -> list[ScriptedLearner]:
        """Followers that have all the leader has make it serve; nothing they were sent is left."""
        learners = []
        last = self.state.database.tree.last_zxid
        for server_id in followers:
            learner = self.learner(server_id)
            learner.introduce(self.state.accepted_epoch)
            learners.append(learner)
        self.settle()
        for learner in learners:
            learner.ack_epoch(last, epoch_of(last))
        self.settle()
        for learner in learners:
            learner.ack_new_leader()
            learner.raw()
        assert self.leader.service is not None, self.leader.phase
        return learners

    # -- the disk

    def carry_out(self) -> Effect:
        """The disk does the next thing it was asked."""
        state = self.state
        effect = state.effects.popleft()
        result: object = None
        if isinstance(effect, SaveAcceptedEpoch):
            state.accepted_epoch = effect.epoch
        elif isinstance(effect, SaveCurrentEpoch):
            state.current_epoch = effect.epoch
        elif isinstance(effect, ReadHistory):
            result = self.read(effect)
        self.disk.append(effect)
        self.leader.done(effect, result, self.wall_ms, self.mono_ms)
        return effect

    def persist(self) -> None:
        """The log is durable up to what was proposed last."""
        txns = list(self.state.unlogged)
        self.state.unlogged.clear()
        if txns:
            self.log += txns
            self.leader.persisted(txns[-1].zxid, self.mono_ms)

    def settle(self) -> None:
        """The disk does everything it was asked."""
        while self.state.effects or self.state.unlogged:
            if self.state.effects:
                self.carry_out()
            self.persist()

    # -- clients and time

    def write(self, op: int, record: bytes, *, session_id: int = 0, cxid: int = 0) -> Txn:
        """A write that may do everything; its txn is on its way to log and followers."""
        frame = struct.pack(">ii", cxid, op) + record
        request = Request(None, session_id, cxid, op, frame, (Id("super", ""),), self.mono_ms)
        self.service.submit_remote(request, self.wall_ms)
        txn = request.txn
        assert txn is not None
        return txn

    def propose(self) -> int:
        """Propose something; its zxid. An own createSession needs nobody."""
        session_id = 0x100000000000000 + self.service.last_proposed
        return self.write(OpCode.CREATE_SESSION, struct.pack(">i", 60_000), session_id=session_id).zxid

    def beat(self, count: int = 1) -> None:
        """Half ticks pass."""
        for _ in range(count):
            self.wall_ms += TICK_MS // 2
            self.mono_ms += TICK_MS // 2
            self.leader.tick(self.wall_ms, self.mono_ms)

    def traced(self, event: str) -> list[dict[str, object]]:
        return [values for name, values in self.state.trace if name == event]
