"""A server in memory that can be asked four letter words: the real core and the real client port, without sockets, disk
or clock. What a client sends is logged at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.fakes.input_counter import InputCounter
from zkpy.auth.authenticator import LinkAuthenticator
from zkpy.auth.providers import AuthEnforcement, AuthSettings, ProviderRegistry
from zkpy.auth.sasl import SaslPolicy, SaslSettings
from zkpy.core.data_tree import DataTree
from zkpy.core.leading import standalone
from zkpy.core.owners import OwnerRules
from zkpy.core.service import ServiceOptions
from zkpy.net.client_server import ClientConnection, ClientPort, PortOptions
from zkpy.ops.config_loader import config_from_text
from zkpy.ops.four_letter import KNOWN_WORDS, FourLetterWords
from zkpy.ops.report import ServerView, StorageStats
from zkpy.runtime.driver import LogStats
from zkpy_protocol.opcodes import OpCode, Perms
from zkpy_protocol.records import (
    ACL,
    AuthPacket,
    ConnectRequest,
    CreateRequest,
    GetDataRequest,
    Id,
    RequestHeader,
    encode_auth_packet,
    encode_connect_request,
    encode_create_request,
    encode_get_data_request,
    encode_request_header,
)

if TYPE_CHECKING:
    from pathlib import Path

    from zkpy.core.link import ClientLink

WALL_MS = 1795255629598  # Sat Nov 21 10:07:09 UTC 2026
MONO_MS = 751_072
TICK_MS = 2000
PORT = 29700
ANYONE = [ACL(int(Perms.ALL), Id("world", "anyone"))]


class Transport(asyncio.Transport):
    """The end of a socket that nobody reads: keeps what is written."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__({"peername": address})
        self.written = bytearray()
        self.waiting = 0
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class AskedServer(InputCounter):
    """Stands for the runtime of one server, with clocks that stand still until a test moves them."""

    def __init__(
        self, data_dir: Path, whitelist: str = "*", extra: str = "", auth: AuthSettings | None = None
    ) -> None:
        self.config = config_from_text(
            f"clientPort={PORT}\ndataDir={data_dir}\ntickTime={TICK_MS}\n4lw.commands.whitelist={whitelist}\n{extra}"
        )
        for directory in (self.config.data_dir, self.config.data_log_dir):
            (data_dir.__class__(directory) / "version-2").mkdir(parents=True, exist_ok=True)
        self.now = 0
        self.log_stats = LogStats()
        self.refusals: list[str] = []
        registry = ProviderRegistry.from_config(auth or AuthSettings(), lambda: None)
        enforcement = AuthEnforcement.from_config(AuthSettings(), registry)
        sasl = SaslPolicy(SaslSettings(users=None), bytes, is_required=False)
        self.service = standalone(
            ServiceOptions(
                tick_time_ms=TICK_MS, min_session_timeout_ms=2 * TICK_MS, max_session_timeout_ms=20 * TICK_MS
            ),
            DataTree(OwnerRules(extended=False, emulate_353=False)),
            {},
            registry,
            LinkAuthenticator(registry, enforcement, sasl, lambda *_: None),
            self.wall_ms(),
            self.mono_ms(),
        )
        options = PortOptions(
            frame_max=0xFFFFF,
            words=KNOWN_WORDS,
            max_client_cnxns=60,
            max_cnxns=0,
            sessionless_timeout_ms=10_000,
            keepalive=False,
            secure=False,
        )
        self.port = ClientPort(self, options)
        self.view = ServerView(self.config, self, [self.port], MONO_MS - 7023, StorageStats(), registry)
        self.words = FourLetterWords(self.view)

    # -- what the client port and the words want of a runtime

    def wall_ms(self) -> int:
        return WALL_MS + self.now

    def mono_ms(self) -> int:
        return MONO_MS + self.now

    def after_input(self) -> None:
        for link in self.service.dirty.copy():
            self._flush(link)
        if self.service.unlogged:
            txns = self.service.take_unlogged(1000)
            self.service.persisted(txns[-1].zxid, self.mono_ms())
            for link in self.service.dirty.copy():
                self._flush(link)

    def _flush(self, link: ClientLink) -> None:
        self.service.dirty.remove(link)
        assert isinstance(link.shell, ClientConnection)
        link.shell.flush()

    def refused(self, event: str, host: str, port: int, reason: str) -> None:
        self.refusals.append(f"{event} {host}:{port} {reason}")

    def four_letter_word(self, word: bytes, argument: bytes) -> bytes | None:
        return self.words.answer(word, argument)

    # -- what tests do

    def connect(self, host: str = "127.0.0.1", port: int = 58126) -> Socket:
        """A connection that has sent nothing yet."""
        return Socket(self, host, port)

    def client(self, port: int = 58126) -> Socket:
        """A connection with a session of 10 s."""
        socket = self.connect(port=port)
        request = ConnectRequest(0, 0, 10_000, 0, bytes(16), False)
        socket.send_frame(encode_connect_request(request))
        return socket

    def ask(self, word: bytes) -> str:
        """What an operator is answered who sends `word` and whatever follows it."""
        socket = self.connect(port=58200)
        socket.send(word)
        assert socket.transport.is_closed
        socket.end()
        return socket.transport.written.decode()


class Socket:
    """One connection, seen from its client."""

    def __init__(self, server: AskedServer, host: str, port: int) -> None:
        self.transport = Transport((host, port))
        self.connection = ClientConnection(server.port)
        self.connection.connection_made(self.transport)
        self._xid = 0

    @property
    def link(self) -> ClientLink:
        return self.connection.link

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def send_frame(self, body: bytes) -> None:
        self.send(len(body).to_bytes(4, "big") + body)

    def request(self, op: int, record: bytes) -> None:
        self._xid += 1
        self.send_frame(encode_request_header(RequestHeader(self._xid, op)) + record)

    def create(self, path: str, data: bytes = b"", flags: int = 0) -> None:
        self.request(OpCode.CREATE, encode_create_request(CreateRequest(path, data, ANYONE, flags)))

    def get_data(self, path: str, watch: bool) -> None:
        self.request(OpCode.GET_DATA, encode_get_data_request(GetDataRequest(path, watch)))

    def authenticate(self, scheme: str, auth: bytes) -> None:
        self.request(OpCode.AUTH, encode_auth_packet(AuthPacket(0, scheme, auth)))

    def end(self) -> None:
        self.transport.close()
        self.connection.connection_lost(None)
