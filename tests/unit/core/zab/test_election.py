"""Fast leader election: rules one by one, lessons of old bugs by their number, and whole ensembles under virtual time."""

from __future__ import annotations

from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.zab.election_network import Network, membership
from zkpy.core.membership import EnsembleView
from zkpy.core.zab.election import Election
from zkpy.core.zab.votes import LEAST, UNTRUSTED_ZXID, Vote
from zkpy_protocol.election import Notification, ServerState, decode_notification, encode_notification

if TYPE_CHECKING:
    from zkpy.core.membership import Membership

LOOKING = ServerState.LOOKING
FOLLOWING = ServerState.FOLLOWING
LEADING = ServerState.LEADING
OBSERVING = ServerState.OBSERVING

THREE = EnsembleView(membership((1, 2, 3)))
FIVE = EnsembleView(membership(range(1, 6)))


def looking(
    leader: int, zxid: int = 0, round_: int = 1, epoch: int = 0, config: str | None = None
) -> Notification:
    return Notification(LOOKING, leader, zxid, round_, epoch, config=config or THREE.committed.text())


def standing(
    state: int, leader: int, round_: int = 1, epoch: int = 1, zxid: int = 0, version: int = 2
) -> Notification:
    config = THREE.committed.text() if version else None
    return Notification(state, leader, zxid, round_, epoch, version, config)


def started(
    server_id: int = 1,
    view: EnsembleView = THREE,
    *,
    zxid: int = 0,
    epoch: int = 0,
    is_participant: bool = True,
    reconfig_enabled: bool = False,
) -> Election:
    """An election whose first messages are out of the way, at time 0."""
    election = Election(server_id, view, reconfig_enabled=reconfig_enabled)
    election.start(zxid, epoch, is_participant, 0)
    election.outbox.clear()
    return election


def taken(election: Election) -> list[tuple[int, int, int, int, int, int]]:
    """What was sent: receiver, state, leader, zxid, round, peer epoch."""
    outbox, election.outbox = election.outbox, []
    return [(to, n.state, n.leader, n.zxid, n.election_epoch, n.peer_epoch) for to, n in outbox]


def decision(election: Election) -> Vote | None:
    """A call, so that a type checker does not take an earlier answer for this one."""
    return election.decided


def state_of(election: Election) -> int:
    return election.state


def deadline_of(election: Election) -> int | None:
    return election.next_deadline_ms


def adopted(election: Election) -> str | None:
    return election.adopted_config


def to_all(
    state: int,
    leader: int,
    zxid: int = 0,
    round_: int = 1,
    epoch: int = 0,
    *,
    voters: tuple[int, ...] = (2, 3),
) -> list[tuple[int, int, int, int, int, int]]:
    return [(to, state, leader, zxid, round_, epoch) for to in voters]


# -- beginning


def test_a_voter_begins_with_a_vote_for_itself_to_all_others() -> None:
    """In ascending order, with its last logged zxid, its epoch and the complete configuration."""
    election = Election(2, THREE)
    election.start(7, 3, is_participant=True, mono_ms=1000)
    assert [n.config for _, n in election.outbox] == [THREE.committed.text()] * 2
    assert taken(election) == to_all(LOOKING, 2, 7, 1, 3, voters=(1, 3))
    assert (state_of(election), decision(election), election.next_deadline_ms) == (LOOKING, None, 1200)


def test_an_observer_votes_with_the_least_values_and_asks_voters_only() -> None:
    """§4.7."""
    view = EnsembleView(membership((1, 2), (3, 4)))
    election = Election(3, view)
    election.start(7, 3, is_participant=False, mono_ms=0)
    assert taken(election) == to_all(LOOKING, LEAST, LEAST, 1, LEAST, voters=(1, 2))


def test_a_server_outside_the_configuration_votes_for_nobody_but_shows_its_zxid() -> None:
    """A participant that a reconfiguration has removed: it must not be elected, and is no observer."""
    election = Election(9, THREE)
    election.start(7, 3, is_participant=True, mono_ms=0)
    assert taken(election) == to_all(LOOKING, LEAST, 7, 1, 3, voters=(1, 2, 3))


def test_both_configurations_are_asked_while_one_replaces_the_other() -> None:
    """The committed one is what is claimed: the other may never be established."""
    old, new = membership((1, 2, 3)), membership((1, 4, 5), version=9)
    election = Election(1, EnsembleView(old, new))
    election.start(0, 0, is_participant=True, mono_ms=0)
    assert [(to, n.config) for to, n in election.outbox] == [(to, old.text()) for to in (2, 3, 4, 5)]


def test_silence_repeats_the_proposal_after_doubled_times_up_to_a_limit() -> None:
    """200, 400, 800 ms … and never more than max; nothing resets it within one election."""
    election = Election(1, FIVE, min_notification_interval_ms=200, max_notification_interval_ms=1000)
    election.start(0, 0, is_participant=True, mono_ms=0)
    times = []
    for _ in range(6):
        election.outbox.clear()
        deadline = election.next_deadline_ms
        assert deadline is not None
        election.tick(deadline - 1)
        assert not election.outbox
        times.append(deadline)
        election.tick(deadline)
        assert taken(election) == to_all(LOOKING, 1, voters=(2, 3, 4, 5))
    assert times == [200, 600, 1400, 2400, 3400, 4400]


def test_every_notification_begins_the_wait_anew_without_shortening_it() -> None:
    """Also one that changes nothing."""
    election = started(1, FIVE)
    election.tick(200)
    election.receive(2, looking(1), 350)
    assert election.next_deadline_ms == 750


def test_the_proposal_is_repeated_although_others_do_not_fall_silent() -> None:
    """After twice the time at the latest, which doubles all the same; a new proposal counts as a repetition."""
    election = started(1, FIVE)
    election.tick(200)
    election.outbox.clear()
    for at_ms in range(250, 1000, 50):
        election.receive(2, looking(1), at_ms)
        election.receive(5, looking(5, UNTRUSTED_ZXID), at_ms)
        election.tick(at_ms)
    assert taken(election) == []
    election.tick(1000)
    assert taken(election) == to_all(LOOKING, 1, voters=(2, 3, 4, 5))
    for at_ms in range(1050, 2000, 50):
        election.receive(2, looking(1), at_ms)
    election.receive(3, looking(3), 2000)
    assert taken(election) == to_all(LOOKING, 3, voters=(2, 3, 4, 5))
    for at_ms in range(2050, 3600, 50):
        election.receive(2, looking(1), at_ms)
        election.tick(at_ms)
    assert taken(election) == []
    assert election.next_deadline_ms == 3600


