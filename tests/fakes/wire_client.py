"""A client of real sockets that knows frames and nothing more; every wait ends in 20 seconds."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

from tests.fakes.replies import Event, Reply, decode_frames, encode
from zkpy_protocol.records import ConnectRequest, ConnectResponse, RequestHeader, decode_connect_response

if TYPE_CHECKING:
    import ssl
    from typing import Self

TIMEOUT_S = 20


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def connect_frame(timeout_ms: int = 10_000, session_id: int = 0, password: bytes = bytes(16)) -> bytes:
    return framed(encode(ConnectRequest(0, 0, timeout_ms, session_id, password, False)))


def request_frame(xid: int, op: int, record: Any = b"") -> bytes:
    return framed(encode(RequestHeader(xid, op)) + encode(record))


class WireClient:
    """One socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._xid = 0

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext | None = None) -> Self:
        """A socket on which nothing has been said yet."""
        connection = asyncio.open_connection("127.0.0.1", port, limit=1 << 26, ssl=tls)
        return cls(*await asyncio.wait_for(connection, TIMEOUT_S))

    async def connect_response(self) -> ConnectResponse:
        response, _ = decode_connect_response(await self.frame())
        return response

    async def frame(self) -> bytes:
        """The body of the next frame."""
        length = int.from_bytes(await self._exactly(4), "big")
        return await self._exactly(length)

    async def message(self) -> Reply | Event:
        (message,) = decode_frames(framed(await self.frame()))
        return message

    async def reply(self) -> Reply:
        message = await self.message()
        assert isinstance(message, Reply), message
        return message

    def send(self, op: int, record: Any = b"") -> int:
        self._xid += 1
        self.writer.write(request_frame(self._xid, op, record))
        return self._xid

    async def call(self, op: int, record: Any = b"") -> Reply:
        xid = self.send(op, record)
        reply = await self.reply()
        assert reply.xid in (xid, -2)
        return reply

    async def rest(self) -> bytes:
        """Everything up to the end of the connection, however it ends."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.wait_for(self.reader.read(1 << 16), TIMEOUT_S):
                data += piece
        return data

    async def _exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), TIMEOUT_S)

    def stop_reading(self) -> None:
        """Leave what comes from now on in the socket, until it is full."""
        self._transport.pause_reading()

    def go_on_reading(self) -> None:
        self._transport.resume_reading()

    @property
    def _transport(self) -> asyncio.ReadTransport:
        return cast("asyncio.ReadTransport", self.writer.transport)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
