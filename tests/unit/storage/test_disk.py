"""What a disk gives a peer back, and what it does without a configuration file. Effects that write have tests of their own."""

from __future__ import annotations

import pytest

from tests.fakes.handmade_disk import HandmadeDisk
from tests.fakes.scripted_server import OWNERS, make_txns, state_of
from zkpy.core.zab.database import Database
from zkpy.core.zab.effects import (
    Effect,
    LoadDatabase,
    ReloadDatabase,
    SaveAcceptedEpoch,
    SaveCommittedConfig,
    SaveProposedConfig,
)
from zkpy.storage.disk import Disk, DiskOptions
from zkpy.storage.epochs import Epochs
from zkpy.storage.txn_log import TxnLog

HISTORY = make_txns(60, seed=4)
CONFIG = "server.1=a:1:2:participant\nversion=100000001"


def disk_of(made: HandmadeDisk, config_file: str | None = None) -> Disk:
    """With a running log, whose file has no name before its first txn."""
    directory = made.data_dir.log_dir
    log = TxnLog(made.fs, directory, prealloc_bytes=1 << 14)
    epochs = Epochs.load(made.fs, directory, 60)
    options = DiskOptions(owners=OWNERS, digest_enabled=True, server_id=1, config_file=config_file)
    return Disk(made.fs, made.data_dir, log, epochs, options)


def test_the_whole_database_is_read_beside_the_running_log() -> None:
    made = HandmadeDisk(HISTORY).snapshot(20).log(1, 60)
    disk = disk_of(made)
    before = made.fs.names(made.data_dir.log_dir)
    database = disk.carry_out(ReloadDatabase())
    assert isinstance(database, Database)
    assert state_of(database.tree, database.sessions) == HISTORY.states[60]
    assert database.committed_log.txns()[-1].zxid == 60
    assert database.is_trusted
    assert made.fs.names(made.data_dir.log_dir) == before


def test_the_database_is_read_up_to_a_txn() -> None:
    database = disk_of(HandmadeDisk(HISTORY).snapshot(20).log(1, 60)).carry_out(LoadDatabase(30))
    assert isinstance(database, Database)
    assert state_of(database.tree, database.sessions) == HISTORY.states[30]
    assert [txn.zxid for txn in database.committed_log.txns()][-1] == 30


def test_a_txn_before_the_oldest_snapshot_cannot_be_gone_back_to() -> None:
    assert disk_of(HandmadeDisk(HISTORY).snapshot(20).log(21, 60)).carry_out(LoadDatabase(10)) is None


@pytest.mark.parametrize("effect", [SaveProposedConfig(CONFIG), SaveCommittedConfig(CONFIG)])
def test_without_a_configuration_file_there_are_no_dynamic_ones(effect: Effect) -> None:
    made = HandmadeDisk(HISTORY).snapshot(60)
    disk = disk_of(made)
    disk.carry_out(SaveAcceptedEpoch(3))
    before = made.fs.operations
    assert disk.carry_out(effect) is None
    assert made.fs.operations == before