def test_two_servers_agree_although_one_came_late_and_its_clock_is_faster() -> None:
    """What server 2 had said before is not heard by one that followed somebody then; nothing but its repetition helps."""
    late, early = Election(1, THREE, max_notification_interval_ms=800), started(2, zxid=7)
    now_ms = 0
    while now_ms < 100_000:  # alone, until its wait is as long as it gets
        now_ms = early.next_deadline_ms or 0
        early.tick(now_ms)
    early.outbox.clear()
    late.start(0, 0, is_participant=True, mono_ms=now_ms)
    ended_ms = now_ms + 200_000
    while (late.decided is None or early.decided is None) and now_ms < ended_ms:
        for election, other in ((late, early), (early, late)):
            election.tick(now_ms)
            for to, notification in election.outbox:
                if to == other.server_id:
                    other.receive(election.server_id, notification, now_ms)
            election.outbox.clear()
        now_ms = min(each.next_deadline_ms or ended_ms for each in (late, early))
    assert decision(late) == decision(early) == Vote(2, 7, 1, 0)


def test_what_comes_before_the_start_is_counted_at_the_start() -> None:
    """Its sender would not repeat it for a minute."""
    election = Election(1, THREE)
    election.receive(3, looking(2), 5)
    election.receive(3, looking(3), 6)
    assert taken(election) == []
    election.start(0, 0, is_participant=True, mono_ms=10)
    assert taken(election) == to_all(LOOKING, 1) + to_all(LOOKING, 3)
    election.tick(210)
    assert decision(election) == Vote(3, 0, 1, 0)


def test_the_interval_ends_at_a_minute_unless_told_otherwise() -> None:
    """200 ms, doubled."""
    election = started(1, FIVE)
    times = [0]
    for _ in range(12):
        deadline = deadline_of(election)
        assert deadline is not None
        times.append(deadline)
        election.tick(deadline)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000, 60000]


def test_a_new_election_forgets_the_last_one() -> None:
    """Its decision, and whatever was heard in it: followers of a leader that may be dead by now."""
    election = started(1)
    election.receive(2, standing(FOLLOWING, 3, round_=7), 10)
    election.start(0, 0, is_participant=True, mono_ms=20)
    election.receive(3, standing(LEADING, 3, round_=7), 30)
    assert decision(election) is None
    election.receive(2, standing(FOLLOWING, 3, round_=7), 40)
    assert decision(election) is not None
    election.start(0, 0, is_participant=True, mono_ms=50)
    assert (decision(election), state_of(election), election.election_epoch) == (None, LOOKING, 8)
    counted = started(2, FIVE)
    counted.receive(1, looking(2), 10)
    counted.start(0, 0, is_participant=True, mono_ms=20)
    counted.receive(3, looking(2, round_=2), 30)
    counted.tick(230)
    assert decision(counted) is None


def test_the_greatest_round_wraps_like_javas() -> None:
    """A confused voter cannot make us send a number that no notification holds."""
    election = started(1)
    election.receive(3, looking(3, round_=(1 << 63) - 1), 10)
    election.tick(210)
    assert election.election_epoch == (1 << 63) - 1
    election.start(0, 0, is_participant=True, mono_ms=300)
    assert election.election_epoch == -(1 << 63)
    assert encode_notification(election.outbox[-1][1])


# -- one round


def test_a_better_vote_is_taken_over_and_told_to_all() -> None:
    """And the own vote for it counts: with the sender it is a quorum of three."""
    election = started(1)
    election.receive(3, looking(3), 10)
    assert taken(election) == to_all(LOOKING, 3)
    assert deadline_of(election) == 210
    assert decision(election) is None
    election.tick(210)
    assert decision(election) == Vote(3, 0, 1, 0)
    assert (state_of(election), deadline_of(election)) == (FOLLOWING, None)


def test_a_worse_vote_changes_nothing_and_is_not_answered() -> None:
    """Its sender has the better one already, or will hear it."""
    election = started(2)
    election.receive(1, looking(1), 10)
    assert taken(election) == []
    assert decision(election) is None


def test_the_server_that_a_quorum_votes_for_leads() -> None:
    """After 200 ms of nothing better."""
    election = started(2)
    election.receive(1, looking(2), 10)
    election.tick(209)
    assert state_of(election) == LOOKING
    election.tick(210)
    assert (state_of(election), decision(election)) == (LEADING, Vote(2, 0, 1, 0))
    assert taken(election) == []


def test_a_minority_decides_nothing_however_long_it_waits() -> None:
    """Two of five."""
    election = started(2, FIVE)
    election.receive(1, looking(2), 10)
    for _ in range(20):
        assert election.next_deadline_ms is not None
        election.tick(election.next_deadline_ms)
    assert decision(election) is None


def test_the_last_wait_begins_anew_with_every_message() -> None:
    """200 ms of silence, not 200 ms."""
    election = started(2)
    election.receive(1, looking(2), 10)
    election.receive(1, looking(2), 150)
    assert election.next_deadline_ms == 350
    election.tick(349)
    assert decision(election) is None
    election.tick(350)
    assert decision(election) is not None


def test_a_better_vote_in_the_last_wait_reopens_the_round() -> None:
    """The server that would have won is not elected any more."""
    election = started(2, FIVE)
    election.receive(1, looking(2), 10)
    election.receive(3, looking(2), 10)
    assert election.next_deadline_ms == 210
    election.receive(5, looking(5), 100)
    assert taken(election) == to_all(LOOKING, 5, voters=(1, 3, 4, 5))
    assert election.next_deadline_ms == 300
    election.tick(300)
    assert decision(election) is None
    election.receive(1, looking(5), 310)
    election.tick(510)
    assert decision(election) == Vote(5, 0, 1, 0)


def test_what_is_not_better_in_the_last_wait_is_not_counted() -> None:
    """As in Apache, where it is taken from the queue and forgotten."""
    election = started(2)
    election.receive(1, looking(2), 10)
    election.receive(3, standing(LEADING, 1, round_=1, epoch=0), 20)
    election.receive(1, standing(FOLLOWING, 1, round_=1, epoch=0), 20)
    assert state_of(election) == LOOKING
    election.tick(220)
    assert state_of(election) == LEADING


