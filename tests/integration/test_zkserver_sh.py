"""bin/zkServer.sh keeps the promises that scripts written for Apache ZooKeeper rely on.

Most cases run a stand-in for the ``zkpy`` command, so that they can make it fail on demand.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bin" / "zkServer.sh"

# Listens on STAND_IN_PORT and answers one connection after the other with the Mode line of srvr.
STAND_IN = f"""#!{sys.executable}
import os, socket, sys
print(sys.argv[1:], os.environ.get("SERVER_JVMFLAGS"), os.environ.get("JVMFLAGS"), flush=True)
if "STAND_IN_PORT" not in os.environ:
    sys.exit(7)
server = socket.create_server(("127.0.0.1", int(os.environ["STAND_IN_PORT"])))
while True:
    link, _ = server.accept()
    if link.recv(4) == b"srvr":
        link.sendall(b"Zookeeper version: x\\nMode: standalone\\nNode count: 5\\n")
    link.close()
"""


def free_port() -> int:
    """A port nobody has, outside the range from which connections take theirs: other tests open thousands."""
    first = 12000 + os.getpid() * 37 % 20000
    for port in range(first, first + 500):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError("no free port")


class Installation:
    """A configuration directory, a data directory and an environment to call the script in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = free_port()
        self.data_dir = path / "data"
        self.pid_file = self.data_dir / "zookeeper_server.pid"
        self.config = path / "conf" / "zoo.cfg"
        self.config.parent.mkdir()
        self.configure(f"dataDir={self.data_dir}", f"clientPort = {self.port} ")
        command = path / "zkpy"
        command.write_text(STAND_IN)
        command.chmod(0o755)
        self.environ = {
            "PATH": os.environ["PATH"],
            "USER": "tester",
            "HOSTNAME": "here",
            "ZKPY": str(command),
            "ZOO_LOG_DIR": str(path / "logs"),
            "ZOOCFGDIR": str(path / "conf"),
        }

    def configure(self, *lines: str) -> None:
        self.config.write_text("\n".join([*lines, ""]))

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), *arguments],
            env=self.environ | environ,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.path,
        )

    @property
    def output(self) -> str:
        return (self.path / "logs" / "zookeeper-tester-server-here.out").read_text()

    def end(self) -> None:
        if self.pid_file.exists():
            with contextlib.suppress(ProcessLookupError):  # a start that failed leaves its number too
                os.kill(int(self.pid_file.read_text()), signal.SIGKILL)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.end()


