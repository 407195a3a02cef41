"""`make sim` goes on where it was interrupted, and remembers what has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation import runner
from tests.simulation.cluster import Outcome, run
from tests.simulation.runner import Progress, failing
from tests.simulation.world import ViolationError

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_series_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "work" / "sim.json"
    series = Progress(path).series(500, 60)
    assert series.chunks() == [range(500, 525), range(525, 550), range(550, 560)]
    series.ran(range(500, 525), [503])
    again = Progress(path).series(500, 60)
    assert again.chunks() == [range(525, 550), range(550, 560)]
    assert again.failed == [503]
    assert Progress(path).series(500, 100).next_seed == 500, "that is another one"


def test_two_at_the_same_time_do_not_forget_each_other(tmp_path: Path) -> None:
    path = tmp_path / "sim.json"
    one, other = Progress(path).series(100, 50), Progress(path).series(200, 50)
    one.ran(range(100, 125), [])
    other.ran(range(200, 225), [])
    one.ran(range(125, 150), [])
    assert Progress(path).series(200, 50).next_seed == 225
    assert Progress(path).series(100, 50).next_seed == 100


def test_a_series_that_is_done_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "sim.json"
    series = Progress(path).series(7, 1)
    series.ran(range(7, 8), [7])
    again = Progress(path).series(7, 1)
    assert (again.next_seed, again.end_seed, again.failed) == (7, 8, [])


def test_without_a_seed_every_run_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "sim.json"
    series = Progress(path).series(None, 30)
    assert series.next_seed == 1
    series.ran(range(1, 26), [])
    series = Progress(path).series(None, 30)
    assert series.chunks() == [range(26, 31)]
    series.ran(range(26, 31), [])
    assert Progress(path).series(None, 30).chunks() == [range(31, 56), range(56, 61)]
    assert Progress(path).series(9, 1).next_seed == 9


def test_a_seed_that_fails_is_reported_with_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_or_fail(seed: int) -> Outcome:
        outcome = run(seed)
        return Outcome(outcome.cluster, ViolationError("it is prime")) if seed == 3 else outcome

    monkeypatch.setattr(runner, "run", run_or_fail)
    passed, seed, report = failing(range(2, 10), 60.0)
    assert (passed, seed) == (1, 3)
    assert "seed 3, step " in report
    assert "ViolationError: it is prime" in report
    assert report.endswith("replay: make sim SEED=3 RUNS=1 TRACE=1")
    assert failing(range(4, 10), 0.0) == (1, None, "")
