"""The arrows of ARCHITECTURE.md: what each layer may import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the inside out; a layer may import itself and everything before it.
LAYERS = [
    "zkpy_protocol",
    "zkpy.core",
    "zkpy.storage",
    "zkpy.auth",
    "zkpy.net",
    "zkpy.runtime",
    "zkpy.ops",
    "zkpy",
]
SANS_IO = ("zkpy_protocol", "zkpy.core")
BANNED_FOR_SANS_IO = {
    "asyncio",
    "socket",
    "time",
    "os",
    "logging",
    "structlog",
    "uvloop",
    "threading",
    "select",
    "ssl",
}
SCHEMA = "zkpy_protocol.schema"
GENERATOR = "zkpy_protocol.codegen"


def modules() -> dict[str, Path]:
    """Every module of the distribution by its import name."""
    found = {}
    for root, package in ((ROOT / "protocol", "zkpy_protocol"), (ROOT, "zkpy")):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_at_run_time(path: Path) -> set[str]:
    """Modules that importing `path` imports, wherever in the file; what only type checkers see is left out."""
    names: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            names.update(alias.name for alias in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names.add(node.module)

    Visitor().visit(ast.parse(path.read_text()))
    return names


def layer_of(module: str) -> int | None:
    """Index of the layer a module belongs to; None for other people's modules."""
    best = None
    for index, layer in enumerate(LAYERS):
        if (module == layer or module.startswith(layer + ".")) and (
            best is None or len(layer) > len(LAYERS[best])
        ):
            best = index
    return best


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_its_own_layer_and_inner_ones_only(module: str) -> None:
    """An arrow points at what may be imported, never backwards."""
    own = layer_of(module)
    assert own is not None
    for name in imports_at_run_time(modules()[module]):
        other = layer_of(name)
        # The bare package only holds the version.
        if other is not None and name != "zkpy":
            assert other <= own, f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in sorted(modules()) if m.startswith(SANS_IO) and m != GENERATOR])
def test_the_sans_io_layers_import_no_clock_socket_file_or_logger(module: str) -> None:
    """Time, randomness and files are passed in."""
    found = {name.partition(".")[0] for name in imports_at_run_time(modules()[module])}
    assert not found & BANNED_FOR_SANS_IO


@pytest.mark.parametrize(
    "module", [m for m in sorted(modules()) if not m.startswith(SCHEMA) and m != GENERATOR]
)
def test_construct_is_for_the_schema_and_the_generator(module: str) -> None:
    """A running server never imports it."""
    assert "construct" not in {name.partition(".")[0] for name in imports_at_run_time(modules()[module])}
