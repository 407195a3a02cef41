#!/usr/bin/env python3
"""The scenarios of the golden client wire: run them against a server, record every exchange, compare with a recording.

Talks raw sockets only (no client library), so that every byte in the golden
file is a byte that really crossed the wire.

    capture_client_wire.py --target 127.0.0.1:2181 --profile full --golden ../protocol/vectors/client-wire-3.9.5.json
    capture_client_wire.py --target 127.0.0.1:2181 --profile full --out full.json

The scenarios need a *fresh, empty* server per profile; golden_wire.py starts one for each and holds the settings.
The functions `run_all`, `load` and `differences` are for other runners and for tests.

Fields of a vector:

    name             <profile>.<scenario>; unique, in the order of the exchanges
    conn             label of the TCP connection it belongs to (several interleave)
    request_hex      all bytes sent, length prefix included; empty: `response_hex` is what arrived unsolicited
    response_hex     all bytes received up to and including the expected reply, or until the close
    mask             [offset, length, what]: volatile bytes of response_hex (zxids, times, session ids, passwords)
    request_mask     the same for request_hex: what a replayer has to substitute from what it received earlier
    closed           the server closed the connection after these bytes
    unordered        the vector in the reply comes in hash order: compare as a set
    compare          `lines`: compare line shapes (dump, cons, stat); `keys`: the keys before the tab (mntr)
    response_text    readable form of four letter words
    newer            the answer of a newer server where it differs; accepted as well
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import socket
import struct
import sys
import time

# ------------------------------------------------------------------ encoding


def i32(v: int) -> bytes:
    return struct.pack(">i", v)


def i64(v: int) -> bytes:
    return struct.pack(">q", v)


def boolean(v: bool) -> bytes:
    return b"\x01" if v else b"\x00"


def buf(v: bytes | None) -> bytes:
    return i32(-1) if v is None else i32(len(v)) + v


def ustr(v: str | None) -> bytes:
    return buf(None if v is None else v.encode())


def vec(items: list[bytes] | None) -> bytes:
    return i32(-1) if items is None else i32(len(items)) + b"".join(items)


def acl(perms: int, scheme: str | None, ident: str | None) -> bytes:
    return i32(perms) + ustr(scheme) + ustr(ident)


def frame(body: bytes) -> bytes:
    return i32(len(body)) + body


OPEN = vec([acl(31, "world", "anyone")])

OP = dict(
    notification=0, create=1, delete=2, exists=3, getData=4, setData=5, getACL=6,
    setACL=7, getChildren=8, sync=9, ping=11, getChildren2=12, check=13, multi=14,
    create2=15, reconfig=16, checkWatches=17, removeWatches=18, createContainer=19,
    deleteContainer=20, createTTL=21, multiRead=22, auth=100, setWatches=101,
    sasl=102, getEphemerals=103, getAllChildrenNumber=104, setWatches2=105,
    addWatch=106, whoAmI=107, createSession=-10, closeSession=-11, error=-1,
)


def connect_body(*, proto=0, zxid=0, timeout=10000, sid=0, passwd: bytes | None = b"\0" * 16,
                 readonly: bool | None = False) -> bytes:
    b = i32(proto) + i64(zxid) + i32(timeout) + i64(sid) + buf(passwd)
    return b if readonly is None else b + boolean(readonly)


def create_req(path, data=b"", acls=OPEN, flags=0) -> bytes:
    return ustr(path) + buf(data) + acls + i32(flags)


def create_ttl_req(path, data, acls, flags, ttl) -> bytes:
    return create_req(path, data, acls, flags) + i64(ttl)


def multi_req(ops: list[tuple[str, bytes]]) -> bytes:
    out = b""
    for name, body in ops:
        out += i32(OP[name]) + boolean(False) + i32(-1) + body
    return out + i32(-1) + boolean(True) + i32(-1)


def set_watches(rel, data=(), exist=(), child=(), extra=None) -> bytes:
    out = i64(rel)
    for group in (data, exist, child, *(extra or ())):
        out += vec([ustr(p) for p in group])
    return out


def java_random_bytes(seed: int, count: int) -> bytes:
    """java.util.Random(seed).nextBytes(count): the session password recipe."""
    state = (seed ^ 0x5DEECE66D) & ((1 << 48) - 1)
    out = bytearray()
    while len(out) < count:
        state = (state * 0x5DEECE66D + 0xB) & ((1 << 48) - 1)
        word = state >> 16  # next(32), kept unsigned
        for _ in range(min(4, count - len(out))):
            out.append(word & 0xFF)
            word >>= 8
    return bytes(out)


def session_password(sid: int) -> bytes:
    return java_random_bytes((sid & ((1 << 64) - 1)) ^ 0xB3415C00, 16)


# ------------------------------------------------------------------ decoding


class Cursor:
    """Walks a response and notes which byte ranges are volatile."""

    def __init__(self, data: bytes, mask: list):
        self.d, self.p, self.mask = data, 0, mask

    def left(self) -> int:
        return len(self.d) - self.p

    def note(self, n: int, what: str) -> None:
        self.mask.append([self.p, n, what])

    def i32(self, what=None) -> int:
        if what:
            self.note(4, what)
        v = struct.unpack_from(">i", self.d, self.p)[0]
        self.p += 4
        return v

    def i64(self, what=None) -> int:
        v = struct.unpack_from(">q", self.d, self.p)[0]
        if what:
            self.note(8, what)
        self.p += 8
        return v

    def buf(self, what=None) -> bytes | None:
        n = self.i32()
        if n < 0:
            return None
        if what:
            self.note(n, what)
        v = self.d[self.p:self.p + n]
        self.p += n
        return v

    def stat(self) -> None:
        self.i64("czxid"), self.i64("mzxid"), self.i64("ctime"), self.i64("mtime")
        self.i32(), self.i32(), self.i32()
        owner = struct.unpack_from(">q", self.d, self.p)[0]
        self.i64("ephemeralOwner" if owner else None)
        self.i32(), self.i32()
        self.i64("pzxid")

    def acls(self) -> None:
        for _ in range(max(0, self.i32())):
            self.i32(), self.buf(), self.buf()

    def strings(self) -> list:
        return [self.buf() for _ in range(max(0, self.i32()))]


def walk_body(c: Cursor, op: str) -> None:
    if op in ("create",):
        c.buf()
    elif op in ("create2", "createTTL", "createContainer"):
        c.buf(), c.stat()
    elif op in ("exists", "setData", "setACL"):
        c.stat()
    elif op == "getData":
        c.buf(), c.stat()
    elif op == "getACL":
        c.acls(), c.stat()
    elif op == "getChildren":
        c.strings()
    elif op == "getChildren2":
        c.strings(), c.stat()
    elif op in ("multi", "multiRead"):
        kinds = {1: "create", 15: "create2", 5: "setData", 4: "getData", 8: "getChildren"}
        while c.left() >= 9:
            t = c.i32()
            done = c.d[c.p]
            c.p += 1
            c.i32()
            if done:
                break
            if t == -1:
                c.i32()
            elif t in kinds:
                walk_body(c, kinds[t])
    elif op == "createSession":
        c.i32(), c.i32(), c.i64("sessionId"), c.buf("passwd")


def walk_frames(data: bytes, ops: dict, mask: list) -> None:
    """ops: xid -> op name, for replies that carry a record."""
    c = Cursor(data, mask)
    while c.left() >= 4:
        n = c.i32()
        end = c.p + n
        if n < 0 or end > len(data):
            return
        xid = c.i32()
        zx = struct.unpack_from(">q", data, c.p)[0]
        c.i64("zxid" if zx > 0 else None)
        c.i32()
        if c.p < end and xid in ops:
            walk_body(c, ops[xid])
        c.p = end


# ------------------------------------------------------------------ recorder


class Conn:
    def __init__(self, rec: "Recorder", label: str):
        self.rec, self.label = rec, label
        self.sock = socket.create_connection(rec.addr, timeout=5)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""
        self.eof = False
        self.sid, self.passwd, self.timeout = 0, b"", 0
        self.xid = 0

    def read_some(self, wait: float) -> bool:
        if self.eof:
            return False
        self.sock.settimeout(wait)
        try:
            chunk = self.sock.recv(65536)
        except (socket.timeout, TimeoutError):
            return False
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            self.eof = True
            return False
        self.pending += chunk
        return True

    def read_frame(self, wait=5.0) -> bytes | None:
        deadline = time.monotonic() + wait
        while True:
            if len(self.pending) >= 4:
                n = struct.unpack(">i", self.pending[:4])[0]
                if len(self.pending) >= 4 + n:
                    out, self.pending = self.pending[:4 + n], self.pending[4 + n:]
                    return out
            left = deadline - time.monotonic()
            if left <= 0 or not self.read_some(left):
                if self.eof or left <= 0:
                    return None

    def drain(self, wait: float) -> bytes:
        deadline = time.monotonic() + wait
        while not self.eof and time.monotonic() < deadline:
            self.read_some(max(0.01, deadline - time.monotonic()))
        out, self.pending = self.pending, b""
        return out

    def close(self):
        self.sock.close()


class Recorder:
    def __init__(self, addr, profile):
        self.addr, self.profile = addr, profile
        self.vectors: list[dict] = []
        self.names: set[str] = set()

    def emit(self, conn: Conn, name: str, req: bytes, resp: bytes, note: str, *, mask=None,
             request_mask=None, closed=False, **more) -> None:
        full = f"{self.profile}.{name}"
        assert full not in self.names, full
        self.names.add(full)
        v = dict(name=full, conn=conn.label, request_hex=req.hex(), response_hex=resp.hex(),
                 note=note, mask=mask or [])
        if request_mask:
            v["request_mask"] = request_mask
        v["closed"] = closed
        v.update(more)
        self.vectors.append(v)

    # -- connect
    def connect(self, label: str, name: str | None, note="", *, body: bytes | None = None,
                request_mask=None, expect_close=False, **kw) -> Conn:
        c = Conn(self, label)
        body = connect_body(**kw) if body is None else body
        c.sock.sendall(frame(body))
        resp = c.read_frame(3 if not expect_close else 1.5) or b""
        mask: list = []
        if len(resp) >= 4 + 16:
            k = Cursor(resp, mask)
            k.i32(), k.i32()
            c.timeout = k.i32()
            sid = struct.unpack_from(">q", resp, k.p)[0]
            k.i64("sessionId" if sid else None)
            c.sid = sid
            c.passwd = k.buf("passwd" if sid else None) or b""
        if expect_close:
            resp += c.drain(0.7)
        if name:
            self.emit(c, name, frame(body), resp, note, mask=mask, request_mask=request_mask,
                      closed=c.eof)
        return c

    # -- one request, one reply (plus any watch events that arrive before it)
    def call(self, c: Conn, name: str | None, op, body: bytes, note="", *, xid=None,
             expect_close=False, extra_wait=0.0, request_mask=None, **more) -> bytes:
        opname = op if isinstance(op, str) else None
        opnum = OP[op] if isinstance(op, str) else op
        if xid is None:
            c.xid += 1
            xid = c.xid
        req = frame(i32(xid) + i32(opnum) + body)
        c.sock.sendall(req)
        resp = b""
        want = -2 if opnum == OP["ping"] else xid
        while True:
            f = c.read_frame(3)
            if f is None:
                break
            resp += f
            if len(f) >= 8 and struct.unpack(">i", f[4:8])[0] == want:
                break
            if opnum == OP["createSession"]:
                break
        if expect_close:
            resp += c.drain(0.7)
        elif extra_wait:
            resp += c.drain(extra_wait)
        if name:
            mask: list = []
            if opname == "createSession":
                k = Cursor(resp, mask)
                k.i32(), walk_body(k, opname)
            else:
                walk_frames(resp, {xid: opname} if opname else {}, mask)
            self.emit(c, name, req, resp, note, mask=mask, closed=c.eof,
                      request_mask=request_mask, **more)
        return resp

    def events(self, c: Conn, name: str, note="", wait=0.4) -> bytes:
        """Unsolicited frames (notifications) that arrive on c."""
        resp = c.drain(wait)
        mask: list = []
        walk_frames(resp, {}, mask)
        self.emit(c, name, b"", resp, note, mask=mask, closed=c.eof)
        return resp

    def raw(self, label, name, data: bytes, note="", wait=1.0, shutdown=False) -> None:
        c = Conn(self, label)
        c.sock.sendall(data)
        if shutdown:
            c.sock.shutdown(socket.SHUT_WR)
        resp = c.drain(wait)
        self.emit(c, name, data, resp, note, closed=c.eof)
        c.close()

    def word(self, label, word: bytes, note="", name=None, volatile=(), **more) -> None:
        c = Conn(self, label)
        c.sock.sendall(word)
        resp = c.drain(2.0)
        mask = []
        text = resp.decode("utf-8", "replace")
        for pat, what in volatile:
            for m in re.finditer(pat, text):
                s, e = m.span(1)
                mask.append([len(text[:s].encode()), len(text[s:e].encode()), what])
        name = name or "4lw_" + word[:4].decode("latin1")
        self.emit(c, name, word, resp, note, mask=sorted(mask), closed=c.eof,
                  response_text=text, **more)
        c.close()


def password_of(conn: Conn, at_sid: int) -> list:
    """request_mask for a connect request that re-uses conn's session."""
    return [[at_sid, 8, f"sessionId of {conn.label}"], [at_sid + 12, 16, f"passwd of {conn.label}"]]


