"""Which sessions exist, and when they expire.

Deadlines are rounded up to ticks, so that all sessions of a bucket expire together and a session lives
between its timeout and one tick more after its last sign of life. Time is monotonic milliseconds and comes
in with every call; a gap in which the server itself did not run is forgiven.
"""

from __future__ import annotations

from zkpy_protocol.opcodes import ErrorCode

NOBODY = object()
"""Owner of a session that nobody has asked for since this leader began."""


class Session:
    """A session this server tracks.

    Attributes:
        owner: link of the learner that serves it; None for this server itself, or `NOBODY` until somebody asks.
        timeout_ms: as negotiated when it was created or re-attached; what the next touch adds.
        closing: a closeSession txn is on its way; nothing but its commit happens to the session any more.
        deadline_ms: bucket in which it expires, on the tracker's own clock.
    """

    __slots__ = ("closing", "deadline_ms", "id", "owner", "timeout_ms")

    def __init__(self, id_: int, timeout_ms: int) -> None:
        self.id = id_
        self.timeout_ms = timeout_ms
        self.closing = False
        self.deadline_ms = 0
        self.owner: object | None = NOBODY


class SessionTable:
    """The committed sessions of a server, and the ids of its new ones; enough for a server that serves nobody."""

    __slots__ = ("_next_id", "committed")

    def __init__(self, committed: dict[int, int], first_id: int) -> None:
        """`committed` maps the sessions whose createSession is applied to their timeouts: what snapshots hold."""
        self.committed = committed
        self._next_id = first_id

    def new_id(self) -> int:
        """An id that no session of this server had before; also none of those that live, if the wall clock was set back."""
        id_ = self._next_id
        while id_ in self.committed:
            id_ += 1
        self._next_id = id_ + 1
        return id_

    def touch(self, id_: int, timeout_ms: int, now_ms: int) -> bool:  # noqa: ARG002
        """A sign of life. False when the session is unknown or closing: its request is dropped."""
        return False

    def commit(self, id_: int, timeout_ms: int) -> None:
        """The createSession txn is applied."""
        self.committed[id_] = timeout_ms

    def remove(self, id_: int) -> None:
        """The closeSession txn is applied."""
        self.committed.pop(id_, None)


class LearnerSessions(SessionTable):
    """What a learner knows of sessions: it only reports signs of life, the leader expires them."""

    __slots__ = ("_closing", "_confirmed", "_only_committed", "_touched")

    def __init__(self, committed: dict[int, int], first_id: int, *, only_committed: bool) -> None:
        """`only_committed`: sessions that are not committed do not live, as others are local."""
        super().__init__(committed, first_id)
        self._only_committed = only_committed
        # Known to the leader, not committed here: they became global at another server a moment ago.
        self._confirmed: set[int] = set()
        # Their clients have asked for the end.
        self._closing: set[int] = set()
        self._touched: dict[int, int] = {}

    def touch(self, id_: int, timeout_ms: int, now_ms: int) -> bool:  # noqa: ARG002
        """A sign of life, for the next PING."""
        if self._only_committed and id_ not in self.committed and id_ not in self._confirmed:
            return False
        if id_ in self._closing:
            return False
        self._touched[id_] = timeout_ms
        return True

    def set_closing(self, id_: int) -> None:
        """A closeSession is on its way: what comes behind it is dropped."""
        self._closing.add(id_)

    def remove(self, id_: int) -> None:
        """The closeSession txn is applied."""
        super().remove(id_)
        self._closing.discard(id_)

    def confirm(self, id_: int) -> None:
        """The leader has said that the session lives. Without this its requests would be dropped until it is committed here."""
        if id_ not in self.committed:
            self._confirmed.add(id_)

    def commit(self, id_: int, timeout_ms: int) -> None:
        """The createSession txn is applied. Every learner reports it once, whoever serves it (quorum protocol §10)."""
        super().commit(id_, timeout_ms)
        self._confirmed.discard(id_)
        self._touched[id_] = timeout_ms

    def take_touched(self) -> list[tuple[int, int]]:
        """Sessions and timeouts since the last call."""
        touched = list(self._touched.items())
        self._touched.clear()
        return touched


