"""Reading transaction logs back: every entry in order of zxids, and what is wrong with the files.

    reader = LogReader(fs, paths, after_zxid)      # paths ascending; the first one begins at or before after_zxid, if any does
    for zxid, payload in reader.entries(): ...     # StorageDamageError; reader.path and reader.offset say where it stands
    reader.repairs                                 # what to change on disk so that everybody reads what we have read

Format: see txn_log.py. The rules of Apache (on-disk format §2.2) end a file silently at the first entry that is cut off or lacks its
end mark, whatever follows, and ask for no order of zxids. Ours (§11 rules 4, 10, 11) lose nothing silently:

* **Torn.** Since the last sync a disk may have kept any sectors, old (zero) or new. A bad entry may be such a tail only if something in
  it was not written: one of its sectors is zero to the sector's end, or everything from inside it to the end of the file is zero, or
  the file ends in it. And one changed byte (of length, checksum, payload) must not explain it better, unless that byte
  is all that such a sector should hold. Then the file ends there. In an older file that is what Apache leaves: it goes on in a new file with the same zxid.
* **Damaged.** Every other bad entry: refused with file and offset.
* **Complete but for its end mark**, which was not written, in the newest file: the checksum vouches for it, it is kept.
* **Missing.** Zxids follow each other without a gap; a new epoch begins with counter 1 (0 after the counter of a standalone
  server ran over). Refused.
* **Again.** A zxid at or below the last one is skipped if it is the same txn, else refused.
* **Empty.** A file of zeros, or with less than a header, was created and never synced: ignored, and to be removed, because
  Apache refuses all of them but a newest one of length 0.

Which sectors were synced is not recorded, so a zeroed sector of acknowledged txns in the middle of the newest file cannot be told from a tail.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING
from zlib import adler32

from zkpy.core.types import counter_of, epoch_of
from zkpy.storage.errors import StorageDamageError
from zkpy.storage.txn_log import END_MARK, HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zkpy.storage.vfs import FileSystem

SECTOR = 512

_HEAD_SIZE = 12
_TXN_HEADER_SIZE = 32
_ADLER_BASE = 65521
_ZEROS = bytes(1 << 16)
# Logs may be gigabytes; a window holds thousands of entries.
_WINDOW = 1 << 22

_RESTORE = "Restore the data directory from another server or a backup"
_CUT = (
    f"{_RESTORE}; to go on without the txns from there on, cut the file off at this offset and move all later logs and "
    "snapshots away"
)

_head = Struct(">qi")
_long = Struct(">q")


class Repair:
    """A change that makes a file mean to everybody what was read from it.

    Attributes:
        path: the file.
        size: cut it to this length; None removes it.
        end_mark: write the missing end mark as last byte.
        reason: for the operator.
    """

    __slots__ = ("end_mark", "path", "reason", "size")

    def __init__(self, path: str, size: int | None, end_mark: bool, reason: str) -> None:
        self.path = path
        self.size = size
        self.end_mark = end_mark
        self.reason = reason


class LogReader:
    """Reads files once, in order.

    Attributes:
        path: the file being read.
        offset: where its last entry begins.
        repairs: complete when `entries` is exhausted.
    """

    __slots__ = ("_after_zxid", "_fs", "_seen", "offset", "path", "paths", "repairs")

    def __init__(self, fs: FileSystem, paths: list[str], after_zxid: int) -> None:
        self._fs = fs
        self.paths = paths
        self._after_zxid = after_zxid
        self._seen: dict[str, dict[int, tuple[int, bytes]]] = {}
        self.path = ""
        self.offset = 0
        self.repairs: list[Repair] = []

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Zxid and payload of every entry above `after_zxid`.

        Raises:
            StorageDamageError: going on would lose or invent something.
        """
        after = self._after_zxid
        last = after  # the greatest zxid that is known, from the snapshot or from an entry
        paths = [path for path in self.paths if not self._is_empty(path)]
        for number, path in enumerate(paths):
            self.path = path
            for offset, payload in self.scan(path, path == paths[-1]):
                self.offset = offset
                (zxid,) = _long.unpack_from(payload, 12)
                if zxid == last + 1 or follows(last, zxid):
                    last = zxid
                    yield zxid, payload
                elif zxid > last:
                    raise self._damage(
                        f"txn 0x{zxid:x} follows 0x{last:x}: what was between them is missing",
                        f"Put the missing log files back. {_RESTORE}",
                    )
                elif zxid > after:
                    self._check_same(paths[: number + 1], zxid, payload)

    def has_entries(self) -> bool:
        """Whether any file has an entry, in order or not."""
        return any(True for path in self.paths if not self._is_empty(path) for _ in self.scan(path, False))

    def _is_empty(self, path: str) -> bool:
        """Whether nothing of a file ever was durable; a bad header is damage."""
        head = self._fs.read(path, 0, len(HEADER))
        magic = head[:4]
        if magic != HEADER[: len(magic)]:
            content = self._fs.read(path)
            if not _is_zero(content, 0, len(content)):
                self.path = path
                self.offset = 0
                raise self._damage(
                    "this is no transaction log", f"Move the file away if it is none. {_RESTORE}"
                )
        elif len(head) == len(HEADER):
            return False
        self.repairs.append(
            Repair(path, None, False, "removed, it was created but nothing in it was ever synced")
        )
        return True

    def scan(self, path: str, is_newest: bool) -> Iterator[tuple[int, bytes]]:
        """Offset and payload of the good entries of one file, in whatever order of zxids.

        Raises:
            StorageDamageError: what follows is damaged, and no torn tail.
        """
        size = self._fs.size(path)
        unpack_head = _head.unpack_from
        base = 0  # offset of the window
        window = self._fs.read(path, 0, _WINDOW)
        at = len(HEADER)  # offset of the entry in the window
        while True:
            wanted = _WINDOW
            if at + _HEAD_SIZE < len(window):
                checksum, length = unpack_head(window, at)
                end = at + _HEAD_SIZE + length
                if length >= _TXN_HEADER_SIZE and end < len(window):
                    payload = window[at + _HEAD_SIZE : end]
                    if window[end] == END_MARK and adler32(payload) == checksum:
                        yield base + at, payload
                        at = end + 1
                        continue
                elif length >= _WINDOW - _HEAD_SIZE:
                    wanted = _HEAD_SIZE + length + 1
            base += at
            if at == 0 and (len(window) >= wanted or base + len(window) >= size):
                break
            window = self._fs.read(path, base, wanted)
            at = 0
        if not self._is_zero_from(path, base, size):
            yield from self._scan_end(path, base, is_newest)

    def _is_zero_from(self, path: str, offset: int, size: int) -> bool:
        """Whether a file is padding from `offset` on."""
        while offset < size:
            window = self._fs.read(path, offset, _WINDOW)
            if not _is_zero(window, 0, len(window)):
                return False
            offset += len(window)
        return True

    def _scan_end(self, path: str, position: int, is_newest: bool) -> Iterator[tuple[int, bytes]]:
        """Decide about the bad entry at `position`; the entry itself if it only lacks its end mark."""
        data = self._fs.read(path)
        if is_newest and self._lacks_only_mark(data, position):
            # Nothing behind it can be real: the sector of the mark was not written.
            start = position + _HEAD_SIZE
            end = start + _head.unpack_from(data, position)[1]
            reason = f"the end mark of the entry at offset {position} was not written"
            self.repairs.append(Repair(path, end + 1, True, reason))
            yield position, data[start:end]
            return
        self.offset = position
        problem = _explain_damage(data, position)
        if problem is not None:
            raise self._damage(problem, _CUT)
        if is_newest:
            reason = f"cut off at offset {position}: what follows was being written when the server died"
            self.repairs.append(Repair(path, position, False, reason))

    @staticmethod
    def _lacks_only_mark(data: bytes, position: int) -> bool:
        """Whether the entry at `position` is right but for an end mark that was not written."""
        if position + _HEAD_SIZE >= len(data):
            return False
        checksum, length = _head.unpack_from(data, position)
        start = position + _HEAD_SIZE
        end = start + length
        if length < _TXN_HEADER_SIZE or end > len(data) or adler32(data[start:end]) != checksum:
            return False
        sector = end // SECTOR * SECTOR
        return _is_zero(data, end, len(data)) or _is_zero(
            data, max(sector, position), min(sector + SECTOR, len(data))
        )

    def _check_same(self, paths: list[str], zxid: int, payload: bytes) -> None:
        """Refuse a second txn of the same zxid that is not the first one."""
        here = self.offset
        for path in paths:
            entries = self._seen.get(path)
            if entries is None:
                entries = self._seen[path] = {}
                for offset, first in self.scan(path, is_newest=False):
                    entries.setdefault(_long.unpack_from(first, 12)[0], (offset, first))
            found = entries.get(zxid)
            if found is not None and (path != self.path or found[0] < here):
                if found[1] == payload:
                    return
                break
        self.offset = here
        raise self._damage(f"txn 0x{zxid:x} is another one than the txn of that number before it", _CUT)

    def _damage(self, problem: str, remedy: str) -> StorageDamageError:
        return StorageDamageError(self.path, self.offset, problem, remedy)


