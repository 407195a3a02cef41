"""What clients of an ensemble have seen, and whether a ZooKeeper ensemble may have shown it.

A history is a list of operations with the moments they began and ended (one clock for all clients) and how they were
answered; an operation whose connection was lost is `unknown`: it may have been done or not, now or a little later. `check` knows
nothing of servers, faults or sockets. Its rules:

* registers, znodes that many clients change by compare-and-set: no acknowledged write is lost, no two replace the same
  version, none is acknowledged out of the order of time, none is refused for a version that was current, every version and
  every value that is seen has an author;
* sessions: what a session is answered never goes back, on whatever server it is; a server at a zxid shows everything
  acknowledged up to it;
* ephemerals: there as long as their session, not longer than its close, gone at the end; a session does not expire
  before its timeout.
"""

from __future__ import annotations

import dataclasses
import json
import random
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

OK, REFUSED, UNKNOWN = "ok", "refused", "unknown"
READ, CAS, CREATE, WRITE, LOOK, CLOSE, ATTACH, LEFT = "read", "cas", "create", "write", "look", "close", "attach", "left"
ABSENT, PRESENT = -1, 1


@dataclasses.dataclass(frozen=True, slots=True)
class Op:
    """One operation, as its client has seen it.

    Attributes:
        kind: read or cas of a register; create of an ephemeral, write to it by its session, look at it by others, left:
            it is there when every session has ended; close or attach of the session itself.
        session: id of the session that asked.
        timeout: of that session, seconds.
        zxid: of the reply's header.
        value: written or read.
        expected: the version that a cas is to replace.
        version: of a register after a cas, or as read; of a look ABSENT or PRESENT.
        mzxid: of a register, as read or after the cas.
    """

    kind: str
    session: int
    path: str
    began: float
    ended: float
    outcome: str
    zxid: int = 0
    value: str = ""
    expected: int = -1
    version: int = -1
    mzxid: int = 0
    timeout: float = 0.0


class History:
    """Operations in the order in which they ended; safe for several threads."""

    def __init__(self, ops: Iterable[Op] = ()) -> None:
        self._lock = threading.Lock()
        self._ops = list(ops)

    def add(self, op: Op) -> None:
        with self._lock:
            self._ops.append(op)

    @property
    def ops(self) -> list[Op]:
        with self._lock:
            return list(self._ops)

    def save(self, path: Path) -> None:
        path.write_text("".join(json.dumps(dataclasses.asdict(op)) + "\n" for op in self.ops))

    @staticmethod
    def load(path: Path) -> History:
        return History(Op(**json.loads(line)) for line in path.read_text().splitlines())


def check(ops: Sequence[Op], slack: float) -> list[str]:
    """Everything that must not be; empty when the history holds.

    `slack`: seconds by which a session may end early, because its last sign of life died with the server that had it.
    Registers begin with version 0 and an empty value, and are read last by whoever closes the history.
    """
    by_path: dict[str, list[Op]] = defaultdict(list)
    by_session: dict[int, list[Op]] = defaultdict(list)
    ephemerals: dict[str, list[Op]] = defaultdict(list)
    for op in ops:
        if op.kind in (READ, CAS):
            by_path[op.path].append(op)
        elif op.kind in (CREATE, LOOK, LEFT):
            ephemerals[op.path].append(op)
        if op.session:
            by_session[op.session].append(op)
    found: list[str] = []
    for path, register in sorted(by_path.items()):
        found += _register(path, register)
    found += _order_of_time(ops)
    for _, session in sorted(by_session.items()):
        found += _session(session, slack)
    for path, seen in sorted(ephemerals.items()):
        found += _ephemeral(path, seen, by_session, slack)
    return found


# -- registers


def _register(path: str, ops: Sequence[Op]) -> Iterator[str]:
    done = [op for op in ops if op.kind == CAS and op.outcome == OK]
    unsure = [op for op in ops if op.kind == CAS and op.outcome == UNKNOWN]
    reads = [op for op in ops if op.kind == READ and op.outcome == OK]
    by_version: dict[int, Op] = {}
    for op in done:
        if op.version != op.expected + 1:
            yield f"{path}: compare-and-set of version {op.expected} made version {op.version}"
        if (other := by_version.setdefault(op.version, op)) is not op:
            yield f"{path}: version {op.version} was acknowledged for {other.value} and for {op.value}"
    in_order = sorted(by_version.values(), key=lambda op: op.version)
    for before, after in zip(in_order, in_order[1:], strict=False):
        if before.mzxid >= after.mzxid:
            yield f"{path}: version {after.version} at zxid {after.mzxid:#x}, version {before.version} at {before.mzxid:#x}"
    authors = {op.value: op for op in [*done, *unsure]}
    for read in reads:
        yield from _read(path, read, authors, by_version)
        for write in _newest_until(in_order, read.zxid):
            if read.version < write.version:
                yield (f"{path}: {write.value} (version {write.version}) was acknowledged at zxid {write.mzxid:#x}; "
                       f"a server at {read.zxid:#x} shows version {read.version}")  # fmt: skip
    yield from _last_read(path, reads, by_version, {op.expected + 1 for op in unsure})
    yield from _refused(path, ops, in_order)


