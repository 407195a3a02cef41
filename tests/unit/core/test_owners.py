"""What the 64 bits of ephemeralOwner mean."""

from __future__ import annotations

import pytest

from zkpy.core.owners import (
    CONTAINER,
    CONTAINER_OWNER,
    EPHEMERAL,
    ORDINARY,
    TTL,
    TTL_MAX_MS,
    OwnerRules,
    ttl_owner,
)

PLAIN = OwnerRules(extended=False, emulate_353=False)
EXTENDED = OwnerRules(extended=True, emulate_353=False)
EMULATING = OwnerRules(extended=True, emulate_353=True)


def test_zero_is_an_ordinary_node() -> None:
    assert {rules.kind(0) for rules in (PLAIN, EXTENDED, EMULATING)} == {ORDINARY}


def test_the_smallest_long_is_a_container() -> None:
    assert {rules.kind(CONTAINER_OWNER) for rules in (PLAIN, EXTENDED, EMULATING)} == {CONTAINER}


def test_the_top_byte_ff_marks_a_ttl_only_with_extended_types() -> None:
    owner = ttl_owner(1000)
    assert owner == -(1 << 56) + 1000
    assert PLAIN.kind(owner) == EPHEMERAL
    assert EXTENDED.kind(owner) == TTL


def test_other_negative_owners_are_sessions_unless_3_5_3_is_emulated() -> None:
    owner = -(1 << 63) + 1000
    assert EXTENDED.kind(owner) == EPHEMERAL
    assert EMULATING.kind(owner) == TTL
    assert EMULATING.ttl_ms(owner) == 1000


def test_positive_owners_are_sessions() -> None:
    assert {rules.kind(0x100000000000001) for rules in (PLAIN, EXTENDED, EMULATING)} == {EPHEMERAL}


@pytest.mark.parametrize("ttl", [1, 60_000, TTL_MAX_MS])
def test_the_ttl_comes_back_out_of_the_owner(ttl: int) -> None:
    assert EXTENDED.ttl_ms(ttl_owner(ttl)) == ttl


@pytest.mark.parametrize("ttl", [0, -1, TTL_MAX_MS + 1])
def test_a_ttl_out_of_range_is_a_mistake_of_ours(ttl: int) -> None:
    with pytest.raises(AssertionError):
        ttl_owner(ttl)
