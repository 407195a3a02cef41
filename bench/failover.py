"""What a dying leader costs: three zkpy servers beside three of Apache ZooKeeper 3.9.5, one row a figure.

    failover.py [--parts failover,start,sessions] [--reps 5] [--sessions 5000] [--kinds apache:3.9.5,zkpy] [--out FILE]

failover   kill -9 of the leader under six clients that write: the longest time in which none of their sets succeeds
start      three servers with empty data directories: time until the last of them serves
sessions   idle sessions over three servers when the leader is killed: how soon all have a server again. None may expire,
           nor may one of their ephemerals go; that is the only thing here that changes the exit code

Both ensembles take turns, the other one first the next time; medians and their ratio, as run.py does.
Without Java zkpy is measured alone.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from beside import Ensemble, Table, Zkload, bench_directory, chosen_of, kinds

from agreement import metric  # of conformance/, which beside.py has put on the path
from ensemble_roles import serves, wait_for_leader
from wire_client import Wire, create
from zkpy_protocol.opcodes import OpCode

PARTS = ("failover", "start", "sessions")
FAILOVER_TARGET, START_TARGET = 0.8, 0.8
CLIENTS = 6
BEFORE_S, AFTER_S = 2.0, 4.0  # of the load, around the kill
SESSION_TIMEOUT_MS = 20_000
EPHEMERAL_EVERY = 50
WARM_S = 4


class Failover:
    """One run."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self.arguments = arguments
        self.directory = directory
        self.table = Table(kinds(arguments.kinds))
        self.zkload = Zkload(directory)
        self.expired = 0

    def measure_failover(self) -> None:
        ensembles = one_of_each(self.table, self.directory / "failover")
        for ensemble in ensembles:
            ensemble.timed_start()
            self.zkload.run(ensemble.hosts, ensemble.kind, "--connections", "6", "--duration", str(WARM_S), "set")
        gaps, elections = defaultdict(list), defaultdict(list)
        for turn in range(self.arguments.reps):
            for ensemble in ensembles[:: -1 if turn % 2 else 1]:
                gap, election = self._kill_leader(ensemble)
                gaps[ensemble.kind].append(gap)
                elections[ensemble.kind].append(election)
        for ensemble in ensembles:
            ensemble.stop()
        each = "; ".join(f"{kind} {', '.join(f'{gap:.0f}' for gap in sorted(gaps[kind]))}" for kind in gaps)
        self.table.row("failover, kill -9 of the leader, ms", gaps, FAILOVER_TARGET, remark=each)
        self.table.row("of it until another one says it leads, ms", elections, None)

    def _kill_leader(self, ensemble: Ensemble) -> tuple[float, float]:
        """Milliseconds without a set, and until there is a leader."""
        leader = wait_for_leader(ensemble.members)
        others = [member for member in ensemble.members if member is not leader]
        command = self.zkload.command(
            ensemble.hosts, "--label", ensemble.kind, "--connections", str(CLIENTS), "--pipeline", "1", "--reconnect",
            "--nodes", "60", "--warmup", "0.5", "--duration", str(BEFORE_S + AFTER_S), "set",
        )  # fmt: skip
        load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(0.7 + BEFORE_S)
        began = time.monotonic()
        leader.kill9()
        wait_for_leader(others)
        election = (time.monotonic() - began) * 1000
        result = self.zkload.result(load, ensemble.kind)
        if result["reconnects"] < CLIENTS:
            raise SystemExit(f"{ensemble.kind}: the leader was killed and only {result['reconnects']} clients noticed")
        if result["expired"]:
            raise SystemExit(f"{ensemble.kind}: {result['expired']} sessions of {CLIENTS} have expired")
        serves(leader)
        return float(result["max_gap_ms"]), election

    def measure_start(self) -> None:
        cold_starts(self.table, self.directory, self.arguments.reps)

    def measure_sessions(self) -> None:
        count = self.arguments.sessions
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if limit != resource.RLIM_INFINITY and limit < count + 300:
            print(f"# {count} sessions need more descriptors than the {limit} allowed: left out", flush=True)
            return
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        opened, back = defaultdict(list), defaultdict(list)
        for ensemble in one_of_each(self.table, self.directory / "sessions"):
            ensemble.timed_start()
            found = asyncio.run(self._herd(ensemble, count))
            opened[ensemble.kind].append(found["opened_s"] * 1000)
            back[ensemble.kind].append(found["back_s"] * 1000)
            print(
                f"# {ensemble.kind}: {count:,} sessions, {found['moved']:,} changed their server, {found['expired']} expired, "
                f"{found['ephemerals']} of {found['ephemerals_made']} ephemerals are there; the server counts {found['counted']:,} sessions",
                flush=True,
            )
            lost = found["ephemerals_made"] - found["ephemerals"]
            self.expired += found["expired"] + lost + (found["counted"] < count)
            ensemble.stop()
        self.table.row(f"{count:,} sessions opened, ms", opened, None)
        self.table.row(f"{count:,} sessions with a server after kill -9 of the leader, ms", back, None)

    async def _herd(self, ensemble: Ensemble, count: int) -> dict[str, Any]:
        from herd import Herd

        loop = asyncio.get_running_loop()
        herd = Herd([(member.host, member.port) for member in ensemble.members], count, SESSION_TIMEOUT_MS)
        leader = wait_for_leader(ensemble.members)
        other = next(member for member in ensemble.members if member is not leader)
        _call(other, OpCode.CREATE, create("/herd", b""))
        opened = await herd.open(120)
        owners = herd.sessions[::EPHEMERAL_EVERY]
        for session in owners:
            session.make_ephemeral(f"/herd/{session.number}")
        await asyncio.sleep(SESSION_TIMEOUT_MS / 3000)  # everybody has pinged
        began = time.monotonic()
        leader.kill9()
        await asyncio.sleep(0.1)  # the connections of the leader are gone by now
        await herd.all_up(60)
        back = time.monotonic() - began
        # Whoever was forgotten by the new leader expires in this time.
        await asyncio.sleep(SESSION_TIMEOUT_MS / 1000 + 4)
        await herd.all_up(60)
        await loop.run_in_executor(None, serves, leader)
        ephemerals = await loop.run_in_executor(None, _children, other)
        found = {
            "opened_s": opened, "back_s": back, "moved": herd.moved, "expired": herd.expired,
            "ephemerals": ephemerals, "ephemerals_made": len(owners), "counted": int(metric(other, "zk_global_sessions") or 0),
        }  # fmt: skip
        herd.close()
        return found


