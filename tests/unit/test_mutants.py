"""The table of mutants follows the code: every text to mutate is there once, every named test exists, no lesson is lost.

That the mutants are caught is for `make mutants`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mutants.table import DOCS, ROOT, Mutant, TableError, has_test, lessons, summary

if TYPE_CHECKING:
    from tests.mutants.table import Lesson

LESSONS = lessons()
ISSUES = """
    3911 4643 4646 4785 4394 4925 4685 4712 4541 4502 4837 5094 3104 3642 2846 2418 3127 4846 2355 3145 2845 4537 4409 4882 4883 2789
    2307 2354 1653 4269 1732 1805 1818 2959 2164 3769 3720 4787 4886 3056 3781 2325 3829 1277 2332
"""
REMARKS = ("TRUNC to no entry", "PROPOSAL to all", "redundant PROPOSAL", "UPTODATE", "zxid last")


def test_every_lesson_is_there_once() -> None:
    ids = [id_ for lesson in LESSONS for id_ in lesson.ids]
    assert len(ids) == len(set(ids))
    assert {*ISSUES.split(), *REMARKS, *(f"rule {number}" for number in range(1, 23))} <= set(ids)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_lesson_fits_the_code(lesson: Lesson) -> None:
    for mutant in lesson.mutants:
        source = (ROOT / mutant.file).read_text()
        assert mutant.applied_to(source) != source
        assert [test for test in mutant.tests if not has_test(test)] == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [("a", "b", "occurs 2 times"), ("c", "b", "occurs 0 times"), ("= 1", "= (", "no Python")],
)
def test_a_mutant_that_does_not_fit_is_told(old: str, new: str, problem: str) -> None:
    with pytest.raises(TableError, match=problem):
        Mutant("zkpy/x.py", old, new, ()).applied_to("a = 1\na\n")


def test_a_test_that_is_gone_is_noticed() -> None:
    here = "tests/unit/test_mutants.py"
    assert has_test(f"{here}::test_a_test_that_is_gone_is_noticed")
    assert has_test(f"{here}::test_a_lesson_fits_the_code[4925, rule 16]")
    assert not has_test(f"{here}::test_a_test_that_is_gone")
    assert not has_test("tests/unit/test_nowhere.py::test_a_lesson_fits_the_code")


def test_modules_are_named_as_they_are_imported() -> None:
    names = {mutant.file: mutant.module for lesson in LESSONS for mutant in lesson.mutants}
    assert names["zkpy/core/zab/leader.py"] == "zkpy.core.zab.leader"
    assert names["protocol/zkpy_protocol/election.py"] == "zkpy_protocol.election"


def test_the_page_about_the_lessons_is_up_to_date() -> None:
    """`make generate` writes it."""
    assert DOCS.read_text() == summary()
