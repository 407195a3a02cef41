"""DIFFs from log files: what is handed out is complete, and nothing is handed out that may not be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.handmade_disk import DIRECTORY, HandmadeDisk
from tests.fakes.scripted_server import OWNERS, History, ScriptedServer, make_epochs, make_txns
from zkpy.storage import history as history_module
from zkpy.storage.data_dir import DataDir
from zkpy.storage.history import read_log_diff
from zkpy.storage.purge import purge
from zkpy.storage.recovery import recover
from zkpy.storage.truncation import install_snapshot
from zkpy.storage.txn_log import HEADER, TxnLog, encode_entry

if TYPE_CHECKING:
    from tests.fakes.memory_fs import MemoryFs

HISTORY = make_txns(60, seed=4)
EPOCHS = make_epochs([(1, 20), (2, 20), (4, 20)])
E1 = 1 << 32
E2 = 2 << 32
E4 = 4 << 32


def diff(made: HandmadeDisk, from_zxid: int, reach_zxid: int, factor: float = 0) -> list[int] | None:
    """The zxids handed out; the payloads are checked against the history."""
    before = made.fs.operations
    got = read_log_diff(made.fs, made.data_dir, from_zxid, reach_zxid, factor)
    assert made.fs.operations == before
    if got is None:
        return None
    payloads = {txn.zxid: txn.payload for txn in made.history.txns}
    assert all(payloads[zxid] == payload for zxid, payload in got)
    return [zxid for zxid, _ in got]


def disk(
    *logs: tuple[int, int], snapshots: tuple[int, ...] = (0,), history: History = HISTORY
) -> HandmadeDisk:
    made = HandmadeDisk(history)
    for count in snapshots:
        made.snapshot(count)
    for first, last in logs:
        made.log(first, last)
    return made


class TestRange:
    def test_it_begins_with_the_learners_txn_and_ends_with_the_oldest_in_memory(self) -> None:
        made = disk((1, 20), (21, 40), (41, 60))
        for first, last in ((1, 2), (5, 30), (20, 21), (21, 40), (40, 41), (1, 60)):
            assert diff(made, first, last) == list(range(first, last + 1))

    def test_a_zxid_between_two_epochs_begins_with_the_txn_before_it(self) -> None:
        """The caller sees that it is not the learner's."""
        made = disk((1, 60), history=EPOCHS)
        after = [*range(E2 + 1, E2 + 4)]
        assert diff(made, E2, E2 + 3) == [E1 + 20, *after]
        assert diff(made, E1 + 25, E2 + 3) == [E1 + 20, *after]
        assert diff(made, E1 + 20, E2 + 3) == [E1 + 20, *after]

    def test_epochs_are_crossed_where_nothing_is_missing(self) -> None:
        made = disk((1, 10), (11, 30), (31, 60), history=EPOCHS)
        got = diff(made, E1 + 15, E4 + 8)
        assert got is not None
        assert got == [txn.zxid for txn in EPOCHS.txns[14:48]]

    def test_a_learner_from_before_the_first_log_gets_a_snapshot(self) -> None:
        """Also an empty one: no log begins at 0."""
        assert diff(disk((1, 20)), 0, 10) is None
        assert diff(disk((11, 20), snapshots=(0, 10)), 10, 15) is None
        assert diff(disk(), 1, 2) is None
        misnamed = disk((11, 20)).put("log.5", b"ZKLG" + bytes(12))
        assert diff(misnamed, 7, 15) is None

    def test_a_log_that_was_cut_empty_does_not_begin_where_its_name_says(self) -> None:
        """A TRUNC may leave such a file; the next epoch follows it without a gap, but the learner's txn is nowhere."""
        made = disk((1, 20), (21, 40), history=EPOCHS)
        assert diff(made, E1 + 5, E2 + 3) == [*range(E1 + 5, E1 + 21), *range(E2 + 1, E2 + 4)]
        made.put(f"log.{E1 + 1:x}", HEADER)
        assert diff(made, E1 + 5, E2 + 3) is None

    def test_logs_that_end_before_memory_begins_do_not_do(self) -> None:
        assert diff(disk((1, 20)), 5, 21) is None
        assert (
            diff(disk((1, 20), history=EPOCHS), E1 + 5, E2) is None
        )  # nothing in memory but an epoch's beginning
        assert diff(disk((1, 30), history=EPOCHS), E1 + 5, E2) is None


