"""Clients of an ensemble that write a history: contended registers, ephemerals and their observers.

Every client has one request under way at a time, waits `REPLY_S` for its answer, and then goes on at the next member with
the same session. What it was told is all that it notes; history.py judges.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from harness import Zk, wait_for
from history import ABSENT, ATTACH, CAS, CLOSE, CREATE, LEFT, LOOK, OK, PRESENT, READ, REFUSED, UNKNOWN, WRITE, History, Op
from wire_client import EPHEMERAL, Broken, ConnectionGone, Wire, create, set_data
from zkpy_protocol import records
from zkpy_protocol.opcodes import ErrorCode, OpCode

REPLY_S = 2.5
SESSION_TIMEOUT_MS = 6_000
CONTENDERS, OWNERS, OBSERVERS, REGISTERS = 5, 4, 3, 3
# What a server says when it cannot tell, or not now.
UNSURE = (ErrorCode.CONNECTIONLOSS, ErrorCode.OPERATIONTIMEOUT, ErrorCode.SYSTEMERROR, ErrorCode.SESSIONEXPIRED)


class Client:
    """One session after the other, on one member after the other."""

    def __init__(self, name: str, members: Sequence[Zk], history: History, seed: int) -> None:
        self.name = name
        self.rng = random.Random(f"{seed}-{name}")
        order = list(members)
        self.rng.shuffle(order)
        self._members = itertools.cycle(order)
        self._history = history
        self._wire: Wire | None = None
        self._session: tuple[int, bytes] = (0, bytes(16))
        self._zxid = 0
        self.timeout = 0.0
        self.sessions = 0
        self.done = 0

    @property
    def session_id(self) -> int:
        return self._session[0]

    def ask(self, kind: str, path: str, op: int, record: bytes, **known: object) -> tuple[Op, bytes]:
        """One request, noted. ConnectionGone when nobody has answered."""
        wire = self._connected()
        began = time.monotonic()

        def noted(outcome: str, **told: object) -> Op:
            facts = {**known, **told, "timeout": self.timeout}
            op = Op(kind, self.session_id, path, began, time.monotonic(), outcome, **facts)  # type: ignore[arg-type]
            self._history.add(op)
            return op

        try:
            wire.send_frames([wire.request(op, record)])
            xid, zxid, err, body = wire.reply()
        except ConnectionGone:
            noted(UNKNOWN)
            self.drop()
            raise
        if xid != wire.xid:
            raise Broken(f"{self.name}: reply {xid} to request {wire.xid}")
        if err in UNSURE:
            noted(UNKNOWN)
            self.drop()
            raise ConnectionGone(f"error {err}")
        self._zxid = max(self._zxid, zxid)
        self.done += 1
        if kind == READ and not err:
            response, _ = records.decode_get_data_response(body)
            value = (response.data or b"").decode()
            return noted(OK, zxid=zxid, value=value, version=response.stat.version, mzxid=response.stat.mzxid), body
        if kind == CAS and not err:
            answer, _ = records.decode_set_data_response(body)
            return noted(OK, zxid=zxid, version=answer.stat.version, mzxid=answer.stat.mzxid), body
        if kind == LOOK and err in (0, ErrorCode.NONODE):
            return noted(OK, zxid=zxid, version=ABSENT if err else PRESENT), body
        if err and not (kind == CAS and err == ErrorCode.BADVERSION):
            raise Broken(f"{self.name}: {kind} of {path} was answered with error {err}")
        return noted(REFUSED if err else OK, zxid=zxid), body

    def drop(self) -> None:
        """The connection goes, the session stays."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def forget(self) -> None:
        """Leave the session to expire."""
        self.drop()
        self._session = (0, bytes(16))

    def close(self) -> None:
        """End the session; forgotten when nobody says that it has ended."""
        if self.session_id:
            try:
                self.ask(CLOSE, "", OpCode.CLOSE_SESSION, b"")
            except ConnectionGone:
                pass
        self.forget()

    def _connected(self) -> Wire:
        """A connection with a session on it."""
        if self._wire is not None:
            return self._wire
        member = next(self._members)
        wire = Wire(member.port, REPLY_S, member.host, SESSION_TIMEOUT_MS)
        began = time.monotonic()
        try:
            accepted = wire.connect(*self._session, self._zxid)
        except BaseException:
            wire.close()
            raise
        old = self.session_id
        if old:
            outcome = OK if accepted else REFUSED
            self._history.add(Op(ATTACH, old, "", began, time.monotonic(), outcome, timeout=self.timeout))
        if not accepted:
            wire.close()
            self.forget()
            raise ConnectionGone("the session has expired")
        if not old:
            self.sessions += 1
        self._session = (wire.session_id, wire.password)
        self.timeout = wire.timeout_ms / 1000
        self._wire = wire
        return wire


