"""The sockets of an ensemble member: election port, learner port, the connection to the leader.

Part of the composition root: it makes them as the driver asks, and knows which addresses the configuration gives them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from zkpy.net.election_mesh import ElectionMesh, ElectionPortError
from zkpy.net.quorum_port import LeaderDialler, LearnerPort
from zkpy.storage.snapshot_stream import SnapshotStream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from zkpy.core.membership import ClientAddress, EnsembleView, Member, MemberAddress
    from zkpy.core.owners import OwnerRules
    from zkpy.core.service import Service
    from zkpy.net.election_mesh import MeshOptions
    from zkpy.runtime.quorum_driver import QuorumDriver
    from zkpy_protocol.election import Notification

EXIT_ELECTION_PORT = 14

log = structlog.get_logger()


class QuorumPortOptions:
    """How members reach each other.

    Attributes:
        data_max: limit for the data of a packet, in bytes.
        connect_timeout_ms: of one attempt to reach the leader.
        retry_delay_ms: between two of them.
        address_patience_ms: how long other addresses of a server are waited for when one has failed; None = as for one.
        observer_master_port: where followers take observers; 0 = nowhere.
    """

    __slots__ = (
        "address_patience_ms",
        "connect_timeout_ms",
        "data_max",
        "digest_enabled",
        "listen_on_all_ips",
        "mesh",
        "observer_master_port",
        "owners",
        "retry_delay_ms",
        "server_id",
    )

    def __init__(
        self,
        *,
        server_id: int,
        mesh: MeshOptions,
        data_max: int,
        connect_timeout_ms: int,
        retry_delay_ms: int,
        address_patience_ms: int | None,
        listen_on_all_ips: bool,
        observer_master_port: int,
        owners: OwnerRules,
        digest_enabled: bool,
    ) -> None:
        self.server_id = server_id
        self.mesh = mesh
        self.data_max = data_max
        self.connect_timeout_ms = connect_timeout_ms
        self.retry_delay_ms = retry_delay_ms
        self.address_patience_ms = address_patience_ms
        self.listen_on_all_ips = listen_on_all_ips
        self.observer_master_port = observer_master_port
        self.owners = owners
        self.digest_enabled = digest_enabled


class EnsembleSockets:
    """What `QuorumDriver` asks of the sockets; the rest it asks is handed on to the server."""

    def __init__(
        self,
        driver: QuorumDriver,
        options: QuorumPortOptions,
        view: EnsembleView,
        *,
        serve: Callable[[Service], None],
        rewrite: Callable[[], None],
        move_clients: Callable[[ClientAddress], None],
        fatal: Callable[[int, str], None],
    ) -> None:
        self.serve = serve
        self.rewrite = rewrite
        self.fatal = fatal
        self._move_clients = move_clients
        self._driver = driver
        self._options = options
        self._view = view
        self._mesh = ElectionMesh(
            options.server_id, asyncio.get_running_loop(), options.mesh, driver.notified, log
        )
        own = view.committed.servers[options.server_id]
        # Where this server is, by the last committed configuration that names it.
        self._elects_at = _election_addresses(own.addresses)
        self._learns_at = _quorum_addresses(own.addresses)
        self._moving = asyncio.Lock()
        self._learners: LearnerPort | None = None
        self._observers: LearnerPort | None = None
        self._dialler: LeaderDialler | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the election port.

        Raises:
            ElectionPortError: it cannot be had.
        """
        await self._mesh.start(self._elects_at)
        self.view_changed(self._view)

    async def close(self) -> None:
        """Close everything. Idempotent."""
        self.listen(False)
        self.listen_for_observers(False)
        self.dial(None)
        if self._dialler is not None:
            self._dialler.close()
            self._dialler = None
        await self._mesh.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    # -- what the driver asks

    def notify(self, server_id: int, notification: Notification) -> None:
        """Send on the election port."""
        self._mesh.send(server_id, notification)

    def view_changed(self, view: EnsembleView) -> None:
        """Other servers, or other addresses."""
        self._view = view
        own = self._options.server_id
        self._mesh.set_members(
            {
                server_id: _election_addresses(addresses)
                for server_id, addresses in view.addresses().items()
                if server_id != own
            }
        )
        member = view.committed.servers.get(own)
        if member is not None:
            self._take_place(member)

    def _take_place(self, member: Member) -> None:
        """Be where the committed configuration says this server is. What it does not name stays where it is."""
        elects_at = _election_addresses(member.addresses)
        if elects_at != self._elects_at:
            self._elects_at = elects_at
            self._begin(self._move_election_port())
        learns_at = _quorum_addresses(member.addresses)
        if learns_at != self._learns_at:
            # Learners that are there stay until they know whom to follow, which need not be this server any more.
            self._learns_at = learns_at
            if self._learners is not None:
                self._begin(self._open(self._learners.move(self._listening(learns_at))))
            if self._observers is not None:
                self._begin(self._open(self._observers.move(self._listening(self._for_observers(learns_at)))))
        if member.client is not None:
            self._move_clients(member.client)

    async def _move_election_port(self) -> None:
        async with self._moving:
            try:
                await self._mesh.move(self._elects_at)
            except ElectionPortError as error:
                self.fatal(EXIT_ELECTION_PORT, str(error))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def listen(self, wanted: bool) -> None:
        """Take learners, or do not."""
        if self._learners is not None:
            self._learners.close()
            self._learners = None
        if wanted:
            port = LearnerPort(self._driver, self._options.data_max, self._listening(self._learns_at))
            self._learners = port
            self._begin(self._open(port.start()))

    def listen_for_observers(self, wanted: bool) -> None:
        """Take observers at the port for them, or do not."""
        if self._observers is not None:
            self._observers.close()
            self._observers = None
        if wanted:
            addresses = self._listening(self._for_observers(self._learns_at))
            port = LearnerPort(self._driver.observers, self._options.data_max, addresses)
            self._observers = port
            self._begin(self._open(port.start()))

    async def _open(self, opening: Coroutine[None, None, list[str]]) -> None:
        try:
            failures = await opening
        except OSError as error:
            log.error("quorum.no_learner_port", reason=str(error))  # noqa: TRY400  the reason says it
            return
        for failure in failures:
            log.warning("quorum.address_unusable", reason=failure)

    def dial(self, leader_id: int | None) -> None:
        """Connect to a server's peer port, again and again; None: stop that."""
        if leader_id is not None:
            self._dial(self._quorum_addresses_of(leader_id))
        elif self._dialler is not None:
            self._dialler.stop()

    def dial_observer_master(self, server_id: int) -> None:
        """Connect to a server's port for observers, again and again."""
        self._dial(self._for_observers(self._quorum_addresses_of(server_id)))

    def _dial(self, addresses: Sequence[tuple[str, int]]) -> None:
        if self._dialler is not None:
            self._dialler.close()
        options = self._options
        self._dialler = LeaderDialler(
            self._driver,
            options.data_max,
            lambda: SnapshotStream(options.owners, options.digest_enabled),
            addresses,
            connect_timeout_ms=options.connect_timeout_ms,
            retry_delay_ms=options.retry_delay_ms,
            address_patience_ms=options.address_patience_ms,
            failed=self._driver.dial_failed,
        )

    # -- addresses

    def _quorum_addresses_of(self, server_id: int) -> list[tuple[str, int]]:
        return _quorum_addresses(self._view.addresses().get(server_id, ()))

    def _listening(self, addresses: Sequence[tuple[str, int]]) -> list[tuple[str | None, int]]:
        if self._options.listen_on_all_ips:
            return [(None, port) for port in dict.fromkeys(port for _, port in addresses)]
        return list(addresses)

    def _for_observers(self, addresses: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        port = self._options.observer_master_port
        return [(host, port) for host in dict.fromkeys(host for host, _ in addresses)]


def _election_addresses(addresses: Sequence[MemberAddress]) -> list[tuple[str, int]]:
    return [(one.host, one.election_port) for one in addresses]


def _quorum_addresses(addresses: Sequence[MemberAddress]) -> list[tuple[str, int]]:
    return [(one.host, one.quorum_port) for one in addresses]
