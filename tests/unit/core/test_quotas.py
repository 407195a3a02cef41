"""Quotas: their text, the usage that is kept, and what is refused (client protocol §13, §20, §21)."""

from __future__ import annotations

import pytest

from tests.fakes.local_server import Client, LocalServer
from tests.fakes.replies import OPEN, create, delete, multi, set_data
from zkpy.core.quotas import MalformedQuotaError, QuotaPaths, QuotaTrack, limits_path, stats_path
from zkpy_protocol.opcodes import ErrorCode, OpCode
from zkpy_protocol.records import ExistsRequest, GetDataRequest, SetACLRequest

# -- the text


@pytest.mark.parametrize(
    ("text", "values", "written"),
    [
        ("count=1,bytes=2", (1, 2, -1, -1), "count=1,bytes=2"),
        (
            "count=1,bytes=2=;byteHardLimit=3;countHardLimit=4",
            (1, 2, 4, 3),
            "count=1,bytes=2=;byteHardLimit=3;countHardLimit=4",
        ),
        ("bytes=2;count=1", (1, 2, -1, -1), "count=1,bytes=2"),
        ("", (-1, -1, -1, -1), "count=-1,bytes=-1"),
        ("count=+5,bytes=-1", (5, -1, -1, -1), "count=5,bytes=-1"),
        ("count=1,,;bytes=2,;", (1, 2, -1, -1), "count=1,bytes=2"),
        ("z=9,count=1,a=8", (1, -1, -1, -1), "count=1,bytes=-1=;a=8;z=9"),
        ("count==1", (-1, -1, -1, -1), "count=-1,bytes=-1"),
        ("count=1=2", (1, -1, -1, -1), "count=1,bytes=-1"),
        ("count=9223372036854775807", (2**63 - 1, -1, -1, -1), "count=9223372036854775807,bytes=-1"),
    ],
)
def test_the_text_of_a_record_is_apaches(text: str, values: tuple[int, ...], written: str) -> None:
    track = QuotaTrack.parse(text.encode())
    found = [track.get(key) for key in ("count", "bytes", "countHardLimit", "byteHardLimit")]
    assert tuple(found) == values
    assert track.encode() == written.encode()


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"count",
        b"count=",
        b"count=x",
        b"count= 1",
        b"count=1.0",
        b"count=9223372036854775808",
        b",count=1",
        b"=",
        b"\xff\xfe",
    ],
)
def test_what_apache_cannot_read_cannot_be_read(data: bytes | None) -> None:
    with pytest.raises(MalformedQuotaError):
        QuotaTrack.parse(data)


def test_the_deepest_path_with_a_quota_counts_and_never_the_root() -> None:
    paths = QuotaPaths()
    assert paths.deepest_prefix("/a/b") is None
    for path in ("/a", "/a/b/c", ""):
        paths.add(path)
    assert paths.deepest_prefix("/a") == "/a"
    assert paths.deepest_prefix("/a/b") == "/a"
    assert paths.deepest_prefix("/a/b/c/d") == "/a/b/c"
    assert paths.deepest_prefix("/ab") is None
    assert paths.deepest_prefix("/x") is None
    assert list(paths) == ["", "/a", "/a/b/c"]
    paths.discard("/a")
    paths.discard("/never")
    assert paths.deepest_prefix("/a/b") is None


# -- the usage


def put_quota(client: Client, path: str, limits: bytes | None = b"count=-1,bytes=-1") -> None:
    """What the CLI does: the nodes above, limits, then stats."""
    above = "/zookeeper/quota"
    for part in path.strip("/").split("/"):
        above += f"/{part}"
        client.call(OpCode.CREATE, create(above))
    client.call(OpCode.CREATE, create(limits_path(path), limits)).ok()
    client.call(OpCode.CREATE, create(stats_path(path), b"count=0,bytes=0")).ok()


def usage(client: Client, path: str) -> bytes | None:
    return client.call(OpCode.GET_DATA, GetDataRequest(stats_path(path), False)).data


def with_quota(
    limits: bytes | None = b"count=-1,bytes=-1", *, enforce_quota: bool = False
) -> tuple[LocalServer, Client]:
    """A server with nodes /q (3 bytes) and /q/a (2 bytes) under a quota."""
    server = LocalServer(enforce_quota=enforce_quota)
    client = server.client()
    client.call(OpCode.CREATE, create("/q", b"123")).ok()
    client.call(OpCode.CREATE, create("/q/a", b"12")).ok()
    put_quota(client, "/q", limits)
    return server, client


def test_a_new_stats_node_is_filled_with_the_count_of_the_whole_subtree() -> None:
    _, client = with_quota()
    assert usage(client, "/q") == b"count=2,bytes=5"


