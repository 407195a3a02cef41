"""From files to state: which snapshot, which txns, what is refused, what is repaired."""

from __future__ import annotations

import pytest

from tests.fakes.handmade_disk import HandmadeDisk, replayed
from tests.fakes.memory_fs import MemoryFs, Stopped
from tests.fakes.scripted_server import OWNERS, History, make_epochs, make_txns, state_of
from zkpy.core.txn import Txn
from zkpy.storage.data_dir import DataDir
from zkpy.storage.errors import SnapshotDamageError, StorageDamageError, UnreachableZxidError
from zkpy.storage.recovery import Recovered, begin_empty, load_database, recover
from zkpy.storage.snapshot import _compressed, serialize
from zkpy.storage.txn_log import HEADER, encode_entry
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import ACL, CreateTxn, DeleteTxn, ErrorTxn, Id, SetACLTxn, SetDataTxn

HISTORY = make_txns(60, seed=4)
OPEN = [ACL(31, Id("world", "anyone"))]


class Disk(HandmadeDisk):
    """With txns of `HISTORY`."""

    def __init__(self) -> None:
        super().__init__(HISTORY)


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

    def test_2325_only_damaged_snapshots_are_refused(self) -> None:
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

    def test_3056_2325_logs_without_any_snapshot_are_refused_unless_trusted(self) -> None:
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


class TestEmptyDatabase:
    """3056, 3781, 2325: nothing on disk is a new server, or one that has lost everything; only the operator knows."""

    @pytest.mark.parametrize("path", ["/data/initialize", "/logs/initialize"])
    def test_the_file_is_found_in_both_places_and_counts_once(self, path: str) -> None:
        disk = Disk()
        disk.data_dir = DataDir("/data", "/logs")
        disk.data_dir.prepare(disk.fs, autocreate=True)
        disk.fs.put(path, b"")
        got = disk.recover()
        assert (got.is_empty, got.is_initialized) == (True, True)
        assert begin_empty(disk.fs, disk.data_dir, got, autocreate=False)
        assert (got.last_zxid, got.snapshot_zxid) == (0, 0)
        for seed in range(10):
            cut = disk.fs.after_power_cut(seed)
            assert not cut.exists(path)
            assert cut.exists("/data/version-2/snapshot.0")
        disk.fs.unlink("/data/version-2/snapshot.0")
        assert not disk.recover().is_initialized

    def test_without_the_file_autocreate_decides(self) -> None:
        disk = Disk()
        got = disk.recover()
        assert not begin_empty(disk.fs, disk.data_dir, got, autocreate=False)
        assert (got.last_zxid, got.snapshot_zxid) == (-1, None)
        assert disk.fs.names("/data/version-2") == [".keep"]
        got = disk.recover()
        assert begin_empty(disk.fs, disk.data_dir, got, autocreate=True)
        assert got.last_zxid == 0
        got = disk.recover()
        assert (got.is_empty, got.snapshot_zxid, got.last_zxid) == (False, 0, 0)

    def test_a_crash_leaves_the_decision_as_it_was(self) -> None:
        def start(fs: MemoryFs) -> bool:
            data_dir = DataDir("/data", "/data")
            got = recover(fs, data_dir, OWNERS, digest_enabled=True, trust_empty=False)
            return not got.is_empty or begin_empty(fs, data_dir, got, autocreate=False)

        def make() -> MemoryFs:
            disk = Disk()
            disk.fs.put("/data/initialize", b"")
            return disk.fs

        whole = make()
        assert start(whole)
        for stop_at in range(1, whole.operations + 1):
            fs = make()
            fs.stop_at = stop_at
            with pytest.raises(Stopped):
                start(fs)
            for seed in range(5):
                cut = fs.after_power_cut(10 * stop_at + seed)
                assert start(cut)
                assert start(cut)
                assert not cut.exists("/data/initialize")

    def test_with_data_the_file_means_nothing_and_goes(self) -> None:
        disk = Disk().snapshot(5)
        disk.fs.put("/data/initialize", b"")
        got = disk.recover()
        assert (got.is_empty, got.is_initialized) == (False, True)
        assert not disk.fs.after_power_cut(0).exists("/data/initialize")

    def test_it_stays_when_the_start_is_refused(self) -> None:
        disk = Disk().log(1, 5)
        disk.fs.put("/data/initialize", b"")
        with pytest.raises(StorageDamageError):
            disk.recover()
        assert disk.fs.exists("/data/initialize")

    def test_3781_logs_that_were_trusted_without_a_snapshot_ask_for_one(self) -> None:
        """DIFFs over DIFFs, and never a snapshot to go back to."""
        got = Disk().log(1, 9).recover(trust_empty=True)
        assert (got.is_empty, got.snapshot_zxid, got.last_zxid) == (False, None, 9)


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

    def test_2332_files_in_which_nothing_was_synced_are_removed(self) -> None:
        disk = Disk().snapshot(0).log(1, 10).put("log.b", b"")
        got = disk.recover()
        check(got, 10)
        assert "nothing in it was ever synced" in got.notices[0]
        assert not disk.fs.exists("/data/version-2/log.b")

    def test_what_was_read_is_made_durable(self) -> None:
        disk = Disk().snapshot(0).log(1, 5).log(6, 10)
        disk.recover()
        # The snapshot too: Apache does not sync its own.
        assert disk.fs.log == ["datasync", "datasync", "datasync", "sync_dir"]

    def test_temporary_files_are_removed_from_both_directories(self) -> None:
        disk = Disk().snapshot(5)
        disk.data_dir = DataDir("/data", "/logs")
        disk.fs.put("/logs/version-2/tmp-log", b"x")
        disk.put("tmp-snapshot.9", b"x")
        check(disk.recover(), 5)
        assert disk.fs.names("/logs/version-2") == []
        assert disk.fs.names("/data/version-2") == [".keep", "snapshot.5"]


