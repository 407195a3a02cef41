"""Throttles: which connects are admitted, when requests are taken, which are refused (client protocol §18).

The rules on requests are tested through the client port that obeys them, on sockets in memory: a log that is durable when told
so decides what is in flight.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.input_counter import InputCounter
from tests.fakes.local_server import PacketAuth
from tests.fakes.replies import Event, Reply, create, decode_frames, encode, set_data
from zkpy.auth.providers import DigestProvider, IpProvider, ProviderRegistry
from zkpy.core import throttling
from zkpy.core.data_tree import DataTree
from zkpy.core.leading import standalone
from zkpy.core.owners import OwnerRules
from zkpy.core.pipeline.prep import WRITE_OPS
from zkpy.core.pipeline.reads import HANDLERS
from zkpy.core.service import ServiceOptions
from zkpy.core.throttling import (
    ConnectionThrottle,
    ConnectionThrottleOptions,
    RequestThrottle,
    RequestThrottleOptions,
    SessionWeights,
)
from zkpy.net.client_server import ClientConnection, ClientPort, PortOptions
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import (
    AuthPacket,
    ConnectRequest,
    GetDataRequest,
    RequestHeader,
    decode_connect_response,
)

if TYPE_CHECKING:
    from zkpy.core.stats import CoreStats

START_MS = 5000


# -- the token bucket


def bucket(seed: int = 1, **options: Any) -> ConnectionThrottle:
    return ConnectionThrottle(ConnectionThrottleOptions(**options), Random(seed), START_MS)


def admitted(throttle: ConnectionThrottle, at_ms: int, count: int, *, is_new: bool = True) -> int:
    return sum(throttle.admits(START_MS + at_ms, is_new=is_new) for _ in range(count))


def test_a_full_bucket_admits_as_many_connects_as_it_has_tokens() -> None:
    throttle = bucket(tokens=3)
    assert admitted(throttle, 0, 5) == 3
    assert throttle.deficit == 3


def test_tokens_come_back_once_more_than_the_fill_time_has_passed() -> None:
    throttle = bucket(tokens=10, fill_time_ms=100, fill_count=2)
    assert admitted(throttle, 0, 10) == 10
    assert admitted(throttle, 100, 10) == 0
    assert admitted(throttle, 101, 10) == 2
    assert admitted(throttle, 351, 10) == 5, "2 for each 100 ms since the last refill"


def test_the_bucket_never_holds_more_than_it_may() -> None:
    throttle = bucket(tokens=2)
    assert admitted(throttle, 0, 1) == 1
    assert admitted(throttle, 10**9, 5) == 2


@pytest.mark.parametrize("fill_time_ms", [0, -5])
def test_a_senseless_fill_time_means_one_millisecond(fill_time_ms: int) -> None:
    throttle = bucket(tokens=4, fill_time_ms=fill_time_ms)
    assert admitted(throttle, 0, 4) == 4
    assert admitted(throttle, 2, 9) == 2


def test_with_weights_settings_are_in_new_sessions_and_reconnects_are_cheaper() -> None:
    weights = SessionWeights(new=3, renewed=2)
    assert admitted(bucket(tokens=2, weights=weights), 0, 9) == 2
    assert admitted(bucket(tokens=2, weights=weights), 0, 9, is_new=False) == 3
    refilled = bucket(tokens=2, weights=weights, fill_time_ms=10, fill_count=1)
    admitted(refilled, 0, 2)
    assert refilled.deficit == 6
    assert admitted(refilled, 11, 9) == 1, "one new session per fill time"


def test_a_connect_that_costs_more_than_is_left_takes_nothing() -> None:
    throttle = bucket(tokens=1, weights=SessionWeights(new=3, renewed=2))
    assert admitted(throttle, 0, 1, is_new=False) == 1
    assert admitted(throttle, 0, 1, is_new=True) == 0
    assert throttle.deficit == 2


@pytest.mark.parametrize(
    ("new", "renewed", "local", "used"),
    [
        (3, 2, 1, (3, 2)),
        (0, 0, 1, (3, 2)),
        (-1, 7, 1, (3, 7)),
        (3, 2, 5, (5, 5)),
        (4, 2, -9, (4, 2)),
    ],
)
def test_weights_are_corrected_as_apache_does(
    new: int, renewed: int, local: int, used: tuple[int, int]
) -> None:
    assert SessionWeights.from_config(new, renewed, local) == used


# -- the chance to be refused


def test_the_chance_rises_while_the_bucket_is_empty_once_per_freeze_time() -> None:
    throttle = bucket(
        tokens=1, fill_time_ms=10**6, freeze_time_ms=50, drop_increase=0.25, drop_decrease=0.125
    )
    throttle.admits(START_MS, is_new=True)
    seen = []
    for at_ms in (50, 51, 101, 102, 153, 204, 255):
        throttle.admits(START_MS + at_ms, is_new=True)
        seen.append(throttle.drop_probability)
    assert seen == [0.0, 0.25, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_chance_falls_while_no_more_is_missing_than_the_ratio_says() -> None:
    throttle = bucket(
        tokens=4, freeze_time_ms=0, drop_increase=1.0, drop_decrease=0.5, decrease_ratio=0.5, fill_time_ms=10
    )
    assert admitted(throttle, 0, 4) == 4
    assert admitted(throttle, 1, 1) == 0
    assert throttle.drop_probability == 1.0, "empty"
    throttle.admits(START_MS + 11, is_new=True)
    assert (throttle.deficit, throttle.drop_probability) == (3, 1.0), "too much is missing"
    throttle.admits(START_MS + 22, is_new=True)
    assert throttle.drop_probability == 0.5
    throttle.admits(START_MS + 200, is_new=True)
    assert throttle.drop_probability == 0.0
    throttle.admits(START_MS + 300, is_new=True)
    assert throttle.drop_probability == 0.0


def test_who_is_refused_by_chance_takes_no_token() -> None:
    throttle = bucket(tokens=1, freeze_time_ms=0, drop_increase=1.0, fill_time_ms=10, decrease_ratio=-1.0)
    admitted(throttle, 0, 1)
    admitted(throttle, 1, 1)
    assert admitted(throttle, 500, 20) == 0
    assert throttle.deficit == 0


def test_the_chance_decides_as_often_as_it_says() -> None:
    throttle = bucket(tokens=10**6, freeze_time_ms=10**9)
    throttle.drop_probability = 0.25
    assert 2200 < admitted(throttle, 0, 3000) < 2300


def test_without_a_freeze_time_nobody_is_refused_by_chance() -> None:
    throttle = bucket(tokens=1, fill_time_ms=10**6, drop_increase=1.0)
    admitted(throttle, 0, 1)
    for at_ms in range(100):
        throttle.admits(START_MS + at_ms, is_new=True)
    assert throttle.drop_probability == 0.0


# -- a server in memory


class Wire(asyncio.Transport):
    """The server's end of a socket: keeps what is written until the client looks."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 40000)})
        self.written = bytearray()
        self._is_read = True
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        self._is_read = False

    def resume_reading(self) -> None:
        self._is_read = True

    def is_read(self) -> bool:
        return self._is_read


