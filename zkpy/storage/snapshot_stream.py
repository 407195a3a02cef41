"""The state of a leader as the bytes that follow a SNAP packet, and back (quorum protocol §8.5).

    for chunk in serialize_stream(tree, sessions): ...        # leader; the tree must stay as it is meanwhile

    stream = SnapshotStream(owners, digest_enabled=True)      # learner
    while not stream.feed(data): ...                          # DecodeError: close the link, forget the stream
    stream.tree, stream.sessions, stream.rest                 # rest: bytes that came behind the end

Format: the body of a snapshot (snapshot.py) between nothing and a signature: no header, no checksum, no digest::

    sessions · ACL lists · nodes · ustring "/" · ustring "BenWasHere"

The state may be newer than the zxid of the packet (a leader of Apache's walks its tree while it changes); txns that come behind
it are then applied again, as over a fuzzy snapshot. `tree.last_zxid` is the caller's to set.

The reader builds a tree of its own and touches nothing else: until it is complete, neither memory nor disk of the server
have changed, and a SNAP that breaks off is as if it had not begun (ZOOKEEPER-3642). Its work is linear in the bytes, however they are
cut into pieces: it waits until what it needs next is there, and never looks at the same bytes more than three times. It
allocates for what has come, not for what a count or a length announces.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from zkpy.core.data_tree import DataTree
from zkpy.storage.snapshot import NodeReader, serialize_body
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.records import decode_acl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from zkpy.core.owners import OwnerRules
    from zkpy_protocol.records import ACL

SIGNATURE = Struct(">i").pack(10) + b"BenWasHere"
# What Apache's reader takes with its defaults: jute.maxbuffer and as much again for what is around the data.
LENGTH_MAX = 2 * 0xFFFFF

_int = Struct(">i")
_session = Struct(">qi")
_long = Struct(">q")
_STAT_SIZE = 68


def serialize_stream(tree: DataTree, sessions: Mapping[int, int]) -> Iterator[bytes]:
    """What to send behind a SNAP packet, in chunks of about a megabyte."""
    yield from serialize_body(tree, sessions)
    yield SIGNATURE


class SnapshotStream:
    """Takes one stream.

    Attributes:
        tree: to be used when it is complete.
        sessions: session id -> timeout in ms.
        rest: what came behind the end; empty before it.
        is_complete: whether the signature was met.
    """

    __slots__ = (
        "_acl_entries",
        "_acl_id",
        "_entries_left",
        "_held",
        "_length_max",
        "_lists_left",
        "_nodes",
        "_offset",
        "_pieces",
        "_sessions_left",
        "_stage",
        "_wanted",
        "is_complete",
        "rest",
        "sessions",
        "tree",
    )

    def __init__(self, owners: OwnerRules, digest_enabled: bool, length_max: int = LENGTH_MAX) -> None:
        """`length_max` limits paths, data and the texts of ACLs, in bytes."""
        self.tree = DataTree.bare(owners, digest_enabled)
        self.sessions: dict[int, int] = {}
        self.rest = b""
        self.is_complete = False
        self._length_max = length_max
        self._sessions_left = self._lists_left = self._entries_left = 0
        self._acl_id = 0
        self._acl_entries: list[ACL] = []
        self._nodes: NodeReader | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._offset = 0  # of the first byte held
        # A stage takes what is complete and notes how many bytes it, or the next one, needs from there on. Not bound:
        # a stream that referred to itself would keep its tree until garbage is collected.
        self._stage: Callable[[SnapshotStream, bytes, int], int] = SnapshotStream._take_session_count
        self._wanted = 4

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True when the stream is complete.

        Raises:
            DecodeError: this is no such stream; it must not be fed again.
        """
        assert not self.is_complete
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._wanted:
            return False
        held = b"".join(self._pieces)
        try:
            position = self._take(held)
        except (DecodeError, ValueError, LookupError) as error:
            raise DecodeError(f"snapshot stream, behind offset {self._offset}: {error}") from error
        return self._keep(held[position:], position)

    def _take(self, held: bytes) -> int:
        position = 0
        while not self.is_complete and len(held) - position >= self._wanted:
            position = self._stage(self, held, position)
        return position

    def _keep(self, left: bytes, taken: int) -> bool:
        self._offset += taken
        if self.is_complete:
            self.rest = left
            left = b""
        self._pieces = [left]
        self._held = len(left)
        return self.is_complete

    # -- stages, in order

    def _take_session_count(self, held: bytes, position: int) -> int:
        self._sessions_left = _count(held, position)
        self._next(SnapshotStream._take_sessions, 0)
        return position + 4

    def _take_sessions(self, held: bytes, position: int) -> int:
        count = min(self._sessions_left, (len(held) - position) // _session.size)
        end = position + count * _session.size
        self.sessions.update(_session.iter_unpack(held[position:end]))
        self._sessions_left -= count
        if self._sessions_left:
            self._wanted = _session.size
        else:
            self._next(SnapshotStream._take_list_count, 4)
        return end

    def _take_list_count(self, held: bytes, position: int) -> int:
        self._lists_left = _count(held, position)
        self._next_list()
        return position + 4

    def _take_list_head(self, held: bytes, position: int) -> int:
        (self._acl_id,) = _long.unpack_from(held, position)
        self._entries_left = _count(held, position + 8)
        self._acl_entries = []
        self._next(SnapshotStream._take_list, 0)
        return position + 12

    def _take_list(self, held: bytes, position: int) -> int:
        while self._entries_left:
            self._wanted = self._acl_size(held, position)
            if self._wanted > len(held) - position:
                return position
            entry, position = decode_acl(held, position)
            self._acl_entries.append(entry)
            self._entries_left -= 1
        self.tree.acls.load(self._acl_id, self._acl_entries)
        self._lists_left -= 1
        self._next_list()
        return position

    def _take_nodes(self, held: bytes, position: int) -> int:
        nodes = self._nodes
        if nodes is None:  # only now are all ACL lists there
            nodes = self._nodes = NodeReader(self.tree, self._length_max)
        position = nodes.read(held, position)
        if nodes.is_complete:
            self._next(SnapshotStream._take_signature, len(SIGNATURE))
        else:
            self._wanted = self._node_size(held, position)
        return position

    def _take_signature(self, held: bytes, position: int) -> int:
        end = position + len(SIGNATURE)
        if held[position:end] != SIGNATURE:
            raise ValueError("the signature at the end is another one")
        self.is_complete = True
        return end

    def _next(self, stage: Callable[[SnapshotStream, bytes, int], int], wanted: int) -> None:
        self._stage = stage
        self._wanted = wanted

    def _next_list(self) -> None:
        if self._lists_left:
            self._next(SnapshotStream._take_list_head, 12)
        else:
            self._next(SnapshotStream._take_nodes, 4)

    # -- sizes of what may not be there yet: of as much of it as can be told

    def _acl_size(self, held: bytes, position: int) -> int:
        size = 8  # permissions, length of the scheme
        for _ in range(2):
            if len(held) - position < size:
                break
            size += self._length(held, position + size - 4) + 4
        else:
            size -= 4
        return size

    def _node_size(self, held: bytes, position: int) -> int:
        if len(held) - position < 4:
            return 4
        size = 4 + self._length(held, position) + 4
        if len(held) - position < size:
            return size
        return size + self._length(held, position + size - 4) + _STAT_SIZE

    def _length(self, held: bytes, position: int) -> int:
        """A length that is announced; that of null is 0."""
        (length,) = _int.unpack_from(held, position)
        if not -1 <= length <= self._length_max:
            raise ValueError(f"a length of {length} bytes")
        return max(int(length), 0)


def _count(held: bytes, position: int) -> int:
    (count,) = _int.unpack_from(held, position)
    if count < 0:
        raise ValueError(f"a count of {count}")
    return int(count)
