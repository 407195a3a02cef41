"""What went wrong elsewhere, and the changes of our code that bring it back: lessons.toml, read and checked, and its summary.

`python -m tests.mutants.table` writes docs/zab-lessons.md.
"""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "zab-lessons.md"
_TABLE = Path(__file__).with_name("lessons.toml")
_GROUPS = {
    "data": "Data loss and divergence",
    "start": "Start-up and election",
    "remarks": "Remarks without a number",
    "rules": "Rules for whoever speaks the protocol",
    "seeds": "Found by simulated ensembles, and so in Apache's code",
}
_HEAD = """# Lessons of ZooKeeper's replication

What went wrong in ZooKeeper, what is easy to get wrong, and the tests that keep it from happening here. Numbers are issues of ZooKeeper;
rules are those of §17 of the quorum protocol, as the code calls it. Each lesson has mutants, small changes of our code that bring the bug
back and that each of their tests catches, or a reason why there is none. `make mutants` tries them all; they are in
`tests/mutants/lessons.toml`, from which this page is made (`make generate`).
"""


class TableError(Exception):
    """The table does not fit the code; says what and where."""


@dataclass(frozen=True)
class Mutant:
    """A change of one file that brings a bug back.

    Attributes:
        file: path from the root of the repository.
        old: text that occurs in it once.
        new: what takes its place.
        tests: node ids of which each has to fail then.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def module(self) -> str:
        """Its name for an import."""
        return self.file.removeprefix("protocol/").removesuffix(".py").replace("/", ".")

    def applied_to(self, source: str) -> str:
        """The mutated source.

        Raises:
            TableError: the old text is not there exactly once, or what comes out is no Python.
        """
        count = source.count(self.old)
        if count != 1:
            raise TableError(
                f"{self.file}: the text to mutate occurs {count} times, not once; the code has moved on, and "
                f"tests/mutants/lessons.toml has to follow:\n{self.old}"
            )
        mutated = source.replace(self.old, self.new)
        try:
            ast.parse(mutated)
        except SyntaxError as error:
            raise TableError(
                f"{self.file}: mutated, line {error.lineno} is no Python: {error.msg}"
            ) from error
        return mutated


@dataclass(frozen=True)
class Lesson:
    """A bug, rule or remark.

    Attributes:
        ids: issue numbers, or names of what has none.
        group: chapter of the summary.
        text: the lesson in a sentence.
        why: why there is no mutant; empty where there are some.
    """

    ids: tuple[str, ...]
    group: str
    text: str
    why: str
    mutants: tuple[Mutant, ...]

    @property
    def name(self) -> str:
        return ", ".join(self.ids)

    @property
    def tests(self) -> tuple[str, ...]:
        """Node ids of all its tests, each once."""
        return tuple(dict.fromkeys(test for mutant in self.mutants for test in mutant.tests))


def lessons() -> list[Lesson]:
    """The table, in its order."""
    return [_lesson(entry) for entry in tomllib.loads(_TABLE.read_text())["lesson"]]


def _lesson(entry: dict[str, Any]) -> Lesson:
    mutants = tuple(
        Mutant(each["file"], each["old"], each["new"], tuple(each["tests"]))
        for each in entry.pop("mutant", ())
    )
    ids, group, text = tuple(entry.pop("ids")), entry.pop("group"), entry.pop("lesson")
    why = entry.pop("why", "")
    if entry or group not in _GROUPS or bool(why) is bool(mutants) or not all(each.tests for each in mutants):
        raise TableError(f"the entry of {', '.join(ids)} is not as lessons.toml says at its beginning")
    return Lesson(ids, group, text, why, mutants)


@cache
def test_names(file: str) -> frozenset[str]:
    """Names of the tests of a file as they are in node ids, without parameters."""
    names = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return frozenset(names)


def has_test(node_id: str) -> bool:
    """Whether there is such a test."""
    file, _, name = node_id.partition("::")
    return (ROOT / file).is_file() and name.partition("[")[0] in test_names(file)


def summary() -> str:
    """The page about all lessons."""
    table = lessons()
    parts = [_HEAD]
    for group, title in _GROUPS.items():
        parts.append(f"\n## {title}\n\n| | lesson | tests | mutants |\n|---|---|---|---|\n")
        parts += [_row(lesson) for lesson in table if lesson.group == group]
    return "".join(parts)


def _row(lesson: Lesson) -> str:
    tests = "<br>".join(f"`{_short(test)}`" for test in lesson.tests)
    mutants = str(len(lesson.mutants)) if lesson.mutants else f"none: {lesson.why}"
    return f"| {lesson.name} | {lesson.text} | {tests or '-'} | {mutants} |\n"


def _short(node_id: str) -> str:
    file, _, name = node_id.partition("::")
    return f"{Path(file).name}::{name.rpartition('::')[2]}"


if __name__ == "__main__":
    DOCS.parent.mkdir(exist_ok=True)
    DOCS.write_text(summary())
