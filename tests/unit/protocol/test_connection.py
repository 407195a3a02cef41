"""The server's side of a client link."""

from __future__ import annotations

import pytest

from zkpy_protocol.connection import FourLetterWord, ServerConnection
from zkpy_protocol.errors import DecodeError, FrameTooLarge
from zkpy_protocol.records import ConnectRequest, encode_connect_request

REQUEST = ConnectRequest(0, 5, 4000, 0, bytes(16), False)
CONNECT = b"\0\0\0\x2d" + encode_connect_request(REQUEST)
PING = b"\0\0\0\x08\xff\xff\xff\xfe\0\0\0\x0b"
TELNET_CLOSE = b"\xff\xf4\xff\xfd"


def link() -> ServerConnection:
    return ServerConnection(1000, {b"ruok", b"stmk", TELNET_CLOSE})


def test_a_connect_request_comes_first_and_then_raw_frames() -> None:
    connection = link()
    assert list(connection.receive(CONNECT)) == [REQUEST]
    assert list(connection.resume()) == []
    assert list(connection.receive(PING + PING)) == [PING[4:], PING[4:]]


def test_nothing_pipelined_behind_the_connect_is_delivered_before_the_session_stands() -> None:
    connection = link()
    assert list(connection.receive(CONNECT + PING[:5])) == [REQUEST]
    assert list(connection.receive(PING[5:] + PING)) == []
    assert list(connection.resume()) == [PING[4:], PING[4:]]
    assert not connection._held, "what was kept is given back"


def test_a_bad_length_behind_the_connect_is_noticed_when_it_would_be_read() -> None:
    connection = link()
    connection.receive(CONNECT + PING + b"\xff\xff\xff\xff")
    assert connection.error is None
    assert list(connection.resume()) == [PING[4:]]
    assert isinstance(connection.error, FrameTooLarge)


def test_a_four_letter_word_ends_the_link() -> None:
    connection = link()
    assert list(connection.receive(b"ru")) == []
    assert list(connection.receive(b"ok\r\n")) == [FourLetterWord(b"ruok", b"\r\n")]
    assert connection.error is None
    assert list(connection.receive(CONNECT)) == []


def test_a_word_may_be_any_four_bytes() -> None:
    assert list(link().receive(TELNET_CLOSE)) == [FourLetterWord(TELNET_CLOSE, b"")]


def test_words_are_only_looked_for_at_the_start() -> None:
    """`ruok` as a length is far too large."""
    connection = link()
    connection.receive(CONNECT)
    connection.resume()
    assert list(connection.receive(PING + b"ruok")) == [PING[4:]]
    assert isinstance(connection.error, FrameTooLarge)
    assert list(connection.receive(PING)) == []


def test_a_first_frame_that_is_no_connect_request_is_an_error() -> None:
    connection = link()
    assert list(connection.receive(PING + CONNECT)) == []
    assert isinstance(connection.error, DecodeError)
    assert list(connection.receive(CONNECT)) == []


def test_an_empty_first_frame_is_an_error() -> None:
    connection = link()
    assert list(connection.receive(bytes(4))) == []
    assert isinstance(connection.error, DecodeError)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"PUT /x HTTP/1.1\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01", "TLS"),
        (b"abcd", "unknown four letter word 'abcd'"),
        (b"\xff\xff\xff\xff", "-1 bytes announced, at most 1000"),
        (b"\0\0\x03\xe9", "1001 bytes announced, at most 1000"),
    ],
)
def test_the_error_says_who_is_knocking(start: bytes, reason: str) -> None:
    connection = link()
    assert list(connection.receive(start)) == []
    assert reason in str(connection.error)
