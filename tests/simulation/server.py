"""A simulated server: the production peer, driver and storage, on a disk, a network and a clock that are not real.

`SimServer` is the machine: it has a disk and goes up and down. `Incarnation` is one process on it: what
`zkpy.server.Server` assembles, with shells that do what `zkpy.ensemble` and `zkpy.net` do with sockets.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tests.fakes.local_server import SUPER, PacketAuth
from tests.fakes.memory_fs import MemoryFs, Stopped
from tests.simulation.disk import SimDisk, SimLogThread, SimSnapshots
from tests.simulation.ports import OWNERS, ClientShell, Dialler, Group
from tests.simulation.world import ViolationError
from zkpy.auth.providers import DigestProvider, IpProvider, ProviderRegistry
from zkpy.core.membership import EnsembleView, Membership, parse_membership
from zkpy.core.peer import Peer
from zkpy.core.properties import parse_properties
from zkpy.core.service import ServiceOptions, ServiceParts
from zkpy.core.zab.database import CommittedLog, Database
from zkpy.core.zab.peer_state import PeerOptions, PeerState
from zkpy.runtime.driver import LogOptions
from zkpy.runtime.lookout import Lookout
from zkpy.runtime.quorum_driver import QuorumDriver
from zkpy.storage.data_dir import DataDir
from zkpy.storage.disk import DiskOptions
from zkpy.storage.dynamic_config import ConfigFiles, version_in_name
from zkpy.storage.epochs import Epochs
from zkpy.storage.errors import DataDirError, LogFailedError
from zkpy.storage.recovery import begin_empty, recover
from zkpy.storage.txn_log import TxnLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.simulation.cluster import Cluster
    from tests.simulation.network import End
    from zkpy.core.service import Service
    from zkpy.core.zab.effects import Effect
    from zkpy.runtime.log_thread import Batch
    from zkpy_protocol.election import Notification

CONFIG_FILE = "/conf/zoo.cfg"
WALL_MS = 1_700_000_000_000
_DIGEST = DigestProvider(super_digest=SUPER)
_PROVIDERS = ProviderRegistry([IpProvider(), _DIGEST])
_AUTH = PacketAuth(_DIGEST)
_OBSERVER_MASTER_PORT = 2889


class DiskFailedError(Exception):
    """A process has given up its disk."""


class SimServer:
    """A machine with a disk.

    Attributes:
        fs: the disk as it is now.
        process: what runs on it, None while it is down.
        is_paused: the process is there and does not run.
    """

    def __init__(self, cluster: Cluster, server_id: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.server_id = server_id
        self.name = f"server.{server_id}"
        self.fs = self._new_disk()
        self.process: Incarnation | None = None
        self.is_paused = False
        self.is_first_start = True
        self.disk_factor = 1
        self.rate = cluster.scenario.clock_rates[server_id]
        self.base_ms = cluster.world.rng.randrange(1, 1_000_000)
        self.wall_offset_ms = cluster.world.rng.randrange(-60_000, 60_000)
        self._backlog: deque[tuple[Incarnation, Callable[..., object], tuple[Any, ...]]] = deque()

    def _new_disk(self) -> MemoryFs:
        """Nothing but the configuration it was installed with."""
        fs = MemoryFs()
        fs.put(CONFIG_FILE, f"dynamicConfigFile={CONFIG_FILE}.dynamic\n".encode())
        membership = self.cluster.installed_membership(self.server_id)
        fs.put(f"{CONFIG_FILE}.dynamic", "\n".join(membership.lines()).encode())
        return fs

    # -- clocks

    def mono_ms(self) -> int:
        return self.base_ms + self.world.now_us * self.rate // 1_000_000

    def wall_ms(self) -> int:
        return WALL_MS + self.wall_offset_ms + self.mono_ms() - self.base_ms

    def real_us(self, own_us: int) -> int:
        """How long something takes that takes so long by the clock of this server."""
        return -(-own_us * 1000 // self.rate)

    # -- up and down

    def start(self) -> None:
        """Begin the process, if there is none."""
        if self.process is not None:
            return
        self.world.note(self.name, "starts")
        if not self.is_first_start:
            self.world.occurred["restart"] += 1
        self.is_paused = False
        process = self.process = Incarnation(self)
        self.run(process, process.start)

    def crash(self, *, power: bool) -> None:
        """The process ends; with `power` what was not synced may be lost."""
        process = self.process
        if process is None:
            return
        self.process = None
        self.is_paused = False
        self._backlog.clear()
        self.world.note(self.name, "loses power" if power else "is killed")
        self.fs = self._after_power_cut() if power else self.fs.after_kill()
        process.died(silently=power and self.world.rng.random() < 0.5)
        self.cluster.checks.server_down(self, power=power)
        self.cluster.mesh.forget(self.server_id)

    def _after_power_cut(self) -> MemoryFs:
        after = self.fs.after_power_cut(self.world.rng.getrandbits(32))
        for fate in sorted(self.fs.fates(after)):
            self.world.occurred[f"writes {fate}"] += 1
        return after

    def wipe(self) -> None:
        """The machine comes back with an empty disk."""
        self.crash(power=True)
        self.world.note(self.name, "lost its disk")
        self.fs = self._new_disk()
        self.cluster.checks.wiped(self)

    def heal_disk(self) -> None:
        """From now on nothing more fails; what has failed already may still be reported."""
        fs = self.fs
        self.disk_factor = 1
        fs.stop_at = None
        fs.fail_at = {number: error for number, error in fs.fail_at.items() if number <= fs.operations}

    def has_disk_error(self) -> bool:
        """Whether an operation of the disk was made to fail since the process began."""
        return any(number <= self.fs.operations for number in self.fs.fail_at)

    def pause(self) -> None:
        if self.process is not None:
            self.world.note(self.name, "is paused")
            self.is_paused = True

    def resume(self) -> None:
        """What came meanwhile is looked at now."""
        if not self.is_paused:
            return
        self.world.note(self.name, "goes on")
        self.is_paused = False
        while self._backlog and not self.is_paused:
            self.run(*self._backlog.popleft())

    def run(self, process: Incarnation, action: Callable[..., object], args: tuple[Any, ...] = ()) -> None:
        """One input of a process, and everything that follows at once; nothing if it is not there any more."""
        if self.process is not process:
            return
        if self.is_paused:
            self._backlog.append((process, action, args))
            return
        try:
            action(*args)
            soon = process.soon
            while soon:
                then, then_args = soon.popleft()
                then(*then_args)
            stopped: Callable[[SimServer], None] | None = None
        except Stopped:
            self.fs.stop_at = None
            stopped = self.cluster.stopped_in_disk
        except DiskFailedError:
            stopped = self.cluster.disk_failed
        if self.process is process and process.is_assembled:
            # Also if it ends here: what it has committed until then may have been answered.
            self.cluster.checks.after_input(process)
        if stopped is not None:
            stopped(self)


class _Logger:
    """What the driver reports goes into the trace."""

    def __init__(self, process: Incarnation) -> None:
        self._process = process

    def info(self, event: str, **values: Any) -> None:
        self._process.reported(event, values)

    warning = error = critical = info


class _Handle:
    """A timer that can be cancelled."""

    __slots__ = ("_action", "_args")

    def __init__(self, action: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._action: Callable[..., object] | None = action
        self._args = args

    def cancel(self) -> None:
        self._action = None

    def fire(self) -> None:
        if self._action is not None:
            self._action(*self._args)


class SimLoop:
    """What a driver asks of its event loop."""

    def __init__(self, process: Incarnation) -> None:
        self._process = process

    def call_soon(self, action: Callable[..., object], *args: Any) -> None:
        self._process.soon.append((action, args))

    def call_later(self, delay_s: float, action: Callable[..., object], *args: Any) -> _Handle:
        handle = _Handle(action, args)
        self._process.after(self._process.server.real_us(round(delay_s * 1_000_000)), handle.fire)
        return handle

    def call_soon_threadsafe(self, action: Callable[..., object], *args: Any) -> None:
        self._process.reply_from_thread(action, args)

    def run_in_executor(self, _executor: None, action: Callable[..., object], *args: Any) -> None:
        self._process.after(self._process.disk_delay_us(), action, *args)


class Incarnation:
    """One process. It is also the `Shells` of its driver."""

    def __init__(self, server: SimServer) -> None:
        self.server = server
        self.cluster = server.cluster
        self.world = server.world
        self.server_id = server.server_id
        self.soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.driver: QuorumDriver
        self.peer: Peer
        self.data_dir = DataDir("/data", "/data")
        self.learners: Group | None = None
        self.observers: Group | None = None
        self.dialler: Dialler | None = None
        self.clients: dict[ClientShell, None] = {}
        self.snapshots: SimSnapshots
        self.is_assembled = False
        self._thread_us = 0

    def start(self) -> None:
        """As `zkpy.server.Server.start`."""
        try:
            self._start()
        except (OSError, DataDirError, LogFailedError) as error:
            self._failed(error)

    def _start(self) -> None:
        """As `zkpy.server.Server._recover`, `_assemble_member` and `start`."""
        server = self.server
        scenario = self.cluster.scenario
        fs = server.fs
        data_dir = self.data_dir
        data_dir.prepare(fs, autocreate=True)
        recovered = recover(fs, data_dir, OWNERS, digest_enabled=True, trust_empty=False, keep_txns=500)
        trusts_empty = server.is_first_start or not scenario.wipes
        is_trusted = not recovered.is_empty or begin_empty(fs, data_dir, recovered, autocreate=trusts_empty)
        database = Database(
            recovered.tree,
            recovered.sessions,
            CommittedLog(scenario.committed_log_count, recovered.last_txns if scenario.keep_txns else ()),
            is_trusted=is_trusted,
        )
        epochs = Epochs.load(fs, data_dir.snap_dir, recovered.last_zxid)
        self.cluster.checks.recovered(self, recovered, epochs)
        state = self._state(database, epochs)
        self.peer = Peer(state, self.world.rng)
        log = TxnLog(fs, data_dir.log_dir, prealloc_bytes=scenario.prealloc_bytes)
        disk_options = DiskOptions(
            owners=OWNERS,
            digest_enabled=True,
            server_id=self.server_id,
            commit_log_count=scenario.keep_txns,
            snapshot_size_factor=scenario.snapshot_size_factor,
            config_file=CONFIG_FILE if scenario.reconfig else None,
        )
        disk = SimDisk(self, fs, data_dir, log, epochs, disk_options)
        options = LogOptions(
            snap_count=scenario.snap_count,
            snap_size_limit_bytes=0,
            flush_delay_ms=0,
            max_batch_size=1000,
            fsync_warning_threshold_ms=1 << 30,
        )
        loop: Any = SimLoop(self)
        logger: Any = _Logger(self)
        driver = self.driver = QuorumDriver(
            self.peer.service,
            SimLogThread(self, log),
            server,
            loop,
            Lookout(loop.call_soon, lambda: 0, 0),
            options,
            self.world.rng,
            logger,
            word=lambda _word, _argument: None,
            on_snapshot_due=self._snapshot_due,
            on_fatal=self._failed,
        )
        driver.attach(self.peer, disk, self)
        self.snapshots = SimSnapshots(self, fs, data_dir.snap_dir)
        server.is_first_start = False
        self.is_assembled = True
        driver.start()
        self._tick()

    def _state(self, database: Database, epochs: Epochs) -> PeerState:
        scenario = self.cluster.scenario
        tick_ms = scenario.tick_ms
        options = PeerOptions(
            server_id=self.server_id,
            tick_time_ms=tick_ms,
            init_limit=scenario.init_limit,
            sync_limit=scenario.sync_limit,
            leader_serves=scenario.leader_serves,
            commit_log_count=scenario.committed_log_count,
            snapshot_size_factor=scenario.snapshot_size_factor,
            max_time_to_wait_for_epoch_ms=scenario.max_time_to_wait_for_epoch_ms,
            max_notification_interval_ms=scenario.max_notification_interval_ms,
            observer_master_port=_OBSERVER_MASTER_PORT if scenario.observer_masters else 0,
            reconfig_enabled=scenario.reconfig,
        )
        service_options = ServiceOptions(
            tick_time_ms=tick_ms,
            min_session_timeout_ms=2 * tick_ms,
            max_session_timeout_ms=20 * tick_ms,
            server_id=self.server_id,
            reconfig_enabled=scenario.reconfig,
        )
        parts = ServiceParts(service_options, _PROVIDERS, _AUTH)
        view = self._view()
        return PeerState(options, view, database, parts, epochs.accepted, epochs.current)

    def _view(self) -> EnsembleView:
        """What the configuration files say, as `zkpy.ops.config_loader` reads them."""
        fs = self.server.fs
        static = {key: value for key, (value, _) in parse_properties(fs.read(CONFIG_FILE)).items()}
        dynamic_file = static["dynamicConfigFile"]
        lines = {key: value for key, (value, _) in parse_properties(fs.read(dynamic_file)).items()}
        committed = parse_membership(lines, version_in_name(dynamic_file))
        return EnsembleView(committed, ConfigFiles(fs, CONFIG_FILE).proposed())

    def _tick(self) -> None:
        tick_us = self.cluster.scenario.tick_ms * 500
        self.after(self.server.real_us(tick_us), self._tick)
        self.driver.tick()

    def died(self, *, silently: bool) -> None:
        """The process is gone: what happens to its connections."""
        network = self.cluster.network
        ends = [shell.end for shell in self.clients]
        dialled = None if self.dialler is None else self.dialler.group
        for group in (self.learners, self.observers, dialled):
            if group is not None:
                ends += [shell.end for shell in group.open]
        for end in ends:
            network.process_died(end, silently=silently)

    # -- time and threads

    def after(self, delay_us: int, action: Callable[..., object], *args: Any) -> None:
        """Let something happen to this process later."""
        self.world.after(delay_us, self.server.run, self, action, args)

    def reply_from_thread(self, action: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Another thread has something to tell; what it tells arrives in order."""
        now_us = self.world.now_us
        self._thread_us = max(self._thread_us, now_us + self.world.between(0, 1000))
        self.after(self._thread_us - now_us, action, *args)

    def disk_delay_us(self) -> int:
        scenario = self.cluster.scenario
        delay = self.world.between(scenario.disk_delay_us, scenario.disk_delay_us + scenario.disk_jitter_us)
        return delay * self.server.disk_factor

    def may_sync_at_once(self) -> bool:
        """Whether the disk is sometimes so fast that the driver waits for it."""
        return self.cluster.scenario.fast_syncs > 0

    def syncs_at_once(self) -> bool:
        """Whether it is this time."""
        return self.draws(self.cluster.scenario.fast_syncs)

    def draws(self, probability: float) -> bool:
        return self.world.rng.random() < probability

    # -- what the checks hear

    def about_to_log(self, batch: Batch) -> None:
        self.cluster.checks.about_to_log(self.server, batch)

    def logged(self) -> None:
        self.cluster.checks.logged(self.server)

    def effect_begins(self, effect: Effect) -> None:
        self.world.note(self.server.name, "disk", {"effect": type(effect).__name__})
        self.cluster.checks.effect_begins(self, effect)

    def effect_done(self, effect: Effect, result: object) -> None:
        self.cluster.checks.effect_done(self, effect, result)

    def purged(self, count: int) -> None:
        self.world.note(self.server.name, "purged", {"files": count})

    def snapshot_failed(self, error: OSError) -> None:
        """Writing or purging snapshots has failed; only a disk error may be the reason."""
        if not self.server.has_disk_error():
            self._failed(error)
        self.world.note(self.server.name, "snapshot failed", error)

    def reported(self, event: str, values: dict[str, Any]) -> None:
        self.world.note(self.server.name, event, values)
        occurred = self.world.occurred
        if event == "config.activated":
            occurred["reconfiguration"] += 1
        elif event == "learner.sync" and self.dialler is not None:
            kind = "observer master" if self.dialler.is_for_observers else "leader"
            occurred[f"{values['mode']} of {kind}"] += 1
        self.cluster.reported(self.server, event)

    def _snapshot_due(self) -> None:
        service = self.driver.service
        if service.is_serving and not self.snapshots.running:
            tree = service.database.tree
            self.cluster.checks.snapshot_begins(self)
            self.world.note(self.server.name, "snapshot", {"zxid": tree.last_zxid})
            self.snapshots.start(tree, service.database.sessions)

    def _failed(self, error: Exception) -> None:
        if not self.server.has_disk_error():
            raise ViolationError(f"{self.server.name}: the disk failed: {error!r}") from error
        raise DiskFailedError

    # -- clients

    def accept_client(self, end: End) -> None:
        """A client has connected."""
        self.clients[ClientShell(self, end)] = None

    # -- learners

    def port(self, *, is_for_observers: bool) -> Group | None:
        """The open port for learners, or the one for observers."""
        return self.observers if is_for_observers else self.learners

    # -- what the driver asks (`Shells`)

    def serve(self, service: Service) -> None:
        for shell in list(self.clients):
            self.cluster.network.abort(shell.end)

    def listen(self, wanted: bool) -> None:
        self.learners = _reopened(self.learners, wanted)

    def listen_for_observers(self, wanted: bool) -> None:
        self.observers = _reopened(self.observers, wanted)

    def dial(self, leader_id: int | None) -> None:
        if leader_id is not None:
            self._dial(leader_id, is_for_observers=False)
        elif self.dialler is not None:
            self.dialler.stop()

    def dial_observer_master(self, server_id: int) -> None:
        self._dial(server_id, is_for_observers=True)

    def _dial(self, server_id: int, *, is_for_observers: bool) -> None:
        if self.dialler is not None:
            self.dialler.close()
        self.dialler = Dialler(self, server_id, is_for_observers=is_for_observers)

    def notify(self, server_id: int, notification: Notification) -> None:
        self.cluster.mesh.send(self, server_id, notification)

    def view_changed(self, view: EnsembleView) -> None:
        pass

    def rewrite(self) -> None:
        self.snapshots.stop()

    def fatal(self, exit_code: int, reason: str) -> None:
        raise ViolationError(f"{self.server.name}: exit code {exit_code}: {reason}")


def _reopened(group: Group | None, wanted: bool) -> Group | None:
    """A port is closed, and perhaps another one opened."""
    if group is not None:
        group.close("this server leads no more")
    return Group() if wanted else None


def server_line(server_id: int, *, is_observer: bool) -> str:
    """Where a server is, and its role."""
    role = "observer" if is_observer else "participant"
    return f"server.{server_id}=10.0.0.{server_id}:2888:3888:{role};0.0.0.0:2181"


def membership_of(voters: Iterable[int], observers: Iterable[int]) -> Membership:
    """The static configuration of an ensemble."""
    lines = [server_line(server_id, is_observer=False) for server_id in voters]
    lines += [server_line(server_id, is_observer=True) for server_id in observers]
    return Membership.from_text("\n".join(lines))
