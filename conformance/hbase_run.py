"""Unmodified HBase 2.6 on one or more ZooKeeper servers: what its users rely on, one line each.

    hbase_run.py [--zk zkpy|apache:3.9.5] [--servers 1] [--keep]

A master, a backup master and two region servers on the local file system; a client (HBaseDriver.java) that writes rows
all the time while region servers, masters and ZooKeeper servers are killed, and at the end a scan that must show
every acknowledged row. Flushes and snapshots are coordinated through znodes, as older HBase does, and a replication
peer keeps its queues there, so that HBase asks ZooKeeper for all it can. Needs java, javac and mvn, and kazoo.
Exit code 0 when every promise was kept, 1 otherwise; then the logs are kept and their place is printed.
"""

from __future__ import annotations

import argparse
import logging
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from kazoo.exceptions import NoNodeError

from harness import (
    HERE,
    JAVA,
    Observer,
    Process,
    Promises,
    Zk,
    free_port,
    wait_for,
    work_directory,
    zk_ensemble,
)

SESSION_MS = 12000
TICK_MS = 2000
ROWS = 20000
REGIONS = 4
PACKAGES = (
    "java.nio",
    "sun.nio.ch",
    "java.lang",
    "jdk.internal.ref",
    "java.lang.reflect",
    "java.util",
    "java.util.concurrent",
)
HBASE_JAVA = [
    *JAVA,
    "-Djava.net.preferIPv4Stack=true",
    "-Dzookeeper.sasl.client=false",
    "--add-modules=jdk.unsupported",
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in PACKAGES),
    "-Dorg.apache.hbase.thirdparty.io.netty.tryReflectionSetAccessible=true",
]
LOG4J = """\
log4j.rootLogger=INFO, stderr
log4j.appender.stderr=org.apache.log4j.ConsoleAppender
log4j.appender.stderr.target=System.err
log4j.appender.stderr.layout=org.apache.log4j.PatternLayout
log4j.appender.stderr.layout.ConversionPattern=%d{HH:mm:ss,SSS} %p %m (%c)%n
"""


class Daemon:
    """A master or a region server: configuration, process, port."""

    def __init__(self, cluster: Cluster, role: str, number: int):
        self.role = role
        self.port = free_port()
        self.home = cluster.home / f"{role}{number}"
        self.log = self.home / "daemon.log"
        self.process: Process | None = None
        cluster.configure(self.home, {f"hbase.{role}.port": self.port})
        java_class = {"master": "master.HMaster", "regionserver": "regionserver.HRegionServer"}[role]
        self.command = [
            *HBASE_JAVA,
            "-Xmx512m" if role == "master" else "-Xmx448m",
            "-cp",
            f"{self.home}:{cluster.jars}/*",
            f"org.apache.hadoop.hbase.{java_class}",
            "start",
        ]

    def launch(self) -> Daemon:
        self.process = Process(self.command, self.log, cwd=self.home)
        return self

    def kill9(self) -> None:
        assert self.process is not None
        self.process.kill9()

    def owns(self, server_name: str) -> bool:
        """Whether `host,port,startcode` names this process."""
        return server_name.split(",")[1] == str(self.port)


class Driver:
    """The Java client: one line in, one line out."""

    def __init__(self, cluster: Cluster):
        home = cluster.home / "driver"
        cluster.configure(home, {})
        classes = cluster.home / "classes"
        classes.mkdir()
        subprocess.run(
            [
                "javac",
                "-nowarn",
                "-d",
                str(classes),
                "-cp",
                f"{cluster.jars}/*",
                str(HERE / "HBaseDriver.java"),
            ],
            check=True,
        )
        command = [*HBASE_JAVA, "-Xmx256m", "-cp", f"{home}:{classes}:{cluster.jars}/*", "HBaseDriver"]
        self.process = Process(command, home / "driver.log", cwd=home, piped=True)
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.popen.stdout:
            self.answers.put(line.decode().strip())
        self.answers.put("error driver ended")

    def __call__(self, command: str, timeout: float = 120) -> str:
        self.process.popen.stdin.write(command.encode() + b"\n")
        self.process.popen.stdin.flush()
        try:
            answer = self.answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"HBase client: `{command}` not answered within {timeout:g} s") from None
        verdict, _, rest = answer.partition(" ")
        if verdict != "ok":
            raise RuntimeError(f"HBase client: `{command}`: {rest}")
        return rest

    def regions(self) -> dict[str, str]:
        return dict(pair.split("=") for pair in self("regions").split())

    def more_rows(self, count: int = 100, timeout: float = 90) -> str:
        """Wait for more acknowledged rows; how long the writer paused at most since this was asked last."""
        before, longest = (int(word) for word in self("progress").split())
        target = before + count

        def reached() -> bool:
            nonlocal longest
            rows, gap = (int(word) for word in self("progress").split())
            longest = max(longest, gap)
            return rows >= target

        wait_for(f"{count} more rows", reached, timeout)
        return f"longest pause of the writer {longest / 1000:.1f} s"


