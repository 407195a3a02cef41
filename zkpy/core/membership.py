"""The ensemble as a configuration names it: ``server.N``, ``group.N`` and ``weight.N`` lines, and their version.

Owns the text form (quorum protocol §3.3) in both directions and the checks that need only the lines themselves: the same
lines stand in zoo.cfg, in dynamic files, in ``/zookeeper/config``, in election notifications and in reconfig requests.
Whether this server is one of the members, and whether it may run with them, is decided by whoever has the rest of the
configuration. An ``EnsembleView`` holds the two memberships that count while a reconfiguration is under way.

Invariants of a ``Membership``: ids are the keys of ``servers`` and ascend; with groups or weights, every voting member is
in exactly one group, every server of a group has a weight, and a group's servers ascend. A client address is the one of the
server line: what comes from ``clientPort`` in the static file is no part of the membership, so that it never gets into the
text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003  compiled, a dataclass looks its field types up
from dataclasses import dataclass, field, replace
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING

from zkpy.core.properties import PropertiesError, parse_properties
from zkpy.core.quorum_verifier import Hierarchical, Majority

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from zkpy.core.quorum_verifier import QuorumVerifier

_PREFIXES = ("server.", "group.", "weight.")
_SERVER_FORM = (
    "expected host:quorumPort:electionPort[:participant|observer], several addresses joined by '|', "
    "and optionally ;[host:]clientPort"
)
_LONG_MAX = 2**63 - 1
_INT_MAX = 2**31 - 1
_HEX = re.compile(r"[0-9a-fA-F]{1,16}")
_WEIGHT = re.compile(r"[0-9]{1,19}")
_ID = re.compile(r"[+-]?[0-9]{1,19}")
_PORT = re.compile(r"[+-]?[0-9]{1,10}")
_IPV4 = re.compile(r"[0-9]+(\.[0-9]+){0,3}")
# A host is written into a properties text as it is: nothing in it may end the line, need an escape or fail to encode.
_HOST = re.compile(r"[^\s\\\x00-\x1f\x7f\ud800-\udfff]+")


class MembershipError(ValueError):
    """A line, or the lines together, name no usable ensemble; ``key`` is the line to look at."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason


class MembershipNumberError(MembershipError):
    """A number that cannot be read, or a port out of range.

    Compat: for these Apache fails with another exception, and answers a reconfig with MARSHALLINGERROR instead of BADARGUMENTS.
    """


class _NumberError(ValueError):
    pass


@dataclass(frozen=True, slots=True)
class MemberAddress:
    """One of the addresses at which the other members reach a server."""

    host: str
    quorum_port: int
    election_port: int

    def text(self) -> str:
        return f"{_delimited(self.host)}:{self.quorum_port}:{self.election_port}"


@dataclass(frozen=True, slots=True)
class ClientAddress:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Member:
    """A server line. Addresses are sorted by host, without duplicates."""

    server_id: int
    addresses: tuple[MemberAddress, ...]
    is_observer: bool = False
    client: ClientAddress | None = None

    def text(self) -> str:
        """What stands behind ``server.N=``."""
        addresses = "|".join(address.text() for address in self.addresses)
        role = "observer" if self.is_observer else "participant"
        client = f";{_delimited(self.client.host)}:{self.client.port}" if self.client is not None else ""
        return f"{addresses}:{role}{client}"


