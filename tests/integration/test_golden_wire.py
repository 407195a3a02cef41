"""Every recorded exchange with Apache ZooKeeper 3.9.5, byte by byte.

The runner starts a fresh server per profile and talks to it over loopback; here it only has to say that nothing differs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).parents[2] / "conformance/golden_wire.py"
VECTORS = {"default": 206, "full": 218, "sasl": 11}


@pytest.mark.slow
def test_all_435_recorded_exchanges_are_equal() -> None:
    """The profiles wait for timeouts most of the time, so they run beside each other."""
    runs = {
        profile: subprocess.Popen(
            [sys.executable, str(RUNNER), "--profile", profile],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for profile in VECTORS
    }
    try:
        said = {profile: run.communicate(timeout=120)[0] for profile, run in runs.items()}
    finally:
        for run in runs.values():
            run.terminate()
            run.wait()
    for profile, count in VECTORS.items():
        assert f"{profile}: {count} of {count} vectors equal, 0 differ" in said[profile], said[profile]
        assert runs[profile].returncode == 0, said[profile]
