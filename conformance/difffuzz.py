#!/usr/bin/env python3
"""Differential fuzzer: two ZooKeeper servers get the same seeded operations and must answer byte for byte the same.

    running servers:  difffuzz.py --oracle 127.0.0.1:2181 --candidate 127.0.0.1:2182 [--ops 20000] [--seed 1] [--keep-going]
    own servers:      difffuzz.py --oracle-cmd 3.9.5 --candidate-cmd '.venv/bin/zkpy server {jvmflags} {cfg}' --base-port 27000 [--minimize]

`--oracle-cmd/--candidate-cmd`: `3.9.5`, `3.9.3`, ... (fetched by get_apache.sh; ZK_ORACLES says where they are kept), `3.8.0`
(Debian's package where it is installed), or a command template with {cfg} {port} {datadir} {jvmflags}.  Servers that are already running must be fresh, empty, standalone,
identically configured and, because of the background deletion, must not sweep containers during the run
(Java: -Dznode.container.checkIntervalMs=100000000; else use --no-containers).  Profile `full`: extendedTypesEnabled=true,
enforceQuota=true, 4lw.commands.whitelist=*, superDigest super:D/InIHSb7yEEbrWz8b9l71RjZJU= (password "test").

How it works.  A *step* is: one segment with 1..n requests on one session (or connect, reconnect, close, garbage),
sent to both servers, followed by a barrier (an `exists` with an own xid) on that session and then on every other one.
What each session received is decoded, normalised and compared: order of replies, xid, err, every field of the record, left-over
bytes, notifications and their place between the replies, closed or not, number of zxids the step consumed.
Normalised are only: zxids in headers (as difference to the zxid before the request), zxids in records (number of the
request that made it; exact equality follows from both and the zxids per step), session ids (number of the session), passwords (follows Apache's recipe or not), times (all Stats
with the same zxid must show the same time, within a minute of now), order of children / getEphemerals / whoAmI, order of the
events of a closeSession, place of auth replies in a burst (they overtake).
Every --epoch steps the trees (data, ACL, Stat), quota stats and wchs/wchp/dump/mntr counts are compared and the tree is wiped.
After a difference in state, with --keep-going, both servers are wiped and their reserved nodes are made equal again.

Known differences: difffuzz_known.json, sections chosen with --known (e.g. --known 3.8.0:3.9.5); a rule has a regular
expression on the signature, the reason, and `benign` (true: no state difference follows, go on without wiping).
"""

from __future__ import annotations

