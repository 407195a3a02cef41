"""`make sim`: seeds one after the other, as many as wanted, going on where the last time has ended.

    python -m tests.simulation.runner --runs 1000             # goes on; what was reached is in .work/sim.json
    python -m tests.simulation.runner --seed 7 --runs 1 --trace

Stops at the first seed that fails and says how to replay it; exit status 1 then.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation.cluster import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PROGRESS = Path(__file__).parents[2] / ".work" / "sim.json"
_CHUNK = 25


def failing(seeds: Iterable[int], seconds: float = 1e9) -> tuple[int, int | None, str]:
    """Run seeds until one fails or the time is over.

    Returns:
        how many passed, the seed that failed or None, and its report.
    """
    end = time.monotonic() + seconds
    passed = 0
    for seed in seeds:
        outcome = run(seed)
        if outcome.error is not None:
            return passed, seed, outcome.report()
        passed += 1
        if time.monotonic() > end:
            break
    return passed, None, ""


class Progress:
    """What was reached, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def next_seed(self) -> int:
        return self._found.get("next_seed", 1)

    def save(self, next_seed: int, passed: int) -> None:
        self._found["next_seed"] = next_seed
        self._found["passed"] = self._found.get("passed", 0) + passed
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.runner")
    parser.add_argument("--seed", type=int, help="the first one; by default it goes on where it has ended")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--all", action="store_true", help="do not stop at a failure, one line for each")
    options = parser.parse_args(arguments)
    progress = Progress(PROGRESS)
    seed = progress.next_seed if options.seed is None else options.seed
    if options.trace:
        for number in range(seed, seed + options.runs):
            outcome = run(number, _say)
            if outcome.error is not None:
                _say(outcome.report(0))
                return 1
        return 0
    return _run_many(
        seed, options.runs, options.jobs, None if options.seed is not None else progress, every=options.all
    )


def _run_many(first: int, runs: int, jobs: int, progress: Progress | None, *, every: bool) -> int:
    started = time.monotonic()
    passed = failed = 0
    chunks = [range(at, min(at + _CHUNK, first + runs)) for at in range(first, first + runs, _CHUNK)]
    _say(f"{runs} runs from seed {first}")
    with ProcessPoolExecutor(jobs) as pool:
        for chunk, results in zip(chunks, pool.map(_summaries, chunks), strict=True):
            failures = [(seed, text) for seed, text in results if text]
            passed += len(results) - len(failures)
            failed += len(failures)
            for seed, text in failures:
                _say(f"seed {seed}: {text}")
            if failures and not every:
                pool.shutdown(cancel_futures=True)
                _say(run(failures[0][0]).report())
                break
            if progress is not None:
                progress.save(chunk.stop, len(chunk))
    seconds = time.monotonic() - started
    _say(f"{passed} passed, {failed} failed, {jobs * seconds / max(passed + failed, 1):.3f} s each")
    return min(failed, 1)


def _summaries(seeds: range) -> list[tuple[int, str]]:
    found = []
    for seed in seeds:
        outcome = run(seed)
        found.append((seed, "" if outcome.error is None else outcome.summary()))
    return found


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
