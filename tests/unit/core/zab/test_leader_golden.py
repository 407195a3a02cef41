"""What a recorded learner sent goes to a `Leader`; what real leaders answered, it answers, byte for byte.

The history is made again first: the same requests at the same times give the recorded txns, digests included.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.core.zab.led import Led, P, ScriptedLearner, z
from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.txn import Txn
from zkpy.core.zab.quorum_link import SnapshotBody
from zkpy_protocol.opcodes import CreateFlags, OpCode
from zkpy_protocol.records import (
    ACL,
    CreateRequest,
    Id,
    QuorumPacket,
    ReconfigRequest,
    SetDataRequest,
    decode_quorum_packet,
    decode_stat,
    encode_create_request,
    encode_reconfig_request,
    encode_set_data_request,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTORS = Path(__file__).parents[4] / "protocol" / "vectors"
CAPTURES: dict[str, dict[str, Any]] = {
    capture["name"]: capture
    for file in ("quorum-wire.json", "quorum-wire-versions.json")
    for capture in json.loads((VECTORS / file).read_text(encoding="utf-8"))["captures"]
}
SNAP_BODY = "SNAP-BODY"
Message = tuple[str, bytes, dict[str, Any]]


def messages(name: str) -> Iterator[Message]:
    """(who speaks, bytes, annotation) of a capture."""
    for message in CAPTURES[name]["messages"]:
        decoded = message["decoded"]
        yield message["dir"].split("->")[0], bytes.fromhex(message["hex"]), decoded


def packet(raw: bytes) -> QuorumPacket:
    found, end = decode_quorum_packet(raw)
    assert end == len(raw)
    return found


def recorded_txns() -> dict[int, Txn]:
    """Every txn that the captures of the first epoch hold."""
    found: dict[int, Txn] = {}
    for name in CAPTURES:
        if "/" in name or CAPTURES[name]["port"] != "peer" or "probe" in name:
            continue
        for speaker, raw, decoded in messages(name):
            if speaker == "leader" and decoded["name"] in ("PROPOSAL", "INFORM"):
                txn = Txn.from_payload(packet(raw).data or b"")
                found[txn.zxid] = txn
    return found


TXNS = recorded_txns()
CONFIG = next(
    decoded["config"] for _, _, decoded in messages("diff-sync-empty") if decoded["name"] == "NEWLEADER"
)
VIEW = EnsembleView(Membership.from_text(CONFIG))
WRITER = 0x1000024EB0F0000
OPEN = [ACL(31, Id("world", "anyone"))]


class Ensemble(Led):
    """Server 3 leads the recorded ensemble; 1 and 2 follow and ack what they get, unless they are frozen."""

    def __init__(
        self, *, view: EnsembleView = VIEW, followers: tuple[int, ...] = (1, 2, 5), **options: Any
    ) -> None:
        super().__init__(server_id=3, view=view, **({"reconfig_enabled": True} | options))
        self.frozen = False
        self.others = self.establish(*followers)

    def turn(self) -> None:
        """Everybody gets to do what he has to."""
        while self.state.unlogged or any(other.link.out for other in self.others if not self.frozen):
            self.settle()
            for other in self.others:
                if self.frozen:
                    continue
                for item in other.packets():
                    if isinstance(item, QuorumPacket) and item.type == P.PROPOSAL:
                        other.ack(item.zxid)

    def make(self, op: int, record: bytes, txn: tuple[int, int, int]) -> Txn:
        """A write with this session, cxid and time."""
        session_id, cxid, self.wall_ms = txn
        made = self.write(op, record, session_id=session_id, cxid=cxid)
        self.turn()
        return made

    def replay(self, upto: int) -> None:
        """Make the recorded history again; every txn whose bytes are known has them."""
        for counter in range(self.service.last_proposed - z(1, 0) + 1, upto + 1):
            zxid = z(1, counter)
            made = self._first(counter) if counter <= 4 else self._again(TXNS[zxid])
            assert made.zxid == zxid
            if counter > 4:
                assert made.payload == TXNS[zxid].payload

    def _first(self, counter: int) -> Txn:
        """What the recorded ensemble did before the first recorded txn, as the recorded snapshot tells."""
        stats = {
            node["path"]: node["stat"]
            for _, _, decoded in messages("snap-sync")
            if decoded["name"] == SNAP_BODY
            for node in decoded["nodes"]
        }
        if counter == 1:
            time = stats["/a"]["ctime"] - 1
            return self.make(OpCode.CREATE_SESSION, struct.pack(">i", 20000), (WRITER, 0, time))
        if counter == 4:
            record = encode_set_data_request(SetDataRequest("/a", b"two", -1))
            return self.make(OpCode.SET_DATA, record, (WRITER, 3, stats["/a"]["mtime"]))
        path = "/a" if counter == 2 else "/a/e"
        flags = CreateFlags.PERSISTENT if counter == 2 else CreateFlags.EPHEMERAL
        create = encode_create_request(CreateRequest(path, b"", OPEN, flags))
        return self.make(OpCode.CREATE, create, (WRITER, counter - 1, stats[path]["ctime"]))

    def _again(self, txn: Txn) -> Txn:
        record = txn.record
        stamp = (txn.client_id, txn.cxid, txn.time)
        if txn.type in (OpCode.CREATE, OpCode.CREATE2):
            create = CreateRequest(record.path, record.data, record.acl, int(record.ephemeral))
            return self.make(txn.type, encode_create_request(create), stamp)
        if txn.type == OpCode.ERROR:
            create = CreateRequest("/fwd", b"F", OPEN, 1)
            return self.make(OpCode.CREATE, encode_create_request(create), stamp)
        if txn.type == OpCode.CREATE_SESSION:
            return self.make(txn.type, struct.pack(">i", record.time_out), stamp)
        if txn.type == OpCode.CLOSE_SESSION:
            return self.make(txn.type, b"", stamp)
        assert txn.type == OpCode.RECONFIG
        return self.make(txn.type, RECONFIG, stamp)


RECONFIG = encode_reconfig_request(
    ReconfigRequest("server.7=127.0.0.1:24127:24037:observer;127.0.0.1:24117", None, None, -1)
)


def run(name: str, ensemble: Ensemble, learner: ScriptedLearner, *, upto: int | None = None) -> None:
    """Play a capture: the learner speaks as recorded, the leader has to answer with the recorded bytes."""
    expected: list[tuple[bytes, dict[str, Any]]] = []
    for speaker, raw, decoded in list(messages(name))[:upto]:
        if speaker == "leader":
            expected.append((raw, decoded))
            continue
        compare(learner, expected)
        expected = []
        learner.send_bytes(raw)
        ensemble.turn()
    compare(learner, expected)


def compare(learner: ScriptedLearner, expected: list[tuple[bytes, dict[str, Any]]]) -> None:
    sent = learner.raw()
    for item, (raw, decoded) in zip(sent, expected, strict=True):
        if decoded["name"] == SNAP_BODY:
            assert isinstance(item, SnapshotBody)
            check_body(item, decoded)
        else:
            assert item == raw, decoded


def check_body(body: SnapshotBody, decoded: dict[str, Any]) -> None:
    """The image has the recorded nodes and sessions; how it is written is the shell's business."""
    assert {f"0x{id_:x}": timeout for id_, timeout in body.sessions.items()} == decoded["sessions"]
    nodes = {path: node for path, node in body.tree.nodes.items() if path != "/"}
    assert sorted(nodes) == [node["path"] for node in decoded["nodes"]]
    for node in decoded["nodes"]:
        mine = nodes[node["path"]]
        assert (mine.data or b"") == bytes.fromhex(node["data"]), node["path"]
        stat, _ = decode_stat(body.tree.stat(mine), 0)
        for field in ("czxid", "mzxid", "pzxid", "version", "aversion"):
            assert getattr(stat, field) == node["stat"][field], (node["path"], field)