import argparse
import base64
import bisect
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def apache_jars(version: str) -> str | None:
    """Class path directory of this Apache version, fetched when it is not there yet; None when `version` is not one."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return None
    home = os.environ.get("ZK_ORACLES") or os.path.join(tempfile.gettempdir(), "apache-zookeeper")
    jars = os.path.join(home, version)
    if os.path.isfile(os.path.join(jars, ".ok")):
        return jars
    if version == "3.8.0" and os.path.isfile("/usr/share/java/zookeeper.jar"):
        return None
    subprocess.run(["bash", os.path.join(HERE, "get_apache.sh"), version, jars], check=True, stdout=subprocess.DEVNULL)
    return jars

# ------------------------------------------------------------------ encoding


def i32(v: int) -> bytes:
    return struct.pack(">i", v)


def i64(v: int) -> bytes:
    return struct.pack(">q", v)


def buf(v: bytes | None) -> bytes:
    return i32(-1) if v is None else i32(len(v)) + v


def raw_of(spec):
    """str | None | {"b": hex} | {"n": count, "c": char}  ->  bytes or None"""
    if spec is None:
        return None
    if isinstance(spec, str):
        return spec.encode("utf-8", "surrogatepass")
    if "b" in spec:
        return bytes.fromhex(spec["b"])
    return spec["c"].encode() * spec["n"]


def ustr(spec) -> bytes:
    return buf(raw_of(spec))


def vec(items, one) -> bytes:
    if items is None:
        return i32(-1)
    if isinstance(items, dict):  # {"neg": -7}
        return i32(items["neg"])
    return i32(len(items)) + b"".join(one(x) for x in items)


def acl_vec(items) -> bytes:
    return vec(items, lambda a: i32(a[0]) + ustr(a[1]) + ustr(a[2]))


OP = dict(
    notification=0, create=1, delete=2, exists=3, getData=4, setData=5, getACL=6,
    setACL=7, getChildren=8, sync=9, ping=11, getChildren2=12, check=13, multi=14,
    create2=15, reconfig=16, checkWatches=17, removeWatches=18, createContainer=19,
    deleteContainer=20, createTTL=21, multiRead=22, auth=100, setWatches=101,
    sasl=102, getEphemerals=103, getAllChildrenNumber=104, setWatches2=105,
    addWatch=106, whoAmI=107, createSession=-10, closeSession=-11,
)
CREATES = ("create", "create2", "createContainer", "createTTL")
READS = ("exists", "getData", "getACL", "getChildren", "getChildren2", "sync", "getEphemerals",
         "getAllChildrenNumber", "whoAmI", "checkWatches", "multiRead", "ping")
EVENT = {1: "NodeCreated", 2: "NodeDeleted", 3: "NodeDataChanged", 4: "NodeChildrenChanged"}


def body_of(op: dict, rel=lambda k: k) -> bytes:
    o = op["o"]
    if "raw" in op:
        return bytes.fromhex(op["raw"])
    if o in CREATES:
        b = ustr(op["p"]) + buf(raw_of(op["d"])) + acl_vec(op["acl"]) + i32(op["f"])
        if o == "createTTL":
            b += i64(op["ttl"])
    elif o in ("delete", "check"):
        b = ustr(op["p"]) + i32(op["v"])
    elif o in ("exists", "getData", "getChildren", "getChildren2"):
        b = ustr(op["p"]) + bytes([op.get("w", 0)])
    elif o == "setData":
        b = ustr(op["p"]) + buf(raw_of(op["d"])) + i32(op["v"])
    elif o == "setACL":
        b = ustr(op["p"]) + acl_vec(op["acl"]) + i32(op["v"])
    elif o in ("getACL", "sync", "getEphemerals", "getAllChildrenNumber", "deleteContainer"):
        b = ustr(op["p"])
    elif o in ("multi", "multiRead"):
        b = b""
        for sub in op["ops"]:
            b += i32(sub.get("t", OP[sub["o"]])) + b"\0" + i32(-1) + body_of(sub, rel)
        b += i32(-1) + b"\1" + i32(-1)
    elif o == "reconfig":
        b = ustr(op["j"]) + ustr(op["l"]) + ustr(op["n"]) + i64(op["c"])
    elif o in ("checkWatches", "removeWatches", "addWatch"):
        b = ustr(op["p"]) + i32(op["m"])
    elif o == "auth":
        b = i32(0) + ustr(op["s"]) + buf(raw_of(op["d"]))
    elif o == "sasl":
        b = buf(raw_of(op["d"]))
    elif o in ("setWatches", "setWatches2"):
        b = i64(rel(op["rel"])) + b"".join(vec(g, ustr) for g in op["g"])
    else:
        b = b""
    if "cut" in op:
        b = b[:op["cut"]]
    if "tail" in op:
        b += bytes.fromhex(op["tail"])
    return b


def frame(b: bytes) -> bytes:
    return i32(len(b)) + b


def java_random_bytes(seed: int, count: int) -> bytes:
    state = (seed ^ 0x5DEECE66D) & ((1 << 48) - 1)
    out = bytearray()
    while len(out) < count:
        state = (state * 0x5DEECE66D + 0xB) & ((1 << 48) - 1)
        word = state >> 16
        for _ in range(min(4, count - len(out))):
            out.append(word & 0xFF)
            word >>= 8
    return bytes(out)


def session_password(sid: int) -> bytes:
    return java_random_bytes((sid & ((1 << 64) - 1)) ^ 0xB3415C00, 16)


def digest_id(userpw: str) -> str:
    return userpw.split(":")[0] + ":" + base64.b64encode(hashlib.sha1(userpw.encode()).digest()).decode()


# ------------------------------------------------------------------ one server


class Hang(Exception):
    pass


class Conn:
    def __init__(self, addr, timeout):
        self.sock = socket.create_connection(addr, timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(timeout)
        self.wait = timeout
        self.buf = bytearray()
        self.eof = False

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError:
            pass  # the reader will see the end

    def fill(self, wait: float) -> bool:
        """False: nothing came (timeout) or the end"""
        if self.eof:
            return False
        if wait != self.wait:
            self.sock.settimeout(wait)
            self.wait = wait
        try:
            chunk = self.sock.recv(262144)
        except TimeoutError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self.eof = True
            return False
        self.buf += chunk
        return True

    def next(self, wait: float) -> bytes | None:
        while True:
            b = self.buf
            if len(b) >= 4:
                n = int.from_bytes(b[:4], "big", signed=True)
                if len(b) >= 4 + n:
                    out = bytes(b[4:4 + n])
                    del b[:4 + n]
                    return out
            if not self.fill(wait):
                return None

    def until(self, xid: int, wait: float):
        """frames up to the one with this xid -> (frames, that frame or None)"""
        out = []
        while True:
            f = self.next(wait)
            if f is None:
                return out, None
            if len(f) >= 4 and int.from_bytes(f[:4], "big", signed=True) == xid:
                return out, f
            out.append(f)

    def close(self) -> None:
        self.sock.close()


class Slot:
    """A logical session as one server knows it."""

    def __init__(self):
        self.conn: Conn | None = None
        self.sid, self.passwd, self.alive = 0, b"", False


STAT = struct.Struct(">qqqqiiiqiiq")
HEAD = struct.Struct(">iqi")


class Side:
    def __init__(self, name: str, addr, slots: int, wait: float, profile: str):
        self.name, self.addr, self.wait, self.profile = name, addr, wait, profile
        self.slots = [Slot() for _ in range(slots)]
        self.labels: dict[int, str] = {}
        self.sid_count = 0
        self.ends: list[int] = []
        self.times: dict[int, int] = {}
        self.admin: Conn | None = None
        self.bar = 0
        self.last = 0

    # -- connecting
    def connect_frame(self, *, zxid=0, timeout=30000, sid=0, passwd=b"\0" * 16, ro=0, proto=0) -> bytes:
        b = i32(proto) + i64(zxid) + i32(timeout) + i64(sid) + buf(passwd)
        return frame(b if ro is None else b + bytes([ro]))

    def open(self, **kw) -> tuple[Conn, bytes | None]:
        c = Conn(self.addr, self.wait)
        c.send(self.connect_frame(**kw))
        return c, c.next(self.wait)

    def norm_connect(self, f: bytes | None, learn: bool):
        """-> normal form of a ConnectResponse, sid, password"""
        if f is None:
            return None, 0, b""
        if len(f) < 36:
            return {"short": f.hex()}, 0, b""
        proto, timeout, sid, n = struct.unpack_from(">iiqi", f)
        pw, rest = f[20:20 + n], f[20 + n:]
        if sid and learn and sid not in self.labels:
            self.label(sid)
        return {"proto": proto, "timeOut": timeout, "session": self.labels.get(sid, "?") if sid else 0,
                "passwd": ("recipe" if sid and pw == session_password(sid) else pw.hex()), "rest": rest.hex()}, sid, pw

    def label(self, sid: int) -> str:
        self.sid_count += 1
        self.labels[sid] = f"S{self.sid_count}"
        return self.labels[sid]

    def open_admin(self) -> None:
        c, f = self.open(timeout=40000)
        if f is None:
            raise ConnectionError(f"{self.name}: no answer to a connect")
        self.norm_connect(f, True)
        for a in ("super:test", "alice:pw", "bob:pw"):
            c.send(frame(i32(-4) + i32(100) + body_of({"o": "auth", "s": "digest", "d": a})))
        c.until(self.barrier(c), self.wait)
        self.admin = c

    def barrier(self, c: Conn) -> int:
        self.bar += 1
        x = 0x7E000000 + (self.bar & 0xFFFFFF)
        c.send(frame(i32(x) + i32(3) + ustr("/~") + b"\0"))
        return x

    def barrier_bytes(self) -> tuple[int, bytes]:
        self.bar += 1
        x = 0x7E000000 + (self.bar & 0xFFFFFF)
        return x, frame(i32(x) + i32(3) + ustr("/~") + b"\0")

    def note_zxid(self, f: bytes | None) -> None:
        if f is not None and len(f) >= 16:
            z = HEAD.unpack_from(f)[1]
            if z > self.last:
                self.last = z

    def end_step(self) -> int:
        """-> number of zxids this step consumed"""
        before = self.ends[-1] if self.ends else 0
        self.ends.append(self.last)
        return self.last - before

    # -- normalising
    def zx(self, z: int):
        if z <= 0:
            return z
        ends = self.ends or [0]
        i = bisect.bisect_left(ends, z)
        if i == len(ends):
            return f"z(future+{z - ends[-1]})"
        return f"z{i}"

    def tm(self, zxid: int, t: int):
        if zxid == 0 or t == 0:
            return t
        have = self.times.get(zxid)
        if have is None:
            self.times[zxid] = t
            return "T" if abs(t / 1000 - time.time()) < 60 else "T(far from now)"
        return "T" if have == t else f"T(not the time of its zxid: {t - have:+d})"

    def stat(self, d: bytes, p: int) -> dict:
        cz, mz, ct, mt, v, cv, av, eo, dl, nc, pz = STAT.unpack_from(d, p)
        return {"czxid": self.zx(cz), "mzxid": self.zx(mz), "ctime": self.tm(cz, ct), "mtime": self.tm(mz, mt),
                "version": v, "cversion": cv, "aversion": av, "owner": self.labels.get(eo, eo) if eo else 0,
                "dataLength": dl, "numChildren": nc, "pzxid": self.zx(pz)}

    def reply(self, op: dict, f: bytes, before: int | None = None) -> dict:
        """before: the last zxid before this request"""
        if len(f) < 16:
            return {"short": f.hex()}
        xid, z, err = HEAD.unpack_from(f)
        r = {"xid": xid, "zxid": self.zx(z) if before is None or z <= 0 else f"last{z - before:+d}", "err": err}
        if len(f) > 16:
            if err:
                r["tail"] = f[16:].hex()
                if op["o"] in ("multi", "multiRead"):  # a list as far as it got
                    d = Dec(self, f)
                    try:
                        r["tail"] = d.body("multi")
                    except (struct.error, ValueError, IndexError):
                        r["tail"] = d.partial
                    r["tail rest"] = f[d.p:].hex()
            else:
                d = Dec(self, f)
                try:
                    r["body"] = d.body(op["o"])
                except (struct.error, ValueError, IndexError):
                    r["undecodable"] = f[16:].hex()
                    d.p = len(f)
                if d.p != len(f):
                    r["left"] = f[d.p:].hex()
        return r

    def event(self, f: bytes) -> dict:
        try:
            _, z, err = HEAD.unpack_from(f)
            typ, state, n = struct.unpack_from(">iii", f, 16)
            path = f[28:28 + n]
            return {"event": EVENT.get(typ, typ), "state": state, "path": path.decode("utf-8", "backslashreplace"),
                    "zxid": self.zx(z), "err": err, "left": f[28 + n:].hex()}
        except struct.error:
            return {"short": f.hex()}


class Dec:
    def __init__(self, side: Side, d: bytes):
        self.s, self.d, self.p = side, d, 16

    def i(self) -> int:
        v = struct.unpack_from(">i", self.d, self.p)[0]
        self.p += 4
        return v

    def b(self):
        n = self.i()
        if n < 0:
            return None if n == -1 else n
        v = self.d[self.p:self.p + n]
        if len(v) != n:
            raise ValueError
        self.p += n
        return v

    def u(self):
        v = self.b()
        return v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v

    def data(self):
        v = self.b()
        if isinstance(v, bytes):
            return v.decode("latin1") if len(v) < 200 else f"{len(v)} bytes, sha1 {hashlib.sha1(v).hexdigest()}"
        return v

    def stat(self):
        v = self.s.stat(self.d, self.p)
        self.p += 68
        return v

    def many(self, one):
        n = self.i()
        return n if n < 0 else [one() for _ in range(n)]

    def acl1(self):
        return (self.i(), self.u(), self.u())

    def sorted(self, one):
        v = self.many(one)
        return sorted(v) if isinstance(v, list) else v

    def body(self, o: str):
        if o == "create" or o == "sync":
            return {"path": self.u()}
        if o in ("create2", "createTTL", "createContainer"):
            return {"path": self.u(), "stat": self.stat()}
        if o in ("exists", "setData", "setACL"):
            return {"stat": self.stat()}
        if o in ("getData", "reconfig"):
            return {"data": self.data(), "stat": self.stat()}
        if o == "getACL":
            return {"acl": self.many(self.acl1), "stat": self.stat()}
        if o == "getChildren" or o == "getEphemerals":
            return {"list": self.sorted(self.u)}
        if o == "getChildren2":
            return {"list": self.sorted(self.u), "stat": self.stat()}
        if o == "getAllChildrenNumber":
            return {"n": self.i()}
        if o == "addWatch":
            return {"err": self.i()}
        if o == "whoAmI":
            return {"ids": self.sorted(lambda: (self.u(), self.u()))}
        if o == "sasl":
            return {"token": self.data()}
        if o in ("multi", "multiRead"):
            out: list = []
            self.partial = out
            while True:
                t = self.i()
                done = self.d[self.p]
                self.p += 1
                err = self.i()
                r: dict = {"type": t, "done": done, "err": err}
                out.append(r)
                if done:
                    return {"results": out}
                if t == -1:
                    r["code"] = self.i()
                elif t == 1:
                    r["path"] = self.u()
                elif t == 15:
                    r["path"], r["stat"] = self.u(), self.stat()
                elif t == 5:
                    r["stat"] = self.stat()
                elif t == 4:
                    r["data"], r["stat"] = self.data(), self.stat()
                elif t == 8:
                    r["list"] = self.sorted(self.u)
        raise ValueError


# ------------------------------------------------------------------ generator

ALICE, BOB = digest_id("alice:pw"), digest_id("bob:pw")
OPEN = [[31, "world", "anyone"]]
TOP = ["a", "b", "c", "\u00e9", "z z"]
SECOND = ["x", "y", "\u00fc", "n1"]
THIRD = ["p", "q"]
# Deadly for Apache, hence never generated: create /zookeeper/quota/zookeeper_limits (the server exits), a zookeeper_stats
# node with unparsable data and then a delete below its quota (exits), createTTL with a non-TTL flag and ttl -1 (exits).
BAD_PATHS = ["", "a", "/a/", "//", "/a//x", "/a/./x", "/a/../b", "/..", "/.", "/a/.", "/a/..", "/...", "/a/.x", "/..x", "/a\0b", "/\0", "/a/\x01",
             "/a/\x1f", "/\x7f", "/\x80", "/\x9f", "/\xa0", "/a/\ue000", "/\uf8ff", "/\uf900", "/\uffef", "/\ufff0", "/\ufffd", "/\uffff",
             None, " ", "/ ", "\u00e9", "/a/x/", "//a", "/a///", {"b": "2f61ff"}, {"b": "2fc3"}, {"b": "2fe282"}, {"b": "2feda080"}, {"b": "2fc080"},
             {"b": "2ff0908080ff"}, {"n": 1200, "c": "/l"}, {"n": 700, "c": "/long"}, "/zookeeper/", "/a\n", "/\t", "/~~", "/a/\u2028"]
SYS_PATHS = ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config", "/zookeeper/x", "/zookeeper/quota/q", "/zookeeper/quota/q/x",
             "/zookeeper/quota/q/zookeeper_limits", "/zookeeper/quota/q/zookeeper_stats", "/zookeeper/config/x"]
GOOD_ACLS = [[[31, "auth", ""]], [[31, "auth", "whatever"], [1, "world", "anyone"]], [[31, "digest", ALICE]], [[1, "world", "anyone"], [31, "digest", ALICE]],
             [[31, "ip", "127.0.0.1"]], [[31, "ip", "127.0.0.0/8"]], [[31, "ip", "10.1.2.3"]], [[15, "world", "anyone"], [16, "digest", BOB]],
             [[1, "world", "anyone"]], [[2, "world", "anyone"]], [[4, "world", "anyone"]], [[8, "world", "anyone"]], [[16, "world", "anyone"]], [[30, "world", "anyone"]],
             [[27, "world", "anyone"]], [[23, "world", "anyone"]],
             [[0, "world", "anyone"]], [[255, "world", "anyone"]], [[-1, "world", "anyone"]], [[31, "world", "anyone"], [31, "world", "anyone"], [1, "ip", "127.0.0.1/8"]],
             [[31, "digest", ":b"]], [[31, "digest", "a:b"]], [[31, "ip", "0.0.0.0/0"]], [[31, "ip", "127.0.0.1/32"], [31, "digest", ALICE], [1, "digest", BOB]]]
BAD_ACLS = [None, [], {"neg": -7}, [[31, "world", "me"]], [[31, "world", ""]], [[31, "world", None]], [[31, "nope", "x"]], [[31, None, "x"]], [[31, None, None]], [[31, "digest", None]],
            [[31, "digest", "no-colon"]], [[31, "digest", "a:b:c"]], [[31, "digest", "a:"]], [[31, "digest", "a:b:"]], [[31, "digest", ":"]], [[31, "digest", ""]],
            [[31, "ip", "1.2.3.4/33"]], [[31, "ip", "1.2.3"]], [[31, "ip", "1.2.3.4/-1"]], [[31, "ip", "1.2.3.4/"]], [[31, "ip", "300.1.1.1"]], [[31, "ip", "host"]], [[31, "ip", ""]], [[31, "ip", None]],
            [[31, "ip", "1.2.3.4/8/8"]], [[31, "ip", "01.2.3.4"]], [[31, "ip", " 1.2.3.4"]], [[31, "ip", "1.2.3.4/x"]], [[31, "ip", "1.2.3.4.5"]],
            [[31, "super", ""]], [[31, "super", "x"]], [[31, "sasl", "bob"]], [[31, "x509", "CN=a"]], [[31, "", "x"]], [[31, "WORLD", "anyone"]], [[31, "Digest", ALICE]], [[31, "auth", ""], [31, "nope", "x"]],
            [[31, "world", "anyone"], [31, "digest", "bad"]], [[31, "world", "anyone"], [31, None, None]]]
IPV6_ACLS = [[[31, "ip", "::1"]], [[31, "ip", "::"]], [[31, "ip", "fe80::/10"]], [[31, "ip", "::1/129"]], [[31, "ip", "::ffff:127.0.0.1"]], [[31, "ip", "1::2::3"]]]
LIMITS = ["count=3,bytes=-1", "count=-1,bytes=40", "count=-1,bytes=-1=;byteHardLimit=30;countHardLimit=4", "count=5,bytes=100=;byteHardLimit=60;countHardLimit=6",
          "count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=2", "count=1,bytes=1=;byteHardLimit=0;countHardLimit=-1", "count=-1,bytes=-1=;countHardLimit=3;byteHardLimit=25",
          "count=-1,bytes=-1;byteHardLimit=20", "garbage", "", None, "count=3", "count=x,bytes=9", "bytes=20=;byteHardLimit=10", " count=3,bytes=5", "count=2,bytes=9,foo=1"]
VERSIONS = [-1] * 12 + [0] * 5 + [1] * 3 + [2, 3, 7, -2, 2 ** 31 - 1, -2 ** 31]


class Gen:
    """Makes steps (JSON-able dicts).  Knows the tree a little from the oracle's answers."""

    def __init__(self, a):
        self.r = random.Random(a.seed)
        self.a = a
        self.full = a.profile == "full"
        self.k = a.sessions
        self.state = ["up"] * self.k  # up, detached, none
        self.nodes: dict[str, int] = {}  # path -> data version
        self.since = [0] * self.k
        self.weights()

    def weights(self):
        w = dict(create=14, create2=9, createContainer=2 if self.a.containers else 0, createTTL=3, delete=11, setData=10, setACL=4, exists=8, getData=8, getACL=4,
                 getChildren=6, getChildren2=5, sync=2, multi=7, multiRead=3, setWatches=2, setWatches2=2, addWatch=4, checkWatches=2,
                 removeWatches=3, whoAmI=1, getEphemerals=2, getAllChildrenNumber=2, ping=2, auth=1.2, reconfig=0.3, sasl=0.2)
        for n in self.a.without:
            w[n] = 0
        self.names, self.w = list(w), list(w.values())
        if self.a.only:
            self.w = [x if n in self.a.only else 0 for n, x in zip(self.names, self.w)]

    # -- arguments
    def chance(self, p: float) -> bool:
        return self.r.random() < p

    def universe(self) -> str:
        r = self.r
        p = "/" + r.choice(TOP)
        for names, prob in ((SECOND, .65), (THIRD, .35), (["d", "e"], .2), (["deep"], .3)):
            if r.random() > prob:
                break
            p += "/" + r.choice(names)
        return p

    def path(self, exist=0.6, bad=0.04, sys=0.04):
        r, x = self.r, self.r.random()
        if x < bad:
            return r.choice(BAD_PATHS)
        if x < bad + sys:
            return r.choice(SYS_PATHS)
        if x < bad + sys + 0.04:
            return r.choice(["/q", "/q/x", "/q/y", "/q/x/p", "/q/z"])
        if self.nodes and r.random() < exist:
            return r.choice(list(self.nodes))
        return self.universe()

    def data(self):
        r, x = self.r, self.r.random()
        if x < .1:
            return None
        if x < .25:
            return ""
        if x < .9:
            return {"b": r.randbytes(r.randint(1, 12)).hex()}
        if x < .99:
            return {"n": r.randint(20, 3000), "c": "x"}
        return {"n": r.choice([10000, 70000, 200000]), "c": "y"}

    def acl(self):
        x = self.r.random()
        if x < .72:
            return OPEN
        if x < .9:
            return self.r.choice(GOOD_ACLS)
        if self.a.ipv6 and x < .91:
            return self.r.choice(IPV6_ACLS)
        return self.r.choice(BAD_ACLS)

    def version(self, path=None):
        if isinstance(path, str) and path in self.nodes and self.chance(.35):
            return self.nodes[path]
        return self.r.choice(VERSIONS)

    def paths(self):
        x = self.r.random()
        if x < .05:
            return None
        if x < .08:
            return {"neg": -self.r.randint(2, 9)}
        return [self.path(.6, .02, .05) for _ in range(self.r.choice([0, 0, 1, 1, 2, 3, 5]))]

    def op(self, name=None, inner=False) -> dict:
        r = self.r
        o = name or r.choices(self.names, self.w)[0]
        if o in CREATES:
            f = r.choice([0, 0, 0, 0, 1, 1, 2, 2, 3])
            p = self.path(.2, .04, .04)
            if self.chance(.35) and self.nodes:
                base = r.choice(list(self.nodes))
                p = base + "/" + r.choice(SECOND + THIRD + ["s-", "t"])
                if len(p) > 60:
                    p = "/" + p.split("/")[1] + "/s-"
            if o == "createContainer":
                f = r.choice([4, 4, 4, 4, 0, 2, 1, 5])
            elif o == "createTTL":
                f = r.choice([5, 5, 6, 6, 5, 0, 4, 1])
            if self.chance(.03):
                f = r.choice([4, 5, 6, 7, -1, 9, 100])
                if o in ("create", "create2") and f == 4 and not self.a.containers:
                    f = 0
            if f in (2, 3, 6) and isinstance(p, str) and self.chance(.3):
                p += r.choice(["/", "-", "/s-"])
            op = {"o": o, "p": p, "d": self.data(), "acl": self.acl(), "f": f}
            if o == "createTTL":
                op["ttl"] = r.choice([10 ** 7, 10 ** 8, 2 ** 40 - 1, 10 ** 9, 0, 2 ** 40, -5])
                if f not in (5, 6):
                    op["ttl"] = abs(op["ttl"]) or 1  # flag 0 with ttl -1 kills Apache
            if isinstance(p, str) and p.endswith("zookeeper_limits"):
                op["d"] = r.choice(LIMITS)
            elif isinstance(p, str) and p.endswith("zookeeper_stats"):
                op["d"] = "count=0,bytes=0"
            if isinstance(p, str) and p.startswith("/zookeeper/quota") or p in ("/q", "/q/x"):
                op["acl"] = OPEN
        elif o in ("delete", "check"):
            p = self.path(.8, .03, .04)
            op = {"o": o, "p": p, "v": self.version(p)}
        elif o in ("exists", "getData", "getChildren", "getChildren2"):
            op = {"o": o, "p": self.path(.7), "w": r.choice([0, 0, 1, 1, 1, 2, 255]) if not inner else r.choice([0, 1])}
        elif o == "setData":
            p = self.path(.75)
            op = {"o": o, "p": p, "d": self.data(), "v": self.version(p)}
            if isinstance(p, str) and p.endswith("zookeeper_limits"):
                op["d"] = r.choice(LIMITS)
            elif isinstance(p, str) and p.endswith("zookeeper_stats"):
                op["d"] = r.choice(["count=0,bytes=0", "count=7,bytes=3"])
        elif o == "setACL":
            p = self.path(.75, .04, .02)
            op = {"o": o, "p": p, "acl": self.acl(), "v": r.choice(VERSIONS)}
            if p in SYS_PATHS and self.chance(.8):
                op["acl"] = OPEN
        elif o in ("getACL", "sync", "getAllChildrenNumber"):
            op = {"o": o, "p": self.path(.7)}
        elif o == "getEphemerals":
            op = {"o": o, "p": r.choice([None, "", "/", " ", "/a", "/b", "/a/x", "/a/", "a", self.path(.8)])}
        elif o == "multi":
            n = r.choice([0, 1, 1, 2, 2, 3, 3, 4, 5, 6])
            op = {"o": o, "ops": [self.op(r.choices(["create", "create2", "createContainer", "createTTL", "delete", "setData", "check"],
                                                    [8, 5, 1 if self.a.containers else 0, 1, 5, 5, 4])[0], True) for _ in range(n)]}
            if self.chance(.5):  # make success likely
                for s in op["ops"]:
                    if s["o"] in CREATES:
                        s["f"], s["acl"] = {"createContainer": 4, "createTTL": 6}.get(s["o"], r.choice([0, 2, 2, 3])), OPEN
                        if s["o"] == "createTTL":
                            s["ttl"] = 10 ** 8
                    else:
                        s["v"] = -1
            if self.chance(.03):
                op["ops"].append(self.op(r.choice(["getData", "setACL", "exists", "getChildren", "sync"]), True))
        elif o == "multiRead":
            op = {"o": o, "ops": [self.op(r.choice(["getData", "getChildren"]), True) for _ in range(r.randint(0, 5))]}
            if self.chance(.05):
                op["ops"].append(self.op(r.choice(["exists", "delete", "check", "getACL", "getChildren2"]), True))
        elif o in ("setWatches", "setWatches2"):
            op = {"o": o, "rel": r.choice([0, 0, 1, 1, 2, 3, 5, 10, 30, "zero", "max", "neg"]),
                  "g": [self.paths() for _ in range(3 if o == "setWatches" else 5)]}
        elif o == "addWatch":
            op = {"o": o, "p": self.path(.6), "m": r.choice([0, 0, 0, 1, 1, 1, 0, 1, 2, -1, 7])}
        elif o in ("checkWatches", "removeWatches"):
            op = {"o": o, "p": self.path(.6), "m": r.choice([1, 2, 3, 3, 4, 5, 3, 2, 1, 0, 6, -1])}
        elif o == "auth":
            op = {"o": o, "s": "digest", "d": r.choice(["alice:pw", "alice:pw", "bob:pw", "bob:pw", "bob:wrong", "nocolon", "", ":", "a:b:c", "\u00e9:\u00fc"])}
            if self.chance(.15):
                op["s"], op["d"] = "ip", r.choice(["", "x", None])
            elif self.full and self.chance(.1):
                op["d"] = r.choice(["super:test", "super:wrong"])
        elif o == "reconfig":
            op = {"o": o, "j": r.choice([None, "", "server.1=x:1:2;3"]), "l": None, "n": r.choice([None, "server.1=x:1:2;3"]), "c": r.choice([-1, 0, 5])}
        elif o == "sasl":
            op = {"o": o, "d": r.choice(["", "abc"])}
        else:
            op = {"o": o}
        # damage
        if not inner or self.chance(.3):
            x = r.random()
            body = None
            if x < .012 and o not in ("ping", "whoAmI", "auth", "sasl"):
                body = body_of({**op, "rel": 0} if "rel" in op else op)
                if body:
                    op["cut"] = r.randrange(len(body))
            elif x < .016 and o not in ("auth", "sasl", "createTTL") and not inner:
                op = {"o": o, "raw": r.randbytes(r.choice([0, 1, 3, 4, 5, 8, 12, 20, 40])).hex()}
            elif x < .022 and not inner:
                op["tail"] = r.randbytes(r.randint(1, 9)).hex()
            elif x < .026 and o not in ("auth", "sasl", "createTTL", "ping", "whoAmI") and not inner and "quota" not in json.dumps(op):
                body = bytearray(body_of({**op, "rel": 0} if "rel" in op else op))
                if len(body) > 3:
                    i = r.randrange(min(len(body), 60))
                    body[i] = r.choice([0, 1, 0x7F, 0x80, 0xFF, 0xFE])
                    op = {"o": o, "raw": bytes(body).hex()}
        return op

    @staticmethod
    def alone(op: dict) -> bool:
        """Quota is checked against applied stats, so such ops must not be pipelined.  Also all odd ones."""
        for q in op.get("ops", [op]):
            # opcode and flag disagree: the opcode decides the txn, the flag the in-flight record: a race
            if q["o"] in CREATES and q.get("f", 0) not in {"createContainer": (4,), "createTTL": (5, 6)}.get(q["o"], (0, 1, 2, 3)):
                return True
        text = json.dumps(op)
        return '"/q' in text or "/zookeeper" in text or "raw" in op or "2f71" in text or '"xid"' in text

    def step(self) -> dict:
        r = self.r
        s = r.randrange(self.k)
        for i in range(self.k):
            self.since[i] += self.state[i] == "detached"
            if self.since[i] > 12:
                s = i
        st = self.state[s]
        if st == "none":
            return {"k": "connect", "s": s, "timeout": r.choice([20000, 30000, 40000, 10 ** 6]), "ro": r.choice([0, 0, 1, None]), "proto": r.choice([0, 0, 7])}
        if st == "detached":
            return self.reconnect(s)
        x = r.random() * 100 * (100 / self.a.session_rate if self.a.session_rate else 1e9)
        for w, f in ((.6, self.close), (.6, self.drop), (.8, self.reconnect), (.5, self.probe), (1.2, self.risky), (.5, self.temp)):
            if x < w:
                return f(s)
            x -= w
        n = 1 if self.chance(.2) else min(self.a.burst, 2 + int(r.expovariate(1 / 6)))
        ops: list = []
        for _ in range(n):
            op = self.op()
            if op["o"] in ("auth", "sasl"):
                if ops:
                    continue
                if op["o"] == "auth" and op["s"] == "digest" and op["d"] is not None or op["o"] == "sasl" or op["s"] == "ip":
                    # reads only around an auth that is not the first
                    if n > 1 and self.chance(.5):
                        ops = [self.op(r.choice(READS)) for _ in range(r.randint(1, 4))]
                        ops = [q for q in ops if not self.alone(q)]
                        ops.insert(r.randint(0, len(ops)), op)
                        ops += [q for q in (self.op(r.choice(READS)) for _ in range(2)) if not self.alone(q)]
                        return {"k": "burst", "s": s, "ops": ops}
                    return {"k": "burst", "s": s, "ops": [op]}
            if self.alone(op):
                if ops:
                    continue
                if self.chance(.05) and op["o"] in READS and not op.get("w"):
                    op["xid"] = r.choice([0, -4, -8, -3, 2 ** 31 - 1, -2 ** 31, -2])
                return {"k": "burst", "s": s, "ops": [op]}
            if any(q["o"] == "setACL" for q in ops) and op["o"] not in READS:
                continue  # Apache's writes do not see a setACL that is still in flight: a race
            ops.append(op)
        if len(ops) == 1 and self.chance(.05) and ops[0]["o"] in READS and not ops[0].get("w"):
            ops[0]["xid"] = r.choice([0, -4, -8, -3, 2 ** 31 - 1, -2 ** 31, -2])
        if not ops:
            ops = [self.op("ping")]
        return {"k": "burst", "s": s, "ops": ops}

    def close(self, s):
        ops = [] if self.chance(.5) else [q for q in (self.op() for _ in range(3)) if not self.alone(q) and q["o"] not in ("auth", "sasl", "setACL")]
        return {"k": "close", "s": s, "ops": ops}

    def drop(self, s):
        return {"k": "drop", "s": s}

    def reconnect(self, s):
        return {"k": "reconnect", "s": s, "timeout": self.r.choice([20000, 30000, 40000]), "ro": self.r.choice([0, 0, 1, None]),
                "zx": self.r.choice([0, 0, "last"])}

    def temp(self, s):
        return {"k": "temp", "timeout": self.r.choice([0, -1, 100, 3999, 4000, 4001, 39999, 40001, 2 ** 31 - 1, -2 ** 31]), "ro": self.r.choice([0, 1, None, 255]),
                "pw": self.r.choice(["", None, "00", "00" * 16, "11" * 40])}

    def probe(self, s):
        r = self.r
        kind = r.choice(["badpw", "badpw-other", "unknown", "ahead", "short", "neglen", "toolong", "empty", "closed-session"])
        d = {"k": "probe", "kind": kind, "s": s, "ro": r.choice([0, 1, None])}
        if kind == "short":
            d["n"] = r.choice([1, 4, 11, 12, 20, 24, 27, 28])
        if kind == "badpw":
            d["pw"] = r.choice(["11" * 16, "", "00" * 16, "11" * 5, None])
        if kind == "unknown":
            d["sid"] = r.choice([0x7700000000000001, -5, 1, 2 ** 63 - 1, -2 ** 63])
        return d

    def risky(self, s):
        """things that usually close the connection: alone, read the answer before anything else is sent"""
        r = self.r
        x = r.random()
        if x < .25:
            op = {"o": "?", "type": r.choice([999, 0, -1, 10, 23, 99, 108, 2 ** 31 - 1, -2 ** 31, -2, -11 + 0x100, 13 + 0x10000]), "raw": r.choice(["", "00000001", "ff" * 9])}
        elif x < .5:
            op = r.choice([{"o": "auth", "s": "nope", "d": "x"}, {"o": "auth", "s": None, "d": "x"}, {"o": "auth", "s": "digest", "d": None}, {"o": "auth", "s": "sasl", "d": "x"},
                           {"o": "auth", "s": "world", "d": "anyone"}, {"o": "auth", "s": "super", "d": ""}, {"o": "auth", "s": "", "d": ""}, {"o": "auth", "s": "Digest", "d": "a:b"},
                           {"o": "auth", "s": "digest", "d": "a:b", "cut": r.randint(0, 20)}, {"o": "auth", "raw": "ffffffff"}, {"o": "sasl", "d": "", "cut": r.randint(0, 3)}, {"o": "sasl", "d": None}])
            op = dict(op)
        elif x < .55 and "check" not in self.a.without:
            op = {"o": "check", "p": self.path(), "v": -1}
        elif x < .6 and self.a.with_delete_container:
            op = {"o": "deleteContainer", "p": self.path(.9)}
        else:
            hexes = ["00000000", "0000000100", "0000000400000001", "00000007" + "00" * 7, "fffffffe", "80000000", "00100000", "7fffffff"]
            return {"k": "frame", "s": s, "hex": r.choice(hexes)}
        if self.chance(.3):
            op["xid"] = r.choice([-4, 0, -8, -2, 7])
        return {"k": "risky", "s": s, "op": op}

    # -- feedback from the oracle
    def seen(self, op: dict, reply: dict) -> None:
        if not reply or reply.get("err") or "raw" in op or "cut" in op:
            return
        o, body = op["o"], reply.get("body")
        if o in CREATES and body:
            self.add(body["path"])
        elif o == "delete":
            self.nodes.pop(op["p"], None) if isinstance(op["p"], str) else None
        elif o == "setData" and body and isinstance(op["p"], str) and op["p"] in self.nodes:
            self.nodes[op["p"]] = body["stat"]["version"]
        elif o == "multi" and body and all(x["type"] != -1 for x in body["results"][:-1]):
            for sub, res in zip(op["ops"], body["results"]):
                if sub["o"] == "delete" and isinstance(sub["p"], str):
                    self.nodes.pop(sub["p"], None)
                elif "path" in res:
                    self.add(res["path"])

    def add(self, p: str) -> None:
        if len(self.nodes) < 400 and isinstance(p, str) and p.count("/") < 7:
            self.nodes[p] = 0

    def forget(self, p) -> None:
        self.nodes.pop(p, None)