def test_a_better_vote_of_an_old_round_also_ends_the_last_wait() -> None:
    """Whatever its state, round or sender is; its sender is told the round."""
    election = started(2)
    election.start(0, 0, is_participant=True, mono_ms=0)
    election.outbox.clear()
    election.receive(1, looking(2, round_=2), 10)
    election.receive(3, looking(3, round_=1), 50)
    assert taken(election) == [(3, LOOKING, 2, 0, 2, 0)]
    assert election.next_deadline_ms == 250
    election.tick(250)
    assert decision(election) is None
    assert taken(election) == to_all(LOOKING, 2, round_=2, voters=(1, 3))
    election.tick(450)
    assert state_of(election) == LEADING


def test_a_higher_round_is_joined_and_the_votes_of_the_lower_one_forgotten() -> None:
    """The proposal is the better one of the message and the own history, not of what was heard before."""
    election = started(2, FIVE, zxid=5)
    election.receive(1, looking(4, zxid=9), 10)
    election.outbox.clear()
    election.receive(3, looking(3, zxid=4, round_=8), 20)
    assert taken(election) == to_all(LOOKING, 2, 5, 8, voters=(1, 3, 4, 5))
    election.receive(1, looking(2, zxid=5, round_=8), 30)
    assert election.next_deadline_ms == 230
    election.receive(4, looking(2, zxid=5, round_=8), 30)
    election.tick(230)
    assert decision(election) == Vote(2, 5, 8, 0)


def test_a_higher_round_with_a_better_vote_brings_both() -> None:
    """The vote goes out in the new round."""
    election = started(2)
    election.receive(1, looking(3, zxid=4, round_=8), 20)
    assert taken(election) == to_all(LOOKING, 3, 4, 8, voters=(1, 3))


def test_a_lower_round_is_answered_and_not_counted() -> None:
    """§3.4 rule 3: the sender hears the current proposal and round."""
    election = started(1)
    election.start(0, 0, is_participant=True, mono_ms=0)
    election.outbox.clear()
    election.receive(2, looking(2), 10)
    assert taken(election) == [(2, LOOKING, 1, 0, 2, 0)]
    election.tick(10_000)
    assert decision(election) is None


def test_a_lower_round_of_an_established_server_is_not_answered() -> None:
    """Only LOOKING servers want to hear."""
    election = started(1)
    election.start(0, 0, is_participant=True, mono_ms=0)
    election.outbox.clear()
    election.receive(2, standing(FOLLOWING, 3), 10)
    assert taken(election) == []


def test_the_round_goes_on_from_one_election_to_the_next() -> None:
    """In memory only; a new process begins with 1."""
    election = started(1)
    for round_ in (2, 3, 4):
        election.start(0, 0, is_participant=True, mono_ms=0)
        assert {sent[4] for sent in taken(election)} == {round_}


# -- who may be elected, who may vote


def test_votes_of_and_for_servers_without_a_vote_do_not_count() -> None:
    """§4.3; an observer's proposal of itself neither."""
    view = EnsembleView(membership((1, 2, 3), (4, 5)))
    election = started(1, view)
    election.receive(2, looking(4, zxid=99), 10)
    election.receive(2, looking(77, zxid=99), 10)
    election.receive(2, looking(LEAST, zxid=99), 10)
    assert taken(election) == []
    election.receive(4, looking(3, zxid=99), 10)
    assert [sent[:3] for sent in taken(election)] == [(4, LOOKING, 1)]
    election.tick(10_000)
    assert decision(election) is None


def test_a_notification_from_an_observing_voter_is_ignored() -> None:
    """Its role has changed, or it is confused."""
    election = started(1)
    election.receive(3, Notification(OBSERVING, 3, 9, 5, 9, config=THREE.committed.text()), 10)
    assert taken(election) == []
    assert election.election_epoch == 1


def test_a_server_of_weight_0_is_never_elected() -> None:
    """And its vote alone wins nothing, though it counts as its group says."""
    groups, weights = {1: (1, 2, 3), 2: (4, 5)}, {1: 1, 2: 1, 3: 1, 4: 1, 5: 0}
    view = EnsembleView(membership(range(1, 6), groups=groups, weights=weights))
    election = started(1, view)
    election.receive(5, looking(5, zxid=1 << 40, epoch=8), 10)
    assert taken(election) == []
    election.receive(4, looking(4), 10)
    assert [sent[2] for sent in taken(election)] == [4, 4, 4, 4]


@pytest.mark.parametrize(("supporters", "enough"), [((1, 2, 3), False), ((1, 2, 4), True), ((1, 3, 4), True)])
def test_groups_decide_by_weight(supporters: tuple[int, ...], enough: bool) -> None:
    """§4.9: the second group weighs 1, all of it on server 4, so without 4 one of two groups is won at most."""
    groups, weights = {1: (1, 2, 3), 2: (4, 5)}, {1: 1, 2: 1, 3: 1, 4: 1, 5: 0}
    view = EnsembleView(membership(range(1, 6), groups=groups, weights=weights))
    leader = max(supporters)
    election = started(1, view)
    for server_id in (*supporters, 5):
        if server_id != 1:
            election.receive(server_id, looking(leader), 10)
    election.tick(210)
    assert (decision(election) is not None) == enough


def test_a_quorum_of_each_configuration_is_needed_while_one_replaces_the_other() -> None:
    """Exhaustively over who supports: exactly the sets that win both decide."""
    old, new = membership((1, 2, 3)), membership((3, 4, 5), version=9)
    view = EnsembleView(old, new)
    for support in product((False, True), repeat=4):
        supporters = {server_id for server_id, votes in zip((1, 2, 4, 5), support, strict=True) if votes} | {
            3
        }
        election = started(3, view, zxid=1)
        for server_id in sorted(supporters - {3}):
            election.receive(server_id, looking(3, zxid=1), 10)
        election.tick(10_000)
        enough = len(supporters & {1, 2, 3}) >= 2 and len(supporters & {3, 4, 5}) >= 2
        assert (decision(election) is not None) == enough


def test_an_untrusted_empty_database_neither_votes_nor_counts_votes() -> None:
    """§5.3: zxid -1. Two servers that lost their disks must not outvote the third."""
    lost = started(2, zxid=-1)
    lost.receive(1, looking(1, zxid=5, round_=9), 10)
    assert (taken(lost), lost.election_epoch) == ([], 1)
    whole = started(1, zxid=5)
    whole.receive(2, looking(2, zxid=-1, epoch=9), 10)
    whole.receive(3, looking(3, zxid=-1, round_=9), 10)
    assert (taken(whole), whole.election_epoch) == ([], 1)
    whole.tick(10_000)
    assert decision(whole) is None


