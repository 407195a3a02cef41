"""The two epochs a server has to remember: the one it promised to, and the one it is synchronized with.

    epochs = Epochs.load(fs, data_dir.snap_dir, last_zxid)   # StorageDamageError; epochs.notices for the operator
    epochs.save_accepted(7)     # before ACKEPOCH leaves
    epochs.mark_current(6)      # before anything of the sync with leader 7, up to a txn of epoch 6, reaches the disk
    epochs.save_current(7)      # when all of it is durable, before NEWLEADER is acknowledged

Format (on-disk format §1.1), in the version-2 directory of the snapshots, where Apache reads the same::

    acceptedEpoch      decimal; one end of line and anything behind it are ignored
    currentEpoch       the same
    currentEpoch.tmp   the mark: txns up to this epoch were about to reach the disk in a sync

Invariant: epoch of the last zxid <= current <= accepted, and nothing leaves this server that says otherwise. A number is
durable before it is in memory, so that a failure leaves the disk ahead of what was promised, never behind.

Every file is replaced whole: written under a name nobody reads, synced, renamed, the directory synced. So each of them holds
the old or the new number whenever the power goes. What a crash leaves in a sync with the leader of epoch e:

* before the mark is durable: nothing of the sync is on disk. Old epoch, old history.
* behind the mark: log and snapshots may have txns of e already, while currentEpoch is older. Apache refuses that, unless it finds
  the mark. `load` needs no mark: a txn of epoch e proves that leader e was established and that what lies before it is that
  leader's history, so currentEpoch becomes the epoch of the last zxid. Never more than that: the number in the mark may be of a
  leader that was not established yet, and the sync with it may have been cut short; a server that claimed that epoch could win an
  election over one that has all of its history.
* behind the mark, without a txn of a new epoch on disk: the mark means nothing, to Apache neither, and is removed.
* after the rename: the sync is complete.

A file that is missing is taken from the last zxid and written, as Apache does: so come directories of standalone servers
into an ensemble. Not for an empty database that is not trusted (zxid -1): Apache writes -1 for it, and will not start on that once
the database is trusted; so nothing is written, and a negative number counts as missing. 3.4 had an empty
file ``updatingEpoch`` in place of the mark; it is removed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from zkpy.core.types import epoch_of
from zkpy.storage.errors import StorageDamageError

if TYPE_CHECKING:
    from zkpy.storage.vfs import FileSystem

ACCEPTED_NAME = "acceptedEpoch"
CURRENT_NAME = "currentEpoch"
MARK_NAME = "currentEpoch.tmp"
UPDATING_NAME = "updatingEpoch"
TMP_EPOCH = "tmp-epoch"

_NUMBER = re.compile(rb"[+-]?[0-9]{1,19}")  # what a long of Java's takes
_EPOCH_MAX = (1 << 31) - 1  # what the upper half of a zxid has room for
_RESTORE = (
    "Put the files of the epochs back that belong to this data, or empty the data directory while a quorum of the "
    "other servers is up: the leader sends everything"
)


class Epochs:
    """Accepted and current epoch of one server.

    Attributes:
        accepted: highest epoch a leader was promised to; -1 with an empty database that is not trusted.
        current: epoch of the last leader this server was synchronized with; -1 likewise.
        notices: sentences for the operator about what `load` repaired.
    """

    __slots__ = ("_directory", "_fs", "_marked", "accepted", "current", "notices")

    def __init__(self, fs: FileSystem, directory: str, accepted: int, current: int) -> None:
        """What is known to be on disk; see `load`."""
        self._fs = fs
        self._directory = directory
        self._marked: int | None = None
        self.accepted = accepted
        self.current = current
        self.notices: list[str] = []

    @classmethod
    def load(cls, fs: FileSystem, directory: str, last_zxid: int) -> Epochs:
        """Read both files, complete and repair them; safe to be interrupted anywhere.

        Args:
            fs: the disk.
            directory: the version-2 directory of the snapshots.
            last_zxid: what recovery found, made durable; -1 for an empty database that is not trusted.

        Raises:
            StorageDamageError: a file holds no epoch, or the files do not belong to this data.
            OSError: a file cannot be read or written.
        """
        of_zxid = epoch_of(last_zxid)
        current = _read(fs, directory, CURRENT_NAME)
        accepted = _read(fs, directory, ACCEPTED_NAME)
        epochs = cls(
            fs, directory, of_zxid if accepted is None else accepted, of_zxid if current is None else current
        )
        epochs._check(last_zxid)
        # A missing promise goes first: Apache wants accepted >= current of whatever it finds.
        if accepted is None and of_zxid >= 0:
            epochs._replace(ACCEPTED_NAME, of_zxid)
        if current is None and of_zxid >= 0:
            epochs._replace(CURRENT_NAME, of_zxid)
        if of_zxid > epochs.current:
            epochs.notices.append(
                f"{directory}/{CURRENT_NAME}: {epochs.current} became {of_zxid}, the epoch of the last txn: a sync with that leader was cut short"
            )
            epochs._replace(CURRENT_NAME, of_zxid)
            epochs.current = of_zxid
        epochs._remove_leftovers()
        return epochs

    def save_accepted(self, epoch: int) -> None:
        """Promise to follow no leader of a smaller epoch; durable on return.

        Raises:
            OSError: memory is unchanged; the disk has the old or the new number.
        """
        assert epoch >= self.accepted, "a promise is never taken back"
        if epoch > self.accepted:
            self._replace(ACCEPTED_NAME, epoch)
            self.accepted = epoch

    def mark_current(self, epoch: int) -> None:
        """Note durably that a sync begins to reach the disk.

        `epoch` had better be that of the last txn which the sync will write: an Apache server that starts on what a crash
        leaves here takes the number as it is, and the leader's own epoch is only sure to be established when it has a txn. One that is not above the current epoch needs no mark.

        Raises:
            OSError: an older mark, or none, or this one is on disk.
        """
        assert epoch <= self.accepted
        if epoch > self.current and epoch != self._marked:
            self._replace(MARK_NAME, epoch)
            self._marked = epoch

    def save_current(self, epoch: int) -> None:
        """This server has, durably, the whole history of the leader of `epoch`.

        Raises:
            OSError: memory is unchanged; the disk has the old or the new number, which may both be told.
        """
        assert self.current <= epoch <= self.accepted
        if epoch == self.current:
            return
        self.mark_current(epoch)
        self._fs.rename(f"{self._directory}/{MARK_NAME}", f"{self._directory}/{CURRENT_NAME}")
        self._marked = None
        self._fs.sync_dir(self._directory)
        self.current = epoch

    def _check(self, last_zxid: int) -> None:
        """Refuse files that are older than the data, or than each other."""
        of_zxid = epoch_of(last_zxid)
        if self.accepted < self.current:
            problem = f"accepted epoch {self.accepted} is less than the current epoch {self.current}"
        elif self.accepted < of_zxid:
            problem = f"accepted epoch {self.accepted} is less than that of the last txn, 0x{last_zxid:x}"
        else:
            return
        raise StorageDamageError(f"{self._directory}/{ACCEPTED_NAME}", 0, problem, _RESTORE)

    def _replace(self, name: str, epoch: int) -> None:
        tmp = f"{self._directory}/{TMP_EPOCH}"
        file = self._fs.create(tmp)
        try:
            file.write(b"%d" % epoch, 0)
            file.datasync()
        finally:
            file.close()
        self._fs.rename(tmp, f"{self._directory}/{name}")
        self._fs.sync_dir(self._directory)

    def _remove_leftovers(self) -> None:
        """What means nothing any more must not mean something after the next crash."""
        leftovers = [name for name in (MARK_NAME, UPDATING_NAME, TMP_EPOCH) if self._exists(name)]
        for name in leftovers:
            self._fs.unlink(f"{self._directory}/{name}")
        if leftovers:
            self._fs.sync_dir(self._directory)

    def _exists(self, name: str) -> bool:
        return self._fs.exists(f"{self._directory}/{name}")


def _read(fs: FileSystem, directory: str, name: str) -> int | None:
    """The epoch in a file; None when it is missing, or negative (an Apache server without a database wrote it)."""
    path = f"{directory}/{name}"
    if not fs.exists(path):
        return None
    line = fs.read(path, 0, 64).replace(b"\r", b"\n").partition(b"\n")[0]
    epoch = int(line) if _NUMBER.fullmatch(line) else _EPOCH_MAX + 1
    if epoch > _EPOCH_MAX:
        raise StorageDamageError(path, 0, f"this is no epoch: {line.decode('ascii', 'replace')!r}", _RESTORE)
    return None if epoch < 0 else epoch
