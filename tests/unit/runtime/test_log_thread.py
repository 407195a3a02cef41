"""The log thread: batches in, outcomes out."""

from __future__ import annotations

import errno
import threading
from queue import SimpleQueue

import pytest

from tests.fakes.driven_server import LOG_DIR, logged_zxids
from tests.fakes.memory_fs import MemoryFs
from zkpy.core.txn import Txn
from zkpy.runtime.log_thread import Batch, DiskPace, LogThread, Outcome
from zkpy.storage.errors import DiskFullError, LogFailedError
from zkpy.storage.txn_log import TxnLog, encode_entry
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import ErrorTxn

Outcomes = SimpleQueue[Outcome]


def started(fs: MemoryFs) -> tuple[LogThread, Outcomes]:
    fs.mkdir(LOG_DIR)
    fs.sync_dir("/")
    outcomes: Outcomes = SimpleQueue()
    thread = LogThread(TxnLog(fs, LOG_DIR, prealloc_bytes=1 << 12))
    thread.start(outcomes.put)
    return thread, outcomes


def batch(*zxids: int, roll: bool = False) -> Batch:
    txns = [Txn.make(1, 1, zxid, 1, OpCode.ERROR, ErrorTxn(-1), None) for zxid in zxids]
    return Batch(zxids[0], zxids[-1], [encode_entry(txn.payload) for txn in txns], roll)


def done(thread: LogThread, outcomes: Outcomes, what: Batch) -> Outcome:
    thread.submit(what)
    outcome = outcomes.get(timeout=20)
    assert outcome.batch is what
    return outcome


def test_a_batch_is_durable_when_its_outcome_says_so() -> None:
    fs = MemoryFs()
    thread, outcomes = started(fs)
    for first in (1, 3, 5):
        outcome = done(thread, outcomes, batch(first, first + 1))
        assert outcome.error is None
        assert outcome.sync_ms >= 0
        assert logged_zxids(fs.after_power_cut(first)) == list(range(1, first + 2))
    thread.stop()


def test_a_batch_that_rolls_is_the_last_in_its_file() -> None:
    fs = MemoryFs()
    thread, outcomes = started(fs)
    done(thread, outcomes, batch(1, 2, roll=True))
    done(thread, outcomes, batch(3))
    thread.stop()
    assert [name for name in fs.names(LOG_DIR) if name.startswith("log.")] == ["log.1", "log.3"]
    assert logged_zxids(fs) == [1, 2, 3]


def test_a_batch_without_room_is_taken_back_and_the_next_one_may_fit() -> None:
    fs = MemoryFs(capacity=1 << 14)
    thread, outcomes = started(fs)
    done(thread, outcomes, batch(1))
    refused = done(thread, outcomes, batch(*range(2, 1000)))
    assert isinstance(refused.error, DiskFullError)
    assert logged_zxids(fs.after_kill()) == [1]
    assert done(thread, outcomes, batch(2)).error is None
    assert logged_zxids(fs.after_power_cut(1)) == [1, 2]
    thread.stop()


@pytest.mark.parametrize("what", ["datasync", "rename"])
def test_a_sync_that_fails_is_final(what: str) -> None:
    fs = MemoryFs()
    thread, outcomes = started(fs)
    last = fs.operations
    done(thread, outcomes, batch(1))
    # The first batch in a file writes, syncs and gives the file its name; a later one writes and syncs.
    number = next(n for n, name in enumerate(fs.log[last:], last + 1) if name == what)
    thread.stop()

    failing = MemoryFs()
    failing.fail_at[number] = errno.EIO
    thread, outcomes = started(failing)
    assert isinstance(done(thread, outcomes, batch(1)).error, LogFailedError)
    failing.fail_at.clear()
    assert isinstance(done(thread, outcomes, batch(2)).error, LogFailedError), "asking again proves nothing"
    thread.stop()