@dataclass(frozen=True, slots=True)
class Membership:
    """Who belongs to the ensemble, and the groups and weights of a hierarchical quorum.

    ``version`` is the zxid of the reconfiguration that made it, 0 for a membership from a static file.
    """

    servers: Mapping[int, Member] = field(default_factory=dict)
    groups: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    weights: Mapping[int, int] = field(default_factory=dict)
    version: int = 0

    @classmethod
    def from_text(cls, text: str, *, multi_address_enabled: bool = True) -> Membership:
        """Read a configuration string, in which the order of the lines means nothing.

        Raises:
            MembershipError: it cannot be read, or names no server that votes. Nothing else is raised, whatever the text.
        """
        membership = parse_membership_text(text, multi_address_enabled=multi_address_enabled)
        if not membership.participants:
            raise MembershipError("server.N", "expected at least one participant")
        return membership

    @property
    def participants(self) -> tuple[int, ...]:
        return tuple(
            sorted(server_id for server_id, member in self.servers.items() if not member.is_observer)
        )

    @property
    def observers(self) -> tuple[int, ...]:
        return tuple(sorted(server_id for server_id, member in self.servers.items() if member.is_observer))

    @property
    def voters(self) -> frozenset[int]:
        return frozenset(self.participants)

    @property
    def is_hierarchical(self) -> bool:
        return bool(self.groups or self.weights)

    @property
    def verifier(self) -> QuorumVerifier:
        """A new quorum system of these members; there must be a participant."""
        if self.is_hierarchical:
            return Hierarchical(self.voters, self.groups, self.weights)
        return Majority(self.voters)

    def weight(self, server_id: int) -> int:
        """What the ack of a server weighs: 1 for each voter of a majority, 0 for a server that is not listed."""
        if self.is_hierarchical:
            return self.weights.get(server_id, 0)
        member = self.servers.get(server_id)
        return 1 if member is not None and not member.is_observer else 0

    def with_version(self, version: int) -> Membership:
        return replace(self, version=version)

    def is_same_as(self, other: Membership) -> bool:
        """Apache's equality: the version alone when it is the same, else everything but the version."""
        return self.version == other.version or self == replace(other, version=self.version)

    def lines(self) -> list[str]:
        """Everything but the version, in the order of Apache's text: servers, groups, weights, each by ascending number."""
        lines = [f"server.{server_id}={self.servers[server_id].text()}" for server_id in sorted(self.servers)]
        lines.extend(
            f"group.{group}={':'.join(map(str, self.groups[group]))}" for group in sorted(self.groups)
        )
        lines.extend(f"weight.{server_id}={self.weights[server_id]}" for server_id in sorted(self.weights))
        return lines

    def text(self) -> str:
        """The configuration string, without a newline at its end."""
        return "\n".join([*self.lines(), f"version={self.version:x}"])


class EnsembleView:
    """The memberships that decide: the committed one, and the last seen one as soon as its version is higher.

    Immutable; a new view is made when one of the two changes. Without a newer `last_seen` it equals `committed` here.
    """

    __slots__ = ("_verifiers", "_voters", "committed", "last_seen")

    def __init__(self, committed: Membership, last_seen: Membership | None = None) -> None:
        self.committed = committed
        self.last_seen = committed if last_seen is None else last_seen
        counted = (self.committed, self.last_seen) if self.is_reconfiguring else (self.committed,)
        self._verifiers = tuple(membership.verifier for membership in counted)
        self._voters = frozenset[int]().union(*(verifier.voters for verifier in self._verifiers))

    @property
    def is_reconfiguring(self) -> bool:
        """Whether a membership was proposed that is not committed yet."""
        return self.last_seen.version > self.committed.version

    def voters(self) -> frozenset[int]:
        """Every server whose vote counts in one of the memberships that decide."""
        return self._voters

    def verifiers(self) -> tuple[QuorumVerifier, ...]:
        """One quorum system, or two while a reconfiguration is under way."""
        return self._verifiers

    def is_quorum(self, acks: AbstractSet[int]) -> bool:
        """Whether the acks are enough for each membership that decides."""
        return all(verifier.is_quorum(acks) for verifier in self._verifiers)

    def weight(self, server_id: int) -> int:
        """The weight that a vote for a server is judged by: a voter of the last seen membership only has its weight there."""
        membership = self.committed if server_id in self.committed.voters else self.last_seen
        return membership.weight(server_id)

    def member(self, server_id: int) -> Member | None:
        """A server of either membership, as the committed one describes it if it can."""
        return self.committed.servers.get(server_id) or self.last_seen.servers.get(server_id)

    def addresses(self) -> dict[int, tuple[MemberAddress, ...]]:
        """Where every server of either membership may be, by ascending id; committed addresses come first."""
        found: dict[int, tuple[MemberAddress, ...]] = {}
        for server_id in sorted(self.committed.servers.keys() | self.last_seen.servers.keys()):
            members = (self.committed.servers.get(server_id), self.last_seen.servers.get(server_id))
            known = [address for member in members if member is not None for address in member.addresses]
            found[server_id] = tuple(dict.fromkeys(known))
        return found


def is_membership_key(key: str) -> bool:
    return key.startswith(_PREFIXES)


