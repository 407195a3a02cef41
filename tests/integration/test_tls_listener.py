"""Handshakes over real sockets, on asyncio and on uvloop: the good one, and what is told of the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any, Self, cast

import pytest
import uvloop

from tests.unit.net.test_tls import STRANGER, Files
from zkpy.net import tls_listener
from zkpy.net.tls import ServerTls
from zkpy.net.tls_listener import TlsListener, failure_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Echo(asyncio.Protocol):
    """Sends back what it gets and remembers what happened to it."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert transport.get_extra_info("ssl_object") is not None
        self.events.append("made")
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")


class Port:
    """A listener on a free port of loopback, and what it told."""

    def __init__(
        self, context: ssl.SSLContext, timeout_s: float = 10, sock: socket.socket | None = None
    ) -> None:
        self.sock = sock
        self.context = context
        self.timeout_s = timeout_s
        self.failures: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.events: list[str] = []
        self.accepted = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        sock = self.sock or socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.listener = TlsListener(sock, self.context, self._protocol, self._failed, self.timeout_s)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        self.listener.close()
        await self.listener.wait_closed()

    async def connect(
        self, client: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=client)
        self.writers.append(writer)
        return reader, writer

    def _protocol(self) -> Echo:
        self.accepted.set()
        return Echo(self.events)

    def _failed(self, host: str, reason: str) -> None:
        self.failures.put_nowait((host, reason))

    async def failure(self) -> str:
        host, reason = await asyncio.wait_for(self.failures.get(), 10)
        assert host == "127.0.0.1"
        return reason

    async def plain(self, data: bytes) -> asyncio.StreamWriter:
        _, writer = await self.connect()
        writer.write(data)
        return writer

    async def echo(self, client: ssl.SSLContext, data: bytes) -> bytes:
        reader, writer = await self.connect(client)
        writer.write(data)
        return await reader.readexactly(len(data))


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def runner(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as loop:
            loop.run(asyncio.wait_for(main, 20))

    return runner


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_after_the_handshake_the_protocol_works_as_on_a_plain_port(files: Files, run: Any) -> None:
    async def main() -> None:
        async with Port(ServerTls(files.settings()).context) as port:
            for size in (1, 100_000):
                assert await port.echo(files.client(), b"x" * size) == b"x" * size
            assert port.events.count("made") == 2
            assert port.failures.empty()

    run(main())


def test_data_sent_with_the_end_of_the_handshake_is_not_lost(files: Files, run: Any) -> None:
    """With TLS 1.3 a client may send its request together with its last handshake message."""

    async def main() -> None:
        async with Port(ServerTls(files.settings()).context) as port:
            reader, writer = await port.connect()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = files.client().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65536))
            client.write(b"early")
            writer.write(outgoing.read())
            while True:
                try:
                    assert client.read(5) == b"early"
                    break
                except ssl.SSLWantReadError:
                    incoming.write(await reader.read(65536))

    run(main())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "plain HTTP on a TLS port"),
        (b"\0\0\0\x2d" + bytes(45), "bytes that are not TLS on a TLS port"),
    ],
)
def test_bytes_that_are_not_tls_are_refused_and_told(
    files: Files, run: Any, data: bytes, reason: str
) -> None:
    async def main() -> None:
        async with Port(ServerTls(files.settings()).context) as port:
            await port.plain(data)
            assert await port.failure() == reason
            assert port.events == []
            assert await port.echo(files.client(), b"others are served") == b"others are served"

    run(main())


@pytest.mark.parametrize("identity", [None, STRANGER])
def test_a_client_without_a_trusted_certificate_is_refused_and_told(
    files: Files, run: Any, identity: Any
) -> None:
    async def main() -> None:
        async with Port(ServerTls(files.settings()).context) as port:
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await port.echo(files.client(identity), b"x")
            expected = "the client certificate is not trusted: " if identity else "no client certificate, and"
            assert (await port.failure()).startswith(expected)

    run(main())


def test_a_client_that_says_nothing_is_given_up(files: Files, run: Any) -> None:
    async def main() -> None:
        async with Port(ServerTls(files.settings()).context, timeout_s=0.05) as port:
            await port.plain(b"")
            assert "handshake is taking longer than 0.05 seconds" in await port.failure()

    run(main())


def test_a_client_that_leaves_during_the_handshake_is_told(files: Files, run: Any) -> None:
    async def main() -> None:
        async with Port(ServerTls(files.settings()).context) as port:
            (await port.plain(b"\x16\x03\x01")).close()
            assert await port.failure()
            assert port.events.count("made") == 0

    run(main())


def test_no_more_than_a_fixed_number_of_handshakes_is_under_way(
    files: Files, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one, a silent client holds up the next one until it is given up, and no longer."""
    monkeypatch.setattr(tls_listener, "HANDSHAKES_MAX", 1)

    async def main() -> None:
        async with Port(ServerTls(files.settings()).context, timeout_s=0.1) as port:
            await port.plain(b"")
            assert await port.echo(files.client(), b"x") == b"x"
            assert port.failures.qsize() == 1

    run(main())


def test_closing_gives_up_handshakes_and_keeps_connections(files: Files, run: Any) -> None:
    async def main() -> None:
        async with Port(ServerTls(files.settings()).context) as port:
            reader, writer = await port.connect(files.client())
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            port.accepted.clear()
            silent_reader, _ = await port.connect()
            await asyncio.wait_for(port.accepted.wait(), 10)
            await port.close()
            with contextlib.suppress(ConnectionResetError):
                assert await silent_reader.read() == b""
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
            assert port.failures.empty()

    run(main())


FAILURES = [OSError(24, "Too many open files"), ConnectionAbortedError()]


class NoDescriptors(socket.socket):
    """A listening socket that cannot accept, once."""

    def accept(self) -> tuple[socket.socket, Any]:
        if FAILURES:
            raise FAILURES.pop()
        return super().accept()


def test_a_full_descriptor_table_is_told_and_survived(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_listener, "_ACCEPT_RETRY_S", 0)

    async def main() -> None:
        sock = NoDescriptors(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        async with Port(ServerTls(files.settings()).context, sock=sock) as port:
            assert await port.echo(files.client(), b"x") == b"x"
            assert port.failures.get_nowait() == ("?", "no connection can be accepted: Too many open files")

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_client_with_another_version_is_told(files: Files, run: Any) -> None:
    async def main() -> None:
        context = ServerTls(files.settings(enabled_protocols="TLSv1.3")).context
        async with Port(context) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await port.connect(files.client(version=ssl.TLSVersion.TLSv1_2))
            assert await port.failure() == "no common TLS version (ssl.enabledProtocols)"

    run(main())


def test_a_client_that_does_not_trust_the_server_is_told(files: Files, run: Any) -> None:
    async def main() -> None:
        async with Port(ServerTls(files.settings()).context) as port:
            with pytest.raises(ssl.SSLCertVerificationError):
                await port.connect(ssl.create_default_context())
            # Not every loop sends the alert before it closes.
            assert await port.failure()

    run(main())


def test_other_failures_keep_the_words_of_openssl_or_the_system() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate
    incoming = ssl.MemoryBIO()
    incoming.write(client_hello())
    with pytest.raises(ssl.SSLError) as caught:
        server.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    assert failure_reason(caught.value) == "no common cipher suite (ssl.ciphersuites)"
    caught.value.reason = "SOMETHING_ELSE"
    assert failure_reason(caught.value) == "SOMETHING_ELSE"
    assert failure_reason(ConnectionResetError(104, "reset")) == "[Errno 104] reset"
    assert failure_reason(ConnectionResetError()) == "the client went away during the handshake"


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
