#!/usr/bin/env python3
"""Ensembles whose servers have two addresses each, of which one set or the other is dead.

    multi_address_run.py                                every ensemble below
    multi_address_run.py --kinds zkpy,apache:3.9.5,zkpy [--kinds ...]

With `multiAddress.enabled` a server line names several addresses, each in a network of its own. First one network is dead
from the start on, and the leader is killed; then the other one dies, in the middle of everything, with all connections that
are in it: nobody is told, packets just vanish. Under a checked load of writes (roaming_load.py), which none may be lost of.

Root only, for a network namespace of its own (network.py); says SKIPPED where there can be none.
Exit code: 0 all promises kept, 1 one was broken.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import network
from ensemble_roles import leader, serves, wait_for_leader
from harness import Promises, Zk, free_port, run_each
from mixed_run import Run
from wire_client import Broken

ENSEMBLES = (
    "zkpy,zkpy,zkpy",
    "apache:3.9.5,apache:3.9.5,apache:3.9.5",
    "zkpy,zkpy,apache:3.9.5",
    "apache:3.9.5,zkpy,apache:3.9.5",
)
TICK_MS, SYNC_LIMIT = 1000, 4
CONFIG = {
    "tickTime": TICK_MS,
    "initLimit": 10,
    "syncLimit": SYNC_LIMIT,
    "maxSessionTimeout": 60000,
    "multiAddress.enabled": "true",
}
# Apache reads its server lines before it knows the key above.
PROPERTIES = {"zookeeper.multiAddress.enabled": "true"}
NETWORKS = (1, 2)


def members(directory: Path, kinds: Sequence[str]) -> list[Zk]:
    """Servers at 127.0.1.N and 127.0.2.N; clients reach them at 127.0.0.1."""
    lines = {}
    for myid, _ in enumerate(kinds, 1):
        ports = f"{free_port()}:{free_port()}"
        lines[f"server.{myid}"] = "|".join(f"127.0.{net}.{myid}:{ports}" for net in NETWORKS)
    return [
        Zk(directory / f"zk{myid}", kind, config=CONFIG | lines, properties=PROPERTIES, myid=myid)
        for myid, kind in enumerate(kinds, 1)
    ]


def die(net: int) -> None:
    """Nothing arrives in this network any more."""
    network.run("iptables", "-A", "INPUT", "-d", f"127.0.{net}.0/24", "-j", "DROP")


def heal() -> None:
    """Both networks are well."""
    network.run("iptables", "-F", "INPUT")


def networks_part(promises: Promises, directory: Path, kinds: Sequence[str], seed: int) -> None:
    """One ensemble."""
    for dead, alive in (NETWORKS, NETWORKS[::-1]):
        run = Run(promises, members(directory / str(dead), kinds), seed)
        heal()
        die(dead)
        run.begin()
        with run.load.running():
            for voter in [leader(run.voters), *run.voters]:
                if voter is None:
                    continue
                with promises.promise(
                    f"server {voter.myid}, {voter.mode()}, dies and comes back in network {alive}"
                ) as said:
                    began = time.monotonic()
                    voter.kill9()
                    wait_for_leader(run.voters)
                    run.load.progress()
                    said.append(f"all write after {time.monotonic() - began:.1f} s")
                    serves(voter)
                    run.load.progress()
            with promises.promise(f"network {alive} dies, all go over to network {dead}") as said:
                heal()
                die(alive)
                began = time.monotonic()
                noticed_s = SYNC_LIMIT * TICK_MS / 1000
                time.sleep(noticed_s)  # an answer that was on its way when the network died is no progress
                said.append(f"all write after {noticed_s + run.load.progress():.1f} s")
                for server in run.servers:
                    serves(server)
                said.append(f"all serve after {time.monotonic() - began:.1f} s")
        run.end()
        for server in run.servers:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", action="append", help="an ensemble; may be given several times")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", action="store_true", help="leave logs and data")
    arguments = parser.parse_args()
    reason = network.missing() or ("no java" if shutil.which("java") is None else None)
    if reason is not None:
        print(f"SKIPPED: {reason}")
        return
    network.go_inside()
    network.run("ip", "link", "set", "lo", "up")
    print(f"seed {arguments.seed}", flush=True)
    runs = [(networks_part, kinds) for kinds in arguments.kinds or ENSEMBLES]
    run_each("multi-address", runs, arguments.seed, arguments.keep)


if __name__ == "__main__":
    main()
