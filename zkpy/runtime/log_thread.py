"""The log thread: one write and one sync for everything that was proposed meanwhile.

The event loop hands over one batch at a time and gets one outcome for it; while a batch is being synced the
next one gathers in the loop. So the sync rate of the disk sets the size of the batches, and nothing else.
Encoding and checksums are done before a batch comes here: this thread only waits for the disk.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from zkpy.runtime.clock import mono_ms
from zkpy.storage.errors import DiskFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zkpy.storage.txn_log import TxnLog


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


class LogThread:
    """Owns the log while it runs."""

    __slots__ = ("_done", "_inbox", "_log", "_thread")

    def __init__(self, log: TxnLog, done: Callable[[Outcome], None]) -> None:
        """`done` is called in the log thread, once per batch."""
        self._log = log
        self._done = done
        self._inbox: SimpleQueue[Batch | Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        """Begin to wait for batches."""
        self._thread.start()

    def submit(self, batch: Batch) -> None:
        """Hand over a batch; the one before must be done."""
        self._inbox.put(batch)

    def run(self, job: Callable[[], None]) -> None:
        """Let the thread do something else between two batches; it must not raise."""
        self._inbox.put(job)

    def stop(self) -> None:
        """Finish the batch under way, close the log, end the thread. Idempotent."""
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (work := self._inbox.get()) is not None:
            if isinstance(work, Batch):
                self._done(self._write(work))
            else:
                work()
        self._log.close()

    def _write(self, batch: Batch) -> Outcome:
        log = self._log
        try:
            try:
                log.append(batch.first_zxid, batch.entries)
            except DiskFullError as error:
                log.rollback()
                return Outcome(batch, error, 0)
            start = mono_ms()
            log.sync()
            sync_ms = mono_ms() - start
            if batch.roll:
                log.roll()
        except Exception as error:  # noqa: BLE001  whatever it is, the log cannot be trusted any more
            return Outcome(batch, error, 0)
        return Outcome(batch, None, sync_ms)
