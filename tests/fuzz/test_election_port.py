"""Invariant: whatever a stranger sends to the election port, however cut, nothing is raised, at most one frame is held, and what an
election behind it sends fits the wire and names the committed configuration.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import smoke
from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.zab.election import Election
from zkpy.net.election_mesh import ElectionMesh, MeshOptions, _Connection
from zkpy_protocol.election import FRAME_MAX, decode_notification, encode_notification

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from zkpy_protocol.election import Notification

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors" / "quorum-wire.json"
RECORDED = [
    b"".join(bytes.fromhex(message["hex"]) for message in capture["messages"] if "->" in message["dir"])
    for capture in json.loads(VECTORS.read_text(encoding="utf-8"))["captures"]
    if capture["name"].startswith("fle-")
]
CONFIG = "\n".join(f"server.{n}=127.0.0.1:{n}:{n + 10}:participant" for n in (1, 2, 3, 4)) + "\nversion=1"
VIEW = EnsembleView(Membership.from_text(CONFIG))
SILENT = structlog.wrap_logger(
    None, processors=[structlog.testing.LogCapture()], wrapper_class=structlog.BoundLogger
)


class Timer:
    def cancel(self) -> None:
        """It never comes."""


class Loop:
    """Dials nobody, and time stands still."""

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        coroutine.close()

    def call_later(self, *_: object) -> Timer:
        return Timer()


class Transport(asyncio.Transport):
    """Takes everything."""

    closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def write(self, data: Any) -> None:
        assert not self.closing

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


def check(data: bytes) -> None:
    """The first byte says in pieces of how many bytes the rest arrives."""
    loop: Any = Loop()
    election = Election(2, VIEW, reconfig_enabled=True)
    election.start(5, 1, is_participant=True, mono_ms=0)

    def receive(sender: int, notification: Notification) -> None:
        election.receive(sender, notification, 10)
        for receiver, answer in election.outbox:
            assert receiver != election.server_id
            assert decode_notification(encode_notification(answer)).config == CONFIG
            mesh.send(receiver, answer)
        election.outbox.clear()

    mesh = ElectionMesh(2, loop, MeshOptions(handshake_timeout_ms=1000), receive, SILENT)
    mesh.set_members({n: [("h", n)] for n in (1, 2, 3, 4)})
    connection, transport = _Connection(mesh), Transport()
    connection.connection_made(transport)
    size = data[0] + 1 if data else 1
    for start in range(1, len(data), size):
        connection.data_received(data[start : start + size])
        assert len(connection._head) <= 20 + 2048
        assert len(connection._reader._tail) <= FRAME_MAX + 4
        assert transport.closing or len(mesh._pending) == (connection.peer is None)
    transport.abort()
    connection.connection_lost(None)
    assert not mesh._pending
    assert not mesh._strangers or connection.peer is None


def seeds() -> Iterator[bytes]:
    for recorded in RECORDED:
        yield b"\xff" + recorded
        yield b"\x06" + recorded


@smoke
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    check(data)


@smoke
@given(st.sampled_from(list(seeds())), st.data())
def test_a_recorded_stream_with_a_change(seed: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(seed)))
    check(
        seed[:position] + data.draw(st.binary(max_size=8)) + seed[position + data.draw(st.integers(0, 8)) :]
    )


def test_every_seed() -> None:
    for seed in seeds():
        check(seed)