def test_creates_deletes_and_changes_below_move_the_usage() -> None:
    _, client = with_quota()
    client.call(OpCode.CREATE, create("/q/b", b"1234")).ok()
    assert usage(client, "/q") == b"count=3,bytes=9"
    client.call(OpCode.CREATE, create("/q/a/deep", None)).ok()
    client.call(OpCode.SET_DATA, set_data("/q/b", None)).ok()
    assert usage(client, "/q") == b"count=4,bytes=5"
    client.call(OpCode.SET_DATA, set_data("/q", b"1")).ok()
    client.call(OpCode.DELETE, delete("/q/a/deep")).ok()
    client.call(OpCode.DELETE, delete("/q/a")).ok()
    assert usage(client, "/q") == b"count=2,bytes=1"


def test_the_usage_changes_without_version_zxid_or_watch() -> None:
    _, client = with_quota()
    before = client.call(OpCode.EXISTS, ExistsRequest(stats_path("/q"), True)).stat
    client.call(OpCode.CREATE, create("/q/b", b"1" * 100)).ok()
    after = client.call(OpCode.EXISTS, ExistsRequest(stats_path("/q"), False)).stat
    assert (after.version, after.mzxid, after.mtime) == (before.version, before.mzxid, before.mtime)
    assert after.data_length == len(b"count=3,bytes=105")
    assert client.events() == []


def test_only_the_deepest_quota_counts() -> None:
    _, client = with_quota()
    put_quota(client, "/q/a")
    assert usage(client, "/q/a") == b"count=1,bytes=2"
    client.call(OpCode.CREATE, create("/q/a/x", b"1")).ok()
    assert usage(client, "/q/a") == b"count=2,bytes=3"
    assert usage(client, "/q") == b"count=2,bytes=5"


def test_without_limits_nothing_is_counted() -> None:
    _, client = with_quota()
    client.call(OpCode.DELETE, delete(limits_path("/q"))).ok()
    client.call(OpCode.CREATE, create("/q/b")).ok()
    assert usage(client, "/q") == b"count=2,bytes=5"


def test_without_stats_nothing_is_counted_and_nothing_breaks() -> None:
    _, client = with_quota(b"count=1,bytes=1=;countHardLimit=1", enforce_quota=True)
    client.call(OpCode.DELETE, delete(stats_path("/q"))).ok()
    client.call(OpCode.CREATE, create("/q/b")).ok()
    client.call(OpCode.DELETE, delete("/q/b")).ok()


def test_a_stats_node_that_comes_back_is_counted_into_again() -> None:
    _, client = with_quota()
    client.call(OpCode.DELETE, delete(stats_path("/q"))).ok()
    client.call(OpCode.CREATE, create("/q/b", b"1")).ok()
    client.call(OpCode.CREATE, create(stats_path("/q"))).ok()
    assert usage(client, "/q") == b"count=3,bytes=6"
    client.call(OpCode.CREATE, create("/q/c", b"1")).ok()
    assert usage(client, "/q") == b"count=4,bytes=7"


def test_what_the_server_counts_into_a_stats_node_does_not_change_the_size_of_the_data() -> None:
    """Apache's approximate_data_size drifts this way too."""
    server, client = with_quota()
    before = server.tree.data_size
    client.call(OpCode.CREATE, create("/q/b", b"1" * 1000)).ok()
    assert server.tree.data_size == before + len("/q/b") + 1000


def test_the_reply_to_the_create_of_a_stats_node_shows_the_data_as_sent() -> None:
    """The tree holds what was counted by then."""
    client = LocalServer().client()
    client.call(OpCode.CREATE, create("/q", b"1" * 1000)).ok()
    client.call(OpCode.CREATE, create("/zookeeper/quota/q")).ok()
    client.call(OpCode.CREATE, create("/zookeeper/quota/q/zookeeper_limits", b"count=9,bytes=-1")).ok()
    reply = client.call(OpCode.CREATE2, create("/zookeeper/quota/q/zookeeper_stats", b"count=0,bytes=0"))
    assert reply.stat.data_length == len(b"count=0,bytes=0")
    assert usage(client, "/q") == b"count=1,bytes=1000"


def test_a_session_stays_among_the_owners_of_ephemerals_until_it_closes() -> None:
    """As Apache's `dump` counts them."""
    server = LocalServer()
    client = server.client()
    client.call(OpCode.CREATE, create("/e", flags=1)).ok()
    client.call(OpCode.DELETE, delete("/e")).ok()
    assert list(server.tree.ephemerals.values()) == [{}]
    client.call(OpCode.CLOSE_SESSION).ok()
    assert server.tree.ephemerals == {}


def test_stats_of_a_quota_on_a_missing_path_count_nothing() -> None:
    client = LocalServer().client()
    put_quota(client, "/missing")
    assert usage(client, "/missing") == b"count=0,bytes=0"


# -- enforcement


