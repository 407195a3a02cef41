"""Writers that know, after a crash, what the server may have kept and what it must have.

A `Writer` is one session with a directory of its own. The server answers the requests of a session in order, so after a
crash its directory must be what it was after some request: the last acknowledged one, or a later one that was under
way. Everything else is a broken promise: less (an acknowledged write lost), or between two (a multi applied by half).
Sequential znodes all go to one directory and carry a token: a number never comes twice, and grows with every round.

`Wire` is a blocking client of raw frames; it reconnects nothing by itself.
"""

from __future__ import annotations

import copy
import random
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

from zkpy_protocol import records
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import ACL, ConnectRequest, Id, MultiHeader, RequestHeader, Stat

OPEN = [ACL(31, Id("world", "anyone"))]
EPHEMERAL, SEQUENCE = 1, 2
ROOT = "/crash"
SEQUENTIAL = f"{ROOT}/seq"
SESSION_TIMEOUT_MS = 40_000


class Broken(Exception):
    """A promise is broken."""


class ConnectionGone(Exception):
    """The server has closed the connection, or died."""


class Refused(Exception):
    """A request was answered with an error."""

    def __init__(self, err: int) -> None:
        super().__init__(f"error {err}")
        self.err = err


class Wire:
    """One connection. Requests are numbered by itself."""

    def __init__(self, port: int, timeout: float = 20) -> None:
        self.session_id = 0
        self.password = bytes(16)
        self.xid = 0
        try:
            self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        except OSError as error:
            raise ConnectionGone(str(error)) from error
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in = bytearray()

    def connect(self, session_id: int = 0, password: bytes = bytes(16)) -> bool:
        """Open a session, or take one up again. False: the server does not know it any more."""
        request = ConnectRequest(0, 0, SESSION_TIMEOUT_MS, session_id, password, False)
        self.send_frames([records.encode_connect_request(request)])
        response, _ = records.decode_connect_response(self.frame())
        self.session_id = response.session_id
        self.password = response.passwd or b""
        return response.session_id != 0

    def send_frames(self, bodies: Sequence[bytes]) -> None:
        try:
            self.sock.sendall(b"".join(struct.pack(">i", len(body)) + body for body in bodies))
        except OSError as error:
            raise ConnectionGone(str(error)) from error

    def request(self, op: int, record: bytes = b"") -> bytes:
        """The frame of a request that is sent later."""
        self.xid += 1
        return records.encode_request_header(RequestHeader(self.xid, op)) + record

    def frame(self) -> bytes:
        while len(self._in) < 4 or len(self._in) < 4 + int.from_bytes(self._in[:4], "big"):
            try:
                data = self.sock.recv(1 << 16)
            except OSError as error:
                raise ConnectionGone(str(error) or type(error).__name__) from error
            if not data:
                raise ConnectionGone("closed by the server")
            self._in += data
        end = 4 + int.from_bytes(self._in[:4], "big")
        frame = bytes(self._in[4:end])
        del self._in[:end]
        return frame

    def reply(self) -> tuple[int, int, int, bytes]:
        """xid, zxid, err, record."""
        frame = self.frame()
        header, pos = records.decode_reply_header(frame)
        return header.xid, header.zxid, header.err, frame[pos:]

    def call(self, op: int, record: bytes = b"") -> bytes:
        """Send one request and wait for its answer."""
        self.send_frames([self.request(op, record)])
        xid, _, err, body = self.reply()
        if xid != self.xid:
            raise Broken(f"reply {xid} to request {self.xid}")
        if err:
            raise Refused(err)
        return body

    def get_all(self, paths: Sequence[str]) -> list[tuple[bytes, Stat]]:
        """Data and Stat of znodes that are there."""
        frames = [
            self.request(OpCode.GET_DATA, records.encode_get_data_request(records.GetDataRequest(p, False)))
            for p in paths
        ]
        found = []
        for start in range(0, len(frames), 500):
            batch = frames[start : start + 500]
            self.send_frames(batch)
            for path in paths[start : start + len(batch)]:
                _, _, err, body = self.reply()
                if err:
                    raise Broken(f"{path} is a child and answers error {err}")
                response, _ = records.decode_get_data_response(body)
                found.append((response.data or b"", response.stat))
        return found

    def children(self, path: str) -> list[str]:
        body = self.call(
            OpCode.GET_CHILDREN,
            records.encode_get_children_request(records.GetChildrenRequest(path, False)),
        )
        response, _ = records.decode_get_children_response(body)
        return sorted(response.children or [], key=str)  # type: ignore[arg-type]

    def tree(self, root: str = "/") -> dict[str, tuple[bytes, Stat]]:
        """Everything below `root`, with it."""
        found: dict[str, tuple[bytes, Stat]] = {}
        paths = [root]
        while paths:
            answers = self.get_all(paths)
            found.update(zip(paths, answers, strict=True))
            below = []
            for path, (_, stat) in zip(paths, answers, strict=True):
                if stat.num_children:
                    below += [f"{path.rstrip('/')}/{name}" for name in self.children(path)]
            paths = below
        return found

    def close(self) -> None:
        self.sock.close()


