"""What the runners of this directory share: servers set up for a comparison, runs of zkload, and the table of ratios.

The rules of a fair comparison are in README.md. Knows nothing of what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

BENCH = Path(__file__).resolve().parent
REPO = BENCH.parent
sys.path.insert(0, str(REPO / "conformance"))

from harness import Process, Zk, apache_jars, stop_all, wait_for, zk_members  # noqa: E402

APACHE, ZKPY = "apache:3.9.5", "zkpy"
NOISE_MAX = 40  # per cent of a core that other processes may use during a run
TRIES = 3


class Server(Zk):
    """A server configured as the comparison asks: it logs warnings only. `heap`: of a Java server."""

    heap = "1g"

    def __init__(self, directory: Path, kind: str, *, config: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(directory, kind, config={"maxSessionTimeout": 60000, **(config or {})}, **options)

    def command(self) -> list[str]:
        name, _, version = self.kind.partition(":")
        if name == ZKPY:
            return super().command()
        options = [f"-Xmx{self.heap}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        return ["java", *options, "-cp", apache_jars(version), main, str(self.cfg)]

    def launch(self) -> Zk:
        command = self.command()
        env = {**os.environ, "ZKPY_LOG_LEVEL": "warning"}
        self.process = Process(command, self.log, cwd=self.directory, env=env)
        return self

    def timed_start(self) -> float:
        """Milliseconds from the start of the process until it serves."""
        began = time.monotonic()
        self.launch()
        wait_for(f"{self.kind} serves", self._serves, 120, 0.002)
        return (time.monotonic() - began) * 1000

    def _serves(self) -> bool:
        if not self.alive():
            raise SystemExit(f"{self.kind} ended while starting:\n{self.log_tail()}")
        return self.mode() is not None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.popen.pid

    @property
    def rss_kb(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError(f"{self.kind} is gone")


class Member(Server):
    """One of three; six Java servers may be up at once."""

    heap = "512m"


class Ensemble:
    """Three servers of one kind."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.kind = kind
        self.members: list[Server] = zk_members(directory, [kind] * 3, make=Member)

    def timed_start(self) -> float:
        """Milliseconds from the start of the first process until all serve."""
        began = time.monotonic()
        for member in self.members:
            member.launch()
        for member in self.members:
            wait_for(f"{self.kind} serves", member._serves, 120, 0.002)
        return (time.monotonic() - began) * 1000

    def stop(self) -> None:
        for member in self.members:
            member.kill9()

    @property
    def hosts(self) -> str:
        return ",".join(member.address for member in self.members)

    @property
    def pids(self) -> str:
        return ",".join(str(member.pid) for member in self.members)


Compared = TypeVar("Compared", Server, Ensemble)


class Zkload:
    """The load generator, built once; keeps every result."""

    def __init__(self, directory: Path) -> None:
        self._program = directory / "zkload"
        subprocess.run(["cc", "-O2", "-o", self._program, BENCH / "zkload.c", "-lm"], check=True)
        self.results: list[dict[str, Any]] = []

    def command(self, hosts: str, *arguments: str) -> list[str]:
        return [str(self._program), "--json", "--hosts", hosts, *arguments]

    def run(self, hosts: str, label: str, *arguments: str) -> dict[str, Any]:
        """One run; a failure of it is an error of the servers."""
        command = self.command(hosts, "--label", label, *arguments)
        return self.result(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), label)

    def result(self, process: subprocess.Popen[str], label: str) -> dict[str, Any]:
        """Of a run that was begun with `command`, when it has ended."""
        out, err = process.communicate()
        if process.returncode:
            raise SystemExit(f"zkload failed on {label}: {' '.join(map(str, process.args))}\n{out}{err}")
        result: dict[str, Any] = json.loads(out)
        self.results.append(result)
        return result


