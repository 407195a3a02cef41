"""A server without sockets, disk and clock: a `Service`, the frames of its clients, and a log that is durable when told so.

    server = LocalServer()
    client = server.client()                            # connected
    reply = client.call(OpCode.CREATE, create("/a"))    # header, record, everything persisted, reply

What a shell does is done in the order of the real one (`zkpy.net.client_server`, `zkpy.runtime.driver`): bytes are taken from
links that are dirty, requests that must wait are offered again later, nothing is applied before it is in `log`. With `holding`
set writes stay in flight until `persist` or `settle`; time moves by `advance` only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from tests.fakes.replies import Event, Reply, decode_frames, encode
from zkpy.auth.providers import DigestProvider, IpProvider, ProviderRegistry
from zkpy.core.auth import AuthOutcome
from zkpy.core.data_tree import DataTree
from zkpy.core.leading import standalone
from zkpy.core.link import CLOSE_AFTER_FLUSH, DROPPED, ClientLink
from zkpy.core.owners import OwnerRules
from zkpy.core.service import ServiceOptions
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    ConnectRequest,
    ConnectResponse,
    Id,
    RequestHeader,
    decode_auth_packet,
    decode_connect_response,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zkpy.core.acl import AclProviders
    from zkpy.core.auth import Authenticator
    from zkpy.core.service import Service
    from zkpy.core.txn import Txn

WALL_MS = 1_700_000_000_000
MONO_MS = 1_000_000
SUPER = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
"""superDigest of the password ``super:test``."""


class PacketAuth:
    """An `Authenticator` for digest: every packet of another scheme fails. SASL is answered with its own token.

    `needed` is the scheme without which nothing is served, if there is one.
    """

    def __init__(self, provider: DigestProvider, needed: str | None = None) -> None:
        self._provider = provider
        self._needed = needed

    @property
    def required(self) -> bool:
        return self._needed is not None

    def satisfied_by(self, ids: Sequence[Id]) -> bool:
        return self._needed is None or any(id_.scheme == self._needed for id_ in ids)

    def packet(self, link: ClientLink, frame: bytes) -> AuthOutcome:
        packet, _ = decode_auth_packet(frame, 8)
        if packet.scheme == "silent":
            return AuthOutcome(answered=False, close=True, failed=True)
        if packet.scheme != "digest" or packet.auth is None:
            return AuthOutcome(ErrorCode.AUTHFAILED, close=True, failed=True)
        user = packet.auth.decode()
        ids = [Id("digest", self._provider.generate_digest(user))]
        if ids[0].id == SUPER:
            ids.append(Id("super", ""))
        return AuthOutcome(ids=ids)

    def sasl(self, link: ClientLink, frame: bytes) -> AuthOutcome:
        return AuthOutcome(body=frame[8:], ids=[Id("sasl", "bob")])


class Server(Protocol):
    """What a client needs of the server it talks to."""

    @property
    def service(self) -> Service: ...

    @property
    def wall_ms(self) -> int: ...

    @property
    def mono_ms(self) -> int: ...

    def pump(self) -> None:
        """Deliver what the service has to say."""


class Client:
    """One connection of a client.

    Attributes:
        closed: the server has closed the connection.
        inbox: what arrived and was not looked at yet.
    """

    def __init__(self, server: Server, host: str = "127.0.0.1", ids: Iterable[Id] = ()) -> None:
        self.server = server
        self.link = ClientLink(server.service.dirty, host, 40000, (Id("ip", host), *ids))
        self.link.shell = self
        self.inbox: list[Reply | Event] = []
        self.closed = False
        self.connect_response: ConnectResponse | None = None
        self.session_id = 0
        self.password = b""
        self._xid = 0
        self._backlog: Sequence[bytes] = ()
        self._held: list[bytes] = []
        self._connecting = True

    # -- the client's side

    def connect(
        self,
        *,
        timeout_ms: int = 10_000,
        session_id: int = 0,
        password: bytes | None = bytes(16),
        last_zxid_seen: int = 0,
        read_only: bool | None = False,
    ) -> ConnectResponse | None:
        """Send a ConnectRequest; the answer, if it comes at once."""
        request = ConnectRequest(0, last_zxid_seen, timeout_ms, session_id, password, read_only)
        server = self.server
        server.service.connect(self.link, request, server.wall_ms, server.mono_ms)
        server.pump()
        return self.connect_response

    def send(self, op: int, record: Any = None, *, xid: int | None = None) -> int:
        """Send one request; its xid."""
        if xid is None:
            self._xid += 1
            xid = self._xid
        self.send_frames(encode(RequestHeader(xid, op)) + (b"" if record is None else encode(record)))
        return xid

    def send_frames(self, *frames: bytes) -> None:
        """Send the bodies of some frames in one piece."""
        assert not self.closed, "sent on a closed connection"
        if self._connecting:
            self._held += frames
            return
        self._offer((*self._backlog, *frames))
        self.server.pump()

    def call(self, op: int, record: Any = None, *, xid: int | None = None) -> Reply:
        """Send one request and return the reply, which must come at once; events stay in the inbox."""
        sent = self.send(op, record, xid=xid)
        for index, message in enumerate(self.inbox):
            if isinstance(message, Reply) and message.xid == (-2 if op == OpCode.PING else sent):
                return self.inbox.pop(index)  # type: ignore[return-value]
        raise AssertionError(f"no reply to request {sent} of type {op}: {self.inbox}")

    def received(self) -> list[Reply | Event]:
        """What has arrived since the last look."""
        messages = self.inbox
        self.inbox = []
        return messages

    def events(self) -> list[tuple[int, str | None]]:
        """Type and path of the events that have arrived; replies among them are a mistake of the test."""
        messages = self.received()
        assert all(isinstance(message, Event) for message in messages), messages
        return [(message.type, message.path) for message in messages if isinstance(message, Event)]

    def replies(self) -> list[Reply]:
        """The replies that have arrived; events among them are a mistake of the test."""
        messages = self.received()
        assert all(isinstance(message, Reply) for message in messages), messages
        return [message for message in messages if isinstance(message, Reply)]

    def hang_up(self) -> None:
        """The client closes its socket."""
        assert not self.closed
        self.closed = True
        self.server.service.disconnected(self.link)
        self.server.pump()

    # -- the shell's side

    def _offer(self, frames: Sequence[bytes]) -> None:
        server = self.server
        taken = server.service.receive(self.link, frames, 0, server.wall_ms, server.mono_ms)
        self._backlog = () if self.link.state >= CLOSE_AFTER_FLUSH else tuple(frames[taken:])

    @property
    def waiting(self) -> int:
        """Requests the server has not taken yet."""
        return len(self._backlog)

    def flush(self) -> None:
        """The server has bytes for this client, or wants to close it."""
        link = self.link
        data = link.take()
        if data and not self.closed:
            if self.connect_response is None:
                data = self._open(data)
            self.inbox += decode_frames(data)
        if link.state >= CLOSE_AFTER_FLUSH:
            if not self.closed:
                self.closed = True
                self.server.service.disconnected(link)
            return
        if link.resume_reading:
            link.resume_reading = False
            self._connecting = False
            self._backlog = tuple(self._held)
            self._held = []
        if self._backlog and not self.server.service.must_wait(link):
            self._offer(self._backlog)

    def _open(self, data: bytes) -> bytes:
        end = 4 + int.from_bytes(data[:4])
        response, used = decode_connect_response(data[:end], 4)
        assert used == end
        self.connect_response = response
        self.session_id = response.session_id
        self.password = response.passwd or b""
        return data[end:]


def deliver(dirty: list[ClientLink]) -> None:
    """What a service has to say reaches its clients."""
    while dirty:
        links = dirty.copy()
        dirty.clear()
        for link in links:
            assert isinstance(link.shell, Client)
            assert links.count(link) == 1, "a link is dirty once"
            link.shell.flush()
        assert all(link.state != DROPPED or not link.out for link in links)


class Clock(Protocol):
    """Whoever lets time pass."""

    wall_ms: int
    mono_ms: int


class Gate(ABC):
    """A `Server` for clients of a service that something else drives, and that may be another one later."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @property
    @abstractmethod
    def service(self) -> Service:
        """The one that serves now."""

    @property
    def wall_ms(self) -> int:
        return self.clock.wall_ms

    @property
    def mono_ms(self) -> int:
        return self.clock.mono_ms

    def pump(self) -> None:
        deliver(self.service.dirty)


