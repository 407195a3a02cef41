"""Stop a learner at every operation of a sync, cut the power, start again, as zkpy and as Apache.

The order under test (quorum protocol §8.7): promise → mark → cut or install → log → current epoch → ACK of NEWLEADER → live txns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.apache_start import apache_epochs
from tests.fakes.handmade_disk import DIRECTORY, HandmadeDisk, replayed
from tests.fakes.memory_fs import MemoryFs, Stopped
from tests.fakes.scripted_server import OWNERS, History, State, make_epochs, state_of
from zkpy.storage.data_dir import DataDir
from zkpy.storage.epochs import Epochs
from zkpy.storage.recovery import Recovered, load_database, recover
from zkpy.storage.snapshot import write_snapshot
from zkpy.storage.truncation import install_snapshot, truncate
from zkpy.storage.txn_log import TxnLog, encode_entry

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = DataDir("/data", "/data")
COMMON = make_epochs([(1, 12)])
LIVE = 5
BATCH = 3


class Plan:
    """One sync.

    Attributes:
        old: the server's history, `disk` makes its files.
        current: its current and accepted epoch.
        acked: how many of its txns it has acked to a leader that may still count on it.
        new: the leader's history, of which the first `synced` txns are sent before NEWLEADER, and `LIVE` after it.
        epoch: the leader's.
        cut: number of txns that TRUNC leaves, None without one.
        snap: number of txns in the SNAP, None without one.
        saves: a snapshot is written after the sync, as Apache does behind a TRUNC, instead of logging what came with it.
    """

    def __init__(
        self,
        old: History,
        disk: Callable[[], MemoryFs],
        current: int,
        new: History,
        synced: int,
        epoch: int,
        *,
        cut: int | None = None,
        snap: int | None = None,
        acked: int = 0,
        saves: bool = False,
    ) -> None:
        self.old = old
        self.disk = disk
        self.current = current
        self.new = new
        self.synced = synced
        self.epoch = epoch
        self.cut = cut
        self.snap = snap
        self.acked = acked
        self.saves = saves


def made(history: History, logs: list[tuple[int, int]], snapshots: list[int], epoch: int) -> MemoryFs:
    disk = HandmadeDisk(history)
    for count in snapshots:
        disk.snapshot(count)
    for first, last in logs:
        disk.log(first, last)
    disk.put("acceptedEpoch", b"%d" % epoch).put("currentEpoch", b"%d" % epoch)
    return disk.fs


def plans() -> dict[str, Plan]:
    later = make_epochs([(2, 6), (3, 9)], seed=31, base=COMMON)
    unheard = make_epochs([(1, 4), (2, 3)], seed=32, base=COMMON)  # proposals that nobody else has
    # The leader of an epoch without txns yet: nothing of it can be seen in the log.
    silent = make_epochs([(2, 8), (4, LIVE)], seed=33, base=COMMON)

    def old_common() -> MemoryFs:
        return made(COMMON, [(1, 7), (8, 12)], [0, 5], 1)

    def old_unheard() -> MemoryFs:
        return made(unheard, [(1, 7), (8, 15), (16, 19)], [0, 5, 14], 2)

    def old_same() -> MemoryFs:
        return made(later, [(1, 9), (10, 20)], [0, 15], 3)

    return {
        "DIFF": Plan(COMMON, old_common, 1, later, 22, 3, acked=12),
        "DIFF of an epoch without txns": Plan(COMMON, old_common, 1, silent, 20, 4, acked=12),
        "TRUNC": Plan(unheard, old_unheard, 2, later, 22, 3, cut=12),
        "TRUNC of an epoch without txns": Plan(unheard, old_unheard, 2, silent, 20, 4, cut=12),
        "TRUNC, then a snapshot": Plan(unheard, old_unheard, 2, later, 22, 3, cut=12, saves=True),
        "TRUNC, same epoch": Plan(later, old_same, 3, later, 20, 3, cut=18, acked=20),
        "SNAP": Plan(COMMON, old_common, 1, later, 22, 3, snap=20, acked=12),
        "SNAP to one that is ahead": Plan(unheard, old_unheard, 2, silent, 20, 4, snap=10),
        "SNAP, same epoch": Plan(later, old_same, 3, later, 20, 3, snap=18, acked=20),
    }


class Learner:
    """Runs a plan; what it has told others stands in its fields."""

    def __init__(self, fs: MemoryFs, plan: Plan) -> None:
        self.fs = fs
        self.plan = plan
        self.promised = plan.current
        self.synced = False
        self.acked = 0

    def run(self) -> None:
        plan, fs = self.plan, self.fs
        recovered, epochs = start(fs)
        log = TxnLog(fs, DIRECTORY, prealloc_bytes=1024)
        epochs.save_accepted(plan.epoch)
        self.promised = plan.epoch
        have = recovered.last_zxid
        if plan.cut is not None:
            have = plan.new.txns[plan.cut - 1].zxid
            load_database(fs, DATA, OWNERS, have, digest_enabled=True)
        # Not the leader's epoch: without a txn of it nobody knows yet whether it is established.
        epochs.mark_current(plan.new.txns[plan.synced - 1].zxid >> 32)
        again = [(txn.zxid, txn.payload) for txn in plan.new.txns[: plan.synced] if txn.zxid > have]
        if plan.cut is not None:
            log.finish_file()
            have = truncate(fs, DATA, have, again)
        if plan.snap is not None:
            log.finish_file()
            tree, sessions = replayed(plan.new, plan.snap)
            have = tree.last_zxid
            again = [(txn.zxid, txn.payload) for txn in plan.new.txns[: plan.synced] if txn.zxid > have]
            have = install_snapshot(fs, DATA, tree, sessions, have, again=again)
        if plan.saves:
            tree, sessions = replayed(plan.new, plan.synced)
            write_snapshot(fs, DIRECTORY, tree, sessions, tree.last_zxid)
            have = tree.last_zxid
        self.log(log, have, plan.synced)
        epochs.save_current(plan.epoch)
        self.synced = True
        self.acked = plan.synced
        for count in range(plan.synced + 1, min(plan.synced + LIVE, len(plan.new.txns)) + 1):
            self.log(log, plan.new.txns[count - 2].zxid, count)
            self.acked = count
        log.close()

    def log(self, log: TxnLog, have: int, count: int) -> None:
        txns = [txn for txn in self.plan.new.txns[:count] if txn.zxid > have]
        for first in range(0, len(txns), BATCH):
            batch = txns[first : first + BATCH]
            log.append(batch[0].zxid, [encode_entry(txn.payload) for txn in batch])
            log.sync()


def start(fs: MemoryFs) -> tuple[Recovered, Epochs]:
    recovered = recover(fs, DATA, OWNERS, digest_enabled=True, trust_empty=False)
    assert recovered.digest_mismatches == 0
    return recovered, Epochs.load(fs, DIRECTORY, recovered.last_zxid)


def copied(fs: MemoryFs) -> MemoryFs:
    copy = MemoryFs()
    for name in fs.names(DIRECTORY):
        copy.put(f"{DIRECTORY}/{name}", fs.read(f"{DIRECTORY}/{name}"))
    return copy


def check(learner: Learner, fs: MemoryFs) -> tuple[State, int]:
    """What a restart promises; state and current epoch."""
    plan = learner.plan
    last_zxid = recover(copied(fs), DATA, OWNERS, digest_enabled=True, trust_empty=False).last_zxid
    _, apache_current = apache_epochs(fs, DIRECTORY, last_zxid)  # refuses nothing
    assert last_zxid >> 32 <= apache_current <= plan.epoch
    recovered, epochs = start(fs)
    found = state_of(recovered.tree, recovered.sessions)
    assert last_zxid >> 32 <= epochs.current <= epochs.accepted
    assert epochs.accepted >= learner.promised
    new = plan.new.states
    if found in new:
        count = new.index(found)
        assert count >= learner.acked
        # A claim on a leader's epoch is complete, or that leader is known to be established by a txn of its own: then a
        # quorum has all of its history, and no vote can be won with less. Ours has to hold that txn itself.
        is_established = plan.new.txns[plan.synced - 1].zxid >> 32 == plan.epoch
        if epochs.current == plan.epoch > plan.current:
            assert count >= plan.synced or last_zxid >> 32 == plan.epoch
        if apache_current == plan.epoch > plan.current:
            assert count >= plan.synced or is_established
    else:
        assert not learner.synced
        assert found in plan.old.states
        assert max(epochs.current, apache_current) < plan.epoch or plan.current == plan.epoch
    assert epochs.current == plan.epoch or not learner.synced
    # What was acked to a leader that counts on it, and sends it again.
    assert found in new[plan.acked :] or not plan.acked
    assert apache_epochs(fs, DIRECTORY, last_zxid) == (epochs.accepted, epochs.current)
    return found, epochs.current


@pytest.mark.slow
@pytest.mark.parametrize("name", list(plans()))
def test_a_power_cut_at_any_operation_of_a_sync(name: str) -> None:
    """3911, 4643, 4646, 4785 (what the ACK of NEWLEADER promises), 2307, 2354, 1653, 4269 (a restart in between)."""
    plan = plans()[name]
    whole = Learner(plan.disk(), plan)
    whole.run()
    end, current = check(whole, whole.fs.after_power_cut(1))
    assert end == plan.new.states[min(plan.synced + LIVE, len(plan.new.txns))]
    assert current == plan.epoch
    outcomes = set()
    for stop_at in range(1, whole.fs.operations + 1):
        fs = plan.disk()
        fs.stop_at = stop_at
        learner = Learner(fs, plan)
        with pytest.raises(Stopped):
            learner.run()
        for seed in range(4):
            cut = fs.after_power_cut(1000 * stop_at + seed)
            found = check(learner, cut)
            outcomes.add(found[1])
            # Nothing that this start has shown to others may be lost by the next cut.
            assert check(learner, cut.after_power_cut(seed)) == found
        killed = fs.after_kill()
        found = check(learner, killed)
        assert check(learner, killed.after_power_cut(stop_at)) == found
    assert {plan.current, plan.epoch} <= outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", list(plans()))
def test_a_sync_that_was_cut_short_can_be_done_again(name: str) -> None:
    plan = plans()[name]
    whole = Learner(plan.disk(), plan)
    whole.run()
    for stop_at in range(1, whole.fs.operations + 1, 3):
        fs = plan.disk()
        fs.stop_at = stop_at
        learner = Learner(fs, plan)
        with pytest.raises(Stopped):
            learner.run()
        cut = fs.after_power_cut(stop_at)
        recovered, _ = start(cut)
        if recovered.last_zxid > plan.new.txns[plan.synced - 1].zxid:
            continue  # it has live txns: the next sync is another one
        again = Learner(cut, plan)
        again.run()
        end, current = check(again, cut.after_power_cut(1))
        assert end == plan.new.states[min(plan.synced + LIVE, len(plan.new.txns))]
        assert current == plan.epoch
