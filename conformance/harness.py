"""ZooKeeper servers as processes, for the runners of this directory.

Owns: configuration file, data directory, process and readiness of one server (`Zk`) or of an ensemble
(`zk_members`, `zk_ensemble`), real Apache (`kind='apache:3.9.5'`) or ours (`kind='zkpy'`). Knows nothing of what is run
on them.
Every process is started by us, in its own session, and ended by its pid; `stop_all` runs at exit as well.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, SessionExpiredError
from wire_client import Broken

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
_running: list[Process] = []


def free_port() -> int:
    """A port nobody listens on now, outside the range that outgoing connections take theirs from."""
    with contextlib.suppress(OSError, ValueError):
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        first = 10000 + os.getpid() * 37 % max(1, low - 12000)
        for port in range(first, low):
            if port in _handed_out:
                continue
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    s.bind(("127.0.0.1", port))
                except OSError:
                    continue
                _handed_out.add(port)
                return port
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


_handed_out: set[int] = set()


def wait_for(what: str, condition: Callable[[], Any], timeout: float = 60, every: float = 0.1) -> Any:
    """Poll until `condition()` is true (an exception counts as false) and return its value; TimeoutError after."""
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except Exception as error:  # whatever the library raises while its server is away
            last = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s (last: {last!r})")
        time.sleep(every)


class Process:
    """One child process whose output goes to a file."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        piped: bool = False,
    ):
        """`piped`: stdin and stdout belong to the caller, only stderr goes to the file."""
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else out,
                stderr=out,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )
        _running.append(self)

    def alive(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        if self.alive():
            self.popen.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Exit code; subprocess.TimeoutExpired when it is still running."""
        code = self.popen.wait(timeout)
        if self in _running:
            _running.remove(self)
        return code

    def kill9(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(10)

    def stop(self, timeout: float = 20) -> int:
        """SIGTERM, and SIGKILL when that does not end it in time."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise


@atexit.register
def stop_all() -> None:
    for process in list(_running):
        with contextlib.suppress(Exception):
            process.signal(signal.SIGCONT)
            process.kill9()


for _number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, lambda number, _frame: sys.exit(128 + number))


JAVA = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


def apache_jars(version: str) -> str:
    """Class path of a real Apache server."""
    path = subprocess.run(
        ["bash", str(HERE / "get_apache.sh"), version], check=True, stdout=subprocess.PIPE, text=True
    )
    return path.stdout.strip() + "/*"


