#!/usr/bin/env python3
"""Live reconfiguration of ensembles of zkpy, of real Apache servers and of both, under a checked load of writes.

    reconfig_run.py                                every part on every ensemble below
    reconfig_run.py --parts life,single            only these parts
    reconfig_run.py --kinds apache:3.9.5,zkpy,apache:3.9.5,apache:3.9.5,zkpy [--kinds ...]
                                                   these ensembles instead: three members and two that join

`life`: servers join as followers without a vote, become participants and observers, move their ports, are weighed in groups,
leave; the leadership moves with the leader's port and its removal. `single`: an ensemble of one becomes three and one again.
`crash`: the leader dies with a reconfig on its way, which the next one completes. `refused`: what is answered with which
error, on an ensemble and on a standalone server.

After each step every member must show the very text that the step asks for in /zookeeper/config, have it in the dynamic
file of that version and point its static file there; modes must be as expected, and the connections of quiet clients
are lost where a server changes its role or its leader, and nowhere else. The expectations are the same for all kinds: Apache alone
proves them. At the end, no acknowledged write may be lost, all members agree, and a start of all finds everything again.
Exit code: 0 all promises kept, 1 one was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agreement import CONFIG as CONFIG_NODE
from ensemble_roles import leader, wait_for_leader
from harness import Promises, Zk, free_port, run_each, wait_for
from mixed_run import KeptSessions, Run
from roaming_load import RoamingLoad
from wire_client import Broken, ConnectionGone, Refused, Wire, create
from zkpy_protocol import records
from zkpy_protocol.opcodes import ErrorCode, EventType, OpCode

PARTS = ("life", "single", "crash", "refused")
ENSEMBLES = (
    "zkpy,zkpy,zkpy,zkpy,zkpy",
    "apache:3.9.5,apache:3.9.5,apache:3.9.5,apache:3.9.5,apache:3.9.5",
    "apache:3.9.5,zkpy,apache:3.9.5,apache:3.9.5,zkpy",
    "zkpy,apache:3.9.5,zkpy,zkpy,apache:3.9.5",
)
WRITERS = 4
PACE = 0.03  # seconds between two batches of a writer
PASSWORD = "super:secret"
SUPER = {"zookeeper.DigestAuthenticationProvider.superDigest": "super:lK75jTNcA+U9vtVEw5vB51mj/w4="}
CONFIG = {
    "tickTime": 1000,
    "maxSessionTimeout": 60000,
    "snapCount": 2000,
    "reconfigEnabled": "true",
    "4lw.commands.whitelist": "*",
    "admin.enableServer": "false",
    "maxClientCnxns": 0,
    "initLimit": 10,
    "syncLimit": 5,
}
ANY_VERSION = -1
AUTH_XID = -4
WATCH_XID = -1


class Member:
    """One server and where the configuration is to say it is."""

    def __init__(self, directory: Path, myid: int, kind: str, config: dict[str, Any] | None = None) -> None:
        self.myid = myid
        self.config = CONFIG | (config or {})
        self.role = "participant"
        self.zk = Zk(directory / f"zk{myid}", kind, myid=myid, properties=SUPER)
        self.quorum_port, self.election_port = free_port(), free_port()

    def line(self) -> str:
        """What stands behind `server.N=`."""
        return f"127.0.0.1:{self.quorum_port}:{self.election_port}:{self.role};127.0.0.1:{self.zk.port}"

    def join(self) -> str:
        return f"server.{self.myid}={self.line()}"

    def moved_client_port(self) -> None:
        self.zk.port = free_port()
        self.zk.address = f"{self.zk.host}:{self.zk.port}"

    def configure(
        self, listed: Sequence[Member], more: dict[str, object] | None = None, *, dynamic: bool
    ) -> None:
        """Write the files of a server that was never in a configuration; `listed` with itself."""
        zk = self.zk
        for old in zk.directory.glob("zoo.cfg*"):
            old.unlink()
        lines = [member.join() for member in listed]
        static = [f"{key}={value}" for key, value in self.config.items()]
        if self.role == "observer":
            static.append("peerType=observer")
        static.append(f"dataDir={zk.datadir}")
        if dynamic:
            file = zk.directory / "zoo.cfg.dynamic"
            file.write_text("\n".join(lines) + "\n")
            static.append(f"dynamicConfigFile={file}")
        else:
            static += [f"clientPort={zk.port}", f"clientPortAddress={zk.host}", *lines]
        zk.cfg.write_text("\n".join(static) + "\n")


class Ensemble:
    """The members, and what their configuration must be.

    Attributes:
        listed: those of the committed configuration, by id.
        version: its version.
        extra: its group and weight lines.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = {member.myid: member for member in members}
        self.listed: dict[int, Member] = {}
        self.extra: list[str] = []
        self.version = 0

    @property
    def voters(self) -> list[Zk]:
        return [member.zk for member in self.listed.values() if member.role == "participant"]

    def running(self) -> list[Member]:
        return [member for member in self.members.values() if member.zk.alive()]

    def lines(self) -> list[str]:
        return [*(self.listed[myid].join() for myid in sorted(self.listed)), *self.extra]

    def text(self) -> str:
        return "\n".join([*self.lines(), f"version={self.version:x}"])

    def leader(self) -> Member:
        zk = wait_for_leader(self.voters)
        return next(member for member in self.listed.values() if member.zk is zk)

    def follower(self) -> Member:
        """The participant with the smallest id that does not lead."""
        lead = self.leader()
        return next(m for _, m in sorted(self.listed.items()) if m.role == "participant" and m is not lead)

    # -- requests

    def session(self, at: Member, *, as_super: bool = True) -> Wire:
        wire = Wire(at.zk.port, 20)
        wire.connect()
        if as_super:
            packet = records.encode_auth_packet(records.AuthPacket(0, "digest", PASSWORD.encode()))
            header = records.encode_request_header(records.RequestHeader(AUTH_XID, OpCode.AUTH))
            wire.send_frames([header + packet])
            _, _, err, _ = wire.reply()
            if err:
                raise Broken(f"no super user: {err}")
        return wire

    def change(
        self,
        *,
        add: Sequence[Member] = (),
        remove: Sequence[int] = (),
        lines: Sequence[str] | None = None,
        version: int = ANY_VERSION,
        at: Member | None = None,
    ) -> None:
        """Reconfigure by way of one member, and look at the answer."""
        wire = self.session(at or self.leader())
        try:
            body = wire.call(OpCode.RECONFIG, reconfig(add, remove, lines, version))
        finally:
            wire.close_session()
        self.changed(body, add=add, remove=remove, lines=lines)

    def changed(
        self,
        body: bytes,
        *,
        add: Sequence[Member] = (),
        remove: Sequence[int] = (),
        lines: Sequence[str] | None = None,
    ) -> None:
        """A reconfig was answered with `body`: that is the configuration from now on."""
        answer, _ = records.decode_get_data_response(body)
        if lines is None:
            self.listed = {myid: m for myid, m in self.listed.items() if myid not in remove}
            self.listed |= {member.myid: member for member in add}
        else:
            named = {
                int(line.partition("=")[0].removeprefix("server."))
                for line in lines
                if line.startswith("server.")
            }
            self.listed = {myid: self.members[myid] for myid in sorted(named)}
            self.extra = sorted(line for line in lines if not line.startswith("server."))
        self.version = answer.stat.mzxid
        if (answer.data or b"").decode() != self.text():
            raise Broken(f"answered with {(answer.data or b'').decode()!r}, not {self.text()!r}")
        if answer.stat.version != -1 or answer.stat.czxid != 0:
            raise Broken(f"answered with the Stat {answer.stat.version=} {answer.stat.czxid=}")

    # -- looks

    def settle(self, timeout: float = 30) -> None:
        """Every member that runs has the configuration, in memory and on disk."""
        for member in self.running():
            last = ""

            def wrong(member: Member = member) -> str:
                nonlocal last
                last = self._wrong_at(member)
                return last

            try:
                wait_for("the configuration", lambda wrong=wrong: not wrong(), timeout, 0.1)  # type: ignore[misc]
            except TimeoutError:
                raise Broken(f"server {member.myid} ({member.zk.kind}): {last}") from None

    def _wrong_at(self, member: Member) -> str:
        shown = read_config(member.zk)
        if shown != self.text():
            return f"{CONFIG_NODE} is {shown!r} instead of {self.text()!r}"
        conf = member.zk.four_letter("conf")
        if "membership: \n" + self.text() not in conf:
            return f"conf shows {conf.partition('membership')[2]!r}"
        return wrong_files(member, self)

    def modes(self) -> dict[int, str | None]:
        return {member.myid: member.zk.mode() for member in self.running()}

    def expect_modes(self, leader_id: int | None = None) -> None:
        """One leader, observers where the configuration says so, followers everywhere else."""
        for member in self.running():
            member.zk.wait_ready()
        lead = self.leader()
        if leader_id is not None and lead.myid != leader_id:
            raise Broken(f"server {lead.myid} leads, not {leader_id}")
        expected = {
            member.myid: "leader"
            if member is lead
            else "follower"
            if member.role == "participant"
            else "observer"
            for member in self.running()
        }
        wait_for(f"modes {expected}", lambda: self.modes() == expected, 20)