@pytest.mark.parametrize(
    ("limits", "record", "code"),
    [
        (b"count=-1,bytes=-1=;countHardLimit=3", create("/q/b"), 0),
        (b"count=-1,bytes=-1=;countHardLimit=2", create("/q/b"), ErrorCode.QUOTAEXCEEDED),
        (b"count=-1,bytes=-1=;byteHardLimit=8", create("/q/b", b"123"), 0),
        (b"count=-1,bytes=-1=;byteHardLimit=8", create("/q/b", b"1234"), ErrorCode.QUOTAEXCEEDED),
        (b"count=-1,bytes=-1=;byteHardLimit=1", create("/q/b", b""), 0),
        (b"count=1,bytes=1", create("/q/b", b"1234"), 0),
        (b"count=1,bytes=1=;countHardLimit=0", create("/q/b"), ErrorCode.QUOTAEXCEEDED),
        (b"count=-1,bytes=-1=;countHardLimit=2", create("/other"), 0),
    ],
)
def test_a_create_beyond_a_hard_limit_is_refused_and_equal_is_fine(
    limits: bytes, record: object, code: int
) -> None:
    server, client = with_quota(limits, enforce_quota=True)
    assert client.call(OpCode.CREATE, record).err == code
    assert sum(server.service.stats.quota_exceeded.values()) == (code != 0)


@pytest.mark.parametrize(("size", "code"), [(2, 0), (5, 0), (6, ErrorCode.QUOTAEXCEEDED), (1, 0)])
def test_a_change_beyond_the_hard_limit_of_bytes_is_refused(size: int, code: int) -> None:
    _, client = with_quota(b"count=-1,bytes=-1=;byteHardLimit=8", enforce_quota=True)
    assert client.call(OpCode.SET_DATA, set_data("/q/a", b"x" * size)).err == code


def test_null_data_has_no_bytes_on_either_side_of_a_change() -> None:
    _, client = with_quota(b"count=-1,bytes=-1=;byteHardLimit=8", enforce_quota=True)
    client.call(OpCode.CREATE, create("/q/null", None)).ok()
    reply = client.call(OpCode.SET_DATA, set_data("/q/null", b"1234"))
    assert reply.err == ErrorCode.QUOTAEXCEEDED
    client.call(OpCode.SET_DATA, set_data("/q/null", b"123")).ok()
    client.call(OpCode.SET_DATA, set_data(limits_path("/q"), b"count=-1,bytes=-1=;byteHardLimit=6")).ok()
    client.call(OpCode.SET_DATA, set_data("/q/a", None)).ok()
    assert usage(client, "/q") == b"count=3,bytes=6"


def test_a_change_of_the_same_size_is_fine_even_when_the_limit_is_exceeded_already() -> None:
    _, client = with_quota(b"count=-1,bytes=-1=;byteHardLimit=1", enforce_quota=True)
    client.call(OpCode.SET_DATA, set_data("/q/a", b"34")).ok()


def test_the_quota_is_looked_at_before_the_version() -> None:
    _, client = with_quota(b"count=-1,bytes=-1=;byteHardLimit=1", enforce_quota=True)
    reply = client.call(OpCode.SET_DATA, set_data("/q/a", b"345", 99))
    assert reply.err == ErrorCode.QUOTAEXCEEDED


def test_hard_limits_are_not_enforced_unless_asked_for() -> None:
    server, client = with_quota(b"count=-1,bytes=-1=;countHardLimit=0;byteHardLimit=0")
    client.call(OpCode.CREATE, create("/q/b", b"1")).ok()
    assert server.service.stats.quota_exceeded == {}


def test_limits_are_compared_with_the_applied_usage_and_not_added_up_in_flight() -> None:
    server, client = with_quota(b"count=-1,bytes=-1=;countHardLimit=3", enforce_quota=True)
    both = multi((OpCode.CREATE, create("/q/b")), (OpCode.CREATE, create("/q/c")))
    assert [r.err for r in client.call(OpCode.MULTI, both).results] == [0, 0]
    server.holding = True
    client.send(OpCode.DELETE, delete("/q/b"))
    client.send(OpCode.DELETE, delete("/q/c"))
    client.send(OpCode.CREATE, create("/q/d"))
    server.settle()
    assert [reply.err for reply in client.replies()] == [0, 0, ErrorCode.QUOTAEXCEEDED]


def test_refusals_are_counted_by_the_first_component_of_the_path() -> None:
    server, client = with_quota(b"count=-1,bytes=-1=;countHardLimit=2", enforce_quota=True)
    for path in ("/q/b", "/q/a/b"):
        assert client.call(OpCode.CREATE, create(path)).err == ErrorCode.QUOTAEXCEEDED
    assert server.service.stats.quota_exceeded == {"q": 2}