def ensemble_at(counter: int, **options: Any) -> Ensemble:
    ensemble = Ensemble(**options)
    ensemble.replay(counter)
    return ensemble


# -- mode packets


@pytest.mark.parametrize(
    ("name", "counter"),
    [
        ("snap-sync", 4),
        ("diff-sync-empty", 9),
        ("diff-sync", 12),
        ("trunc-sync", 12),
        ("leaderinfo-older-epoch", 12),
        ("learnerinfo-12-bytes", 12),
    ],
)
def test_a_follower_is_synchronized_as_recorded(name: str, counter: int) -> None:
    ensemble = ensemble_at(counter)
    run(name, ensemble, ensemble.learner(4))


def test_a_learner_from_before_leaderinfo_gets_newleader_first() -> None:
    """The capture ends with NEWLEADER; the mode packet has to follow it (§7.2 step 5)."""
    ensemble = ensemble_at(12)
    learner = ensemble.learner(4)
    ((_, request, _), (_, new_leader, _)) = messages("pre-zab1-learner")
    learner.send_bytes(request)
    assert learner.link.out[0] == new_leader
    assert learner.received() == [("NEW_LEADER", z(1, 0)), ("DIFF", z(1, 12))]


def test_a_follower_with_a_later_configuration_is_turned_away() -> None:
    ensemble = ensemble_at(12)
    learner = ensemble.learner(4)
    run("config-version-ahead", ensemble, learner)
    assert learner.closed is not None
    assert "configuration" in learner.closed


