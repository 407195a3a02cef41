#!/usr/bin/env python3
"""Many seeds of difffuzz.py: Apache 3.9.5 is the oracle, zkpy the candidate.

    fuzz.py                        1 000 000 operations: 20 seeds of 50 000, in turn with the settings `full` and `default`
    fuzz.py --resume               the same, without the seeds these sources have passed already
    fuzz.py --ops 20000 --seed 1   one seed, both settings: the short run for CI

Each difference is minimized by difffuzz.py; its report (the steps that reproduce it, for `difffuzz.py --replay`) stays in
.work/fuzz. Exit code: 0 no difference (also when Java or Maven is missing: the run is skipped with a message, because
there is no oracle then), 1 a difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = ROOT / ".work" / "fuzz"
ZKPY = f"{ROOT / '.venv/bin/zkpy'} server {{jvmflags}} {{cfg}}"


def fingerprint(candidate: str) -> str:
    """Of the candidate's sources: results of other sources are not kept."""
    digest = hashlib.sha256(candidate.encode())
    for file in sorted([*(ROOT / "zkpy").rglob("*.py"), *(ROOT / "protocol/zkpy_protocol").rglob("*.py"), HERE / "difffuzz.py"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def run_seed(a: argparse.Namespace, profile: str, seed: int) -> dict[str, object]:
    report = OUT / f"{profile}-{seed}-{a.ops}.json"
    if a.resume and report.exists():
        done = json.loads(report.read_text())
        if done["ops"] >= a.ops and not done["differences"] and done.get("sources") == a.sources:
            return done
    report.unlink(missing_ok=True)
    argv = [sys.executable, str(HERE / "difffuzz.py"), "--oracle-cmd", a.oracle, "--candidate-cmd", a.candidate, "--base-port", str(a.base_port),
            "--work", str(OUT / "servers"), "--profile", profile, "--seed", str(seed), "--ops", str(a.ops), "--minimize", "--max-tries", "60", "--report", str(report)]
    if not a.verbose:
        argv += ["--progress", "0"]
    if a.keep_going:
        argv.append("--keep-going")
    with open(report.with_suffix(".log"), "w") as log:
        code = subprocess.run(argv, stdout=None if a.verbose else log, stderr=subprocess.STDOUT).returncode
    if not report.exists():
        return {"ops": 0, "seconds": 0.0, "differences": {f"difffuzz.py ended with code {code} and no report (see {report.with_suffix('.log')})": {"count": 1, "step": 0}}}
    result = json.loads(report.read_text()) | {"sources": a.sources}
    report.write_text(json.dumps(result, indent=1))
    return result


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--ops", type=int, default=50_000, help="operations of each seed")
    ap.add_argument("--seeds", type=int, default=20, help="how many seeds, from 1")
    ap.add_argument("--seed", type=int, help="only this seed, with both settings")
    ap.add_argument("--oracle", default="3.9.5")
    ap.add_argument("--candidate", default=ZKPY, help="command with {cfg} and {jvmflags}, or an Apache version")
    ap.add_argument("--base-port", type=int, default=27000)
    ap.add_argument("--resume", action="store_true", help="keep the results of seeds that were run before")
    ap.add_argument("--keep-going", action="store_true", help="collect all differences of a seed, not only the first")
    ap.add_argument("--verbose", action="store_true", help="show what difffuzz.py prints")
    a = ap.parse_args()
    have_apache = (Path(tempfile.gettempdir()) / "apache-zookeeper" / a.oracle / ".ok").exists()
    missing = [tool for tool in (["java"] if have_apache else ["java", "mvn"]) if shutil.which(tool) is None]
    if missing:
        print(f"SKIPPED: differential fuzzing needs a real Apache {a.oracle} as oracle, and {' and '.join(missing)} is not installed")
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    a.sources = fingerprint(a.candidate)
    jobs = [(p, a.seed) for p in ("full", "default")] if a.seed is not None else [(("full", "default")[n % 2], n + 1) for n in range(a.seeds)]
    total = failed = 0
    started = time.monotonic()
    for n, (profile, seed) in enumerate(jobs, 1):
        r = run_seed(a, profile, seed)
        total += r["ops"]
        failed += len(r["differences"])
        rate = f"{r['ops'] / r['seconds']:.0f} ops/s" if r["seconds"] else ""
        print(f"[{n}/{len(jobs)}] {profile:7} seed {seed:3}: {r['ops']} operations, {len(r['differences'])} differences {rate}", flush=True)
        for signature, d in sorted(r["differences"].items(), key=lambda x: -x[1]["count"]):
            print(f"      {d['count']}x {signature} (first at step {d['step']}; {OUT / f'{profile}-{seed}-{a.ops}.json'})", flush=True)
    print(f"{total} operations, {len(jobs)} runs, {failed} differences, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