def test_a_server_joins_although_it_alone_has_a_proposed_configuration() -> None:
    """The others do not know of the proposal, which would have taken one of them away; the leader will cut it off."""
    proposed = membership((1, 2, 4, 5), version=9)
    election = started(2, EnsembleView(FIVE.committed, proposed), zxid=9)
    for server_id, state in ((1, FOLLOWING), (3, FOLLOWING), (4, LEADING)):
        assert decision(election) is None
        election.receive(server_id, standing(state, 4, round_=4, epoch=4), 10)
    assert decision(election) == Vote(4, 0, 4, 4)


def test_a_proposed_configuration_counts_when_a_leader_is_elected() -> None:
    """It may be committed already, where this server cannot look."""
    proposed = membership((1, 2, 4, 5), version=9)
    election = started(4, EnsembleView(FIVE.committed, proposed))
    for server_id in (1, 3):
        election.receive(server_id, looking(4), 10)
    election.tick(210)
    assert decision(election) is None
    election.receive(2, looking(4), 220)
    election.tick(420)
    assert decision(election) == Vote(4, 0, 1, 0)


def test_an_untrusted_empty_database_joins_an_established_ensemble() -> None:
    """That is where it gets its data from."""
    lost = started(2, zxid=-1)
    lost.receive(1, standing(LEADING, 1), 10)
    lost.receive(3, standing(FOLLOWING, 1), 10)
    assert decision(lost) == Vote(1, 0, 1, 1)


# -- joining what is established


def test_a_late_joiner_needs_a_quorum_and_the_leader_itself() -> None:
    """§4.6: its own vote does not count. With five voters the leader and two followers."""
    election = started(4, FIVE)
    election.receive(1, standing(FOLLOWING, 3, round_=7), 10)
    election.receive(2, standing(FOLLOWING, 3, round_=7), 10)
    election.receive(5, standing(FOLLOWING, 3, round_=7), 10)
    assert decision(election) is None
    election.receive(3, standing(LEADING, 3, round_=7), 10)
    assert decision(election) == Vote(3, 0, 7, 1)
    assert (state_of(election), election.election_epoch) == (FOLLOWING, 7)
    assert deadline_of(election) is None


def test_the_own_vote_does_not_help_to_join() -> None:
    """Leader and one follower of five are a minority that is about to give up."""
    election = started(4, FIVE)
    election.receive(1, standing(FOLLOWING, 3), 10)
    election.receive(3, standing(LEADING, 3), 10)
    assert decision(election) is None


def test_a_leader_that_does_not_say_that_it_leads_is_not_joined() -> None:
    """It has crashed, and the others have not noticed."""
    election = started(1)
    election.receive(2, standing(FOLLOWING, 3), 10)
    election.receive(3, standing(FOLLOWING, 3), 10)
    assert decision(election) is None


def test_others_following_this_server_in_its_round_make_it_lead() -> None:
    """They decided before it did; its own vote counts with theirs."""
    election = started(3, FIVE)
    election.receive(1, standing(FOLLOWING, 3, epoch=0), 10)
    assert decision(election) is None
    election.receive(2, standing(FOLLOWING, 3, epoch=0), 10)
    assert (state_of(election), decision(election)) == (LEADING, Vote(3, 0, 1, 0))


def test_others_following_this_server_in_an_old_round_do_not_make_it_lead() -> None:
    """It has crashed and come back; they will notice."""
    election = started(3)
    election.receive(1, standing(FOLLOWING, 3, round_=7), 10)
    election.receive(2, standing(FOLLOWING, 3, round_=7), 10)
    assert (decision(election), election.election_epoch) == (None, 1)


def test_in_the_same_round_looking_and_established_votes_count_together() -> None:
    """A follower that has decided, the leader that has, and the own vote for it."""
    election = started(1, FIVE)
    election.receive(5, looking(5), 10)
    election.receive(4, standing(FOLLOWING, 5, epoch=0), 20)
    assert decision(election) is None
    election.receive(5, standing(LEADING, 5, epoch=0), 30)
    assert decision(election) == Vote(5, 0, 1, 0)


def test_established_votes_of_the_same_round_are_kept_for_joining_later_too() -> None:
    """Otherwise one that came before the round changed would be missing from the quorum."""
    election = started(1, FIVE)
    election.receive(2, standing(FOLLOWING, 5, round_=1, zxid=3), 10)
    election.receive(3, looking(3, round_=2), 20)
    election.receive(4, standing(FOLLOWING, 5, round_=9), 30)
    election.receive(5, standing(LEADING, 5, round_=9), 40)
    assert decision(election) == Vote(5, 0, 9, 1)


def test_an_observer_joins_by_the_same_rules_and_observes() -> None:
    """By established votes as well as by those of a round it watches."""
    view = EnsembleView(membership((1, 2), (3,)))
    joined = started(3, view, is_participant=False)
    joined.receive(1, standing(FOLLOWING, 2), 10)
    joined.receive(2, standing(LEADING, 2), 10)
    assert (state_of(joined), decision(joined)) == (OBSERVING, Vote(2, 0, 1, 1))
    watching = started(3, view, is_participant=False)
    watching.receive(1, looking(2), 10)
    watching.receive(2, looking(2), 10)
    watching.tick(210)
    assert (state_of(watching), decision(watching)) == (OBSERVING, Vote(2, 0, 1, 0))


# -- answers while not LOOKING


def established(server_id: int, view: EnsembleView = THREE) -> Election:
    """Server 3 was elected in round 4 with zxid 9, and its epoch 6 is established."""
    election = started(server_id, view, zxid=9, epoch=5)
    election.start(9, 5, is_participant=True, mono_ms=0)
    for other in sorted(view.voters() - {server_id}):
        election.receive(other, looking(3, zxid=9, round_=4, epoch=5), 10)
    election.tick(500)
    assert decision(election) is not None
    election.settle(6)
    election.outbox.clear()
    return election


def test_zookeeper_1732_a_looking_server_hears_the_epoch_that_is_established() -> None:
    """Rule 4: zxid and round stay as of the election, the peer epoch does not; a later round of the sender is no matter."""
    leader = established(3)
    leader.receive(1, looking(1, round_=8), 1000)
    assert taken(leader) == [(1, LEADING, 3, 9, 4, 6)]
    follower = established(1)
    follower.receive(2, looking(2), 1000)
    assert taken(follower) == [(2, FOLLOWING, 3, 9, 4, 6)]


