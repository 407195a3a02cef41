"""A defect of the server's own stops it, instead of leaving it to limp on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from zkpy.ops.config_loader import config_from_text
from zkpy.server import EXIT_OK, EXIT_UNEXPECTED, Server

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(AssertionError("a broken invariant"), EXIT_UNEXPECTED), (ConnectionResetError(), EXIT_OK)],
)
async def test_an_exception_nobody_expects_ends_the_server_and_a_broken_socket_does_not(
    tmp_path: Path, error: Exception, exit_code: int
) -> None:
    text = f"dataDir={tmp_path}\nclientPort=2181\nclientPortAddress=127.0.0.1\n"
    server = Server(replace(config_from_text(text), client_port=0))
    await server.start()
    asyncio.get_running_loop().call_exception_handler({"message": "in a callback", "exception": error})
    server.stop()
    assert await server.stopped() == exit_code
