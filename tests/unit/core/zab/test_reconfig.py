"""What a server keeps of configurations, and the node that shows the committed one."""

from __future__ import annotations

from tests.unit.core.zab.learner_host import MEMBERS, Host
from zkpy.core.data_tree import DataTree
from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.owners import OwnerRules
from zkpy.core.zab.reconfig import activate, is_observer_in, moves_leader, saw, write_config_node
from zkpy_protocol.records import decode_stat


def membership(version: int, text: str = MEMBERS) -> Membership:
    return Membership.from_text(f"{text}\nversion={version:x}")


def test_a_configuration_that_is_committed_leaves_a_newer_proposed_one() -> None:
    state = Host(reconfig_enabled=True).state
    assert saw(state, membership(7))
    assert activate(state, membership(5))
    assert (state.view.committed.version, state.view.last_seen.version) == (5, 7)
    assert state.view.is_reconfiguring


def test_a_configuration_that_is_committed_replaces_an_older_proposed_one() -> None:
    state = Host(reconfig_enabled=True).state
    assert saw(state, membership(3))
    assert activate(state, membership(5))
    assert (state.view.committed.version, state.view.last_seen.version) == (5, 5)


def test_a_configuration_is_committed_and_seen_once() -> None:
    state = Host(reconfig_enabled=True).state
    assert saw(state, membership(5))
    assert not saw(state, membership(5))
    assert activate(state, membership(5))
    assert not activate(state, membership(5))
    assert not activate(state, membership(4))
    assert [type(effect).__name__ for effect in state.effects] == [
        "SaveProposedConfig",
        "SaveCommittedConfig",
    ]


def test_a_server_that_is_not_listed_follows() -> None:
    listed = membership(0, f"{MEMBERS}\nserver.4=h:1:2:observer")
    assert [is_observer_in(listed, server_id) for server_id in (1, 4, 9)] == [False, True, False]


def test_another_election_port_does_not_move_a_leader() -> None:
    before = membership(0)
    assert not moves_leader(before, membership(1, MEMBERS.replace("2193", "2293")), 3)
    assert moves_leader(before, membership(1, MEMBERS.replace("2183", "2283")), 3)
    assert moves_leader(before, before, 4), "nobody knows where it is"


def test_the_config_node_shows_the_configuration() -> None:
    tree = DataTree(OwnerRules(False, emulate_353=False))
    node = tree.get("/zookeeper/config")
    assert node is not None
    tree.stat(node)
    size, digest = tree.data_size, tree.digest
    committed = EnsembleView(membership(0x100000005)).committed
    write_config_node(tree, committed, 1234)
    text = committed.text().encode()
    assert node.data == text
    assert (tree.data_size, tree.digest) == (size + len(text), digest)
    stat, _ = decode_stat(tree.stat(node), 0)
    assert (stat.mzxid, stat.mtime, stat.version, stat.data_length) == (0x100000005, 1234, -1, len(text))
    write_config_node(tree, committed, 1234)
    assert tree.data_size == size + len(text)