def paths_from(logs: Sequence[tuple[int, str]], zxid: int) -> list[str]:
    """Paths of the logs, given ascending, from the last one that begins at or below `zxid` on; all of them if none does."""
    first = 0
    for number, (first_zxid, _) in enumerate(logs):
        if first_zxid <= zxid:
            first = number
    return [path for _, path in logs[first:]]


def follows(last: int, zxid: int) -> bool:
    """Whether `zxid` may come right after `last`: the next one, or the first of a later epoch."""
    return zxid == last + 1 or (epoch_of(zxid) > epoch_of(last) and counter_of(zxid) <= 1)


def _is_zero(data: bytes, start: int, end: int) -> bool:
    step = len(_ZEROS)
    while start + step <= end:
        if data[start : start + step] != _ZEROS:
            return False
        start += step
    return data[start:end] == _ZEROS[: end - start]


def _explain_damage(data: bytes, position: int) -> str | None:
    """What is wrong with the bad entry at `position`; None when it was not completely written."""
    size = len(data)
    if position + _HEAD_SIZE >= size:
        return None
    checksum, length = _head.unpack_from(data, position)
    start = position + _HEAD_SIZE
    end = start + max(length, 0)
    if not _is_torn(data, position, end):
        if length < _TXN_HEADER_SIZE:
            return f"an entry cannot have {length} bytes"
        return (
            "the entry lacks its end mark"
            if data[end] != END_MARK
            else "the entry does not match its checksum"
        )
    if _has_other_length(data, start, checksum):
        return f"the length of the entry is not {length}"
    if length < _TXN_HEADER_SIZE or end >= size:
        return None
    if data[end] == END_MARK:
        changed = _changed_byte(data[start:end], checksum)
        if changed is not None and not _is_unwritten(data, position, position + changed):
            return "one byte of the entry is not what was written"
    return None