def test_zookeeper_1732_a_restarted_server_joins_although_epochs_and_rounds_differ() -> None:
    """One of the members it hears joined late, with another zxid and round; both have the established epoch."""
    election = started(1, zxid=9, epoch=6)
    election.receive(2, standing(FOLLOWING, 3, round_=11, epoch=6, zxid=77), 10)
    election.receive(3, standing(LEADING, 3, round_=4, epoch=6, zxid=9), 10)
    assert decision(election) == Vote(3, 9, 4, 6)


def test_zookeeper_1818_members_of_3_4_without_a_refreshed_epoch_are_joined() -> None:
    """Their votes carry no version; against one with a version only the leader counts."""
    election = started(1)
    election.receive(2, standing(FOLLOWING, 3, epoch=0, version=0), 10)
    election.receive(3, standing(LEADING, 3, epoch=6), 10)
    assert decision(election) == Vote(3, 0, 1, 6)


def test_an_established_server_does_not_answer_another() -> None:
    """Rule 5."""
    election = established(1)
    for state in (FOLLOWING, LEADING, OBSERVING):
        election.receive(2, standing(state, 2, round_=9, epoch=9), 1000)
    assert taken(election) == []
    assert election.vote == Vote(3, 9, 4, 6)


def test_a_stranger_is_answered_whatever_it_says() -> None:
    """Rule 2: with the own round, in whatever state, and even if the stranger's state is unknown."""
    election = established(1)
    election.election_epoch = 5
    for number, state in enumerate((LOOKING, FOLLOWING, OBSERVING, 7)):
        election.receive(77, Notification(state, 77, 0, 1, 0), 1000 + 200 * number)
        assert taken(election) == [(77, FOLLOWING, 3, 9, 5, 6)]


def test_a_stranger_that_has_a_leader_is_answered_once_in_the_shortest_interval() -> None:
    """One that looks for a leader every time."""
    election = established(1)
    for at_ms, state, answers in (
        (1000, FOLLOWING, 1),
        (1199, FOLLOWING, 0),
        (1199, LOOKING, 1),
        (1199, LOOKING, 1),
        (1199, OBSERVING, 0),
        (1200, LEADING, 1),
    ):
        election.receive(77, Notification(state, 77, 0, 1, 0), at_ms)
        assert len(taken(election)) == answers


def test_a_stranger_hears_the_last_vote_of_a_server_that_is_looking() -> None:
    """Before the first election that is a vote for itself."""
    election = started(1, zxid=9, epoch=5)
    election.receive(77, looking(77), 10)
    assert taken(election) == [(77, LOOKING, 1, 9, 1, 5)]
    assert election.next_deadline_ms == 200
    again = established(1)
    again.start(12, 6, is_participant=True, mono_ms=0)
    again.outbox.clear()
    again.receive(77, looking(77), 10)
    assert taken(again) == [(77, LOOKING, 3, 9, 5, 6)]


def pumped(*elections: Election) -> int:
    """How many notifications go to and fro at one moment."""
    by_id = {election.server_id: election for election in elections}
    for count in range(100):
        sender = next((election for election in elections if election.outbox), None)
        if sender is None:
            return count
        to, notification = sender.outbox.pop(0)
        if to in by_id:
            by_id[to].receive(sender.server_id, notification, 1000)
    return 100


def test_a_server_that_looks_and_an_observer_that_has_a_leader_do_not_answer_each_other_for_ever() -> None:
    """Both would answer at once, whatever they are told, as Apache's do."""
    view = EnsembleView(membership((1, 2, 3), (4,)))
    looks, observes = started(1, view), started(4, view, is_participant=False)
    observes.stand(OBSERVING, Vote(3, 9, 4, 6))
    looks.receive(4, looking(LEAST), 1000)
    assert pumped(looks, observes) == 1


def test_two_servers_that_are_strangers_to_each_other_do_not_answer_each_other_for_ever() -> None:
    """As two that were taken out of the ensemble, or are about to join it; one has just found its leader."""
    own = [EnsembleView(membership((1, 2, 3))), EnsembleView(membership((1, 2, 4)))]
    one, other = started(3, own[0]), started(4, own[1])
    one.stand(FOLLOWING, Vote(1, 9, 4, 6))
    other.receive(3, looking(3), 1000)
    assert pumped(one, other) < 5
    other.stand(FOLLOWING, Vote(1, 9, 4, 6))
    other.receive(3, looking(3), 1000)
    assert pumped(one, other) < 5


@pytest.mark.parametrize("is_observer", [True, False])
def test_a_server_that_looks_and_a_stranger_of_a_later_round_do_not_answer_each_other_for_ever(
    is_observer: bool,
) -> None:
    """The one answers strangers, the other one those behind it; neither counts, so neither catches up."""
    view = EnsembleView(membership((1, 2, 3), (4,)))
    own_view = view if is_observer else EnsembleView(membership((1, 2, 3, 4)))
    looks, stranger = started(1, view), started(4, own_view, is_participant=not is_observer)
    stranger.start(0, 0, is_participant=not is_observer, mono_ms=900)
    assert pumped(looks, stranger) < 10
    for at_ms, answered in ((1199, []), (1200, [1])):
        stranger.receive(1, looking(1), at_ms)
        assert [sent[0] for sent in taken(stranger)] == answered


def test_an_observer_that_has_a_leader_does_not_answer() -> None:
    """Nobody counts what it says."""
    view = EnsembleView(membership((1, 2, 3), (4,)))
    observes = started(4, view, is_participant=False)
    observes.stand(OBSERVING, Vote(3, 9, 4, 6))
    observes.receive(1, looking(1), 1000)
    assert taken(observes) == []


def test_while_looking_a_stranger_is_answered_once_in_the_shortest_interval() -> None:
    """Each one by itself, and a new election begins with none answered."""
    election = started(1)
    for at_ms in (10, 100, 209):
        election.receive(77, looking(77), at_ms)
        election.receive(78, looking(78), at_ms)
    assert [sent[0] for sent in taken(election)] == [77, 78]
    election.receive(77, looking(77), 210)
    assert [sent[0] for sent in taken(election)] == [77]
    election.start(0, 0, is_participant=True, mono_ms=211)
    election.outbox.clear()
    election.receive(77, looking(77), 212)
    assert [sent[0] for sent in taken(election)] == [77]


