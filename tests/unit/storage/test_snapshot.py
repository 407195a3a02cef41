"""Snapshots: bytes, checks before use, compressions, and what is left after a failure."""

from __future__ import annotations

import errno
import gzip
import zlib
from struct import Struct

import pytest

from tests.fakes.memory_fs import MemoryFs
from tests.fakes.scripted_server import OWNERS, make_txns, state_of
from zkpy.core.data_tree import DataTree, Node
from zkpy.storage.errors import SnapshotDamageError
from zkpy.storage.names import snapshot_name
from zkpy.storage.snapshot import end_zxid, load_snapshot, looks_complete, serialize, write_snapshot

HISTORY = make_txns(120, seed=9)
LAST = 120
_int = Struct(">i").pack
_long = Struct(">q").pack


def ustring(text: str) -> bytes:
    raw = text.encode()
    return _int(len(raw)) + raw


def sealed(*parts: bytes) -> bytes:
    """Parts of a snapshot, each with its seal."""
    image = b""
    for part in parts:
        image += part
        image += _long(zlib.adler32(image)) + ustring("/")
    return image


def node(path: str, data: bytes | None = b"", acl_id: int = 1) -> bytes:
    buffer = _int(-1) if data is None else _int(len(data)) + data
    return ustring(path) + buffer + _long(acl_id) + bytes(60)


def head(sessions: int = 0, acls: int = 1) -> bytes:
    acl = _long(1) + _int(1) + _int(31) + ustring("world") + ustring("anyone")
    return b"ZKSN" + _int(2) + _long(-1) + _int(sessions) + _int(acls) + acl * acls


def load(
    image: bytes, name: str = "snapshot.7", digest_enabled: bool = True
) -> tuple[DataTree, dict[int, int], object]:
    fs = MemoryFs()
    fs.put(f"/{name}", image)
    return load_snapshot(fs, f"/{name}", OWNERS, digest_enabled)


def damage(image: bytes, name: str = "snapshot.7") -> SnapshotDamageError:
    with pytest.raises(SnapshotDamageError) as caught:
        load(image, name)
    assert str(caught.value) == f"/{name}, offset {caught.value.offset}: {caught.value.problem}"
    return caught.value


def image_of(zxid: int = LAST) -> bytes:
    return b"".join(serialize(HISTORY.tree, HISTORY.sessions, zxid))


@pytest.mark.parametrize("compression", ["", "gz", "snappy"])
def test_what_is_written_is_read(compression: str) -> None:
    fs = MemoryFs()
    name = write_snapshot(fs, "", HISTORY.tree, HISTORY.sessions, LAST, compression)
    assert name == snapshot_name(LAST, compression)
    assert fs.names("/") == [name]
    assert looks_complete(fs, f"/{name}")
    tree, sessions, digest = load_snapshot(fs, f"/{name}", OWNERS, digest_enabled=True)
    assert state_of(tree, sessions) == HISTORY.states[LAST]
    assert digest == (LAST, HISTORY.tree.digest)
    for attribute in ("data_size", "ephemerals", "ephemeral_count", "containers", "ttls", "digest"):
        assert getattr(tree, attribute) == getattr(HISTORY.tree, attribute), attribute
    assert [acl.uses for acl in tree.acls.entries()] == [acl.uses for acl in HISTORY.tree.acls.entries()]


def test_a_node_that_was_read_has_every_field_of_one_that_was_made() -> None:
    made = Node(b"", DataTree(OWNERS).acls.open, 0, 1, 1)
    read = load(image_of(), f"snapshot.{LAST:x}")[0].nodes["/"]
    for name in dir(Node):
        assert hasattr(read, name) == hasattr(made, name), name


def test_a_large_tree_is_written_in_chunks_and_read_back() -> None:
    history = make_txns(60, seed=3, data_max=200_000)
    chunks = list(serialize(history.tree, history.sessions, 60))
    assert len(chunks) > 5
    for compression in ("", "gz", "snappy"):
        fs = MemoryFs()
        name = write_snapshot(fs, "", history.tree, history.sessions, 60, compression)
        tree, sessions, _ = load_snapshot(fs, f"/{name}", OWNERS, digest_enabled=True)
        assert state_of(tree, sessions) == history.states[60]


def test_the_snapshot_of_an_empty_database_is_apaches() -> None:
    """457 bytes of 3.8.0, with its "no digest", and the part that 3.9 adds."""
    image = b"".join(serialize(DataTree(OWNERS), {}, 0))
    assert len(image) == 457 + 21
    assert image[411 + 13 : 411 + 13 + 20] == _long(0) + _int(2) + _long(0)
    tree, sessions, digest = load(image, "snapshot.0")
    assert state_of(tree, sessions) == HISTORY.states[0]
    assert digest is None


