"""The log stage: one write and one sync for everything that was proposed meanwhile.

The event loop hands over one batch at a time and gets one outcome for it; while a batch is being synced the
next one gathers in the loop. So the sync rate of the disk sets the size of the batches, and nothing else.
Encoding and checksums are done before a batch comes here: here one only waits for the disk.

Where that wait is as short as the way to another thread and back, the loop waits itself: a fast disk syncs in a tenth of a
millisecond, and to hand over a batch and get hold of the interpreter again takes as long. `DiskPace` decides.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from time import perf_counter_ns
from typing import TYPE_CHECKING

from zkpy.storage.errors import DiskFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zkpy.storage.txn_log import TxnLog


_FAST_US = 250  # about what handing over and back costs under load
_STALL_US = 5000
_CERTAIN_STALL_US = 20_000  # no thread waits that long for the interpreter
_AVERAGE_SHIFT = 4  # over some sixteen syncs
_SHOWN = 16
_STALL_SHARE = 20


class Batch:
    """Encoded entries of consecutive txns; `roll` closes the file behind them."""

    __slots__ = ("entries", "first_zxid", "last_zxid", "roll")

    def __init__(self, first_zxid: int, last_zxid: int, entries: list[bytes], roll: bool) -> None:
        self.first_zxid = first_zxid
        self.last_zxid = last_zxid
        self.entries = entries
        self.roll = roll


class Outcome:
    """What became of a batch: durable when `error` is None; DiskFullError: nothing of it is there; else unknown."""

    __slots__ = ("batch", "error", "sync_ms")

    def __init__(self, batch: Batch, error: Exception | None, sync_ms: int) -> None:
        self.batch = batch
        self.error = error
        self.sync_ms = sync_ms


class DiskPace:
    """Whether the disk is so fast that the loop may wait for it.

    A disk has to show it: the shortest of sixteen syncs in a row counts, since the thread that measures one may get hold
    of the interpreter late. What is no longer fast on average goes back to the thread. So does what has stalled, for twenty
    times as long as the stall: reads lose at most a twentieth of their time to a disk that hesitates now and then.
    """

    __slots__ = ("_average_us", "_seen", "_shortest_us", "_thread_until_us", "is_fast")

    def __init__(self) -> None:
        self.is_fast = False
        self._thread_until_us = 0
        self._start_over()

    def _start_over(self) -> None:
        self._seen = 0
        self._shortest_us = _FAST_US + 1
        self._average_us = 0

    def note(self, sync_us: int, now_us: int) -> None:
        """A sync took so long, and is over now; any clock that never goes back."""
        if self.is_fast:
            self._average_us += (sync_us - self._average_us) >> _AVERAGE_SHIFT
            if sync_us > _STALL_US or self._average_us > 2 * _FAST_US:
                self._leave_to_thread(sync_us, now_us)
            return
        if sync_us > _CERTAIN_STALL_US:
            self._leave_to_thread(sync_us, now_us)
            return
        self._seen += 1
        self._shortest_us = min(self._shortest_us, sync_us)
        if self._seen == _SHOWN:
            self.is_fast = self._shortest_us <= _FAST_US and now_us >= self._thread_until_us
            self._start_over()

    def _leave_to_thread(self, stall_us: int, now_us: int) -> None:
        self.is_fast = False
        self._thread_until_us = now_us + _STALL_SHARE * stall_us
        self._start_over()


def write_batch(log: TxnLog, batch: Batch, pace: DiskPace) -> Outcome:
    """Append, sync and perhaps roll; never raises."""
    try:
        try:
            log.append(batch.first_zxid, batch.entries)
        except DiskFullError as error:
            log.rollback()
            return Outcome(batch, error, 0)
        start = perf_counter_ns()
        log.sync()
        end = perf_counter_ns()
        sync_us = (end - start) // 1000
        pace.note(sync_us, end // 1000)
        if batch.roll:
            log.roll()
    except Exception as error:  # noqa: BLE001  whatever it is, the log cannot be trusted any more
        return Outcome(batch, error, 0)
    return Outcome(batch, None, sync_us // 1000)


class LogThread:
    """Owns the log while it runs."""

    __slots__ = ("_done", "_inbox", "_jobs_done", "_jobs_given", "_pace", "_worker", "log")

    def __init__(self, log: TxnLog) -> None:
        self.log = log
        self._done: Callable[[Outcome], None]
        self._pace = DiskPace()
        # The first is counted by the thread alone, the second by its owner alone.
        self._jobs_done = self._jobs_given = 0
        self._inbox: SimpleQueue[Batch | Callable[[], None] | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self, done: Callable[[Outcome], None]) -> None:
        """Begin to wait for batches. `done` is called in the log thread, once per batch that is written there."""
        self._done = done
        self._worker.start()

    @property
    def writes_at_once(self) -> bool:
        """Whether who hands over the next batch writes it: the disk is fast, and no job has the files."""
        return self._pace.is_fast and self._jobs_done == self._jobs_given

    def submit(self, batch: Batch) -> Outcome | None:
        """Hand over a batch; the one before must be done.

        Returns:
            what became of it, when it was written at once.
        """
        if self.writes_at_once:
            return write_batch(self.log, batch, self._pace)
        self._inbox.put(batch)
        return None

    def run(self, job: Callable[[], None]) -> None:
        """Let the thread do something else between two batches; it must not raise."""
        self._jobs_given += 1
        self._inbox.put(job)

    def stop(self) -> None:
        """Finish the batch under way, close the log, end the thread. Idempotent."""
        if self._worker.is_alive():
            self._inbox.put(None)
            self._worker.join()

    def _run(self) -> None:
        while (work := self._inbox.get()) is not None:
            if isinstance(work, Batch):
                self._done(write_batch(self.log, work, self._pace))
            else:
                work()
                self._jobs_done += 1
        self.log.close()
