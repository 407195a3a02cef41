"""A member of an ensemble with its driver, its log thread and a disk in memory: everything but sockets. The clock is the test's.

    member = DrivenMember()                      # an ensemble of one
    member.start()
    await member.leads()                         # elected, its epochs are on disk, it serves
    client = await member.client()

    member = DrivenMember(voters=(1, 2, 3))
    member.start()
    leader = member.join(3)                      # 2 and 3 say that 3 leads; the link that was dialled stands
    leader.say(leader_info(1))

What the driver does is in `happened`, in order: ("serve", mode), ("listen", wanted), ("dial", id), ("notify", id), ("write", name),
("rewrite",), ("carry out", effect, thread), ("fatal", code, reason).
"""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any

import structlog

from tests.fakes.driven_server import AwaitedClient, GatedFs, logged_zxids
from tests.fakes.local_server import MONO_MS, WALL_MS
from tests.fakes.member_services import make_parts
from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.owners import OwnerRules
from zkpy.core.peer import Peer
from zkpy.core.zab.database import CommittedLog, Database
from zkpy.core.zab.peer_state import PeerOptions, PeerState
from zkpy.core.zab.quorum_link import QuorumLink, SnapshotBody
from zkpy.runtime.driver import LogOptions
from zkpy.runtime.log_thread import LogThread
from zkpy.runtime.lookout import Lookout
from zkpy.runtime.quorum_driver import QuorumDriver
from zkpy.storage.data_dir import DataDir
from zkpy.storage.disk import Disk, DiskOptions
from zkpy.storage.epochs import Epochs
from zkpy.storage.recovery import begin_empty, recover
from zkpy.storage.txn_log import TxnLog
from zkpy_protocol.election import Notification, ServerState
from zkpy_protocol.quorum_packets import PacketReader, PacketType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.fakes.memory_fs import MemoryFs
    from zkpy.core.service import Service
    from zkpy.core.zab.effects import Effect
    from zkpy_protocol.records import QuorumPacket

DATA = DataDir("/data", "/data")
TICK_MS = 2000
FINALIZE_MS = 200


