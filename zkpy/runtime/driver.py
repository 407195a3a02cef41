"""Runs a service: input in, proposals to the log thread, outcomes back, bytes out.

One object of the event loop's thread. It decides nothing about the protocol; it owns the order of the
effects: what the log thread has not confirmed is not told to the service as persisted, and everything a step
has produced is sent before the loop sleeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from zkpy.core.leading import LeadingService
from zkpy.core.stats import Percentiles, Summary
from zkpy.runtime.log_thread import Batch, Outcome
from zkpy.runtime.lookout import Gathering
from zkpy.storage.errors import DiskFullError, LogFailedError
from zkpy.storage.txn_log import encode_entry

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable, Sequence

    import structlog

    from zkpy.core.link import ClientLink
    from zkpy.core.service import Service
    from zkpy.core.txn import Txn
    from zkpy.runtime.lookout import Lookout
    from zkpy.storage.txn_log import TxnLog


class Clock(Protocol):
    """`zkpy.runtime.clock`, or a model of it."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970; may jump."""

    def mono_ms(self) -> int:
        """Milliseconds of a clock that never goes back."""


class ClientShell(Protocol):
    """The shell of a link, `zkpy.net.client_server.ClientConnection`, or a model of it."""

    def flush(self) -> None:
        """Send what the link has queued, and close it if it is to be closed."""


class LogWorker(Protocol):
    """`zkpy.runtime.log_thread.LogThread`, or a model of it."""

    @property
    def log(self) -> TxnLog:
        """What it writes; nobody else does."""

    @property
    def writes_at_once(self) -> bool:
        """Whether the next `submit` returns an outcome."""

    def start(self, done: Callable[[Outcome], None]) -> None:
        """Begin; `done` is told what became of batches, in any thread."""

    def submit(self, batch: Batch) -> Outcome | None:
        """Hand over a batch; the one before must be done. What became of it, if it was written at once."""

    def run(self, job: Callable[[], None]) -> None:
        """Do something else between two batches; it must not raise."""

    def stop(self) -> None:
        """Finish the batch under way, close the log."""


class LogStats:
    """What the log stage counts; ms unless said otherwise."""

    __slots__ = ("batch_size", "queue_size", "slow_syncs", "sync_ms")

    def __init__(self) -> None:
        self.sync_ms = Percentiles()
        self.batch_size = Summary()
        self.queue_size = Summary()
        self.slow_syncs = 0

    def reset(self) -> None:
        """The ``srst`` command."""
        self.sync_ms.reset()
        self.batch_size.reset()
        self.queue_size.reset()
        self.slow_syncs = 0


class LogOptions:
    """How the log is written; names of zoo.cfg."""

    __slots__ = (
        "flush_delay_ms",
        "fsync_warning_threshold_ms",
        "max_batch_size",
        "snap_count",
        "snap_size_limit_bytes",
    )

    def __init__(
        self,
        *,
        snap_count: int,
        snap_size_limit_bytes: int,
        flush_delay_ms: int,
        max_batch_size: int,
        fsync_warning_threshold_ms: int,
    ) -> None:
        self.snap_count = snap_count
        self.snap_size_limit_bytes = snap_size_limit_bytes
        self.flush_delay_ms = flush_delay_ms
        self.max_batch_size = max_batch_size
        self.fsync_warning_threshold_ms = fsync_warning_threshold_ms


