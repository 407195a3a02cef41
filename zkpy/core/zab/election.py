"""Fast leader election of one server: notifications and time in, notifications and a decision out.

Owns the round, the votes of a round and what this server answers to others, also while it follows or leads. Does not know
how notifications travel, what leading means, or where epochs and configurations are kept.

    not started ──start──► exchanging ◄──better vote── finalizing ──200 ms of nothing better──► decided
                               │    └──quorum for the proposal──►┘                                 ▲
                               └──quorum of followers and their leader say they are established──┘

While LOOKING the proposal goes to all voters whenever it changes, and again after silence, each time after twice as long. But
silence is waited for no longer than twice: in Apache a server that repeats itself a little faster keeps another one silent for
ever, and waits itself for what was said before it was LOOKING.

A notification may be lost, repeated, stale or from a stranger. Nothing is concluded from the first one of a connection: it
may be older than the sender's state.

Invariants:
    * every `start` raises the round (at the greatest long it wraps, as Java's does); it goes back only by joining an
      established ensemble, whose round counts.
    * only the committed configuration is ever sent: nobody hears of a version that was not established.
    * between a decision and the next `start` no notification changes `vote`.
    * answers do not go on for ever between two servers of which one does not count the other, as Apache's may: a server is
      answered twice within the shortest interval only if it is LOOKING and this one is not; and an observer that has a
      leader, whom nobody counts, does not answer votes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from zkpy.core.membership import Membership, MembershipError
from zkpy.core.types import wrap64
from zkpy.core.zab.votes import LEAST, UNTRUSTED_ZXID, Vote, better, equal
from zkpy_protocol.election import Notification, ServerState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zkpy.core.membership import EnsembleView

FINALIZE_WAIT_MS = 200
"""How long nothing better may arrive before a quorum's vote is final."""

_ANSWERED_MAX = 256  # more than are members or may be connected as strangers
_LOOKING = ServerState.LOOKING
_ESTABLISHED = (ServerState.FOLLOWING, ServerState.LEADING)
_KNOWN_STATES = (*_ESTABLISHED, _LOOKING, ServerState.OBSERVING)

_STOPPED = (
    0  # LOOKING, but no round is under way: not started yet, or a newer configuration has to be adopted first
)
_EXCHANGING = 1
_FINALIZING = 2
_STANDING = 3  # not LOOKING


