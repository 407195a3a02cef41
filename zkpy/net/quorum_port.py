"""The peer port: sockets to quorum links and back, for the leader that listens and for the learner that dials.

A thin shell: bytes in are cut into packets (`zkpy_protocol.quorum_packets`) and handed to the handler, what the roles put
into a link is written in order. What a packet means, and how long to wait for one, is the roles' business;
here is what is about sockets: dialling until somebody answers, the raw stream behind a SNAP packet, and how much may wait.

What comes before the first packet has its place before `QuorumConnection.begin`: TLS has shaken hands before
`connection_made`, an exchange such as SASL's would come between the two.

Invariants:
    * the handler hears of a link: connected, then packets and snapshots in the order of the stream, then disconnected,
      once. Of a link whose end was closed by `close` it hears nothing any more.
    * nothing is read while the link is paused.
    * bytes wait for a server that does not read at most to `SEND_QUEUE_MAX` beyond what one step of a role has produced; the
      stream of a large tree does not count, it is made at the pace of its reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from zkpy.auth.java_rules import host_address
from zkpy.core.zab.quorum_link import QuorumLink, SnapshotBody
from zkpy.net.snapshot_relay import SnapshotRelay
from zkpy.net.sockets import dial, listening_socket, reason_of, resolve
from zkpy.storage.snapshot_stream import serialize_stream
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.quorum_packets import PacketReader, PacketType

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from zkpy.core.data_tree import DataTree
    from zkpy.storage.snapshot_stream import SnapshotStream
    from zkpy_protocol.records import QuorumPacket

SEND_QUEUE_MAX = 256 << 20
"""What may gather for one server: half a minute of 8 MB/s, so that a learner has time to load a snapshot."""
INLINE_NODES_MAX = 20_000
"""Trees up to this size are serialized in the loop, which takes some 20 ms; larger ones by a child."""
INLINE_BYTES_MAX = 16 << 20
"""The same limit for what is in the nodes."""

_LINGER_S = 2.0  # for what is queued to a link that gets closed
_BACKLOG = 1024
_SNAP = int(PacketType.SNAP)


class QuorumHandler(Protocol):
    """Who gets what arrives. It flushes the links in `quorum_dirty` by their shells before it returns."""

    @property
    def quorum_dirty(self) -> list[QuorumLink]:
        """Where links enter themselves that have something to send or to close."""

    def connected(self, link: QuorumLink) -> None:
        """A connection stands."""

    def receive(self, link: QuorumLink, packets: Sequence[QuorumPacket]) -> None:
        """Packets came, in this order. None at all are a piece of a stream, which shows that the leader is there."""

    def snapshot(self, link: QuorumLink, tree: DataTree, sessions: dict[int, int]) -> None:
        """The stream behind a SNAP packet came; learners only."""

    def disconnected(self, link: QuorumLink, reason: str) -> None:
        """The connection is gone, whoever closed it."""


class Connections:
    """All connections of one end, and the children that make streams for them.

    Args:
        handler: who gets what arrives.
        data_max: limit for the data of a packet.
        make_stream: begins to read the stream behind a SNAP packet; None where there is none, at the leader's end.
    """

    __slots__ = ("_idle", "data_max", "handler", "is_closed", "make_stream", "open", "relays")

    def __init__(
        self, handler: QuorumHandler, data_max: int, make_stream: Callable[[], SnapshotStream] | None = None
    ) -> None:
        self.handler = handler
        self.data_max = data_max
        self.make_stream = make_stream
        self.open: dict[QuorumConnection, None] = {}
        self.relays: dict[SnapshotRelay, None] = {}
        self.is_closed = False
        self._idle = asyncio.Event()

    def make(self) -> QuorumConnection:
        """A protocol for a new connection."""
        return QuorumConnection(self)

    def forget(self, connection: QuorumConnection) -> None:
        """It is gone."""
        self.open.pop(connection, None)
        self._note_idle()

    def forget_relay(self, relay: SnapshotRelay) -> None:
        """Its child has ended."""
        del self.relays[relay]
        self._note_idle()

    def _note_idle(self) -> None:
        if self.is_closed and not self.open and not self.relays:
            self._idle.set()

    def close(self, reason: str) -> None:
        """Close all, after what is queued; no new ones are taken."""
        self.is_closed = True
        for connection in list(self.open):
            connection.link.close(reason)
            connection.flush()
        self._note_idle()

    async def wait_closed(self) -> None:
        """Wait until what was closed is gone."""
        await self._idle.wait()


class QuorumConnection(asyncio.Protocol):
    """One socket between two servers.

    Attributes:
        link: what the core sees of it.
    """

    __slots__ = (
        "_allowed",
        "_connections",
        "_early",
        "_has_begun",
        "_is_breathing",
        "_is_paused",
        "_is_reading",
        "_linger",
        "_loop",
        "_reader",
        "_stream",
        "_transport",
        "_waiting",
        "_waiting_bytes",
        "link",
    )

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._reader = PacketReader(connections.data_max, stops_at_snap=connections.make_stream is not None)
        self._stream: SnapshotStream | None = None
        # What has to wait behind a stream that a child makes; the relay itself is the first.
        self._waiting: deque[bytes | SnapshotRelay] = deque()
        self._waiting_bytes = 0
        self._allowed = SEND_QUEUE_MAX
        self._is_paused = False
        self._is_reading = True
        # Between two pieces of a stream.
        self._is_breathing = False
        self._linger: asyncio.TimerHandle | None = None
        self._has_begun = False
        # What came before the beginning, which is one turn of the loop away.
        self._early = b""
        self.link: QuorumLink

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there, and its TLS if it has any."""
        self._transport = cast("asyncio.Transport", transport)
        if self._connections.make_stream is None:
            self.begin()

    def begin(self) -> bool:
        """Packets may come and go from now on; False when the connection is gone already.

        Whoever has dialled calls this when `create_connection` has returned, and not before: when uvloop's transport is closed
        or cancelled within that call, socket object and transport close the same descriptor, by then perhaps somebody else's.
        """
        connections = self._connections
        if connections.is_closed:
            self._transport.abort()
        if self._transport.is_closing():
            return False
        host, port = (self._transport.get_extra_info("peername") or ("0.0.0.0", 0))[:2]  # noqa: S104  nobody any more
        self.link = QuorumLink(connections.handler.quorum_dirty, f"{host_address(host)}:{port}")
        self.link.shell = self
        self._has_begun = True
        connections.open[self] = None
        connections.handler.connected(self.link)
        if self._early:
            self.data_received(self._early)
            self._early = b""
        return True

    def data_received(self, data: bytes) -> None:
        """Hand over what is complete, in order."""
        if not self._has_begun:
            self._early += data
            return
        link = self.link
        handler = self._connections.handler
        while link.closed is None:
            if self._stream is None:
                packets = self._reader.feed(data)
                if packets:
                    handler.receive(link, packets)
                    if packets[-1].type == _SNAP and self._connections.make_stream is not None:
                        self._stream = self._connections.make_stream()
                        data = self._reader.take_rest()
                        continue
                if self._reader.error is not None:
                    self._break_off(str(self._reader.error))
                return
            stream = self._stream
            try:
                is_complete = stream.feed(data)
            except DecodeError as error:
                self._break_off(str(error))
                return
            if not is_complete:
                handler.receive(link, ())
                # One piece in a turn of the loop: uvloop would go on for 8 MB, which take a fifth of a second.
                self._is_breathing = True
                self._update_reading()
                self._loop.call_soon(self._take_next_piece)
                return
            self._stream = None
            data = stream.rest
            handler.snapshot(link, stream.tree, stream.sessions)

    def _take_next_piece(self) -> None:
        self._is_breathing = False
        self._update_reading()

    def _update_reading(self) -> None:
        """Read unless the role cannot take anything, or it is somebody else's turn in the loop."""
        reads = not (self._is_breathing or self.link.is_paused)
        if reads is self._is_reading or self._transport.is_closing():
            return
        self._is_reading = reads
        if reads:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The other side is done; it would not read an answer."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, whoever closed it."""
        if not self._has_begun:
            return
        connections = self._connections
        link = self.link
        link.close(reason_of(exc) if isinstance(exc, OSError) else "the other side has closed the connection")
        assert link.closed is not None
        if self._linger is not None:
            self._linger.cancel()
        for item in self._waiting:
            if isinstance(item, SnapshotRelay):
                item.give_up()
        self._waiting.clear()
        if not connections.is_closed:
            connections.handler.disconnected(link, link.closed)
        connections.forget(self)

    def pause_writing(self) -> None:
        """The other side does not keep up reading: leave a stream where it is made."""
        self._is_paused = True
        relay = self._relay()
        if relay is not None:
            relay.pause()

    def resume_writing(self) -> None:
        """It has read enough."""
        self._is_paused = False
        relay = self._relay()
        if relay is not None:
            relay.resume()

    # -- what goes out

    def flush(self) -> None:
        """Send what the link has queued, and close it if it is to be closed."""
        items = self.link.take()
        if self._transport.is_closing():
            return
        if items:
            if self._waiting or SnapshotBody in map(type, items):
                self._queue(items)
            else:
                data = b"".join(cast("list[bytes]", items))
                self._transport.write(data)
                self._limit(len(data))
        self._update_reading()
        if self.link.closed is not None:
            self._close()

    def _queue(self, items: Sequence[bytes | SnapshotBody]) -> None:
        size = 0
        for item in items:
            if isinstance(item, bytes):
                self._waiting.append(item)
                size += len(item)
            elif len(item.tree.nodes) <= INLINE_NODES_MAX and item.tree.data_size <= INLINE_BYTES_MAX:
                for chunk in serialize_stream(item.tree, item.sessions):
                    self._waiting.append(chunk)
                    size += len(chunk)
            else:
                try:
                    relay = SnapshotRelay(
                        self._loop, item, self._pass_on, self._relayed, self._connections.forget_relay
                    )
                except OSError as error:
                    self._break_off(f"no process to write its snapshot: {reason_of(error)}")
                    return
                self._connections.relays[relay] = None
                self._waiting.append(relay)
        self._waiting_bytes += size
        self._send_waiting()
        self._limit(size)

    def _send_waiting(self) -> None:
        """Everything up to the next stream that a child makes; then that."""
        waiting = self._waiting
        ready: list[bytes] = []
        while waiting and isinstance(waiting[0], bytes):
            ready.append(cast("bytes", waiting.popleft()))
        if ready:
            data = b"".join(ready)
            self._waiting_bytes -= len(data)
            self._transport.write(data)
        relay = self._relay()
        if relay is not None and not self._is_paused:
            relay.resume()

    def _relay(self) -> SnapshotRelay | None:
        """The stream that all others wait for."""
        first = self._waiting[0] if self._waiting else None
        return first if isinstance(first, SnapshotRelay) else None

    def _pass_on(self, piece: bytes) -> None:
        """The other side takes its snapshot, which is a sign of life."""
        self._transport.write(piece)
        self._connections.handler.receive(self.link, ())

    def _relayed(self, error: str | None) -> None:
        self._waiting.popleft()
        if error is not None:
            self._break_off(f"its snapshot could not be written: {error}")
            return
        self._send_waiting()
        if self.link.closed is not None:
            self._close()

    def _limit(self, size: int) -> None:
        """`size` bytes were added to what waits: cut off a server that does not read."""
        waiting = self._transport.get_write_buffer_size() + self._waiting_bytes
        if size > SEND_QUEUE_MAX:
            # A role has sent what the other side needs to catch up: the limit is for what gathers behind that.
            self._allowed = waiting + SEND_QUEUE_MAX
        elif waiting <= size:
            self._allowed = SEND_QUEUE_MAX
        if waiting > self._allowed:
            self._break_off(f"{waiting} bytes wait for a server that does not read")

    # -- the end

    def _close(self) -> None:
        """Close once all is sent, or when nobody takes it."""
        if self._linger is None:
            self._linger = self._loop.call_later(_LINGER_S, self._transport.abort)
        if not self._waiting:
            self._transport.close()

    def _break_off(self, reason: str) -> None:
        """Close now; what is not sent yet is lost."""
        self.link.close(reason)
        self._transport.abort()


