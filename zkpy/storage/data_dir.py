"""The directories of a server: where they are, that they are there, and that nobody else uses them.

    data_dir = DataDir.open(fs, data_dir, data_log_dir, autocreate=True)    # DataDirError
    data_dir.snap_dir, data_dir.log_dir, data_dir.sizes(fs); data_dir.release()

Formats and names inside are other modules' business. Snapshots are in dataDir/version-2, logs in dataLogDir/version-2; with one
directory for both they are together. Files of the wrong kind stop the start, as with Apache: they mean that the
configuration was changed and the data not moved, and going on would be a start with less.

The lock is on a file of its own in each directory, outside version-2 where Apache never looks. It is the operating system's, so
it goes with the process. Apache does not lock; a lock file it does not know does not disturb it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from zkpy.storage.errors import DataDirError
from zkpy.storage.names import numbered

if TYPE_CHECKING:
    from zkpy.storage.vfs import FileSystem

VERSION_DIR = "version-2"
LOCK_NAME = ".zkpy-lock"
INITIALIZE_NAME = "initialize"


class DataDir:
    """Paths of one server's files.

    Attributes:
        snap_dir: version-2 directory of snapshots.
        log_dir: version-2 directory of logs; the same one unless dataLogDir is set.
        initialize_paths: where the file that allows an empty database may be.
    """

    __slots__ = ("_locks", "initialize_paths", "log_dir", "snap_dir")

    def __init__(self, data_dir: str, data_log_dir: str) -> None:
        """Paths only; `open` makes sure of them."""
        self.snap_dir = f"{data_dir}/{VERSION_DIR}"
        self.log_dir = f"{data_log_dir}/{VERSION_DIR}"
        # Apache's script puts it into dataDir, its server looks in dataLogDir.
        self.initialize_paths = sorted({f"{data_dir}/{INITIALIZE_NAME}", f"{data_log_dir}/{INITIALIZE_NAME}"})
        self._locks: list[int] = []

    @classmethod
    def open(cls, fs: FileSystem, data_dir: str, data_log_dir: str, *, autocreate: bool) -> DataDir:
        """Create what is missing, check what is there, lock it until `release`.

        Args:
            fs: the real disk: a lock needs the operating system.
            data_dir: dataDir.
            data_log_dir: dataLogDir, the same path where it is not set.
            autocreate: zookeeper.datadir.autocreate.

        Raises:
            DataDirError: the directories cannot be used.
        """
        result = cls(data_dir, data_log_dir)
        result.prepare(fs, autocreate=autocreate)
        try:
            for directory in sorted({data_dir, data_log_dir}):
                result._locks.append(_lock(directory))
        except BaseException:
            result.release()
            raise
        return result

    def prepare(self, fs: FileSystem, *, autocreate: bool) -> None:
        """Create what is missing and check what is there, without a lock.

        Raises:
            DataDirError: a directory is missing and may not be created, or holds files of the wrong kind.
            OSError: what was created is not durable.
        """
        for directory in sorted({self.snap_dir, self.log_dir}):
            if not fs.exists(directory):
                if not autocreate:
                    raise DataDirError(
                        f"{directory} is missing, and zookeeper.datadir.autocreate is false. Create it, or point dataDir "
                        "and dataLogDir at the directories with the data"
                    )
                _make(fs, directory)
            _make_durable(fs, directory)
        if self.snap_dir != self.log_dir:
            for directory, kind, setting in (
                (self.log_dir, "snapshot", "dataDir"),
                (self.snap_dir, "log", "dataLogDir"),
            ):
                misplaced = numbered(fs, directory, kind)
                if misplaced:
                    raise DataDirError(
                        f"{misplaced[0][1]} belongs into {VERSION_DIR} of {setting}. Move all {kind}.* files there, or set "
                        "dataDir and dataLogDir as they were"
                    )

    def sizes(self, fs: FileSystem) -> tuple[int, int]:
        """Bytes in the directories of snapshots and of logs (the ``dirs`` command)."""
        return _size(fs, self.snap_dir), _size(fs, self.log_dir)

    def release(self) -> None:
        """Give up the lock. Idempotent."""
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()


def _make(fs: FileSystem, directory: str) -> None:
    parent = directory.rpartition("/")[0]
    if parent and not fs.exists(parent):
        _make(fs, parent)
    try:
        fs.mkdir(directory)
    except OSError as error:
        raise DataDirError(f"{directory} cannot be created: {error.strerror}") from error


def _make_durable(fs: FileSystem, directory: str) -> None:
    """Also when it was there: a start before this one may have been killed right after it made it.

    Directories above that of the data may not be ours to open; those were not made here either.
    """
    above = directory.rpartition("/")[0]
    fs.sync_dir(above or "/")
    while above:
        above = above.rpartition("/")[0]
        with suppress(PermissionError):
            fs.sync_dir(above or "/")


def _size(fs: FileSystem, directory: str) -> int:
    total = 0
    for name in fs.names(directory):
        with suppress(FileNotFoundError):  # renamed or purged while we count
            total += fs.size(f"{directory}/{name}")
    return total


def _lock(directory: str) -> int:
    path = f"{directory}/{LOCK_NAME}"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DataDirError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise DataDirError(f"{directory} is in use by another server") from error
    return lock
