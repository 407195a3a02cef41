"""Snapshots: the whole tree and the session table in one file, and which zxid it stands for.

    name = write_snapshot(fs, directory, tree, sessions, zxid, compression="")     # may run in a forked child
    stage_snapshot(...); name_snapshot(fs, directory, zxid, compression)           # the same in two steps
    tree, sessions, digest = load_snapshot(fs, path, owners, digest_enabled)       # SnapshotDamageError: take an older one

Format (on-disk format §4), numbers big endian::

    "ZKSN" · int 2 · long -1
    int n · n * (long session id · int timeout)
    int m · m * (long acl id · int k · k * (int perms · ustring scheme · ustring id))
    (ustring path · buffer data · long acl id · 60 bytes of Stat)*     parents first, the root is ""
    ustring "/" · SEAL                                                 part 1
    long zxid · int 2 · long digest · SEAL                             part 2, since 3.6
    long last processed zxid · SEAL                                    part 3, since 3.9
    SEAL = long Adler-32 of everything before it · ustring "/"

We write all parts while digests are on, else part 1 only: a reader that expects no digest, or does, would
misread what follows. Part 2 of a database without any txn is (0, 2, 0), as Apache writes it: "no digest".

The zxid is the one in the name. Our tree does not change while it is written (a forked child has its own copy), so that the
content is exactly that zxid; Apache's and a peer's snapshot may hold effects of later txns, and are replayed over.

What a crash leaves, and what makes it harmless: the file is written under a name that no server reads, synced, renamed,
and the directory synced. Before the rename is durable the file is there under either name; under its final
name it is complete. A leftover under the temporary name is removed at the next start. Between the two steps it counts for nothing.

Reading: the last seal covers all bytes before it, so it is checked before anything is parsed; nothing of
a damaged snapshot is ever used. (Apache reads first and checks then, and acts on what it has read.) Compression wraps the
whole stream; seals are over the uncompressed bytes.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from contextlib import suppress
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING
from zlib import adler32, crc32

from zkpy.core.acl import OPEN_ACL_ID
from zkpy.core.data_tree import DataTree, Node
from zkpy.core.paths import ROOT
from zkpy.core.types import wrap64
from zkpy.storage.errors import SnapshotDamageError
from zkpy.storage.names import TMP_SNAPSHOT, compression_of, snapshot_name, zxid_of
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.records import decode_acl, encode_acl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from zkpy.core.owners import OwnerRules
    from zkpy.storage.vfs import FileSystem
    from zkpy_protocol.records import ACL

DIGEST_VERSION = 2

_HEADER = b"ZKSN" + Struct(">iq").pack(2, -1)
END_OF_NODES = b"\0\0\0\1/"
_SEAL_SIZE = 8 + len(END_OF_NODES)
_PART_2 = Struct(">qiq")
_PART_3 = Struct(">q")
_TAIL_SIZE = 64  # holds every last part with the end of the seal before it
_int = Struct(">i")
_long = Struct(">q")
_session = Struct(">qi")
# acl id, czxid, mzxid, ctime, mtime, version, cversion, aversion, ephemeralOwner, pzxid
_stat = Struct(">qqqqqiiiqq")

_CHUNK = 1 << 20
_GZ_MAGIC = b"\x1f\x8b"
_SNAPPY_MAGIC = b"\x82SNAPPY\0"
_SNAPPY_HEADER = _SNAPPY_MAGIC + Struct(">ii").pack(1, 1)
_SNAPPY_BLOCK = 1 << 15


# -- writing


def write_snapshot(
    fs: FileSystem,
    directory: str,
    tree: DataTree,
    sessions: Mapping[int, int],
    zxid: int,
    compression: str = "",
) -> str:
    """Write a snapshot durably and return its name.

    Args:
        fs: the disk.
        directory: the version-2 directory of snapshots.
        tree: with everything up to `zxid` applied, and unchanging meanwhile.
        sessions: committed sessions and their timeouts.
        zxid: the last applied one.
        compression: ``gz``, ``snappy`` or empty.

    Raises:
        OSError: the disk is full, or worse; no other file was touched.
    """
    stage_snapshot(fs, directory, tree, sessions, zxid, compression)
    return name_snapshot(fs, directory, zxid, compression)


def stage_snapshot(
    fs: FileSystem, directory: str, tree: DataTree, sessions: Mapping[int, int], zxid: int, compression: str
) -> None:
    """Write a snapshot durably under the name that no server reads; arguments and errors of `write_snapshot`."""
    tmp = _staged(directory, zxid)
    try:
        file = fs.create(tmp)
        try:
            offset = synced = 0
            for chunk in _compressed(serialize(tree, sessions, zxid), compression):
                file.write(chunk, offset)
                offset += len(chunk)
                if offset - synced >= _CHUNK:
                    # Bit by bit: the log may be on the same disk, and its syncs would wait for all of it at once.
                    file.datasync()
                    synced = offset
            file.datasync()
        finally:
            file.close()
    except OSError:
        with suppress(OSError):  # the first error says more
            fs.unlink(tmp)
        raise


def name_snapshot(fs: FileSystem, directory: str, zxid: int, compression: str) -> str:
    """Give a staged snapshot its name, which is returned: from now on servers read it.

    Raises:
        OSError: the file is there under either name.
    """
    name = snapshot_name(zxid, compression)
    tmp = _staged(directory, zxid)
    try:
        fs.rename(tmp, f"{directory}/{name}")
        fs.sync_dir(directory)
    except OSError:
        with suppress(OSError):
            fs.unlink(tmp)
        raise
    return name


def _staged(directory: str, zxid: int) -> str:
    return f"{directory}/{TMP_SNAPSHOT}.{zxid:x}"


def serialize(tree: DataTree, sessions: Mapping[int, int], zxid: int) -> Iterator[bytes]:
    """The bytes of a snapshot in chunks of about a megabyte."""
    body = serialize_body(tree, sessions)
    adler = 1
    for chunk in chain([_HEADER + next(body)], body):
        adler = adler32(chunk, adler)
        yield chunk
    parts = []
    if tree.digest_enabled:
        parts = [_PART_2.pack(zxid, DIGEST_VERSION, tree.digest if zxid else 0), _PART_3.pack(zxid)]
    tail = _long.pack(adler) + END_OF_NODES
    for part in parts:
        tail += part
        tail += _long.pack(adler32(tail, adler)) + END_OF_NODES
    yield tail


def serialize_body(tree: DataTree, sessions: Mapping[int, int]) -> Iterator[bytes]:
    """What a snapshot and the stream to a learner share: sessions, ACL lists, nodes and the end of the nodes."""
    yield _tables(tree, sessions)
    yield from _nodes(tree)
    yield END_OF_NODES


def _tables(tree: DataTree, sessions: Mapping[int, int]) -> bytes:
    parts = [_int.pack(len(sessions))]
    parts += [_session.pack(session_id, sessions[session_id]) for session_id in sorted(sessions)]
    lists = list(tree.acls.entries())
    parts.append(_int.pack(len(lists)))
    for acl in lists:
        parts.append(_long.pack(acl.id) + _int.pack(len(acl.entries)))
        parts += [encode_acl(entry) for entry in acl.entries]
    return b"".join(parts)


def _nodes(tree: DataTree) -> Iterator[bytes]:
    # A node is put into the tree after its parent, and goes before it: the order of the table is parents first.
    pack_int = _int.pack
    pack_stat = _stat.pack
    null = pack_int(-1)
    parts: list[bytes] = []
    add = parts.append
    size = 0
    for path, node in tree.nodes.items():
        if path == "/":
            continue  # the root under its other name
        raw_path = path.encode()
        data = node.data
        add(pack_int(len(raw_path)))
        add(raw_path)
        if data is None:
            add(null)
        else:
            add(pack_int(len(data)))
            add(data)
            size += len(data)
        add(
            pack_stat(
                node.acl.id, node.czxid, node.mzxid, node.ctime, node.mtime,
                node.version, node.cversion, node.aversion, node.owner, node.pzxid,
            )
        )  # fmt: skip
        size += 160
        if size > _CHUNK:
            yield b"".join(parts)
            parts.clear()
            size = 0
    yield b"".join(parts)


def _compressed(chunks: Iterable[bytes], compression: str) -> Iterable[bytes]:
    if compression == "gz":
        return _gzipped(chunks)
    if compression == "snappy":
        return _snapped(chunks)
    assert not compression
    return chunks


def _gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    stream = zlib.compressobj(wbits=31)
    for chunk in chunks:
        yield stream.compress(chunk)
    yield stream.flush()


def _snapped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The framing of Java's SnappyOutputStream: a header, then blocks with their compressed length."""
    from cramjam import snappy

    yield _SNAPPY_HEADER
    for chunk in chunks:
        blocks = []
        for start in range(0, len(chunk), _SNAPPY_BLOCK):
            block = bytes(snappy.compress_raw(chunk[start : start + _SNAPPY_BLOCK]))
            blocks.append(_int.pack(len(block)) + block)
        yield b"".join(blocks)


