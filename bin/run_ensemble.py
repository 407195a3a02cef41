#!/usr/bin/env python3
"""Three servers of one ensemble on this machine, until Ctrl-C: to try it out, or to develop a client against.

    bin/run_ensemble.py                        clients on 2181 to 2183, data in ./zkpy-data/1 to 3
    bin/run_ensemble.py --client-port 12181 --quorum-port 12888 --election-port 13888 --data DIR

Each server has its configuration and its log (`zoo.cfg`, `server.log`) in its data directory. A configuration that is there is used as
it is; the options only matter where there is none. A server that ends is reported and not started again: what the other
two do then is part of what there is to try. Exit code: 0 stopped as asked, 1 the servers could not be started.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

COUNT = 3
START_S = 60
STOP_S = 30
HOST = "127.0.0.1"


class Ports(NamedTuple):
    """Of the first server; the others have the following ones."""

    client: int
    quorum: int
    election: int


class Stopped(Exception):  # noqa: N818  not an error: somebody asked for it
    """SIGINT or SIGTERM has come."""


class Member:
    """One server process."""

    def __init__(self, number: int, directory: Path, ports: Ports) -> None:
        self.number = number
        self.directory = directory / str(number)
        self.config = self.directory / "zoo.cfg"
        self.log = self.directory / "server.log"
        self.is_reported = False
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            (self.directory / "myid").write_text(f"{number}\n", encoding="ascii")
            self.config.write_text(self._configuration(ports), encoding="ascii")
        self.port = int(_value(self.config, "clientPort"))
        with self.log.open("ab") as log:
            # In a session of its own, so that Ctrl-C in the terminal reaches this script alone.
            self.process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-m", "zkpy", "server", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _configuration(self, ports: Ports) -> str:
        members = [
            f"server.{n}={HOST}:{ports.quorum + n - 1}:{ports.election + n - 1}" for n in range(1, COUNT + 1)
        ]
        lines = [
            "# zoo.cfg.example explains every key.",
            f"dataDir={self.directory.absolute()}",
            f"clientPort={ports.client + self.number - 1}",
            f"clientPortAddress={HOST}",
            "tickTime=2000",
            "initLimit=10",
            "syncLimit=5",
            "4lw.commands.whitelist=*",
            *members,
        ]
        return "\n".join(lines) + "\n"

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def mode(self) -> str | None:
        """What it says it is; None while it does not serve."""
        try:
            with socket.create_connection((HOST, self.port), timeout=2) as link:
                link.sendall(b"srvr")
                answer = b"".join(iter(lambda: link.recv(4096), b"")).decode()
        except OSError:
            return None
        modes = [line.removeprefix("Mode: ") for line in answer.splitlines() if line.startswith("Mode: ")]
        return modes[0] if modes else None

    def report_end(self) -> None:
        if not self.is_reported:
            self.is_reported = True
            _say(
                f"server {self.number} has ended with code {self.process.returncode}; the end of {self.log}:"
            )
            _say(
                "".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-5:])
            )


def main() -> int:
    arguments = _arguments()
    ports = Ports(arguments.client_port, arguments.quorum_port, arguments.election_port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    members: list[Member] = []
    try:
        members.extend(Member(n, arguments.data, ports) for n in range(1, COUNT + 1))
        if not _wait_until_they_serve(members):
            return 1
        _introduce(members)
        while True:
            time.sleep(0.5)
            for member in members:
                if not member.is_running:
                    member.report_end()
    except Stopped:
        return 0
    finally:
        _end(members)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--client-port", type=int, default=2181, help="of the first server (default 2181)")
    parser.add_argument("--quorum-port", type=int, default=2888)
    parser.add_argument("--election-port", type=int, default=3888)
    parser.add_argument("--data", type=Path, default=Path("zkpy-data"), help="default ./zkpy-data")
    return parser.parse_args()


def _stop(_number: int, _frame: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


def _wait_until_they_serve(members: list[Member]) -> bool:
    deadline = time.monotonic() + START_S
    while any(member.mode() is None for member in members):
        ended = [member for member in members if not member.is_running]
        for member in ended:
            member.report_end()
        if ended or time.monotonic() > deadline:
            _say("the ensemble could not be started")
            return False
        time.sleep(0.1)
    return True


def _introduce(members: list[Member]) -> None:
    for member in members:
        where = f"{HOST}:{member.port}"
        _say(f"server {member.number}  {where}  {member.mode():8}  pid {member.process.pid}  {member.log}")
    _say()
    _say(f"connect to   {','.join(f'{HOST}:{member.port}' for member in members)}")
    _say(f"look at one  echo mntr | nc {HOST} {members[0].port}")
    _say("lose one     kill -9 PID, and see the others go on")
    _say("Ctrl-C stops all.")


def _end(members: list[Member]) -> None:
    for member in members:
        if member.is_running:
            member.process.send_signal(signal.SIGTERM)
    for member in members:
        try:
            member.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _say(f"server {member.number} does not stop, it is killed")
            member.process.kill()
            member.process.wait()
    _say("stopped")


def _value(config: Path, key: str) -> str:
    lines = [line.partition("=") for line in config.read_text(encoding="latin-1").splitlines()]
    return next(value.strip() for name, _, value in lines if name.strip() == key)


def _say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
