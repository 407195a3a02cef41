"""What the driver of a member says in the log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from zkpy.runtime.quorum_driver import QuorumDriver


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
