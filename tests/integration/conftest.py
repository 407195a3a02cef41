"""Servers in the process of the tests."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from zkpy.server import Server


@pytest.fixture
async def servers() -> AsyncIterator[list[Server]]:
    """What a test puts in is closed in the end, and what servers change of the garbage collector is taken back."""
    thresholds = gc.get_threshold()
    made: list[Server] = []
    yield made
    for server in made:
        await server.close()
    gc.unfreeze()
    gc.set_threshold(*thresholds)