# ------------------------------------------------------------------ comparing


def leaves(a, b, at=""):
    """differing leaves of two normal forms"""
    if a == b:
        return
    if isinstance(a, dict) and isinstance(b, dict):
        for k in list(a) + [k for k in b if k not in a]:
            if k not in a or k not in b:
                yield (at + "." + k, a.get(k, "(absent)"), b.get(k, "(absent)"))
            else:
                yield from leaves(a[k], b[k], at + "." + k)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for x, y in zip(a, b):
            yield from leaves(x, y, at + "[]")
    else:
        yield (at, a, b)


def abstract(field: str, v) -> str:
    name = field.rsplit(".", 1)[-1]
    if v == "(absent)":
        return "absent"
    if name in ("err", "code", "type", "done", "state", "event", "proto", "xid", "timeOut"):
        return str(v)
    if isinstance(v, str) and re.match(r"z(\d|\()", v):
        return "zxid"
    if isinstance(v, str) and v.startswith("last"):
        return v
    if isinstance(v, str) and v.startswith("T"):
        return re.sub(r": [-+\d]+", "", v)
    if v is None or v in (0, -1, ""):
        return repr(v)
    if isinstance(v, int):
        return "N"
    if isinstance(v, list):
        return "list"
    if name in ("tail", "left", "undecodable", "short"):
        return "hex" if len(v) > 60 else v
    return type(v).__name__


