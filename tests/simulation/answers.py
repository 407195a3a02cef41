"""What the answers of one session have to agree with.

An answer is about the committed history up to the zxid in its header, whatever server gave it. A write that is answered has its txn
there, later than everything that had been answered to anybody when it was asked for; a read shows what the history says; a watch
speaks before any answer that could show the change. What was never answered may have happened, once, or not: the ledger sees
to it that requests of a session commit in the order of their asking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.world import ViolationError
from zkpy.core.zab.peer_state import epoch_of
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import decode_create_response, decode_get_data_response, decode_stat

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger

EPHEMERAL = 1
_ABSENT = (-1, None, 0)
_WRITES = frozenset(
    (OpCode.CREATE, OpCode.DELETE, OpCode.SET_DATA, OpCode.MULTI, OpCode.CLOSE_SESSION, OpCode.RECONFIG)
)
_SESSION_ERRORS = frozenset((ErrorCode.SESSIONEXPIRED, ErrorCode.SESSIONMOVED))
_RECONFIG_ERRORS = frozenset(
    (ErrorCode.RECONFIGINPROGRESS, ErrorCode.NEWCONFIGNOQUORUM, ErrorCode.BADARGUMENTS)
)


class Op:
    """One request under way.

    Attributes:
        acked: the greatest zxid that anybody had been answered with a write when it was asked for.
        expected: version that a set is to replace, flags of a create.
        is_fresh: a get behind a sync, which has to see everything up to `acked`.
        is_watching: a get that leaves a watch.
    """

    __slots__ = ("acked", "data", "expected", "is_fresh", "is_watching", "op", "path", "xid")

    def __init__(self, op: int, path: str, acked: int, *, expected: int = -1, data: bytes = b"") -> None:
        self.op = op
        self.path = path
        self.xid = 0
        self.acked = acked
        self.expected = expected
        self.data = data
        self.is_fresh = False
        self.is_watching = False


class Answers:
    """The answers of one client.

    Attributes:
        zxid: the greatest one it was answered with.
        session_id: its session, 0 without one.
        acked_writes: how many writes were answered.
        versions: of the nodes it has seen last.
    """

    __slots__ = (
        "_ephemerals",
        "_ledger",
        "_name",
        "_watches",
        "acked_writes",
        "session_id",
        "versions",
        "zxid",
    )

    def __init__(self, name: str, ledger: Ledger) -> None:
        self._name = name
        self._ledger = ledger
        self.zxid = 0
        self.session_id = 0
        self.acked_writes = 0
        self.versions: dict[str, int] = {}
        self._ephemerals: dict[str, None] = {}
        # Path -> zxid of the answer behind which the watch was there.
        self._watches: dict[str, int] = {}

    def session_ended(self) -> None:
        """The next session is another one."""
        self.session_id = 0
        self._ephemerals.clear()

    def connection_lost(self) -> None:
        """Its watches are gone with it."""
        self._watches.clear()

    def event(self, path: str) -> None:
        """A watch has fired."""
        armed = self._watches.pop(path, None)
        if armed is None:
            raise ViolationError(f"{self._name} hears of {path}, which it does not watch")
        if self._ledger.at(path, 1 << 62).zxid <= armed:
            raise ViolationError(f"{self._name} hears of {path}, which has not changed since {armed:#x}")

    def header(self, zxid: int) -> None:
        """Something was answered at this zxid."""
        if zxid < self.zxid:
            raise ViolationError(f"{self._name} was at {self.zxid:#x} and is answered at {zxid:#x}")
        self.zxid = zxid
        at = self._ledger.at
        for path, armed in self._watches.items():
            if at(path, zxid).zxid > armed:
                raise ViolationError(f"{self._name} is at {zxid:#x} before the watch of {path} has fired")

    def answered(self, op: Op, zxid: int, err: int, body: bytes) -> bool:
        """A request was answered; whether that was a write."""
        # A server whose disk is nearly full refuses by itself.
        is_write = op.op in _WRITES and err != ErrorCode.SYSTEMERROR
        if is_write:
            self._write(op, zxid, err, body)
        elif op.op == OpCode.GET_DATA:
            self._read(op, zxid, err, body)
        elif err not in (0, ErrorCode.SYSTEMERROR):
            raise ViolationError(f"{self._name}: sync fails with {err}")
        if op.op == OpCode.CLOSE_SESSION and not err:
            self.session_ended()
        for path in self._ephemerals:
            if self._ledger.at(path, zxid).version < 0:
                raise ViolationError(
                    f"{self._name} has its session at {zxid:#x}, but not its ephemeral {path}"
                )
        return is_write

    # -- writes

    def _write(self, op: Op, zxid: int, err: int, body: bytes) -> None:
        ledger = self._ledger
        txn = ledger.txns.get(zxid)
        if txn is None or txn.client_id != self.session_id or txn.cxid != op.xid:
            raise ViolationError(
                f"{self._name}: request {op.xid} is answered at {zxid:#x}, which is another one's txn"
            )
        if zxid <= op.acked:
            raise ViolationError(f"{self._name}: {zxid:#x} was asked for when {op.acked:#x} was answered")
        self.acked_writes += 1
        version = ledger.at(op.path, zxid - 1).version
        if err:
            self._refusal(op, err, version)
        elif op.op == OpCode.SET_DATA:
            self._set(op, zxid, version, body)
        elif op.op == OpCode.CREATE:
            self._create(op, zxid, body)
        elif op.op == OpCode.MULTI:
            self._multi(op, zxid, body)

    def _set(self, op: Op, zxid: int, version: int, body: bytes) -> None:
        stat, _ = decode_stat(body)
        if stat.mzxid != zxid or stat.version != version + 1 or op.expected not in (-1, version):
            raise ViolationError(f"{self._name}: set of {op.path} gives version {stat.version} at {zxid:#x}")
        self.versions[op.path] = stat.version

    def _create(self, op: Op, zxid: int, body: bytes) -> None:
        response, _ = decode_create_response(body)
        path = response.path or ""
        if self._ledger.at(path, zxid).data != op.data:
            raise ViolationError(f"{self._name}: {path} is not what was created at {zxid:#x}")
        if op.expected == EPHEMERAL:
            self._ephemerals[path] = None
        self.versions[path] = 0

    def _multi(self, op: Op, zxid: int, body: bytes) -> None:
        after = self._ledger.at(op.path, zxid)
        failed = int.from_bytes(body[:4], signed=True) == -1
        if failed == (after.data == op.data and after.mzxid == zxid):
            raise ViolationError(f"{self._name}: multi at {zxid:#x} has another answer than effect")

    def _refusal(self, op: Op, err: int, version: int) -> None:
        expected = err in _SESSION_ERRORS
        if op.op == OpCode.RECONFIG:
            expected = expected or err in _RECONFIG_ERRORS
        elif op.op == OpCode.MULTI:
            expected = True
        elif err == ErrorCode.BADVERSION:
            expected = op.op == OpCode.SET_DATA and version not in (-1, op.expected)
            self.versions[op.path] = version
        elif err == ErrorCode.NONODE:
            expected = op.op in (OpCode.SET_DATA, OpCode.DELETE) and version < 0
            self.versions.pop(op.path, None)
        elif err == ErrorCode.NODEEXISTS:
            expected = op.op == OpCode.CREATE and version >= 0
        if not expected:
            raise ViolationError(
                f"{self._name}: request {op.xid} on {op.path} at version {version} fails with {err}"
            )

    # -- reads

    def _read(self, op: Op, zxid: int, err: int, body: bytes) -> None:
        there = self._ledger.at(op.path, zxid)
        seen: tuple[int, bytes | None, int] = _ABSENT
        if not err:
            response, _ = decode_get_data_response(body)
            seen = (response.stat.version, response.data, response.stat.mzxid)
            self.versions[op.path] = response.stat.version
            if op.is_watching:
                self._watches[op.path] = zxid
        elif err != ErrorCode.NONODE:
            raise ViolationError(f"{self._name}: get fails with {err}")
        if seen != (there.version, there.data, there.mzxid):
            raise ViolationError(f"{self._name} sees {seen} of {op.path} at {zxid:#x}")
        # A leader that does not know yet that it is none answers a sync as well: that is ZooKeeper's promise.
        if op.is_fresh and zxid < op.acked and epoch_of(zxid) >= epoch_of(op.acked):
            raise ViolationError(
                f"{self._name} has synced when {op.acked:#x} was answered, and reads at {zxid:#x}"
            )
