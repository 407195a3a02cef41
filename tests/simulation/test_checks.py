"""The checks of simulated ensembles can fail: each one is shown the history that it is there for.

Where an ensemble is needed it runs undisturbed until something is committed; then it is one server's state, or what a check is
told, that is made wrong.
"""

from __future__ import annotations

import dataclasses
import random
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.fakes.replies import OPEN
from tests.simulation.answers import EPHEMERAL, Answers, Op
from tests.simulation.checks import Watched
from tests.simulation.cluster import Cluster
from tests.simulation.ledger import Ledger
from tests.simulation.scenario import Scenario
from tests.simulation.server import membership_of
from tests.simulation.world import ViolationError, World
from zkpy.core.txn import Txn
from zkpy.core.zab.leader import Leader
from zkpy_protocol.election import Notification, ServerState
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    CloseSessionTxn,
    CreateSessionTxn,
    CreateTxn,
    ErrorTxn,
    GetDataResponse,
    SetDataTxn,
    Stat,
    encode_get_data_response,
    encode_stat,
)

if TYPE_CHECKING:
    from tests.simulation.ledger import Entry
    from tests.simulation.server import Incarnation, SimServer
    from zkpy.core.data_tree import Change, DataTree

SESSION = 0x1000
OTHER = 0x2000
EPOCH = 1 << 32


# -- histories


class History:
    """A ledger, and txns that are logged and committed in it."""

    def __init__(self) -> None:
        self.ledger = Ledger(membership_of((1, 2, 3), ()))

    def logged(self, behind: Entry, txn: Txn) -> Entry:
        return self.ledger.entry(behind, txn.zxid, txn.payload)

    def committed(self, *txns: Txn) -> Entry:
        for txn in txns:
            self.ledger.commit(self.logged(self.ledger.tip, txn), "server.1")
        return self.ledger.tip


def make(zxid: int, kind: int, record: Any, *, session: int = SESSION, cxid: int = 0) -> Txn:
    return Txn.make(session, cxid, EPOCH + zxid, 0, kind, record, None)


def session_txn(zxid: int, session: int = SESSION) -> Txn:
    return make(zxid, OpCode.CREATE_SESSION, CreateSessionTxn(4000), session=session)


def create_txn(zxid: int, path: str, *, cxid: int, is_ephemeral: bool = False, session: int = SESSION) -> Txn:
    record = CreateTxn(path, b"x", OPEN, is_ephemeral, 1)
    return make(zxid, OpCode.CREATE, record, session=session, cxid=cxid)


def set_txn(zxid: int, path: str, data: bytes, version: int, *, cxid: int) -> Txn:
    return make(zxid, OpCode.SET_DATA, SetDataTxn(path, data, version), cxid=cxid)


def test_a_history_that_is_right_is_taken() -> None:
    """Otherwise what follows would show nothing."""
    history = History()
    history.committed(
        session_txn(1),
        create_txn(2, "/a", cxid=1),
        create_txn(3, "/e", cxid=2, is_ephemeral=True),
        set_txn(4, "/a", b"y", 1, cxid=3),
        make(5, OpCode.CLOSE_SESSION, CloseSessionTxn(["/e"])),
    )
    assert history.ledger.tip.zxid == EPOCH + 5
    assert history.ledger.at("/a", EPOCH + 3).data == b"x"
    assert history.ledger.at("/a", EPOCH + 4).data == b"y"


def test_two_histories_are_not_both_committed() -> None:
    history = History()
    begun = history.committed(session_txn(1))
    history.committed(create_txn(2, "/a", cxid=1))
    other = history.logged(begun, create_txn(3, "/b", cxid=1))
    with pytest.raises(ViolationError, match="commits 0x100000003 behind 0x100000001, but 0x100000002"):
        history.ledger.commit(other, "server.2")


def test_a_txn_has_one_predecessor_and_a_greater_zxid() -> None:
    history = History()
    begun = history.committed(session_txn(1))
    second = history.logged(begun, create_txn(2, "/a", cxid=1))
    history.logged(second, create_txn(3, "/b", cxid=2))
    with pytest.raises(ViolationError, match="stands behind 0x100000001 and behind 0x100000002"):
        history.logged(begun, create_txn(3, "/b", cxid=2))
    with pytest.raises(ViolationError, match="txn 0x100000001 behind 0x100000002"):
        history.logged(second, create_txn(1, "/c", cxid=2))