SID_AT = 4 + 4 + 8 + 4  # offset of sessionId in a framed connect request

# ------------------------------------------------------------------ scenarios


def scenario_connect(r: Recorder) -> None:
    a = r.connect("A", "connect_new", "new session, readOnly byte present; timeout inside the bounds")
    r.connect("A2", "connect_new_old_client", "44-byte request without the readOnly byte: the answer "
              "has no readOnly byte either", readonly=None).close()
    r.connect("A3", "connect_timeout_below_min", "100 ms asked: answered with minSessionTimeout = 2*tickTime",
              timeout=100).close()
    r.connect("A4", "connect_timeout_above_max", "1000000 ms asked: answered with maxSessionTimeout = 20*tickTime",
              timeout=1000000).close()
    r.connect("A5", "connect_null_passwd", "passwd = null (length -1)", passwd=None).close()
    r.connect("A6", "connect_proto_version_7", "protocolVersion of the request is ignored, answer has 0",
              proto=7).close()
    r.connect("A7", "connect_readonly_client", "readOnly=1 to a read-write server: normal session, answer readOnly=0",
              readonly=True).close()
    r.connect("A8", "connect_trailing_bytes", "bytes after the readOnly byte are ignored",
              body=connect_body() + b"\xde\xad").close()
    b = r.connect("B", "connect_reconnect", "same session id + password on a new socket; the old socket is closed",
                  sid=a.sid, passwd=a.passwd, request_mask=password_of(a, SID_AT))
    r.events(a, "reconnect_closes_old_socket", "old socket of the session sees EOF, no bytes", wait=1.0)
    r.connect("B2", "connect_bad_password", "wrong password: timeout 0, sessionId 0, 16 zero bytes, then close",
              sid=b.sid, passwd=b"\x11" * 16, expect_close=True,
              request_mask=[[SID_AT, 8, "sessionId of B"]]).close()
    r.events(b, "bad_password_kills_live_socket",
             "note: the attempt with the wrong password also closed the live socket of that session", wait=1.0)
    unknown = 0x7700000000000001
    r.connect("B3", "connect_unknown_session", "well-formed password for a session the server does not know: "
              "same answer as for a bad password", sid=unknown, passwd=session_password(unknown),
              expect_close=True).close()
    r.connect("B4", "connect_zxid_ahead", "lastZxidSeen larger than the server's last zxid: closed without an answer",
              zxid=0x7FFFFFFFFFFFFFFF, expect_close=True).close()
    r.connect("B5", "connect_too_short", "truncated ConnectRequest: closed without an answer",
              body=i32(0) + i64(0), expect_close=True).close()
    r.raw("B6", "frame_length_negative", b"\xff\xff\xff\xfe", "negative length: closed")
    r.raw("B7", "frame_length_too_large", i32(0x100000), "length 1048576 > jute.maxbuffer 1048575: closed")
    c = r.connect("C", None)
    r.call(c, "close_session", "closeSession", b"", "answered with a bare header, then the socket is closed",
           expect_close=True)
    r.connect("C2", "connect_closed_session", "session was closed before: expired answer",
              sid=c.sid, passwd=c.passwd, expect_close=True, request_mask=password_of(c, SID_AT)).close()
    d = r.connect("D", None)
    assert d.passwd == session_password(d.sid), "password recipe"
    r.call(d, "ping", "ping", b"", "ping", xid=-2)
    r.call(d, "ping_other_xid", "ping", b"", "the reply xid is -2 whatever xid was sent", xid=77)
    r.call(d, "whoami", "whoAmI", b"", "no record in the request")
    d.sock.sendall(i32(0))
    r.emit(d, "empty_frame", i32(0), d.drain(1.0), "frame of length 0 after the session is set up: closed",
           closed=d.eof)
    for n, opnum in (("unknown_opcode_999", 999), ("opcode_notification", 0), ("opcode_error", -1),
                     ("opcode_10", 10), ("opcode_check_toplevel", 13)):
        e = r.connect("E_" + n, None)
        body = ustr("/") + i32(-1) if opnum == 13 else b""
        r.call(e, n, opnum, body, "opcode that is not served at top level", expect_close=True)
        e.close()
    e = r.connect("E9", None)
    body = i32(5) + i32(OP["createSession"]) + i32(8000)
    e.sock.sendall(frame(body))
    resp = e.drain(1.0)
    r.emit(e, "opcode_create_session_from_client", frame(body), resp,
           "a client that sends -10: the server answers with a ConnectResponse frame (quirk)",
           mask=[[12, 8, "sessionId"], [24, 16, "passwd"]] if len(resp) >= 40 else [], closed=e.eof)
    e.close()
    b.close(), d.close()


