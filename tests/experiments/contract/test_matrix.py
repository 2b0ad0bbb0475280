"""The matrix without the packages: it notices differences, and the page in docs/ is of today's cases."""

from dataclasses import replace

import pytest

from tests.experiments.contract.cases import CASES
from tests.experiments.contract.expected import DIFFERENCES, expected
from tests.experiments.contract.matrix import Matrix, MatrixResults
from tests.experiments.contract.packages import COLUMNS, Column
from tests.experiments.contract.service import SERVICE_CASES
from tests.support.source import ROOT

PAGE = ROOT / "docs" / "prove" / "contract.md"
NEW, OLD = (next(c for c in COLUMNS if (c.package, c.age) == ("mistralai", age)) for age in ("new", "old"))


def as_expected(*columns: Column) -> MatrixResults:
    seen = MatrixResults(versions={column: column.wanted for column in columns})
    for column in columns:
        for case in CASES:
            if column.package in case.packages:
                seen.cells[column, case.name] = expected(column, case)
    return seen


def test_as_expected() -> None:
    """Nothing is reported where every package does what is expected."""
    matrix = Matrix(as_expected(NEW, OLD))
    assert "UNEXPLAINED" not in matrix.page()
    assert matrix.compared > 150 and matrix.differing == 0


def test_an_unexplained_difference() -> None:
    """A difference without explanation is counted, named on top, and marked in its cell."""
    seen = as_expected(NEW)
    seen.cells[NEW, "529"] = "3x SDKError"
    matrix = Matrix(seen)
    page = matrix.page()
    assert len(matrix.unexplained) == 1
    assert "**UNEXPLAINED**: mistralai 3.7.0, 529: expected '1x SDKError', seen '3x SDKError'" in page
    assert "| 3x SDKError **UNEXPLAINED** |" in page


@pytest.mark.parametrize("age", [NEW, OLD], ids=lambda column: column.age)
def test_an_explanation_is_of_one_version(age: Column) -> None:
    """An explanation of old versions excuses no new one."""
    known = next(d for d in DIFFERENCES if d.package == "mistralai" and d.ages == ("old",))
    seen = as_expected(age)
    seen.cells[age, known.case] = known.seen
    matrix = Matrix(seen)
    matrix.page()
    assert bool(matrix.unexplained) == (age is NEW)


def test_a_version_that_cannot_be_had() -> None:
    """A version that is not available is reported, without the registry's output."""
    gone = replace(OLD, wanted="9.9.9")
    seen = as_expected(NEW)
    seen.missing[gone] = "no such version at some address"
    page = Matrix(seen).page()
    assert "**NOT MEASURED**: mistralai 9.9.9 could not be had" in page and "address" not in page


@pytest.mark.parametrize("case", [case.name for case in CASES] + [case.name for case in SERVICE_CASES])
def test_page(case: str) -> None:
    """Every case has its row; no difference on the page lacks its explanation."""
    page = PAGE.read_text(encoding="utf-8")
    assert f"\n| {case} |" in page
    assert "UNEXPLAINED" not in page and "NOT MEASURED" not in page
