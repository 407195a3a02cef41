"""Stop a server at every operation on its disk, cut the power, start again: what was acknowledged is there, nothing is half done."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.fakes.memory_fs import MemoryFs, Stopped
from tests.fakes.scripted_server import DATA_DIR, History, ScriptedServer, make_txns, state_of
from zkpy.storage.errors import DiskFullError, LogFailedError

if TYPE_CHECKING:
    from zkpy.storage.recovery import Recovered

TXNS = 220
SCRIPT_SEED = 5
CUTS_PER_STOP = 3

HISTORY = make_txns(TXNS, seed=1)


def check(recovered: Recovered, history: History, acked: int, issued: int) -> None:
    """What a restart promises."""
    found = recovered.last_zxid
    assert acked <= found <= issued
    assert state_of(recovered.tree, recovered.sessions) == history.states[found]
    assert recovered.digest_mismatches == 0


def run_until(fs: MemoryFs, stop_at: int | None) -> ScriptedServer:
    fs.stop_at = stop_at
    server = ScriptedServer(fs, HISTORY)
    try:
        server.run(SCRIPT_SEED)
    except Stopped:
        pass
    else:
        assert stop_at is None
    return server


def operations_of_a_whole_run() -> list[str]:
    fs = MemoryFs()
    server = run_until(fs, None)
    check(server.recovered, HISTORY, TXNS, TXNS)
    return fs.log


def restart(fs: MemoryFs, acked: int, issued: int) -> ScriptedServer:
    server = ScriptedServer(fs, HISTORY)
    server.acked, server.issued = acked, issued
    recovered = server.start()
    check(recovered, HISTORY, acked, issued)
    return server


def test_the_script_does_everything_a_server_does_to_its_disk() -> None:
    log = operations_of_a_whole_run()
    assert {"create", "write", "datasync", "rename", "unlink", "sync_dir", "mkdir"} <= set(log)
    assert len(log) > 250


@pytest.mark.slow
def test_a_power_cut_at_any_operation_loses_nothing_acknowledged() -> None:
    for stop_at in range(1, len(operations_of_a_whole_run()) + 1):
        fs = MemoryFs()
        server = run_until(fs, stop_at)
        for seed in range(CUTS_PER_STOP):
            cut = fs.after_power_cut(1000 * stop_at + seed)
            again = restart(cut, server.acked, server.issued)
            # What this start has shown to clients must survive the next power cut, and so must what it adds.
            shown = again.acked
            restart(cut.after_power_cut(seed), shown, server.issued)
            again.batch(3)
            restart(cut.after_power_cut(seed), again.acked, again.issued)


@pytest.mark.slow
def test_a_kill_and_then_a_power_cut_lose_nothing_that_was_shown() -> None:
    """After a kill the kernel still has what the disk has not; the next start reads it and serves it."""
    for stop_at in range(1, len(operations_of_a_whole_run()) + 1, 2):
        fs = MemoryFs()
        server = run_until(fs, stop_at)
        killed = fs.after_kill()
        again = restart(killed, server.acked, server.issued)
        restart(killed.after_power_cut(stop_at), again.acked, again.issued)


@pytest.mark.slow
def test_a_start_that_is_interrupted_anywhere_can_be_repeated() -> None:
    for stop_at in range(5, len(operations_of_a_whole_run()) + 1, 7):
        fs = MemoryFs()
        server = run_until(fs, stop_at)
        cut = fs.after_power_cut(stop_at)
        operation = 0
        while True:
            operation += 1
            attempt = cut.after_power_cut(0)
            attempt.stop_at = operation
            try:
                restart(attempt, server.acked, server.issued)
            except Stopped:
                restart(attempt.after_power_cut(operation), server.acked, server.issued)
            else:
                break
        assert operation > 2


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_failing_operation_is_reported_and_loses_nothing(error: int) -> None:
    total = len(operations_of_a_whole_run())
    for fail_at in range(1, total + 1, 2):
        fs = MemoryFs()
        fs.fail_at[fail_at] = error
        server = ScriptedServer(fs, HISTORY)
        try:
            server.run(SCRIPT_SEED)
        except (DiskFullError, LogFailedError, OSError):
            pass
        except Exception as other:
            if "cannot be created" not in str(other):  # the very first operation
                raise
            continue
        fs.fail_at.clear()
        for seed in range(2):
            restart(fs.after_power_cut(seed), server.acked, server.issued)


def test_a_full_disk_refuses_batches_and_forgets_them() -> None:
    """What was refused is not there after a restart; what came before it is, and goes on where there is room again."""
    fs = MemoryFs(capacity=20_000)
    server = ScriptedServer(fs, HISTORY)
    server.start()
    refused = 0
    while server.batch_or_refusal():
        pass
    refused = server.issued
    acked = server.acked
    assert 0 < acked < refused < TXNS
    assert server.log.is_space_low
    for seed in range(20):
        cut = fs.after_power_cut(seed)
        cut.capacity = None
        again = restart(cut, acked, acked)
        assert again.batch(5)
    fs.capacity = None
    assert server.log.grow()
    while server.batch(7):
        pass
    restart(fs.after_power_cut(1), TXNS, TXNS)


def test_leftovers_of_an_interrupted_snapshot_and_log_are_removed() -> None:
    fs = MemoryFs()
    server = run_until(fs, None)
    server.log.close()
    fs.put(f"{DATA_DIR}/version-2/tmp-snapshot.7f", b"half")
    restart(fs, TXNS, TXNS)
    assert [name for name in fs.names(f"{DATA_DIR}/version-2") if name.startswith("tmp-")] == ["tmp-log"]
