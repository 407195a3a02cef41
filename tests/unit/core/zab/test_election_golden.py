"""Recorded elections: what real servers sent, an `Election` in their place sends, byte for byte.

Left out of every recording: initial messages, and last messages that were sent again because a connection was new; both
belong to the transport. Times of the recorded Java servers are met within some tens of milliseconds.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.core.zab.election_network import Network
from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.zab.election import Election
from zkpy.core.zab.votes import Vote
from zkpy_protocol.election import Notification, ServerState, decode_notification, frame_notification
from zkpy_protocol.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTORS = Path(__file__).parents[4] / "protocol" / "vectors"
CAPTURES: dict[str, dict[str, Any]] = {
    capture["name"]: capture
    for file in ("quorum-wire.json", "quorum-wire-versions.json")
    for capture in json.loads((VECTORS / file).read_text(encoding="utf-8"))["captures"]
    if "fle-" in capture["name"]
}
BUILDS = ("3.4.14", "3.6.3", "3.8.0", "3.9.3", "3.9.5", "master")
TOLERANCE_MS = 90


def frames(name: str, direction: str, server_id: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Notifications of a capture: (ms, id of the real server, frame). `direction` is the probe's: ``->`` or ``<-``."""
    for message in CAPTURES[name]["messages"]:
        _, arrow, _, sid = message["dir"].split()
        raw = bytes.fromhex(message["hex"])
        if arrow == direction and not raw.startswith(b"\xff") and server_id in {None, int(sid)}:
            yield message.get("tMs", 0), int(sid), raw


def config_of(name: str) -> str:
    for direction in ("<-", "->"):
        for _, _, frame in frames(name, direction):
            try:
                notification = decode_notification(frame[4:])
            except DecodeError:
                continue
            if notification.config:
                return notification.config
    raise AssertionError(name)


def view_of(name: str) -> EnsembleView:
    text = config_of(name)
    membership = Membership.from_text(text)
    assert membership.text() == text
    return EnsembleView(membership)


def standing_in(name: str, server_id: int) -> Election:
    """The real server of a capture after it has elected 3 and is in sync: round 1, epoch 1."""
    election = Election(server_id, view_of(name))
    election.start(0, 0, is_participant=True, mono_ms=0)
    election.stand(ServerState.LEADING if server_id == 3 else ServerState.FOLLOWING, Vote(3, 0, 1, 0))
    election.settle(1)
    election.outbox.clear()
    return election


def answers(election: Election, sender: int, frame: bytes) -> list[bytes]:
    try:
        election.receive(sender, decode_notification(frame[4:]), 1000)
    except DecodeError:
        return []
    outbox, election.outbox = election.outbox, []
    assert all(to == sender for to, _ in outbox)
    return [frame_notification(notification) for _, notification in outbox]


# Who speaks, and how many answers its notifications get (apart from a last message that is sent again).
SCRIPTED = {
    "fle-init-v2": (4, 1),
    "fle-init-34": (4, 1),
    "fle-init-wildcard": (4, 1),
    "fle-msg-28": (4, 1),
    "fle-msg-36": (4, 0),
    "fle-msg-40v1": (4, 1),
    "fle-msg-short": (4, 1),
    "fle-msg-badconfiglen": (4, 1),
    "fle-state-unknown": (4, 0),
    "fle-not-looking": (4, 0),
    "fle-nonmember": (77, 1),
}


@pytest.mark.parametrize("name", sorted(SCRIPTED))
def test_a_follower_answers_what_a_real_one_answered(name: str) -> None:
    """Old forms, malformed ones, strangers, unknown states: the number and the bytes of the answers."""
    sender, count = SCRIPTED[name]
    election = standing_in(name, 1)
    sent = [answer for _, _, frame in frames(name, "->") for answer in answers(election, sender, frame)]
    recorded = [frame for _, _, frame in frames(name, "<-")]
    assert len(sent) == count
    assert len(recorded) - count in {0, 1}
    assert sent == recorded[len(recorded) - count :]


def test_an_empty_configuration_does_not_stop_us() -> None:
    """The real server answered nothing any more; both messages deserve their answer."""
    name = "fle-empty-config-kills-receiver"
    election = standing_in(name, 1)
    recorded = next(frame for _, _, frame in frames(name, "<-"))
    assert [answers(election, 4, frame) for _, _, frame in frames(name, "->")] == [[recorded]] * 2


@pytest.mark.parametrize(
    ("name", "prober"),
    [
        ("fle-join-established", 4),
        ("fle-small-sid", 1),
        *((f"{build}/{form}", 4) for build in BUILDS[1:] for form in ("fle-join-40", "fle-join-v2")),
    ],
)
def test_an_established_ensemble_answers_a_joiner_as_a_real_one_did(name: str, prober: int) -> None:
    """Leader and followers, to both forms of the question; of every build that sends configurations."""
    asked = 0
    for _, server_id, frame in frames(name, "->"):
        last = [recorded for _, _, recorded in frames(name, "<-", server_id)][-1]
        assert answers(standing_in(name, server_id), prober, frame) == [last]
        asked += 1
    assert asked >= 2


