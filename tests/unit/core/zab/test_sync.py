"""How a learner is brought up to date (quorum protocol §8.1, §8.2, §17 rules 16 and 17)."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from zkpy.core.txn import Txn
from zkpy.core.zab.peer_state import counter_of, first_of
from zkpy.core.zab.sync import HistoryNeeded, SyncPlan, plan_sync
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.quorum_packets import PacketType
from zkpy_protocol.records import ErrorTxn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DIFF, TRUNC, SNAP = PacketType.DIFF, PacketType.TRUNC, PacketType.SNAP


def z(epoch: int, counter: int) -> int:
    return first_of(epoch) + counter


def txns(zxids: Sequence[int]) -> list[Txn]:
    return [Txn.make(0, 0, zxid, 0, OpCode.ERROR, ErrorTxn(-1), None) for zxid in zxids]


def plan(
    peer: int, committed: Sequence[int], *, last: int | None = None, history: Sequence[int] | None = None
) -> tuple[PacketType, int, list[int]]:
    """Mode, zxid and zxids of the txns that follow."""
    last_zxid = last if last is not None else committed[-1]
    decided = plan_sync(
        peer, last_zxid, txns(committed), None if history is None else txns(history), may_read=False
    )
    assert isinstance(decided, SyncPlan)
    return decided.mode, decided.zxid, [txn.zxid for txn in decided.txns]


OLD = [z(1, 4), z(1, 5), z(1, 6)]


def test_a_learner_that_has_everything_gets_an_empty_diff() -> None:
    assert plan(z(1, 6), OLD) == (DIFF, z(1, 6), [])
    assert plan(0, [], last=0) == (DIFF, 0, [])
    assert plan(z(2, 0), OLD, last=z(2, 0)) == (DIFF, z(2, 0), []), "no txn in the epoch yet"
    assert plan(z(1, 6), OLD, last=z(2, 0)) == (DIFF, z(1, 6), [])


@pytest.mark.parametrize("last", [z(1, 6), z(2, 0)])
def test_a_learner_that_is_behind_gets_what_it_lacks(last: int) -> None:
    assert plan(z(1, 4), OLD, last=last) == (DIFF, z(1, 6), [z(1, 5), z(1, 6)])


@pytest.mark.parametrize("last", [z(1, 6), z(2, 0)])
def test_what_was_never_committed_in_the_same_epoch_is_cut(last: int) -> None:
    """Also by a leader of a newer epoch that has no txn yet (capture cross-epoch-ahead)."""
    assert plan(z(1, 9), OLD, last=last) == (TRUNC, z(1, 6), [])
    assert plan(z(1, 9), [], last=z(1, 6)) == (TRUNC, z(1, 6), [])


def test_nothing_is_cut_across_epochs() -> None:
    """The learner need not have the end of the older epoch as the leader has it (capture cross-epoch-gap)."""
    assert plan(z(2, 1), OLD) == (SNAP, z(1, 6), [])
    assert plan(z(2, 1), OLD, last=z(3, 0)) == (SNAP, z(3, 0), [])
    assert plan(z(1, 9), [*OLD, z(2, 1), z(2, 2)]) == (SNAP, z(2, 2), [])
    assert plan(z(1, 9), [], last=z(2, 0)) == (SNAP, z(2, 0), [])


def test_the_start_of_an_epoch_is_a_point_of_the_history_without_a_txn() -> None:
    """§8.1: the learner got the complete history of a leader that had proposed nothing (capture new-epoch-zxid)."""
    assert plan(z(2, 0), [*OLD, z(2, 1)]) == (DIFF, z(2, 1), [z(2, 1)])
    assert plan(z(2, 0), [*OLD, z(3, 1)]) == (DIFF, z(3, 1), [z(3, 1)])
    assert plan(z(2, 0), OLD) == (SNAP, z(1, 6), []), "case 6"
    assert plan(z(2, 0), OLD, last=z(3, 0)) == (SNAP, z(3, 0), [])


def test_an_empty_learner_gets_a_snapshot() -> None:
    """Nothing proves that the first txn in memory is the first there was (capture snap-sync)."""
    assert plan(0, [z(1, 1), z(1, 2)]) == (SNAP, z(1, 2), [])
    for peer in (0, -1):
        assert plan_sync(peer, z(1, 2), txns([z(1, 2)]), None, may_read=True) == SyncPlan(SNAP, z(1, 2))


def test_a_learner_behind_what_is_in_memory_needs_the_log() -> None:
    committed = txns(OLD)
    assert plan_sync(z(1, 2), z(1, 6), committed, None, may_read=True) == HistoryNeeded(z(1, 2), z(1, 4))
    assert plan_sync(z(1, 2), z(1, 6), committed, None, may_read=False) == SyncPlan(SNAP, z(1, 6))
    assert plan_sync(z(1, 2), z(1, 6), [], None, may_read=True) == HistoryNeeded(z(1, 2), z(1, 6))


def test_log_and_memory_together_make_a_diff() -> None:
    everything = [z(1, 3), *OLD]
    assert plan(z(1, 2), OLD, history=[z(1, 2), z(1, 3), z(1, 4)]) == (DIFF, z(1, 6), everything)
    assert plan(z(1, 2), OLD, history=[z(1, 1), z(1, 2), z(1, 3), z(1, 4), z(1, 5), z(1, 6), z(1, 7)]) == (
        DIFF,
        z(1, 6),
        everything,
    ), "txn 7 is in the log and not committed"
    assert plan(z(1, 2), [], last=z(1, 4), history=[z(1, 2), z(1, 3), z(1, 4), z(1, 5)]) == (
        DIFF,
        z(1, 4),
        [z(1, 3), z(1, 4)],
    )


@pytest.mark.parametrize(
    "history",
    [
        [],
        [z(1, 3), z(1, 4)],  # begins behind the learner
        [z(1, 1), z(1, 3), z(1, 4)],  # the learner's last txn is no part of it
        [z(1, 2), z(1, 3)],  # memory has moved on meanwhile
        [z(1, 2), z(1, 4)],  # a hole
    ],
)
def test_a_log_that_does_not_join_means_a_snapshot(history: list[int]) -> None:
    assert plan(z(1, 2), OLD, history=history) == (SNAP, z(1, 6), [])


def test_a_diff_has_no_holes() -> None:
    """ZOOKEEPER-4925: learners before 3.9.4 would take it, later ones refuse it."""
    assert plan(z(1, 4), [z(1, 4), z(1, 6)]) == (SNAP, z(1, 6), [])
    assert plan(z(1, 4), [z(1, 4), z(2, 2)]) == (SNAP, z(2, 2), [])
    assert plan(z(1, 4), [z(1, 4), z(3, 1), z(3, 2)]) == (DIFF, z(3, 2), [z(3, 1), z(3, 2)])
    assert plan(z(1, 5), [z(1, 4), z(1, 6)]) == (SNAP, z(1, 6), [])


# -- every small case


def _run(epoch: int, count: int) -> list[int]:
    return [z(epoch, counter) for counter in range(1, count + 1)]


def _histories() -> Iterator[tuple[list[int], list[int], int | None]]:
    """Histories that ZAB allows a leader and a learner together, and the epoch whose start the learner may claim.

    The leader of epoch 1 has proposed up to 3 txns; that of epoch 2 has begun with the first `start` of them. Everybody has a
    beginning of epoch 1, or the beginning of epoch 2 as its leader saw it.
    """
    for start in range(4):
        known = [
            *(_run(1, count) for count in range(4)),
            *(_run(1, start) + _run(2, count) for count in range(1, 4)),
        ]
        for leader, learner in product(known, known):
            yield leader, learner, None
        # Whoever claims the start of an epoch got it from an established leader: its history is committed.
        for leader in [_run(1, start) + _run(2, count) for count in range(4)]:
            yield leader, _run(1, start), 2
        for leader in known:
            yield leader, [], 1


def _follow(learner: list[int], decided: SyncPlan, leader: list[int], outstanding: list[int]) -> list[int]:
    """What a learner has that does as it is told, and checks nothing but that it can."""
    if decided.mode == SNAP:
        held = [zxid for zxid in leader if zxid <= decided.zxid]
    elif decided.mode == TRUNC:
        assert decided.zxid in learner, "a TRUNC to a txn the learner does not have"
        held = [zxid for zxid in learner if zxid <= decided.zxid]
    else:
        held = list(learner)
    for zxid in [*(txn.zxid for txn in decided.txns), *outstanding]:
        if counter_of(zxid) > 1:
            assert held[-1] == zxid - 1, "a hole, or a txn twice"
        held.append(zxid)
    return held


def _leaders(history: list[int]) -> Iterator[tuple[int, list[int], list[int]]]:
    """Last applied zxid, committed and outstanding txns of a leader with this log: of its last epoch, or of epoch 3."""
    if history:
        for committed in range(len(history) + 1):
            if all(zxid >> 32 == history[-1] >> 32 for zxid in history[committed:]):
                epoch = history[-1] >> 32
                held = history[:committed]
                last = held[-1] if held and held[-1] >> 32 == epoch else first_of(epoch)
                yield last, held, history[committed:]
        yield history[-1], history, []
    else:
        yield 0, [], []
    yield first_of(3), history, []


def test_every_small_history_ends_as_the_leaders() -> None:
    modes: dict[PacketType, int] = dict.fromkeys((DIFF, TRUNC, SNAP), 0)
    for leader, learner, claimed_epoch in _histories():
        peer = first_of(claimed_epoch) if claimed_epoch else learner[-1] if learner else 0
        for last, committed, outstanding in _leaders(leader):
            if claimed_epoch is not None and any(zxid < first_of(claimed_epoch) for zxid in outstanding):
                continue
            for memory, log_start in product(range(len(committed) + 1), range(len(leader) + 1)):
                in_memory = txns(committed[len(committed) - memory :])
                decided = plan_sync(peer, last, in_memory, None, may_read=True)
                if isinstance(decided, HistoryNeeded):
                    decided = plan_sync(peer, last, in_memory, txns(leader[log_start:]), may_read=False)
                assert isinstance(decided, SyncPlan)
                modes[decided.mode] += 1
                got = _follow(learner, decided, committed, outstanding)
                assert got == leader, (
                    f"leader {leader} at {last:x}, learner {learner} claims {peer:x}: {decided}"
                )
    assert all(count > 1000 for count in modes.values()), modes
