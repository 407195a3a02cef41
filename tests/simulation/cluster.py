"""One run: an ensemble, its clients and what goes wrong, from the first start to the moment when all agree again."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import zkpy.core.zab.database as database_module
from tests.simulation.checks import Checks
from tests.simulation.clients import SimClient
from tests.simulation.faults import Faults
from tests.simulation.mesh import Mesh
from tests.simulation.network import Network
from tests.simulation.scenario import Scenario
from tests.simulation.server import SimServer, membership_of
from tests.simulation.world import ViolationError, World
from zkpy.core.leading import LeadingService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zkpy.core.membership import Membership

HEALED_WITHIN_US = 30_000_000


class Cluster:
    """An ensemble in one process.

    Attributes:
        acked_zxid: the greatest zxid of a write that a client was answered.
    """

    def __init__(self, world: World, scenario: Scenario) -> None:
        self.world = world
        self.scenario = scenario
        self.network = Network(world, scenario)
        self.mesh = Mesh(self)
        self.servers = {server_id: SimServer(self, server_id) for server_id in scenario.servers}
        self.checks = Checks(self)
        self.acked_zxid = 0
        for server in self.servers.values():
            world.after(world.between(0, 1_000_000), server.start)
        self.clients = [SimClient(self, number) for number in range(1, scenario.clients + 1)]
        self.faults = Faults(self)
        world.occurred[f"{len(scenario.voters)} voters"] += 1
        world.occurred["observers"] += len(scenario.observers)
        world.occurred["clock drift"] += len({*scenario.clock_rates.values()}) - 1

    def installed_membership(self, server_id: int) -> Membership:
        """What a server is told when it is installed; one that joins later observes, as far as it knows."""
        scenario = self.scenario
        joining = [server_id] if server_id in scenario.spares else []
        return membership_of(scenario.voters, [*scenario.observers, *joining])

    def leader_id(self) -> int | None:
        """A server that leads, if there is one."""
        for server_id, server in self.servers.items():
            process = server.process
            if process is not None and isinstance(process.peer.service, LeadingService):
                return server_id
        return None

    def reported(self, server: SimServer, event: str) -> None:
        """A server has something to tell."""
        self.faults.reported(server, event)

    def stopped_in_disk(self, server: SimServer) -> None:
        """A server was stopped within an operation of its disk."""
        self.faults.stopped_in_disk(server)

    def disk_failed(self, server: SimServer) -> None:
        """A server has stopped because its disk has failed."""
        self.faults.disk_failed(server)

    def may_wipe(self, server: SimServer) -> bool:
        """Whether the ensemble has to survive that this server loses its disk.

        What it has acknowledged is gone with it, and was perhaps counted. So it must not vote before a leader has given it
        the history again (its empty database is not trusted), and until then no other server may lose its disk.
        """
        return not server.is_first_start and not self.checks.unsynced

    # -- the run

    def run(self) -> None:
        """Phase one: nothing wrong is ever seen. Phase two: once all is well, everybody gets to the same."""
        world = self.world
        scenario = self.scenario
        while world.now_us < scenario.duration_us and world.steps < scenario.steps_max:
            world.step()
        world.note("run", "heals")
        self.faults.stop()
        answered = [client.answers.acked_writes for client in self.clients]
        self._reach(
            lambda: all(
                client.answers.acked_writes > before
                for client, before in zip(self.clients, answered, strict=True)
            ),
            "not every client had a write answered",
        )
        for client in self.clients:
            client.is_quiet = True
        self._reach(
            lambda: not any(client.outstanding for client in self.clients) and not self.checks.differences(),
            "the servers are not the same",
        )
        self.checks.same_everywhere()
        if scenario.ends_sessions:
            for client in self.clients:
                client.retire()
            self._reach(
                lambda: not self.checks.ledger.sessions and not self.checks.differences(),
                "sessions without clients have not expired",
            )
            self.checks.same_everywhere()
        world.note("run", "ends", {"zxid": self.checks.ledger.tip.zxid, "txns": len(self.checks.ledger.txns)})

    def _reach(self, reached: Callable[[], bool], otherwise: str) -> None:
        world = self.world
        end_us = world.now_us + HEALED_WITHIN_US
        while not reached():
            if world.now_us > end_us:
                details = "; ".join(self.checks.differences())
                raise ViolationError(
                    f"{HEALED_WITHIN_US // 1_000_000} s after everything was well {otherwise}: {details}"
                )
            for _ in range(20):
                world.step()


class Outcome:
    """What became of a run.

    Attributes:
        error: what was wrong, None if nothing was.
    """

    def __init__(self, cluster: Cluster, error: Exception | None) -> None:
        self.cluster = cluster
        self.error = error

    @property
    def seed(self) -> int:
        """What to replay."""
        return self.cluster.world.seed

    def report(self, lines: int = 60) -> str:
        """What somebody needs who has to find out why."""
        world = self.cluster.world
        assert self.error is not None
        options = " ".join(f"{name}={value}" for name, value in self.cluster.scenario.described().items())
        return "\n".join(
            (
                f"seed {self.seed}, step {world.steps}, {world.now_us / 1e6:.6f} s: {self.summary()}",
                f"options: {options}",
                *world.tail(lines),
                *([] if isinstance(self.error, ViolationError) else traceback.format_exception(self.error)),
                f"replay: make sim SEED={self.seed} RUNS=1 TRACE=1",
            )
        )

    def summary(self) -> str:
        """One line."""
        return f"{type(self.error).__name__}: {self.error}"


def run(seed: int, echo: Callable[[str], None] | None = None) -> Outcome:
    """One run from a seed."""
    world = World(seed, echo)
    scenario = Scenario(world.rng)
    if echo is not None:
        echo(f"seed {seed}: {scenario.described()}")
    with _small_committed_logs():
        cluster = Cluster(world, scenario)
        try:
            cluster.run()
        except Exception as error:  # noqa: BLE001  whatever it is, the seed is what matters
            return Outcome(cluster, error)
        return Outcome(cluster, None)


@contextmanager
def _small_committed_logs() -> Iterator[None]:
    """As small as the scenario says: then learners are sent logs and snapshots, too."""
    least = database_module.COMMITTED_LOG_MIN
    database_module.COMMITTED_LOG_MIN = 1
    try:
        yield
    finally:
        database_module.COMMITTED_LOG_MIN = least
