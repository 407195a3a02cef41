"""What operators are answered by a member of an ensemble, role by role: the keys and lines that Apache 3.9.5 has there.

``conformance/ensemble_words.py`` compares the same with running servers.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.unit.core.zab.learner_host import Host, commit, proposal, zxid
from tests.unit.core.zab.led import Led
from tests.unit.ops.asked_server import MONO_MS, WALL_MS, AskedServer
from tests.unit.ops.test_metrics import golden_keys
from zkpy.auth.providers import AuthSettings, ProviderRegistry
from zkpy.core.local_sessions import LocalSessions
from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.peer import Peer
from zkpy.core.read_only import ReadOnlyService
from zkpy.core.service import NoService
from zkpy.core.txn import Txn
from zkpy.ops.four_letter import FourLetterWords
from zkpy.ops.report import ServerView
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import ErrorTxn

if TYPE_CHECKING:
    from pathlib import Path

    from zkpy.core.service import Service
    from zkpy.core.zab.leader import Leader
    from zkpy.core.zab.learner import Learner
    from zkpy.core.zab.peer_state import PeerState

NOT_SERVING = "This ZooKeeper instance is not currently serving requests\n"
LEADER_KEYS = {
    "zk_peer_state",
    "zk_quorum_size",
    "zk_learners",
    "zk_synced_followers",
    "zk_synced_non_voting_followers",
    "zk_synced_observers",
    "zk_pending_syncs",
    "zk_leader_uptime",
    "zk_last_proposal_size",
    "zk_min_proposal_size",
    "zk_max_proposal_size",
}


def member(
    tmp_path: Path, state: PeerState, role: Leader | Learner | None, service: Service | None = None
) -> AskedServer:
    """A server that can be asked, with this role; `service` if it serves without one."""
    (tmp_path / "myid").write_text("1")
    server = AskedServer(
        tmp_path, extra="initLimit=10\nsyncLimit=5\nserver.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\n"
    )
    peer = Peer(state, random.Random(1))
    peer.role = role
    if role is not None:
        assert role.service is not None
        service = role.service
    assert service is not None
    server.service = service  # type: ignore[assignment]  # a standalone server has the service of a leader
    registry = ProviderRegistry.from_config(AuthSettings(), lambda: None)
    server.view = ServerView(
        server.config, server, [server.port], MONO_MS, server.view.storage_stats, registry, peer
    )
    server.words = FourLetterWords(server.view)
    return server


def leading(tmp_path: Path, *, leader_serves: bool = True) -> tuple[Led, AskedServer]:
    led = Led(voters=(1, 2, 3), observers=(4,), leader_serves=leader_serves)
    led.establish(2)
    return led, member(tmp_path, led.state, led.leader)


def learning(tmp_path: Path, *, observer: bool = False) -> tuple[Host, AskedServer]:
    host = Host(observer=observer)
    host.follow()
    return host, member(tmp_path, host.state, host.learner)


def reading(tmp_path: Path) -> AskedServer:
    state = Host().state
    return member(tmp_path, state, None, ReadOnlyService(state.parts, state.database, WALL_MS, MONO_MS))


def monitored(server: AskedServer) -> dict[str, str]:
    lines = [line.split("\t") for line in server.ask(b"mntr").splitlines()]
    return {key: value for key, value in lines if not key.endswith("_per_namespace")}


def apache_keys() -> set[str]:
    return {key for key in golden_keys() if not key.endswith("_per_namespace")}


# -- mntr


def test_a_leader_has_the_keys_of_apaches(tmp_path: Path) -> None:
    _, server = leading(tmp_path)
    of_learner = {
        *(f"zk_{kind}_2_learner_handler_qp_size" for kind in ("avg", "min", "max", "cnt", "sum")),
        *(f"zk_{kind}_2_learner_handler_qp_time_ms" for kind in ("avg", "min", "max", "cnt", "sum")),
        *(f"zk_{kind}_2_learner_handler_qp_time_ms" for kind in ("p50", "p95", "p99", "p999")),
    }
    assert monitored(server).keys() == apache_keys() | LEADER_KEYS | of_learner


def test_a_leader_counts_its_learners_and_proposals(tmp_path: Path) -> None:
    led, server = leading(tmp_path)
    led.learner(4, is_observer=True).follow()
    led.learner(5).follow()
    led.learner(3)
    for _ in range(3):
        led.propose()
    size = str(len(led.state.unlogged[0].payload))
    led.beat()
    found = monitored(server)
    assert (found["zk_server_state"], found["zk_peer_state"]) == ("leader", "leading - broadcast")
    assert [found[f"zk_{key}"] for key in ("learners", "synced_followers", "synced_observers")] == [
        "4",
        "2",
        "1",
    ]
    assert (found["zk_synced_non_voting_followers"], found["zk_quorum_size"]) == ("1", "3")
    assert found["zk_leader_uptime"] == "1000"
    assert found["zk_last_proposal_size"] == found["zk_min_proposal_size"] == size
    # Who had nothing of the epoch before got a snapshot.
    assert (found["zk_diff_count"], found["zk_snap_count"], found["zk_proposal_count"]) == ("1", "2", "3")
    assert found["zk_commit_count"] == "0"


@pytest.mark.parametrize(
    ("observer", "state", "more"),
    [
        (False, "following - broadcast", set()),
        (True, "observing - broadcast", {"zk_observer_master_id"}),
    ],
)
def test_a_learner_has_the_keys_of_apaches(
    tmp_path: Path, observer: bool, state: str, more: set[str]
) -> None:
    _, server = learning(tmp_path, observer=observer)
    found = monitored(server)
    assert found.keys() == apache_keys() | {"zk_peer_state", "zk_quorum_size"} | more
    assert found["zk_peer_state"] == state
    assert found.get("zk_observer_master_id", "3") == "3"


def test_a_learner_counts_what_the_leader_sends(tmp_path: Path) -> None:
    host, server = learning(tmp_path)
    then = host.wall_ms - 30
    txns = [Txn.make(0, 0, zxid(1, n), then, OpCode.ERROR, ErrorTxn(-101), None) for n in (1, 2, 3)]
    host.receive(*map(proposal, txns))
    host.settle()
    host.wall_ms += 12
    host.receive(commit(txns[0]), commit(txns[1]))
    found = monitored(server)
    assert (found["zk_learner_proposal_received_count"], found["zk_learner_commit_received_count"]) == (
        "3",
        "2",
    )
    assert (found["zk_cnt_proposal_latency"], found["zk_max_proposal_latency"]) == ("3", "30")
    assert (found["zk_cnt_propagation_latency"], found["zk_sum_propagation_latency"]) == ("2", "84")
    assert found["zk_sum_commit_propagation_latency"] == "84"
    assert (found["zk_commit_count"], found["zk_proposal_count"]) == ("0", "0")
    assert found["zk_request_commit_queued"] == "2"


def test_a_server_that_only_reads_is_no_member_for_its_monitor(tmp_path: Path) -> None:
    found = monitored(reading(tmp_path))
    assert found.keys() == apache_keys()
    assert found["zk_server_state"] == "read-only"


def test_srst_sets_back_what_an_ensemble_counts(tmp_path: Path) -> None:
    led, server = leading(tmp_path)
    led.propose()
    led.beat()
    led.state.stats.looking = 4
    server.ask(b"srst")
    found = monitored(server)
    assert found["zk_last_proposal_size"] == found["zk_max_proposal_size"] == "-1"
    assert (found["zk_looking_count"], found["zk_diff_count"], found["zk_cnt_inflight_diff_count"]) == (
        "0",
        "0",
        "0",
    )
    assert found["zk_cnt_2_learner_handler_qp_size"] == "0"
    assert found["zk_synced_followers"] == "1"


# -- srvr and stat


def test_srvr_of_a_leader_ends_with_the_sizes_of_its_proposals(tmp_path: Path) -> None:
    led, server = leading(tmp_path)
    assert server.ask(b"srvr").splitlines()[-3:] == [
        "Mode: leader",
        "Node count: 5",
        "Proposal sizes last/min/max: -1/-1/-1",
    ]
    led.propose()
    (txn,) = led.state.unlogged
    size = len(txn.payload)
    assert server.ask(b"stat").splitlines()[-1] == f"Proposal sizes last/min/max: {size}/{size}/{size}"


def test_srvr_of_a_learner_ends_with_the_nodes(tmp_path: Path) -> None:
    _, server = learning(tmp_path, observer=True)
    assert server.ask(b"srvr").splitlines()[-2:] == ["Mode: observer", "Node count: 5"]


def test_a_server_that_only_reads_says_so_behind_its_version(tmp_path: Path) -> None:
    server = reading(tmp_path)
    for word in (b"srvr", b"stat"):
        lines = server.ask(word).splitlines()
        assert lines[1] == "READ-ONLY mode; serving only read-only clients"
        assert "Mode: read-only" in lines
    assert server.ask(b"isro") == "ro"


# -- conf


def test_conf_of_a_member_ends_with_the_membership(tmp_path: Path) -> None:
    membership = Membership.from_text(
        "server.1=h1:11:12:participant;0.0.0.0:13\nserver.2=h2:21:22:participant\nserver.3=h3:31:32:observer\nversion=1f"
    )
    led = Led(view=EnsembleView(membership))
    led.establish(2)
    text = member(tmp_path, led.state, led.leader).ask(b"conf")
    assert text.split("serverId=")[1] == (
        "1\ninitLimit=10\nsyncLimit=5\nelectionAlg=3\nelectionPort=12\nquorumPort=11\npeerType=0\nmembership: \n"
        "server.1=h1:11:12:participant;0.0.0.0:13\nserver.2=h2:21:22:participant\nserver.3=h3:31:32:observer\n"
        "version=1f"
    )


def test_conf_names_every_port_of_several_addresses_once(tmp_path: Path) -> None:
    membership = Membership.from_text(
        "server.1=a:1:2|b:3:2:participant\nserver.2=h2:21:22:participant", multi_address_enabled=True
    )
    led = Led(view=EnsembleView(membership))
    led.establish(2)
    lines = member(tmp_path, led.state, led.leader).ask(b"conf").splitlines()
    assert {"electionPort=2", "quorumPort=1|3"} <= set(lines)


def test_conf_of_an_observer_tells_its_type(tmp_path: Path) -> None:
    host = Host(observer=True, members="server.1=a:1:2:observer\nserver.2=b:1:2\nserver.3=c:1:2")
    host.follow()
    assert "peerType=1" in member(tmp_path, host.state, host.learner).ask(b"conf").splitlines()


def test_conf_of_a_server_that_only_reads_ends_with_its_type(tmp_path: Path) -> None:
    assert reading(tmp_path).ask(b"conf").endswith("\nquorumPort=2181\npeerType=0\n")


# -- dump


def test_dump_of_a_learner_lists_sessions_and_timeouts(tmp_path: Path) -> None:
    host, server = learning(tmp_path)
    host.state.database.sessions |= {0x20: 30000, 0x10: 4000}
    assert server.ask(b"dump").startswith(
        "SessionTracker dump:\nGlobal Sessions(2):\n0x10\t4000ms\n0x20\t30000ms\nephemeral nodes dump:\n"
    )


def test_dump_lists_local_sessions_first(tmp_path: Path) -> None:
    led, server = leading(tmp_path)
    local = led.service.local = LocalSessions(2000, MONO_MS, may_upgrade=True)
    local.open(0x1234, 4000, MONO_MS)
    lines = server.ask(b"dump").splitlines()
    assert lines[1] == "Local Session Sets (1)/(1):"
    assert lines[3] == "\t0x1234"
    assert lines[4] == "Global Session Sets (0)/(0):"
    assert monitored(server)["zk_local_sessions"] == "1"
    host, follower = learning(tmp_path)
    assert host.learner.service is not None
    host.learner.service.local = LocalSessions(1000, MONO_MS, may_upgrade=True)
    assert follower.ask(b"dump").splitlines()[1:3] == ["Local Session Sets (0)/(0):", "Global Sessions(0):"]


# -- not serving


def test_a_leader_that_takes_no_clients_does_not_serve(tmp_path: Path) -> None:
    _, server = leading(tmp_path, leader_serves=False)
    words = (b"srvr", b"stat", b"mntr", b"conf", b"cons", b"dump", b"wchs", b"dirs", b"srst", b"crst")
    assert {server.ask(word) for word in words} == {NOT_SERVING}
    assert (server.ask(b"isro"), server.ask(b"ruok"), server.ask(b"gtmk")) == ("null", "imok", "306")
    client = server.client()
    assert client.transport.is_closed
    assert client.transport.written == b""


def test_a_server_that_looks_for_a_leader_does_not_serve(tmp_path: Path) -> None:
    state = Host().state
    server = member(tmp_path, state, None, NoService(state.parts, state.database.tree.owners))
    assert server.ask(b"mntr") == NOT_SERVING
    client = server.client()
    assert client.transport.is_closed
    assert client.transport.written == b""


def test_a_role_that_is_over_is_not_shown(tmp_path: Path) -> None:
    """Between the end of a role and the next input the service still has the name of the role."""
    led, server = leading(tmp_path)
    assert server.view.leader is led.leader
    assert server.view.learner is None
    peer = server.view.peer
    assert peer is not None
    peer.role = None
    assert server.view.leader is None
