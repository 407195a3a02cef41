"""Client ports over real sockets, on both event loops: limits, slow and silent clients, clients that do not read, noise."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.driven_server import DrivenServer, GatedFs
from tests.fakes.replies import Event, Reply, create, delete, set_data
from tests.fakes.wire_client import TIMEOUT_S, WireClient, connect_frame, framed, request_frame
from tests.unit.net.certificates import issue
from tests.unit.net.test_tls import AUTHORITY, Files
from zkpy.auth.providers import X509Provider
from zkpy.net.client_server import SEND_BUFFER_MAX, ClientConnection, ClientPort, PortOptions, client_protocol
from zkpy.net.tls import ServerTls
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import AddWatchRequest, AuthPacket, ExistsRequest, GetDataRequest

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

FRAME_MAX = 0xFFFFF
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(40)


class Listening:
    """A server on a port of loopback."""

    def __init__(self, server: DrivenServer, listener: asyncio.Server, port: ClientPort) -> None:
        self.server = server
        self.listener = listener
        self.client_port = port
        self.number: int = listener.sockets[0].getsockname()[1]
        self.clients: list[WireClient] = []

    @property
    def service(self) -> Any:
        return self.server.service

    async def open(self, tls: ssl.SSLContext | None = None) -> WireClient:
        """A socket on which nothing has been said yet."""
        self.clients.append(await WireClient.open(self.number, tls))
        return self.clients[-1]

    async def client(self, tls: ssl.SSLContext | None = None, **options: Any) -> WireClient:
        """A client with a session."""
        client = await self.open(tls)
        client.writer.write(connect_frame(**options))
        assert (await client.connect_response()).session_id
        return client

    def connection_of(self, session_id: int) -> ClientConnection:
        connection = self.service.links[session_id].shell
        assert isinstance(connection, ClientConnection)
        return connection

    async def until(self, condition: Callable[[], bool]) -> None:
        """Turn the loop until the server has come there."""

        async def turn() -> None:
            while not condition():  # noqa: ASYNC110  anything may be the condition
                await asyncio.sleep(0)

        await asyncio.wait_for(turn(), TIMEOUT_S)

    def reasons(self) -> list[str]:
        """Why connections were refused or cut off."""
        return [str(record["reason"]) for record in self.server.records]


Start = Callable[..., Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    begun: list[Listening] = []

    async def begin(
        *, fs: Any = None, service: dict[str, Any] | None = None, tls: ServerTls | None = None, **options: Any
    ) -> Listening:
        server = DrivenServer(fs, **(service or {}))
        settings: dict[str, Any] = {
            "frame_max": FRAME_MAX,
            "words": {b"ruok", b"stmk"},
            "max_client_cnxns": 0,
            "max_cnxns": 0,
            "sessionless_timeout_ms": 10_000,
            "keepalive": False,
            "secure": tls is not None,
        } | options
        port = ClientPort(server.driver, PortOptions(**settings), tls, X509Provider())
        loop = asyncio.get_running_loop()
        context = None if tls is None else tls.context
        listener = await loop.create_server(lambda: client_protocol(port), "127.0.0.1", 0, ssl=context)
        begun.append(Listening(server, listener, port))
        return begun[-1]

    yield begin
    for one in begun:
        one.client_port.close_all()
        one.listener.close()
        await one.until(lambda: not one.client_port.connections)  # noqa: B023  called before the next turn
        for client in one.clients:
            await client.close()
        if isinstance(one.server.fs, GatedFs):
            one.server.fs.gate.set()
        one.server.close()


# -- a session over a socket


async def test_a_session_works_from_connect_to_close(start: Start) -> None:
    server = await start()
    client = await server.client()
    assert (await client.call(OpCode.CREATE, create("/a", b"1"))).path == "/a"
    assert (await client.call(OpCode.GET_DATA, GetDataRequest("/a", False))).data == b"1"
    assert (await client.call(OpCode.CLOSE_SESSION)).err == 0
    assert await client.rest() == b""
    await server.until(lambda: not server.client_port.connections)
    assert server.service.links == {}
    assert server.server.records == []


async def test_a_client_may_send_byte_by_byte(start: Start) -> None:
    server = await start()
    client = await server.open()
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in connect_frame() + request_frame(1, OpCode.CREATE, create("/a")):
        client.writer.write(bytes([number]))
        await asyncio.sleep(0)
    assert (await client.connect_response()).session_id
    assert (await client.reply()).path == "/a"


async def test_requests_may_come_in_one_piece_with_the_connect(start: Start) -> None:
    server = await start()
    client = await server.open()
    frames = [
        request_frame(1, OpCode.CREATE, create("/a")),
        request_frame(2, OpCode.EXISTS, ExistsRequest("/a", False)),
    ]
    client.writer.write(connect_frame() + b"".join(frames))
    assert (await client.connect_response()).session_id
    assert [(await client.reply()).xid for _ in range(2)] == [1, 2]


async def test_what_is_sent_behind_the_connect_waits_for_the_session(start: Start) -> None:
    fs = GatedFs()
    server = await start(fs=fs)
    fs.gate.clear()
    client = await server.open()
    client.writer.write(connect_frame())
    await server.until(lambda: bool(server.service.links))
    (connection,) = server.client_port.connections
    assert not connection.is_reading
    client.writer.write(request_frame(1, OpCode.CREATE, create("/a")))
    fs.gate.set()
    assert (await client.connect_response()).session_id
    assert (await client.reply()).xid == 1
    assert connection.is_reading


async def test_the_address_of_a_client_is_its_first_id(start: Start) -> None:
    server = await start()
    await server.client()
    (link,) = server.service.links.values()
    assert [(id_.scheme, id_.id) for id_ in link.ids] == [("ip", "127.0.0.1")]
    assert link.host == "127.0.0.1"


@pytest.mark.parametrize("keepalive", [False, True])
async def test_keepalive_is_set_when_it_is_asked_for(start: Start, keepalive: bool) -> None:
    server = await start(keepalive=keepalive)
    await server.client()
    (connection,) = server.client_port.connections
    sock = connection._transport.get_extra_info("socket")
    assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is keepalive


async def test_a_dropped_connection_leaves_the_session(start: Start) -> None:
    server = await start()
    client = await server.client()
    await client.close()
    await server.until(lambda: not server.client_port.connections)
    assert len(server.service.sessions.committed) == 1
    assert server.service.stats.connection_drops == 1


# -- limits


async def test_connections_beyond_max_client_cnxns_are_reset_with_one_log_line(start: Start) -> None:
    server = await start(max_client_cnxns=2)
    first, _ = await server.client(), await server.client()
    third = await server.open()
    assert await third.rest() == b""
    assert server.reasons() == ["maxClientCnxns=2 connections from this address are open"]
    assert server.service.stats.connections_rejected == 1
    await first.close()
    await server.until(lambda: len(server.client_port.connections) == 1)
    await server.client()


async def test_connections_beyond_max_cnxns_are_reset_with_one_log_line(start: Start) -> None:
    server = await start(max_cnxns=1)
    client = await server.client()
    second = await server.open()
    assert await second.rest() == b""
    assert server.reasons() == ["maxCnxns=1 connections are open"]
    assert (await client.call(OpCode.PING)).xid == -2
    await client.close()
    await server.until(lambda: not server.client_port.connections)
    await server.client()


# -- noise


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP request on the client port"),
        (TLS_HELLO, "a TLS handshake on the plain client port"),
        (b"what\n", "unknown four letter word 'what'"),
        (struct.pack(">i", FRAME_MAX + 1), f"first frame of {FRAME_MAX + 1} bytes announced"),
        (struct.pack(">i", -1), "first frame of -1 bytes announced"),
        (framed(b""), ""),
        (framed(bytes(20)), ""),
    ],
)
async def test_noise_is_closed_without_an_answer_and_with_one_log_line(
    start: Start, noise: bytes, reason: str
) -> None:
    server = await start()
    client = await server.open()
    client.writer.write(noise)
    assert await client.rest() == b""
    (said,) = server.reasons()
    assert said.startswith(reason)
    assert server.server.events() == ["connection.broken"]


async def test_an_oversized_frame_of_a_session_closes_it_after_what_came_before(start: Start) -> None:
    server = await start()
    client = await server.client()
    ping = request_frame(-2, OpCode.PING)
    client.writer.write(ping + struct.pack(">i", FRAME_MAX + 1) + ping)
    assert isinstance(await client.message(), Reply)
    assert await client.rest() == b""
    assert server.reasons() == [f"frame of {FRAME_MAX + 1} bytes announced, at most {FRAME_MAX} allowed"]


async def test_a_frame_of_the_largest_size_is_served(start: Start) -> None:
    server = await start()
    client = await server.client()
    body = struct.pack(">ii", 1, OpCode.EXISTS) + bytes(FRAME_MAX - 8)
    client.writer.write(framed(body))
    assert (await client.reply()).err == 0, "the empty path is the root, what follows is ignored"


async def test_an_oversized_frame_behind_the_connect_closes_the_session_after_what_came_before(
    start: Start,
) -> None:
    server = await start()
    client = await server.open()
    client.writer.write(
        connect_frame()
        + request_frame(1, OpCode.EXISTS, ExistsRequest("/", False))
        + request_frame(2, OpCode.CREATE, create("/a"))
        + struct.pack(">i", -1)
    )
    assert (await client.connect_response()).session_id
    assert (await client.reply()).xid == 1
    assert await client.rest() == b"", "the write is not answered, but it happens"
    await server.until(lambda: server.service.tree.get("/a") is not None)
    assert server.reasons() == [f"frame of -1 bytes announced, at most {FRAME_MAX} allowed"]


async def test_a_frame_without_a_header_closes_the_connection(start: Start) -> None:
    server = await start()
    client = await server.client()
    client.writer.write(framed(b"1234567"))
    assert await client.rest() == b""


async def test_a_failed_authentication_is_answered_and_closed(start: Start) -> None:
    server = await start()
    client = await server.client()
    client.writer.write(request_frame(-4, OpCode.AUTH, AuthPacket(0, "nope", b"")))
    assert (await client.reply()).err == ErrorCode.AUTHFAILED
    assert await client.rest() == b""


# -- four letter words


async def test_a_word_is_answered_and_closed(start: Start) -> None:
    server = await start()
    server.server.words[b"ruok"] = [b"imok"]
    client = await server.open()
    client.writer.write(b"ruok\n")
    assert await client.rest() == b"imok"
    await server.until(lambda: not server.client_port.connections)
    stats = server.service.stats
    assert (stats.connection_drops, stats.received, stats.sent) == (0, 1, 1)


async def test_a_word_without_an_answer_is_closed(start: Start) -> None:
    server = await start()
    server.server.words[b"ruok"] = [None]
    client = await server.open()
    client.writer.write(b"ruok")
    assert await client.rest() == b""


async def test_the_mask_of_stmk_may_come_later(start: Start) -> None:
    server = await start()
    server.server.words[b"stmk"] = [None, None, b"done"]
    client = await server.open()
    client.writer.write(b"stmk\0\0")
    await server.until(lambda: len(server.server.words[b"stmk"]) == 2)
    client.writer.write(b"\0\0\0")
    await server.until(lambda: len(server.server.words[b"stmk"]) == 1)
    client.writer.write(b"\0\0\0")
    assert await client.rest() == b"done"


async def test_what_follows_a_word_is_ignored(start: Start) -> None:
    server = await start()
    server.server.words[b"ruok"] = [b"x" * (1 << 20)]
    client = await server.open()
    client.writer.write(b"ruok")
    assert len(await client.rest()) == 1 << 20


# -- silence


async def test_a_socket_that_says_nothing_is_closed_in_time(start: Start) -> None:
    server = await start(sessionless_timeout_ms=10_000)
    silent = await server.open()
    slow = await server.open()
    slow.writer.write(connect_frame()[:10])
    await server.until(lambda: len(server.client_port.connections) == 2)
    now = server.server.mono_ms
    server.client_port.close_silent(now + 5000)
    assert len(server.client_port.connections) == 2
    server.client_port.close_silent(now + 20_000)
    assert await silent.rest() == await slow.rest() == b""
    assert server.service.stats.sessionless_expired == 2


async def test_a_session_that_is_silent_beyond_its_timeout_is_closed_later(start: Start) -> None:
    server = await start(sessionless_timeout_ms=10_000)
    client = await server.client(timeout_ms=30_000)
    now = server.server.mono_ms
    server.client_port.close_silent(now + 35_000)
    assert (await client.call(OpCode.PING)).xid == -2
    server.client_port.close_silent(now + 60_000)
    assert await client.rest() == b""
    assert server.service.stats.sessionless_expired == 0


async def test_whatever_is_heard_counts_as_a_sign_of_life(start: Start) -> None:
    server = await start(sessionless_timeout_ms=10_000)
    client = await server.client(timeout_ms=4000)
    (connection,) = server.client_port.connections
    connection.last_read_ms -= 100_000
    await client.call(OpCode.PING)
    server.client_port.close_silent(server.server.mono_ms + 5000)
    assert (await client.call(OpCode.PING)).xid == -2


async def test_close_all_closes_without_a_byte(start: Start) -> None:
    server = await start()
    clients = [await server.client() for _ in range(3)]
    server.client_port.close_all()
    assert [await client.rest() for client in clients] == [b""] * 3
    await server.until(lambda: not server.client_port.connections)
    assert server.service.stats.connection_drops == 0, "none that a client has dropped"


# -- clients that do not read


@pytest.mark.slow
async def test_a_client_that_does_not_read_its_replies_is_not_read_either(start: Start) -> None:
    """Every request is answered in the end, and meanwhile the server holds a bounded part of the answers."""
    server = await start()
    client = await server.client()
    await client.call(OpCode.CREATE, create("/big", bytes(500_000)))
    client.stop_reading()
    for _ in range(100):
        client.send(OpCode.GET_DATA, GetDataRequest("/big", False))
    (connection,) = server.client_port.connections
    await server.until(lambda: not connection.is_reading)
    assert connection.has_output
    assert connection._transport.get_write_buffer_size() < 4 << 20
    assert (await server.client()).writer is not None, "others are served"
    client.go_on_reading()
    for xid in range(2, 102):
        reply = await client.reply()
        assert reply.xid == xid
        assert len(reply.data or b"") == 500_000
    assert connection.is_reading
    assert server.server.records == []


@pytest.mark.slow
async def test_a_client_that_never_reads_its_events_is_cut_off_with_one_log_line(start: Start) -> None:
    server = await start()
    watcher, writer = await server.client(), await server.client()
    path = "/" + "x" * 700_000
    await writer.call(OpCode.CREATE, create(path))
    await watcher.call(OpCode.ADD_WATCH, AddWatchRequest(path, 0))
    watcher.stop_reading()
    connection = server.connection_of(min(server.service.links))
    waiting = 0
    for _ in range(60):
        await writer.call(OpCode.SET_DATA, set_data(path, b""))
        waiting = max(waiting, connection._transport.get_write_buffer_size())
    watcher.go_on_reading()
    await watcher.rest()
    (reason,) = server.reasons()
    assert reason.endswith("bytes wait for a client that does not read")
    assert SEND_BUFFER_MAX // 2 < waiting < SEND_BUFFER_MAX + 1_500_000
    assert (await writer.call(OpCode.DELETE, delete(path))).err == 0


async def test_a_link_that_must_wait_is_read_again_when_its_writes_are_done(start: Start) -> None:
    fs = GatedFs()
    server = await start(fs=fs, service={"global_outstanding_limit": 3})
    client, other = await server.client(), await server.client()
    fs.gate.clear()
    frames = b"".join(request_frame(xid, OpCode.CREATE, create("/n", flags=2)) for xid in range(1, 21))
    client.writer.write(frames)
    connection = server.connection_of(min(server.service.links))
    await server.until(lambda: not connection.is_reading)
    assert server.service.stats.outstanding == 4
    assert (await other.call(OpCode.EXISTS, ExistsRequest("/", False))).err == 0
    fs.gate.set()
    assert [(await client.reply()).xid for _ in range(20)] == list(range(1, 21))
    await server.until(lambda: connection.is_reading)
    assert (await client.call(OpCode.PING)).xid == -2


async def test_a_connection_that_ends_while_requests_wait_leaves_nothing(start: Start) -> None:
    fs = GatedFs()
    server = await start(fs=fs, service={"global_outstanding_limit": 3})
    client = await server.client()
    fs.gate.clear()
    client.writer.write(
        b"".join(request_frame(xid, OpCode.CREATE, create(f"/{xid}")) for xid in range(1, 21))
    )
    (connection,) = server.client_port.connections
    await server.until(lambda: not connection.is_reading)
    connection.abort()
    await client.rest()
    await server.until(lambda: not server.client_port.connections)
    assert server.service.stats.outstanding == 0
    fs.gate.set()
    await server.until(lambda: server.service.tree.get("/4") is not None)
    assert server.service.tree.get("/5") is None


async def test_events_arrive_before_the_reply_over_a_socket_too(start: Start) -> None:
    server = await start()
    client = await server.client()
    await client.call(OpCode.CREATE, create("/a"))
    await client.call(OpCode.GET_DATA, GetDataRequest("/a", True))
    client.send(OpCode.SET_DATA, set_data("/a", b"1"))
    event, reply = await client.message(), await client.message()
    assert isinstance(event, Event)
    assert isinstance(reply, Reply)
    assert event.zxid == reply.zxid


# -- the secure port


async def test_a_client_certificate_is_an_id_of_its_connection(start: Start, tmp_path: Path) -> None:
    files = Files(tmp_path)
    server = await start(tls=ServerTls(files.settings()))
    client = await server.client(files.client())
    assert (await client.call(OpCode.CREATE, create("/a"))).path == "/a"
    (link,) = server.service.links.values()
    ids = {(id_.scheme, id_.id) for id_ in link.ids}
    assert ids == {("ip", "127.0.0.1"), ("x509", "CN=client\\, one,O=test")}
    assert link.secure
    assert link.x509_subject == "CN=client\\, one,O=test"


async def test_without_a_certificate_there_is_no_such_id(start: Start, tmp_path: Path) -> None:
    files = Files(tmp_path)
    server = await start(tls=ServerTls(files.settings(client_auth="want")))
    await server.client(files.client(None))
    (link,) = server.service.links.values()
    assert [id_.scheme for id_ in link.ids] == ["ip"]


async def test_a_certificate_for_another_address_is_refused_with_one_log_line(
    start: Start, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    settings = files.settings(hostname_verification=True, client_hostname_verification=True)
    server = await start(tls=ServerTls(settings))
    client = await server.open(files.client(issue("elsewhere", AUTHORITY, address="10.9.9.9")))
    assert await client.rest() == b""
    (reason,) = server.reasons()
    assert "is not for 127.0.0.1" in reason
    assert server.service.stats.auth_failed == 1
    await server.until(lambda: not server.client_port.connections)