def scenario_crud(r: Recorder) -> None:
    c = r.connect("K", None)
    r.call(c, "create", "create", create_req("/a", b"v0"), "persistent node")
    r.call(c, "create_exists", "create", create_req("/a", b"v0"), "NODEEXISTS -110")
    r.call(c, "create_no_parent", "create", create_req("/no/where", b""), "NONODE -101")
    r.call(c, "create_bad_path", "create", create_req("a", b""), "path without '/': BADARGUMENTS -8")
    r.call(c, "create_trailing_slash", "create", create_req("/a/", b""), "trailing slash: BADARGUMENTS -8")
    r.call(c, "create_dotdot", "create", create_req("/a/..", b""), "relative path: BADARGUMENTS -8")
    r.call(c, "create_ctrl_char", "create", create_req("/a/\x01", b""), "control character: BADARGUMENTS -8")
    r.call(c, "create_root", "create", create_req("/", b""), "the root: parent is the empty path; NODEEXISTS")
    r.call(c, "create_null_path", "create", create_req(None, b""), "null path: MARSHALLINGERROR -5")
    r.call(c, "create_truncated", "create", ustr("/t"), "truncated record: MARSHALLINGERROR -5")
    r.call(c, "create_bad_flags", "create", create_req("/t", b"", OPEN, 9), "flags 9: BADARGUMENTS -8")
    r.call(c, "create_null_acl", "create", create_req("/t", b"", vec(None)), "null ACL vector: INVALIDACL -114")
    r.call(c, "create_empty_acl", "create", create_req("/t", b"", vec([])), "empty ACL vector: INVALIDACL -114")
    r.call(c, "create_bad_acl_scheme", "create", create_req("/t", b"", vec([acl(31, "nope", "x")])),
           "unknown scheme: INVALIDACL -114")
    r.call(c, "create_bad_world_id", "create", create_req("/t", b"", vec([acl(31, "world", "me")])),
           "world with another id: INVALIDACL -114")
    r.call(c, "create_auth_acl_without_auth", "create", create_req("/t", b"", vec([acl(31, "auth", "")])),
           "auth scheme without an authenticated id: INVALIDACL -114")
    r.call(c, "create_null_data", "create", create_req("/nulldata", None), "data = null is kept as null")
    r.call(c, "getdata_null_data", "getData", ustr("/nulldata") + boolean(False),
           "null data comes back with length -1, dataLength 0")
    r.call(c, "create2", "create2", create_req("/a/c2", b"xy"), "path + Stat")
    r.call(c, "create_sequential", "create", create_req("/a/s-", b"", OPEN, 2), "suffix = parent's create counter")
    r.call(c, "create_sequential_2", "create", create_req("/a/s-", b"", OPEN, 2), "next suffix")
    r.call(c, "create_sequential_slash", "create", create_req("/a/", b"", OPEN, 2), "a name that is only a number")
    r.call(c, "create_ephemeral", "create2", create_req("/a/e", b"", OPEN, 1), "ephemeralOwner = session id")
    r.call(c, "create_ephemeral_sequential", "create", create_req("/a/es-", b"", OPEN, 3), "")
    r.call(c, "create_child_of_ephemeral", "create", create_req("/a/e/x", b""), "NOCHILDRENFOREPHEMERALS -108")
    r.call(c, "create_container", "createContainer", create_req("/cont", b"", OPEN, 4), "Stat.ephemeralOwner is 0")
    r.call(c, "exists", "exists", ustr("/a") + boolean(False), "Stat; cversion counts creates and deletes")
    r.call(c, "exists_nonode", "exists", ustr("/zz") + boolean(False), "NONODE -101, bare header")
    r.call(c, "exists_nul_in_path", "exists", ustr("/z\0z") + boolean(False), "BADARGUMENTS on newer servers")
    r.call(c, "getdata", "getData", ustr("/a") + boolean(False), "")
    r.call(c, "getdata_nonode", "getData", ustr("/zz") + boolean(False), "NONODE -101")
    r.call(c, "getdata_null_path", "getData", ustr(None) + boolean(False), "null path on a read")
    r.call(c, "getdata_truncated", "getData", b"", "empty record: MARSHALLINGERROR -5")
    r.call(c, "setdata", "setData", ustr("/a") + buf(b"v1") + i32(0), "version 0 matches; Stat")
    r.call(c, "setdata_any_version", "setData", ustr("/a") + buf(b"v2") + i32(-1), "-1 skips the check")
    r.call(c, "setdata_badversion", "setData", ustr("/a") + buf(b"v3") + i32(0), "BADVERSION -103")
    r.call(c, "setdata_nonode", "setData", ustr("/zz") + buf(b"") + i32(-1), "NONODE -101")
    r.call(c, "setdata_root", "setData", ustr("/") + buf(b"r") + i32(-1), "the root takes data")
    r.call(c, "getchildren", "getChildren", ustr("/cont") + boolean(False), "no children: vector of length 0")
    r.call(c, "getchildren_root", "getChildren", ustr("/") + boolean(False),
           "order is unspecified (hash order); compare as sets", unordered=True)
    r.call(c, "getchildren_nonode", "getChildren", ustr("/zz") + boolean(False), "NONODE -101")
    r.call(c, "getchildren2", "getChildren2", ustr("/a/c2") + boolean(False), "children + Stat")
    r.call(c, "getchildren2_zookeeper", "getChildren2", ustr("/zookeeper") + boolean(False),
           "reserved subtree; order unspecified", unordered=True)
    r.call(c, "getdata_zookeeper_config", "getData", ustr("/zookeeper/config") + boolean(False),
           "standalone: empty data, all-zero Stat except dataLength/aversion")
    r.call(c, "getacl_zookeeper_config", "getACL", ustr("/zookeeper/config"), "world:anyone r, aversion -1")
    r.call(c, "setdata_zookeeper_config", "setData", ustr("/zookeeper/config") + buf(b"x") + i32(-1), "NOAUTH -102")
    r.call(c, "getallchildrennumber", "getAllChildrenNumber", ustr("/a"), "all descendants")
    r.call(c, "getallchildrennumber_nonode", "getAllChildrenNumber", ustr("/zz"), "NONODE")
    r.call(c, "getallchildrennumber_root", "getAllChildrenNumber", ustr("/"), "all nodes except the root")
    r.call(c, "getephemerals_prefix", "getEphemerals", ustr("/a/e"), "own ephemerals whose path starts with the prefix "
           "(plain string prefix); order unspecified", unordered=True)
    r.call(c, "getephemerals_none", "getEphemerals", ustr("/nothing"), "")
    r.call(c, "sync", "sync", ustr("/a"), "answers the path that was sent")
    r.call(c, "sync_nonode", "sync", ustr("/zz"), "the path is not looked up")
    r.call(c, "delete_notempty", "delete", ustr("/a") + i32(-1), "NOTEMPTY -111")
    r.call(c, "delete_badversion", "delete", ustr("/a/c2") + i32(5), "BADVERSION -103")
    r.call(c, "delete_badversion_before_notempty", "delete", ustr("/a") + i32(99),
           "version is checked before emptiness")
    r.call(c, "delete_nonode", "delete", ustr("/zz") + i32(-1), "NONODE -101")
    r.call(c, "delete_root", "delete", ustr("/") + i32(-1), "BADARGUMENTS -8")
    r.call(c, "delete_zookeeper", "delete", ustr("/zookeeper/quota") + i32(-1), "reserved: BADARGUMENTS -8")
    r.call(c, "delete", "delete", ustr("/a/c2") + i32(-1), "bare header")
    r.call(c, "exists_after_delete", "exists", ustr("/a") + boolean(False), "pzxid and cversion moved")
    r.call(c, "delete_container_from_client", "deleteContainer", buf(b"/cont"), "opcode 20 as a client request, path with a length "
           "prefix. 3.8: the whole body is the path, so the prefix makes it invalid (-8); 3.9+: deletes, without any ACL check")
    r.call(c, "delete_container_on_plain_node", "deleteContainer", buf(b"/nulldata"), "a plain persistent node: 3.9+ deletes it too")
    r.call(c, "delete_container_on_ephemeral", "deleteContainer", buf(b"/a/e"), "an ephemeral node: BADVERSION -103")
    r.call(c, "reconfig_disabled", "reconfig", ustr(None) + ustr(None) + ustr("server.1=x:1:2;3") + i64(-1),
           "RECONFIGDISABLED -123")
    r.call(c, "createttl", "createTTL", create_ttl_req("/ttl", b"", OPEN, 5, 100000),
           "default profile: UNIMPLEMENTED -6 (extendedTypesEnabled=false); full profile: path + Stat")
    r.call(c, "createttl_bad_ttl", "createTTL", create_ttl_req("/ttl2", b"", OPEN, 5, 0), "ttl 0")
    r.call(c, "createttl_too_large", "createTTL", create_ttl_req("/ttl3", b"", OPEN, 5, 0x10000000000), "ttl 2^40")
    r.call(c, "createttl_max", "createTTL", create_ttl_req("/ttl4", b"", OPEN, 5, 0xFFFFFFFFFF), "ttl 2^40-1")
    r.call(c, "createttl_non_ttl_flags", "createTTL", create_ttl_req("/ttl5", b"", OPEN, 0, 5000),
           "ttl with a non-TTL flag: BADARGUMENTS -8")
    r.call(c, "createttl_sequential", "createTTL", create_ttl_req("/ttls-", b"", OPEN, 6, 5000), "")
    r.call(c, "create_with_ttl_flag", "create", create_req("/ttl6", b"", OPEN, 5), "opcode 1 with flag 5")
    r.call(c, "create_with_container_flag", "create", create_req("/cont2", b"", OPEN, 4), "opcode 1 with flag 4")
    r.call(c, "create_container_op_flag0", "createContainer", create_req("/cont3", b"", OPEN, 0), "opcode 19, flag 0")
    r.call(c, "sasl_without_server_login", "sasl", buf(b""), "no JAAS login configured: empty (null) token, err 0")
    c.close()


