"""Which way a learner gets the leader's history: the decision alone, a function of values (quorum protocol §8.1, §8.2).

A zxid that a learner has logged stands for everything before it: a leader gives a zxid to one txn, and its learners log
them in order. So a learner is brought up to date by the txns behind its last one (DIFF), if that one is in the leader's history.
If it is not, what the learner has on top was never committed and is cut off (TRUNC), or everything is replaced (SNAP).

Safer than Apache in two points, at the price of a SNAP:

* A TRUNC goes to the leader's last committed txn and only within its epoch, where the learner is sure to have it. Apache also
  cuts back into an older epoch, whose end the learner need not have.
* A DIFF has no holes. Learners since 3.9.4 refuse one that has, others would take it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

# Compiled, a dataclass looks up the types of its fields when its module is loaded.
from zkpy.core.txn import Txn  # noqa: TC001
from zkpy.core.zab.peer_state import counter_of, epoch_of
from zkpy_protocol.quorum_packets import PacketType

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """The packet that says how (DIFF, TRUNC or SNAP), its zxid, and the committed txns that follow it.

    Behind them come the leader's outstanding proposals, whatever the mode.
    """

    mode: PacketType
    zxid: int
    txns: tuple[Txn, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryNeeded:
    """The txns in memory do not reach back far enough; those from `from_zxid` to `reach_zxid` have to be read first."""

    from_zxid: int
    reach_zxid: int


def plan_sync(
    peer_zxid: int,
    last_zxid: int,
    committed: Sequence[Txn],
    history: Sequence[Txn] | None,
    *,
    may_read: bool,
) -> SyncPlan | HistoryNeeded:
    """Decide how a learner is brought up to date.

    Args:
        peer_zxid: the learner's last logged zxid. With counter 0 it stands for the start of an epoch: the learner has
            everything its established leader had then.
        last_zxid: the leader's last applied zxid.
        committed: the leader's last committed txns, ascending.
        history: txns of the leader's log as read for an earlier `HistoryNeeded`, or None.
        may_read: whether asking for history makes sense.
    """
    snap = SyncPlan(PacketType.SNAP, last_zxid)
    if peer_zxid == last_zxid:
        return SyncPlan(PacketType.DIFF, peer_zxid)
    oldest, newest = (committed[0].zxid, committed[-1].zxid) if committed else (last_zxid, last_zxid)
    if peer_zxid > newest:
        if counter_of(newest) and epoch_of(peer_zxid) == epoch_of(newest):
            return SyncPlan(PacketType.TRUNC, newest)
        return snap
    if peer_zxid >= oldest:
        return _diff(peer_zxid, committed) or snap
    if history is not None:
        return _diff_from_history(peer_zxid, oldest, committed, history) or snap
    if may_read and peer_zxid > 0:
        return HistoryNeeded(peer_zxid, oldest)
    return snap


def _diff_from_history(
    peer_zxid: int, oldest: int, committed: Sequence[Txn], history: Sequence[Txn]
) -> SyncPlan | None:
    """DIFF out of the log and memory together, None where they do not join, or begin behind the learner.

    The log also has txns that are not committed: what is in memory as well is taken from there.
    """
    if not history or history[0].zxid > peer_zxid or all(txn.zxid != oldest for txn in history):
        return None
    older = [txn for txn in history if txn.zxid < oldest or (txn.zxid == oldest and not committed)]
    return _diff(peer_zxid, [*older, *committed])


def _diff(peer_zxid: int, txns: Sequence[Txn]) -> SyncPlan | None:
    """DIFF with what comes behind `peer_zxid`, None if that is no point of this history or a hole follows."""
    behind = tuple(txn for txn in txns if txn.zxid > peer_zxid)
    if counter_of(peer_zxid) and not any(txn.zxid == peer_zxid for txn in txns):
        return None
    before = peer_zxid
    for txn in behind:
        if not _follows(before, txn.zxid):
            return None
        before = txn.zxid
    return SyncPlan(PacketType.DIFF, txns[-1].zxid, behind)


def _follows(before: int, zxid: int) -> bool:
    """Whether no txn can lie between: the next one of the epoch, or the first of a later epoch."""
    return zxid == before + 1 or (epoch_of(zxid) > epoch_of(before) and counter_of(zxid) == 1)
