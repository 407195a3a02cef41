"""Sessions that only their own server knows (``localSessionsEnabled``): no txn opens or closes them.

Every new session is local. The first ephemeral node it wants makes it global: a createSession with the same id goes
before the create (quorum protocol §10). Rules of Apache's UpgradeableSessionTracker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.core.acl import AclReader
from zkpy.core.errors import KeeperError
from zkpy.core.pipeline.multi import read_write_ops
from zkpy.core.pipeline.reads import HEADER_BYTES
from zkpy.core.session_tracker import SessionTracker
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import CreateFlags, OpCode
from zkpy_protocol.records import decode_create_request

if TYPE_CHECKING:
    from zkpy.core.pipeline.request import Request

_EPHEMERAL_FLAGS = (CreateFlags.EPHEMERAL, CreateFlags.EPHEMERAL_SEQUENTIAL)
_PLAIN_CREATES = (OpCode.CREATE, OpCode.CREATE2)


class LocalSessions:
    """The local sessions of one server.

    Attributes:
        may_upgrade: whether a session that wants an ephemeral node becomes global; otherwise it is refused.
    """

    __slots__ = ("_tracker", "_upgrading", "may_upgrade")

    def __init__(self, tick_ms: int, now_ms: int, *, may_upgrade: bool) -> None:
        self._tracker = SessionTracker(tick_ms, 0, {}, now_ms)
        self._upgrading: dict[int, int] = {}
        self.may_upgrade = may_upgrade

    def __len__(self) -> int:
        return self._tracker.tracked()

    def __contains__(self, id_: int) -> bool:
        return id_ in self._tracker.sessions

    def open(self, id_: int, timeout_ms: int, now_ms: int) -> None:
        """A new client has this session."""
        self._tracker.track(id_, timeout_ms, now_ms)

    def touch(self, id_: int, timeout_ms: int, now_ms: int) -> bool:
        """A sign of life. False for a session that is not local, not even on its way to be global."""
        return self._tracker.touch(id_, timeout_ms, now_ms) or id_ in self._upgrading

    def upgrade(self, id_: int) -> int:
        """The session is about to become global: its timeout in ms. It expires here no more."""
        timeout_ms = self._tracker.sessions[id_].timeout_ms
        self._tracker.remove(id_)
        self._upgrading[id_] = timeout_ms
        return timeout_ms

    def close(self, id_: int) -> None:
        """The session is closed by its client, or is global now."""
        self._tracker.remove(id_)
        self._upgrading.pop(id_, None)

    def expired(self, now_ms: int) -> list[int]:
        """Sessions whose time is over; they are gone."""
        over = self._tracker.expired(now_ms)
        for id_ in over:
            self._tracker.remove(id_)
        return over

    def buckets(self) -> list[tuple[int, list[int]]]:
        """Deadlines and the sessions due then."""
        return self._tracker.buckets()


def wants_ephemeral(request: Request) -> bool:
    """Whether a request creates an ephemeral node. One that cannot be decoded gets its error where it is prepared."""
    try:
        if request.op in _PLAIN_CREATES:
            create, _ = decode_create_request(request.frame, HEADER_BYTES)
            return create.flags in _EPHEMERAL_FLAGS
        if request.op == OpCode.MULTI:
            return any(
                op.type in _PLAIN_CREATES and op.number in _EPHEMERAL_FLAGS
                for op in read_write_ops(request.frame, HEADER_BYTES, AclReader())
            )
    except (DecodeError, KeeperError):
        return False
    return False
