"""The child that writes a snapshot neither holds on to anything of its server nor outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from zkpy.runtime.snapshots import SnapshotWriter

if TYPE_CHECKING:
    from pathlib import Path

# Starts a child that never gets done, and is killed.
KILLED_SERVER = """
import asyncio, os, signal, sys
from zkpy.runtime.snapshots import SnapshotWriter
loop = asyncio.new_event_loop()
SnapshotWriter(loop, print).start(7, lambda: open(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def wait_for_writer(fifo: Path) -> None:
    """Block until somebody opens the other end."""
    with fifo.open():
        pass


class Done:
    """The outcome of a snapshot, awaited."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[tuple[int, str | None]] = asyncio.get_running_loop().create_future()

    def __call__(self, zxid: int, error: str | None) -> None:
        self.outcome.set_result((zxid, error))


async def test_a_socket_closed_while_a_snapshot_is_written_is_closed_for_its_client(tmp_path: Path) -> None:
    """No reference is left in the child, whose end would otherwise have to be waited for."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    done = Done()
    writer = SnapshotWriter(asyncio.get_running_loop(), done)
    server, client = socket.socketpair()
    client.settimeout(10)
    writer.start(5, partial(wait_for_writer, fifo))
    server.close()
    assert client.recv(1) == b""
    with fifo.open("w"):
        pass
    assert await done.outcome == (5, None)
    assert not writer.running
    client.close()


async def test_what_the_child_raises_is_reported() -> None:
    done = Done()
    writer = SnapshotWriter(asyncio.get_running_loop(), done)

    def write() -> None:
        raise OSError(28, "No space left on device")

    writer.start(6, write)
    assert await done.outcome == (6, "OSError: [Errno 28] No space left on device")


async def test_a_child_that_dies_without_a_word_is_reported() -> None:
    done = Done()
    writer = SnapshotWriter(asyncio.get_running_loop(), done)
    writer.start(6, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert await done.outcome == (6, "the writing process ended with status 9")


async def test_stop_ends_a_child_that_is_writing(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    done = Done()
    writer = SnapshotWriter(asyncio.get_running_loop(), done)
    writer.start(5, partial(wait_for_writer, fifo))
    writer.stop()
    writer.stop()
    assert not writer.running
    await asyncio.sleep(0)
    assert not done.outcome.done()


def test_the_child_of_a_killed_server_ends(tmp_path: Path) -> None:
    """Both have the same standard output: it ends when the last of them does."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-c", KILLED_SERVER, str(fifo)]
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20)
    assert ended.returncode == -9
    assert ended.stdout == b""
