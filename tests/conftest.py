"""Which event loops async tests run on, and which examples property tests draw.

Sockets and drivers are tested on both loops, since the server may run on either. Property tests draw the same examples in every
run, so that a red gate is never luck; ``HYPOTHESIS_PROFILE=explore`` draws fresh ones, and what it finds becomes an
example of its test.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import uvloop
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

_ON_BOTH_LOOPS = (
    "tests/unit/net/",
    "tests/unit/runtime/",
    *(f"tests/integration/test_{name}.py" for name in ("server", "start", "members")),
)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio asks for each async test."""
    if item.nodeid.startswith(_ON_BOTH_LOOPS):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


settings.register_profile("gate", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
