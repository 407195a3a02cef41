#!/usr/bin/env python3
"""Run kazoo's own test suite against a server and compare the passing tests by name with those that pass on Apache.

    kazoo_suite.py                          zkpy, every test, compared with kazoo-passed-3.9.5.txt
    kazoo_suite.py -k "lock and not read"   only the tests pytest selects; compared where both ran
    kazoo_suite.py --server apache:3.9.5 --write   Apache; rewrites the committed list
    kazoo_suite.py -k SASL                  the DIGEST-MD5 tests

kazoo starts its servers as `java -cp ... -Dname=value ... org.apache.zookeeper.server.quorum.QuorumPeerMain zoo.cfg`.
A program called `java`, first on PATH, takes that command line and becomes the server under test instead, with the same -D
arguments and the same file. kazoo and its test dependencies live in a virtual environment of their own
(.work/kazoo-venv, made on the first run). Everything a run leaves (servers' logs, pytest's output, results.xml) is in
.work/kazoo-run.

Exit code: 0 every expected test passed, 1 some did not (they are listed), 2 the suite could not run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from harness import apache_jars

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / ".work"
MAIN_CLASS = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
# zkpy and Apache alike refuse DIGEST-MD5 in fips mode, their default; kazoo's harness knows nothing of it.
EXTRA_FLAGS = ["-Dzookeeper.fips-mode=false"]

SHIM = '''#!{python}
"""Takes kazoo's java command line and becomes the server under test."""
import json, os, sys
args = sys.argv[1:]
if {main!r} not in args:
    sys.exit("this java starts nothing but " + {main!r})
at = args.index({main!r})
flags = {extra!r} + [a for a in args[:at] if a.startswith("-D")]
argv = []
for word in json.loads({template!r}):
    argv += flags if word == "{{jvmflags}}" else [args[at + 1] if word == "{{cfg}}" else word]