@pytest.mark.slow
def test_a_server_is_started_asked_and_stopped(installation: Installation) -> None:
    port = str(installation.port)
    started = installation.run("start", STAND_IN_PORT=port, SERVER_JVMFLAGS="-Da=1", JVMFLAGS="-Db=2")
    assert (started.returncode, started.stdout) == (0, "Starting zookeeper ... STARTED\n")
    assert started.stderr == f"Using config: {installation.config}\n"
    assert installation.output == f"['server', '{installation.config}'] -Da=1 -Db=2\n"
    assert int(installation.pid_file.read_text()) > 0

    status = installation.run("status")
    assert status.stdout == (
        f"Client port found: {port}. Client address: localhost. Client SSL: false.\nMode: standalone\n"
    )
    assert status.returncode == 0

    again = installation.run("start", STAND_IN_PORT=port)
    pid = installation.pid_file.read_text()
    assert again.stdout == f"Starting zookeeper ... already running as process {pid}.\n"
    assert again.returncode == 1

    restarted = installation.run("restart", STAND_IN_PORT=port)
    assert restarted.stdout == "Stopping zookeeper ... STOPPED\nStarting zookeeper ... STARTED\n"
    assert restarted.returncode == 0
    assert installation.pid_file.read_text() != pid

    stopped = installation.run("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "Stopping zookeeper ... STOPPED\n")
    assert not installation.pid_file.exists()
    status = installation.run("status")
    assert status.stdout.endswith("Error contacting service. It is probably not running.\n")
    assert status.returncode == 1


def test_stopping_what_does_not_run_is_a_success(installation: Installation) -> None:
    stopped = installation.run("stop")
    assert stopped.stdout == (
        f"Stopping zookeeper ... no zookeeper to stop (could not find file {installation.pid_file})\n"
    )
    assert stopped.returncode == 0


def test_a_pid_file_of_a_process_that_is_gone_is_removed(installation: Installation) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    installation.data_dir.mkdir()
    installation.pid_file.write_text(str(gone.pid))
    stopped = installation.run("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "Stopping zookeeper ... STOPPED\n")
    assert not installation.pid_file.exists()


def test_a_server_that_ends_at_once_failed_to_start(installation: Installation) -> None:
    started = installation.run("start")
    assert (started.returncode, started.stdout) == (1, "Starting zookeeper ... FAILED TO START\n")
    assert "zookeeper-tester-server-here.out" in started.stderr
    installation.pid_file.unlink()


def test_a_pid_file_that_cannot_be_written_is_reported(installation: Installation) -> None:
    started = installation.run("start", ZOOPIDFILE=str(installation.path / "conf"))
    assert (started.returncode, started.stdout) == (1, "Starting zookeeper ... FAILED TO WRITE PID\n")


def test_a_configuration_without_data_dir_does_not_start(installation: Installation) -> None:
    installation.configure("clientPort=2181")
    started = installation.run("start")
    assert (started.returncode, started.stdout) == (1, "Starting zookeeper ... FAILED TO START\n")


def test_without_autocreate_a_missing_data_dir_is_an_error(installation: Installation) -> None:
    started = installation.run("start", ZOO_DATADIR_AUTOCREATE_DISABLE="1")
    assert started.returncode == 1
    assert f"no data directory {installation.data_dir}/version-2" in started.stdout
    (installation.data_dir / "version-2").mkdir(parents=True)
    foreground = installation.run(
        "start-foreground", ZOO_DATADIR_AUTOCREATE_DISABLE="1", SERVER_JVMFLAGS="-Da=1"
    )
    assert "-Dzookeeper.datadir.autocreate=false -Da=1" in foreground.stdout


@pytest.mark.parametrize("environ", [{}, {"ZOO_NOEXEC": "1"}])
def test_in_the_foreground_the_exit_code_is_the_servers(
    installation: Installation, environ: dict[str, str]
) -> None:
    done = installation.run("start-foreground", **environ)
    assert done.returncode == 7
    assert done.stdout == f"['server', '{installation.config}'] None None\n"


@pytest.mark.parametrize(
    ("arguments", "environ", "chosen"),
    [
        ((), {}, "{conf}/zoo.cfg"),
        (("other.cfg",), {}, "{conf}/other.cfg"),
        (("./other.cfg",), {}, "./other.cfg"),
        (("/etc/zk/other.cfg",), {}, "/etc/zk/other.cfg"),
        ((), {"ZOOCFG": "named.cfg"}, "{conf}/named.cfg"),
        ((), {"ZOOCFG": "/etc/zk/named.cfg"}, "/etc/zk/named.cfg"),
    ],
)
def test_the_configuration_file_is_found_as_apache_does(
    installation: Installation, arguments: tuple[str, ...], environ: dict[str, str], chosen: str
) -> None:
    file = chosen.format(conf=installation.path / "conf")
    printed = installation.run("print-cmd", *arguments, **environ)
    assert printed.stdout == f'"{installation.environ["ZKPY"]}" server "{file}"\n'
    assert printed.stderr == f"Using config: {file}\n"
    assert printed.returncode == 0


def test_the_config_option_names_the_directory(installation: Installation) -> None:
    other = installation.path / "elsewhere"
    other.mkdir()
    (other / "java.env").write_text(f'ZKPY="{installation.path}/zkpy"; SERVER_JVMFLAGS="-Dfrom=java.env"\n')
    (other / "zoo.cfg").write_text(f"dataDir={installation.data_dir}\n")
    done = installation.run("--config", str(other), "start-foreground")
    assert done.stdout == f"['server', '{other}/zoo.cfg'] -Dfrom=java.env None\n"


@pytest.mark.parametrize("arguments", [(), ("explode",)])
def test_an_unknown_verb_prints_the_usage_and_succeeds(
    installation: Installation, arguments: tuple[str, ...]
) -> None:
    done = installation.run(*arguments)
    assert "{start|start-foreground|stop|version|restart|status|print-cmd}" in done.stderr
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("lines", "address", "is_tls"),
    [
        (["clientPort=1", "clientPort={port}"], "localhost", "false"),
        (["clientPort:{port}", "clientPortAddress 127.0.0.1"], "127.0.0.1", "false"),
        (["server.1=a:1:2;1", "server.7=a:1:2:participant;127.0.0.1:{port}"], "127.0.0.1", "false"),
        (["server.7=a:1:2;{port}"], "localhost", "false"),
        (["server.7=a:1:2;[::1]:{port}"], "::1", "false"),
        (["dynamicConfigFile={dynamic}"], "127.0.0.1", "false"),
        (["secureClientPort={port}", "server.7=a:1:2"], "localhost", "true"),
    ],
)
def test_status_finds_the_client_port_where_the_server_does(
    installation: Installation, lines: list[str], address: str, is_tls: str
) -> None:
    port = installation.port
    dynamic = installation.path / "zoo.cfg.dynamic"
    dynamic.write_text(f"server.1=a:1:2;1\nserver.7=a:1:2;127.0.0.1:{port}\n")
    installation.data_dir.mkdir()
    (installation.data_dir / "myid").write_text("7\n")
    installation.configure(
        f"dataDir={installation.data_dir}", *(line.format(port=port, dynamic=dynamic) for line in lines)
    )
    status = installation.run("status")
    assert status.stdout.splitlines() == [
        f"Client port found: {port}. Client address: {address}. Client SSL: {is_tls}.",
        "Error contacting service. It is probably not running.",
    ]
    assert status.returncode == 1


def test_status_of_a_server_without_ports_fails(installation: Installation) -> None:
    installation.configure(f"dataDir={installation.data_dir}")
    status = installation.run("status")
    assert status.stdout.startswith("No client port and no secure client port")
    assert status.returncode == 1


# ------------------------------------------------------------------------------------------------ the real server


@pytest.fixture
def real(installation: Installation) -> Installation:
    installation.environ["ZKPY"] = str(Path(sys.executable).parent / "zkpy")
    return installation


@pytest.mark.slow
def test_the_server_itself_is_started_asked_and_stopped(real: Installation) -> None:
    started = real.run("start", JVMFLAGS="-Dzookeeper.maxCnxns=7")
    assert started.stdout == "Starting zookeeper ... STARTED\n"
    deadline = time.monotonic() + 20
    while (
        "server.serving" not in real.output
    ):  # a second is what the script looks at, not what a start may take
        assert time.monotonic() < deadline, real.output
        time.sleep(0.05)
    serving = json.loads(real.output.splitlines()[-1])
    assert (serving["event"], serving["client_port"]) == ("server.serving", real.port)

    status = real.run("status")
    assert status.stdout.endswith("Client SSL: false.\nMode: standalone\n")
    assert status.returncode == 0

    stopped = real.run("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "Stopping zookeeper ... STOPPED\n")
    assert real.run("status").returncode == 1
    assert "Traceback" not in real.output


@pytest.mark.slow
def test_a_bad_configuration_fails_to_start_and_the_reason_is_in_the_output(real: Installation) -> None:
    real.configure(f"dataDir={real.data_dir}", "tickTime=soon")
    started = real.run("start")
    assert (started.returncode, started.stdout) == (1, "Starting zookeeper ... FAILED TO START\n")
    assert real.output == f"zkpy: {real.config}:2: tickTime=soon: expected a whole number\n"
    real.pid_file.unlink()
    assert real.run("start-foreground").returncode == 2


@pytest.mark.slow
def test_the_version_is_the_servers(real: Installation) -> None:
    assert real.run("version").stdout.startswith("zkpy ")