class Caller:
    """One client. What it sends is numbered from 1."""

    def __init__(self, server: Server, session: Caller | None = None) -> None:
        self.wire = Wire()
        self.connection = ClientConnection(server.port)
        self.connection.connection_made(self.wire)
        self._server = server
        self._xid = 0
        self.session_id: int = 0 if session is None else session.session_id
        self.password: bytes = bytes(16) if session is None else session.password
        self._send(encode(ConnectRequest(0, 0, 10_000, self.session_id, self.password, False)))
        server.persist()
        answer = bytes(self.wire.written)
        self.wire.written.clear()
        self.is_admitted = bool(answer)
        if answer:
            response, _ = decode_connect_response(answer, 4)
            self.session_id = response.session_id
            self.password = response.passwd or b""

    def frame(self, op: int, record: Any = b"") -> bytes:
        self._xid += 1
        return encode(RequestHeader(self._xid, op)) + encode(record)

    def send(self, op: int, record: Any = b"") -> None:
        self._send(self.frame(op, record))

    def send_together(self, *frames: bytes) -> None:
        self._send(*frames)

    def _send(self, *frames: bytes) -> None:
        self.connection.data_received(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))

    def replies(self) -> list[tuple[int, int]]:
        """Xid and error of what has come since the last look."""
        return [(reply.xid, reply.err) for reply in self.messages() if isinstance(reply, Reply)]

    def messages(self) -> list[Reply | Event]:
        found = decode_frames(bytes(self.wire.written))
        self.wire.written.clear()
        return found

    def hang_up(self) -> None:
        self.connection.connection_lost(None)
        self._server.after_input()

    @property
    def is_closed(self) -> bool:
        return self.wire.is_closed