def test_stop_finishes_what_was_handed_over_and_may_be_repeated() -> None:
    fs = MemoryFs()
    thread, outcomes = started(fs)
    thread.submit(batch(1))
    thread.stop()
    thread.stop()
    assert outcomes.get_nowait().error is None
    assert logged_zxids(fs.after_power_cut(3)) == [1]


def test_a_thread_that_never_ran_can_be_stopped() -> None:
    fs = MemoryFs()
    fs.mkdir(LOG_DIR)
    LogThread(TxnLog(fs, LOG_DIR)).stop()


# --- where the wait is spent ------------------------------------------------------------------------------

FAST_US, SLOW_US, STALL_US = 100, 400, 6000


class Noted:
    """A pace, told of syncs that follow each other without a pause."""

    def __init__(self) -> None:
        self.pace = DiskPace()
        self.now_us = 1000

    def __call__(self, *syncs_us: int) -> bool:
        for sync_us in syncs_us:
            self.now_us += sync_us
            self.pace.note(sync_us, self.now_us)
        return self.pace.is_fast


def test_a_disk_has_to_show_that_it_is_fast() -> None:
    noted = Noted()
    assert not noted(*[FAST_US] * 15)
    assert noted(FAST_US)


def test_the_shortest_sync_counts_since_a_thread_may_be_late_to_measure_it() -> None:
    assert Noted()(*[SLOW_US] * 15, FAST_US)
    assert not Noted()(*[SLOW_US] * 160)


def test_a_stall_sends_the_wait_to_the_thread_for_twenty_times_as_long() -> None:
    noted = Noted()
    assert noted(*[FAST_US] * 16)
    assert not noted(STALL_US)
    resumed_us = noted.now_us + 20 * STALL_US
    while not noted(FAST_US):
        assert noted.now_us < 2 * resumed_us
    assert resumed_us <= noted.now_us <= resumed_us + 16 * FAST_US


def test_a_stall_in_the_thread_counts_as_well() -> None:
    noted = Noted()
    assert not noted(*[FAST_US] * 15, 300_000, FAST_US)
    assert not noted(*[FAST_US] * 160)
    assert noted(20 * 300_000, *[FAST_US] * 16) is False, "the clock alone does not make it fast"
    noted.now_us += 20 * 20 * 300_000
    assert noted(*[FAST_US] * 32)


def test_a_hesitation_is_no_stall() -> None:
    noted = Noted()
    assert noted(*[FAST_US] * 116, STALL_US - 1000, *[FAST_US] * 16, STALL_US - 1000)


def test_a_disk_that_gets_slower_is_not_waited_for_any_more() -> None:
    noted = Noted()
    assert noted(*[FAST_US] * 116)
    assert noted(*[5 * SLOW_US] * 3)
    assert not noted(*[5 * SLOW_US] * 3)


def written_at_once(thread: LogThread, outcomes: Outcomes) -> Outcome:
    """Write batches until the disk is known to be fast; the first one that did not go to the thread."""
    for zxid in range(1, 100_000):
        outcome = thread.submit(batch(zxid))
        if outcome is not None:
            return outcome
        assert outcomes.get(timeout=20).error is None
    raise AssertionError("a disk in memory is fast")


def test_nothing_is_written_at_once_while_the_thread_has_the_files() -> None:
    fs = MemoryFs()
    thread, outcomes = started(fs)
    zxid = written_at_once(thread, outcomes).batch.last_zxid
    begun, may_end = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        assert may_end.wait(20)

    thread.run(job)
    assert begun.wait(20)
    assert thread.submit(batch(zxid + 1)) is None
    may_end.set()
    assert outcomes.get(timeout=20).batch.last_zxid == zxid + 1
    assert written_at_once(thread, outcomes).error is None
    thread.stop()


def test_batches_for_a_fast_disk_are_written_at_once_and_durable() -> None:
    fs = MemoryFs()
    thread, outcomes = started(fs)
    outcome = written_at_once(thread, outcomes)
    zxid = outcome.batch.last_zxid
    assert outcome.error is None
    survived = fs.after_power_cut(1)
    assert logged_zxids(survived)[-1] == zxid
    thread.stop()