class TestSize:
    @staticmethod
    def sizes(made: HandmadeDisk) -> dict[str, int]:
        return {name: made.fs.size(f"{DIRECTORY}/{name}") for name in made.names()}

    def test_the_files_behind_the_first_one_are_measured_by_the_newest_snapshot(self) -> None:
        made = disk((1, 20), (21, 40), (41, 60), snapshots=(0, 40))
        made.put("snapshot.39", b"cut off")
        sizes = self.sizes(made)
        exact = (sizes["log.15"] + sizes["log.29"]) / sizes["snapshot.28"]
        assert diff(made, 5, 50, exact + 0.001) is not None
        assert diff(made, 5, 50, exact - 0.001) is None
        assert diff(made, 25, 50, exact - 0.001) is not None

    def test_one_huge_log_always_qualifies_and_a_limit_of_0_is_none(self) -> None:
        assert diff(disk((1, 60)), 5, 50, 0.0001) is not None
        assert diff(disk((1, 20), (21, 60)), 5, 50, 0) is not None

    def test_a_negative_factor_turns_it_off(self) -> None:
        assert diff(disk((1, 60)), 5, 50, -1) is None

    def test_what_has_to_be_held_in_memory_is_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        size = sum(len(txn.payload) for txn in HISTORY.txns[5:50])
        monkeypatch.setattr(history_module, "BYTES_MAX", size)
        assert diff(disk((1, 60)), 5, 50) is not None
        monkeypatch.setattr(history_module, "BYTES_MAX", size - 1)
        assert diff(disk((1, 60)), 5, 50) is None


class TestHoles:
    def test_2846_nothing_is_handed_out_across_a_hole(self) -> None:
        made = disk((1, 20), (31, 60), snapshots=(0, 30))
        assert diff(made, 5, 50) is None
        assert diff(made, 5, 20) == list(range(5, 21))
        assert diff(made, 31, 50) == list(range(31, 51))

    def test_2846_a_hole_between_epochs_shows_in_the_snapshot_that_filled_it(self) -> None:
        """SNAP in epoch 2, then epoch 4: 0x100000014 and 0x400000001 seem to be neighbours."""
        made = disk((1, 20), (41, 60), snapshots=(0, 30), history=EPOCHS)
        for learner in (E1 + 5, E1 + 20, E2 + 3, E2 + 10, E2 + 15):
            assert diff(made, learner, E4 + 5) is None
        assert diff(made, E4 + 1, E4 + 5) == [E4 + 1, E4 + 2, E4 + 3, E4 + 4, E4 + 5]

    def test_2846_a_hole_inside_one_file_too(self) -> None:
        """Apache goes on in the same file after a SNAP."""
        made = disk(snapshots=(0, 30), history=EPOCHS)
        made.log(1, 20)
        tail = b"".join(encode_entry(txn.payload) for txn in EPOCHS.txns[40:])
        name = f"log.{E1 + 1:x}"
        made.put(name, made.fs.read(f"{DIRECTORY}/{name}").rstrip(b"\0") + tail)
        assert diff(made, E1 + 5, E4 + 5) is None
        made.fs.unlink(f"{DIRECTORY}/snapshot.20000000a")
        assert diff(made, E1 + 5, E4 + 5) is not None  # nobody could know

    def test_2846_a_snapshot_of_an_epochs_beginning_may_have_filled_one(self) -> None:
        made = disk((1, 40), history=EPOCHS)
        assert diff(made, E1 + 5, E2 + 5) is not None
        made.put(f"snapshot.{E2:x}", made.fs.read(f"{DIRECTORY}/snapshot.0"))
        assert diff(made, E1 + 5, E2 + 5) is None
        assert diff(made, E2 + 1, E2 + 5) is not None

    def test_2846_nothing_from_before_the_oldest_snapshot(self) -> None:
        """Which holes there were then, purged snapshots would have told."""
        made = disk((1, 20), (21, 60), snapshots=(15, 30, 50))
        assert diff(made, 14, 50) is None
        assert diff(made, 15, 50) == list(range(15, 51))
        assert diff(disk((1, 60), snapshots=()), 15, 50) is None

    def test_2846_after_a_received_snapshot_only_what_came_behind_it(self) -> None:
        made = disk((1, 20), history=EPOCHS)
        recovered = recover(
            disk((1, 30), history=EPOCHS).fs,
            DataDir("/data", "/data"),
            OWNERS,
            digest_enabled=True,
            trust_empty=False,
        )
        install_snapshot(made.fs, made.data_dir, recovered.tree, recovered.sessions, E2 + 10)
        made.log(31, 60)
        assert diff(made, E1 + 5, E2 + 15) is None
        assert diff(made, E2 + 10, E2 + 15) is None  # the txn itself is in no log
        assert diff(made, E2 + 11, E2 + 15) == list(range(E2 + 11, E2 + 16))

    def test_snapshots_whose_txn_is_in_the_log_fill_nothing(self) -> None:
        made = disk((1, 60), snapshots=(0, 10, 20, 40), history=EPOCHS)
        assert diff(made, E1 + 5, E4 + 5) is not None

    def test_damage_in_the_way_means_a_snapshot(self) -> None:
        made = disk((1, 20), (21, 60))
        content = made.fs.read(f"{DIRECTORY}/log.15")
        made.put("log.15", content[:300] + b"?" + content[301:])
        assert diff(made, 5, 50) is None
        assert diff(made, 5, 20) == list(range(5, 21))


