"""The log writer: its bytes, its files, and what it does when the disk says no."""

from __future__ import annotations

import errno
from zlib import adler32

import pytest

from tests.fakes.memory_fs import MemoryFs
from zkpy.storage.errors import DiskFullError, LogFailedError
from zkpy.storage.log_reader import LogReader
from zkpy.storage.txn_log import HEADER, TxnLog, encode_entry

STEP = 4096


def payload(zxid: int, size: int = 40) -> bytes:
    """Something with a zxid where a TxnHeader has it."""
    return bytes(12) + zxid.to_bytes(8, "big") + b"\x01" * size


def entries(first: int, last: int, size: int = 40) -> list[bytes]:
    return [encode_entry(payload(zxid, size)) for zxid in range(first, last + 1)]


def new_disk(capacity: int | None = None) -> MemoryFs:
    fs = MemoryFs(capacity)
    fs.mkdir("/d")
    fs.sync_dir("/")
    return fs


def new_log(fs: MemoryFs, size_limit_bytes: int = 0, force_sync: bool = True) -> TxnLog:
    return TxnLog(fs, "/d", prealloc_bytes=STEP, size_limit_bytes=size_limit_bytes, force_sync=force_sync)


def read(fs: MemoryFs) -> list[int]:
    paths = [f"/d/{name}" for name in fs.names("/d") if name.startswith("log.")]
    paths.sort(key=lambda path: int(path.rpartition(".")[2], 16))
    return [zxid for zxid, _ in LogReader(fs, paths, 0).entries()]


def test_an_entry_is_checksum_length_payload_and_mark() -> None:
    data = payload(1)
    assert encode_entry(data) == adler32(data).to_bytes(8, "big") + len(data).to_bytes(4, "big") + data + b"B"


def test_a_file_is_named_by_its_first_txn_and_begins_with_the_header() -> None:
    fs = new_disk()
    log = new_log(fs)
    batch = entries(0x1F, 0x21)
    log.append(0x1F, batch)
    log.sync()
    content = fs.read("/d/log.1f")
    assert content.startswith(bytes.fromhex("5a4b4c47 00000002 0000000000000000") + b"".join(batch))
    assert content.rstrip(b"\0") == HEADER + b"".join(batch)


def test_no_log_file_is_seen_before_its_first_batch_is_durable() -> None:
    fs = new_disk()
    log = new_log(fs)
    log.append(1, entries(1, 3))
    assert fs.names("/d") == ["tmp-log"]
    log.sync()
    assert fs.names("/d") == ["log.1"]
    assert fs.log[-3:] == ["datasync", "rename", "sync_dir"]


def test_a_batch_costs_one_write_and_one_sync() -> None:
    fs = new_disk()
    log = new_log(fs)
    log.append(1, entries(1, 1))
    log.sync()
    fs.log.clear()
    log.append(2, entries(2, 9))
    log.sync()
    assert fs.log == ["write", "datasync"]


def test_space_is_written_ahead_before_it_is_needed() -> None:
    fs = new_disk()
    log = new_log(fs)
    assert log.headroom_bytes == STEP
    for zxid in range(1, 200):
        log.append(zxid, entries(zxid, zxid))
        log.sync()
        assert log.headroom_bytes >= log.reserve_bytes
        assert fs.size("/d/log.1") == log.size_bytes + log.headroom_bytes
    assert read(fs) == list(range(1, 200))


def test_a_batch_larger_than_the_space_ahead_is_written_all_the_same() -> None:
    fs = new_disk()
    log = new_log(fs)
    log.append(1, entries(1, 2, size=3 * STEP))
    log.sync()
    assert read(fs) == [1, 2]
    assert not log.is_space_low


@pytest.mark.parametrize(
    ("prealloc", "ahead"), [(64 << 20, 1 << 20), (16384, 16384), (0, 1 << 16), (-1, 1 << 16)]
)
def test_the_space_ahead_follows_the_setting_up_to_a_megabyte(prealloc: int, ahead: int) -> None:
    assert TxnLog(new_disk(), "/d", prealloc_bytes=prealloc).headroom_bytes == ahead


