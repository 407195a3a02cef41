"""Throttles of a real server, switched on in zoo.cfg and seen from its clients and in its metrics."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Self

import pytest

from tests.fakes.replies import Reply, create, decode_frames, encode, set_data
from zkpy import wiring
from zkpy.core.throttling import LARGE_BYTES_MAX
from zkpy.ops.config_loader import config_from_text
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import ConnectRequest, GetDataRequest, RequestHeader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from zkpy.ops.config import ServerConfig

_ALLOWED = 20.0  # seconds for anything to happen; what is fast takes none of them


# -- from zoo.cfg to the throttles


def configured(*lines: str) -> ServerConfig:
    return config_from_text("\n".join(("dataDir=/var/zk", "clientPort=2181", *lines)))


def settings(options: object) -> dict[str, object]:
    assert options is not None
    return {name: getattr(options, name) for name in type(options).__slots__}  # type: ignore[attr-defined]


def test_a_server_without_settings_has_no_throttle() -> None:
    assert wiring.connection_throttle_options(configured()) is None
    assert wiring.request_throttle_options(configured()) is None


@pytest.mark.parametrize(
    "lines",
    [
        ["connection_throttle_tokens=-1", "connection_throttle_freeze_time=5"],
        ["request_throttle_max_requests=-1", "throttled_op_wait_time=-1", "largeRequestThreshold=0"],
        ["largeRequestMaxBytes=5", "request_stale_latency_check=true"],
    ],
)
def test_a_limit_that_is_not_above_zero_is_none(lines: list[str]) -> None:
    assert wiring.connection_throttle_options(configured(*lines)) is None
    assert wiring.request_throttle_options(configured(*lines)) is None


def test_every_setting_of_the_token_bucket_arrives() -> None:
    lines = [
        "connection_throttle_tokens=1",
        "connection_throttle_fill_time=2",
        "connection_throttle_fill_count=3",
        "connection_throttle_freeze_time=4",
        "connection_throttle_drop_increase=0.5",
        "connection_throttle_drop_decrease=0.6",
        "connection_throttle_decrease_ratio=0.7",
        "connection_throttle_global_session_weight=8",
        "connection_throttle_renew_session_weight=9",
    ]
    expected = {
        "tokens": 1,
        "fill_time_ms": 2,
        "fill_count": 3,
        "freeze_time_ms": 4,
        "drop_increase": 0.5,
        "drop_decrease": 0.6,
        "decrease_ratio": 0.7,
        "weights": None,
    }
    assert settings(wiring.connection_throttle_options(configured(*lines))) == expected
    weighted = configured(*lines, "connection_throttle_weight_enabled=true")
    assert settings(wiring.connection_throttle_options(weighted)) == expected | {"weights": (8, 9)}


def test_every_limit_on_requests_arrives() -> None:
    lines = [
        "request_throttle_max_requests=1",
        "request_throttle_drop_stale=false",
        "request_stale_latency_check=true",
        "request_stale_connection_check=false",
        "throttled_op_wait_time=2",
        "largeRequestThreshold=3",
    ]
    expected = {
        "requests_max": 1,
        "drops_stale": False,
        "checks_latency": True,
        "checks_connection": False,
        "wait_max_ms": 2,
        "large_bytes": 3,
        "large_bytes_max": 4,
    }
    assert settings(wiring.request_throttle_options(configured(*lines, "largeRequestMaxBytes=4"))) == expected
    senseless = settings(wiring.request_throttle_options(configured(*lines, "largeRequestMaxBytes=0")))
    assert senseless == expected | {"large_bytes_max": LARGE_BYTES_MAX}


# -- a real server


@contextmanager
def serving(directory: Path, *lines: str) -> Iterator[int]:
    """A server with these settings; its port."""
    config = directory / "zoo.cfg"
    base = (
        f"dataDir={directory / 'data'}",
        "clientPort=0",
        "4lw.commands.whitelist=*",
        "admin.enableServer=false",
    )
    config.write_text("\n".join((*base, *lines)) + "\n")
    with subprocess.Popen(
        [sys.executable, "-m", "zkpy", "server", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                fields = json.loads(line) if line.startswith("{") else {}
                if fields.get("event") == "server.serving":
                    yield int(fields["client_port"])
                    break
        finally:
            server.terminate()
            server.communicate(timeout=_ALLOWED)
    assert server.returncode == 0


class Caller:
    """A client that reads what it gets only when asked to."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_ALLOWED)
        self._xid = 0
        self._send(encode(ConnectRequest(0, 0, 10_000, 0, bytes(16), False)))
        self.is_admitted = bool(self._frame())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, op: int, record: Any) -> None:
        self._xid += 1
        self._send(encode(RequestHeader(self._xid, op)) + encode(record))

    def reply(self) -> tuple[int, int] | None:
        """Xid and error of the next reply; None when the server has closed the connection."""
        frame = self._frame()
        if not frame:
            return None
        (reply,) = decode_frames(frame)
        assert isinstance(reply, Reply)
        return reply.xid, reply.err

    def _send(self, frame: bytes) -> None:
        self.socket.sendall(len(frame).to_bytes(4, "big") + frame)

    def _frame(self) -> bytes:
        """One frame with its length; nothing at the end of the connection."""
        found = b""
        needed = 4
        while len(found) < needed:
            try:
                piece = self.socket.recv(needed - len(found))
            except ConnectionResetError:
                return b""
            if not piece:
                return b""
            found += piece
            if len(found) == 4:
                needed = 4 + int.from_bytes(found, "big")
        return found


def metrics(port: int) -> dict[str, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=_ALLOWED) as asking:
        asking.sendall(b"mntr")
        text = b"".join(iter(lambda: asking.recv(65536), b"")).decode()
    return dict(line.split("\t", 1) for line in text.splitlines())


