"""The stream behind a SNAP packet: Apache's bytes both ways, every way of cutting it up, and everything that is none."""

from __future__ import annotations

import gc
import json
import random
import sys
from pathlib import Path
from struct import Struct
from typing import Any

import pytest

from tests.fakes.memory_fs import MemoryFs
from tests.fakes.scripted_server import OWNERS, make_txns, state_of
from zkpy.core.data_tree import DataTree
from zkpy.storage.snapshot import serialize
from zkpy.storage.snapshot_stream import LENGTH_MAX, SIGNATURE, SnapshotStream, serialize_stream
from zkpy_protocol.errors import DecodeError

VECTORS = Path(__file__).parents[3] / "protocol" / "vectors"
HISTORY = make_txns(120, seed=9)
_int = Struct(">i").pack
_long = Struct(">q").pack


def is_body(message: dict[str, Any]) -> bool:
    decoded = message.get("decoded")
    return isinstance(decoded, dict) and decoded.get("name", "").startswith("SNAP-BODY")


def bodies() -> list[tuple[str, bytes]]:
    """The captured streams, by the name of their capture."""
    found = []
    for name in ("quorum-wire.json", "quorum-wire-versions.json"):
        for capture in json.loads((VECTORS / name).read_text())["captures"]:
            found += [
                (f"{capture['name']}-{number}", bytes.fromhex(message["hex"]))
                for number, message in enumerate(capture["messages"])
                if is_body(message)
            ]
    return found


BODIES = bodies()


def read(body: bytes, digest_enabled: bool = True) -> SnapshotStream:
    stream = SnapshotStream(OWNERS, digest_enabled)
    assert stream.feed(body)
    return stream


def feed(stream: SnapshotStream, body: bytes, size: int) -> None:
    for start in range(0, len(body), size):
        stream.feed(body[start : start + size])


def body_of(zxid: int = 120) -> bytes:
    assert zxid == HISTORY.tree.last_zxid
    return b"".join(serialize_stream(HISTORY.tree, HISTORY.sessions))


