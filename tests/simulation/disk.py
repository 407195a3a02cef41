"""The disk of a simulated server: the log thread, effects and snapshots take their time, and can be stopped in the middle.

What is done to the files is done by the production code on a `MemoryFs`; only when is drawn here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from zkpy.core.zab.effects import InstallSnapshot, TruncateLog
from zkpy.runtime.log_thread import Batch, DiskPace, write_batch
from zkpy.storage.disk import Disk
from zkpy.storage.purge import purge
from zkpy.storage.snapshot import write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.fakes.memory_fs import MemoryFs
    from tests.simulation.server import Incarnation
    from zkpy.core.data_tree import DataTree
    from zkpy.core.zab.effects import Effect
    from zkpy.runtime.log_thread import Outcome
    from zkpy.storage.txn_log import TxnLog

_RETAINED = 3


class SimLogThread:
    """The log thread without a thread: one piece of work after the other, each after a while."""

    __slots__ = ("_done", "_incarnation", "_is_working", "_pace", "_queue", "log")

    def __init__(self, incarnation: Incarnation, log: TxnLog) -> None:
        self.log = log
        self._done: Callable[[Outcome], None]
        self._pace = DiskPace()
        self._incarnation = incarnation
        self._queue: deque[Batch | Callable[[], None]] = deque()
        self._is_working = False

    @property
    def writes_at_once(self) -> bool:
        return self._incarnation.may_sync_at_once() and not (self._is_working or self._queue)

    def start(self, done: Callable[[Outcome], None]) -> None:
        self._done = done

    def stop(self) -> None:
        pass

    def submit(self, batch: Batch) -> Outcome | None:
        if self.writes_at_once and self._incarnation.syncs_at_once():
            return self._log_batch(batch)
        self._put(batch)
        return None

    def _has_log(self) -> bool:
        """Whether something is under way that writes to the log, or changes it."""
        effect = self._incarnation.peer.effect_under_way
        return isinstance(effect, (TruncateLog, InstallSnapshot)) or any(
            isinstance(work, Batch) for work in self._queue
        )

    def run(self, job: Callable[[], None]) -> None:
        self._put(job)

    def _put(self, work: Batch | Callable[[], None]) -> None:
        self._queue.append(work)
        self._begin()

    def _begin(self) -> None:
        if self._queue and not self._is_working:
            self._is_working = True
            self._incarnation.after(self._incarnation.disk_delay_us(), self._work)

    def _work(self) -> None:
        work = self._queue.popleft()
        if isinstance(work, Batch):
            self._done(self._log_batch(work))
        else:
            work()
        self._is_working = False
        self._begin()

    def _log_batch(self, batch: Batch) -> Outcome:
        self._incarnation.about_to_log(batch)
        outcome = write_batch(self.log, batch, self._pace)
        if outcome.error is None:
            self._incarnation.logged()
        return outcome


class SimDisk(Disk):
    """The real one; the checks hear of what it does."""

    __slots__ = ("_incarnation",)

    def __init__(self, incarnation: Incarnation, *args: Any) -> None:
        super().__init__(*args)
        self._incarnation = incarnation

    def carry_out(self, effect: Effect) -> object:
        self._incarnation.effect_begins(effect)
        result = super().carry_out(effect)
        self._incarnation.effect_done(effect, result)
        return result


class _RecordedFile:
    def __init__(self, recorder: OperationRecorder, path: str) -> None:
        self._recorder = recorder
        self._path = path

    def write(self, data: bytes, offset: int) -> None:
        self._recorder.note("write", self._path, data, offset)

    def truncate(self, size: int) -> None:
        self._recorder.note("truncate", self._path, size)

    def datasync(self) -> None:
        self._recorder.note("datasync", self._path)

    def close(self) -> None:
        self._recorder.note("close", self._path)


class OperationRecorder:
    """A disk that only remembers what it was asked to do: a child process that has not got around to it yet."""

    def __init__(self) -> None:
        self.operations: deque[tuple[str, tuple[Any, ...]]] = deque()

    def note(self, name: str, *args: Any) -> None:
        self.operations.append((name, args))

    def create(self, path: str) -> _RecordedFile:
        self.note("create", path)
        return _RecordedFile(self, path)

    def rename(self, path: str, target: str) -> None:
        self.note("rename", path, target)

    def sync_dir(self, directory: str) -> None:
        self.note("sync_dir", directory)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a snapshot is not written by {name}")


class SimSnapshots:
    """Writes the state of a moment, a little at a time, while the server goes on."""

    def __init__(self, incarnation: Incarnation, fs: MemoryFs, directory: str) -> None:
        self._incarnation = incarnation
        self._fs = fs
        self._directory = directory
        self._operations: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._files: dict[str, Any] = {}
        self._count = 0

    @property
    def running(self) -> bool:
        return bool(self._operations)

    def start(self, tree: DataTree, sessions: Mapping[int, int]) -> None:
        recorder: Any = OperationRecorder()
        write_snapshot(recorder, self._directory, tree, sessions, tree.last_zxid)
        self._operations = recorder.operations
        self._later()

    def stop(self) -> None:
        """The child is killed: what it has done stays."""
        self._count += 1
        self._operations.clear()

    def _later(self) -> None:
        self._incarnation.after(self._incarnation.disk_delay_us(), self._go_on, self._count)

    def _go_on(self, count: int) -> None:
        if count != self._count:
            return
        try:
            for _ in range(min(3, len(self._operations))):
                self._do(*self._operations.popleft())
            if not self._operations and self._incarnation.draws(0.3):
                self._incarnation.purged(purge(self._fs, self._incarnation.data_dir, _RETAINED))
        except OSError as error:
            # The server goes on without this snapshot.
            self._operations.clear()
            self._incarnation.snapshot_failed(error)
        if self._operations:
            self._later()

    def _do(self, name: str, args: tuple[Any, ...]) -> None:
        path = args[0]
        if name == "create":
            self._files[path] = self._fs.create(path)
        elif path in self._files:
            getattr(self._files[path], name)(*args[1:])
            if name == "close":
                del self._files[path]
        else:
            getattr(self._fs, name)(*args)