def flat(op: dict | None) -> str:
    if op is None:
        return ""
    n = op["o"]
    if n == "?":
        n = f"opcode{op['type']}"
    if "raw" in op and op["o"] != "?":
        n += "(garbage)"
    elif "cut" in op:
        n += "(cut)"
    return n


class Diff:
    def __init__(self, sig: str, text: str):
        self.sig, self.text = sig, text


class Known:
    def __init__(self, path: str, sections: list[str]):
        self.rules = []
        if os.path.exists(path):
            with open(path) as f:
                doc = json.load(f)
            for s in ["*"] + sections:
                for r in doc.get(s, []):
                    self.rules.append((re.compile(r["match"]), r, s))
        self.hits: dict[str, int] = {}

    def find(self, sig: str):
        for rx, r, s in self.rules:
            if rx.search(sig):
                key = f"{s}: {r['id']}"
                self.hits[key] = self.hits.get(key, 0) + 1
                return r
        return None


# ------------------------------------------------------------------ running steps


class Server:
    """A server this tool starts itself."""

    def __init__(self, cmd: str, port: int, work: str, profile: str):
        self.cmd, self.port, self.profile = cmd, port, profile
        self.dir = os.path.join(work, f"{os.getpid()}-{port}")
        self.proc: subprocess.Popen | None = None

    def start(self) -> None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", self.port)) == 0:
                raise SystemExit(f"port {self.port} is served by another process already (--base-port)")
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir + "/data")
        cfg = self.dir + "/zoo.cfg"
        lines = ["tickTime=2000", f"dataDir={self.dir}/data", f"clientPort={self.port}", "clientPortAddress=127.0.0.1", "admin.enableServer=false"]
        props = ["-Dznode.container.checkIntervalMs=100000000", "-Dzookeeper.forceSync=no"]
        if self.profile == "full":
            sd = "super:" + base64.b64encode(hashlib.sha1(b"super:test").digest()).decode()
            lines += ["extendedTypesEnabled=true", "enforceQuota=true", "4lw.commands.whitelist=*", f"DigestAuthenticationProvider.superDigest={sd}"]
            props.append(f"-Dzookeeper.DigestAuthenticationProvider.superDigest={sd}")
        with open(cfg, "w") as f:
            f.write("\n".join(lines) + "\n")
        jars = apache_jars(self.cmd)
        heap = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=4"]
        if self.cmd == "3.8.0" and not jars:
            cp = ":".join("/usr/share/java/" + j for j in ("zookeeper.jar", "slf4j-nop.jar", "servlet-api.jar", "netty-all.jar", "netty-codec.jar", "netty-resolver.jar"))
            argv = ["java", *heap, *props, "-cp", cp, "org.apache.zookeeper.server.quorum.QuorumPeerMain", cfg]
        elif jars:
            argv = ["java", *heap, "-Dlog4j2.level=OFF", *props, "-cp", jars + "/*", "org.apache.zookeeper.server.quorum.QuorumPeerMain", cfg]
        else:
            argv = shlex.split(self.cmd.format(cfg=cfg, port=self.port, datadir=self.dir + "/data", jvmflags=" ".join(props)))
        env = {**os.environ, "JVMFLAGS": " ".join(props)}
        with open(self.dir + "/log", "wb") as log:
            self.proc = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
        self.addr = ("127.0.0.1", self.port)

    def ready(self) -> None:
        for _ in range(200):
            if self.proc.poll() is not None:
                break
            try:
                with socket.create_connection(self.addr, timeout=2) as s:
                    s.sendall(b"srvr")
                    if b"Mode" in s.recv(4096):
                        return
            except OSError:
                pass
            time.sleep(.15)
        raise ConnectionError(f"server did not start: {self.cmd} (log {self.dir}/log)")

    def stop(self) -> None:
        if self.proc and self.proc.poll() is None:
            os.killpg(self.proc.pid, signal.SIGTERM)
            try:
                self.proc.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.proc.pid, signal.SIGKILL)
                self.proc.wait(10)
        shutil.rmtree(self.dir, ignore_errors=True)