def test_without_digests_only_the_first_part_is_written() -> None:
    """A reader that has them off does not expect the second one."""
    tree = DataTree(OWNERS, digest_enabled=False)
    image = b"".join(serialize(tree, {}, 9))
    assert len(image) == 424
    loaded, _, digest = load(image, "snapshot.9", digest_enabled=False)
    assert digest is None
    assert loaded.digest == 0
    assert load(image, "snapshot.9")[0].digest == DataTree(OWNERS).digest


def test_parents_come_before_children_whatever_was_deleted_and_made_again() -> None:
    tree = load(image_of(), f"snapshot.{LAST:x}")[0]
    seen: set[str] = set()
    for path in tree.nodes:
        assert path in {"", "/"} or path.rpartition("/")[0] in seen
        seen.add(path)


class TestParts:
    FIRST = head() + node("") + node("/a") + ustring("/")

    def test_the_first_part_is_enough(self) -> None:
        tree, sessions, digest = load(sealed(self.FIRST))
        assert list(tree.nodes) == ["/", "", "/a"]
        assert (tree.last_zxid, sessions, digest) == (7, {}, None)

    @pytest.mark.parametrize(
        ("part", "expected"),
        [
            (_long(9) + _int(2) + _long(-5), (9, -5)),
            (_long(7) + _int(2) + _long(5), (7, 5)),
            (_long(6) + _int(2) + _long(5), None),  # older than the name: it says nothing
            (_long(9) + _int(3) + _long(5), None),  # a version we cannot compute
            (_long(9) + _int(1) + ustring("1f"), None),  # version 1 had a text
        ],
    )
    def test_the_second_part_is_used_when_it_can_be_compared(self, part: bytes, expected: object) -> None:
        assert load(sealed(self.FIRST, part))[2] == expected
        assert load(sealed(self.FIRST, part, _long(9)))[2] == expected

    def test_the_third_part_may_come_without_the_second(self) -> None:
        assert load(sealed(self.FIRST, _long(9)))[2] is None

    def test_null_data_is_not_empty_data(self) -> None:
        tree = load(sealed(head() + node("") + node("/n", None) + node("/e", b"") + ustring("/")))[0]
        assert tree.nodes["/n"].data is None
        assert tree.nodes["/e"].data == b""

    def test_acl_lists_without_a_node_are_dropped(self) -> None:
        unused = _long(5) + _int(1) + _int(1) + ustring("ip") + ustring("1.2.3.4")
        image = (
            b"ZKSN" + _int(2) + _long(-1) + _int(0) + _int(2) + head()[24:] + unused + node("") + ustring("/")
        )
        tree = load(sealed(image))[0]
        assert [acl.id for acl in tree.acls.entries()] == [1]
        assert tree.acls.next_id == 6

    def test_the_built_in_acl_needs_no_entry(self) -> None:
        tree = load(sealed(head() + node("", b"", -1) + ustring("/")))[0]
        assert tree.nodes["/"].acl is tree.acls.open


class TestEnd:
    """Cheaply, from the last bytes: the txn up to which effects may be in the file."""

    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            ([], None),
            ([_long(9) + _int(2) + _long(-5)], 9),
            ([_long(9) + _int(2) + _long(-5), _long(11)], 11),
            ([_long(0) + _int(2) + _long(0), _long(0)], 0),
            ([_long(11)], 11),
            ([_long(9) + _int(3) + _long(-5)], None),
        ],
    )
    def test_the_last_part_tells(self, parts: list[bytes], expected: int | None) -> None:
        fs = MemoryFs()
        fs.put("/snapshot.7", sealed(TestParts.FIRST, *parts))
        assert end_zxid(fs, "/snapshot.7") == expected

    def test_what_is_too_short_tells_nothing(self) -> None:
        image = sealed(TestParts.FIRST, _long(9) + _int(2) + _long(-5), _long(11))
        for size in range(70):
            fs = MemoryFs()
            fs.put("/snapshot.7", image[:size])
            assert end_zxid(fs, "/snapshot.7") is None


