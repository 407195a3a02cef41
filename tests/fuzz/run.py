"""`python -m tests.fuzz.run --seconds N`: every input surface under atheris, guided by coverage, N seconds each.

Each surface is a process of its own, because libFuzzer never returns. Its corpus stays in `.work/surfaces/corpus/<surface>` and the next
run goes on from there; an input that breaks an invariant is left in `.work/surfaces/found/` and can be run again:

    python -m tests.fuzz.run --surface client_frames .work/surfaces/found/client_frames-crash-...

atheris is installed on demand. Where it has no build for this Python, Hypothesis looks with many random examples instead.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SURFACES = (
    "client_frames",
    "peer_port",
    "election_port",
    "jute",
    "sasl_token",
    "certificate_name",
    "txn_log",
    "snapshot",
    "zoo_cfg",
    "membership_text",
    "jaas",
)
INSTRUMENTED = ["zkpy", "zkpy_protocol"]
WORK = Path(__file__).parents[2] / ".work" / "surfaces"
MEMORY_MAX_MB = 1024
HANG_S = 20


def module_of(surface: str) -> Any:
    return importlib.import_module(f"tests.fuzz.test_{surface}")


def has_atheris() -> bool:
    """Whether atheris can be used, after an attempt to install it."""
    if importlib.util.find_spec("atheris") is None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "atheris"]
        subprocess.run(command, check=False)
        importlib.invalidate_caches()
    return importlib.util.find_spec("atheris") is not None


def fuzz_with_atheris(surface: str, seconds: int) -> None:
    """Does not return."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        module = module_of(surface)
    corpus = WORK / "corpus" / surface
    found = WORK / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    for seed in module.seeds():
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={seconds}",
        f"-artifact_prefix={found}/{surface}-",
        f"-rss_limit_mb={MEMORY_MAX_MB}",
        f"-timeout={HANG_S}",
        "-max_len=4096",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, module.check)
    atheris.Fuzz()


def fuzz_with_hypothesis(surface: str, seconds: int) -> None:
    """Random examples, so many that they take about as long as was asked for."""
    from hypothesis import Phase, given, settings
    from hypothesis import strategies as st

    module = module_of(surface)
    inputs = st.binary(max_size=400)
    for seed in module.seeds():
        inputs |= st.tuples(st.just(seed), st.integers(0, len(seed)), st.binary(max_size=4)).map(
            lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + len(drawn[2]) :]
        )
    run = settings(max_examples=seconds * 500, deadline=None, phases=[Phase.generate, Phase.shrink])
    run(given(inputs)(module.check))()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each surface (default: %(default)s)")
    parser.add_argument("--surface", choices=SURFACES, help="only this one, in this process")
    parser.add_argument("input", type=Path, nargs="?", help="run this file through the surface once")
    arguments = parser.parse_args()
    if arguments.input is not None:
        module_of(arguments.surface).check(arguments.input.read_bytes())
        return 0
    guided = has_atheris()
    if arguments.surface is not None:
        fuzz = fuzz_with_atheris if guided else fuzz_with_hypothesis
        fuzz(arguments.surface, arguments.seconds)
        return 0
    if not guided:
        say(f"no atheris for Python {sys.version_info.major}.{sys.version_info.minor}: Hypothesis instead")
    broken = []
    for surface in SURFACES:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.run",
            "--surface",
            surface,
            "--seconds",
            str(arguments.seconds),
        ]
        ended = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
        )
        verdict = "FAIL" if ended.returncode else "PASS"
        runs = [line.split()[-1] for line in ended.stdout.splitlines() if "number_of_executed_units" in line]
        say(f"{verdict} {surface}" + (f": {runs[0]} inputs" if runs else ""))
        if ended.returncode:
            broken.append(surface)
            say(ended.stdout[ended.stdout.find("Uncaught Python exception") :][-4000:])
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
