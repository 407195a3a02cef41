"""Client ports: sockets to links and back.

A thin shell around `zkpy_protocol.connection` (bytes to requests) and `zkpy.core.service` (requests to bytes).
`data_received` is: feed, hand over what is complete, send what came of it. No decision of the protocol is
made here; what is, is about sockets: who may connect, how much may wait, when silence is too long.

Invariants:
    * bytes wait for a client at most to `SEND_BUFFER_MAX` beyond what one request may answer; a client that
      does not read is cut off there.
    * while a link must wait, its socket is not read.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol, cast

from zkpy.auth.java_rules import host_address
from zkpy.auth.providers import AuthFailed, PeerInfo
from zkpy.core.acl import in_hash_order
from zkpy.core.link import CLOSE_AFTER_FLUSH, CONNECTING, DROPPED, ClientLink
from zkpy.net.tls import PeerRejected
from zkpy_protocol.connection import FourLetterWord, ServerConnection
from zkpy_protocol.records import ConnectRequest, Id

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection, Sequence

    from zkpy.auth.providers import AuthProvider
    from zkpy.core.service import Service
    from zkpy.net.tls import ServerTls

SEND_BUFFER_MAX = 16 << 20
"""Bytes that may wait in a socket's buffer for a client that does not read; events alone can bring it there."""

_MASK_WORD = b"stmk"


class Driver(Protocol):
    """What the shell needs of the runtime."""

    @property
    def service(self) -> Service:
        """Who serves the clients now."""

    def wall_ms(self) -> int:
        """Wall clock."""

    def mono_ms(self) -> int:
        """Monotonic clock."""

    def count_input(self, size: int) -> int:
        """So many bytes have come; what `mono_ms` is."""

    def offer(
        self, link: ClientLink, frames: Sequence[bytes], start: int, arrival_ms: int, mono_ms: int
    ) -> int:
        """Offer the service the frames from `start` on, which came at `arrival_ms`; the index of the first one not taken."""

    def after_input(self) -> None:
        """Something was handed to the service: send what came of it, log what was proposed."""

    def refused(self, event: str, host: str, port: int, reason: str) -> None:
        """Log that a connection was refused or cut off."""

    def four_letter_word(self, word: bytes, argument: bytes) -> bytes | None:
        """The answer to an operator's command; None closes without one, ``stmk`` waits for the rest of its mask."""


class PortOptions:
    """Settings of one client port."""

    __slots__ = (
        "frame_max",
        "keepalive",
        "max_client_cnxns",
        "max_cnxns",
        "secure",
        "sessionless_timeout_ms",
        "words",
    )

    def __init__(
        self,
        *,
        frame_max: int,
        words: Collection[bytes],
        max_client_cnxns: int,
        max_cnxns: int,
        sessionless_timeout_ms: int,
        keepalive: bool,
        secure: bool,
    ) -> None:
        self.frame_max = frame_max
        self.words = words
        self.max_client_cnxns = max_client_cnxns
        self.max_cnxns = max_cnxns
        self.sessionless_timeout_ms = sessionless_timeout_ms
        self.keepalive = keepalive
        self.secure = secure


class ClientPort:
    """All connections of one port."""

    __slots__ = ("_per_host", "certificate_provider", "connections", "driver", "options", "tls")

    def __init__(
        self,
        driver: Driver,
        options: PortOptions,
        tls: ServerTls | None = None,
        certificate_provider: AuthProvider | None = None,
    ) -> None:
        self.driver = driver
        self.options = options
        self.tls = tls
        self.certificate_provider = certificate_provider
        self.connections: dict[ClientConnection, None] = {}
        self._per_host: dict[str, int] = {}

    def admit(self, connection: ClientConnection, host: str) -> str | None:
        """Take a connection in; otherwise say which limit it meets."""
        options = self.options
        if 0 < options.max_cnxns <= len(self.connections):
            return f"maxCnxns={options.max_cnxns} connections are open"
        count = self._per_host.get(host, 0)
        if 0 < options.max_client_cnxns <= count:
            return f"maxClientCnxns={options.max_client_cnxns} connections from this address are open"
        self._per_host[host] = count + 1
        self.connections[connection] = None
        return None

    def forget(self, connection: ClientConnection, host: str) -> None:
        """A connection that was admitted is gone."""
        if self.connections.pop(connection, connection) is None:
            count = self._per_host[host] - 1
            if count:
                self._per_host[host] = count
            else:
                del self._per_host[host]

    def close_silent(self, now_ms: int) -> None:
        """Close sockets that never finished their connect, or were silent beyond their session's timeout."""
        for connection in list(self.connections):
            if now_ms > connection.silent_deadline_ms():
                self.driver.service.stats.sessionless_expired += connection.link.session_id == 0
                connection.abort()

    def close_all(self) -> None:
        """Close every connection without another byte."""
        for connection in list(self.connections):
            connection.abort()