RESERVED = ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"]


class Pair:
    def __init__(self, addr_a, addr_b, a):
        self.a = a
        self.A = Side("A", addr_a, a.sessions, a.wait, a.profile)
        self.B = Side("B", addr_b, a.sessions, a.wait, a.profile)
        self.sides = (self.A, self.B)
        self.xid = 0
        self.last_replies: list = []
        self.ops_done = 0
        self.closed: dict = {}

    # -- basic: what every session got in this step
    def sweep(self, res: dict, skip=None) -> None:
        """barrier on all live sessions but skip; collects what they got into res[side][slot]"""
        todo = []
        for sd in self.sides:
            for i, sl in enumerate(sd.slots):
                if i != skip and sl.conn is not None:
                    todo.append((sd, i, sl, sd.barrier(sl.conn)))
        for sd, i, sl, x in todo:
            frames, last = sl.conn.until(x, self.a.wait)
            sd.note_zxid(last)
            if frames or last is None:
                res[sd.name][i] = res[sd.name].get(i, []) + frames
                if last is None:
                    res[sd.name][f"{i} end"] = "closed" if sl.conn.eof else "hangs"
                    sl.conn.close()
                    sl.conn = None
                    sl.detached = True

    def run(self, step: dict) -> list[Diff]:
        k = step["k"]
        res: dict = {"A": {}, "B": {}}
        self.last_replies = []
        self.pairs = []
        diffs: list[Diff] = []
        unordered = k in ("close", "temp", "probe", "frame", "risky")
        if k in ("burst", "risky", "frame", "close"):
            s = step["s"]
            if any(sd.slots[s].conn is None for sd in self.sides):
                return []
        getattr(self, "do_" + k)(step, res)
        self.sweep(res, step.get("s") if k in ("burst",) else None)
        s, ops, xids = self.pending
        start = [sd.ends[-1] if sd.ends else 0 for sd in self.sides]
        for sd in self.sides:
            self.match(sd, res[sd.name].get(s, []), ops, xids)
            sd.end_step()
        used = [sd.last - z for sd, z in zip(self.sides, start)]
        self.compare(step, res, unordered, diffs)
        if used[0] != used[1] and not any("zxid" in d.sig or "reply only" in d.sig for d in diffs):
            who = "+".join(sorted({flat(o) for o in step.get("ops", [])})) if len(step.get("ops", [])) < 4 else "burst"
            if k == "risky":
                who = flat(step["op"])
            diffs.append(Diff(f"{k}:{who}: zxids consumed {used[0]} -> {used[1]}", f"zxids consumed by the step: A {used[0]}, B {used[1]}"))
        return diffs

    def rel(self, side: Side):
        def f(k):
            if k == "zero":
                return 0
            if k == "max":
                return 2 ** 63 - 1
            if k == "neg":
                return -1
            return side.ends[-1 - k] if k < len(side.ends) else 0
        return f

    def encode(self, side: Side, ops: list, xids: list) -> bytes:
        out = b""
        for op, x in zip(ops, xids):
            out += frame(i32(x) + i32(op["type"] if op["o"] == "?" else OP[op["o"]]) + body_of(op, self.rel(side)))
        return out

    def take_xids(self, ops: list) -> list:
        xids = []
        for op in ops:
            self.xid += 1
            xids.append(op.get("xid", -4 if op["o"] == "auth" else -8 if op["o"].startswith("setWatches") and len(ops) == 1 else self.xid & 0xFFFFFF))
        return xids

    def do_burst(self, step, res):
        s, ops = step["s"], step["ops"]
        xids = self.take_xids(ops)
        bars = {}
        for sd in self.sides:
            x, bb = sd.barrier_bytes()
            bars[sd.name] = x
            sd.slots[s].conn.send(self.encode(sd, ops, xids) + bb)
        for sd in self.sides:
            sl = sd.slots[s]
            frames, last = sl.conn.until(bars[sd.name], self.a.wait)
            sd.note_zxid(last)
            res[sd.name][s] = frames
            if last is None:
                res[sd.name][f"{s} end"] = "closed" if sl.conn.eof else "hangs"
                sl.conn.close()
                sl.conn = None
        self.pending = (s, ops, xids)
        self.ops_done += len(ops)

    def do_close(self, step, res):
        s = step["s"]
        ops = step["ops"] + [{"o": "closeSession"}]
        xids = self.take_xids(ops)
        for sd in self.sides:
            sd.slots[s].conn.send(self.encode(sd, ops, xids))
        for sd in self.sides:
            sl = sd.slots[s]
            frames = []
            while (f := sl.conn.next(self.a.wait)) is not None:
                frames.append(f)
                if len(f) >= 16 and f[:4] == i32(xids[-1]):
                    sd.note_zxid(f)
            res[sd.name][s] = frames
            res[sd.name][f"{s} end"] = "closed" if sl.conn.eof else "hangs"
            sl.conn.close()
            sl.conn, sl.alive = None, False
            self.closed[sd.name] = (sl.sid, sl.passwd)
        self.pending = (s, ops, xids)
        self.ops_done += len(ops)

    def do_risky(self, step, res):
        s, ops = step["s"], [step["op"]]
        xids = self.take_xids(ops)
        want = -2 if step["op"]["o"] == "ping" else xids[0]
        for sd in self.sides:
            sd.slots[s].conn.send(self.encode(sd, ops, xids))
        self.finish_risky(s, want, res)
        self.pending = (s, ops, xids)
        self.ops_done += 1

    def finish_risky(self, s, want, res):
        for sd in self.sides:
            sl = sd.slots[s]
            frames, last = sl.conn.until(want, self.a.risky_wait) if want is not None else ([], sl.conn.next(self.a.risky_wait))
            if last is not None:
                frames.append(last)
                sd.note_zxid(last)
            if not sl.conn.eof:
                sd.slots[s].conn.fill(.02)
            if not sl.conn.eof:
                more, bar = sl.conn.until(sd.barrier(sl.conn), self.a.risky_wait * 2)
                frames += more
                sd.note_zxid(bar)
                if bar is None and not sl.conn.eof:
                    res[sd.name][f"{s} end"] = "hangs"
                    sl.conn.close()
                    sl.conn = None
            if sl.conn is not None and sl.conn.eof:
                res[sd.name][f"{s} end"] = "closed"
                sl.conn.close()
                sl.conn = None
            res[sd.name][s] = frames

    def do_frame(self, step, res):
        s = step["s"]
        for sd in self.sides:
            sd.slots[s].conn.send(bytes.fromhex(step["hex"]))
        self.finish_risky(s, None, res)
        self.pending = (s, [], [])
        self.ops_done += 1

    def do_drop(self, step, res):
        for sd in self.sides:
            sl = sd.slots[step["s"]]
            if sl.conn:
                sl.conn.close()
                sl.conn = None
        self.pending = (None, [], [])

    def wait_eof(self, sd, sl, i, res):
        """the old connection of a session that was taken over"""
        old = sl.conn
        if old is None:
            return
        frames = []
        while (f := old.next(self.a.wait)) is not None:
            frames.append(f)
        res[sd.name][f"{i} old"] = [f.hex() for f in frames] + ["closed" if old.eof else "still open"]
        old.close()
        sl.conn = None

    def do_connect(self, step, res):
        s = step["s"]
        for sd in self.sides:
            sl = sd.slots[s]
            c, f = sd.open(timeout=step["timeout"], ro=step["ro"], proto=step["proto"])
            n, sid, pw = sd.norm_connect(f, True)
            res[sd.name]["connect"] = n
            if sid:
                sl.conn, sl.sid, sl.passwd, sl.alive = c, sid, pw, True
            else:
                c.close()
        self.pending = (None, [], [])
        self.ops_done += 1

    def do_reconnect(self, step, res):
        s = step["s"]
        for sd in self.sides:
            sl = sd.slots[s]
            zx = sd.last if step["zx"] == "last" else 0
            c, f = sd.open(timeout=step["timeout"], ro=step["ro"], sid=sl.sid, passwd=sl.passwd, zxid=zx)
            n, sid, pw = sd.norm_connect(f, False)
            res[sd.name]["connect"] = n
            self.wait_eof(sd, sl, s, res)
            if sid:
                sl.conn = c
            else:
                c.close()
                sl.alive = False
        self.pending = (None, [], [])
        self.ops_done += 1

    def do_temp(self, step, res):
        for sd in self.sides:
            c, f = sd.open(timeout=step["timeout"], ro=step["ro"], passwd=None if step["pw"] is None else bytes.fromhex(step["pw"]))
            n, sid, _ = sd.norm_connect(f, True)
            res[sd.name]["connect"] = n
            if sid:
                c.send(frame(i32(1) + i32(-11)))
                f = c.next(self.a.wait)
                c.fill(self.a.wait)
                res[sd.name]["close"] = {**sd_close(f), "eof": c.eof}
                sd.note_zxid(f)
            c.close()
        self.pending = (None, [], [])
        self.ops_done += 2

    def do_probe(self, step, res):
        kind, s = step["kind"], step["s"]
        for sd in self.sides:
            sl = sd.slots[s]
            c = Conn(sd.addr, self.a.wait)
            kw: dict = {"ro": step["ro"]}
            if kind == "badpw":
                kw.update(sid=sl.sid, passwd=None if step["pw"] is None else bytes.fromhex(step["pw"]))
            elif kind == "badpw-other":
                other = sd.slots[(s + 1) % len(sd.slots)]
                kw.update(sid=sl.sid, passwd=other.passwd or b"")
            elif kind == "unknown":
                kw.update(sid=step["sid"], passwd=session_password(step["sid"]))
            elif kind == "ahead":
                kw.update(zxid=sd.last + 1000)
            elif kind == "closed-session":
                sid, pw = self.closed.get(sd.name, (0x55, b""))
                kw.update(sid=sid, passwd=pw)
            data = sd.connect_frame(**kw)
            if kind == "short":
                data = frame(data[4:4 + step["n"]])
            elif kind == "neglen":
                data = i32(-2)
            elif kind == "toolong":
                data = i32(0x100000)
            elif kind == "empty":
                data = i32(0)
            c.send(data)
            got = []
            while (f := c.next(self.a.wait)) is not None:
                got.append(f)
                if len(got) > 3:
                    break
            n = [sd.norm_connect(f, False)[0] for f in got]
            res[sd.name]["probe"] = {"frames": n, "eof": c.eof, "odd": bytes(c.buf).hex()}
            c.close()
            if kind.startswith("badpw"):
                self.wait_eof(sd, sl, s, res)
        self.pending = (None, [], [])
        self.ops_done += 1

    # -- comparing
    def match(self, sd: Side, frames: list, ops: list, xids: list) -> None:
        """assign the frames of the acting session to its requests; note the zxid behind each request"""
        left: dict[int, list] = {}
        for n, (op, x) in enumerate(zip(ops, xids)):
            left.setdefault(-2 if op["o"] == "ping" else x, []).append(n)
        sd.matched, sd.before = [], []
        at = {}
        for f in frames:
            x = int.from_bytes(f[:4], "big", signed=True)
            n = left[x].pop(0) if left.get(x) else None
            sd.matched.append((n, f))
            if n is not None and len(f) >= 16:
                at[n] = HEAD.unpack_from(f)[1]
        z = sd.ends[-1] if sd.ends else 0
        for n in range(len(ops)):
            sd.before.append(z)
            z = max(z, at.get(n, 0))
            sd.ends.append(z)
        sd.last = max(sd.last, z)

    def norm_frames(self, sd: Side, frames: list, ops: list, mine: bool):
        """-> (order of what came, replies by index, order of auth replies)"""
        order, replies, auths = [], {}, []
        for n, f in sd.matched if mine else [(None, f) for f in frames]:
            if n is not None:
                replies[n] = sd.reply(ops[n], f, sd.before[n])
                (auths if ops[n]["o"] in ("auth", "sasl") and len(ops) > 1 else order).append(n)
            elif f[:4] == b"\xff\xff\xff\xff":
                order.append(sd.event(f))
            else:
                order.append({"unexpected": f.hex()})
        return order, replies, auths

    def compare(self, step, res, unordered, diffs) -> None:
        s, ops, xids = self.pending
        ra, rb = res["A"], res["B"]
        k = step["k"]
        for key in [*ra, *(x for x in rb if x not in ra)]:
            va, vb = ra.get(key), rb.get(key)
            if isinstance(key, str):
                if va != vb:
                    what = key.split(" ")[-1] if key[0].isdigit() else key
                    who = flat(ops[0]) if len(ops) == 1 else k + (":" + step["kind"] if k == "probe" else "") + (":" + step["hex"] if k == "frame" else "")
                    for at, x, y in leaves(va, vb):
                        diffs.append(Diff(f"{who}: {what}{at} {abstract(at, x) if at else x} -> {abstract(at, y) if at else y}", f"{key}{at}: A {x!r}, B {y!r}"))
                continue
            mine = key == s
            oa, pa, ta = self.norm_frames(self.A, va or [], ops, mine)
            ob, pb, tb = self.norm_frames(self.B, vb or [], ops, mine)
            if mine:
                for n, op in enumerate(ops):
                    x, y = pa.get(n), pb.get(n)
                    self.last_replies.append((op, x, y))
                    if x != y:
                        if x is None or y is None:
                            z = x or y
                            diffs.append(Diff(f"{flat(op)}: reply only from {'A' if x else 'B'} (err {z.get('err')})", f"request {n} of {len(ops)} {show(op)}\n   A {x}\n   B {y}"))
                            continue
                        parts, seen = [], set()
                        for at, u, v in leaves(x, y):
                            t = f"{at[1:]} {abstract(at, u)} -> {abstract(at, v)}"
                            if t not in seen:
                                seen.add(t)
                                parts.append(t)
                        if x.get("err") != y.get("err"):  # the rest follows from that
                            parts = [f"err {x.get('err')} -> {y.get('err')}"] + [p for p in parts if p.startswith("zxid")]
                        diffs.append(Diff(f"{flat(op)}: " + "; ".join(parts[:4]), f"request {n} of {len(ops)} {show(op)}\n   A {x}\n   B {y}"))
                if ta != tb:
                    diffs.append(Diff("auth replies: order", f"order of auth replies A {ta} B {tb}"))
            ea, eb = [e for e in oa if not isinstance(e, int)], [e for e in ob if not isinstance(e, int)]
            if unordered:
                ea, eb = sorted(ea, key=str), sorted(eb, key=str)
            if ea != eb:
                if len(ea) == len(eb) and all({**u, "zxid": 0} == {**v, "zxid": 0} for u, v in zip(ea, eb)):
                    t = sorted({f"{abstract('zxid', u['zxid'])} -> {abstract('zxid', v['zxid'])}" for u, v in zip(ea, eb) if u != v})
                    diffs.append(Diff("event: zxid " + ", ".join(t), f"zxid of events of session {key}: A {ea[:3]} B {eb[:3]}"))
                else:
                    ka = [f"{e.get('event')} {e.get('path')}" for e in ea]
                    kb = [f"{e.get('event')} {e.get('path')}" for e in eb]
                    xa, xb = list(ka), list(kb)
                    for e in ka:
                        if e in xb:
                            xb.remove(e)
                            xa.remove(e)
                    what = sorted({e.split(" ")[0] for e in xa}), sorted({e.split(" ")[0] for e in xb})
                    names = sorted({flat(o) for o in ops if o["o"] not in READS}) if len(ops) < 4 else ["burst"]
                    diffs.append(Diff(f"events: only A {what[0]} only B {what[1]} after {'+'.join(names) or k}", f"events of session {key}{' (its own)' if mine else ''}:\n   A {ka}\n   B {kb}"))
            elif not unordered and [e if isinstance(e, int) else "e" for e in oa] != [e if isinstance(e, int) else "e" for e in ob] and set(pa) == set(pb):
                diffs.append(Diff(f"order of replies and events ({k})", f"A {[e if isinstance(e, int) else e.get('event', '?') for e in oa]}\n   B {[e if isinstance(e, int) else e.get('event', '?') for e in ob]}"))

    # -- comparing the state
    def admin_calls(self, sd: Side, ops: list) -> list[dict]:
        out = []
        for at in range(0, len(ops), 100):
            part = ops[at:at + 100]
            xids = [n + 1 for n in range(len(part))]
            x, bb = sd.barrier_bytes()
            sd.admin.send(self.encode(sd, part, xids) + bb)
            frames, last = sd.admin.until(x, max(10, self.a.wait))
            if last is None:
                raise ConnectionError(f"{sd.name}: the super-user session got no answer (server dead?)")
            sd.note_zxid(last)
            got = {int.from_bytes(f[:4], "big", signed=True): f for f in frames}
            out += [sd.reply(op, got[x]) if x in got else {} for op, x in zip(part, xids)]
        return out

    def walk(self, sd: Side) -> dict:
        tree, level = {}, ["/"]
        while level:
            ops = []
            for p in level:
                ops += [{"o": "getData", "p": p}, {"o": "getACL", "p": p}, {"o": "getChildren2", "p": p}]
            got = self.admin_calls(sd, ops)
            nxt = []
            for i, p in enumerate(level):
                d, c, ch = got[3 * i:3 * i + 3]
                for x in (d, c, ch):
                    x.pop("xid", None)
                    x.pop("zxid", None)
                tree[p] = {"data": d, "acl": c, "children": ch}
                for n in (ch.get("body") or {}).get("list") or []:
                    nxt.append(p.rstrip("/") + "/" + n)
            level = nxt
        return tree

    def words(self, sd: Side) -> dict:
        out = {}
        if self.a.profile != "full":
            return out

        def word(w):
            try:
                c = socket.create_connection(sd.addr, timeout=5)
                c.sendall(w)
                data = b""
                while x := c.recv(65536):
                    data += x
                c.close()
                return data.decode("utf-8", "replace")
            except OSError as e:
                return f"error {e}"

        def name(m):
            return sd.labels.get(int(m.group(1), 16) - (1 << 64 if int(m.group(1), 16) >> 63 else 0), m.group(0))

        def lines(text):  # not splitlines: U+2028 and its like are legal in paths
            return text.rstrip("\n").split("\n")

        def lab(text):
            return re.sub(r"0x([0-9a-f]{9,16})", name, text)
        live = {sd.labels.get(sl.sid) for sl in sd.slots if sl.conn}
        out["ruok"], out["isro"] = word(b"ruok"), word(b"isro")
        out["wchs"] = word(b"wchs")
        for w in (b"wchp", b"wchc"):
            groups, head = {}, None
            for ln in lines(lab(word(w))):
                if ln.startswith("\t"):
                    groups.setdefault(head, []).append(ln)
                else:
                    head = ln
                    groups.setdefault(head, [])
            if w == b"wchc" and not all(re.fullmatch(r"S\d+|0x[0-9a-f]+", k) or not (k or v) for k, v in groups.items()):
                # A watched path with a newline in it: what follows it cannot be told apart, and the order is free.
                groups = {"lines": [ln for k, v in groups.items() for ln in (k, *v)]}
            out[w.decode()] = {k: sorted(v) for k, v in groups.items()}
        shape: dict = {"sessions": [], "ephemerals": {}, "connections": [], "other lines": []}
        head = cur = ""
        for ln in lines(lab(word(b"dump"))):
            if m := re.match(r"(Session Sets|Sessions with Ephemerals|Connections Sets) \(", ln):
                head = m.group(1)
                if head == "Sessions with Ephemerals":
                    shape[head] = ln
            elif head == "Sessions with Ephemerals" and not ln.startswith("Connections dump"):
                if ln.startswith("\t"):
                    shape["ephemerals"].setdefault(cur, []).append(ln)
                else:
                    cur = ln
            elif re.match(r"\d+ expire at", ln) or "sessionId: 0x0" in ln:
                pass
            elif head == "Session Sets" and ln.startswith("\t"):
                if ln.startswith("\tS"):  # others: left over from a former run
                    shape["sessions"].append(ln)
            elif m := re.search(r"sessionId: (S\d+)", ln):
                if m.group(1) in live:  # Java may keep a dead connection for a while
                    shape["connections"].append(m.group(1))
            else:
                shape["other lines"].append(ln)
        for k in ("sessions", "connections"):
            shape[k].sort()
        for v in shape["ephemerals"].values():
            v.sort()
        out["dump"] = shape
        mntr = dict(ln.split("\t", 1) for ln in word(b"mntr").splitlines() if "\t" in ln)
        out["mntr"] = {k: mntr.get("zk_" + k) for k in ("znode_count", "watch_count", "ephemerals_count", "approximate_data_size", "global_sessions",
                                                        "server_state", "outstanding_requests")}
        m = re.search(r"Node count: (\d+)", word(b"srvr"))
        out["srvr nodes"] = m and m.group(1)
        return out

    def check_state(self, with_words=True) -> list[Diff]:
        diffs = []
        ta, tb = self.walk(self.A), self.walk(self.B)
        seen = set()
        for p in sorted({*ta, *tb}):
            kind = "quota " if p.startswith("/zookeeper/quota") else "reserved " if p in RESERVED else ""
            if p not in ta or p not in tb:
                sig = f"tree: {kind}node only in {'A' if p in ta else 'B'}"
                if sig not in seen:
                    seen.add(sig)
                    diffs.append(Diff(sig, f"{p} exists only in {'A' if p in ta else 'B'}"))
            elif ta[p] != tb[p]:
                for at, x, y in leaves(ta[p], tb[p]):
                    sig = f"tree: {kind}{at[1:]} {abstract(at, x)} -> {abstract(at, y)}"
                    if sig not in seen:
                        seen.add(sig)
                        diffs.append(Diff(sig, f"{p} {at}: A {x!r}, B {y!r}"))
        if with_words:
            for n in range(8):
                wa, wb = self.words(self.A), self.words(self.B)
                if wa == wb:
                    break
                time.sleep(.15 * (n + 1))
            for at, x, y in leaves(wa, wb):
                sig = re.sub(r"(wch[pc]|ephemerals)\..*", r"\1", "4lw: " + at[1:])
                if sig not in seen:
                    seen.add(sig)
                    diffs.append(Diff(sig, f"4lw {at}: A {x!r}, B {y!r}"))
        return diffs

    # -- starting and making equal again
    def begin(self) -> list[Diff]:
        for sd in self.sides:
            sd.open_admin()
            sd.end_step()
        return self.connect_all()

    def connect_all(self) -> list[Diff]:
        out = []
        for s in range(self.a.sessions):
            out += self.run({"k": "connect", "s": s, "timeout": 30000, "ro": 0, "proto": 0})
        return out

    def lockstep(self, ops: list) -> None:
        for op in ops:
            for sd in self.sides:
                self.admin_calls(sd, [op])
                sd.end_step()

    def reset(self) -> None:
        """close all sessions, wipe both trees, make the reserved nodes equal"""
        for sd in self.sides:
            for sl in sd.slots:
                if sl.conn:
                    sl.conn.close()
                if sl.alive or sl.conn:
                    c, f = sd.open(sid=sl.sid, passwd=sl.passwd)
                    if f and len(f) >= 20 and struct.unpack_from(">q", f, 8)[0]:
                        c.send(frame(i32(1) + i32(-11)))
                        while c.next(self.a.wait) is not None:
                            pass
                    c.close()
                sl.conn, sl.alive = None, False
            if sd.admin is None or sd.admin.eof:
                sd.open_admin()
            for _ in range(5):
                paths = [p for p in self.walk(sd) if p not in RESERVED]
                if not paths:
                    break
                got = self.admin_calls(sd, [{"o": "delete", "p": p, "v": -1} for p in sorted(paths, key=lambda p: -p.count("/"))])
            # the reserved nodes: same ACL, empty data, then equal version, aversion, cversion
        sd_stats = {}
        for rnd in range(3):
            for sd in self.sides:
                got = self.admin_calls(sd, [{"o": "exists", "p": p} for p in RESERVED])
                sd_stats[sd.name] = [g["body"]["stat"] for g in got]
            for n, p in enumerate(RESERVED):
                acl = [[1, "world", "anyone"]] if p.endswith("config") else OPEN
                for field in ("version", "aversion", "cversion"):
                    va, vb = sd_stats["A"][n][field], sd_stats["B"][n][field]
                    lag, by = (self.A, vb - va) if va < vb else (self.B, va - vb)
                    if rnd == 0 and (by or sd_stats["A"][n] != sd_stats["B"][n]):
                        self.unequal = True
                    if field == "version":
                        self.admin_calls(lag, [{"o": "setData", "p": p, "d": "", "v": -1}] * by)
                    elif field == "aversion":
                        self.admin_calls(lag, [{"o": "setACL", "p": p, "acl": acl, "v": -1}] * by)
                    else:
                        t = p.rstrip("/") + "/equalise"
                        self.admin_calls(lag, [{"o": "create", "p": t, "d": "", "acl": OPEN, "f": 0}, {"o": "delete", "p": t, "v": -1}] * (by // 2))
        for sd in self.sides:
            sd.end_step()
        for p in RESERVED:
            acl = [[1, "world", "anyone"]] if p.endswith("config") else OPEN
            t = p.rstrip("/") + "/equalise"
            self.lockstep([{"o": "setData", "p": p, "d": "", "v": -1}, {"o": "setACL", "p": p, "acl": acl, "v": -1},
                           {"o": "create", "p": t, "d": "", "acl": OPEN, "f": 0}, {"o": "delete", "p": t, "v": -1}])


def sd_close(f):
    if f is None or len(f) < 16:
        return {"short": None if f is None else f.hex()}
    return {"xid": HEAD.unpack_from(f)[0], "err": HEAD.unpack_from(f)[2], "left": f[16:].hex()}


def show(op: dict) -> str:
    d = {k: v for k, v in op.items() if k != "o"}
    return f"{op['o']} {json.dumps(d, ensure_ascii=False)}"[:400]


def show_step(n: int, step: dict) -> list[str]:
    if step["k"] in ("burst", "close"):
        return [f"  #{n} session {step['s']} {step['k']}: " + " | ".join(show(o) for o in step["ops"])]
    return [f"  #{n} " + json.dumps(step, ensure_ascii=False)[:300]]


# ------------------------------------------------------------------ main loop


class Run:
    def __init__(self, a):
        self.a = a
        self.known = Known(a.known_file, a.known)
        self.failed: dict[str, dict] = {}
        self.servers: list[Server] = []
        self.history: list[dict] = []
        self.equal = 0

    def pair(self) -> Pair:
        a = self.a
        addrs = []
        self.stop()
        for cmd, target, port in ((a.oracle_cmd, a.oracle, a.base_port), (a.candidate_cmd, a.candidate, a.base_port + 1)):
            if cmd:
                s = Server(cmd, port, a.work, a.profile)
                self.servers.append(s)
                s.start()
                addrs.append(s.addr)
            else:
                h, _, p = target.rpartition(":")
                addrs.append((h, int(p)))
        for s in self.servers:
            s.ready()
        return Pair(*addrs, a)

    def stop(self) -> None:
        for s in self.servers:
            s.stop()
        self.servers = []

    def judge(self, diffs: list[Diff], n: int) -> tuple[bool, bool]:
        """-> (an unknown difference is among them, the state may differ now)"""
        new = harm = False
        for d in diffs:
            rule = self.known.find(d.sig)
            if rule:
                harm |= not rule.get("benign")
                continue
            harm = True
            e = self.failed.get(d.sig)
            if e is None:
                new = True
                self.failed[d.sig] = {"count": 1, "step": n, "text": d.text, "history": self.history[-25:]}
                print(f"DIFFERENCE at step {n} (seed {self.a.seed}): {d.sig}")
                print("   " + d.text[:1500])
                if self.history:
                    print("   step: " + show_step(n, self.history[-1])[0][:1500])
                if not self.a.keep_going or self.a.verbose:
                    print(" history:")
                    for i, st in list(enumerate(self.history))[-20:]:
                        print("\n".join(show_step(i, st)))
                sys.stdout.flush()
            else:
                e["count"] += 1
        return new, harm

    def fuzz(self) -> None:
        a = self.a
        p = self.pair()
        gen = Gen(a)
        t0 = time.monotonic()
        diffs = p.begin()
        if a.zxid_relative:  # used servers: start from equal trees
            p.reset()
            diffs = p.connect_all()
        if not a.zxid_relative and not diffs and p.A.last != p.B.last:
            diffs.append(Diff("start: zxid", f"zxid after the first connects: A {p.A.last}, B {p.B.last} (are both servers fresh? else --zxid-relative)"))
        diffs += p.check_state()
        new, harm = self.judge(diffs, 0)
        if new and not a.keep_going:
            return
        if harm:
            p.reset()
            p.connect_all()
        n = since = 0
        report = t0
        while p.ops_done < a.ops:
            if a.seconds and time.monotonic() - t0 > a.seconds:
                break
            step = gen.step()
            n += 1
            since += 1
            self.history.append(step)
            if len(self.history) > a.remember:
                del self.history[:1000]
            before = p.ops_done
            diffs = p.run(step)
            for op, x, _ in p.last_replies:
                gen.seen(op, x)
            for i in range(a.sessions):
                sa, sb = p.A.slots[i], p.B.slots[i]
                if sa.conn is not None and sb.conn is not None:
                    gen.state[i], gen.since[i] = "up", 0
                elif sa.alive and sb.alive:
                    gen.state[i] = "detached"
                else:
                    gen.state[i] = "none"
            if not diffs:
                self.equal += p.ops_done - before
            last = p.ops_done >= a.ops
            harm = False
            if diffs:
                new, harm = self.judge(diffs, n)
                if new and not a.keep_going:
                    break
            if a.check_every and n % a.check_every == 0 and not harm:
                new, harm = self.judge(p.check_state(False), n)
                if new and not a.keep_going:
                    break
            if since >= a.epoch or last:
                new, h2 = self.judge(p.check_state() if not harm else [], n)
                harm |= h2
                if new and not a.keep_going:
                    break
                if not last:
                    harm = True
            if harm and not last:
                since = 0
                for att in range(3):
                    p.reset()
                    d = p.connect_all() + p.check_state(False)
                    if not d:
                        break
                else:
                    print("cannot make the two servers equal again:", d[0].sig, d[0].text[:300], "- starting over" if self.servers else "")
                    if self.servers:
                        done = p.ops_done
                        p = self.pair()
                        p.ops_done = done
                        p.begin()
                gen.nodes.clear()
                gen.state = ["up"] * a.sessions
                gen.since = [0] * a.sessions
                self.history.append({"k": "reset"})
            if a.progress and time.monotonic() - report > a.progress:
                report = time.monotonic()
                print(f"  {p.ops_done} ops, {n} steps, {p.ops_done / (report - t0):.0f} ops/s, {len(self.failed)} differences", flush=True)
        self.elapsed = time.monotonic() - t0
        self.ops, self.steps = p.ops_done, n
        if not self.servers:  # leave no sessions and nodes behind
            p.reset()
            for sd in p.sides:
                sd.admin.send(frame(i32(1) + i32(-11)))
                sd.admin.fill(2)
                sd.admin.close()

    # -- minimising
    def replay(self, steps: list, want: str) -> bool:
        p = self.pair()
        try:
            diffs = p.begin()
            for st in steps:
                if any(d.sig == want for d in diffs):
                    return True
                if st["k"] == "reset":
                    p.reset()
                    diffs = p.connect_all()
                    continue
                s = st.get("s")
                if s is not None and st["k"] in ("reconnect", "probe") and not all(sd.slots[s].alive for sd in p.sides):
                    diffs = []
                    continue
                if s is not None and st["k"] == "connect" and any(sd.slots[s].alive for sd in p.sides):
                    diffs = []
                    continue
                diffs = p.run(st)
            if want.startswith(("tree", "4lw")):
                diffs = diffs + p.check_state()
            return any(d.sig == want for d in diffs)
        except (OSError, KeyError) as e:
            print(f"minimize: a replay could not go on: {e!r}", flush=True)
            return False

    def minimize(self, want: str) -> list:
        steps = list(self.history)
        at = max((i for i, s in enumerate(steps) if s["k"] == "reset"), default=-1)
        tail = steps[at + 1:]
        tries = 0
        if not self.replay(tail, want):
            if not self.replay(steps, want):
                print("minimize: does not reproduce")
                return steps
            tail = steps
        steps, n = tail, 2
        # bursts apart first, if that still shows it
        apart = []
        for st in steps:
            if st["k"] == "burst" and len(st["ops"]) > 1:
                apart += [{**st, "ops": [o]} for o in st["ops"]]
            else:
                apart.append(st)
        if self.replay(apart, want):
            steps = apart
        while len(steps) >= 2 and tries < self.a.max_tries:
            size = max(1, len(steps) // n)
            for i in range(0, len(steps), size):
                tries += 1
                rest = steps[:i] + steps[i + size:]
                if self.replay(rest, want):
                    steps, n = rest, max(n - 1, 2)
                    break
            else:
                if size == 1:
                    break
                n = min(n * 2, len(steps))
        print(f"minimized to {len(steps)} steps in {tries} tries:")
        for i, st in enumerate(steps):
            print("\n".join(show_step(i, st)))
        return steps


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--oracle", help="host:port")
    ap.add_argument("--candidate", help="host:port")
    ap.add_argument("--oracle-cmd", help="start the oracle: a version or a command template")
    ap.add_argument("--candidate-cmd")
    ap.add_argument("--base-port", type=int, default=27000)
    ap.add_argument("--work", default=os.path.join(tempfile.gettempdir(), "difffuzz"))
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--ops", type=int, default=20000)
    ap.add_argument("--seconds", type=float, default=0, help="stop after this time")
    ap.add_argument("--sessions", type=int, default=4)
    ap.add_argument("--profile", choices=("full", "default"), default="full")
    ap.add_argument("--burst", type=int, default=16, help="most requests in one segment")
    ap.add_argument("--epoch", type=int, default=1500, help="compare and wipe the trees every so many steps")
    ap.add_argument("--check-every", type=int, default=0, help="also compare the trees every so many steps (slow; finds the step)")
    ap.add_argument("--session-rate", type=float, default=100, help="percent of the normal rate of session events and garbage")
    ap.add_argument("--keep-going", action="store_true")
    ap.add_argument("--minimize", action="store_true", help="needs --oracle-cmd and --candidate-cmd")
    ap.add_argument("--max-tries", type=int, default=150)
    ap.add_argument("--remember", type=int, default=6000, help="steps kept for the history and --minimize")
    ap.add_argument("--replay", help="run the steps of this JSON file (a \"steps\" list) instead of random ones")
    ap.add_argument("--zxid-relative", action="store_true", help="the servers are not fresh: zxids need not start equal")
    ap.add_argument("--known", action="append", default=[], help="section of the known-differences file, e.g. 3.8.0:3.9.5")
    ap.add_argument("--known-file", default=os.path.join(HERE, "difffuzz_known.json"))
    ap.add_argument("--without", action="append", default=[], help="leave this operation out")
    ap.add_argument("--only", action="append", default=[], help="only these operations")
    ap.add_argument("--no-containers", dest="containers", action="store_false")
    ap.add_argument("--no-ipv6", dest="ipv6", action="store_false", help="no IPv6 ACLs (new in 3.9.4)")
    ap.add_argument("--with-delete-container", action="store_true", help="also send opcode 20")
    ap.add_argument("--wait", type=float, default=5, help="seconds after which a missing answer counts as missing")
    ap.add_argument("--risky-wait", type=float, default=1.5)
    ap.add_argument("--progress", type=float, default=20)
    ap.add_argument("--report", help="write a JSON report")
    ap.add_argument("--verbose", action="store_true")
    a = ap.parse_args()
    if not (a.oracle or a.oracle_cmd) or not (a.candidate or a.candidate_cmd):
        ap.error("need an oracle and a candidate")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    run = Run(a)
    run.elapsed, run.ops, run.steps = 0.0, 0, 0
    small = None
    try:
        try:
            if a.replay:
                with open(a.replay) as f:
                    steps = json.load(f)["steps"]
                p = run.pair()
                run.judge(p.begin(), 0)
                for i, st in enumerate(steps):
                    run.history.append(st)
                    if st["k"] == "reset":
                        p.reset()
                        p.connect_all()
                        continue
                    run.judge(p.run(st), i)
                    for op, x, y in p.last_replies:
                        if a.verbose:
                            print(f"  {show(op)}\n    A {x}\n    B {y}")
                run.judge(p.check_state(), len(steps))
                run.equal = run.ops = p.ops_done
            else:
                run.fuzz()
        except (ConnectionError, socket.timeout) as e:
            print("STOPPED:", e)
            for i, st in list(enumerate(run.history))[-5:]:
                print("\n".join(show_step(i, st)))
            run.failed.setdefault(f"server unreachable: {e}", {"count": 1, "step": len(run.history), "text": str(e)})
        if run.failed and a.minimize and a.oracle_cmd and a.candidate_cmd:
            small = run.minimize(next(iter(run.failed)))
    finally:
        run.stop()
    if run.known.hits:
        print("known differences met:", ", ".join(f"{k} x{v}" for k, v in sorted(run.known.hits.items())))
    if run.failed:
        print("differences:")
        for s, e in sorted(run.failed.items(), key=lambda x: -x[1]["count"]):
            print(f"  {e['count']:6d}x  {s}   (first at step {e['step']})")
    if a.report:
        with open(a.report, "w") as f:
            json.dump({"seed": a.seed, "ops": run.ops, "seconds": round(run.elapsed, 1), "known": run.known.hits, "differences": run.failed,
                       "steps": small if small is not None else run.history[-400:]}, f, indent=1, ensure_ascii=False)
    if run.elapsed:
        print(f"{run.ops} ops in {run.steps} steps, {run.elapsed:.1f} s, {run.ops / run.elapsed:.0f} ops/s")
    print(f"{run.equal} passed, {len(run.failed)} failed")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