def scenario_acl(r: Recorder) -> None:
    c = r.connect("P", None)
    r.call(c, "auth_digest", "auth", i32(0) + ustr("digest") + buf(b"bob:secret"), "reply xid -4, zxid 0", xid=-4)
    r.call(c, "auth_ip", "auth", i32(0) + ustr("ip") + buf(b""), "always OK", xid=-4)
    r.call(c, "whoami_after_auth", "whoAmI", b"", "ids are a set; order unspecified", unordered=True)
    dig = "bob:" + base64.b64encode(hashlib.sha1(b"bob:secret").digest()).decode()
    r.call(c, "create_auth_acl", "create", create_req("/p", b"top", vec([acl(31, "auth", "ignored")])),
           "auth expands to the digest id at create time")
    r.call(c, "getacl_expanded", "getACL", ustr("/p"), f"stored as digest {dig}")
    r.call(c, "create_duplicate_acl", "create",
           create_req("/dup", b"", vec([acl(31, "world", "anyone"), acl(31, "world", "anyone"), acl(1, "ip", "127.0.0.1/8")])),
           "duplicates are dropped")
    r.call(c, "getacl_duplicates_removed", "getACL", ustr("/dup"), "")
    r.call(c, "setacl", "setACL", ustr("/p") + vec([acl(1, "world", "anyone"), acl(31, "digest", dig)]) + i32(0),
           "version is the ACL version; Stat with aversion 1")
    r.call(c, "setacl_badversion", "setACL", ustr("/p") + OPEN + i32(0), "BADVERSION -103")
    r.call(c, "setacl_nonode", "setACL", ustr("/zz") + OPEN + i32(-1), "NONODE -101")
    r.call(c, "setacl_invalid", "setACL", ustr("/p") + vec([acl(31, "digest", "no-colon")]) + i32(-1), "INVALIDACL -114")
    r.call(c, "setacl_bad_ip", "setACL", ustr("/p") + vec([acl(31, "ip", "1.2.3.4/33")]) + i32(-1), "INVALIDACL -114")
    r.call(c, "create_private", "create", create_req("/priv", b"s", vec([acl(31, "digest", dig)])), "")
    r.call(c, "create_adminless", "create", create_req("/readable", b"s", vec([acl(1, "world", "anyone"),
           acl(31, "digest", dig)])), "")
    d = r.connect("Q", None)
    r.call(d, "getdata_noauth", "getData", ustr("/priv") + boolean(False), "NOAUTH -102")
    r.call(d, "exists_noauth", "exists", ustr("/priv") + boolean(False), "exists needs READ on newer servers, "
           "nothing on 3.8.0")
    r.call(d, "getacl_noauth", "getACL", ustr("/priv"), "getACL needs READ or ADMIN: NOAUTH -102")
    r.call(d, "getacl_masked_digest", "getACL", ustr("/readable"), "READ but no ADMIN: the digest is shown as ':x'")
    r.call(d, "getchildren_noauth", "getChildren", ustr("/priv") + boolean(False), "NOAUTH -102")
    r.call(d, "setdata_noauth", "setData", ustr("/p") + buf(b"") + i32(-1), "NOAUTH -102")
    r.call(d, "setacl_noauth", "setACL", ustr("/p") + OPEN + i32(-1), "NOAUTH -102")
    r.call(d, "create_noauth", "create", create_req("/priv/x", b""), "NOAUTH -102 (CREATE on the parent)")
    r.call(d, "delete_child_noauth", "delete", ustr("/priv/none") + i32(-1), "NOAUTH comes before NONODE of the child")
    r.call(d, "check_in_multi_noauth", "multi", multi_req([("check", ustr("/priv") + i32(-1))]), "check needs READ")
    r.call(d, "auth_super_fail", "auth", i32(0) + ustr("digest") + buf(b"super:wrong"), "any digest is accepted", xid=-4)
    if r.profile == "full":
        r.call(d, "auth_super", "auth", i32(0) + ustr("digest") + buf(b"super:test"), "superDigest", xid=-4)
        r.call(d, "getdata_as_super", "getData", ustr("/priv") + boolean(False), "super skips ACLs")
    r.call(d, "auth_unknown_scheme", "auth", i32(0) + ustr("nope") + buf(b"x"),
           "AUTHFAILED -115 with xid -4, then close", xid=-4, expect_close=True)
    d.close()
    e = r.connect("R", None)
    r.call(e, "auth_null_scheme", "auth", i32(0) + ustr(None) + buf(b"x"), "null scheme", xid=-4, expect_close=True)
    e.close()
    e = r.connect("R2", None)
    r.call(e, "auth_sasl_scheme", "auth", i32(0) + ustr("sasl") + buf(b"x"), "sasl is no add_auth scheme", xid=-4,
           expect_close=True)
    e.close()
    e = r.connect("R3", None)
    r.call(e, "auth_null_data", "auth", i32(0) + ustr("digest") + buf(None), "null auth buffer", xid=-4,
           expect_close=True)
    e.close()
    c.close()


