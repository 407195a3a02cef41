#!/usr/bin/env python3
"""Ensembles of zkpy and real Apache servers under a checked load of writes, with members that are killed and swapped.

    mixed_run.py                                   every ensemble below, and the swap
    mixed_run.py --parts kill,swap                 only these parts
    mixed_run.py --kinds zkpy,apache:3.9.5,apache:3.8.0,zkpy/observer [--kinds ...]
                                                   these ensembles instead; three voters and any observers
    mixed_run.py --swap apache:3.9.5,zkpy          the swap from the first kind to the second and back
    mixed_run.py --observed zkpy,zkpy,apache:3.9.5,zkpy/observer,apache:3.9.5/observer
                                                   the observers of followers: three voters, of which the second leads

`kill`: each voter in turn is brought to lead, leads for a while, and is killed with kill -9 under load; then the other
members are, one by one, and all at once. `swap`: three live servers of one kind become servers of the other, one at a
time on their data directories, and back, under the same load; no session of kazoo, idle or busy, is lost. `observed`:
followers take the observers at their observerMasterPort; each follower in turn has to take them all.

At the end of all: every writer finds its own writes and nothing else (roaming_load.py), all members hold the same
tree and digests (agreement.py), ephemerals are gone with their sessions, and a start of all members finds everything again. That the comparison
sees damage is shown every time on altered copies of the tree. Exit code: 0 all promises kept, 1 one was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from agreement import CONFIG as CONFIG_NODE
from agreement import PROBE, agree, metric
from ensemble_roles import leader, make_leader, serves, wait_for_leader
from harness import Promises, Zk, free_port, run_each, wait_for, zk_members
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import KazooException
from roaming_load import RoamingLoad, damages
from wire_client import EPHEMERAL, Broken, Wire, create
from zkpy_protocol.opcodes import OpCode

logging.getLogger("kazoo").setLevel(logging.CRITICAL)  # lost connections are what this is about

PARTS = ("kill", "swap", "observed")
ENSEMBLES = (
    "zkpy,apache:3.9.5,apache:3.9.5,zkpy/observer",
    "zkpy,zkpy,apache:3.9.5,apache:3.9.5/observer",
    "zkpy,apache:3.8.0,apache:3.8.0,zkpy/observer",
    "zkpy,zkpy,apache:3.8.0,apache:3.8.0/observer",
    "zkpy,apache:3.6.4,apache:3.6.4",
)
SWAPS = ("apache:3.9.5,zkpy",)
OBSERVED = (
    "zkpy,zkpy,apache:3.9.5,zkpy/observer,apache:3.9.5/observer",
    "zkpy,apache:3.9.5,apache:3.9.5,zkpy/observer,apache:3.9.5/observer",
)
WRITERS = 8
LEADS_S = 1.5
# Short ticks; snapshots and log rolls happen often enough to meet kills.
CONFIG = {"tickTime": 1000, "maxSessionTimeout": 60000, "snapCount": 2000}


class KeptSessions:
    """kazoo sessions that must live through everything: one that is idle, and some that are busy."""

    def __init__(self, hosts: str, busy: int = 3) -> None:
        self._end = threading.Event()
        self._lost: list[str] = []
        self.writes = 0
        self._clients = []
        for number in range(busy + 1):
            client = KazooClient(hosts, timeout=20, connection_retry={"max_tries": -1, "max_delay": 0.5})
            client.add_listener(lambda state, n=number: self._changed(n, state))
            client.start(30)
            client.create(f"/kept-{number}", b"", ephemeral=True)
            self._clients.append(client)
        self._ids = [client.client_id[0] for client in self._clients]
        self._threads = [
            threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(1, busy + 1)
        ]
        for thread in self._threads:
            thread.start()

    def _changed(self, number: int, state: str) -> None:
        if state == KazooState.LOST and not self._end.is_set():
            self._lost.append(f"session {number}")

    def _write(self, number: int) -> None:
        client = self._clients[number]
        turn = 0
        while not self._end.is_set():
            turn += 1
            with contextlib.suppress(KazooException, TimeoutError):
                client.set_async(f"/kept-{number}", b"%d" % turn).get(timeout=10)
                self.writes += 1
            self._end.wait(0.02)

    def check(self) -> None:
        """Raises Broken when one was lost, or its ephemeral was."""
        if self._lost:
            raise Broken(f"lost: {', '.join(self._lost)}")
        for number, (client, session_id) in enumerate(zip(self._clients, self._ids, strict=True)):
            stat = client.retry(client.exists, f"/kept-{number}")
            if stat is None or stat.ephemeralOwner != session_id or client.client_id[0] != session_id:
                raise Broken(
                    f"session {number}: {stat}, session {client.client_id[0]:#x} was {session_id:#x}"
                )

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(15)
        for client in self._clients:
            client.stop()
            client.close()


class Run:
    """One ensemble, its load, and the promises that every part ends with."""

    def __init__(self, promises: Promises, servers: Sequence[Zk], seed: int) -> None:
        self.promises = promises
        self.servers = list(servers)
        self.voters = [server for server in servers if "peerType=observer" not in server.cfg.read_text()]
        self.seed = seed
        self.load = RoamingLoad(WRITERS, seed, servers)

    def begin(self) -> None:
        with self.promises.promise("the ensemble serves", needed=True) as said:
            for server in self.servers:
                server.launch()
            for server in self.servers:
                server.wait_ready()
            said.append(", ".join(f"{s.myid} {s.kind} {s.mode()}" for s in self.servers))
            self.load.prepare()

    def end(self) -> None:
        """Stop the load and look."""
        promise, load = self.promises.promise, self.load
        with promise(
            "every writer finds what was acknowledged, or done, and nothing else", needed=True
        ) as said:
            load.stop()
            said.append(
                f"{load.acknowledged} writes acknowledged, {load.reattached} sessions taken up again, "
                f"longest outage of a writer {load.longest_outage:.1f} s"
            )
        with promise("all members agree: zxid, data, Stats, ACLs, digests", needed=True) as said:
            state = agree(self.servers)
            said.append(str(state))
        with promise("the tree is what was acknowledged"):
            load.compare(state.tree)
            if state.zxid < load.last_zxid:
                raise Broken(f"zxid {state.zxid:#x} after {load.last_zxid:#x} was acknowledged")
        with promise("the comparison sees damage") as said:
            count = 0
            for what, tree in damages(state.tree, self.seed):
                count += 1
                with contextlib.suppress(Broken):
                    load.compare(tree)
                    raise AssertionError(f"not seen: {what}")
            said.append(f"{count} altered trees")
        with promise("closed sessions leave no ephemeral"):
            load.close_sessions()
            state = agree(self.servers)
            left = [path for path, node in state.tree.items() if node[1].ephemeral_owner]
            if left:
                raise Broken(f"{len(left)} are left, such as {left[0]}")
        with promise("stopped and started again all members hold the same"):
            for server in self.servers:
                server.stop()
            for server in self.servers:
                server.launch()
            for server in self.servers:
                server.wait_ready()
            again = agree(self.servers)
            changed = {
                p for p in again.tree.keys() | state.tree.keys() if again.tree.get(p) != state.tree.get(p)
            }
            if changed - {"/", PROBE, CONFIG_NODE}:
                raise Broken(
                    f"{len(changed)} znodes have changed, such as {min(changed - {PROBE, CONFIG_NODE})}"
                )
            load.compare(again.tree)

    def lead_and_die(self, voter: Zk) -> None:
        """It leads, and is killed while it does."""
        with self.promises.promise(
            f"server {voter.myid} ({voter.kind}) leads, is killed, comes back"
        ) as said:
            killed = make_leader(voter, self.voters)
            took = self.load.progress()
            time.sleep(LEADS_S)
            if leader(self.voters) is not voter:
                raise Broken("it has lost the lead although nobody was killed")
            began = time.monotonic()
            voter.kill9()
            successor = wait_for_leader(self.voters)
            elected = time.monotonic() - began
            self.load.progress()
            said.append(
                f"{killed} killed for it, all write {took:.1f} s after; server {successor.myid} ({successor.kind}) follows after "
                f"{elected:.1f} s, all write after {time.monotonic() - began:.1f} s"
            )
            serves(voter)
            self.load.progress()

    def restart_one(self, server: Zk) -> None:
        mode = server.mode()
        with self.promises.promise(f"server {server.myid} ({server.kind}), {mode}, is killed and comes back"):
            server.kill9()
            self.load.progress()
            serves(server)
            self.load.progress()

    def restart_all(self) -> None:
        with self.promises.promise("all are killed at once and come back") as said:
            began = time.monotonic()
            for server in self.servers:
                server.kill9()
            for server in self.servers:
                server.launch()
            for server in self.servers:
                server.wait_ready()
            self.load.progress()
            said.append(f"all write after {time.monotonic() - began:.1f} s")


def kill_part(promises: Promises, directory: Path, kinds: Sequence[str], seed: int) -> None:
    """Every voter leads and dies; then each member dies in the role it has."""
    run = Run(promises, zk_members(directory, kinds, config=CONFIG), seed)
    run.begin()
    order = list(run.voters)
    random.Random(seed).shuffle(order)
    with run.load.running():
        for voter in order:
            run.lead_and_die(voter)
        for server in run.servers:
            if server.mode() != "leader":
                run.restart_one(server)
        run.restart_all()
    run.end()
    for server in run.servers:
        server.stop()


def swap_part(promises: Promises, directory: Path, kinds: Sequence[str], seed: int) -> None:
    """Three servers of one kind become the other, one by one, and back."""
    first, second = kinds
    run = Run(promises, zk_members(directory, [first] * 3, config=CONFIG), seed)
    run.begin()
    with _kept(run.servers) as kept:
        with run.load.running():
            for kind in (second, first):
                # The leader last, as operators do.
                now = leader(run.servers)
                for server in sorted(run.servers, key=lambda s, now=now: s is now):
                    with promises.promise(f"server {server.myid}, {server.mode()}, becomes {kind}") as said:
                        began = time.monotonic()
                        server.stop()
                        server.kind = kind
                        server.start()
                        run.load.progress()
                        kept.check()
                        said.append(f"{time.monotonic() - began:.1f} s")
        with promises.promise("no session of kazoo was lost, nor an ephemeral") as said:
            kept.check()
            said.append(f"{kept.writes} writes")
    run.end()
    for server in run.servers:
        server.stop()


def observed_part(promises: Promises, directory: Path, kinds: Sequence[str], seed: int) -> None:
    """Observers that are served by followers, until those are killed."""
    run = Run(promises, _members_of_own_hosts(directory, kinds), seed)
    observers = [server for server in run.servers if server not in run.voters]
    with promises.promise("the observers are served by followers", needed=True) as said:
        # Of the first two the one with the greater id leads.
        for some in (run.voters[:2], run.voters[2:], observers):
            for server in some:
                server.launch()
            for server in some:
                server.wait_ready()
        run.load.prepare()
        said.append(_masters(run, observers))
    with run.load.running():
        for _ in range(2):
            lead = leader(run.voters)
            for follower in [server for server in run.voters if server is not lead]:
                (other,) = (server for server in run.voters if server not in (lead, follower))
                with promises.promise(
                    f"server {follower.myid} ({follower.kind}) dies, {other.kind} takes over"
                ) as said:
                    follower.kill9()
                    wait_for("all observers at the other", lambda o=other: _served_at(o, observers), 30)
                    run.load.progress()
                    _passes_on(other, observers)
                    said.append(_masters(run, observers))
                    serves(follower)
                    run.load.progress()
            with promises.promise("the leader dies, the observers find their way") as said:
                assert lead is not None
                lead.kill9()
                wait_for_leader(run.voters)
                serves(lead)
                run.load.progress()
                for server in observers:
                    serves(server)
                said.append(_masters(run, observers))
    run.end()
    for server in run.servers:
        server.stop()


def _members_of_own_hosts(directory: Path, kinds: Sequence[str]) -> list[Zk]:
    """All followers listen at one port for observers, so each server has an address of its own."""
    port = free_port()
    lines = {}
    for myid, kind in enumerate(kinds, 1):
        role = ":observer" if kind.endswith("/observer") else ""
        lines[f"server.{myid}"] = f"127.0.1.{myid}:{free_port()}:{free_port()}{role}"
    servers = []
    for myid, kind in enumerate(kinds, 1):
        own = {"peerType": "observer"} if kind.endswith("/observer") else {}
        keys = CONFIG | lines | own | {"observerMasterPort": port}
        servers.append(Zk(directory / f"zk{myid}", kind.removesuffix("/observer"), config=keys, myid=myid))
    return servers


def _served_at(follower: Zk, observers: Sequence[Zk]) -> bool:
    masters = [metric(server, "zk_observer_master_id") for server in observers]
    return masters == [str(follower.myid)] * len(observers) and (
        metric(follower, "zk_synced_observers") == str(len(observers))
    )


def _masters(run: Run, observers: Sequence[Zk]) -> str:
    """Who serves whom; raises Broken when the leader does."""
    lead = leader(run.voters)
    assert lead is not None
    masters = {server.myid: metric(server, "zk_observer_master_id") for server in observers}
    if str(lead.myid) in masters.values() or metric(lead, "zk_synced_observers") != "0":
        raise Broken(f"the leader, server {lead.myid}, serves observers: {masters}")
    return ", ".join(f"{observer} at {master}" for observer, master in masters.items())


def _passes_on(follower: Zk, observers: Sequence[Zk]) -> None:
    """A write, a sync and a watch by way of each observer; idle sessions live on, silent ones end."""
    clients = [KazooClient(server.address, timeout=4) for server in observers]
    silent = Wire(observers[0].port, session_timeout_ms=4000)
    silent.connect()
    silent.call(OpCode.CREATE, create("/silent", b"", EPHEMERAL))
    began = time.monotonic()
    fired = []
    for client in clients:
        client.start(20)
        client.create(f"/idle-{client.client_id[0]}", b"", ephemeral=True)
    with _client_of(follower) as other:
        for number, client in enumerate(clients):
            client.exists("/passed-on", watch=lambda _event, n=number: fired.append(n))
        other.create("/passed-on", b"")
        for client in clients:
            client.sync("/")
            if client.exists("/passed-on") is None:
                raise Broken("a sync is answered before what was committed")
        other.delete("/passed-on")
        wait_for("all watches fire", lambda: len(fired) == len(clients), 10)
        wait_for("the silent session ends", lambda: other.exists("/silent") is None, 30)
        time.sleep(max(0, began + 8 - time.monotonic()))
        for client in clients:
            if other.exists(f"/idle-{client.client_id[0]}") is None:
                raise Broken("an idle session has ended")
            client.stop()
            client.close()


@contextlib.contextmanager
def _client_of(server: Zk) -> Iterator[KazooClient]:
    client = KazooClient(server.address, timeout=20)
    client.start(20)
    try:
        yield client
    finally:
        client.stop()
        client.close()


@contextlib.contextmanager
def _kept(servers: Sequence[Zk]) -> Iterator[KeptSessions]:
    kept = KeptSessions(",".join(server.address for server in servers))
    try:
        yield kept
    finally:
        kept.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: %(default)s")
    parser.add_argument("--kinds", action="append", help="an ensemble; may be given several times")
    parser.add_argument("--swap", action="append", help="two kinds; may be given several times")
    parser.add_argument("--observed", action="append", help="kinds; may be given several times")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", action="store_true", help="leave logs and data")
    arguments = parser.parse_args()
    if shutil.which("java") is None:
        print("SKIPPED: no java, so no Apache to form ensembles with")
        return
    parts = arguments.parts.split(",")
    print(f"seed {arguments.seed}", flush=True)
    runs = [(kill_part, kinds) for kinds in arguments.kinds or ENSEMBLES if "kill" in parts]
    runs += [(swap_part, kinds) for kinds in arguments.swap or SWAPS if "swap" in parts]
    runs += [(observed_part, kinds) for kinds in arguments.observed or OBSERVED if "observed" in parts]
    run_each("mixed", runs, arguments.seed, arguments.keep)


if __name__ == "__main__":
    main()
