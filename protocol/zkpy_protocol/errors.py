"""The ways in which a peer can break the wire rules.

All of them are `ProtocolError`: the answer is to close the link (or, for a record that cannot be decoded behind a
readable request header, the error reply that ZooKeeper gives). Errors of legal requests are no business of this package.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer broke the rules of the wire; the text is meant for one log line."""


class DecodeError(ProtocolError):
    """A record is cut short or carries an impossible length. The only exception of every `decode_*` function."""


class FrameTooLarge(ProtocolError):  # noqa: N818  ZooKeeper's operators know the event, not an "Error"
    """A frame announces a negative length or more than the agreed limit."""
