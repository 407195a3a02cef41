"""What a learner keeps of the configurations it hears of, and what they change for it (quorum protocol §12).

Without `reconfig_enabled` neither the last seen nor the committed one ever changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.core.data_tree import Node
from zkpy.core.membership import EnsembleView, Membership, MembershipError
from zkpy.core.paths import CONFIG_NODE
from zkpy.core.zab.effects import SaveCommittedConfig, SaveProposedConfig
from zkpy_protocol.opcodes import Perms
from zkpy_protocol.records import ACL, Id

if TYPE_CHECKING:
    from zkpy.core.data_tree import DataTree
    from zkpy.core.zab.peer_state import PeerState

_NO_VERSION = -1


def saw(state: PeerState, membership: Membership) -> bool:
    """A configuration was proposed, or a leader begins with it.

    Returns:
        whether it is another one than before: SaveProposedConfig is among the effects then.
    """
    view = state.view
    if not state.options.reconfig_enabled or membership.version == view.last_seen.version:
        return False
    state.view = EnsembleView(view.committed, membership)
    state.effects.append(SaveProposedConfig(membership.text()))
    return True


def take_logged(state: PeerState) -> None:
    """At a start: a reconfiguration in the recovered history is the last seen one, also where its file was never written.

    The server may be elected with that history, and then commits it, which takes a quorum of the new members.
    """
    view = state.view
    node = state.database.tree.get(CONFIG_NODE)
    if not state.options.reconfig_enabled or node is None or node.mzxid <= view.last_seen.version:
        return
    try:
        text = (node.data or b"").decode()
        membership = Membership.from_text(text, multi_address_enabled=state.options.multi_address_enabled)
    except (UnicodeDecodeError, MembershipError):
        return  # set by a super user, who may do that
    if membership.version == node.mzxid:
        state.view = EnsembleView(view.committed, membership)


def activate(state: PeerState, membership: Membership) -> bool:
    """A configuration is committed.

    Returns:
        whether it is newer than the committed one: SaveCommittedConfig is among the effects then.
    """
    view = state.view
    if not state.options.reconfig_enabled or membership.version <= view.committed.version:
        return False
    last_seen = view.last_seen if view.last_seen.version > membership.version else membership
    state.view = EnsembleView(membership, last_seen)
    state.effects.append(SaveCommittedConfig(membership.text()))
    return True


def is_observer_in(membership: Membership, server_id: int) -> bool:
    """Whether a server that is listed observes; one that is not listed follows without a vote."""
    member = membership.servers.get(server_id)
    return member is not None and member.is_observer


def moves_leader(before: Membership, after: Membership, leader_id: int) -> bool:
    """Whether learners cannot go on with their leader: it does not vote any more (or did not), or has moved."""
    addresses = _voter_addresses(before, leader_id)
    return addresses is None or addresses != _voter_addresses(after, leader_id)


def _voter_addresses(membership: Membership, server_id: int) -> tuple[tuple[str, int], ...] | None:
    member = membership.servers.get(server_id)
    if member is None or member.is_observer:
        return None
    return tuple((address.host, address.quorum_port) for address in member.addresses)


def write_config_node(tree: DataTree, membership: Membership, wall_ms: int) -> None:
    """Put the configuration into ``/zookeeper/config``, which is no txn: every server does it for itself.

    Source: ZKDatabase.initConfigInZKDatabase. Snapshots of 3.4 have no such node; it is made then.
    """
    node = tree.get(CONFIG_NODE)
    if node is None:
        acl = tree.acls.intern([ACL(int(Perms.READ), Id("world", "anyone"))])
        node = Node(b"", acl, 0, 0, 0)
        node.aversion = -1
        tree.attach(CONFIG_NODE, node)
    data = membership.text().encode()
    tree.data_size += len(data) - len(node.data or b"")
    node.data = data
    node.version = _NO_VERSION
    node.mzxid = membership.version
    node.mtime = wall_ms
    node.stat = None
    # Nodes below /zookeeper count nothing in the digest of the tree.
    node.digest = None