class Server(InputCounter):
    """Stands for the runtime: clocks that stand still, and a log that is durable when told so."""

    def __init__(
        self,
        connects: ConnectionThrottleOptions | None = None,
        needed_scheme: str | None = None,
        outstanding_limit: int = 1000,
        **options: Any,
    ) -> None:
        self.now = 1_000_000
        digest = DigestProvider(super_digest="")
        self.service = standalone(
            ServiceOptions(global_outstanding_limit=outstanding_limit),
            DataTree(OwnerRules(extended=False, emulate_353=False)),
            {},
            ProviderRegistry([IpProvider(), digest]),
            PacketAuth(digest, needed_scheme),
            self.wall_ms(),
            self.mono_ms(),
        )
        if connects is not None:
            self.service.connection_throttle = ConnectionThrottle(connects, Random(1), self.now)
        self.service.request_throttle = RequestThrottle(self.service, RequestThrottleOptions(**options))
        self.port = ClientPort(
            self,
            PortOptions(
                frame_max=1 << 22,
                words=(),
                max_client_cnxns=0,
                max_cnxns=0,
                sessionless_timeout_ms=10_000,
                keepalive=False,
                secure=False,
            ),
        )

    @property
    def throttle(self) -> RequestThrottle:
        assert self.service.request_throttle is not None
        return self.service.request_throttle

    @property
    def stats(self) -> CoreStats:
        return self.service.stats

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + self.now

    def mono_ms(self) -> int:
        return self.now

    def refused(self, event: str, host: str, port: int, reason: str) -> None:
        raise AssertionError(f"{event} {host}:{port}: {reason}")

    def four_letter_word(self, word: bytes, argument: bytes) -> bytes | None:
        raise AssertionError((word, argument))

    def after_input(self) -> None:
        """As the driver does."""
        while self.service.dirty or self.throttle.wake():
            links = self.service.dirty.copy()
            self.service.dirty.clear()
            for link in links:
                assert isinstance(link.shell, ClientConnection)
                link.shell.flush()

    def persist(self, count: int = 1 << 30) -> int:
        """Make up to `count` of the txns in flight durable; how many there were."""
        txns = self.service.take_unlogged(count)
        if txns:
            self.service.persisted(txns[-1].zxid, self.now)
            self.after_input()
        return len(txns)


def get(path: str) -> GetDataRequest:
    return GetDataRequest(path, False)


DONE = ErrorCode.OK
LATE = ErrorCode.THROTTLEDOP


# -- connects


def test_a_connect_without_tokens_is_closed_without_an_answer_and_counted() -> None:
    server = Server(ConnectionThrottleOptions(tokens=2))
    callers = [Caller(server) for _ in range(3)]
    assert [caller.is_admitted for caller in callers] == [True, True, False]
    assert [caller.is_closed for caller in callers] == [False, False, True]
    stats = server.stats
    assert (stats.connections_rejected, stats.connection_requests, server.service.tracker.tracked()) == (
        1,
        2,
        2,
    )
    assert (stats.token_deficit.count, stats.token_deficit.sum) == (2, 1 + 2)


def test_a_reconnect_is_weighed_as_one() -> None:
    server = Server(ConnectionThrottleOptions(tokens=2, weights=SessionWeights(new=3, renewed=2)))
    first = Caller(server)
    assert Caller(server, first).is_admitted
    assert server.stats.token_deficit.max == 3 + 2
    assert not Caller(server, first).is_admitted


