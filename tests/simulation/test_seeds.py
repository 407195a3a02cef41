"""A few seeds in every test run; `make sim` goes through as many as wanted."""

from __future__ import annotations

import pytest

from tests.simulation.cluster import run


@pytest.mark.parametrize("seed", range(1, 41))
def test_an_ensemble_keeps_its_promises(seed: int) -> None:
    outcome = run(seed)
    assert outcome.error is None, outcome.report()
