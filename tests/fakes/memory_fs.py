"""A disk in memory that can lose power: the other implementation of `zkpy.storage.vfs.FileSystem`.

Every file keeps what is durable and the operations since its last `datasync`; every directory keeps its durable entries and
the changes since its last `sync_dir`. `after_power_cut(seed)` gives the disk as a restart may find it:

* of each 512-byte sector any version between the durable one and the last one written, sectors independently of each other;
* of the file's length any length it had, or one between two of them;
* of the changes to a directory any subset, applied in their order.

`after_kill()` gives the disk as it is (the process died, the kernel lives): nothing is lost, nothing became durable.

Operations that change something are counted. `stop_at = n` raises `Stopped` at the n-th one (a write or rename has entered the
cache then, a sync has not happened); `fail_at[n] = errno` makes the n-th one fail, a write after half of its bytes;
`capacity` makes writes fail with ENOSPC, after what fitted.
"""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTOR = 512


class Stopped(BaseException):
    """The process stops to exist here."""


class _Inode:
    __slots__ = ("current", "versions")

    def __init__(self, durable: bytes = b"") -> None:
        self.current = bytearray(durable)
        self.versions: list[bytes] = [durable]  # after each operation since the last sync

    def keep_version(self) -> None:
        self.versions.append(bytes(self.current))

    def sync(self) -> None:
        self.versions = [bytes(self.current)]

    def after_power_cut(self, rng: random.Random) -> _Inode:
        versions = self.versions
        if len(versions) == 1 or rng.random() < 0.2:
            return _Inode(versions[0])
        if rng.random() < 0.2:
            return _Inode(versions[-1])
        lengths = sorted({len(version) for version in versions})
        size = rng.choice(lengths)
        if len(lengths) > 1 and rng.random() < 0.5:
            size = rng.randint(lengths[0], lengths[-1])
        kept = bytearray()
        for start in range(0, size, SECTOR):
            end = min(start + SECTOR, size)
            kept += rng.choice(versions)[start:end].ljust(end - start, b"\0")
        return _Inode(bytes(kept))


class _Directory:
    __slots__ = ("changes", "current", "durable")

    def __init__(self) -> None:
        self.durable: dict[str, _Inode | _Directory] = {}
        self.current: dict[str, _Inode | _Directory] = {}
        # (name that goes, name that comes, what it names): a rename has both.
        self.changes: list[tuple[str | None, str | None, _Inode | _Directory]] = []

    def change(self, gone: str | None, come: str | None, entry: _Inode | _Directory) -> None:
        self._apply(self.current, gone, come, entry)
        self.changes.append((gone, come, entry))

    @staticmethod
    def _apply(
        entries: dict[str, _Inode | _Directory],
        gone: str | None,
        come: str | None,
        entry: _Inode | _Directory,
    ) -> None:
        if gone is not None and entries.get(gone) is entry:
            del entries[gone]
        if come is not None:
            entries[come] = entry

    def sync(self) -> None:
        self.durable = dict(self.current)
        self.changes.clear()

    def after_power_cut(self, rng: random.Random) -> _Directory:
        entries = dict(self.durable)
        all_or_nothing = rng.random()
        for gone, come, entry in self.changes:
            if all_or_nothing < 0.2 or (all_or_nothing < 0.8 and rng.random() < 0.5):
                self._apply(entries, gone, come, entry)
        result = _Directory()
        result.durable = {name: entries[name].after_power_cut(rng) for name in sorted(entries)}
        result.current = dict(result.durable)
        return result

    def fates(self, after: _Directory) -> Iterator[str]:
        for name, entry in self.current.items():
            found = after.current.get(name)
            if isinstance(entry, _Directory):
                if isinstance(found, _Directory):
                    yield from entry.fates(found)
            elif not isinstance(found, _Inode):
                yield "lost"
            elif found.current != entry.current:
                durable = self.durable.get(name)
                before = durable.versions if isinstance(durable, _Inode) else []
                yield "lost" if bytes(found.current) in (*entry.versions, *before) else "torn"

    def files(self) -> Iterator[_Inode]:
        for entry in self.current.values():
            if isinstance(entry, _Directory):
                yield from entry.files()
            else:
                yield entry


