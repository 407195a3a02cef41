"""One client connection as the core sees it: identity, queue of its requests, bytes to send, counters.

The shell owns the socket. It moves `out` to the transport whenever the link is in the `dirty` list it
was made with, and closes as `state` says. Nothing here knows bytes on the way in.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zkpy.core.pipeline.request import Request
    from zkpy_protocol.records import Id

CONNECTING: Final = 0
"""No session yet; the ConnectRequest may be on its way through the pipeline."""
OPEN: Final = 1
CLOSE_AFTER_FLUSH: Final = 2
"""What is in `out` is sent, then the socket is closed; nothing more is accepted."""
DROPPED: Final = 3
"""The socket is closed without sending anything more."""

NO_CXID: Final = -1
QUEUED_BYTES_MAX: Final = 1 << 20
"""Replies a link may have waiting before its next request is looked at: a few of the largest nodes, so that a
burst of small requests for large nodes cannot fill the memory."""


class ClientLink:
    """One client connection.

    Attributes:
        ids: identities of the connection; replaced, never changed, so that a request keeps those it came with.
        pending: requests that are not answered yet, in order; empty whenever reads may be served at once.
        out: encoded frames in the order of sending.
        is_read_only: whether its server has no quorum and serves reads only.
        read_only_byte: whether the client sent the byte (clients before 3.4 do not) and so gets one back.
        resume_reading: set when the session is there; the shell clears it and delivers what the client has
            sent behind its ConnectRequest.
        secure: whether the link came through the TLS port.
        x509_subject: subject of the verified client certificate, None without one.
        since_zxid: txns up to this one are of earlier connections of its session, wherever they were.
        sasl: the authenticator's own state of a SASL exchange; the core never looks at it.
        queued_bytes: size of `out`.
        shell: the shell's own handle for the link; the core never looks at it.
    """

    __slots__ = (
        "dirty",
        "established_ms",
        "host",
        "ids",
        "is_read_only",
        "last_cxid",
        "last_latency",
        "last_op",
        "last_response_ms",
        "last_zxid",
        "latency_total",
        "max_latency",
        "min_latency",
        "out",
        "pending",
        "port",
        "queued_bytes",
        "read_only_byte",
        "received",
        "replies",
        "resume_reading",
        "sasl",
        "secure",
        "sent",
        "session_id",
        "shell",
        "since_zxid",
        "state",
        "timeout_ms",
        "x509_subject",
    )

    def __init__(
        self, dirty: list[ClientLink], host: str, port: int, ids: tuple[Id, ...], secure: bool = False
    ) -> None:
        self.dirty = dirty
        self.host = host
        self.port = port
        self.ids = ids
        self.secure = secure
        self.x509_subject: str | None = None
        self.sasl: object | None = None
        self.state = CONNECTING
        self.session_id = 0
        self.timeout_ms = 0
        self.since_zxid = 0
        self.read_only_byte = True
        self.is_read_only = False
        self.resume_reading = False
        self.pending: deque[Request] = deque()
        self.out: list[bytes] = []
        self.queued_bytes = 0
        self.shell: object | None = None
        self.established_ms = 0
        self.received = 0
        self.sent = 0
        self.reset_stats()

    def reset_stats(self) -> None:
        """Forget latencies and the last operation (the ``crst`` command forgets the packet counts too)."""
        self.last_op = "NA"
        self.last_cxid = NO_CXID
        self.last_zxid = -1
        self.last_response_ms = 0
        self.last_latency = 0
        self.latency_total = 0
        self.min_latency = -1
        self.max_latency = 0
        self.replies = 0

    def send(self, frame: bytes) -> None:
        """Queue one encoded frame."""
        if not self.out:
            self.dirty.append(self)
        self.out.append(frame)
        self.queued_bytes += len(frame)

    def take(self) -> bytes:
        """Everything to send, in order; the shell's part of `out`."""
        data = b"".join(self.out)
        self.out.clear()
        self.queued_bytes = 0
        return data

    def close_after_flush(self) -> None:
        """Close once everything queued so far is sent."""
        if self.state < CLOSE_AFTER_FLUSH:
            self.state = CLOSE_AFTER_FLUSH
            if not self.out:
                self.dirty.append(self)

    def drop(self) -> None:
        """Close without another byte."""
        if self.state != DROPPED:
            self.state = DROPPED
            if not self.out:
                self.dirty.append(self)
            self.out.clear()
            self.queued_bytes = 0

    def note_reply(self, op: str, cxid: int, zxid: int, now_ms: int, latency_ms: int) -> None:
        """Account for one answered request."""
        self.last_op = op
        if cxid >= 0:
            self.last_cxid = cxid
        self.last_zxid = zxid
        self.last_response_ms = now_ms
        self.last_latency = latency_ms
        self.latency_total += latency_ms
        self.replies += 1
        if latency_ms > self.max_latency:  # noqa: PLR1730  a comparison is cheaper than a call, here for every write
            self.max_latency = latency_ms
        if latency_ms < self.min_latency or self.min_latency < 0:
            self.min_latency = latency_ms
