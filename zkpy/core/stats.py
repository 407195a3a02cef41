"""What the core counts, as plain integers; names, units and formats of the outside world are added in ops.

Values are ms unless said otherwise. Nothing here reads a clock.
"""

from __future__ import annotations

from typing import Final

from zkpy_protocol.opcodes import EventType

_SAMPLES_MAX: Final = 1024  # enough for a p999 that is more than the maximum


class Summary:
    """Count, sum, minimum and maximum of a series of integers."""

    __slots__ = ("count", "max", "min", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0
        self.min = 0
        self.max = 0

    def add(self, value: int, times: int = 1) -> None:
        """Take in `value`, seen `times` times."""
        if not self.count:
            self.min = self.max = value
        elif value < self.min:
            self.min = value
        elif value > self.max:
            self.max = value
        self.count += times
        self.sum += value * times

    def reset(self) -> None:
        """Forget everything (the ``srst`` command)."""
        self.count = self.sum = self.min = self.max = 0


class Percentiles(Summary):
    """A summary that also remembers recent values for percentiles."""

    __slots__ = ("_at", "_samples")

    def __init__(self) -> None:
        super().__init__()
        self._samples: list[int] = []
        self._at = 0

    def add(self, value: int, times: int = 1) -> None:
        """Take in `value`; values seen together count as one sample."""
        # Summary.add once more, in place: this is called for every write.
        if not self.count:
            self.min = self.max = value
        elif value < self.min:
            self.min = value
        elif value > self.max:
            self.max = value
        self.count += times
        self.sum += value * times
        samples = self._samples
        if len(samples) < _SAMPLES_MAX:
            samples.append(value)
        else:
            samples[self._at] = value
            self._at = (self._at + 1) % _SAMPLES_MAX

    def reset(self) -> None:
        """Forget everything (the ``srst`` command)."""
        super().reset()
        self._samples.clear()
        self._at = 0

    def absorb(self, other: Percentiles) -> None:
        """Take in all that `other` holds, as if it had come here."""
        if not other.count:
            return
        self.min = min(self.min, other.min) if self.count else other.min
        self.max = max(self.max, other.max) if self.count else other.max
        self.count += other.count
        self.sum += other.sum
        self._samples = [*self._samples, *other._samples][-_SAMPLES_MAX:]
        self._at = 0

    def percentile(self, fraction: float) -> int:
        """The value below which `fraction` of the recent ones lie; 0 without any."""
        if not self._samples:
            return 0
        ordered = sorted(self._samples)
        return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


class CoreStats:
    """Counters of one server's core.

    Attributes:
        read_latency, update_latency: arrival to reply, since the present role began.
        past_read_latency, past_update_latency: the same, of earlier roles.
        propagation_latency: time in the header of a txn until it is applied, the txns of one batch together.
        watchers_told: watchers per trigger, by event type.
        throttle_wait: arrival of a request until the request throttler takes it.
        token_deficit: tokens missing in the bucket of connects, as each admitted one leaves it.
    """

    __slots__ = (
        "auth_failed",
        "commits",
        "connection_drops",
        "connection_requests",
        "connection_revalidations",
        "connections_rejected",
        "large_requests_rejected",
        "last_response_bytes",
        "max_response_bytes",
        "min_response_bytes",
        "outstanding",
        "past_read_latency",
        "past_update_latency",
        "prepared",
        "propagation_latency",
        "proposals",
        "quota_exceeded",
        "read_latency",
        "read_per_namespace",
        "received",
        "response_bytes",
        "sent",
        "sessionless_expired",
        "sessions_expired",
        "stale_replies",
        "stale_requests",
        "stale_requests_dropped",
        "throttle_wait",
        "throttle_wait_count",
        "throttled_ops",
        "token_deficit",
        "unsuccessful_handshakes",
        "update_latency",
        "watch_bytes",
        "watchers_told",
        "write_per_namespace",
    )

    def __init__(self) -> None:
        self.read_latency = Percentiles()
        self.update_latency = Percentiles()
        self.propagation_latency = Percentiles()
        self.past_read_latency = Percentiles()
        self.past_update_latency = Percentiles()
        self.throttle_wait = Percentiles()
        self.token_deficit = Summary()
        self.watchers_told = {
            EventType.NODE_CREATED: Summary(),
            EventType.NODE_DELETED: Summary(),
            EventType.NODE_DATA_CHANGED: Summary(),
            EventType.NODE_CHILDREN_CHANGED: Summary(),
        }
        self.quota_exceeded: dict[str, int] = {}
        self.read_per_namespace: dict[str, Summary] = {}
        self.write_per_namespace: dict[str, Summary] = {}
        self.outstanding = 0
        self.auth_failed = 0
        self.reset_counters()

    def reset_counters(self) -> None:
        """What the ``srst`` command sets back: everything but what is outstanding and failed authentications."""
        for summary in (
            self.read_latency,
            self.update_latency,
            self.propagation_latency,
            self.past_read_latency,
            self.past_update_latency,
            self.throttle_wait,
            self.token_deficit,
            *self.watchers_told.values(),
        ):
            summary.reset()
        for namespaces in (self.read_per_namespace, self.write_per_namespace):
            for summary in namespaces.values():
                summary.reset()
        self.quota_exceeded = dict.fromkeys(self.quota_exceeded, 0)
        self.received = 0
        self.sent = 0
        self.commits = 0
        self.proposals = 0
        self.prepared = 0
        self.connection_drops = 0
        self.connection_requests = 0
        self.connection_revalidations = 0
        self.connections_rejected = 0
        self.large_requests_rejected = 0
        self.response_bytes = 0
        self.last_response_bytes = -1
        self.min_response_bytes = -1
        self.max_response_bytes = -1
        self.sessionless_expired = 0
        self.sessions_expired = 0
        self.stale_replies = 0
        self.stale_requests = 0
        self.stale_requests_dropped = 0
        self.throttle_wait_count = 0
        self.throttled_ops = 0
        self.unsuccessful_handshakes = 0
        self.watch_bytes = 0

    def begin_role(self) -> None:
        """Another role serves: its figures of latency, packets and sizes begin anew, the counters of the process go on."""
        self.past_read_latency.absorb(self.read_latency)
        self.past_update_latency.absorb(self.update_latency)
        self.read_latency.reset()
        self.update_latency.reset()
        self.received = 0
        self.sent = 0
        self.auth_failed = 0
        self.last_response_bytes = -1
        self.min_response_bytes = -1
        self.max_response_bytes = -1

    @property
    def latency(self) -> Summary:
        """Requests of any kind, arrival to reply, since the present role began."""
        reads, updates = self.read_latency, self.update_latency
        if not (reads.count and updates.count):
            return updates if updates.count else reads
        merged = Summary()
        merged.count = reads.count + updates.count
        merged.sum = reads.sum + updates.sum
        merged.min = min(reads.min, updates.min)
        merged.max = max(reads.max, updates.max)
        return merged

    def note_read(self, path: str, size: int) -> None:
        """A node was read: `size` bytes of data and Stat, to which the length of its path is added."""
        _note_access(self.read_per_namespace, path, size)

    def note_write(self, path: str, size: int) -> None:
        """A node was written with `size` bytes of data, to which the length of its path is added."""
        _note_access(self.write_per_namespace, path, size)

    def note_response(self, size: int) -> None:
        """One reply of `size` bytes, without its length prefix."""
        self.response_bytes += size
        self.last_response_bytes = size
        if size > self.max_response_bytes:  # noqa: PLR1730  a comparison is cheaper than a call, here for every reply
            self.max_response_bytes = size
        if size < self.min_response_bytes or self.min_response_bytes < 0:
            self.min_response_bytes = size


def _note_access(summaries: dict[str, Summary], path: str, size: int) -> None:
    """Count for the first component of `path`. The root is not counted."""
    size += len(path)
    end = path.find("/", 1)
    namespace = path[1:end] if end > 0 else path[1:]
    summary = summaries.get(namespace)
    if summary is None:
        if namespace:
            summaries[namespace] = summary = Summary()
            summary.add(size)
        return
    # Summary.add once more, in place: this is called for every request.
    if size < summary.min:
        summary.min = size
    elif size > summary.max:
        summary.max = size
    summary.count += 1
    summary.sum += size