# -- choosing


def end_zxid(fs: FileSystem, path: str) -> int | None:
    """The last txn whose effects may be in a snapshot, where it says so: at least the zxid in the name.

    Parts 2 and 3 tell what was applied when the writing ended, which may be long after it began (a fuzzy snapshot). None:
    there is neither (3.4 and 3.5, or digests off), or the file is not complete. Nothing is checked.
    """
    if compression_of(path):
        try:
            tail = _read_image(fs, path)[-_TAIL_SIZE:]
        except SnapshotDamageError:
            return None
    else:
        tail = fs.read(path, max(fs.size(path) - _TAIL_SIZE, 0))
    part_3 = len(tail) - _SEAL_SIZE - _PART_3.size
    if part_3 >= len(END_OF_NODES) and tail.endswith(END_OF_NODES, 0, part_3):
        return int(_PART_3.unpack_from(tail, part_3)[0])
    part_2 = len(tail) - _SEAL_SIZE - _PART_2.size
    if part_2 >= len(END_OF_NODES) and tail.endswith(END_OF_NODES, 0, part_2):
        zxid, version, _ = _PART_2.unpack_from(tail, part_2)
        return int(zxid) if version == DIGEST_VERSION else None
    return None


def looks_complete(fs: FileSystem, path: str) -> bool:
    """The quick check (on-disk format §4.2) that decides which snapshots are tried at all, and which purging counts."""
    compression = compression_of(path)
    if compression == "gz":
        return fs.read(path, 0, len(_GZ_MAGIC)) == _GZ_MAGIC
    if compression == "snappy":
        return fs.read(path, 0, len(_SNAPPY_MAGIC)) == _SNAPPY_MAGIC
    size = fs.size(path)
    return size >= 10 and fs.read(path, size - len(END_OF_NODES)) == END_OF_NODES


