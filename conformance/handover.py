#!/usr/bin/env python3
"""Golden disk with real servers: a data directory changes hands between zkpy and real Apache, and nothing is lost.

    handover.py                     everything
    handover.py --only forms        each writer leaves its data in five forms (log only, snapshot only, both, snapshots in
                                    gz and in snappy), each reader starts on a copy: same tree, Stats, ACLs, digests, sessions
    handover.py --only relay        one data directory goes zkpy -> Apache -> zkpy -> ... three times there and back, with
                                    writes in every leg, stops by SIGTERM and by kill -9; sessions re-attach with their
                                    passwords after every hand-over and still own their ephemerals
    handover.py --versions 3.9.5    only this Apache (default: 3.8.0 and 3.9.5)

What is compared: the zxid before any client has connected, the sessions in `dump`, every znode's data, ACL and full Stat
(read through the re-attached sessions: no new session, so no new txn), `zk_digest_mismatches_count` after the log was
replayed, the digest history of `hash`, and the digest at the end of the newest snapshot of the writer and of the reader.
Exit code: 0 nothing was lost, 1 a difference (shown, data directories kept).
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import socket
import struct
import sys
import time
from pathlib import Path

from capture_client_wire import OP, OPEN, acl, boolean, buf, connect_body, create_req, create_ttl_req, frame, i32, multi_req, ustr, vec
from harness import Zk, wait_for, work_directory

SUPER_DIGEST = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="  # super:test
STAT = struct.Struct(">qqqqiiiqiiq")
STAT_FIELDS = ("czxid", "mzxid", "ctime", "mtime", "version", "cversion", "aversion", "ephemeralOwner", "dataLength", "numChildren", "pzxid")
EPHEMERAL, SEQUENTIAL, CONTAINER, TTL = 1, 2, 4, 5


class Lost(AssertionError):
    """The reader shows something else than what the writer held."""


def expect(what: str, got: object, want: object) -> None:
    if got != want:
        raise Lost(f"{what}:\n  is     {got}\n  should {want}")


class Session:
    """One session, on whatever server and connection it is at the moment. Raw frames: a client library would close it."""

    def __init__(self, timeout: int = 20_000):
        self.timeout, self.sid, self.passwd = timeout, 0, b"\0" * 16
        self.sock: socket.socket | None = None

    def attach(self, server: Zk) -> Session:
        """Connect; a session that exists already is taken up with its password, and must be the same one afterwards."""
        self.drop()
        self.sock = socket.create_connection(("127.0.0.1", server.port), 20)
        self.sock.sendall(frame(connect_body(timeout=self.timeout, sid=self.sid, passwd=self.passwd)))
        body = self.frame()
        _, timeout, sid, length = struct.unpack_from(">iiqi", body)
        passwd = body[20 : 20 + length]
        if self.sid:
            expect("session after re-attaching (id, password, timeout)", (hex(sid), passwd.hex(), timeout), (hex(self.sid), self.passwd.hex(), self.timeout))
        self.sid, self.passwd, self.timeout, self.xid = sid, passwd, timeout, 0
        self.call("auth", i32(0) + ustr("digest") + buf(b"super:test"), xid=-4)
        return self

    def drop(self) -> None:
        """The connection goes, the session stays."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def frame(self) -> bytes:
        assert self.sock is not None
        head = self.exactly(4)
        return self.exactly(struct.unpack(">i", head)[0])

    def exactly(self, n: int) -> bytes:
        assert self.sock is not None
        got = b""
        while len(got) < n:
            chunk = self.sock.recv(n - len(got))
            if not chunk:
                raise ConnectionError("the server closed the connection")
            got += chunk
        return got

    def call(self, op: str, body: bytes, xid: int | None = None) -> tuple[int, bytes]:
        """(error, record) of one request; every call waits for its reply, so order is the order of the calls."""
        assert self.sock is not None
        if xid is None:
            self.xid += 1
            xid = self.xid
        self.sock.sendall(frame(i32(xid) + i32(OP[op]) + body))
        while True:
            reply = self.frame()
            got, _, err = struct.unpack_from(">iqi", reply)
            if got == xid:
                return err, reply[16:]

    def do(self, op: str, body: bytes) -> bytes:
        err, record = self.call(op, body)
        if err:
            raise Lost(f"{op} {body[4:60]!r} was answered with error {err}")
        return record

    def create(self, path: str, data: bytes | None = b"", flags: int = 0, acls: bytes = OPEN) -> str:
        return self.do("create", create_req(path, data, acls, flags))[4:].decode()


