"""`make sim`: seeds one after the other, as many as wanted; what was interrupted goes on where it has ended.

    python -m tests.simulation.runner --runs 1000                       # behind the last seed that was ever run so
    python -m tests.simulation.runner --seed 5000000 --runs 100000      # given again, it goes on
    python -m tests.simulation.runner --seed 7 --runs 1 --trace

What was reached is in .work/sim.json. Stops at the first seed that fails, unless all are wanted, and says how to replay it; exit
status 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.simulation.cluster import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PROGRESS = Path(__file__).parents[2] / ".work" / "sim.json"
_CHUNK = 25


def failing(seeds: Iterable[int], cpu_seconds: float) -> tuple[int, int | None, str]:
    """Run seeds until one fails or the time is over.

    Returns:
        how many passed, the seed that failed or None, and its report.
    """
    end = time.process_time() + cpu_seconds
    passed = 0
    for seed in seeds:
        outcome = run(seed)
        if outcome.error is not None:
            return passed, seed, outcome.report()
        passed += 1
        if time.process_time() > end:
            break
    return passed, None, ""


class Progress:
    """What was reached, in a file: of each series that is not finished, and up to where seeds were run that nobody chose."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._series: dict[str, dict[str, Any]] = {}
        self._next_seed = 1

    def _load(self) -> None:
        """Others may have written it meanwhile."""
        if self._path.exists():
            found = json.loads(self._path.read_text())
            self._series = found["series"]
            self._next_seed = found["next_seed"]

    def series(self, seed: int | None, runs: int) -> Series:
        """What was begun with these arguments, or the beginning of it."""
        self._load()
        name = f"{'next' if seed is None else seed} {runs}"
        left = self._series.get(name)
        if left is None:
            first = self._next_seed if seed is None else seed
            left = {"next": first, "end": first + runs, "failed": []}
        return Series(self, name, left)

    def save(self, series: Series) -> None:
        """Remember how far it has got."""
        self._load()
        self._series.pop(series.name, None)
        if series.next_seed < series.end_seed:
            self._series[series.name] = {
                "next": series.next_seed,
                "end": series.end_seed,
                "failed": series.failed,
            }
        if series.name.startswith("next"):
            self._next_seed = series.next_seed
        self._path.parent.mkdir(parents=True, exist_ok=True)
        written = self._path.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps({"next_seed": self._next_seed, "series": self._series}) + "\n")
        written.replace(self._path)


class Series:
    """Seeds that are run one after the other.

    Attributes:
        next_seed: the first that was not run.
        end_seed: the first that is not wanted.
        failed: those that have failed so far.
    """

    def __init__(self, progress: Progress, name: str, left: dict[str, Any]) -> None:
        self._progress = progress
        self.name = name
        self.next_seed: int = left["next"]
        self.end_seed: int = left["end"]
        self.failed: list[int] = left["failed"]

    def chunks(self) -> list[range]:
        """What is left of it."""
        end = self.end_seed
        return [range(at, min(at + _CHUNK, end)) for at in range(self.next_seed, end, _CHUNK)]

    def ran(self, chunk: range, failed: list[int]) -> None:
        """All of these were run."""
        self.next_seed = chunk.stop
        self.failed += failed
        self._progress.save(self)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.runner")
    parser.add_argument("--seed", type=int, help="the first one; by default behind the last that was run")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--digests", action="store_true", help="print one number for each trace")
    parser.add_argument("--all", action="store_true", help="do not stop at a failure, one line for each")
    options = parser.parse_args(arguments)
    series = Progress(PROGRESS).series(options.seed, options.runs)
    if options.trace or options.digests:
        first = series.next_seed if options.seed is None else options.seed
        return _show(range(first, first + options.runs), is_traced=options.trace)
    return _run_many(series, options.jobs, every=options.all)


def _show(seeds: range, *, is_traced: bool) -> int:
    status = 0
    for seed in seeds:
        outcome = run(seed, _say if is_traced else None)
        if outcome.error is not None:
            status = 1
            _say(outcome.report(0))
        if not is_traced:
            _say(f"{seed} {outcome.cluster.world.trace_hash()}")
    return status


def _run_many(series: Series, jobs: int, *, every: bool) -> int:
    _say(f"seeds {series.next_seed} to {series.end_seed - 1}")
    count = 0
    seconds = 0.0
    chunks = series.chunks()
    with ProcessPoolExecutor(jobs, initializer=_leave_interrupts) as pool:
        try:
            for chunk, (failures, cpu_seconds) in zip(chunks, pool.map(_failures, chunks), strict=True):
                count += len(chunk)
                seconds += cpu_seconds
                for seed, text in failures:
                    _say(f"seed {seed}: {text}")
                if failures and not every:
                    _say(run(failures[0][0]).report())
                    break
                series.ran(chunk, [seed for seed, _ in failures])
        except KeyboardInterrupt:
            _say(f"interrupted at seed {series.next_seed}; the same command goes on there")
        pool.shutdown(cancel_futures=True)
    if series.failed:
        _say(f"seeds that failed: {' '.join(map(str, series.failed))}")
    _say(f"{count} runs, {seconds / max(count, 1):.3f} s of CPU each")
    return int(series.next_seed < series.end_seed or bool(series.failed))


def _leave_interrupts() -> None:
    """They are for the process that has begun this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _failures(seeds: range) -> tuple[list[tuple[int, str]], float]:
    started = time.process_time()
    failures = []
    for seed in seeds:
        outcome = run(seed)
        if outcome.error is not None:
            failures.append((seed, outcome.summary()))
    return failures, time.process_time() - started


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
