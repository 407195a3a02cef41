"""Who leads an ensemble, and how to bring another member to it. Knows nothing of what clients do."""

from __future__ import annotations

import time
from collections.abc import Sequence

from harness import Zk, wait_for

SETTLE_S = 0.5
TRIES = 4


def leader(servers: Sequence[Zk]) -> Zk | None:
    """The member that says it leads."""
    return next((server for server in servers if server.alive() and server.mode() == "leader"), None)


def wait_for_leader(servers: Sequence[Zk], timeout: float = 60) -> Zk:
    found = wait_for("a leader", lambda: leader(servers), timeout, 0.02)
    assert isinstance(found, Zk)
    return found


def serves(server: Zk, timeout: float = 60) -> None:
    """Started if it is not, and serving."""
    if not server.alive():
        server.launch()
    server.wait_ready(timeout)


def make_leader(wanted: Zk, voters: Sequence[Zk]) -> int:
    """Bring one of three voters to lead, while something writes; the number of leaders that were killed for it.

    The third is stopped for a while, so that it is behind when the leader is killed: of the two that are left then
    `wanted` has the longer history.
    """
    for kills in range(TRIES):
        current = wait_for_leader(voters)
        if current is wanted:
            return kills
        (third,) = (server for server in voters if server not in (wanted, current))
        third.stop()
        before = wait_for("the other two serve", wanted.zxid, 60)
        wait_for("writes without the third", lambda: (wanted.zxid() or 0) > before, 60)
        time.sleep(SETTLE_S)
        current.kill9()
        third.launch()
        wait_for_leader([wanted, third])
        for server in (third, current):
            serves(server)
    if wait_for_leader(voters) is wanted:
        return TRIES
    raise TimeoutError(f"server {wanted.myid} does not lead after {TRIES} tries")