def test_the_deficit_of_a_server_without_buckets_is_nothing_for_each_connect() -> None:
    server = Server()
    Caller(server)
    Caller(server)
    assert (server.stats.token_deficit.count, server.stats.token_deficit.sum) == (2, 0)


# -- requests in flight


def test_no_request_is_taken_while_as_many_as_allowed_are_in_flight() -> None:
    server = Server(requests_max=2)
    writer, reader = Caller(server), Caller(server)
    for path in ("/a", "/b", "/c"):
        writer.send(OpCode.CREATE, create(path))
    reader.send(OpCode.GET_DATA, get("/"))
    assert server.stats.outstanding == 2
    assert reader.replies() == []
    assert not writer.wire.is_read()
    assert not reader.wire.is_read()
    assert server.stats.throttle_wait_count == 2
    server.persist()
    assert writer.replies() == [(1, DONE), (2, DONE)]
    assert reader.replies() == [(1, DONE)]
    server.persist()
    assert writer.replies() == [(3, DONE)]
    assert writer.wire.is_read()
    assert reader.wire.is_read()


def test_reads_that_need_not_wait_for_anything_are_never_in_flight() -> None:
    server = Server(requests_max=1)
    caller = Caller(server)
    caller.send_together(*(caller.frame(OpCode.GET_DATA, get("/")) for _ in range(5)))
    assert [xid for xid, _ in caller.replies()] == [1, 2, 3, 4, 5]
    assert server.stats.throttle_wait_count == 0


def test_those_who_wait_take_turns_in_the_order_they_came() -> None:
    server = Server(requests_max=2)
    greedy, modest, last = Caller(server), Caller(server), Caller(server)
    greedy.send_together(*(greedy.frame(OpCode.CREATE, create(f"/g{n}")) for n in range(7)))
    modest.send(OpCode.CREATE, create("/m"))
    last.send(OpCode.CREATE, create("/l"))
    order = []
    while server.persist():
        order.append((len(greedy.replies()), len(modest.replies()), len(last.replies())))
    assert order == [(2, 0, 0), (2, 0, 0), (0, 1, 1), (2, 0, 0), (1, 0, 0)]


def test_who_comes_later_does_not_overtake_those_who_wait() -> None:
    server = Server(requests_max=1)
    first, second, third = Caller(server), Caller(server), Caller(server)
    first.send(OpCode.CREATE, create("/1"))
    second.send(OpCode.CREATE, create("/2"))
    txns = server.service.take_unlogged(1)
    server.service.persisted(txns[0].zxid, server.now)
    third.send(OpCode.CREATE, create("/3"))
    server.persist()
    assert (len(second.replies()), len(third.replies())) == (1, 0)
    server.persist()
    assert len(third.replies()) == 1


def test_many_who_only_read_are_all_served_when_there_is_room_for_one() -> None:
    server = Server(requests_max=1)
    writer, *readers = (Caller(server) for _ in range(20))
    writer.send(OpCode.CREATE, create("/a"))
    for reader in readers:
        reader.send(OpCode.GET_DATA, get("/a"))
    server.persist()
    assert [reader.replies() for reader in readers] == [[(1, DONE)]] * 19


def test_a_client_that_does_not_read_does_not_keep_others_from_their_turn() -> None:
    server = Server(requests_max=1)
    writer, slow, other = Caller(server), Caller(server), Caller(server)
    writer.send(OpCode.CREATE, create("/a"))
    slow.send(OpCode.GET_DATA, get("/a"))
    other.send(OpCode.GET_DATA, get("/a"))
    slow.connection.pause_writing()
    server.persist()
    assert slow.replies() == []
    assert other.replies() == [(1, DONE)]
    slow.connection.resume_writing()
    assert slow.replies() == [(1, DONE)]


def test_one_who_was_not_reading_in_its_turn_waits_again() -> None:
    server = Server(requests_max=1)
    writer, slow = Caller(server), Caller(server)
    writer.send(OpCode.CREATE, create("/a"))
    slow.send(OpCode.GET_DATA, get("/a"))
    slow.connection.pause_writing()
    writer.send(OpCode.CREATE, create("/b"))
    server.persist()
    slow.connection.resume_writing()
    assert slow.replies() == []
    server.persist()
    assert slow.replies() == [(1, DONE)]