class LocalServer:
    """One service and its surroundings.

    Attributes:
        log: every txn that became durable, in order.
        holding: proposals stay in flight until `persist` or `settle`.
    """

    def __init__(
        self,
        *,
        extended: bool = False,
        digest: bool = True,
        auth: Authenticator | None = None,
        providers: AclProviders | None = None,
        tree: DataTree | None = None,
        sessions: dict[int, int] | None = None,
        **options: Any,
    ) -> None:
        self.wall_ms = WALL_MS
        self.mono_ms = MONO_MS
        self.owners = OwnerRules(extended, emulate_353=False)
        self.log: list[Txn] = []
        self.holding = False
        digest_provider = DigestProvider(super_digest=SUPER)
        settings = {
            "tick_time_ms": 2000,
            "min_session_timeout_ms": 4000,
            "max_session_timeout_ms": 40000,
        } | options
        self.service = standalone(
            ServiceOptions(**settings),
            DataTree(self.owners, digest) if tree is None else tree,
            {} if sessions is None else sessions,
            ProviderRegistry([IpProvider(), digest_provider]) if providers is None else providers,
            PacketAuth(digest_provider) if auth is None else auth,
            self.wall_ms,
            self.mono_ms,
        )

    @property
    def tree(self) -> DataTree:
        return self.service.tree

    def client(self, *, host: str = "127.0.0.1", ids: Iterable[Id] = (), timeout_ms: int = 10_000) -> Client:
        """A client with a new session."""
        client = Client(self, host, ids)
        client.connect(timeout_ms=timeout_ms)
        if client.connect_response is None:
            self.settle()
        assert client.session_id != 0
        return client

    def reconnect(self, old: Client, **more: Any) -> Client:
        """A new connection that asks for the session of `old`."""
        client = Client(self)
        client.connect(session_id=old.session_id, password=old.password, **more)
        return client

    # -- progress

    def pump(self) -> None:
        """Make durable what is proposed, unless held, and deliver what the service has to say."""
        while True:
            deliver(self.service.dirty)
            if self.holding or not self.persist(1 << 30):
                return

    def persist(self, count: int) -> bool:
        """Let the first `count` txns in flight become durable together. False: there is none."""
        txns = self.service.take_unlogged(count)
        if not txns:
            return False
        self.log += txns
        self.service.persisted(txns[-1].zxid, self.mono_ms)
        deliver(self.service.dirty)
        return True

    def settle(self) -> None:
        """Nothing is in flight any more, and nothing waits."""
        held, self.holding = self.holding, False
        self.pump()
        self.holding = held

    def advance(self, ms: int) -> None:
        """Time passes in steps of half a tick, as a server's timer sees it."""
        while ms > 0:
            step = min(ms, 1000)
            ms -= step
            self.wall_ms += step
            self.mono_ms += step
            self.service.tick(self.wall_ms, self.mono_ms)
            self.pump()

    def log_full(self) -> None:
        """The log had no room for what is in flight and was cut back."""
        self.service.log_rolled_back(self.mono_ms)
        deliver(self.service.dirty)