@pytest.mark.parametrize("cxid", [4, 5])
def test_requests_of_a_session_commit_in_their_order_and_once(cxid: int) -> None:
    history = History()
    history.committed(session_txn(1), create_txn(2, "/a", cxid=5))
    with pytest.raises(ViolationError, match=f"request {cxid} of session 0x1000, behind 5"):
        history.committed(create_txn(3, "/b", cxid=cxid))


def test_a_closed_session_has_no_requests() -> None:
    history = History()
    history.committed(session_txn(1), make(2, OpCode.CLOSE_SESSION, CloseSessionTxn([])))
    with pytest.raises(ViolationError, match="of the closed session 0x1000"):
        history.committed(create_txn(3, "/a", cxid=1))


class Lasting:
    """A tree that closes no session."""

    def __init__(self, tree: DataTree) -> None:
        self._tree = tree

    def apply(self, txn: Txn, changes: list[Change]) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tree, name)


def test_an_ephemeral_does_not_survive_its_session() -> None:
    history = History()
    history.committed(session_txn(1), create_txn(2, "/e", cxid=1, is_ephemeral=True))
    history.ledger.tree = cast("DataTree", Lasting(history.ledger.tree))
    with pytest.raises(ViolationError, match=r"is closed by 0x100000003 and leaves \['/e'\]"):
        history.committed(make(3, OpCode.CLOSE_SESSION, CloseSessionTxn([])))


def test_a_txn_with_the_digest_of_another_tree_is_seen() -> None:
    history = History()
    history.committed(session_txn(1))
    record = CreateTxn("/a", b"x", OPEN, False, 1)
    with pytest.raises(ViolationError, match="with a digest that is not that of the tree"):
        history.committed(Txn.make(SESSION, 1, EPOCH + 2, 0, OpCode.CREATE, record, 4711))


def test_a_configuration_that_lost_its_txn_counts_once_a_leader_goes_by_it() -> None:
    history = History()
    history.ledger.activated(membership_of((1, 2, 3), ()), set(), "server.1")  # nothing new
    grown = dataclasses.replace(membership_of((1, 2, 3, 4, 5), ()), version=EPOCH + 1)
    history.ledger.activated(grown, {1, 2, 4}, "server.1")
    entry = history.committed(session_txn(2))
    assert history.ledger.is_quorum(entry, {3, 4, 5})
    assert not history.ledger.is_quorum(entry, {1, 2})


@pytest.mark.parametrize("followers", [{1, 2}, {1, 4, 5}])
def test_it_takes_a_quorum_of_the_old_members_and_one_of_the_new(followers: set[int]) -> None:
    grown = dataclasses.replace(membership_of((1, 2, 3, 4, 5), ()), version=EPOCH + 1)
    with pytest.raises(ViolationError, match=r"server.1 activates configuration 0x100000001, which only \["):
        History().ledger.activated(grown, followers, "server.1")


def test_a_quorum_is_counted_by_the_membership_of_that_time() -> None:
    history = History()
    entry = history.committed(session_txn(1))
    assert history.ledger.is_quorum(entry, {2, 3})
    assert not history.ledger.is_quorum(entry, {3, 4})


# -- what clients are answered


class Answered:
    """A client with a session, /a at version 0 since the third txn, and an ephemeral."""

    def __init__(self) -> None:
        self.history = History()
        self.history.committed(
            session_txn(1),
            create_txn(2, "/e", cxid=1, is_ephemeral=True),
            create_txn(3, "/a", cxid=2),
        )
        self.answers = Answers("client.1", self.history.ledger)
        self.answers.session_id = SESSION

    def reads(
        self, zxid: int, version: int, data: bytes, *, acked: int = 0, is_watching: bool = False
    ) -> None:
        op = Op(OpCode.GET_DATA, "/a", EPOCH + acked if acked else 0)
        op.is_fresh, op.is_watching = bool(acked), is_watching
        mzxid = self.history.ledger.at("/a", EPOCH + zxid).mzxid
        body = encode_get_data_response(GetDataResponse(data, stat(mzxid, version)))
        self.answers.header(EPOCH + zxid)
        self.answers.answered(op, EPOCH + zxid, 0, body)

    def sets(
        self, zxid: int, xid: int, version: int, *, acked: int = 0, expected: int = -1, err: int = 0
    ) -> None:
        op = Op(OpCode.SET_DATA, "/a", EPOCH + acked, expected=expected, data=b"y")
        op.xid = xid
        self.answers.header(EPOCH + zxid)
        self.answers.answered(op, EPOCH + zxid, err, b"" if err else encode_stat(stat(EPOCH + zxid, version)))


