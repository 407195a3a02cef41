"""Names of the files in a version-2 directory (on-disk format §1).

A name is split at its dots: the first part says what it is, the second is a zxid in hex, the last one the
compression. Temporary names therefore must not begin with ``log`` or ``snapshot``: Apache takes
``snapshot.40.tmp`` for snapshot 0x40.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zkpy.storage.vfs import FileSystem

TMP_LOG = "tmp-log"
TMP_SNAPSHOT = "tmp-snapshot"

_NUMBER = re.compile("[0-9a-fA-F]{1,16}")


def log_name(first_zxid: int) -> str:
    """Name of the log whose first txn is `first_zxid`."""
    return f"log.{first_zxid:x}"


def snapshot_name(zxid: int, compression: str) -> str:
    """Name of a snapshot; `compression` is ``gz``, ``snappy`` or empty."""
    return f"snapshot.{zxid:x}.{compression}" if compression else f"snapshot.{zxid:x}"


def zxid_of(name: str, kind: str) -> int | None:
    """The zxid in a name of this kind (``log`` or ``snapshot``), None for every other file."""
    parts = name.split(".")
    if len(parts) < 2 or parts[0] != kind or not _NUMBER.fullmatch(parts[1]):
        return None
    return int(parts[1], 16)


def compression_of(path: str) -> str:
    """``gz``, ``snappy``, or empty for a plain snapshot."""
    last = path.rpartition(".")[2]
    return last if last in {"gz", "snappy"} else ""


def numbered(fs: FileSystem, directory: str, kind: str) -> list[tuple[int, str]]:
    """Zxid and path of all files of a kind, in ascending order."""
    found = [(zxid_of(name, kind), name) for name in fs.names(directory)]
    return sorted((zxid, f"{directory}/{name}") for zxid, name in found if zxid is not None)
