"""Unmodified Kafka 3.9 in ZooKeeper mode on one or more ZooKeeper servers: what its users rely on, one line each.

    kafka_run.py [--zk zkpy|apache:3.9.5] [--servers 1] [--tls] [--keep]

Three brokers, a producer with acks=all that never stops while brokers and ZooKeeper servers are killed, and at the
end a count of what was acknowledged against what can be consumed. `--tls` runs a shorter scenario instead: the
brokers come through secureClientPort with client certificates (JKS, PEM and PKCS12 stores) and guard their znodes
with x509 ACLs. Needs java, mvn, openssl and keytool, and the Python packages kazoo and confluent-kafka.
Exit code 0 when every promise was kept, 1 otherwise; then the logs are kept and their place is printed.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

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

SESSION_MS = 6000
TICK_MS = 2000
CHROOT = "/kafka"
PASSWORD = "conformance"
LOG4J = """\
log4j.rootLogger=INFO, stdout
log4j.logger.org.apache.zookeeper=INFO
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=%d{HH:mm:ss,SSS} %p %m (%c)%n
"""


class Broker:
    """One Kafka broker process and its registration."""

    def __init__(
        self, number: int, home: Path, jars: Path, zk_connect: str, settings: dict[str, Any], name: str = ""
    ):
        self.number = number
        self.port = free_port()
        self.home = home / (name or f"broker{number}")
        self.home.mkdir()
        self.jars = jars
        self.log = self.home / "broker.log"
        self.process: Process | None = None
        keys = {
            "broker.id": number,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "zookeeper.connect": zk_connect + CHROOT,
            "zookeeper.session.timeout.ms": SESSION_MS,
            "zookeeper.connection.timeout.ms": 40000,
            "log.dirs": self.home / "logs",
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            "offsets.topic.num.partitions": 3,
            "offsets.topic.replication.factor": 3,
            "transaction.state.log.num.partitions": 1,
            "log.cleaner.dedupe.buffer.size": 4194304,
            "group.initial.rebalance.delay.ms": 0,
            "auto.create.topics.enable": "false",
            "auto.leader.rebalance.enable": "false",
            "controlled.shutdown.max.retries": 2,
            "controlled.shutdown.retry.backoff.ms": 500,
            "replica.lag.time.max.ms": 8000,
            "authorizer.class.name": "kafka.security.authorizer.AclAuthorizer",
            "super.users": "User:ANONYMOUS",
            "num.network.threads": 2,
            "num.io.threads": 4,
        } | settings
        (self.home / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in keys.items()))
        (self.home / "log4j.properties").write_text(LOG4J)

    def launch(self) -> Broker:
        self.starts = self.started_lines()
        self.process = Process(
            [
                *JAVA,
                "-Xmx256m",
                f"-Dlog4j.configuration=file:{self.home}/log4j.properties",
                "-cp",
                f"{self.jars}/*",
                "kafka.Kafka",
                str(self.home / "server.properties"),
            ],
            self.log,
            cwd=self.home,
        )
        return self

    def started_lines(self) -> int:
        return self.text().count("started (kafka.server.KafkaServer)")

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def alive(self) -> bool:
        return self.process is not None and self.process.alive()

    def ready(self) -> bool:
        if not self.alive():
            raise SystemExit(f"broker {self.number} ended while starting, see {self.log}")
        return self.started_lines() > self.starts


class Cluster:
    """The brokers, and what ZooKeeper says about them (through the driver's own session)."""

    def __init__(self, home: Path, zk_connect: str, watched: str, settings: dict[int, dict[str, Any]]):
        jars = subprocess.run(
            ["bash", str(HERE / "get_system.sh"), "kafka"], check=True, stdout=subprocess.PIPE, text=True
        )
        self.home = home
        self.zk_connect = zk_connect
        self.jars = Path(jars.stdout.strip())
        self.brokers = {n: Broker(n, home, self.jars, zk_connect, s) for n, s in settings.items()}
        self.zk = Observer(watched)

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{b.port}" for b in self.brokers.values())

    @functools.cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def read(self, path: str) -> tuple[bytes, Any]:
        return self.zk("get", CHROOT + path)

    def stat(self, path: str) -> Any:
        return self.zk("exists", CHROOT + path)

    def children(self, path: str) -> list[str]:
        return sorted(self.zk("get_children", CHROOT + path))

    def registered(self) -> list[int]:
        return [int(n) for n in self.children("/brokers/ids")]

    def controller(self) -> int:
        return int(json.loads(self.read("/controller")[0])["brokerid"])

    def controller_epoch(self) -> int:
        return int(self.read("/controller_epoch")[0])

    def partition_states(self, topic: str) -> dict[int, dict[str, Any]]:
        numbers = self.children(f"/brokers/topics/{topic}/partitions")
        return {
            int(n): json.loads(self.read(f"/brokers/topics/{topic}/partitions/{n}/state")[0]) for n in numbers
        }

    def owners(self, brokers: list[int] | None = None) -> dict[str, tuple[int, int, int]]:
        """Who owns the ephemerals and which creation they are of: unchanged means that no session was lost."""
        wanted = self.registered() if brokers is None else brokers
        stats = {f"/brokers/ids/{n}": self.stat(f"/brokers/ids/{n}") for n in wanted}
        stats["/controller"] = self.stat("/controller")
        return {path: (s.ephemeralOwner, s.czxid, s.version) for path, s in stats.items()}

    def settled(self, topic: str) -> bool:
        """Every registered broker follows every partition, and each has a leader."""
        alive = self.registered()
        return all(
            s["leader"] in alive and sorted(s["isr"]) == alive for s in self.partition_states(topic).values()
        )

    def start(self, *numbers: int) -> None:
        for n in numbers:
            self.brokers[n].launch()
        for n in numbers:
            wait_for(f"broker {n} started", self.brokers[n].ready, 90)
            wait_for(f"broker {n} registered", lambda n=n: n in self.registered(), 30)


class SteadyProducer(threading.Thread):
    """Produces numbered messages until told to stop, and remembers which were acknowledged and how it paused."""

    def __init__(self, bootstrap: str, topic: str, first: int = 0, per_second: int = 300):
        super().__init__(daemon=True)
        self.topic = topic
        self.next = first
        self.interval = 1 / per_second
        self.acked: set[int] = set()
        self.errors: Counter[str] = Counter()
        self.last_ack = time.monotonic()
        self.longest_gap = 0.0
        self.halt = threading.Event()
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 60000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )

    def delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.errors[error.name()] += 1
            return
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - self.last_ack)
        self.last_ack = now
        self.acked.add(int(message.value()))

    def run(self) -> None:
        due = time.monotonic()
        while not self.halt.is_set():
            n = self.next
            try:
                self.producer.produce(self.topic, key=str(n), value=str(n), on_delivery=self.delivered)
                self.next += 1
            except BufferError:
                pass
            self.producer.poll(0)
            due = max(due + self.interval, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
        self.producer.flush(90)

    def finish(self) -> None:
        self.halt.set()
        self.join(120)
        assert not self.is_alive(), "producer did not drain"

    def progress(self, messages: int = 100, timeout: float = 60) -> None:
        target = len(self.acked) + messages
        wait_for(f"{messages} more acknowledgements", lambda: len(self.acked) >= target, timeout)

    def gap(self) -> str:
        """Longest pause since the last call."""
        longest = max(self.longest_gap, time.monotonic() - self.last_ack)
        self.longest_gap = 0.0
        return f"longest pause of the producer {longest:.1f} s"


def consume_all(bootstrap: str, topic: str) -> Counter[int]:
    """Every message of the topic, from the beginning to the high watermarks of now."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "auditor",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, 30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        seen: Counter[int] = Counter()
        at_end: set[int] = set()
        deadline = time.monotonic() + 60
        while len(at_end) < len(partitions):
            assert time.monotonic() < deadline, f"ends of {sorted(set(partitions) - at_end)} not reached"
            for message in consumer.consume(1000, 0.5):
                if message.error() is None:
                    seen[int(message.value())] += 1
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    at_end.add(message.partition())
        return seen
    finally:
        consumer.close()


def consume_group(bootstrap: str, topic: str, group: str, wanted: set[int]) -> None:
    """An ordinary group member reads the wanted messages and commits."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "log_level": 0}
    )
    try:
        consumer.subscribe([topic])
        missing = set(wanted)
        deadline = time.monotonic() + 60
        while missing:
            assert time.monotonic() < deadline, f"{len(missing)} of {len(wanted)} messages not consumed"
            for message in consumer.consume(1000, 0.5):
                if message.error() is None:
                    missing.discard(int(message.value()))
        consumer.commit(asynchronous=False)
    finally:
        consumer.close()