# -- reading


def load_snapshot(
    fs: FileSystem, path: str, owners: OwnerRules, digest_enabled: bool
) -> tuple[DataTree, dict[int, int], tuple[int, int] | None]:
    """Tree, sessions, and (zxid, digest) of part 2 where there is a comparable one.

    The tree's `last_zxid` is that of the name.

    Raises:
        SnapshotDamageError: the file is damaged, or holds what it must not; nothing of it is used.
    """
    image = _read_image(fs, path)
    sealed = len(image) - _SEAL_SIZE
    if sealed < len(_HEADER) or image[sealed + 8 :] != END_OF_NODES:
        raise SnapshotDamageError(path, max(sealed, 0), "the end is missing")
    if adler32(memoryview(image)[:sealed]) != _long.unpack_from(image, sealed)[0]:
        raise SnapshotDamageError(path, sealed, "the content does not match its checksum")
    if image[:4] != _HEADER[:4]:
        raise SnapshotDamageError(path, 0, "this is no snapshot")
    zxid = zxid_of(path.rpartition("/")[2], "snapshot")
    assert zxid is not None
    try:
        tree, sessions, part_2 = _parse(image, owners, digest_enabled)
    except (struct.error, DecodeError, ValueError, LookupError) as error:
        # The seal is right, so this was written like that, or it is a format of the future.
        raise SnapshotDamageError(path, 0, f"the content makes no sense: {error}") from error
    tree.last_zxid = zxid
    return tree, sessions, _usable_digest(image, part_2, zxid)


