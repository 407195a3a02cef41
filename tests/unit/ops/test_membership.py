"""server.N, group.N and weight.N lines."""

from __future__ import annotations

import pytest

from zkpy.ops.membership import (
    ClientAddress,
    Member,
    MemberAddress,
    MembershipError,
    is_membership_key,
    parse_membership,
)


def member(value: str) -> Member:
    return parse_membership({"server.1": value}).servers[1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("zk:2888:3888", Member(1, (MemberAddress("zk", 2888, 3888),))),
        ("zk:2888:3888:participant", Member(1, (MemberAddress("zk", 2888, 3888),))),
        ("zk:2888:3888:OBSERVER", Member(1, (MemberAddress("zk", 2888, 3888),), is_observer=True)),
        (
            "zk:2888:3888;2181",
            Member(1, (MemberAddress("zk", 2888, 3888),), client=ClientAddress("0.0.0.0", 2181)),
        ),
        (
            "zk:2888:3888 ; 10.0.0.1:2181",
            Member(1, (MemberAddress("zk", 2888, 3888),), client=ClientAddress("10.0.0.1", 2181)),
        ),
        (
            "[::1]:2888:3888|zk:2889:3889;[fe80::1]:2181",
            Member(
                1,
                (MemberAddress("::1", 2888, 3888), MemberAddress("zk", 2889, 3889)),
                client=ClientAddress("fe80::1", 2181),
            ),
        ),
    ],
)
def test_a_server_line_becomes_a_member(value: str, expected: Member) -> None:
    assert member(value) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("zk", "expected host:quorumPort:electionPort"),
        ("zk:2888", "expected host:quorumPort:electionPort"),
        (":2888:3888", "expected host:quorumPort:electionPort"),
        ("zk:1:2:observer:x", "expected host:quorumPort:electionPort"),
        ("zk:1:2;3;4", "expected host:quorumPort:electionPort"),
        ("zk:1:2;", "expected a whole number, not ''"),
        ("zk:1:2;a:b:3", "expected host:quorumPort:electionPort"),
        ("[::1:2888:3888", "expected host:quorumPort:electionPort"),
        ("[::1]2888:3888", "expected host:quorumPort:electionPort"),
        ("zk:1:2:leader", "expected participant or observer, not 'leader'"),
        ("zk:one:2", "expected a whole number, not 'one'"),
        ("zk:0:2", "expected a port between 1 and 65535, not '0'"),
        ("zk:2888:2888", "quorum port and the election port to differ"),
        ("a:1:2:observer|b:1:2", "the same role"),
    ],
)
def test_a_server_line_that_cannot_be_read_is_refused(value: str, reason: str) -> None:
    with pytest.raises(MembershipError, match=reason) as caught:
        member(value)
    assert caught.value.key == "server.1"


def test_members_are_in_the_order_of_their_ids_and_know_their_roles() -> None:
    membership = parse_membership(
        {"server.10": "c:1:2:observer", "server.2": "b:1:2", "server.1": "a:1:2"}, version=0x100
    )
    assert list(membership.servers) == [1, 2, 10]
    assert (membership.participants, membership.observers) == ((1, 2), (10,))
    assert membership.version == 0x100


THREE = {"server.1": "a:1:2", "server.2": "b:1:2", "server.3": "c:1:2", "server.4": "d:1:2:observer"}


def test_groups_and_weights_are_read() -> None:
    membership = parse_membership(THREE | {"group.2": "3", "group.1": "1:2", "weight.3": "0"})
    assert membership.groups == {1: (1, 2), 2: (3,)}
    assert membership.weights == {3: 0}


@pytest.mark.parametrize(
    ("lines", "key", "reason"),
    [
        ({"group.1": "1:2"}, "server.3", "every participant must be in a group"),
        ({"group.1": "1:2:3", "group.2": "3"}, "group.2", "already in group 1"),
        ({"group.1": "1:2:3:9"}, "group.1", "there is no server.9"),
        ({"weight.1": "3"}, "server.1", "every participant must be in a group"),
        ({"group.1": "1,2"}, "group.1", "expected a whole number, not '1,2'"),
        ({"group.a": "1:2"}, "group.a", "expected a number behind 'group'"),
        ({"weight.1": "-1"}, "weight.1", "expected a whole number"),
        ({"server.": "a:1:2"}, "server.", "expected a number behind 'server'"),
    ],
)
def test_lines_that_do_not_fit_together_are_refused(lines: dict[str, str], key: str, reason: str) -> None:
    with pytest.raises(MembershipError, match=reason) as caught:
        parse_membership(THREE | lines)
    assert caught.value.key == key


def test_only_the_three_kinds_of_lines_are_membership() -> None:
    assert [
        key for key in ("server.1", "group.1", "weight.1", "servers", "version") if is_membership_key(key)
    ] == [
        "server.1",
        "group.1",
        "weight.1",
    ]