class LearnerPort:
    """The leader's end, from the beginning of its leading to the end."""

    __slots__ = ("_addresses", "_connections", "_listeners")

    def __init__(
        self, handler: QuorumHandler, data_max: int, addresses: Sequence[tuple[str | None, int]]
    ) -> None:
        """Learners may come to `addresses`, of (host or None for every interface, port)."""
        self._addresses = addresses
        self._connections = Connections(handler, data_max)
        self._listeners: list[asyncio.Server] = []

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections.open)

    @property
    def ports(self) -> list[int]:
        """In use, in the order of the addresses."""
        return [int(sock.getsockname()[1]) for listener in self._listeners for sock in listener.sockets]

    async def start(self) -> list[str]:
        """Listen.

        Returns:
            why some of the addresses cannot be had, as sentences.

        Raises:
            OSError: none can.
        """
        failures: list[str] = []
        sockets: list[socket.socket] = []
        for host, port in self._addresses:
            try:
                hosts = [None] if host is None else [found for _, found in await resolve(host, port)]
            except OSError as error:
                failures.append(f"{host}:{port}: {reason_of(error)}")
                continue
            for found in hosts:
                try:
                    sockets.append(listening_socket(found, port, _BACKLOG))
                except OSError as error:
                    failures.append(f"{found or '*'}:{port}: {reason_of(error)}")
        if not sockets:
            raise OSError(f"learners cannot be listened for: {', '.join(failures)}")
        loop = asyncio.get_running_loop()
        for sock in sockets:
            listener = await loop.create_server(self._connections.make, sock=sock, backlog=_BACKLOG)
            self._listeners.append(listener)
        if self._connections.is_closed:
            self.close()
        return failures

    async def move(self, addresses: Sequence[tuple[str | None, int]]) -> list[str]:
        """Listen at other addresses from now on; connections stay. Result and errors are those of `start`."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._addresses = addresses
        return await self.start()

    def close(self) -> None:
        """Listen no more, and close all connections after what is queued. Idempotent."""
        for listener in self._listeners:
            listener.close()
        self._connections.close("this server leads no more")

    async def wait_closed(self) -> None:
        """Wait until a closed port has let go of everything."""
        await self._connections.wait_closed()


class LeaderDialler:
    """The learner's end: dials until the leader answers, and serves that one connection.

    Attributes:
        failure: why the last try has failed, for people.
    """

    __slots__ = (
        "_addresses",
        "_connect_timeout_s",
        "_connections",
        "_failed",
        "_is_handing_over",
        "_patience_s",
        "_retry_delay_s",
        "_task",
        "failure",
    )

    def __init__(
        self,
        handler: QuorumHandler,
        data_max: int,
        make_stream: Callable[[], SnapshotStream],
        addresses: Sequence[tuple[str, int]],
        *,
        connect_timeout_ms: int,
        retry_delay_ms: int,
        address_patience_ms: int | None = None,
        failed: Callable[[str], None] | None = None,
    ) -> None:
        """Begin to dial all `addresses` of the leader at once, `retry_delay_ms` after each failure of all of them.

        When one address has failed the others have `address_patience_ms` left, or as long as they take within
        `connect_timeout_ms`. `failed` is told why, each time.
        """
        self._addresses = addresses
        self._failed = failed
        self._connections = Connections(handler, data_max, make_stream)
        self._connect_timeout_s = connect_timeout_ms / 1000
        self._retry_delay_s = retry_delay_ms / 1000
        self._patience_s = None if address_patience_ms is None else address_patience_ms / 1000
        self.failure: str | None = None
        self._is_handing_over = False  # and must not be cancelled, see `begin`
        self._task = asyncio.get_running_loop().create_task(self._dial())
        self._task.add_done_callback(_check)

    def stop(self) -> None:
        """Dial no more. A connection that stands is not touched: its end is its link's business."""
        if not self._connections.open:
            self.close()

    def close(self) -> None:
        """Dial no more, and close the connection after what is queued. Idempotent."""
        self._connections.close("this server follows no more")
        if not self._is_handing_over:
            self._task.cancel()

    async def wait_closed(self) -> None:
        """Wait until a closed dialler has let go of everything."""
        await asyncio.wait([self._task])
        await self._connections.wait_closed()

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._connections.is_closed:
            try:
                async with asyncio.timeout(self._connect_timeout_s):
                    sock = await dial(self._addresses, self._patience_s)
                self._is_handing_over = True
                _, connection = await loop.create_connection(self._connections.make, sock=sock)
                if connection.begin():
                    return
                self.failure = "the other side has closed the connection"
            except TimeoutError:
                self.failure = "no answer in time"
            except OSError as error:
                self.failure = reason_of(error)
            self._is_handing_over = False
            if self._failed is not None and not self._connections.is_closed:
                self._failed(self.failure)
            await asyncio.sleep(self._retry_delay_s)


def _check(task: asyncio.Task[None]) -> None:
    """What a handler has raised is the loop's to report, as it is in every other call of a handler."""
    if not task.cancelled():
        task.result()
