"""From files to state: which snapshot, which txns, what is refused, what is repaired."""

from __future__ import annotations

import pytest

from tests.fakes.memory_fs import MemoryFs
from tests.fakes.scripted_server import OWNERS, History, make_txns, state_of
from zkpy.core.data_tree import DataTree
from zkpy.core.txn import Txn
from zkpy.storage.data_dir import DataDir
from zkpy.storage.errors import SnapshotDamageError, StorageDamageError
from zkpy.storage.recovery import Recovered, recover
from zkpy.storage.snapshot import serialize
from zkpy.storage.txn_log import HEADER, encode_entry
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import ACL, CreateTxn, DeleteTxn, ErrorTxn, Id, SetACLTxn, SetDataTxn

HISTORY = make_txns(60, seed=4)
OPEN = [ACL(31, Id("world", "anyone"))]


class Disk:
    """A data directory put together by hand."""

    def __init__(self) -> None:
        self.fs = MemoryFs()
        self.data_dir = DataDir("/data", "/data")
        self.fs.put("/data/version-2/.keep", b"")

    def snapshot(self, zxid: int, history: History = HISTORY) -> Disk:
        tree, sessions = replayed(history, zxid)
        self.put(f"snapshot.{zxid:x}", b"".join(serialize(tree, sessions, zxid)))
        return self

    def log(self, first: int, last: int, history: History = HISTORY) -> Disk:
        entries = b"".join(encode_entry(txn.payload) for txn in history.txns[first - 1 : last])
        self.put(f"log.{first:x}", HEADER + entries + bytes(700))
        return self

    def put(self, name: str, content: bytes) -> Disk:
        self.fs.put(f"/data/version-2/{name}", content)
        return self

    def recover(self, trust_empty: bool = False, digest_enabled: bool = True) -> Recovered:
        return recover(self.fs, self.data_dir, OWNERS, digest_enabled=digest_enabled, trust_empty=trust_empty)


def replayed(history: History, zxid: int) -> tuple[DataTree, dict[int, int]]:
    tree = DataTree(OWNERS)
    sessions: dict[int, int] = {}
    for txn in history.txns[:zxid]:
        tree.apply(txn, None)
        if txn.type == OpCode.CREATE_SESSION:
            sessions[txn.client_id] = txn.record.time_out
        elif txn.type == OpCode.CLOSE_SESSION:
            sessions.pop(txn.client_id, None)
    return tree, sessions


def check(recovered: Recovered, zxid: int, history: History = HISTORY) -> None:
    assert recovered.last_zxid == zxid
    assert state_of(recovered.tree, recovered.sessions) == history.states[zxid]
    assert recovered.digest_mismatches == 0