class Table:
    """Rows of two medians, their ratio and its target. `kinds`: what is compared with, what is measured."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self.rows: list[tuple[str, float | None, float, float | None, bool, str]] = []

    def head(self) -> None:
        names = ["Apache" if kind == APACHE else kind for kind in self.kinds]
        if len(names) == 1:
            print(f"SKIP the comparison: no Java. Figures of {names[0]} alone:", flush=True)
            names.insert(0, "")
        print(f"{'':<58} {names[0]:>12} {names[1]:>12} {'ratio':>7} target", flush=True)

    def row(
        self,
        name: str,
        values: Mapping[str, Sequence[float]],
        target: float | None,
        *,
        more: bool = False,
        remark: str = "",
    ) -> None:
        """Note and print the medians. `more`: more is better."""
        medians = [statistics.median(values[kind]) for kind in self.kinds]
        reference = medians[0] if len(medians) > 1 else None
        self.rows.append((name, reference, medians[-1], target, more, remark))
        cells = [f"{name:<58}", f"{'-' if reference is None else f'{reference:,.1f}':>12}", f"{medians[-1]:>12,.1f}"]
        if reference:
            ratio = medians[-1] / reference
            cells.append(f"{ratio:>6.2f}x")
            if target is not None:
                met = ratio >= target if more else ratio <= target
                cells.append(f"{'>=' if more else '<='} {target:<5g} {'PASS' if met else 'MISS'}")
        print(" ".join(cells) + (f"  {remark}" if remark else ""), flush=True)

    def verdict(self) -> str:
        with_target = [row for row in self.rows if row[1] and row[3] is not None]
        missed = 0
        for _, reference, measured, target, more, _ in with_target:
            ratio = measured / reference
            missed += not (ratio >= target if more else ratio <= target)
        return f"{len(with_target)} targets, {missed} missed"

    def save(self, path: Path, results: Sequence[dict[str, Any]]) -> None:
        fields = ("name", "reference", "measured", "target", "more_is_better", "remark")
        rows = [dict(zip(fields, row, strict=True)) for row in self.rows]
        path.write_text(json.dumps({"kinds": self.kinds, "rows": rows, "zkload": list(results)}, indent=1))


def quietest(order: Sequence[Compared], run: Callable[[Compared], dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The same run on each; again when something else was using the machine, and then the quietest counts."""
    best: list[tuple[str, dict[str, Any]]] = []
    least = float("inf")
    for _ in range(TRIES):
        results = [(one.kind, run(one)) for one in order]
        noise = max(result["other_cpu_pct"] for _, result in results)
        if noise < least:
            best, least = results, noise
        if least <= NOISE_MAX:
            break
    return best


def remark(runs: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """What makes a figure of zkload doubtful."""
    remarks = []
    for kind, results in runs.items():
        name = kind.partition(":")[0]
        noise = statistics.median(result["other_cpu_pct"] for result in results)
        client = statistics.median(result["client_cpu_pct"] for result in results)
        if noise > NOISE_MAX:
            remarks.append(f"noise {noise:.0f} % beside {name}")
        if client > 80:
            remarks.append(f"zkload itself at {client:.0f} % with {name}")
    return "; ".join(remarks)


def kinds(chosen: str | None = None) -> tuple[str, ...]:
    """What is compared with, and what is measured; the latter alone where there is no Java."""
    if chosen:
        return tuple(chosen.split(","))
    return (APACHE, ZKPY) if shutil.which("java") else (ZKPY,)


def chosen_of(allowed: Sequence[str]) -> Any:
    """An argument type: some of these, with commas between."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(allowed):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(allowed)}")
        return chosen

    return parse


@contextlib.contextmanager
def bench_directory(keep: bool = False) -> Iterator[Path]:
    """Scratch on the disk of the checkout; servers are stopped at its end. Kept after an error."""
    work = REPO / ".work"
    work.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=work))
    try:
        yield directory
    except BaseException:
        print(f"logs and data: {directory}", file=sys.stderr)
        keep = True
        raise
    finally:
        stop_all()
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