def client_protocol(port: ClientPort) -> asyncio.Protocol:
    """For a new socket of `port`. Only the methods make it a protocol: a compiled class cannot inherit one that is not."""
    return cast("asyncio.Protocol", ClientConnection(port))


class ClientConnection:
    """One socket of a client."""

    __slots__ = (
        "_backlog",
        "_input",
        "_mask",
        "_paused_by_socket",
        "_port",
        "_reading_paused",
        "_transport",
        "last_read_ms",
        "link",
    )

    def __init__(self, port: ClientPort) -> None:
        self._port = port
        self._transport: asyncio.Transport
        self._input = ServerConnection(port.options.frame_max, port.options.words)
        # Requests that are complete but must wait; never more than one piece of input holds.
        self._backlog: Sequence[bytes] = ()
        self._mask: bytearray | None = None
        self._reading_paused = False
        self._paused_by_socket = False
        self.last_read_ms = 0
        self.link: ClientLink

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check the limits and make the link."""
        self._transport = cast("asyncio.Transport", transport)
        driver = self._port.driver
        name = transport.get_extra_info("peername") or ("?", 0)
        host, port = host_address(str(name[0])), int(name[1])
        self.last_read_ms = driver.mono_ms()
        self.link = ClientLink(driver.service.dirty, host, port, (Id("ip", host),), self._port.options.secure)
        self.link.shell = self
        if driver.service.request_throttle is not None:
            driver.service.request_throttle.attach(self.link)
        reason = self._port.admit(self, host)
        if reason is not None:
            driver.service.stats.connections_rejected += 1
            driver.refused("connection.rejected", host, port, reason)
            self._reset()
            return
        if not self._authenticate_certificate():
            return
        if self._port.options.keepalive:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _authenticate_certificate(self) -> bool:
        """After a TLS handshake: the client certificate becomes an id. False when it is refused."""
        tls = self._port.tls
        ssl_object = self._transport.get_extra_info("ssl_object")
        if tls is None or ssl_object is None:
            return True
        link = self.link
        try:
            link.x509_subject = tls.client_subject(ssl_object, link.host)
            if link.x509_subject is not None:
                provider = self._port.certificate_provider
                assert provider is not None, "a secure port has a provider for certificates"
                link.ids = in_hash_order(
                    (*link.ids, *provider.handle_authentication(None, PeerInfo(link.host, link.x509_subject)))
                )
        except (PeerRejected, AuthFailed) as error:
            self._port.driver.service.stats.auth_failed += 1
            self._refuse(str(error))
            return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  a reset is like any other end
        """The socket is gone, whoever closed it."""
        self._port.forget(self, self.link.host)
        driver = self._port.driver
        throttle = driver.service.request_throttle
        if throttle is not None:
            throttle.abandon(self.link, self._backlog, driver.wall_ms(), driver.mono_ms())
        self._backlog = ()
        driver.service.disconnected(self.link)

    def eof_received(self) -> None:
        """The client sends nothing more: the transport closes, and says `connection_lost`."""

    def pause_writing(self) -> None:
        """The client does not keep up reading: answer nothing more for now."""
        self._paused_by_socket = True
        self._update_reading()

    def resume_writing(self) -> None:
        """The client has read enough."""
        self._paused_by_socket = False
        self._update_reading()
        if self._backlog:
            self._serve((), self._port.driver.mono_ms())
            self._port.driver.after_input()

    def data_received(self, data: bytes) -> None:
        """Feed, hand over, send."""
        driver = self._port.driver
        now = driver.count_input(len(data))
        self.last_read_ms = now
        if self._mask is not None:
            self._receive_mask(data)
            return
        events = self._input.receive(data)
        if events:
            if isinstance(events[0], bytes):
                self._serve(cast("Sequence[bytes]", events), now)
            elif isinstance(events[0], ConnectRequest):
                self._connect(events[0], now)
            else:
                self._command(events[0])
                return
            driver.after_input()
        if self._input.error is not None:
            self._refuse(str(self._input.error))

    # -- what came in

    def _connect(self, request: ConnectRequest, now: int) -> None:
        driver = self._port.driver
        driver.service.connect(self.link, request, driver.wall_ms(), now)
        if self.link.state == CONNECTING:
            self._update_reading()

    def _serve(self, frames: Sequence[bytes], now: int) -> None:
        driver = self._port.driver
        if self._backlog:
            frames = (*self._backlog, *frames)
            self._backlog = ()
        if self._paused_by_socket:
            self._backlog = frames
            return
        link = self.link
        taken = 0
        while True:
            # While some frames wait nothing is read, so all of them have arrived by then.
            taken = driver.offer(link, frames, taken, self.last_read_ms, now)
            if link.state >= CLOSE_AFTER_FLUSH or taken == len(frames):
                if self._reading_paused:
                    self._update_reading()
                return
            if self._must_wait():
                break
            if not self._make_room():
                break
        self._backlog = frames[taken:]
        self._update_reading()

    def _must_wait(self) -> bool:
        service = self._port.driver.service
        return (service.request_throttle or service).must_wait(self.link)

    def _make_room(self) -> bool:
        """Send the replies so far; False when the socket takes no more for now."""
        self.flush()
        return not self._paused_by_socket

    def _command(self, word: FourLetterWord) -> None:
        self._port.driver.service.stats.received += 1
        self.link.received += 1
        self.link.state = DROPPED  # no client's any more, which is how its own answer lists it
        self._answer(word.word, word.trailing)

    def _receive_mask(self, data: bytes) -> None:
        assert self._mask is not None
        self._mask += data
        self._answer(_MASK_WORD, bytes(self._mask))

    def _answer(self, word: bytes, argument: bytes) -> None:
        answer = self._port.driver.four_letter_word(word, argument)
        if answer is None and word == _MASK_WORD:
            self._mask = bytearray(argument)  # it is still on its way
            return
        if answer:
            self._transport.write(answer)
            self._port.driver.service.stats.sent += 1
        self._transport.close()

    def _refuse(self, reason: str) -> None:
        if self.link.state < CLOSE_AFTER_FLUSH:
            self._port.driver.refused("connection.broken", self.link.host, self.link.port, reason)
        self.abort()

    # -- what goes out

    def flush(self) -> None:
        """Send what the link has queued, and close it if it is to be closed."""
        link = self.link
        if link.out:
            data = link.take()
            self._transport.write(data)
            if self._paused_by_socket:
                waiting = self._transport.get_write_buffer_size()
                if waiting > SEND_BUFFER_MAX + len(data):
                    self._refuse(f"{waiting} bytes wait for a client that does not read")
                    return
        if link.state >= CLOSE_AFTER_FLUSH:
            if link.state == DROPPED:
                self.abort()
            else:
                self._transport.close()
        elif link.resume_reading:
            link.resume_reading = False
            frames = self._input.resume()
            self._update_reading()
            if frames:
                self._serve(frames, self._port.driver.mono_ms())
            if self._input.error is not None:
                self.flush()
                self._refuse(str(self._input.error))
        elif self._backlog and not self._must_wait():
            self._serve((), self._port.driver.mono_ms())

    def _update_reading(self) -> None:
        """Read the socket unless the link has to wait for something."""
        wait = (
            self._paused_by_socket
            or bool(self._backlog)
            or (self.link.state == CONNECTING and self.link.session_id != 0)
        )
        if wait == self._reading_paused or self._transport.is_closing():
            return
        self._reading_paused = wait
        if wait:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # -- what others may know

    def silent_deadline_ms(self) -> int:
        """When the socket is closed unless something is heard on it."""
        limit = self._port.options.sessionless_timeout_ms
        allowed = limit if self.link.state == CONNECTING else self.link.timeout_ms + limit
        return self.last_read_ms + allowed

    @property
    def is_reading(self) -> bool:
        """Whether requests are taken at the moment."""
        return not self._reading_paused

    @property
    def has_output(self) -> bool:
        """Whether the socket could not take all that was written to it."""
        return self._transport.get_write_buffer_size() > 0

    # -- the end

    def abort(self) -> None:
        """Close now; what is not sent yet is lost."""
        self.link.state = DROPPED
        self._transport.abort()

    def _reset(self) -> None:
        """Refuse at once: the client sees a reset, as with Apache."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.abort()