def test_large_replies_do_not_cost_a_reader_its_place() -> None:
    server = Server(requests_max=1)
    writer, reader = Caller(server), Caller(server)
    writer.send(OpCode.CREATE, create("/big", bytes(900_000)))
    server.persist()
    writer.send(OpCode.CREATE, create("/a"))
    reader.send_together(*(reader.frame(OpCode.GET_DATA, get("/big")) for _ in range(9)))
    writer.send(OpCode.CREATE, create("/b"))
    server.persist()
    server.persist()
    assert len(reader.replies()) == 9
    assert [err for _, err in writer.replies()] == [DONE] * 3


def test_a_waiting_connection_may_go_away() -> None:
    server = Server(requests_max=1)
    writer, gone, other = Caller(server), Caller(server), Caller(server)
    writer.send(OpCode.CREATE, create("/a"))
    gone.send(OpCode.CREATE, create("/gone"))
    other.send(OpCode.CREATE, create("/b"))
    gone.hang_up()
    server.persist()
    server.persist()
    assert other.replies() == [(1, DONE)]
    assert server.service.tree.get("/gone") is None


def test_a_connection_may_go_away_in_its_turn() -> None:
    server = Server(requests_max=1)
    writer, gone = Caller(server), Caller(server)
    writer.send(OpCode.CREATE, create("/a"))
    gone.send(OpCode.CREATE, create("/gone"))
    gone.connection.pause_writing()
    server.persist()
    gone.hang_up()
    writer.send(OpCode.CREATE, create("/b"))
    assert server.persist() == 1
    assert writer.replies() == [(1, DONE), (2, DONE)]


@pytest.mark.parametrize("seed", range(40))
def test_nobody_is_forgotten_and_answers_come_in_order(seed: int) -> None:
    """Whatever makes links wait, alone and together: no room, too much outstanding, sockets that take no more, others first."""
    random = Random(seed)
    server = Server(requests_max=random.randint(1, 4), outstanding_limit=random.randint(0, 3), large_bytes=90)
    callers = [Caller(server) for _ in range(6)]
    callers[0].send(OpCode.CREATE, create("/big", bytes(600_000)))
    server.persist()
    sent = dict.fromkeys(callers, 0)
    answers: dict[Caller, list[int]] = {caller: [xid for xid, _ in caller.replies()] for caller in callers}
    sent[callers[0]] = 1
    for _ in range(120):
        caller = random.choice(callers)
        act = random.randrange(6)
        if act == 0:
            server.persist(random.randint(1, 3))
        elif act == 1:
            caller.connection.pause_writing()
        elif act == 2:
            caller.connection.resume_writing()
        elif caller.wire.is_read():
            frames = [
                caller.frame(OpCode.GET_DATA, get("/big"))
                if random.random() < 0.5
                else caller.frame(OpCode.SET_DATA, set_data("/", bytes(random.randrange(200))))
                for _ in range(random.randint(1, 5))
            ]
            sent[caller] += len(frames)
            caller.send_together(*frames)
            server.after_input()
        for each in callers:
            answers[each] += [xid for xid, _ in each.replies()]
    for caller in callers:
        caller.connection.resume_writing()
    while server.persist():
        pass
    for caller in callers:
        assert answers[caller] + [xid for xid, _ in caller.replies()] == list(range(1, sent[caller] + 1))
        assert caller.wire.is_read()
    assert (server.stats.outstanding, server.throttle.large_bytes_in_flight) == (0, 0)


# -- stale requests


def stalled(**options: Any) -> tuple[Server, Caller, Caller]:
    """A server without room, the one who has it all, and one with two writes and a close that wait."""
    server = Server(requests_max=1, **options)
    writer, waiting = Caller(server), Caller(server)
    writer.send(OpCode.CREATE, create("/a"))
    waiting.send_together(
        waiting.frame(OpCode.CREATE, create("/b")),
        waiting.frame(OpCode.CREATE, create("/c")),
        waiting.frame(OpCode.CLOSE_SESSION),
    )
    return server, writer, waiting