def create(path: str, data: bytes, flags: int = 0) -> bytes:
    return records.encode_create_request(records.CreateRequest(path, data, OPEN, flags))


def set_data(path: str, data: bytes, version: int = -1) -> bytes:
    return records.encode_set_data_request(records.SetDataRequest(path, data, version))


def delete(path: str, version: int = -1) -> bytes:
    return records.encode_delete_request(records.DeleteRequest(path, version))


def multi(parts: Sequence[tuple[int, bytes]]) -> bytes:
    body = b"".join(records.encode_multi_header(MultiHeader(op, False, -1)) + rec for op, rec in parts)
    return body + records.encode_multi_header(MultiHeader(-1, True, -1))


class Model:
    """What a writer's part of the tree is after one of its requests.

    Attributes:
        nodes: name to (data, version, is ephemeral).
        tokens: of sequential znodes: token to (name, None while the answer has not come; is ephemeral).
        alive: whether its session is open.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, tuple[bytes, int, bool]] = {}
        self.tokens: dict[str, tuple[str | None, bool]] = {}
        self.alive = True

    def apply(self, effect: tuple[Any, ...], name: str | None = None) -> None:
        kind, *rest = effect
        if kind == "put":
            self.nodes[rest[0]] = rest[1]
        elif kind == "remove":
            del self.nodes[rest[0]]
        elif kind == "token":
            self.tokens[rest[0]] = (name, rest[1])
        elif kind == "untoken":
            del self.tokens[rest[0]]
        elif kind == "all":
            for part in rest[0]:
                self.apply(part)
        elif kind == "close":
            self.alive = False
            self.nodes = {n: v for n, v in self.nodes.items() if not v[2]}
            self.tokens = {t: v for t, v in self.tokens.items() if not v[1]}
        else:
            assert kind == "nothing", kind

    def matches(self, nodes: dict[str, tuple[bytes, int, bool]], tokens: dict[str, str]) -> bool:
        return (
            self.nodes == nodes
            and self.tokens.keys() == tokens.keys()
            and all(name is None or tokens[token] == name for token, (name, _) in self.tokens.items())
        )


class Numbers:
    """Sequence numbers of one directory: never twice, never smaller than one of a former round."""

    def __init__(self) -> None:
        self._tokens: dict[int, str] = {}
        self._lock = threading.Lock()
        self._floor = -1

    def next_round(self) -> None:
        """What is handed out from now on must be above everything so far."""
        self._floor = max(self._tokens, default=-1)

    def seen(self, name: str, token: str) -> None:
        number = int(name[-10:])
        with self._lock:
            if self._tokens.setdefault(number, token) != token:
                raise Broken(f"sequence number {number} given to {self._tokens[number]} and to {token}")

    def given(self, name: str, token: str) -> None:
        """As `seen`, for the answer to a request of this round."""
        self.seen(name, token)
        if int(name[-10:]) <= self._floor:
            raise Broken(f"sequence number {int(name[-10:])} after {self._floor} was given before the crash")

    def __len__(self) -> int:
        return len(self._tokens)


class Writer:
    """One session that writes, and what it knows of its directory."""

    def __init__(self, number: int, seed: int, numbers: Numbers) -> None:
        self.path = f"{ROOT}/w{number}"
        self.tag = f"w{number}"
        self._rng = random.Random(f"{seed}-{number}")
        self._numbers = numbers
        self._count = 0
        self.acknowledged = 0
        self.reattached = 0
        self.last_zxid = 0
        self.session: tuple[int, bytes] = (0, bytes(16))
        self.base = Model()  # after the last acknowledged request
        self._head = Model()  # after the last one sent
        self._sent: list[tuple[int, tuple[Any, ...], int]] = []  # xid, effect, expected error
        self.candidates = [self.base]  # what it may be after the last restart
        self.error: Exception | None = None
        self._wire: Wire | None = None
        self.port = 0

    # -- before the crash

    def attach(self, port: int) -> None:
        """Take up the session, as `reconcile` left the possibilities."""
        wire = Wire(port)
        session_id, password = self.session
        self.base = self.candidates[-1]
        if session_id:
            accepted = wire.connect(session_id, password)
            possible = [model for model in self.candidates if model.alive == accepted]
            if not possible:
                said = "accepted" if accepted else "refused"
                raise Broken(f"{self.path}: the server has {said} session {session_id:#x}")
            self.base = possible[-1]
            if accepted:
                self.reattached += 1
                if wire.session_id != session_id:
                    raise Broken(f"session {session_id:#x} became {wire.session_id:#x}")
            else:
                wire.close()
                wire = Wire(port)
                session_id = 0
        if not session_id:
            wire.connect()
            self.session = (wire.session_id, wire.password)
            self.base.alive = True
        self._wire = wire
        self._head = copy.deepcopy(self.base)
        self._sent = []

    def run(self) -> None:
        """Write until the connection is gone; `error` says what else happened."""
        try:
            while True:
                self._batch()
        except ConnectionGone:
            pass
        except Exception as error:  # looked at by whoever started the thread
            self.error = error

    def _batch(self) -> None:
        wire = self._wire
        assert wire is not None
        frames = []
        for _ in range(self._rng.choice((1, 1, 2, 5, 20))):
            op, record, effect, err = self._draw()
            frames.append(wire.request(op, record))
            self._sent.append((wire.xid, effect, err))
            self._head.apply(effect)
            if op == OpCode.CLOSE_SESSION:
                break
        wire.send_frames(frames)
        for _ in frames:
            self._acknowledge(*wire.reply())
        if not self.base.alive:
            wire.close()
            self._begin_session()

    def _begin_session(self) -> None:
        self._wire = wire = Wire(self.port)
        self.session = (0, bytes(16))
        wire.connect()
        self.session = (wire.session_id, wire.password)
        self.base.alive = True
        self._head.alive = True

    def _acknowledge(self, xid: int, zxid: int, err: int, body: bytes) -> None:
        expected, effect, expected_err = self._sent.pop(0)
        if expected_err and not err:
            # A refused multi is answered with 0 and a list of errors.
            _, pos = records.decode_multi_header(body)
            inner = [
                int.from_bytes(body[at : at + 4], "big", signed=True) for at in range(pos, len(body), 13)
            ]
            err = next((code for code in inner if code not in (0, ErrorCode.RUNTIMEINCONSISTENCY)), 0)
        if xid != expected or err != expected_err:
            raise Broken(f"{self.path}: reply {xid} err {err} to request {expected}, {effect}")
        if zxid < self.last_zxid:
            raise Broken(f"{self.path}: zxid {zxid:#x} after {self.last_zxid:#x}")
        self.last_zxid = zxid
        name = None
        if effect[0] == "token":
            response, _ = records.decode_create_response(body)
            name = (response.path or "").rpartition("/")[2]
            self._numbers.given(name, effect[1])
            if effect[1] in self._head.tokens:
                self._head.apply(effect, name)
        self.base.apply(effect, name)
        self.acknowledged += 1

    def _draw(self) -> tuple[int, bytes, tuple[Any, ...], int]:
        """The next request: operation, record, effect, expected error."""
        rng = self._rng
        self._count += 1
        nodes = self._head.nodes
        data = f"{self.tag}-{self._count}-".encode() + b"x" * rng.choice((0, 10, 100, 3000))
        names = sorted(nodes)
        choice = rng.random()
        if choice < 0.004:
            return OpCode.CLOSE_SESSION, b"", ("close",), 0
        if choice < 0.12:
            token = f"{self.tag}-{self._count}"
            is_ephemeral = rng.random() < 0.3
            flags = SEQUENCE | EPHEMERAL * is_ephemeral
            record = create(f"{SEQUENTIAL}/s-", token.encode(), flags)
            return OpCode.CREATE, record, ("token", token, is_ephemeral), 0
        if choice < 0.25:
            for token, (name, _) in self._head.tokens.items():
                if name is not None:
                    return OpCode.DELETE, delete(f"{SEQUENTIAL}/{name}"), ("untoken", token), 0
        if choice < 0.45 and names:
            return self._multi(data)
        if (choice < 0.65 and len(names) < 12) or not names:
            return self._create(data)
        name = rng.choice(names)
        if choice < 0.75:
            version = nodes[name][1]
            return OpCode.DELETE, delete(f"{self.path}/{name}", version), ("remove", name), 0
        _, version, is_ephemeral = nodes[name]
        record = set_data(f"{self.path}/{name}", data, version)
        return OpCode.SET_DATA, record, ("put", name, (data, version + 1, is_ephemeral)), 0

    def _create(self, data: bytes) -> tuple[int, bytes, tuple[Any, ...], int]:
        is_ephemeral = self._rng.random() < 0.3
        name = f"n{self._count}"
        record = create(f"{self.path}/{name}", data, EPHEMERAL * is_ephemeral)
        return OpCode.CREATE, record, ("put", name, (data, 0, is_ephemeral)), 0

    def _multi(self, data: bytes) -> tuple[int, bytes, tuple[Any, ...], int]:
        """Two creates, a set, and of two old ones a delete; one in four must be refused as a whole."""
        names = sorted(self._head.nodes)
        target = self._rng.choice(names)
        _, version, is_ephemeral = self._head.nodes[target]
        new = [f"m{self._count}a", f"m{self._count}b"]
        parts = [(OpCode.CREATE, create(f"{self.path}/{name}", data)) for name in new]
        effects: list[tuple[Any, ...]] = [("put", name, (data, 0, False)) for name in new]
        fails = self._rng.random() < 0.25
        parts.append((OpCode.SET_DATA, set_data(f"{self.path}/{target}", data, version + 7 * fails)))
        effects.append(("put", target, (data, version + 1, is_ephemeral)))
        for name in [name for name in names if name.startswith("m") and name != target][:3]:
            parts.append((OpCode.DELETE, delete(f"{self.path}/{name}", self._head.nodes[name][1])))
            effects.append(("remove", name))
        if fails:
            return OpCode.MULTI, multi(parts), ("nothing",), ErrorCode.BADVERSION
        return OpCode.MULTI, multi(parts), ("all", effects), 0

    # -- after it

    def reconcile(self, tree: dict[str, tuple[bytes, Stat]]) -> None:
        """Find which of the possible states this is.

        Raises:
            Broken: it is none of them.
        """
        if self._wire is not None:
            self._wire.close()
        prefix = f"{self.path}/"
        nodes = {
            path.removeprefix(prefix): (data, stat.version, stat.ephemeral_owner != 0)
            for path, (data, stat) in tree.items()
            if path.startswith(prefix)
        }
        tokens: dict[str, str] = {}
        for path, (data, _) in tree.items():
            token = data.decode(errors="replace")
            if path.startswith(f"{SEQUENTIAL}/") and token.startswith(f"{self.tag}-"):
                name = path.removeprefix(f"{SEQUENTIAL}/")
                if token in tokens:
                    raise Broken(f"one request made {tokens[token]} and {name}")
                tokens[token] = name
                self._numbers.seen(name, token)
        model = copy.deepcopy(self.base)
        states = [copy.deepcopy(model)]
        for _, effect, _ in self._sent:
            model.apply(effect)
            states.append(copy.deepcopy(model))
        self.candidates = [state for state in states if state.matches(nodes, tokens)]
        if not self.candidates:
            raise Broken(self._explain(nodes, tokens, len(states) - 1))
        for state in self.candidates:
            for token, (_, is_ephemeral) in list(state.tokens.items()):
                state.tokens[token] = (tokens[token], is_ephemeral)

    def _explain(self, nodes: dict[str, Any], tokens: dict[str, str], unanswered: int) -> str:
        base = self.base
        lost = sorted(base.nodes.keys() - nodes.keys())
        more = sorted(nodes.keys() - base.nodes.keys())
        other = sorted(name for name in base.nodes.keys() & nodes.keys() if base.nodes[name] != nodes[name])
        return (
            f"{self.path}: no state after an acknowledged request ({unanswered} were under way): missing {lost}, "
            f"more {more}, other {other}, tokens missing {sorted(base.tokens.keys() - tokens.keys())}, "
            f"more {sorted(tokens.keys() - base.tokens.keys())}"
        )


class Load:
    """All writers of a run."""

    def __init__(self, count: int, seed: int) -> None:
        self.numbers = Numbers()
        self.writers = [Writer(number, seed, self.numbers) for number in range(count)]
        self._threads: list[threading.Thread] = []

    def prepare(self, port: int) -> None:
        """Make the directories."""
        wire = Wire(port)
        wire.connect()
        for path in (ROOT, SEQUENTIAL, *(writer.path for writer in self.writers)):
            wire.call(OpCode.CREATE, create(path, b""))
        wire.call(OpCode.CLOSE_SESSION)
        wire.close()

    def start(self, port: int) -> None:
        """Attach every session and let them write; all are attached when this returns."""
        self.numbers.next_round()
        for writer in self.writers:
            writer.port = port
            writer.attach(port)
        self._threads = [threading.Thread(target=writer.run, daemon=True) for writer in self.writers]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until every writer has lost its connection.

        Raises:
            Broken: what a writer has seen.
        """
        for thread in self._threads:
            thread.join(30)
            if thread.is_alive():
                raise Broken("a writer hangs although its server is gone")
        for writer in self.writers:
            if writer.error is not None:
                raise writer.error

    def reconcile(self, port: int) -> None:
        """Compare with what is there after the restart."""
        wire = Wire(port)
        wire.connect()
        tree = wire.tree(ROOT)
        for writer in self.writers:
            writer.reconcile(tree)
        zxid = self.zxid(wire)
        acknowledged = max(writer.last_zxid for writer in self.writers)
        if zxid <= acknowledged:  # the session of this check has taken one
            raise Broken(f"zxid {zxid:#x} after {acknowledged:#x} was acknowledged")
        wire.call(OpCode.CLOSE_SESSION)
        wire.close()

    @staticmethod
    def zxid(wire: Wire) -> int:
        """Where the server stands."""
        wire.send_frames(
            [wire.request(OpCode.EXISTS, records.encode_exists_request(records.ExistsRequest("/", False)))]
        )
        return wire.reply()[1]

    @property
    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self.writers)

    @property
    def reattached(self) -> int:
        return sum(writer.reattached for writer in self.writers)


def connect_when_up(port: int, alive: Any, timeout: float = 30) -> None:
    """Return as soon as the port takes connections; Broken when the process ends instead."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if not alive():
                raise Broken("the server ended instead of serving") from None
            if time.monotonic() > deadline:
                raise Broken(f"no server on the port after {timeout:g} s") from None
            time.sleep(0.01)
        else:
            return