class SessionTracker(SessionTable):
    """All sessions of a leader or standalone server.

    `committed` maps the sessions whose createSession is applied to their persisted timeouts: what
    snapshots hold. `sessions` also has those still in flight.
    """

    __slots__ = ("_buckets", "_last_tick_ms", "_tick_ms", "forgiven_ms", "sessions")

    def __init__(self, tick_ms: int, first_id: int, committed: dict[int, int], now_ms: int) -> None:
        """Every restored session gets its full timeout from now on."""
        super().__init__(committed, first_id)
        self._tick_ms = tick_ms
        self._last_tick_ms = now_ms
        self._buckets: dict[int, dict[int, None]] = {}
        self.forgiven_ms = 0
        self.sessions: dict[int, Session] = {}
        for id_ in sorted(committed):
            self.track(id_, committed[id_], now_ms)

    def track(self, id_: int, timeout_ms: int, now_ms: int) -> None:
        """A session begins, or is known again; it may expire from now on."""
        session = self.sessions.get(id_)
        if session is None:
            session = self.sessions[id_] = Session(id_, timeout_ms)
        self._move(session, now_ms + timeout_ms)

    def touch(self, id_: int, timeout_ms: int, now_ms: int) -> bool:
        """A sign of life. False when the session is unknown or closing: its request is dropped."""
        session = self.sessions.get(id_)
        if session is None or session.closing:
            return False
        deadline = self._bucket(now_ms + timeout_ms)
        if deadline != session.deadline_ms:
            self._move(session, now_ms + timeout_ms)
        return True

    def is_live(self, id_: int) -> bool:
        """Whether requests of the session are served."""
        session = self.sessions.get(id_)
        return session is not None and not session.closing

    def set_owner(self, id_: int, owner: object | None) -> None:
        """The session is served at `owner` from now on."""
        self.sessions[id_].owner = owner

    def check_owner(self, id_: int, owner: object | None) -> int:
        """Whether `owner` may ask for something in the session's name: 0, or the error it gets (checkSession)."""
        session = self.sessions.get(id_)
        if session is None or session.closing:
            return ErrorCode.SESSIONEXPIRED
        if session.owner is NOBODY:
            session.owner = owner
        return 0 if session.owner is owner else ErrorCode.SESSIONMOVED

    def tracked(self) -> int:
        """How many sessions there are, those still in flight included."""
        return len(self.sessions)

    def set_closing(self, id_: int) -> None:
        """A closeSession txn is prepared."""
        session = self.sessions.get(id_)
        if session is not None:
            session.closing = True

    def reopen(self, id_: int, now_ms: int) -> None:
        """The closeSession txn of a session will not happen after all; it gets its timeout once more."""
        session = self.sessions.get(id_)
        if session is not None:
            session.closing = False
            self._move(session, now_ms + session.timeout_ms)

    def remove(self, id_: int) -> None:
        """The closeSession txn is applied."""
        super().remove(id_)
        session = self.sessions.pop(id_, None)
        if session is not None:
            bucket = self._buckets.get(session.deadline_ms)
            if bucket is not None:
                bucket.pop(id_, None)

    def expired(self, now_ms: int) -> list[int]:
        """Sessions whose time is over, in order of their deadlines; they are closing from now on.

        Call about once per tick. Time beyond two ticks since the last call is not counted: the clients could
        not be heard in it.
        """
        gap = now_ms - self._last_tick_ms
        self._last_tick_ms = now_ms
        if gap > 2 * self._tick_ms:
            self.forgiven_ms += gap - self._tick_ms
        clock = now_ms - self.forgiven_ms
        over = []
        for deadline in sorted(d for d in self._buckets if d <= clock):
            for id_ in self._buckets.pop(deadline):
                session = self.sessions[id_]
                if not session.closing:
                    session.closing = True
                    over.append(id_)
        return over

    def buckets(self) -> list[tuple[int, list[int]]]:
        """Deadlines (on the clock that `expired` is called with) and the sessions due then."""
        return [(d + self.forgiven_ms, list(self._buckets[d])) for d in sorted(self._buckets)]

    def _bucket(self, deadline_ms: int) -> int:
        return ((deadline_ms - self.forgiven_ms) // self._tick_ms + 1) * self._tick_ms

    def _move(self, session: Session, deadline_ms: int) -> None:
        old = self._buckets.get(session.deadline_ms)
        if old is not None:
            old.pop(session.id, None)
            if not old:
                del self._buckets[session.deadline_ms]
        session.deadline_ms = self._bucket(deadline_ms)
        self._buckets.setdefault(session.deadline_ms, {})[session.id] = None
