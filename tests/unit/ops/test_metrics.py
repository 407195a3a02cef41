"""Which metrics there are, where their values come from, and how Java prints them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.ops.asked_server import MONO_MS, AskedServer
from zkpy.auth.providers import AuthSettings
from zkpy.core.stats import Summary
from zkpy.ops import metrics
from zkpy_protocol.opcodes import EventType

GOLDEN = Path(__file__).parents[3] / "protocol/vectors/client-wire-3.9.5.json"
SETS = ("read_per_namespace", "write_per_namespace")


@pytest.fixture
def server(tmp_path: Path) -> AskedServer:
    return AskedServer(tmp_path)


def golden_keys() -> list[str]:
    vectors = json.loads(GOLDEN.read_text(encoding="utf-8"))["vectors"]
    text = next(v["response_text"] for v in vectors if v["name"] == "full.4lw_mntr")
    return [line.partition("\t")[0] for line in text.splitlines()]


def values(server: AskedServer) -> dict[str, metrics.Value]:
    return dict(metrics.monitor_values(server.view))


def set_quota(server: AskedServer, path: str, limits: bytes) -> None:
    client = server.client(port=1)
    client.create(path)
    client.create(f"/zookeeper/quota{path}")
    client.create(f"/zookeeper/quota{path}/zookeeper_limits", limits)
    client.create(f"/zookeeper/quota{path}/zookeeper_stats", b"count=0,bytes=0")


# -- names


def test_every_key_of_apache_3_9_5_is_there_once_and_no_other(server: AskedServer) -> None:
    """In the same namespaces as the recording: 669 keys."""
    wanted = golden_keys()
    for key in wanted:
        for name in SETS:
            if key.endswith(name):
                namespace = key.removeprefix("zk_").partition("_")[2].removesuffix(f"_{name}")
                getattr(server.service.stats, name).setdefault(namespace, Summary())
    set_quota(server, "/qt", b"count=3,bytes=10")
    server.service.stats.quota_exceeded["qt"] = 3
    lines = server.ask(b"mntr").splitlines()
    assert all(line.count("\t") == 1 for line in lines)
    keys = Counter(line.partition("\t")[0] for line in lines)
    assert keys == Counter(wanted)


def test_no_metric_is_both_measured_and_declared_absent(
    server: AskedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = [name for names in metrics._ABSENT.values() for name in names]
    assert len(set(absent)) == len(absent)
    monkeypatch.setattr(metrics, "_ABSENT", dict.fromkeys(metrics._ABSENT, ()))
    view = server.view
    measured = (
        metrics.gauges(view).keys()
        | metrics.counters(view).keys()
        | metrics.summaries(view).keys()
        | metrics.advanced_summaries(view).keys()
    )
    assert not measured & set(absent)


def test_the_order_of_keys_does_not_change(server: AskedServer) -> None:
    server.client().create("/b")
    first = list(values(server))
    server.client(port=2).create("/a")
    second = list(values(server))
    assert [key for key in second if "_a_" not in key] == first


# -- values


def test_gauges_show_the_state_of_the_server(server: AskedServer) -> None:
    client = server.client()
    client.create("/e", b"12345", flags=1)
    client.get_data("/e", watch=True)
    before = server.service.tree.data_size
    server.now = 977
    found = values(server)
    assert found["znode_count"] == 6
    assert found["ephemerals_count"] == 1
    assert found["watch_count"] == 1
    assert found["global_sessions"] == 1
    assert found["local_sessions"] == 0
    assert found["num_alive_connections"] == 1
    assert found["outstanding_requests"] == 0
    assert found["approximate_data_size"] == before
    assert found["uptime"] == 8000
    assert found["packets_received"] == 3
    assert found["packets_sent"] == 3
    assert found["last_client_response_size"] == 16 + 4 + 5 + 68
    assert found["min_client_response_size"] == 16 + 4 + 2
    assert found["server_state"] == "standalone"
    assert found["connection_drop_probability"] == 0.0
    assert 3 <= int(found["open_file_descriptor_count"]) < int(found["max_file_descriptor_count"])


def test_counters_follow_requests_through_the_stages(server: AskedServer) -> None:
    client = server.client()
    client.create("/n", b"data")
    client.get_data("/n", watch=True)
    client.create("/n")  # exists already
    server.log_stats.batch_size.add(3)
    found = values(server)
    assert found["connection_request_count"] == 1
    assert found["prep_processor_request_queued"] == 3
    assert found["sync_processor_request_queued"] == 3
    # Apache counts proposals, and commits, of a leader only.
    assert found["proposal_count"] == found["commit_count"] == 0
    assert found["outstanding_changes_queued"] == found["outstanding_changes_removed"] == 2
    assert int(found["bytes_received_count"]) > 100
    assert int(found["response_bytes"]) == (16 + 4 + 2) + (16 + 4 + 4 + 68) + 16
    assert found["avg_n_write_per_namespace"] == 6.0
    assert found["avg_n_read_per_namespace"] == 2 + 4 + 68
    assert found["cnt_updatelatency"] == found["cnt_propagation_latency"] == 3
    assert found["cnt_readlatency"] == 1


def test_watchers_are_counted_by_the_event_they_are_told(server: AskedServer) -> None:
    for kind, size in (
        (EventType.NODE_CREATED, 1),
        (EventType.NODE_DELETED, 2),
        (EventType.NODE_DATA_CHANGED, 3),
        (EventType.NODE_CHILDREN_CHANGED, 4),
    ):
        server.service.stats.watchers_told[kind].add(size)
    found = values(server)
    names = ("created", "deleted", "changed", "children")
    assert [found[f"sum_node_{name}_watch_count"] for name in names] == [1, 2, 3, 4]


def test_percentiles_follow_the_recent_values(server: AskedServer) -> None:
    for value in range(1, 101):
        server.service.stats.read_latency.add(value)
    found = values(server)
    wanted = {
        "avg": 50.5,
        "min": 1,
        "max": 100,
        "cnt": 100,
        "sum": 5050,
        "p50": 51,
        "p95": 96,
        "p99": 100,
        "p999": 100,
    }
    assert {label: found[f"{label}_readlatency"] for label in wanted} == wanted


def test_recovery_and_snapshots_are_timed(server: AskedServer) -> None:
    server.view.storage_stats.db_init_ms.add(10)
    server.view.storage_stats.txns_loaded.add(7)
    server.view.storage_stats.snapshot_ms.add(2)
    found = values(server)
    assert (found["sum_dbinittime"], found["sum_startup_txns_loaded"], found["max_snapshottime"]) == (
        10,
        7,
        2,
    )


def test_ensemble_authentication_counts_its_outcomes(tmp_path: Path) -> None:
    auth = AuthSettings(
        provider_classes={"1": "org.apache.zookeeper.server.auth.EnsembleAuthenticationProvider"},
        ensemble_auth_name="here",
    )
    server = AskedServer(tmp_path, auth=auth)
    for name in (b"here", b"", b"elsewhere", b"here"):
        server.client().authenticate("ensemble", name)
    found = values(server)
    assert [found[f"ensemble_auth_{end}"] for end in ("success", "skip", "fail")] == [2, 1, 1]
    server.ask(b"srst")
    found = values(server)
    assert [found[f"ensemble_auth_{end}"] for end in ("success", "skip", "fail")] == [0, 0, 0]


# -- quotas


def test_quotas_are_summed_over_a_top_level_node_and_a_hard_limit_counts_first(server: AskedServer) -> None:
    set_quota(server, "/q", b"count=3,bytes=10")
    set_quota(server, "/q/deep", b"count=5,bytes=20;byteHardLimit=7;countHardLimit=4")
    sets = metrics.gauge_sets(server.service.tree)
    assert sets["quota_count_limit_per_namespace"] == {"q": 3 + 4}
    assert sets["quota_bytes_limit_per_namespace"] == {"q": 10 + 7}
    # /q and /q/deep for the upper quota, /q/deep alone for the lower one
    assert sets["quota_count_usage_per_namespace"]["q"] == 3
    assert sets["quota_bytes_usage_per_namespace"] == {"q": 0}
    assert values(server)["q_quota_bytes_limit_per_namespace"] == 17


def test_a_quota_nobody_can_read_counts_nothing(server: AskedServer) -> None:
    set_quota(server, "/q", b"count=3,bytes=10")
    node = server.service.tree.nodes["/zookeeper/quota/q/zookeeper_limits"]
    node.data = b"garbage"
    del server.service.tree.nodes["/zookeeper/quota/q/zookeeper_stats"]
    assert all(not members for members in metrics.gauge_sets(server.service.tree).values())


# -- numbers as Java prints them


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (0, 0, "0.0"),
        (11, 17, "0.6471"),
        (23, 20, "1.15"),
        (70, 221, "0.3167"),
        (1, 32, "0.0313"),  # half a unit goes up
        (-1, 32, "-0.0313"),
        (1, 20_000, "1.0E-4"),
        (12_345_678, 1, "1.2345678E7"),
    ],
)
def test_an_average_has_four_decimals_at_most(total: int, count: int, expected: str) -> None:
    summary = Summary()
    summary.sum, summary.count = total, count
    assert metrics.text(metrics.average(summary)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0.0"),
        (0.001, "0.001"),
        (0.0005, "5.0E-4"),
        (0.00012, "1.2E-4"),
        (-1e-05, "-1.0E-5"),
        (9_999_999.0, "9999999.0"),
        (1e7, "1.0E7"),
        (123_456_789.25, "1.2345678925E8"),
        (1.5e16, "1.5E16"),
    ],
)
def test_a_double_has_javas_form(value: float, expected: str) -> None:
    assert metrics.java_double(value) == expected


def test_integers_and_texts_are_printed_as_they_are() -> None:
    assert (metrics.text(MONO_MS), metrics.text(-1), metrics.text("standalone")) == (
        "751072",
        "-1",
        "standalone",
    )
