"""Four letter words: what an operator may ask on a client port instead of connecting.

Owns the words, which of them are allowed, and their texts, to the byte Apache's. Reads everything from a `ServerView` and
changes only what a word is for: ``srst`` and ``crst`` set statistics back, ``stmk`` stores a trace mask. The mask is
answered by ``gtmk`` and has no other effect: what this server logs is not selected by it.

Rules: a known word is answered even when it is not allowed, namely by a sentence that says so; while the server does not
serve, most words answer only that. Numbers of sessions and zxids are unsigned hexadecimal.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from zkpy.core.link import DROPPED
from zkpy.core.session_tracker import SessionTracker
from zkpy.ops import metrics
from zkpy.ops.report import directory_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from zkpy.core.link import ClientLink
    from zkpy.core.peer import Peer
    from zkpy.net.client_server import ClientConnection
    from zkpy.ops.report import ServerView

TELNET_CLOSE = b"\xff\xf4\xff\xfd"
"""What telnet sends when its user interrupts it; known only so that it is not reported as garbage."""

_NOT_SERVING = "This ZooKeeper instance is not currently serving requests"
_ALWAYS_ALLOWED = frozenset({"srvr"})  # scripts and clients rely on it
_DEFAULT_TRACE_MASK = 0b100110010
_MASK_BYTES = 8
_LONG_MASK = (1 << 64) - 1
_MEBIBYTE = 1 << 20
_FAST_LEADER_ELECTION = 3

_OP_READ = 1
_OP_WRITE = 4


class FourLetterWords:
    """Answers words about one server."""

    __slots__ = ("_answers", "_trace_mask", "_view")

    def __init__(self, view: ServerView) -> None:
        self._view = view
        self._trace_mask = _DEFAULT_TRACE_MASK
        self._answers = {
            b"conf": self._conf,
            b"cons": self._cons,
            b"crst": self._crst,
            b"dirs": self._dirs,
            b"dump": self._dump,
            b"hash": self._hash,
            b"mntr": self._mntr,
            b"srst": self._srst,
            b"srvr": self._srvr,
            b"stat": self._stat,
            b"wchc": self._wchc,
            b"wchp": self._wchp,
            b"wchs": self._wchs,
        }

    def answer(self, word: bytes, argument: bytes) -> bytes | None:
        """The text for a word.

        Args:
            word: one of `KNOWN_WORDS`.
            argument: the bytes behind the word; only ``stmk`` looks at them, and takes the first 8.

        Returns:
            None when the connection is to be closed without a text; for ``stmk`` also when its mask is not complete yet.
        """
        return None if (lines := self._text(word, argument)) is None else lines.encode()

    def _text(self, word: bytes, argument: bytes) -> str | None:
        name = "telnet close" if word == TELNET_CLOSE else word.decode()
        if not self._is_allowed(name):
            return f"{name} is not executed because it is not in the whitelist.\n"
        if word == TELNET_CLOSE:
            return None
        if word == b"stmk":
            return self._stmk(argument)
        if word == b"gtmk":
            return str(self._trace_mask)
        if word == b"ruok":
            return "imok"
        if word == b"envi":
            return _lines(environment(self._view.version))
        if word == b"isro":
            if not self._view.is_serving:
                return "null"
            return "ro" if self._view.service.is_read_only else "rw"
        if not self._view.is_serving:
            # Compat: without the end of the line for this one.
            return _NOT_SERVING if word == b"hash" else f"{_NOT_SERVING}\n"
        lines = _lines(self._answers[word]())
        return lines + self._membership() if word == b"conf" else lines

    def _is_allowed(self, name: str) -> bool:
        allowed = self._view.config.four_letter_words
        return allowed == "*" or name in allowed or name in _ALWAYS_ALLOWED

    # -- words in alphabetical order; each gives its lines

    def _conf(self) -> Iterator[str]:
        view = self._view
        config = view.config
        yield f"clientPort={_port(view.client_port)}"
        yield f"secureClientPort={_port(view.secure_client_port)}"
        yield f"dataDir={view.snap_dir}"
        yield f"dataDirSize={directory_size(view.snap_dir)}"
        yield f"dataLogDir={view.log_dir}"
        yield f"dataLogSize={directory_size(view.log_dir)}"
        yield f"tickTime={config.tick_time_ms}"
        yield f"maxClientCnxns={config.max_client_cnxns}"
        yield f"minSessionTimeout={config.min_session_timeout_ms}"
        yield f"maxSessionTimeout={config.max_session_timeout_ms}"
        yield f"clientPortListenBacklog={config.client_port_listen_backlog}"
        yield f"serverId={config.my_id}"
        if view.peer is not None:
            yield from self._conf_of_member(view.peer)

    def _conf_of_member(self, peer: Peer) -> Iterator[str]:
        options = peer.state.options
        member = peer.state.view.member(options.server_id)
        addresses = () if member is None else member.addresses
        yield f"initLimit={options.init_limit}"
        yield f"syncLimit={options.sync_limit}"
        yield f"electionAlg={_FAST_LEADER_ELECTION}"
        yield f"electionPort={_ports(address.election_port for address in addresses)}"
        yield f"quorumPort={_ports(address.quorum_port for address in addresses)}"
        yield f"peerType={int(peer.is_observer)}"

    def _membership(self) -> str:
        """What ``conf`` ends with. Compat: without the end of the last line, and not while only reads are served."""
        peer = self._view.peer
        if peer is None or self._view.service.is_read_only:
            return ""
        return f"membership: \n{peer.state.view.committed.text()}"

    def _cons(self) -> Iterator[str]:
        for connection in self._view.connections():
            yield connection_line(connection, brief=False)
        yield ""

    def _crst(self) -> Iterator[str]:
        for connection in self._view.connections():
            link = connection.link
            link.received = link.sent = 0
            link.reset_stats()
        yield "Connection stats reset."

    def _dirs(self) -> Iterator[str]:
        yield f"datadir_size: {directory_size(self._view.snap_dir)}"
        yield f"logdir_size: {directory_size(self._view.log_dir)}"

    def _dump(self) -> Iterator[str]:
        service = self._view.service
        yield "SessionTracker dump:"
        if service.local is not None:
            yield from self._expiry_sets("Local Session", _named(service.local.buckets()))
        if isinstance(service.sessions, SessionTracker):
            kind = "Session" if service.local is None else "Global Session"
            yield from self._expiry_sets(kind, _named(service.sessions.buckets()))
        else:
            yield from _learned_sessions(service.sessions.committed)
        ephemerals = service.tree.ephemerals
        yield "ephemeral nodes dump:"
        yield f"Sessions with Ephemerals ({len(ephemerals)}):"
        for session_id, paths in ephemerals.items():
            yield f"{_hex(session_id)}:"
            yield from (f"\t{path}" for path in paths)
        yield "Connections dump:"
        yield from self._expiry_sets("Connections", self._connections_by_deadline())

    def _connections_by_deadline(self) -> list[tuple[int, list[str]]]:
        """Connections and when silence will end them, in steps of a tick."""
        tick = self._view.config.tick_time_ms
        by_deadline: dict[int, list[str]] = {}
        for connection in self._view.connections():
            link = connection.link
            deadline = (connection.silent_deadline_ms() // tick + 1) * tick
            line = f"ip: {_address(link)} sessionId: {_hex(link.session_id)}"
            by_deadline.setdefault(deadline, []).append(line)
        return sorted(by_deadline.items())

    def _expiry_sets(self, kind: str, sets: list[tuple[int, list[str]]]) -> Iterator[str]:
        driver = self._view.driver
        offset = driver.wall_ms() - driver.mono_ms()
        yield f"{kind} Sets ({len(sets)})/({sum(len(members) for _, members in sets)}):"
        for deadline, members in sets:
            yield f"{len(members)} expire at {java_date(deadline + offset)}:"
            yield from (f"\t{member}" for member in members)

    def _hash(self) -> Iterator[str]:
        for zxid, digest in self._view.service.tree.digest_log:
            yield f"{zxid:x}: {digest}"

    def _mntr(self) -> Iterator[str]:
        for key, value in metrics.monitor_values(self._view):
            yield f"zk_{key}\t{metrics.text(value)}"

    def _srst(self) -> Iterator[str]:
        metrics.reset(self._view)
        yield "Server stats reset."

    def _srvr(self) -> Iterator[str]:
        yield from self._heading()
        yield from self._figures()

    def _stat(self) -> Iterator[str]:
        yield from self._heading()
        yield "Clients:"
        for connection in self._view.connections():
            yield connection_line(connection, brief=True)
        yield ""
        yield from self._figures()

    def _heading(self) -> Iterator[str]:
        yield f"Zookeeper version: {self._view.version}"
        if self._view.service.is_read_only:
            yield "READ-ONLY mode; serving only read-only clients"

    def _figures(self) -> Iterator[str]:
        view = self._view
        stats = view.service.stats
        latency = stats.latency
        average = metrics.java_double(metrics.average(latency))
        yield f"Latency min/avg/max: {latency.min}/{average}/{latency.max}"
        yield f"Received: {stats.received}"
        yield f"Sent: {stats.sent}"
        yield f"Connections: {len(view.connections())}"
        yield f"Outstanding: {stats.outstanding}"
        yield f"Zxid: {_hex(view.service.tree.last_zxid)}"
        yield f"Mode: {view.service.mode}"
        yield f"Node count: {len(view.service.tree.nodes)}"
        if view.leader is not None:
            sizes = view.quorum_stats.proposal_sizes
            yield f"Proposal sizes last/min/max: {sizes.last}/{sizes.min}/{sizes.max}"

    def _stmk(self, argument: bytes) -> str | None:
        if len(argument) < _MASK_BYTES:
            return None
        self._trace_mask = int.from_bytes(argument[:_MASK_BYTES], "big", signed=True)
        return str(self._trace_mask)

    def _wchc(self) -> Iterator[str]:
        for session_id, paths in self._view.service.watches.data.by_session().items():
            yield _hex(session_id)
            yield from (f"\t{path}" for path in paths)
        yield ""

    def _wchp(self) -> Iterator[str]:
        for path, session_ids in self._view.service.watches.data.by_path().items():
            yield path
            yield from (f"\t{_hex(session_id)}" for session_id in session_ids)
        yield ""

    def _wchs(self) -> Iterator[str]:
        connections, paths, watches = self._view.service.watches.data.summary()
        yield f"{connections} connections watching {paths} paths"
        yield f"Total watches:{watches}"


KNOWN_WORDS = frozenset(
    (
        b"conf", b"cons", b"crst", b"dirs", b"dump", b"envi", b"gtmk", b"hash", b"isro", b"mntr", b"ruok",
        b"srst", b"srvr", b"stat", b"stmk", b"wchc", b"wchp", b"wchs", TELNET_CLOSE,
    )
)  # fmt: skip
"""What the client ports take for a word instead of a length, allowed or not."""


def connection_line(connection: ClientConnection, *, brief: bool) -> str:
    """One connection as ``stat`` (brief) and ``cons`` list it."""
    link = connection.link
    line = (
        f" {_address(link)}[{_interest_ops(connection)}]"
        f"(queued={len(link.pending)},recved={link.received},sent={link.sent}"
    )
    if brief or not link.session_id:
        return f"{line})"
    cxid = "" if link.last_cxid < 0 else f",lcxid={_hex(link.last_cxid)}"
    average = link.latency_total // link.replies if link.replies else 0
    return (
        f"{line},sid={_hex(link.session_id)},lop={link.last_op},est={link.established_ms},to={link.timeout_ms}"
        f"{cxid},lzxid={_hex(link.last_zxid)},lresp={link.last_response_ms},llat={link.last_latency}"
        f",minlat={max(0, link.min_latency)},avglat={average},maxlat={link.max_latency})"
    )


def _interest_ops(connection: ClientConnection) -> int:
    """What is expected of the socket, in Java's bits; nothing once its only use is the answer to a word."""
    if connection.link.state == DROPPED:
        return 0
    return _OP_READ * connection.is_reading | _OP_WRITE * connection.has_output


