"""What clients have done is there after a restart: core, log, snapshots and recovery together, over a power cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.local_server import LocalServer
from tests.fakes.memory_fs import MemoryFs
from tests.fakes.naive_tree import check_consistent, stored_nodes
from tests.fakes.replies import create, set_data
from tests.property.test_pipeline import CLOSE, WRITES, send
from zkpy.storage.data_dir import DataDir
from zkpy.storage.recovery import Recovered, recover
from zkpy.storage.snapshot import write_snapshot
from zkpy.storage.txn_log import TxnLog, encode_entry
from zkpy_protocol.opcodes import OpCode

pytestmark = pytest.mark.slow

QUOTA = "/zookeeper/quota/a"
# A quota on /a, whose usage every write below changes and no log mentions.
QUOTA_CALLS = [
    (OpCode.CREATE, create(QUOTA)),
    (OpCode.CREATE, create(f"{QUOTA}/zookeeper_limits", b"count=-1,bytes=-1")),
    (OpCode.CREATE, create(f"{QUOTA}/zookeeper_stats", b"count=0,bytes=0")),
    (OpCode.SET_DATA, set_data(f"{QUOTA}/zookeeper_limits", b"count=9,bytes=9")),
]


def restarted(server: LocalServer, fs: MemoryFs, directory: DataDir) -> Recovered:
    return recover(fs, directory, server.owners, digest_enabled=True, trust_empty=False)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.one_of(WRITES, WRITES, WRITES, st.just(CLOSE), st.sampled_from(QUOTA_CALLS))
        ),
        max_size=30,
    ),
    st.sets(st.integers(0, 30), max_size=3),
    st.sets(st.integers(1, 30), max_size=3),
    st.integers(0, 100),
)
def test_a_server_that_comes_back_has_everything_its_log_and_snapshots_have(
    calls: list[tuple[int, tuple[int, Any]]], snapshots: set[int], rolls: set[int], seed: int
) -> None:
    fs = MemoryFs()
    directory = DataDir("/data", "/data")
    for path in ("/data", directory.snap_dir):
        fs.mkdir(path)
        fs.sync_dir(path.rpartition("/")[0] or "/")
    server = LocalServer(extended=True)

    def save() -> None:
        committed = server.service.sessions.committed
        write_snapshot(fs, directory.snap_dir, server.tree, committed, server.tree.last_zxid, "")

    save()
    clients = [server.client() for _ in range(3)]
    for xid, (number, call) in enumerate([(0, QUOTA_CALLS[0]), *calls], 1):
        send(clients[number], call, xid)
        if xid in snapshots:
            save()
    log = TxnLog(fs, directory.log_dir, prealloc_bytes=1 << 12)
    for count, txn in enumerate(server.log, 1):
        log.append(txn.zxid, [encode_entry(txn.payload)])
        log.sync()
        if count in rolls:
            log.roll()
    log.close()

    recovered = restarted(server, fs.after_power_cut(seed), directory)
    assert recovered.last_zxid == server.tree.last_zxid
    assert stored_nodes(recovered.tree) == stored_nodes(server.tree)
    assert recovered.tree.digest == server.tree.digest
    assert recovered.digest_mismatches == 0
    assert recovered.sessions == server.service.sessions.committed
    check_consistent(recovered.tree)

    again = LocalServer(extended=True, tree=recovered.tree, sessions=recovered.sessions)
    for client in clients:
        if not client.closed:
            assert again.reconnect(client).session_id == client.session_id
