"""Directories: made, checked, measured, locked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.memory_fs import MemoryFs, Stopped
from zkpy.storage.data_dir import DataDir
from zkpy.storage.errors import DataDirError
from zkpy.storage.vfs import RealFs

if TYPE_CHECKING:
    from pathlib import Path


def test_missing_directories_are_made_and_durable() -> None:
    fs = MemoryFs()
    DataDir("/a/b/data", "/logs").prepare(fs, autocreate=True)
    cut = fs.after_power_cut(0)
    assert cut.names("/a/b/data/version-2") == []
    assert cut.names("/logs/version-2") == []


@pytest.mark.parametrize("stop_at", range(1, 7))
def test_directories_that_an_interrupted_start_has_made_are_durable_too(stop_at: int) -> None:
    """Killed behind a mkdir, the next start finds the directory: without a sync all of its data went with the next power cut."""
    fs = MemoryFs()
    fs.stop_at = stop_at
    data_dir = DataDir("/a/data", "/a/data")
    with pytest.raises(Stopped):
        data_dir.prepare(fs, autocreate=True)
    killed = fs.after_kill()
    data_dir.prepare(killed, autocreate=True)
    assert all(killed.after_power_cut(seed).names("/a/data/version-2") == [] for seed in range(20))


def test_without_autocreate_a_missing_directory_stops_the_start() -> None:
    fs = MemoryFs()
    with pytest.raises(
        DataDirError, match=r"/data/version-2 is missing, and zookeeper\.datadir\.autocreate is false"
    ):
        DataDir("/data", "/data").prepare(fs, autocreate=False)
    DataDir("/data", "/data").prepare(fs, autocreate=True)
    DataDir("/data", "/data").prepare(fs, autocreate=False)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataDirError, match="file/version-2 cannot be created: Not a directory"):
        DataDir.open(RealFs(), f"{tmp_path}/file", f"{tmp_path}/file", autocreate=True)


@pytest.mark.parametrize(
    ("path", "setting"), [("/logs/version-2/snapshot.5", "dataDir"), ("/data/version-2/log.5", "dataLogDir")]
)
def test_files_of_the_wrong_kind_stop_the_start(path: str, setting: str) -> None:
    """Somebody changed dataLogDir and left the files where they were."""
    fs = MemoryFs()
    data_dir = DataDir("/data", "/logs")
    data_dir.prepare(fs, autocreate=True)
    fs.put(path, b"")
    with pytest.raises(DataDirError, match=f"{path} belongs into version-2 of {setting}"):
        data_dir.prepare(fs, autocreate=True)


def test_one_directory_may_hold_both_kinds() -> None:
    fs = MemoryFs()
    fs.put("/data/version-2/snapshot.5", b"12345")
    fs.put("/data/version-2/log.5", b"123")
    data_dir = DataDir("/data", "/data")
    data_dir.prepare(fs, autocreate=False)
    assert data_dir.sizes(fs) == (8, 8)


def test_sizes_are_those_of_the_version_directories() -> None:
    fs = MemoryFs()
    fs.put("/data/myid", b"1\n")
    fs.put("/data/version-2/snapshot.5", b"12345")
    fs.put("/logs/version-2/log.5", b"123")
    assert DataDir("/data", "/logs").sizes(fs) == (5, 3)


def test_a_file_that_goes_while_it_is_counted_is_not_counted() -> None:
    class Purging(MemoryFs):
        def names(self, directory: str) -> list[str]:
            return [*super().names(directory), "gone"]

    fs = Purging()
    fs.put("/data/version-2/snapshot.5", b"12345")
    assert DataDir("/data", "/data").sizes(fs) == (5, 5)


def test_the_initialize_file_is_looked_for_in_both_places() -> None:
    assert DataDir("/data", "/data").initialize_paths == ["/data/initialize"]
    assert DataDir("/data", "/logs").initialize_paths == ["/data/initialize", "/logs/initialize"]


class TestLock:
    def test_a_second_server_is_refused_until_the_first_one_is_gone(self, tmp_path: Path) -> None:
        first = DataDir.open(RealFs(), f"{tmp_path}/data", f"{tmp_path}/data", autocreate=True)
        with pytest.raises(DataDirError, match="data is in use by another server"):
            DataDir.open(RealFs(), f"{tmp_path}/data", f"{tmp_path}/data", autocreate=True)
        first.release()
        first.release()
        DataDir.open(RealFs(), f"{tmp_path}/data", f"{tmp_path}/data", autocreate=True).release()

    def test_a_shared_log_directory_is_refused_and_the_other_lock_given_back(self, tmp_path: Path) -> None:
        first = DataDir.open(RealFs(), f"{tmp_path}/a", f"{tmp_path}/logs", autocreate=True)
        with pytest.raises(DataDirError, match="logs is in use"):
            DataDir.open(RealFs(), f"{tmp_path}/b", f"{tmp_path}/logs", autocreate=True)
        DataDir.open(RealFs(), f"{tmp_path}/b", f"{tmp_path}/b", autocreate=True).release()
        first.release()

    def test_the_lock_file_is_outside_of_the_version_directory(self, tmp_path: Path) -> None:
        data_dir = DataDir.open(RealFs(), f"{tmp_path}/data", f"{tmp_path}/data", autocreate=True)
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".zkpy-lock", "version-2"]
        assert list((tmp_path / "data" / "version-2").iterdir()) == []
        data_dir.release()

    def test_a_lock_file_that_cannot_be_opened_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "data" / ".zkpy-lock").mkdir(parents=True)
        with pytest.raises(DataDirError, match=r"\.zkpy-lock cannot be opened: Is a directory"):
            DataDir.open(RealFs(), f"{tmp_path}/data", f"{tmp_path}/data", autocreate=True)