def environment(version: str) -> Iterator[str]:
    """``envi``: Java's names for what Python knows. Memory is that of the machine, and of this process as the total."""
    import platform
    import pwd
    import socket
    import sys
    import tempfile

    system = os.uname()
    user = pwd.getpwuid(os.getuid())
    page = os.sysconf("SC_PAGE_SIZE")
    yield "Environment:"
    yield f"zookeeper.version={version}"
    yield f"host.name={socket.gethostname()}"
    yield f"java.version={platform.python_version()}"
    yield f"java.vendor={platform.python_implementation()}"
    yield f"java.home={sys.prefix}"
    yield f"java.class.path={os.pathsep.join(sys.path)}"
    yield f"java.library.path={os.environ.get('LD_LIBRARY_PATH', '')}"
    yield f"java.io.tmpdir={tempfile.gettempdir()}"
    yield "java.compiler=<NA>"
    yield f"os.name={system.sysname}"
    yield f"os.arch={'amd64' if system.machine == 'x86_64' else system.machine}"
    yield f"os.version={system.release}"
    yield f"user.name={user.pw_name}"
    yield f"user.home={user.pw_dir}"
    yield f"user.dir={Path.cwd()}"
    yield f"os.memory.free={os.sysconf('SC_AVPHYS_PAGES') * page // _MEBIBYTE}MB"
    yield f"os.memory.max={os.sysconf('SC_PHYS_PAGES') * page // _MEBIBYTE}MB"
    yield f"os.memory.total={_resident_bytes(page) // _MEBIBYTE}MB"