@pytest.mark.slow
def test_connects_beyond_the_tokens_are_closed_without_an_answer(tmp_path: Path) -> None:
    lines = ("connection_throttle_tokens=2", "connection_throttle_fill_time=1000000")
    with serving(tmp_path, *lines) as port, ExitStack() as stack:
        callers = [stack.enter_context(Caller(port)) for _ in range(4)]
        assert [caller.is_admitted for caller in callers] == [True, True, False, False]
        found = metrics(port)
    assert found["zk_connection_rejected"] == "2"
    assert found["zk_connection_request_count"] == "2"
    assert found["zk_connection_drop_probability"] == "0.0"
    assert (found["zk_cnt_connection_token_deficit"], found["zk_max_connection_token_deficit"]) == ("2", "2")


@pytest.mark.slow
def test_an_empty_bucket_makes_the_server_refuse_by_chance(tmp_path: Path) -> None:
    lines = (
        "connection_throttle_tokens=1",
        "connection_throttle_fill_time=1000000",
        "connection_throttle_freeze_time=0",
        "connection_throttle_drop_increase=1.0",
    )
    with serving(tmp_path, *lines) as port:
        while metrics(port)["zk_connection_drop_probability"] == "0.0":
            with Caller(port):
                pass
        assert metrics(port)["zk_connection_drop_probability"] == "1.0"


@pytest.mark.slow
def test_a_large_request_too_many_closes_its_connection_only(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "largeRequestThreshold=1000", "largeRequestMaxBytes=100000") as port,
        Caller(port) as modest,
        Caller(port) as greedy,
    ):
        modest.send(OpCode.CREATE, create("/a", bytes(90_000)))
        assert modest.reply() == (1, ErrorCode.OK)
        greedy.send(OpCode.CREATE, create("/b", bytes(100_000)))
        assert greedy.reply() is None
        modest.send(OpCode.SET_DATA, set_data("/a", bytes(90_000)))
        assert modest.reply() == (2, ErrorCode.OK)
        assert metrics(port)["zk_large_requests_rejected"] == "1"


@pytest.mark.slow
def test_all_requests_are_answered_when_only_one_may_be_in_flight(tmp_path: Path) -> None:
    clients, requests = 12, 60
    with (
        serving(tmp_path, "request_throttle_max_requests=1", "throttled_op_wait_time=60000") as port,
        ExitStack() as stack,
    ):
        callers = [stack.enter_context(Caller(port)) for _ in range(clients)]
        answers: list[list[tuple[int, int] | None]] = [[] for _ in callers]

        def work(which: int) -> None:
            caller = callers[which]
            for number in range(requests):
                if number % 3:
                    caller.send(OpCode.GET_DATA, GetDataRequest("/", False))
                else:
                    caller.send(OpCode.CREATE, create(f"/{which}-{number}"))
            answers[which] = [caller.reply() for _ in range(requests)]

        threads = [threading.Thread(target=work, args=(which,)) for which in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = metrics(port)
    assert answers == [[(xid, ErrorCode.OK) for xid in range(1, requests + 1)]] * clients
    assert int(found["zk_request_throttle_wait_count"]) > 0
    assert int(found["zk_cnt_request_throttle_queue_time_ms"]) == clients * requests
    assert (found["zk_throttled_ops"], found["zk_stale_requests"], found["zk_outstanding_requests"]) == (
        "0",
    ) * 3


@pytest.mark.slow
def test_who_asks_for_too_much_at_once_is_told_that_it_was_throttled(tmp_path: Path) -> None:
    requests = 4000
    with (
        serving(tmp_path, "request_throttle_max_requests=1", "throttled_op_wait_time=1") as port,
        Caller(port) as caller,
    ):
        before = int(metrics(port)["zk_znode_count"])
        for number in range(requests):
            caller.send(OpCode.CREATE, create(f"/{number}"))
        answers = [caller.reply() for _ in range(requests)]
        found = metrics(port)
    assert [answer[0] for answer in answers if answer] == list(range(1, requests + 1))
    errors = [answer[1] for answer in answers if answer]
    assert set(errors) == {ErrorCode.OK, ErrorCode.THROTTLEDOP}
    assert found["zk_throttled_ops"] == str(errors.count(ErrorCode.THROTTLEDOP))
    assert int(found["zk_znode_count"]) - before == errors.count(ErrorCode.OK)


# -- limits on connections


def greeting(port: int) -> bytes:
    """What comes of connecting without a word; the reset may be there before the connect is done."""
    with socket.create_connection(("127.0.0.1", port), timeout=_ALLOWED) as silent:
        return silent.recv(1)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "open_at_most"), [("maxClientCnxns", 2), ("maxCnxns", 2)])
def test_a_connection_beyond_the_limit_is_reset_and_one_that_ends_makes_room(
    tmp_path: Path, key: str, open_at_most: int
) -> None:
    with serving(tmp_path, f"{key}={open_at_most}") as port, ExitStack() as stack:
        first, second = (stack.enter_context(Caller(port)) for _ in range(2))
        with pytest.raises(ConnectionResetError):
            assert not greeting(port), "closed, but not reset"
        second.send(OpCode.CLOSE_SESSION, b"")
        assert second.reply() == (1, ErrorCode.OK)
        assert second.reply() is None
        second.socket.close()
        found: dict[str, str] = {}
        while not found:
            # The client may see the end of the connection before the server has forgotten it.
            with suppress(ConnectionResetError):
                found = metrics(port)
        assert int(found["zk_connection_rejected"]) >= 1
        first.send(OpCode.PING, b"")
        assert first.reply() == (-2, ErrorCode.OK)