def check_registration(cluster: Cluster, number: int) -> None:
    data, stat = cluster.read(f"/brokers/ids/{number}")
    assert json.loads(data)["port"] == cluster.brokers[number].port, data
    assert stat.ephemeralOwner != 0, "registration is not ephemeral"
    # Created with null data and set in the same multi: one zxid, version 1. Kafka takes czxid as the broker's epoch.
    assert (stat.version, stat.czxid) == (1, stat.mzxid), stat


def check_vanished(cluster: Cluster, number: int, killed_at: float, remarks: list[str]) -> None:
    """The registration of a dead broker goes after its session timeout and not before."""
    wait_for(f"registration of {number} vanishes", lambda: number not in cluster.registered(), 30, 0.05)
    after = time.monotonic() - killed_at
    remarks.append(f"gone after {after:.1f} s")
    # The last ping is up to a third of the timeout old; expiry is rounded up to a tick, the rest is for a loaded machine.
    assert after > SESSION_MS / 1000 * 0.5, (
        f"gone after {after:.1f} s: dropped before its session could expire"
    )
    assert after < (SESSION_MS + TICK_MS) / 1000 + 4, f"gone only after {after:.1f} s"


def outage(servers: list[Zk], seconds: float, everything: bool = False) -> None:
    """kill -9 the only server, the leader, or all of them; start again after some seconds."""
    victims = servers
    if len(servers) > 1 and not everything:
        victims = [s for s in servers if s.mode() == "leader"]
        assert victims, "no leader"
    for server in victims:
        server.kill9()
    time.sleep(seconds)
    for server in victims:
        server.launch()
    for server in servers:
        server.wait_ready()


