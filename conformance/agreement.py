"""Do the members of an ensemble hold the same? Zxid, every znode with data, Stat and ACL, digests by zxid.

The ensemble must be quiet: a txn that comes while it is looked at only makes the look begin again.
Of /zookeeper/config only data and ACL count: every server makes that znode itself when it starts, at its own time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness import Zk, wait_for
from wire_client import Broken, ConnectionGone, Refused, Wire, create, set_data
from zkpy_protocol.opcodes import OpCode

TRIES = 5
CONFIG = "/zookeeper/config"
PROBE = "/agreement"
KEPT_EVERY = 128  # a server keeps the digests at such zxids


class Agreement(NamedTuple):
    """What all members hold: path to (data, Stat, ACL), and how many digests of equal zxids were compared."""

    zxid: int
    tree: dict[str, tuple[Any, ...]]
    digests: int

    def __str__(self) -> str:
        return f"zxid {self.zxid:#x}, {len(self.tree)} znodes, {self.digests} digests compared"


def agree(servers: Sequence[Zk], timeout: float = 30) -> Agreement:
    """Compare all of them.

    Raises:
        Broken: two members differ, or one finds its own digest wrong.
        TimeoutError: they do not come to rest at one zxid.
    """
    compared = _same_digests(servers)
    for _ in range(TRIES):
        wires = [_session(server) for server in servers]
        try:
            zxid = wait_for("all members at one zxid", lambda: _common_zxid(servers), timeout)
            trees = [wire.tree_with_acls() for wire in wires]
            if _common_zxid(servers) != zxid:
                continue
            _same_trees(servers, trees)
            return Agreement(zxid, trees[0], compared)
        finally:
            for wire in wires:
                wire.close_session()
    raise TimeoutError(f"the ensemble does not come to rest in {TRIES} looks")


def digests(server: Zk) -> dict[int, int]:
    """Zxid to digest, of those txns whose digest the server has kept."""
    pairs = (line.split(": ") for line in server.four_letter("hash").splitlines() if ": " in line)
    return {int(zxid, 16): int(digest, 16) for zxid, digest in pairs}


def metric(server: Zk, name: str) -> str | None:
    """A value of `mntr`."""
    rows = (line.split("\t") for line in server.four_letter("mntr").splitlines() if "\t" in line)
    return next((row[1] for row in rows if row[0] == name), None)


def _session(server: Zk) -> Wire:
    deadline = time.monotonic() + 20
    while True:
        try:
            wire = Wire(server.port, 5, server.host)
            wire.connect()
        except ConnectionGone:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return wire


def _common_zxid(servers: Sequence[Zk]) -> int | None:
    found = {server.zxid() for server in servers}
    return found.pop() if len(found) == 1 else None


def _name(server: Zk) -> str:
    return f"{server.kind} (server {server.myid})"


def _same_trees(servers: Sequence[Zk], trees: Sequence[dict[str, tuple[Any, ...]]]) -> None:
    for server, tree in zip(servers[1:], trees[1:], strict=True):
        for path in sorted(tree.keys() | trees[0].keys()):
            if _comparable(path, tree) != _comparable(path, trees[0]):
                raise Broken(
                    f"{path} differs:\n  {_name(servers[0])}: {_shown(trees[0].get(path))}\n"
                    f"  {_name(server)}: {_shown(tree.get(path))}"
                )


def _comparable(path: str, tree: dict[str, tuple[Any, ...]]) -> object:
    node = tree.get(path)
    return (node[0], node[2]) if node and path == CONFIG else node


def _shown(node: tuple[Any, ...] | None) -> str:
    if node is None:
        return "not there"
    data, stat, acl = node
    fields = {name: getattr(stat, name) for name in stat.__slots__}
    return f"{data[:60]!r} {fields} {[(a.perms, a.id.scheme, a.id.id) for a in acl]}"


def _same_digests(servers: Sequence[Zk]) -> int:
    """Compare the digests that the members have kept; the number of comparisons.

    A member that was brought up by a snapshot of a changing tree finds digests wrong until it has passed the txns that
    were made meanwhile (Apache too), so what it has kept before says nothing. Hence the writes here: of those every
    member must keep the same digests, and none may find one wrong.
    """
    wire = _session(servers[0])
    with contextlib.suppress(Refused):
        wire.call(OpCode.CREATE, create(PROBE, b""))
    wait_for("all members at one zxid", lambda: _common_zxid(servers), 30)
    wrong = [_mismatches(server) for server in servers]
    before = _common_zxid(servers) or 0
    for _ in range(2):
        wire.send_frames([wire.request(OpCode.SET_DATA, set_data(PROBE, b"x")) for _ in range(KEPT_EVERY)])
        for _ in range(KEPT_EVERY):
            wire.reply()
    wire.close_session()
    zxid = wait_for("all members at one zxid", lambda: _common_zxid(servers), 30)
    fresh = range(before // KEPT_EVERY + 1, zxid // KEPT_EVERY + 1)
    known: dict[int, tuple[int, Zk]] = {}
    compared = 0
    for server, wrong_before in zip(servers, wrong, strict=True):
        if (count := _mismatches(server)) != wrong_before:
            raise Broken(f"{_name(server)} at rest finds {count - wrong_before} digests wrong")
        kept = digests(server)
        if missing := [hex(n * KEPT_EVERY) for n in fresh if n * KEPT_EVERY not in kept]:
            raise Broken(f"{_name(server)} has kept no digest at {missing[0]}, only {sorted(map(hex, kept))[-3:]}")
        for at, digest in kept.items():
            if at > before or not wrong_before:
                other = known.setdefault(at, (digest, server))
                if other[0] != digest:
                    raise Broken(f"digest at {at:#x}: {other[0]:x} of {_name(other[1])}, {digest:x} of {_name(server)}")
                compared += other[1] is not server
    return compared


def _mismatches(server: Zk) -> int:
    return int(metric(server, "zk_digest_mismatches_count") or 0)
