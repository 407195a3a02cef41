"""Three zkpy servers beside three of Apache ZooKeeper 3.9.5: ratios against the targets of the design, one row each.

    ensemble.py [--quick] [--reps 3] [--duration 2.5] [--starts 5] [--kinds apache:3.9.5,zkpy] [--out FILE]

zkload's connections are spread over the three; the one of 1x1 is on a follower. CPU is the sum of the three. As in run.py both
are up at the same time, take turns, and a ratio is that of two medians; a missed target does not change the exit code.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from beside import ZKPY, Ensemble, Table, Zkload, bench_directory, kinds, quietest, remark
from failover import cold_starts, one_of_each

from ensemble_roles import leader  # of conformance/, which beside.py has put on the path

METRICS = {"ops_per_s": "ops/s", "cpu_us_per_op": "CPU us an op, sum", "p99_us": "p99 us"}
WARM_S = 4


class Cell(NamedTuple):
    """A load and the ratios zkpy / Apache that its metrics must reach."""

    workload: str
    connections: int
    depth: int
    targets: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.workload} {self.connections}x{self.depth}"


CELLS = (
    Cell("get", 32, 1, {"ops_per_s": 1.5}),
    Cell("set", 1, 1, {"ops_per_s": 1.2}),
    Cell("set", 32, 1, {"ops_per_s": 1.2, "cpu_us_per_op": 0.8}),
    Cell("set", 32, 32, {"ops_per_s": 1.5}),
)


class Bench:
    """One run."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self.arguments = arguments
        self.directory = directory
        self.table = Table(kinds(arguments.kinds))
        self.zkload = Zkload(directory)

    def measure_load(self) -> None:
        arguments = self.arguments
        ensembles = one_of_each(self.table, self.directory / "load")
        for ensemble in ensembles:
            ensemble.timed_start()
            for workload in ("get", "set"):
                seconds = "0.5" if ensemble.kind == ZKPY else str(WARM_S)
                self._load(ensemble, Cell(workload, 32, 8, {}), "--duration", seconds, "--warmup", "0")
        self.zkload.results.clear()
        found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        measured = ("--duration", str(arguments.duration), "--warmup", "0.5")
        for turn in range(arguments.reps):
            order = ensembles[:: -1 if turn % 2 else 1]
            for cell in CELLS:
                for kind, result in quietest(order, lambda e, c=cell: self._load(e, c, *measured)):
                    found[cell.name][kind].append(result)
        for ensemble in ensembles:
            ensemble.stop()
        for cell in CELLS:
            runs = found[cell.name]
            for metric, shown in METRICS.items():
                values = {kind: [result[metric] for result in results] for kind, results in runs.items()}
                more = metric == "ops_per_s"
                self.table.row(
                    f"3 servers: {cell.name}, {shown}", values, cell.targets.get(metric), more=more,
                    remark=remark(runs) if more else "",
                )  # fmt: skip

    def _load(self, ensemble: Ensemble, cell: Cell, *options: str) -> dict[str, Any]:
        first = leader(ensemble.members)
        followers_first = sorted(ensemble.members, key=lambda member: member is first)
        return self.zkload.run(
            ",".join(member.address for member in followers_first), ensemble.kind, "--server-pid", ensemble.pids,
            "--connections", str(cell.connections), "--pipeline", str(cell.depth), *options, cell.workload,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, help="repetitions of each load (3)")
    parser.add_argument("--starts", type=int, help="start-ups of each kind (5)")
    parser.add_argument("--duration", type=float, help="seconds measured in each load (2.5)")
    parser.add_argument("--kinds", help="what is compared with, and what is measured")
    parser.add_argument("--quick", action="store_true", help="one repetition, short: not for quoting")
    parser.add_argument("--out", type=Path, help="all rows and results of zkload, as JSON")
    arguments = parser.parse_args()
    arguments.reps = arguments.reps or (1 if arguments.quick else 3)
    arguments.starts = arguments.starts or (2 if arguments.quick else 5)
    arguments.duration = arguments.duration or (1.0 if arguments.quick else 2.5)
    with bench_directory() as directory:
        bench = Bench(arguments, directory)
        bench.table.head()
        cold_starts(bench.table, directory, arguments.starts)
        bench.measure_load()
        print(f"ensemble: {bench.table.verdict()}", flush=True)
        if arguments.out:
            bench.table.save(arguments.out, bench.zkload.results)


if __name__ == "__main__":
    main()