def strings(record: bytes, pos: int = 0) -> list[str]:
    (count,) = struct.unpack_from(">i", record, pos)
    pos += 4
    out = []
    for _ in range(count):
        (n,) = struct.unpack_from(">i", record, pos)
        out.append(record[pos + 4 : pos + 4 + n].decode())
        pos += 4 + n
    return out


def tree(s: Session) -> dict[str, tuple[object, ...]]:
    """Path -> (data, Stat, ACL) of every znode."""
    out: dict[str, tuple[object, ...]] = {}
    todo = ["/"]
    while todo:
        path = todo.pop()
        record = s.do("getData", ustr(path) + boolean(False))
        (n,) = struct.unpack_from(">i", record)
        data = None if n < 0 else record[4 : 4 + n]
        stat = STAT.unpack_from(record, 4 + max(n, 0))
        out[path] = (data, dict(zip(STAT_FIELDS, stat, strict=True)), s.do("getACL", ustr(path))[: -STAT.size].hex())
        todo += [f"{path.rstrip('/')}/{name}" for name in strings(s.do("getChildren", ustr(path) + boolean(False)))]
    return out


def state(server: Zk) -> dict[str, object]:
    """What a server says of itself without a client having connected: its zxid and its sessions with their ephemerals."""
    zxid = next(line.split()[1] for line in server.four_letter("srvr").splitlines() if line.startswith("Zxid"))
    owners: dict[str, list[str]] = {}
    holder, sessions = None, set()
    for line in server.four_letter("dump").splitlines():
        if line.startswith("0x"):
            holder = line.rstrip(":")
            owners[holder] = []
        elif line.startswith("\t/") and holder:
            owners[holder].append(line.strip())
        elif line.startswith("\t0x"):
            sessions.add(line.strip())
    return {"zxid": zxid, "sessions": sorted(sessions), "ephemerals": {k: sorted(v) for k, v in sorted(owners.items())}}


def metric(server: Zk, name: str) -> str | None:
    return next((line.split("\t")[1] for line in server.four_letter("mntr").splitlines() if line.split("\t")[0] == name), None)


def digest_history(server: Zk) -> dict[str, str]:
    return dict(line.split(": ") for line in server.four_letter("hash").splitlines() if ": " in line)


def compare_trees(got: dict[str, tuple[object, ...]], want: dict[str, tuple[object, ...]]) -> None:
    expect("paths that are only on one side", sorted(got.keys() ^ want.keys()), [])
    for path, node in want.items():
        expect(f"znode {path} (data, Stat, ACL)", got[path], node)


# ------------------------------------------------------------------ what is written