def _resident_bytes(page: int) -> int:
    import resource

    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * page
    except OSError:  # pragma: no cover  not Linux: the most it ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def java_date(wall_ms: int) -> str:
    """``Date.toString`` in UTC."""
    return time.strftime("%a %b %d %H:%M:%S UTC %Y", time.gmtime(wall_ms // 1000))


def _address(link: ClientLink) -> str:
    host = f"[{link.host}]" if ":" in link.host else link.host
    return f"/{host}:{link.port}"


def _port(number: int | None) -> int:
    return -1 if number is None else number


def _ports(numbers: Iterable[int]) -> str:
    """Each number once."""
    return "|".join(map(str, dict.fromkeys(numbers)))


def _named(buckets: Iterable[tuple[int, list[int]]]) -> list[tuple[int, list[str]]]:
    return [(deadline, [_hex(id_) for id_ in ids]) for deadline, ids in buckets]


def _learned_sessions(sessions: Mapping[int, int]) -> Iterator[str]:
    """Sessions of a server that does not expire them, with their timeouts in ms."""
    yield f"Global Sessions({len(sessions)}):"
    for session_id in sorted(sessions):
        yield f"{_hex(session_id)}\t{sessions[session_id]}ms"


def _hex(number: int) -> str:
    return f"0x{number & _LONG_MASK:x}"


def _lines(lines: Iterable[str]) -> str:
    return "".join([f"{line}\n" for line in lines])
