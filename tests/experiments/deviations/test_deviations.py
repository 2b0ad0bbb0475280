"""The table of deviations without the packages: its verdicts can fail, and the page is of today's rows."""

from typing import Any

import pytest

from dub5.simulators.virtual import run
from tests.experiments.deviations import messages, rows
from tests.experiments.deviations.heard import Heard, hear_bytes
from tests.experiments.deviations.page import LENIENT, MENDED, SAME, STRICTER, WRONG, unexplained, verdict
from tests.experiments.deviations.rows import TEXT, Deviation, half, ok
from tests.support.source import ROOT
from tests.support.world import ServiceWorld, script

PAGE = ROOT / "docs" / "prove" / "deviations.md"
ALL, HALF, FAILED = Heard(TEXT), Heard("Hello"), Heard("Hello", error="APIError")
EVERY = [row for table in (rows, messages) for section in table.SECTIONS.values() for row in section]
STREAMS = [row for row in EVERY if row.stream and row.dialect == "openai"]


@pytest.mark.parametrize(
    ("row", "package", "through", "expected"),
    [
        (ok("x"), ALL, ALL, SAME),
        (ok("x"), FAILED, ALL, LENIENT),
        (ok("x"), ALL, FAILED, WRONG),
        (ok("x"), ALL, HALF, WRONG),
        (ok("x"), HALF, ALL, WRONG),
        (ok("x", purpose="why"), HALF, ALL, MENDED),
        (half("x"), FAILED, FAILED, SAME),
        (half("x"), HALF, FAILED, STRICTER),
        (half("x", purpose=""), HALF, FAILED, WRONG),
        (half("x"), HALF, HALF, WRONG),
        (half("x"), FAILED, HALF, WRONG),
    ],
)
def test_verdicts(row: Deviation, package: Heard, through: Heard, expected: str) -> None:
    """Half an answer that looks whole is wrong whatever the package does; a difference needs a purpose."""
    assert verdict(row, package, through) == expected
    assert bool(unexplained([row], [(package, through, through)])) == (expected == WRONG)


def test_the_page_is_of_todays_rows() -> None:
    """The page in docs/ has a line for each row, and none that is unexplained."""
    page = PAGE.read_text()
    assert all(f"| {row.what} |" in page for row in EVERY)
    assert sum(line.startswith("| ") for line in page.splitlines()) == len(EVERY) + page.count("\n## ")
    assert WRONG not in page


@pytest.mark.parametrize("delivery", ["live", "whole"])
def test_streams(delivery: str) -> None:
    """Each stream of OpenAI's form arrives whole if it is, and fails if it is not."""

    async def play(row: Deviation) -> tuple[int, bytes]:
        async with ServiceWorld(one=script(*row.actions), route={"delivery": delivery}) as world:
            answer = await world.ask(stream=True, **row.fields)
            return answer.status, answer.body

    wrong: list[Any] = []
    for row in STREAMS:
        through = hear_bytes(*run(play(row), seed=1))
        if verdict(row, FAILED, through) == WRONG:
            wrong.append((row.what, through))
    assert wrong == []