class Cluster:
    """The daemons, and what ZooKeeper says about them (through a session of our own)."""

    def __init__(self, home: Path, servers: list[Zk]):
        jars = subprocess.run(
            ["bash", str(HERE / "get_system.sh"), "hbase"], check=True, stdout=subprocess.PIPE, text=True
        )
        self.home = home
        self.jars = Path(jars.stdout.strip())
        self.connect = ",".join(s.address for s in servers)
        self.masters = [Daemon(self, "master", n) for n in (1, 2)]
        self.region_servers = [Daemon(self, "regionserver", n) for n in (1, 2)]
        self.zk = Observer(self.connect)

    def configure(self, directory: Path, more: dict[str, Any]) -> None:
        directory.mkdir()
        keys = {
            "hbase.cluster.distributed": "true",
            "hbase.rootdir": f"file://{self.home}/root",
            "hbase.tmp.dir": directory / "tmp",
            # The default local file system has no hflush: a region server killed -9 would lose acknowledged rows.
            "fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
            "hbase.zookeeper.quorum": self.connect,
            "zookeeper.znode.parent": "/hbase",
            "zookeeper.session.timeout": SESSION_MS,
            "hbase.master.hostname": "localhost",
            "hbase.unsafe.regionserver.hostname": "localhost",
            "hbase.master.ipc.address": "127.0.0.1",
            "hbase.regionserver.ipc.address": "127.0.0.1",
            "hbase.master.info.port": -1,
            "hbase.regionserver.info.port": -1,
            "hbase.rpc.timeout": 10000,
            "hbase.client.operation.timeout": 120000,
            "hbase.client.pause": 50,
            "hbase.master.wait.on.regionservers.mintostart": 2,
            "hbase.master.wait.on.regionservers.maxtostart": 2,
            "replication.sleep.before.failover": 2000,
            "hbase.snapshot.procedure.enabled": "false",
            "hbase.flush.procedure.enabled": "false",
        } | more
        properties = "".join(
            f"<property><name>{k}</name><value>{v}</value></property>\n" for k, v in keys.items()
        )
        (directory / "hbase-site.xml").write_text(f"<configuration>\n{properties}</configuration>\n")
        (directory / "log4j.properties").write_text(LOG4J)

    def children(self, path: str) -> list[str]:
        try:
            return sorted(self.zk("get_children", path))
        except NoNodeError:
            return []

    def registered(self) -> list[str]:
        return self.children("/hbase/rs")

    def ephemerals(self) -> dict[str, tuple[int, int]]:
        """Owner and czxid of every registration: unchanged means that no session was lost."""
        paths = ["/hbase/master"]
        paths += [
            f"/hbase/{parent}/{child}"
            for parent in ("rs", "backup-masters")
            for child in self.children(f"/hbase/{parent}")
        ]
        stats = {path: self.zk("exists", path) for path in paths}
        return {path: (stat.ephemeralOwner, stat.czxid) for path, stat in stats.items() if stat is not None}

    def alive(self) -> list[Daemon]:
        return [d for d in self.masters + self.region_servers if d.process is not None and d.process.alive()]


def check_vanished(what: str, gone: Any, killed_at: float, remarks: list[str]) -> None:
    """The ephemeral of a dead process goes after its session timeout and not before."""
    wait_for(f"{what} vanishes", gone, 60, 0.05)
    after = time.monotonic() - killed_at
    remarks.append(f"gone after {after:.1f} s")
    # The last ping is up to a third of the timeout old; expiry is rounded up to a tick, the rest is for a loaded machine.
    assert after > SESSION_MS / 1000 * 0.5, (
        f"gone after {after:.1f} s: dropped before its session could expire"
    )
    assert after < (SESSION_MS + TICK_MS) / 1000 + 4, f"gone only after {after:.1f} s"


def outage(servers: list[Zk], seconds: float) -> None:
    """kill -9 the only server or the leader, start it again after some seconds."""
    victim = next(s for s in servers if s.mode() in {"standalone", "leader"})
    victim.kill9()
    time.sleep(seconds)
    victim.launch()
    for server in servers:
        server.wait_ready()