def leave(promises: Promises, cluster: Cluster, order: list[int]) -> None:
    with promises.promise("clean stop: registrations are gone before the processes end") as remarks:
        for n in order:
            process = cluster.brokers[n].process
            assert process is not None
            process.signal(signal.SIGTERM)
            code = process.wait(60)
            assert n not in cluster.registered(), f"broker {n} ended, its registration is still there"
            remarks.append(f"broker {n} exit code {code}")
        assert cluster.stat("/controller") is None, "/controller is still there"


def audit(promises: Promises, cluster: Cluster, producer: SteadyProducer) -> None:
    with promises.promise("every acknowledged message is consumed, none twice") as remarks:
        producer.finish()
        seen = consume_all(cluster.bootstrap, producer.topic)
        lost = producer.acked - set(seen)
        twice = [n for n, count in seen.items() if count > 1]
        remarks.append(
            f"{len(producer.acked)} acknowledged, {len(seen)} consumed, errors {dict(producer.errors)}"
        )
        assert not lost, f"{len(lost)} acknowledged messages lost, first {sorted(lost)[:5]}"
        assert not twice, f"{len(twice)} messages twice, first {sorted(twice)[:5]}"
        assert len(producer.acked) > 1000, "too few messages for a test"


def make_topic(cluster: Cluster, name: str, partitions: int = 3) -> None:
    def created() -> bool:
        try:
            cluster.admin.create_topics([NewTopic(name, partitions, 3)], request_timeout=40)[name].result(45)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.NOT_CONTROLLER:
                return False  # the client's metadata is older than the last election
            raise
        return True

    wait_for(f"topic {name} is created", created, 45, 0.5)
    wait_for(f"topic {name} has leaders and full ISR", lambda: cluster.settled(name), 60)


