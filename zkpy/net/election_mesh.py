"""Election ports: one connection to each other server, on which notifications travel in both directions.

Owns listening, dialling, the rule which of two connections of a pair is kept, and the one message that waits for each
server. Knows notifications as values; what they say is looked at elsewhere.

A connection is kept if the server with the larger id has dialled it. A server with a smaller id dials too: that is the knock
after which the other one dials back. Whoever dials says at once who it is (`zkpy_protocol.election`).

    dial ──► initial message ──► own id is larger: established      own id is smaller: close, be dialled
    accept ─► initial message ─► own id is smaller: established     own id is larger: close, dial back

Invariants:
    * per server at most one established connection, one dial under way, one waiting message (the newest) and the last
      one sent, which is sent again when a new connection finds nothing waiting: the other end may never have read it.
    * nobody waits for a silent peer: until it has said who it is a connection has a deadline of its own, and a peer that
      does not read has nothing but its own slot filled.
    * servers outside the configuration are talked to, observers without an id and joiners among them, but only
      `STRANGERS_MAX` at a time, and nothing of them is remembered once they are gone.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, cast

from zkpy.net.sockets import dial_in_turn, listening_socket, reason_of, resolve
from zkpy_protocol.election import (
    FRAME_MAX,
    OBSERVER_SERVER_ID,
    decode_notification,
    encode_initial_message,
    frame_notification,
    parse_initial_message,
)
from zkpy_protocol.errors import DecodeError, ProtocolError
from zkpy_protocol.framing import FrameReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import structlog

    from zkpy_protocol.election import InitialMessage, Notification

    Address = tuple[str, int]

PENDING_MAX = 100
"""Accepted connections that have not said who they are; the oldest is closed for one more."""
STRANGERS_MAX = 100
"""Servers outside the configuration that are connected or dialled; the oldest is let go for one more."""
STRANGER_ADDRESSES_MAX = 8
"""Addresses of an initial message that are tried; its 2048 bytes could name hundreds."""
BIND_RETRY_S = 1.0
HEAD_START_S = 0.25
"""How long one address of a server is waited for before the next is tried as well."""
_BACKLOG = 128
KNOCK_S = 0.2
"""How long a server with a larger id has for dialling back; another knock would make it drop what it just dialled."""


class ElectionPortError(Exception):
    """An own election address cannot be bound; the text says which and why."""


class MeshOptions:
    """Settings of the election port.

    Attributes:
        bind_retries: attempts to bind, one second apart; 0 for ever.
        cnx_timeout_ms: for dialling one address.
        handshake_timeout_ms: for an accepted connection to say who it is.
        keepalive: whether the system probes silent connections.
        reachability_timeout_ms: how long one address of several may take to answer when another one has failed, and to
            confirm what was sent there. None: as long as the system waits, a quarter of an hour.
        multi_address_enabled: whether all own addresses are named when dialling, which servers before 3.6 do not understand.
        listen_on_all_ips: whether to listen on the ports of the own addresses at every interface.
    """

    __slots__ = (
        "bind_retries",
        "cnx_timeout_ms",
        "handshake_timeout_ms",
        "keepalive",
        "listen_on_all_ips",
        "multi_address_enabled",
        "reachability_timeout_ms",
    )

    def __init__(
        self,
        *,
        handshake_timeout_ms: int,
        bind_retries: int = 3,
        cnx_timeout_ms: int = 5000,
        keepalive: bool = False,
        reachability_timeout_ms: int | None = None,
        multi_address_enabled: bool = False,
        listen_on_all_ips: bool = False,
    ) -> None:
        self.bind_retries = bind_retries
        self.cnx_timeout_ms = cnx_timeout_ms
        self.handshake_timeout_ms = handshake_timeout_ms
        self.keepalive = keepalive
        self.reachability_timeout_ms = reachability_timeout_ms
        self.multi_address_enabled = multi_address_enabled
        self.listen_on_all_ips = listen_on_all_ips


class ElectionMesh:
    """The connections of one server. To be used from the loop's thread; `on_notification` is called there.

    Notifications of servers outside the configuration are handed over as well, under the id they claim; an observer that
    claims none gets a negative one.
    """

    __slots__ = (
        "_binding",
        "_closed",
        "_initial",
        "_last_anonymous",
        "_listeners",
        "_logger",
        "_loop",
        "_members",
        "_on_notification",
        "_options",
        "_pending",
        "_strangers",
        "server_id",
    )

    def __init__(
        self,
        server_id: int,
        loop: asyncio.AbstractEventLoop,
        options: MeshOptions,
        on_notification: Callable[[int, Notification], None],
        logger: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.server_id = server_id
        self._loop = loop
        self._options = options
        self._on_notification = on_notification
        self._logger = logger
        self._listeners: list[asyncio.Server] = []
        # One for each own address, until it is bound or given up.
        self._binding: list[asyncio.Task[None]] = []
        self._initial = b""
        self._members: dict[int, _Peer] = {}
        self._strangers: dict[int, _Peer] = {}
        self._pending: dict[_Connection, None] = {}
        self._last_anonymous = 0
        self._closed = False

    # -- the owner's side

    async def start(self, addresses: Sequence[Address]) -> None:
        """Listen on the own election addresses, the first of which others are told.

        Raises:
            ElectionPortError: none of them can be bound, after all attempts.
        """
        self._initial = encode_initial_message(
            self.server_id, addresses, multi_address=self._options.multi_address_enabled
        )
        wanted: Sequence[tuple[str | None, int]] = addresses
        if self._options.listen_on_all_ips:
            wanted = [(None, port) for port in dict.fromkeys(port for _, port in addresses)]
        binding = self._binding = [self._loop.create_task(self._listen(*address)) for address in wanted]
        for task in binding:
            task.add_done_callback(self._note_binding)
        _, pending = await asyncio.wait(binding, timeout=BIND_RETRY_S / 2)
        # An address that cannot be bound is tried for a while, or for ever, but others may be listened at already.
        while pending and not self._listeners:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if self._closed:
            self._stop_listening()
        elif not self._listeners:
            await self.close()
            await binding[0]

    def _note_binding(self, task: asyncio.Task[None]) -> None:
        failure = None if task.cancelled() else task.exception()
        if failure is not None and self._listeners:
            self._logger.warning("election.address_unusable", reason=str(failure))

    async def move(self, addresses: Sequence[Address]) -> None:
        """Listen at other own addresses from now on. Connections stay as they are.

        Raises:
            ElectionPortError: none of them can be bound, after all attempts; the mesh is closed then.
        """
        self._stop_listening()
        await self.start(addresses)

    def _stop_listening(self) -> None:
        for task in self._binding:
            task.cancel()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def set_members(self, members: Mapping[int, Sequence[Address]]) -> None:
        """Every server of the configurations that count, observers too, with its addresses in the order of dialling.

        Connections stay as they are. A message that waits for a server that is no member any more is dropped.
        """
        before = self._members | self._strangers
        self._members = {}
        self._strangers = {}
        for server_id in sorted(members):
            if server_id != self.server_id:
                peer = before.pop(server_id, None) or _Peer(server_id)
                peer.addresses = tuple(members[server_id])
                self._members[server_id] = peer
        for server_id, peer in before.items():
            if peer.connection is not None:
                self._strangers[server_id] = peer
            elif peer.dial is not None:
                peer.dial.cancel()

    def send(self, server_id: int, notification: Notification) -> None:
        """Send, in place of what may still wait for this server; dial it if there is no connection.

        What is meant for a server outside the configuration is dropped when it is not connected.
        """
        assert server_id != self.server_id, "an election counts its own votes itself"
        peer = self._members.get(server_id) or self._strangers.get(server_id)
        if peer is None:
            return
        peer.waiting = frame_notification(notification)
        if peer.connection is not None:
            peer.connection.send_waiting()
        else:
            self._dial(peer, peer.addresses)

    async def close(self) -> None:
        """Let go of all sockets; nothing is sent or handed over from now on. May be called again."""
        self._closed = True
        ending: list[asyncio.Task[None]] = list(self._binding)
        for task in ending:
            task.cancel()
        for listener in self._listeners:
            listener.close()
        for peer in [*self._members.values(), *self._strangers.values()]:
            if peer.dial is not None:
                peer.dial.cancel()
                ending.append(peer.dial)
            if peer.connection is not None:
                peer.connection.abort()
        for connection in list(self._pending):
            connection.abort()
        await asyncio.gather(*ending, return_exceptions=True)
        for listener in self._listeners:
            await listener.wait_closed()

    # -- listening

    async def _listen(self, host: str | None, port: int) -> None:
        attempts = self._options.bind_retries
        tried = 0
        while True:
            tried += 1
            try:
                # A name is resolved anew each time, and bound as Java would: to one address, an IPv4 one if there is any.
                found = None if host is None else min(await resolve(host, port), key=_ipv4_first)[1]
                sock = listening_socket(found, port, _BACKLOG)
                listener = await self._loop.create_server(
                    lambda: _Connection(self), sock=sock, backlog=_BACKLOG
                )
            except (OSError, ValueError) as error:  # ValueError: a name that no resolver takes
                where = f"{host or '*'}:{port}"
                reason = _reason(error)
            else:
                self._listeners.append(listener)
                return
            if tried == attempts:
                raise ElectionPortError(
                    f"the election address {where} cannot be bound, tried {tried} times "
                    f"(zookeeper.electionPortBindRetry): {reason}"
                )
            self._logger.warning("election.bind_failed", address=where, attempt=tried, reason=reason)
            await asyncio.sleep(BIND_RETRY_S)

    def accepted(self, connection: _Connection) -> None:
        """A connection that has to say who it is."""
        if self._closed:
            connection.abort()
            return
        if len(self._pending) >= PENDING_MAX:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.refuse("too many connections do not say who they are")
        self._pending[connection] = None
        connection.expect_initial_message(self._loop, self._options.handshake_timeout_ms / 1000)

    def introduced(self, connection: _Connection, message: InitialMessage) -> bool:
        """An accepted connection has said who it is; returns whether it is kept."""
        del self._pending[connection]
        server_id = message.server_id
        if server_id == self.server_id:
            connection.refuse("it claims the id of this server")
            return False
        if server_id == OBSERVER_SERVER_ID:
            self._last_anonymous -= 1
            server_id = self._last_anonymous
        peer = self._members.get(server_id) or self._stranger(server_id)
        if server_id > self.server_id:
            self._establish(peer, connection)
            return True
        connection.close()
        if peer.connection is not None:  # whoever knocks does not have it any more
            peer.connection.abort()
            peer.connection = None
        addresses = message.addresses[:STRANGER_ADDRESSES_MAX] or peer.addresses
        if server_id in self._strangers:
            peer.addresses = addresses
        self._dial(peer, addresses)
        return False

    def _stranger(self, server_id: int) -> _Peer:
        peer = self._strangers.get(server_id)
        if peer is None:
            if len(self._strangers) >= STRANGERS_MAX:
                self._forget(next(iter(self._strangers.values())))
            peer = self._strangers[server_id] = _Peer(server_id)
        return peer

    def _forget(self, stranger: _Peer) -> None:
        del self._strangers[stranger.server_id]
        if stranger.dial is not None:
            stranger.dial.cancel()
        if stranger.connection is not None:
            stranger.connection.abort()

    # -- dialling

    def _dial(self, peer: _Peer, addresses: Sequence[Address]) -> None:
        if peer.dial is None and not self._closed:
            peer.dial = self._loop.create_task(self._connect(peer, addresses))

    async def _connect(self, peer: _Peer, addresses: Sequence[Address]) -> None:
        try:
            connection = await self._open(peer, addresses)
            if connection is None or connection.is_closing:
                return
            connection.write(self._initial)
            if peer.server_id < self.server_id:
                self._establish(peer, connection)
            else:
                connection.close()
                await asyncio.sleep(KNOCK_S)
        finally:
            if peer.dial is asyncio.current_task():
                peer.dial = None
            if peer.connection is None and self._strangers.get(peer.server_id) is peer:
                del self._strangers[peer.server_id]

    async def _open(self, peer: _Peer, addresses: Sequence[Address]) -> _Connection | None:
        """A connection to the first address that takes one."""
        options = self._options
        patience_ms = options.reachability_timeout_ms
        try:
            async with asyncio.timeout(options.cnx_timeout_ms / 1000 + HEAD_START_S * (len(addresses) - 1)):
                sock = await dial_in_turn(
                    addresses, HEAD_START_S, None if patience_ms is None else patience_ms / 1000
                )
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self, is_dialled=True), sock=sock
                )
        except TimeoutError:
            reason = f"no answer within {options.cnx_timeout_ms} ms"
        except OSError as error:
            reason = reason_of(error)
        else:
            return connection
        if not peer.is_reported:
            peer.is_reported = True
            where = ", ".join(f"{host}:{port}" for host, port in addresses)
            self._logger.warning("election.unreachable", peer=peer.server_id, reason=f"{where}: {reason}")
        return None

    # -- established connections

    def _establish(self, peer: _Peer, connection: _Connection) -> None:
        if peer.dial is not None and peer.dial is not asyncio.current_task(self._loop):
            # A knock that arrived now would make the other side drop this connection.
            peer.dial.cancel()
            peer.dial = None
        if peer.connection is not None:
            peer.connection.abort()
        peer.connection = connection
        peer.is_reported = False
        self._logger.info("election.connected", peer=peer.server_id, host=connection.host)
        timeout_ms = self._options.reachability_timeout_ms if len(peer.addresses) > 1 else None
        connection.serve(peer, keepalive=self._options.keepalive, unconfirmed_max_ms=timeout_ms)

    def received(self, peer: _Peer, notification: Notification) -> None:
        if not self._closed:
            self._on_notification(peer.server_id, notification)

    def lost(self, connection: _Connection) -> None:
        """A socket is gone, whoever closed it."""
        self._pending.pop(connection, None)
        peer = connection.peer
        if peer is not None and peer.connection is connection:
            peer.connection = None
            if peer.dial is None and self._strangers.get(peer.server_id) is peer:
                del self._strangers[peer.server_id]

    def report(self, event: str, connection: _Connection, reason: str) -> None:
        if not self._closed:
            peer = connection.peer
            server_id = None if peer is None else peer.server_id
            self._logger.warning(event, peer=server_id, host=connection.host, reason=reason)


def _ipv4_first(found: tuple[socket.AddressFamily, str]) -> bool:
    return found[0] != socket.AF_INET


def _reason(error: OSError | ValueError) -> str:
    return reason_of(error) if isinstance(error, OSError) else str(error)


class _Peer:
    """What is kept of another server while it has no connection, too."""

    __slots__ = ("addresses", "connection", "dial", "is_reported", "last", "server_id", "waiting")

    def __init__(self, server_id: int) -> None:
        self.server_id = server_id
        self.addresses: Sequence[Address] = ()
        self.connection: _Connection | None = None
        self.dial: asyncio.Task[None] | None = None
        self.waiting: bytes | None = None  # a frame
        self.last: bytes | None = None  # the frame written last
        self.is_reported = False  # that it cannot be reached


class _Connection(asyncio.Protocol):
    """One socket, dialled or accepted."""

    __slots__ = (
        "_deadline",
        "_head",
        "_is_dialled",
        "_is_paused",
        "_is_reported",
        "_mesh",
        "_reader",
        "_transport",
        "host",
        "peer",
    )

    def __init__(self, mesh: ElectionMesh, *, is_dialled: bool = False) -> None:
        self.host = "?"
        self.peer: _Peer | None = None
        self._mesh = mesh
        self._is_dialled = is_dialled
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None
        self._head = bytearray()  # an incomplete initial message
        self._reader = FrameReader(FRAME_MAX)
        self._is_paused = False
        self._is_reported = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """An accepted one is told to the mesh; for a dialled one the dial goes on."""
        self._transport = cast("asyncio.Transport", transport)
        # The slot is our only queue: whatever the system does not take at once makes the next message wait there.
        self._transport.set_write_buffer_limits(high=0)
        self.host = str((transport.get_extra_info("peername") or ("?",))[0])
        if not self._is_dialled:
            self._mesh.accepted(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  a reset is like any other end
        """Sending and receiving end together."""
        self._expect_nothing()
        self._mesh.lost(self)

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._is_paused = False
        if self.peer is not None and self.peer.connection is self:
            self.send_waiting()

    def data_received(self, data: bytes) -> None:
        """Who it is, then frames. What comes on a connection that is being closed is not looked at."""
        if self.is_closing:
            return
        if self.peer is not None:
            self._read_frames(data)
        elif not self._is_dialled:
            self._read_initial_message(data)

    # -- the mesh's side

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def expect_initial_message(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """Give up at the deadline."""
        self._deadline = loop.call_later(timeout_s, self.refuse, "it does not say who it is")

    def serve(self, peer: _Peer, *, keepalive: bool, unconfirmed_max_ms: int | None) -> None:
        """The connection is established: send what waits, or else what was sent last.

        With `unconfirmed_max_ms` it ends when the other side's system does not confirm for so long what was sent.
        """
        self._expect_nothing()
        self.peer = peer
        sock = self._transport.get_extra_info("socket")
        if sock is not None and keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sock is not None and unconfirmed_max_ms is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unconfirmed_max_ms)
        if peer.waiting is not None:
            self.send_waiting()
        elif peer.last is not None:
            self.write(peer.last)

    def send_waiting(self) -> None:
        """Write the message that waits, unless an earlier one is still on its way."""
        peer = self.peer
        assert peer is not None
        if peer.waiting is not None and not self._is_paused:
            peer.last, peer.waiting = peer.waiting, None
            self.write(peer.last)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        """Close once everything is written."""
        self._expect_nothing()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._expect_nothing()
        self._transport.abort()

    def refuse(self, reason: str) -> None:
        """Close at once, with one line in the log."""
        self._mesh.report("election.refused", self, reason)
        self.abort()

    # -- what came in

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _read_initial_message(self, data: bytes) -> None:
        self._head += data
        try:
            parsed = parse_initial_message(self._head)
        except DecodeError as error:
            self.refuse(str(error))
            return
        if parsed is not None:
            message, size = parsed
            rest = bytes(self._head[size:])
            self._head.clear()
            if self._mesh.introduced(self, message) and rest:
                self._read_frames(rest)

    def _read_frames(self, data: bytes) -> None:
        peer = self.peer
        assert peer is not None
        frames = self._reader.feed(data)
        error: ProtocolError | None = self._reader.error
        for frame in frames:
            if not frame:
                error = ProtocolError("an empty frame")
                break
            self._deliver(peer, frame)
            if self.is_closing:
                return
        if error is not None:
            self.refuse(str(error))

    def _deliver(self, peer: _Peer, frame: bytes) -> None:
        try:
            notification = decode_notification(frame)
        except DecodeError as error:
            if not self._is_reported:  # once is enough for as long as the connection lasts
                self._is_reported = True
                self._mesh.report("election.malformed", self, str(error))
            return
        self._mesh.received(peer, notification)
