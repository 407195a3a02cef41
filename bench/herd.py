"""Many idle sessions from one thread, that go on at another server when theirs is gone.

Raw frames on asyncio protocols: a connect request, pings, and for a few sessions an ephemeral. A session that a server
refuses to take up again has expired.
"""

from __future__ import annotations

import asyncio
import collections
import struct
import time
from collections.abc import Sequence

PING = struct.pack(">iii", 8, -2, 11)
OPEN_ACL = struct.pack(">ii", 1, 31) + b"\0\0\0\5world\0\0\0\6anyone"
CREATE, EPHEMERAL = 1, 1
CONNECTING_MAX = 200  # connections being made at a time; a listen queue may be as short as 50
ANSWER_S = 4.0  # a server that has accepted and says nothing is left after this


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def create_request(xid: int, path: str, flags: int) -> bytes:
    name = path.encode()
    return frame(
        struct.pack(">iii", xid, CREATE, len(name)) + name + struct.pack(">i", -1) + OPEN_ACL + struct.pack(">i", flags)
    )


class Session(asyncio.Protocol):
    """One of the herd. `session_id` 0: never opened."""

    def __init__(self, herd: Herd, number: int) -> None:
        self._herd = herd
        self.number = number
        self.session_id = 0
        self.password = bytes(16)
        self.zxid = 0
        self.up = False
        self.expired = False
        self.moves = 0
        self.server = number
        self.pongs = 0
        self._transport: asyncio.Transport | None = None
        self._in = bytearray()
        self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._in.clear()
        self.since = time.monotonic()
        body = struct.pack(">iqiqi", 0, self.zxid, self._herd.timeout_ms, self.session_id, 16) + self.password + b"\0"
        transport.write(frame(body))

    def data_received(self, data: bytes) -> None:
        self._in += data
        while len(self._in) >= 4:
            end = 4 + int.from_bytes(self._in[:4], "big")
            if len(self._in) < end:
                return
            body = bytes(self._in[4:end])
            del self._in[:end]
            if self.up:
                self._reply(body)
            else:
                self._connected(body)

    def _connected(self, body: bytes) -> None:
        _, _, session_id, length = struct.unpack_from(">iiqi", body)
        if session_id == 0:
            self.expired = True
            self._herd.lost(self)
            return
        if self.session_id:
            self.moves += 1
            assert session_id == self.session_id
        self.session_id, self.password = session_id, body[20 : 20 + length]
        self.up = True
        self._herd.is_up(self)

    def _reply(self, body: bytes) -> None:
        xid, zxid, err = struct.unpack_from(">iqi", body)
        self.zxid = max(self.zxid, zxid)
        if xid == -2:
            self.pongs += 1
        elif err:
            raise RuntimeError(f"session {self.session_id:#x}: error {err} to request {xid}")

    def ping(self) -> None:
        if self.up and self._transport is not None:
            self._transport.write(PING)

    def make_ephemeral(self, path: str) -> None:
        assert self._transport is not None
        self._transport.write(create_request(1, path, EPHEMERAL))

    def drop(self) -> None:
        """Close the connection; the session is taken up again elsewhere."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        was_up, self.up = self.up, False
        if not self.expired:
            self.server += 1
            self._herd.wants(self, was_up)


class Herd:
    """All sessions. `addresses`: of the servers, over which they are spread."""

    def __init__(self, addresses: Sequence[tuple[str, int]], count: int, timeout_ms: int) -> None:
        self.timeout_ms = timeout_ms
        self._addresses = list(addresses)
        self.sessions = [Session(self, number) for number in range(count)]
        self._waiting = collections.deque(self.sessions)
        self._connecting: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_up = asyncio.Event()
        self._settled = 0  # sessions that are up or have expired
        self._ended = False

    async def open(self, timeout: float) -> float:
        """Connect all; the seconds that took."""
        began = time.monotonic()
        self._keep(asyncio.ensure_future(self._ping()))
        self._keep(asyncio.ensure_future(self._tend()))
        await self.all_up(timeout)
        return time.monotonic() - began

    async def all_up(self, timeout: float) -> None:
        """Wait until every session that has not expired has a server; TimeoutError."""
        async with asyncio.timeout(timeout):
            await self._all_up.wait()

    def close(self) -> None:
        """Drop everything; the sessions are left to expire."""
        self._ended = True
        for task in self._tasks:
            task.cancel()
        for session in self.sessions:
            session.drop()

    @property
    def expired(self) -> int:
        return sum(session.expired for session in self.sessions)

    @property
    def moved(self) -> int:
        """Sessions that have changed their server."""
        return sum(session.moves > 0 for session in self.sessions)

    # -- what sessions say

    def is_up(self, session: Session) -> None:
        self._settles(session)

    def lost(self, session: Session) -> None:
        """It has expired."""
        self._settles(session)

    def _settles(self, session: Session) -> None:
        self._connecting.discard(session)
        self._settled += 1
        if self._settled == len(self.sessions):
            self._all_up.set()

    def wants(self, session: Session, was_up: bool) -> None:
        """It has no connection."""
        self._connecting.discard(session)
        self._waiting.append(session)
        self._settled -= was_up
        self._all_up.clear()

    # -- what goes on meanwhile

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tend(self) -> None:
        """Connect what waits, some at a time; leave servers that do not answer."""
        while not self._ended:
            while self._waiting and len(self._connecting) < CONNECTING_MAX:
                session = self._waiting.popleft()
                session.since = time.monotonic()
                self._connecting.add(session)
                self._keep(asyncio.ensure_future(self._connect(session)))
            late = time.monotonic() - ANSWER_S
            for session in list(self._connecting):
                if session.since < late:
                    session.drop()
            await asyncio.sleep(0.01)

    async def _connect(self, session: Session) -> None:
        host, port = self._addresses[session.server % len(self._addresses)]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_S):
                await loop.create_connection(lambda: session, host, port)
        except OSError:
            session.server += 1
            await asyncio.sleep(0.02)
            self.wants(session, False)

    async def _ping(self) -> None:
        """A third of the timeout apart, spread over that time."""
        period = self.timeout_ms / 3000
        slices = max(1, int(period / 0.05))
        while not self._ended:
            for part in range(slices):
                for session in self.sessions[part::slices]:
                    session.ping()
                await asyncio.sleep(period / slices)
