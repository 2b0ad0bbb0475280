"""docs/prove/complaints.md: complete, true in what it names, and able to fail."""

import pytest

from tests.experiments.complaints.__main__ import page
from tests.experiments.complaints.mutants import MUTANTS, Mutant
from tests.experiments.complaints.table import COUNT, ROOT, THEMES, ComplaintRow, missing, rows


def test_all_are_there() -> None:
    """Each complaint is in the table once, in order; each theme has rows and a mutant that breaks it."""
    assert [row.number for row in rows()] == list(range(1, COUNT + 1))
    assert {row.theme for row in rows()} == set(THEMES)
    assert [mutant.theme for mutant in MUTANTS] == list(THEMES)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_what_it_names_exists(row: ComplaintRow) -> None:
    """Every test, rule, scenario and place that a row names exists, and every row names one."""
    assert not [problem for name in row.caught_by if (problem := missing(name))]
    assert row.caught_by
    assert bool(row.place) == bool(row.by_design)
    assert all((ROOT / path).is_file() for path in row.place)
    assert not (row.by_design and row.not_built)


def test_what_does_not_exist_is_told() -> None:
    """A name that does not exist is reported."""
    assert missing("tests/experiments/complaints/test_table.py::test_that_is_not_there")
    assert missing("tests/nowhere.py::test_x")
    assert missing("simulate:no_such_rule")
    assert missing("scenario:nowhere")
    assert not missing("scenario:http-530")


def test_the_page() -> None:
    """python -m tests.experiments.complaints > docs/prove/complaints.md"""
    assert (ROOT / "docs" / "prove" / "complaints.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.theme)
def test_a_broken_build_is_caught(mutant: Mutant) -> None:
    """Each mutant is caught by the test of its theme, which is in the table and passes without the mutant."""
    named = [name for row in rows() if row.theme == mutant.theme for name in row.caught_by]
    assert mutant.test in named
    with mutant.breaks(), pytest.raises(AssertionError):
        mutant.check()
    mutant.check()
