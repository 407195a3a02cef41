"""Tries every mutant: each has to be caught by each of the tests that are named for it.

    python -m tests.mutants.run               # all of them, and all named tests on the code as it is
    python -m tests.mutants.run 4925 'rule 3' # those of some lessons

Works on copies of the code in a temporary directory, one per process. Exit status 1 when a mutant survives.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from tests.mutants import recorder
from tests.mutants.table import ROOT, lessons

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.mutants.table import Lesson, Mutant

PROCESSES = 2
TIMEOUT_S = 180
_ALL_PASSED = 0
_SOME_FAILED = 1


class RunError(Exception):
    """The tests could not be run as they should."""


class Copy:
    """The code in a directory of its own, where tests are run. Compiled modules stay behind: they would hide the sources."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._report = directory / "report.json"
        leave = shutil.ignore_patterns("*.so", "__pycache__", ".hypothesis")
        for name in ("zkpy", "protocol", "tests"):
            shutil.copytree(ROOT / name, directory / name, ignore=leave)
        shutil.copy(ROOT / "pyproject.toml", directory)

    def outcomes(self, tests: Sequence[str], module: str, expected_status: int) -> tuple[dict[str, str], str]:
        """Run tests.

        Returns:
            outcome by node id, and the file that `module` was imported from.

        Raises:
            RunError: they did not run to their end, or ended in another way.
        """
        self._report.unlink(missing_ok=True)
        paths = os.pathsep.join((str(self._directory), str(self._directory / "protocol")))
        environment = {**os.environ, "PYTHONPATH": paths}
        environment |= {recorder.REPORT: str(self._report), recorder.MODULE: module}
        options = ("-q", "-p", "tests.mutants.recorder", "-p", "no:cacheprovider")
        try:
            done = subprocess.run(
                (sys.executable, "-m", "pytest", *options, *tests),
                cwd=self._directory,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"the tests did not end within {TIMEOUT_S} s") from None
        if done.returncode not in (_ALL_PASSED, expected_status) or not self._report.exists():
            raise RunError(f"pytest ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        report = json.loads(self._report.read_text())
        return report["outcomes"], report["file"]

    def survivors(self, mutant: Mutant) -> list[str]:
        """Tests of a mutant that do not catch it.

        Raises:
            TableError: it does not fit the code.
            RunError: its tests were not run with it.
        """
        path = self._directory / mutant.file
        source = path.read_text()
        self._write(path, mutant.applied_to(source))
        try:
            outcomes, file = self.outcomes(mutant.tests, mutant.module, _SOME_FAILED)
        finally:
            self._write(path, source)
        if file != str(path):
            raise RunError(f"{mutant.module} was imported from {file}, not from {path}")
        return [test for test in mutant.tests if not _has_failed(test, outcomes)]

    @staticmethod
    def _write(path: Path, source: str) -> None:
        """Also forget what was compiled: it may be of the same second and size."""
        path.write_text(source)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()


def _has_failed(test: str, outcomes: dict[str, str]) -> bool:
    found = [outcome for name, outcome in outcomes.items() if name == test or name.startswith(f"{test}[")]
    if not found:
        raise RunError(f"{test} was not run")
    return "failed" in found


def check_unmutated(copies: SimpleQueue[Copy], chosen: Sequence[Lesson]) -> str | None:
    """Run all tests on the code as it is; what is wrong, or None."""
    tests = sorted({test for lesson in chosen for test in lesson.tests})
    copy = copies.get()
    try:
        copy.outcomes(tests, "", _ALL_PASSED)
    except RunError as error:
        return f"not all tests pass without a mutant: {error}"
    finally:
        copies.put(copy)
    return None


def check(copies: SimpleQueue[Copy], lesson: Lesson, mutant: Mutant) -> str | None:
    """Try a mutant; what is wrong, or None."""
    copy = copies.get()
    began = time.monotonic()
    try:
        survivors = copy.survivors(mutant)
    except Exception as error:  # noqa: BLE001  one entry that is wrong does not hide the others
        return f"{lesson.name}: {type(error).__name__}: {error}"
    finally:
        copies.put(copy)
    if survivors:
        return f"{lesson.name}: not caught by {', '.join(survivors)}\n{mutant.file}, in place of\n{mutant.old}\n{mutant.new}"
    print(f"caught  {lesson.name:<24} {mutant.file} ({time.monotonic() - began:.1f} s)", flush=True)  # noqa: T201
    return None


def main(wanted: Iterable[str]) -> int:
    """Run the mutants of some lessons, or of all."""
    ids = set(wanted)
    chosen = [lesson for lesson in lessons() if not ids or ids & set(lesson.ids)]
    copies: SimpleQueue[Copy] = SimpleQueue()
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(PROCESSES) as pool:
        for number in range(PROCESSES):
            copies.put(Copy(Path(directory, str(number))))
        jobs = [pool.submit(check_unmutated, copies, chosen)]
        jobs += [pool.submit(check, copies, lesson, mutant) for lesson in chosen for mutant in lesson.mutants]
        problems = [problem for job in jobs if (problem := job.result()) is not None]
    for problem in problems:
        print(f"\nFAILED  {problem}")  # noqa: T201
    print(f"{len(jobs) - 1} mutants of {len(chosen)} lessons, {len(problems)} problems")  # noqa: T201
    return 1 if problems or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
