"""Snapshots: the whole tree and the session table in one file, and which zxid it stands for.

    name = write_snapshot(fs, directory, tree, sessions, zxid, compression="")     # may run in a forked child
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
name it is complete. A leftover under the temporary name is removed at the next start.

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
_END = b"\0\0\0\1/"
_SEAL_SIZE = 8 + len(_END)
_PART_2 = Struct(">qiq")
_PART_3 = Struct(">q")
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
    name = snapshot_name(zxid, compression)
    tmp = f"{directory}/{TMP_SNAPSHOT}.{zxid:x}"
    try:
        file = fs.create(tmp)
        try:
            offset = 0
            for chunk in _compressed(serialize(tree, sessions, zxid), compression):
                file.write(chunk, offset)
                offset += len(chunk)
            file.datasync()
        finally:
            file.close()
        fs.rename(tmp, f"{directory}/{name}")
        fs.sync_dir(directory)
    except OSError:
        with suppress(OSError):  # the first error says more
            fs.unlink(tmp)
        raise
    return name


def serialize(tree: DataTree, sessions: Mapping[int, int], zxid: int) -> Iterator[bytes]:
    """The bytes of a snapshot in chunks of about a megabyte: for a file, or for a learner that needs everything."""
    adler = 1
    for chunk in chain([_head(tree, sessions)], _nodes(tree), [_END]):
        adler = adler32(chunk, adler)
        yield chunk
    parts = []
    if tree.digest_enabled:
        parts = [_PART_2.pack(zxid, DIGEST_VERSION, tree.digest if zxid else 0), _PART_3.pack(zxid)]
    tail = _long.pack(adler) + _END
    for part in parts:
        tail += part
        tail += _long.pack(adler32(tail, adler)) + _END
    yield tail


def _head(tree: DataTree, sessions: Mapping[int, int]) -> bytes:
    parts = [_HEADER, _int.pack(len(sessions))]
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


def looks_complete(fs: FileSystem, path: str) -> bool:
    """The quick check (on-disk format §4.2) that decides which snapshots are tried at all, and which purging counts."""
    compression = compression_of(path)
    if compression == "gz":
        return fs.read(path, 0, len(_GZ_MAGIC)) == _GZ_MAGIC
    if compression == "snappy":
        return fs.read(path, 0, len(_SNAPPY_MAGIC)) == _SNAPPY_MAGIC
    size = fs.size(path)
    return size >= 10 and fs.read(path, size - len(_END)) == _END


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
    if sealed < len(_HEADER) or image[sealed + 8 :] != _END:
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
    position = _parse_nodes(image, position, tree)
    tree.finish_load()
    return tree, sessions, position


def _parse_nodes(image: bytes, position: int, tree: DataTree) -> int:
    """Add all nodes to the tree; returns the position of the first seal.

    A million nodes pass here while clients wait for the server: no record objects, and no call that is not needed.
    Equal numbers next to each other become one object, which makes a node a third smaller.
    """
    unpack_int = _int.unpack_from
    unpack_stat = _stat.unpack_from
    acls = {acl.id: acl for acl in tree.acls.entries()}
    acls[OPEN_ACL_ID] = tree.acls.open
    nodes = tree.nodes
    # Compiled, __new__ runs the constructor and wants its arguments; plain, it ignores them.
    new_node: Callable[..., Node] = Node.__new__
    has_digest = tree.digest_enabled
    digest = data_size = last_zxid = last_time = 0
    count = 0
    while True:
        count += 1  # with the end, as `nodes` with the two names of the root
        length: int = unpack_int(image, position)[0]
        position += 4
        end = position + length
        raw_path = image[position:end]
        if raw_path == b"/":
            break
        (length,) = unpack_int(image, end)
        position = end + 4
        data: bytes | None = None
        if length >= 0:
            end = position + length
            data = image[position:end]
            data_size += length
            position = end
        # Raises when the file ends before here, whatever the lengths said.
        acl_id, czxid, mzxid, ctime, mtime, version, cversion, aversion, owner, pzxid = unpack_stat(
            image, position
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
            zxids = image[position + 8 : position + 24] + image[position + 60 : position + 68]
            digest += crc32(b"".join((raw_path, data or b"", zxids, image[position + 24 : position + 60])))
        position += 68
    if count != len(nodes):
        raise ValueError("a path occurs twice")
    tree.digest = wrap64(digest)
    tree.data_size = data_size
    return end


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
