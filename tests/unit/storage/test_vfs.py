"""One contract for every disk, and what the disk in memory may do on top of it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.fakes.memory_fs import SECTOR, MemoryFs, Stopped
from zkpy.storage.vfs import FileSystem, RealFs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["real", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileSystem, str]:
    """A file system and an empty directory in it."""
    if request.param == "real":
        return RealFs(), str(tmp_path)
    fs = MemoryFs()
    fs.mkdir("/d")
    return fs, "/d"


class TestContract:
    def test_what_is_written_is_read(self, disk: tuple[FileSystem, str]) -> None:
        fs, directory = disk
        file = fs.create(f"{directory}/a")
        file.write(b"hello world", 0)
        file.write(b"W", 6)
        file.datasync()
        file.close()
        assert fs.read(f"{directory}/a") == b"hello World"
        assert fs.read(f"{directory}/a", 6) == b"World"
        assert fs.read(f"{directory}/a", 6, 3) == b"Wor"
        assert fs.read(f"{directory}/a", 6, 100) == b"World"
        assert fs.read(f"{directory}/a", 100) == b""
        assert fs.size(f"{directory}/a") == 11

    def test_a_gap_reads_as_zeros(self, disk: tuple[FileSystem, str]) -> None:
        fs, directory = disk
        file = fs.create(f"{directory}/a")
        file.write(b"x", 600)
        file.close()
        assert fs.read(f"{directory}/a") == bytes(600) + b"x"

    def test_truncate_cuts_and_extends(self, disk: tuple[FileSystem, str]) -> None:
        fs, directory = disk
        file = fs.create(f"{directory}/a")
        file.write(b"abcdef", 0)
        file.truncate(3)
        file.truncate(5)
        file.close()
        assert fs.read(f"{directory}/a") == b"abc\0\0"

    def test_create_empties_and_open_does_not(self, disk: tuple[FileSystem, str]) -> None:
        fs, directory = disk
        file = fs.create(f"{directory}/a")
        file.write(b"abc", 0)
        file.close()
        file = fs.open(f"{directory}/a")
        file.write(b"X", 1)
        file.close()
        assert fs.read(f"{directory}/a") == b"aXc"
        fs.create(f"{directory}/a").close()
        assert fs.size(f"{directory}/a") == 0

    def test_rename_replaces_its_target(self, disk: tuple[FileSystem, str]) -> None:
        fs, directory = disk
        for name in ("old", "new"):
            file = fs.create(f"{directory}/{name}")
            file.write(name.encode(), 0)
            file.close()
        fs.rename(f"{directory}/new", f"{directory}/old")
        fs.sync_dir(directory)
        assert fs.names(directory) == ["old"]
        assert fs.read(f"{directory}/old") == b"new"

    def test_an_open_file_keeps_its_content_under_a_new_name(self, disk: tuple[FileSystem, str]) -> None:
        fs, directory = disk
        file = fs.create(f"{directory}/tmp")
        file.write(b"1", 0)
        fs.rename(f"{directory}/tmp", f"{directory}/final")
        file.write(b"2", 1)
        file.close()
        assert fs.read(f"{directory}/final") == b"12"

    def test_names_are_sorted_and_unlink_removes(self, disk: tuple[FileSystem, str]) -> None:
        fs, directory = disk
        for name in ("c", "a", "b"):
            fs.create(f"{directory}/{name}").close()
        fs.unlink(f"{directory}/b")
        assert fs.names(directory) == ["a", "c"]
        assert fs.exists(f"{directory}/a")
        assert not fs.exists(f"{directory}/b")
        assert not fs.exists(f"{directory}/no/such")

    def test_directories_nest(self, disk: tuple[FileSystem, str]) -> None:
        fs, directory = disk
        fs.mkdir(f"{directory}/sub")
        fs.create(f"{directory}/sub/a").close()
        fs.sync_dir(f"{directory}/sub")
        assert fs.exists(f"{directory}/sub")
        assert fs.names(f"{directory}/sub") == ["a"]
        with pytest.raises(FileExistsError):
            fs.mkdir(f"{directory}/sub")

    def test_what_is_missing_is_an_error(self, disk: tuple[FileSystem, str]) -> None:
        fs, directory = disk
        for call in (fs.read, fs.size, fs.open, fs.unlink, fs.names, fs.sync_dir):
            with pytest.raises(FileNotFoundError):
                call(f"{directory}/missing")
        with pytest.raises(FileNotFoundError):
            fs.create(f"{directory}/missing/a")


def test_the_real_disk_finishes_a_write_that_was_taken_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pwrite may take less than it was given, as it does when the disk is nearly full."""
    import os

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data)[:3], offset))
    file = RealFs().create(str(tmp_path / "a"))
    file.write(b"0123456789", 2)
    file.close()
    assert (tmp_path / "a").read_bytes() == b"\0\x000123456789"