log = os.open(os.path.join({logs!r}, "server-%d.log" % os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
os.write(log, (" ".join(argv) + "\\n" + open(args[at + 1]).read() + "\\n").encode())
os.dup2(log, 1)
os.dup2(log, 2)
os.execvp(argv[0], argv)
'''


def server_argv(server: str) -> list[str]:
    """The command of the server under test; `{jvmflags}` and `{cfg}` stand for what kazoo asks for."""
    if server == "zkpy":
        return [str(ROOT / ".venv/bin/zkpy"), "server", "{jvmflags}", "{cfg}"]
    if server.startswith("apache:"):
        jars = apache_jars(server.removeprefix("apache:"))
        java = shutil.which("java")
        if java is None:
            sys.exit("kazoo_suite: no java, so no Apache server")
        return [java, "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", jars, "{jvmflags}", MAIN_CLASS, "{cfg}"]
    return shlex.split(server)


def venv() -> Path:
    """Python of the environment that holds kazoo's tests."""
    home = WORK / "kazoo-venv"
    python, stamp, wanted = home / "bin/python", home / ".requirements", (HERE / "kazoo-requirements.txt").read_text()
    if not (stamp.exists() and stamp.read_text() == wanted):
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(HERE / "kazoo-requirements.txt")], check=True)
        stamp.write_text(wanted)
    return python


def run_suite(server: str, *, servers: int, port: int, pytest_args: list[str], timeout: int, run_dir: Path) -> dict[str, str]:
    """Run the tests; the outcome of each by name: passed, skipped, failed."""
    python = venv()
    shutil.rmtree(run_dir, ignore_errors=True)
    (run_dir / "bin").mkdir(parents=True)
    (run_dir / "logs").mkdir()
    (run_dir / "tmp").mkdir()
    shim = run_dir / "bin/java"
    shim.write_text(SHIM.format(python=os.path.realpath(python), main=MAIN_CLASS, extra=EXTRA_FLAGS,
                                template=json.dumps(server_argv(server)), logs=str(run_dir / "logs")))
    shim.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith("ZOOKEEPER_")}
    env |= {
        "PATH": f"{run_dir / 'bin'}:{os.environ['PATH']}",
        "TMPDIR": str(run_dir / "tmp"),
        "ZOOKEEPER_CLASSPATH": "the-server-under-test",  # the harness wants one; the shim ignores it
        "ZOOKEEPER_VERSION": "3.9.5",
        "CI": "1",  # the server must say that it is this version
        "ZOOKEEPER_CLUSTER_SIZE": str(servers),
        "ZOOKEEPER_PORT_OFFSET": str(port),
    }
    report, config = run_dir / "results.xml", run_dir / "pytest.ini"
    config.write_text("[pytest]\n")  # not the project's own settings
    argv = [str(python), "-m", "pytest", "-c", str(config), "--pyargs", "kazoo.tests", "-p", "no:cacheprovider", "-v", f"--timeout={timeout}",
            f"--junitxml={report}", *pytest_args]
    with open(run_dir / "pytest.log", "wb") as log:
        process = subprocess.Popen(argv, cwd=run_dir, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            if b"::" in line and b"%]" in line and sys.stdout.isatty():
                print(line.decode(errors="replace").strip()[-110:], end="\033[K\r")
        process.wait()
    if not report.exists():
        print((run_dir / "pytest.log").read_text()[-3000:])
        sys.exit(2)
    outcome = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').removeprefix('kazoo.tests.')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        outcome[name] = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
    return outcome


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--server", default="zkpy", help="zkpy, apache:VERSION, or a command with {jvmflags} and {cfg} as words")
    ap.add_argument("--servers", type=int, default=1, help="size of the ensemble (ZOOKEEPER_CLUSTER_SIZE)")
    ap.add_argument("-k", dest="select", help="pytest's selection")
    ap.add_argument("--port", type=int, default=20000, help="first port of the servers")
    ap.add_argument("--timeout", type=int, default=180, help="seconds one test may take")
    ap.add_argument("--retries", type=int, default=1, help="how often tests that did not pass are run again, alone (kazoo's suite has races of its own)")
    ap.add_argument("--write", action="store_true", help="write the passing tests as the list to compare with")
    ap.add_argument("--expected", type=Path, help="the list to compare with")
    a = ap.parse_args()
    tag = f"-{a.servers}servers" if a.servers > 1 else ""
    expected_file = a.expected or HERE / f"kazoo-passed-3.9.5{tag}.txt"
    args = ["-k", a.select] if a.select else []
    run_dir = WORK / f"kazoo-run{tag}"
    started = time.monotonic()

    def run(more: list[str], where: Path) -> dict[str, str]:
        return run_suite(a.server, servers=a.servers, port=a.port, pytest_args=more, timeout=a.timeout, run_dir=where)

    outcome = run(args, run_dir)
    expected = [] if a.write or not expected_file.exists() else expected_file.read_text().split()
    for _ in range(a.retries):
        again = [n for n, o in outcome.items() if o == "failed" and (n in expected or a.write)]
        if not again or len(again) > 40:
            break
        print("once more, alone:", *again, sep="\n  ")
        for name in again:
            method = name.rpartition("::")[2]
            second = run(["-k", f"{name.split('::')[0].rpartition('.')[2]} and {method}"], run_dir.with_name(run_dir.name + "-again"))
            if second.get(name) == "passed":
                outcome[name] = "passed"
    counts = {kind: sum(o == kind for o in outcome.values()) for kind in ("passed", "skipped", "failed")}
    print(f"{a.server}, {a.servers} server(s): " + ", ".join(f"{v} {k}" for k, v in counts.items()) + f" in {time.monotonic() - started:.0f} s (details: {run_dir})")
    passed = sorted(n for n, o in outcome.items() if o == "passed")
    if a.write:
        expected_file.write_text("".join(f"{n}\n" for n in passed))
        print(f"{len(passed)} names -> {expected_file.name}")
        return 0
    if a.select:
        expected = [n for n in expected if n in outcome]
    missing = [n for n in expected if outcome.get(n) != "passed"]
    for name in missing:
        print(f"MISSING {name} ({outcome.get(name, 'not run')})")
    print(f"{len(expected) - len(missing)} of {len(expected)} tests that pass on Apache 3.9.5 pass, {len(missing)} do not")
    return 1 if missing or not expected else 0


if __name__ == "__main__":
    sys.exit(main())