def test_a_stranger_is_served_and_its_acks_do_not_count() -> None:
    ensemble = ensemble_at(12)
    learner = ensemble.learner(99)
    run("non-member-follower", ensemble, learner)
    ensemble.frozen = True
    zxid = ensemble.propose()
    ensemble.settle()
    learner.ack(zxid)
    assert learner.received() == [("PROPOSAL", zxid)]
    assert ensemble.service.proposals.last_committed == z(1, 12)


def test_an_outstanding_proposal_is_part_of_the_sync_and_committed_after_it() -> None:
    """The frozen others ack nothing; server 4 acks after UPTODATE, and with the leader and one other it is committed."""
    ensemble = ensemble_at(13)
    ensemble.frozen = True
    ensemble._again(TXNS[z(1, 14)])
    learner = ensemble.learner(4)
    *_, last_ack, commit = messages("diff-sync-with-outstanding")
    run("diff-sync-with-outstanding", ensemble, learner, upto=-2)
    learner.send_bytes(last_ack[1])
    assert learner.raw() == [], "two of five"
    ensemble.frozen = False
    ensemble.turn()
    assert learner.raw() == [commit[1]]


# -- another epoch


def second_epoch(*, txns: int) -> Ensemble:
    """The same servers in epoch 2, with this many txns in it."""
    before = ensemble_at(19)
    config = before.state.view.committed
    assert (
        config.text()
        == next(d for _, _, d in messages("cross-epoch-ahead") if d["name"] == "NEWLEADER")["config"]
    )
    ensemble = Ensemble(view=EnsembleView(config), history=before.log)
    for _ in range(txns):
        ensemble.propose()
        ensemble.turn()
    return ensemble


@pytest.mark.parametrize(
    ("name", "txns"), [("cross-epoch-ahead", 0), ("new-epoch-zxid", 0), ("cross-epoch-gap", 2)]
)
def test_a_follower_of_another_epoch_is_synchronized_as_recorded(name: str, txns: int) -> None:
    ensemble = second_epoch(txns=txns)
    learner = ensemble.learner(4)
    if name != "cross-epoch-gap":
        run(name, ensemble, learner)
        return
    # The recording has a tree that nobody knows behind SNAP.
    recorded = [message for message in messages(name) if message[2]["name"] != SNAP_BODY]
    for speaker, raw, decoded in recorded:
        if speaker == "learner":
            learner.send_bytes(raw)
        else:
            item = learner.link.out.pop(0)
            assert item == raw, decoded
            if decoded["name"] == "SNAP":
                assert isinstance(learner.link.out.pop(0), SnapshotBody)
    assert learner.link.out == []


# -- the steady state


def synced(ensemble: Ensemble, counter: int, *, is_observer: bool = False) -> ScriptedLearner:
    """A learner that has everything; server 6 observes."""
    learner = ensemble.learner(6 if is_observer else 4, is_observer=is_observer)
    learner.introduce(1)
    learner.ack_epoch(z(1, counter), -1)
    learner.ack_new_leader()
    learner.ack_new_leader()
    learner.raw()
    return learner


def test_a_proposal_its_commit_and_a_ping() -> None:
    ensemble = ensemble_at(4)
    learner = synced(ensemble, 4)
    proposal, commit, ping, answer = messages("proposal-commit-ping")
    ensemble.replay(5)
    assert learner.raw() == [proposal[1], commit[1]]
    ensemble.beat()
    assert learner.raw() == [ping[1]]
    learner.send_bytes(answer[1])
    assert learner.closed is None