def scenario(promises: Promises, home: Path, kind: str, count: int) -> None:
    servers = zk_ensemble(home, kind, count)
    connect = ",".join(s.address for s in servers)
    cluster = Cluster(home, connect, connect, {1: {}, 2: {}, 3: {}})
    admin = cluster.admin

    with promises.promise("three brokers register and elect a controller", needed=True):
        cluster.start(1, 2, 3)
        assert cluster.registered() == [1, 2, 3], cluster.registered()
        for n in cluster.brokers:
            check_registration(cluster, n)
        assert cluster.controller() in cluster.brokers
        assert cluster.controller_epoch() == 1, cluster.controller_epoch()
        assert (
            cluster.stat("/controller").ephemeralOwner
            == cluster.stat(f"/brokers/ids/{cluster.controller()}").ephemeralOwner
        ), "/controller is owned by another session than its broker's registration"

    with promises.promise("topics are created, each partition gets a leader", needed=True):
        make_topic(cluster, "events", 6)
        make_topic(cluster, "gone", 4)
        assert all(s["leader_epoch"] == 0 for s in cluster.partition_states("gone").values())

    producer = SteadyProducer(cluster.bootstrap, "events")
    with promises.promise("messages are produced and consumed by a group", needed=True):
        producer.start()
        producer.progress(1000)
        consume_group(cluster.bootstrap, "events", "readers", set(producer.acked))

    with promises.promise("configuration, more partitions, an ACL, a deleted topic go through"):
        resource = ConfigResource(ResourceType.TOPIC, "gone")
        resource.add_incremental_config(
            ConfigEntry("retention.ms", "1234567", incremental_operation=AlterConfigOpType.SET)
        )
        admin.incremental_alter_configs([resource])[resource].result(30)
        assert b"1234567" in cluster.read("/config/topics/gone")[0]
        changes = cluster.children("/config/changes")
        assert changes and all(c.startswith("config_change_0") and len(c) == 24 for c in changes), changes
        admin.create_partitions([NewPartitions("gone", 6)])["gone"].result(30)
        wait_for("six partitions", lambda: len(cluster.partition_states("gone")) == 6, 30)
        acl = ("User:reader", "*", AclOperation.READ, AclPermissionType.ALLOW)
        binding = AclBinding(ResourceType.TOPIC, "events", ResourcePatternType.LITERAL, *acl)
        admin.create_acls([binding])[binding].result(30)
        assert b"User:reader" in cluster.read("/kafka-acl/Topic/events")[0]
        described = AclBindingFilter(ResourceType.TOPIC, "events", ResourcePatternType.LITERAL, *acl)
        for broker in cluster.brokers.values():
            # Each broker learns of it by its own watch on the change notices.
            one = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.port}", "log_level": 0})
            wait_for("the ACL is known", lambda one=one: one.describe_acls(described).result(10), 30)
        admin.delete_topics(["gone"])["gone"].result(30)
        leftovers = ("/brokers/topics/gone", "/config/topics/gone", "/admin/delete_topics/gone")
        wait_for("its znodes removed", lambda: not any(cluster.stat(path) for path in leftovers), 60)

    with promises.promise(
        "a second broker with a known id is refused, the first keeps its registration"
    ) as remarks:
        before = cluster.owners()
        twin = Broker(1, home, cluster.jars, connect, {}, name="twin").launch()
        assert twin.process is not None
        code = twin.process.wait(60)
        remarks.append(f"exit code {code}")
        assert code != 0 and "NodeExists" in twin.text(), f"twin ended with {code}, see {twin.log}"
        assert cluster.owners() == before

    with promises.promise(
        "ZooKeeper killed -9 and restarted under produce: no session lost, same controller"
    ) as remarks:
        producer.gap()
        before, epoch = cluster.owners(), cluster.controller_epoch()
        outage(servers, 1)
        producer.progress(300)
        make_topic(cluster, "after-kill")  # every session writes or is written to
        remarks.append(producer.gap())
        assert cluster.owners() == before, f"{before} became {cluster.owners()}"
        assert cluster.controller_epoch() == epoch, (
            f"controller epoch {epoch} became {cluster.controller_epoch()}"
        )

    with promises.promise(
        "a broker killed -9: registration vanishes at its time, leaders move", needed=True
    ) as remarks:
        victim = next(n for n in sorted(cluster.brokers, reverse=True) if n != cluster.controller())
        old, epoch = cluster.stat(f"/brokers/ids/{victim}"), cluster.controller_epoch()
        survivors = cluster.owners([n for n in cluster.brokers if n != victim])
        cluster.brokers[victim].process.kill9()
        check_vanished(cluster, victim, time.monotonic(), remarks)
        wait_for("leaders moved, ISR shrunk", lambda: cluster.settled("events"), 30)
        producer.progress(300)
        remarks.append(producer.gap())
        assert cluster.owners() == survivors
        assert cluster.controller_epoch() == epoch

    with promises.promise(
        "ZooKeeper killed -9 again while a broker is missing: survivors keep their sessions"
    ) as remarks:
        before = cluster.owners()
        outage(servers, 0.2)
        producer.progress(300)
        remarks.append(producer.gap())
        assert cluster.owners() == before, f"{before} became {cluster.owners()}"

    with promises.promise("the broker comes back with a higher broker epoch and catches up"):
        cluster.start(victim)
        check_registration(cluster, victim)
        assert cluster.stat(f"/brokers/ids/{victim}").czxid > old.czxid, "broker epoch did not grow"
        wait_for("full ISR", lambda: cluster.registered() == [1, 2, 3] and cluster.settled("events"), 60)

    with promises.promise("all ZooKeeper servers away for longer than a session: nothing expires") as remarks:
        before, epoch = cluster.owners(), cluster.controller_epoch()
        outage(servers, SESSION_MS / 1000 + 2, everything=True)
        producer.progress(300)
        remarks.append(producer.gap())
        make_topic(cluster, "after-outage")
        assert cluster.owners() == before, f"{before} became {cluster.owners()}"
        assert cluster.controller_epoch() == epoch, (
            f"controller epoch {epoch} became {cluster.controller_epoch()}"
        )

    with promises.promise(
        "the controller killed -9: another takes over, its epoch exactly one higher"
    ) as remarks:
        dead, epoch = cluster.controller(), cluster.controller_epoch()
        cluster.brokers[dead].process.kill9()
        check_vanished(cluster, dead, time.monotonic(), remarks)
        wait_for("another controller", lambda: cluster.controller() != dead, 30)
        wait_for("leaders moved", lambda: cluster.settled("events"), 30)
        assert cluster.controller_epoch() == epoch + 1, f"{epoch} became {cluster.controller_epoch()}"
        producer.progress(300)
        cluster.start(dead)
        wait_for("full ISR", lambda: cluster.registered() == [1, 2, 3] and cluster.settled("events"), 60)

    with promises.promise(
        "a frozen broker vanishes; continued, it gets a new session and registers again"
    ) as remarks:
        frozen = next(n for n in sorted(cluster.brokers) if n != cluster.controller())
        old = cluster.stat(f"/brokers/ids/{frozen}")
        cluster.brokers[frozen].process.signal(signal.SIGSTOP)
        check_vanished(cluster, frozen, time.monotonic(), remarks)
        cluster.brokers[frozen].process.signal(signal.SIGCONT)
        wait_for("registered again", lambda: cluster.registered() == [1, 2, 3], 40)
        new = cluster.stat(f"/brokers/ids/{frozen}")
        assert new.ephemeralOwner != old.ephemeralOwner and new.czxid > old.czxid, (old, new)
        wait_for("full ISR", lambda: cluster.settled("events"), 60)

    with promises.promise("/controller deleted by hand: a new election, epoch exactly one higher"):
        epoch = cluster.controller_epoch()
        cluster.zk("delete", CHROOT + "/controller")
        wait_for("a controller", lambda: cluster.controller_epoch() > epoch and cluster.controller(), 20)
        assert cluster.controller_epoch() == epoch + 1
        make_topic(cluster, "after-election")

    audit(promises, cluster, producer)
    leave(
        promises, cluster, [n for n in cluster.brokers if n != cluster.controller()] + [cluster.controller()]
    )
    with promises.promise("ZooKeeper stops cleanly"):
        cluster.zk.stop()
        for server in servers:
            server.stop()