class Election:
    """One server's part in electing a leader.

    Attributes:
        state: what this server tells others it does; one of ``ServerState``.
        election_epoch: the round; 0 before the first.
        vote: the last decision, which is what others are told while this server is not LOOKING.
        decided: the vote that ended the last election, None while there is none; `state` says what it means for
            this server. Stays until the next `start` or `stand`.
        adopted_config: text of a newer configuration that another server has sent while this one was LOOKING. The election
            is stopped: adopt it (`view`) and `start` again.
        disloyal_voter: while this server leads, whether one of those that elected it has gone LOOKING since.
        outbox: (receiver, notification) in the order of sending; the driver takes them after every call. None is for
            this server itself.
    """

    __slots__ = (
        "_answered_ms",
        "_config",
        "_deadline_ms",
        "_electors",
        "_finalize_wait_ms",
        "_held",
        "_inbox",
        "_interval_ms",
        "_is_participant",
        "_max_interval_ms",
        "_min_interval_ms",
        "_multi_address_enabled",
        "_out_of_election",
        "_own",
        "_phase",
        "_proposal",
        "_received",
        "_reconfig_enabled",
        "_repeated_by_ms",
        "_seen_config",
        "_seen_membership",
        "_view",
        "adopted_config",
        "decided",
        "disloyal_voter",
        "election_epoch",
        "outbox",
        "server_id",
        "state",
        "vote",
    )

    def __init__(
        self,
        server_id: int,
        view: EnsembleView,
        *,
        finalize_wait_ms: int = FINALIZE_WAIT_MS,
        min_notification_interval_ms: int = 200,
        max_notification_interval_ms: int = 60000,
        reconfig_enabled: bool = False,
        multi_address_enabled: bool = False,
    ) -> None:
        self.server_id = server_id
        self.view = view
        self.state = _LOOKING
        self.election_epoch = 0
        self.vote: Vote | None = None
        self.decided: Vote | None = None
        self.adopted_config: str | None = None
        self.disloyal_voter = False
        self.outbox: list[tuple[int, Notification]] = []
        self._finalize_wait_ms = finalize_wait_ms
        self._min_interval_ms = min_notification_interval_ms
        self._max_interval_ms = max_notification_interval_ms
        self._reconfig_enabled = reconfig_enabled
        self._multi_address_enabled = multi_address_enabled
        self._phase = _STOPPED
        self._is_participant = True
        self._own = Vote(server_id, 0, 0, 0)  # until the first start
        self._proposal = self._own
        # Votes of this round, by server; votes of servers that follow or lead, of any round.
        self._received: dict[int, Vote] = {}
        self._out_of_election: dict[int, Vote] = {}
        self._electors: frozenset[int] = frozenset()
        # When a server was answered last, since this election began.
        self._answered_ms: dict[int, int] = {}
        # What still has to be looked at in this call: the notification received, and this server's own votes.
        self._inbox: deque[tuple[int, Notification]] = deque()
        # The last notification of each voter that came while no round was under way, for the round that comes.
        self._held: dict[int, Notification] = {}
        self._interval_ms = 0
        self._deadline_ms: int | None = None
        # When the proposal is repeated at the latest; None: it has just been sent.
        self._repeated_by_ms: int | None = None
        # The last text that was not the own one, and what it means: others send the same one again and again.
        self._seen_config: str | None = None
        self._seen_membership: Membership | None = None

    @property
    def view(self) -> EnsembleView:
        """The configurations that count; to be replaced whenever one of them changes."""
        return self._view

    @view.setter
    def view(self, view: EnsembleView) -> None:
        self._view = view
        self._config = view.committed.text()

    @property
    def next_deadline_ms(self) -> int | None:
        """When `tick` has something to do; None while nothing is waited for."""
        return self._deadline_ms

    def heard_of(self) -> set[int]:
        """The servers whose votes count in this election, this one included."""
        return self._received.keys() | self._out_of_election.keys() | {self.server_id}

    # -- the driver's side

    def start(self, zxid: int, peer_epoch: int, is_participant: bool, mono_ms: int) -> None:
        """Look for a leader, in a new round; this server is LOOKING from now on.

        Args:
            zxid: last logged zxid, committed or not; -1 for an empty database that is not trusted.
            peer_epoch: current epoch.
            is_participant: False for an observer.
            mono_ms: monotonic clock.
        """
        if self.vote is None:
            self.vote = Vote(self.server_id, zxid, 0, peer_epoch)
        self.state = _LOOKING
        self.decided = None
        self.adopted_config = None
        self.disloyal_voter = False
        self.election_epoch = wrap64(self.election_epoch + 1)
        self._is_participant = is_participant
        self._own = Vote(
            self.server_id if self.server_id in self._view.committed.voters else LEAST,
            zxid if is_participant else LEAST,
            0,
            peer_epoch if is_participant else LEAST,
        )
        self._received.clear()
        self._out_of_election.clear()
        self._answered_ms.clear()
        self._phase = _EXCHANGING
        self._interval_ms = self._min_interval_ms
        self._propose(self._own)
        self._process_inbox(mono_ms)
        held, self._held = self._held, {}
        for server_id in sorted(held):
            self.receive(server_id, held[server_id], mono_ms)

    def stand(self, state: int, vote: Vote) -> None:
        """Take a role without an election, as after a reconfiguration that names the leader."""
        assert state != _LOOKING, "LOOKING begins with start"
        self._stand(state, vote, frozenset())
        self.decided = None

    def settle(self, peer_epoch: int) -> None:
        """The epoch of the leader is established: others are told that epoch from now on (ZOOKEEPER-1732)."""
        assert self.state != _LOOKING, "an epoch is established by a leader and its learners"
        assert self.vote is not None
        self.vote = replace(self.vote, peer_epoch=peer_epoch)

    def receive(self, server_id: int, notification: Notification, mono_ms: int) -> None:
        """Take what another server has sent; its id is the one of the connection."""
        if self.state == _LOOKING and self._is_of_another_view(server_id, notification):
            return
        if server_id not in self._view.voters():
            if self._has_news_for(notification) or self._may_answer(server_id, mono_ms):
                self._answer_stranger(server_id)
        elif notification.state not in _KNOWN_STATES:
            pass
        elif self.state != _LOOKING:
            if self._has_news_for(notification) and self.state != ServerState.OBSERVING:
                self._answer_as_established(server_id)
        elif self._phase == _STOPPED:
            self._held[server_id] = notification
        else:
            is_behind = notification.election_epoch < self.election_epoch
            if notification.state == _LOOKING and is_behind and self._may_answer(server_id, mono_ms):
                self._send(server_id, self._proposal, _LOOKING, self.election_epoch)
            self._inbox.append((server_id, notification))
            self._process_inbox(mono_ms)

    def tick(self, mono_ms: int) -> None:
        """Do what is due; nothing before `next_deadline_ms`.

        Silence repeats the proposal to everybody. Whoever has a message waiting for a server without a connection dials it
        again then, so there is no other repetition.
        """
        if self._deadline_ms is None or mono_ms < self._deadline_ms:
            return
        if self._phase == _FINALIZING:
            self._decide(self._proposal, self._electors)
            return
        self._interval_ms = min(2 * self._interval_ms, self._max_interval_ms)
        self._broadcast()
        self._process_inbox(mono_ms)

    # -- configurations of others

    def _is_of_another_view(self, server_id: int, notification: Notification) -> bool:
        """Whether a notification names a newer configuration; that one comes first, and the vote is looked at after it."""
        membership = self._membership_in(notification)
        committed = self._view.committed
        if membership is None or membership.version <= committed.version:
            return False
        if self._reconfig_enabled:
            if server_id in membership.voters:
                self._held[server_id] = notification
            if self.adopted_config is None:
                self.adopted_config = notification.config
                self._phase = _STOPPED
                self._deadline_ms = None
            return True
        # Apache starts the election anew, at the speed at which such messages come; not counting them is enough.
        return not membership.is_same_as(committed)

    def _membership_in(self, notification: Notification) -> Membership | None:
        text = notification.config
        if text is None or text == self._config:
            return None
        if text != self._seen_config:
            self._seen_config = text
            try:
                self._seen_membership = Membership.from_text(
                    text, multi_address_enabled=self._multi_address_enabled
                )
            except MembershipError:  # such a text stops Apache's receiver for good
                self._seen_membership = None
        return self._seen_membership

    # -- answers

    def _answer_stranger(self, server_id: int) -> None:
        """An observer, or a server of no configuration known here: it may not vote, but may learn who leads."""
        if self.vote is not None:
            self._send(server_id, self.vote, self.state, self.election_epoch)

    def _has_news_for(self, notification: Notification) -> bool:
        return notification.state == _LOOKING and self.state != _LOOKING

    def _may_answer(self, server_id: int, mono_ms: int) -> bool:
        answered_ms = self._answered_ms.get(server_id)
        if answered_ms is not None and mono_ms < answered_ms + self._min_interval_ms:
            return False
        if len(self._answered_ms) >= _ANSWERED_MAX:
            self._answered_ms.clear()
        self._answered_ms[server_id] = mono_ms
        return True

    def _answer_as_established(self, server_id: int) -> None:
        assert self.vote is not None
        if self.state == ServerState.LEADING and server_id in self._electors:
            self.disloyal_voter = True
        self._send(server_id, self.vote, self.state, self.vote.election_epoch)

    def _send(self, server_id: int, vote: Vote, state: int, election_epoch: int) -> None:
        notification = Notification(
            state, vote.leader, vote.zxid, election_epoch, vote.peer_epoch, config=self._config
        )
        if server_id == self.server_id:
            self._inbox.append((server_id, notification))
        else:
            self.outbox.append((server_id, notification))

    def _broadcast(self) -> None:
        self._repeated_by_ms = None
        for server_id in sorted(self._view.voters()):
            self._send(server_id, self._proposal, _LOOKING, self.election_epoch)

    # -- the round

    def _process_inbox(self, mono_ms: int) -> None:
        """Each notification begins the wait anew, whatever it says; that for a repetition has an end."""
        while self._inbox:
            server_id, notification = self._inbox.popleft()
            if self._phase == _EXCHANGING:
                self._count(server_id, notification)
            elif self._is_better(Vote.of(notification), self._proposal):
                self._phase = _EXCHANGING
                self._inbox.append((server_id, notification))
        if self._phase == _EXCHANGING:
            if self._repeated_by_ms is None:
                self._repeated_by_ms = mono_ms + 2 * self._interval_ms
            self._deadline_ms = min(mono_ms + self._interval_ms, self._repeated_by_ms)
        elif self._phase == _FINALIZING:
            self._deadline_ms = mono_ms + self._finalize_wait_ms

    def _count(self, server_id: int, notification: Notification) -> None:
        if notification.leader not in self._view.voters():
            return  # the sender is one, or it would have been answered as a stranger
        if notification.state == _LOOKING:
            self._count_looking(server_id, Vote.of(notification).without_version())
        elif notification.state in _ESTABLISHED:
            self._count_established(server_id, Vote.of(notification))

    def _count_looking(self, server_id: int, vote: Vote) -> None:
        if UNTRUSTED_ZXID in (self._own.zxid, vote.zxid):
            return
        if vote.election_epoch < self.election_epoch:
            return
        if vote.election_epoch > self.election_epoch:
            self.election_epoch = vote.election_epoch
            self._received.clear()
            self._propose(vote if self._is_better(vote, self._own) else self._own)
        elif self._is_better(vote, self._proposal):
            self._propose(vote)
        self._received[server_id] = vote
        supporters = _supporters(self._received, self._proposal)
        if self._view.is_quorum(supporters):
            self._electors = supporters
            self._phase = _FINALIZING

    def _count_established(self, server_id: int, vote: Vote) -> None:
        """A server that follows or leads: join when a quorum says the same and the leader itself is among them.

        A quorum of the committed configuration: that one has elected. Apache asks for one of a proposed configuration as well;
        then servers whose log has a proposal that the others do not know stay out for ever.
        """
        if vote.election_epoch == self.election_epoch:
            self._received[server_id] = vote.without_version()
            if self._joins(self._received, vote):
                return
        self._out_of_election[server_id] = vote
        self._joins(self._out_of_election, vote)

    def _joins(self, votes: Mapping[int, Vote], vote: Vote) -> bool:
        supporters = _supporters(votes, vote)
        is_quorum = self._view.committed.verifier.is_quorum(supporters)
        if not is_quorum or not self._leader_agrees(votes, vote):
            return False
        self.election_epoch = vote.election_epoch
        self._decide(vote, supporters)
        return True

    def _leader_agrees(self, votes: Mapping[int, Vote], vote: Vote) -> bool:
        """Without this, servers would go on electing one that has crashed."""
        if vote.leader == self.server_id:
            return vote.election_epoch == self.election_epoch
        leader_vote = votes.get(vote.leader)
        return leader_vote is not None and leader_vote.state == ServerState.LEADING

    def _is_better(self, new: Vote, current: Vote) -> bool:
        return better(new, current, self._view.weight(new.leader))

    def _propose(self, vote: Vote) -> None:
        self._proposal = Vote(vote.leader, vote.zxid, self.election_epoch, vote.peer_epoch)
        self._broadcast()

    def _decide(self, vote: Vote, electors: frozenset[int]) -> None:
        state = ServerState.FOLLOWING if self._is_participant else ServerState.OBSERVING
        if vote.leader == self.server_id:
            state = ServerState.LEADING
        self.decided = Vote(vote.leader, vote.zxid, vote.election_epoch, vote.peer_epoch)
        self._stand(state, self.decided, electors)

    def _stand(self, state: int, vote: Vote, electors: frozenset[int]) -> None:
        self.state = state
        self.vote = vote
        self.disloyal_voter = False
        self._electors = electors
        self._phase = _STANDING
        self._deadline_ms = None
        self._inbox.clear()
        self._held.clear()


def _supporters(votes: Mapping[int, Vote], vote: Vote) -> frozenset[int]:
    return frozenset(server_id for server_id in sorted(votes) if equal(votes[server_id], vote))