class TestChoosing:
    def test_nothing_is_an_empty_database(self) -> None:
        got = Disk().recover()
        check(got, 0)
        assert got.is_empty
        assert got.snapshot_zxid is None
        assert got.notices == []

    def test_the_newest_snapshot_and_the_log_behind_it(self) -> None:
        got = Disk().snapshot(10).snapshot(30).log(1, 25).log(26, 40).log(41, 60).recover()
        check(got, 60)
        assert (got.snapshot_zxid, got.txn_count, got.is_empty) == (30, 30, False)

    def test_a_snapshot_alone(self) -> None:
        check(Disk().snapshot(30).recover(), 30)

    def test_a_log_may_begin_right_behind_the_snapshot(self) -> None:
        check(Disk().snapshot(30).log(31, 40).recover(), 40)

    def test_a_log_that_ends_before_the_snapshot_adds_nothing(self) -> None:
        check(Disk().snapshot(30).log(1, 20).recover(), 30)

    def test_a_damaged_snapshot_is_passed_over_with_a_notice(self) -> None:
        disk = Disk().snapshot(10).snapshot(30).log(1, 60)
        content = disk.fs.read("/data/version-2/snapshot.1e")
        disk.put("snapshot.1e", content[:50] + b"?" + content[51:])
        got = disk.recover()
        check(got, 60)
        assert got.snapshot_zxid == 10
        seal = f"/data/version-2/snapshot.1e, offset {len(content) - 13}"
        assert got.notices == [f"{seal}: the content does not match its checksum; taking an older snapshot"]

    def test_a_snapshot_that_is_cut_off_is_passed_over_with_a_notice(self) -> None:
        disk = Disk().snapshot(10).put("snapshot.1e", b"ZKSN").log(1, 60)
        got = disk.recover()
        check(got, 60)
        assert got.notices == ["/data/version-2/snapshot.1e is cut off, taking an older snapshot"]

    def test_an_older_snapshot_without_its_logs_is_refused(self) -> None:
        """Apache would start with a hole."""
        with pytest.raises(StorageDamageError, match=r"log\.15, offset 16: txn 0x15 follows 0xa"):
            Disk().snapshot(10).put("snapshot.1e", b"").log(21, 60).recover()

    def test_only_damaged_snapshots_are_refused(self) -> None:
        with pytest.raises(
            SnapshotDamageError, match=r"snapshot\.1e, offset 3: .* no older snapshot is usable.*Restore"
        ):
            Disk().put("snapshot.a", b"").put("snapshot.1e", b"ZKS").log(1, 60).recover()

    def test_a_hundred_damaged_snapshots_are_no_accident(self) -> None:
        disk = Disk().snapshot(1)
        content = disk.fs.read("/data/version-2/snapshot.1")
        for zxid in range(2, 102):
            disk.put(f"snapshot.{zxid:x}", b"X" + content[1:])
        with pytest.raises(SnapshotDamageError, match=r"snapshot\.65,"):
            disk.recover()

    def test_logs_without_any_snapshot_are_refused_unless_trusted(self) -> None:
        disk = Disk().log(1, 60)
        with pytest.raises(StorageDamageError, match=r"log\.1, offset 0: .*no snapshot.*trust\.empty=true"):
            disk.recover()
        got = disk.recover(trust_empty=True)
        check(got, 60)
        assert got.snapshot_zxid is None
        assert not got.is_empty

    def test_logs_without_entries_and_no_snapshot_are_an_empty_database(self) -> None:
        assert Disk().put("log.1", HEADER).put("log.2", b"").recover().is_empty

    def test_names_that_only_look_like_ours_are_let_alone(self) -> None:
        disk = Disk().snapshot(30).log(1, 60)
        for name in (
            "log",
            "log.xyz",
            "snapshot.",
            "logs.1",
            "snapshots.5",
            "acceptedEpoch",
            "currentEpoch.tmp",
        ):
            disk.put(name, b"something")
        check(disk.recover(), 60)

    def test_copies_that_count_as_files_do_no_harm_when_they_are_equal(self) -> None:
        """Apache reads log.1.bak and snapshot.1e.tmp as what their second part says."""
        disk = Disk().snapshot(30).log(1, 60)
        disk.put("log.1.bak", disk.fs.read("/data/version-2/log.1"))
        disk.put("snapshot.1e.tmp", disk.fs.read("/data/version-2/snapshot.1e"))
        check(disk.recover(), 60)


class TestInitializeFile:
    @pytest.mark.parametrize("path", ["/data/initialize", "/logs/initialize"])
    def test_it_is_found_in_both_places_and_counts_once(self, path: str) -> None:
        disk = Disk()
        disk.data_dir = DataDir("/data", "/logs")
        disk.data_dir.prepare(disk.fs, autocreate=True)
        disk.fs.put(path, b"")
        assert disk.recover().is_initialized
        assert not disk.fs.after_power_cut(0).exists(path)
        assert not disk.recover().is_initialized

    def test_it_stays_when_the_start_is_refused(self) -> None:
        disk = Disk().log(1, 5)
        disk.fs.put("/data/initialize", b"")
        with pytest.raises(StorageDamageError):
            disk.recover()
        assert disk.fs.exists("/data/initialize")


