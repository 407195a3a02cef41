"""What becomes of a reconfig request: the next membership, or the error it deserves.

Pure: the request, the memberships that count now and the servers that are in sync give the answer, in the order of Apache's
checks (the reconfig case of PrepRequestProcessor, 3.9.5). Knows no znode, no ACL and no txn; `prep` does the rest.

Two differences from Apache, which compares what the names of servers resolve to: two servers clash here when they name the
same host and port, whether or not the name can be resolved, and do not when two names lead to one address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from zkpy.core.errors import KeeperError
from zkpy.core.membership import (
    Membership,
    MembershipError,
    MembershipNumberError,
    parse_member,
    parse_membership_text,
    parse_server_id,
)
from zkpy_protocol.opcodes import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from zkpy.core.membership import EnsembleView, Member
    from zkpy_protocol.records import ReconfigRequest

ANY_CONFIG = -1

# What Java's String.trim takes off.
_BLANK = "".join(map(chr, range(0x21)))


class Ensemble(Protocol):
    """What a leader knows that decides about a reconfig, and who is told of one."""

    @property
    def view(self) -> EnsembleView:
        """The committed and the last seen membership."""

    @property
    def standalone_enabled(self) -> bool:
        """As configured: an ensemble may then not shrink to one voter."""

    @property
    def multi_address_enabled(self) -> bool:
        """As configured: a server may then have several addresses."""

    def synced(self) -> AbstractSet[int]:
        """Ids of this server and of the learners that are connected and in sync, those that came as observers left out."""

    def reconfigured(self, membership: Membership) -> None:
        """A reconfig is about to be proposed: `membership`, whose version is the zxid, is the last seen one from now on."""


def next_membership(request: ReconfigRequest, ensemble: Ensemble, zxid: int) -> Membership:
    """The membership that a request asks for, with `zxid` as its version.

    Raises:
        KeeperError: RECONFIGINPROGRESS, BADVERSION, BADARGUMENTS, MARSHALLINGERROR (numbers, and too few participants beside
            observers; Compat) or NEWCONFIGNOQUORUM, the first of these that applies.
    """
    view = ensemble.view
    last_seen = view.last_seen
    if last_seen.version != view.committed.version:
        raise KeeperError(ErrorCode.RECONFIGINPROGRESS)
    if request.cur_config_id not in (ANY_CONFIG, last_seen.version):
        raise KeeperError(ErrorCode.BADVERSION)
    try:
        if request.new_members is not None:
            # A comma stands for the end of a line.
            membership = parse_membership_text(
                request.new_members.replace(",", "\n"), multi_address_enabled=ensemble.multi_address_enabled
            )
            _check_observers(membership, standalone_enabled=ensemble.standalone_enabled)
        else:
            membership = _changed(last_seen, request, ensemble.multi_address_enabled)
    except MembershipNumberError:
        raise KeeperError(ErrorCode.MARSHALLINGERROR) from None
    except MembershipError:
        raise KeeperError(ErrorCode.BADARGUMENTS) from None
    if len(membership.participants) < (2 if ensemble.standalone_enabled else 1):
        raise KeeperError(ErrorCode.BADARGUMENTS)
    if not membership.verifier.is_quorum(ensemble.synced()):
        raise KeeperError(ErrorCode.NEWCONFIGNOQUORUM)
    return membership.with_version(zxid)


def _check_observers(membership: Membership, *, standalone_enabled: bool) -> None:
    """Compat: what Apache finds while it parses a whole membership, and has no configuration error for."""
    count = len(membership.participants)
    if count == 0 and (membership.observers or not standalone_enabled):
        raise KeeperError(ErrorCode.MARSHALLINGERROR)
    if count == 1 and standalone_enabled and membership.observers:
        raise KeeperError(ErrorCode.MARSHALLINGERROR)


def _changed(current: Membership, request: ReconfigRequest, multi_address_enabled: bool) -> Membership:
    """First `leaving_servers` go, whoever they are, then each of `joining_servers` comes or is replaced."""
    if current.is_hierarchical:
        raise KeeperError(ErrorCode.BADARGUMENTS)
    servers = dict(current.servers)
    for leaving in _split(request.leaving_servers, ","):
        servers.pop(parse_server_id(leaving), None)
    for joining in _split(request.joining_servers, ","):
        member = _joiner(joining, multi_address_enabled)
        taken = _socket_addresses(member)
        for server_id in sorted(servers):
            if server_id != member.server_id and not taken.isdisjoint(_socket_addresses(servers[server_id])):
                raise KeeperError(ErrorCode.BADARGUMENTS)
        servers[member.server_id] = member
    return Membership(dict(sorted(servers.items())))


def _joiner(text: str, multi_address_enabled: bool) -> Member:
    """`server.N=...`; Compat: only what follows the last dot before the equals sign counts."""
    parts = _split(text, "=")
    if len(parts) != 2:
        raise KeeperError(ErrorCode.BADARGUMENTS)
    server_id = parse_server_id(parts[0].rpartition(".")[2])
    member = parse_member(server_id, parts[1], multi_address_enabled=multi_address_enabled)
    if member.client is None:
        raise KeeperError(ErrorCode.BADARGUMENTS)
    return member


def _socket_addresses(member: Member) -> set[tuple[str, int]]:
    """Where a server listens, as far as another one could not listen there as well."""
    found: set[tuple[str, int]] = set()
    for address in member.addresses:
        found.add((_comparable(address.host), address.quorum_port))
        found.add((_comparable(address.host), address.election_port))
    if member.client is not None:
        found.add((_comparable(member.client.host), member.client.port))
    return {(host, port) for host, port in found if not _is_everywhere(host)}


def _comparable(host: str) -> str:
    return host.partition("%")[0].lower()


def _is_everywhere(host: str) -> bool:
    """A wildcard or loopback address means another place on every machine."""
    return host in {"0.0.0.0", "0:0:0:0:0:0:0:0", "0:0:0:0:0:0:0:1", "localhost"} or host.startswith("127.")  # noqa: S104


def _split(text: str | None, separator: str) -> list[str]:
    """Trimmed parts that are not empty."""
    return [part for whole in (text or "").split(separator) if (part := whole.strip(_BLANK))]