def names(server: Server) -> list[str]:
    return sorted(
        set(server.service.tree.nodes) - {"", "/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"}
    )


def test_requests_of_a_connection_that_is_gone_are_dropped_and_the_first_is_counted() -> None:
    server, _, waiting = stalled()
    waiting.hang_up()
    while server.persist():
        pass
    assert names(server) == ["/a"]
    assert (server.stats.stale_requests_dropped, server.stats.stale_requests) == (1, 0)
    assert waiting.session_id in server.service.tracker.sessions, "its close was behind them"


def test_a_close_that_waits_alone_outlives_its_connection() -> None:
    server = Server(requests_max=1)
    writer, waiting = Caller(server), Caller(server)
    writer.send(OpCode.CREATE, create("/a"))
    waiting.send(OpCode.CLOSE_SESSION)
    waiting.hang_up()
    while server.persist():
        pass
    assert waiting.session_id not in server.service.tracker.sessions
    assert server.stats.stale_requests_dropped == 0


def test_with_drop_stale_off_they_are_executed_and_counted_otherwise() -> None:
    server, _, waiting = stalled(drops_stale=False)
    waiting.hang_up()
    while server.persist():
        pass
    assert names(server) == ["/a", "/b", "/c"]
    assert (server.stats.stale_requests_dropped, server.stats.stale_requests) == (0, 2)
    assert waiting.session_id not in server.service.tracker.sessions


def test_with_the_connection_check_off_nothing_of_that_is_stale() -> None:
    server, _, waiting = stalled(checks_connection=False)
    waiting.hang_up()
    while server.persist():
        pass
    assert names(server) == ["/a", "/b", "/c"]
    assert (server.stats.stale_requests_dropped, server.stats.stale_requests) == (0, 0)


def test_without_a_limit_what_a_closed_connection_left_behind_was_never_read() -> None:
    server = Server(wait_max_ms=1000)
    caller = Caller(server)
    caller.connection.pause_writing()
    caller.send(OpCode.CREATE, create("/a"))
    caller.hang_up()
    assert server.persist() == 0
    assert server.stats.stale_requests_dropped == 0


def test_a_request_that_waited_longer_than_the_session_timeout_costs_its_connection() -> None:
    server, writer, waiting = stalled(checks_latency=True)
    server.now += 10_001
    server.persist()
    assert writer.replies() == [(1, DONE)]
    assert waiting.is_closed
    assert waiting.replies() == []
    assert server.persist() == 0
    assert server.stats.stale_requests_dropped == 1


@pytest.mark.parametrize(
    ("waited_ms", "options", "counted"),
    [
        (10_000, {"checks_latency": True}, 0),
        (10_001, {}, 0),
        (10_001, {"checks_latency": True, "drops_stale": False}, 2),
    ],
)
def test_otherwise_it_is_served_however_long_it_waited(
    waited_ms: int, options: dict[str, bool], counted: int
) -> None:
    server, _, waiting = stalled(**options)
    server.now += waited_ms
    while server.persist():
        pass
    assert waiting.replies() == [(1, DONE), (2, DONE), (3, DONE)]
    assert (server.stats.stale_requests_dropped, server.stats.stale_requests) == (0, counted)


def test_replies_that_nobody_waits_for_any_more_are_counted() -> None:
    server = Server(requests_max=5)
    caller = Caller(server)
    caller.send(OpCode.CREATE, create("/a"))
    caller.send(OpCode.GET_DATA, get("/a"))
    caller.send(OpCode.CLOSE_SESSION)
    caller.hang_up()
    assert server.stats.stale_replies == 2


# -- requests that waited too long