class QuietClients:
    """One client at every running server; who loses its connection?"""

    def __init__(self, ensemble: Ensemble) -> None:
        self._wires = {}
        for member in ensemble.running():
            wire = Wire(member.zk.port, 5)
            wire.connect()
            self._wires[member.myid] = wire

    def lost(self) -> set[int]:
        lost = set()
        for myid, wire in self._wires.items():
            try:
                wire.call(OpCode.EXISTS, records.encode_exists_request(records.ExistsRequest("/", False)))
                wire.close_session()
            except ConnectionGone:
                lost.add(myid)
        return lost


def reconfig(
    add: Sequence[Member] = (),
    remove: Sequence[int] = (),
    lines: Sequence[str] | None = None,
    version: int = ANY_VERSION,
) -> bytes:
    """The record of a request."""
    joining = ",".join(member.join() for member in add) or None
    leaving = ",".join(map(str, remove)) or None
    members = None if lines is None else ",".join(lines)
    return records.encode_reconfig_request(records.ReconfigRequest(joining, leaving, members, version))


def read_config(zk: Zk) -> str:
    wire = Wire(zk.port, 5)
    wire.connect()
    request = records.encode_get_data_request(records.GetDataRequest(CONFIG_NODE, False))
    answer, _ = records.decode_get_data_response(wire.call(OpCode.GET_DATA, request))
    wire.close_session()
    return (answer.data or b"").decode()


