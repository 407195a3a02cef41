#!/usr/bin/env python3
"""Real clients: each plays its scenario against Apache 3.9.5 and against zkpy, and the two transcripts must be equal.

    run.py                         every client that can be had on this machine
    run.py --only go,curator
    run.py --server apache:3.8.0   another server in the place of zkpy

Clients: `c` (the C library, Debian's libzookeeper-mt), `cli_mt` (its shell, Debian's zookeeper-bin), `java` (zkCli, the main
class ZooKeeperMain: one-shot commands and a piped session), `curator`, `node` (node-zookeeper-client),
`go` (go-zookeeper/zk). A client whose tools are missing is skipped with a message that names them.
Transcripts stay in .work/clients/<client>.<server>.txt. Exit code: 0 no difference, 1 a difference, 2 nothing ran.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / ".work/clients"
sys.path.insert(0, str(HERE.parent))

from harness import Zk, apache_jars, work_directory  # noqa: E402

SUPER_DIGEST = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="  # super:test
CONFIG = {"extendedTypesEnabled": "true", "enforceQuota": "true"}
PROPERTIES = {"zookeeper.DigestAuthenticationProvider.superDigest": SUPER_DIGEST, "znode.container.checkIntervalMs": "1000"}
# One name for both servers, whatever port they have.
ADDRESS = "127.0.0.1:2181"
JAVA = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]


def output(argv: list[str], *, timeout: float = 120, cwd: Path | None = None, env: dict[str, str] | None = None, text: str | None = None) -> str:
    """Standard output of a program, then its exit code when that is not 0; standard error goes to a log."""
    with open(WORK / "stderr.log", "ab") as log:
        done = subprocess.run(argv, stdin=None if text is not None else subprocess.DEVNULL, input=None if text is None else text.encode(),
                              stdout=subprocess.PIPE, stderr=log, timeout=timeout, cwd=cwd, env=env)
    return done.stdout.decode("utf-8", "replace") + (f"exit code {done.returncode}\n" if done.returncode else "")


def session(argv: list[str], commands: list[str], *, quiet: float, env: dict[str, str] | None = None, prompt: str | None = None) -> list[tuple[str, str]]:
    """Feed an interactive program one command at a time; what it printed up to the next `prompt`, or until it fell silent.

    Answers come on another thread than the one that reads commands: without waiting, output would interleave at random.
    """
    p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
    assert p.stdin is not None
    assert p.stdout is not None
    chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    fd = p.stdout.fileno()

    def read() -> None:
        while chunk := os.read(fd, 65536):
            chunks.put(chunk)
        chunks.put(b"")

    threading.Thread(target=read, daemon=True).start()

    def answer() -> str:
        got, deadline, silent = b"", time.monotonic() + 15, 0
        while time.monotonic() < deadline:
            try:
                chunk = chunks.get(timeout=quiet)
                silent = 0
            except queue.Empty:
                silent += 1
                if prompt is None:
                    if got or silent == 5:
                        break
                elif re.search(prompt, got.decode("utf-8", "replace")):
                    break
                continue
            if not chunk:
                break
            got += chunk
        return got.decode("utf-8", "replace")

    out = [("start", answer())]
    for command in commands:
        try:
            p.stdin.write(command.encode() + b"\n")
            p.stdin.flush()
        except BrokenPipeError:
            out.append((command, "the program has ended"))
            break
        out.append((command, answer()))
    try:
        with contextlib.suppress(BrokenPipeError):
            p.stdin.close()
        p.wait(10)
    except subprocess.TimeoutExpired:
        p.kill()
        p.wait()
        out.append(("end of input", "the program did not end"))
    return out


def lacks(*tools: str) -> str | None:
    missing = [t for t in tools if shutil.which(t) is None]
    return f"{' and '.join(missing)} not installed" if missing else None


def checked(argv: list[str], cwd: Path, env: dict[str, str] | None = None) -> None:
    """A preparing step (build, install); SystemExit with its output when it fails."""
    done = subprocess.run(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed:\n{done.stdout[-3000:]}")


def replaced(text: str, rules: list[tuple[str, str]]) -> str:
    for pattern, by in rules:
        text = re.sub(pattern, by, text)
    return text


# ------------------------------------------------------------------ clients: each is (why it cannot run, its transcript)


def go_missing() -> str | None:
    return lacks("go")


def go(address: str) -> str:
    binary = WORK / "go-scenario"
    checked(["go", "build", "-o", str(binary), "."], HERE / "go")
    return output([str(binary), address])


def node_missing() -> str | None:
    return lacks("node", "npm")


def node(address: str) -> str:
    home = WORK / "node"
    home.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json", "scenario.js"):
        shutil.copy(HERE / "node" / name, home / name)
    if not (home / "node_modules").exists():
        checked(["npm", "ci", "--no-audit", "--no-fund"], home)
    return output(["node", "scenario.js", address], cwd=home)


def c_missing() -> str | None:
    if not Path("/usr/include/zookeeper/zookeeper.h").exists():
        return "Debian's libzookeeper-mt-dev not installed"
    return lacks("cc")


def c(address: str) -> str:
    binary = WORK / "c-scenario"
    checked(["cc", "-Wall", "-o", str(binary), "scenario.c", "-lzookeeper_mt", "-lpthread"], HERE / "c")
    return output([str(binary), address])


CLI_MT = "/usr/lib/zookeeper/bin/cli_mt"
C_SESSION_RULES = [
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+:\d+\(0x[0-9a-f]+\):ZOO_\w+@\w+@\d+: .*\n", ""),  # the library's log
    (r"127\.0\.0\.1:\d+", ADDRESS),
    (r"0x[0-9a-f]{10,}|\b[0-9a-f]{15,16}\b", "<session>"),
    (r"\b(ctime|mtime)( *[:=] *)[^\n]*?(?=\n|\t| [a-z]+\w*=)", r"\1\2<time>"),
    (r"(?m)^time = -?\d+ msec\n", ""),
    (r"(?m)^Connecting to.*\n", ""),
]


def cli_mt_missing() -> str | None:
    return None if Path(CLI_MT).exists() else "Debian's zookeeper-bin not installed"


def cli_mt(address: str) -> str:
    out = []
    commands = (HERE / "c/cli_mt.txt").read_text().splitlines()
    for command, text in session([CLI_MT, "-h", address], commands, quiet=0.12):
        # Children come in no particular order, watchers and answers on different threads.
        out += [f"> {command}", *sorted(line for line in replaced(text, C_SESSION_RULES).splitlines() if line.strip())]
    for command in ("ls /", "get /c", "create /oneshot"):  # one that fails never ends, whatever the server
        text = subprocess.run([CLI_MT, "-h", address, "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20).stdout.decode()
        out += [f"$ {command}", *sorted(line for line in replaced(text, C_SESSION_RULES).splitlines() if line.strip())]
    return "\n".join(out) + "\n"


JAVA_RULES = [
    (r"127\.0\.0\.1:\d+", ADDRESS),
    (r"\[zk: [^\]]*\] ?", ""),
    (r"(?m)^(ctime|mtime) = .*", r"\1 = <time>"),
    (r"(?m)^(cZxid|mZxid|pZxid) = 0x[1-9a-f][0-9a-f]*", r"\1 = <zxid>"),
    (r"(?m)^ephemeralOwner = 0x[1-9a-f][0-9a-f]*", "ephemeralOwner = <session>"),
    (r"zxid: \d+", "zxid: <zxid>"),
    (r"0x[0-9a-f]{10,}", "<session>"),
    (r"(?m)^\[[\w-]+(\([^\n]*\))?\] (INFO|WARN|ERROR|DEBUG) .*\n", ""),
    (r"(?m)^\tat .*\n", ""),
    (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
]


def java_missing() -> str | None:
    return lacks("java", "mvn")


def java(address: str) -> str:
    jars = apache_jars("3.9.5")
    quiet = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=off", "-Djline.terminal=jline.UnsupportedTerminal"]
    cli = [*JAVA, *quiet, "-cp", jars, "org.apache.zookeeper.ZooKeeperMain", "-server", address]
    out = []
    for command in (HERE / "java/oneshot.txt").read_text().splitlines():
        done = subprocess.run([*cli, *command.split()], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        lines = [line for line in replaced(done.stdout + done.stderr, JAVA_RULES).splitlines() if line.strip() and not line.startswith(("WATCHER::", "WatchedEvent state:SyncConnected", "Connecting to"))]
        out += [f"$ {command}", *lines, f"exit {done.returncode}"]
    commands = (HERE / "java/session.txt").read_text().splitlines()
    # zkCli prints no prompt to a pipe; a command with a known answer marks the end of the one before.
    mark = "ZooKeeper CLI version: "
    for command, text in session(cli, [f"{c}\nversion" for c in commands], quiet=0.08, prompt=mark + "|state:SyncConnected type:None"):
        command = command.partition("\n")[0]
        lines = [line for line in replaced(text, JAVA_RULES).splitlines() if line.strip() and not line.startswith(("Connecting to", mark))]
        # A watcher's lines and the command's answer come from two threads.
        out += [f"> {command}", *sorted(lines)]
    return "\n".join(out) + "\n"


def curator_missing() -> str | None:
    return lacks("java", "mvn")


def curator(address: str) -> str:
    home = WORK / "curator"
    built = home / "target/classes/Scenario.class"
    source = HERE / "curator"
    newest = max(f.stat().st_mtime for f in source.rglob("*") if f.is_file())
    if not built.exists() or built.stat().st_mtime < newest or not (home / "target/jars").exists():
        shutil.copytree(source, home, dirs_exist_ok=True)
        checked(["mvn", "-q", "-B", "-Dstyle.color=never", "compile", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=target/jars"], home)
        built.touch()
    return output([*JAVA, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{home}/target/classes:{home}/target/jars/*", "Scenario", address])


CLIENTS: dict[str, tuple[Callable[[], str | None], Callable[[str], str]]] = {
    "c": (c_missing, c),
    "cli_mt": (cli_mt_missing, cli_mt),
    "java": (java_missing, java),
    "curator": (curator_missing, curator),
    "node": (node_missing, node),
    "go": (go_missing, go),
}


def transcript(client: str, kind: str, directory: Path) -> str:
    """What the client printed, against a fresh server of this kind."""
    server = Zk(directory / f"{client}-{kind.replace(':', '-')}", kind, config=CONFIG, properties=PROPERTIES).start()
    try:
        text = CLIENTS[client][1](server.address)
    except subprocess.TimeoutExpired as error:
        text = (error.output or b"").decode("utf-8", "replace") + f"did not end within {error.timeout:g} s\n"
    finally:
        server.stop()
    (WORK / f"{client}.{kind.replace(':', '-')}.txt").write_text(text)
    return text


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", help="clients, separated by commas")
    ap.add_argument("--server", default="zkpy", help="the server under test: zkpy or apache:VERSION")
    ap.add_argument("--oracle", default="apache:3.9.5")
    ap.add_argument("--print", action="store_true", help="show the transcripts")
    a = ap.parse_args()
    if missing := lacks("java"):
        print(f"SKIPPED: no {a.oracle} to compare with: {missing}")
        return 0
    WORK.mkdir(parents=True, exist_ok=True)
    different = ran = 0
    with work_directory("clients") as directory:
        for client in a.only.split(",") if a.only else CLIENTS:
            if reason := CLIENTS[client][0]():
                print(f"{client}: SKIPPED, {reason}")
                continue
            want = transcript(client, a.oracle, directory / "oracle")
            got = transcript(client, a.server, directory / "candidate")
            ran += 1
            if a.print:
                print(got)
            diff = list(difflib.unified_diff(want.splitlines(), got.splitlines(), a.oracle, a.server, lineterm="", n=2))
            different += bool(diff)
            print(f"{client}: {len(want.splitlines())} lines, {'DIFFERENT' if diff else 'equal'}", flush=True)
            for line in diff:
                print("  " + line)
    return 1 if different else 0 if ran else 2


if __name__ == "__main__":
    sys.exit(main())
