"""What a server of an ensemble keeps from one role to the next, and where roles leave what the driver has to do."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zkpy.core.link import ClientLink
    from zkpy.core.membership import EnsembleView
    from zkpy.core.service import ServiceParts
    from zkpy.core.txn import Txn
    from zkpy.core.zab.database import Database
    from zkpy.core.zab.effects import Effect
    from zkpy.core.zab.quorum_link import QuorumLink
    from zkpy.core.zab.quorum_stats import QuorumStats

EPOCH_BITS = 32
COUNTER_MASK = (1 << EPOCH_BITS) - 1


def epoch_of(zxid: int) -> int:
    """The upper half of a zxid; -1 for zxid -1."""
    return zxid >> EPOCH_BITS


def counter_of(zxid: int) -> int:
    """The lower half of a zxid."""
    return zxid & COUNTER_MASK


def first_of(epoch: int) -> int:
    """The zxid that stands for the start of an epoch; no txn has it."""
    return epoch << EPOCH_BITS


class PeerOptions:
    """What an operator may set about the ensemble; names of zoo.cfg, times in ms or in ticks of `tick_time_ms`."""

    __slots__ = (
        "commit_log_count",
        "connect_to_learner_master_limit",
        "init_limit",
        "leader_serves",
        "max_concurrent_diff_syncs",
        "max_concurrent_snap_syncs",
        "max_notification_interval_ms",
        "max_time_to_wait_for_epoch_ms",
        "min_notification_interval_ms",
        "multi_address_enabled",
        "observer_election_delay_ms",
        "observer_master_port",
        "observer_reconnect_delay_ms",
        "read_only_mode_enabled",
        "reconfig_enabled",
        "server_id",
        "snapshot_size_factor",
        "standalone_enabled",
        "sync_enabled",
        "sync_limit",
        "tick_time_ms",
    )

    def __init__(
        self,
        *,
        server_id: int,
        tick_time_ms: int = 3000,
        init_limit: int = 10,
        sync_limit: int = 5,
        connect_to_learner_master_limit: int = 0,
        leader_serves: bool = True,
        multi_address_enabled: bool = False,
        reconfig_enabled: bool = False,
        standalone_enabled: bool = True,
        sync_enabled: bool = True,
        commit_log_count: int = 500,
        snapshot_size_factor: float = 0.33,
        max_concurrent_snap_syncs: int = 10,
        max_concurrent_diff_syncs: int = 100,
        max_time_to_wait_for_epoch_ms: int = -1,
        min_notification_interval_ms: int = 200,
        max_notification_interval_ms: int = 60000,
        observer_election_delay_ms: int = 200,
        observer_reconnect_delay_ms: int = 0,
        observer_master_port: int = 0,
        read_only_mode_enabled: bool = False,
    ) -> None:
        self.server_id = server_id
        self.tick_time_ms = tick_time_ms
        self.init_limit = init_limit
        self.sync_limit = sync_limit
        self.connect_to_learner_master_limit = connect_to_learner_master_limit
        self.leader_serves = leader_serves
        self.multi_address_enabled = multi_address_enabled
        self.reconfig_enabled = reconfig_enabled
        self.standalone_enabled = standalone_enabled
        self.sync_enabled = sync_enabled
        self.commit_log_count = commit_log_count
        self.snapshot_size_factor = snapshot_size_factor
        self.max_concurrent_snap_syncs = max_concurrent_snap_syncs
        self.max_concurrent_diff_syncs = max_concurrent_diff_syncs
        self.max_time_to_wait_for_epoch_ms = max_time_to_wait_for_epoch_ms
        self.min_notification_interval_ms = min_notification_interval_ms
        self.max_notification_interval_ms = max_notification_interval_ms
        self.observer_election_delay_ms = observer_election_delay_ms
        self.observer_reconnect_delay_ms = observer_reconnect_delay_ms
        self.observer_master_port = observer_master_port
        self.read_only_mode_enabled = read_only_mode_enabled


class PeerState:
    """Shared by the roles of one server, one after the other.

    Attributes:
        accepted_epoch: highest epoch promised; changed when SaveAcceptedEpoch is done, never before.
        current_epoch: epoch of the last leader this server is in sync with; changed when SaveCurrentEpoch is done.
        view: committed and last proposed configuration.
        database: tree, sessions, committed log.
        state_epoch: an epoch whose leader is asked for its whole state, since it wanted this server to go back to a txn that is
            not on disk; None if there is none.
        parts: what every service is made of: options, access rules, statistics.
        unlogged: txns for the log, in zxid order; the driver takes them and confirms with `persisted`.
        effects: other work for the disk, in order; the driver answers each with `done`.
        client_dirty: client links with something to send or to close.
        quorum_dirty: links to other servers with something to send or to close.
        trace: (event, values) of what happened, for people and for comparing two runs; the driver logs and clears it.

    Invariant: epoch of the last logged zxid <= current_epoch <= accepted_epoch, once a sync is finished.
    """

    __slots__ = (
        "accepted_epoch",
        "client_dirty",
        "current_epoch",
        "database",
        "effects",
        "options",
        "parts",
        "quorum_dirty",
        "state_epoch",
        "trace",
        "unlogged",
        "view",
    )

    def __init__(
        self,
        options: PeerOptions,
        view: EnsembleView,
        database: Database,
        parts: ServiceParts,
        accepted_epoch: int,
        current_epoch: int,
    ) -> None:
        self.options = options
        self.view = view
        self.database = database
        self.parts = parts
        self.accepted_epoch = accepted_epoch
        self.current_epoch = current_epoch
        self.state_epoch: int | None = None
        self.unlogged: list[Txn] = parts.unlogged
        self.client_dirty: list[ClientLink] = parts.dirty
        self.effects: deque[Effect] = deque()
        self.quorum_dirty: list[QuorumLink] = []
        self.trace: list[tuple[str, dict[str, object]]] = []

    @property
    def stats(self) -> QuorumStats:
        """What is counted about elections, syncs, proposals and commits."""
        return self.parts.quorum_stats

    @property
    def server_id(self) -> int:
        """The own id (myid)."""
        return self.options.server_id
