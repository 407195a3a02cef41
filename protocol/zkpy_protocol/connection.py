"""The server's side of one client link, seen as bytes in and events out.

    first four bytes ──► a known word ──────────────► FourLetterWord, then nothing more
                     └─► a length ──► first frame ──► ConnectRequest, then nothing until `resume`
                                                      later frames ──► their bodies, as bytes

Owns what may come when on a link. Does not know sessions, opcodes, replies or sockets, and makes no object per request:
after the connect an event is the frame's body itself (the server closes the link when it is too short for a header).

Invariants: `receive` never raises; when the peer breaks a rule, what was complete before is still returned and `error`
holds the reason, which ends the link. Nothing is delivered after a word, after an error, or between the ConnectRequest
and `resume`; in the last case bytes are kept, so whoever feeds this object stops reading until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zkpy_protocol.errors import DecodeError, FrameTooLarge, ProtocolError
from zkpy_protocol.framing import FrameReader
from zkpy_protocol.records import ConnectRequest, decode_connect_request

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_LENGTH_SIZE = 4

_HTTP = frozenset((b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI "))
_TLS_HANDSHAKE = b"\x16\x03"

# Phases of a link, in this order.
_OPENING = 0
_CONNECTING = 1
_CONNECTED = 2
_ENDED = 3


class FourLetterWord(NamedTuple):
    """An operator's command instead of a session. `trailing` is what came with it in the same piece."""

    word: bytes
    trailing: bytes


Event = FourLetterWord | ConnectRequest | bytes


class ServerConnection:
    """Feed `receive` with what the socket gives, handle the events in order, then look at `error`.

    `words` are the four letter words that are looked for in place of the first length.
    """

    __slots__ = ("_held", "_phase", "_reader", "_words", "error")

    def __init__(self, frame_max: int, words: Collection[bytes]) -> None:
        self.error: ProtocolError | None = None
        self._words = words
        self._reader = FrameReader(frame_max)
        self._phase = _OPENING
        # Until the ConnectRequest is complete: what is there of it. Then, until `resume`: what came behind it. Bounded by
        # one frame and one piece of input, as the reader is.
        self._held = bytearray()

    def receive(self, data: bytes) -> Sequence[Event]:
        """The events that `data` completes."""
        if self._phase == _CONNECTED:
            return self._frames(data)
        if self._phase == _ENDED:
            return ()
        self._held += data
        if self._phase == _OPENING and len(self._held) >= _LENGTH_SIZE:
            word = bytes(self._held[:_LENGTH_SIZE])
            if word in self._words:
                self._phase = _ENDED
                return (FourLetterWord(word, bytes(self._held[_LENGTH_SIZE:])),)
            return self._connect(word)
        return ()

    def resume(self) -> Sequence[bytes]:
        """The session is set up: deliver the frames that are there already, and from now on each when it is complete."""
        assert self._phase == _CONNECTING
        self._phase = _CONNECTED
        data = bytes(self._held)
        self._held.clear()
        return self._frames(data)

    def _frames(self, data: bytes) -> Sequence[bytes]:
        frames = self._reader.feed(data)
        if self._reader.error is not None:
            self._fail(self._reader.error)
        return frames

    def _connect(self, start: bytes) -> Sequence[Event]:
        length = int.from_bytes(start, "big", signed=True)
        if not 0 <= length <= self._reader.length_max:
            return self._fail(FrameTooLarge(_explain(start, length, self._reader.length_max)))
        end = _LENGTH_SIZE + length
        if len(self._held) < end:
            return ()
        try:
            request, _ = decode_connect_request(bytes(self._held[_LENGTH_SIZE:end]))
        except DecodeError as error:
            return self._fail(error)
        self._phase = _CONNECTING
        del self._held[:end]
        return (request,)

    def _fail(self, error: ProtocolError) -> Sequence[Event]:
        self.error = error
        self._phase = _ENDED
        self._held.clear()
        return ()


def _explain(start: bytes, length: int, length_max: int) -> str:
    """Why four bytes cannot open a link, for an operator who wonders who is knocking."""
    if start in _HTTP:
        return "an HTTP request on the client port"
    if start.startswith(_TLS_HANDSHAKE):
        return "a TLS handshake on the plain client port"
    if start.isalpha():
        return f"unknown four letter word {start.decode('ascii')!r}"
    return f"first frame of {length} bytes announced, at most {length_max} allowed"
