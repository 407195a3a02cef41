"""Three servers on one machine, as the README says it: by ``bin/run_ensemble.py``, and by hand."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.client import KazooClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BY_HAND = next(
    block
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    if "ensemble/$n/zoo.cfg" in block and "kill" not in block
)
TIMEOUT_S = 60


def three_free_ports() -> int:
    """The tens before three ports that nobody has: 1234 stands for 12341 to 12343."""
    first = 1200 + os.getpid() * 7 % 1800
    for tens in range(first, first + 200):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            if tens in _handed_out:
                continue
            for digit in (1, 2, 3):
                probe = probes.enter_context(socket.socket())
                probe.bind(("127.0.0.1", tens * 10 + digit))
            _handed_out.add(tens)
            return tens
    raise AssertionError("no free ports")


_handed_out: set[int] = set()


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(") ")[2][0] != "Z"
    return False


@pytest.fixture
def processes() -> Iterator[list[int]]:
    """Ids that are ended when the test is over, whatever it says."""
    started: list[int] = []
    yield started
    for pid in started:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def is_one_ensemble(client_ports: list[int]) -> None:
    """A client of each server sees what a client of each other has written."""
    clients: list[Any] = [KazooClient(f"127.0.0.1:{port}", timeout=20) for port in client_ports]
    try:
        for client in clients:
            client.start(TIMEOUT_S)
        for number, client in enumerate(clients):
            client.create(f"/from-{number}", b"%d" % number)
        for client in clients:
            client.sync("/")
            found = {name: client.get(f"/{name}")[0] for name in client.get_children("/")}
            assert {name: data for name, data in found.items() if name != "zookeeper"} == {
                "from-0": b"0",
                "from-1": b"1",
                "from-2": b"2",
            }
        client = clients[0]
        for number in range(len(clients)):
            client.delete(f"/from-{number}")
    finally:
        for client in clients:
            client.stop()
            client.close()


@pytest.mark.slow
def test_one_command_starts_three_servers_and_an_interrupt_stops_them(
    tmp_path: Path, processes: list[int]
) -> None:
    clients, quorum, election = (10 * three_free_ports() + 1 for _ in range(3))
    command = [sys.executable, str(ROOT / "bin" / "run_ensemble.py"), "--data", str(tmp_path / "data")]
    ports = [f"--client-port={clients}", f"--quorum-port={quorum}", f"--election-port={election}"]
    for round_ in range(2):  # the second time on the data of the first
        script = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, text=True)
        processes.append(script.pid)
        assert script.stdout is not None
        said = []
        for line in script.stdout:
            said.append(line)
            processes.extend(map(int, re.findall(r"pid (\d+)", line)))
            if line.startswith("Ctrl-C"):
                break
        text = "".join(said)
        assert sorted(re.findall(r"  (leader|follower)  ", text)) == ["follower", "follower", "leader"]
        assert f"127.0.0.1:{clients},127.0.0.1:{clients + 1},127.0.0.1:{clients + 2}" in text
        is_one_ensemble([clients, clients + 1, clients + 2])
        servers = processes[-3:]
        if round_:
            os.kill(servers[0], signal.SIGKILL)
            assert "server 1 has ended with code -9" in script.stdout.readline()
        script.send_signal(signal.SIGINT)
        assert script.wait(TIMEOUT_S) == 0
        script.stdout.close()
        assert not any(is_alive(pid) for pid in servers)


@pytest.mark.slow
def test_an_ensemble_that_cannot_start_says_why(tmp_path: Path, processes: list[int]) -> None:
    member = tmp_path / "2"
    member.mkdir()
    (member / "zoo.cfg").write_text(f"dataDir={member}\nclientPort=1\ntickTime=nonsense\n")
    tens = three_free_ports()
    command = [sys.executable, str(ROOT / "bin" / "run_ensemble.py"), "--data", str(tmp_path)]
    ports = [f"--{kind}-port={10 * three_free_ports() + 1}" for kind in ("quorum", "election")]
    done = subprocess.run(
        [*command, f"--client-port={10 * tens + 1}", *ports],
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "server 2 has ended with code 2" in done.stdout
    assert "tickTime=nonsense" in done.stdout
    assert "the ensemble could not be started" in done.stdout


@pytest.mark.slow
def test_the_readmes_three_servers_by_hand_are_an_ensemble(tmp_path: Path, processes: list[int]) -> None:
    clients, quorum, election = (three_free_ports() for _ in range(3))
    script = BY_HAND.replace(".venv/bin/zkpy", f"{sys.executable} -m zkpy")
    for tens, free in ((218, clients), (288, quorum), (388, election)):
        script = re.sub(rf"(?<=[=:]){tens}(?=[1-3$])", str(free), script)
    assert not re.search(r"[=:][238][18]8", script)
    subprocess.run(
        ["bash", "-c", f"set -e; {script}\njobs -p > pids"], cwd=tmp_path, timeout=TIMEOUT_S, check=True
    )
    servers = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    processes.extend(servers)
    assert len(servers) == 3
    is_one_ensemble([10 * clients + n for n in (1, 2, 3)])
    for pid in servers:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + TIMEOUT_S
    while any(is_alive(pid) for pid in servers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "server.stopped" in (tmp_path / "ensemble/1/log").read_text(encoding="utf-8")
