"""Directories written by Apache ZooKeeper 3.8.0 load to exactly what was recorded beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.memory_fs import MemoryFs
from zkpy.core.data_tree import node_digest
from zkpy.core.owners import CONTAINER, EPHEMERAL, ORDINARY, TTL, OwnerRules
from zkpy.storage.data_dir import DataDir
from zkpy.storage.log_reader import LogReader
from zkpy.storage.recovery import Recovered, recover
from zkpy.storage.snapshot import end_zxid, load_snapshot, looks_complete, serialize
from zkpy_protocol.records import ACL, Stat, decode_stat
from zkpy_protocol.txns import decode_payload, decode_record, encode_payload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.data_tree import DataTree, Node

GOLDEN = Path(__file__).parents[2] / "data" / "golden_disk"
OWNERS = OwnerRules(extended=True, emulate_353=False)
DIRECTORIES = [
    ("datadir-standalone", "datadir-standalone/expected.json"),
    ("datadir-ensemble/data", "datadir-ensemble/expected.json"),
    ("datadir-ensemble/data-leader", "datadir-ensemble/expected-leader.json"),
]
KINDS = {ORDINARY: "persistent", EPHEMERAL: "ephemeral", CONTAINER: "container", TTL: "ttl"}


def load(directory: str) -> tuple[MemoryFs, DataDir]:
    fs = MemoryFs()
    for path in sorted((GOLDEN / directory / "version-2").iterdir()):
        fs.put(f"/data/version-2/{path.name}", path.read_bytes())
    return fs, DataDir("/data", "/data")


def start(directory: str) -> Recovered:
    fs, data_dir = load(directory)
    return recover(fs, data_dir, OWNERS, digest_enabled=True, trust_empty=False)


def expected(name: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / name).read_text()))


def acl_json(acl: Sequence[ACL]) -> list[dict[str, object]]:
    return [{"perms": entry.perms, "scheme": entry.id.scheme, "id": entry.id.id} for entry in acl]


def hex_or_none(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def stored_stat(node: Node) -> dict[str, object]:
    return {
        "czxid": hex(node.czxid),
        "mzxid": hex(node.mzxid),
        "ctime": node.ctime,
        "mtime": node.mtime,
        "version": node.version,
        "cversion": node.cversion,
        "aversion": node.aversion,
        "ephemeralOwner": hex(node.owner & (1 << 64) - 1),
        "pzxid": hex(node.pzxid),
    }


def client_stat(stat: Stat) -> dict[str, object]:
    return {
        "czxid": hex(stat.czxid),
        "mzxid": hex(stat.mzxid),
        "ctime": stat.ctime,
        "mtime": stat.mtime,
        "version": stat.version,
        "cversion": stat.cversion,
        "aversion": stat.aversion,
        "ephemeralOwner": hex(stat.ephemeral_owner & (1 << 64) - 1),
        "dataLength": stat.data_length,
        "numChildren": stat.num_children,
        "pzxid": hex(stat.pzxid),
    }


def tree_json(tree: DataTree) -> list[dict[str, object]]:
    return [
        {
            "path": path,
            "keyInSnapshot": "" if path == "/" else path,
            "data": hex_or_none(node.data),
            "acl": acl_json(node.acl.entries),
            "statPersisted": stored_stat(node),
            "statClient": client_stat(decode_stat(tree.stat(node))[0]),
            "kind": KINDS[OWNERS.kind(node.owner)],
            "nodeDigest": node_digest(path, node),
        }
        for path, node in sorted(tree.nodes.items())
        if path
    ]


@pytest.mark.parametrize(("directory", "recorded"), DIRECTORIES)
def test_a_golden_directory_loads_to_its_recorded_state(directory: str, recorded: str) -> None:
    """Tree, both forms of every Stat, ACLs, kinds, node digests, sessions, zxid, tree digest."""
    want = expected(recorded)
    got = start(directory)
    assert tree_json(got.tree) == sorted(want["tree"], key=lambda node: str(node["path"]))
    assert {hex(id_): timeout for id_, timeout in got.sessions.items()} == want["sessions"]
    assert hex(got.last_zxid) == want["lastZxid"]
    digest = want["treeDigest"]
    assert got.tree.digest == (digest if isinstance(digest, int) else digest["value"])
    assert got.digest_mismatches == 0
    assert got.notices == []


@pytest.mark.parametrize(("directory", "recorded"), DIRECTORIES)
def test_every_golden_txn_is_read_with_header_record_digest_and_place(directory: str, recorded: str) -> None:
    fs, data_dir = load(directory)
    names = [entry["file"] for entry in expected(recorded)["logFiles"]]
    reader = LogReader(fs, [f"{data_dir.log_dir}/{name}" for name in names], 0)
    got = []
    for zxid, payload in reader.entries():
        header, record, digest = decode_payload(payload)
        assert header.zxid == zxid
        assert encode_payload(header, record, digest) == payload
        got.append(
            {
                "header": {
                    "clientId": hex(header.client_id),
                    "cxid": header.cxid,
                    "zxid": hex(header.zxid),
                    "time": header.time,
                    "type": header.type,
                },
                "record": record_json(record),
                "digest": None
                if digest is None
                else {"version": digest.version, "treeDigest": digest.tree_digest},
                "file": reader.path.rpartition("/")[2],
                "offset": reader.offset,
                "payloadLength": len(payload),
            }
        )
    want = []
    for txn in expected(recorded)["txns"]:
        del txn["header"]["typeName"]
        for member in (txn["record"] or {}).get("txns", []):
            del member["typeName"], member["leftover"]
        want.append({key: txn[key] for key in got[0]})
    assert got == want


def record_json(record: object) -> object:
    """A record with jute's names, as the recording has it."""
    if record is None:
        return {}
    result: dict[str, object] = {}
    for slot in (name for name in dir(record) if not name.startswith("_")):
        value = getattr(record, slot)
        name = {
            "parent_c_version": "parentCVersion",
            "time_out": "timeOut",
            "paths2_delete": "paths2Delete",
        }.get(slot, slot)
        if slot == "acl":
            value = acl_json(value)
        elif isinstance(value, bytes):
            value = value.hex()
        elif slot == "txns":
            value = [
                {
                    "type": member.type,
                    "raw": member.data.hex(),
                    "record": record_json(decode_record(member.type, member.data)[0]),
                }
                for member in value
            ]
        result[name] = value
    return result


