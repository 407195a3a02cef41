"""Access control: interned lists, evaluation of a permission, fix-up of what clients send.

The core knows providers only through `AclProviders`; who authenticated a connection, and how, is not its
business. Rules: client protocol §12.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from zkpy.core.errors import KeeperError
from zkpy_protocol.opcodes import ErrorCode
from zkpy_protocol.records import ACL, Id, encode_acl
from zkpy_protocol.requests import read_acl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OPEN_ACL_ID: Final = -1
ALL_PERMS: Final = 31
_MASK32: Final = (1 << 32) - 1
_INT: Final = Struct(">i").pack
_NULL_VECTOR: Final = b"\xff\xff\xff\xff"


class AclProvider(Protocol):
    """What an authentication scheme contributes to ACL rules."""

    @property
    def is_authenticated(self) -> bool:
        """Whether ``auth:`` entries expand to ids of this scheme."""

    def is_valid(self, acl_id: str) -> bool:
        """Whether `acl_id` may stand in an ACL."""

    def matches(self, caller_id: str, acl_id: str) -> bool:
        """Whether a connection with `caller_id` is meant by `acl_id`."""

    def user_name(self, caller_id: str) -> str:
        """The part of an id that names the user (whoAmI, audit)."""


class AclProviders(Protocol):
    """The providers of a server by scheme."""

    def get(self, scheme: str) -> AclProvider | None:
        """The provider of `scheme`, None when the server has none."""


class AclList:
    """An interned list of ACL entries; nodes with equal lists share one object.

    Attributes:
        id: number in snapshots; -1 is the open ACL of the reserved nodes.
        uses: how many nodes have it; a list without users is not in the table, or leaves it.
        anyone: permissions granted to ``world:anyone``, the fast path of every check.
    """

    __slots__ = ("_encoded", "anyone", "entries", "id", "uses")

    def __init__(self, id_: int, entries: tuple[ACL, ...]) -> None:
        self.id = id_
        self.entries = entries
        self.uses = 0
        anyone = 0
        for entry in entries:
            if entry.id.scheme == "world" and entry.id.id == "anyone":
                anyone |= entry.perms
        # Apache allows everything on a node without entries.
        self.anyone = anyone if entries else -1
        self._encoded: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """The entries as a vector of the wire."""
        encoded = self._encoded
        if encoded is None:
            encoded = self._encoded = _INT(len(self.entries)) + b"".join(map(encode_acl, self.entries))
        return encoded


_Key = tuple[tuple[int, str | None, str | None], ...]


class AclTable:
    """All ACL lists of a tree, by content and by id, counted (ReferenceCountedACLCache)."""

    __slots__ = ("_by_id", "_by_key", "next_id", "open")

    def __init__(self) -> None:
        self.open = AclList(OPEN_ACL_ID, (ACL(ALL_PERMS, Id("world", "anyone")),))
        self._by_key: dict[_Key, AclList] = {}
        self._by_id: dict[int, AclList] = {}
        self.next_id = 1

    def intern(self, entries: Sequence[ACL] | None) -> AclList:
        """The shared list with these entries, in this order. The caller counts its use."""
        entries = entries or ()
        key = tuple([(entry.perms, entry.id.scheme, entry.id.id) for entry in entries])
        found = self._by_key.get(key)
        if found is None:
            found = self._register(self.next_id, key, tuple(entries))
            self.next_id += 1
        return found

    def view(self, entries: Sequence[ACL] | None) -> AclList:
        """A list with these entries that is not in the table unless it was already: for what may not happen."""
        entries = entries or ()
        key = tuple([(entry.perms, entry.id.scheme, entry.id.id) for entry in entries])
        found = self._by_key.get(key)
        return AclList(0, tuple(entries)) if found is None else found

    def shared(self, acl: AclList) -> AclList:
        """The list of the table for a `view`, which is older than the last change of the table. The caller counts its use."""
        return acl if acl.uses > 0 else self.intern(acl.entries)

    def load(self, id_: int, entries: Sequence[ACL]) -> None:
        """Take over an entry of a snapshot under the id it has there."""
        key = tuple([(entry.perms, entry.id.scheme, entry.id.id) for entry in entries])
        self._register(id_, key, tuple(entries))
        self.next_id = max(self.next_id, id_ + 1)

    def by_id(self, id_: int) -> AclList | None:
        """The list with this snapshot id, None when the snapshot names one that it does not define."""
        return self.open if id_ == OPEN_ACL_ID else self._by_id.get(id_)

    def release(self, acl: AclList) -> None:
        """One node less has this list."""
        acl.uses -= 1
        if acl.uses <= 0 and acl.id != OPEN_ACL_ID:
            self._forget(acl)

    def drop_unused(self) -> None:
        """Remove the entries of a snapshot that no node had."""
        for acl in [acl for acl in self._by_id.values() if acl.uses <= 0]:
            self._forget(acl)

    def entries(self) -> Iterable[AclList]:
        """All lists but the open one, in order of their ids."""
        return [self._by_id[id_] for id_ in sorted(self._by_id)]

    def _register(self, id_: int, key: _Key, entries: tuple[ACL, ...]) -> AclList:
        acl = AclList(id_, entries)
        self._by_key[key] = acl
        self._by_id[id_] = acl
        return acl

    def _forget(self, acl: AclList) -> None:
        if self._by_id.pop(acl.id, None) is None:
            return
        key = tuple([(entry.perms, entry.id.scheme, entry.id.id) for entry in acl.entries])
        if self._by_key.get(key) is acl:
            del self._by_key[key]


class RequestedAcl:
    """An ACL as it stands in a request.

    Attributes:
        entries: None for the null list.
        stored: the list that a node gets of it; None where that depends on who asks, and while it is unknown.
    """

    __slots__ = ("entries", "raw", "stored")

    def __init__(self, raw: bytes, entries: list[ACL] | None) -> None:
        self.raw = raw
        self.entries = entries
        self.stored: AclList | None = None


class AclReader:
    """Reads the ACLs of requests. Most have the same one as the request before, which is not read again."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = RequestedAcl(_NULL_VECTOR, None)

    def read(self, buf: bytes, pos: int) -> tuple[RequestedAcl, int]:
        """The ACL at `pos`, and the offset behind it.

        Raises:
            DecodeError: it is cut short.
        """
        last = self._last
        if not buf.startswith(last.raw, pos):
            entries, end = read_acl(buf, pos)
            last = self._last = RequestedAcl(buf[pos:end], entries)
        return last, pos + len(last.raw)


