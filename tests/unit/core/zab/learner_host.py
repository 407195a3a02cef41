"""A learner with a disk that is driven by hand: what was sent, what is asked of the disk, what is durable, step by step.

    host = Host(history=txns(1, 1, 3), epoch=1)      # three txns of epoch 1 on disk
    host.connect()
    host.receive(leader_info(2))
    host.asked()                                      # SaveAcceptedEpoch(2), not carried out
    host.carry_out()                                  # now it is
    host.sent()                                       # [ACKEPOCH]

`Disk` is a model of the real one: what it holds is durable at once, and a crash is `Host.restarted`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.fakes.local_server import MONO_MS, SUPER, WALL_MS, PacketAuth
from tests.fakes.trees import copied
from zkpy.auth.providers import DigestProvider, IpProvider, ProviderRegistry
from zkpy.core.data_tree import DataTree
from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.owners import OwnerRules
from zkpy.core.service import ServiceOptions, ServiceParts
from zkpy.core.txn import Txn
from zkpy.core.zab.database import CommittedLog, Database
from zkpy.core.zab.effects import (
    Effect,
    InstallSnapshot,
    LoadDatabase,
    MarkCurrentEpoch,
    SaveAcceptedEpoch,
    SaveCommittedConfig,
    SaveCurrentEpoch,
    SaveProposedConfig,
    TruncateLog,
)
from zkpy.core.zab.learner import Learner
from zkpy.core.zab.peer_state import PeerOptions, PeerState, epoch_of
from zkpy.core.zab.quorum_link import QuorumLink
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketReader, PacketType
from zkpy_protocol.records import (
    ACL,
    CreateTxn,
    ErrorTxn,
    Id,
    QuorumPacket,
    SetDataTxn,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

MEMBERS = (
    "server.1=127.0.0.1:2181:2191:participant;127.0.0.1:2171\n"
    "server.2=127.0.0.1:2182:2192:participant;127.0.0.1:2172\n"
    "server.3=127.0.0.1:2183:2193:participant;127.0.0.1:2173"
)
LEADER = 3
EVERYTHING = (1 << 63) - 1
_OPEN = [ACL(31, Id("world", "anyone"))]


# -- txns and packets


def zxid(epoch: int, counter: int) -> int:
    return epoch << 32 | counter


def create(zxid_: int, path: str | None = None) -> Txn:
    """A create below the root, whose name tells the txn."""
    record = CreateTxn(path or f"/n{zxid_:x}", b"", _OPEN, False, zxid_ & 0xFFFF)
    return Txn.make(0, 0, zxid_, 1, OpCode.CREATE, record, None)


def filler(zxid_: int) -> Txn:
    """A txn that changes nothing."""
    return Txn.make(0, 0, zxid_, 1, OpCode.ERROR, ErrorTxn(-101), None)


def reconfig(zxid_: int, text: str) -> Txn:
    record = SetDataTxn("/zookeeper/config", f"{text}\nversion={zxid_:x}".encode(), -1)
    return Txn.make(0, 0, zxid_, 1, OpCode.RECONFIG, record, None)


def txns(epoch: int, first: int, last: int) -> list[Txn]:
    return [create(zxid(epoch, counter)) for counter in range(first, last + 1)]


def payloads(history: Iterable[Txn]) -> list[bytes]:
    """What makes two txns the same."""
    return [txn.payload for txn in history]


def packet(type_: int, zxid_: int, data: bytes | None = None) -> QuorumPacket:
    return QuorumPacket(type_, zxid_, data, None)


def leader_info(epoch: int) -> QuorumPacket:
    return packet(PacketType.LEADER_INFO, epoch << 32, (0x10000).to_bytes(4))


def proposal(txn: Txn) -> QuorumPacket:
    return packet(PacketType.PROPOSAL, txn.zxid, txn.payload)


def inform(txn: Txn) -> QuorumPacket:
    return packet(PacketType.INFORM, txn.zxid, txn.payload)


def commit(txn: Txn) -> QuorumPacket:
    return packet(PacketType.COMMIT, txn.zxid)


def committed(*history: Txn) -> list[QuorumPacket]:
    """PROPOSAL and COMMIT of each txn, as in a sync."""
    return [each for txn in history for each in (proposal(txn), commit(txn))]


def new_leader(epoch: int, config: str | None = None) -> QuorumPacket:
    return packet(PacketType.NEW_LEADER, epoch << 32, None if config is None else config.encode())


UP_TO_DATE = packet(PacketType.UP_TO_DATE, -1)


def shown(packets: Iterable[QuorumPacket]) -> list[tuple[str, int]]:
    """Type and zxid of packets."""
    return [(PacketType(each.type).name, each.zxid) for each in packets]


# -- the disk


class Disk:
    """What is durable.

    Attributes:
        marked_epoch: the content of currentEpoch.tmp.
        snapshots: zxid -> tree and sessions, which nobody changes.
    """

    def __init__(self, owners: OwnerRules) -> None:
        self.accepted_epoch = 0
        self.current_epoch = 0
        self.marked_epoch: int | None = None
        self.snapshots: dict[int, tuple[DataTree, dict[int, int]]] = {0: (DataTree(owners), {})}
        self.log: list[Txn] = []
        self.configs: list[tuple[str, str]] = []

    @property
    def last_zxid(self) -> int:
        return max(*self.snapshots, *(txn.zxid for txn in self.log), 0)

    def copied(self) -> Disk:
        """A disk with the same content."""
        disk = Disk(next(iter(self.snapshots.values()))[0].owners)
        disk.accepted_epoch = self.accepted_epoch
        disk.current_epoch = self.current_epoch
        disk.marked_epoch = self.marked_epoch
        disk.snapshots = dict(self.snapshots)
        disk.log = [Txn.from_payload(txn.payload) for txn in self.log]
        disk.configs = list(self.configs)
        return disk

    def load(self, zxid_: int = EVERYTHING) -> Database | None:
        """What a server reads that goes no further than `zxid_`."""
        usable = [each for each in self.snapshots if each <= zxid_]
        if not usable:
            return None
        snapshot, sessions = self.snapshots[max(usable)]
        tree = copied(snapshot)
        tree.last_zxid = max(usable)
        database = Database(tree, dict(sessions), CommittedLog(500))
        for txn in self.log:
            if tree.last_zxid < txn.zxid <= zxid_:
                database.apply(txn)
        return database

    def carry_out(self, effect: Effect) -> object:
        if isinstance(effect, SaveAcceptedEpoch):
            self.accepted_epoch = effect.epoch
        elif isinstance(effect, MarkCurrentEpoch):
            if effect.epoch > self.current_epoch:
                self.marked_epoch = effect.epoch
        elif isinstance(effect, SaveCurrentEpoch):
            self.current_epoch = effect.epoch
            self.marked_epoch = None
        elif isinstance(effect, LoadDatabase):
            return self.load(effect.zxid)
        elif isinstance(effect, TruncateLog):
            return self._cut(effect)
        elif isinstance(effect, InstallSnapshot):
            self.snapshots[effect.zxid] = copied(effect.tree), dict(effect.sessions)
            return self._cut(effect)
        elif isinstance(effect, SaveProposedConfig):
            self.configs.append(("proposed", effect.text))
        else:
            assert isinstance(effect, SaveCommittedConfig)
            self.configs.append(("committed", effect.text))
        return None

    def _cut(self, effect: TruncateLog | InstallSnapshot) -> int:
        kept = [txn for txn in self.log if txn.zxid <= effect.zxid]
        above = [txn for txn in self.log if txn.zxid > effect.zxid]
        for old, new in zip(above, effect.again, strict=False):
            if old.payload != new.payload:
                break
            kept.append(old)
        self.log = kept
        for each in [each for each in self.snapshots if each > effect.zxid]:
            del self.snapshots[each]
        return kept[-1].zxid if kept else 0


# -- the learner


class Host:
    """One server with the role of a learner.

    Attributes:
        learner: its role.
        link: its connection to the leader.
    """

    def __init__(
        self,
        *,
        server_id: int = 1,
        observer: bool = False,
        history: Iterable[Txn] = (),
        epoch: int = 0,
        accepted_epoch: int | None = None,
        members: str = MEMBERS,
        disk: Disk | None = None,
        **options: Any,
    ) -> None:
        """`epoch` is the current epoch, and the accepted one if no other is said."""
        self.owners = OwnerRules(False, emulate_353=False)
        self.observer = observer
        if disk is None:
            disk = Disk(self.owners)
            disk.log = list(history)
            disk.current_epoch = epoch
            disk.accepted_epoch = epoch if accepted_epoch is None else accepted_epoch
        self.disk = disk
        self.wall_ms = WALL_MS
        self.mono_ms = MONO_MS
        digest = DigestProvider(super_digest=SUPER)
        parts = ServiceParts(
            ServiceOptions(tick_time_ms=1000, server_id=server_id),
            ProviderRegistry([IpProvider(), digest]),
            PacketAuth(digest),
        )
        settings = {"tick_time_ms": 1000, "init_limit": 10, "sync_limit": 5} | options
        database = disk.load()
        assert database is not None
        self.state = PeerState(
            PeerOptions(server_id=server_id, **settings),
            EnsembleView(Membership.from_text(members)),
            database,
            parts,
            disk.accepted_epoch,
            disk.current_epoch,
        )
        self.begin_role()

    def begin_role(self) -> None:
        """The server becomes a learner, with what it has in memory."""
        self.learner = Learner(self.state, LEADER, self.observer, self.wall_ms, self.mono_ms)
        self.link = QuorumLink(self.state.quorum_dirty, "leader")

    @property
    def tree(self) -> DataTree:
        return self.state.database.tree

    def over(self) -> str | None:
        """Why the role has ended."""
        return self.learner.over

    def is_busy(self) -> bool:
        """Whether the leader is not listened to."""
        return self.link.is_paused

    def wants_connection(self) -> bool:
        return self.learner.wants_connection

    def established_epoch(self) -> int | None:
        return self.learner.established_epoch

    def is_serving(self) -> bool:
        return self.learner.service is not None

    @property
    def paths(self) -> list[str]:
        """All nodes that txns made."""
        return sorted(path for path in self.tree.nodes if path.startswith("/n"))

    # -- the wire

    def connect(self) -> None:
        self.learner.connected(self.link)

    def receive(self, *packets: QuorumPacket) -> None:
        """The leader's packets arrive in one piece. What they lead to on disk is not done."""
        self.learner.receive(packets, self.wall_ms, self.mono_ms)

    def snapshot(self, tree: DataTree, sessions: dict[int, int] | None = None) -> None:
        """The stream behind a SNAP arrives."""
        self.learner.snapshot(copied(tree), dict(sessions or {}), self.wall_ms, self.mono_ms)

    def taken(self) -> bytes:
        """The bytes that were sent since the last look."""
        taken = self.link.take()
        assert all(isinstance(each, bytes) for each in taken)
        self.state.quorum_dirty.clear()
        return b"".join(each for each in taken if isinstance(each, bytes))

    def sent(self) -> list[tuple[str, int]]:
        """Type and zxid of the packets that were sent since the last look."""
        return shown(self.sent_packets())

    def sent_packets(self) -> list[QuorumPacket]:
        reader = PacketReader(1 << 20, stops_at_snap=False)
        packets = reader.feed(self.taken())
        assert reader.take_rest() == b""
        return packets

    # -- the disk

    def asked(self) -> list[str]:
        """The effects that are waited for, oldest first, by name."""
        return [type(effect).__name__ for effect in self.state.effects]

    def carry_out(self) -> Effect:
        """The oldest effect happens, and the learner hears of it."""
        effect = self.state.effects.popleft()
        result = self.disk.carry_out(effect)
        if isinstance(effect, SaveAcceptedEpoch):
            self.state.accepted_epoch = effect.epoch
        elif isinstance(effect, SaveCurrentEpoch):
            self.state.current_epoch = effect.epoch
        self.learner.done(effect, result, self.wall_ms, self.mono_ms)
        return effect

    def unlogged(self) -> list[int]:
        """What was handed to the log and is not durable."""
        return [txn.zxid for txn in self.state.unlogged]

    def persist(self, count: int = 1 << 30) -> None:
        """The first txns of those in `unlogged` become durable together."""
        taken = self.state.unlogged[:count]
        del self.state.unlogged[:count]
        for txn in taken:
            assert txn.zxid > self.disk.last_zxid, "the log goes back"
            self.disk.log.append(txn)
        if taken:
            self.learner.persisted(taken[-1].zxid, self.mono_ms)

    def settle(self) -> None:
        """The disk does all there is to do."""
        while self.state.effects or self.state.unlogged:
            self.persist()
            if self.state.effects:
                self.carry_out()

    # -- time

    def advance(self, ms: int) -> None:
        """Time passes in half ticks."""
        while ms > 0:
            step = min(ms, 500)
            ms -= step
            self.wall_ms += step
            self.mono_ms += step
            self.learner.tick(self.wall_ms, self.mono_ms)

    # -- shortcuts

    def discover(self, epoch: int) -> None:
        """As far as ACKEPOCH."""
        self.connect()
        self.receive(leader_info(epoch))
        self.settle()
        self.sent()

    def follow(self, epoch: int = 1) -> None:
        """As far as broadcast, by an empty DIFF."""
        self.discover(epoch)
        self.receive(packet(PacketType.DIFF, self.tree.last_zxid), new_leader(epoch))
        self.settle()
        self.receive(UP_TO_DATE)
        assert self.learner.service is not None
        self.sent()

    def restarted(self, **options: Any) -> Host:
        """The server after a crash at this moment. The checks of a start are made (§5.2)."""
        disk = self.disk.copied()
        epoch = epoch_of(disk.last_zxid)
        if epoch > disk.current_epoch:
            assert disk.marked_epoch is not None, "an Apache server would not start"
            disk.current_epoch = disk.marked_epoch
        disk.marked_epoch = None
        assert epoch_of(disk.last_zxid) <= disk.current_epoch <= disk.accepted_epoch
        return Host(disk=disk, server_id=self.state.server_id, observer=self.observer, **options)