def test_a_stranger_hears_nothing_before_the_first_start() -> None:
    """There is no vote yet."""
    election = Election(1, THREE)
    election.receive(77, looking(77), 10)
    assert taken(election) == []


def test_a_voter_in_an_unknown_state_is_ignored() -> None:
    """In every own state."""
    for election in (started(1), established(1)):
        election.receive(3, Notification(7, 3, 99, 99, 99), 10)
        assert taken(election) == []
        assert election.election_epoch < 99


def test_a_role_without_an_election_is_answered_for_as_well() -> None:
    """A reconfiguration may name the leader."""
    election = established(1)
    election.stand(LEADING, Vote(1, 20, 4, 6))
    assert (decision(election), state_of(election)) == (None, LEADING)
    election.receive(2, looking(2), 1000)
    assert taken(election) == [(2, LEADING, 1, 20, 4, 6)]


def test_what_came_before_such_a_role_is_forgotten() -> None:
    """It belongs to an election that never took place."""
    election = Election(1, THREE)
    election.receive(3, looking(3), 10)
    election.stand(FOLLOWING, Vote(2, 0, 1, 1))
    election.start(0, 0, is_participant=True, mono_ms=20)
    assert taken(election) == to_all(LOOKING, 1)


def test_a_stale_first_notification_does_not_decide_anything() -> None:
    """Rule of §17.3: the last message of a peer is sent again on a new connection, however old it is."""
    election = started(2, zxid=5, epoch=3)
    election.receive(1, looking(3, zxid=2, round_=1, epoch=1), 1)
    election.receive(3, looking(3, zxid=2, round_=1, epoch=1), 1)
    assert taken(election) == []
    election.tick(10_000)
    assert decision(election) is None
    election.receive(1, standing(FOLLOWING, 3, round_=1, epoch=4), 10_001)
    election.receive(3, standing(LEADING, 3, round_=1, epoch=4), 10_001)
    assert decision(election) == Vote(3, 0, 1, 4)


def test_a_stale_vote_of_an_old_round_changes_nothing_however_good_it_is() -> None:
    """Its sender may be gone, or may have cut its log since."""
    election = started(2, zxid=5, epoch=3)
    election.start(5, 3, is_participant=True, mono_ms=0)
    election.outbox.clear()
    for voter in (1, 3):
        election.receive(voter, looking(3, zxid=9, round_=1, epoch=3), 1)
    assert taken(election) == [(voter, LOOKING, 2, 5, 2, 3) for voter in (1, 3)]
    election.tick(10_000)
    assert decision(election) is None


# -- the disloyal voter


def test_a_leader_learns_that_one_of_its_electors_is_looking_again() -> None:
    """§7.3; others that look do not count, nor does one before this server leads."""
    leader = started(3, FIVE)
    leader.receive(1, looking(3), 10)
    leader.receive(2, looking(3), 10)
    leader.tick(210)
    assert state_of(leader) == LEADING
    leader.receive(4, looking(4, round_=2), 300)
    leader.receive(77, looking(77), 300)
    flags = [leader.disloyal_voter]
    leader.receive(2, looking(2, round_=2), 310)
    flags.append(leader.disloyal_voter)
    leader.start(0, 0, is_participant=True, mono_ms=400)
    flags.append(leader.disloyal_voter)
    assert flags == [False, True, False]


def test_a_leader_that_nobody_has_elected_has_no_disloyal_voters() -> None:
    """A reconfiguration has named it; who elected it before that is no matter."""
    leader = started(3, FIVE)
    leader.receive(1, looking(3), 10)
    leader.receive(2, looking(3), 10)
    leader.tick(210)
    leader.receive(2, looking(2, round_=2), 310)
    flags = [leader.disloyal_voter]
    leader.stand(LEADING, Vote(3, 0, 1, 1))
    flags.append(leader.disloyal_voter)
    leader.receive(2, looking(2, round_=2), 320)
    flags.append(leader.disloyal_voter)
    assert flags == [True, False, False]


def test_a_follower_reports_no_disloyal_voter() -> None:
    """It leads nobody."""
    follower = established(1)
    follower.receive(2, looking(2), 1000)
    assert not follower.disloyal_voter


# -- configurations


def with_config(config: Membership | str, sender_votes_for: int = 3) -> Notification:
    text = config if isinstance(config, str) else config.text()
    return looking(sender_votes_for, config=text)


def test_a_newer_configuration_stops_a_looking_server_until_it_is_adopted() -> None:
    """Rule 1. The vote that came with it counts in the election that follows."""
    new = membership((1, 3, 4), version=0x100000007)
    election = started(1, reconfig_enabled=True)
    election.receive(3, with_config(new), 10)
    assert election.adopted_config == new.text()
    assert (election.next_deadline_ms, taken(election), state_of(election)) == (None, [], LOOKING)
    election.receive(2, looking(2), 20)
    election.tick(10_000)
    assert (taken(election), decision(election)) == ([], None)
    election.view = EnsembleView(new)
    election.start(0, 0, is_participant=True, mono_ms=30)
    assert (adopted(election), state_of(election)) == (None, LOOKING)
    assert {n.config for _, n in election.outbox} == {new.text()}
    assert taken(election) == [
        *to_all(LOOKING, 1, round_=2, voters=(3, 4)),
        (2, LOOKING, 1, 0, 2, 0),
        (3, LOOKING, 1, 0, 2, 0),
    ]
    election.receive(4, with_config(new, 4), 40)
    election.tick(10_000)
    assert {n.config for _, n in election.outbox} == {new.text()}


def test_the_vote_that_brought_a_newer_configuration_is_counted_after_the_restart() -> None:
    """A server of that configuration need not say it twice."""
    new = membership((1, 3), version=7)
    election = started(1, reconfig_enabled=True)
    election.receive(3, Notification(LOOKING, 3, 0, 2, 0, config=new.text()), 10)
    election.view = EnsembleView(new)
    election.start(0, 0, is_participant=True, mono_ms=20)
    assert taken(election) == to_all(LOOKING, 1, round_=2, voters=(3,)) + to_all(
        LOOKING, 3, round_=2, voters=(3,)
    )
    election.tick(220)
    assert decision(election) == Vote(3, 0, 2, 0)