class AccessRules:
    """Decides whether the ids of a connection may do something, and what ACL a request really asks for."""

    __slots__ = ("_providers", "_skip")

    def __init__(self, providers: AclProviders, skip_acl: bool) -> None:
        self._providers = providers
        self._skip = skip_acl

    def allows(self, acl: AclList, perm: int, ids: Iterable[Id]) -> bool:
        """Whether one of `ids` has any of the bits of `perm` (client protocol §12.1)."""
        if acl.anyone & perm or self._skip:
            return True
        for caller in ids:
            if caller.scheme == "super":
                return True
        for entry in acl.entries:
            if not entry.perms & perm:
                continue
            scheme = entry.id.scheme
            provider = None if scheme is None else self._providers.get(scheme)
            if provider is None:
                continue
            for caller in ids:
                if caller.scheme == scheme and provider.matches(caller.id or "", entry.id.id or ""):
                    return True
        return False

    def fix_up(self, requested: Sequence[ACL] | None, ids: Iterable[Id]) -> list[ACL]:
        """The list to store: duplicates dropped, ``auth`` replaced by the caller's ids.

        Raises:
            KeeperError: INVALIDACL; MARSHALLINGERROR for a null id.
        """
        if not requested:
            raise KeeperError(ErrorCode.INVALIDACL)
        if len(requested) == 1:
            return self._fixed(requested[0], ids)
        # Duplicates of the whole list first: a null that is met there wins over an invalid entry before it.
        unique: list[ACL] = []
        for entry in requested:
            if not any(_same(entry, other) for other in unique):
                unique.append(entry)
        return [fixed for entry in unique for fixed in self._fixed(entry, ids)]

    @staticmethod
    def depends_on_caller(requested: Sequence[ACL] | None) -> bool:
        """Whether `fix_up` gives different lists to different callers."""
        return any(entry.id.scheme == "auth" for entry in requested or ())

    def _fixed(self, entry: ACL, ids: Iterable[Id]) -> list[ACL]:
        scheme = entry.id.scheme
        acl_id = entry.id.id
        if scheme == "world" and acl_id == "anyone":
            return [entry]
        if scheme == "auth":
            return self._expand(entry.perms, ids)
        provider = None if scheme is None else self._providers.get(scheme)
        if acl_id is None and (scheme == "world" or provider is not None):
            # Compat: Apache runs into the null, which ends as an unexpected error.
            raise KeeperError(ErrorCode.MARSHALLINGERROR)
        if provider is None or acl_id is None or not provider.is_valid(acl_id):
            raise KeeperError(ErrorCode.INVALIDACL)
        return [entry]

    def user_name(self, caller: Id) -> str:
        """How whoAmI shows an id; empty when its scheme has no provider (``super``)."""
        provider = None if caller.scheme is None else self._providers.get(caller.scheme)
        return "" if provider is None else provider.user_name(caller.id or "")

    def _expand(self, perms: int, ids: Iterable[Id]) -> list[ACL]:
        expanded = []
        for caller in ids:
            provider = None if caller.scheme is None else self._providers.get(caller.scheme)
            if provider is not None and provider.is_authenticated:
                expanded.append(ACL(perms, caller))
        if not expanded:
            raise KeeperError(ErrorCode.INVALIDACL)
        return expanded


def _same(entry: ACL, other: ACL) -> bool:
    """Whether two entries are equal. Compat: Apache compares field by field and runs into a null, if it gets there."""
    if entry.perms != other.perms:
        return False
    if entry.id.scheme is None:
        raise KeeperError(ErrorCode.MARSHALLINGERROR)
    if entry.id.scheme != other.id.scheme:
        return False
    if entry.id.id is None:
        raise KeeperError(ErrorCode.MARSHALLINGERROR)
    return entry.id.id == other.id.id


def in_hash_order(ids: Iterable[Id]) -> tuple[Id, ...]:
    """The identities of a connection in the order Apache lists them, each once.

    Compat: Apache keeps them in a Java hash set, and an ``auth`` entry of an ACL becomes one entry per identity
    in the order of that set. The order is that of the buckets, then of arrival.
    """
    distinct: list[Id] = []
    for id_ in ids:
        if id_ not in distinct:
            distinct.append(id_)
    buckets = 16
    while 4 * len(distinct) >= 3 * buckets:
        buckets *= 2
    return tuple(sorted(distinct, key=lambda id_: _bucket(id_) & (buckets - 1)))


def _bucket(id_: Id) -> int:
    mixed = (37 * (37 * 17 + _java_hash(id_.scheme or "")) + _java_hash(id_.id or "")) & _MASK32
    return mixed ^ mixed >> 16


def _java_hash(text: str) -> int:
    """``String.hashCode``, over UTF-16 units."""
    units = text.encode("utf-16-be", "surrogatepass")
    value = 0
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & _MASK32
    return value
