"""What the 64 bits of ``ephemeralOwner`` mean: session id, container, or TTL node.

The encodings are Apache's (`EphemeralType`, since 3.5): 0 is an ordinary node, the smallest long is a
container, a top byte of 0xFF marks an extended type whose only feature so far is the TTL in the low
40 bits, anything else is the session that owns an ephemeral node.
"""

from __future__ import annotations

from typing import Final

from zkpy.core.types import wrap64

ORDINARY: Final = 0
EPHEMERAL: Final = 1
CONTAINER: Final = 2
TTL: Final = 3

CONTAINER_OWNER: Final = -(1 << 63)
TTL_MAX_MS: Final = (1 << 40) - 1
_EXTENDED_MARK: Final = 0xFF


def ttl_owner(ttl_ms: int) -> int:
    """The stored owner of a node that lives `ttl_ms` milliseconds after its last change."""
    assert 0 < ttl_ms <= TTL_MAX_MS
    return wrap64(_EXTENDED_MARK << 56 | ttl_ms)


class OwnerRules:
    """Reads stored owners under the configured features.

    Compat: without ``extendedTypesEnabled`` the owner of a TTL node reads as a session id, so that a
    leader deletes the node at its next start (on-disk format, node model).
    """

    __slots__ = ("emulate_353", "extended")

    def __init__(self, extended: bool, emulate_353: bool) -> None:
        self.extended = extended
        self.emulate_353 = emulate_353

    def kind(self, owner: int) -> int:
        """ORDINARY, EPHEMERAL, CONTAINER or TTL."""
        if owner == 0:
            return ORDINARY
        if owner == CONTAINER_OWNER:
            return CONTAINER
        if self.extended and owner < 0 and (self.emulate_353 or (owner >> 56) & 0xFF == _EXTENDED_MARK):
            return TTL
        return EPHEMERAL

    def ttl_ms(self, owner: int) -> int:
        """Milliseconds a TTL node may stay unchanged and childless."""
        return owner & TTL_MAX_MS
