"""TRUNC and SNAP on disk: what goes, what stays, and what a start finds when the power went in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.handmade_disk import DIRECTORY, PADDING, HandmadeDisk, replayed
from tests.fakes.memory_fs import MemoryFs, Stopped
from tests.fakes.scripted_server import OWNERS, History, make_epochs, make_txns, state_of
from zkpy.storage.data_dir import DataDir
from zkpy.storage.errors import UnreachableZxidError
from zkpy.storage.recovery import Recovered, load_database, recover
from zkpy.storage.snapshot import _compressed, serialize
from zkpy.storage.truncation import install_snapshot, truncate
from zkpy.storage.txn_log import HEADER, TxnLog, encode_entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes.scripted_server import State
    from zkpy.core.txn import Txn

OLD = make_txns(40, seed=11, data_max=700)
E1 = 1 << 32
E2 = 2 << 32
E3 = 3 << 32


def sent(txns: list[Txn]) -> list[tuple[int, bytes]]:
    return [(txn.zxid, txn.payload) for txn in txns]


def start(fs: MemoryFs) -> Recovered:
    return recover(fs, DataDir("/data", "/data"), OWNERS, digest_enabled=True, trust_empty=False)


def state(fs: MemoryFs) -> State:
    got = start(fs)
    assert got.digest_mismatches == 0
    return state_of(got.tree, got.sessions)


def zxids_in(fs: MemoryFs, name: str) -> list[int]:
    """The zxids of a log, which must end behind its last entry or be untouched."""
    content = fs.read(f"{DIRECTORY}/{name}")
    position = len(HEADER)
    found = []
    while position + 12 < len(content) and content[position + 8 : position + 12] != bytes(4):
        found.append(int.from_bytes(content[position + 24 : position + 32], "big"))
        position += 13 + int.from_bytes(content[position + 8 : position + 12], "big")
    assert len(content) - position in {0, PADDING}
    return found


def logs_of(fs: MemoryFs) -> dict[str, list[int]]:
    return {name: zxids_in(fs, name) for name in fs.names(DIRECTORY) if name.startswith("log.")}


def snapshots_of(fs: MemoryFs) -> list[str]:
    return [name for name in fs.names(DIRECTORY) if name.startswith("snapshot.")]


def disk(*logs: tuple[int, int], snapshots: tuple[int, ...] = (0,), history: History = OLD) -> HandmadeDisk:
    made = HandmadeDisk(history)
    for count in snapshots:
        made.snapshot(count)
    for first, last in logs:
        made.log(first, last)
    return made


def at_every_stop(
    make: Callable[[], MemoryFs], act: Callable[[MemoryFs], object], cuts: int = 4
) -> list[MemoryFs]:
    """Disks after a power cut at every operation of `act`, and after a kill."""
    whole = make()
    act(whole)
    found = [whole.after_power_cut(seed) for seed in range(cuts)]
    for stop_at in range(1, whole.operations + 1):
        fs = make()
        fs.stop_at = stop_at
        with pytest.raises(Stopped):
            act(fs)
        found += [fs.after_power_cut(100 * stop_at + seed) for seed in range(cuts)]
        found.append(fs.after_kill())
    return found


class TestTruncate:
    def cut(
        self, made: HandmadeDisk, zxid: int, again: list[tuple[int, bytes]] | None = None
    ) -> tuple[int, MemoryFs]:
        loaded = load_database(made.fs, made.data_dir, OWNERS, zxid, digest_enabled=True)
        kept = truncate(made.fs, made.data_dir, zxid, again or ())
        if not again:
            got = start(made.fs.after_kill())
            assert state_of(got.tree, got.sessions)[1:] == state_of(loaded.tree, loaded.sessions)[1:]
        return kept, made.fs

    def test_the_file_is_cut_behind_the_zxid_and_later_files_are_removed(self) -> None:
        kept, fs = self.cut(disk((1, 10), (11, 20), (21, 30), (31, 40)), 15)
        assert kept == 15
        assert logs_of(fs) == {"log.1": list(range(1, 11)), "log.b": [11, 12, 13, 14, 15]}
        assert state(fs) == OLD.states[15]
        assert fs.size(f"{DIRECTORY}/log.b") == len(HEADER) + sum(
            len(encode_entry(txn.payload)) for txn in OLD.txns[10:15]
        )

    def test_a_cut_between_two_files_touches_no_entry(self) -> None:
        made = disk((1, 10), (11, 20))
        before = made.fs.read(f"{DIRECTORY}/log.1")
        _, fs = self.cut(made, 10)
        assert logs_of(fs) == {"log.1": list(range(1, 11))}
        assert fs.read(f"{DIRECTORY}/log.1") == before

    def test_a_zxid_that_is_no_log_entry_takes_the_first_later_entry_with_it(self) -> None:
        """Every Apache release keeps that entry: /x6 came back in snapshot.100000005."""
        _, fs = self.cut(disk((6, 20), snapshots=(0, 5)), 5)
        assert logs_of(fs) == {}
        assert state(fs) == OLD.states[5]
        _, fs = self.cut(disk((1, 5), (6, 20), snapshots=(0, 5)), 5)
        assert logs_of(fs) == {"log.1": [1, 2, 3, 4, 5]}
        assert state(fs) == OLD.states[5]

    def test_an_epochs_beginning_is_no_log_entry_either(self) -> None:
        history = make_epochs([(1, 9), (2, 6)])
        _, fs = self.cut(disk((1, 15), history=history), E2)
        assert logs_of(fs) == {f"log.{E1 + 1:x}": list(range(E1 + 1, E1 + 10))}
        assert state(fs) == history.states[9]

    def test_4837_newer_snapshots_bring_nothing_back(self) -> None:
        _, fs = self.cut(disk((1, 40), snapshots=(0, 10, 20, 30)), 15)
        assert snapshots_of(fs) == ["snapshot.0", "snapshot.a"]
        for seed in range(10):
            assert state(fs.after_power_cut(seed)) == OLD.states[15]

    @pytest.mark.parametrize("compression", ["", "gz", "snappy"])
    def test_4837_nor_do_older_ones_that_were_finished_later(self, compression: str) -> None:
        """Apache applied what it had logged while the snapshot was being written."""
        made = disk((1, 40), snapshots=(0, 5))
        tree, sessions = replayed(OLD, 20)
        name = "snapshot.a" + ("." + compression if compression else "")
        made.put(name, b"".join(_compressed(serialize(tree, sessions, 20), compression)))
        assert state(made.fs.after_kill()) == OLD.states[40]
        _, fs = self.cut(made, 15)
        assert snapshots_of(fs) == ["snapshot.0", "snapshot.5"]
        assert state(fs) == OLD.states[15]

    def test_nothing_above_is_nothing_to_do(self) -> None:
        made = disk((1, 10), snapshots=(0, 5))
        assert self.cut(made, 10)[0] == 10
        assert made.fs.log == ["sync_dir"]

    def test_without_a_snapshot_to_go_back_to_nothing_is_touched(self) -> None:
        """TRUNC to before the oldest snapshot; Apache empties its log and exits."""
        made = disk((21, 40), snapshots=(20,))
        with pytest.raises(UnreachableZxidError, match="zxid 0x5: all snapshots are newer"):
            truncate(made.fs, made.data_dir, 5)
        made.put("snapshot.3", b"")
        with pytest.raises(UnreachableZxidError):
            truncate(made.fs, made.data_dir, 5)
        assert made.fs.log == []

    def test_entries_that_a_file_repeats_go_from_every_file(self) -> None:
        made = disk((1, 20), snapshots=(0,))
        made.log(15, 17)
        _, fs = self.cut(made, 16)
        assert logs_of(fs) == {"log.1": list(range(1, 17)), "log.f": [15, 16]}
        assert state(fs) == OLD.states[16]

    def test_damage_that_came_since_the_start_is_left_for_the_next_one(self) -> None:
        made = disk((1, 10), (11, 20), (21, 30), snapshots=(0, 21))
        content = made.fs.read(f"{DIRECTORY}/log.b")
        made.put("log.b", content[:100] + b"?" + content[101:])
        assert truncate(made.fs, made.data_dir, 25) == 25
        assert zxids_in(made.fs, "log.15") == [21, 22, 23, 24, 25]
        assert state(made.fs) == OLD.states[25]
        assert truncate(made.fs, made.data_dir, 22, sent(OLD.txns[22:24])) == 24

    def test_a_hole_beyond_the_zxid_goes_with_what_is_behind_it(self) -> None:
        """A SNAP had filled it; that snapshot goes too."""
        made = disk((1, 10), (21, 30), snapshots=(0, 20))
        for cut in at_every_stop(
            lambda: disk((1, 10), (21, 30), snapshots=(0, 20)).fs,
            lambda fs: truncate(fs, made.data_dir, 5),
        ):
            assert state(cut) in [OLD.states[count] for count in [*range(5, 11), *range(20, 31)]]
        _, fs = self.cut(made, 5)
        assert state(fs) == OLD.states[5]
        assert snapshots_of(fs) == ["snapshot.0"]

    @pytest.mark.parametrize("snapshots", [(0, 5), (0, 5, 25)])
    def test_5094_an_error_in_the_middle_leaves_a_beginning_of_the_old_history(
        self, snapshots: tuple[int, ...]
    ) -> None:
        """And memory was made by `load_database`: it is not ahead of anything."""

        def make() -> MemoryFs:
            return disk((1, 10), (11, 20), (21, 30), snapshots=snapshots).fs

        whole = make()
        truncate(whole, DataDir("/data", "/data"), 8)
        for operation in range(1, whole.operations + 1):
            fs = make()
            fs.fail_at[operation] = 5
            with pytest.raises(OSError, match="Input/output"):
                truncate(fs, DataDir("/data", "/data"), 8)
            fs.fail_at.clear()
            found = start(fs).last_zxid
            assert 8 <= found <= 30
            assert state(fs) == OLD.states[found]


class TestTxnsThatComeAgain:
    """Same epoch, reconnected: what was acked must not vanish between TRUNC and the proposals behind it."""

    @pytest.mark.parametrize(("count", "kept"), [(0, 15), (1, 16), (5, 20), (10, 25), (15, 30), (20, 30)])
    def test_the_longest_identical_prefix_stays(self, count: int, kept: int) -> None:
        made = disk((1, 10), (11, 22), (23, 30))
        assert truncate(made.fs, made.data_dir, 15, sent(OLD.txns[15 : 15 + count])) == kept
        assert state(made.fs) == OLD.states[kept]
        assert max(zxid for zxids in logs_of(made.fs).values() for zxid in zxids) == kept

    def test_another_content_or_another_zxid_ends_it(self) -> None:
        other = make_txns(40, seed=12)
        for again in (
            sent(OLD.txns[15:18]) + sent(other.txns[18:22]),
            sent(OLD.txns[15:18]) + sent(OLD.txns[19:22]),
        ):
            made = disk((1, 30))
            assert truncate(made.fs, made.data_dir, 15, again) == 18
            assert state(made.fs) == OLD.states[18]
        made = disk((1, 30))
        assert truncate(made.fs, made.data_dir, 15, sent(OLD.txns[16:22])) == 15

    def test_behind_a_hole_nothing_stays(self) -> None:
        made = disk((1, 17), (19, 30), snapshots=(0, 18))
        assert truncate(made.fs, made.data_dir, 15, sent(OLD.txns[15:30])) == 17
        assert state(made.fs) == OLD.states[17]

    def test_an_acked_txn_is_there_whenever_the_power_goes(self) -> None:
        again = sent(OLD.txns[15:25])

        def act(fs: MemoryFs) -> None:
            truncate(fs, DataDir("/data", "/data"), 15, again)

        def make() -> MemoryFs:
            return disk((1, 10), (11, 22), (23, 40), snapshots=(0, 5, 18, 30)).fs

        for cut in at_every_stop(make, act):
            found = start(cut).last_zxid
            assert 25 <= found <= 40
            assert state(cut) == OLD.states[found]


@pytest.mark.slow
@pytest.mark.parametrize("zxid", [1, 5, 7, 10, 11, 20, 22, 29, 30])
def test_a_power_cut_in_a_trunc_leaves_a_beginning_that_can_be_cut_again(zxid: int) -> None:
    """What must never happen: a hole, or less than the zxid, or a start that is refused."""
    data_dir = DataDir("/data", "/data")

    def make() -> MemoryFs:
        return disk((1, 6), (7, 10), (11, 21), (22, 29), (30, 40), snapshots=(0, 5, 18, 25, 33)).fs

    seen = set()
    for cut in at_every_stop(make, lambda fs: truncate(fs, data_dir, zxid)):
        found = start(cut).last_zxid
        seen.add(found)
        assert zxid <= found <= 40
        assert state(cut) == OLD.states[found]
        load_database(cut, data_dir, OWNERS, zxid, digest_enabled=True)
        truncate(cut, data_dir, zxid)
        assert state(cut.after_power_cut(1)) == OLD.states[zxid]
    assert {zxid, 40} <= seen


class TestInstall:
    def install(
        self, fs: MemoryFs, new: History, count: int, again: list[tuple[int, bytes]] | None = None
    ) -> int:
        tree, sessions = replayed(new, count)
        return install_snapshot(
            fs, DataDir("/data", "/data"), tree, sessions, tree.last_zxid, again=again or ()
        )

    def test_only_the_received_state_is_left_for_a_start(self) -> None:
        new = make_txns(60, seed=12)
        made = disk((1, 10), (11, 30), snapshots=(0, 5, 20))
        assert self.install(made.fs, new, 50) == 50
        assert state(made.fs.after_power_cut(3)) == new.states[50]
        assert not made.fs.exists(f"{DIRECTORY}/tmp-snapshot.32")

    def test_log_entries_and_snapshots_above_are_gone(self) -> None:
        """Forced SNAP, or a server that is ahead in an epoch of its own."""
        new = make_txns(60, seed=12)
        made = disk((1, 10), (11, 30), snapshots=(0, 5, 20, 25))
        assert self.install(made.fs, new, 15) == 15
        assert state(made.fs) == new.states[15]
        assert snapshots_of(made.fs) == ["snapshot.0", "snapshot.5", "snapshot.f"]
        assert logs_of(made.fs) == {"log.1": list(range(1, 11)), "log.b": [11, 12, 13, 14, 15]}

    def test_an_old_snapshot_of_the_same_zxid_is_not_preferred(self) -> None:
        new = make_txns(60, seed=12)
        made = disk((1, 10))
        tree, sessions = replayed(OLD, 7)
        made.put("snapshot.7.snappy", b"".join(_compressed(serialize(tree, sessions, 7), "snappy")))
        made.snapshot(7)
        self.install(made.fs, new, 7)
        assert snapshots_of(made.fs) == ["snapshot.0", "snapshot.7"]
        assert state(made.fs) == new.states[7]

    def test_every_compression_has_its_name(self) -> None:
        for compression in ("gz", "snappy"):
            made = disk((1, 10))
            tree, sessions = replayed(OLD, 20)
            install_snapshot(made.fs, made.data_dir, tree, sessions, 20, compression)
            assert snapshots_of(made.fs) == ["snapshot.0", f"snapshot.14.{compression}"]
            assert state(made.fs) == OLD.states[20]

    def test_acked_txns_that_come_again_stay(self) -> None:
        made = disk((1, 30))
        assert self.install(made.fs, OLD, 20, sent(OLD.txns[20:26])) == 26
        assert state(made.fs) == OLD.states[26]
        again = sent(OLD.txns[20:23]) + sent(make_txns(40, seed=12).txns[23:30])
        made = disk((1, 30))
        assert self.install(made.fs, OLD, 20, again) == 23
        assert state(made.fs) == OLD.states[23]

    def test_nothing_is_cut_before_the_new_state_is_written(self) -> None:
        made = disk((1, 10), (11, 30), snapshots=(0, 20))
        made.fs.capacity = 1
        with pytest.raises(OSError, match="No space left"):
            self.install(made.fs, make_txns(60, seed=12), 15)
        assert made.names() == ["log.1", "log.b", "snapshot.0", "snapshot.14"]
        assert state(made.fs) == OLD.states[30]

    def test_3642_a_snap_that_never_came_to_its_end_is_no_file(self) -> None:
        made = disk((1, 10))
        made.put("tmp-snapshot.32", b"half of it")
        assert state(made.fs) == OLD.states[10]
        assert snapshots_of(made.fs) == ["snapshot.0"]

    def test_the_old_txns_do_not_come_up_when_the_received_snapshot_is_lost(self) -> None:
        """2846 on the own disk: the next epoch's first txn seems to follow the last old one."""
        history = make_epochs([(1, 9), (2, 5), (3, 4)])
        made = disk((1, 9), history=history)
        self.install(made.fs, history, 14)
        made.log(15, 18)
        assert state(made.fs.after_kill()) == history.states[18]
        content = made.fs.read(f"{DIRECTORY}/snapshot.200000005")
        made.put("snapshot.200000005", content[:40] + b"?" + content[41:])
        with pytest.raises(Exception, match="what it held is not in the logs"):
            start(made.fs)


