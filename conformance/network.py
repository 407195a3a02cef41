"""A network of its own for servers: one namespace for each, on one bridge, with ways that can be cut one by one.

Needs root, `ip` and `iptables`. `inside` runs a program in a network and mount namespace of its own, where all
namespaces of `Network` vanish with it: nothing on the machine itself is changed, and nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SUBNET = "10.77.0"
MARK = "ZKPY_INSIDE"


def missing() -> str | None:
    """Why there can be no such network here; None when there can."""
    if os.geteuid() != 0:
        return "not root"
    absent = [name for name in ("ip", "iptables", "unshare", "mount") if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], check=False, stderr=subprocess.PIPE, text=True)
    return tried.stderr.strip() or None


def go_inside() -> None:
    """Run this program again in namespaces of its own, unless it is there already."""
    if os.environ.get(MARK):
        return
    os.environ[MARK] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def run(*command: str) -> None:
    subprocess.run(command, check=True)


class Network:
    """Namespaces `zk1` … on a bridge; the caller's own is on it too, and no way to or from it is ever cut."""

    def __init__(self, count: int) -> None:
        Path("/run/netns").mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "zkpy-netns", "/run/netns")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "hub", "type", "bridge")
        run("ip", "addr", "add", f"{SUBNET}.254/24", "dev", "hub")
        run("ip", "link", "set", "hub", "up")
        self.numbers = range(1, count + 1)
        for number in self.numbers:
            name = self.name(number)
            run("ip", "netns", "add", name)
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", name, "master", "hub", "up")
            self._within(number, "ip", "link", "set", "lo", "up")
            self._within(number, "ip", "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            self._within(number, "ip", "link", "set", "eth0", "up")

    @staticmethod
    def name(number: int) -> str:
        return f"zk{number}"

    @staticmethod
    def address(number: int) -> str:
        return f"{SUBNET}.{number}"

    def via(self, number: int) -> list[str]:
        """What goes in front of a command that is to run there."""
        return ["ip", "netns", "exec", self.name(number)]

    def cut(self, source: int, target: int) -> None:
        """Nothing that `source` sends arrives at `target` any more; the other way is open."""
        self._within(target, "iptables", "-A", "INPUT", "-s", self.address(source), "-j", "DROP")

    def part(self, one: Iterable[int], other: Iterable[int]) -> None:
        """Cut all ways between two groups."""
        others = list(other)
        for a in one:
            for b in others:
                self.cut(a, b)
                self.cut(b, a)

    def heal(self) -> None:
        for number in self.numbers:
            self._within(number, "iptables", "-F", "INPUT")

    def _within(self, number: int, *command: str) -> None:
        run(*self.via(number), *command)
