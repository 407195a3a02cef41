#!/usr/bin/env python3
"""Three servers in network namespaces, one fault after the other under load, and a history that must hold.

    faults_run.py                                    zkpy
    faults_run.py --server apache:3.9.5              real Apache servers
    faults_run.py --kinds zkpy,apache:3.9.5,zkpy     a mixed ensemble
    faults_run.py --faults pause_leader,full_disk_leader   only these; --list names all
    faults_run.py --faults lying_disks               must fail: no ensemble can stand it

For each fault: clients write a history (history_load.py), the fault comes, writes must go on while it lasts (unless it takes
the quorum), it is mended, every server must serve again. Then the history is checked (history.py: no acknowledged write
lost, no stale compare-and-set, order within sessions, ephemerals exactly as long as their sessions), all members must hold
the same tree (agreement.py), and altered copies of the history must be refused. Needs root, `ip` and `iptables`; says
SKIPPED and succeeds where they are missing. Exit code: 0 every promise kept, 1 one was broken.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import network
from agreement import agree
from ensemble_roles import serves, wait_for_leader
from harness import Promises, Zk, wait_for, work_directory
from history import check, damages
from history_load import HistoryLoad
from wire_client import Broken, ConnectionGone, Refused, Wire
from zkpy_protocol import records
from zkpy_protocol.opcodes import OpCode

TICK_MS = 500
SLACK_S = 3 * TICK_MS / 1000
HOLD_S = 5  # longer than syncLimit, shorter than the sessions' timeout
CALM_S = 1.0
STARTS_MAX = 2  # of one server after a fault
DISK_MB = 48
PREALLOCATED_KB = 16  # of a log: what it can still take on a full disk
SUPER = ("digest", b"super:test")
SUPER_DIGEST = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="


class Cluster:
    """Three servers, each in its own namespace with a small file system of its own for its data."""

    def __init__(self, directory: Path, net: network.Network, kinds: Sequence[str], seed: int, reconfig: bool = False) -> None:
        self.net = net
        self.rng = random.Random(seed)
        self.lines = {}
        for number in net.numbers:
            client = f";{net.address(number)}:2181" if reconfig else ""
            self.lines[number] = f"{net.address(number)}:2888:3888:participant{client}"
        config = {
            "tickTime": TICK_MS, "initLimit": 10, "syncLimit": 4, "maxSessionTimeout": 30000, "snapCount": 3000,
            "preAllocSize": PREALLOCATED_KB, "reconfigEnabled": "true" if reconfig else "false",
            **{f"server.{number}": line for number, line in self.lines.items()},
        }  # fmt: skip
        self.servers = []
        for number, kind in zip(net.numbers, kinds, strict=True):
            home = directory / f"zk{number}"
            data = home / "data"
            data.mkdir(parents=True)
            network.run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "zkpy-faults", str(data))
            properties = {"zookeeper.DigestAuthenticationProvider.superDigest": SUPER_DIGEST}
            self.servers.append(Zk(home, kind, 2181, config=config, properties=properties, myid=number,
                                   host=net.address(number), via=net.via(number)))  # fmt: skip

        self._configurations = {server.myid: server.cfg.read_text() for server in self.servers}

    def start(self) -> None:
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready()

    def leader(self) -> Zk:
        return wait_for_leader(self.servers)

    def follower(self) -> Zk:
        return self.rng.choice(self.others(self.leader()))

    def others(self, server: Zk) -> list[Zk]:
        return [other for other in self.servers if other is not server]

    def isolate(self, server: Zk) -> None:
        self.net.part([_number(server)], [_number(other) for other in self.others(server)])

    def mend(self) -> None:
        """Whatever a fault has left: every server runs, is reached, and serves."""
        self.net.heal()
        for server in self.servers:
            if server.process is not None:
                server.process.signal(signal.SIGCONT)
            (server.datadir / "ballast").unlink(missing_ok=True)
        # One that is just dying of the fault is started when it is dead.
        starts = dict.fromkeys(self.net.numbers, 0)

        def all_serve() -> bool:
            for server in self.servers:
                if not server.alive():
                    starts[_number(server)] += 1
                    if starts[_number(server)] > STARTS_MAX:
                        raise SystemExit(f"server {server.myid} does not stay up:\n{server.log_tail()}")
                    server.launch()
            return all(server.mode() is not None for server in self.servers)

        wait_for("all servers serve", all_serve, 60, 0.05)

    def renew(self, server: Zk) -> None:
        """Data and configuration as before its first start."""
        shutil.rmtree(server.datadir / "version-2")
        for dynamic in server.directory.glob("zoo.cfg.dynamic*"):
            dynamic.unlink()
        server.cfg.write_text(self._configurations[server.myid])

    def keep(self) -> None:
        """Copy the data to where it outlives the file systems of this run."""
        for server in self.servers:
            shutil.copytree(server.datadir, server.directory / "data-kept", ignore=shutil.ignore_patterns("ballast"))

    def stop(self) -> None:
        for server in self.servers:
            if server.alive():
                server.kill9()
            subprocess.run(["umount", str(server.datadir)], check=True)


def _number(server: Zk) -> int:
    assert server.myid is not None
    return server.myid


# -- faults: each begins one; what it yields to is in `Cluster.mend`


def kill_leader(cluster: Cluster, load: HistoryLoad) -> None:
    """kill -9 of the leader."""
    cluster.leader().kill9()
    load.progress()


def kill_follower(cluster: Cluster, load: HistoryLoad) -> None:
    """kill -9 of a follower."""
    cluster.follower().kill9()
    load.progress()


def kill_all(cluster: Cluster, load: HistoryLoad) -> None:
    """kill -9 of all three."""
    for server in cluster.servers:
        server.kill9()
    time.sleep(CALM_S)


def pause_leader(cluster: Cluster, load: HistoryLoad) -> None:
    """The leader stands still and goes on when another one leads."""
    paused = cluster.leader()
    _pause(paused)
    wait_for_leader(cluster.others(paused))
    load.progress()
    time.sleep(CALM_S)


def pause_follower(cluster: Cluster, load: HistoryLoad) -> None:
    """A follower stands still for longer than syncLimit."""
    _pause(cluster.follower())
    load.progress()
    time.sleep(HOLD_S)


def _pause(server: Zk) -> None:
    assert server.process is not None
    server.process.signal(signal.SIGSTOP)


def isolate_leader(cluster: Cluster, load: HistoryLoad) -> None:
    """Clients reach everybody; the leader and the two others do not reach each other."""
    cut_off = cluster.leader()
    cluster.isolate(cut_off)
    wait_for_leader(cluster.others(cut_off))
    load.progress()
    time.sleep(CALM_S)


def isolate_follower(cluster: Cluster, load: HistoryLoad) -> None:
    """One follower reaches nobody."""
    cluster.isolate(cluster.follower())
    load.progress()
    time.sleep(HOLD_S)


def part_all(cluster: Cluster, load: HistoryLoad) -> None:
    """Nobody reaches anybody: nothing is acknowledged, and nothing invented."""
    for server in cluster.servers:
        cluster.isolate(server)
    time.sleep(HOLD_S)


def leader_unheard(cluster: Cluster, load: HistoryLoad) -> None:
    """One way: what the leader sends does not arrive, what is sent to it does."""
    silent = cluster.leader()
    for other in cluster.others(silent):
        cluster.net.cut(_number(silent), _number(other))
    wait_for_leader(cluster.others(silent))
    load.progress()
    time.sleep(CALM_S)


def leader_deaf(cluster: Cluster, load: HistoryLoad) -> None:
    """One way: what is sent to the leader does not arrive, what it sends does."""
    deaf = cluster.leader()
    for other in cluster.others(deaf):
        cluster.net.cut(_number(other), _number(deaf))
    time.sleep(HOLD_S)
    load.progress()


def follower_deaf(cluster: Cluster, load: HistoryLoad) -> None:
    """One way: a follower does not hear its leader, and is heard."""
    follower = cluster.follower()
    cluster.net.cut(_number(cluster.leader()), _number(follower))
    load.progress()
    time.sleep(HOLD_S)


def followers_apart(cluster: Cluster, load: HistoryLoad) -> None:
    """The two followers do not reach each other; both reach the leader, which is then killed."""
    one, two = cluster.others(cluster.leader())
    cluster.net.part([_number(one)], [_number(two)])
    load.progress()
    cluster.leader().kill9()
    time.sleep(HOLD_S)
    serves(next(server for server in cluster.servers if not server.alive()))
    load.progress()


def wiped_follower(cluster: Cluster, load: HistoryLoad) -> None:
    """A follower comes back with an empty disk."""
    follower = cluster.follower()
    follower.kill9()
    load.progress()
    shutil.rmtree(follower.datadir / "version-2")
    serves(follower)
    load.progress()


def torn_tail(cluster: Cluster, load: HistoryLoad) -> None:
    """A follower comes back with the end of its last record missing, while the leader stays."""
    follower = cluster.follower()
    follower.kill9()
    load.progress()
    _cut_log(follower, cluster.rng.randrange(1, 20))
    serves(follower)
    load.progress()


def _cut_log(server: Zk, count: int) -> None:
    """The last bytes of the newest log are gone."""
    logs = sorted((server.datadir / "version-2").glob("log.*"), key=lambda log: int(log.name.split(".")[1], 16))
    logs[-1].write_bytes(logs[-1].read_bytes().rstrip(b"\0")[:-count])


def full_disk_follower(cluster: Cluster, load: HistoryLoad) -> None:
    """A follower has no space left."""
    _fill(cluster.follower())
    time.sleep(HOLD_S)
    load.progress()


def full_disk_leader(cluster: Cluster, load: HistoryLoad) -> None:
    """The leader has no space left."""
    _fill(cluster.leader())
    time.sleep(HOLD_S)
    load.progress()


def _fill(server: Zk) -> None:
    with (server.datadir / "ballast").open("wb", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def rolling_restart(cluster: Cluster, load: HistoryLoad) -> None:
    """SIGTERM and a start of each, the leader last."""
    first = cluster.leader()
    for server in [*cluster.others(first), first]:
        server.stop()
        load.progress()
        serves(server)
        load.progress()


def reconfig(cluster: Cluster, load: HistoryLoad) -> None:
    """A follower is taken out of the ensemble and put in again, then the leader is."""
    for leaving in (cluster.follower(), cluster.leader()):
        _reconfigure(cluster.others(leaving), "", str(leaving.myid))
        leaving.stop()
        load.progress()
        cluster.renew(leaving)
        leaving.launch()
        _reconfigure(cluster.others(leaving), f"server.{leaving.myid}={cluster.lines[_number(leaving)]}", "")
        serves(leaving)
        load.progress()


def _reconfigure(members: Sequence[Zk], joining: str, leaving: str) -> None:
    """Ask until it is done; Broken when nobody does it."""
    request = records.encode_reconfig_request(records.ReconfigRequest(joining or None, leaving or None, None, -1))
    auth = records.encode_auth_packet(records.AuthPacket(0, *SUPER))
    deadline = time.monotonic() + 60
    last: Exception | None = None
    while time.monotonic() < deadline:
        for member in members:
            try:
                wire = Wire(member.port, 10, member.host)
                wire.connect()
                wire.call(OpCode.AUTH, auth)
                wire.call(OpCode.RECONFIG, request)
                wire.close_session()
            except (ConnectionGone, Refused) as error:  # not yet, or the answer was lost: it is asked again
                last = error
                time.sleep(0.2)
            else:
                return
    raise Broken(f"nobody reconfigures: {last!r}")


FAULTS: dict[str, Callable[[Cluster, HistoryLoad], None]] = {
    fault.__name__: fault
    for fault in (
        kill_leader, kill_follower, kill_all, pause_leader, pause_follower, isolate_leader, isolate_follower, part_all,
        leader_unheard, leader_deaf, follower_deaf, followers_apart, wiped_follower, torn_tail, full_disk_follower,
        full_disk_leader, rolling_restart, reconfig,
    )
}  # fmt: skip


def lying_disks(cluster: Cluster, load: HistoryLoad) -> None:
    """kill -9 of all, and what every disk has synced last is gone: writes are lost, and the run must FAIL."""
    for server in cluster.servers:
        server.kill9()
    for server in cluster.servers:
        _cut_log(server, 20_000)


UNSAFE = {"lying_disks": lying_disks}  # they prove the judge


# -- the run


def suffer(promises: Promises, directory: Path, cluster: Cluster, name: str, seed: int) -> None:
    """One fault under load, and everything that is promised of it."""
    fault = (FAULTS | UNSAFE)[name]
    load = HistoryLoad(cluster.servers, seed, f"/{name}")
    with promises.promise(f"{name}: {(fault.__doc__ or '').rstrip('.')}", needed=True) as said:
        load.start()
        load.progress()
        time.sleep(CALM_S)
        before = load.acknowledged
        began = time.monotonic()
        fault(cluster, load)
        meanwhile = load.acknowledged - before
        lasted = time.monotonic() - began
        cluster.mend()
        took = load.progress()
        time.sleep(CALM_S)
        said.append(f"{meanwhile} writes in the {lasted:.1f} s it lasted, all serve {time.monotonic() - began - lasted - CALM_S:.1f} s "
                    f"after it, a write {took:.1f} s later")  # fmt: skip
        ops = load.stop()
    with promises.promise(f"{name}: the history holds") as said:
        broken = check(ops, SLACK_S)
        if broken:
            kept = directory / f"{name}.history"
            load.history.save(kept)
            raise Broken(f"{len(broken)} violations in {kept}:\n  " + "\n  ".join(broken[:10]))
        said.append(_summary(ops))
    with promises.promise(f"{name}: all members agree", needed=True) as said:
        said.append(str(agree(cluster.servers)))
    with promises.promise(f"{name}: altered histories are refused") as said:
        seen = list(damages(ops, seed))
        for what, altered in seen:
            if not check(altered, SLACK_S):
                raise AssertionError(f"not seen: {what}")
        said.append(f"{len(seen)} of them")


def _summary(ops: Sequence[object]) -> str:
    counts: dict[str, int] = {}
    for op in ops:
        key = f"{op.kind} {op.outcome}"  # type: ignore[attr-defined]
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(f"{key} {count}" for key, count in sorted(counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="zkpy", help="zkpy or apache:VERSION, three of them")
    parser.add_argument("--kinds", help="three kinds instead, with commas between")
    parser.add_argument("--faults", help="with commas between; default: all")
    parser.add_argument("--list", action="store_true", help="name the faults and stop")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", action="store_true", help="leave logs and data")
    arguments = parser.parse_args()
    if arguments.list:
        for name, fault in (FAULTS | UNSAFE).items():
            print(f"{name:<20} {fault.__doc__}")
        return
    if reason := network.missing():
        print(f"SKIPPED: no network namespaces here ({reason})")
        return
    network.go_inside()
    chosen = arguments.faults.split(",") if arguments.faults else list(FAULTS)
    kinds = arguments.kinds.split(",") if arguments.kinds else [arguments.server] * 3
    print(f"seed {arguments.seed}", flush=True)
    promises = Promises(f"faults, {', '.join(kinds)}", limit=1800)
    net = network.Network(3)
    with work_directory("faults", arguments.keep) as directory:
        for part, names in enumerate(([n for n in chosen if n != "reconfig"], [n for n in chosen if n == "reconfig"])):
            if not names:
                continue
            cluster = Cluster(directory / str(part), net, kinds, arguments.seed, reconfig=names == ["reconfig"])
            try:
                with promises.promise("three servers serve", needed=True) as said:
                    cluster.start()
                    said.append(", ".join(f"{s.myid} {s.kind} {s.mode()}" for s in cluster.servers))
                for name in names:
                    suffer(promises, directory, cluster, name, arguments.seed)
            finally:
                if promises.failed:
                    cluster.keep()
            cluster.stop()
        promises.end()


if __name__ == "__main__":
    main()
