"""The ensemble as a configuration names it: ``server.N``, ``group.N`` and ``weight.N`` lines.

Owns the text form of a member and the checks that need only the lines themselves. Whether this server is one of the
members, and whether it may run with them, is decided by whoever has the rest of the configuration.

Invariants of a ``Membership``: ids are the keys of ``servers``; with groups, every voting member is in exactly one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIXES = ("server.", "group.", "weight.")
_SERVER_FORM = (
    "expected host:quorumPort:electionPort[:participant|observer], several addresses joined by '|', "
    "and optionally ;[host:]clientPort"
)


class MembershipError(ValueError):
    """A line, or the lines together, name no usable ensemble; ``key`` is the line to look at."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class MemberAddress:
    """One of the addresses at which the other members reach a server."""

    host: str
    quorum_port: int
    election_port: int


@dataclass(frozen=True, slots=True)
class ClientAddress:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Member:
    server_id: int
    addresses: tuple[MemberAddress, ...]
    is_observer: bool = False
    client: ClientAddress | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """Who belongs to the ensemble, and the groups and weights of a hierarchical quorum."""

    servers: Mapping[int, Member] = field(default_factory=dict)
    groups: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    weights: Mapping[int, int] = field(default_factory=dict)
    version: int = 0

    @property
    def participants(self) -> tuple[int, ...]:
        return tuple(server_id for server_id, member in self.servers.items() if not member.is_observer)

    @property
    def observers(self) -> tuple[int, ...]:
        return tuple(server_id for server_id, member in self.servers.items() if member.is_observer)


def is_membership_key(key: str) -> bool:
    return key.startswith(_PREFIXES)


def parse_membership(lines: Mapping[str, str], version: int = 0) -> Membership:
    """Build the membership from keys and trimmed values; keys of other kinds are not expected here.

    Raises:
        MembershipError: a line cannot be read, or the groups do not fit the servers.
    """
    servers: dict[int, Member] = {}
    groups: dict[int, tuple[int, ...]] = {}
    weights: dict[int, int] = {}
    for key, value in lines.items():
        kind, _, number = key.partition(".")
        if not number.isascii() or not number.isdecimal():
            raise MembershipError(key, f"expected a number behind {kind!r} and the dot")
        try:
            if kind == "server":
                servers[int(number)] = _member(int(number), value)
            elif kind == "group":
                groups[int(number)] = tuple(_number(part) for part in value.split(":"))
            else:
                weights[int(number)] = _number(value)
        except ValueError as error:
            raise MembershipError(key, str(error)) from None
    membership = Membership(
        dict(sorted(servers.items())), dict(sorted(groups.items())), dict(sorted(weights.items())), version
    )
    if groups or weights:
        _check_groups(membership)
    return membership


def _check_groups(membership: Membership) -> None:
    group_of: dict[int, int] = {}
    for group, members in membership.groups.items():
        for server_id in members:
            if server_id in group_of:
                raise MembershipError(
                    f"group.{group}", f"server {server_id} is already in group {group_of[server_id]}"
                )
            if server_id not in membership.servers:
                raise MembershipError(f"group.{group}", f"there is no server.{server_id}")
            group_of[server_id] = group
    for server_id in membership.participants:
        if server_id not in group_of:
            raise MembershipError(
                f"server.{server_id}", "with group or weight lines every participant must be in a group"
            )


def _member(server_id: int, value: str) -> Member:
    addresses, semicolon, client = value.partition(";")
    parsed = [_address(part.strip()) for part in addresses.split("|")]
    if len({is_observer for _, is_observer in parsed}) > 1:
        raise ValueError("expected the same role, participant or observer, at every address")
    return Member(
        server_id,
        tuple(address for address, _ in parsed),
        is_observer=parsed[0][1],
        client=_client_address(client.strip()) if semicolon else None,
    )


def _address(value: str) -> tuple[MemberAddress, bool]:
    parts = _split_host(value)
    if len(parts) not in {3, 4} or not parts[0]:
        raise ValueError(_SERVER_FORM)
    role = parts[3].lower() if len(parts) == 4 else "participant"
    if role not in {"participant", "observer"}:
        raise ValueError(f"expected participant or observer, not {parts[3]!r}")
    address = MemberAddress(parts[0], _port(parts[1]), _port(parts[2]))
    if address.quorum_port == address.election_port:
        raise ValueError("expected the quorum port and the election port to differ")
    return address, role == "observer"


def _client_address(value: str) -> ClientAddress:
    """``port`` or ``host:port``."""
    parts = _split_host(value)
    if len(parts) > 2 or ";" in value:
        raise ValueError(_SERVER_FORM)
    return ClientAddress(parts[0] if len(parts) == 2 else "0.0.0.0", _port(parts[-1]))  # noqa: S104  Apache's default


def _split_host(value: str) -> list[str]:
    """Split at colons; an IPv6 host stands in brackets, which are taken off."""
    if not value.startswith("["):
        return value.split(":")
    host, bracket, rest = value[1:].partition("]")
    if not bracket or not rest.startswith(":"):
        raise ValueError(_SERVER_FORM)
    return [host, *rest[1:].split(":")]


def _port(value: str) -> int:
    number = _number(value)
    if not 0 < number <= 65535:
        raise ValueError(f"expected a port between 1 and 65535, not {value!r}")
    return number


def _number(value: str) -> int:
    if not value.isascii() or not value.isdecimal():
        raise ValueError(f"expected a whole number, not {value!r}")
    return int(value)
