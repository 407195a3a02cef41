"""Frames: an int length and that many bytes, cut out of a stream that arrives in arbitrary pieces.

Knows nothing of what frames contain. `feed` never raises: frames that were complete before the stream went bad are still
good, so they are returned and the reason waits in `error`.

Invariant: at most one frame of the agreed maximum and one piece of input are held, however slowly they trickle in; time
is linear in the bytes fed.
"""

from __future__ import annotations

from typing import Final

from librt.strings import read_i32_be

from zkpy_protocol.errors import FrameTooLarge

_LENGTH_SIZE: Final = 4


class FrameReader:
    """Incremental, bounded. `error` is set as soon as the four bytes of an impossible length are there."""

    __slots__ = ("_needed", "_tail", "error", "length_max")

    def __init__(self, length_max: int) -> None:
        self.length_max = length_max
        self.error: FrameTooLarge | None = None
        # The frame that is still incomplete, length included. A bytearray, because growing it by a small piece does not
        # copy what is there: a sender of single bytes must not cost us the square of his frame.
        self._tail = bytearray()
        self._needed = _LENGTH_SIZE  # so many bytes must be in the tail before it is worth looking at

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of all frames that are complete now. Once `error` is set everything else is dropped."""
        if self.error is not None:
            return []
        if self._tail:
            self._tail += data
            if len(self._tail) < self._needed:
                return []
            data = bytes(self._tail)
            self._tail.clear()
        frames: list[bytes] = []
        size = len(data)
        start = 0
        needed = _LENGTH_SIZE
        while size - start >= _LENGTH_SIZE:
            length: int = read_i32_be(data, start)
            if not 0 <= length <= self.length_max:
                self.error = FrameTooLarge(
                    f"frame of {length} bytes announced, at most {self.length_max} allowed"
                )
                return frames
            body = start + _LENGTH_SIZE
            end = body + length
            if end > size:
                needed = _LENGTH_SIZE + length
                break
            frames.append(data[body:end])
            start = end
        if start < size:
            self._tail += data[start:]
            self._needed = needed
        return frames
