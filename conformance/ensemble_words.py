#!/usr/bin/env python3
"""What operators see of an ensemble: four letter words of zkpy and of real Apache servers, role by role.

    ensemble_words.py                           zkpy beside apache:3.9.5
    ensemble_words.py --server apache:3.9.5     Apache beside itself, which must show no difference

Both ensembles are three voters and an observer. The same clients do the same on leader, followers and observer; then every word is asked
of every role, of a server that looks for a leader, of one that only serves reads, and of a leader that takes no clients
(`leaderServes=no`). Compared are the texts with ports, times, sizes of files, session ids and orders masked, the keys of mntr, and the
values of those that both must count alike. Exit code: 0 no difference, 1 differences, which are shown.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from ensemble_roles import wait_for_leader
from harness import Zk, wait_for, work_directory, zk_members
from wire_client import EPHEMERAL, Wire, create, records, set_data
from zkpy_protocol.opcodes import OpCode

WORDS = ("srvr", "stat", "conf", "cons", "dump", "isro", "ruok", "wchs", "wchc", "wchp", "dirs", "gtmk", "hash", "crst")
SIZES = r"(?:last|min|max)_proposal_size"
COUNTED = re.compile(
    r"zk_(server_state|peer_state|quorum_size|learners|synced_\w+|pending_syncs|znode_count|ephemerals_count|watch_count"
    r"|global_sessions|local_sessions|approximate_data_size|num_alive_connections|outstanding_requests|commit_count|proposal_count"
    r"|request_commit_queued|learner_\w+_received_count|revalidate_count|connection_\w+_count"
    rf"|auth_failed_count|cnt_(quorum_ack|proposal|commit_propagation)_latency|{SIZES})"
)
# How often there is an election is chance once servers have been stopped.
COUNTED_AT_FIRST = re.compile(
    r"zk_(looking_count|cnt_(election_time|unavailable_time|leader_unavailable_time|follower_sync_time|observer_sync_time))"
)
SERVING = ("leader", "follower", "other follower", "observer")
# (what, by what); the texts are compared behind this.
MASKS = (
    (r"(?<=:)\d{4,5}\b", "PORT"),
    (r"(?<=Port=)\d+", "PORT"),
    (r"(?<=serverId=)\d", "ID"),
    # Apache counts an answer by the pieces in which it is written, and this runner's own polling is in it.
    (r"(?<=^Received: )\d+|(?<=^Sent: )\d+", "N"),
    (r"(?<=version: ).*", "VERSION"),
    (r"(?<=Dir=).*", "DIRECTORY"),
    (r"(?<=Size=)\d+|(?<=dir_size: )\d+", "BYTES"),
    (r"(?<=avg/max: ).*|(?<=lat=)-?\d+|(?<=resp=)-?\d+|(?<=est=)\d+", "MS"),
    (r"0x[0-9a-f]{10,}", "SESSION"),
    (r"(?<=expire at ).*(?=:)", "DATE"),
    (r"^\d+ (?=expire)", "N "),
    (r"Sets \(\d+\)/\(\d+\)", "Sets (N)/(N)"),
)
# Compat: sets that became empty are listed by Apache until their time has come.
DEADLINES = re.compile(r"expire at")
# Apache says of a connection that it watches no path when its watches have fired; here it is listed no more.
WATCHING = re.compile(r"\d+ connections watching")


def masked(text: str) -> list[str]:
    for what, by in MASKS:
        text = re.sub(what, by, text, flags=re.MULTILINE)
    return [line for line in text.split("\n") if not DEADLINES.search(line)]


def load(port: int, number: int) -> Wire:
    """A client that writes, reads, watches, has an ephemeral, and stays."""
    client = Wire(port)
    client.connect()
    client.call(OpCode.CREATE, create(f"/n{number}", b"x" * number))
    client.call(OpCode.CREATE, create(f"/e{number}", b"", EPHEMERAL))
    client.call(OpCode.GET_DATA, records.encode_get_data_request(records.GetDataRequest(f"/n{number}", True)))
    client.call(OpCode.SET_DATA, set_data(f"/e{number}", b"abc"))
    client.call(OpCode.SYNC, records.encode_sync_request(records.SyncRequest("/")))
    return client


class Answers:
    """Texts and monitored values of one kind of server, by state."""

    def __init__(self) -> None:
        self.texts: dict[str, dict[str, list[str]]] = {}
        self.monitored: dict[str, dict[str, str]] = {}

    def ask(self, state: str, server: Zk) -> None:
        monitor = dict(line.split("\t", 1) for line in server.four_letter("mntr").splitlines() if "\t" in line)
        self.monitored[state] = {
            re.sub(r"_\d_", "_N_", key): value for key, value in monitor.items() if not key.endswith("_per_namespace")
        }
        texts = {word: masked(server.four_letter(word)) for word in WORDS}
        for word in ("cons", "dump", "stat", "wchc", "wchp"):
            texts[word].sort()
        self.texts[state] = texts


def members(directory: Path, kind: str, **config: str) -> list[Zk]:
    keys = {"tickTime": 1000, "initLimit": 10, "syncLimit": 5, **config}
    only_reads = {"readonlymode.enabled": "true"}
    return zk_members(directory, [kind] * 3 + [f"{kind}/observer"], config=keys, properties=only_reads)


def collect(directory: Path, kind: str) -> Answers:
    answers = Answers()
    servers = members(directory / "serving", kind)
    servers[0].launch()
    wait_for("the client port", lambda: servers[0].four_letter("ruok"))
    answers.ask("looking", servers[0])
    for server in servers[1:]:
        server.launch()
    for server in servers:
        server.wait_ready()
    leader = wait_for_leader(servers)
    followers = [server for server in servers[:3] if server is not leader]
    roles = {"leader": leader, "follower": followers[0], "other follower": followers[1], "observer": servers[3]}
    clients = [load(server.port, number) for number, server in enumerate(roles.values())]
    zxid = leader.zxid()
    wait_for("all have applied all", lambda: {server.zxid() for server in servers} == {zxid})
    for state, server in roles.items():
        answers.ask(state, server)
    for client in clients:
        client.close_session()
    leader.stop()
    followers[1].stop()
    wait_for("reads are served", lambda: followers[0].four_letter("isro") == "ro")
    answers.ask("read-only", followers[0])
    for server in (followers[0], servers[3]):
        server.kill9()

    locals_ = {"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true", "leaderServes": "no"}
    servers = members(directory / "local", kind, **locals_)
    for server in servers:
        server.launch()
    learners = wait_for(
        "three of four serve", lambda: [found for found in servers if found.mode() is not None][2:] and servers
    )
    learners = [server for server in learners if server.mode() is not None]
    (silent,) = (server for server in servers if server not in learners)
    follower = next(server for server in learners if server.mode() == "follower")
    client = Wire(follower.port)
    client.connect()
    answers.ask("leader that takes no clients", silent)
    answers.ask("follower with a local session", follower)
    for server in servers:
        server.kill9()
    return answers


def differences(oracle: Answers, candidate: Answers) -> list[str]:
    found: list[str] = []

    def compare(what: str, wanted: object, got: object) -> None:
        if wanted != got:
            found.append(f"{what}\n    should {wanted}\n    is     {got}")

    for state, texts in oracle.texts.items():
        for word, lines in texts.items():
            drop: Callable[[list[str]], list[str]] = lambda lines: [line for line in lines if not WATCHING.search(line)]  # noqa: E731
            compare(f"{state}: {word}", drop(lines), drop(candidate.texts[state][word]))
    for state, monitored in oracle.monitored.items():
        got = candidate.monitored[state]
        compare(f"{state}: keys of mntr that are missing", [], sorted(monitored.keys() - got.keys()))
        compare(f"{state}: keys of mntr that Apache does not have", [], sorted(got.keys() - monitored.keys()))
        for key in sorted(monitored.keys() & got.keys()):
            if COUNTED.fullmatch(key) or (state in SERVING and COUNTED_AT_FIRST.fullmatch(key)):
                compare(f"{state}: {key}", monitored[key], got[key])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="zkpy", help="the kind that is looked at")
    parser.add_argument("--oracle", default="apache:3.9.5")
    arguments = parser.parse_args()
    with work_directory("words") as directory:
        oracle = collect(directory / "oracle", arguments.oracle)
        found = differences(oracle, collect(directory / "candidate", arguments.server))
    keys = sum(map(len, oracle.monitored.values()))
    print(*found, sep="\n")
    print(f"{len(oracle.texts)} states, {len(WORDS)} words each, {keys} keys of mntr: {len(found)} differences")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
