"""Invariant: any file is refused with SnapshotDamageError, which names it and an offset, or loaded; what was loaded can be written
and loaded again, and is the same.

The first byte of an input says in which of the three forms the rest is, and whether its checksum is made right: behind that
no random change gets.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.memory_fs import MemoryFs
from tests.fakes.scripted_server import DATA_DIR, OWNERS, make_txns, state_of
from tests.fuzz import smoke
from zkpy.storage.errors import SnapshotDamageError
from zkpy.storage.snapshot import load_snapshot, looks_complete, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = f"{DATA_DIR}/version-2"
FORMS = ("", "gz", "snappy")
SEALED = 4
_SEAL = b"\0\0\0\1/"


def path_of(form: str) -> str:
    return f"{DIRECTORY}/snapshot.1f" + (f".{form}" if form else "")


def sealed(image: bytes) -> bytes:
    """With the checksum that belongs to it in place of the last bytes."""
    content = image[: -8 - len(_SEAL)]
    return content + zlib.adler32(content).to_bytes(8) + _SEAL


def check(data: bytes) -> None:
    mode, raw = data[0] if data else 0, data[1:]
    form = "" if mode & SEALED else FORMS[mode % 4 % len(FORMS)]
    path = path_of(form)
    fs = MemoryFs()
    fs.put(path, sealed(raw) if mode & SEALED else raw)
    looks_complete(fs, path)
    damage = None
    try:
        tree, sessions, _ = load_snapshot(fs, path, OWNERS, digest_enabled=True)
    except SnapshotDamageError as error:
        damage = error
    if damage is not None:
        assert damage.path == path
        assert damage.offset >= 0
        assert str(damage).startswith(f"{path}, offset {damage.offset}: ")
        return
    write_snapshot(fs, DIRECTORY, tree, sessions, tree.last_zxid)
    again, sessions_again, _ = load_snapshot(fs, path_of(""), OWNERS, digest_enabled=True)
    assert state_of(again, sessions_again) == state_of(tree, sessions)


def seeds() -> Iterator[bytes]:
    past = make_txns(31, seed=5, data_max=20)
    for number, form in enumerate(FORMS):
        fs = MemoryFs()
        fs.put(path_of(""), b"")
        write_snapshot(fs, DIRECTORY, past.tree, past.sessions, 31, form)
        content = fs.read(path_of(form))
        yield bytes([number]) + content
        if not form:
            yield bytes([SEALED]) + content


_SEEDS = list(seeds())


@smoke
@given(st.integers(0, 7), st.binary(max_size=200))
def test_any_bytes(mode: int, data: bytes) -> None:
    check(bytes([mode]) + data)


@smoke
@given(st.sampled_from(_SEEDS), st.data())
def test_a_good_snapshot_with_a_change(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(1, len(changed) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(changed[: data.draw(st.integers(1, len(changed)))]))


@smoke
@given(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8))
def test_a_snapshot_with_another_length_and_a_right_checksum(position: int, data: bytes) -> None:
    changed = bytearray(_SEEDS[1])
    position = 1 + position % (len(changed) - 20)
    changed[position : position + len(data)] = data
    check(bytes(changed))


def test_every_seed_is_loaded() -> None:
    for seed in _SEEDS:
        check(seed)
        fs = MemoryFs()
        form = "" if seed[0] & SEALED else FORMS[seed[0]]
        fs.put(path_of(form), seed[1:])
        tree, _, _ = load_snapshot(fs, path_of(form), OWNERS, digest_enabled=True)
        assert len(tree.nodes) > 5
