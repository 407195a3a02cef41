"""What goes wrong: drawn from the scenario, now and then, and at moments that servers report."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.cluster import Cluster
    from tests.simulation.network import End
    from tests.simulation.server import SimServer

_MOMENTS = frozenset(
    (
        "election.decided",
        "leader.epoch_decided",
        "learner.synchronizing",
        "learner.sync",
        "learner.synced",
        "leader.established",
        "role.over",
        "config.activated",
    )
)
_OPERATIONS_MAX = 14
_ERRORS = (errno.EIO, errno.ENOSPC)


class Faults:
    """Does harm until it is told to stop."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._rng = cluster.world.rng
        self._scenario = cluster.scenario
        self._is_over = False
        self._partition = 0
        self._later()

    def _later(self) -> None:
        mean_us = self._scenario.fault_interval_us
        if mean_us is not None:
            self._world.after(int(mean_us * 2 * self._rng.random()), self._strike)

    def _strike(self) -> None:
        if not self._is_over:
            self.strike(self._rng.choice(self._scenario.faults))
            self._later()

    def reported(self, server: SimServer, event: str) -> None:
        """A moment at which faults hurt most."""
        if self._is_over or event not in _MOMENTS or self._rng.random() >= self._scenario.trigger:
            return
        kind = self._rng.choice(self._scenario.faults)
        self._world.after(self._world.between(0, 20_000), self._strike_at, kind, server)

    def _strike_at(self, kind: str, server: SimServer) -> None:
        if not self._is_over:
            self.strike(kind, server)

    def strike(self, kind: str, server: SimServer | None = None) -> None:
        """One fault."""
        if server is None:
            server = self._cluster.servers[self._rng.choice(self._scenario.servers)]
        actions: dict[str, Callable[[SimServer], None]] = {
            "kill": self._kill,
            "power": self._power,
            "crash-in-disk": self._crash_in_disk,
            "pause": self._pause,
            "partition": self._draw_partition,
            "isolate-leader": self._isolate_leader,
            "break-quorum": self._break_quorum,
            "break-election": self._break_election,
            "drop-client": self._drop_client,
            "client-away": self._client_away,
            "disk-error": self._disk_error,
            "slow-disk": self._slow_disk,
            "slow-way": self._slow_way,
            "full-stop": self._full_stop,
            "wipe": self._wipe,
        }
        self._world.occurred[kind] += 1
        self._world.note("faults", kind, {"server": server.server_id})
        actions[kind](server)

    def stop(self) -> None:
        """Everything is well again, and stays so."""
        self._is_over = True
        cluster = self._cluster
        cluster.network.set_blocked(set())
        cluster.network.slow.clear()
        cluster.network.loss = cluster.mesh.duplication = 0.0
        for server in cluster.servers.values():
            server.heal_disk()
            server.resume()
            server.start()

    # -- servers

    def _kill(self, server: SimServer) -> None:
        server.crash(power=False)
        self._restart_later(server)

    def _power(self, server: SimServer) -> None:
        server.crash(power=True)
        self._restart_later(server)

    def _restart_later(self, server: SimServer) -> None:
        self._world.after(self._world.between(1000, self._scenario.restart_us), server.start)

    def _crash_in_disk(self, server: SimServer) -> None:
        fs = server.fs
        fs.stop_at = fs.operations + self._rng.randrange(1, _OPERATIONS_MAX)

    def stopped_in_disk(self, server: SimServer) -> None:
        """It was."""
        server.crash(power=self._rng.random() < 0.7)
        self._restart_later(server)

    def _disk_error(self, server: SimServer) -> None:
        fs = server.fs
        fs.fail_at[fs.operations + self._rng.randrange(1, _OPERATIONS_MAX)] = self._rng.choice(_ERRORS)

    def disk_failed(self, server: SimServer) -> None:
        """The server has stopped for it. What it had not synced may be gone, although the machine is up."""
        server.crash(power=True)
        self._restart_later(server)

    def _pause(self, server: SimServer) -> None:
        server.pause()
        longest = 2 * self._scenario.sync_limit * self._scenario.tick_ms * 1000
        self._world.after(self._world.between(10_000, longest), server.resume)

    def _full_stop(self, _: SimServer) -> None:
        power = self._rng.random() < 0.7
        for server in self._cluster.servers.values():
            server.crash(power=power)
            self._restart_later(server)

    def _wipe(self, server: SimServer) -> None:
        if self._cluster.may_wipe(server):
            server.wipe()
            self._restart_later(server)

    # -- network

    def _draw_partition(self, _: SimServer) -> None:
        rng = self._rng
        servers = self._scenario.servers
        shuffled = rng.sample(servers, len(servers))
        cut = rng.randrange(1, len(servers))
        left, right = shuffled[:cut], shuffled[cut:]
        kind = rng.choice(("half", "half", "one-way", "bridge"))
        if kind == "bridge":
            bridge = left[0]
            left = [id_ for id_ in left if id_ != bridge]
        blocked = {(one, other) for one in left for other in right}
        if kind != "one-way":
            blocked |= {(other, one) for one, other in blocked}
        self._block(blocked)
        if blocked:
            self._world.occurred[kind] += 1

    def _isolate_leader(self, _: SimServer) -> None:
        leader_id = self._cluster.leader_id()
        if leader_id is not None:
            others = [id_ for id_ in self._scenario.servers if id_ != leader_id]
            self._block({(leader_id, id_) for id_ in others} | {(id_, leader_id) for id_ in others})

    def _block(self, blocked: set[tuple[int, int]]) -> None:
        self._world.note("faults", "blocked", sorted(blocked))
        self._cluster.network.set_blocked(blocked)
        self._partition += 1
        self._world.after(self._world.between(20_000, 4_000_000), self._heal, self._partition)

    def _heal(self, partition: int) -> None:
        if partition == self._partition:
            self._world.note("faults", "healed")
            self._cluster.network.set_blocked(set())

    def _break_quorum(self, server: SimServer) -> None:
        found = [
            end
            for end in self._cluster.network.connections
            if end.node > 0 and end.peer.node > 0 and server.server_id in (end.node, end.peer.node)
        ]
        self._break(found)

    def _break_election(self, server: SimServer) -> None:
        self._break(self._cluster.mesh.connections())

    def _break(self, ends: list[End]) -> None:
        if ends:
            self._cluster.network.break_off(self._rng.choice(ends))

    def _drop_client(self, _: SimServer) -> None:
        self._rng.choice(self._cluster.clients).hang_up()

    def _client_away(self, _: SimServer) -> None:
        client = self._rng.choice(self._cluster.clients)
        client.go_away(self._world.between(0, 2_500 * client.timeout_ms))

    def _slow_way(self, server: SimServer) -> None:
        other = self._rng.choice(self._scenario.servers)
        pair = (server.server_id, other)
        self._cluster.network.slow[pair] = self._rng.choice((10, 50))
        self._world.after(self._world.between(100_000, 3_000_000), self._cluster.network.slow.pop, pair, 1)

    def _slow_disk(self, server: SimServer) -> None:
        server.disk_factor = self._rng.choice((10, 50))
        self._world.after(self._world.between(100_000, 3_000_000), self._fast_disk, server)

    def _fast_disk(self, server: SimServer) -> None:
        server.disk_factor = 1