def populate(server: Zk, sessions: list[Session], leg: int) -> None:
    """Writes of every kind; `leg` keeps the paths of several runs apart."""
    a = sessions[0]
    top = f"/leg{leg}"
    digest_acl = vec([acl(31, "digest", "ann:RYbu6l5aZwqon8VWmkcGvezdzfc="), acl(1, "world", "anyone")])
    a.create(top, b"top")
    for name, data in (("empty", b""), ("null", None), ("binary", bytes(range(256))), ("ünï-日本", "δ".encode()), ("big", b"z" * 300_000)):
        a.create(f"{top}/{name}", data)
    a.create(top + "/acl", b"secret", acls=digest_acl)
    a.create(top + "/ip", b"", acls=vec([acl(31, "ip", "127.0.0.1"), acl(1, "ip", "10.0.0.0/8")]))
    a.do("setACL", ustr(top + "/acl") + vec([acl(31, "auth", ""), acl(1, "world", "anyone")]) + i32(0))
    a.create(top + "/deep")
    for n in range(12):
        a.create(f"{top}/deep/{n}", b"x" * n)
    for n in range(0, 12, 3):
        a.do("delete", ustr(f"{top}/deep/{n}") + i32(-1))
    for n in range(3):
        a.do("setData", ustr(top) + buf(b"v%d" % n) + i32(n))
    a.do("createContainer", create_req(top + "/container", b"c", OPEN, CONTAINER))
    a.create(top + "/container/child")
    a.do("createTTL", create_ttl_req(top + "/ttl", b"t", OPEN, TTL, 3_600_000))
    for _ in range(3):
        a.create(top + "/seq-", flags=SEQUENTIAL)
    a.do("multi", multi_req([("create", create_req(top + "/m", b"1")), ("create", create_req(top + "/m/s-", b"", OPEN, SEQUENTIAL)),
                             ("setData", ustr(top + "/m") + buf(b"2") + i32(0)), ("check", ustr(top + "/m") + i32(1)),
                             ("delete", ustr(top + "/deep/1") + i32(-1))]))
    # A failed multi is an error txn in the log.
    err, _ = a.call("multi", multi_req([("create", create_req(top + "/never", b"")), ("check", ustr(top) + i32(99))]))
    err, _ = a.call("create", create_req(top, b"again"))
    expect("error of a second create", err, -110)
    a.create(top + "/quota")
    for path in ("/zookeeper/quota" + top, "/zookeeper/quota" + top + "/quota"):
        a.create(path)
    a.create("/zookeeper/quota" + top + "/quota/zookeeper_limits", b"count=100,bytes=-1=;byteHardLimit=-1;countHardLimit=-1")
    a.create("/zookeeper/quota" + top + "/quota/zookeeper_stats", b"count=0,bytes=0")
    a.create(top + "/quota/counted", b"12345")
    for n, s in enumerate(sessions):
        s.create(f"{top}/eph-{n}", b"mine", flags=EPHEMERAL)
        s.create(f"{top}/es-", b"mine", flags=EPHEMERAL | SEQUENTIAL)
    sessions[-1].do("delete", ustr(f"{top}/eph-{len(sessions) - 1}") + i32(-1))
    closing = Session().attach(server)
    closing.create(top + "/gone", flags=EPHEMERAL)
    closing.do("closeSession", b"")
    closing.drop()
    # Past a multiple of 128, where servers note the digest.
    for n in range(140):
        a.do("setData", ustr(top + "/binary") + buf(b"%d" % n) + i32(-1))


def server_for(directory: Path, kind: str, properties: dict[str, str] | None = None) -> Zk:
    config = {"tickTime": 1000, "extendedTypesEnabled": "true", "preAllocSize": "256"}
    return Zk(directory, kind, config=config, properties={
        "zookeeper.DigestAuthenticationProvider.superDigest": SUPER_DIGEST, "znode.container.checkIntervalMs": "100000000", **(properties or {})})


def snapshots(datadir: Path) -> list[Path]:
    return sorted((datadir / "version-2").glob("snapshot.*"), key=lambda f: int(f.name.split(".")[1], 16))


def logs(datadir: Path) -> list[Path]:
    return sorted((datadir / "version-2").glob("log.*"), key=lambda f: int(f.name.split(".")[1], 16))


def uncompressed(file: Path) -> bytes:
    raw = file.read_bytes()
    if file.suffix == ".gz":
        return gzip.decompress(raw)
    if file.suffix == ".snappy":
        import cramjam

        # Java's SnappyOutputStream: a header of 16 bytes, then blocks with their length in front.
        out, pos = b"", 16
        while pos < len(raw):
            (n,) = struct.unpack_from(">i", raw, pos)
            out += bytes(cramjam.snappy.decompress_raw(raw[pos + 4 : pos + 4 + n]))
            pos += 4 + n
        return out
    return raw


SEAL = struct.Struct(">qi1s")


