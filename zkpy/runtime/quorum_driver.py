"""Runs a peer of an ensemble: the driver of a server, with other servers and with more work for the disk.

After every input, in this order: what the peer wants of the shells (who serves clients, who may connect, whom to
connect to), bytes to clients and servers, txns to the log, the next effect to the disk, notifications to the election
port. What the disk does is told to the peer when it is done, never before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from zkpy.core.zab.effects import InstallSnapshot, ReadHistory, TruncateLog
from zkpy.runtime.driver import Driver
from zkpy.storage.errors import DiskFullError, LogFailedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from zkpy.core.data_tree import DataTree
    from zkpy.core.membership import EnsembleView
    from zkpy.core.peer import Peer
    from zkpy.core.service import Service
    from zkpy.core.txn import Txn
    from zkpy.core.zab.effects import Effect
    from zkpy.core.zab.leader import Leader
    from zkpy.core.zab.learner import Learner
    from zkpy.core.zab.quorum_link import QuorumLink
    from zkpy.net.quorum_port import QuorumConnection
    from zkpy.storage.disk import Disk
    from zkpy_protocol.election import Notification
    from zkpy_protocol.records import QuorumPacket


# What somebody may have to look after; all other events are the life of an ensemble.
_WARNINGS = frozenset(
    (
        "election.undecided",
        "learner.commit_ignored",
        "learner.disconnected",
        "learner.dropped",
        "learner.packet_ignored",
        "role.over",
    )
)


class Shells(Protocol):
    """What the driver asks of the sockets and of the owner of the server."""

    def serve(self, service: Service) -> None:
        """Another service takes the clients from now on; those of the one before are to be closed."""

    def listen(self, wanted: bool) -> None:
        """Take learners, or do not."""

    def listen_for_observers(self, wanted: bool) -> None:
        """Take observers at the port for them, or do not; their handler is `QuorumDriver.observers`."""

    def dial(self, leader_id: int | None) -> None:
        """Connect to this server's peer port, again and again; None: stop that."""

    def dial_observer_master(self, server_id: int) -> None:
        """Connect to this server's port for observers, again and again, until `dial` stops it."""

    def notify(self, server_id: int, notification: Notification) -> None:
        """Send on the election port."""

    def view_changed(self, view: EnsembleView) -> None:
        """Other servers, or other addresses."""

    def rewrite(self) -> None:
        """The history on disk is about to be cut or replaced: nobody may be writing a snapshot of it."""

    def fatal(self, exit_code: int, reason: str) -> None:
        """The server must stop at once."""


