"""The promises of an ensemble, looked at after every input of every server.

`Checks` watches the servers from outside: what their logs, their memory and their roles are, in entries of the `Ledger`. It
changes nothing and draws nothing that a server would see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.ledger import Ledger
from tests.simulation.ports import OWNERS
from tests.simulation.scenario import CLOCK_RATE_MAX
from tests.simulation.world import ViolationError
from zkpy.core.zab.database import Database
from zkpy.core.zab.effects import InstallSnapshot, LoadDatabase, ReloadDatabase, TruncateLog
from zkpy.core.zab.leader import Leader
from zkpy.core.zab.learner import Learner
from zkpy.core.zab.peer_state import epoch_of, first_of
from zkpy.storage.epochs import Epochs
from zkpy.storage.recovery import recover
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketReader, PacketType

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.ledger import Entry
    from tests.simulation.server import Incarnation, SimServer
    from zkpy.core.data_tree import DataTree
    from zkpy.core.service import Service
    from zkpy.core.txn import Txn
    from zkpy.core.zab.effects import Effect
    from zkpy.core.zab.quorum_link import SnapshotBody
    from zkpy.runtime.log_thread import Batch
    from zkpy.storage.recovery import Recovered

_ENTRY_HEAD = 12
_CLOSE_SESSION = int(OpCode.CLOSE_SESSION)
_SAMPLED = 64  # one in so many pieces that are sent


class Watched:
    """What is known of one server.

    Attributes:
        log: what its log holds, synced or not; the next batch comes behind it.
        durable: what survives a power cut for certain.
        tip: what is applied in memory.
        promised: accepted epoch, as far as it may have been told to others.
        entered: current epoch, likewise.
        snapshots: which histories its snapshots stand for, by zxid.
    """

    __slots__ = (
        "database",
        "durable",
        "entered",
        "incoming",
        "log",
        "promised",
        "service",
        "snapshots",
        "tip",
    )

    def __init__(self, root: Entry) -> None:
        self.log = self.durable = self.tip = root
        self.snapshots: dict[int, Entry] = {0: root}
        self.database: Database | None = None
        # A tree that may come to be the one in memory.
        self.incoming: tuple[DataTree, Entry] | None = None
        self.service: Service | None = None
        self.promised = self.entered = -1


class Checks:
    """Everything that is checked while a run goes on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self.ledger = Ledger(cluster.installed_membership(cluster.scenario.voters[0]))
        self.watched = {server_id: Watched(self.ledger.root) for server_id in cluster.servers}
        # Servers that have lost their disk and have not got the history again.
        self.unsynced: set[int] = set()
        self._leaders: dict[int, Incarnation] = {}
        self._led_since_us: dict[int, int] = {}
        # Session -> when its client asked for it last, successfully, its timeout, and the epoch of the server that gave it.
        self._attached: dict[int, tuple[int, int, int]] = {}
        self._chance = 0

    # -- the disk

    def about_to_log(self, server: SimServer, batch: Batch) -> None:
        """A batch is about to be written."""
        watched = self.watched[server.server_id]
        log = watched.log
        for entry in batch.entries:
            payload = entry[_ENTRY_HEAD:-1]
            zxid = int.from_bytes(payload[12:20], signed=True)
            log = self.ledger.entry(log, zxid, payload)
        watched.log = log

    def logged(self, server: SimServer) -> None:
        """Everything written is synced."""
        watched = self.watched[server.server_id]
        watched.durable = watched.log

    def snapshot_begins(self, process: Incarnation) -> None:
        """The state of this moment will be written."""
        watched = self.watched[process.server_id]
        watched.snapshots[process.peer.state.database.tree.last_zxid] = self._tip(process)

    def effect_begins(self, process: Incarnation, effect: Effect) -> None:
        """The disk is about to change; it may be stopped anywhere in between."""
        watched = self.watched[process.server_id]
        if isinstance(effect, InstallSnapshot):
            watched.snapshots[effect.zxid] = watched.tip
            watched.durable = watched.durable.committed_part()
        elif isinstance(effect, TruncateLog):
            watched.durable = self._kept(watched.log.up_to(effect.zxid), effect.again, watched.log)

    def _kept(self, base: Entry, again: tuple[Txn, ...], log: Entry) -> Entry:
        """Of what is cut off, what comes again has to stay."""
        for txn in again:
            entry = self.ledger.known(txn.payload)
            if entry is None or not log.holds(entry):
                break
            base = entry
        return base

    def effect_done(self, process: Incarnation, effect: Effect, result: object) -> None:
        """It has changed, durably."""
        watched = self.watched[process.server_id]
        if isinstance(effect, (InstallSnapshot, TruncateLog)):
            assert isinstance(result, int)
            base = watched.tip if isinstance(effect, InstallSnapshot) else watched.log.up_to(effect.zxid)
            for txn in effect.again:
                if txn.zxid <= result:
                    base = self.ledger.entry(base, txn.zxid, txn.payload)
            watched.log = watched.durable = base
        elif isinstance(effect, (LoadDatabase, ReloadDatabase)) and isinstance(result, Database):
            watched.incoming = (result.tree, watched.log.up_to(result.tree.last_zxid))

    def server_down(self, server: SimServer, *, power: bool) -> None:
        """The process is gone."""
        watched = self.watched[server.server_id]
        watched.database = None
        watched.service = None

    def wiped(self, server: SimServer) -> None:
        """The disk is lost."""
        self.watched[server.server_id] = Watched(self.ledger.root)
        self.unsynced.add(server.server_id)

    def recovered(self, process: Incarnation, recovered: Recovered, epochs: Epochs) -> None:
        """A server has read its disk: everything that was durable is there."""
        watched = self.watched[process.server_id]
        found = self._found(watched, recovered)
        if not found.holds(watched.durable):
            raise ViolationError(
                f"{process.server.name} had {watched.durable} on disk and came back with {found}"
            )
        if epochs.accepted < watched.promised or epochs.current < watched.entered:
            raise ViolationError(
                f"{process.server.name} came back with epochs {epochs.accepted} and {epochs.current}, "
                f"but had promised {watched.promised} and entered {watched.entered}"
            )
        if recovered.digest_mismatches:
            raise ViolationError(f"{process.server.name}: replaying the log gives other digests")
        watched.log = watched.durable = watched.tip = found
        process.world.note(
            process.server.name,
            "recovered",
            {"zxid": found.zxid, "accepted": epochs.accepted, "current": epochs.current},
        )

    def _found(self, watched: Watched, recovered: Recovered) -> Entry:
        base = watched.snapshots.get(recovered.snapshot_zxid or 0)
        if base is None:
            raise ViolationError(f"nobody wrote snapshot {recovered.snapshot_zxid}")
        if recovered.txn_count:
            last = self.ledger.known(recovered.last_txns[-1].payload)
            if last is None or not last.holds(base):
                raise ViolationError(f"recovery ended with a txn that does not stand behind {base}")
            return last
        return base

    # -- memory and roles

    def stream_begins(self, process: Incarnation, body: SnapshotBody) -> Entry:
        """A leader sends its state."""
        return self._tip(process)

    def _tip(self, process: Incarnation) -> Entry:
        """What is applied in the middle of an input."""
        tip = self.watched[process.server_id].tip
        txns = process.peer.state.database.committed_log.txns()
        return self._entry(txns[-1]) if txns and txns[-1].zxid > tip.zxid else tip

    def stream_received(self, process: Incarnation, tree: DataTree, entry: Entry) -> None:
        """A learner has all of it."""
        self.watched[process.server_id].incoming = (tree, entry)

    def after_input(self, process: Incarnation) -> None:
        """One input of a server and all that followed at once is over."""
        watched = self.watched[process.server_id]
        peer = process.peer
        watched.promised = peer.state.accepted_epoch
        watched.entered = peer.state.current_epoch
        database = peer.state.database
        if database is not watched.database:
            if watched.database is not None:
                watched.tip = self._replaced(process, watched, database.tree)
            watched.database = database
        role = peer.role
        service = None if role is None else role.service
        if service is not watched.service:
            watched.service = service
            if service is not None:
                self.unsynced.discard(process.server_id)
                self._begins_to_serve(process, watched, role)
        log = database.committed_log
        newest = log.newest
        if newest is not None and newest.zxid > watched.tip.zxid:
            self._applied(process, watched, log.txns(), committed=service is not None)

    def _replaced(self, process: Incarnation, watched: Watched, tree: DataTree) -> Entry:
        """The memory is another one: read from disk, received, or nothing for now."""
        if watched.incoming is not None and watched.incoming[0] is tree:
            return watched.incoming[1]
        if tree.last_zxid:
            raise ViolationError(f"{process.server.name} has a state in memory that came from nowhere")
        return self.ledger.root

    def _begins_to_serve(self, process: Incarnation, watched: Watched, role: object) -> None:
        name = process.server.name
        if isinstance(role, Leader):
            other = self._leaders.setdefault(role.epoch, process)
            self._led_since_us.setdefault(role.epoch, self._world.now_us)
            if other is not process:
                raise ViolationError(f"{name} and {other.server.name} both lead epoch {role.epoch}")
            # A leader that has slept may hear of its own quorum when a later one has gone on.
            committed = self.ledger.tip.up_to(first_of(role.epoch))
            if not watched.tip.holds(committed):
                raise ViolationError(f"{name} leads with {watched.tip}, but {committed} is committed")
            self._commit(process, watched.tip)
            entered = {server_id for server_id, each in self.watched.items() if each.entered >= role.epoch}
            self.ledger.activated(process.peer.state.view.committed, entered, name)
        elif not watched.tip.is_committed:
            raise ViolationError(f"{name} begins to serve with {watched.tip}, which is not committed")

    def _applied(self, process: Incarnation, watched: Watched, txns: list[Txn], *, committed: bool) -> None:
        before = watched.tip
        tip = watched.tip = self._entry(txns[-1])
        if not tip.holds(before):
            raise ViolationError(f"{process.server.name} applies {tip}, which does not stand behind {before}")
        if committed:
            self._commit(process, tip)
            tree = process.peer.state.database.tree
            if tree.digest != tip.digest:
                raise ViolationError(f"{process.server.name} has another tree than others at {tip}")
            if tree.digest_mismatches:
                raise ViolationError(f"{process.server.name} has counted a digest that differs, at {tip}")

    def _entry(self, txn: Txn) -> Entry:
        entry = self.ledger.known(txn.payload)
        if entry is None:
            raise ViolationError(f"txn {txn.zxid:#x} is in no log")
        return entry

    def _commit(self, process: Incarnation, entry: Entry) -> None:
        if entry.is_committed:
            return
        for each in self.ledger.commit(entry, process.server.name):
            self._check_expiry(self.ledger.txns[each.zxid])
        durable = {server_id for server_id, watched in self.watched.items() if watched.durable.holds(entry)}
        # What a lost disk had acknowledged counts; its server has no vote until it has everything again.
        durable |= self.unsynced
        if not self.ledger.is_quorum(entry, durable):
            raise ViolationError(
                f"{process.server.name} commits {entry}, which only {sorted(durable)} have on disk"
            )

    # -- sessions

    def attached(self, session_id: int, asked_us: int, timeout_ms: int, epoch: int) -> None:
        """A client has its session, for which it had asked then, from a server of this epoch."""
        if session_id in self.ledger.closed:
            raise ViolationError(f"session {session_id:#x} is given back, but was closed")
        self._attached[session_id] = (asked_us, timeout_ms * 1000, epoch)

    def _check_expiry(self, txn: Txn) -> None:
        """A leader closes a session only when nothing was heard of it for its timeout, by a clock that may go too fast.

        The leader before it may have given the session back meanwhile, as long as it did not notice that it leads no more. Of that
        this one cannot know: it counts from when it began.
        """
        if txn.type == _CLOSE_SESSION and txn.cxid == 0 and txn.client_id in self._attached:
            asked_us, timeout_us, epoch = self._attached[txn.client_id]
            if epoch < epoch_of(txn.zxid):
                asked_us = min(asked_us, self._led_since_us[epoch_of(txn.zxid)])
            if self._world.now_us < asked_us + timeout_us * 1000 // CLOCK_RATE_MAX:
                raise ViolationError(f"session {txn.client_id:#x} expires before its timeout")

    # -- what is said

    def sending(self, process: Incarnation, data: bytes) -> None:
        """A server sends packets to another one: what it acks has to be on its disk already. Some are looked at."""
        self._chance = (self._chance * 1103515245 + len(data) + 12345) & 0x7FFFFFFF
        role = process.peer.role
        if self._chance % _SAMPLED or not isinstance(role, Learner):
            return
        acked = [
            packet.zxid
            for packet in PacketReader(1 << 20, stops_at_snap=True).feed(data)
            if packet.type == PacketType.ACK
        ]
        if acked:
            self._check_ack(process, acked[-1])

    def _check_ack(self, process: Incarnation, zxid: int) -> None:
        """What a power cut at this moment would leave."""
        watched = self.watched[process.server_id]
        name = process.server.name
        after = process.server.fs.after_power_cut(self._chance)
        recovered = recover(
            after, process.data_dir, OWNERS, digest_enabled=True, trust_empty=False, keep_txns=1
        )
        found = self._found(watched, recovered)
        if not found.holds(watched.log.up_to(zxid)):
            raise ViolationError(f"{name} acks {zxid:#x}, but would come back with {found}")
        epochs = Epochs.load(after, process.data_dir.snap_dir, recovered.last_zxid)
        if epochs.current < epoch_of(zxid):
            raise ViolationError(f"{name} acks {zxid:#x}, but would come back in epoch {epochs.current}")

    # -- the end

    def members(self) -> list[int]:
        """Ids of the servers of the newest committed configuration that any server knows."""
        views = [
            server.process.peer.state.view.committed
            for server in self._cluster.servers.values()
            if server.process is not None
        ]
        return list(max(views, key=lambda committed: committed.version).servers)

    def _waits_for_an_election(self, server_id: int) -> bool:
        """Whether it has promised a later epoch than that of the leader, whom it may not follow (quorum protocol §7.2 step 3).

        Somebody had begun to lead with that epoch and found no quorum. It joins when the next leader is elected.
        """
        led = [
            server.process.peer.state.current_epoch
            for server in self._cluster.servers.values()
            if server.process is not None
            and isinstance(server.process.peer.role, Leader)
            and self.watched[server.server_id].service is not None
        ]
        process = self._cluster.servers[server_id].process
        return (
            bool(led)
            and process is not None
            and self.watched[server_id].service is None
            and process.peer.state.accepted_epoch > max(led)
        )

    def differences(self) -> list[str]:
        """What keeps the servers from being the same, once nothing is under way."""
        found = []
        ledger = self.ledger
        for server_id in self.members():
            watched = self.watched[server_id]
            process = self._cluster.servers[server_id].process
            if self._waits_for_an_election(server_id):
                pass
            elif process is None or watched.service is None:
                found.append(f"server {server_id} does not serve")
            elif watched.tip is not ledger.tip:
                found.append(f"server {server_id} is at {watched.tip}, not at {ledger.tip}")
        return found

    def same_everywhere(self) -> None:
        """Trees and sessions are compared in full."""
        ledger = self.ledger
        for server_id in self.members():
            if self._waits_for_an_election(server_id):
                continue
            process = self._cluster.servers[server_id].process
            assert process is not None
            database = process.peer.state.database
            tree = database.tree
            if tree.digest != ledger.tree.digest or tree.nodes.keys() != ledger.tree.nodes.keys():
                raise ViolationError(f"server {server_id} has another tree")
            if database.sessions != ledger.sessions:
                raise ViolationError(f"server {server_id} has other sessions")
            if {owner: set(paths) for owner, paths in tree.ephemerals.items() if paths} != {
                owner: set(paths) for owner, paths in ledger.tree.ephemerals.items() if paths
            }:
                raise ViolationError(f"server {server_id} has other ephemerals")
            gone = tree.ephemerals.keys() - database.sessions.keys()
            if any(tree.ephemerals[owner] for owner in gone):
                raise ViolationError(f"server {server_id} has ephemerals of sessions that are gone")