def snapshot_digest(file: Path) -> tuple[str, str, str]:
    """(name's zxid, zxid of the digest, digest) at the end of a snapshot."""
    data = uncompressed(file)
    end = len(data) - SEAL.size
    part2 = struct.Struct(">qiq")
    # 3.9 adds one more part behind the digest: a zxid and another seal.
    with_zxid = end - 8 - SEAL.size
    for at in (with_zxid - part2.size, end - part2.size):
        zxid, version, digest = part2.unpack_from(data, at)
        _, n, slash = SEAL.unpack_from(data, at + part2.size)
        if version == 2 and n == 1 and slash == b"/":
            return file.name.split(".")[1], hex(zxid), hex(digest & (1 << 64) - 1)
    raise Lost(f"{file} holds no digest")


# ------------------------------------------------------------------ forms


FORMS = {
    "log only": {},
    "snapshot only": {},
    "both": {"zookeeper.snapCount": "90"},
    "gz": {"zookeeper.snapshot.compression.method": "gz"},
    "snappy": {"zookeeper.snapshot.compression.method": "snappy"},
}


class Written:
    """What a writer left, and what it held when it stopped."""

    def __init__(self, directory: Path, kind: str, form: str):
        self.kind, self.form = kind, form
        server = server_for(directory, kind, FORMS[form]).start()
        self.sessions = [Session().attach(server) for _ in range(3)]
        populate(server, self.sessions, 1)
        self.tree = tree(self.sessions[0])
        self.history = digest_history(server)
        for s in self.sessions:
            s.drop()
        self.state = state(server)
        server.stop()
        zxid = str(self.state["zxid"]).removeprefix("0x")
        suffix = "." + form if form in ("gz", "snappy") else ""
        self.datadir = server.datadir
        if form in ("snapshot only", "gz", "snappy"):
            # Every server writes a snapshot when it has started on a log that goes beyond the last one.
            server.start()
            wanted = f"snapshot.{zxid}{suffix}"
            wait_for(f"{wanted} of {kind}", lambda: any(f.name == wanted for f in snapshots(self.datadir)), 30)
            server.stop()
            for file in logs(self.datadir):
                file.unlink()
            for file in snapshots(self.datadir)[:-1]:
                file.unlink()
        elif form == "log only":
            for file in snapshots(self.datadir):
                file.unlink()
        elif len(snapshots(self.datadir)) < 2:
            raise Lost(f"{kind} wrote no snapshot on the way: {[f.name for f in snapshots(self.datadir)]}")
        self.files = [f.name for f in snapshots(self.datadir) + logs(self.datadir)]
        self.digest = snapshot_digest(snapshots(self.datadir)[-1]) if form in ("snapshot only", "gz", "snappy") else None

    def read_by(self, kind: str, directory: Path) -> str:
        reader = server_for(directory, kind, {"zookeeper.snapshot.trust.empty": "true"} if self.form == "log only" else None)
        shutil.rmtree(reader.datadir)
        shutil.copytree(self.datadir, reader.datadir)
        reader.start()
        try:
            expect("zxid and sessions after the start", state(reader), self.state)
            for s in self.sessions:
                s.attach(reader)
            compare_trees(tree(self.sessions[0]), self.tree)
            expect("zk_digest_mismatches_count", metric(reader, "zk_digest_mismatches_count"), "0")
            theirs = digest_history(reader)
            common = sorted(theirs.keys() & self.history.keys())
            expect("digests by zxid (hash)", {z: theirs[z] for z in common}, {z: self.history[z] for z in common})
            for s in self.sessions:
                s.drop()
        finally:
            reader.stop()
        zxid = str(self.state["zxid"]).removeprefix("0x")
        digest = snapshot_digest(reader.datadir / "version-2" / f"snapshot.{zxid}") if (reader.datadir / "version-2" / f"snapshot.{zxid}").exists() else None
        # Apache records the digest of the last txn it has applied, so none when it has read a snapshot alone.
        both = digest is not None and self.digest is not None and digest[1] != "0x0"
        if both:
            expect("digest in the snapshot", digest, self.digest)
        return (f"{len(self.tree)} znodes, zxid {self.state['zxid']}, {len(self.sessions)} sessions, "
                f"{len(common)} digests in hash{', snapshot digest' if both else ''}")


