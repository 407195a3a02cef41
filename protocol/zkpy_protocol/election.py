"""Bytes of the election port: the initial message of a connection, then frames with one notification each.

Owns both layouts in every form that members from 3.4 on send. Knows no votes and no sockets; what a configuration text
means is not looked at here.

How a receiver treats what is wrong:
    * `parse_initial_message` raises: the connection is closed without an answer.
    * a frame of `FRAME_MAX` bytes or more announced, or of none: the connection is closed (`zkpy_protocol.framing`).
    * `decode_notification` raises: this message is dropped and the connection is kept.
"""

from __future__ import annotations

import ipaddress
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from zkpy_protocol.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME_MAX = 512 * 1024
"""Bytes of the largest frame that is taken."""
INITIAL_ADDRESS_MAX = 2048
"""Bytes of the address text in an initial message."""
PROTOCOL_ONE_ADDRESS = -65536
"""First word of an initial message with one address; what every member since 3.5 reads."""
PROTOCOL_ADDRESSES = -65535
"""The same with several addresses; since 3.6."""
OBSERVER_SERVER_ID = (1 << 63) - 1
"""Stands for an observer that has no id of its own."""
NOTIFICATION_VERSION = 2
"""Since 3.5: a configuration follows."""

_VERSION_WITHOUT_CONFIG = 1  # what 3.4.6 wrote, and nobody reads
_LENGTH_WITHOUT_PEER_EPOCH = 28  # before 3.4
_LENGTH_WITHOUT_CONFIG = 40  # 3.4.6 to 3.4.14
_EPOCH_SHIFT = 32

_vote = Struct(">iqqq")
_long = Struct(">q")
_int = Struct(">i")
_head = Struct(">iqqqqi")
_initial_head = Struct(">qqi")


class ServerState:
    """First word of a notification: what its sender is doing."""

    LOOKING = 0
    FOLLOWING = 1
    LEADING = 2
    OBSERVING = 3


class Notification:
    """What a server says about its vote. Not changed after it was made.

    Attributes:
        state: of the sender; one of ``ServerState``, or a number that nobody knows.
        leader: server id that the sender votes for.
        zxid: of that vote.
        election_epoch: the sender's round.
        peer_epoch: of that vote.
        version: of the format; 0 for the forms of 3.4 and before.
        config: text of the sender's committed configuration; None when there is none or it is not UTF-8.
    """

    __slots__ = ("config", "election_epoch", "leader", "peer_epoch", "state", "version", "zxid")

    def __init__(
        self,
        state: int,
        leader: int,
        zxid: int,
        election_epoch: int,
        peer_epoch: int,
        version: int = NOTIFICATION_VERSION,
        config: str | None = None,
    ) -> None:
        self.state = state
        self.leader = leader
        self.zxid = zxid
        self.election_epoch = election_epoch
        self.peer_epoch = peer_epoch
        self.version = version
        self.config = config

    def __repr__(self) -> str:
        return (
            f"Notification(state={self.state}, leader={self.leader}, zxid={self.zxid:#x}, "
            f"election_epoch={self.election_epoch}, peer_epoch={self.peer_epoch}, version={self.version})"
        )


def encode_notification(notification: Notification) -> bytes:
    """Content of a frame. Without a configuration it has the form of 3.4, which no receiver can stumble over."""
    version = notification.version
    config = notification.config
    has_config = version >= NOTIFICATION_VERSION and config is not None
    head = _head.pack(
        notification.state,
        notification.leader,
        notification.zxid,
        notification.election_epoch,
        notification.peer_epoch,
        version if has_config else _VERSION_WITHOUT_CONFIG,
    )
    if not has_config:
        return head
    assert config is not None
    text = config.encode()
    return b"".join((head, _int.pack(len(text)), text))


def frame_notification(notification: Notification) -> bytes:
    """A whole frame, length included."""
    content = encode_notification(notification)
    return _int.pack(len(content)) + content


