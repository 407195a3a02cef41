"""`make compile` puts extension modules beside their sources, where Python prefers them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_compiled_module_is_older_than_its_source() -> None:
    # Then the tests would be about yesterday's code; `make setup` removes it.
    compiled = [*ROOT.glob("zkpy/**/*.so"), *ROOT.glob("protocol/**/*.so")]
    sources = [path.with_name(path.name.partition(".")[0] + ".py") for path in compiled]
    stale = [
        str(source)
        for path, source in zip(compiled, sources, strict=True)
        if not source.exists() or source.stat().st_mtime > path.stat().st_mtime
    ]
    assert stale == []
