"""A server process and clients that do not behave: it stays up, its memory stays bounded, others are served, its log says who did what.

One process for all of it: what one test leaves behind must not disturb the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.replies import create, delete, set_data
from tests.fakes.wire_client import TIMEOUT_S, WireClient, connect_frame, framed, request_frame
from zkpy.core.link import QUEUED_BYTES_MAX
from zkpy.net.client_server import SEND_BUFFER_MAX
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import AddWatchRequest, GetDataRequest, SyncRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux' /proc"),
]

JUTE_MAX = 0xFFFFF
MB = 1 << 20
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(200)
IDLE = 10_000


class ServerProcess:
    """``zkpy server`` on a port of its own choice, with a log that can be read at any time."""

    def __init__(self, directory: Path) -> None:
        config = directory / "zoo.cfg"
        config.write_text(
            f"dataDir={directory / 'data'}\nclientPort=0\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n"
            "tickTime=4000\n4lw.commands.whitelist=srvr\n"
        )
        log = directory / "server.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "zkpy", "server", str(config)]
            self.popen = subprocess.Popen(command, stdout=out, stderr=out)
        self._reader = log.open()

    async def serving(self) -> int:
        """The port, once it is open."""
        while self.popen.poll() is None:
            for record in self.records():
                if record["event"] == "server.serving":
                    return int(record["client_port"])
            await asyncio.sleep(0.01)
        raise AssertionError("the server ended while starting")

    def records(self) -> list[dict[str, Any]]:
        """What it has logged since the last look."""
        return [json.loads(line) for line in self._reader]

    @property
    def rss(self) -> int:
        """Bytes."""
        (line,) = [
            line
            for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        ]
        return int(line.split()[1]) << 10

    def end(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        code = self.popen.wait(TIMEOUT_S)
        self._reader.close()
        return code


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, int]]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))  # the server inherits it
    server = ServerProcess(tmp_path_factory.mktemp("bad-input"))
    try:
        yield server, asyncio.run(server.serving())
        assert server.end() == 0
    finally:
        server.popen.kill()
        server.popen.wait()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Scene:
    """The server, and a client with good manners beside the others."""

    def __init__(self, server: ServerProcess, port: int, bystander: WireClient) -> None:
        self.server = server
        self.port = port
        self._bystander = bystander
        self._clients = [bystander]

    async def open(self) -> WireClient:
        self._clients.append(await WireClient.open(self.port))
        return self._clients[-1]

    async def client(self) -> WireClient:
        """A client with a session."""
        client = await self.open()
        client.writer.write(connect_frame(30_000))
        assert (await client.connect_response()).session_id
        return client

    async def others_are_served(self) -> None:
        bystander = self._bystander
        assert (await bystander.call(OpCode.CREATE, create("/bystander", b"1"))).path == "/bystander"
        assert (await bystander.call(OpCode.GET_DATA, GetDataRequest("/bystander", False))).data == b"1"
        assert (await bystander.call(OpCode.DELETE, delete("/bystander"))).err == 0
        assert self.server.popen.poll() is None

    def broken_links(self) -> list[str]:
        """Reasons in the log; every line of it is one about a link that was cut off, and names the client."""
        found = []
        for record in self.server.records():
            assert record["event"] == "connection.broken", record
            assert record["client"].startswith("127.0.0.1:")
            found.append(record["reason"])
        return found

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


@pytest.fixture
async def scene(process: tuple[ServerProcess, int]) -> AsyncIterator[Scene]:
    server, port = process
    bystander = await WireClient.open(port)
    bystander.writer.write(connect_frame(40_000))
    await bystander.connect_response()
    server.records()
    one = Scene(server, port, bystander)
    yield one
    await one.others_are_served()
    await one.close()


def name_of(client: WireClient) -> str:
    host, port = client.writer.get_extra_info("sockname")
    return f"{host}:{port}"


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: zookeeper\r\n\r\n", "an HTTP request on the client port"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "an HTTP request on the client port"),
        (TLS_HELLO, "a TLS handshake on the plain client port"),
        (struct.pack(">i", JUTE_MAX + 1) + bytes(100), f"first frame of {JUTE_MAX + 1} bytes announced"),
        (b"\xff" * 100, "first frame of -1 bytes announced"),
        (framed(b"\x7f" * 44), ""),
        (connect_frame() + struct.pack(">i", 0x7FFFFFFF), "frame of 2147483647 bytes announced"),
    ],
)
async def test_noise_ends_its_connection_with_one_line_about_it(
    scene: Scene, noise: bytes, reason: str
) -> None:
    client = await scene.open()
    name = name_of(client)
    client.writer.write(noise)
    await client.rest()
    (record,) = scene.server.records()
    assert record["event"] == "connection.broken"
    assert record["client"] == name
    assert record["reason"].startswith(reason)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 30, 48])
async def test_a_connect_request_cut_off_anywhere_is_just_a_lost_connection(scene: Scene, size: int) -> None:
    client = await scene.open()
    client.writer.write(connect_frame()[:size])
    client.writer.write_eof()
    assert await client.rest() == b""
    assert scene.broken_links() == []


async def test_a_request_cut_off_anywhere_is_not_carried_out(scene: Scene) -> None:
    frame = request_frame(1, OpCode.CREATE, create("/cut", b"data"))
    for size in range(1, len(frame)):
        client = await scene.client()
        client.writer.write(frame[:size])
        client.writer.write_eof()
        assert await client.rest() == b""
        await client.close()
    reader = await scene.client()
    assert (await reader.call(OpCode.GET_DATA, GetDataRequest("/cut", False))).err == -101
    assert scene.broken_links() == []


@pytest.mark.parametrize("seed", range(4))
async def test_garbage_in_a_session_harms_nobody_else(scene: Scene, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(50):
        client = await scene.open() if number % 3 == 0 else await scene.client()
        if number % 2:
            garbage = rng.randbytes(rng.randrange(1, 3000))
        else:
            bodies = [struct.pack(">ii", n, rng.randrange(-12, 110)) + rng.randbytes(40) for n in range(20)]
            garbage = b"".join(framed(body) for body in bodies)
        with contextlib.suppress(ConnectionError):
            client.writer.write(garbage)
            await client.writer.drain()
            client.writer.write_eof()
        await client.rest()
        await client.close()
        if number % 10 == 0:
            await scene.others_are_served()
    for record in scene.server.records():
        assert record["event"] in {"connection.broken", "auth.failed"}


async def test_senders_of_single_bytes_are_served_and_hold_up_nobody(scene: Scene) -> None:
    slow = [await scene.open() for _ in range(20)]
    for client in slow:
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = connect_frame() + request_frame(1, OpCode.SYNC, SyncRequest("/"))
    for position, byte in enumerate(stream):
        for client in slow:
            client.writer.write(bytes([byte]))
        await asyncio.sleep(0)
        if position % 20 == 0:
            await scene.others_are_served()
    for client in slow:
        assert (await client.connect_response()).session_id
        assert (await client.reply()).path == "/"
    assert scene.broken_links() == []


async def test_frames_that_are_announced_and_never_come_take_no_memory(scene: Scene) -> None:
    before = scene.server.rss
    for _ in range(200):
        client = await scene.client()
        client.writer.write(struct.pack(">i", JUTE_MAX) + bytes(10))
    await scene.others_are_served()
    assert scene.server.rss - before < 10 * MB
    assert scene.broken_links() == []


async def test_clients_that_never_read_their_replies_are_not_read_either(scene: Scene) -> None:
    """Each asks for 90 MB, and what waits for it is about a node more than `QUEUED_BYTES_MAX`."""
    node = bytes(900_000)
    owner = await scene.client()
    assert (await owner.call(OpCode.CREATE, create("/large", node))).err == 0
    before = scene.server.rss
    deaf = [await scene.client() for _ in range(10)]
    for client in deaf:
        client.stop_reading()
        client.writer.write(request_frame(1, OpCode.GET_DATA, GetDataRequest("/large", False)) * 100)
    for _ in range(20):
        await scene.others_are_served()
    assert scene.server.rss - before < len(deaf) * (QUEUED_BYTES_MAX + 2 * len(node)) + 20 * MB
    assert scene.broken_links() == []
    for client in deaf[:1]:
        # It has only been waiting: nothing is lost.
        client.go_on_reading()
        for _ in range(100):
            assert (await client.reply()).data == node
    for client in deaf:
        await client.close()
    assert (await owner.call(OpCode.DELETE, delete("/large"))).err == 0


async def test_clients_that_never_read_their_events_are_cut_off(scene: Scene) -> None:
    """Memory stays below the bound of each, and a second time takes no more than the first."""
    writer = await scene.client()
    before = scene.server.rss
    peak = 0
    for turn in range(2):
        deaf = [await scene.client() for _ in range(3)]
        for client in deaf:
            assert (await client.call(OpCode.ADD_WATCH, AddWatchRequest("/", 1))).err == 0
            client.stop_reading()
        reasons: list[str] = []
        for _ in range(3000):
            path = f"/{'x' * 50_000}"
            writer.send(OpCode.CREATE, create(path))
            writer.send(OpCode.DELETE, delete(path))
            assert (await writer.reply()).err == (await writer.reply()).err == 0
            reasons += scene.broken_links()
            if len(reasons) == len(deaf):
                break
        assert [reason.partition(" ")[2] for reason in reasons] == [
            "bytes wait for a client that does not read"
        ] * len(deaf)
        assert all(int(reason.split()[0]) < SEND_BUFFER_MAX + MB for reason in reasons)
        if turn == 0:
            peak = scene.server.rss
            assert peak - before < len(deaf) * SEND_BUFFER_MAX + 40 * MB
        else:
            assert scene.server.rss - peak < 20 * MB
        for client in deaf:
            client.go_on_reading()
            await client.close()


async def test_ten_thousand_idle_connections_cost_little_and_disturb_nobody(scene: Scene) -> None:
    """Half of them have a session, half have not said a word."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < IDLE + 200:
        pytest.skip(f"only {hard} descriptors are allowed")
    before = scene.server.rss
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        for number in range(IDLE):
            # Addresses of their own, so that the ports of one do not run out.
            sock = socket.socket()
            sock.setblocking(False)
            sock.bind((f"127.0.0.{1 + number % 4}", 0))
            sockets.append(sock)
            await loop.sock_connect(sock, ("127.0.0.1", scene.port))
            if number % 2:
                await loop.sock_sendall(sock, connect_frame(60_000))
            if number % 1000 == 0:
                await scene.others_are_served()
        for sock in sockets[1::2]:
            assert len(await loop.sock_recv(sock, 100)) == 41
        assert scene.server.rss - before < IDLE * 8 * 1024
        async with asyncio.timeout(5):
            for _ in range(20):
                await scene.others_are_served()
        assert await connections(scene) > IDLE
    finally:
        for sock in sockets:
            sock.close()
    async with asyncio.timeout(TIMEOUT_S):
        while await connections(scene) > 10:  # noqa: ASYNC110  the server is another process
            await asyncio.sleep(0.05)
    assert scene.broken_links() == []


async def connections(scene: Scene) -> int:
    """As the server counts them."""
    client = await scene.open()
    client.writer.write(b"srvr")
    answer = (await client.rest()).decode()
    return int(answer.partition("Connections: ")[2].split()[0])


async def test_nothing_of_it_has_left_a_trace(scene: Scene) -> None:
    client = await scene.client()
    assert (await client.call(OpCode.SET_DATA, set_data("/", b"still here"))).err == 0
    assert await connections(scene) < 10