def make_stores(home: Path) -> Path:
    """A CA and one certificate each for server and brokers, as PEM, PKCS12 and JKS stores."""
    home.mkdir()

    def run(*command: str) -> None:
        subprocess.run(command, cwd=home, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=conformance-ca",
        "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    (home / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for who in ("server", "broker"):
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/O=conformance/CN={who}",
            "-keyout", f"{who}.key", "-out", f"{who}.csr")  # fmt: skip
        run("openssl", "x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "san", "-out", f"{who}.crt")  # fmt: skip
        run("openssl", "pkcs12", "-export", "-in", f"{who}.crt", "-inkey", f"{who}.key", "-certfile", "ca.pem",
            "-name", who, "-passout", f"pass:{PASSWORD}", "-out", f"{who}.p12")  # fmt: skip
        run("keytool", "-importkeystore", "-noprompt", "-srckeystore", f"{who}.p12", "-srcstoretype", "PKCS12",
            "-srcstorepass", PASSWORD, "-destkeystore", f"{who}.jks", "-deststoretype", "JKS",
            "-deststorepass", PASSWORD)  # fmt: skip
        (home / f"{who}.pem").write_bytes(
            (home / f"{who}.key").read_bytes() + (home / f"{who}.crt").read_bytes()
        )
    for suffix, store in (("jks", "JKS"), ("p12", "PKCS12")):
        run("keytool", "-importcert", "-noprompt", "-alias", "ca", "-file", "ca.pem", "-keystore", f"ca.{suffix}",
            "-storetype", store, "-storepass", PASSWORD)  # fmt: skip
    return home


def server_stores(stores: Path, suffix: str) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "ssl.keyStore.location": stores / f"server.{suffix}",
        "ssl.trustStore.location": stores / f"ca.{suffix}",
    }
    if suffix != "pem":
        keys |= {"ssl.keyStore.password": PASSWORD, "ssl.trustStore.password": PASSWORD}
    return keys


