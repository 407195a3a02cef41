"""What happens when more is asked than globalOutstandingLimit allows."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from zkpy.ops.config_loader import config_from_text
from zkpy.server import Server
from zkpy_protocol.opcodes import OpCode
from zkpy_protocol.records import (
    ConnectRequest,
    SetDataRequest,
    encode_connect_request,
    encode_set_data_request,
)

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = 200


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(length)


async def ask_many(port: int, pieces: int) -> list[int]:
    """Pipeline `pieces` bursts of writes without reading; the xids of all replies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(framed(encode_connect_request(ConnectRequest(0, 0, 10000, 0, b"", False))))
    await read_frame(reader)
    burst = REQUESTS // pieces
    for piece in range(pieces):
        frames = [
            framed(
                struct.pack(">ii", xid, OpCode.SET_DATA)
                + encode_set_data_request(SetDataRequest("/", b"x", -1))
            )
            for xid in range(1 + piece * burst, 1 + (piece + 1) * burst)
        ]
        writer.write(b"".join(frames))
        await writer.drain()
    xids = [struct.unpack(">i", (await read_frame(reader))[:4])[0] for _ in range(pieces * burst)]
    writer.close()
    return xids


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_every_pipelined_write_is_answered_in_order_however_few_may_be_outstanding(
    tmp_path: Path, limit: int
) -> None:
    """A link that had to wait is read again once its turn comes."""
    text = (
        f"dataDir={tmp_path}\nclientPort=2181\nclientPortAddress=127.0.0.1\nglobalOutstandingLimit={limit}\n"
    )
    server = Server(replace(config_from_text(text), client_port=0))
    await server.start()
    try:
        assert server.port is not None
        asked = [ask_many(server.port, pieces) for pieces in (1, 2, 10, 50)]
        answered = await asyncio.wait_for(asyncio.gather(*asked), 20)
    finally:
        await server.close()
    assert answered == [list(range(1, REQUESTS + 1))] * 4
