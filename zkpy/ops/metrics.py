"""Every metric Apache 3.9.5 has, by its name and kind, with the value this server has for it.

Owns names and kinds; the numbers live where they are counted (`zkpy.core.stats`, the driver, the data tree). A metric of a
stage that does not exist here is in `_ABSENT` and reads as a counter that Java never touched: 0. Knows no output format
but ``mntr``'s.

Compat: average, minimum, maximum, count and sum of one metric are separate keys (``avg_``, ``min_``, ``max_``, ``cnt_``,
``sum_`` before the name), percentiles too (``p50_`` ...); in a set the key of the member stands between the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zkpy.core.quotas import MalformedQuotaError, QuotaTrack, limits_path, stats_path
from zkpy.core.stats import Percentiles, Summary
from zkpy_protocol.opcodes import EventType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zkpy.core.data_tree import DataTree
    from zkpy.ops.report import ServerView

Value = int | float | str


_PERCENTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999))
_AVERAGE_SCALE = 10_000  # four decimals

_PEER_STATES = {"leader": "leading", "follower": "following", "observer": "observing"}

_GAUGE = "gauge"
_COUNTER = "counter"
_SUMMARY = "summary"
_ADVANCED = "advanced summary"

_ABSENT: Mapping[str, tuple[str, ...]] = {
    _GAUGE: (
        # only the Netty factory counts TLS clients by whether they showed a certificate
        "non_mtls_local_conn_count",
        "non_mtls_remote_conn_count",
        # handshakes are asyncio's business
        "outstanding_tls_handshake",
    ),
    _COUNTER: (
        # off in Apache as well, unless it is asked for
        "skip_learner_request_to_next_processor_count",
        "requests_not_forwarded_to_commit_processor",
        # admin server
        "insecure_admin_count",
        "snapshot_error_count",
        "snapshot_rate_limited_count",
        "restore_error_count",
        "restore_rate_limited_count",
        # watches of a closed connection are removed at once
        "add_dead_watcher_stall_time",
        "dead_watchers_queued",
        "dead_watchers_cleared",
        # replies are not cached, only the Stat in them is
        "response_packet_cache_hits",
        "response_packet_cache_misses",
        "response_packet_get_children_cache_hits",
        "response_packet_get_children_cache_misses",
        # Netty
        "tls_handshake_exceeded",
        "cnxn_closed_without_zk_server_running",
        # such an error ends the process
        "unrecoverable_error_count",
    ),
    _SUMMARY: (
        # what is forwarded does not wait in a queue, and sockets are closed in passing
        "learner_request_processor_queue_size",
        "socket_closing_time",
        # commit processor
        "requests_in_session_queue",
        "pending_session_queue_size",
        "reads_after_write_in_session_queue",
        "reads_issued_from_session_queue",
        "session_queues_drained",
        "time_waiting_empty_pool_in_commit_processor_read_ms",
        "write_batch_time_in_commit_processor",
        "concurrent_request_processing_in_commit_processor",
        "read_commit_proc_req_queued",
        "write_commit_proc_req_queued",
        "commit_commit_proc_req_queued",
        "read_commit_proc_issued",
        "write_commit_proc_issued",
        "commit_process_time",
        # stages are plain calls here: no queues between them, and no clock is read for less than a millisecond
        "prep_processor_queue_size",
        "prep_process_time",
        "proposal_process_time",
        "sync_process_time",
        # parts of dbinittime
        "startup_snap_load_time",
        "startup_txns_load_time",
        # admin server
        "restore_time",
        # Netty
        "netty_queued_buffer_capacity",
    ),
    _ADVANCED: (
        # the log confirms a batch, and no clock is read for each of its txns
        "proposal_ack_creation_latency",
        # followers that serve observers
        "om_proposal_process_time_ms",
        "om_commit_process_time_ms",
        # commit processor
        "read_commitproc_time_ms",
        "write_commitproc_time_ms",
        "local_write_committed_time_ms",
        "server_write_committed_time_ms",
        "read_final_proc_time_ms",
        "write_final_proc_time_ms",
        # stages are plain calls here
        "prep_processor_queue_time_ms",
        "close_session_prep_time",
        "sync_processor_queue_time_ms",
        "sync_processor_queue_and_flush_time_ms",
        "dead_watchers_cleaner_latency",
        # off in Apache as well, unless jvm.pause.monitor is set
        "jvm_pause_time_ms",
    ),
}


def monitor_values(view: ServerView) -> Iterator[tuple[str, Value]]:
    """All metrics as ``mntr`` names them, in an order that does not change."""
    yield "version", view.version
    yield "server_state", view.service.mode
    yield from _role_values(view)
    yield from gauges(view).items()
    for name, members in (gauge_sets(view.service.tree) | counter_sets(view)).items():
        for key in sorted(members):
            yield f"{key}_{name}", members[key]
    yield from counters(view).items()
    for name, summary in summaries(view).items():
        yield from _summary_values(name, summary)
    for name, percentiles in advanced_summaries(view).items():
        yield from _percentile_values(name, percentiles)
    for name, set_ in summary_sets(view).items():
        for key in sorted(set_):
            yield from _summary_values(f"{key}_{name}", set_[key])
    for name, advanced in advanced_summary_sets(view).items():
        for key in sorted(advanced):
            yield from _percentile_values(f"{key}_{name}", advanced[key])


def _summary_values(name: str, summary: Summary) -> Iterator[tuple[str, Value]]:
    yield f"avg_{name}", average(summary)
    yield f"min_{name}", summary.min
    yield f"max_{name}", summary.max
    yield f"cnt_{name}", summary.count
    yield f"sum_{name}", summary.sum


def _percentile_values(name: str, percentiles: Percentiles) -> Iterator[tuple[str, Value]]:
    yield from _summary_values(name, percentiles)
    for label, fraction in _PERCENTILES:
        yield f"{label}_{name}", percentiles.percentile(fraction)


def _role_values(view: ServerView) -> Iterator[tuple[str, Value]]:
    """What is no number. A member of an ensemble that answers at all is in broadcast."""
    peer_state = _PEER_STATES.get(view.service.mode)
    if peer_state is not None:
        yield "peer_state", f"{peer_state} - broadcast"
    if view.service.mode == "observer" and view.learner is not None:
        yield "observer_master_id", view.learner.master_id


# -- by kind


def gauges(view: ServerView) -> dict[str, Value]:
    """What is so at this moment; ``srst`` leaves it alone, except for packets, latencies and response sizes."""
    service = view.service
    stats = service.stats
    tree = service.tree
    values: dict[str, Value] = {
        "avg_latency": average(stats.latency),
        "min_latency": stats.latency.min,
        "max_latency": stats.latency.max,
        "packets_received": stats.received,
        "packets_sent": stats.sent,
        "num_alive_connections": len(view.connections()),
        "outstanding_requests": stats.outstanding,
        "uptime": view.driver.mono_ms() - view.started_ms,
        "znode_count": len(tree.nodes),
        "watch_count": len(service.watches),
        "ephemerals_count": tree.ephemeral_count,
        "approximate_data_size": tree.data_size,
        "global_sessions": len(service.sessions.committed),
        "local_sessions": 0 if service.local is None else len(service.local),
        "open_file_descriptor_count": _open_files(),
        "max_file_descriptor_count": _open_files_max(),
        "last_client_response_size": stats.last_response_bytes,
        "min_client_response_size": stats.min_response_bytes,
        "max_client_response_size": stats.max_response_bytes,
        "auth_failed_count": stats.auth_failed,
        "connection_drop_probability": 0.0
        if service.connection_throttle is None
        else service.connection_throttle.drop_probability,
    }
    return values | quorum_gauges(view) | dict.fromkeys(_ABSENT[_GAUGE], 0)


def quorum_gauges(view: ServerView) -> dict[str, Value]:
    """What only a member of an ensemble has, each role its own; none while only reads are served."""
    peer = view.peer
    if peer is None or view.service.is_read_only:
        return {}
    voters = peer.state.view.committed.voters
    values: dict[str, Value] = {"quorum_size": len(voters)}
    leader = view.leader
    if leader is None:
        master = None if view.learner is None else view.learner.observer_master
        return values if master is None else values | {"synced_observers": master.observer_count}
    sizes = view.quorum_stats.proposal_sizes
    followers = leader.follower_ids
    return values | {
        "learners": leader.learner_count,
        "synced_followers": len(followers),
        "synced_non_voting_followers": sum(1 for server_id in followers if server_id not in voters),
        "synced_observers": leader.observer_count,
        "pending_syncs": leader.pending_sync_count,
        "leader_uptime": leader.uptime_ms,
        "last_proposal_size": sizes.last,
        "max_proposal_size": sizes.max,
        "min_proposal_size": sizes.min,
    }


def gauge_sets(tree: DataTree) -> dict[str, dict[str, int]]:
    """Quotas, summed over each top-level node; a hard limit outranks a soft one. Unreadable records count nothing."""
    count_limit: dict[str, int] = {}
    bytes_limit: dict[str, int] = {}
    count_usage: dict[str, int] = {}
    bytes_usage: dict[str, int] = {}
    for path in tree.quotas:
        namespace = path[1:].partition("/")[0]
        limits = _track(tree, limits_path(path))
        if limits is not None:
            _add(count_limit, namespace, _limit(limits, "countHardLimit", "count"))
            _add(bytes_limit, namespace, _limit(limits, "byteHardLimit", "bytes"))
        usage = _track(tree, stats_path(path))
        if usage is not None:
            _add(count_usage, namespace, usage.get("count"))
            _add(bytes_usage, namespace, usage.get("bytes"))
    return {
        "quota_count_limit_per_namespace": count_limit,
        "quota_bytes_limit_per_namespace": bytes_limit,
        "quota_count_usage_per_namespace": count_usage,
        "quota_bytes_usage_per_namespace": bytes_usage,
    }


def counter_sets(view: ServerView) -> dict[str, dict[str, int]]:
    """Counters of one name for several keys."""
    return {"quota_exceeded_error_per_namespace": view.service.stats.quota_exceeded}


def counters(view: ServerView) -> dict[str, int]:
    """What only grows until ``srst``."""
    service = view.service
    stats = service.stats
    quorum = view.quorum_stats
    is_member = view.peer is not None
    counted = {
        "bytes_received_count": view.driver.bytes_received,
        # Compat: a standalone server counts neither.
        "commit_count": quorum.commits,
        "proposal_count": stats.proposals if is_member else 0,
        "request_commit_queued": stats.commits + quorum.syncs if is_member else 0,
        "learner_proposal_received_count": quorum.proposals_received,
        "learner_commit_received_count": quorum.commits_received,
        "revalidate_count": quorum.revalidations,
        "diff_count": quorum.diffs,
        "snap_count": quorum.snaps,
        "looking_count": quorum.looking,
        "quit_leading_due_to_disloyal_voter": quorum.disloyal_voter_exits,
        "connection_drop_count": stats.connection_drops,
        "connection_rejected": stats.connections_rejected,
        "connection_request_count": stats.connection_requests,
        "connection_revalidate_count": stats.connection_revalidations,
        "ensemble_auth_success": view.ensemble_auth.success_count,
        "ensemble_auth_fail": view.ensemble_auth.fail_count,
        "ensemble_auth_skip": view.ensemble_auth.skip_count,
        "sessionless_connections_expired": stats.sessionless_expired,
        "stale_sessions_expired": stats.sessions_expired,
        "stale_requests": stats.stale_requests,
        "stale_requests_dropped": stats.stale_requests_dropped,
        "stale_replies": stats.stale_replies,
        "request_throttle_wait_count": stats.throttle_wait_count,
        "throttled_ops": stats.throttled_ops,
        "unsuccessful_handshake": stats.unsuccessful_handshakes,
        "large_requests_rejected": stats.large_requests_rejected,
        "prep_processor_request_queued": stats.prepared,
        "sync_processor_request_queued": view.driver.log_stats.batch_size.sum,
        "outstanding_changes_queued": service.changes.queued,
        "outstanding_changes_removed": service.changes.removed,
        "digest_mismatches_count": service.tree.digest_mismatches,
        "response_bytes": stats.response_bytes,
        "watch_bytes": stats.watch_bytes,
    }
    return counted | dict.fromkeys(_ABSENT[_COUNTER], 0)


def summaries(view: ServerView) -> dict[str, Summary]:
    """Series without percentiles."""
    stats = view.service.stats
    told = stats.watchers_told
    log = view.driver.log_stats
    storage = view.storage_stats
    quorum = view.quorum_stats
    counted: dict[str, Summary] = {
        "election_time": quorum.election,
        "unavailable_time": quorum.unavailable,
        "leader_unavailable_time": quorum.leader_unavailable,
        "follower_sync_time": quorum.follower_sync,
        "observer_sync_time": quorum.observer_sync,
        "inflight_diff_count": quorum.inflight_diffs,
        "inflight_snap_count": quorum.inflight_snaps,
        "fsynctime": log.sync_ms,
        "sync_processor_batch_size": log.batch_size,
        "sync_processor_queue_size": log.queue_size,
        "snapshottime": storage.snapshot_ms,
        "dbinittime": storage.db_init_ms,
        "startup_txns_loaded": storage.txns_loaded,
        "connection_token_deficit": stats.token_deficit,
        "node_created_watch_count": told[EventType.NODE_CREATED],
        "node_deleted_watch_count": told[EventType.NODE_DELETED],
        "node_changed_watch_count": told[EventType.NODE_DATA_CHANGED],
        "node_children_watch_count": told[EventType.NODE_CHILDREN_CHANGED],
    }
    return counted | dict.fromkeys(_ABSENT[_SUMMARY], Summary())


def advanced_summaries(view: ServerView) -> dict[str, Percentiles]:
    """Series with percentiles."""
    stats = view.service.stats
    quorum = view.quorum_stats
    counted = {
        "readlatency": _together(stats.past_read_latency, stats.read_latency),
        "updatelatency": _together(stats.past_update_latency, stats.update_latency),
        "propagation_latency": stats.propagation_latency,
        "quorum_ack_latency": quorum.quorum_ack_latency,
        "proposal_latency": quorum.proposal_latency,
        "commit_propagation_latency": quorum.commit_latency,
        "request_throttle_queue_time_ms": stats.throttle_wait,
        "sync_processor_queue_flush_time_ms": view.driver.log_stats.sync_ms,
    }
    return counted | dict.fromkeys(_ABSENT[_ADVANCED], Percentiles())


def summary_sets(view: ServerView) -> dict[str, dict[str, Summary]]:
    """Series of one name for several keys. ``ack_latency`` is empty: Apache looks at one txn in a thousand only."""
    stats = view.service.stats
    return {
        "learner_handler_qp_size": _by_server(view),
        "read_per_namespace": stats.read_per_namespace,
        "write_per_namespace": stats.write_per_namespace,
    }


def advanced_summary_sets(view: ServerView) -> dict[str, dict[str, Percentiles]]:
    """The same with percentiles. What a learner is sent leaves in the same turn of the loop."""
    return {"learner_handler_qp_time_ms": {key: Percentiles() for key in _by_server(view)}}


def _by_server(view: ServerView) -> dict[str, Summary]:
    return {str(server_id): queue for server_id, queue in view.quorum_stats.learner_queues.items()}


def _together(past: Percentiles, present: Percentiles) -> Percentiles:
    both = Percentiles()
    both.absorb(past)
    both.absorb(present)
    return both


def reset(view: ServerView) -> None:
    """What ``srst`` does: counters, series, packets and response sizes begin anew; gauges stay."""
    service = view.service
    service.stats.reset_counters()
    view.quorum_stats.reset()
    service.tree.digest_mismatches = 0
    service.changes.queued = 0
    service.changes.removed = 0
    view.driver.bytes_received = 0
    view.driver.log_stats.reset()
    view.storage_stats.reset()
    ensemble_auth = view.ensemble_auth
    ensemble_auth.success_count = ensemble_auth.fail_count = ensemble_auth.skip_count = 0


# -- numbers


def average(summary: Summary) -> float:
    """The mean, rounded half up to four decimals as Java's BigDecimal does; 0.0 of nothing."""
    if not summary.count:
        return 0.0
    numerator, denominator = (summary.sum / summary.count).as_integer_ratio()
    scaled = (2 * _AVERAGE_SCALE * abs(numerator) + denominator) // (2 * denominator)
    return (scaled if numerator >= 0 else -scaled) / _AVERAGE_SCALE


def text(value: Value) -> str:
    """A value as Java prints it: a double always has a decimal point."""
    return java_double(value) if isinstance(value, float) else str(value)


def java_double(value: float) -> str:
    """``Double.toString``: scientific outside of 0.001 to 10 000 000."""
    plain = repr(value)
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return plain
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = plain.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    leading_zeros = len(whole + fraction) - len(digits)
    power = int(exponent or 0) + len(whole) - leading_zeros - 1
    return f"{sign}{digits[0]}.{digits[1:].rstrip('0') or '0'}E{power}"


def _track(tree: DataTree, path: str) -> QuotaTrack | None:
    node = tree.get(path)
    try:
        return None if node is None else QuotaTrack.parse(node.data)
    except MalformedQuotaError:
        return None


def _limit(limits: QuotaTrack, hard: str, soft: str) -> int:
    value = limits.get(hard)
    return value if value > -1 else limits.get(soft)


def _add(sums: dict[str, int], namespace: str, value: int) -> None:
    sums[namespace] = sums.get(namespace, 0) + value


def _open_files() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:  # pragma: no cover  not Linux
        return -1


def _open_files_max() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
