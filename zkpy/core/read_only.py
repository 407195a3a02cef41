"""The service of a server that has lost its quorum and may serve reads from what it has (``readonlymode.enabled``).

It takes only clients that ask for it, and only with local sessions: a global one cannot be opened, closed or moved
without a leader (client protocol §17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.core.passwords import first_session_id
from zkpy.core.service import Service
from zkpy.core.session_tracker import SessionTable
from zkpy_protocol.opcodes import ErrorCode, OpCode

if TYPE_CHECKING:
    from zkpy.core.link import ClientLink
    from zkpy.core.pipeline.request import Request
    from zkpy.core.service import ServiceParts
    from zkpy.core.zab.database import Database
    from zkpy_protocol.records import ConnectRequest


class ReadOnlyService(Service):
    """Reads, watches and pings of clients that are content with old data."""

    __slots__ = ()

    def __init__(self, parts: ServiceParts, database: Database, wall_ms: int, mono_ms: int) -> None:
        first_id = first_session_id(parts.options.server_id, wall_ms)
        super().__init__(parts, database, SessionTable(database.sessions, first_id), mono_ms)
        self.is_read_only = True
        self.mode = "read-only"
        self._served_here -= {OpCode.SYNC}
        self._sent_on |= {OpCode.SYNC}

    def connect(self, link: ClientLink, request: ConnectRequest, wall_ms: int, mono_ms: int) -> None:
        """Only for clients that say they may be served this way; others are closed without a byte."""
        if request.read_only:
            super().connect(link, request, wall_ms, mono_ms)
        else:
            link.drop()

    def _open(self, link: ClientLink, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        link.drop()

    def _revalidate(self, link: ClientLink, mono_ms: int) -> None:  # noqa: ARG002
        """Only the leader knows of a global session. A local one that is not here is nowhere."""
        if self.local is None or link.session_id in self.sessions.committed:
            link.drop()
        else:
            self._finish_connect(link, valid=False)

    def _submit(self, request: Request, wall_ms: int) -> None:  # noqa: ARG002
        if request.op == OpCode.CLOSE_SESSION and self._handled_locally(request, request.arrival_ms):
            return
        assert request.link is not None
        request.err = ErrorCode.NOTREADONLY
        self._refuse(request.link, request)

    def tick(self, wall_ms: int, mono_ms: int) -> None:  # noqa: ARG002
        """Expire local sessions."""
        self._expire_local(mono_ms)
