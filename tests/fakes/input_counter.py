"""What a stand-in for the driver of `client_server` does with input, apart from carrying it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.leading import LeadingService
    from zkpy.core.link import ClientLink


class InputCounter(ABC):
    """Counts, and offers frames to the service or to its throttle."""

    service: LeadingService
    bytes_received = 0

    @abstractmethod
    def wall_ms(self) -> int:
        """Wall clock."""

    @abstractmethod
    def mono_ms(self) -> int:
        """Monotonic clock."""

    def count_input(self, size: int) -> int:
        self.bytes_received += size
        return self.mono_ms()

    def offer(
        self, link: ClientLink, frames: Sequence[bytes], start: int, arrival_ms: int, mono_ms: int
    ) -> int:
        throttle = self.service.request_throttle
        if throttle is None:
            return self.service.receive(link, frames, start, self.wall_ms(), mono_ms)
        return throttle.receive(link, frames, start, arrival_ms, self.wall_ms(), mono_ms)
