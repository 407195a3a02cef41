"""Data directories put together by hand, file by file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tests.fakes.memory_fs import MemoryFs
from tests.fakes.scripted_server import DATA_DIR, OWNERS
from zkpy.core.data_tree import DataTree
from zkpy.storage.data_dir import DataDir
from zkpy.storage.recovery import Recovered, recover
from zkpy.storage.snapshot import serialize
from zkpy.storage.txn_log import HEADER, encode_entry
from zkpy_protocol.opcodes import OpCode

if TYPE_CHECKING:
    from tests.fakes.scripted_server import History

DIRECTORY = f"{DATA_DIR}/version-2"
PADDING = 700


class HandmadeDisk:
    """Files with parts of a history, whose txns are counted from 1."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.fs = MemoryFs()
        self.data_dir = DataDir(DATA_DIR, DATA_DIR)
        self.fs.put(f"{DIRECTORY}/.keep", b"")

    def snapshot(self, count: int, history: History | None = None) -> Self:
        """The snapshot after the first `count` txns."""
        tree, sessions = replayed(history or self.history, count)
        return self.put(f"snapshot.{tree.last_zxid:x}", b"".join(serialize(tree, sessions, tree.last_zxid)))

    def log(self, first: int, last: int, history: History | None = None) -> Self:
        """The log with the txns from number `first` to number `last`."""
        txns = (history or self.history).txns[first - 1 : last]
        entries = b"".join(encode_entry(txn.payload) for txn in txns)
        return self.put(f"log.{txns[0].zxid:x}", HEADER + entries + bytes(PADDING))

    def put(self, name: str, content: bytes) -> Self:
        """Any file."""
        self.fs.put(f"{DIRECTORY}/{name}", content)
        return self

    def names(self) -> list[str]:
        """Logs and snapshots."""
        return [name for name in self.fs.names(DIRECTORY) if name != ".keep"]

    def recover(self, trust_empty: bool = False, digest_enabled: bool = True) -> Recovered:
        """A start."""
        return recover(self.fs, self.data_dir, OWNERS, digest_enabled=digest_enabled, trust_empty=trust_empty)


def replayed(history: History, count: int) -> tuple[DataTree, dict[int, int]]:
    """Tree and sessions after the first `count` txns."""
    tree = DataTree(OWNERS)
    sessions: dict[int, int] = {}
    for txn in history.txns[:count]:
        tree.apply(txn, None)
        if txn.type == OpCode.CREATE_SESSION:
            sessions[txn.client_id] = txn.record.time_out
        elif txn.type == OpCode.CLOSE_SESSION:
            sessions.pop(txn.client_id, None)
    return tree, sessions
