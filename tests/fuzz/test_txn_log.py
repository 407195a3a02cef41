"""Invariant: a directory with any log in it is refused with StorageDamageError, which names file and offset, or recovered; then
what was recovered is what a second start finds too.

The first byte of an input says whether the rest is a file, or the payloads of a file whose checksums are right: behind those
no random change gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.memory_fs import MemoryFs
from tests.fakes.scripted_server import DATA_DIR, OWNERS, make_txns, state_of
from tests.fuzz import smoke
from zkpy.core.data_tree import DataTree
from zkpy.storage.data_dir import DataDir
from zkpy.storage.errors import StorageDamageError
from zkpy.storage.recovery import Recovered, recover
from zkpy.storage.snapshot import write_snapshot
from zkpy.storage.txn_log import HEADER, encode_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = f"{DATA_DIR}/version-2"
LOG = f"{DIRECTORY}/log.1"
PAYLOADS = 1


def entries_of(data: bytes) -> bytes:
    """A file of payloads: a length of two bytes, so much of it; again."""
    content = HEADER
    position = 0
    while position + 2 <= len(data):
        length = int.from_bytes(data[position : position + 2]) or 1
        payload = data[position + 2 : position + 2 + length]
        if payload:
            content += encode_entry(payload)
        position += 2 + length
    return content


def disk_with(log: bytes) -> MemoryFs:
    """An empty snapshot and a log."""
    fs = MemoryFs()
    fs.put(LOG, log)
    write_snapshot(fs, DIRECTORY, DataTree(OWNERS), {}, 0)
    return fs


def start(fs: MemoryFs) -> Recovered | None:
    try:
        return recover(fs, DataDir(DATA_DIR, DATA_DIR), OWNERS, digest_enabled=True, trust_empty=False)
    except StorageDamageError as error:
        damage = error
    assert damage.path == LOG
    assert 0 <= damage.offset <= fs.size(LOG)
    assert str(damage).startswith(f"{LOG}, offset {damage.offset}: ")
    assert damage.remedy
    return None


def check(data: bytes) -> None:
    mode, rest = data[0] if data else 0, data[1:]
    fs = disk_with(entries_of(rest) if mode & PAYLOADS else rest)
    first = start(fs)
    if first is None:
        return
    second = start(fs)
    assert second is not None, "a second start refuses what the first one has repaired"
    assert state_of(second.tree, second.sessions) == state_of(first.tree, first.sessions)
    for notice in first.notices:
        assert LOG in notice


def seeds() -> Iterator[bytes]:
    payloads = [txn.payload for txn in make_txns(30, seed=3, data_max=20).txns]
    content = HEADER + b"".join(encode_entry(payload) for payload in payloads)
    yield b"\0" + content
    yield b"\0" + content[:-1]
    yield b"\0" + content + bytes(4096)
    yield b"\0" + HEADER
    yield b"\1" + b"".join(len(payload).to_bytes(2) + payload for payload in payloads)
    for count in range(1, 8):
        yield b"\1" + b"".join(len(payload).to_bytes(2) + payload for payload in payloads[:count])


_SEEDS = list(seeds())


@smoke
@given(st.sampled_from([b"\0", b"\0" + HEADER, b"\1"]), st.binary(max_size=200))
def test_any_bytes(start: bytes, data: bytes) -> None:
    check(start + data)


@smoke
@given(st.sampled_from(_SEEDS), st.data())
def test_a_good_log_with_a_change(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(1, len(changed) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(changed[: data.draw(st.integers(1, len(changed)))]))


def test_every_seed_is_recovered() -> None:
    for seed in _SEEDS:
        check(seed)
        assert start(disk_with(entries_of(seed[1:]) if seed[0] else seed[1:])) is not None