def test_a_quota_that_is_only_found_by_its_name_after_a_start_limits_nothing() -> None:
    """Compat: a start looks for names that contain the one of a limits node (setupQuota), and then there is no such node."""
    server = LocalServer(enforce_quota=True)
    client = server.client()
    client.call(OpCode.CREATE, create("/q")).ok()
    above = "/zookeeper/quota"
    for part in ("q", "zookeeper_limits_of_old", "zookeeper_limits"):
        above += f"/{part}"
        client.call(OpCode.CREATE, create(above, b"count=1,bytes=1=;countHardLimit=0")).ok()
    server.tree.rebuild_quotas()
    assert list(server.tree.quotas) == ["/q"]
    client.call(OpCode.CREATE, create("/q/b", b"123")).ok()
    client.call(OpCode.SET_DATA, set_data("/q", b"123")).ok()


def test_limits_that_are_being_deleted_still_count() -> None:
    server, client = with_quota(b"count=-1,bytes=-1=;countHardLimit=2", enforce_quota=True)
    server.holding = True
    client.send(OpCode.DELETE, delete(limits_path("/q")))
    client.send(OpCode.CREATE, create("/q/b"))
    server.settle()
    assert [reply.err for reply in client.replies()] == [0, ErrorCode.QUOTAEXCEEDED], "applied limits count"
    server.holding = False
    client.call(OpCode.CREATE, create("/q/b")).ok()


# -- records that cannot be read


@pytest.mark.parametrize("limits", [b"garbage", None, b"count=x"])
def test_garbage_limits_are_stored_and_writes_below_fail_with_a_marshalling_error(
    limits: bytes | None,
) -> None:
    server, client = with_quota(limits, enforce_quota=True)
    before = server.tree.last_zxid
    assert client.call(OpCode.CREATE, create("/q/b")).err == ErrorCode.MARSHALLINGERROR
    assert client.call(OpCode.SET_DATA, set_data("/q/a", b"123")).err == ErrorCode.MARSHALLINGERROR
    assert server.tree.last_zxid == before + 2
    client.call(OpCode.DELETE, delete("/q/a")).ok()
    client.call(OpCode.CREATE, create("/elsewhere")).ok()


@pytest.mark.parametrize("garbage", [b"garbage", None])
def test_what_would_be_applied_below_unreadable_stats_is_refused(garbage: bytes | None) -> None:
    server, client = with_quota()
    client.call(OpCode.SET_DATA, set_data(stats_path("/q"), garbage)).ok()
    assert client.call(OpCode.CREATE, create("/q/b")).err == ErrorCode.BADARGUMENTS
    assert client.call(OpCode.DELETE, delete("/q/a")).err == ErrorCode.BADARGUMENTS
    client.call(OpCode.SET_DATA, set_data(stats_path("/q"), b"count=2,bytes=5")).ok()
    client.call(OpCode.CREATE, create("/q/b")).ok()
    assert usage(client, "/q") == b"count=3,bytes=5"
    assert server.tree.digest_mismatches == 0


def test_unreadable_stats_in_flight_do_not_break_the_server() -> None:
    server, client = with_quota()
    server.holding = True
    client.send(OpCode.SET_DATA, set_data(stats_path("/q"), b"garbage"))
    client.send(OpCode.DELETE, delete("/q/a"))
    client.send(OpCode.CREATE, create("/q/b"))
    server.settle()
    assert len(client.replies()) == 3
    assert client.call(OpCode.EXISTS, ExistsRequest("/q", False)).err == 0


def test_the_root_cannot_have_a_quota() -> None:
    server = LocalServer()
    client = server.client()
    record = create("/zookeeper/quota/zookeeper_limits", b"count=1,bytes=1")
    assert client.call(OpCode.CREATE, record).err == ErrorCode.BADARGUMENTS
    in_a_multi = multi((OpCode.CREATE, record))
    assert [r.err for r in client.call(OpCode.MULTI, in_a_multi).results] == [ErrorCode.BADARGUMENTS]
    client.call(OpCode.CREATE, create("/a")).ok()


def test_a_quota_with_hard_limits_does_not_touch_acl_changes() -> None:
    _, client = with_quota(b"count=-1,bytes=-1=;countHardLimit=0;byteHardLimit=0", enforce_quota=True)
    client.call(OpCode.SET_ACL, SetACLRequest("/q/a", OPEN, -1)).ok()


def test_stats_that_are_compared_with_a_limit_and_cannot_be_read_are_a_marshalling_error() -> None:
    _, client = with_quota(b"count=9,bytes=-1=;countHardLimit=9", enforce_quota=True)
    client.call(OpCode.SET_DATA, set_data(stats_path("/q"), b"garbage")).ok()
    assert client.call(OpCode.CREATE, create("/q/b")).err == ErrorCode.MARSHALLINGERROR
    assert client.call(OpCode.DELETE, delete("/q/a")).err == ErrorCode.BADARGUMENTS
