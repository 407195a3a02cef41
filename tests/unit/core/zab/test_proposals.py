"""Outstanding proposals and their acks."""

from __future__ import annotations

import pytest

from zkpy.core.pipeline.request import Request
from zkpy.core.quorum_verifier import Majority
from zkpy.core.txn import Txn
from zkpy.core.zab.proposals import Proposals
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import ErrorTxn


def _request(zxid: int) -> Request:
    request = Request(None, 0, 0, OpCode.CREATE, b"", (), 0)
    request.txn = Txn.make(0, 0, zxid, 0, OpCode.ERROR, ErrorTxn(-1), None)
    return request


def _proposed(voters: set[int], *zxids: int) -> Proposals:
    proposals = Proposals(Majority(frozenset(voters)), 0)
    for zxid in zxids:
        proposals.propose(_request(zxid))
    return proposals


def _zxids(requests: list[Request]) -> list[int]:
    return [request.txn.zxid for request in requests if request.txn is not None]


def test_an_ack_covers_everything_before_it() -> None:
    proposals = _proposed({1}, 1, 2, 3)
    assert _zxids(proposals.ack(1, 2)) == [1, 2]
    assert proposals.last_committed == 2
    assert _zxids(proposals.ack(1, 3)) == [3]
    assert len(proposals) == 0


def test_a_proposal_is_committed_once() -> None:
    proposals = _proposed({1}, 1)
    assert _zxids(proposals.ack(1, 1)) == [1]
    assert proposals.ack(1, 1) == []


def test_a_proposal_is_committed_when_a_quorum_has_it() -> None:
    proposals = _proposed({1, 2, 3}, 1, 2, 3)
    assert proposals.ack(1, 3) == []
    assert _zxids(proposals.ack(2, 2)) == [1, 2]
    assert proposals.ack(2, 2) == []
    assert _zxids(proposals.ack(3, 3)) == [3]


def test_the_ack_of_an_observer_commits_nothing() -> None:
    proposals = _proposed({1, 2, 3}, 1)
    assert proposals.ack(1, 1) == []
    assert proposals.ack(9, 1) == []


def test_a_late_ack_takes_nothing_back() -> None:
    proposals = _proposed({1, 2, 3}, 1, 2)
    proposals.ack(1, 2)
    assert proposals.ack(1, 1) == []
    assert _zxids(proposals.ack(2, 2)) == [1, 2]


def test_a_gap_between_proposals_is_a_mistake() -> None:
    proposals = _proposed({1}, 1)
    with pytest.raises(AssertionError, match="gap"):
        proposals.propose(_request(3))


def test_what_nobody_has_on_disk_can_be_dropped_and_its_zxids_used_again() -> None:
    proposals = _proposed({1}, 1, 2)
    assert _zxids(proposals.drop_all()) == [1, 2]
    assert len(proposals) == 0
    proposals.propose(_request(1))
    assert _zxids(proposals.ack(1, 1)) == [1]
