"""Outstanding proposals and their acks."""

from __future__ import annotations

import pytest

from zkpy.core.membership import EnsembleView, Membership
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


def _members(*server_ids: int) -> Membership:
    return Membership.from_text("\n".join(f"server.{id_}=h{id_}:1:2" for id_ in server_ids))


def test_a_server_that_comes_back_has_acked_nothing() -> None:
    proposals = _proposed({1, 2, 3}, 1, 2)
    proposals.ack(2, 2)
    assert proposals.acked_by(2) == 2
    proposals.forget(2)
    assert proposals.acked_by(2) == -1
    assert proposals.ack(1, 2) == []
    assert _zxids(proposals.ack(2, 1)) == [1], "and counts again for what it acks now"
    proposals.forget(7)


def test_what_is_outstanding_can_be_listed() -> None:
    proposals = _proposed({1}, 1, 2, 3)
    assert proposals.last_proposed == 3
    proposals.ack(1, 1)
    assert [txn.zxid for txn in proposals.outstanding_txns()] == [2, 3]
    proposals.ack(1, 3)
    assert proposals.outstanding_txns() == []
    assert proposals.last_proposed == 3


def test_a_change_of_members_needs_the_old_and_the_new_ones_and_so_does_what_follows() -> None:
    """§12: {1, 2, 3} become {1, 4, 5} by txn 2; txn 3 is proposed while that is open."""
    old, new = _members(1, 2, 3), _members(1, 4, 5).with_version(2)
    proposals = Proposals(EnsembleView(old), 0)
    proposals.propose(_request(1))
    proposals.change_quorum(EnsembleView(old, new), 2)
    proposals.propose(_request(2))
    proposals.propose(_request(3))
    assert proposals.ack(1, 3) == []
    assert proposals.ack(4, 3) == [], "a quorum of the new members does not commit what is before the change"
    assert _zxids(proposals.ack(2, 3)) == [1, 2, 3]


def test_a_quorum_of_the_old_members_does_not_commit_the_change() -> None:
    old, new = _members(1, 2, 3), _members(1, 4, 5).with_version(2)
    proposals = Proposals(EnsembleView(old), 0)
    proposals.propose(_request(1))
    proposals.change_quorum(EnsembleView(old, new), 2)
    proposals.propose(_request(2))
    proposals.ack(1, 2)
    assert _zxids(proposals.ack(3, 2)) == [1]
    assert _zxids(proposals.ack(5, 2)) == [2]


def test_what_is_proposed_after_the_change_is_committed_needs_the_new_members_only() -> None:
    old, new = _members(1, 2, 3), _members(1, 4, 5).with_version(1)
    proposals = Proposals(EnsembleView(old), 0)
    proposals.change_quorum(EnsembleView(old, new), 1)
    proposals.propose(_request(1))
    proposals.propose(_request(2))
    for server_id in (1, 2, 4):
        proposals.ack(server_id, 1)
    assert proposals.last_committed == 1
    proposals.change_quorum(EnsembleView(new), 3)
    proposals.propose(_request(3))
    proposals.ack(1, 3)
    assert proposals.ack(4, 3) == [], "txn 2 was proposed before and still needs both"
    assert _zxids(proposals.ack(3, 2)) == [2, 3]


def test_nothing_is_committed_behind_the_txn_that_hands_the_leadership_on() -> None:
    proposals = _proposed({1, 2, 3}, 1, 2, 3)
    proposals.commit_no_further(2)
    proposals.ack(1, 3)
    assert _zxids(proposals.ack(2, 3)) == [1, 2]
    assert proposals.ack(3, 3) == []
    assert [txn.zxid for txn in proposals.outstanding_txns()] == [3]


def test_a_change_right_behind_a_change_takes_its_place() -> None:
    """Nothing was proposed between the commit of the first and the second, which has the very zxid from which the first was to count."""
    first, second = _members(1, 2, 3), _members(1, 4, 5).with_version(1)
    third = _members(1, 6, 7).with_version(2)
    proposals = Proposals(EnsembleView(first), 0)
    proposals.change_quorum(EnsembleView(first, second), 1)
    proposals.propose(_request(1))
    for server_id in (1, 2, 4):
        proposals.ack(server_id, 1)
    assert proposals.last_committed == 1
    proposals.change_quorum(EnsembleView(second), 2)
    proposals.change_quorum(EnsembleView(second, third), 2)
    proposals.propose(_request(2))
    for server_id in (1, 2, 4):
        assert proposals.ack(server_id, 2) == []
    assert _zxids(proposals.ack(6, 2)) == [2]


def test_two_changes_may_wait_for_what_was_proposed_before_them() -> None:
    """Txn 2 is the first reconfig, txn 3 the second; txn 1 needs the members before both."""
    first, second = _members(1, 2, 3), _members(1, 4, 5).with_version(2)
    third = _members(1, 6, 7).with_version(3)
    proposals = Proposals(EnsembleView(first), 0)
    proposals.propose(_request(1))
    proposals.change_quorum(EnsembleView(first, second), 2)
    proposals.propose(_request(2))
    proposals.change_quorum(EnsembleView(second, third), 3)
    proposals.propose(_request(3))
    for server_id in (1, 4, 6):
        assert proposals.ack(server_id, 3) == []
    assert _zxids(proposals.ack(2, 1)) == [1]
    assert _zxids(proposals.ack(3, 2)) == [2, 3]