def forms(directory: Path, ours: str, versions: list[str]) -> int:
    failed = 0
    apaches = [f"apache:{v}" for v in versions]
    for writer, readers in ((ours, [*apaches, ours]), *((w, [ours]) for w in apaches)):
        for form in FORMS:
            name = f"{writer}-{form}".replace(":", "-").replace(" ", "-")
            try:
                written = Written(directory / name / "written", writer, form)
            except (Lost, OSError, TimeoutError, SystemExit) as error:
                failed += 1
                print(f"FAILED {writer} writes {form}: {error}", flush=True)
                continue
            for reader in readers:
                try:
                    print(f"ok     {writer} -> {reader}, {form}: {written.read_by(reader, directory / name / reader.replace(':', '-'))}", flush=True)
                except (Lost, OSError, TimeoutError, SystemExit) as error:
                    failed += 1
                    print(f"FAILED {writer} -> {reader}, {form} ({' '.join(written.files)}): {error}", flush=True)
    return failed


# ------------------------------------------------------------------ relay


def relay(directory: Path, ours: str, version: str, rounds: int) -> int:
    """zkpy and Apache take turns on one data directory."""
    legs = [ours, f"apache:{version}"] * rounds + [ours]
    sessions: list[Session] = []
    forgotten = Session(timeout=2_000)
    known: dict[str, tuple[object, ...]] = {}
    held: dict[str, object] = {}
    datadir = directory / "data"
    for leg, kind in enumerate(legs):
        server = server_for(directory / f"leg{leg}", kind, {"zookeeper.snapCount": "300"})
        shutil.rmtree(server.datadir)
        server.datadir.symlink_to(datadir)
        datadir.mkdir(exist_ok=True, parents=True)
        try:
            server.start()
            if leg:
                expect("zxid and sessions after the start", state(server), held)
                for s in sessions:
                    s.attach(server)
                compare_trees(tree(sessions[0]), known)
                expect("zk_digest_mismatches_count", metric(server, "zk_digest_mismatches_count"), "0")
            sessions.append(Session().attach(server))
            populate(server, sessions, leg)
            if leg == len(legs) - 2:
                forgotten.attach(server).create("/forgotten", flags=EPHEMERAL)
                forgotten.drop()
            if leg == len(legs) - 1:
                # Nobody took this session up: it must end by itself, and its ephemeral with it.
                wait_for("a session nobody took up expires", lambda: sessions[0].call("exists", ustr("/forgotten") + boolean(False))[0] == -101, 20)
            known = tree(sessions[0])
            for s in sessions:
                s.drop()
            held = state(server)
            if leg % 3 == 2:
                server.kill9()
                how = "kill -9"
            else:
                server.stop()
                how = "SIGTERM"
            print(f"ok     leg {leg} {kind}: {len(known)} znodes, zxid {held['zxid']}, {len(sessions)} sessions, ended by {how}", flush=True)
        except (Lost, OSError, TimeoutError, SystemExit) as error:
            print(f"FAILED leg {leg} {kind}: {error}\n{server.log_tail(10)}", flush=True)
            if server.process is not None and server.process.alive():
                server.stop()
            return 1
    return 0


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", choices=("forms", "relay"))
    ap.add_argument("--server", default="zkpy", help="the server under test: zkpy or apache:VERSION")
    ap.add_argument("--versions", default="3.8.0,3.9.5", help="the Apache servers it exchanges data with")
    ap.add_argument("--rounds", type=int, default=3, help="how often the data goes there and back")
    ap.add_argument("--keep", action="store_true")
    a = ap.parse_args()
    if shutil.which("java") is None:
        print("SKIPPED: no java, so no Apache to exchange data with")
        return 0
    versions = a.versions.split(",")
    failed = 0
    started = time.monotonic()
    with work_directory("handover", a.keep) as directory:
        if a.only != "relay":
            failed += forms(directory / "forms", a.server, versions)
        if a.only != "forms":
            for version in versions:
                failed += relay(directory / f"relay-{version}", a.server, version, a.rounds)
        print(f"{failed} failed, {time.monotonic() - started:.0f} s")
        if failed:
            sys.exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