def diverged() -> list[tuple[str, HandmadeDisk, History, int]]:
    """What was there, and what the leader has instead: (old disk, new history, txns in the SNAP)."""
    common = make_epochs([(1, 12)])
    behind = make_epochs([(1, 8), (2, 10)], seed=20)
    old = make_epochs([(1, 3), (3, 6)], seed=21, base=common)  # leader 3 was never heard of by the others
    new = make_epochs([(2, 9)], seed=22, base=common)
    return [
        ("far behind", disk((1, 9), (10, 12), snapshots=(0, 6), history=common), behind, 18),
        ("ahead in an epoch of its own", disk((1, 10), (11, 14), (15, 21), snapshots=(0, 9, 17, 20), history=old), new, 20),
        ("ahead, and cut back before anything it has", disk((13, 21), snapshots=(12, 16, 19), history=old), new, 6),
        ("the first txns of its epoch would fit", disk((1, 21), snapshots=(0,), history=old), new, 21),
        ("nothing in common", disk((1, 21), snapshots=(0, 3), history=old), make_txns(30, seed=5), 25),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_a_power_cut_in_a_snap_leaves_a_beginning_of_the_old_history_or_the_new_state(number: int) -> None:
    """What must never happen: old txns behind the new state. The old ones may be lost from the SNAP's zxid on, not below."""
    name, made, new, count = diverged()[number]
    old = made.history
    zxid = new.txns[count - 1].zxid
    tree, sessions = replayed(new, count)
    allowed = old.states[sum(txn.zxid <= zxid for txn in old.txns) :]
    old_end = state(made.fs.after_kill())
    assert old_end in allowed, name

    def act(fs: MemoryFs) -> None:
        assert install_snapshot(fs, DataDir("/data", "/data"), tree, sessions, zxid) == zxid

    seen_new = seen_old = 0
    for cut in at_every_stop(lambda: diverged()[number][1].fs, act):
        found = state(cut)
        assert found == new.states[count] or found in allowed, name
        seen_new += found == new.states[count]
        seen_old += found == old_end
        act(cut)
        assert state(cut.after_power_cut(1)) == new.states[count]
    assert seen_new
    assert seen_old


class TestRunningLog:
    def test_the_log_is_told_by_closing_its_file(self) -> None:
        made = disk((1, 10))
        fs = made.fs
        log = TxnLog(fs, DIRECTORY, prealloc_bytes=2048)
        log.append(11, [encode_entry(txn.payload) for txn in OLD.txns[10:20]])
        log.sync()
        log.finish_file()
        assert log.size_bytes == len(HEADER)
        truncate(fs, made.data_dir, 15)
        other = make_txns(40, seed=11, data_max=700)
        log.append(16, [encode_entry(txn.payload) for txn in other.txns[15:18]])
        log.sync()
        log.close()
        assert [name for name in fs.names(DIRECTORY) if name.startswith("log.")] == [
            "log.1",
            "log.10",
            "log.b",
        ]
        for seed in range(5):
            assert state(fs.after_power_cut(seed)) == OLD.states[18]

    def test_a_file_without_entries_goes_on(self) -> None:
        fs = disk((1, 10)).fs
        log = TxnLog(fs, DIRECTORY, prealloc_bytes=2048)
        done = fs.operations
        log.finish_file()
        assert fs.operations == done

    def test_without_space_the_file_is_closed_all_the_same(self) -> None:
        fs = disk((1, 10)).fs
        log = TxnLog(fs, DIRECTORY, prealloc_bytes=2048)
        log.append(11, [encode_entry(txn.payload) for txn in OLD.txns[10:12]])
        log.sync()
        fs.capacity = 0
        log.finish_file()
        assert log.is_space_low
        fs.capacity = None
        log.append(13, [encode_entry(txn.payload) for txn in OLD.txns[12:14]])
        log.sync()
        log.close()
        assert state(fs) == OLD.states[14]
