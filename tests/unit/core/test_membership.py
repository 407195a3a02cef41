"""server.N, group.N and weight.N lines."""

from __future__ import annotations

import pytest

from zkpy.core.membership import (
    ClientAddress,
    EnsembleView,
    Member,
    MemberAddress,
    Membership,
    MembershipError,
    MembershipNumberError,
    is_membership_key,
    parse_member,
    parse_membership,
    parse_membership_text,
)
from zkpy.core.quorum_verifier import Hierarchical, Majority


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
            "zk:2888:3888;10.0.0.1:2181",
            Member(1, (MemberAddress("zk", 2888, 3888),), client=ClientAddress("10.0.0.1", 2181)),
        ),
        (
            "[::1]:2888:3888|zk:2889:3889;[fe80::1]:2181",
            Member(
                1,
                (MemberAddress("0:0:0:0:0:0:0:1", 2888, 3888), MemberAddress("zk", 2889, 3889)),
                client=ClientAddress("fe80:0:0:0:0:0:0:1", 2181),
            ),
        ),
        (
            "b:1:2:observer|a:3:4|b:1:2",
            Member(1, (MemberAddress("a", 3, 4), MemberAddress("b", 1, 2)), is_observer=True),
        ),
        (
            "10.1:1:2;010.0.1.255:3",
            Member(1, (MemberAddress("10.0.0.1", 1, 2),), client=ClientAddress("10.0.1.255", 3)),
        ),
        ("256.1.1.1:1:2", Member(1, (MemberAddress("256.1.1.1", 1, 2),))),
        ("1.2.3.4.5:1:2", Member(1, (MemberAddress("1.2.3.4.5", 1, 2),))),
        ("[::ffff:10.0.0.1]:1:2", Member(1, (MemberAddress("10.0.0.1", 1, 2),))),
        ("[fe80::1%eth0]:1:2", Member(1, (MemberAddress("fe80:0:0:0:0:0:0:1%eth0", 1, 2),))),
        ("zk:0:+2;", Member(1, (MemberAddress("zk", 0, 2),))),
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
        ("zk:1:2; ", "expected a port between 0 and 65535, not ' '"),
        ("zk:1:2;:", "expected a port between 0 and 65535, not ''"),
        ("zk:1:2 ;3", "expected a port between 0 and 65535, not '2 '"),
        ("z k:1:2", "expected host:quorumPort:electionPort"),
        ("z\\\\k:1:2", "expected host:quorumPort:electionPort"),
        ("[zk:5]:1:2", "expected an IPv6 address in brackets, not 'zk:5'"),
        ("zk:1:2;a:b:3", "expected host:quorumPort:electionPort"),
        ("[::1:2888:3888", "expected host:quorumPort:electionPort"),
        ("[::1]2888:3888", "expected host:quorumPort:electionPort"),
        ("zk:1:2:leader", "expected participant or observer, not 'leader'"),
        ("zk:one:2", "expected a port between 0 and 65535, not 'one'"),
        ("zk:65536:2", "expected a port between 0 and 65535, not '65536'"),
        ("zk:2888:2888", "quorum port and the election port to differ"),
        ("a:1:2:observer|b:1:2:participant", "the same role"),
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
    assert membership.weights == {1: 1, 2: 1, 3: 0}


@pytest.mark.parametrize(
    ("lines", "key", "reason"),
    [
        ({"group.1": "1:2"}, "server.3", "every participant must be in a group"),
        ({"group.1": "1:2:3", "group.2": "3"}, "group.2", "already in group 1"),
        ({"group.1": "1:2:3:9"}, "group.1", "server 9 neither votes nor has a weight"),
        ({"weight.1": "3"}, "server.1", "every participant must be in a group"),
        ({"group.1": "1,2"}, "group.1", "expected the number of a server, not '1,2'"),
        ({"group.a": "1:2"}, "group.a", "expected a number behind 'group'"),
        ({"weight.1": "-1"}, "weight.1", "expected a whole number"),
        ({"server.": "a:1:2"}, "server.", "expected a number behind 'server'"),
        ({"server.1_0": "a:1:2"}, "server.1_0", "expected a number behind 'server'"),
        ({"server.01": "a:1:2"}, "server.01", "server.1 stands there twice"),
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


GOLDEN = (
    "server.1=127.0.0.1:20101:20201:participant\n"
    "server.2=127.0.0.1:20102:20202:participant;0.0.0.0:2181\n"
    "server.3=[0:0:0:0:0:0:0:1]:20103:20203:observer;[0:0:0:0:0:0:0:0]:2181\n"
    "version=100000000"
)


def test_the_text_is_apaches_and_reads_back() -> None:
    membership = Membership.from_text(GOLDEN)
    assert membership.version == 0x100000000
    assert (membership.participants, membership.observers) == ((1, 2), (3,))
    assert membership.text() == GOLDEN
    assert membership.servers[2].client == ClientAddress("0.0.0.0", 2181)
    assert membership.servers[1].client is None


def test_a_hierarchical_text_lists_groups_and_then_every_weight() -> None:
    text = (
        "weight.5=0\nversion=ff\ngroup.2=5:4\nserver.4=d:1:2\nserver.5=e:1:2\n"
        "group.1=3:1:2\nserver.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2"
    )
    membership = Membership.from_text(text)
    assert membership.text() == (
        "server.1=a:1:2:participant\nserver.2=b:1:2:participant\nserver.3=c:1:2:participant\n"
        "server.4=d:1:2:participant\nserver.5=e:1:2:participant\n"
        "group.1=1:2:3\ngroup.2=4:5\n"
        "weight.1=1\nweight.2=1\nweight.3=1\nweight.4=1\nweight.5=0\n"
        "version=ff"
    )
    assert Membership.from_text(membership.text()) == membership
    assert isinstance(membership.verifier, Hierarchical)
    assert [membership.weight(server_id) for server_id in (1, 5, 9)] == [1, 0, 0]


def test_a_text_is_read_by_the_rules_of_java_properties() -> None:
    text = "# comment\r\n! comment\n  server.1 : h\\u006fst:1:\\\n   2\nversion = 0A\nversion:0b"
    membership = Membership.from_text(text)
    assert membership.text() == "server.1=host:1:2:participant\nversion=b"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "server.N"),
        ("version=5", "server.N"),
        ("server.1=a:1:2:observer\nversion=0", "server.N"),
        ("server.1=a:1:2\nclientPort=2181", "clientPort"),
        ("server.1=a:1:2\nversion=xyz", "version"),
        ("server.1=a:1:2\nversion=-1", "version"),
        ("server.1=a:1:2\nversion=8000000000000000", "version"),
        ("server.1=a:1:2\nversion=", "version"),
        ("server.x=a:1:2", "server.x"),
        ("server.9223372036854775808=a:1:2", "server.9223372036854775808"),
        ("server.1=a:1:2;3;4", "server.1"),
        ("server.1=a:1:2\ngroup.1=1\ngroup.2=1", "group.2"),
        ("server.1=\\uZZZZ:1:2", ""),
        ("server.1=a\\nb:1:2", "server.1"),
        ("server.1=\\ud800:1:2", "server.1"),
        ("server.1=a:" + "1" * 5000 + ":2", "server.1"),
        ("server.1=a:1:2\nweight.1=" + "1" * 5000 + "\ngroup.1=1", "weight.1"),
    ],
)
def test_a_text_that_names_no_usable_ensemble_is_refused(text: str, key: str) -> None:
    with pytest.raises(MembershipError) as caught:
        Membership.from_text(text)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "text",
    [
        "server.x=a:1:2",
        "server.1=a:65536:2",
        "server.1=a:1:2\nversion=g",
        "server.1=a:1:2\ngroup.1=1:2",
        "server.1=\\u1",
    ],
)
def test_what_apache_has_no_configuration_error_for_is_told_apart(text: str) -> None:
    with pytest.raises(MembershipNumberError):
        parse_membership_text(text)