def decode_notification(content: bytes) -> Notification:
    """Read the content of a frame; its length tells the forms apart, bytes behind the configuration are left alone.

    Raises:
        DecodeError: too short, or the configuration's length cannot be: the message is to be dropped.
    """
    size = len(content)
    if size < _LENGTH_WITHOUT_PEER_EPOCH:
        raise DecodeError(f"a notification of {size} bytes")
    state, leader, zxid, election_epoch = _vote.unpack_from(content)
    if size == _LENGTH_WITHOUT_PEER_EPOCH:
        return Notification(state, leader, zxid, election_epoch, zxid >> _EPOCH_SHIFT, version=0)
    position = _LENGTH_WITHOUT_PEER_EPOCH
    if size < _LENGTH_WITHOUT_CONFIG:
        raise DecodeError(f"a notification of {size} bytes")
    (peer_epoch,) = _long.unpack_from(content, position)
    if size == _LENGTH_WITHOUT_CONFIG:  # whatever the word for the version says
        return Notification(state, leader, zxid, election_epoch, peer_epoch, version=0)
    (version,) = _int.unpack_from(content, position + _long.size)
    config = None
    if version >= NOTIFICATION_VERSION:
        config = _decode_config(content, _LENGTH_WITHOUT_CONFIG)
    return Notification(state, leader, zxid, election_epoch, peer_epoch, version, config)


def _decode_config(content: bytes, position: int) -> str | None:
    start = position + _int.size
    if len(content) < start:
        raise DecodeError(f"a notification of {len(content)} bytes")
    (length,) = _int.unpack_from(content, position)
    if not 0 <= length <= len(content) - start:
        raise DecodeError(f"a configuration of {length} bytes in a notification of {len(content)}")
    try:
        return content[start : start + length].decode()
    except UnicodeDecodeError:  # members up to 3.9.3 write it in the charset of their machine
        return None


class InitialMessage(NamedTuple):
    """Who has dialled, and at which of its addresses it can be dialled back; none when it named only wildcards."""

    server_id: int
    addresses: tuple[tuple[str, int], ...]


def encode_initial_message(
    server_id: int, addresses: Sequence[tuple[str, int]], *, multi_address: bool = False
) -> bytes:
    """The first bytes of a connection, to be sent in one write: Apache takes the address with a single read.

    Only the first address is named unless `multi_address`, which members before 3.6 do not understand.
    """
    named = addresses if multi_address else addresses[:1]
    text = "|".join(_format_address(host, port) for host, port in named).encode()
    protocol = PROTOCOL_ADDRESSES if multi_address else PROTOCOL_ONE_ADDRESS
    return _initial_head.pack(protocol, server_id, len(text)) + text


def parse_initial_message(buffer: bytes | bytearray) -> tuple[InitialMessage, int] | None:
    """Look for an initial message at the start of what has arrived.

    Returns:
        the message and how many bytes it took, or None while it is incomplete, for which at most
        20 + `INITIAL_ADDRESS_MAX` bytes are needed.

    Raises:
        DecodeError: as soon as the bytes cannot become an initial message: the connection is to be closed.
    """
    if len(buffer) < _long.size:
        return None
    (protocol,) = _long.unpack_from(buffer)
    if protocol >= 0:  # 3.4: the word is the server id, and nothing follows
        return InitialMessage(protocol, ()), _long.size
    if protocol not in {PROTOCOL_ONE_ADDRESS, PROTOCOL_ADDRESSES}:
        raise DecodeError(f"an initial message of protocol {protocol}")
    if len(buffer) < _initial_head.size:
        return None
    _, server_id, length = _initial_head.unpack_from(buffer)
    if not 0 < length <= INITIAL_ADDRESS_MAX:
        raise DecodeError(f"an address of {length} bytes in an initial message")
    end = _initial_head.size + length
    if len(buffer) < end:
        return None
    text = bytes(buffer[_initial_head.size : end]).decode("utf-8", "replace")
    return InitialMessage(server_id, _parse_addresses(text)), end


def _format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_addresses(text: str) -> tuple[tuple[str, int], ...]:
    parts = text.split("|")
    while parts and not parts[-1]:  # Java's split drops what is empty at the end
        parts.pop()
    addresses = (_parse_address(part) for part in parts)
    return tuple((host, port) for host, port in addresses if not _is_wildcard(host))


def _parse_address(text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]:")
    else:
        host, bracket, rest = text.partition(":")
    port = int(rest) if rest.isascii() and rest.isdecimal() and len(rest) <= len("65535") else 0
    if not host or not bracket or not 0 < port <= 65535:
        raise DecodeError(f"an address that is not host:port in an initial message: {text[:80]!r}")
    return host, port


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