class TestPassedOver:
    """An older snapshot will do only if the logs lead through the newer one."""

    @staticmethod
    def damaged(disk: Disk, zxid: int) -> Disk:
        name = f"snapshot.{zxid:x}"
        content = disk.fs.read(f"/data/version-2/{name}")
        return disk.put(name, content[:50] + b"?" + content[51:])

    def test_a_log_that_ends_before_it_is_refused(self) -> None:
        disk = self.damaged(Disk().snapshot(10).snapshot(30).log(1, 29), 30)
        with pytest.raises(StorageDamageError, match="the last txn is 0x1d, but there is a newer snapshot"):
            disk.recover()
        check(self.damaged(Disk().snapshot(10).snapshot(30).log(1, 30), 30).recover(), 30)

    def test_one_that_was_being_written_may_be_of_a_txn_that_was_never_synced(self) -> None:
        disk = Disk().snapshot(10).put("snapshot.1e", b"ZKSN").log(1, 29)
        check(disk.recover(), 29)

    @pytest.mark.parametrize("cut_off", [False, True])
    def test_a_state_that_came_without_txns_cannot_be_replaced(self, cut_off: bool) -> None:
        """SNAP at 0x200000005, after which the next leader began: the logs look as if nothing was missing."""
        history = make_epochs([(1, 9), (3, 4)])
        disk = Disk().snapshot(0, history).log(1, 9, history).log(10, 13, history)
        assert disk.recover().last_zxid == 3 << 32 | 4
        content = disk.fs.read("/data/version-2/snapshot.0")
        disk.put("snapshot.200000005", content[:9] if cut_off else content[:50] + b"?" + content[51:])
        with pytest.raises(StorageDamageError, match="txn 0x300000001 follows 0x100000009, but there is"):
            disk.recover()


class TestLastTxns:
    def test_they_are_the_last_ones_replayed_without_a_gap(self) -> None:
        disk = Disk().snapshot(20).log(1, 30).log(31, 60)
        assert disk.recover().last_txns == []
        got = recover(disk.fs, disk.data_dir, OWNERS, digest_enabled=True, trust_empty=False, keep_txns=25)
        assert [txn.zxid for txn in got.last_txns] == list(range(36, 61))
        assert got.last_txns[-1].payload == HISTORY.txns[59].payload
        got = recover(disk.fs, disk.data_dir, OWNERS, digest_enabled=True, trust_empty=False, keep_txns=500)
        assert [txn.zxid for txn in got.last_txns] == list(range(21, 61))