def scenario_multi(r: Recorder) -> None:
    c = r.connect("M", None)
    r.call(c, "multi_ok", "multi", multi_req([
        ("create", create_req("/m", b"1")),
        ("create2", create_req("/m/k", b"2")),
        ("setData", ustr("/m") + buf(b"3") + i32(0)),
        ("check", ustr("/m") + i32(1)),
        ("create", create_req("/m/s-", b"", OPEN, 2)),
        ("delete", ustr("/m/k") + i32(-1)),
    ]), "each op sees the effect of the former ones; all share one zxid")
    r.call(c, "multi_after", "exists", ustr("/m") + boolean(False), "state after multi_ok")
    r.call(c, "multi_fail_middle", "multi", multi_req([
        ("create", create_req("/m/x", b"")),
        ("setData", ustr("/m") + buf(b"") + i32(77)),
        ("delete", ustr("/nope") + i32(-1)),
    ]), "header err is 0 on this server line; results: 0 for ops before, the error, then -2 for the ops after")
    r.call(c, "multi_fail_rolled_back", "exists", ustr("/m/x") + boolean(False), "NONODE: nothing was applied")
    r.call(c, "multi_fail_seq_not_consumed", "create", create_req("/m/s-", b"", OPEN, 2),
           "the failed multi did not consume a sequence number")
    r.call(c, "multi_empty", "multi", multi_req([]), "no ops at all")
    r.call(c, "multi_container_ttl_types", "multi", multi_req([
        ("createContainer", create_req("/mc", b"", OPEN, 4)),
    ]), "container in multi: result header type is create2 (15)")
    r.call(c, "multi_bad_op", "multi", multi_req([("setACL", ustr("/m") + OPEN + i32(-1))]),
           "setACL is no multi op: MARSHALLINGERROR -5")
    r.call(c, "multi_mixed_kinds", "multi", multi_req([
        ("getData", ustr("/m") + boolean(False)), ("delete", ustr("/m") + i32(-1))]),
        "read and write ops mixed: MARSHALLINGERROR -5")
    r.call(c, "multi_with_reads", "multi", multi_req([("getData", ustr("/m") + boolean(False))]), "read op in opcode 14")
    r.call(c, "multi_bad_flags", "multi", multi_req([("create", create_req("/mf", b"", OPEN, 9))]), "bad create flags")
    r.call(c, "multi_truncated", "multi", i32(1) + boolean(False) + i32(-1), "truncated record")
    r.call(c, "multi_check_fail", "multi", multi_req([("check", ustr("/m") + i32(9)),
                                                      ("create", create_req("/mz", b""))]), "first op fails")
    r.call(c, "multiread", "multiRead", multi_req([
        ("getData", ustr("/m") + boolean(False)),
        ("getChildren", ustr("/mc") + boolean(False)),
        ("getData", ustr("/nope") + boolean(False)),
        ("getData", ustr("/m") + boolean(False)),
    ]), "errors are per op and do not stop the others")
    r.call(c, "multiread_with_write", "multiRead", multi_req([("delete", ustr("/m") + i32(-1))]),
           "write op in opcode 22")
    r.call(c, "multiread_exists", "multiRead", multi_req([("exists", ustr("/m") + boolean(False))]), "exists is not allowed")
    c.close()


