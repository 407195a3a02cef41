"""Seeds of every test run: some that are always the same, those that have found something, and a few hundred fresh ones.

Fresh seeds are drawn anew each time, unless ``ZKPY_SIM_SEED`` says where they begin. A report ends with how to replay its seed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.cluster import run
from tests.simulation.runner import failing

FRESH = 300
_CHUNK = 25
_CPU_SECONDS = 25.0 * _CHUNK / FRESH
_HERE = Path(__file__).parent
_OCCURRENCES = {
    "3 voters",
    "5 voters",
    "observers",
    "SNAP of observer master",
    "loss",
    "delay",
    "duplication",
    "reordering",
    "half",
    "one-way",
    "bridge",
    "writes lost",
    "writes torn",
    "kill",
    "restart",
    "pause",
    "clock drift",
    "disk-error",
    "reconfiguration",
    "DIFF of leader",
    "TRUNC of leader",
    "SNAP of leader",
}


def regressions() -> list[int]:
    lines = (_HERE / "regressions.txt").read_text().splitlines()
    return [int(line.split()[0]) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("seed", [*range(1, 25), *regressions()])
def test_an_ensemble_keeps_its_promises(seed: int) -> None:
    outcome = run(seed)
    assert outcome.error is None, outcome.report()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(FRESH // _CHUNK))
def test_an_ensemble_keeps_its_promises_in_runs_that_never_were(number: int) -> None:
    """Each part has its share of the time, so that a slow machine tries fewer."""
    given = os.environ.get("ZKPY_SIM_SEED")
    first = random.SystemRandom().getrandbits(40) if given is None else int(given) + number * _CHUNK
    passed, _, report = failing(range(first, first + _CHUNK), _CPU_SECONDS)
    assert not report, report
    assert passed


@pytest.mark.slow
def test_everything_that_may_go_wrong_does() -> None:
    """Within a few runs, by what happened and not by what was drawn."""
    occurred: Counter[str] = Counter()
    for seed in range(100, 200):
        occurred.update(run(seed).cluster.world.occurred)
        if all(occurred[kind] for kind in _OCCURRENCES):
            return
    assert not {kind for kind in _OCCURRENCES if not occurred[kind]}


@pytest.mark.slow
def test_a_seed_is_a_run_in_every_process() -> None:
    """Nothing depends on the order of a set, or on what is at which address."""
    seeds = range(60, 66)
    command = [sys.executable, "-m", "tests.simulation.runner", "--digests"]
    command += ["--seed", str(seeds.start), "--runs", str(len(seeds))]
    printed = [
        subprocess.run(
            command,
            cwd=_HERE.parents[1],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert printed[0].splitlines() == [f"{seed} {run(seed).cluster.world.trace_hash()}" for seed in seeds]