def stat(mzxid: int, version: int) -> Stat:
    return Stat(0, mzxid, 0, 0, version, 0, 0, 0, 0, 0, 0)


def test_answers_that_are_right_are_taken() -> None:
    client = Answered()
    client.reads(3, 0, b"x", is_watching=True)
    client.history.committed(set_txn(4, "/a", b"y", 1, cxid=3))
    client.answers.event("/a")
    client.sets(4, 3, 1, acked=3)
    client.reads(4, 1, b"y", acked=4)
    assert client.answers.acked_writes == 1


def test_a_write_that_was_answered_is_in_the_history() -> None:
    """Under its number, of its session, and nowhere else."""
    with pytest.raises(
        ViolationError, match="request 3 is answered at 0x100000004, which is another one's txn"
    ):
        Answered().sets(4, 3, 1)
    client = Answered()
    client.history.committed(set_txn(4, "/a", b"y", 1, cxid=9))
    with pytest.raises(ViolationError, match="which is another one's txn"):
        client.sets(4, 3, 1)


def test_a_write_comes_behind_what_was_answered_before_it_was_asked_for() -> None:
    client = Answered()
    client.history.committed(set_txn(4, "/a", b"y", 1, cxid=3))
    with pytest.raises(ViolationError, match="0x100000004 was asked for when 0x100000004 was answered"):
        client.sets(4, 3, 1, acked=4)


def test_a_write_has_the_version_that_it_made() -> None:
    client = Answered()
    client.history.committed(set_txn(4, "/a", b"y", 1, cxid=3))
    with pytest.raises(ViolationError, match="gives version 2"):
        client.sets(4, 3, 2)
    with pytest.raises(ViolationError, match="gives version 1"):
        client.sets(4, 3, 1, expected=7)


def test_a_write_is_refused_for_a_reason() -> None:
    client = Answered()
    client.history.committed(make(4, OpCode.ERROR, ErrorTxn(ErrorCode.BADVERSION), cxid=3))
    with pytest.raises(ViolationError, match="request 3 on /a at version 0 fails with -103"):
        client.sets(4, 3, 0, expected=0, err=ErrorCode.BADVERSION)


@pytest.mark.parametrize(("version", "data"), [(1, b"x"), (0, b"y")])
def test_a_read_shows_what_the_history_says(version: int, data: bytes) -> None:
    with pytest.raises(ViolationError, match="sees"):
        Answered().reads(3, version, data)


def test_a_read_behind_a_sync_shows_what_had_been_answered() -> None:
    client = Answered()
    client.history.committed(set_txn(4, "/a", b"y", 1, cxid=3))
    with pytest.raises(
        ViolationError, match="has synced when 0x100000004 was answered, and reads at 0x100000003"
    ):
        client.reads(3, 0, b"x", acked=4)


def test_a_client_does_not_go_back() -> None:
    client = Answered()
    client.answers.header(EPOCH + 3)
    with pytest.raises(ViolationError, match="was at 0x100000003 and is answered at 0x100000002"):
        client.answers.header(EPOCH + 2)


def test_a_watch_speaks_before_the_change_is_seen_and_only_of_changes() -> None:
    client = Answered()
    client.reads(3, 0, b"x", is_watching=True)
    client.history.committed(set_txn(4, "/a", b"y", 1, cxid=3))
    with pytest.raises(ViolationError, match="is at 0x100000004 before the watch of /a has fired"):
        client.answers.header(EPOCH + 4)
    client = Answered()
    client.reads(3, 0, b"x", is_watching=True)
    with pytest.raises(ViolationError, match="which has not changed"):
        client.answers.event("/a")
    with pytest.raises(ViolationError, match="which it does not watch"):
        client.answers.event("/b")


