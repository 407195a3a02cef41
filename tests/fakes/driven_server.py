"""A service with its driver, its log thread and a disk in memory: everything of a server but sockets and four letter words.

`DrivenServer.client()` is a `Client` as in `local_server`, whose replies are awaited. `GatedFs` lets a test decide when a sync of
the disk returns, so that "while the disk is busy" is a state and not a race.
"""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any

import structlog

from tests.fakes.local_server import SUPER, Client, PacketAuth, Server
from tests.fakes.memory_fs import MemoryFile, MemoryFs
from zkpy.auth.providers import DigestProvider, IpProvider, ProviderRegistry
from zkpy.core.data_tree import DataTree
from zkpy.core.leading import standalone
from zkpy.core.owners import OwnerRules
from zkpy.core.service import ServiceOptions
from zkpy.runtime import clock
from zkpy.runtime.driver import Clock, Driver, LogOptions
from zkpy.runtime.log_thread import LogThread
from zkpy.runtime.lookout import Lookout
from zkpy.storage.log_reader import LogReader
from zkpy.storage.names import numbered
from zkpy.storage.txn_log import TxnLog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.fakes.replies import Event, Reply
    from zkpy_protocol.records import Id

LOG_DIR = "/log"


class GatedFile(MemoryFile):
    def datasync(self) -> None:
        assert isinstance(self._fs, GatedFs)
        self._fs.syncing.set()
        assert self._fs.gate.wait(20), "the test never opened the gate"
        self._fs.syncing.clear()
        super().datasync()


class GatedFs(MemoryFs):
    """A disk whose syncs wait while `gate` is closed; `syncing` is set while one waits."""

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__(capacity)
        self.gate = threading.Event()
        self.gate.set()
        self.syncing = threading.Event()

    def create(self, path: str) -> MemoryFile:
        created = super().create(path)
        return GatedFile(self, created._inode)


def logged_zxids(fs: MemoryFs, directory: str = LOG_DIR) -> list[int]:
    """What a restart would find in the log."""
    reader = LogReader(fs, [path for _, path in numbered(fs, directory, "log")], -1)
    return [zxid for zxid, _ in reader.entries()]


class AwaitedClient(Client):
    """A client whose messages come when the log thread is done."""

    def __init__(self, server: Server, host: str = "127.0.0.1", ids: Iterable[Id] = ()) -> None:
        super().__init__(server, host, ids)
        self._arrived = asyncio.Event()

    def flush(self) -> None:
        super().flush()
        self._arrived.set()

    async def next(self, count: int = 1) -> list[Reply | Event]:
        """The next `count` messages."""
        while len(self.inbox) < count:
            await self._wait()
        taken, self.inbox = self.inbox[:count], self.inbox[count:]
        return taken

    async def opened(self) -> None:
        while self.connect_response is None and not self.closed:
            await self._wait()

    async def _wait(self) -> None:
        self._arrived.clear()
        await asyncio.wait_for(self._arrived.wait(), 20)


class DrivenServer:
    """A driver at work. Call `close` in the end.

    Attributes:
        records: what was logged for the operator.
        words: what the next four letter words are answered; each is taken once.
        fatal: what the driver could not go on with.
        snapshots_due: how often a snapshot was asked for.
    """

    def __init__(
        self,
        fs: MemoryFs | None = None,
        *,
        log: dict[str, Any] | None = None,
        clock: Clock = clock,
        lookout: Lookout | None = None,
        **options: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.fs = MemoryFs() if fs is None else fs
        if not self.fs.exists(LOG_DIR):
            self.fs.mkdir(LOG_DIR)
            self.fs.sync_dir("/")
        self.records: list[dict[str, Any]] = []
        self.words: dict[bytes, list[bytes | None]] = {}
        self.fatal: asyncio.Future[Exception] = loop.create_future()
        self.snapshots_due = 0
        digest = DigestProvider(super_digest=SUPER)
        settings = {"tick_time_ms": 2000, "min_session_timeout_ms": 4000, "max_session_timeout_ms": 40_000}
        self.service = standalone(
            ServiceOptions(**(settings | options)),
            DataTree(OwnerRules(extended=True, emulate_353=False)),
            {},
            ProviderRegistry([IpProvider(), digest]),
            PacketAuth(digest),
            clock.wall_ms(),
            clock.mono_ms(),
        )
        log_settings = {
            "snap_count": 100_000,
            "snap_size_limit_bytes": 1 << 32,
            "flush_delay_ms": 0,
            "max_batch_size": 1000,
            "fsync_warning_threshold_ms": 1000,
        } | (log or {})
        capture = structlog.testing.LogCapture()
        self.records = capture.entries  # type: ignore[assignment]
        self.log = TxnLog(self.fs, LOG_DIR, prealloc_bytes=1 << 14)
        self.worker = LogThread(self.log)
        self.driver = Driver(
            self.service,
            self.worker,
            clock,
            loop,
            lookout or Lookout(loop.call_soon, lambda: 0, 0),
            LogOptions(**log_settings),
            random.Random(7),
            structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.BoundLogger),
            word=self._word,
            on_snapshot_due=self._snapshot_due,
            on_fatal=self.fatal.set_result,
        )
        self.driver.start()

    def _word(self, word: bytes, argument: bytes) -> bytes | None:
        return self.words[word].pop(0)

    def _snapshot_due(self) -> None:
        self.snapshots_due += 1

    @property
    def wall_ms(self) -> int:
        return self.driver.wall_ms()

    @property
    def mono_ms(self) -> int:
        return self.driver.mono_ms()

    def pump(self) -> None:
        self.driver.after_input()

    async def client(self) -> AwaitedClient:
        client = AwaitedClient(self)
        client.connect()
        await client.opened()
        return client

    def events(self) -> list[str]:
        """Names of what was logged for the operator."""
        return [str(record["event"]) for record in self.records]

    def close(self) -> None:
        self.driver.stop()