def test_a_text_without_participants_can_be_read_as_an_argument_of_reconfig() -> None:
    assert parse_membership_text("") == Membership()
    assert Membership().text() == "version=0"


def test_several_addresses_need_to_be_allowed() -> None:
    value = "a:1:2|b:1:2"
    assert len(parse_member(1, value).addresses) == 2
    with pytest.raises(ValueError, match=r"multiAddress\.enabled"):
        parse_member(1, value, multi_address_enabled=False)
    with pytest.raises(MembershipError):
        Membership.from_text(f"server.1={value}", multi_address_enabled=False)


def test_two_memberships_of_one_version_are_the_same() -> None:
    one, other = Membership.from_text("server.1=a:1:2"), Membership.from_text("server.2=b:1:2")
    assert one.is_same_as(other)
    assert not one.is_same_as(other.with_version(5))
    assert one.is_same_as(one.with_version(5))


def test_the_weight_of_a_majority_is_one_per_voter() -> None:
    membership = Membership.from_text("server.1=a:1:2\nserver.2=b:1:2:observer")
    assert [membership.weight(server_id) for server_id in (1, 2, 3)] == [1, 0, 0]
    assert isinstance(membership.verifier, Majority)
    assert membership.verifier.voters == membership.voters == {1}


OLD = Membership.from_text("server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\nversion=5")
NEW = Membership.from_text(
    "server.3=c:1:2\nserver.4=d:1:2\nserver.2=bb:1:2\nserver.5=e:1:2:observer\nversion=9"
)


def test_a_newer_last_seen_membership_needs_its_own_quorum_too() -> None:
    view = EnsembleView(OLD, NEW)
    assert view.is_reconfiguring
    assert view.voters() == {1, 2, 3, 4}
    assert [verifier.voters for verifier in view.verifiers()] == [{1, 2, 3}, {2, 3, 4}]
    assert view.is_quorum({2, 3})
    assert not view.is_quorum({1, 2})
    assert not view.is_quorum({3, 4, 5})
    assert view.is_quorum({1, 2, 4})


@pytest.mark.parametrize("last_seen", [None, OLD, NEW.with_version(4), NEW.with_version(5)])
def test_a_last_seen_membership_that_is_not_newer_decides_nothing(last_seen: Membership | None) -> None:
    view = EnsembleView(OLD, last_seen)
    assert not view.is_reconfiguring
    assert view.voters() == {1, 2, 3}
    assert len(view.verifiers()) == 1
    assert view.is_quorum({1, 2})


def test_a_view_knows_the_servers_of_both_memberships() -> None:
    view = EnsembleView(OLD, NEW)
    assert list(view.addresses().items()) == [
        (1, (MemberAddress("a", 1, 2),)),
        (2, (MemberAddress("b", 1, 2), MemberAddress("bb", 1, 2))),
        (3, (MemberAddress("c", 1, 2),)),
        (4, (MemberAddress("d", 1, 2),)),
        (5, (MemberAddress("e", 1, 2),)),
    ]
    assert view.member(2) == OLD.servers[2]
    assert view.member(5) == NEW.servers[5]
    assert view.member(6) is None
    assert [view.weight(server_id) for server_id in (1, 4, 5, 6)] == [1, 1, 0, 0]


def test_a_negative_server_id_is_one() -> None:
    text = "server.-5=a:1:2:participant\nserver.1=b:1:2:participant\nversion=0"
    assert Membership.from_text(text).participants == (-5, 1)
    assert Membership.from_text(text).text() == text