class TestWhileTheServerRuns:
    def test_the_log_that_is_being_written_is_read_up_to_what_is_committed(self) -> None:
        made = disk((1, 20))
        log = TxnLog(made.fs, DIRECTORY, prealloc_bytes=1 << 16)
        log.append(21, [encode_entry(txn.payload) for txn in HISTORY.txns[20:30]])
        assert read_log_diff(made.fs, made.data_dir, 5, 30, 0) is None  # has no name before it is durable
        log.sync()
        assert diff(made, 5, 30) == list(range(5, 31))
        log.append(31, [encode_entry(txn.payload) for txn in HISTORY.txns[30:40]])
        assert diff(made, 5, 30) == list(range(5, 31))
        content = made.fs.read(f"{DIRECTORY}/log.15")
        end = len(content.rstrip(b"\0"))
        for cut in range(end - 200, end):  # a write under way
            made.put("log.15", content[:cut] + bytes(300))
            assert diff(made, 5, 30) == list(range(5, 31))
            assert diff(made, 5, 40) in (None, list(range(5, 41)))
        log.close()

    def test_files_that_are_purged_meanwhile_mean_a_snapshot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = disk((1, 20), (21, 40), (41, 60))
        size = made.fs.size

        def purged(path: str) -> int:
            if path.endswith("log.15"):
                made.fs.unlink(path)
            return size(path)

        monkeypatch.setattr(made.fs, "size", purged)
        assert read_log_diff(made.fs, made.data_dir, 5, 50, 0.5) is None

    @pytest.mark.parametrize("seed", range(4))
    def test_whatever_a_servers_life_leaves_is_handed_out_whole_or_not_at_all(self, seed: int) -> None:
        from tests.fakes.memory_fs import MemoryFs

        fs: MemoryFs = MemoryFs()
        history = make_txns(150, seed=30 + seed)
        server = ScriptedServer(fs, history)
        server.run(seed)
        server.log.close()
        purge(fs, server.data_dir, 3)
        made = HandmadeDisk(history)
        made.fs = fs
        handed_out = 0
        for learner in range(1, 150, 3):
            got = diff(made, learner, 150)
            assert got in (None, list(range(learner, 151)))
            handed_out += got is not None
        assert handed_out