@pytest.mark.parametrize("name", ["snapshot.36", "snapshot.36.gz", "snapshot.36.snappy"])
def test_a_snapshot_reads_the_same_in_every_compression(name: str) -> None:
    fs = MemoryFs()
    path = f"/data/version-2/{name}"
    fs.put(path, (GOLDEN / "snapshots-compressed" / name).read_bytes())
    assert looks_complete(fs, path)
    tree, sessions, digest = load_snapshot(fs, path, OWNERS, digest_enabled=True)
    replayed = start("datadir-standalone")
    assert tree_json(tree) == tree_json(replayed.tree)
    assert sessions == replayed.sessions
    assert digest == (0x36, replayed.tree.digest)
    assert tree.digest == replayed.tree.digest


@pytest.mark.parametrize("name", ["snapshot.36", "snapshot.36.gz", "snapshot.36.snappy"])
def test_a_snapshot_tells_what_was_applied_when_it_was_finished(name: str) -> None:
    fs = MemoryFs()
    content = (GOLDEN / "snapshots-compressed" / name).read_bytes()
    fs.put(f"/{name}", content)
    assert end_zxid(fs, f"/{name}") == 0x36
    fs.put(f"/{name}", content[: len(content) // 2])
    assert end_zxid(fs, f"/{name}") is None


def test_our_image_of_a_golden_snapshot_begins_with_apaches_and_adds_the_newest_part() -> None:
    """Node order is free; everything else of 3.8.0's file is reproduced byte by byte."""
    theirs = (GOLDEN / "snapshots-compressed" / "snapshot.36").read_bytes()
    fs = MemoryFs()
    fs.put("/data/version-2/snapshot.36", theirs)
    tree, sessions, _ = load_snapshot(fs, "/data/version-2/snapshot.36", OWNERS, digest_enabled=True)
    ours = b"".join(serialize(tree, sessions, 0x36))
    # They list sessions in the order of a hash table.
    head = 16 + 4 + 12 * len(sessions)
    assert ours[head : len(theirs) - 46] == theirs[head : len(theirs) - 46]
    assert len(ours) == len(theirs) + 8 + 13
