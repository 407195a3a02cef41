"""How a leader's history gets into a learner: memory, log and currentEpoch, from the mode packet on (quorum protocol §8.7).

Knows no packets, links or services. The steps of `persist` are the heart. Each begins when the one before it is on disk:

    currentEpoch.tmp ─► snapshot (SNAP), or cut log (TRUNC) ─► committed txns in the log ─► currentEpoch ─► may be acked

The first one holds the epoch of the last txn that these steps bring to the disk, not that of the leader: whoever starts on a sync
that was cut short must not claim an epoch of which it has no txn, since its leader may never have been established.

Memory changes in two moments only: a SNAP or TRUNC puts a new database in its place (from then on, and while a SNAP is on its way,
it is not the disk's until the steps are done), and the committed txns are applied in the steps. Unlike Apache, which applies them
as they come.

A TRUNC rebuilds the memory at once, but cuts the log only in the steps, behind the proposals that the leader sends again: this
server has acked them, and its word has to be true at every moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.core.data_tree import DataTree
from zkpy.core.zab.database import CommittedLog, Database
from zkpy.core.zab.effects import (
    InstallSnapshot,
    LoadDatabase,
    MarkCurrentEpoch,
    SaveCurrentEpoch,
    TruncateLog,
)
from zkpy.core.zab.peer_state import counter_of, epoch_of
from zkpy.core.zab.pending import PendingProposals
from zkpy.core.zab.reconfig import write_config_node
from zkpy_protocol.errors import ProtocolError
from zkpy_protocol.quorum_packets import PacketType

if TYPE_CHECKING:
    from collections.abc import Callable

    from zkpy.core.txn import Txn
    from zkpy.core.zab.effects import Effect
    from zkpy.core.zab.peer_state import PeerState


class UnreachableZxidError(Exception):
    """The disk does not hold the txn that the leader wants to go back to."""


class LearnerSync:
    """What a learner has of its leader's history, logged and unlogged.

    Attributes:
        keeps_log: False for an observer that has syncEnabled off.
        pending: proposed and not committed.
        committed: committed and not applied; all of them are older than the pending ones.
        logged: every txn up to this one in `committed` and `pending` was handed to the log.
        database_lost: what is in memory is not what is on disk.
    """

    __slots__ = (
        "_ask",
        "_awaited_zxid",
        "_epoch",
        "_mode",
        "_state",
        "_zxid",
        "committed",
        "database_lost",
        "keeps_log",
        "logged",
        "pending",
    )

    def __init__(self, state: PeerState, keeps_log: bool, ask: Callable[[Effect], None]) -> None:
        """`ask` takes the effects; they are answered by `done`."""
        self._state = state
        self._ask = ask
        self._mode = PacketType.DIFF
        self._zxid = 0
        self._epoch = 0
        # In the steps: currentEpoch follows when the log is durable up to here.
        self._awaited_zxid: int | None = None
        self.keeps_log = keeps_log
        self.pending = PendingProposals(0, 0)
        self.committed: list[Txn] = []
        self.logged = 0
        self.database_lost = False

    # -- the mode

    def diff(self, epoch: int, wall_ms: int) -> None:
        """The history goes on where this server's ends."""
        self._choose(PacketType.DIFF, self._state.database.tree.last_zxid, epoch)
        self._start(wall_ms)

    def snap(self, zxid: int, epoch: int) -> None:
        """A state comes, to be handed to `received`. The memory has room for one: if it does not come, the disk has the old one."""
        self._choose(PacketType.SNAP, zxid, epoch)
        self.database_lost = True
        before = self._state.database
        nothing = DataTree(before.tree.owners, before.tree.digest_enabled)
        self._state.database = Database(nothing, {}, CommittedLog(0), is_trusted=before.is_trusted)

    def received(self, tree: DataTree, sessions: dict[int, int], wall_ms: int) -> None:
        """The state is here."""
        state = self._state
        tree.last_zxid = self._zxid
        log = CommittedLog(state.options.commit_log_count)
        self._replace(Database(tree, sessions, log, is_trusted=state.database.is_trusted), wall_ms)

    def trunc(self, zxid: int, epoch: int) -> None:
        """Back to an own txn: LoadDatabase is asked, its result goes to `rebuilt`.

        Raises:
            ProtocolError: this server cannot go there, or not without reading its disk first.
        """
        last_zxid = self._state.database.tree.last_zxid
        if zxid > last_zxid:
            raise ProtocolError(f"TRUNC to 0x{zxid:x}, but the last txn here is 0x{last_zxid:x}")
        if not self.keeps_log:
            # The disk is behind the memory, but what it holds is a state to begin again from.
            self.database_lost = True
            raise ProtocolError("TRUNC for an observer that keeps no log")
        self._choose(PacketType.TRUNC, zxid, epoch)
        self._ask(LoadDatabase(zxid))

    def rebuilt(self, database: Database | None, wall_ms: int) -> None:
        """The memory as of the zxid of a TRUNC.

        Raises:
            UnreachableZxidError: the disk does not hold that txn. The start of an epoch is no txn; a server that is cut back to
                it has everything that came before.
        """
        zxid = self._zxid
        if database is None or (database.tree.last_zxid != zxid and counter_of(zxid)):
            raise UnreachableZxidError(f"TRUNC to 0x{zxid:x}, which is not on disk any more")
        assert database.tree.last_zxid <= zxid
        database.tree.last_zxid = zxid
        self._replace(database, wall_ms)

    def _choose(self, mode: PacketType, zxid: int, epoch: int) -> None:
        self._mode = mode
        self._zxid = zxid
        self._epoch = epoch

    def _replace(self, database: Database, wall_ms: int) -> None:
        self.database_lost = True
        self._state.database = database
        self._start(wall_ms)

    def _start(self, wall_ms: int) -> None:
        tree = self._state.database.tree
        self.pending = PendingProposals(tree.last_zxid, self._epoch)
        self.logged = tree.last_zxid
        write_config_node(tree, self._state.view.committed, wall_ms)

    # -- the history

    def commit(self, zxid: int) -> Txn | None:
        """Note that a proposal is committed.

        Returns:
            its txn; None when it is part of the state that the sync began with.

        Raises:
            ProtocolError: it is not the oldest proposal.
        """
        pending = self.pending
        if zxid <= pending.base:
            return None
        txn = pending.commit(zxid)
        if txn is None:
            raise ProtocolError(f"COMMIT of 0x{zxid:x}, which is not the oldest proposal")
        self.committed.append(txn)
        return txn

    @property
    def in_log(self) -> list[Txn]:
        """Txns that were handed to the log and are not applied, ascending."""
        return [txn for txn in (*self.committed, *self.pending.queue) if txn.zxid <= self.logged]

    def log(self, txn: Txn) -> bool:
        """Hand a txn to the log. False when it is there already, or none is kept."""
        if not self.keeps_log or txn.zxid <= self.logged:
            return False
        self.logged = txn.zxid
        self._state.unlogged.append(txn)
        return True

    # -- the steps to the disk

    def persist(self) -> None:
        """NEWLEADER has come. The last step is SaveCurrentEpoch; when it is done, everything is durable."""
        last_zxid = self.committed[-1].zxid if self.committed else self._state.database.tree.last_zxid
        self._ask(MarkCurrentEpoch(epoch_of(last_zxid)))

    def done(self, effect: Effect, result: object) -> None:
        """One step is done: begin the next one."""
        if isinstance(effect, MarkCurrentEpoch):
            self._change_disk()
        elif isinstance(effect, InstallSnapshot):
            assert isinstance(result, int)
            self.logged = result
            self._ask(SaveCurrentEpoch(self._epoch))
        elif isinstance(effect, TruncateLog):
            assert isinstance(result, int)
            self.logged = result
            self._log_committed()
        elif isinstance(effect, SaveCurrentEpoch):
            self.database_lost = False
            self._state.database.is_trusted = True

    def _change_disk(self) -> None:
        if self._mode == PacketType.SNAP:
            database = self._state.database
            self._apply_committed()
            tree = database.tree
            # A state that changed while it was sent agrees with no digest before its last txn (§8.5).
            tree.digest_mismatches = 0
            self.logged = tree.last_zxid
            self._ask(InstallSnapshot(tree, database.sessions, tree.last_zxid, tuple(self.pending.queue)))
        elif self._mode == PacketType.TRUNC:
            self._ask(TruncateLog(self._zxid, (*self.committed, *self.pending.queue)))
        else:
            self._log_committed()

    def _log_committed(self) -> None:
        """Nothing of what was committed before NEWLEADER is acked on its own."""
        is_new = False
        for txn in self.committed:
            is_new = self.log(txn) or is_new
        self._apply_committed()
        if is_new:
            self._awaited_zxid = self.logged
        else:
            self._ask(SaveCurrentEpoch(self._epoch))

    def _apply_committed(self) -> None:
        database = self._state.database
        for txn in self.committed:
            database.apply(txn)
        self.committed.clear()

    def persisted(self, zxid: int) -> None:
        """The log is durable up to `zxid`."""
        if self._awaited_zxid is not None and zxid >= self._awaited_zxid:
            self._awaited_zxid = None
            self._ask(SaveCurrentEpoch(self._epoch))