def move_meta(driver: Driver, cluster: Cluster) -> None:
    """Open hbase:meta on the other region server; writes the znode meta-region-server."""
    here = driver("meta")
    there = next(name for name in cluster.registered() if name != here)
    before = cluster.zk("get", "/hbase/meta-region-server")[1].version

    def moved() -> bool:
        # A server that has just registered may refuse regions, the move then ends where it began: ask again.
        if driver("meta") != there:
            driver(f"move meta {there}")
        return driver("meta") == there

    wait_for("hbase:meta moved", moved, 60, 0.5)
    after = cluster.zk("get", "/hbase/meta-region-server")[1].version
    assert after > before, f"meta-region-server still has version {after}"


def check_rows(driver: Driver, remarks: list[str]) -> None:
    found, acknowledged, lost, wrong = (int(word) for word in driver("verify").split())
    remarks.append(f"{acknowledged} acknowledged, {found} found")
    assert lost == 0, f"{lost} acknowledged rows lost"
    assert wrong == 0, f"{wrong} rows with a wrong value"


def all_regions_on(driver: Driver, names: list[str]) -> bool:
    places = driver.regions()
    return len(places) == REGIONS and set(places.values()) <= set(names)


def scenario(promises: Promises, home: Path, kind: str, count: int) -> None:
    servers = zk_ensemble(home, kind, count)
    cluster = Cluster(home, servers)

    with promises.promise("master, backup master and two region servers register", needed=True):
        cluster.masters[0].launch()
        wait_for("a master", lambda: cluster.zk("exists", "/hbase/master"), 90)
        for daemon in (cluster.masters[1], *cluster.region_servers):
            daemon.launch()
        driver = Driver(cluster)
        wait_for("two region servers", lambda: len(cluster.registered()) == 2, 90)
        wait_for("a backup master", lambda: len(cluster.children("/hbase/backup-masters")) == 1, 90)
        assert all(owner for owner, _ in cluster.ephemerals().values()), cluster.ephemerals()

    with promises.promise("a table of four regions is created on both servers", needed=True):
        driver(f"create {REGIONS}")
        wait_for("all regions open", lambda: all_regions_on(driver, cluster.registered()), 60)
        for region, name in zip(driver.regions(), cluster.registered() * 2, strict=True):
            driver(f"move {region} {name}")
        wait_for("regions on both servers", lambda: len(set(driver.regions().values())) == 2, 30)

    with promises.promise(f"{ROWS} rows are put and scanned", needed=True) as remarks:
        driver(f"put 0 {ROWS}")
        check_rows(driver, remarks)

    with promises.promise(
        "flush and snapshot, coordinated through znodes, go through and leave nothing behind"
    ):
        driver("flush")
        assert driver("snapshot first") == "1"
        for procedure in ("flush-table-proc", "online-snapshot"):
            for barrier in ("acquired", "reached", "abort"):
                left = cluster.children(f"/hbase/{procedure}/{barrier}")
                assert left == [], f"{procedure}/{barrier}: {left}"

    with promises.promise("a replication peer: its znodes and a queue for each region server"):
        driver(f"peer elsewhere {cluster.connect}:/nowhere")
        assert cluster.children("/hbase/replication/peers/elsewhere") == ["peer-state"]
        wait_for("queues", lambda: cluster.children("/hbase/replication/rs") == cluster.registered(), 30)
        for name in cluster.registered():
            wait_for(
                "a queue", lambda name=name: cluster.children(f"/hbase/replication/rs/{name}/elsewhere"), 30
            )

    driver("write")
    with promises.promise(
        "ZooKeeper killed -9 and restarted under puts: no session lost, hbase:meta moves after it"
    ) as remarks:
        before = cluster.ephemerals()
        driver.more_rows()
        outage(servers, 1)
        remarks.append(driver.more_rows())
        move_meta(driver, cluster)
        driver.more_rows()
        assert cluster.ephemerals() == before, f"{before} became {cluster.ephemerals()}"
        assert len(cluster.alive()) == 4

    with promises.promise(
        "the region server of hbase:meta killed -9: its znode vanishes at its time, regions move", needed=True
    ) as remarks:
        name = driver("meta")
        dead = next(d for d in cluster.region_servers if d.owns(name))
        survivors = {path: owner for path, owner in cluster.ephemerals().items() if name not in path}
        dead.kill9()
        check_vanished(
            "the registration", lambda: name not in cluster.registered(), time.monotonic(), remarks
        )
        wait_for("regions open elsewhere", lambda: all_regions_on(driver, cluster.registered()), 60)
        remarks.append(driver.more_rows())
        assert cluster.ephemerals() == survivors, f"{survivors} became {cluster.ephemerals()}"

    with promises.promise(
        "ZooKeeper killed -9 again while a region server is missing: sessions kept, its queue claimed"
    ):
        before = cluster.ephemerals()
        outage(servers, 0.2)
        driver.more_rows()
        wait_for("queue claimed", lambda: name not in cluster.children("/hbase/replication/rs"), 60)
        assert cluster.ephemerals() == before, f"{before} became {cluster.ephemerals()}"

    with promises.promise("every acknowledged row is readable") as remarks:
        check_rows(driver, remarks)

    with promises.promise("the region server comes back under a new name and takes regions"):
        dead.launch()
        wait_for("registered", lambda: len(cluster.registered()) == 2, 90)
        again = next(n for n in cluster.registered() if dead.owns(n))
        assert again != name
        region = next(iter(driver.regions()))

        def moved() -> bool:
            if driver.regions()[region] != again:
                driver(f"move {region} {again}")
            return driver.regions()[region] == again

        wait_for("a region moved there", moved, 60, 0.5)

    with promises.promise(
        "the active master killed -9: the backup takes over, region servers stay"
    ) as remarks:
        backup = cluster.children("/hbase/backup-masters")[0]
        old = cluster.ephemerals()
        active = next(d for d in cluster.masters if not d.owns(backup))
        active.kill9()
        killed_at = time.monotonic()
        owner = old["/hbase/master"]
        check_vanished(
            "the master's znode",
            lambda: cluster.ephemerals().get("/hbase/master") != owner,
            killed_at,
            remarks,
        )
        wait_for("the backup is active", lambda: driver("master") == backup, 60, 0.5)
        assert cluster.children("/hbase/backup-masters") == []
        for rs in cluster.registered():
            assert cluster.ephemerals()[f"/hbase/rs/{rs}"] == old[f"/hbase/rs/{rs}"], f"{rs} registered again"
        remarks.append(driver.more_rows())

    with promises.promise(
        "a frozen region server vanishes; continued, it learns that it is dead and ends"
    ) as remarks:
        # No writes meanwhile: only a file system with leases keeps a server that wakes up from acknowledging rows into
        # a log that was already split; the local one does not (seen on Apache as well).
        assert driver("stop") == "ended none"
        frozen = next(d for d in cluster.region_servers if not d.owns(driver("meta")))
        name = next(n for n in cluster.registered() if frozen.owns(n))
        frozen.process.signal(signal.SIGSTOP)
        check_vanished(
            "the registration", lambda: name not in cluster.registered(), time.monotonic(), remarks
        )
        wait_for("regions open elsewhere", lambda: all_regions_on(driver, cluster.registered()), 60)
        frozen.process.signal(signal.SIGCONT)
        frozen.process.wait(60)
        driver("write")
        driver.more_rows()

    with promises.promise("the replication peer is removed with its znodes"):
        driver("unpeer elsewhere")
        assert cluster.children("/hbase/replication/peers") == []

    with promises.promise("every acknowledged row is readable at the end") as remarks:
        ended = driver("stop")
        assert ended == "ended none", f"writer: {ended}"
        check_rows(driver, remarks)

    with promises.promise(
        "clean shutdown: all processes end, nothing of them is left in ZooKeeper"
    ) as remarks:
        daemons = cluster.alive()
        driver("shutdown")
        remarks.append("exit codes " + " ".join(str(d.process.wait(60)) for d in daemons))
        assert cluster.ephemerals() == {}, cluster.ephemerals()
        assert cluster.zk("exists", "/hbase/running") is None

    with promises.promise("ZooKeeper stops cleanly"):
        driver.process.kill9()
        cluster.zk.stop()
        for server in servers:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zk", default="zkpy", help="zkpy (default) or apache:VERSION")
    parser.add_argument("--servers", type=int, default=1, help="size of the ensemble (default 1)")
    parser.add_argument("--keep", action="store_true", help="keep logs and data also when all is well")
    options = parser.parse_args()
    logging.getLogger("kazoo").setLevel(logging.CRITICAL)
    promises = Promises(f"hbase on {options.zk}, servers {options.servers}")
    with work_directory("hbase", options.keep) as home:
        with promises.promise("the scenario ran to its end"):
            scenario(promises, home, options.zk, options.servers)
        promises.end()


if __name__ == "__main__":
    main()
