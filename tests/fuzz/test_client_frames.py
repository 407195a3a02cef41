"""Invariant: whatever a client sends, every complete request is answered or the connection is closed; nothing is raised, what is
logged can be read again, replies are whole frames, and what waits for a client that does not read is bounded.

The real connection (`zkpy.net.client_server`) over the real service and authenticator; only socket, clock and disk are not.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.input_counter import InputCounter
from tests.fakes.local_server import LocalServer
from tests.fakes.replies import create, encode, multi, set_data
from tests.fuzz import smoke
from tests.strategies import INTS
from zkpy import wiring
from zkpy.auth.authenticator import LinkAuthenticator
from zkpy.auth.providers import AuthEnforcement
from zkpy.auth.sasl import SaslPolicy, SaslSettings
from zkpy.core.link import CLOSE_AFTER_FLUSH, QUEUED_BYTES_MAX
from zkpy.core.pipeline.reads import REPLY_HEADER_BYTES
from zkpy.net.client_server import SEND_BUFFER_MAX, ClientConnection, ClientPort, PortOptions
from zkpy.ops.config_loader import config_from_text
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import (
    AddWatchRequest,
    AuthPacket,
    ConnectRequest,
    GetDataRequest,
    GetSASLRequest,
    SetWatches2,
    encode_connect_request,
)
from zkpy_protocol.txns import decode_payload

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAME_MAX = 0xFFFFF
HIGH_WATER = 64 << 10
SUPER = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
OPS = sorted({value for name, value in vars(OpCode).items() if name.isupper()})

# Bits of the first byte of an input.
CONNECTED = 1  # a session is opened before
PIECES = 2  # the stream arrives in pieces of 7 bytes
DEAF = 4  # the client does not read
FRAMED = 8  # the rest is requests (op, length, body) and not a stream

_CONNECT = encode_connect_request(ConnectRequest(0, 0, 10_000, 0, bytes(16), False))
_CONFIG = config_from_text(
    "clientPort=2181\ndataDir=/none\n", {"zookeeper.DigestAuthenticationProvider.superDigest": SUPER}
)


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


class Socket(asyncio.Transport):
    """The other end takes everything at once, or nothing at all."""

    def __init__(self, is_deaf: bool) -> None:
        super().__init__({"peername": ("127.0.0.1", 40000)})
        self.protocol: ClientConnection
        self.sent = bytearray()
        self.is_reading_paused = False
        self.is_gone = False
        self._is_deaf = is_deaf

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_gone:
            return  # as asyncio's
        self.sent += data
        if self._is_deaf and len(self.sent) > HIGH_WATER:
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.sent) if self._is_deaf else 0

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def is_closing(self) -> bool:
        return self.is_gone

    @property
    def accepts(self) -> bool:
        """Whether the server wants to hear more."""
        return not (self.is_gone or self.is_reading_paused)

    def close(self) -> None:
        self.is_gone = True

    def abort(self) -> None:
        self.is_gone = True


class Shell(InputCounter):
    """The driver of `client_server`, with a disk that is always done at once."""

    def __init__(self) -> None:
        registry = wiring.providers(_CONFIG, lambda: None)
        settings = SaslSettings(users={"bob": "bobsecret"}, fips_mode=False)
        sasl = SaslPolicy(settings, bytes, is_required=False)
        auth = LinkAuthenticator(registry, AuthEnforcement(), sasl, lambda _link, _scheme, _reason: None)
        self._server = LocalServer(extended=True, auth=auth, providers=registry)
        self.service = self._server.service
        self.reasons: list[str] = []
        self.sockets: list[Socket] = []
        options = PortOptions(
            frame_max=FRAME_MAX,
            words=(b"ruok", b"stmk"),
            max_client_cnxns=0,
            max_cnxns=0,
            sessionless_timeout_ms=10_000,
            keepalive=False,
            secure=False,
        )
        self.port = ClientPort(self, options)

    def wall_ms(self) -> int:
        return self._server.wall_ms

    def mono_ms(self) -> int:
        return self._server.mono_ms

    def refused(self, event: str, host: str, port: int, reason: str) -> None:
        assert all((event, host, port, reason))
        self.reasons.append(reason)

    def four_letter_word(self, word: bytes, argument: bytes) -> bytes | None:
        return b"imok" if word == b"ruok" else b"mask" if len(argument) >= 8 else None

    def after_input(self) -> None:
        """Nothing is sent before the turn of the loop ends, as when the disk is slow."""

    def connect(self, *, is_deaf: bool = False) -> Socket:
        sock = Socket(is_deaf)
        sock.protocol = ClientConnection(self.port)
        sock.protocol.connection_made(sock)
        self.sockets.append(sock)
        return sock

    def turn(self) -> None:
        """Everything that is under way gets done."""
        while True:
            while self.service.dirty:
                links = self.service.dirty.copy()
                self.service.dirty.clear()
                for link in links:
                    assert isinstance(link.shell, ClientConnection)
                    link.shell.flush()
            for sock in [sock for sock in self.sockets if sock.is_gone]:
                self.sockets.remove(sock)
                sock.protocol.connection_lost(None)
            txns = self.service.take_unlogged(1 << 30)
            if not txns:
                return
            for txn in txns:
                header, _, _ = decode_payload(txn.payload)
                assert header.zxid == txn.zxid
            self.service.persisted(txns[-1].zxid, self.mono_ms())


def feed(shell: Shell, sock: Socket, data: bytes, size: int) -> None:
    """What a loop does: nothing is delivered to a connection that is closed or does not read."""
    for start in range(0, len(data), size):
        if sock.is_reading_paused:
            shell.turn()
        if not sock.accepts:
            break
        sock.protocol.data_received(data[start : start + size])
    shell.turn()


def stream_of(data: bytes) -> bytes:
    """Requests out of arbitrary bytes: an index of an operation, a length, so much of a record; again."""
    stream = b""
    position = xid = 0
    while position + 2 <= len(data):
        op, length = OPS[data[position] % len(OPS)], data[position + 1]
        xid += 1
        body = data[position + 2 : position + 2 + length]
        stream += framed(struct.pack(">ii", -2 if op == OpCode.PING else xid, op) + body)
        position += 2 + length
    return stream


def check(data: bytes) -> None:
    mode, rest = data[:1] or b"\0", data[1:]
    flags = mode[0]
    shell = Shell()
    watcher = shell.connect()
    watch = struct.pack(">ii", 1, OpCode.ADD_WATCH) + encode(AddWatchRequest("/", 1))
    feed(shell, watcher, framed(_CONNECT) + framed(watch), 1 << 16)
    sock = shell.connect(is_deaf=bool(flags & DEAF))
    if flags & CONNECTED:
        feed(shell, sock, framed(_CONNECT), 1 << 16)
    feed(shell, sock, stream_of(rest) if flags & FRAMED else rest, 7 if flags & PIECES else 1 << 16)

    assert not watcher.is_gone, "somebody else was cut off"
    count_frames(watcher.sent)
    limit = SEND_BUFFER_MAX + QUEUED_BYTES_MAX + 2 * FRAME_MAX
    assert len(sock.sent) <= limit or not flags & DEAF
    link = sock.protocol.link
    if sock.is_gone:
        assert link.state >= CLOSE_AFTER_FLUSH
        assert sock not in shell.sockets
    elif not flags & DEAF:
        assert not link.pending, "a request was never answered"
        assert sock.protocol.is_reading
    if flags & CONNECTED:
        count_frames(sock.sent)
    assert len(shell.reasons) <= 1
    sock.is_gone = watcher.is_gone = True
    shell.turn()
    assert not shell.port.connections
    assert not shell.service.links
    assert shell.service.stats.outstanding == 0


def count_frames(data: bytearray) -> int:
    """Frames of a reply header or a connect response at least, and nothing behind them."""
    count = position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4])
        assert length >= REPLY_HEADER_BYTES
        position += 4 + length
        count += 1
    assert position == len(data)
    return count


def seeds() -> Iterator[bytes]:
    requests: list[tuple[int, Any]] = [
        (OpCode.CREATE, create("/a", b"data")),
        (OpCode.GET_DATA, GetDataRequest("/a", True)),
        (OpCode.SET_DATA, set_data("/a", b"other")),
        (OpCode.MULTI, multi((OpCode.CREATE, create("/b", flags=3)), (OpCode.CHECK, set_data("/a")))),
        (OpCode.AUTH, AuthPacket(0, "digest", b"super:test")),
        (OpCode.SASL, GetSASLRequest(b"")),
        (OpCode.SET_WATCHES2, SetWatches2(0, ["/a"], ["/b"], ["/"], ["/"], ["/"])),
        (OpCode.CLOSE_SESSION, b""),
    ]
    for op, record in requests:
        yield bytes([CONNECTED]) + framed(struct.pack(">ii", 1, op) + encode(record))
    bodies = [bytes([OPS.index(op), len(encode(record))]) + encode(record) for op, record in requests]
    yield bytes([CONNECTED | FRAMED]) + b"".join(bodies)
    yield bytes([CONNECTED | FRAMED | PIECES | DEAF]) + b"".join(bodies)
    yield b"\0" + framed(_CONNECT)
    yield b"\0ruok"
    yield b"\0GET / HTTP/1.1\r\n\r\n"
    yield b"\2\x16\x03\x01\x00\xc8"


def _request(op: int, body: bytes) -> bytes:
    return bytes([OPS.index(op), len(body)]) + body


_REQUESTS: st.SearchStrategy[bytes] = st.builds(
    _request,
    st.sampled_from(OPS),
    st.binary(max_size=60) | st.sampled_from([seed[13:73] for seed in seeds()]),
)


@smoke
@given(st.integers(0, 15), st.lists(_REQUESTS, max_size=8))
def test_requests_of_every_kind_with_any_record(flags: int, requests: list[bytes]) -> None:
    check(bytes([flags | CONNECTED | FRAMED]) + b"".join(requests))


@smoke
@given(st.integers(0, 7), st.binary(max_size=200))
def test_any_stream(flags: int, data: bytes) -> None:
    check(bytes([flags]) + data)


@smoke
@given(st.integers(0, 7), INTS, st.binary(max_size=80))
def test_a_first_frame_of_any_length(flags: int, length: int, data: bytes) -> None:
    check(bytes([flags]) + struct.pack(">i", length) + data)


@smoke
@given(st.sampled_from(list(seeds())), st.data())
def test_good_input_with_a_change(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(changed[: data.draw(st.integers(1, len(changed)))]))


def test_every_seed() -> None:
    for seed in seeds():
        check(seed)


def test_a_deaf_client_stops_being_read() -> None:
    """Small requests for a large node: what waits is some replies, not all of them."""
    large = 200_000
    node = framed(struct.pack(">ii", 1, OpCode.CREATE) + encode(create("/a", bytes(large))))
    gets = framed(struct.pack(">ii", 2, OpCode.GET_DATA) + encode(GetDataRequest("/a", False))) * 500
    shell = Shell()
    sock = shell.connect(is_deaf=True)
    feed(shell, sock, framed(_CONNECT) + node, 1 << 16)
    feed(shell, sock, gets, 1 << 16)
    assert not sock.protocol.is_reading
    assert large < len(sock.sent) < 2 * QUEUED_BYTES_MAX
