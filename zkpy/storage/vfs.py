"""The few file operations storage relies on, and the real disk behind them.

Everything in `zkpy.storage` goes through a `FileSystem`, so that tests can run it on a disk that loses, tears and reorders
what was not synced (tests/fakes/memory_fs.py). Knows nothing of logs or snapshots, and keeps no state of its own.

What we assume about a disk, and nothing more:

* `File.datasync` returns only when content and size of the file survive a power cut. If it fails, nothing is known about
  what was written since the last one, and asking again proves nothing (the kernel may have dropped the pages).
* Until then any subset of the 512-byte sectors written may survive, in any order; a sector is old or new, never a mixture.
* `rename` replaces its target at once; it and creating and unlinking survive from `sync_dir` on, and before that perhaps.
* A range that was written once can be written again without needing space.

Errors are OSError throughout. Paths are plain strings.
"""

# This is the layer between strings and system calls; Path objects would only wrap them.
# ruff: noqa: PTH102, PTH105, PTH108, PTH110, PTH116, PTH123, PTH208
from __future__ import annotations

import os
from typing import Protocol


class File(Protocol):
    """A file open for writing."""

    def write(self, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`; a gap before it reads as zeros."""

    def truncate(self, size: int) -> None:
        """Cut the file, or extend it with zeros."""

    def datasync(self) -> None:
        """Return when content and size are durable."""

    def close(self) -> None:
        """Release the file; does not sync."""


class FileSystem(Protocol):
    """A tree of directories."""

    def create(self, path: str) -> File:
        """Open a new, empty file, in place of one that is there."""

    def open(self, path: str) -> File:
        """Open an existing file for writing."""

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """The content from `offset` on, at most `size` bytes of it."""

    def size(self, path: str) -> int:
        """Length of a file in bytes."""

    def exists(self, path: str) -> bool:
        """Whether `path` is a file or directory."""

    def names(self, directory: str) -> list[str]:
        """Names in a directory, sorted."""

    def mkdir(self, path: str) -> None:
        """Make a directory in an existing one."""

    def rename(self, path: str, target: str) -> None:
        """Give a file another name, in place of a file that has it."""

    def unlink(self, path: str) -> None:
        """Remove a file."""

    def sync_dir(self, directory: str) -> None:
        """Return when creations, renames and removals in `directory` are durable."""


class RealFile:
    """A file descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes, offset: int) -> None:
        written = os.pwrite(self._fd, data, offset)
        while written < len(data):  # a nearly full disk takes a part first and fails then
            written += os.pwrite(self._fd, memoryview(data)[written:], offset + written)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def datasync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class RealFs:
    """The operating system's files."""

    def create(self, path: str) -> RealFile:
        return RealFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))

    def open(self, path: str) -> RealFile:
        return RealFile(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(-1 if size is None else size)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def names(self, directory: str) -> list[str]:
        return sorted(os.listdir(directory))

    def mkdir(self, path: str) -> None:
        os.mkdir(path)

    def rename(self, path: str, target: str) -> None:
        os.replace(path, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_dir(self, directory: str) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
