"""Arbitrary bytes into every place where bytes come from outside.

A module is one input surface. Its docstring begins with the invariant, `check(data)` runs one input and raises when the
invariant is broken, `seeds()` are good inputs to begin with. `make test` runs each briefly under Hypothesis; `make fuzz`
(`run.py`) runs the same `check` guided by coverage.
"""

from __future__ import annotations

from hypothesis import settings

smoke = settings(max_examples=150, derandomize=True, deadline=None)
"""How `make test` runs a surface: the same inputs each time."""