class MemoryFile:
    def __init__(self, fs: MemoryFs, inode: _Inode) -> None:
        self._fs = fs
        self._inode = inode
        self._open = True

    def write(self, data: bytes, offset: int) -> None:
        assert self._open, "written after close"
        error = self._fs.count("write")
        current = self._inode.current
        room = self._fs.room() + len(current) - offset
        if error is not None:
            data, error_number = data[: len(data) // 2], error
        elif room < len(data) and offset + len(data) > len(current):
            data, error_number = data[: max(room, 0)], errno.ENOSPC
        else:
            error_number = 0
        if data:
            current.extend(bytes(max(offset - len(current), 0)))
            current[offset : offset + len(data)] = data
            self._inode.keep_version()
        self._fs.stop_here()
        if error_number:
            raise OSError(error_number, os.strerror(error_number))

    def truncate(self, size: int) -> None:
        assert self._open, "truncated after close"
        self._fs.fail_or_go("truncate")
        current = self._inode.current
        del current[size:]
        current.extend(bytes(size - len(current)))
        self._inode.keep_version()
        self._fs.stop_here()

    def datasync(self) -> None:
        assert self._open, "synced after close"
        self._fs.fail_or_go("datasync")
        self._fs.stop_here()
        self._inode.sync()

    def close(self) -> None:
        assert self._open, "closed twice"
        self._open = False


class MemoryFs:
    """See the module docstring. Paths are absolute, "/" exists."""

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.operations = 0
        self.log: list[str] = []
        self.stop_at: int | None = None
        self.fail_at: dict[int, int] = {}
        self._root = _Directory()

    # -- what a test does with it

    def after_power_cut(self, seed: int) -> MemoryFs:
        """A disk that this one may be after a power cut. This one stays as it is."""
        found = MemoryFs(self.capacity)
        found._root = self._root.after_power_cut(random.Random(seed))
        return found

    def fates(self, after: MemoryFs) -> set[str]:
        """What a power cut that left the disk `after` did to unsynced writes: some were "lost", some are "torn"."""
        return set(self._root.fates(after._root))

    def after_kill(self) -> MemoryFs:
        """The same disk, counting from the start again."""
        found = MemoryFs(self.capacity)
        found._root = self._root
        return found

    def put(self, path: str, data: bytes) -> None:
        """Place a durable file, uncounted; directories above it are made."""
        *above, name = path.strip("/").split("/")
        directory = self._root
        for part in above:
            entry = directory.current.get(part)
            if entry is None:
                entry = _Directory()
                directory.current[part] = directory.durable[part] = entry
            assert isinstance(entry, _Directory)
            directory = entry
        directory.current[name] = directory.durable[name] = _Inode(data)

    # -- faults

    def room(self) -> int:
        if self.capacity is None:
            return 1 << 60
        return self.capacity - sum(len(inode.current) for inode in self._root.files())

    def count(self, what: str) -> int | None:
        """Count an operation; the errno it fails with."""
        self.operations += 1
        self.log.append(what)
        return self.fail_at.get(self.operations)

    def fail_or_go(self, what: str) -> None:
        error = self.count(what)
        if error is not None:
            raise OSError(error, os.strerror(error))

    def stop_here(self) -> None:
        if self.operations == self.stop_at:
            raise Stopped

    # -- FileSystem

    def create(self, path: str) -> MemoryFile:
        self.fail_or_go("create")
        directory, name = self._parent(path)
        entry = directory.current.get(name)
        if isinstance(entry, _Inode):
            entry.current.clear()
            entry.keep_version()
        else:
            assert entry is None
            entry = _Inode()
            directory.change(None, name, entry)
        self.stop_here()
        return MemoryFile(self, entry)

    def open(self, path: str) -> MemoryFile:
        return MemoryFile(self, self._inode(path))

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        current = self._inode(path).current
        return bytes(current[offset:] if size is None else current[offset : offset + size])

    def size(self, path: str) -> int:
        return len(self._inode(path).current)

    def exists(self, path: str) -> bool:
        try:
            directory, name = self._parent(path)
        except FileNotFoundError:
            return False
        return not name or name in directory.current

    def names(self, directory: str) -> list[str]:
        return sorted(self._directory(directory).current)

    def mkdir(self, path: str) -> None:
        self.fail_or_go("mkdir")
        directory, name = self._parent(path)
        if name in directory.current:
            raise FileExistsError(errno.EEXIST, "exists", path)
        directory.change(None, name, _Directory())
        self.stop_here()

    def rename(self, path: str, target: str) -> None:
        self.fail_or_go("rename")
        inode = self._inode(path)
        directory, name = self._parent(path)
        target_directory, target_name = self._parent(target)
        assert directory is target_directory, "only within a directory"
        directory.change(name, target_name, inode)
        self.stop_here()

    def unlink(self, path: str) -> None:
        self.fail_or_go("unlink")
        inode = self._inode(path)
        directory, name = self._parent(path)
        directory.change(name, None, inode)
        self.stop_here()

    def sync_dir(self, directory: str) -> None:
        self.fail_or_go("sync_dir")
        self.stop_here()
        self._directory(directory).sync()

    # -- looking up

    def _directory(self, path: str) -> _Directory:
        directory = self._root
        for part in path.strip("/").split("/"):
            if part:
                entry = directory.current.get(part)
                if not isinstance(entry, _Directory):
                    raise FileNotFoundError(errno.ENOENT, "no such directory", path)
                directory = entry
        return directory

    def _parent(self, path: str) -> tuple[_Directory, str]:
        above, _, name = path.rpartition("/")
        return self._directory(above), name

    def _inode(self, path: str) -> _Inode:
        directory, name = self._parent(path)
        entry = directory.current.get(name)
        if not isinstance(entry, _Inode):
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return entry