class TestRepair:
    def test_a_torn_tail_is_cut_off_and_told(self) -> None:
        disk = Disk().snapshot(0).log(1, 10)
        content = disk.fs.read("/data/version-2/log.1")
        end = len(content) - 700
        disk.put("log.1", content[: end - 9] + bytes(709))
        got = disk.recover()
        check(got, 9)
        size = disk.fs.size("/data/version-2/log.1")
        assert got.notices == [
            f"/data/version-2/log.1: cut off at offset {size}: what follows was being written when the server died"
        ]
        assert disk.fs.read("/data/version-2/log.1") == content[:size]
        again = disk.recover()
        check(again, 9)
        assert again.notices == []

    def test_a_missing_end_mark_is_written(self) -> None:
        disk = Disk().snapshot(0).log(1, 10)
        content = disk.fs.read("/data/version-2/log.1")
        end = len(content) - 700
        disk.put("log.1", content[: end - 1] + bytes(701))
        got = disk.recover()
        check(got, 10)
        assert len(got.notices) == 1
        assert disk.fs.read("/data/version-2/log.1") == content[:end]
        assert disk.recover().notices == []

    def test_files_in_which_nothing_was_synced_are_removed(self) -> None:
        disk = Disk().snapshot(0).log(1, 10).put("log.b", b"")
        got = disk.recover()
        check(got, 10)
        assert "nothing in it was ever synced" in got.notices[0]
        assert not disk.fs.exists("/data/version-2/log.b")

    def test_what_was_read_is_made_durable(self) -> None:
        disk = Disk().snapshot(0).log(1, 5).log(6, 10)
        disk.recover()
        assert disk.fs.log == ["datasync", "datasync", "sync_dir"]

    def test_temporary_files_are_removed_from_both_directories(self) -> None:
        disk = Disk().snapshot(5)
        disk.data_dir = DataDir("/data", "/logs")
        disk.fs.put("/logs/version-2/tmp-log", b"x")
        disk.put("tmp-snapshot.9", b"x")
        check(disk.recover(), 5)
        assert disk.fs.names("/logs/version-2") == []
        assert disk.fs.names("/data/version-2") == [".keep", "snapshot.5"]


class TestTxns:
    def test_a_txn_nobody_can_apply_is_refused(self) -> None:
        strange = Txn(1, 1, 1, 1, OpCode.CREATE, None, None, b"").payload
        header = bytes(12) + (1).to_bytes(8, "big") + bytes(8)
        for payload in (
            header + (99).to_bytes(4, "big"),  # an unknown type
            header + (13).to_bytes(4, "big") + bytes(12),  # check outside a multi
            header + (1).to_bytes(4, "big") + b"\0\0\0\1x" + bytes(20),  # no slash in the path
            header + (2).to_bytes(4, "big") + b"\xff\xff\xff\xff",  # no path
            header + (21).to_bytes(4, "big") + b"\0\0\0\2/t" + bytes(20),  # a TTL of 0
        ):
            disk = Disk().snapshot(0).put("log.1", HEADER + encode_entry(payload))
            with pytest.raises(StorageDamageError, match=r"log\.1, offset 16: txn 0x1 cannot be applied"):
                disk.recover()
        assert strange == b""

    def test_session_txns_change_the_session_table(self) -> None:
        for zxid in range(61):
            got = (
                Disk().snapshot(0).log(1, 60).recover()
                if zxid == 60
                else Disk().snapshot(zxid).log(1, 60).recover()
            )
            assert dict(HISTORY.states[60][2]) == got.sessions

    def test_without_digests_nothing_is_compared(self) -> None:
        got = Disk().snapshot(30).log(1, 60).recover(digest_enabled=False)
        assert got.tree.digest == 0
        assert got.digest_mismatches == 0