def ustring(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return _int(len(raw)) + raw


def acl_list(acl_id: int = 1) -> bytes:
    return _long(acl_id) + _int(1) + _int(31) + ustring("world") + ustring("anyone")


def node(path: str | bytes, data: bytes = _int(0), acl_id: int = 1) -> bytes:
    return ustring(path) + data + _long(acl_id) + bytes(60)


HEAD = _int(0) + _int(1) + acl_list()
TAIL = ustring("/") + SIGNATURE


class TestGolden:
    def test_there_are_captures_of_every_build(self) -> None:
        assert len(BODIES) >= 14

    @pytest.mark.parametrize(("name", "body"), BODIES, ids=[name for name, _ in BODIES])
    def test_apaches_bytes_come_out_as_they_went_in(self, name: str, body: bytes) -> None:
        for size in (1, 7, len(body)):
            stream = SnapshotStream(OWNERS, digest_enabled=True)
            feed(stream, body, size)
            assert stream.is_complete
            assert stream.rest == b""
            assert b"".join(serialize_stream(stream.tree, stream.sessions)) == body

    def test_what_the_capture_says_is_in_it(self) -> None:
        capture = next(
            capture
            for capture in json.loads((VECTORS / "quorum-wire.json").read_text())["captures"]
            if capture["name"] == "snap-sync"
        )
        message = next(message for message in capture["messages"] if is_body(message))
        stream = read(bytes.fromhex(message["hex"]))
        assert stream.sessions == {
            int(key, 16): value for key, value in message["decoded"]["sessions"].items()
        }
        paths = [entry["path"] or "/" for entry in message["decoded"]["nodes"]]
        assert sorted(paths) == sorted(path for path in stream.tree.nodes if path)


class TestReading:
    def test_the_tree_is_whole(self) -> None:
        stream = read(body_of() + b"next packet")
        assert stream.rest == b"next packet"
        stream.tree.last_zxid = 120
        assert state_of(stream.tree, stream.sessions) == HISTORY.states[120]
        for attribute in ("data_size", "ephemerals", "ephemeral_count", "containers", "ttls", "digest"):
            assert getattr(stream.tree, attribute) == getattr(HISTORY.tree, attribute), attribute
        assert [a.uses for a in stream.tree.acls.entries()] == [a.uses for a in HISTORY.tree.acls.entries()]

    @pytest.mark.parametrize("size", [1, 300, 1 << 20], ids=["begun", "broken off", "complete"])
    def test_a_stream_is_gone_with_its_last_user(self, size: int) -> None:
        """Without waiting for a collection of garbage: a state takes as much memory as the server."""
        collects = gc.isenabled()
        gc.disable()
        try:
            stream = SnapshotStream(OWNERS, digest_enabled=True)
            stream.feed(body_of()[:size])
            tree = stream.tree
            del stream
            assert sys.getrefcount(tree) <= 2, "this variable, and the argument"
        finally:
            if collects:
                gc.enable()

    def test_quotas_count_again(self) -> None:
        limits = "/zookeeper/quota/a/zookeeper_limits"
        data = ustring("count=5,bytes=-1=;byteHardLimit=-1;countHardLimit=-1")
        body = HEAD + node("") + node("/zookeeper") + node("/zookeeper/quota") + node("/zookeeper/quota/a")
        body += node(limits, data) + node("/zookeeper/quota/a/zookeeper_stats") + node("/a") + node("/a/b")
        assert read(body + TAIL).tree.quotas.deepest_prefix("/a/b") == "/a"

    def test_without_digests_none_is_kept(self) -> None:
        assert read(body_of(), digest_enabled=False).tree.digest == 0

    def test_null_and_empty_data_differ(self) -> None:
        tree = read(HEAD + node("") + node("/n", _int(-1)) + node("/e") + TAIL).tree
        assert tree.nodes["/n"].data is None
        assert tree.nodes["/e"].data == b""

    def test_it_is_the_body_of_a_snapshot(self) -> None:
        image = b"".join(serialize(HISTORY.tree, HISTORY.sessions, 120))
        body = body_of()[: -len(SIGNATURE)]
        assert image[16 : 16 + len(body)] == body

    def test_the_end_may_be_cut_anywhere_from_what_follows(self) -> None:
        body = HEAD + node("") + TAIL + b"rest"
        for cut in range(1, len(body)):
            stream = SnapshotStream(OWNERS, digest_enabled=True)
            if not stream.feed(body[:cut]):
                assert stream.feed(body[cut:])
                assert stream.rest == b"rest"
            else:
                assert stream.rest == body[len(body) - 4 : cut]

    @pytest.mark.parametrize("size", [100, 1 << 12, 1 << 16])
    def test_the_work_is_linear_however_the_bytes_come(
        self, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A node of two megabytes, in pieces of 100 bytes, would be copied 10000 times if it were looked at with each."""
        looked_at = 0
        take = SnapshotStream._take

        def counted(stream: SnapshotStream, held: bytes) -> int:
            nonlocal looked_at
            looked_at += len(held)
            return take(stream, held)

        monkeypatch.setattr(SnapshotStream, "_take", counted)
        wide = (
            _int(0) + _int(1) + _long(1) + _int(5000) + (_int(1) + ustring("ip") + ustring("1.2.3.4")) * 5000
        )
        body = wide + node("") + node("/big", ustring(bytes(LENGTH_MAX))) + TAIL
        stream = SnapshotStream(OWNERS, digest_enabled=True)
        feed(stream, body, size)
        assert stream.is_complete
        assert looked_at < 3 * len(body)


class TestNonsense:
    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            (_int(-1), "a count of -1"),
            (_int(0) + _int(-2), "a count of -2"),
            (_int(0) + _int(1) + _long(1) + _int(-1), "a count of -1"),
            (_int(0) + _int(1) + _long(1) + _int(1) + _int(31) + _int(-2), "a length of -2 bytes"),
            (_int(0) + _int(1) + _long(1) + _int(1) + _int(31) + _int(LENGTH_MAX + 1), "bytes"),
            (_int(0) + _int(1) + _long(1) + _int(1) + _int(31) + ustring("ip") + _int(1 << 30), "bytes"),
            (HEAD + _int(-1), "a path of -1 bytes"),
            (HEAD + _int(LENGTH_MAX + 1), "a path of 2097151 bytes"),
            (HEAD + ustring("") + _int(-2), "data of -2 bytes"),
            (HEAD + ustring("") + _int(0x7FFFFFFF), "data of 2147483647 bytes"),
            (HEAD + node("/a"), "''"),  # no root
            (HEAD + node("") + node("/a/b"), "'/a'"),  # no parent
            (HEAD + node("") + node("/a", acl_id=7), "7"),  # no such list
            (HEAD + node("") + node("a"), "substring not found"),
            (HEAD + node("") + node(b"/\xff"), "utf-8"),
            (HEAD + node("") + node("/a") + node("/a") + TAIL, "a path occurs twice"),
            (HEAD + TAIL, "a path occurs twice"),  # not even a root
            (HEAD + node("") + ustring("/") + ustring("BenWasThat"), "the signature"),
            (HEAD + node("") + ustring("/") + _int(9) + b"BenWasHere", "the signature"),
        ],
    )
    def test_it_is_refused_as_soon_as_it_is_seen_whatever_the_pieces(self, body: bytes, problem: str) -> None:
        for size in (1, 3, len(body)):
            stream = SnapshotStream(OWNERS, digest_enabled=True)
            with pytest.raises(DecodeError, match="snapshot stream, behind offset") as caught:
                feed(stream, body + bytes(90), size)  # a node is judged when it is complete
            assert problem in str(caught.value)
            assert not stream.is_complete

    def test_any_change_is_refused_or_gives_a_whole_tree(self) -> None:
        rng = random.Random(1)
        body = body_of()
        outcomes = set()
        for _ in range(500):
            changed = bytearray(body)
            changed[rng.randrange(len(body))] = rng.randrange(256)
            stream = SnapshotStream(OWNERS, digest_enabled=True)
            try:
                complete = stream.feed(bytes(changed) + bytes(100))
            except DecodeError:
                outcomes.add("refused")
            else:
                outcomes.add("complete" if complete else "waiting")
                if complete:
                    again = b"".join(serialize_stream(stream.tree, stream.sessions))
                    assert state_of(read(again).tree, {}) == state_of(stream.tree, {})
        assert outcomes == {"refused", "complete", "waiting"}

    def test_3642_a_stream_that_breaks_off_has_changed_nothing(self) -> None:
        tree = DataTree(OWNERS)
        fs = MemoryFs()
        body = body_of()
        for cut in range(0, len(body), 97):
            stream = SnapshotStream(OWNERS, digest_enabled=True)
            assert not stream.feed(body[:cut])
        assert state_of(tree, {}) == make_txns(1, seed=1).states[0]
        assert fs.operations == 0

    def test_an_announced_count_takes_no_memory(self) -> None:
        stream = SnapshotStream(OWNERS, digest_enabled=True)
        assert not stream.feed(_int(0x7FFFFFFF) + bytes(24))
        assert stream.sessions == {0: 0}
