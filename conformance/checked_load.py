"""Writers that know, after a crash, what the server may have kept and what it must have.

A `Writer` is one session with a directory of its own. The server answers the requests of a session in order, so after a
crash its directory must be what it was after some request: the last acknowledged one, or a later one that was under
way. Everything else is a broken promise: less (an acknowledged write lost), or between two (a multi applied by half).
Sequential znodes all go to one directory and carry a token: a number never comes twice, and grows with every round.

A `Load` is for one server that somebody else kills and starts again; roaming_load.py lets the same writers go on by
themselves at other members of an ensemble.
"""

from __future__ import annotations

import copy
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from wire_client import EPHEMERAL, SEQUENCE, Broken, ConnectionGone, Wire, create, delete, multi, set_data
from zkpy_protocol import records
from zkpy_protocol.opcodes import ErrorCode, OpCode

ROOT = "/crash"
SEQUENTIAL = f"{ROOT}/seq"
Tree = Mapping[str, tuple[Any, ...]]  # path to (data, Stat, ...)


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
    """One session that writes, and what it knows of its directory.

    Attributes:
        dial: makes the next connection, not yet a session.
        candidates: what the directory may be, oldest first, while the connection is gone.
    """

    def __init__(self, number: int, seed: int, numbers: Numbers, dial: Callable[[], Wire] | None = None) -> None:
        self.path = f"{ROOT}/w{number}"
        self.tag = f"w{number}"
        self.dial = dial or (lambda: Wire(0))
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
        self.candidates = [self.base]
        self.error: Exception | None = None
        self.wire: Wire | None = None

    # -- before the crash

    def attach(self) -> None:
        """Take up the session, as `reconcile` left the possibilities."""
        session_id, password = self.session
        wire = self.dial()
        self.base = self.candidates[-1]
        if session_id:
            accepted = wire.connect(session_id, password)
            self.said(accepted)
            self.base = self.candidates[-1]
            if accepted:
                self.reattached += 1
                if wire.session_id != session_id:
                    raise Broken(f"session {session_id:#x} became {wire.session_id:#x}")
            else:
                wire.close()
                wire = self.dial()
                session_id = 0
        if not session_id:
            wire.connect()
        self.goes_on(wire)

    def said(self, accepted: bool) -> None:
        """Keep of the possibilities those in which the session is as the server has said.

        Raises:
            Broken: there is none.
        """
        possible = [model for model in self.candidates if model.alive == accepted]
        if not possible:
            verb = "accepted" if accepted else "refused"
            raise Broken(f"{self.path}: the server has {verb} session {self.session[0]:#x}")
        self.candidates = possible

    def goes_on(self, wire: Wire) -> None:
        """Write on from `base`, in the session of this connection."""
        self.wire = wire
        self.session = (wire.session_id, wire.password)
        self.base.alive = True
        self._head = copy.deepcopy(self.base)
        self._sent = []

    def run(self) -> None:
        """Write until the connection is gone; `error` says what else happened."""
        try:
            while True:
                self.batch()
        except ConnectionGone:
            pass
        except Exception as error:  # looked at by whoever started the thread
            self.error = error

    def batch(self) -> None:
        """Some requests at once, and all their answers."""
        wire = self.wire
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
            self.session = (0, bytes(16))
            wire = self.dial()
            wire.connect()
            self.goes_on(wire)

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
            record = create(f"{SEQUENTIAL}/{self.tag}-", token.encode(), flags)
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

    def lost(self) -> None:
        """The connection is gone: any number of the requests under way may have been done."""
        if self.wire is not None:
            self.wire.close()
            self.wire = None
        model = copy.deepcopy(self.base)
        self.candidates = [copy.deepcopy(model)]
        for _, effect, _ in self._sent:
            model.apply(effect)
            self.candidates.append(copy.deepcopy(model))
        self._sent = []

    def closing(self) -> None:
        """A close is sent by itself: should no answer come, it may follow whatever was done."""
        closed = copy.deepcopy(self.candidates)
        for model in closed:
            model.apply(("close",))
        self.candidates = [model for model in self.candidates if model.alive] + closed

    def reconcile(self, tree: Tree) -> None:
        """Find which of the possible states this is.

        Raises:
            Broken: it is none of them.
        """
        self.lost()
        self.compare(tree)

    def compare(self, tree: Tree) -> None:
        """Keep the candidates that are this tree.

        Raises:
            Broken: it is none of them.
        """
        prefix = f"{self.path}/"
        nodes = {
            path.removeprefix(prefix): (node[0], node[1].version, node[1].ephemeral_owner != 0)
            for path, node in tree.items()
            if path.startswith(prefix)
        }
        tokens: dict[str, str] = {}
        for path, node in tree.items():
            token = node[0].decode(errors="replace")
            if path.startswith(f"{SEQUENTIAL}/") and token.startswith(f"{self.tag}-"):
                name = path.removeprefix(f"{SEQUENTIAL}/")
                if token in tokens:
                    raise Broken(f"one request made {tokens[token]} and {name}")
                tokens[token] = name
                self._numbers.seen(name, token)
        possible = [state for state in self.candidates if state.matches(nodes, tokens)]
        if not possible:
            raise Broken(self._explain(nodes, tokens))
        self.candidates = possible
        for state in possible:
            for token, (_, is_ephemeral) in list(state.tokens.items()):
                state.tokens[token] = (tokens[token], is_ephemeral)

    def _explain(self, nodes: dict[str, Any], tokens: dict[str, str]) -> str:
        base = self.candidates[0]
        lost = sorted(base.nodes.keys() - nodes.keys())
        more = sorted(nodes.keys() - base.nodes.keys())
        other = sorted(name for name in base.nodes.keys() & nodes.keys() if base.nodes[name] != nodes[name])
        return (
            f"{self.path}: no state after an acknowledged request ({len(self.candidates)} possible): missing {lost}, "
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
            writer.dial = lambda: Wire(port)
            writer.attach()
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