def test_an_ephemeral_lives_as_long_as_its_session() -> None:
    client = Answered()
    op = Op(OpCode.CREATE, "/e", 0, expected=EPHEMERAL, data=b"x")
    op.xid = 1
    body = b"\0\0\0\x02/e"
    client.answers.answered(op, EPOCH + 2, 0, body)
    record = CloseSessionTxn(["/e"])
    client.history.committed(make(4, OpCode.CLOSE_SESSION, record))
    with pytest.raises(ViolationError, match="has its session at 0x100000004, but not its ephemeral /e"):
        client.reads(4, 0, b"x")


# -- whole ensembles


class Undisturbed(Scenario):
    """Three servers, nothing goes wrong."""

    def __init__(self) -> None:
        super().__init__(random.Random(3))
        self.voters, self.observers, self.spares = [1, 2, 3], [], []
        self.clock_rates = dict.fromkeys(self.servers, 1000)
        self.reconfig = self.wipes = self.observer_masters = False
        self.fault_interval_us, self.loss, self.trigger = None, 0.0, 0.0
        self.tick_ms, self.think_us, self.snap_count = 200, 30_000, 1000
        self.network_delay_us = self.network_jitter_us = self.disk_delay_us = self.disk_jitter_us = 100
        self.max_notification_interval_ms = 800
        self.leader_serves = True


class Running:
    """An ensemble that has committed something."""

    def __init__(self) -> None:
        self.cluster = Cluster(World(1), Undisturbed())
        self.checks = self.cluster.checks
        self.until(lambda: len(self.checks.ledger.txns) > 20 and not self.checks.differences())
        leader_id = self.cluster.leader_id()
        assert leader_id is not None
        self.leader_id = leader_id
        self.follower_id = min({1, 2, 3} - {leader_id})

    def until(self, reached: Any) -> None:
        for _ in range(4000):
            if reached():
                return
            self.cluster.world.step()
        raise AssertionError("the ensemble does not get there")

    def go_on(self) -> None:
        self.until(lambda: False)

    def server(self, server_id: int) -> SimServer:
        return self.cluster.servers[server_id]

    def process(self, server_id: int) -> Incarnation:
        process = self.server(server_id).process
        assert process is not None
        return process


@pytest.fixture
def running() -> Running:
    return Running()


def test_an_epoch_has_one_leader(running: Running) -> None:
    role = running.process(running.leader_id).peer.role
    assert isinstance(role, Leader)
    follower = running.process(running.follower_id)
    watched = running.checks.watched[running.follower_id]
    with pytest.raises(ViolationError, match=r"server\.\d and server\.\d both lead epoch 1"):
        running.checks._begins_to_serve(follower, watched, role)


def test_a_leader_has_everything_that_is_committed(running: Running) -> None:
    leader = running.process(running.leader_id)
    role = leader.peer.role
    assert isinstance(role, Leader)
    role._epoch = 2
    watched = Watched(running.checks.ledger.root)
    with pytest.raises(ViolationError, match=r"leads with 0x0, but 0x1\w+ is committed"):
        running.checks._begins_to_serve(leader, watched, role)


def test_what_was_acknowledged_survives_a_restart(running: Running) -> None:
    """The machine comes back with an older disk."""
    server = running.server(running.follower_id)
    server.crash(power=False)
    server.fs = server._new_disk()
    with pytest.raises(ViolationError, match=r"had 0x1\w+ on disk and came back with 0x0"):
        server.start()


def test_epochs_survive_a_restart(running: Running) -> None:
    running.checks.watched[running.follower_id].promised = 7
    server = running.server(running.follower_id)
    server.crash(power=False)
    with pytest.raises(ViolationError, match="came back with epochs 1 and 1, but had promised 7"):
        server.start()


