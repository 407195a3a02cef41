"""Trees that have to stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.storage.snapshot_stream import SnapshotStream, serialize_stream

if TYPE_CHECKING:
    from zkpy.core.data_tree import DataTree


def copied(tree: DataTree) -> DataTree:
    """A tree with the same nodes as of the same zxid, built from the bytes that a learner would get."""
    stream = SnapshotStream(tree.owners, tree.digest_enabled)
    assert stream.feed(b"".join(serialize_stream(tree, {})))
    stream.tree.last_zxid = tree.last_zxid
    return stream.tree
