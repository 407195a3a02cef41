"""What a run is like: size of the ensemble, settings, how the network and the disks are, and what goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

CLOCK_RATE_MAX = 1050
FAULTS = (
    "kill",
    "power",
    "crash-in-disk",
    "pause",
    "partition",
    "isolate-leader",
    "break-quorum",
    "break-election",
    "drop-client",
    "client-away",
    "disk-error",
    "slow-disk",
    "slow-way",
    "full-stop",
)


class Scenario:
    """Drawn once per run.

    Attributes:
        voters: ids of the voting servers.
        observers: ids of the others.
        fault_interval_us: mean time between two faults; None for a run in which nothing goes wrong.
        faults: what may go wrong, each as likely as the others.
        fast_syncs: how often the driver writes a batch itself.
        trigger: probability that something goes wrong at a moment that servers report.
        reconfig: whether clients change the membership.
        loss: probability that a connection breaks at something that is sent.
        duplication: probability that an election port sends a notification again, as it does when a connection was made anew.
        spares: ids of servers that only a reconfiguration makes members.
        ends_sessions: whether in the end all clients leave, and their sessions have to expire.
        wipes: whether a server may lose its disk; then no empty database is trusted but at the very first start.
        clock_rates: by server, how fast its clock goes, in thousandths.
    """

    __slots__ = (
        "clients",
        "clock_rates",
        "committed_log_count",
        "disk_delay_us",
        "disk_jitter_us",
        "duplication",
        "duration_us",
        "ends_sessions",
        "fast_syncs",
        "fault_interval_us",
        "faults",
        "init_limit",
        "keep_txns",
        "leader_serves",
        "loss",
        "max_notification_interval_ms",
        "max_time_to_wait_for_epoch_ms",
        "network_delay_us",
        "network_jitter_us",
        "observer_masters",
        "observers",
        "prealloc_bytes",
        "reconfig",
        "restart_us",
        "snap_count",
        "snapshot_size_factor",
        "spares",
        "splits_pieces",
        "steps_max",
        "sync_limit",
        "think_us",
        "tick_ms",
        "trigger",
        "voters",
        "wipes",
    )

    def __init__(self, rng: random.Random) -> None:
        self.voters = list(range(1, rng.choice((3, 3, 3, 5)) + 1))
        count = len(self.voters)
        self.observers = [count + 1 + number for number in range(rng.choice((0, 0, 0, 1, 1, 2)))]
        self.clients = rng.randrange(2, 5)
        self.duration_us = 20_000_000
        self.steps_max = 2000
        self.tick_ms = rng.choice((100, 200, 200))
        self.init_limit = rng.choice((5, 10))
        self.sync_limit = rng.choice((3, 5))
        self.network_delay_us = rng.choice((100, 500, 2000))
        self.network_jitter_us = rng.choice((100, 2000, 20_000))
        self.splits_pieces = rng.random() < 0.5
        self.loss = rng.choice((0.0, 0.0, 0.0, 0.0005, 0.003))
        self.duplication = rng.choice((0.0, 0.0, 0.05, 0.3))
        self.disk_delay_us = rng.choice((50, 500, 5000))
        self.disk_jitter_us = rng.choice((100, 5000, 50_000))
        self.fast_syncs = rng.choice((0.0, 0.0, 0.3, 1.0))
        self.think_us = rng.choice((30_000, 100_000, 300_000))
        self.snap_count = rng.choice((8, 30, 30, 1000))
        self.prealloc_bytes = rng.choice((512, 1024))
        self.committed_log_count = rng.choice((5, 20, 500))
        self.keep_txns = rng.choice((0, 500))
        self.snapshot_size_factor = rng.choice((-1.0, 0.33, 0.0, 100.0))
        self.leader_serves = rng.random() < 0.85
        self.max_notification_interval_ms = rng.choice((800, 60_000))
        self.max_time_to_wait_for_epoch_ms = rng.choice((-1, 0, 500))
        self.observer_masters = rng.random() < 0.3
        self.reconfig = rng.random() < 0.2
        # Servers that are not members at first.
        self.spares = (
            [len(self.voters) + len(self.observers) + 1 + number for number in range(2)]
            if self.reconfig
            else []
        )
        self.wipes = not self.reconfig and rng.random() < 0.15
        self.clock_rates = {
            server_id: rng.choice((1000, 1000, 1000, 950, CLOCK_RATE_MAX, 900)) for server_id in self.servers
        }
        faults = [fault for fault in FAULTS if rng.random() < 0.45]
        if self.wipes:
            faults.append("wipe")
        self.faults = faults
        self.fault_interval_us: int | None = rng.choice((150_000, 400_000, 1_000_000, 3_000_000))
        if not faults:
            self.fault_interval_us = None
        self.trigger = rng.choice((0.0, 0.02, 0.1)) if faults else 0.0
        self.ends_sessions = rng.random() < 0.15
        self.restart_us = rng.choice((100_000, 500_000, 3_000_000))

    @property
    def servers(self) -> list[int]:
        """All ids, ascending."""
        return [*self.voters, *self.observers, *self.spares]

    def described(self) -> dict[str, object]:
        """For people."""
        return {name: getattr(self, name) for name in self.__slots__}
