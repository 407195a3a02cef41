"""A request on its way through the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zkpy.core.link import ClientLink
    from zkpy.core.txn import Txn
    from zkpy_protocol.records import Id


class Request:
    """One request of a client, or of the server itself when `link` is None.

    Attributes:
        frame: header and record as received; b"" for what the server asks itself.
        ids: identities the connection had when the request was read.
        arrival_ms: monotonic clock at that moment.
        txn: what it became; None for a read, and for a write that was refused before it got a zxid.
        err: reply of such a refused write.
        waits: whether it is a write on its way: its reply comes with the commit of its txn.
        owner: the connection to the learner that forwarded it, None for a request of this server's own clients.
        refusal: error that its txn is to carry whatever it asks for, 0 for none.
    """

    __slots__ = (
        "arrival_ms",
        "err",
        "frame",
        "ids",
        "link",
        "op",
        "owner",
        "refusal",
        "session_id",
        "txn",
        "waits",
        "xid",
    )

    def __init__(
        self,
        link: ClientLink | None,
        session_id: int,
        xid: int,
        op: int,
        frame: bytes,
        ids: tuple[Id, ...],
        arrival_ms: int,
    ) -> None:
        self.link = link
        self.session_id = session_id
        self.xid = xid
        self.op = op
        self.frame = frame
        self.ids = ids
        self.arrival_ms = arrival_ms
        self.txn: Txn | None = None
        self.err = 0
        self.waits = False
        self.owner: object | None = None
        self.refusal = 0