def test_sync_without_news_does_nothing() -> None:
    fs = new_disk()
    log = new_log(fs)
    log.sync()
    log.append(1, entries(1, 1))
    log.sync()
    fs.log.clear()
    log.sync()
    assert fs.log == []


class TestRoll:
    def test_the_next_append_begins_a_new_file(self) -> None:
        fs = new_disk()
        log = new_log(fs)
        log.append(1, entries(1, 5))
        log.sync()
        assert log.roll()
        assert fs.names("/d") == ["log.1", "tmp-log"]
        log.append(6, entries(6, 7))
        log.sync()
        assert fs.names("/d") == ["log.1", "log.6"]
        assert read(fs) == [1, 2, 3, 4, 5, 6, 7]

    def test_a_file_without_entries_is_not_rolled(self) -> None:
        fs = new_disk()
        log = new_log(fs)
        fs.log.clear()
        assert log.roll()
        assert fs.log == []

    def test_rolling_unsynced_entries_is_our_bug(self) -> None:
        log = new_log(new_disk())
        log.append(1, entries(1, 1))
        with pytest.raises(AssertionError, match="sync first"):
            log.roll()

    def test_the_size_limit_rolls_by_itself(self) -> None:
        fs = new_disk()
        log = new_log(fs, size_limit_bytes=300)
        for zxid in range(1, 11):
            log.append(zxid, entries(zxid, zxid))
            log.sync()
        assert fs.names("/d") == ["log.1", "log.5", "log.9"]
        assert read(fs) == list(range(1, 11))

    def test_on_a_full_disk_the_file_goes_on(self) -> None:
        fs = new_disk(capacity=2 * STEP)
        log = new_log(fs)
        log.append(1, entries(1, 1))
        log.sync()
        assert not log.roll()
        assert fs.names("/d") == ["log.1"]
        log.append(2, entries(2, 2))
        log.sync()
        assert read(fs) == [1, 2]


class TestFullDisk:
    def test_it_is_noticed_while_there_is_room_for_what_must_be_logged(self) -> None:
        fs = new_disk(capacity=20_000)
        log = new_log(fs)
        zxid = 0
        while not log.is_space_low:
            zxid += 1
            log.append(zxid, entries(zxid, zxid))
            log.sync()
        assert log.headroom_bytes > STEP // 4
        while log.headroom_bytes > 100:
            zxid += 1
            log.append(zxid, entries(zxid, zxid))
            log.sync()
        assert read(fs) == list(range(1, zxid + 1))
        assert not log.grow()
        fs.capacity = None
        assert log.grow()
        assert not log.is_space_low

    def test_a_refused_batch_is_rolled_back_and_a_smaller_one_fits(self) -> None:
        """Whatever a power cut keeps of the refused batch does not come back."""
        fs = new_disk(capacity=6000)
        log = new_log(fs)
        log.append(1, entries(1, 2))
        log.sync()
        with pytest.raises(DiskFullError, match=r"/d/log\.1: no space for"):
            log.append(3, entries(3, 90))
        with pytest.raises(AssertionError, match="rollback first"):
            log.append(3, entries(3, 3))
        log.rollback()
        assert fs.size("/d/log.1") <= 6000
        headroom = log.headroom_bytes
        assert headroom > 1000
        log.append(3, entries(3, 4, size=50))
        cuts = [read(fs.after_power_cut(seed)) for seed in range(40)]
        assert all(cut in ([1, 2], [1, 2, 3], [1, 2, 3, 4]) for cut in cuts)
        log.sync()
        assert {tuple(read(fs.after_power_cut(seed))) for seed in range(40)} == {(1, 2, 3, 4)}

    def test_rolling_back_what_was_appended_but_not_refused_works_too(self) -> None:
        fs = new_disk()
        log = new_log(fs)
        log.append(1, entries(1, 1))
        log.rollback()
        log.append(7, entries(7, 7))
        log.sync()
        assert fs.names("/d") == ["log.7"]

    def test_a_start_without_any_space_refuses_until_there_is_some(self) -> None:
        fs = new_disk(capacity=0)
        log = new_log(fs)
        assert log.is_space_low
        assert log.headroom_bytes == 0
        with pytest.raises(DiskFullError, match="no space for a new log file"):
            log.append(1, entries(1, 1))
        log.rollback()
        log.sync()
        assert log.roll()
        assert fs.names("/d") == []
        assert not log.grow()
        fs.capacity = None
        assert log.grow()
        log.append(1, entries(1, 1))
        log.sync()
        assert read(fs) == [1]
        log.close()
        log.close()

    def test_no_inode_left_is_a_full_disk_too(self) -> None:
        fs = new_disk()
        fs.fail_at[fs.operations + 1] = errno.ENOSPC
        log = new_log(fs)
        assert log.is_space_low
        assert log.grow()