def test_a_commit_is_on_the_disks_of_a_quorum(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no server had synced anything."""
    monkeypatch.setattr(running.checks, "logged", lambda _server: None)
    for watched in running.checks.watched.values():
        watched.durable = running.checks.ledger.root
    with pytest.raises(ViolationError, match=r"commits 0x1\w+, which only \[\] have on disk"):
        running.go_on()


def test_an_ack_is_of_what_a_power_cut_would_leave(running: Running) -> None:
    follower = running.process(running.follower_id)
    log = running.checks.watched[running.follower_id].log
    running.checks._check_ack(follower, log.zxid)
    fs = follower.server.fs = follower.server._new_disk()
    follower.data_dir.prepare(fs, autocreate=True)
    for directory in ("/", "/data"):
        fs.sync_dir(directory)
    with pytest.raises(ViolationError, match=r"acks 0x1\w+, but would come back with 0x0"):
        running.checks._check_ack(follower, log.zxid)


def test_trees_with_the_same_zxid_have_the_same_digest(running: Running) -> None:
    running.process(running.follower_id).peer.state.database.tree.digest ^= 1
    with pytest.raises(ViolationError, match=f"server.{running.follower_id} has another tree than others"):
        running.go_on()


@pytest.mark.parametrize("what", ["tree", "sessions", "ephemerals"])
def test_in_the_end_servers_are_compared_in_full(running: Running, what: str) -> None:
    running.checks.same_everywhere()
    database = running.process(running.follower_id).peer.state.database
    if what == "tree":
        database.tree.nodes["/more"] = database.tree.nodes["/"]
    elif what == "sessions":
        database.sessions[OTHER] = 4000
    else:
        database.tree.ephemerals[OTHER] = {"/e": None}
    with pytest.raises(ViolationError, match=f"server {running.follower_id} has (an)?other {what}"):
        running.checks.same_everywhere()


def test_a_session_lives_as_long_as_it_may_and_is_not_given_back(running: Running) -> None:
    checks = running.checks
    now_us = running.cluster.world.now_us
    checks.attached(SESSION, now_us - 4_100_000, 4000, 2)
    expired = Txn.make(SESSION, 0, EPOCH << 1, 0, OpCode.CLOSE_SESSION, CloseSessionTxn([]), None)
    checks._check_expiry(expired)
    checks.attached(SESSION, now_us - 3_700_000, 4000, 2)
    with pytest.raises(ViolationError, match="session 0x1000 expires before its timeout"):
        checks._check_expiry(expired)
    checks.ledger.closed[SESSION] = 1
    with pytest.raises(ViolationError, match="session 0x1000 is given back, but was closed"):
        checks.attached(SESSION, now_us, 4000, 2)


@pytest.mark.parametrize(("led_us", "is_early"), [(4_100_000, False), (3_700_000, True)])
def test_what_an_earlier_leader_gives_back_a_later_one_counts_from_its_own_beginning(
    running: Running, led_us: int, is_early: bool
) -> None:
    checks = running.checks
    now_us = running.cluster.world.now_us
    checks._led_since_us[2] = now_us - led_us
    checks.attached(SESSION, now_us - 100_000, 4000, 1)
    expired = Txn.make(SESSION, 0, EPOCH << 1, 0, OpCode.CLOSE_SESSION, CloseSessionTxn([]), None)
    with pytest.raises(ViolationError, match="before its timeout") if is_early else nullcontext():
        checks._check_expiry(expired)


def test_answers_come_in_the_order_of_asking(running: Running) -> None:
    client = running.cluster.clients[0]
    running.until(lambda: client.outstanding)
    client.outstanding[0].xid += 1
    with pytest.raises(ViolationError, match=r"client\.1 waits for \d+ and gets \d+"):
        running.go_on()


def test_elections_are_not_stormy(running: Running) -> None:
    """Two servers that answer each other for ever."""
    follower = running.process(running.follower_id)
    question = Notification(ServerState.LOOKING, 1, 0, 1, 0)
    running.cluster.mesh._slot(follower, running.leader_id).sent = 0
    for _ in range(300):
        follower.notify(running.leader_id, question)
    with pytest.raises(ViolationError, match="more than 300 votes a second"):
        follower.notify(running.leader_id, question)


def test_progress_resumes(running: Running) -> None:
    """Two of three do not come back."""
    for server_id in {1, 2, 3} - {running.follower_id}:
        running.server(server_id).crash(power=False)
    with pytest.raises(ViolationError, match="30 s after everything was well nothing moves: "):
        running.cluster._reach(lambda: not running.checks.differences(), "nothing moves")


def test_only_a_promise_of_a_later_epoch_excuses_a_server_from_serving(running: Running) -> None:
    state = running.process(running.follower_id).peer.state
    running.checks.watched[running.follower_id].service = None
    assert running.checks.differences() == [f"server {running.follower_id} does not serve"]
    state.accepted_epoch = state.current_epoch + 1
    assert running.checks.differences() == []
    running.checks.watched[running.leader_id].service = None
    assert len(running.checks.differences()) == 2, "no leader keeps it out"
