"""A pytest plugin that tells the runner of mutants what happened: outcomes by node id, and from where the mutated module came."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fakes import wire_client

if TYPE_CHECKING:
    import pytest

MODULE = "ZKPY_MUTATED_MODULE"
REPORT = "ZKPY_MUTANT_REPORT"
_PATIENCE_S = 5

_outcomes: dict[str, str] = {}

if os.environ.get(MODULE):
    # A mutant makes tests wait for what never comes.
    wire_client.TIMEOUT_S = _PATIENCE_S


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure of set-up or tear-down is one of the test."""
    if report.when == "call" or report.failed:
        before = _outcomes.get(report.nodeid)
        _outcomes[report.nodeid] = "failed" if before == "failed" else report.outcome


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write it all down."""
    module = sys.modules.get(os.environ.get(MODULE, ""))
    found = {"outcomes": _outcomes, "file": getattr(module, "__file__", None)}
    Path(os.environ[REPORT]).write_text(json.dumps(found))