def test_what_waited_too_long_is_answered_throttled_in_its_turn_and_not_executed() -> None:
    server = Server(requests_max=1, wait_max_ms=100)
    writer, waiting = Caller(server), Caller(server)
    writer.send(OpCode.CREATE, create("/a"))
    waiting.send_together(
        waiting.frame(OpCode.CREATE, create("/b")),
        waiting.frame(OpCode.GET_DATA, get("/a")),
        waiting.frame(OpCode.EXISTS, b"\0\0\0\1"),
        waiting.frame(OpCode.PING),
        waiting.frame(OpCode.CLOSE_SESSION),
    )
    server.now += 101
    server.persist()
    zxid = server.service.tree.last_zxid
    answers = waiting.messages()
    assert [(reply.xid, reply.err) for reply in answers if isinstance(reply, Reply)] == [
        (1, LATE),
        (2, LATE),
        (3, LATE),
        (-2, DONE),
    ]
    assert all(reply.zxid == zxid for reply in answers)
    server.persist()
    assert waiting.replies() == [(5, DONE)], "a session can always be closed"
    assert names(server) == ["/a"]
    assert server.stats.throttled_ops == 3


def test_a_late_request_behind_one_in_flight_is_not_answered_before_it() -> None:
    server = Server(requests_max=2, wait_max_ms=100)
    writer, both = Caller(server), Caller(server)
    both.send(OpCode.CREATE, create("/b"))
    writer.send(OpCode.CREATE, create("/a"))
    both.send_together(both.frame(OpCode.GET_DATA, get("/")), both.frame(OpCode.CREATE, create("/c")))
    server.now += 101
    txn, rest = server.service.take_unlogged(1)[0], server.service.take_unlogged(9)
    assert len(rest) == 1
    # Only the write of the other one is in flight now, with room for one more.
    server.service.persisted(txn.zxid, server.now)
    server.after_input()
    assert both.replies() == [(1, DONE), (2, LATE), (3, LATE)]
    server.service.persisted(rest[0].zxid, server.now)
    assert names(server) == ["/a", "/b"]


def test_a_late_request_waits_for_the_answers_before_it() -> None:
    server = Server(wait_max_ms=100)
    caller = Caller(server)
    caller.send(OpCode.CREATE, create("/a"))
    caller.connection.pause_writing()
    caller.send(OpCode.GET_DATA, get("/a"))
    server.now += 101
    caller.connection.resume_writing()
    assert caller.replies() == []
    server.persist()
    assert caller.replies() == [(1, DONE), (2, LATE)]


def test_exactly_the_time_allowed_is_not_too_long() -> None:
    server = Server(requests_max=1, wait_max_ms=100)
    writer, waiting = Caller(server), Caller(server)
    writer.send(OpCode.CREATE, create("/a"))
    waiting.send(OpCode.GET_DATA, get("/a"))
    server.now += 100
    server.persist()
    assert waiting.replies() == [(1, DONE)]
    wait = server.stats.throttle_wait
    assert (wait.count, wait.max) == (2, 100)


@pytest.mark.parametrize(("op", "err"), [(999, ErrorCode.UNIMPLEMENTED), (0, ErrorCode.UNIMPLEMENTED)])
def test_opcodes_that_do_not_exist_are_answered_as_ever_however_late(op: int, err: int) -> None:
    server = Server(wait_max_ms=100)
    caller = Caller(server)
    caller.connection.pause_writing()
    caller.send(op)
    server.now += 101
    caller.connection.resume_writing()
    assert caller.replies() == [(1, err)]
    assert caller.is_closed


def test_a_frame_too_short_for_a_header_closes_the_link_however_late() -> None:
    server = Server(wait_max_ms=100)
    caller = Caller(server)
    caller.connection.pause_writing()
    caller.send_together(b"\0\0\0\1\0\0\1")
    server.now += 101
    caller.connection.resume_writing()
    assert caller.is_closed
    assert caller.replies() == []


def late(server: Server, caller: Caller, *frames: bytes) -> None:
    caller.connection.pause_writing()
    caller.send_together(*frames)
    server.now += 101
    caller.connection.resume_writing()


def test_a_late_request_that_may_not_be_served_at_all_is_told_so() -> None:
    server = Server(wait_max_ms=100, needed_scheme="digest")
    stranger, known = Caller(server), Caller(server)
    late(server, stranger, stranger.frame(OpCode.GET_DATA, get("/")))
    assert stranger.replies() == [(1, ErrorCode.SESSIONCLOSEDREQUIRESASLAUTH)]
    assert stranger.is_closed
    auth = known.frame(OpCode.AUTH, AuthPacket(0, "digest", b"a:b"))
    late(server, known, auth, known.frame(OpCode.GET_DATA, get("/")))
    assert known.replies() == [(1, DONE), (2, LATE)]


