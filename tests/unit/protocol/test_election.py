"""Notifications and initial messages: every recorded byte, every old form, everything that is wrong."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkpy_protocol.election import (
    FRAME_MAX,
    OBSERVER_SERVER_ID,
    InitialMessage,
    Notification,
    ServerState,
    decode_notification,
    encode_initial_message,
    encode_notification,
    frame_notification,
    parse_initial_message,
)
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.framing import FrameReader

VECTORS = Path(__file__).parents[3] / "protocol" / "vectors"
STATES = {"LOOKING": 0, "FOLLOWING": 1, "LEADING": 2, "OBSERVING": 3}
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
MIN_LONG = -(1 << 63)

# Messages that a receiver drops, by capture and place; everything else of an election is well formed.
DROPPED = {("fle-msg-36", 1), ("fle-msg-short", 1), ("fle-msg-badconfiglen", 1), ("fle-msg-badconfiglen", 2)}
REFUSED = {"fle-init-badproto", "fle-init-badaddr", "fle-init-emptyaddr"}


def captures() -> list[dict[str, Any]]:
    found = []
    for file in ("quorum-wire.json", "quorum-wire-versions.json"):
        document = json.loads((VECTORS / file).read_text(encoding="utf-8"))
        found += [capture for capture in document["captures"] if "fle-" in capture["name"]]
    return found


CAPTURES = {capture["name"]: capture for capture in captures()}


def is_initial(message: dict[str, Any]) -> bool:
    return message["hex"].startswith("ffff") or len(message["hex"]) == 16


def content_of(message: dict[str, Any]) -> bytes:
    """The one frame of a message."""
    reader = FrameReader(FRAME_MAX)
    (content,) = reader.feed(bytes.fromhex(message["hex"]))
    return content


def test_the_captures_are_all_there() -> None:
    """A renamed file must not make the tests below vacuous."""
    assert len(CAPTURES) == 37
    assert sum(len(capture["messages"]) for capture in CAPTURES.values()) == 284


@pytest.mark.parametrize("name", sorted(CAPTURES))
def test_recorded_notifications_are_encoded_to_the_same_bytes(name: str) -> None:
    """Whatever a member of any version sent, except the form before 3.4, which is only read."""
    for place, message in enumerate(CAPTURES[name]["messages"]):
        if is_initial(message):
            continue
        content = content_of(message)
        if (name, place) in DROPPED:
            with pytest.raises(DecodeError):
                decode_notification(content)
            continue
        notification = decode_notification(content)
        encoded = encode_notification(notification)
        assert encoded[: len(content)] == content
        assert len(encoded) == len(content) or len(content) == 28
        if len(content) != 28:
            assert frame_notification(notification) == bytes.fromhex(message["hex"])


@pytest.mark.parametrize("name", sorted(CAPTURES))
def test_recorded_notifications_mean_what_the_recording_says(name: str) -> None:
    """Field by field, against the annotation."""
    for message in CAPTURES[name]["messages"]:
        decoded = message.get("decoded")
        if not isinstance(decoded, dict) or "electionEpoch" not in decoded:
            continue
        notification = decode_notification(content_of(message))
        zxid = int(decoded["zxid"], 16)
        assert notification.state == STATES[decoded["state"]]
        assert notification.leader == decoded["leader"]
        assert notification.zxid == (zxid if zxid < 1 << 63 else zxid - (1 << 64))
        assert notification.election_epoch == decoded["electionEpoch"]
        assert notification.peer_epoch == decoded["peerEpoch"]
        assert notification.config == decoded.get("config")


@pytest.mark.parametrize("name", sorted(CAPTURES))
def test_recorded_initial_messages_are_read_and_written(name: str) -> None:
    """Apart from those that made a real server close the connection."""
    for message in CAPTURES[name]["messages"]:
        if not is_initial(message):
            continue
        raw = bytes.fromhex(message["hex"])
        if name in REFUSED:
            with pytest.raises(DecodeError):
                parse_initial_message(raw)
            continue
        parsed = parse_initial_message(raw)
        assert parsed is not None
        raw, behind = raw[: parsed[1]], raw[parsed[1] :]
        assert behind == (pack(">i", FRAME_MAX + 1) if name == "fle-frame-toolong" else b"")
        if name not in {"fle-init-34", "fle-init-wildcard"}:
            server_id, addresses = parsed[0]
            several = name == "fle-init-v2"
            assert encode_initial_message(server_id, addresses, multi_address=several) == raw


def test_the_forms_of_3_4_have_no_config() -> None:
    """28 bytes: the peer epoch is that of the zxid. 40 bytes: the word for the version is not looked at."""
    oldest = decode_notification(pack(">iqqq", 0, 4, 0x7_0000_0003, 9))
    assert (oldest.peer_epoch, oldest.version, oldest.config) == (7, 0, None)
    for word in (0, 1, 2, -1):
        old = decode_notification(pack(">iqqqqi", 2, 4, 5, 6, 7, word))
        assert (old.state, old.leader, old.zxid, old.election_epoch, old.peer_epoch) == (2, 4, 5, 6, 7)
        assert (old.version, old.config) == (0, None)


def test_a_version_word_of_1_in_a_longer_message_means_no_config() -> None:
    """As 3.8 reads it; the version is kept, since votes are compared by it."""
    notification = decode_notification(pack(">iqqqqi", 0, 4, 5, 6, 7, 1) + b"xyz")
    assert (notification.version, notification.config) == (1, None)


def test_bytes_behind_the_config_are_left_alone() -> None:
    """A later version may append fields."""
    content = encode_notification(Notification(0, 1, 2, 3, 4, config="version=0")) + b"more"
    assert decode_notification(content).config == "version=0"


@pytest.mark.parametrize("size", [0, 4, 27, *range(29, 40), 41, 42, 43])
def test_a_notification_cut_between_its_forms_is_dropped(size: int) -> None:
    """Lesson of ZOOKEEPER-3769: a malformed notification costs one message, not the receiver."""
    with pytest.raises(DecodeError):
        decode_notification(pack(">iqqqqii", 0, 1, 2, 3, 4, 2, 0)[:size])


def test_an_empty_config_is_a_config() -> None:
    """It is for the reader of the text to call it unusable."""
    assert decode_notification(pack(">iqqqqii", 0, 1, 2, 3, 4, 2, 0)).config == ""


def test_a_config_in_another_charset_is_no_config() -> None:
    """Lesson of ZOOKEEPER-4787: members up to 3.9.3 write the charset of their machine."""
    text = "server.1=bücher:1:2:participant\nversion=5".encode("latin-1")
    notification = decode_notification(pack(">iqqqqii", 0, 1, 2, 3, 4, 2, len(text)) + text)
    assert (notification.config, notification.version, notification.leader) == (None, 2, 1)


def test_an_unknown_state_is_passed_on() -> None:
    """A sender that is no voter is answered whatever its state is."""
    assert decode_notification(encode_notification(Notification(7, 1, 2, 3, 4, config="c"))).state == 7


@given(
    st.integers(-(1 << 31), (1 << 31) - 1),
    INT64,
    INT64,
    INT64,
    INT64,
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_notifications_survive_the_wire(
    state: int, leader: int, zxid: int, election_epoch: int, peer_epoch: int, config: str
) -> None:
    """All values of all fields."""
    sent = Notification(state, leader, zxid, election_epoch, peer_epoch, 2, config)
    read = decode_notification(encode_notification(sent))
    for field in Notification.__slots__:
        assert getattr(read, field) == getattr(sent, field)


@given(st.binary(max_size=120))
def test_any_content_is_a_notification_or_a_decode_error(content: bytes) -> None:
    """No other exception leaves the decoder."""
    with contextlib.suppress(DecodeError):
        decode_notification(content)


# -- initial message


@given(
    st.binary(max_size=60)
    | st.tuples(
        st.sampled_from([-65536, -65535]),
        INT64,
        st.text(st.sampled_from("a1:|[].0")).map(str.encode) | st.binary(max_size=30),
    ).map(lambda parts: pack(">qqi", parts[0], parts[1], len(parts[2])) + parts[2])
)
def test_any_bytes_are_an_initial_message_or_a_decode_error(raw: bytes) -> None:
    """And what is accepted piece by piece is what is accepted at once."""

    def outcome(data: bytes) -> object:
        try:
            return parse_initial_message(data)
        except DecodeError:
            return "refused"

    whole = outcome(raw)
    for end in range(len(raw)):
        early = outcome(raw[:end])
        assert early is None or early == whole


def test_an_initial_message_is_complete_with_its_last_byte() -> None:
    """And what follows it is not touched."""
    raw = encode_initial_message(3, [("host", 3888)])
    for end in range(len(raw)):
        assert parse_initial_message(raw[:end]) is None
    assert parse_initial_message(bytearray(raw + b"frame")) == (
        InitialMessage(3, (("host", 3888),)),
        len(raw),
    )


def test_the_form_of_3_4_is_the_server_id_alone() -> None:
    """Frames follow directly."""
    assert parse_initial_message(pack(">q", 5) + b"frame") == (InitialMessage(5, ()), 8)


def test_one_address_is_named_unless_multi_address_is_on() -> None:
    """Lesson of ZOOKEEPER-3720: members of 3.5 know one form only."""
    addresses = [("10.0.0.1", 3888), ("fe80::1", 3889)]
    assert encode_initial_message(3, addresses) == pack(">qqi", -65536, 3, 13) + b"10.0.0.1:3888"
    assert (
        encode_initial_message(3, addresses, multi_address=True)
        == pack(">qqi", -65535, 3, 28) + b"10.0.0.1:3888|[fe80::1]:3889"
    )


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        (b"a:1|b:2", (("a", 1), ("b", 2))),
        (b"a:1||", (("a", 1),)),
        (b"[::1]:80", (("::1", 80),)),
        (b"0.0.0.0:80|a:1", (("a", 1),)),
        (b"[::]:80", ()),
        (b"[0:0:0:0:0:0:0:0]:80", ()),
        (b"|", ()),
    ],
)
def test_addresses_are_read_as_java_reads_them(text: bytes, addresses: tuple[tuple[str, int], ...]) -> None:
    """Wildcards are accepted and left out, in either form of the message."""
    for protocol in (-65536, -65535):
        parsed = parse_initial_message(pack(">qqi", protocol, 1, len(text)) + text)
        assert parsed is not None
        assert parsed[0].addresses == addresses


@pytest.mark.parametrize(
    "text", [b"a", b"a:", b"a:x", b"a:-1", b"a:0", b"a:65536", b"a:1:2", b":1", b"[::1:1", b"[::1]", b"|a:1"]
)
def test_an_unusable_address_is_refused(text: bytes) -> None:
    """The connection is closed without an answer."""
    with pytest.raises(DecodeError):
        parse_initial_message(pack(">qqi", -65536, 1, len(text)) + text)


@pytest.mark.parametrize("length", [-1, 0, 2049, 1 << 30])
def test_an_impossible_length_is_refused_before_the_address_arrives(length: int) -> None:
    """So a stranger cannot make us wait for it, or hold it."""
    with pytest.raises(DecodeError):
        parse_initial_message(pack(">qqi", -65536, 1, length))


def test_an_unknown_protocol_is_refused_with_its_first_word() -> None:
    """Lesson of ZOOKEEPER-3720."""
    for protocol in (-1, -65534, -65537, -(1 << 63)):
        with pytest.raises(DecodeError):
            parse_initial_message(pack(">q", protocol))


def test_an_observer_without_an_id_names_the_largest() -> None:
    """The acceptor gives it one."""
    parsed = parse_initial_message(encode_initial_message(OBSERVER_SERVER_ID, [("h", 1)]))
    assert parsed is not None
    assert parsed[0].server_id == 0x7FFF_FFFF_FFFF_FFFF


def test_the_least_values_of_an_observers_vote_fit() -> None:
    """§4.7: leader, zxid and peer epoch are the least long."""
    vote = Notification(ServerState.LOOKING, MIN_LONG, MIN_LONG, 1, MIN_LONG, config="version=0")
    assert encode_notification(vote)[4:20] == (b"\x80" + bytes(7)) * 2