def scenario_watches(r: Recorder) -> None:
    w = r.connect("W", None)
    x = r.connect("X", None)
    r.call(x, None, "create", create_req("/w", b""))
    r.call(w, "watch_exists_missing", "exists", ustr("/w/n") + boolean(True), "a watch is left although NONODE")
    r.call(x, None, "create", create_req("/w/n", b""))
    r.events(w, "event_node_created", "NodeCreated(1), state SyncConnected(3); header zxid is -1 before 3.9")
    r.call(w, "watch_getdata", "getData", ustr("/w/n") + boolean(True), "")
    r.call(x, None, "setData", ustr("/w/n") + buf(b"1") + i32(-1))
    r.events(w, "event_data_changed", "NodeDataChanged(3)")
    r.call(x, None, "setData", ustr("/w/n") + buf(b"2") + i32(-1))
    r.events(w, "event_one_shot", "no second event: one-shot")
    r.call(w, "watch_getchildren", "getChildren", ustr("/w") + boolean(True), "")
    r.call(x, None, "create", create_req("/w/c", b""))
    r.events(w, "event_children_changed_create", "NodeChildrenChanged(4) with the parent's path")
    r.call(w, "watch_getchildren2", "getChildren2", ustr("/w") + boolean(True), "", unordered=True)
    r.call(x, None, "delete", ustr("/w/c") + i32(-1))
    r.events(w, "event_children_changed_delete", "NodeChildrenChanged(4)")
    r.call(w, None, "getData", ustr("/w/n") + boolean(True))
    r.call(w, None, "getChildren", ustr("/w/n") + boolean(True))
    r.call(x, None, "delete", ustr("/w/n") + i32(-1))
    r.events(w, "event_deleted_once", "data and child watch on the same node: one NodeDeleted(2) only")
    r.call(w, "getdata_nonode_no_watch", "getData", ustr("/w/n") + boolean(True), "NONODE leaves no watch")
    r.call(x, None, "create", create_req("/w/n", b""))
    r.events(w, "event_none_after_failed_getdata", "no event")
    r.call(w, None, "getData", ustr("/w/n") + boolean(True))
    r.call(w, "event_before_own_reply", "setData", ustr("/w/n") + buf(b"own") + i32(-1),
           "the client's own write: the notification comes before the reply", xid=1000)
    r.call(w, None, "getData", ustr("/w/n") + boolean(True))
    r.call(w, "event_order_multi", "multi", multi_req([
        ("setData", ustr("/w/n") + buf(b"m") + i32(-1)), ("create", create_req("/w/m1", b"")),
        ("delete", ustr("/w/m1") + i32(-1))]), "events of a multi also come before its reply", xid=1001)
    r.call(w, None, "getChildren", ustr("/w") + boolean(True))
    y = r.connect("Y", None)
    r.call(y, None, "create", create_req("/w/eph", b"", OPEN, 1))
    w.drain(0.3)
    r.call(w, None, "exists", ustr("/w/eph") + boolean(True))
    r.call(y, None, "closeSession", b"", expect_close=True)
    r.events(w, "event_ephemeral_deleted", "NodeDeleted when the owner's session closes")

    # setWatches
    r.call(x, None, "create", create_req("/sw", b""))
    z = r.connect("Z", None)
    resp = r.call(z, None, "exists", ustr("/sw") + boolean(False))
    base = struct.unpack(">q", resp[8:16])[0]
    r.call(x, None, "setData", ustr("/sw") + buf(b"1") + i32(-1))
    r.call(x, None, "create", create_req("/sw/c", b""))
    rel = [[12, 8, "relativeZxid: the zxid of the last change to /sw that Z had seen"]]
    r.call(z, "setwatches_catch_up", "setWatches", set_watches(base, ["/sw", "/gone"], ["/sw"], ["/sw", "/gone"]),
           "fires at once: data /sw changed, data /gone deleted, exist /sw created, child /sw changed, "
           "child /gone deleted; then the reply with xid -8", xid=-8, request_mask=rel)
    resp = r.call(z, None, "exists", ustr("/sw") + boolean(False))
    now = struct.unpack(">q", resp[8:16])[0]
    r.call(z, "setwatches_quiet", "setWatches", set_watches(now, ["/sw"], ["/later"], ["/sw"]),
           "up to date: nothing fires, watches are set", xid=-8, request_mask=rel)
    r.call(x, None, "create", create_req("/later", b""))
    r.events(z, "setwatches_then_event", "exist watch that setWatches re-established")
    r.call(z, "setwatches_null_vector", "setWatches", i64(now) + i32(-1) * 3, "null vectors", xid=-8,
           request_mask=rel)
    r.call(z, "setwatches2", "setWatches2", set_watches(now, [], [], [], extra=(["/pw"], ["/pr"])),
           "persistent + persistent recursive", xid=-8, request_mask=rel)
    r.call(x, None, "create", create_req("/pw", b""))
    r.call(x, None, "create", create_req("/pw/c", b""))
    r.call(x, None, "setData", ustr("/pw") + buf(b"1") + i32(-1))
    r.call(x, None, "delete", ustr("/pw/c") + i32(-1))
    r.call(x, None, "delete", ustr("/pw") + i32(-1))
    r.events(z, "events_persistent", "NodeCreated, NodeChildrenChanged, NodeDataChanged, NodeChildrenChanged, NodeDeleted")
    r.call(x, None, "create", create_req("/pr", b""))
    r.call(x, None, "create", create_req("/pr/c", b""))
    r.call(x, None, "setData", ustr("/pr/c") + buf(b"1") + i32(-1))
    r.call(x, None, "create", create_req("/pr/c/d", b""))
    r.call(x, None, "delete", ustr("/pr/c/d") + i32(-1))
    r.events(z, "events_persistent_recursive", "no NodeChildrenChanged for a recursive watch")
    q = r.connect("V", None)
    r.call(q, "addwatch_persistent", "addWatch", ustr("/aw") + i32(0), "the node need not exist; body = int 0")
    r.call(q, "addwatch_recursive", "addWatch", ustr("/aw") + i32(1), "")
    r.call(q, "addwatch_bad_mode", "addWatch", ustr("/aw") + i32(7), "MARSHALLINGERROR -5")
    r.call(q, "addwatch_root_recursive", "addWatch", ustr("/") + i32(1), "recursive on the root")
    r.call(x, None, "create", create_req("/aw", b""))
    r.events(q, "event_one_per_change", "several matching watches of one connection: one event per table and change")
    r.call(q, "checkwatches_any", "checkWatches", ustr("/aw") + i32(3), "type Any: present")
    r.call(q, "checkwatches_data_absent", "checkWatches", ustr("/aw") + i32(2), "type Data (differs: 3.8.0 / newer)")
    r.call(q, "checkwatches_missing", "checkWatches", ustr("/zz") + i32(3), "NOWATCHER -121")
    r.call(q, "checkwatches_bad_type", "checkWatches", ustr("/aw") + i32(9), "MARSHALLINGERROR -5")
    r.call(q, "removewatches_missing", "removeWatches", ustr("/zz") + i32(2), "NOWATCHER -121")
    r.call(q, "removewatches_any", "removeWatches", ustr("/aw") + i32(3), "removed; no event is sent by the server")
    r.call(q, "removewatches_again", "removeWatches", ustr("/aw") + i32(3), "NOWATCHER -121")
    r.call(q, None, "getData", ustr("/aw") + boolean(True))
    r.call(q, "removewatches_data", "removeWatches", ustr("/aw") + i32(2), "type Data removes the one-shot watch")
    r.call(q, "removewatches_persistent_type", "removeWatches", ustr("/") + i32(5), "type 5 exists on newer servers only")
    r.call(q, "removewatches_children_type", "removeWatches", ustr("/aw") + i32(1), "NOWATCHER -121")
    for conn in (w, x, z, q):
        conn.close()