def _read_image(fs: FileSystem, path: str) -> bytes:
    raw = fs.read(path)
    compression = compression_of(path)
    if not compression:
        return raw
    try:
        return gzip.decompress(raw) if compression == "gz" else _unsnap(raw)
    except (OSError, EOFError, ValueError, zlib.error, struct.error) as error:
        raise SnapshotDamageError(path, 0, f"{compression}: {error}") from error


def _unsnap(raw: bytes) -> bytes:
    import cramjam

    decompress: Callable[[bytes], cramjam.Buffer] = cramjam.snappy.decompress_raw
    blocks = []
    position = len(_SNAPPY_HEADER)
    try:
        while position < len(raw):
            (size,) = _int.unpack_from(raw, position)
            position += 4
            if size <= 0 or position + size > len(raw):
                raise ValueError(f"a block of {size} bytes at offset {position}")
            blocks.append(bytes(decompress(raw[position : position + size])))
            position += size
    except cramjam.DecompressionError as error:
        raise ValueError(str(error)) from error
    return b"".join(blocks)


def _parse(image: bytes, owners: OwnerRules, digest_enabled: bool) -> tuple[DataTree, dict[int, int], int]:
    """Tree, sessions, and where part 1 ends."""
    position = len(_HEADER)
    (count,) = _int.unpack_from(image, position)
    position += 4
    sessions: dict[int, int] = {}
    for _ in range(count):
        session_id, timeout = _session.unpack_from(image, position)
        sessions[session_id] = timeout
        position += _session.size
    tree = DataTree.bare(owners, digest_enabled)
    (count,) = _int.unpack_from(image, position)
    position += 4
    for _ in range(count):
        (acl_id,) = _long.unpack_from(image, position)
        (length,) = _int.unpack_from(image, position + 8)
        position += 12
        entries: list[ACL] = []
        for _ in range(length):
            entry, position = decode_acl(image, position)
            entries.append(entry)
        tree.acls.load(acl_id, entries)
    nodes = NodeReader(tree, len(image))
    position = nodes.read(image, position)
    if not nodes.is_complete:
        raise ValueError("the end of the nodes is missing")
    return tree, sessions, position