def test_one_configuration_is_adopted_at_a_time_and_a_still_newer_one_afterwards() -> None:
    newer, newest = membership((1, 2, 3), version=7), membership((1, 2, 3), version=9)
    election = started(1, reconfig_enabled=True)
    election.receive(3, with_config(newer), 10)
    election.receive(2, with_config(newest, 2), 20)
    assert election.adopted_config == newer.text()
    election.view = EnsembleView(newer)
    election.start(0, 0, is_participant=True, mono_ms=30)
    assert adopted(election) == newest.text()
    election.view = EnsembleView(newest)
    election.start(0, 0, is_participant=True, mono_ms=30)
    assert (adopted(election), election.election_epoch) == (None, 3)
    assert election.heard_of() == {1}, "both votes are of an older round"


def test_a_newer_configuration_is_taken_from_a_stranger_too() -> None:
    """The members of the new configuration may all be strangers."""
    new = membership((7, 8, 9), version=7)
    election = started(1, reconfig_enabled=True)
    election.receive(9, with_config(new, 9), 10)
    assert election.adopted_config == new.text()
    assert taken(election) == []


def test_an_older_or_equal_configuration_is_no_matter() -> None:
    """Two of one version are the same, whatever they list."""
    view = EnsembleView(membership((1, 2, 3), version=5))
    election = started(1, view, reconfig_enabled=True)
    for version in (0, 4, 5):
        election.receive(3, with_config(membership((1, 3, 4), version=version)), 10)
        assert election.adopted_config is None
    assert taken(election) == to_all(LOOKING, 3)


def test_a_server_that_is_not_looking_takes_no_configuration_from_a_notification() -> None:
    """Its leader tells it."""
    election = Election(1, THREE, reconfig_enabled=True)
    election.start(0, 0, is_participant=True, mono_ms=0)
    election.receive(3, looking(3), 10)
    election.tick(210)
    election.receive(2, with_config(membership((1, 2, 4), version=7)), 300)
    assert election.adopted_config is None
    assert state_of(election) == FOLLOWING


def test_without_reconfiguration_a_newer_configuration_is_not_adopted_and_its_vote_not_counted() -> None:
    """Apache starts its election anew for ever; that nothing comes of such a message is the same."""
    election = started(1)
    election.receive(3, with_config(membership((1, 3, 4), version=7)), 10)
    assert (election.adopted_config, taken(election)) == (None, [])
    assert election.next_deadline_ms == 200
    election.receive(3, with_config(membership((1, 2, 3), version=7)), 20)
    assert taken(election) == to_all(LOOKING, 3)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "version=7",
        "server.1=h:1:2:observer\nversion=7",
        "server.1=h:1:2:participant\nversion=seven",
        "server.one=h:1:2:participant\nversion=7",
        "server.1=h:1:2:participant\nserver.99999999999999999999=h:1:2:participant\nversion=7",
        "server.1=h\nversion=7",
        "server.1=h:1:2:participant\nclientPort=5\nversion=7",
        "server.1=h:1:2:participant|h:3:4:participant\nversion=7",
        "server.1=h:1:2:participant\nversion=\\u00zz",
        "server.1=h:1:2:participant\ngroup.1=2\nversion=7",
        "\x00\ufffd=\n=\n",
    ],
)
def test_zookeeper_3769_a_poisonous_configuration_is_no_configuration(config: str) -> None:
    """§3.2: texts that stop the receiver of an Apache server for good. The vote beside them counts."""
    election = started(1, reconfig_enabled=True)
    election.receive(3, with_config(config), 10)
    assert election.adopted_config is None
    assert taken(election) == to_all(LOOKING, 3)


def test_a_vote_without_a_configuration_counts() -> None:
    """Lessons of ZOOKEEPER-3720 and 4787: from a member of 3.4, or one whose charset is another."""
    election = started(1)
    election.receive(3, Notification(LOOKING, 3, 0, 1, 0, 0, None), 10)
    assert taken(election) == to_all(LOOKING, 3)


# -- anything


EXTREMES = st.sampled_from([-(1 << 63), -1, 0, 1, 2, 3, 4, 5, (1 << 63) - 1])
CONFIGS = st.sampled_from(
    [
        THREE.committed.text(),
        membership((1, 2, 3), version=9).text(),
        membership((2, 3, 4), version=7).text(),
        "version=x",
        "",
        None,
    ]
)
NOTIFICATIONS = st.builds(
    Notification,
    st.integers(-1, 4),
    EXTREMES,
    EXTREMES,
    EXTREMES,
    EXTREMES,
    st.integers(0, 3),
    CONFIGS,
)
STEPS = st.one_of(
    st.tuples(st.sampled_from([2, 3, 4, 77, -1]), NOTIFICATIONS),
    st.integers(0, 500),
    st.sampled_from(["start", "observe", "settle"]),
)


@given(st.lists(STEPS, max_size=40), st.booleans())
def test_whatever_comes_the_promises_of_the_module_hold(
    steps: list[tuple[int, Notification] | int | str], reconfig_enabled: bool
) -> None:
    """Nothing raises, what goes out fits the wire and names the committed configuration, a decision stands."""
    election = Election(1, THREE, reconfig_enabled=reconfig_enabled)
    now = 0
    for step in steps:
        before = (election.state, election.vote, election.election_epoch)
        if step == "settle":
            if election.state != LOOKING:
                election.settle(5)
        elif isinstance(step, str):
            election.start(3, 1, step == "start", now)
            assert election.election_epoch > before[2] or before[2] == (1 << 63) - 1
        elif isinstance(step, int):
            now += step
            election.tick(now)
        else:
            election.receive(*step, now)
            assert election.election_epoch >= before[2] or election.decided is not None
        if before[0] != LOOKING and not isinstance(step, str):
            assert (election.state, election.vote, election.election_epoch) == before
        assert (election.decided is None) == (election.state == LOOKING)
        assert election.next_deadline_ms is None or election.next_deadline_ms >= now - 500
        for receiver, notification in election.outbox:
            assert receiver != 1
            assert decode_notification(encode_notification(notification)).config == THREE.committed.text()
        election.outbox.clear()


# -- whole ensembles