def test_a_learner_forwards_requests_and_touches_sessions() -> None:
    """Captures request-forwarding, ping-with-sessions, revalidate, sync and close-session, one after the other."""
    ensemble = ensemble_at(5)
    learner = synced(ensemble, 5)
    expected: list[bytes] = []
    session_id = 0x400001234560000
    for name in ("request-forwarding", "ping-with-sessions", "revalidate", "sync", "close-session"):
        for speaker, raw, decoded in messages(name):
            if speaker == "leader":
                expected.append(raw)
                if decoded["name"] == "PING":
                    ensemble.beat()
                continue
            if decoded["name"] == "REQUEST":
                assert learner.raw() == expected, name
                expected = []
                txn = TXNS.get(ensemble.service.last_proposed + 1)
                if txn is not None:
                    ensemble.wall_ms = txn.time
            learner.send_bytes(raw)
            if decoded["name"] == "ACK":
                ensemble.turn()
            elif decoded["name"] == "REQUEST":
                ensemble.settle()
        if name == "request-forwarding":
            assert ensemble.service.tracker.sessions[session_id].owner is learner.link
    assert learner.raw() == expected
    assert session_id not in ensemble.service.tracker.sessions
    assert ensemble.service.tree.get("/fwd") is None


def test_an_observer_is_informed_and_may_ask_as_well() -> None:
    ensemble = ensemble_at(14)
    learner = synced(ensemble, 14, is_observer=True)
    close, ask, inform, sync_ask, inform2, sync = messages("observer-inform")
    ensemble.replay(15)
    assert learner.raw() == [close[1]]
    ensemble.replay(16)
    assert learner.raw() == [inform[1]]
    ensemble.wall_ms = TXNS[z(1, 17)].time
    learner.send_bytes(ask[1])
    learner.send_bytes(sync_ask[1])
    assert learner.raw() == [], "nothing is committed yet"
    ensemble.turn()
    assert learner.raw() == [inform2[1], sync[1]]


def test_a_reconfiguration_is_told_to_followers_and_observers() -> None:
    ensemble = ensemble_at(17)
    ensemble.replay(18)
    follower = synced(ensemble, 18)
    observer = synced(ensemble, 18, is_observer=True)
    (_, inform, _), (_, activated, _) = messages("reconfig-observer")
    proposal, ack, commit = messages("reconfig-follower")
    assert packet(inform).data == TXNS[z(1, 18)].payload
    ensemble.frozen = True
    ensemble._again(TXNS[z(1, 19)])
    ensemble.settle()
    assert follower.raw() == [proposal[1]]
    follower.send_bytes(ack[1])
    ensemble.frozen = False
    ensemble.turn()
    assert follower.raw() == [commit[1]]
    assert observer.raw() == [activated]
    assert ensemble.state.view.committed.version == z(1, 19)
    assert not ensemble.state.view.is_reconfiguring
    assert ensemble.leader.designated_leader is None


# -- every build


@pytest.mark.parametrize("build", ["3.6.3", "3.8.0", "3.9.3", "3.9.5", "master"])
def test_leaders_of_every_build_send_the_same_packets(build: str) -> None:
    """Four connections, one after the other. The txns are others here, so that kinds and zxids are compared."""
    config = next(
        decoded["config"] for _, _, decoded in messages(f"{build}/diff-sync") if "config" in decoded
    )
    ensemble = Ensemble(
        view=EnsembleView(Membership.from_text(config)), followers=(1, 2), reconfig_enabled=False
    )
    for capture, counter in (
        ("snap-sync-then-live", 5),
        ("diff-sync", 9),
        ("trunc-sync", 9),
        ("observer-snap-inform", 9),
    ):
        while ensemble.service.last_proposed < z(1, counter):
            ensemble.propose()
            ensemble.turn()
        is_observer = "observer" in capture
        learner = ensemble.learner(6 if is_observer else 4, is_observer=is_observer)
        for speaker, raw, decoded in messages(f"{build}/{capture}"):
            if speaker == "learner":
                learner.send_bytes(raw)
                continue
            if not learner.link.out and decoded["name"] == "PING":
                ensemble.beat()
            elif not learner.link.out:
                ensemble.propose()
                ensemble.turn()
            item = learner.link.out.pop(0)
            if decoded["name"] == SNAP_BODY:
                assert isinstance(item, SnapshotBody)
            elif decoded["name"] in ("PROPOSAL", "INFORM"):
                assert isinstance(item, bytes)
                assert item[:12] == raw[:12], decoded
            else:
                assert item == raw, decoded
        assert learner.raw() == []
        ensemble.leader.disconnected(learner.link)
