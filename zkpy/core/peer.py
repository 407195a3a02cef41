"""One server of an ensemble: the election and one role after the other, composed.

    LOOKING ──decided──► Leader or Learner ──over──► drained: what is in the log gets applied ──► LOOKING

Owns what happens between roles. A role ends with its log: everything that was handed to the log is on disk and in the
tree before the next vote, because the vote promises the last logged zxid (quorum protocol §5.4, ZOOKEEPER-2845, 4712).

Inputs are calls. Outputs wait to be taken: `take_unlogged`, `take_effect`, links in `state.quorum_dirty` and
`state.client_dirty`, `election.outbox`, and what the shells should do: `wants_learners`, `wanted_leader`, `service`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.read_only import ReadOnlyService
from zkpy.core.service import NoService, Service
from zkpy.core.zab.database import Database
from zkpy.core.zab.effects import (
    ReloadDatabase,
    SaveAcceptedEpoch,
    SaveCommittedConfig,
    SaveCurrentEpoch,
    SaveProposedConfig,
)
from zkpy.core.zab.election import Election
from zkpy.core.zab.leader import Leader
from zkpy.core.zab.learner import Learner
from zkpy.core.zab.observer_master import ObserverMasters
from zkpy.core.zab.reconfig import take_logged
from zkpy.core.zab.votes import UNTRUSTED_ZXID, Vote
from zkpy_protocol.election import ServerState

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from zkpy.core.data_tree import DataTree
    from zkpy.core.txn import Txn
    from zkpy.core.zab.effects import Effect
    from zkpy.core.zab.peer_state import PeerState
    from zkpy.core.zab.quorum_link import QuorumLink
    from zkpy_protocol.election import Notification
    from zkpy_protocol.records import QuorumPacket

_UNDECIDED_AFTER_MS = 5000
_READ_ONLY_AFTER_MS = 2000  # or a tick, if that is longer (quorum protocol §4.8)


class Peer:
    """A server of an ensemble.

    Attributes:
        service: who takes clients now; replaced when a role begins or ends to serve.
        role: Leader or Learner; None while LOOKING and between roles.
        fatal: exit code and reason once this server must stop at once.
    """

    __slots__ = (
        "_durable",
        "_effect",
        "_ending",
        "_handed",
        "_is_own_effect",
        "_is_undecided_reported",
        "_looking_since_ms",
        "_masters",
        "_own_effects",
        "_random",
        "_settled",
        "_unavailable_since_ms",
        "_vote",
        "_wake_ms",
        "election",
        "fatal",
        "role",
        "service",
        "state",
    )

    def __init__(self, state: PeerState, random: random.Random) -> None:
        """`random` spreads observers over time and over observer masters; nothing else is drawn."""
        options = state.options
        self.state = state
        take_logged(state)
        self.election = Election(
            state.server_id,
            state.view,
            min_notification_interval_ms=options.min_notification_interval_ms,
            max_notification_interval_ms=options.max_notification_interval_ms,
            reconfig_enabled=options.reconfig_enabled,
            multi_address_enabled=options.multi_address_enabled,
        )
        self.role: Leader | Learner | None = None
        self.service: Service = NoService(state.parts, state.database.tree.owners)
        self.fatal: tuple[int, str] | None = None
        self._random = random
        self._masters = ObserverMasters(random)
        # The last txn the driver took for the log, and the last one it confirmed.
        self._handed = self._durable = state.database.tree.last_zxid
        self._effect: Effect | None = None
        # Effects that no role waits for, and whether the one under way is such a one.
        self._own_effects: deque[Effect] = deque()
        self._is_own_effect = False
        self._is_undecided_reported = False
        self._ending: Leader | Learner | None = None
        self._settled = False
        # Until when nothing happens, and the leader to observe then, if it is known already.
        self._wake_ms: int | None = None
        self._vote: Vote | None = None
        self._looking_since_ms: int | None = None
        self._unavailable_since_ms: int | None = None

    # -- what the shells ask

    @property
    def is_observer(self) -> bool:
        """Whether this server does not vote, by the committed configuration."""
        member = self.state.view.committed.servers.get(self.state.server_id)
        return member is not None and member.is_observer

    @property
    def wants_learners(self) -> bool:
        """Whether learners may connect."""
        return isinstance(self.role, Leader)

    @property
    def wants_observers(self) -> bool:
        """Whether observers may connect at the port for them."""
        return isinstance(self.role, Learner) and self.role.observer_master is not None

    @property
    def wanted_leader(self) -> int | None:
        """Id of the server to connect to; None while there is none, or a connection."""
        role = self.role
        return role.master_id if isinstance(role, Learner) and role.wants_connection else None

    @property
    def observes_by_masters(self) -> bool:
        """Whether `wanted_leader` is to be reached at its port for observers."""
        return self.is_observer and self.state.options.observer_master_port > 0

    @property
    def next_deadline_ms(self) -> int | None:
        """When `wake` has something to do."""
        return self.election.next_deadline_ms if self._wake_ms is None else self._wake_ms

    @property
    def effect_under_way(self) -> Effect | None:
        """What the driver took and has not answered with `done`."""
        return self._effect

    @property
    def unlogged(self) -> list[Txn]:
        """Txns the driver has not taken for the log yet."""
        return self.state.unlogged

    # -- life

    def start(self, mono_ms: int) -> None:
        """Look for a leader for the first time."""
        self._look(mono_ms)

    def _look(self, mono_ms: int) -> None:
        state = self.state
        database = state.database
        zxid = database.tree.last_zxid if database.is_trusted else UNTRUSTED_ZXID
        self._wake_ms = None
        self._vote = None
        self._settled = False
        state.stats.looking += 1
        if self._looking_since_ms is None:
            self._looking_since_ms = mono_ms
        if self._unavailable_since_ms is None:
            self._unavailable_since_ms = mono_ms
        self.election.view = state.view
        self._is_undecided_reported = False
        state.trace.append(("election.started", {"zxid": zxid, "epoch": state.current_epoch}))
        self.election.start(zxid, state.current_epoch, not self.is_observer, mono_ms)

    def _follow_election(self, wall_ms: int, mono_ms: int) -> None:
        election = self.election
        while election.adopted_config is not None:  # what was held back may name a still newer one
            self._adopt(election.adopted_config, mono_ms)
        vote = election.decided
        if self.role is None and self._ending is None and vote is not None and self._wake_ms is None:
            self._enter(vote, wall_ms, mono_ms)

    def _adopt(self, text: str, mono_ms: int) -> None:
        """Another server has a newer configuration (§3.4 rule 1)."""
        state = self.state
        is_multi = state.options.multi_address_enabled
        membership = Membership.from_text(text, multi_address_enabled=is_multi)
        last_seen = state.view.last_seen
        state.view = EnsembleView(membership, last_seen if last_seen.version > membership.version else None)
        self._own_effects.append(SaveCommittedConfig(text))
        state.trace.append(("config.adopted", {"config_version": state.view.committed.version}))
        self._look(mono_ms)

    def _enter(self, vote: Vote, wall_ms: int, mono_ms: int) -> None:
        """Begin the role that a vote means; observers not all at once."""
        delay_ms = self.state.options.observer_reconnect_delay_ms
        if delay_ms > 0 and self.is_observer and self._is_to_pause():
            self._vote = vote
            self._wake_ms = mono_ms + self._random.randrange(delay_ms)
        else:
            self._begin(vote, wall_ms, mono_ms)

    def _is_to_pause(self) -> bool:
        return not self.observes_by_masters or self._masters.is_exhausted_for(self.state.view.committed)

    def _begin(self, vote: Vote, wall_ms: int, mono_ms: int) -> None:
        state = self.state
        self._settled = False
        values: dict[str, object] = {"leader": vote.leader, "round": vote.election_epoch}
        if self._looking_since_ms is not None:
            values["took_ms"] = took_ms = mono_ms - self._looking_since_ms
            if not self.is_observer:
                state.stats.election.add(took_ms)
        self._looking_since_ms = None
        if self._unavailable_since_ms is None:
            self._unavailable_since_ms = mono_ms
        if self.service.is_serving:  # read-only
            self._close_service()
        state.trace.append(("election.decided", {"role": self._role_at(vote.leader), **values}))
        if vote.leader == state.server_id:
            self.role = Leader(state, wall_ms, mono_ms)
        else:
            master_id = self._masters.next(state.view.committed) if self.observes_by_masters else None
            self.role = Learner(state, vote.leader, self.is_observer, wall_ms, mono_ms, master_id)
        self.step(wall_ms, mono_ms)

    def step(self, wall_ms: int, mono_ms: int) -> None:
        """Look at what the role has become. Inputs of the clients reach it by its service; all others end with this."""
        role = self.role
        if role is None:
            return
        if role.over is not None:
            self._end(role, wall_ms, mono_ms)
            return
        if role.service is not None and self.service is not role.service:
            self.service = role.service
            self._note_available(role, mono_ms)
        if role.established_epoch is not None and not self._settled:
            self._settled = True
            self.election.settle(role.established_epoch)
        if self.election.view is not self.state.view:
            self.election.view = self.state.view
        if isinstance(role, Learner):
            self.fatal = role.fatal

    def _role_at(self, leader_id: int) -> str:
        """What this server is, by this leader."""
        if leader_id == self.state.server_id:
            return "leader"
        return "observer" if self.is_observer else "follower"

    def _note_available(self, role: Leader | Learner, mono_ms: int) -> None:
        assert self._unavailable_since_ms is not None, "a role serves once"
        unavailable_ms = mono_ms - self._unavailable_since_ms
        self._unavailable_since_ms = None
        self.state.stats.unavailable.add(unavailable_ms)
        if isinstance(role, Leader):
            self.state.stats.leader_unavailable.add(unavailable_ms)

    def _end(self, role: Leader | Learner, wall_ms: int, mono_ms: int) -> None:
        state = self.state
        leader_id = role.leader_id if isinstance(role, Learner) else state.server_id
        name = self._role_at(leader_id)
        state.trace.append(("role.over", {"role": name, "leader": leader_id, "reason": role.over}))
        role.close()
        self._close_service()
        # What was begun is finished; of the rest only configurations mean something without the role.
        configs = [one for one in state.effects if isinstance(one, (SaveProposedConfig, SaveCommittedConfig))]
        self._own_effects.extend(configs)
        state.effects.clear()
        self.role = None
        self._ending = role
        self._drain(wall_ms, mono_ms)

    def _close_service(self) -> None:
        if self.service.is_serving:
            self.service.close()
        self.service = NoService(self.state.parts, self.state.database.tree.owners)

    def _drain(self, wall_ms: int, mono_ms: int) -> None:
        """Go on as soon as nothing is on its way to the disk."""
        role = self._ending
        state = self.state
        if role is None or state.unlogged or self._durable != self._handed:
            return
        if self._effect is not None or self._own_effects:
            return
        if isinstance(role, Learner) and role.database_lost:
            self._own_effects.append(ReloadDatabase())
            return
        database = state.database
        for txn in role.pending:
            if txn.zxid > database.tree.last_zxid:
                database.apply(txn)
        self._ending = None
        designated = role.designated_leader
        if designated is not None:
            vote = Vote(
                designated, database.tree.last_zxid, self.election.election_epoch, state.current_epoch
            )
            self.election.view = state.view
            self.election.stand(self._standing(designated), vote)
            self._enter(vote, wall_ms, mono_ms)
        elif self.is_observer and state.options.observer_election_delay_ms > 0:
            self._wake_ms = mono_ms + self._random.randrange(state.options.observer_election_delay_ms)
        else:
            self._look(mono_ms)

    def _standing(self, leader_id: int) -> int:
        if leader_id == self.state.server_id:
            return ServerState.LEADING
        return ServerState.OBSERVING if self.is_observer else ServerState.FOLLOWING

    # -- time

    def tick(self, wall_ms: int, mono_ms: int) -> None:
        """Half a tick time has passed."""
        role = self.role
        if role is not None:
            if isinstance(role, Leader):
                role.disloyal_voter = self.election.disloyal_voter
            role.tick(wall_ms, mono_ms)
            self.step(wall_ms, mono_ms)
        elif self.service.is_serving:
            self.service.tick(wall_ms, mono_ms)
        elif self._may_serve_read_only(mono_ms):
            self.service = ReadOnlyService(self.state.parts, self.state.database, wall_ms, mono_ms)
        self._report_election(mono_ms)

    def _report_election(self, mono_ms: int) -> None:
        """Say once that there is no leader for some time, and who has not been heard of."""
        since_ms = self._looking_since_ms
        if since_ms is None or self._is_undecided_reported or mono_ms - since_ms < _UNDECIDED_AFTER_MS:
            return
        self._is_undecided_reported = True
        heard = self.election.heard_of()
        missing = sorted(self.state.view.voters() - heard)
        values: dict[str, object] = {
            "heard_of": sorted(heard),
            "missing": missing,
            "for_ms": mono_ms - since_ms,
        }
        self.state.trace.append(("election.undecided", values))

    def _may_serve_read_only(self, mono_ms: int) -> bool:
        options = self.state.options
        since_ms = self._looking_since_ms
        return (
            options.read_only_mode_enabled
            and since_ms is not None
            and mono_ms - since_ms >= max(_READ_ONLY_AFTER_MS, options.tick_time_ms)
        )

    def wake(self, wall_ms: int, mono_ms: int) -> None:
        """`next_deadline_ms` has come."""
        if self._wake_ms is not None:
            if mono_ms >= self._wake_ms:
                vote, self._vote = self._vote, None
                if vote is None:
                    self._look(mono_ms)
                else:
                    self._wake_ms = None
                    self._begin(vote, wall_ms, mono_ms)
        else:
            self.election.tick(mono_ms)
        self._follow_election(wall_ms, mono_ms)

    # -- other servers

    def notified(self, server_id: int, notification: Notification, wall_ms: int, mono_ms: int) -> None:
        """A notification came on the election port."""
        self.election.receive(server_id, notification, mono_ms)
        self._follow_election(wall_ms, mono_ms)

    def dial_failed(self, reason: str, wall_ms: int, mono_ms: int) -> None:
        """A try to reach `wanted_leader` was in vain; after some of them another leader is looked for."""
        role = self.role
        if isinstance(role, Learner):
            role.dial_failed(reason)
        self.step(wall_ms, mono_ms)

    def connected(self, link: QuorumLink, wall_ms: int, mono_ms: int) -> None:
        """A learner has connected, or the connection to the leader stands."""
        if self.role is None:
            link.close("this server neither leads nor follows")
            return
        self.role.connected(link)
        self.step(wall_ms, mono_ms)

    def observer_connected(self, link: QuorumLink, wall_ms: int, mono_ms: int) -> None:
        """Somebody has connected to the port for observers."""
        role = self.role
        if isinstance(role, Learner) and role.observer_master is not None:
            role.observer_master.connected(link)
        else:
            link.close("this server does not follow")
        self.step(wall_ms, mono_ms)

    def receive(self, link: QuorumLink, packets: Sequence[QuorumPacket], wall_ms: int, mono_ms: int) -> None:
        """Packets of another server, in order."""
        role = self.role
        if isinstance(role, Leader):
            role.receive(link, packets, wall_ms, mono_ms)
        elif role is not None and role.link is link:
            role.receive(packets, wall_ms, mono_ms)
        elif role is not None and role.observer_master is not None:
            role.observer_master.receive(link, packets)
        self.step(wall_ms, mono_ms)

    def snapshot(
        self, link: QuorumLink, tree: DataTree, sessions: dict[int, int], wall_ms: int, mono_ms: int
    ) -> None:
        """The stream behind a SNAP packet of the leader is complete."""
        role = self.role
        if isinstance(role, Learner) and role.link is link:
            role.snapshot(tree, sessions, wall_ms, mono_ms)
        self.step(wall_ms, mono_ms)

    def disconnected(self, link: QuorumLink, reason: str, wall_ms: int, mono_ms: int) -> None:
        """A connection is gone, whoever closed it."""
        role = self.role
        if isinstance(role, Leader):
            role.disconnected(link)
        elif role is not None and role.link is link:
            role.disconnected(reason)
        elif role is not None and role.observer_master is not None:
            role.observer_master.disconnected(link)
        self.step(wall_ms, mono_ms)

    # -- the disk

    def take_unlogged(self, count_max: int) -> list[Txn]:
        """The next txns for the log, in zxid order; the driver confirms them with `persisted`."""
        unlogged = self.state.unlogged
        taken = unlogged[:count_max]
        del unlogged[:count_max]
        if taken:
            self._handed = taken[-1].zxid
        return taken

    def persisted(self, zxid: int, wall_ms: int, mono_ms: int) -> None:
        """Everything up to `zxid` that was taken is durable."""
        self._durable = zxid
        if self.role is not None:
            self.role.persisted(zxid, mono_ms)
            self.step(wall_ms, mono_ms)
        self._drain(wall_ms, mono_ms)

    def take_effect(self) -> Effect | None:
        """The next effect for the disk; None while one is under way or there is none."""
        if self._effect is not None:
            return None
        self._is_own_effect = bool(self._own_effects)
        waiting = self._own_effects or self.state.effects
        if waiting:
            self._effect = waiting.popleft()
        return self._effect

    def done(self, effect: Effect, result: object, wall_ms: int, mono_ms: int) -> None:
        """An effect is carried out."""
        assert effect is self._effect
        self._effect = None
        state = self.state
        if isinstance(effect, SaveAcceptedEpoch):
            state.accepted_epoch = effect.epoch
        elif isinstance(effect, SaveCurrentEpoch):
            state.current_epoch = effect.epoch
        if isinstance(effect, ReloadDatabase):
            assert isinstance(result, Database)
            state.database = result
            assert isinstance(self._ending, Learner)
            self._ending.database_lost = False
        elif self.role is not None and not self._is_own_effect:
            self.role.done(effect, result, wall_ms, mono_ms)
            self.step(wall_ms, mono_ms)
        self._drain(wall_ms, mono_ms)