def one_of_each(table: Table, directory: Path) -> list[Ensemble]:
    """Ensembles that are not started."""
    return [Ensemble(directory / str(number), kind) for number, kind in enumerate(table.kinds)]


def cold_starts(table: Table, directory: Path, reps: int) -> None:
    """Three servers on empty data directories, until the last of them serves."""
    times = defaultdict(list)
    for turn in range(reps):
        for ensemble in one_of_each(table, directory / f"start{turn}")[:: -1 if turn % 2 else 1]:
            times[ensemble.kind].append(ensemble.timed_start())
            ensemble.stop()
    table.row("start-up of three, empty, until all serve, ms", times, START_TARGET)


def _call(member: Any, op: int, record: bytes) -> None:
    wire = Wire(member.port, host=member.host)
    wire.connect()
    wire.call(op, record)
    wire.close_session()


def _children(member: Any) -> int:
    wire = Wire(member.port, host=member.host)
    wire.connect()
    count = len(wire.children("/herd"))
    wire.close_session()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=chosen_of(PARTS), default=list(PARTS))
    parser.add_argument("--reps", type=int, default=5, help="kills and starts of each kind (%(default)s)")
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--kinds", help="what is compared with, and what is measured")
    parser.add_argument("--out", type=Path, help="all rows and results of zkload, as JSON")
    arguments = parser.parse_args()
    with bench_directory() as directory:
        run = Failover(arguments, directory)
        run.table.head()
        for part in arguments.parts:
            getattr(run, f"measure_{part}")()
        print(f"failover: {run.table.verdict()}; {run.expired} sessions or ephemerals lost", flush=True)
        if arguments.out:
            run.table.save(arguments.out, run.zkload.results)
        if run.expired:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
