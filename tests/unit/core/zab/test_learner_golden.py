"""What real leaders sent, against what a learner has to answer: the captured conversations, byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.core.zab.learner_host import (
    UP_TO_DATE,
    Host,
    filler,
    leader_info,
    new_leader,
    packet,
    shown,
    zxid,
)
from zkpy.core.zab.peer_state import counter_of, epoch_of
from zkpy.storage.snapshot_stream import SnapshotStream
from zkpy_protocol.quorum_packets import PacketType
from zkpy_protocol.records import QuorumPacket, decode_quorum_packet, encode_quorum_packet

if TYPE_CHECKING:
    from collections.abc import Iterable

VECTORS = Path(__file__).parents[4] / "protocol" / "vectors"


def load(name: str) -> dict[str, dict[str, Any]]:
    document = json.loads((VECTORS / name).read_text())
    return {capture["name"]: capture for capture in document["captures"]}


CAPTURES = load("quorum-wire.json") | load("quorum-wire-versions.json")
THREE_MEMBERS = (
    "server.1=127.0.0.1:24121:24131:participant\n"
    "server.2=127.0.0.1:24122:24132:participant\n"
    "server.3=127.0.0.1:24123:24133:participant\n"
    "server.4=127.0.0.1:24124:24134:participant\n"
    "server.6=127.0.0.1:24126:24136:observer"
)
BUILDS = ["3.6.3", "3.8.0", "3.9.3", "3.9.5", "master"]


def decode(data: bytes) -> QuorumPacket:
    packet, end = decode_quorum_packet(data, 0)
    assert end == len(data)
    return packet


class Conversation:
    """Replays a capture: the leader's side into a learner whose disk does at once what it is asked, and compares what it sends."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.sent: list[QuorumPacket] = []
        self._reported: set[int] = set()
        host.connect()

    def replay(self, name: str) -> None:
        messages = CAPTURES[name]["messages"]
        for message, following_one in zip(messages, [*messages[1:], None], strict=True):
            data = bytes.fromhex(message["hex"])
            if message["dir"] == "leader->learner":
                if message["decoded"]["name"] == "PING" and following_one is not None:
                    self._be_used(following_one["decoded"].get("touchTable", ()))
                self._from_leader(data, is_body=message["decoded"]["name"].startswith("SNAP-BODY"))
            else:
                self._from_learner(data)

    def _be_used(self, touch_table: Iterable[dict[str, Any]]) -> None:
        """Clients were active. A session is reported for the first time without that, because it was committed."""
        service = self.host.learner.service
        assert service is not None
        for entry in touch_table:
            session_id = int(entry["session"], 16)
            if session_id in self._reported:
                service.sessions.touch(session_id, entry["timeout"], self.host.mono_ms)
            self._reported.add(session_id)

    def _from_leader(self, data: bytes, *, is_body: bool) -> None:
        host = self.host
        if is_body:
            stream = SnapshotStream(host.owners, digest_enabled=True)
            assert stream.feed(data)
            host.snapshot(stream.tree, stream.sessions)
        else:
            host.learner.receive([decode(data)], host.wall_ms, host.mono_ms)
        host.settle()

    def _from_learner(self, data: bytes) -> None:
        wanted = decode(data)
        host = self.host
        if wanted.type == PacketType.REQUEST:
            body = wanted.data or b""
            head = body[:8], body[8:12], body[12:16]
            session, cxid, op = (int.from_bytes(part, signed=True) for part in head)
            host.learner.request(session, cxid, op, body[16:], wanted.authinfo)
        elif wanted.type == PacketType.REVALIDATE:
            body = wanted.data or b""
            host.learner.revalidate(int.from_bytes(body[:8]), int.from_bytes(body[8:]))
        self.sent += host.sent_packets()
        # One scripted learner did not ack every proposal.
        while self.sent and self.sent[0].type == PacketType.ACK != wanted.type:
            self.sent.pop(0)
        assert self.sent, f"nothing was sent where a learner sends {wanted}"
        assert encode_quorum_packet(self.sent.pop(0)) == data

    def finish(self, *left: tuple[str, int]) -> None:
        """Nothing went wrong, and nothing else was sent but `left`: what the scripted learner kept to itself."""
        host = self.host
        assert shown(self.sent + host.sent_packets()) == list(left)
        assert host.learner.over is None
        assert host.learner.fatal is None
        assert host.link.closed is None