class TestDigests:
    def wrong(self) -> History:
        history = make_txns(20, seed=8)
        txn = history.txns[12]
        record = txn.record
        history.txns[12] = Txn.make(txn.client_id, txn.cxid, txn.zxid, txn.time, txn.type, record, 12345)
        return history

    def test_a_wrong_digest_is_counted_and_stops_nothing(self) -> None:
        got = Disk().snapshot(0).log(1, 20, self.wrong()).recover()
        assert got.digest_mismatches == 1
        assert got.last_zxid == 20
        assert got.tree.digest_mismatches == 0  # what the server counts from now on is its own

    def test_a_snapshot_with_a_wrong_digest_is_counted(self) -> None:
        tree, sessions = replayed(HISTORY, 10)
        tree.digest += 1
        disk = Disk().put("snapshot.a", b"".join(serialize(tree, sessions, 10)))
        assert disk.recover().digest_mismatches == 1


class TestFuzzySnapshot:
    """The content may be newer than the name: every snapshot content under every older name gives the same end."""

    def fuzzy(self, disk: Disk, name_zxid: int, content_zxid: int, history: History) -> Disk:
        tree, sessions = replayed(history, content_zxid)
        return disk.put(f"snapshot.{name_zxid:x}", b"".join(serialize(tree, sessions, content_zxid)))

    @pytest.mark.parametrize("seed", range(6))
    def test_replaying_over_newer_content_gives_the_exact_state(self, seed: int) -> None:
        history = make_txns(40, seed=100 + seed)
        for name_zxid in range(0, 40, 4):
            for content_zxid in range(name_zxid, 41, 3):
                disk = self.fuzzy(Disk(), name_zxid, content_zxid, history).log(1, 40, history)
                got = disk.recover()
                assert state_of(got.tree, got.sessions) == history.states[40]
                assert got.digest_mismatches == 0
                assert got.txn_count == 40 - name_zxid

    def test_a_log_that_ends_before_the_content_is_told(self) -> None:
        disk = self.fuzzy(Disk(), 10, 30, HISTORY).log(1, 20)
        got = disk.recover()
        assert got.digest_mismatches == 0
        assert "finished at zxid 0x1e and the log ends at 0x14" in got.notices[0]

    def test_a_node_that_outlived_its_parent_is_made_anew(self) -> None:
        """The snapshot has the second /p and its child; the log deletes the first /p and makes both again."""
        history = History()
        history.add(0, OpCode.CREATE, CreateTxn("/p", b"1", OPEN, False, 1))
        history.add(0, OpCode.DELETE, DeleteTxn("/p"))
        history.add(0, OpCode.CREATE, CreateTxn("/p", b"2", OPEN, False, 2))
        history.add(0, OpCode.CREATE, CreateTxn("/p/c", b"c", OPEN, False, 1))
        history.add(0, OpCode.CREATE, CreateTxn("/p/d", b"d", OPEN, False, 2))
        history.add(0, OpCode.SET_DATA, SetDataTxn("/p/c", b"x", 1))
        got = self.fuzzy(Disk(), 1, 6, history).log(1, 6, history).recover()
        assert state_of(got.tree, got.sessions) == history.states[6]
        assert got.digest_mismatches == 0
        image = b"".join(serialize(got.tree, got.sessions, 6))
        check(Disk().put("snapshot.6", image).recover(), 6, history)

    def test_a_change_of_a_node_that_is_gone_changes_nothing(self) -> None:
        history = History()
        history.add(0, OpCode.CREATE, CreateTxn("/p", b"1", OPEN, False, 1))
        history.add(0, OpCode.CREATE, CreateTxn("/p/c", b"1", OPEN, False, 1))
        history.add(0, OpCode.SET_DATA, SetDataTxn("/p/c", b"x", 1))
        history.add(0, OpCode.SET_ACL, SetACLTxn("/p/c", OPEN, 1))
        history.add(0, OpCode.DELETE, DeleteTxn("/p/c"))
        history.add(0, OpCode.DELETE, DeleteTxn("/p"))
        history.add(0, OpCode.ERROR, ErrorTxn(-101))
        for name_zxid in range(8):
            for content_zxid in range(name_zxid, 8):
                got = self.fuzzy(Disk(), name_zxid, content_zxid, history).log(1, 7, history).recover()
                assert state_of(got.tree, got.sessions) == history.states[7]
