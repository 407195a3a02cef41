"""What the driver of a member says in the log, and what it makes of a disk that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from zkpy.core.zab.effects import TruncateLog
from zkpy.runtime.quorum_driver import QuorumDriver

if TYPE_CHECKING:
    from collections.abc import Callable

    from zkpy.core.zab.effects import Effect


class Logger:
    def __init__(self) -> None:
        self.said: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **values: Any) -> None:
        self.said.append(("info", event, values))

    def warning(self, event: str, **values: Any) -> None:
        self.said.append(("warning", event, values))


def test_the_end_of_a_role_and_a_lost_learner_are_warnings_and_the_rest_is_not() -> None:
    logger = Logger()
    events = {
        "election.started": "info",
        "election.undecided": "warning",
        "election.decided": "info",
        "leader.established": "info",
        "learner.synchronizing": "info",
        "learner.synced": "info",
        "learner.disconnected": "warning",
        "learner.dropped": "warning",
        "role.over": "warning",
    }
    trace: list[tuple[str, dict[str, object]]] = [(event, {"epoch": 7}) for event in events]
    QuorumDriver._report(cast("QuorumDriver", SimpleNamespace(_logger=logger)), trace)
    assert logger.said == [(level, event, {"epoch": 7}) for event, level in events.items()]
    assert trace == []


def test_5094_a_disk_that_fails_in_the_middle_stops_the_server_and_the_peer_hears_nothing() -> None:
    """What is in memory may be ahead of it, or behind."""
    error = OSError("no such device")
    called: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def carry_out(effect: Effect) -> object:
        raise error

    def call_soon_threadsafe(callback: Callable[..., object], *arguments: object) -> None:
        called.append((callback, arguments))

    driver = SimpleNamespace(
        _disk=SimpleNamespace(carry_out=carry_out),
        _loop=SimpleNamespace(call_soon_threadsafe=call_soon_threadsafe),
        _on_fatal=print,
        _done=repr,
    )
    QuorumDriver._carry_out(cast("QuorumDriver", driver), TruncateLog(5, ()))
    assert called == [(print, (error,))]