def parse_membership_text(text: str, *, multi_address_enabled: bool = True) -> Membership:
    """Read a configuration string that may be without participants, as the argument of a reconfig may be.

    Raises:
        MembershipError: a line cannot be read or is of no known kind, or the groups do not fit the servers.
    """
    try:
        lines = {key: value for key, (value, _) in parse_properties(text).items()}
    except PropertiesError as error:
        raise MembershipNumberError("", str(error)) from None
    version = lines.pop("version", "0")
    for key in sorted(lines):
        if not is_membership_key(key):
            reason = "expected only server, group, weight and version lines"
            # Compat: for Apache these two are a group and a weight with a number that cannot be read.
            if key.startswith(("group", "weight")):
                raise MembershipNumberError(key, reason)
            raise MembershipError(key, reason)
    if not _HEX.fullmatch(version) or int(version, 16) > _LONG_MAX:
        raise MembershipNumberError("version", f"expected a hexadecimal number, not {version!r}")
    return parse_membership(lines, int(version, 16), multi_address_enabled=multi_address_enabled)


def parse_membership(
    lines: Mapping[str, str], version: int = 0, *, multi_address_enabled: bool = True
) -> Membership:
    """Build the membership from keys and values; keys of other kinds are not expected here.

    Raises:
        MembershipError: a line cannot be read, or the groups do not fit the servers.
    """
    servers: dict[int, Member] = {}
    groups: dict[int, tuple[int, ...]] = {}
    weights: dict[int, int] = {}
    for key, value in lines.items():
        kind, _, number_text = key.partition(".")
        if not _is_id(number_text):
            raise MembershipNumberError(key, f"expected a number behind {kind!r} and the dot")
        number = int(number_text)
        if number in (servers if kind == "server" else groups if kind == "group" else weights):
            raise MembershipError(key, f"{kind}.{number} stands there twice")
        try:
            if kind == "server":
                servers[number] = _member(number, value, multi_address_enabled)
            elif kind == "group":
                groups[number] = tuple(sorted(_id(part) for part in _parts(value, ":")))
            else:
                weights[number] = _weight(value)
        except _NumberError as error:
            raise MembershipNumberError(key, str(error)) from None
        except ValueError as misfit:  # another name: compiled, a variable has one type
            raise MembershipError(key, str(misfit)) from None
    servers = dict(sorted(servers.items()))
    if groups or weights:
        _complete_groups(servers, groups, weights)
    return Membership(servers, dict(sorted(groups.items())), dict(sorted(weights.items())), version)


def parse_server_id(text: str) -> int:
    """The number of a server.

    Raises:
        MembershipNumberError: it is none, or has more than 64 bits.
    """
    if not _is_id(text):
        raise MembershipNumberError(f"server.{text}", "expected the number of a server")
    return int(text)


def parse_member(server_id: int, value: str, *, multi_address_enabled: bool = True) -> Member:
    """Read what stands behind ``server.N=``.

    Raises:
        MembershipError: it cannot be read.
    """
    key = f"server.{server_id}"
    try:
        return _member(server_id, value, multi_address_enabled)
    except _NumberError as error:
        raise MembershipNumberError(key, str(error)) from None
    except ValueError as misfit:
        raise MembershipError(key, str(misfit)) from None


def _member(server_id: int, value: str, multi_address_enabled: bool) -> Member:
    parts = _parts(value, ";")
    if len(parts) > 2:
        raise ValueError(_SERVER_FORM)
    parsed = [_address(part) for part in _parts(parts[0], "|")]
    if len(parsed) > 1 and not multi_address_enabled:
        raise ValueError("several addresses need multiAddress.enabled=true")
    roles = {role for _, role in parsed if role is not None}
    if len(roles) > 1:
        raise ValueError("expected the same role, participant or observer, at every address")
    return Member(
        server_id,
        tuple(sorted({address for address, _ in parsed}, key=_by_host)),
        is_observer=roles == {"observer"},
        client=_client_address(parts[1]) if len(parts) == 2 else None,
    )


