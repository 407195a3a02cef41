"""What a member of an ensemble counts about elections, syncs, proposals and commits; ms unless said otherwise.

Kept from one role to the next, like `zkpy.core.stats.CoreStats`, and like those plain integers that `zkpy.ops` names.
"""

from __future__ import annotations

from zkpy.core.stats import Percentiles, Summary


class Sizes:
    """Last, smallest and greatest of a series of sizes; -1 before the first."""

    __slots__ = ("last", "max", "min")

    def __init__(self) -> None:
        self.last = self.min = self.max = -1

    def add(self, size: int) -> None:
        """Take in one size."""
        self.last = size
        if self.min < 0 or size < self.min:
            self.min = size
        if size > self.max:  # noqa: PLR1730  a comparison is cheaper than a call, here for every proposal
            self.max = size

    def reset(self) -> None:
        """Forget everything."""
        self.last = self.min = self.max = -1


class QuorumStats:
    """Counters of one server.

    Attributes:
        looking: how often it began to look for a leader.
        election: from the first look to the decision; observers only listen, and have none.
        unavailable: from the start, or the end of a role, until it serves again.
        leader_unavailable: the same, when it serves as the leader.
        diffs, snaps: learners that were brought up to date without and with a snapshot.
        inflight_diffs, inflight_snaps: how many at once, at the beginning and end of each.
        follower_sync, observer_sync: from the epoch's promise to UPTODATE, at the learner.
        revalidations: sessions that learners asked for.
        disloyal_voter_exits: how often it stopped leading because a voter changed its mind.
        proposal_sizes: payloads of the present leader's proposals, in bytes.
        commits: of the leader.
        syncs: requests of clients that the leader answered.
        proposals_received, commits_received: from the leader.
        quorum_ack_latency: arrival of a request to the quorum for its txn.
        proposal_latency, commit_latency: time in the txn's header to its proposal or commit here. Clocks of two servers.
        learner_queues: packets that wait for a learner, by its id, looked at with each PING.
    """

    __slots__ = (
        "commit_latency",
        "commits",
        "commits_received",
        "diffs",
        "disloyal_voter_exits",
        "election",
        "follower_sync",
        "inflight_diffs",
        "inflight_snaps",
        "leader_unavailable",
        "learner_queues",
        "looking",
        "observer_sync",
        "proposal_latency",
        "proposal_sizes",
        "proposals_received",
        "quorum_ack_latency",
        "revalidations",
        "snaps",
        "syncs",
        "unavailable",
    )

    def __init__(self) -> None:
        self.election = Summary()
        self.unavailable = Summary()
        self.leader_unavailable = Summary()
        self.inflight_diffs = Summary()
        self.inflight_snaps = Summary()
        self.follower_sync = Summary()
        self.observer_sync = Summary()
        self.quorum_ack_latency = Percentiles()
        self.proposal_latency = Percentiles()
        self.commit_latency = Percentiles()
        self.proposal_sizes = Sizes()
        self.learner_queues: dict[int, Summary] = {}
        self.reset()

    def reset(self) -> None:
        """The ``srst`` command."""
        for summary in (
            self.election,
            self.unavailable,
            self.leader_unavailable,
            self.inflight_diffs,
            self.inflight_snaps,
            self.follower_sync,
            self.observer_sync,
            self.quorum_ack_latency,
            self.proposal_latency,
            self.commit_latency,
            *self.learner_queues.values(),
        ):
            summary.reset()
        self.proposal_sizes.reset()
        self.looking = 0
        self.diffs = 0
        self.snaps = 0
        self.revalidations = 0
        self.disloyal_voter_exits = 0
        self.commits = 0
        self.proposals_received = 0
        self.commits_received = 0
        self.syncs = 0

    def learner_queue(self, server_id: int) -> Summary:
        """The series of one learner."""
        queue = self.learner_queues.get(server_id)
        if queue is None:
            queue = self.learner_queues[server_id] = Summary()
        return queue