class Zk:
    """One ZooKeeper server. `config` holds more zoo.cfg keys, `properties` Java system properties.

    `kind` may change while it is stopped: the next start is that kind of server on the same configuration and data.
    `via` goes in front of the command and becomes it, such as `ip netns exec`; `host` is where it is reached then.
    """

    def __init__(
        self,
        directory: Path | str,
        kind: str = "zkpy",
        port: int | None = None,
        *,
        config: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        myid: int | None = None,
        host: str = "127.0.0.1",
        via: Sequence[str] = (),
    ):
        self.kind = kind
        self.myid = myid
        self.host = host
        self.via = list(via)
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.datadir = self.directory / "data"
        self.datadir.mkdir(exist_ok=True)
        self.log = self.directory / "server.log"
        self.cfg = self.directory / "zoo.cfg"
        self.port = port or free_port()
        self.address = f"{host}:{self.port}"
        self.properties = dict(properties or {})
        self.process: Process | None = None
        if myid is not None:
            (self.datadir / "myid").write_text(f"{myid}\n")
        keys = {
            "tickTime": 2000,
            "initLimit": 10,
            "syncLimit": 5,
            "dataDir": self.datadir,
            "clientPort": self.port,
            "clientPortAddress": host,
            "maxClientCnxns": 0,
            "4lw.commands.whitelist": "*",
            "admin.enableServer": "false",
        } | (config or {})
        self.cfg.write_text("".join(f"{key}={value}\n" for key, value in keys.items()))

    def command(self) -> list[str]:
        properties = [f"-D{name}={value}" for name, value in self.properties.items()]
        name, _, version = self.kind.partition(":")
        if name == "zkpy":
            return [*self.via, str(REPO / ".venv/bin/zkpy"), "server", *properties, str(self.cfg)]
        if name != "apache":
            raise ValueError(f"kind must be 'zkpy' or 'apache:VERSION', not {self.kind!r}")
        return [
            *self.via,
            *JAVA,
            "-Xmx256m",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            *properties,
            "-cp",
            apache_jars(version),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(self.cfg),
        ]

    def four_letter(self, word: str, timeout: float = 5) -> str:
        with socket.create_connection((self.host, self.port), timeout) as s:
            s.sendall(word.encode())
            return b"".join(iter(lambda: s.recv(65536), b"")).decode()

    def mode(self) -> str | None:
        """`standalone`, `leader`, `follower`, `observer`; None while it does not serve."""
        return self._srvr("Mode: ")

    def zxid(self) -> int | None:
        """The last one it has applied; None while it does not serve."""
        text = self._srvr("Zxid: ")
        return None if text is None else int(text, 16)

    def _srvr(self, field: str) -> str | None:
        with contextlib.suppress(OSError):
            for line in self.four_letter("srvr").splitlines():
                if line.startswith(field):
                    return line.removeprefix(field)
        return None

    def alive(self) -> bool:
        return self.process is not None and self.process.alive()

    def launch(self) -> Zk:
        """Start the process without waiting until it serves."""
        self.process = Process(self.command(), self.log, cwd=self.directory)
        return self

    def start(self, timeout: float = 60) -> Zk:
        self.launch()
        self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout: float = 60) -> None:
        def ready() -> bool:
            if not self.alive():
                raise SystemExit(f"{self.kind} server ended while starting:\n{self.log_tail()}")
            return self.mode() is not None

        wait_for(f"{self.kind} server on port {self.port} serves", ready, timeout, 0.05)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        return self.process.stop()

    def kill9(self) -> None:
        assert self.process is not None
        self.process.kill9()

    def restart(self, timeout: float = 60) -> Zk:
        """Start again on the same data, after `stop`, after `kill9`, or stopping it now."""
        if self.alive():
            self.stop()
        return self.start(timeout)

    def log_tail(self, lines: int = 30) -> str:
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
        )


def zk_members(
    directory: Path | str,
    kinds: Sequence[str],
    *,
    config: dict[str, Any] | None = None,
    make: Callable[..., Zk] = Zk,
    **options: Any,
) -> list[Any]:
    """The members of one ensemble, ids from 1, not started. A kind such as `zkpy/observer` is one without a vote.

    `make` is the class of a server.
    """
    members = {}
    for myid, kind in enumerate(kinds, 1):
        role = ":observer" if kind.endswith("/observer") else ""
        members[f"server.{myid}"] = f"127.0.0.1:{free_port()}:{free_port()}{role}"
    servers = []
    for myid, kind in enumerate(kinds, 1):
        own = {"peerType": "observer"} if kind.endswith("/observer") else {}
        name = kind.removesuffix("/observer")
        keys = (config or {}) | members | own
        servers.append(make(Path(directory) / f"zk{myid}", name, config=keys, myid=myid, **options))
    return servers


def zk_ensemble(directory: Path | str, kind: str = "zkpy", count: int = 1, **options: Any) -> list[Zk]:
    """`count` servers of one ensemble (1: a standalone server), started and serving. Options as for `Zk`."""
    directory = Path(directory)
    servers = [Zk(directory / "zk1", kind, **options)] if count == 1 else zk_members(directory, [kind] * count, **options)
    for server in servers:
        server.launch()
    for server in servers:
        server.wait_ready()
    return servers