def _complete_groups(
    servers: Mapping[int, Member], groups: Mapping[int, tuple[int, ...]], weights: dict[int, int]
) -> None:
    """Check that the groups fit the servers, and give every voter without a weight the weight 1."""
    group_of: dict[int, int] = {}
    for group, members in groups.items():
        for server_id in members:
            if server_id in group_of:
                raise MembershipError(
                    f"group.{group}", f"server {server_id} is already in group {group_of[server_id]}"
                )
            group_of[server_id] = group
    for server_id, member in servers.items():
        if not member.is_observer:
            if server_id not in group_of:
                raise MembershipError(
                    f"server.{server_id}", "with group or weight lines every participant must be in a group"
                )
            weights.setdefault(server_id, 1)
    for server_id, group in group_of.items():
        if server_id not in weights:
            # Apache runs into a missing weight here, which is none of its configuration errors.
            raise MembershipNumberError(
                f"group.{group}", f"server {server_id} neither votes nor has a weight"
            )


def _by_host(address: MemberAddress) -> tuple[str, int, int]:
    return (address.host, address.quorum_port, address.election_port)


def _address(value: str) -> tuple[MemberAddress, str | None]:
    parts = _split_host(value)
    if len(parts) not in {3, 4}:
        raise ValueError(_SERVER_FORM)
    role = parts[3].strip().lower() if len(parts) == 4 else None
    if role not in {None, "participant", "observer"}:
        raise ValueError(f"expected participant or observer, not {parts[3]!r}")
    address = MemberAddress(_host(parts[0]), _port(parts[1]), _port(parts[2]))
    if address.quorum_port == address.election_port:
        raise ValueError("expected the quorum port and the election port to differ")
    return address, role


def _client_address(value: str) -> ClientAddress:
    """``port`` or ``host:port``."""
    parts = _split_host(value)
    if len(parts) not in {1, 2}:
        raise ValueError(_SERVER_FORM)
    host = _host(parts[0]) if len(parts) == 2 else "0.0.0.0"  # noqa: S104  Apache's default
    return ClientAddress(host, _port(parts[-1]))


def _parts(value: str, separator: str) -> list[str]:
    """Split as Java does: empty parts at the end do not count, an empty text is one empty part."""
    parts = value.split(separator)
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    return parts


def _split_host(value: str) -> list[str]:
    """Split at colons; an IPv6 host stands in brackets, which are taken off."""
    if not value.startswith("["):
        return _parts(value, ":")
    host, bracket, rest = value[1:].partition("]")
    if not bracket or not rest.startswith(":"):
        raise ValueError(_SERVER_FORM)
    return [host, *_parts(rest[1:], ":")]


def _host(value: str) -> str:
    """A host name as it is, an IP address spelled as Java spells it."""
    if not _HOST.fullmatch(value):
        raise ValueError(_SERVER_FORM)
    return _ipv6(value) if ":" in value else _ipv4(value)


def _ipv6(value: str) -> str:
    """Eight groups without leading zeros; an IPv4 address that was mapped is one again."""
    literal, percent, scope = value.partition("%")
    try:
        address = IPv6Address(literal)
    except AddressValueError:
        raise ValueError(f"expected an IPv6 address in brackets, not {value!r}") from None
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    packed = address.packed
    groups = (f"{packed[at] << 8 | packed[at + 1]:x}" for at in range(0, 16, 2))
    return ":".join(groups) + percent + scope


def _ipv4(value: str) -> str:
    """Up to four decimal numbers, the last of which fills what is left; anything else is a name."""
    if len(value) > 15 or not _IPV4.fullmatch(value):
        return value
    *heads, last = (int(part) for part in value.split("."))
    rest = 4 - len(heads)
    if any(head > 255 for head in heads) or last >= 256**rest:
        return value
    return ".".join(map(str, [*heads, *last.to_bytes(rest, "big")]))


def _delimited(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port(value: str) -> int:
    """Compat: 0 is a port, as for Apache."""
    if not _PORT.fullmatch(value) or not -_INT_MAX - 1 <= int(value) <= _INT_MAX:
        raise ValueError(f"expected a port between 0 and 65535, not {value!r}")
    if not 0 <= int(value) <= 65535:
        raise _NumberError(f"expected a port between 0 and 65535, not {value!r}")
    return int(value)


def _is_id(value: str) -> bool:
    return _ID.fullmatch(value) is not None and -_LONG_MAX - 1 <= int(value) <= _LONG_MAX


def _id(value: str) -> int:
    if not _is_id(value):
        raise _NumberError(f"expected the number of a server, not {value!r}")
    return int(value)


def _weight(value: str) -> int:
    if not _WEIGHT.fullmatch(value) or int(value) > _LONG_MAX:
        raise _NumberError(f"expected a whole number, not {value!r}")
    return int(value)