def _is_torn(data: bytes, position: int, end: int) -> bool:
    """Whether bytes of the entry from `position` to its end mark at `end` may never have been written."""
    size = len(data)
    if end >= size:
        return True
    if _is_zero(data, end, size):
        return True
    # The checksum begins with four zeros even when it was written.
    start = position + 4
    while start <= end:
        sector_end = min((start // SECTOR + 1) * SECTOR, size)
        if _is_zero(data, start, sector_end):
            return True
        start = sector_end
    return False


def _has_other_length(data: bytes, start: int, checksum: int) -> bool:
    """Whether the payload at `start` matches its checksum with a length other than the one that is noted."""
    adler = 1
    end = start
    while True:
        mark = data.find(b"B", end)
        if mark < 0:
            return False
        adler = adler32(data[end:mark], adler)
        end = mark
        if adler == checksum and mark > start:
            return True
        adler = adler32(b"B", adler)
        end = mark + 1


def _is_unwritten(data: bytes, position: int, changed: int) -> bool:
    """Whether the byte at `changed` is in a sector that has nothing of the entry from `position` on: it may be all that is lost."""
    start = max(position, changed // SECTOR * SECTOR)
    return _is_zero(data, start, min((changed // SECTOR + 1) * SECTOR, len(data)))


def _changed_byte(payload: bytes, checksum: int) -> int | None:
    """Offset in its entry of the one byte, of payload or checksum, that has to be another for them to match; None if none is."""
    actual = adler32(payload)
    both = zip(_long.pack(actual), _long.pack(checksum), strict=True)
    differing = [index for index, (a, b) in enumerate(both) if a != b]
    if len(differing) == 1:
        return differing[0]
    # Adler-32: the low half is 1 + the sum of the bytes, the high half weighs them with their distance to the end.
    delta = ((actual & 0xFFFF) - (checksum & 0xFFFF)) % _ADLER_BASE
    if delta > 255:
        delta -= _ADLER_BASE
    if not delta or delta < -255 or len(payload) >= _ADLER_BASE or not 0 <= checksum < 1 << 32:
        return None
    weighted = ((actual >> 16) - (checksum >> 16)) % _ADLER_BASE
    index = len(payload) - weighted * pow(delta, -1, _ADLER_BASE) % _ADLER_BASE
    is_it = 0 <= index < len(payload) and 0 <= payload[index] - delta <= 255
    return _HEAD_SIZE + index if is_it else None
