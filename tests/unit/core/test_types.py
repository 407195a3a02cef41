"""Packing of zxids and the wrapping of Java's integers."""

from __future__ import annotations

import pytest

from zkpy.core.types import counter_of, epoch_of, wrap32, wrap64


@pytest.mark.parametrize(
    ("value", "wrapped"),
    [(0, 0), (2**31 - 1, 2**31 - 1), (2**31, -(2**31)), (-(2**31) - 1, 2**31 - 1), (2**32 + 5, 5), (-1, -1)],
)
def test_32_bits_wrap_as_a_java_int(value: int, wrapped: int) -> None:
    assert wrap32(value) == wrapped


@pytest.mark.parametrize(
    ("value", "wrapped"), [(2**63 - 1, 2**63 - 1), (2**63, -(2**63)), (-(2**63) - 1, 2**63 - 1), (2**64, 0)]
)
def test_64_bits_wrap_as_a_java_long(value: int, wrapped: int) -> None:
    assert wrap64(value) == wrapped


def test_a_zxid_is_an_epoch_and_a_counter() -> None:
    zxid = (7 << 32) | 0xFFFFFFFE
    assert epoch_of(zxid) == 7
    assert counter_of(zxid) == 0xFFFFFFFE