def scenario_quota(r: Recorder) -> None:
    if r.profile != "full":
        return
    c = r.connect("U", None)
    r.call(c, None, "create", create_req("/qt", b"12345"))
    r.call(c, None, "create", create_req("/zookeeper/quota/qt", b""))
    r.call(c, "quota_limits_create", "create",
           create_req("/zookeeper/quota/qt/zookeeper_limits", b"count=-1,bytes=-1=;byteHardLimit=10;countHardLimit=3"), "")
    r.call(c, "quota_stats_create", "create", create_req("/zookeeper/quota/qt/zookeeper_stats", b"count=0,bytes=0"), "")
    r.call(c, "quota_stats_read", "getData", ustr("/zookeeper/quota/qt/zookeeper_stats") + boolean(False),
           "recomputed by the server when the stats node is created")
    r.call(c, "quota_bytes_exceeded", "setData", ustr("/qt") + buf(b"x" * 11) + i32(-1), "QUOTAEXCEEDED -125")
    r.call(c, None, "create", create_req("/qt/a", b""))
    r.call(c, None, "create", create_req("/qt/b", b""))
    r.call(c, "quota_count_exceeded", "create", create_req("/qt/c", b""), "QUOTAEXCEEDED -125")
    r.call(c, "quota_stats_after", "getData", ustr("/zookeeper/quota/qt/zookeeper_stats") + boolean(False), "")
    r.call(c, "quota_multi_exceeded", "multi", multi_req([("create", create_req("/qt/d", b""))]), "-125 inside multi")
    c.close()


def digest_md5_answer(challenge: bytes, user: str, password: str, cnonce: str = "0123456789abcdef",
                      uri: str = "zookeeper/zk-sasl-md5") -> tuple[bytes, bytes]:
    """RFC 2831, qop=auth, md5-sess: (client response, expected server rspauth line)."""
    fields = dict(re.findall(r'(\w+)="?([^",]*)"?', challenge.decode()))
    realm, nonce = fields["realm"], fields["nonce"]

    def h(b: bytes) -> bytes:
        return hashlib.md5(b).digest()

    def value(a2: str) -> str:
        a1 = h(f"{user}:{realm}:{password}".encode()) + f":{nonce}:{cnonce}".encode()
        text = f"{h(a1).hex()}:{nonce}:00000001:{cnonce}:auth:{h(a2.encode()).hex()}"
        return h(text.encode()).hex()

    out = (f'charset=utf-8,username="{user}",realm="{realm}",nonce="{nonce}",nc=00000001,cnonce="{cnonce}",'
           f'digest-uri="{uri}",maxbuf=65536,response={value("AUTHENTICATE:" + uri)},qop=auth')
    return out.encode(), b"rspauth=" + value(":" + uri).encode()


def scenario_sasl(r: Recorder) -> None:
    """Profile sasl: JAAS section Server with user_bob="bobsecret", user_super="adminsecret"."""

    def login(label, prefix, user, password, note, close=False):
        c = r.connect(label, None)
        resp = r.call(c, prefix + "_challenge", "sasl", buf(b""), "empty client token: the server sends its challenge")
        token = resp[24:]
        v = r.vectors[-1]
        nonce = re.search(rb'nonce="([^"]*)"', token)
        if nonce:
            v["mask"] = [[24 + nonce.start(1), len(nonce.group(1)), "nonce"]]
        v["response_token"] = token.decode()
        answer, want = digest_md5_answer(token, user, password)
        resp = r.call(c, prefix + "_response", "sasl", buf(answer), note, expect_close=close,
                      request_mask=[[16, len(answer), "digest-md5 response to the challenge before"]])
        v = r.vectors[-1]
        v["request_token"] = answer.decode()
        if len(resp) > 24:
            v["response_token"] = resp[24:].decode()
            v["mask"] = [[24, len(resp) - 24, "rspauth=MD5 hex digest"]]
            assert resp[24:] == want, (resp[24:], want)
        return c

    c = login("S", "sasl_ok", "bob", "bobsecret", "accepted: rspauth token, xid of the request, zxid 0")
    r.call(c, "sasl_whoami", "whoAmI", b"", "id sasl:bob was added; order unspecified", unordered=True)
    r.call(c, "sasl_create_auth_acl", "create", create_req("/s", b"x", vec([acl(31, "auth", "")])), "auth -> sasl:bob")
    r.call(c, "sasl_getacl", "getACL", ustr("/s"), "")
    c.close()
    login("S2", "sasl_bad_password", "bob", "wrong", "AUTHFAILED -115, record with a null token, then close",
          close=True).close()
    login("S3", "sasl_unknown_user", "eve", "x", "AUTHFAILED -115, then close", close=True).close()
    c = r.connect("S4", None)
    r.call(c, "sasl_not_authenticated", "create", create_req("/open", b""), "SASL is optional by default")
    r.call(c, "sasl_garbage_first_token", "sasl", buf(b"zzz"), "a first token that is not empty: the JVM ignores it and sends its challenge",
           expect_close=True)
    v = r.vectors[-1]
    nonce = re.search(rb'nonce="([^"]*)"', bytes.fromhex(v["response_hex"]))
    if nonce:
        v["mask"] = [[nonce.start(1), len(nonce.group(1)), "nonce"]]
    c.close()


NUM = r"(\d+)"
LAT = r"Latency min/avg/max: (\S+)"