def memory_disk() -> MemoryFs:
    fs = MemoryFs()
    fs.mkdir("/d")
    fs.sync_dir("/")
    return fs


class TestPowerCut:
    def test_synced_content_under_a_synced_name_survives(self) -> None:
        fs = memory_disk()
        file = fs.create("/d/a")
        file.write(b"x" * 2000, 0)
        file.datasync()
        fs.sync_dir("/d")
        for seed in range(30):
            assert fs.after_power_cut(seed).read("/d/a") == b"x" * 2000

    def test_a_name_that_was_not_synced_may_be_lost_or_kept(self) -> None:
        fs = memory_disk()
        fs.create("/d/a").datasync()
        assert {fs.after_power_cut(seed).exists("/d/a") for seed in range(30)} == {True, False}

    def test_unsynced_sectors_are_old_or_new_each_for_itself(self) -> None:
        fs = memory_disk()
        fs.put("/d/a", b"o" * (3 * SECTOR))
        file = fs.open("/d/a")
        file.write(b"n" * (3 * SECTOR), 0)
        seen = {fs.after_power_cut(seed).read("/d/a")[::SECTOR] for seed in range(200)}
        assert seen == {bytes((a, b, c)) for a in b"on" for b in b"on" for c in b"on"}
        for seed in range(200):
            content = fs.after_power_cut(seed).read("/d/a")
            for start in range(0, 3 * SECTOR, SECTOR):
                assert len(set(content[start : start + SECTOR])) == 1

    def test_an_unsynced_length_may_be_anything_between(self) -> None:
        fs = memory_disk()
        fs.put("/d/a", b"")
        fs.open("/d/a").write(b"n" * 1000, 0)
        sizes = {fs.after_power_cut(seed).size("/d/a") for seed in range(100)}
        assert {0, 1000} < sizes

    def test_an_unsynced_rename_leaves_the_old_or_the_new_file(self) -> None:
        fs = memory_disk()
        fs.put("/d/tmp", b"new")
        fs.put("/d/final", b"old")
        fs.rename("/d/tmp", "/d/final")
        seen = {(tuple(cut.names("/d")), cut.read("/d/final")) for cut in map(fs.after_power_cut, range(30))}
        assert seen == {(("final", "tmp"), b"old"), (("final",), b"new")}

    def test_an_unsynced_removal_may_be_undone(self) -> None:
        fs = memory_disk()
        fs.put("/d/a", b"x")
        fs.unlink("/d/a")
        assert {fs.after_power_cut(seed).exists("/d/a") for seed in range(30)} == {True, False}

    def test_the_same_seed_gives_the_same_disk(self) -> None:
        fs = memory_disk()
        fs.put("/d/a", b"o" * 5000)
        fs.open("/d/a").write(b"n" * 6000, 0)
        assert fs.after_power_cut(7).read("/d/a") == fs.after_power_cut(7).read("/d/a")

    def test_a_kill_loses_nothing_and_syncs_nothing(self) -> None:
        fs = memory_disk()
        fs.put("/d/a", b"old")
        fs.open("/d/a").write(b"new", 0)
        killed = fs.after_kill()
        assert killed.read("/d/a") == b"new"
        assert {killed.after_power_cut(seed).read("/d/a") for seed in range(30)} == {b"old", b"new"}


class TestFaults:
    def test_the_chosen_operation_fails_and_a_write_is_half_done(self) -> None:
        fs = memory_disk()
        file = fs.create("/d/a")
        fs.fail_at[fs.operations + 1] = errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            file.write(b"12345678", 0)
        assert fs.read("/d/a") == b"1234"
        file.write(b"abcd", 0)
        assert fs.read("/d/a") == b"abcd"

    def test_a_full_disk_takes_what_fits_and_can_be_written_in_place(self) -> None:
        fs = MemoryFs(capacity=10)
        file = fs.create("/a")
        file.write(b"12345678", 0)
        with pytest.raises(OSError, match="No space left") as caught:
            file.write(b"abcdef", 8)
        assert caught.value.errno == errno.ENOSPC
        assert fs.read("/a") == b"12345678ab"
        file.write(b"XY", 3)
        assert fs.read("/a") == b"123XY678ab"

    def test_a_stop_happens_after_a_write_and_before_a_sync(self) -> None:
        fs = memory_disk()
        fs.put("/d/a", b"old")
        file = fs.open("/d/a")
        fs.stop_at = fs.operations + 1
        with pytest.raises(Stopped):
            file.write(b"new", 0)
        assert fs.read("/d/a") == b"new"
        fs.stop_at = fs.operations + 1
        with pytest.raises(Stopped):
            file.datasync()
        assert {fs.after_power_cut(seed).read("/d/a") for seed in range(30)} == {b"old", b"new"}
