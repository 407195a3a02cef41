"""Change any byte of a data directory: the start refuses and says where, or has the right state; never a wrong one."""

from __future__ import annotations

import random
from functools import cache

import pytest

from tests.fakes.memory_fs import MemoryFs
from tests.fakes.scripted_server import DATA_DIR, OWNERS, History, ScriptedServer, State, make_txns, state_of
from zkpy.storage.data_dir import DataDir
from zkpy.storage.errors import SnapshotDamageError, StorageDamageError
from zkpy.storage.recovery import Recovered, recover

DIRECTORY = f"{DATA_DIR}/version-2"


@cache
def history(seed: int, data_max: int) -> History:
    return make_txns(30, seed, data_max)


def small_data_dir(compression: str, seed: int, data_max: int) -> tuple[dict[str, bytes], State]:
    """Files of a server with two snapshots of one form and two logs, and the state they stand for."""
    fs = MemoryFs()
    server = ScriptedServer(fs, history(seed, data_max), step=600)
    server.start()
    server.batch(8)
    server.snapshot(compression)
    server.batch(5)
    server.log.roll()
    server.batch(5)
    server.snapshot(compression)
    server.batch(7)
    server.log.close()
    files = {
        name: fs.read(f"{DIRECTORY}/{name}")
        for name in fs.names(DIRECTORY)
        if name not in {"snapshot.0", "tmp-log"}
    }
    assert sorted(name.partition(".")[0] for name in files) == ["log", "log", "snapshot", "snapshot"]
    return files, server_state(server)


def server_state(server: ScriptedServer) -> State:
    return state_of(server.recovered.tree, server.recovered.sessions)


def start_on(files: dict[str, bytes]) -> Recovered | StorageDamageError | SnapshotDamageError:
    fs = MemoryFs()
    for name, content in files.items():
        fs.put(f"{DIRECTORY}/{name}", content)
    try:
        return recover(fs, DataDir(DATA_DIR, DATA_DIR), OWNERS, digest_enabled=True, trust_empty=False)
    except (StorageDamageError, SnapshotDamageError) as error:
        return error


def outcome(files: dict[str, bytes], expected: State) -> str:
    """``right`` or ``refused``; fails on everything else."""
    got = start_on(files)
    if not isinstance(got, Recovered):
        assert f"{got.path}, offset {got.offset}: {got.problem}" in str(got)
        assert got.path.removeprefix(f"{DIRECTORY}/") in files
        return "refused"
    assert state_of(got.tree, got.sessions) == expected
    assert got.digest_mismatches == 0
    return "right"


def flipped(content: bytes, offset: int, value: int) -> bytes:
    return content[:offset] + bytes([value]) + content[offset + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize(("compression", "seed"), [("", 1), ("gz", 2), ("snappy", 3)])
def test_one_changed_byte_is_refused_or_harmless(compression: str, seed: int) -> None:
    files, expected = small_data_dir(compression, seed, 40)
    rng = random.Random(seed)
    outcomes: dict[str, set[str]] = {}
    for name, content in files.items():
        for offset, value in enumerate(content):
            for changed in {value ^ 1 << rng.randrange(8), 0, rng.randrange(256)} - {value}:
                got = outcome(files | {name: flipped(content, offset, changed)}, expected)
                outcomes.setdefault(name.partition(".")[0], set()).add(got)
    # A snapshot has an older one behind it; a log has nothing.
    assert outcomes == {"snapshot": {"right"}, "log": {"right", "refused"}}


@pytest.mark.slow
def test_every_bit_of_the_last_entries_counts() -> None:
    """Where a tail could be torn, a changed bit must not pass for one, sectors of zeros in the data included."""
    for seed in range(2):
        files, expected = small_data_dir("", 10 + seed, 1200)
        name = max(name for name in files if name.startswith("log"))
        content = files[name]
        end = len(content.rstrip(b"\0"))
        for offset in [*range(max(16, end - 450), end), *range(end, min(end + 30, len(content)))]:
            for bit in range(8):
                outcome(files | {name: flipped(content, offset, content[offset] ^ 1 << bit)}, expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_header_of_a_log_tells_what_matters(seed: int) -> None:
    """A changed magic is refused; version and dbid mean nothing to anybody."""
    files, expected = small_data_dir("", 20 + seed, 40)
    for name in [name for name in files if name.startswith("log")]:
        for offset in range(16):
            changed = files | {name: flipped(files[name], offset, files[name][offset] ^ 0x55)}
            got = outcome(changed, expected)
            is_read = name == max(name for name in files if name.startswith("log"))
            assert got == ("refused" if offset < 4 and is_read else "right")


def test_all_snapshots_damaged_is_refused_with_the_newest_named() -> None:
    files, _ = small_data_dir("", 30, 40)
    newest = max(
        (name for name in files if name.startswith("snapshot")), key=lambda name: int(name.split(".")[1], 16)
    )
    for name in [name for name in files if name.startswith("snapshot")]:
        files[name] = flipped(files[name], 100, files[name][100] ^ 1)
    got = start_on(files)
    assert isinstance(got, SnapshotDamageError)
    assert got.path == f"{DIRECTORY}/{newest}"
    assert "no older snapshot is usable" in str(got)


@pytest.mark.slow
def test_a_log_cut_off_anywhere_is_a_tail_and_a_cut_in_the_middle_is_not() -> None:
    """What remains is a prefix; cutting an older log leaves a gap, which is refused."""
    past = history(1, 40)
    files, _ = small_data_dir("", 1, 40)
    logs = sorted(
        (name for name in files if name.startswith("log")), key=lambda name: int(name.split(".")[1], 16)
    )
    snapshots = [name for name in files if name.startswith("snapshot")]
    oldest = min(snapshots, key=lambda name: int(name.split(".")[1], 16))
    for name in set(snapshots) - {oldest}:
        del files[name]
    for name in logs:
        for size in range(len(files[name])):
            got = start_on(files | {name: files[name][:size]})
            if isinstance(got, Recovered):
                assert state_of(got.tree, got.sessions) == past.states[got.last_zxid]
                assert got.last_zxid == 25 or name == logs[1]
            else:
                assert name == logs[0]
                assert "missing" in got.problem