def scenario_words(r: Recorder) -> None:
    keep = r.connect("4L", None)
    r.call(keep, None, "create", create_req("/e4", b"", OPEN, 1))
    r.call(keep, None, "getData", ustr("/e4") + boolean(True))
    vol = [(r"version: (.*)", "version"), (LAT, "latency"), (r"Received: " + NUM, "count"), (r"Sent: " + NUM, "count"),
           (r"Connections: " + NUM, "count"), (r"Outstanding: " + NUM, "count"), (r"Zxid: (0x\w+)", "zxid"),
           (r"Node count: " + NUM, "count"), (r"/127\.0\.0\.1:" + NUM, "port"), (r"recved=" + NUM, "count"),
           (r"sent=" + NUM, "count"), (r"(0x1[0-9a-f]{14,15})", "sessionId"), (r"est=" + NUM, "time"),
           (r"lresp=" + NUM, "time"), (r"llat=" + NUM, "ms"), (r"minlat=" + NUM, "ms"), (r"avglat=" + NUM, "ms"),
           (r"maxlat=" + NUM, "ms"), (r"lzxid=(0x\w+)", "zxid"), (r"lcxid=(0x\w+)", "cxid"), (r"lop=(\w+)", "op"),
           (r"size: " + NUM, "bytes"), (r"expire at (.*):", "date"), (r"(?:dataDir|dataLogDir)=(.*)", "path"),
           (r"(?:dataDirSize|dataLogSize|clientPort)=" + NUM, "number"), (r"\[(\d)\]\(queued", "interestOps"),
           (r"Sets \((\d+)\)/\(\d+\)", "count"), (r"Sets \(\d+\)/\((\d+)\)", "count"), (r"(?m)^(\d+) expire", "count"),
           (r"with Ephemerals \((\d+)\)", "count"), (r"(?m)^(\d+) connections watching", "count"),
           (r"watching (\d+) paths", "count"), (r"Total watches:(\d+)", "count"), (r"(?m)^[0-9a-f]+: (-?\d+)$", "digest")]
    words = [b"ruok", b"srvr", b"stat", b"conf", b"cons", b"dump", b"wchs", b"wchc", b"wchp", b"dirs", b"isro",
             b"gtmk", b"hash"]
    if r.profile == "default":
        words += [b"mntr", b"envi", b"srst", b"crst"]
    for wd in words:
        more = {"compare": "lines"} if wd in (b"dump", b"cons", b"stat") else {}
        r.word("w", wd, "four letter word: no length prefix; the server answers text and closes", volatile=vol, **more)
    if r.profile == "full":
        r.word("w", b"mntr", "values are volatile; compare the list of keys",
               volatile=[(r"\t(.*)", "value")], compare="keys")
        r.word("w", b"envi", "values are volatile", volatile=[(r"=(.*)", "value")])
        r.word("w", b"srst", "resets the server counters and every metric", volatile=vol)
        r.word("w", b"crst", "resets the counters of every connection", volatile=vol)
        r.word("w", b"stmk" + i64(0x32), "stmk + 8 byte mask, answers the mask in decimal", name="4lw_stmk")
        r.word("w", b"stmk" + i64(0x132), "another mask", name="4lw_stmk_2")
        r.word("w", b"gtmk", "mask set before", name="4lw_gtmk_after")
    r.word("w", b"\xff\xf4\xff\xfd", "telnet close sequence", name="4lw_telnet_close")
    r.word("w", b"abcd", "not a known word: taken as a length", name="4lw_unknown")
    r.word("w", b"ruok\n", "trailing bytes are ignored", name="4lw_ruok_newline")
    keep.close()


SCENARIOS = [scenario_connect, scenario_crud, scenario_acl, scenario_multi, scenario_watches, scenario_quota,
             scenario_words]


def run_all(addr, profile, on_error=None) -> list[dict]:
    """The vectors of one profile. `on_error(scenario, error)` is told of scenarios that a wrong answer cut short."""
    r = Recorder(addr, profile)
    for s in [scenario_sasl] if profile == "sasl" else SCENARIOS:
        try:
            s(r)
        except (AssertionError, OSError, LookupError, ValueError, struct.error) as error:
            if on_error is None:
                raise
            on_error(s.__name__, error)
    return r.vectors


# ------------------------------------------------------------------ comparing


def masked(v: dict) -> bytes:
    b = bytearray(bytes.fromhex(v["response_hex"]))
    for off, n, _ in v["mask"]:
        b[off:off + n] = b"\0" * len(b[off:off + n])
    return bytes(b)


def masked_text(v: dict) -> str:
    raw = bytes.fromhex(v["response_hex"])
    out, at = b"", 0
    for off, n, _ in sorted(v["mask"]):
        if off < at:
            continue
        out += raw[at:off] + b"<*>"
        at = off + n
    return (out + raw[at:]).decode("utf-8", "replace")


def same(g: dict, v: dict) -> bool:
    """Equal apart from the volatile parts (g: golden or its "newer" variant)."""
    if g["closed"] != v["closed"]:
        return False
    how = g.get("compare")
    if how == "keys":  # mntr: every golden key must be there
        want, got = ({ln.split("\t")[0] for ln in x["response_text"].splitlines()} for x in (g, v))
        return want <= got
    if how == "lines":  # dump, cons, stat: same kinds of lines, in any order, any number of each
        return set(masked_text(g).splitlines()) == set(masked_text(v).splitlines())
    if "response_text" in g:
        return masked_text(g) == masked_text(v)
    if g.get("unordered"):
        return sorted(masked(g)) == sorted(masked(v))
    return masked(g) == masked(v)


def load(path: str, profile: str | None = None) -> list[dict]:
    """The vectors of a recording, or those of one profile."""
    with open(path) as f:
        return [v for v in json.load(f)["vectors"] if profile is None or v["name"].startswith(profile + ".")]


def differences(golden: list[dict], got: list[dict]) -> list[tuple[str, str]]:
    """(name, what differs) of every golden vector that was answered otherwise or not run."""
    have = {v["name"]: v for v in got}
    out = []
    for g in golden:
        v = have.get(g["name"])
        if v is None:
            out.append((g["name"], "not run"))
        elif not same(g, v) and not ("newer" in g and same({**g, **g["newer"]}, v)):
            out.append((g["name"], describe(g, v)))
    return out


def describe(g: dict, v: dict) -> str:
    lines = [g["note"]]
    if "response_text" in g:
        lines += ["golden: " + masked_text(g)[:2000].replace("\n", "\n        "), "target: " + masked_text(v)[:2000].replace("\n", "\n        ")]
    else:
        lines += [f"sent:   {v['request_hex']}", f"golden: {g['response_hex']}{' closed' if g['closed'] else ''}",
                  f"target: {v['response_hex']}{' closed' if v['closed'] else ''}"]
    return "\n".join(lines)


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--target", required=True, help="host:port of a running, empty server")
    ap.add_argument("--profile", choices=("default", "full", "sasl"), default="full", help="how the target is configured")
    ap.add_argument("--out", help="write the vectors here")
    ap.add_argument("--golden", help="compare with this file")
    a = ap.parse_args()
    host, port = a.target.rsplit(":", 1)
    vectors = run_all((host, int(port)), a.profile)
    if a.out:
        with open(a.out, "w") as f:
            json.dump({"vectors": vectors}, f, indent=1)
            f.write("\n")
        print(f"{len(vectors)} vectors -> {a.out}")
    if not a.golden:
        return 0
    golden = load(a.golden, a.profile)
    found = differences(golden, vectors)
    for name, text in found:
        print(f"DIFF {name}: {text}")
    print(f"{len(golden)} golden vectors, {len(found)} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