@pytest.mark.parametrize(
    "name", ["fle-join-established", *(f"{b}/{f}" for b in BUILDS for f in ("fle-join-40", "fle-join-v2"))]
)
def test_a_joiner_finds_the_real_leader(name: str) -> None:
    """The recorded answers, stale ones first, make server 4 follow server 3 in round 1 and epoch 1."""
    election = Election(4, view_of(name if config_is_known(name) else "3.6.3/fle-join-v2"))
    election.start(0, 0, is_participant=True, mono_ms=0)
    started = [frame_notification(n) for _, n in election.outbox]
    if name.endswith(("established", "v2")):
        assert {frame for _, _, frame in frames(name, "->")} == set(started)
    for _, server_id, frame in frames(name, "<-"):
        if election.state == ServerState.LOOKING:
            election.receive(server_id, decode_notification(frame[4:]), 10)
    assert election.state == ServerState.FOLLOWING
    assert election.decided == Vote(3, 0, 1, 1)


def config_is_known(name: str) -> bool:
    return not name.startswith("3.4.14/fle-join-40")


def test_five_voters_starting_one_after_the_other() -> None:
    """`fle-election-watched`: server 4 only listens. Each server's votes, their times and all their bytes."""
    name = "fle-election-watched"
    recorded = [entry for entry in frames(name, "<-") if entry[0] < 2999]  # then the probe connects anew
    network = Network(view_of(name), seed=1, delay_ms=(1, 5))
    for server_id, start_ms in ((1, 498), (2, 2119), (3, 2850)):
        network.add(server_id)
        network.at(start_ms, partial(network.start, server_id))
    network.run(10_000)
    for server_id in (1, 2, 3):
        expected = [(at, frame) for at, sid, frame in recorded if sid == server_id]
        sent = [(at, n) for at, sender, to, n in network.sent if sender == server_id and to == 4]
        check(sent, expected)
    assert network.leaders() == {3}


def test_two_of_five_after_the_leaders_death() -> None:
    """`fle-after-leader-death`: round 2, epoch 1, no quorum, ever longer pauses.

    Whether a repeated vote arrives just before or after the other server's own time for repeating is luck, and decides
    about when that one repeats; the seed is one where it went as recorded.
    """
    name = "fle-after-leader-death"
    network = Network(view_of(name), seed=12, delay_ms=(1, 8))
    for server_id in (1, 2, 3):
        network.add(server_id)
        network.start(server_id)
    assert network.run(250, network.agree)
    network.stop(3)
    for server_id, start_ms in ((1, 333), (2, 343)):
        network.nodes[server_id].peer_epoch = 1
        network.at(start_ms, partial(network.look, server_id))
    network.run(1400)
    for server_id in (1, 2):
        expected = [(at, frame) for at, _, frame in frames(name, "<-", server_id)]
        sent = [
            (at, n) for at, sender, to, n in network.sent if sender == server_id and to == 4 and at >= 300
        ]
        check(sent, expected)


def check(sent: list[tuple[int, Notification]], expected: list[tuple[int, bytes]]) -> None:
    assert [frame_notification(n) for _, n in sent] == [frame for _, frame in expected]
    for (at, _), (recorded_at, _) in zip(sent, expected, strict=True):
        assert abs(at - recorded_at) <= TOLERANCE_MS


def test_an_observer_looks_as_a_real_one_did() -> None:
    """`fle-observer`: the least values, repeated; then the vote of a voter taken over once."""
    name = "fle-observer"
    recorded = [frame for _, _, frame in frames(name, "<-")]
    election = Election(3, view_of(name))
    election.start(0, 0, is_participant=False, mono_ms=0)
    for now in (200, 600, 1400):
        election.tick(now)
    for _, _, frame in frames(name, "->"):
        election.receive(2, decode_notification(frame[4:]), 2000)
    assert [frame_notification(n) for to, n in election.outbox if to == 2] == recorded
    assert {to for to, _ in election.outbox} == {1, 2}


def test_a_voter_elects_the_scripted_candidate_as_a_real_one_did() -> None:
    """`fle-probe-elected`, seen from server 1: its vote, the better one, and its answer once it follows."""
    name = "fle-probe-elected"
    recorded = [
        (at, frame) for at, _, frame in frames(name, "<-", 1) if at != 1028
    ]  # sent again to a new connection
    election = Election(1, view_of(name))
    election.start(0, 0, is_participant=True, mono_ms=550)
    for now, _, frame in frames(name, "->", 1):
        if election.next_deadline_ms is not None and election.next_deadline_ms <= now:
            election.tick(election.next_deadline_ms)
        election.receive(3, decode_notification(frame[4:]), now)
    assert [frame_notification(n) for to, n in election.outbox if to == 3] == [frame for _, frame in recorded]
    assert election.decided == Vote(3, 0, 1, 0)
