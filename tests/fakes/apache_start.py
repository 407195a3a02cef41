"""What an Apache server makes of the epoch files when it starts (QuorumPeer.loadDataBase): the judge of what we leave on disk."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zkpy.storage.vfs import FileSystem


class ApacheRefusesError(Exception):
    """It would not start."""


def apache_epochs(fs: FileSystem, directory: str, last_zxid: int) -> tuple[int, int]:
    """Accepted and current epoch as it would take them, without changing the disk."""
    of_zxid = last_zxid >> 32
    current = _read(fs, f"{directory}/currentEpoch", of_zxid)
    if of_zxid > current:
        if not fs.exists(f"{directory}/currentEpoch.tmp"):
            raise ApacheRefusesError(f"current epoch {current}, last zxid 0x{last_zxid:x}")
        current = _read(fs, f"{directory}/currentEpoch.tmp", of_zxid)
    accepted = _read(fs, f"{directory}/acceptedEpoch", of_zxid)
    if accepted < current:
        raise ApacheRefusesError(f"accepted epoch {accepted}, current epoch {current}")
    return accepted, current


def _read(fs: FileSystem, path: str, default: int) -> int:
    if not fs.exists(path):
        return default
    line = re.split(rb"\r\n|\r|\n", fs.read(path))[0]
    if not re.fullmatch(rb"[+-]?[0-9]+", line):
        raise ApacheRefusesError(f"{path}: {line!r}")
    return int(line)
