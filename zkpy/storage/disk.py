"""Carries out what a peer asks of its disk: one `zkpy.core.zab.effects.Effect` after the other.

Whoever calls it sees to it that nothing is appended to the log meanwhile, that what was appended is synced, and that no
snapshot is being written while an effect changes the history. An exception means that the disk is not known any more:
the server has to stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.core.membership import parse_membership_text
from zkpy.core.txn import Txn
from zkpy.core.zab.database import CommittedLog, Database
from zkpy.core.zab.effects import (
    InstallSnapshot,
    LoadDatabase,
    MarkCurrentEpoch,
    ReadHistory,
    ReloadDatabase,
    SaveAcceptedEpoch,
    SaveCommittedConfig,
    SaveCurrentEpoch,
    SaveProposedConfig,
    TruncateLog,
)
from zkpy.storage.dynamic_config import ConfigFiles
from zkpy.storage.errors import UnreachableZxidError
from zkpy.storage.history import read_log_diff
from zkpy.storage.recovery import load_database
from zkpy.storage.truncation import install_snapshot, truncate

if TYPE_CHECKING:
    from zkpy.core.owners import OwnerRules
    from zkpy.core.zab.effects import Effect
    from zkpy.storage.data_dir import DataDir
    from zkpy.storage.epochs import Epochs
    from zkpy.storage.recovery import Recovered
    from zkpy.storage.txn_log import TxnLog
    from zkpy.storage.vfs import FileSystem


class DiskOptions:
    """How histories are read and written.

    Attributes:
        config_file: the static file, beside which dynamic ones are kept; None without one.
        server_id: whose client address the dynamic files may hold.
    """

    __slots__ = (
        "commit_log_count",
        "compression",
        "config_file",
        "digest_enabled",
        "owners",
        "server_id",
        "snapshot_size_factor",
    )

    def __init__(
        self,
        *,
        owners: OwnerRules,
        digest_enabled: bool,
        server_id: int,
        compression: str = "",
        commit_log_count: int = 500,
        snapshot_size_factor: float = 0.33,
        config_file: str | None = None,
    ) -> None:
        self.owners = owners
        self.digest_enabled = digest_enabled
        self.server_id = server_id
        self.compression = compression
        self.commit_log_count = commit_log_count
        self.snapshot_size_factor = snapshot_size_factor
        self.config_file = config_file


class Disk:
    """The files of one member of an ensemble."""

    __slots__ = ("_config_files", "_data_dir", "_epochs", "_fs", "_log", "_options")

    def __init__(
        self, fs: FileSystem, data_dir: DataDir, log: TxnLog, epochs: Epochs, options: DiskOptions
    ) -> None:
        self._fs = fs
        self._data_dir = data_dir
        self._log = log
        self._epochs = epochs
        self._options = options
        self._config_files = None if options.config_file is None else ConfigFiles(fs, options.config_file)

    def carry_out(self, effect: Effect) -> object:
        """Do it, durably, and return its result.

        Raises:
            OSError: or a storage error; the server has to stop.
        """
        match effect:
            case SaveAcceptedEpoch():
                self._epochs.save_accepted(effect.epoch)
            case MarkCurrentEpoch():
                self._epochs.mark_current(effect.epoch)
            case SaveCurrentEpoch():
                self._epochs.save_current(effect.epoch)
            case ReadHistory():
                return self._read_history(effect)
            case LoadDatabase():
                return self._load(effect.zxid)
            case ReloadDatabase():
                return self._reload()
            case TruncateLog():
                self._log.finish_file()
                again = [(txn.zxid, txn.payload) for txn in effect.again]
                return truncate(self._fs, self._data_dir, effect.zxid, again)
            case InstallSnapshot():
                return self._install(effect)
            case SaveProposedConfig():
                if self._config_files is not None:
                    self._config_files.save_proposed(parse_membership_text(effect.text))
            case SaveCommittedConfig():
                if self._config_files is not None:
                    self._config_files.save_committed(
                        parse_membership_text(effect.text), self._options.server_id
                    )
        return None

    def _install(self, effect: InstallSnapshot) -> int:
        self._log.finish_file()
        return install_snapshot(
            self._fs,
            self._data_dir,
            effect.tree,
            effect.sessions,
            effect.zxid,
            self._options.compression,
            [(txn.zxid, txn.payload) for txn in effect.again],
        )

    def _load(self, zxid: int) -> Database | None:
        options = self._options
        try:
            recovered = load_database(
                self._fs,
                self._data_dir,
                options.owners,
                zxid,
                digest_enabled=options.digest_enabled,
                keep_txns=options.commit_log_count,
            )
        except UnreachableZxidError:
            return None
        return self._database(recovered)

    def _reload(self) -> Database:
        options = self._options
        # Not `recover`, which would remove the unnamed file of the running log.
        return self._database(
            load_database(
                self._fs,
                self._data_dir,
                options.owners,
                None,
                digest_enabled=options.digest_enabled,
                keep_txns=options.commit_log_count,
            )
        )

    def _database(self, recovered: Recovered) -> Database:
        committed_log = CommittedLog(self._options.commit_log_count, recovered.last_txns)
        return Database(recovered.tree, recovered.sessions, committed_log, is_trusted=not recovered.is_empty)

    def _read_history(self, effect: ReadHistory) -> list[Txn] | None:
        entries = read_log_diff(
            self._fs,
            self._data_dir,
            effect.from_zxid,
            effect.reach_zxid,
            self._options.snapshot_size_factor,
        )
        return None if entries is None else [Txn.from_payload(payload) for _, payload in entries]