def _read(path: str, read: Op, authors: dict[str, Op], by_version: dict[int, Op]) -> Iterator[str]:
    """What is read has been written."""
    if read.version == 0 and not read.value:
        return
    author = authors.get(read.value)
    if author is None:
        yield f"{path}: {read.value!r}, version {read.version}, was read and never written, or refused"
    elif author.outcome == OK and (author.version, author.mzxid) != (read.version, read.mzxid):
        yield (f"{path}: {read.value} was acknowledged as version {author.version} at {author.mzxid:#x} and is read as "
               f"{read.version} at {read.mzxid:#x}")  # fmt: skip
    elif author.expected + 1 != read.version:
        yield f"{path}: {read.value} was to replace version {author.expected} and is read as version {read.version}"
    elif (other := by_version.get(read.version)) is not None and other.value != read.value:
        yield f"{path}: version {read.version} is read as {read.value}, acknowledged was {other.value}"
    if read.mzxid > read.zxid:
        yield f"{path}: a server at zxid {read.zxid:#x} shows a write of {read.mzxid:#x}"


def _newest_until(in_order: Sequence[Op], zxid: int) -> list[Op]:
    """The last acknowledged write with a zxid of at most this one, if there is one."""
    low, high = 0, len(in_order)
    while low < high:
        middle = (low + high) // 2
        if in_order[middle].mzxid <= zxid:
            low = middle + 1
        else:
            high = middle
    return [in_order[low - 1]] if low else []


def _last_read(path: str, reads: Sequence[Op], by_version: dict[int, Op], unsure: set[int]) -> Iterator[str]:
    """The end of the register, read when all was over: nothing is missing, and nothing came from nowhere."""
    if not reads:
        yield f"{path}: nobody has read it"
        return
    last = max(reads, key=lambda op: op.ended)
    for version, write in sorted(by_version.items()):
        if version > last.version:
            yield f"{path}: {write.value}, version {version}, was acknowledged; the register ends with version {last.version}"
    for version in range(1, last.version + 1):
        if version not in by_version and version not in unsure:
            yield f"{path}: nobody has written version {version} of {last.version}"


def _refused(path: str, ops: Sequence[Op], in_order: Sequence[Op]) -> Iterator[str]:
    """No refusal while the expected version was current, as far as acknowledged writes show it."""
    by_version = {op.version: op for op in in_order}
    unsure = {op.expected for op in ops if op.kind == CAS and op.outcome == UNKNOWN}
    for op in ops:
        if op.kind == CAS and op.outcome == REFUSED and op.expected not in unsure:
            made, replaced = by_version.get(op.expected), by_version.get(op.expected + 1)
            if made and made.ended < op.began and (replaced is None or replaced.began > op.ended):
                yield f"{path}: {op.value} was refused although version {op.expected} was current"


def _order_of_time(ops: Iterable[Op]) -> Iterator[str]:
    """A write that begins when another one is acknowledged already has the greater zxid, whatever they write to."""
    writes = [op for op in ops if op.kind in (CAS, CREATE, WRITE) and op.outcome == OK]
    ended = sorted(writes, key=lambda op: op.ended)
    newest: Op | None = None
    at = 0
    for op in sorted(writes, key=lambda op: op.began):
        while at < len(ended) and ended[at].ended < op.began:
            if newest is None or ended[at].zxid > newest.zxid:
                newest = ended[at]
            at += 1
        if newest is not None and newest.zxid >= op.zxid:
            yield (f"{op.path}: a write has zxid {op.zxid:#x}; before it began, {newest.path} was acknowledged "
                   f"at {newest.zxid:#x}")  # fmt: skip


# -- sessions


def _session(ops: Sequence[Op], slack: float) -> Iterator[str]:
    newest = 0
    shown: dict[str, int] = {}
    heard = None
    for op in sorted(ops, key=lambda op: op.began):
        if op.kind == ATTACH and op.outcome == REFUSED:
            if heard is not None and op.ended < heard + op.timeout - slack:
                yield f"session {op.session:#x} has expired {op.ended - heard:.1f} s after its last answer, timeout {op.timeout:g} s"
            continue
        if op.outcome == UNKNOWN:
            continue
        heard = op.began
        if op.kind == ATTACH:
            continue
        if op.zxid < newest:
            yield f"session {op.session:#x}: zxid {op.zxid:#x} after {newest:#x}"
        newest = max(newest, op.zxid)
        if op.mzxid:
            if op.mzxid < shown.get(op.path, 0):
                yield f"session {op.session:#x}: {op.path} of zxid {op.mzxid:#x} after that of {shown[op.path]:#x}"
            shown[op.path] = op.mzxid


# -- ephemerals