class NodeReader:
    """Puts nodes into a bare tree whose ACL lists are loaded, from bytes that may come in pieces.

    A million nodes pass here while clients wait for the server: no record objects, and no call that is not needed.
    Equal numbers next to each other become one object, which makes a node a third smaller.

    Attributes:
        is_complete: the end of the nodes was met, and the tree is ready to be used.
    """

    __slots__ = ("_acls", "_count", "_data_size", "_digest", "_length_max", "_tree", "is_complete")

    def __init__(self, tree: DataTree, length_max: int) -> None:
        """`length_max` limits paths and data, in bytes."""
        self._tree = tree
        self._length_max = length_max
        self._acls = {acl.id: acl for acl in tree.acls.entries()}
        self._acls[OPEN_ACL_ID] = tree.acls.open
        self._count = 0
        self._digest = 0
        self._data_size = 0
        self.is_complete = False

    def read(self, image: bytes, position: int) -> int:
        """Take all nodes that are complete in `image` from `position` on; returns where it stopped: behind the end of
        the nodes, or at the node that needs more bytes.

        Raises:
            ValueError, LookupError: these are no nodes.
        """
        unpack_int = _int.unpack_from
        unpack_stat = _stat.unpack_from
        size = len(image)
        length_max = self._length_max
        tree = self._tree
        acls = self._acls
        nodes = tree.nodes
        # Compiled, __new__ runs the constructor and wants its arguments; plain, it ignores them.
        new_node: Callable[..., Node] = Node.__new__
        has_digest = tree.digest_enabled
        digest = self._digest
        data_size = self._data_size
        last_zxid = last_time = 0
        count = self._count
        while True:
            # Behind the last node there always is more than the two lengths ask for.
            if size - position < 4:
                break
            length: int = unpack_int(image, position)[0]
            if not 0 <= length <= length_max:
                raise ValueError(f"a path of {length} bytes")
            start = position + 4
            end = start + length
            if size - end < 4:
                break
            raw_path = image[start:end]
            if raw_path == b"/":
                self.is_complete = True
                position = end
                break
            (length,) = unpack_int(image, end)
            start = end + 4
            data: bytes | None = None
            if length >= 0:
                if length > length_max:
                    raise ValueError(f"data of {length} bytes")
                end = start + length
                if size - end < 68:
                    break
                data = image[start:end]
                start = end
                data_size += length
            elif length != -1:
                raise ValueError(f"data of {length} bytes")
            elif size - start < 68:
                break
            acl_id, czxid, mzxid, ctime, mtime, version, cversion, aversion, owner, pzxid = unpack_stat(
                image, start
            )
            path = raw_path.decode()
            acl = acls[acl_id]
            acl.uses += 1
            if czxid == last_zxid:
                czxid = last_zxid
            else:
                last_zxid = czxid
            if ctime == last_time:
                ctime = last_time
            else:
                last_time = ctime
            # Field by field: the constructor, followed by what it cannot know, takes twice as long.
            node = new_node(Node, data, acl, owner, czxid, ctime)
            node.data = data
            node.acl = acl
            node.owner = owner
            node.czxid = czxid
            node.mzxid = czxid if mzxid == czxid else mzxid
            node.pzxid = czxid if pzxid == czxid else pzxid
            node.ctime = ctime
            node.mtime = ctime if mtime == ctime else mtime
            node.version = version
            node.cversion = cversion
            node.aversion = aversion
            node.children = node.stat = node.digest = None
            if path:
                data_size += len(path)
                parent = nodes[path[: path.rindex("/")]]
                if parent.children is None:
                    parent.children = {path: None}
                else:
                    parent.children[path] = None
                nodes[path] = node
            else:
                nodes[ROOT] = nodes[""] = node
                data_size += 1
            if owner:
                tree.own(path, node)
            if has_digest and not path.startswith("/zookeeper/"):
                # The fields of the Stat in the digest's order.
                zxids = image[start + 8 : start + 24] + image[start + 60 : start + 68]
                digest += crc32(b"".join((raw_path, data or b"", zxids, image[start + 24 : start + 60])))
            position = start + 68
            count += 1
        self._count = count
        self._digest = digest
        self._data_size = data_size
        if self.is_complete:
            if count + 1 != len(nodes):  # which has two names of the root
                raise ValueError("a path occurs twice")
            tree.digest = wrap64(digest)
            tree.data_size = data_size
            tree.finish_load()
        return position


def _usable_digest(image: bytes, position: int, zxid: int) -> tuple[int, int] | None:
    """Part 2 behind the seal of part 1, unless it is missing, of another version, or older than the name says."""
    position += _SEAL_SIZE
    left = len(image) - position
    if left < _PART_2.size + _SEAL_SIZE:
        return None  # nothing, or part 3 alone
    digest_zxid, version, digest = _PART_2.unpack_from(image, position)
    if version != DIGEST_VERSION or digest_zxid < zxid or digest_zxid == 0:
        return None
    return digest_zxid, digest
