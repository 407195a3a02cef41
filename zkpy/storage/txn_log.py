"""The transaction log being written: group commit, space ahead, rolling.

Use: the event loop calls `encode_entry` for each payload; the one log thread calls everything else:

    log = TxnLog(fs, directory, prealloc_bytes=64 << 20, size_limit_bytes=0, force_sync=True)
    log.append(first_zxid, entries)     # one write; may raise DiskFullError: then rollback(), nothing since sync() is kept
    log.sync()                          # durable, may be acknowledged; any failure is LogFailedError and final
    log.roll()                          # after sync(): the next append begins a new file (False: no space for one)
    log.finish_file()                   # after sync(): no log.* file is open any more, they may be cut and removed
    log.close()

`headroom_bytes` and `is_space_low` may be read from any thread: while space is low the server refuses what clients
ask for, and logs only what it must (closing sessions); `grow()` tries to get space again.

Format (on-disk format §2), numbers big endian::

    file  = "ZKLG" · int 2 · long 0 · entry* · zero bytes
    entry = long Adler-32 of the payload · int length · payload · "B"

A file is named by its first txn. It is begun under a name that no server reads, filled with the header and space ahead, and
gets its name when the first batch in it is durable; so a log.* file never is without header and entries, and the file
before it is complete: `roll` comes after `sync`, always.

What a crash leaves, and what makes it harmless:

* during `append` or `sync`: any mixture of old (zero) and new sectors behind the last synced position. Nothing in it was
  acknowledged. The reader cuts it off (log_reader.py).
* between naming a file and syncing the directory: the file under either name. Nothing in it was acknowledged.
* after `rollback`: the same as before the batch; the range is zeroed and synced before anything is written to it again,
  because the reader takes zeros for "never written".

Space ahead: blocks that were written before make fdatasync about a third faster than a growing file, so zeros are
written ahead in steps (Apache only sets the length). At least half a step stays ahead after each batch, so that a
full disk is noticed while there still is room for session closes; steps get smaller before that happens.
`prealloc_bytes` <= 0 leaves the smallest steps only: without any, a full disk would be noticed too late.

With `force_sync` off nothing is ever synced (forceSync=no): a power cut may lose what was acknowledged.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING
from zlib import adler32

from librt.strings import BytesWriter, write_i32_be, write_i64_be

from zkpy.storage.errors import DiskFullError, LogFailedError
from zkpy.storage.names import TMP_LOG, log_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.storage.vfs import File, FileSystem

HEADER = b"ZKLG" + Struct(">iq").pack(2, 0)
END_MARK = 0x42  # "B"

# A write of 1 MiB takes well below a millisecond on a disk that syncs in 0.1 ms, and holds thousands of txns.
_STEP_MAX = 1 << 20
_STEP_MIN = 1 << 12
_STEP_WITHOUT_PREALLOCATION = 1 << 16
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def encode_entry(payload: bytes) -> bytes:
    """One entry of a log: what `TxnLog.append` takes. Needs no lock and no file; called in the event loop."""
    assert payload, "an entry of length 0 means the end of a log"
    writer = BytesWriter()
    write_i64_be(writer, adler32(payload))
    write_i32_be(writer, len(payload))
    writer.write(payload)
    writer.append(END_MARK)
    return writer.getvalue()


class TxnLog:
    """The log of one server, from its start on always in new files."""

    __slots__ = (
        "_allocated",
        "_directory",
        "_dirty_end",
        "_failed",
        "_file",
        "_first_zxid",
        "_force_sync",
        "_fs",
        "_is_named",
        "_position",
        "_size_limit",
        "_step",
        "_synced",
        "reserve_bytes",
    )

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        *,
        prealloc_bytes: int = 64 << 20,
        size_limit_bytes: int = 0,
        force_sync: bool = True,
    ) -> None:
        """Begin a file if there is space for one; else every append tries again.

        Args:
            fs: the disk.
            directory: the version-2 directory of the log.
            prealloc_bytes: preAllocSize; more than 1 MiB makes no difference.
            size_limit_bytes: roll by itself when a file is larger; 0 never.
            force_sync: off makes `sync` do nothing for durability.
        """
        self._fs = fs
        self._directory = directory
        self._step = min(prealloc_bytes, _STEP_MAX) if prealloc_bytes > 0 else _STEP_WITHOUT_PREALLOCATION
        self.reserve_bytes = self._step // 2
        self._size_limit = size_limit_bytes
        self._force_sync = force_sync
        self._failed = False
        # Invariant: len(HEADER) <= _synced <= _position <= _dirty_end; from _position to _allocated the file is zero,
        # apart from what a write that failed left before _dirty_end.
        self._file: File | None = None
        self._is_named = False
        self._first_zxid = -1
        self._synced = self._position = self._dirty_end = self._allocated = 0
        self._begin_file(0)

    @property
    def headroom_bytes(self) -> int:
        """Space known to be there for entries."""
        return max(self._allocated - self._position, 0)

    @property
    def is_space_low(self) -> bool:
        """Whether the disk gave too little space when it was asked last."""
        return self.headroom_bytes < self.reserve_bytes

    @property
    def size_bytes(self) -> int:
        """Length of the current file without the space ahead; counts towards snapshot triggers."""
        return self._position

    def append(self, first_zxid: int, entries: Sequence[bytes]) -> None:
        """Write encoded entries behind all others; `first_zxid` is the zxid of the first one.

        Raises:
            DiskFullError: nothing may be appended or synced before `rollback`.
            LogFailedError: the server has to stop.
        """
        assert entries
        self._check_usable()
        if self._file is None and not self._begin_file(0):
            raise DiskFullError(f"{self._directory}: no space for a new log file")
        file = self._file
        assert file is not None
        assert self._dirty_end == self._position, "rollback first"
        data = b"".join(entries)
        end = self._position + len(data)
        self._dirty_end = end
        try:
            file.write(data, self._position)
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise DiskFullError(f"{self._path}: no space for {len(data)} bytes") from error
            raise self._fail("write", error) from error
        if self._first_zxid < 0:
            self._first_zxid = first_zxid
        self._position = end
        self._allocated = max(self._allocated, end)
        if self._allocated - end < self.reserve_bytes:
            self.grow()

    def sync(self) -> None:
        """Make everything appended durable.

        Raises:
            LogFailedError: the server has to stop; what was appended since the last sync may be lost.
        """
        self._check_usable()
        if self._file is None or self._position == self._synced:
            return
        try:
            if self._force_sync:
                self._file.datasync()
            if not self._is_named:
                self._fs.rename(self._path, f"{self._directory}/{log_name(self._first_zxid)}")
                self._is_named = True
                if self._force_sync:
                    self._fs.sync_dir(self._directory)
        except OSError as error:
            raise self._fail("sync", error) from error
        self._synced = self._position
        if 0 < self._size_limit < self._position:
            self.roll()

    def roll(self) -> bool:
        """Let the next append begin a new file. False: there is no space, the file goes on.

        Raises:
            LogFailedError: the server has to stop.
        """
        self._check_usable()
        assert self._position == self._synced, "sync first"
        old = self._file
        if old is None or not self._is_named:
            return True
        if not self._begin_file(self.reserve_bytes):
            return False
        old.close()
        return True

    def finish_file(self) -> None:
        """Close the current file for good. Unlike `roll` it never goes on: without space the next append tries again.

        Raises:
            LogFailedError: the server has to stop.
        """
        self._check_usable()
        assert self._position == self._synced, "sync first"
        if self._file is not None and self._is_named:
            self.close()
            self._is_named = False
            self._first_zxid = -1
            self._synced = self._position = self._dirty_end = self._allocated = 0
            self._begin_file(0)

    def rollback(self) -> None:
        """Forget everything appended since the last sync, after a DiskFullError.

        Raises:
            LogFailedError: the server has to stop.
        """
        self._check_usable()
        file = self._file
        if file is None:
            return
        try:
            file.truncate(self._allocated)  # gives back what the write took beyond the known space
            file.write(bytes(min(self._dirty_end, self._allocated) - self._synced), self._synced)
            if self._force_sync:
                file.datasync()
        except OSError as error:
            raise self._fail("rollback", error) from error
        self._position = self._dirty_end = self._synced
        if not self._is_named:
            self._first_zxid = -1

    def grow(self) -> bool:
        """Get space ahead for a step, or for as much as the disk has. False: still low.

        Raises:
            LogFailedError: the server has to stop.
        """
        self._check_usable()
        if self._file is None:
            self._begin_file(0)
        else:
            self._allocated += self._fill(self._file, self._allocated)
        return not self.is_space_low

    def close(self) -> None:
        """Release the file; appended but not synced entries may or may not survive."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _path(self) -> str:
        return f"{self._directory}/{log_name(self._first_zxid) if self._is_named else TMP_LOG}"

    def _begin_file(self, headroom_min: int) -> bool:
        """Header and space ahead under a temporary name. False: no space; the file before it stays the current one."""
        path = f"{self._directory}/{TMP_LOG}"
        try:
            file = self._fs.create(path)
        except OSError as error:
            if error.errno in _DISK_FULL:
                return False
            raise self._fail("create", error) from error
        try:
            file.write(HEADER, 0)
            headroom = self._fill(file, len(HEADER))
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise self._fail("write", error) from error
            headroom = -1
        if headroom < headroom_min:
            try:
                file.close()
                self._fs.unlink(path)  # gives the space back to the current file
            except OSError as error:
                raise self._fail("unlink", error) from error
            return False
        self._file = file
        self._is_named = False
        self._first_zxid = -1
        self._synced = self._position = self._dirty_end = len(HEADER)
        self._allocated = len(HEADER) + headroom
        return True

    def _fill(self, file: File, offset: int) -> int:
        """Write zeros from `offset` on: a step, or less when the disk has not that much. Returns how many."""
        step = self._step
        while step >= min(_STEP_MIN, self._step):
            try:
                file.write(bytes(step), offset)
            except OSError as error:
                if error.errno not in _DISK_FULL:
                    raise self._fail("write", error) from error
                step //= 2
            else:
                return step
        return 0

    def _check_usable(self) -> None:
        if self._failed:
            raise LogFailedError(f"{self._directory}: the log has failed before")

    def _fail(self, what: str, error: OSError) -> LogFailedError:
        self._failed = True
        return LogFailedError(f"{self._path}: {what} failed: {error}")
