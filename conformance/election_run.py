#!/usr/bin/env python3
"""Our election among real servers: `zkpy.net.election_mesh` and `zkpy.core.zab.election` as one member of an ensemble of three.

    python conformance/election_run.py [3.9.5]

The two other members are Apache servers. Ours has no peer port: who wins is what is looked at, not what a leader does then.
The real servers' opinion is asked for by a fourth server of no configuration, which they answer at once.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import structlog
import uvloop

from conformance.harness import Promises, Zk, free_port, work_directory
from zkpy.core.membership import EnsembleView, parse_membership
from zkpy.core.zab.election import Election
from zkpy.net.election_mesh import ElectionMesh, MeshOptions
from zkpy_protocol.election import Notification, ServerState

HOST = "127.0.0.1"
STATES = {0: "LOOKING", 1: "FOLLOWING", 2: "LEADING", 3: "OBSERVING"}
TIMEOUT_S = 60
INQUIRER = 77


def now_ms() -> int:
    return int(time.monotonic() * 1000)


class Ensemble:
    """Addresses of three members, `ours` among them, and the real ones as processes."""

    def __init__(self, directory: Path, version: str, ours: int):
        self.ours = ours
        self.ports = {n: (free_port(), free_port()) for n in (1, 2, 3)}
        lines = {f"server.{n}": f"{HOST}:{peer}:{election}" for n, (peer, election) in self.ports.items()}
        self.view = EnsembleView(parse_membership(lines))
        self.real = {
            n: Zk(
                directory / f"zk{n}",
                f"apache:{version}",
                config=lines | {"tickTime": 500, "initLimit": 4, "syncLimit": 4},
                myid=n,
            )
            for n in (1, 2, 3)
            if n != ours
        }

    def election_addresses(self) -> dict[int, list[tuple[str, int]]]:
        return {n: [(HOST, election)] for n, (_, election) in self.ports.items()}

    def stop(self) -> None:
        for server in self.real.values():
            if server.process is not None and server.process.alive():
                server.kill9()


class Voter:
    """Our member: an election driven by a mesh and a timer."""

    def __init__(self, ensemble: Ensemble):
        self.loop = asyncio.get_running_loop()
        self.ensemble = ensemble
        self.election = Election(ensemble.ours, ensemble.view, max_notification_interval_ms=1000)
        self.heard: list[tuple[int, Notification]] = []
        self.changed = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None
        self.mesh = ElectionMesh(
            ensemble.ours, self.loop, MeshOptions(handshake_timeout_ms=2000), self.receive, structlog.get_logger()
        )

    async def start(self) -> Voter:
        addresses = self.ensemble.election_addresses()
        self.mesh.set_members(addresses)
        await self.mesh.start(addresses[self.ensemble.ours])
        return self

    def look(self, zxid: int, epoch: int) -> None:
        self.election.start(zxid, epoch, True, now_ms())
        self.settle()

    def receive(self, sender: int, notification: Notification) -> None:
        self.heard.append((sender, notification))
        self.election.receive(sender, notification, now_ms())
        self.settle()

    def settle(self) -> None:
        outbox, self.election.outbox = self.election.outbox, []
        for receiver, notification in outbox:
            self.mesh.send(receiver, notification)
        if self.timer is not None:
            self.timer.cancel()
        if self.election.next_deadline_ms is not None:
            wait = max(0, self.election.next_deadline_ms - now_ms()) / 1000
            self.timer = self.loop.call_later(wait + 0.001, self.tick)
        if self.election.decided is not None:
            self.changed.set()

    def tick(self) -> None:
        self.election.tick(now_ms())
        self.settle()

    async def decision(self) -> tuple[str, int, int]:
        """State, leader and peer epoch, once decided."""
        self.changed.clear()
        if self.election.decided is None:
            await asyncio.wait_for(self.changed.wait(), TIMEOUT_S)
        assert self.election.decided is not None
        return STATES[self.election.state], self.election.decided.leader, self.election.decided.peer_epoch

    async def opinion(self, server_id: int, wanted: tuple[str, int]) -> None:
        """Wait until a real server is in this state behind this leader, asked by a stranger."""
        answers: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        mesh = ElectionMesh(
            INQUIRER,
            self.loop,
            MeshOptions(handshake_timeout_ms=2000),
            lambda _, n: answers.put_nowait((STATES[n.state], n.leader)),
            structlog.get_logger(),
        )
        await mesh.start([(HOST, free_port())])
        mesh.set_members(self.ensemble.election_addresses())
        seen: set[tuple[str, int]] = set()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while wanted not in seen:
                    mesh.send(
                        server_id,
                        Notification(ServerState.LOOKING, INQUIRER, 0, 1, 0, config=self.ensemble.view.committed.text()),
                    )
                    await asyncio.sleep(0.05)
                    while not answers.empty():
                        seen.add(answers.get_nowait())
        except TimeoutError:
            raise AssertionError(f"server {server_id} was never {wanted}, but {sorted(seen)}") from None
        finally:
            await mesh.close()

    async def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        await self.mesh.close()


def same(got: object, wanted: object) -> None:
    if got != wanted:
        raise AssertionError(f"{got}, not {wanted}")


async def run(directory: Path, version: str) -> None:
    promises = Promises(f"election with Apache {version}")
    for ours in (3, 1):
        ensemble = Ensemble(directory / f"ours{ours}", version, ours)
        first, second = sorted(ensemble.real)
        for server in ensemble.real.values():
            server.launch()
        for server in ensemble.real.values():
            await asyncio.to_thread(server.wait_ready)
        voter = await Voter(ensemble).start()

        with promises.promise(f"server {ours} joins {first} and {second}, which are established: it follows {second}"):
            voter.look(0, 0)
            same(await voter.decision(), ("FOLLOWING", second, 1))

        if not version.startswith("3.4."):  # which send none
            with promises.promise("the real servers send the configuration that we send, byte for byte"):
                same({n.config for _, n in voter.heard}, {ensemble.view.committed.text()})

        with promises.promise(f"their leader dead, {first} has the better history: it leads, and {ours} follows it"):
            ensemble.real[second].kill9()
            voter.look(0, 0)
            same((await voter.decision())[:2], ("FOLLOWING", first))
            await voter.opinion(first, ("LEADING", first))

        with promises.promise(f"with a better history {ours} leads, and {first} follows it"):
            voter.look(0x500000000, 5)
            same(await voter.decision(), ("LEADING", ours, 5))
            await voter.opinion(first, ("FOLLOWING", ours))

        await voter.close()
        ensemble.stop()

    ensemble = Ensemble(directory / "ours2", version, 2)
    voter = await Voter(ensemble).start()
    with promises.promise("of two empty servers the larger id leads, and the third joins them"):
        voter.look(0, 0)
        ensemble.real[3].launch()
        same((await voter.decision())[:2], ("FOLLOWING", 3))
        await voter.opinion(3, ("LEADING", 3))
        ensemble.real[1].launch()
        await voter.opinion(1, ("FOLLOWING", 3))
    await voter.close()
    ensemble.stop()
    promises.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="?", default="3.9.5")
    parser.add_argument("--keep", action="store_true", help="keep logs and data")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with work_directory("election", options.keep) as directory, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(directory, options.version))


if __name__ == "__main__":
    main()