def _ephemeral(path: str, seen: Sequence[Op], by_session: dict[int, list[Op]], slack: float) -> Iterator[str]:
    created = next((op for op in seen if op.kind == CREATE), None)
    if created is None:
        if any(op.kind == LEFT or op.version == PRESENT for op in seen):
            yield f"{path}: was seen and nobody has made it"
        return
    owner = by_session[created.session]
    writes = [op for op in owner if op.kind in (CREATE, WRITE, CAS) and op.outcome == OK]
    alive = max((op.zxid for op in writes), default=0)
    closed = next((op for op in owner if op.kind == CLOSE and op.outcome == OK), None)
    asked = any(op.kind == CLOSE for op in owner)
    heard = max((op.began for op in owner if op.outcome == OK), default=created.began)
    for op in seen:
        if op.kind == LEFT:
            yield f"{path}: is there although every session has ended"
        elif op.kind != LOOK or op.outcome != OK:
            continue
        elif op.version == PRESENT and closed is not None and op.zxid >= closed.zxid:
            yield f"{path}: seen at zxid {op.zxid:#x}, its session was closed at {closed.zxid:#x}"
        elif op.version == ABSENT and created.outcome == OK and created.zxid <= op.zxid:
            if op.zxid < alive:
                yield f"{path}: not there at zxid {op.zxid:#x}, its session wrote at {alive:#x}"
            elif not asked and op.ended < heard + created.timeout - slack:
                yield f"{path}: gone {op.ended - heard:.1f} s after its session was last answered, timeout {created.timeout:g} s"


# -- does the check see anything?


def damages(ops: Sequence[Op], seed: int) -> Iterator[tuple[str, list[Op]]]:
    """Histories that no ensemble may produce: this one with a single change each."""
    rng = random.Random(seed)
    done = [n for n, op in enumerate(ops) if op.kind == CAS and op.outcome == OK]
    versions = {(ops[n].path, ops[n].version) for n in done}
    follow = [n for n in done if (ops[n].path, ops[n].expected) in versions]
    reads = [n for n, op in enumerate(ops) if op.kind == READ and op.outcome == OK and (op.path, op.version) in versions]
    last = {op.path: n for n, op in enumerate(ops) if op.kind == READ and op.outcome == OK}
    unsure = {(op.path, op.expected) for op in ops if op.kind == CAS and op.outcome == UNKNOWN}

    def altered(at: int, **changes: object) -> list[Op]:
        return [*ops[:at], dataclasses.replace(ops[at], **changes), *ops[at + 1 :]]  # type: ignore[arg-type]

    for path, at in sorted(last.items()):
        if (version := ops[at].version) > 1:
            older = next((op for op in ops if op.path == path and op.kind == CAS and op.outcome == OK and op.version < version), None)
            if older:
                yield f"{path} ends with an older version", altered(at, version=older.version, value=older.value, mzxid=older.mzxid)
    sure = [n for n in done if (ops[n].path, ops[n].expected) not in unsure]
    for at in rng.sample(sure, min(3, len(sure))):
        yield "an acknowledgement is missing", [*ops[:at], *ops[at + 1 :]]
        yield "an acknowledged write was refused", altered(at, outcome=REFUSED)
    for at in rng.sample(follow, min(3, len(follow))):
        twin = dataclasses.replace(ops[at], value="twin", session=0)
        yield "one version was acknowledged twice", [*ops[:at], twin, *ops[at:]]
        yield "a write was acknowledged with an old zxid", altered(at, mzxid=1, zxid=1)
    for at in rng.sample(reads, min(3, len(reads))):
        yield "a read goes back", altered(at, version=0, value="", mzxid=0)
        yield "a value was never written", altered(at, value="nobody's")
    yield from _damaged_ephemerals(ops, altered, rng)


def _damaged_ephemerals(ops: Sequence[Op], altered: object, rng: random.Random) -> Iterator[tuple[str, list[Op]]]:
    assert callable(altered)
    owners = {op.path: op.session for op in ops if op.kind == CREATE and op.outcome == OK}
    made = {op.path: op.zxid for op in ops if op.kind == CREATE and op.outcome == OK}
    closed = {op.session: op.zxid for op in ops if op.kind == CLOSE and op.outcome == OK}
    alive: dict[int, int] = defaultdict(int)
    for op in ops:
        if op.kind in (CREATE, WRITE) and op.outcome == OK:
            alive[op.session] = max(alive[op.session], op.zxid)
    looks = [(n, op) for n, op in enumerate(ops) if op.kind == LOOK and op.path in owners]
    during = [n for n, op in looks if op.version == PRESENT and made[op.path] <= op.zxid < alive[owners[op.path]]]
    after = [n for n, op in looks if op.version == ABSENT and op.zxid >= closed.get(owners[op.path], op.zxid + 1)]
    for at in rng.sample(during, min(2, len(during))):
        yield "an ephemeral is not there while its session lives", altered(at, version=ABSENT)
    for at in rng.sample(after, min(2, len(after))):
        yield "an ephemeral is there after its session was closed", altered(at, version=PRESENT)
    for path in sorted(owners)[:1]:
        yield "an ephemeral is left over", [*ops, Op(LEFT, 0, path, 0, 0, OK)]
