"""What is put off or refused when there is too much of it: new connections, requests in flight, large requests.

`ConnectionThrottle` decides on a ConnectRequest. `RequestThrottle` stands between a shell and its service: the shell offers
frames to it instead of to `Service.receive` and keeps what is not taken, which is the only queue there is. Without a setting that
asks for them neither object exists, so that nothing here costs a server that does not use it.

Neither knows sockets or a clock; time and randomness come in. Rules: client protocol §18.

Invariant: a link that is held back by this module stands in `_waiting` or has the turn, so `wake` reaches it.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from zkpy.core.link import CLOSE_AFTER_FLUSH
from zkpy.core.pipeline.request import Request
from zkpy.core.service import OP_NAMES
from zkpy_protocol.opcodes import OpCode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from zkpy.core.link import ClientLink
    from zkpy.core.service import Service

# Compat: what keeps sessions alive and ends them is never answered "throttled"; opcodes no client may send, CHECK among
# them, are answered as ever.
_THROTTLABLE = frozenset(OP_NAMES) - {
    OpCode.PING,
    OpCode.CREATE_SESSION,
    OpCode.CLOSE_SESSION,
    OpCode.CHECK,
}

_OP_END = 8

LARGE_BYTES_MAX = 100 << 20


class SessionWeights(NamedTuple):
    """Tokens that a connect costs, by what it asks for."""

    new: int
    renewed: int

    @classmethod
    def from_config(cls, new: int, renewed: int, local: int) -> SessionWeights:
        """As Apache corrects them: a weight below 1 is its default, none is below that of a local session.

        There are no local sessions here, but their weight is a lower bound for the others.
        """
        return cls(3 if new <= 0 else max(new, local), 2 if renewed <= 0 else max(renewed, local))


class ConnectionThrottleOptions:
    """Settings of the token bucket; names of zoo.cfg. Without weights every connect costs one token."""

    __slots__ = (
        "decrease_ratio",
        "drop_decrease",
        "drop_increase",
        "fill_count",
        "fill_time_ms",
        "freeze_time_ms",
        "tokens",
        "weights",
    )

    def __init__(
        self,
        *,
        tokens: int,
        fill_time_ms: int = 1,
        fill_count: int = 1,
        freeze_time_ms: int = -1,
        drop_increase: float = 0.02,
        drop_decrease: float = 0.002,
        decrease_ratio: float = 0.0,
        weights: SessionWeights | None = None,
    ) -> None:
        self.tokens = tokens
        self.fill_time_ms = fill_time_ms
        self.fill_count = fill_count
        self.freeze_time_ms = freeze_time_ms
        self.drop_increase = drop_increase
        self.drop_decrease = drop_decrease
        self.decrease_ratio = decrease_ratio
        self.weights = weights


class ConnectionThrottle:
    """A bucket of tokens that every connect takes from, and a chance to be refused before it is looked at (BlueThrottle).

    The chance is that of "BLUE" queue management: it rises while the bucket is empty and falls while it is full, so that
    under steady load whoever comes late within a refill is not always the one who is refused.

    Attributes:
        deficit: tokens that are missing in the bucket.
        drop_probability: 0.0 to 1.0.
    """

    __slots__ = (
        "_decrease_at",
        "_fill_count",
        "_fill_time_ms",
        "_filled_ms",
        "_options",
        "_random",
        "_revised_ms",
        "_tokens_max",
        "deficit",
        "drop_probability",
    )

    def __init__(self, options: ConnectionThrottleOptions, random: Random, mono_ms: int) -> None:
        # Settings are in connects; with weights they mean new sessions.
        scale = 1 if options.weights is None else options.weights.new
        self._options = options
        self._random = random
        self._tokens_max = options.tokens * scale
        self._fill_count = options.fill_count * scale
        self._fill_time_ms = max(1, options.fill_time_ms)
        self._decrease_at = int(self._tokens_max * options.decrease_ratio + 0.5)
        self._filled_ms = mono_ms
        self._revised_ms = mono_ms
        self.deficit = 0
        self.drop_probability = 0.0

    def admits(self, mono_ms: int, *, is_new: bool) -> bool:
        """Whether a connect may go on; its tokens are taken if so."""
        self._fill(mono_ms)
        if self._options.freeze_time_ms != -1:
            self._revise(mono_ms)
            if self._random.random() < self.drop_probability:
                return False
        weights = self._options.weights
        cost = 1 if weights is None else weights.new if is_new else weights.renewed
        if self._tokens_max - self.deficit < cost:
            return False
        self.deficit += cost
        return True

    def _fill(self, mono_ms: int) -> None:
        elapsed = mono_ms - self._filled_ms
        # Compat: strictly more than one interval must have passed, and the fraction of a token is lost.
        if elapsed > self._fill_time_ms:
            self.deficit = max(0, self.deficit - elapsed * self._fill_count // self._fill_time_ms)
            self._filled_ms = mono_ms

    def _revise(self, mono_ms: int) -> None:
        options = self._options
        if mono_ms - self._revised_ms <= options.freeze_time_ms:
            return
        self._revised_ms = mono_ms
        if self.deficit == self._tokens_max:
            self.drop_probability = min(1.0, self.drop_probability + options.drop_increase)
        elif self.deficit <= self._decrease_at:
            self.drop_probability = max(0.0, self.drop_probability - options.drop_decrease)


class RequestThrottleOptions:
    """Limits on requests; 0 switches a limit off.

    Attributes:
        requests_max: requests in flight before no more are taken.
        drops_stale: whether a stale request costs its client the connection; otherwise it is only counted.
        checks_latency: a request is stale that waited longer than the timeout of its session.
        checks_connection: a request is stale when its connection is gone.
        wait_max_ms: a request that waited longer is answered THROTTLEDOP.
        large_bytes: a frame with more bytes is large.
        large_bytes_max: bytes of large requests in flight.
    """

    __slots__ = (
        "checks_connection",
        "checks_latency",
        "drops_stale",
        "large_bytes",
        "large_bytes_max",
        "requests_max",
        "wait_max_ms",
    )

    def __init__(
        self,
        *,
        requests_max: int = 0,
        drops_stale: bool = True,
        checks_latency: bool = False,
        checks_connection: bool = True,
        wait_max_ms: int = 0,
        large_bytes: int = 0,
        large_bytes_max: int = LARGE_BYTES_MAX,
    ) -> None:
        self.requests_max = requests_max
        self.drops_stale = drops_stale
        self.checks_latency = checks_latency
        self.checks_connection = checks_connection
        self.wait_max_ms = wait_max_ms
        self.large_bytes = large_bytes
        self.large_bytes_max = large_bytes_max


class RequestThrottle:
    """Takes requests for a service, or leaves them with the shell for later (RequestThrottler).

    In flight is what a link has in `pending`. Reads that are served at once never are.

    Attributes:
        large_bytes_in_flight: their share of what is in flight.
    """

    __slots__ = ("_options", "_service", "_turn", "_waiting", "large_bytes_in_flight")

    def __init__(self, service: Service, options: RequestThrottleOptions) -> None:
        self._service = service
        self._options = options
        # In the order in which they came to wait; a dict because links leave from anywhere. Bounded by the connections.
        self._waiting: dict[ClientLink, None] = {}
        self._turn: ClientLink | None = None
        self.large_bytes_in_flight = 0

    def attach(self, link: ClientLink) -> None:
        """A new link, before its first request."""
        if self._options.large_bytes:
            link.pending = _MeasuredQueue(self, self._options.large_bytes)

    def receive(
        self,
        link: ClientLink,
        frames: Sequence[bytes],
        start: int,
        arrival_ms: int,
        wall_ms: int,
        mono_ms: int,
    ) -> int:
        """`Service.receive` for frames that arrived at `arrival_ms`: the same contract, with more reasons to stop early."""
        options = self._options
        service = self._service
        waited = mono_ms - arrival_ms
        is_stale = options.requests_max > 0 and options.checks_latency and waited > link.timeout_ms
        is_late = 0 < options.wait_max_ms < waited
        taken = start
        for frame in islice(frames, start, None):
            if is_stale and self._drops(frame):
                link.drop()
                break
            if self._is_held(link):
                break
            if not self._fits(frame):
                link.drop()
                break
            if is_late and _op(frame) in _THROTTLABLE:
                service.answer_throttled(link, frame, mono_ms)
            elif not service.receive(link, (frame,), 0, wall_ms, mono_ms):
                break
            taken += 1
            service.stats.throttle_wait.add(waited)
            if is_stale:
                self._count_stale(frame)
            if link.state >= CLOSE_AFTER_FLUSH:
                break
        if self._turn is link:
            self._turn = None
        return taken

    def must_wait(self, link: ClientLink) -> bool:
        """Whether a link whose requests were not all taken has to wait; the shell flushes it when its turn comes."""
        if self._service.must_wait(link):
            return True  # for its own replies, which bring it back here
        if not self._is_held(link):
            return False
        if link not in self._waiting:
            self._waiting[link] = None
            self._service.stats.throttle_wait_count += 1
        return True

    def wake(self) -> bool:
        """If there is room, let the link that waits longest be flushed next. False: there is nothing to do."""
        if not self._waiting or self._service.stats.outstanding >= self._options.requests_max:
            return False
        # One at a time: it may use up all the room, and then the next one must keep its place.
        self._turn = next(iter(self._waiting))
        del self._waiting[self._turn]
        self._turn.dirty.append(self._turn)
        return True

    def abandon(self, link: ClientLink, frames: Sequence[bytes], wall_ms: int, mono_ms: int) -> None:
        """The connection of `link` is gone, and `frames` still waited: drop them, or do them all the same."""
        self._waiting.pop(link, None)
        if self._turn is link:
            self._turn = None
        options = self._options
        if options.requests_max <= 0:
            return
        for frame in frames:
            if options.checks_connection:
                if self._drops(frame):
                    return
                self._count_stale(frame)
            self._service.receive(link, (frame,), 0, wall_ms, mono_ms)

    def _is_held(self, link: ClientLink) -> bool:
        limit = self._options.requests_max
        return limit > 0 and (
            self._service.stats.outstanding >= limit or (bool(self._waiting) and self._turn is not link)
        )

    def _drops(self, frame: bytes) -> bool:
        """Whether a stale request goes and, to keep their order, everything of its link behind it."""
        if not self._options.drops_stale or _op(frame) == OpCode.CLOSE_SESSION:
            return False  # a close cleans up, which is welcome at any time
        self._service.stats.stale_requests_dropped += 1
        return True

    def _count_stale(self, frame: bytes) -> None:
        self._service.stats.stale_requests += _op(frame) != OpCode.CLOSE_SESSION

    def _fits(self, frame: bytes) -> bool:
        options = self._options
        size = len(frame)
        if not 0 < options.large_bytes < size or self.large_bytes_in_flight + size <= options.large_bytes_max:
            return True
        self._service.stats.large_requests_rejected += 1
        return False


class _MeasuredQueue(deque[Request]):
    """The requests of a link that are in flight; tells the throttle how many bytes of them are large."""

    __slots__ = ("_large_bytes", "_throttle")

    def __init__(self, throttle: RequestThrottle, large_bytes: int) -> None:
        super().__init__()
        self._throttle = throttle
        self._large_bytes = large_bytes

    def append(self, request: Request) -> None:
        self._throttle.large_bytes_in_flight += self._measure(request)
        super().append(request)

    def popleft(self) -> Request:
        request = super().popleft()
        self._throttle.large_bytes_in_flight -= self._measure(request)
        return request

    def clear(self) -> None:
        self._throttle.large_bytes_in_flight -= sum(map(self._measure, self))
        super().clear()

    def _measure(self, request: Request) -> int:
        size = len(request.frame)
        return size if size > self._large_bytes else 0


def _op(frame: bytes) -> int:
    """The opcode of a request; one that does not exist when the frame is too short to have one."""
    return (
        int.from_bytes(frame[4:_OP_END], "big", signed=True) if len(frame) >= _OP_END else OpCode.NOTIFICATION
    )