def contend(client: Client, end: threading.Event, registers: Sequence[str]) -> None:
    """Read a register and replace what was read, again and again."""
    written = 0
    while not end.is_set():
        path = client.rng.choice(registers)
        record = records.encode_get_data_request(records.GetDataRequest(path, False))
        try:
            seen, _ = client.ask(READ, path, OpCode.GET_DATA, record)
            if client.rng.random() < 0.7:
                end.wait(client.rng.choice((0, 0, 0.002)))
                written += 1
                value = f"{client.name}-{written}"
                client.ask(
                    CAS, path, OpCode.SET_DATA, set_data(path, value.encode(), seen.version),
                    value=value, expected=seen.version,
                )  # fmt: skip
        except ConnectionGone:
            end.wait(0.05)
        end.wait(0.004)
    client.close()


def own(client: Client, end: threading.Event, directory: str, known: deque[str]) -> None:
    """Sessions with some ephemerals, that are closed or left alone after a while."""
    made = 0
    paths: list[str] = []
    session = 0
    until = 0.0
    while not end.is_set():
        if session and client.session_id == session and time.monotonic() > until:
            client.close() if client.rng.random() < 0.6 else client.forget()
        if client.session_id != session or not session:
            paths, until = [], time.monotonic() + client.rng.uniform(0.5, 4)
        path = f"{directory}/{client.name}-{made}"
        try:
            if len(paths) < 3:
                made += 1
                known.append(path)
                client.ask(CREATE, path, OpCode.CREATE, create(path, b"", EPHEMERAL))
                if client.session_id != session:
                    paths = []
                paths.append(path)
            else:
                path = client.rng.choice(paths)
                client.ask(WRITE, path, OpCode.SET_DATA, set_data(path, b"alive"))
            session = client.session_id
        except ConnectionGone:
            # Whether it was made will be seen; it is not written to.
            session = client.session_id
            end.wait(0.05)
        end.wait(0.03)
    client.close() if client.rng.random() < 0.5 else client.forget()


def observe(client: Client, end: threading.Event, known: deque[str]) -> None:
    """Look whether ephemerals are there."""
    while not end.is_set():
        recent = list(known)
        try:
            if recent:
                path = client.rng.choice(recent)
                client.ask(LOOK, path, OpCode.EXISTS, records.encode_exists_request(records.ExistsRequest(path, False)))
        except ConnectionGone:
            end.wait(0.05)
        end.wait(0.004)
    client.close()