def broker_stores(stores: Path, suffix: str, kind: str) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "zookeeper.ssl.client.enable": "true",
        "zookeeper.clientCnxnSocket": "org.apache.zookeeper.ClientCnxnSocketNetty",
        "zookeeper.ssl.protocol": "TLSv1.3",  # what Apache 3.9.5 speaks on this Java; Kafka's default is TLSv1.2
        "zookeeper.ssl.enabled.protocols": "TLSv1.3,TLSv1.2",
        "zookeeper.ssl.keystore.location": stores / f"broker.{suffix}",
        "zookeeper.ssl.keystore.type": kind,
        "zookeeper.ssl.truststore.location": stores / f"ca.{suffix}",
        "zookeeper.ssl.truststore.type": kind,
        "zookeeper.set.acl": "true",
    }
    if kind != "PEM":
        keys |= {"zookeeper.ssl.keystore.password": PASSWORD, "zookeeper.ssl.truststore.password": PASSWORD}
    return keys


def tls_scenario(promises: Promises, home: Path, kind: str, count: int) -> None:
    stores = make_stores(home / "stores")
    if count != 1:
        raise SystemExit("--tls runs on one server")
    secure_port = free_port()
    base = {"secureClientPort": secure_port, "secureClientPortAddress": "127.0.0.1"}
    properties = {"zookeeper.serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory"}
    server = Zk(home / "zk1", kind, config=base | server_stores(stores, "pem"), properties=properties).start()
    cluster = Cluster(
        home,
        f"127.0.0.1:{secure_port}",
        server.address,
        {
            1: broker_stores(stores, "jks", "JKS"),
            2: broker_stores(stores, "pem", "PEM"),
            3: broker_stores(stores, "p12", "PKCS12"),
        },
    )

    with promises.promise(
        "brokers with JKS, PEM and PKCS12 stores register through secureClientPort", needed=True
    ):
        cluster.start(1, 2, 3)
        for n in cluster.brokers:
            check_registration(cluster, n)

    with promises.promise("their certificate is an x509 id: others may read and not write"):
        acls = {(a.id.scheme, a.id.id, a.perms) for a in cluster.zk("get_acls", CHROOT + "/brokers/ids/1")[0]}
        assert acls == {("world", "anyone", 1), ("x509", "CN=broker,O=conformance", 31)}, acls
        try:
            cluster.zk("set", CHROOT + "/controller_epoch", b"99")
        except Exception as error:
            assert type(error).__name__ == "NoAuthError", repr(error)
        else:
            raise AssertionError("a stranger wrote /controller_epoch")

    make_topic(cluster, "events", 6)
    producer = SteadyProducer(cluster.bootstrap, "events")
    with promises.promise("server killed -9 and restarted with JKS stores: no session lost") as remarks:
        producer.start()
        producer.progress(500)
        before, epoch = cluster.owners(), cluster.controller_epoch()
        server.kill9()
        kept = [line for line in server.cfg.read_text().splitlines() if not line.startswith("ssl.")]
        kept += [f"{key}={value}" for key, value in server_stores(stores, "jks").items()]
        server.cfg.write_text("\n".join(kept) + "\n")
        server.start()
        producer.progress(300)
        make_topic(cluster, "after-kill")
        remarks.append(producer.gap())
        assert cluster.owners() == before, f"{before} became {cluster.owners()}"
        assert cluster.controller_epoch() == epoch

    audit(promises, cluster, producer)
    leave(promises, cluster, [1, 2, 3])
    with promises.promise("ZooKeeper stops cleanly"):
        cluster.zk.stop()
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zk", default="zkpy", help="zkpy (default) or apache:VERSION")
    parser.add_argument("--servers", type=int, default=1, help="size of the ensemble (default 1)")
    parser.add_argument("--tls", action="store_true", help="the TLS scenario instead of the plain one")
    parser.add_argument("--keep", action="store_true", help="keep logs and data also when all is well")
    options = parser.parse_args()
    logging.getLogger("kazoo").setLevel(logging.CRITICAL)
    name = "kafka-tls" if options.tls else "kafka"
    promises = Promises(f"{name} on {options.zk}, servers {options.servers}")
    with work_directory(name, options.keep) as home:
        with promises.promise("the scenario ran to its end"):
            (tls_scenario if options.tls else scenario)(promises, home, options.zk, options.servers)
        promises.end()


if __name__ == "__main__":
    main()
