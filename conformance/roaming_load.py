"""Writers that go on by themselves at other members of an ensemble, and know what it must hold.

A `Roamer` drives one `Writer` of checked_load.py. When its connection is gone it takes up its session at another
member, makes a write there so that what it reads next is not old, finds out what became of the requests that were
under way, and goes on. A session may end only by its own close.

Why that finds the truth: once a session is taken up elsewhere the leader refuses requests of its former connection, so
nothing under way is done any more when the write is answered. Only a close is not refused; one that was under way is
sent again, so that there is an answer.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from checked_load import ROOT, SEQUENTIAL, Numbers, Tree, Writer
from harness import Zk, wait_for
from wire_client import Broken, ConnectionGone, Wire, create, set_data
from zkpy_protocol.opcodes import OpCode

SESSION_TIMEOUT_MS = 30_000
REPLY_S = 6  # a server that is stopped or cut off is left after this
SILENCE_S = 120  # a run in which nobody takes a session for so long has failed


class Roamer:
    """One writer on its way round the members."""

    def __init__(self, writer: Writer, members: Sequence[Zk], seed: int, pace: float) -> None:
        self.writer = writer
        order = list(members)
        random.Random(f"{seed}-{writer.tag}-members").shuffle(order)
        self._next = itertools.cycle(order)
        self._pace = pace
        self._last = time.monotonic()
        self.longest_outage = 0.0
        writer.dial = self._dial

    def run(self, end: threading.Event) -> None:
        """Write until `end`, then check the own directory once more; `writer.error` says what was broken."""
        writer = self.writer
        self._last = time.monotonic()
        try:
            while not end.is_set():
                self._guarded(writer.batch)
                end.wait(self._pace)
            while not self._guarded(self._verify):
                pass
        except Exception as error:  # looked at by whoever started the thread
            writer.error = error

    def close_session(self) -> None:
        while not self._guarded(self._close):
            pass
        self.writer.base.apply(("close",))
        self.writer.lost()

    def _close(self) -> None:
        try:
            self._wire().call(OpCode.CLOSE_SESSION)
        except ConnectionGone:
            self.writer.lost()
            self.writer.closing()
            raise

    def _guarded(self, action: Callable[[], Any]) -> bool:
        """Run it on a connection; False when that connection is gone."""
        writer = self.writer
        try:
            if writer.wire is None:
                self._take_up()
            action()
        except ConnectionGone as error:
            if writer.wire is not None:
                writer.lost()
            if time.monotonic() - self._last > SILENCE_S:
                raise Broken(f"{writer.path}: no member has served for {SILENCE_S} s ({error})") from error
            time.sleep(0.05)
            return False
        now = time.monotonic()
        self.longest_outage = max(self.longest_outage, now - self._last)
        self._last = now
        return True

    def _dial(self) -> Wire:
        member = next(self._next)
        return Wire(member.port, REPLY_S, member.host, SESSION_TIMEOUT_MS)

    def _wire(self) -> Wire:
        assert self.writer.wire is not None
        return self.writer.wire

    def _take_up(self) -> None:
        """The session, or a new one where it was closed, at the next member."""
        writer = self.writer
        wire = self._dial()
        try:
            session_id, password = writer.session
            if session_id:
                accepted = wire.connect(session_id, password, writer.last_zxid)
                if accepted and any(not model.alive for model in writer.candidates):
                    writer.closing()
                    wire.call(OpCode.CLOSE_SESSION)
                    writer.said(False)
                    accepted = False
                else:
                    writer.said(accepted)
                if accepted:
                    writer.reattached += 1
                else:
                    wire.close()
                    writer.session = (0, bytes(16))
                    wire = self._dial()
            if not writer.session[0]:
                wire.connect(last_zxid=writer.last_zxid)
                writer.session = (wire.session_id, wire.password)
                for model in writer.candidates:
                    model.alive = True
            self._look(wire)
        except BaseException:
            wire.close()
            raise
        writer.base = writer.candidates[-1]
        writer.goes_on(wire)

    def _verify(self) -> None:
        """The directory is what the acknowledged requests have made of it."""
        self.writer.candidates = [self.writer.base]
        self._look(self._wire())

    def _look(self, wire: Wire) -> None:
        """Compare the directory with what it may be, as of now."""
        writer = self.writer
        wire.call(OpCode.SET_DATA, set_data(writer.path, b""))
        mine = [f"{writer.path}/{name}" for name in wire.children(writer.path)]
        mine += [f"{SEQUENTIAL}/{n}" for n in wire.children(SEQUENTIAL) if n.startswith(f"{writer.tag}-")]
        writer.compare(dict(zip(mine, wire.get_all(mine), strict=True)))


class RoamingLoad:
    """All roamers of a run. `pace`: seconds that each waits between two batches."""

    def __init__(self, count: int, seed: int, members: Sequence[Zk], pace: float = 0.01) -> None:
        self._members = list(members)
        numbers = Numbers()
        self.roamers = [Roamer(Writer(n, seed, numbers), members, seed, pace) for n in range(count)]
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []

    def prepare(self) -> None:
        """Make the directories."""
        member = self._members[0]
        wire = Wire(member.port, host=member.host)
        wire.connect()
        for path in (ROOT, SEQUENTIAL, *(roamer.writer.path for roamer in self.roamers)):
            wire.call(OpCode.CREATE, create(path, b""))
        wire.call(OpCode.CLOSE_SESSION)
        wire.close()

    def start(self) -> None:
        self._end.clear()
        self._threads = [threading.Thread(target=r.run, args=(self._end,), daemon=True) for r in self.roamers]
        for thread in self._threads:
            thread.start()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Write meanwhile, and check at the end."""
        self.start()
        try:
            yield
        finally:
            self._end.set()
        self.stop()

    def check(self) -> None:
        """Raises what a writer has seen so far."""
        for roamer in self.roamers:
            if roamer.writer.error is not None:
                raise roamer.writer.error

    def progress(self, timeout: float = 60) -> float:
        """Wait until every writer has been acknowledged something from now on; the seconds that took."""
        began = time.monotonic()
        before = [roamer.writer.acknowledged for roamer in self.roamers]

        def moved() -> bool:
            return all(r.writer.acknowledged > old for r, old in zip(self.roamers, before, strict=True))

        try:
            wait_for("every writer goes on", lambda: moved() or self._failed(), timeout, 0.02)
        finally:
            self.check()
        return time.monotonic() - began

    def _failed(self) -> bool:
        return any(roamer.writer.error is not None for roamer in self.roamers)

    def stop(self) -> None:
        """End the writing.

        Raises:
            Broken: what a writer has seen.
        """
        self._end.set()
        for thread in self._threads:
            thread.join(SILENCE_S + 2 * REPLY_S)
        self.check()
        if any(thread.is_alive() for thread in self._threads):
            raise Broken("a writer hangs")

    def compare(self, tree: Tree) -> None:
        """What every writer knows to be acknowledged is in the tree of the whole ensemble, and nothing else."""
        for roamer in self.roamers:
            roamer.writer.candidates = [roamer.writer.base]
            roamer.writer.compare(tree)

    def close_sessions(self) -> None:
        for roamer in self.roamers:
            roamer.close_session()

    @property
    def acknowledged(self) -> int:
        return sum(roamer.writer.acknowledged for roamer in self.roamers)

    @property
    def reattached(self) -> int:
        return sum(roamer.writer.reattached for roamer in self.roamers)

    @property
    def last_zxid(self) -> int:
        return max(roamer.writer.last_zxid for roamer in self.roamers)

    @property
    def longest_outage(self) -> float:
        return max(roamer.longest_outage for roamer in self.roamers)


def damages(tree: Tree, seed: int) -> Iterator[tuple[str, Tree]]:
    """Trees that a server must not show: each lacks, repeats or changes one acknowledged write."""
    rng = random.Random(seed)
    owned = sorted(p for p in tree if p.startswith(f"{ROOT}/w") and p.count("/") == 3)
    for path in rng.sample(owned, min(5, len(owned))):
        node = tree[path]
        yield f"{path} is lost", {p: n for p, n in tree.items() if p != path}
        yield f"{path} has older data", {**tree, path: (b"older", *node[1:])}
        yield f"{path} is there again under another name", {**tree, f"{path}x": node}
    numbered = sorted(p for p in tree if p.startswith(f"{SEQUENTIAL}/"))
    for path in rng.sample(numbered, min(3, len(numbered))):
        yield f"{path} is lost", {p: n for p, n in tree.items() if p != path}
        yield f"{path} was made twice", {**tree, f"{path[:-10]}9999999999": tree[path]}