class HistoryLoad:
    """All clients of one history. `root`: a path that is not there yet."""

    def __init__(self, members: Sequence[Zk], seed: int, root: str) -> None:
        self._root = root
        self._ephemerals = f"{root}/ephemerals"
        self._barrier = f"{root}/barrier"
        self._registers = [f"{root}/r{number}" for number in range(REGISTERS)]
        self._members = list(members)
        self._seed = seed
        self.history = History()
        self._known: deque[str] = deque(maxlen=40)
        self._end = threading.Event()
        self._errors: list[Exception] = []
        makers: list[tuple[str, int, Callable[[Client], None]]] = [
            ("contender", CONTENDERS, lambda client: contend(client, self._end, self._registers)),
            ("owner", OWNERS, lambda client: own(client, self._end, self._ephemerals, self._known)),
            ("observer", OBSERVERS, lambda client: observe(client, self._end, self._known)),
        ]
        self.clients = []
        self._threads = []
        for name, count, work in makers:
            for number in range(count):
                client = Client(f"{name}{number}", members, self.history, seed)
                self.clients.append(client)
                self._threads.append(threading.Thread(target=self._guard, args=(work, client), daemon=True))

    def _guard(self, work: Callable[[Client], None], client: Client) -> None:
        try:
            work(client)
        except Exception as error:  # raised again by `stop`
            self._errors.append(error)
            self._end.set()

    def start(self) -> None:
        """Make the znodes, and begin."""
        wire = self._wire()
        for path in (self._root, self._ephemerals, self._barrier, *self._registers):
            wire.call(OpCode.CREATE, create(path, b""))
        wire.close_session()
        for thread in self._threads:
            thread.start()

    def _wire(self) -> Wire:
        """A session of the runner itself; nothing of it is in the history."""

        def attempt() -> Wire:
            member = self._members[0]
            self._members.append(self._members.pop(0))
            wire = Wire(member.port, REPLY_S, member.host, SESSION_TIMEOUT_MS)
            wire.connect()
            return wire

        wire = wait_for("a member takes a session", attempt, 60)
        assert isinstance(wire, Wire)
        return wire

    @property
    def acknowledged(self) -> int:
        """Writes that are known to be done."""
        return sum(op.outcome == OK and op.kind in (CAS, CREATE, WRITE) for op in self.history.ops)

    @property
    def done(self) -> int:
        """Answers that clients have got."""
        return sum(client.done for client in self.clients)

    def progress(self, timeout: float = 60) -> float:
        """Wait until some more writes are acknowledged that have begun from now on; the seconds that took."""
        began = time.monotonic()

        def moved() -> bool:
            if self._errors:
                return True
            later = [op for op in self.history.ops[-200:] if op.began > began and op.outcome == OK]
            return sum(op.kind in (CAS, CREATE, WRITE) for op in later) >= 10

        wait_for("writes go on", moved, timeout, 0.02)
        if self._errors:
            raise self._errors[0]
        return time.monotonic() - began

    def stop(self) -> list[Op]:
        """End all clients, read every register, see which ephemerals are left; the whole history."""
        self._end.set()
        for thread in self._threads:
            thread.join(30)
        if self._errors:
            raise self._errors[0]
        if any(thread.is_alive() for thread in self._threads):
            raise Broken("a client hangs")
        closing = Client("closing", self._members, self.history, self._seed)
        self._until_done(lambda: closing.ask(WRITE, self._barrier, OpCode.SET_DATA, set_data(self._barrier, b"")))
        for path in self._registers:
            record = records.encode_get_data_request(records.GetDataRequest(path, False))
            self._until_done(lambda p=path, r=record: closing.ask(READ, p, OpCode.GET_DATA, r))
        self._wait_for_ephemerals()
        closing.close()
        return self.history.ops

    @staticmethod
    def _until_done(action: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                action()
            except ConnectionGone:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def _wait_for_ephemerals(self) -> None:
        """Every session has ended or was left alone: after their timeout nothing may be there."""
        wire = self._wire()
        deadline = time.monotonic() + SESSION_TIMEOUT_MS / 1000 + 6
        left = wire.children(self._ephemerals)
        while left and time.monotonic() < deadline:
            time.sleep(0.2)
            left = wire.children(self._ephemerals)
        for name in left:
            self.history.add(Op(LEFT, 0, f"{self._ephemerals}/{name}", 0, 0, OK))
        wire.close_session()
