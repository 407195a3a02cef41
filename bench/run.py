"""zkpy beside Apache ZooKeeper 3.9.5: ratios against the targets of the design, one row each.

    run.py [--quick] [--parts start,load,sessions,memory,log] [--cells 1x1,32x1,32x32,500x1] [--workloads get,set,...]
           [--reps 3] [--duration 2.5] [--out FILE]

Owns: the targets, the order of the runs and the arithmetic. The load itself is zkload.c, the rules are in README.md.
Both servers are up at the same time with data on the same disk; a cell is measured on one and then on the other, in
the other order the next time; a ratio is that of two medians. Prints PASS or MISS; only an error changes the exit code.
Without Java zkpy is measured alone.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from beside import APACHE, Server, Table, Zkload, bench_directory, chosen_of, kinds, quietest, remark, wait_for

WORKLOADS = ("get", "set", "create", "multi", "mix 90:10", "ping", "watch-fanout", "connect")
CELLS = ("1x1", "32x1", "32x32", "500x1")
PARTS = ("start", "load", "sessions", "memory", "log")
WARM_S = 4


class Target(NamedTuple):
    """A row: what is measured, and the ratio zkpy / Apache it must reach."""

    name: str
    workload: str
    cell: str
    metric: str
    ratio: float
    at_least: bool  # more is better


def at_least(workload: str, cell: str, ratio: float) -> Target:
    return Target(f"{workload} {cell}, ops/s", workload, cell, "ops_per_s", ratio, at_least=True)


def at_most(workload: str, cell: str, metric: str, ratio: float) -> Target:
    shown = {"cpu_us_per_op": "CPU us an op", "p99_us": "p99 us"}[metric]
    return Target(f"{workload} {cell}, {shown}", workload, cell, metric, ratio, at_least=False)


LOAD_TARGETS = (
    at_least("get", "32x32", 3),
    at_most("get", "32x32", "cpu_us_per_op", 0.3),
    at_most("get", "32x32", "p99_us", 0.4),
    at_least("get", "32x1", 1.5),
    at_most("get", "32x1", "cpu_us_per_op", 0.55),
    at_most("get", "32x1", "p99_us", 0.75),
    at_least("get", "500x1", 1.4),
    at_least("get", "1x1", 1.8),
    at_least("set", "32x32", 1.5),
    at_most("set", "32x32", "cpu_us_per_op", 0.5),
    at_least("set", "32x1", 1.2),
    at_most("set", "32x1", "p99_us", 0.9),
    at_least("set", "500x1", 1.4),
    at_least("set", "1x1", 1.3),
    at_least("create", "32x32", 1.3),
    at_least("multi", "32x32", 1.2),
    at_least("mix 90:10", "32x32", 2),
    at_least("ping", "32x32", 5),
    at_least("watch-fanout", "500x1", 1.2),
    at_least("connect", "32x1", 1.3),
    at_most("connect", "500x1", "p99_us", 0.15),
)
# Measured by their own parts; smaller is better.
OTHER_TARGETS = {
    "start-up, empty, ms": 0.8,
    "RSS, empty, MiB": 0.6,
    "RSS an idle session of {sessions}, KiB": 0.4,
    "CPU us a ping of {sessions} idle sessions": 0.4,
    "RSS a znode, {znodes} of 100 B, bytes": 0.6,
    "restart, snapshot of {znodes}, ms": 0.8,
    "longest gap while {znodes} znodes are snapshot, set 32x1, ms": 1.0,
    "restart, log of {sets} sets, ms": 0.8,
}


class Bench:
    """One run: servers, results, rows."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self.arguments = arguments
        self.directory = directory
        self.table = Table(kinds())
        self.kinds = self.table.kinds
        self.zkload = Zkload(directory)

    # -- means

    def servers(self, name: str, **config: Any) -> list[Server]:
        """One of each kind, not started."""
        return [Server(self.directory / name / kind.partition(":")[0], kind, config=config) for kind in self.kinds]

    def load(self, server: Server, workload: str, cell: str, *options: str) -> dict[str, Any]:
        """One run of zkload."""
        connections, _, depth = cell.partition("x")
        return self.zkload.run(
            server.address, server.kind, "--server-pid", str(server.pid),
            "--connections", connections, "--pipeline", depth, *options, *workload.split(),
        )  # fmt: skip

    def other(self, name: str, values: dict[str, list[float]], **shown: str) -> None:
        self.table.row(name.format(**shown), values, OTHER_TARGETS[name])

    # -- parts

    def measure_start(self) -> None:
        """Empty servers: how soon they serve, how much they take."""
        times, sizes = defaultdict(list), defaultdict(list)
        for turn in range(2 if self.arguments.quick else 5):
            for server in self.servers(f"start{turn}"):
                times[server.kind].append(server.timed_start())
                time.sleep(1)
                sizes[server.kind].append(server.rss_kb / 1024)
                server.stop()
        self.other("start-up, empty, ms", times)
        self.other("RSS, empty, MiB", sizes)

    def measure_load(self) -> None:
        """Every workload in every cell, on one server and then on the other."""
        arguments = self.arguments
        servers = self.servers("load")
        for server in servers:
            server.start()
        for workload in arguments.workloads:
            for server in servers:
                seconds = WARM_S if server.kind == APACHE else 0.5
                self.load(server, workload, "32x1" if workload in ("connect", "watch-fanout") else "32x8",
                          "--duration", str(seconds), "--warmup", "0")  # fmt: skip
        self.zkload.results.clear()
        measured = ("--duration", str(arguments.duration), "--warmup", "0.5")
        found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
        for rep in range(arguments.reps):
            for cell in arguments.cells:
                for workload in arguments.workloads:
                    if workload in ("connect", "watch-fanout") and not cell.endswith("x1"):
                        continue
                    order = servers if rep % 2 == 0 else servers[::-1]
                    for kind, result in quietest(order, lambda s, w=workload, c=cell: self.load(s, w, c, *measured)):
                        found[workload, cell, kind].append(result)
            print(f"# repetition {rep + 1} of {arguments.reps} done", file=sys.stderr, flush=True)
        for server in servers:
            server.stop()
        self._load_rows(found)

    def _load_rows(self, found: dict[tuple[str, str, str], list[dict[str, Any]]]) -> None:
        targets = {(t.workload, t.cell, t.metric): t for t in LOAD_TARGETS}
        cells = dict.fromkeys((workload, cell) for workload, cell, _ in found)
        for workload, cell in sorted(cells, key=lambda c: (WORKLOADS.index(c[0]), CELLS.index(c[1]))):
            runs = {kind: found[workload, cell, kind] for kind in self.kinds}
            for metric, name in (
                ("ops_per_s", "ops/s"),
                ("cpu_us_per_op", "CPU us an op"),
                ("p99_us", "p99 us"),
            ):
                target = targets.get((workload, cell, metric))
                values = {kind: [run[metric] for run in runs[kind]] for kind in self.kinds}
                self.table.row(
                    f"{workload} {cell}, {name}",
                    values,
                    target.ratio if target else None,
                    more=metric == "ops_per_s",
                    remark=remark(runs) if metric == "ops_per_s" else "",
                )

    def measure_sessions(self) -> None:
        """Idle sessions: memory of each, CPU of their pings."""
        count = 1000 if self.arguments.quick else 10_000
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit[1] != resource.RLIM_INFINITY and limit[1] < count + 200:
            print(
                f"# {count} idle sessions need more descriptors than the {limit[1]} allowed: left out",
                flush=True,
            )
            return
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
        memory, cpu = defaultdict(list), defaultdict(list)
        for server in self.servers("sessions"):
            server.start()
            time.sleep(1)
            before = server.rss_kb
            result = self.load(server, "herd", f"{count}x1", "--session-timeout", "30000", "--duration",
                               "10" if self.arguments.quick else "20")  # fmt: skip
            memory[server.kind].append((result["rss_kb"] - before) / count)
            cpu[server.kind].append(result["cpu_us_per_op"])
            server.stop()
        self.other("RSS an idle session of {sessions}, KiB", memory, sessions=f"{count:,}")
        self.other("CPU us a ping of {sessions} idle sessions", cpu, sessions=f"{count:,}")

    def measure_memory(self) -> None:
        """Many znodes: bytes of each, restart from their snapshot, stall while one is written."""
        count = 100_000 if self.arguments.quick else 1_000_000
        shown = f"{count:,}"
        sizes, restarts, gaps = defaultdict(list), defaultdict(list), defaultdict(list)
        for server in self.servers("memory"):
            server.start()
            self._preload(server, count)
            sizes[server.kind].append(server.rss_kb * 1024 / count)
            # From the log to a snapshot; the starts that are measured read only that.
            server.kill9()
            server.start(120)
            self._wait_for_snapshot(server)
            for _ in range(self.arguments.reps):
                server.kill9()
                restarts[server.kind].append(server.timed_start())
                self._wait_for_snapshot(server)
            requests = 30_000 if self.arguments.quick else 250_000
            result = self.load(server, "set", "32x1", "--requests", str(requests), "--warmup", "1")
            gaps[server.kind].append(result["max_gap_ms"])
            server.stop()
            shutil.rmtree(server.datadir)
        self.other("RSS a znode, {znodes} of 100 B, bytes", sizes, znodes=shown)
        self.other("restart, snapshot of {znodes}, ms", restarts, znodes=shown)
        if not self.arguments.quick:  # too few sets for a snapshot
            self.other("longest gap while {znodes} znodes are snapshot, set 32x1, ms", gaps, znodes=shown)

    def _preload(self, server: Server, count: int) -> None:
        self.zkload.run(server.address, server.kind, "--preload", str(count), "--data-size", "100", "--fanout", "1000",
                        "--root", "/bench")  # fmt: skip

    @staticmethod
    def _wait_for_snapshot(server: Server) -> None:
        """The newest snapshot holds everything, and nobody is writing another one."""
        zxid = next(
            int(line.split()[1], 16)
            for line in server.four_letter("srvr").splitlines()
            if line.startswith("Zxid:")
        )
        directory = server.datadir / "version-2"
        wait_for("a snapshot", lambda: (directory / f"snapshot.{zxid:x}").exists(), 60, 0.05)

    def measure_log(self) -> None:
        """Restart on a log without a snapshot behind it."""
        count = 20_000 if self.arguments.quick else 100_000
        restarts = defaultdict(list)
        for server in self.servers("log", snapCount=10_000_000):
            server.start()
            self.load(
                server,
                "set",
                "32x32",
                "--requests",
                str(count),
                "--warmup",
                "0",
                "--keep",
                "--root",
                "/bench",
            )
            server.kill9()
            kept = server.directory / "kept"
            shutil.copytree(server.datadir, kept)
            for turn in range(self.arguments.reps):
                # A start leaves a snapshot, so each begins with the files of the first.
                server.datadir.rename(server.directory / f"data-{turn}")
                shutil.copytree(kept, server.datadir)
                restarts[server.kind].append(server.timed_start())
                server.kill9()
        self.other("restart, log of {sets} sets, ms", restarts, sets=f"{count:,}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=chosen_of(PARTS), default=list(PARTS))
    parser.add_argument("--cells", type=chosen_of(CELLS), help="default: all four")
    parser.add_argument("--workloads", type=chosen_of(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--reps", type=int, help="repetitions of each cell and restart (3)")
    parser.add_argument("--duration", type=float, help="seconds measured in each cell (2.5)")
    parser.add_argument(
        "--quick", action="store_true", help="one repetition, two cells, small trees: not for quoting"
    )
    parser.add_argument("--out", type=Path, help="all results of zkload and all rows, as JSON")
    arguments = parser.parse_args()
    arguments.cells = arguments.cells or (["32x1", "32x32"] if arguments.quick else list(CELLS))
    arguments.reps = arguments.reps or (1 if arguments.quick else 3)
    arguments.duration = arguments.duration or (1.0 if arguments.quick else 2.5)
    with bench_directory() as directory:
        bench = Bench(arguments, directory)
        bench.table.head()
        for part in arguments.parts:
            getattr(bench, f"measure_{part}")()
        print(f"bench: {bench.table.verdict()}", flush=True)
        if arguments.out:
            bench.table.save(arguments.out, bench.zkload.results)


if __name__ == "__main__":
    main()