def server(
    last_zxid: int = 0, *, epoch: int = 0, server_id: int = 4, observer: bool = False, **options: Any
) -> Host:
    """The server that the script of a capture claimed to be."""
    history = [filler(zxid(epoch_of(last_zxid), each + 1)) for each in range(counter_of(last_zxid))]
    host = Host(server_id=server_id, observer=observer, history=history, epoch=epoch, **options)
    host.tree.last_zxid = last_zxid
    return host


@pytest.mark.parametrize(
    ("name", "last_zxid", "epoch", "server_id", "zxid_then"),
    [
        ("snap-sync", 0, 0, 4, 0x100000004),
        ("diff-sync-empty", 0x100000009, 1, 4, 0x100000009),
        ("diff-sync", 0x100000009, 1, 4, 0x10000000C),
        ("diff-sync-with-outstanding", 0x10000000C, 1, 4, 0x10000000E),
        ("trunc-sync", 0x100000011, 1, 4, 0x10000000C),
        ("cross-epoch-ahead", 0x1000000FF, 1, 4, 0x100000013),
        ("new-epoch-zxid", 0x200000000, 2, 4, 0x200000000),
        ("non-member-follower", 0x10000000C, 1, 99, 0x10000000C),
        ("probe-leader-diff", 0, 0, 1, 0),
        ("probe-leader-snap", 0, 0, 2, 0),
        *((f"{build}/diff-sync", 0x100000006, 1, 4, 0x100000009) for build in BUILDS),
        *((f"{build}/trunc-sync", 0x10000006A, 1, 4, 0x100000009) for build in BUILDS),
    ],
)
def test_a_follower_is_synchronized_by_a_real_leader(
    name: str, last_zxid: int, epoch: int, server_id: int, zxid_then: int
) -> None:
    conversation = Conversation(server(last_zxid, epoch=epoch, server_id=server_id))
    conversation.replay(name)
    conversation.finish()
    host = conversation.host
    assert host.learner.service is not None
    assert host.tree.last_zxid == zxid_then
    assert host.learner.established_epoch == host.disk.current_epoch == host.state.current_epoch
    restarted = host.restarted()
    # The start of an epoch is in no log.
    assert restarted.tree.last_zxid == (zxid_then if counter_of(zxid_then) else 0)
    assert restarted.tree.digest == host.tree.digest


@pytest.mark.parametrize("build", BUILDS)
def test_a_follower_applies_what_real_leaders_broadcast(build: str) -> None:
    conversation = Conversation(server())
    conversation.replay(f"{build}/snap-sync-then-live")
    conversation.finish(("ACK", 0x100000006), ("PING", 0x100000006), ("PING", 0x100000006))
    host = conversation.host
    assert "/live" in host.tree.nodes
    assert host.tree.digest_mismatches == 0
    assert [txn.zxid for txn in host.disk.log] == [0x100000006]


def test_a_follower_serves_under_a_real_leader() -> None:
    """PROPOSAL and COMMIT, REQUEST, PING with the sessions that were committed, REVALIDATE, SYNC, in one go."""
    conversation = Conversation(server())
    for name in (
        "snap-sync",
        "proposal-commit-ping",
        "request-forwarding",
        "ping-with-sessions",
        "revalidate",
        "sync",
        "close-session",
    ):
        conversation.replay(name)
    conversation.finish()
    host = conversation.host
    assert host.tree.last_zxid == 0x100000009
    assert host.tree.digest_mismatches == 0
    assert "/fwd" not in host.tree.nodes, "its session is closed"
    assert [counter_of(txn.zxid) for txn in host.disk.log] == [5, 6, 7, 8, 9]
    assert [counter_of(txn.zxid) for txn in host.state.database.committed_log.txns()] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("sync", "live", "server_id"),
    [
        ("probe-leader-diff", "probe-leader-broadcast", 1),
        ("probe-leader-snap", "probe-leader-broadcast-2", 2),
    ],
)
def test_a_learner_sends_what_real_followers_send(sync: str, live: str, server_id: int) -> None:
    conversation = Conversation(server(server_id=server_id))
    conversation.replay(sync)
    conversation.replay(live)
    conversation.finish()
    host = conversation.host
    assert {"/viaprobe", "/wrongdigest"} <= host.tree.nodes.keys()
    assert host.tree.digest_mismatches == 1, "a wrong digest is noted, no more"