class TestBrokenDisk:
    def test_a_file_that_was_begun_in_vain_and_cannot_be_removed_is_final(self) -> None:
        fs = new_disk(capacity=0)
        fs.fail_at[fs.operations + 3] = errno.EIO
        with pytest.raises(LogFailedError, match="unlink failed"):
            new_log(fs)

    @pytest.mark.parametrize("operation", [1, 2, 3])
    def test_a_file_that_cannot_be_begun_is_final(self, operation: int) -> None:
        fs = new_disk()
        fs.fail_at[fs.operations + operation] = errno.EIO
        with pytest.raises(LogFailedError, match="Input/output error"):
            new_log(fs)

    def test_a_failed_write_is_final(self) -> None:
        fs = new_disk()
        log = new_log(fs)
        fs.fail_at[fs.operations + 1] = errno.EIO
        with pytest.raises(LogFailedError, match=r"tmp-log: write failed: .*Input/output error"):
            log.append(1, entries(1, 1))
        for use in (lambda: log.append(1, entries(1, 1)), log.sync, log.roll, log.rollback, log.grow):
            with pytest.raises(LogFailedError, match="has failed before"):
                use()

    @pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
    @pytest.mark.parametrize("operation", [1, 2, 3])
    def test_a_failed_sync_is_final_and_never_tried_again(self, operation: int, error: int) -> None:
        """Data, name or directory: after a failed sync nothing can be said about what is on disk."""
        fs = new_disk()
        log = new_log(fs)
        log.append(1, entries(1, 1))
        fs.fail_at[fs.operations + operation] = error
        with pytest.raises(LogFailedError, match="sync failed"):
            log.sync()
        synced = fs.log.count("datasync")
        with pytest.raises(LogFailedError):
            log.sync()
        assert fs.log.count("datasync") == synced

    @pytest.mark.parametrize("operation", [1, 2, 3])
    def test_a_failed_rollback_is_final(self, operation: int) -> None:
        fs = new_disk()
        log = new_log(fs)
        log.append(1, entries(1, 1))
        fs.fail_at[fs.operations + operation] = errno.EIO
        with pytest.raises(LogFailedError, match="rollback failed"):
            log.rollback()

    def test_a_failure_to_get_space_ahead_is_final_unless_the_disk_is_full(self) -> None:
        fs = new_disk()
        log = new_log(fs)
        fs.fail_at[fs.operations + 1] = errno.EIO
        with pytest.raises(LogFailedError, match="write failed"):
            log.grow()


def test_without_force_sync_nothing_is_synced() -> None:
    fs = new_disk()
    log = new_log(fs, force_sync=False)
    fs.log.clear()
    log.append(1, entries(1, 1))
    log.sync()
    log.append(2, entries(2, 2))
    log.rollback()
    assert set(fs.log) == {"write", "rename", "truncate"}
    assert read(fs) == [1]