def wrong_files(member: Member, ensemble: Ensemble) -> str:
    """What of the configuration files is not as Apache leaves them; empty if nothing is."""
    zk = member.zk
    dynamic = zk.directory / f"zoo.cfg.dynamic.{ensemble.version:x}"
    if not dynamic.exists():
        return f"there is no {dynamic.name}, only {sorted(p.name for p in zk.directory.glob('zoo.cfg*'))}"
    content = "\n".join(sorted(ensemble.lines()))
    if dynamic.read_text() != content:
        return f"{dynamic.name} is {dynamic.read_text()!r} instead of {content!r}"
    if (zk.directory / "zoo.cfg.dynamic.next").exists():
        return "zoo.cfg.dynamic.next is still there"
    static = dict(line.split("=", 1) for line in zk.cfg.read_text().splitlines() if not line.startswith("#"))
    if static.get("dynamicConfigFile") != str(dynamic):
        return f"the static file points at {static.get('dynamicConfigFile')}"
    stray = [key for key in static if key.startswith(("server.", "group", "weight", "peerType"))]
    if member.myid in ensemble.listed:
        stray += [key for key in static if key.startswith("clientPort")]
    if stray:
        return f"the static file still says {stray}"
    if missing := [key for key in member.config if key not in static]:
        return f"the static file has lost {missing}"
    return ""