class Observer:
    """A kazoo session that looks at what others do: comes back after every outage, and never waits for ever.

    Its timeout is short because an Apache server that is starting can accept a connection and never answer it; kazoo
    then waits one timeout before it connects again.
    """

    def __init__(self, hosts: str):
        self.client = KazooClient(hosts, timeout=5, connection_retry={"max_tries": -1, "max_delay": 0.5})
        self.client.start(30)

    def __call__(self, operation: str, *arguments: Any, timeout: float = 40) -> Any:
        """Any operation of kazoo by its name, tried again after a lost connection."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                pending = getattr(self.client, f"{operation}_async")(*arguments)
                return pending.get(timeout=max(0.1, deadline - time.monotonic()))
            except (ConnectionLoss, SessionExpiredError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        self.client.stop()
        self.client.close()


@contextlib.contextmanager
def work_directory(name: str, keep: bool = False) -> Iterator[Path]:
    """A scratch directory in .work, removed on success, kept (and named on stderr) when the body raises or exits non-zero."""
    (REPO / ".work").mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=REPO / ".work"))
    try:
        yield path
    except BaseException as error:
        stop_all()
        if keep or not (isinstance(error, SystemExit) and not error.code):
            print(f"logs and data: {path}", file=sys.stderr)
        else:
            shutil.rmtree(path, ignore_errors=True)
        raise
    stop_all()
    if keep:
        print(f"logs and data: {path}", file=sys.stderr)
    else:
        shutil.rmtree(path, ignore_errors=True)


class Promises:
    """One PASS or FAIL line per promise of a run. A failed one ends the run when later ones stand on it.

    A run whose promises time out one after the other is given up after `limit` seconds.
    """

    def __init__(self, system: str, limit: float = 300):
        self.system = system
        self.limit = limit
        self.failed = 0
        self.began = time.monotonic()

    @contextlib.contextmanager
    def promise(self, text: str, needed: bool = False) -> Iterator[list[str]]:
        """The body raises when the promise is broken; what it appends to the list is printed with the result."""
        remarks: list[str] = []
        start = time.monotonic()
        try:
            yield remarks
        except Exception as error:  # whatever a client library raises is a broken promise
            self.failed += 1
            place = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            near = next(
                (p for p in reversed(place) if not p.startswith(("harness", "contextlib"))), place[-1]
            )
            self._line("FAIL", text, start, [*remarks, f"{type(error).__name__}: {error} ({near})"])
            if needed or time.monotonic() - self.began > self.limit:
                self.end()
        else:
            self._line("PASS", text, start, remarks)

    def _line(self, verdict: str, text: str, start: float, remarks: list[str]) -> None:
        now = time.monotonic()
        tail = f" [{'; '.join(remarks)}]" if remarks else ""
        print(f"{verdict} {now - self.began:6.1f}s (+{now - start:.1f}) {text}{tail}", flush=True)

    def end(self) -> NoReturn:
        """Print the verdict and leave with 0 or 1."""
        verdict = f"FAIL ({self.failed} broken)" if self.failed else "PASS"
        print(f"{self.system}: {verdict} in {time.monotonic() - self.began:.0f} s", flush=True)
        raise SystemExit(1 if self.failed else 0)


def run_each(
    name: str,
    runs: Sequence[tuple[Callable[[Promises, Path, Sequence[str], int], None], str]],
    seed: int,
    keep: bool,
) -> None:
    """Parts, each on the kinds of servers beside it, with promises and a directory of its own. Leaves with 1 if one failed."""
    failed = 0
    with work_directory(name, keep) as directory:
        for number, (part, kinds) in enumerate(runs):
            promises = Promises(f"{part.__name__.removesuffix('_part')} {kinds}", limit=600)
            print(f"-- {promises.system}", flush=True)
            try:
                part(promises, directory / str(number), kinds.split(","), seed)
                promises.end()
            except SystemExit as verdict:
                failed += bool(verdict.code)
                if isinstance(verdict.code, str):
                    print(verdict.code, flush=True)
            except Broken as seen:  # by a writer, when it was stopped
                failed += 1
                print(f"FAIL {seen}", flush=True)
        if failed:
            raise SystemExit(f"{failed} of {len(runs)} runs failed")