class QuorumDriver(Driver):
    """Steps one peer. Besides what a driver does, it is the handler of the quorum's connections."""

    __slots__ = (
        "_deadline",
        "_deadline_ms",
        "_dialled",
        "_disk",
        "_is_listening",
        "_is_listening_for_observers",
        "_is_over",
        "_peer",
        "_role",
        "_shells",
        "_state",
        "_view",
        "observers",
    )

    def attach(self, peer: Peer, disk: Disk, shells: Shells) -> None:
        """What it drives; before `start`."""
        self._peer = peer
        self._state = peer.state
        self._disk = disk
        self._shells = shells
        # The role that serves, when all it wants of the shells is done.
        self._role: Leader | Learner | None = None
        self._is_over = False
        self._is_listening = self._is_listening_for_observers = False
        self.observers = ObserverHandler(self)
        self._dialled: int | None = None
        self._view = peer.state.view
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_ms: int | None = None

    def start(self) -> None:
        """Begin to log, and to look for a leader."""
        super().start()
        self._peer.start(self.mono_ms())
        self.after_input()

    def stop(self) -> None:
        """Close the log; a batch or an effect under way is finished. The shells are asked for nothing more."""
        self._is_over = True
        if self._deadline is not None:
            self._deadline.cancel()
        super().stop()

    # -- inputs of the quorum

    @property
    def quorum_dirty(self) -> list[QuorumLink]:
        """Where links to other servers enter themselves that have something to send or to close."""
        return self._peer.state.quorum_dirty

    def notified(self, server_id: int, notification: Notification) -> None:
        """From the election port."""
        self._peer.notified(server_id, notification, self.wall_ms(), self.mono_ms())
        self._follow_peer()

    def dial_failed(self, reason: str) -> None:
        """A try to reach the leader was in vain."""
        self._peer.dial_failed(reason, self.wall_ms(), self.mono_ms())
        self.after_input()

    def connected(self, link: QuorumLink) -> None:
        """A learner has come, or the leader was reached."""
        self._peer.connected(link, self.wall_ms(), self.mono_ms())
        self.after_input()

    def observer_connected(self, link: QuorumLink) -> None:
        """An observer has come to the port for them; the rest is as with every link."""
        self._peer.observer_connected(link, self.wall_ms(), self.mono_ms())
        self.after_input()

    def receive(self, link: QuorumLink, packets: Sequence[QuorumPacket]) -> None:
        """Packets of another server."""
        self._peer.receive(link, packets, self.wall_ms(), self.mono_ms())
        self.after_input()

    def snapshot(self, link: QuorumLink, tree: DataTree, sessions: dict[int, int]) -> None:
        """The leader's state, complete."""
        self._peer.snapshot(link, tree, sessions, self.wall_ms(), self.mono_ms())
        self.after_input()

    def disconnected(self, link: QuorumLink, reason: str) -> None:
        """A connection to another server is gone."""
        self._peer.disconnected(link, reason, self.wall_ms(), self.mono_ms())
        self.after_input()

    def _wake(self) -> None:
        self._deadline = self._deadline_ms = None
        self._peer.wake(self.wall_ms(), self.mono_ms())
        self._follow_peer()

    # -- outputs

    def after_input(self) -> None:
        """Carry out everything the last input has led to."""
        role = self._role
        state = self._state
        if (
            role is None
            or role.over is not None
            or role.service is not self.service
            or state.view is not self._view
        ):
            self._follow_peer()
            return
        # As a rule a role that serves goes on.
        if state.trace:
            self._report(state.trace)
        super().after_input()
        if state.effects:
            self._begin_effect()

    def _follow_peer(self) -> None:
        """The same when the role may have become another one, or wants something else."""
        if self._is_over:
            return
        peer = self._peer
        peer.step(self.wall_ms(), self.mono_ms())
        if self._state.trace:
            self._report(self._state.trace)
        if peer.fatal is not None:
            self._is_over = True
            self._shells.fatal(*peer.fatal)
            return
        self._follow_role()
        role = peer.role
        self._role = role if role is not None and role.service is peer.service else None
        super().after_input()
        self._begin_effect()
        outbox = peer.election.outbox
        if outbox:
            for server_id, notification in outbox:
                self._shells.notify(server_id, notification)
            outbox.clear()
        self._set_deadline()

    def _report(self, trace: list[tuple[str, dict[str, object]]]) -> None:
        for event, values in trace:
            log = self._logger.warning if event in _WARNINGS else self._logger.info
            log(event, **values)
        trace.clear()

    def send(self) -> None:
        """As of every driver; then what goes to other servers, one write each."""
        super().send()
        dirty = self._state.quorum_dirty
        while dirty:
            links = dirty.copy()
            dirty.clear()
            for link in links:
                cast("QuorumConnection", link.shell).flush()

    def _follow_role(self) -> None:
        peer = self._peer
        shells = self._shells
        if self.service is not peer.service:
            self.service = peer.service
            shells.serve(peer.service)
        view = peer.state.view
        if view is not self._view:
            self._view = view
            shells.view_changed(view)
        if peer.wants_learners is not self._is_listening:
            self._is_listening = peer.wants_learners
            shells.listen(self._is_listening)
        if peer.wants_observers is not self._is_listening_for_observers:
            self._is_listening_for_observers = peer.wants_observers
            shells.listen_for_observers(self._is_listening_for_observers)
        if peer.wanted_leader != self._dialled:
            self._dialled = peer.wanted_leader
            if self._dialled is not None and peer.observes_by_masters:
                shells.dial_observer_master(self._dialled)
            else:
                shells.dial(self._dialled)

    def _set_deadline(self) -> None:
        deadline_ms = self._peer.next_deadline_ms
        if deadline_ms == self._deadline_ms:
            return
        self._deadline_ms = deadline_ms
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if deadline_ms is not None:
            delay_ms = max(0, deadline_ms - self.mono_ms())
            self._deadline = self._loop.call_later(delay_ms / 1000, self._wake)

    # -- the disk

    def _take_unlogged(self, count_max: int) -> list[Txn]:
        assert not isinstance(self._peer.effect_under_way, (TruncateLog, InstallSnapshot))
        return self._peer.take_unlogged(count_max)

    def _persisted(self, zxid: int) -> None:
        self._peer.persisted(zxid, self.wall_ms(), self.mono_ms())

    def _roll_back(self, error: DiskFullError) -> bool:  # noqa: ARG002
        # Others have these proposals already: this server cannot take them back, nor go on without them.
        return False

    def _ask_for_space(self) -> None:
        if self._peer.effect_under_way is None:  # which may have the log in its hands
            super()._ask_for_space()

    def _run_short_of_space(self) -> None:
        if self._is_listening:
            # A leader that refuses writes refuses those of all servers, while another one could lead.
            self.service.refuse_writes = True
            self._on_fatal(DiskFullError("no space for the log of a leader; free space in dataLogDir"))
        else:
            super()._run_short_of_space()

    def _tick(self) -> None:
        self._peer.tick(self.wall_ms(), self.mono_ms())

    def _begin_effect(self) -> None:
        effect = self._peer.take_effect()
        if effect is None:
            return
        if isinstance(effect, (TruncateLog, InstallSnapshot)):
            self._shells.rewrite()
        if isinstance(effect, ReadHistory):
            # Reads only, and may take long: the log goes on meanwhile.
            self._loop.run_in_executor(None, self._carry_out, effect)
        else:
            self._worker.run(lambda: self._carry_out(effect))

    def _carry_out(self, effect: Effect) -> None:
        """In the log thread, or another one for what only reads."""
        try:
            result = self._disk.carry_out(effect)
        except Exception as error:  # noqa: BLE001  whatever it is, the disk cannot be trusted any more
            failure = LogFailedError(f"{type(effect).__name__} failed: {error}")
            self._loop.call_soon_threadsafe(self._on_fatal, failure)
        else:
            self._loop.call_soon_threadsafe(self._done, effect, result)

    def _done(self, effect: Effect, result: object) -> None:
        self._peer.done(effect, result, self.wall_ms(), self.mono_ms())
        self._follow_peer()


class ObserverHandler:
    """The handler of connections at the port for observers: the driver, which is told where they came."""

    __slots__ = ("_driver", "disconnected", "receive", "snapshot")

    def __init__(self, driver: QuorumDriver) -> None:
        self._driver = driver
        self.receive = driver.receive
        self.snapshot = driver.snapshot
        self.disconnected = driver.disconnected

    @property
    def quorum_dirty(self) -> list[QuorumLink]:
        """As of the driver."""
        return self._driver.quorum_dirty

    def connected(self, link: QuorumLink) -> None:
        """An observer, or whoever wants to be taken for one."""
        self._driver.observer_connected(link)
