"""What a role asks of the disk besides appending to the log.

A role puts an effect into `PeerState.effects` and waits. The driver carries effects out one by one, in order, and
answers each with `Peer.done`; only then does the role send what depends on it. So no driver can let a promise out
before it is on disk. The log has nothing in flight while one of them changes the log: the role sees to that.
"""

from __future__ import annotations

from dataclasses import dataclass

# Compiled, a dataclass looks up the types of its fields when its module is loaded.
from zkpy.core.data_tree import DataTree  # noqa: TC001
from zkpy.core.txn import Txn  # noqa: TC001
from zkpy.core.zab.quorum_link import QuorumLink  # noqa: TC001


@dataclass(frozen=True, slots=True)
class SaveAcceptedEpoch:
    """acceptedEpoch := epoch. Result: None."""

    epoch: int


@dataclass(frozen=True, slots=True)
class MarkCurrentEpoch:
    """Note in currentEpoch.tmp that a sync with txns up to `epoch` begins to reach the disk (§8.7). Result: None."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SaveCurrentEpoch:
    """currentEpoch := epoch. Result: None."""

    epoch: int


@dataclass(frozen=True, slots=True)
class LoadDatabase:
    """Read tree and sessions as they were after txn `zxid`; the disk stays as it is.

    Result: Database, or None when the disk does not reach back that far.
    """

    zxid: int


@dataclass(frozen=True, slots=True)
class ReloadDatabase:
    """Read everything again as a start does: what is in memory is not what is on disk. Result: Database."""


@dataclass(frozen=True, slots=True)
class TruncateLog:
    """Cut all txns above `zxid` from the log, and snapshots that hold any of them.

    Of the txns above `zxid` in the log, the longest prefix that is byte for byte the beginning of `again` stays: this
    server has acked them before. Result: zxid of the last txn in the log then.
    """

    zxid: int
    again: tuple[Txn, ...]


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """Write a received state as the snapshot of `zxid`, durably; then cut all txns above `zxid`.

    What stays of them, and the result, are as with TruncateLog.
    """

    tree: DataTree
    sessions: dict[int, int]
    zxid: int
    again: tuple[Txn, ...]


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Read committed txns behind `from_zxid` from the log files, for the learner on `link` (§8.1 case 5).

    Result: list of Txn, the first being `from_zxid` itself or the one before it, without gaps up to at least
    `reach_zxid`; None when the files do not give that.
    """

    link: QuorumLink
    from_zxid: int
    reach_zxid: int


@dataclass(frozen=True, slots=True)
class SaveProposedConfig:
    """Write the proposed configuration (``.dynamic.next``). Result: None."""

    text: str


@dataclass(frozen=True, slots=True)
class SaveCommittedConfig:
    """Write the configuration as the committed one and point the static file at it. Result: None."""

    text: str


Effect = (
    SaveAcceptedEpoch
    | MarkCurrentEpoch
    | SaveCurrentEpoch
    | LoadDatabase
    | ReloadDatabase
    | TruncateLog
    | InstallSnapshot
    | ReadHistory
    | SaveProposedConfig
    | SaveCommittedConfig
)