class TestLoadDatabase:
    def load(self, disk: Disk, zxid: int | None, keep_txns: int = 0) -> Recovered:
        before = disk.fs.operations
        try:
            return load_database(
                disk.fs, disk.data_dir, OWNERS, zxid, digest_enabled=True, keep_txns=keep_txns
            )
        finally:
            assert disk.fs.operations == before

    def test_every_zxid_from_the_oldest_snapshot_on_can_be_had(self) -> None:
        disk = Disk().snapshot(10).snapshot(30).log(1, 25).log(26, 40).log(41, 60)
        for zxid in range(10, 61):
            got = self.load(disk, zxid, keep_txns=5)
            check(got, zxid)
            base = 30 if zxid >= 30 else 10
            assert got.snapshot_zxid == base
            assert [txn.zxid for txn in got.last_txns] == list(range(max(zxid - 4, base + 1), zxid + 1))

    def test_without_a_zxid_it_is_everything_and_leaves_a_running_log_alone(self) -> None:
        disk = Disk().snapshot(10).log(1, 25).put("tmp-log", HEADER)
        check(self.load(disk, None), 25)
        assert "tmp-log" in disk.names()
        with pytest.raises(
            UnreachableZxidError, match=r"the last zxid: .*there are transaction logs and no snapshot"
        ):
            self.load(Disk().log(1, 25), None)

    def test_what_is_damaged_behind_it_does_not_matter(self) -> None:
        disk = Disk().snapshot(10).log(1, 25).log(27, 40).put("snapshot.1e", b"X" * 30 + b"\0\0\0\1/")
        check(self.load(disk, 25), 25)

    @pytest.mark.parametrize(
        ("disk", "zxid", "problem"),
        [
            (Disk().snapshot(10).log(1, 25), 9, "zxid 0x9: all snapshots are newer"),
            (Disk().log(1, 25), 9, "zxid 0x9: all snapshots are newer"),
            (
                Disk().snapshot(10).log(1, 25),
                26,
                "zxid 0x1a: there is no such txn; the last one before it is 0x19",
            ),
            (Disk().snapshot(10).log(1, 25).log(27, 40), 30, "follows 0x19"),
            (Disk().put("snapshot.a", b""), 10, "cut off"),
            (Disk().snapshot(10), 11, "the last one before it is 0xa"),
        ],
    )
    def test_what_the_files_do_not_give_is_an_error_that_says_why(
        self, disk: Disk, zxid: int, problem: str
    ) -> None:
        with pytest.raises(UnreachableZxidError, match=problem):
            self.load(disk, zxid)

    def test_a_fuzzy_snapshot_that_holds_later_txns_is_not_taken(self) -> None:
        """Apache applies what it logged while a snapshot is still being written; a TRUNC may follow."""
        for compression in ("", "gz", "snappy"):
            tree, sessions = replayed(HISTORY, 35)
            disk = Disk().snapshot(10).log(1, 60)
            name = f"snapshot.1e{'.' * bool(compression)}{compression}"
            disk.put(name, b"".join(_compressed(serialize(tree, sessions, 35), compression)))
            for zxid in (30, 34):
                got = self.load(disk, zxid)
                check(got, zxid)
                assert got.snapshot_zxid == 10
            got = self.load(disk, 35)
            check(got, 35)
            assert got.snapshot_zxid == 30

    def test_the_beginning_of_an_epoch_is_a_zxid_if_the_epoch_is_known(self) -> None:
        history = make_epochs([(1, 9), (3, 4)])
        disk = Disk().snapshot(0, history).log(1, 13, history)
        got = self.load(disk, 3 << 32)
        assert got.last_zxid == 3 << 32
        assert state_of(got.tree, got.sessions)[1:] == history.states[9][1:]
        for zxid in (2 << 32, 4 << 32, 1 << 32 | 10, 2 << 32 | 1):
            with pytest.raises(UnreachableZxidError, match="there is no such txn"):
                self.load(disk, zxid)


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