class Story(Run):
    """An ensemble that lives through steps, under load."""

    def __init__(
        self,
        promises: Promises,
        directory: Path,
        kinds: Sequence[str],
        seed: int,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.ensemble = Ensemble(
            [Member(directory, myid, kind, config) for myid, kind in enumerate(kinds, 1)]
        )
        self.members = self.ensemble.members
        servers = [member.zk for member in self.members.values()]
        super().__init__(promises, servers, seed)
        self.load = RoamingLoad(WRITERS, seed, servers, PACE)

    @contextlib.contextmanager
    def step(self, text: str, *, lost: set[int] | None = None, moves: bool = False) -> Iterator[list[str]]:
        """Do something, then look at everything. `lost`: whose clients lose their connection; None: not looked at."""
        ensemble = self.ensemble
        with self.promises.promise(text, needed=True) as said:
            before = ensemble.leader()
            clients = QuietClients(ensemble)
            began = time.monotonic()
            yield said
            self.load.progress()
            said.append(f"all write after {time.monotonic() - began:.1f} s")
            ensemble.settle()
            ensemble.expect_modes(None if moves else before.myid)
            if moves and ensemble.leader() is before:
                raise Broken(f"server {before.myid} still leads")
            gone = clients.lost()
            if lost is not None and gone != lost:
                raise Broken(
                    f"clients of {sorted(gone)} have lost their connection, not those of {sorted(lost)}"
                )
            said.append(f"version {ensemble.version:x}, {len(gone)} clients cut off")

    def begin_with(self, count: int) -> None:
        """Start the first `count` servers. Of the first two the one with the greater id leads; others follow."""
        ensemble = self.ensemble
        first = [self.members[myid] for myid in range(1, count + 1)]
        with self.promises.promise("an ensemble of static lines takes its first version", needed=True):
            for member in first:
                member.configure(first, dynamic=False)
            originals = {member.myid: member.zk.cfg.read_text() for member in first}
            for some in (first[:2], first[2:]):
                for member in some:
                    member.zk.launch()
                for member in some:
                    member.zk.wait_ready()
            ensemble.listed = {member.myid: member for member in first}
            ensemble.version = 1 << 32
            ensemble.settle()
            ensemble.expect_modes(min(count, 2))
            for member in first:
                backup = (member.zk.directory / "zoo.cfg.bak").read_text()
                if backup != originals[member.myid]:
                    raise Broken(f"zoo.cfg.bak of server {member.myid} is {backup!r}")
            self.load.prepare()

    def end(self) -> None:
        self.servers = [member.zk for member in self.ensemble.running()]
        super().end()
        for server in self.servers:
            server.stop()

    def stop_left(self, myid: int) -> None:
        with self.promises.promise("the one that has left is stopped"):
            self.members[myid].zk.stop()

    def start_joiner(self, myid: int) -> None:
        """It knows the ensemble and itself; the ensemble does not know it yet."""
        member = self.members[myid]
        member.configure([*self.ensemble.listed.values(), member], dynamic=True)
        member.zk.start()


class Life(Story):
    """Everything that may happen to the members of an ensemble of three and two that join."""

    def live(self) -> None:
        ensemble, members = self.ensemble, self.members
        self.join_without_a_vote()
        self.pending()
        with self.step("an observer joins", lost=set()):
            members[5].role = "observer"
            members[5].configure(
                [*ensemble.listed.values(), members[5]], {"peerType": "observer"}, dynamic=True
            )
            members[5].zk.start()
            ensemble.change(add=[members[5]])
        with self.step("the observer becomes a participant", lost={5}):
            members[5].role = "participant"
            ensemble.change(add=[members[5]], version=ensemble.version)
        with self.step("the participant becomes an observer", lost={5}):
            members[5].role = "observer"
            ensemble.change(add=[members[5]], at=members[1])
        with self.step("a follower leaves, and follows without a vote", lost=set()):
            ensemble.change(remove=[1])
        self.stop_left(1)
        with self.step("groups and weights", lost=set()):
            lines = [member.join() for member in ensemble.listed.values()]
            ensemble.change(lines=[*lines, "group.1=2:3:4", "weight.2=1", "weight.3=1", "weight.4=0"])
        with self.promises.promise("groups take no increments: -8"):
            self.refused(ErrorCode.BADARGUMENTS, reconfig(remove=[5]))
        with self.step("a majority again", lost=set()):
            ensemble.change(
                lines=[member.join() for member in ensemble.listed.values()], version=ensemble.version
            )
        self.move_client_port("a follower", ensemble.follower())
        self.move_client_port("the leader", ensemble.leader())
        with self.step("a follower moves its quorum and election ports", lost=set()):
            member = ensemble.follower()
            member.quorum_port, member.election_port = free_port(), free_port()
            ensemble.change(add=[member])
        with self.step("the leader moves its quorum port, another leads", moves=True):
            member = ensemble.leader()
            member.quorum_port = free_port()
            ensemble.change(add=[member])
        with self.step("the leader leaves, another leads", moves=True):
            gone = ensemble.leader()
            ensemble.change(remove=[gone.myid])
        self.stop_left(gone.myid)
        with self.step("the first that has left comes back"):
            self.start_joiner(1)
            ensemble.change(add=[members[1]])
        with self.promises.promise("all are stopped and come back with the configuration"):
            running = [member.zk for member in ensemble.running()]
            for zk in running:
                zk.stop()
            for zk in running:
                zk.launch()
            for zk in running:
                zk.wait_ready()
            self.load.progress()
            ensemble.expect_modes()
            ensemble.settle()

    def join_without_a_vote(self) -> None:
        """Server 4 is not in the configuration: it follows, and counts for nothing."""
        with self.step("a server joins that no configuration names", lost=set()):
            self.start_joiner(4)

    def pending(self) -> None:
        """While followers stand still, a reconfig is on its way for as long: no second one, and no commit without them."""
        ensemble, members = self.ensemble, self.members
        with self.step("it gets its vote; meanwhile a second reconfig is refused: -14", lost=set()):
            lead = ensemble.leader()
            wire, other = ensemble.session(lead), ensemble.session(lead)
            with standing_still([members[myid] for myid in (1, 2, 3) if myid != lead.myid]):
                wire.send_frames([wire.request(OpCode.RECONFIG, reconfig([members[4]]))])
                time.sleep(0.3)  # the leader may take two sessions in any order
                other.send_frames([other.request(OpCode.RECONFIG, reconfig(remove=[1]))])
                time.sleep(1)
            _, _, err, body = wire.reply()
            if err:
                raise Refused(err)
            ensemble.changed(body, add=[members[4]])
            _, _, err, _ = other.reply()
            if err != ErrorCode.RECONFIGINPROGRESS:
                raise Broken(f"answered {err}")
            wire.close_session()
            other.close_session()

    def move_client_port(self, who: str, member: Member) -> None:
        with self.step(f"{who} moves its client port; its connections stay", lost=set()):
            before = member.zk.port
            member.moved_client_port()
            self.ensemble.change(add=[member], at=self.ensemble.members[5])
            wait_for("the new port serves", member.zk.mode, 10)
            with contextlib.suppress(ConnectionGone):
                Wire(before, 5).close()
                raise Broken(f"port {before} still takes connections")

    def refused(self, expected: int, request: bytes, *, as_super: bool = True) -> None:
        refused_by(self.ensemble, self.ensemble.leader(), expected, request, as_super=as_super)


def refused_by(
    ensemble: Ensemble, at: Member, expected: int, request: bytes, *, as_super: bool = True
) -> None:
    wire = ensemble.session(at, as_super=as_super)
    try:
        wire.call(OpCode.RECONFIG, request)
    except Refused as refusal:
        if refusal.err != expected:
            raise Broken(f"error {refusal.err} instead of {expected}") from refusal
    else:
        raise Broken(f"done instead of error {expected}")
    finally:
        wire.close_session()


@contextlib.contextmanager
def standing_still(members: Sequence[Member]) -> Iterator[None]:
    """These processes do nothing meanwhile."""
    processes = [member.zk.process for member in members if member.zk.process is not None]
    for process in processes:
        process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.signal(signal.SIGCONT)


def life_part(promises: Promises, directory: Path, kinds: Sequence[str], seed: int) -> None:
    """Join, change roles, move, leave, under load."""
    life = Life(promises, directory, kinds, seed)
    life.begin_with(3)
    kept = KeptSessions(",".join(zk.address for zk in life.servers))
    try:
        with life.load.running():
            life.live()
        with promises.promise("no session of kazoo was lost, nor an ephemeral") as said:
            kept.check()
            said.append(f"{kept.writes} writes")
    finally:
        kept.stop()
    life.end()


def single_part(promises: Promises, directory: Path, kinds: Sequence[str], seed: int) -> None:
    """One server that is an ensemble; two more; the first leaves, and another."""
    story = Story(promises, directory, kinds[:3], seed, {"standaloneEnabled": "false"})
    story.begin_with(1)
    ensemble, members = story.ensemble, story.members
    with story.load.running():
        for myid in (2, 3):
            with story.step(f"server {myid} joins", lost=set()):
                story.start_joiner(myid)
                ensemble.change(add=[members[myid]])
        with story.step("the leader leaves", moves=True):
            ensemble.change(remove=[1])
        story.stop_left(1)
        last = ensemble.follower()
        with story.step("a follower leaves, one server is left", lost=set()):
            ensemble.change(remove=[last.myid])
        story.stop_left(last.myid)
        with promises.promise("it comes back alone"):
            ensemble.leader().zk.restart()
            ensemble.expect_modes()
            ensemble.settle()
    story.end()


def crash_part(promises: Promises, directory: Path, kinds: Sequence[str], seed: int) -> None:
    """A leader that is killed when its followers have been sent a reconfig, and have not acknowledged it.

    Nothing else is written meanwhile: a joiner with a longer history than all others would be needed for a quorum, but
    votes for nobody before it is in a committed configuration. Apache too; the ensemble waits for the killed leader then.
    """
    story = Story(promises, directory, kinds[:4], seed)
    story.begin_with(3)
    ensemble, members = story.ensemble, story.members
    with story.load.running():
        story.start_joiner(4)
        story.load.progress()
    with promises.promise(
        "the leader dies with a reconfig on its way, the next one completes it", needed=True
    ) as said:
        lead = ensemble.leader()
        wire = ensemble.session(lead)
        with standing_still([members[1], members[3]]):
            wire.send_frames([wire.request(OpCode.RECONFIG, reconfig([members[4]]))])
            time.sleep(1)
            lead.zk.kill9()
        began = time.monotonic()
        ensemble.listed[4] = members[4]
        ensemble.version = int(read_config(ensemble.leader().zk).rpartition("=")[2], 16)
        ensemble.expect_modes()
        ensemble.settle()
        said.append(f"version {ensemble.version:x} after {time.monotonic() - began:.1f} s")
    with story.load.running(), story.step("the one that was killed comes back", lost=set()):
        proposed = lead.zk.directory / "zoo.cfg.dynamic.next"
        if proposed.read_text() != "\n".join(sorted(ensemble.text().splitlines())):
            raise Broken(f"it has left {proposed.read_text()!r}")
        lead.zk.start()
    story.end()


def refused_part(promises: Promises, directory: Path, kinds: Sequence[str], seed: int) -> None:  # noqa: ARG001  parts are made alike
    """Errors, from the leader and by way of a follower; then the watch of a reconfig that is done."""
    ensemble = Ensemble([Member(directory, myid, kind) for myid, kind in enumerate(kinds[:4], 1)])
    first = [ensemble.members[myid] for myid in (1, 2, 3)]
    with promises.promise("an ensemble starts", needed=True):
        for member in first:
            member.configure(first, dynamic=True)
            member.zk.launch()
        for member in first:
            member.zk.wait_ready()
        ensemble.listed = {member.myid: member for member in first}
    one, two, _ = first
    absent = ensemble.members[4]
    dead = [f"server.{myid}=127.0.0.1:{free_port()}:{free_port()};127.0.0.1:{free_port()}" for myid in (7, 8)]
    errors = (
        ("nobody but the super user", ErrorCode.NOAUTH, reconfig([absent]), False),
        ("another version", ErrorCode.BADVERSION, reconfig(remove=[1], version=5), True),
        (
            "more servers that are not there than others",
            ErrorCode.NEWCONFIGNOQUORUM,
            reconfig(lines=[one.join(), *dead]),
            True,
        ),
        ("only one voter", ErrorCode.BADARGUMENTS, reconfig(remove=[1, 2]), True),
        (
            "a server without a client port",
            ErrorCode.BADARGUMENTS,
            reconfig(lines=["server.4=127.0.0.1:1"]),
            True,
        ),
        (
            "a port beyond 65535",
            ErrorCode.MARSHALLINGERROR,
            reconfig(lines=["server.4=127.0.0.1:1:70000;2"]),
            True,
        ),
    )
    for text, error, request, as_super in errors:
        with promises.promise(f"refused: {text}: {int(error)}"):
            for at in (ensemble.leader(), ensemble.follower()):
                refused_by(ensemble, at, error, request, as_super=as_super)
    with promises.promise("a reconfig fires the watch of its znode, whoever is asked"):
        wires = [ensemble.session(member, as_super=False) for member in first]
        for wire in wires:
            wire.call(
                OpCode.GET_DATA, records.encode_get_data_request(records.GetDataRequest(CONFIG_NODE, True))
            )
        two.moved_client_port()
        ensemble.change(add=[two], at=one)
        for wire in wires:
            frame = wire.frame()
            header, pos = records.decode_reply_header(frame)
            event, _ = records.decode_watcher_event(frame, pos)
            if (header.xid, event.type, event.path) != (WATCH_XID, EventType.NODE_DATA_CHANGED, CONFIG_NODE):
                raise Broken(f"{header.xid=}: {event.type} of {event.path}")
            wire.close_session()
        ensemble.settle()
    for member in first:
        member.zk.stop()
    for enabled, error in (("true", ErrorCode.UNIMPLEMENTED), ("false", ErrorCode.RECONFIGDISABLED)):
        with promises.promise(f"a standalone server with reconfigEnabled={enabled}: {int(error)}"):
            alone = Member(directory / f"standalone-{enabled}", 1, kinds[0], {"reconfigEnabled": enabled})
            alone.configure([], dynamic=False)
            alone.zk.start()
            refused_by(ensemble, alone, error, reconfig([absent]))
            alone.zk.stop()
    with promises.promise(f"an ensemble with reconfigEnabled=false: {int(ErrorCode.RECONFIGDISABLED)}"):
        for member in first:
            member.config = member.config | {"reconfigEnabled": "false"}
            shutil.rmtree(member.zk.datadir / "version-2")
            member.configure(first, dynamic=False)
            member.zk.launch()
        for member in first:
            member.zk.wait_ready()
        for at in (ensemble.leader(), ensemble.follower()):
            refused_by(ensemble, at, ErrorCode.RECONFIGDISABLED, reconfig([absent]))
        ensemble.version = 0
        for member in first:
            if read_config(member.zk) != ensemble.text():
                raise Broken(f"server {member.myid} shows {read_config(member.zk)!r}")
            if strays := sorted(file.name for file in member.zk.directory.glob("zoo.cfg?*")):
                raise Broken(f"server {member.myid} has written {strays}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: %(default)s")
    parser.add_argument("--kinds", action="append", help="an ensemble; may be given several times")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", action="store_true", help="leave logs and data")
    arguments = parser.parse_args()
    if shutil.which("java") is None:
        print("SKIPPED: no java, so no Apache to form ensembles with")
        return
    parts = arguments.parts.split(",")
    print(f"seed {arguments.seed}", flush=True)
    known = {"life": life_part, "single": single_part, "crash": crash_part, "refused": refused_part}
    runs = [(known[part], kinds) for kinds in arguments.kinds or ENSEMBLES for part in parts]
    run_each("reconfig", runs, arguments.seed, arguments.keep)


if __name__ == "__main__":
    main()