def network_of(
    count: int, seed: int, *, loss: float = 0, duplication: float = 0, delay_ms: tuple[int, int] = (1, 40)
) -> Network:
    network = Network(
        EnsembleView(membership(range(1, count + 1))),
        seed=seed,
        loss=loss,
        duplication=duplication,
        delay_ms=delay_ms,
        max_notification_interval_ms=3000,
    )
    for server_id in range(1, count + 1):
        network.add(server_id, zxid=(server_id * 7 + seed) % 3, peer_epoch=(server_id * 5 + seed) % 2)
    return network


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("seed", range(8))
def test_with_all_connected_the_best_history_leads(count: int, seed: int) -> None:
    """Started within a moment of each other, every server decides on the one with the best vote, in one round."""
    network = network_of(count, seed)
    for server_id in network.nodes:
        network.start(server_id)
    assert network.run(5000, network.agree)
    best = max(network.nodes.values(), key=lambda node: (node.peer_epoch, node.zxid, node.server_id))
    assert network.leaders() == {best.server_id}
    assert len(set(network.decisions().values())) == 1


@pytest.mark.parametrize("seed", range(8))
def test_a_quorum_decides_without_the_rest(seed: int) -> None:
    """Three of five, started one after the other at drawn times."""
    network = network_of(5, seed)
    for place, server_id in enumerate((4, 1, 3)):
        network.at(place * 700 + seed * 37, partial(network.start, server_id))
    assert network.run(20_000, lambda: len(network.elections()) == 3 and network.agree())


@pytest.mark.parametrize("seed", range(8))
def test_a_minority_never_decides(seed: int) -> None:
    """Two of five, for an hour."""
    network = network_of(5, seed, duplication=0.2)
    network.start(2)
    network.start(5)
    assert not network.run(3_600_000, lambda: network.leaders() != {None})


@pytest.mark.parametrize("seed", range(8))
def test_a_late_server_joins_the_established_leader_however_good_its_history_is(seed: int) -> None:
    """Its better vote comes too late; the epoch that others were told after the election is theirs."""
    network = network_of(5, seed)
    for server_id in (1, 2, 3, 4):
        network.start(server_id)
    assert network.run(20_000, network.agree)
    (leader,) = network.leaders()
    network.run(network.now + 1000)
    for election in network.elections().values():
        election.settle(9)
    network.nodes[5].zxid = 1 << 40
    network.nodes[5].peer_epoch = 8
    network.start(5)
    assert network.run(network.now + 20_000, network.agree)
    assert network.leaders() == {leader}
    vote = network.decisions()[5]
    assert vote is not None
    assert vote.peer_epoch == 9
    assert network.elections()[5].state == FOLLOWING


@pytest.mark.parametrize("seed", range(8))
def test_after_the_leaders_death_the_rest_elects_another_and_it_joins_as_a_follower(seed: int) -> None:
    """The rest raises its round; the restarted process begins with round 1 and meets stale messages first."""
    network = network_of(5, seed)
    for server_id in network.nodes:
        network.start(server_id)
    assert network.run(5000, network.agree)
    (old,) = network.leaders()
    assert old is not None
    network.stop(old)
    network.run(network.now + 300)
    for server_id, election in network.elections().items():
        if state_of(election) != LOOKING:
            network.look(server_id)
    assert network.run(network.now + 20_000, network.agree)
    (new,) = network.leaders()
    assert new not in {None, old}
    network.start(old)
    assert network.run(network.now + 20_000, network.agree)
    assert network.leaders() == {new}


@pytest.mark.parametrize("seed", range(12))
def test_under_loss_and_repetition_everybody_ends_behind_one_leader(seed: int) -> None:
    """A third of all messages is lost and some take longer than the last wait.

    What the roles do is done here by a watchdog: whoever follows a server that does not lead, or leads without a quorum
    behind it, looks again.
    """
    network = network_of(5, seed, loss=0.33, duplication=0.2, delay_ms=(1, 300))
    for place, server_id in enumerate(sorted(network.nodes)):
        network.at(place * 150, partial(network.start, server_id))

    def watch() -> None:
        elections = network.elections()
        for server_id, election in elections.items():
            if state_of(election) == FOLLOWING:
                assert election.vote is not None
                leader = elections[election.vote.leader]
                if state_of(leader) != LEADING:
                    network.look(server_id)
            elif state_of(election) == LEADING:
                behind = {
                    other
                    for other, peer in elections.items()
                    if peer.state != LOOKING and peer.vote is not None and peer.vote.leader == server_id
                }
                if not network.view.is_quorum(behind):
                    network.look(server_id)
        network.at(network.now + 2000, watch)

    network.at(2000, watch)
    assert network.run(600_000, lambda: len(network.elections()) == 5 and network.agree())


@pytest.mark.parametrize("seed", range(6))
def test_a_hierarchical_ensemble_needs_both_its_groups(seed: int) -> None:
    """Servers 1, 2, 3 alone never decide; with 4 they do, and 5, which weighs nothing, is not elected."""
    groups, weights = {1: (1, 2, 3), 2: (4, 5)}, {1: 1, 2: 1, 3: 1, 4: 1, 5: 0}
    view = EnsembleView(membership(range(1, 6), groups=groups, weights=weights))
    network = Network(view, seed=seed, max_notification_interval_ms=3000)
    for server_id in range(1, 6):
        network.add(server_id, zxid=server_id)
    for server_id in (1, 2, 3, 5):
        network.start(server_id)
    assert not network.run(60_000, lambda: network.leaders() != {None})
    network.start(4)
    assert network.run(network.now + 20_000, network.agree)
    assert network.leaders() == {4}


@pytest.mark.parametrize("seed", range(6))
def test_observers_find_the_leader_and_do_not_help_to_elect_it(seed: int) -> None:
    """Lesson of ZOOKEEPER-2959, as far as votes go: two observers and one voter of three are no quorum."""
    view = EnsembleView(membership((1, 2, 3), (4, 5)))
    network = Network(view, seed=seed, max_notification_interval_ms=3000)
    for server_id in range(1, 6):
        network.add(server_id, zxid=server_id)
    for server_id in (1, 4, 5):
        network.start(server_id)
    assert not network.run(60_000, lambda: network.leaders() != {None})
    network.start(2)
    assert network.run(network.now + 20_000, network.agree)
    assert {n: state_of(election) for n, election in network.elections().items()} == {
        1: FOLLOWING,
        2: LEADING,
        4: OBSERVING,
        5: OBSERVING,
    }


def test_two_runs_of_one_seed_send_the_same_messages() -> None:
    """Nothing depends on the order of a set."""

    def run() -> list[tuple[int, int, int, str]]:
        network = network_of(5, 3, loss=0.2, duplication=0.2)
        for server_id in network.nodes:
            network.start(server_id)
        network.run(60_000)
        return [(time, sender, receiver, repr(n)) for time, sender, receiver, n in network.sent]

    assert run() == run()