@pytest.mark.parametrize("build", BUILDS)
def test_an_observer_is_told_by_real_leaders(build: str) -> None:
    conversation = Conversation(server(server_id=6, observer=True))
    conversation.replay(f"{build}/observer-snap-inform")
    conversation.finish()
    host = conversation.host
    assert "/obs" in host.tree.nodes
    assert host.tree.digest_mismatches == 0
    assert [txn.zxid for txn in host.disk.log] == [0x10000000A]


def following(last_zxid: int, **more: Any) -> Conversation:
    """A conversation with a leader of epoch 1 that is synchronized already."""
    host = server(last_zxid, epoch=1, accepted_epoch=1, **more)
    conversation = Conversation(host)
    host.sent()
    host.receive(leader_info(1), packet(PacketType.DIFF, last_zxid), new_leader(1))
    host.settle()
    host.receive(UP_TO_DATE)
    host.sent()
    return conversation


def test_an_observer_forwards_requests_and_waits_for_syncs() -> None:
    conversation = following(0x10000000E, server_id=6, observer=True)
    conversation.replay("observer-inform")
    conversation.finish()
    assert conversation.host.tree.last_zxid == 0x100000011


def test_a_follower_takes_part_in_a_reconfiguration() -> None:
    """Adding an observer changes neither leader nor role: the follower stays."""
    conversation = following(0x100000012, reconfig_enabled=True, members=THREE_MEMBERS)
    conversation.replay("reconfig-follower")
    conversation.finish()
    host = conversation.host
    view = host.state.view
    assert view.committed.version == view.last_seen.version == 0x100000013
    assert 7 in view.committed.servers
    text = view.committed.text()
    assert host.disk.configs == [("proposed", text), ("committed", text)]
    node = host.tree.get("/zookeeper/config")
    assert node is not None
    assert (node.data, node.mzxid) == (text.encode(), 0x100000013)


def test_an_observer_takes_part_in_a_reconfiguration() -> None:
    conversation = following(
        0x100000011, server_id=6, observer=True, reconfig_enabled=True, members=THREE_MEMBERS
    )
    conversation.replay("reconfig-observer")
    conversation.finish()
    host = conversation.host
    assert host.tree.last_zxid == 0x100000013
    assert host.state.view.committed.version == 0x100000013
    assert host.disk.configs == [("committed", host.state.view.committed.text())]


def test_without_reconfig_enabled_the_txn_is_all_there_is_to_a_reconfiguration() -> None:
    conversation = following(0x100000012, members=THREE_MEMBERS)
    conversation.replay("reconfig-follower")
    conversation.finish()
    host = conversation.host
    assert host.tree.last_zxid == 0x100000013
    assert host.state.view.last_seen.version == 0
    assert host.disk.configs == []


def test_the_leader_of_an_older_epoch_is_refused() -> None:
    conversation = Conversation(server(epoch=0, accepted_epoch=9))
    conversation.replay("leaderinfo-older-epoch")
    host = conversation.host
    assert host.learner.over == "the leader's epoch 1 is older than the accepted epoch 9"
    assert host.link.closed == host.learner.over
    assert host.sent() == []
    assert host.disk.accepted_epoch == 9


def test_a_configuration_version_is_part_of_the_introduction() -> None:
    conversation = Conversation(server(epoch=1, members=THREE_MEMBERS + "\nversion=7000000000"))
    conversation.replay("config-version-ahead")
    conversation.finish()


def test_a_leader_from_before_epochs_were_negotiated_is_left() -> None:
    """Its first packet is NEWLEADER. Such leaders are older than 3.4."""
    host = server(epoch=1)
    host.connect()
    (answer,) = CAPTURES["pre-zab1-learner"]["messages"][1:]
    host.receive(decode(bytes.fromhex(answer["hex"])))
    assert host.learner.over == "packet of type 10 in the phase DISCOVERY"