class Timer:
    """A handle of `TimedLoop.call_later`."""

    def __init__(self, delay_s: float, action: Callable[[], object]) -> None:
        self.delay_ms = round(delay_s * 1000)
        self.action = action
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class TimedLoop:
    """The running loop, but what is to be called later is called when the test says so."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.timers: list[Timer] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_later(self, delay_s: float, action: Callable[[], object]) -> Timer:
        self.timers.append(Timer(delay_s, action))
        return self.timers[-1]

    def pending(self) -> list[Timer]:
        self.timers = [timer for timer in self.timers if not timer.is_cancelled]
        return self.timers


class MemberClock:
    """The clocks of a member, which a test sets."""

    def __init__(self, member: DrivenMember) -> None:
        self._member = member

    def wall_ms(self) -> int:
        return WALL_MS - MONO_MS + self._member.mono_ms

    def mono_ms(self) -> int:
        return self._member.mono_ms


class WatchedDisk(Disk):
    """A disk that notes what it does, and in which thread. It may be made to wait, or to fail.

    Attributes:
        gate: closed, nothing is carried out.
        busy: set while something waits for the gate.
        failure: what the next effect fails with.
    """

    __slots__ = ("busy", "failure", "gate", "member")

    def watch(self, member: DrivenMember) -> None:
        self.member = member
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()
        self.failure: Exception | None = None

    def carry_out(self, effect: Effect) -> object:
        name = type(effect).__name__
        self.member.happened.append(("carry out", name, threading.current_thread().name))
        self.busy.set()
        assert self.gate.wait(20), "the test never opened the gate"
        self.busy.clear()
        if self.failure is not None:
            raise self.failure
        return super().carry_out(effect)


class Wire:
    """The shell of a link to another server: what was written to it."""

    def __init__(self, member: DrivenMember, name: str) -> None:
        self.member = member
        self.link = QuorumLink(member.driver.quorum_dirty, name)
        self.link.shell = self
        self._out: list[bytes | SnapshotBody] = []

    def flush(self) -> None:
        items = self.link.take()
        self._out += items
        if items or self.link.closed is not None:
            self.member.happened.append(("write" if items else "close", self.link.name))

    def say(self, *packets: QuorumPacket) -> None:
        """What the other side sends in one piece."""
        self.member.driver.receive(self.link, packets)

    def written(self) -> list[tuple[str, int]]:
        """Names and zxids of what was written since the last look."""
        data = b"".join(item for item in self._out if isinstance(item, bytes))
        self._out.clear()
        return [
            (PacketType(packet.type).name, packet.zxid)
            for packet in PacketReader(1 << 20, stops_at_snap=False).feed(data)
        ]


class DrivenMember:
    """See the module docstring. Call `close` in the end.

    Attributes:
        happened: what the driver has done, in order.
        records: what was logged for the operator.
        failed: what the log could not go on with.
        mono_ms: the clock.
    """

    def __init__(
        self,
        *,
        voters: Iterable[int] = (1,),
        server_id: int = 1,
        fs: MemoryFs | None = None,
        log: dict[str, Any] | None = None,
        service: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.mono_ms = MONO_MS
        self.happened: list[tuple[Any, ...]] = []
        self.failed: list[Exception] = []
        self.snapshots_due = 0
        self.fs = GatedFs() if fs is None else fs
        DATA.prepare(self.fs, autocreate=True)
        owners = OwnerRules(extended=True, emulate_353=False)
        recovered = recover(self.fs, DATA, owners, digest_enabled=True, trust_empty=False, keep_txns=500)
        if recovered.is_empty:
            begin_empty(self.fs, DATA, recovered, autocreate=True)
        epochs = Epochs.load(self.fs, DATA.snap_dir, recovered.last_zxid)
        members = "\n".join(f"server.{n}=h{n}:1:2:participant" for n in sorted(voters))
        parts = make_parts(server_id, **(service or {}))
        settings = {"tick_time_ms": TICK_MS, "init_limit": 10, "sync_limit": 5} | options
        state = PeerState(
            PeerOptions(server_id=server_id, **settings),
            EnsembleView(Membership.from_text(members)),
            Database(recovered.tree, recovered.sessions, CommittedLog(500, recovered.last_txns)),
            parts,
            epochs.accepted,
            epochs.current,
        )
        self.peer = Peer(state, random.Random(1))
        self.log = TxnLog(self.fs, DATA.log_dir, prealloc_bytes=1 << 14)
        self.disk = WatchedDisk(
            self.fs,
            DATA,
            self.log,
            epochs,
            DiskOptions(owners=owners, digest_enabled=True, server_id=server_id),
        )
        self.disk.watch(self)
        log_settings = {
            "snap_count": 100_000,
            "snap_size_limit_bytes": 1 << 32,
            "flush_delay_ms": 0,
            "max_batch_size": 1000,
            "fsync_warning_threshold_ms": 1000,
        } | (log or {})
        capture = structlog.testing.LogCapture()
        self.records: list[Any] = capture.entries
        self.loop = TimedLoop()
        self.driver = QuorumDriver(
            self.peer.service,
            LogThread(self.log),
            MemberClock(self),
            self.loop,  # type: ignore[arg-type]
            Lookout(self.loop.call_soon, lambda: 0, 0),
            LogOptions(**log_settings),
            random.Random(7),
            structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.BoundLogger),
            word=lambda _word, _argument: None,
            on_snapshot_due=self._snapshot_due,
            on_fatal=self.failed.append,
        )
        self.driver.attach(self.peer, self.disk, self)

    def _snapshot_due(self) -> None:
        self.snapshots_due += 1

    def start(self) -> None:
        self.driver.start()

    def close(self) -> None:
        self.disk.gate.set()
        if isinstance(self.fs, GatedFs):
            self.fs.gate.set()
        self.driver.stop()

    # -- Shells

    def serve(self, service: Service) -> None:
        self.happened.append(("serve", service.mode))

    def listen(self, wanted: bool) -> None:
        self.happened.append(("listen", wanted))

    def listen_for_observers(self, wanted: bool) -> None:
        self.happened.append(("listen for observers", wanted))

    def dial(self, leader_id: int | None) -> None:
        self.happened.append(("dial", leader_id))

    def dial_observer_master(self, server_id: int) -> None:
        self.happened.append(("dial observer master", server_id))

    def notify(self, server_id: int, notification: Notification) -> None:
        self.happened.append(("notify", server_id, notification))

    def view_changed(self, view: EnsembleView) -> None:
        self.happened.append(("view", view.committed.version))

    def rewrite(self) -> None:
        self.happened.append(("rewrite",))

    def fatal(self, exit_code: int, reason: str) -> None:
        self.happened.append(("fatal", exit_code, reason))

    def took_place(self, *kinds: str) -> list[tuple[Any, ...]]:
        """What has happened since the last look, of these kinds."""
        found = [event for event in self.happened if not kinds or event[0] in kinds]
        self.happened.clear()
        return found

    # -- time

    def fire(self) -> None:
        """The earliest timer is due."""
        timer = min(self.loop.pending(), key=lambda one: one.delay_ms)
        timer.cancel()
        self.mono_ms += timer.delay_ms
        timer.action()

    def tick(self, count: int = 1) -> None:
        """Half ticks pass."""
        for _ in range(count):
            self.mono_ms += TICK_MS // 2
            self.driver.tick()

    # -- others

    async def leads(self) -> None:
        """The election of an ensemble of one."""
        self.fire()
        await self.until(lambda: self.driver.service.mode == "leader")

    def join(self, leader_id: int) -> Wire:
        """The others have elected one of them long ago; the connection to it stands."""
        for server_id in sorted(self.peer.state.view.committed.voters - {self.peer.state.server_id}):
            state = ServerState.LEADING if server_id == leader_id else ServerState.FOLLOWING
            self.driver.notified(server_id, Notification(state, leader_id, 0, 1, 1))
        return self.connect("leader")

    def connect(self, name: str) -> Wire:
        """A link to another server."""
        wire = Wire(self, name)
        self.driver.connected(wire.link)
        return wire

    # -- clients: what `Client` asks of a server

    @property
    def service(self) -> Service:
        return self.driver.service

    @property
    def wall_ms(self) -> int:
        return self.driver.wall_ms()

    def pump(self) -> None:
        self.driver.after_input()

    async def client(self) -> AwaitedClient:
        """A client with a session."""
        client = AwaitedClient(self)
        client.connect()
        await client.opened()
        return client

    async def until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until it has come there."""

        async def turn() -> None:
            while not condition():  # noqa: ASYNC110  anything may be the condition
                await asyncio.sleep(0)

        await asyncio.wait_for(turn(), 20)

    def logged(self) -> list[int]:
        """The zxids that a restart would find in the log."""
        return logged_zxids(self.fs, DATA.log_dir)

    def events(self) -> list[str]:
        """Names of what was logged for the operator."""
        return [str(record["event"]) for record in self.records]