class TestDamage:
    def test_nothing_is_parsed_before_the_seal_is_right(self) -> None:
        """A changed count would otherwise build something first."""
        image = bytearray(image_of())
        image[17] ^= 1
        error = damage(bytes(image), f"snapshot.{LAST:x}")
        assert error.problem == "the content does not match its checksum"
        assert error.offset == len(image) - 13

    @pytest.mark.parametrize("image", [b"", b"ZKSN", bytes(20), image_of()[:-1]])
    def test_a_missing_end_is_noticed(self, image: bytes) -> None:
        assert damage(image).problem == "the end is missing"

    def test_another_magic_is_no_snapshot(self) -> None:
        assert damage(sealed(b"XKSN" + TestParts.FIRST[4:])).problem == "this is no snapshot"

    @pytest.mark.parametrize(
        "body",
        [
            head() + node("") + node("/a/b") + ustring("/"),  # no parent
            head() + node("/a") + ustring("/"),  # no root
            head() + node("", b"", 2) + ustring("/"),  # an ACL that is not there
            head() + node("") + node("a") + ustring("/"),  # no path
            head() + node("") + node("/a") + node("/a") + ustring("/"),  # one path twice
            head() + node("") + _int(1) + b"\xff" + node("")[4:] + ustring("/"),  # no text
            head() + node(""),  # no end
            head(sessions=1000) + node("") + ustring("/"),
            head()[:24] + _long(1) + _int(1) + _int(31) + _int(-2) + node("") + ustring("/"),
        ],
    )
    def test_content_that_makes_no_sense_is_refused_even_when_sealed(self, body: bytes) -> None:
        assert "makes no sense" in damage(sealed(body)).problem

    @pytest.mark.parametrize("cut", [1, 20, 300])
    def test_compressed_files_that_are_cut_off_are_refused(self, cut: int) -> None:
        for compression in ("gz", "snappy"):
            fs = MemoryFs()
            name = write_snapshot(fs, "", HISTORY.tree, HISTORY.sessions, LAST, compression)
            damage(fs.read(f"/{name}")[:-cut], name)

    def test_compressed_files_with_changed_blocks_are_refused(self) -> None:
        fs = MemoryFs()
        name = write_snapshot(fs, "", HISTORY.tree, HISTORY.sessions, LAST, "snappy")
        content = fs.read(f"/{name}")
        assert "a block of" in damage(content[:16] + _int(-5) + content[20:], name).problem
        assert "snappy: " in damage(content[:20] + b"\xff" * 8 + content[28:], name).problem
        assert (
            damage(gzip.compress(b"x" + image_of()), "snapshot.7.gz").problem
            == "the content does not match its checksum"
        )
        assert "gz: " in damage(b"\x1f\x8b" + bytes(40), "snapshot.7.gz").problem


class TestQuickCheck:
    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("snapshot.1", bytes(10) + b"\0\0\0\1/", True),
            ("snapshot.1", bytes(5) + b"\0\0\0\1/", True),
            ("snapshot.1", bytes(4) + b"\0\0\0\1/", False),
            ("snapshot.1", bytes(10) + b"\0\0\0\2/", False),
            ("snapshot.1", b"", False),
            ("snapshot.1.gz", b"\x1f\x8b", True),
            ("snapshot.1.gz", b"\x1f", False),
            ("snapshot.1.snappy", b"\x82SNAPPY\0", True),
            ("snapshot.1.snappy", b"\x82SNAPPX\0", False),
            ("snapshot.1.bak", bytes(10) + b"\0\0\0\1/", True),
        ],
    )
    def test_only_the_ends_are_looked_at(self, name: str, content: bytes, expected: bool) -> None:
        fs = MemoryFs()
        fs.put(f"/{name}", content)
        assert looks_complete(fs, f"/{name}") is expected


class TestWriting:
    def test_the_file_is_durable_before_it_has_its_name(self) -> None:
        fs = MemoryFs()
        write_snapshot(fs, "", HISTORY.tree, HISTORY.sessions, LAST)
        assert fs.log[0] == "create"
        assert fs.log[-3:] == ["datasync", "rename", "sync_dir"]

    def test_no_more_than_one_piece_waits_for_a_sync(self) -> None:
        """A log on the same disk would be held up by all that waits."""
        fs = MemoryFs()
        tree = DataTree(OWNERS)
        for number in range(3):
            tree.nodes[f"/{number}"] = Node(bytes(1 << 20), tree.acls.open, 0, 1, 1)
        write_snapshot(fs, "", tree, {}, 1)
        assert fs.log.count("datasync") == 4

    @pytest.mark.parametrize("compression", ["", "gz", "snappy"])
    def test_a_small_snapshot_is_synced_once(self, compression: str) -> None:
        fs = MemoryFs()
        write_snapshot(fs, "", HISTORY.tree, HISTORY.sessions, LAST, compression)
        assert fs.log.count("datasync") == 1

    def test_a_failure_leaves_nothing_behind(self) -> None:
        fs = MemoryFs()
        write_snapshot(fs, "", HISTORY.tree, HISTORY.sessions, LAST)
        operations = fs.operations
        for operation in range(1, operations):
            fs = MemoryFs()
            fs.fail_at[operation] = errno.ENOSPC
            with pytest.raises(OSError, match="No space left"):
                write_snapshot(fs, "", HISTORY.tree, HISTORY.sessions, LAST)
            assert fs.names("/") == []

    def test_the_first_error_is_told_when_the_cleaning_up_fails_too(self) -> None:
        fs = MemoryFs()
        fs.fail_at.update({2: errno.ENOSPC, 3: errno.EIO})
        with pytest.raises(OSError, match="No space left"):
            write_snapshot(fs, "", HISTORY.tree, HISTORY.sessions, LAST)
