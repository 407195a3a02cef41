"""The epoch files: what is read, repaired, refused, and what is on disk whenever the power goes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.fakes.apache_start import ApacheRefusesError, apache_epochs
from tests.fakes.memory_fs import MemoryFs, Stopped
from zkpy.storage.epochs import Epochs
from zkpy.storage.errors import StorageDamageError

if TYPE_CHECKING:
    from collections.abc import Callable

DIR = "/data/version-2"
E4 = 4 << 32 | 9
E5 = 5 << 32 | 1


def disk(**files: bytes | int) -> MemoryFs:
    """A directory with these files; an underscore stands for a dot."""
    fs = MemoryFs()
    fs.put(f"{DIR}/snapshot.0", b"")
    for name, content in files.items():
        fs.put(f"{DIR}/{name.replace('_', '.')}", b"%d" % content if isinstance(content, int) else content)
    return fs


def files(fs: MemoryFs) -> dict[str, bytes]:
    return {name: fs.read(f"{DIR}/{name}") for name in fs.names(DIR) if name != "snapshot.0"}


def load(fs: MemoryFs, last_zxid: int) -> tuple[int, int]:
    epochs = Epochs.load(fs, DIR, last_zxid)
    return epochs.accepted, epochs.current


def refusal(fs: MemoryFs, last_zxid: int) -> StorageDamageError:
    before = files(fs)
    with pytest.raises(StorageDamageError) as caught:
        Epochs.load(fs, DIR, last_zxid)
    assert files(fs) == before
    assert "Put the files of the epochs back" in str(caught.value)
    return caught.value


class TestLoading:
    def test_both_files_are_read_and_nothing_is_written(self) -> None:
        fs = disk(acceptedEpoch=7, currentEpoch=5)
        assert load(fs, E5) == (7, 5)
        assert fs.log == []

    @pytest.mark.parametrize("content", [b"5", b"5\n", b"5\r\n", b"5\nnonsense", b"+5", b"005\r6"])
    def test_the_first_line_counts_as_java_reads_it(self, content: bytes) -> None:
        fs = disk(acceptedEpoch=content, currentEpoch=5)
        assert load(fs, E4) == apache_epochs(fs, DIR, E4) == (5, 5)

    @pytest.mark.parametrize(
        "content", [b"", b"\n5", b"5 ", b" 5", b"five", b"0x5", b"5_0", b"\xff", b"9" * 30]
    )
    def test_no_number_is_refused(self, content: bytes) -> None:
        for name in ("acceptedEpoch", "currentEpoch"):
            numbers: dict[str, bytes | int] = {"acceptedEpoch": 5, "currentEpoch": 5}
            fs = disk(**(numbers | {name: content}))
            error = refusal(fs, E4)
            assert error.path == f"{DIR}/{name}"
            assert "this is no epoch" in error.problem
        if content != b"9" * 30:  # a number for a longer type than the reader's
            with pytest.raises(ApacheRefusesError):
                apache_epochs(fs, DIR, E4)

    def test_an_epoch_has_31_bits(self) -> None:
        assert load(disk(acceptedEpoch=0x7FFFFFFF, currentEpoch=5), E5) == (0x7FFFFFFF, 5)
        refusal(disk(acceptedEpoch=0x80000000, currentEpoch=5), E5)

    def test_missing_files_are_taken_from_the_last_zxid_and_written(self) -> None:
        """So come directories of standalone servers, and of 3.3, into an ensemble."""
        fs = disk()
        assert load(fs, 0x36) == (0, 0)
        assert files(fs) == {"acceptedEpoch": b"0", "currentEpoch": b"0"}
        fs = disk(acceptedEpoch=6)
        assert load(fs, E5) == (6, 5)
        assert files(fs) == {"acceptedEpoch": b"6", "currentEpoch": b"5"}
        fs = disk(currentEpoch=5)
        assert load(fs, E5) == (5, 5)
        assert files(fs) == {"acceptedEpoch": b"5", "currentEpoch": b"5"}

    def test_a_missing_promise_behind_a_newer_current_epoch_is_refused(self) -> None:
        fs = disk(currentEpoch=6)
        assert "accepted epoch 5 is less than the current epoch 6" in refusal(fs, E5).problem
        with pytest.raises(ApacheRefusesError):
            apache_epochs(fs, DIR, E5)

    def test_less_accepted_than_current_is_refused(self) -> None:
        assert refusal(disk(acceptedEpoch=5, currentEpoch=6), E5).path == f"{DIR}/acceptedEpoch"

    def test_an_empty_database_that_is_not_trusted_writes_nothing(self) -> None:
        """Apache writes -1, and refuses to start on that as soon as the database is trusted."""
        fs = disk()
        assert load(fs, -1) == (-1, -1)
        assert fs.log == []
        assert load(fs, 0) == (0, 0)

    def test_what_apache_writes_without_a_database_counts_as_missing(self) -> None:
        fs = disk(acceptedEpoch=b"-1", currentEpoch=b"-1")
        assert load(fs, -1) == (-1, -1)
        assert load(fs, 0) == (0, 0)
        assert files(fs) == {"acceptedEpoch": b"0", "currentEpoch": b"0"}


class TestRepair:
    @pytest.mark.parametrize("mark", [None, 4, 5, 6, b"", b"x"])
    def test_2307_2354_1653_4269_a_txn_of_a_newer_epoch_raises_the_current_one_whatever_the_mark_says(
        self, mark: bytes | int | None
    ) -> None:
        """Restarted between the end of a sync and its epoch. Never more than the log proves."""
        fs = disk(acceptedEpoch=6, currentEpoch=4)
        if mark is not None:
            fs.put(f"{DIR}/currentEpoch.tmp", b"%d" % mark if isinstance(mark, int) else mark)
        epochs = Epochs.load(fs, DIR, E5)
        assert (epochs.accepted, epochs.current) == (6, 5)
        assert files(fs) == {"acceptedEpoch": b"6", "currentEpoch": b"5"}
        assert epochs.notices == [
            f"{DIR}/currentEpoch: 4 became 5, the epoch of the last txn: a sync with that leader was cut short"
        ]
        again = Epochs.load(fs, DIR, E5)
        assert again.notices == []

    def test_data_that_is_newer_than_the_promise_is_not_ours(self) -> None:
        error = refusal(disk(acceptedEpoch=4, currentEpoch=4, currentEpoch_tmp=5), E5)
        assert error.problem == "accepted epoch 4 is less than that of the last txn, 0x500000001"

    def test_a_mark_without_a_txn_behind_it_means_nothing(self) -> None:
        fs = disk(acceptedEpoch=6, currentEpoch=5, currentEpoch_tmp=6)
        assert load(fs, E5) == apache_epochs(fs, DIR, E5) == (6, 5)
        assert files(fs) == {"acceptedEpoch": b"6", "currentEpoch": b"5"}

    def test_the_marker_of_3_4_is_removed(self) -> None:
        fs = disk(acceptedEpoch=5, currentEpoch=4, updatingEpoch=b"")
        assert load(fs, E5) == (5, 5)
        assert files(fs) == {"acceptedEpoch": b"5", "currentEpoch": b"5"}

    def test_leftovers_are_removed_durably(self) -> None:
        fs = disk(acceptedEpoch=5, currentEpoch=5, acceptedEpoch_tmp=9)
        fs.put(f"{DIR}/tmp-epoch", b"7")
        load(fs, E5)
        for seed in range(5):
            assert "tmp-epoch" not in files(fs.after_power_cut(seed))


class TestWriting:
    def test_files_hold_a_decimal_number_and_nothing_else(self) -> None:
        fs = disk()
        epochs = Epochs.load(fs, DIR, 0)
        epochs.save_accepted(12)
        assert files(fs)["acceptedEpoch"] == b"12"
        epochs.mark_current(12)
        assert files(fs) == {"acceptedEpoch": b"12", "currentEpoch": b"0", "currentEpoch.tmp": b"12"}
        epochs.save_current(12)
        assert files(fs) == {"acceptedEpoch": b"12", "currentEpoch": b"12"}
        assert (epochs.accepted, epochs.current) == (12, 12)

    def test_a_marked_epoch_is_only_renamed(self) -> None:
        fs = disk(acceptedEpoch=6, currentEpoch=5)
        epochs = Epochs.load(fs, DIR, E5)
        epochs.mark_current(6)
        done = len(fs.log)
        epochs.mark_current(6)
        assert len(fs.log) == done
        epochs.save_current(6)
        assert fs.log[done:] == ["rename", "sync_dir"]

    def test_what_is_known_is_not_written_again(self) -> None:
        fs = disk(acceptedEpoch=6, currentEpoch=5)
        epochs = Epochs.load(fs, DIR, E5)
        epochs.save_accepted(6)
        epochs.mark_current(5)
        epochs.mark_current(3)
        epochs.save_current(5)
        assert fs.log == []

    def test_epochs_never_go_back_and_never_pass_the_promise(self) -> None:
        epochs = Epochs.load(disk(acceptedEpoch=6, currentEpoch=5), DIR, E5)
        for call, epoch in (
            (epochs.save_accepted, 5),
            (epochs.save_current, 4),
            (epochs.save_current, 7),
            (epochs.mark_current, 7),
        ):
            with pytest.raises(AssertionError):
                call(epoch)

    def test_a_failure_leaves_memory_behind_the_disk_and_can_be_tried_again(self) -> None:
        def write(epochs: Epochs) -> None:
            epochs.save_accepted(6)
            epochs.mark_current(6)
            epochs.save_current(6)

        fs = disk(acceptedEpoch=5, currentEpoch=5)
        write(Epochs.load(fs, DIR, E5))
        for operation in range(1, fs.operations + 1):
            fs = disk(acceptedEpoch=5, currentEpoch=5)
            epochs = Epochs.load(fs, DIR, E5)
            fs.fail_at[operation] = errno.EIO
            with pytest.raises(OSError, match="Input/output"):
                write(epochs)
            assert epochs.accepted <= int(fs.read(f"{DIR}/acceptedEpoch"))
            assert epochs.current <= int(fs.read(f"{DIR}/currentEpoch"))
            write(epochs)
            assert load(fs, E5) == (6, 6)
            assert files(fs) == {"acceptedEpoch": b"6", "currentEpoch": b"6"}


def at_every_stop(
    make: Callable[[], MemoryFs], act: Callable[[MemoryFs], object]
) -> list[tuple[int, MemoryFs]]:
    """Disks after a power cut at every operation of `act`, five of each."""
    whole = make()
    act(whole)
    cuts = []
    for stop_at in range(1, whole.operations + 1):
        fs = make()
        fs.stop_at = stop_at
        with pytest.raises(Stopped):
            act(fs)
        cuts += [(stop_at, fs.after_power_cut(10 * stop_at + seed)) for seed in range(5)]
    return cuts


class TestPowerCuts:
    def test_a_number_is_the_old_or_the_new_one(self) -> None:
        self.check_one("save_accepted", (5, 5), (6, 5))
        self.check_one("save_current", (6, 5), (6, 6))

    @staticmethod
    def check_one(name: str, start: tuple[int, int], end: tuple[int, int]) -> None:
        cuts = at_every_stop(
            lambda: disk(acceptedEpoch=start[0], currentEpoch=start[1]),
            lambda fs: getattr(Epochs.load(fs, DIR, E5), name)(6),
        )
        assert {apache_epochs(cut, DIR, E5) for _, cut in cuts} == {start, end}
        for _, cut in cuts:
            assert load(cut, E5) in {start, end}

    def test_what_was_saved_stays(self) -> None:
        fs = disk()
        epochs = Epochs.load(fs, DIR, 0)
        epochs.save_accepted(6)
        assert {load(fs.after_power_cut(seed), 0) for seed in range(20)} == {(6, 0)}
        epochs.mark_current(6)
        for seed in range(20):
            # With the first txn of the leader behind it.
            assert apache_epochs(fs.after_power_cut(seed), DIR, 6 << 32 | 1) == (6, 6)
        epochs.save_current(6)
        assert {load(fs.after_power_cut(seed), 0) for seed in range(20)} == {(6, 6)}

    @pytest.mark.parametrize("mark", [None, 5, 6])
    def test_an_interrupted_repair_can_be_repeated_by_everybody(self, mark: int | None) -> None:
        def make() -> MemoryFs:
            fs = disk(acceptedEpoch=6, currentEpoch=4)
            if mark is not None:
                fs.put(f"{DIR}/currentEpoch.tmp", b"%d" % mark)
            return fs

        for _, cut in at_every_stop(make, lambda fs: load(fs, E5)):
            if mark is not None:
                apache_epochs(cut, DIR, E5)
            assert load(cut, E5) == (6, 5)
            assert apache_epochs(cut, DIR, E5) == (6, 5)

    def test_a_first_start_can_be_interrupted(self) -> None:
        for _, cut in at_every_stop(disk, lambda fs: load(fs, E5)):
            assert apache_epochs(cut, DIR, E5) == (5, 5)
            assert load(cut, E5) == (5, 5)

    def test_a_second_sync_begins_where_the_first_was_given_up(self) -> None:
        """Its txns are in the log under the old epoch; replacing their mark must not leave them without one."""

        def act(fs: MemoryFs) -> None:
            epochs = Epochs.load(fs, DIR, E4)
            epochs.mark_current(5)
            fs.log.append("txns of epoch 5 logged")
            epochs.save_accepted(7)
            epochs.mark_current(7)
            epochs.save_current(7)

        whole = disk(acceptedEpoch=6, currentEpoch=4)
        act(whole)
        logged = whole.log.index("txns of epoch 5 logged")
        for stop_at, cut in at_every_stop(lambda: disk(acceptedEpoch=6, currentEpoch=4), act):
            if stop_at > logged:
                apache_epochs(cut, DIR, E5)
                assert load(cut, E5) in {(6, 5), (7, 5), (7, 7)}