class Driver:
    """Steps one service.

    Args:
        on_snapshot_due: called when enough was logged since the last roll; the log has just been rolled.
        on_fatal: called when the log cannot be trusted any more: the server must stop at once.
    """

    __slots__ = (
        "_bytes_since_roll",
        "_flush_scheduled",
        "_gathering",
        "_in_flight",
        "_log",
        "_logger",
        "_lookout",
        "_loop",
        "_mono_ms",
        "_on_fatal",
        "_on_snapshot_due",
        "_options",
        "_random",
        "_roll_after_bytes",
        "_roll_after_txns",
        "_txns_since_roll",
        "_wall_ms",
        "_wall_seen_ms",
        "_wall_then_ms",
        "_word",
        "_worker",
        "bytes_received",
        "log_stats",
        "service",
    )

    def __init__(
        self,
        service: Service,
        worker: LogWorker,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        lookout: Lookout,
        options: LogOptions,
        random: random.Random,
        logger: structlog.typing.FilteringBoundLogger,
        *,
        word: Callable[[bytes, bytes], bytes | None],
        on_snapshot_due: Callable[[], None],
        on_fatal: Callable[[Exception], None],
    ) -> None:
        self.service = service
        self.log_stats = LogStats()
        self.bytes_received = 0
        self._worker = worker
        self._log = worker.log
        self._wall_ms = clock.wall_ms
        self._mono_ms = clock.mono_ms
        self._wall_seen_ms = self._wall_then_ms = -1
        self._loop = loop
        self._lookout = lookout
        self._options = options
        self._random = random
        self._logger = logger
        self._word = word
        self._on_snapshot_due = on_snapshot_due
        self._on_fatal = on_fatal
        self._in_flight = False
        self._flush_scheduled = False
        self._gathering = Gathering()
        self._start_count()

    def start(self) -> None:
        """Begin to log."""
        self._worker.start(self._logged)

    def stop(self) -> None:
        """Close the log; a batch under way is finished."""
        self._worker.stop()

    # -- what the shells ask

    def wall_ms(self) -> int:
        """Wall clock."""
        return self._wall_ms()

    def mono_ms(self) -> int:
        """Monotonic clock."""
        return self._mono_ms()

    def four_letter_word(self, word: bytes, argument: bytes) -> bytes | None:
        """The answer to an operator's command."""
        return self._word(word, argument)

    def refused(self, event: str, host: str, port: int, reason: str) -> None:
        """Log that a connection was refused or cut off."""
        self._logger.warning(event, client=f"{host}:{port}", reason=reason)

    def count_input(self, size: int) -> int:
        """So many bytes have come; what `mono_ms` is."""
        self.bytes_received += size
        self._lookout.came()
        return self._mono_ms()

    def offer(
        self, link: ClientLink, frames: Sequence[bytes], start: int, arrival_ms: int, mono_ms: int
    ) -> int:
        """Offer the service the frames from `start` on, which came at `arrival_ms`; the index of the first one not taken."""
        if mono_ms != self._wall_seen_ms:
            # Once a millisecond: a loop with many clients would ask a hundred times in it.
            self._wall_seen_ms = mono_ms
            self._wall_then_ms = self._wall_ms()
        service = self.service
        throttle = service.request_throttle
        if throttle is None:
            return service.receive(link, frames, start, self._wall_then_ms, mono_ms)
        return throttle.receive(link, frames, start, arrival_ms, self._wall_then_ms, mono_ms)

    def after_input(self) -> None:
        """Send what the last input has produced, and see to it that proposals reach the log."""
        self.send()
        if self.service.unlogged and not self._in_flight and not self._flush_scheduled:
            self._flush_scheduled = True
            delay = self._options.flush_delay_ms
            if delay > 0 and len(self.service.unlogged) < self._options.max_batch_size:
                self._loop.call_later(delay / 1000, self._flush)
            else:
                # At the end of this turn of the loop, so that one batch takes what all its inputs proposed.
                self._loop.call_soon(self._flush)

    def send(self) -> None:
        """One write per link that has something to send; then those that waited for room come to their turn."""
        dirty = self.service.dirty
        throttle = self.service.request_throttle
        if dirty:
            self._lookout.answered()
        while dirty or (throttle is not None and throttle.wake()):
            links = dirty.copy()
            dirty.clear()
            for link in links:
                cast("ClientShell", link.shell).flush()

    def tick(self) -> None:
        """Time passes: sessions expire, containers are swept, a full disk may have room again."""
        if self.service.refuse_writes and not self._in_flight:
            self._ask_for_space()
        self._tick()
        self.after_input()

    def _ask_for_space(self) -> None:
        try:
            has_space = self._log.grow()
        except LogFailedError as error:
            self._on_fatal(error)
            return
        if has_space:
            self.service.refuse_writes = False
            self._logger.info("log.has_space_again", headroom_bytes=self._log.headroom_bytes)

    # -- what is driven; an ensemble puts a peer in the place of the service

    def _take_unlogged(self, count_max: int) -> list[Txn]:
        return self.service.take_unlogged(count_max)

    def _persisted(self, zxid: int) -> None:
        service = self.service
        assert isinstance(service, LeadingService)
        service.persisted(zxid, self.mono_ms())

    def _roll_back(self, error: DiskFullError) -> bool:
        """Whether the proposals that found no room could be taken back."""
        service = self.service
        assert isinstance(service, LeadingService)
        self._logger.error(
            "log.disk_full",
            reason=str(error),
            effect="the last writes are refused with SystemError, nothing of them is kept; reads go on",
            remedy="free space in dataLogDir; writes resume by themselves",
        )
        service.log_rolled_back(self.mono_ms())
        self.after_input()
        return True

    def _tick(self) -> None:
        self.service.tick(self.wall_ms(), self.mono_ms())

    # -- the log

    def _flush(self) -> None:
        if self._is_worth_waiting():
            self._loop.call_soon(self._flush)
            return
        self._flush_scheduled = False
        if not self._in_flight and self.service.unlogged:
            outcome = self._submit()
            if outcome is not None:
                self._handle(outcome)

    def _is_worth_waiting(self) -> bool:
        """Whether the next turn may bring more proposals, before the loop itself waits for the disk.

        The log thread needs no such care, since the next batch gathers while it works.
        """
        if self._worker.writes_at_once:
            count_max = self._options.max_batch_size
            return self._gathering.goes_on(len(self.service.unlogged), count_max, self.mono_ms())
        self._gathering.end()
        return False

    def _submit(self) -> Outcome | None:
        """Hand over the next batch; what became of it, if it was written at once."""
        self.log_stats.queue_size.add(len(self.service.unlogged))
        txns = self._take_unlogged(self._options.max_batch_size)
        entries = [encode_entry(txn.payload) for txn in txns]
        self._txns_since_roll += len(entries)
        self._bytes_since_roll += sum(map(len, entries))
        roll = (
            self._txns_since_roll > self._roll_after_txns or self._bytes_since_roll > self._roll_after_bytes
        )
        self.log_stats.batch_size.add(len(entries))
        outcome = self._worker.submit(Batch(txns[0].zxid, txns[-1].zxid, entries, roll))
        self._in_flight = outcome is None
        return outcome

    def _logged(self, outcome: Outcome) -> None:
        """In the log thread."""
        self._loop.call_soon_threadsafe(self._handle, outcome)

    def _handle(self, outcome: Outcome) -> None:
        was_in_flight = self._in_flight
        self._in_flight = False
        if outcome.error is not None:
            self._handle_failure(outcome.error)
            return
        self._note_sync(outcome.sync_ms)
        if self._log.is_space_low and not self.service.refuse_writes:
            self._run_short_of_space()
        rolled = outcome.batch.roll
        following: Outcome | None = None
        if rolled:
            self._start_count()
        elif was_in_flight and self.service.unlogged:
            # The disk works on the next batch while this one is being answered.
            following = self._submit()
        self._persisted(outcome.batch.last_zxid)
        if rolled:
            self._on_snapshot_due()
        if following is not None:
            self._handle(following)
        else:
            self.after_input()

    def _handle_failure(self, error: Exception) -> None:
        if not isinstance(error, DiskFullError) or not self._roll_back(error):
            self._in_flight = True  # for good: nothing goes behind what may be there or not
            self._on_fatal(error)

    def _run_short_of_space(self) -> None:
        self.service.refuse_writes = True
        self._logger.error(
            "log.disk_full",
            headroom_bytes=self._log.headroom_bytes,
            effect="writes are refused with SystemError, reads and session closes go on",
            remedy="free space in dataLogDir; writes resume by themselves",
        )

    def _note_sync(self, sync_ms: int) -> None:
        self.log_stats.sync_ms.add(sync_ms)
        if sync_ms > self._options.fsync_warning_threshold_ms:
            self.log_stats.slow_syncs += 1
            self._logger.warning("log.slow_sync", sync_ms=sync_ms)

    def _start_count(self) -> None:
        """Draw when the next snapshot is due, differently on each server and each time (Apache's rule)."""
        self._txns_since_roll = 0
        self._bytes_since_roll = 0
        half = max(1, self._options.snap_count // 2)
        self._roll_after_txns = half + self._random.randrange(half)
        limit = self._options.snap_size_limit_bytes
        half_bytes = limit // 2
        self._roll_after_bytes = (
            half_bytes + self._random.randrange(half_bytes) if half_bytes > 0 else 1 << 62
        )