def test_a_late_request_of_a_session_that_is_closing_is_dropped() -> None:
    server = Server(wait_max_ms=100)
    caller = Caller(server)
    caller.send(OpCode.CLOSE_SESSION)
    late(server, caller, caller.frame(OpCode.GET_DATA, get("/")))
    server.persist()
    assert caller.replies() == [(1, DONE)]
    assert server.stats.stale_requests_dropped == 1
    assert server.stats.throttled_ops == 0


def test_every_operation_but_pings_and_those_of_sessions_can_be_throttled() -> None:
    sessions = {OpCode.PING, OpCode.CREATE_SESSION, OpCode.CLOSE_SESSION}
    assert {*HANDLERS, *WRITE_OPS} - sessions == throttling._THROTTLABLE


# -- large requests


def large(caller: Caller, size: int, path: str = "/a") -> bytes:
    """A setData frame of exactly `size` bytes."""
    empty = len(caller.frame(OpCode.SET_DATA, set_data(path)))
    frame = caller.frame(OpCode.SET_DATA, set_data(path, bytes(size - empty)))
    assert len(frame) == size
    return frame


def test_large_requests_in_flight_share_their_bytes_and_one_too_many_closes_its_connection() -> None:
    server = Server(large_bytes=1000, large_bytes_max=5000)
    first, second = Caller(server), Caller(server)
    first.send_together(large(first, 3000))
    second.send_together(large(second, 2001))
    assert second.is_closed
    assert not first.is_closed
    assert server.stats.large_requests_rejected == 1
    assert server.persist() == 1
    assert len(first.replies()) == 1


def test_exactly_the_bytes_allowed_fit_and_answered_requests_count_no_more() -> None:
    server = Server(large_bytes=1000, large_bytes_max=5000)
    caller = Caller(server)
    for _ in range(3):
        caller.send_together(large(caller, 3000), large(caller, 2000))
        assert server.throttle.large_bytes_in_flight == 5000
        server.persist()
        assert server.throttle.large_bytes_in_flight == 0
    assert len(caller.replies()) == 6
    assert not caller.is_closed


def test_requests_up_to_the_threshold_count_nothing() -> None:
    server = Server(large_bytes=1000, large_bytes_max=1001)
    caller = Caller(server)
    caller.send_together(*(large(caller, 1000) for _ in range(20)))
    assert server.throttle.large_bytes_in_flight == 0
    caller.send_together(large(caller, 1001))
    caller.send_together(large(caller, 1001))
    assert caller.is_closed


def test_a_single_request_beyond_all_bytes_is_refused_even_when_nothing_is_in_flight() -> None:
    server = Server(large_bytes=1000, large_bytes_max=5000)
    caller = Caller(server)
    caller.send_together(caller.frame(OpCode.EXISTS, bytes(5000)))
    assert caller.is_closed
    assert server.stats.large_requests_rejected == 1


def test_large_reads_that_wait_count_too_and_those_served_at_once_do_not() -> None:
    server = Server(large_bytes=1000, large_bytes_max=5000)
    caller = Caller(server)
    frame = caller.frame(OpCode.GET_DATA, encode(get("/")) + bytes(2000))
    caller.send_together(*[frame] * 10)
    assert len(caller.replies()) == 10
    assert server.throttle.large_bytes_in_flight == 0
    caller.send(OpCode.CREATE, create("/a"))
    caller.send_together(frame)
    assert server.throttle.large_bytes_in_flight == len(frame)


def test_what_a_closed_connection_had_in_flight_counts_no_more() -> None:
    server = Server(large_bytes=1000, large_bytes_max=5000)
    caller = Caller(server)
    caller.send_together(large(caller, 3000), large(caller, 2000), large(caller, 90))
    caller.hang_up()
    assert server.throttle.large_bytes_in_flight == 0
    assert server.persist() == 3
    assert server.throttle.large_bytes_in_flight == 0
