"""What benchmarks/costs.py makes of the parts of a profile, and to which stage a module belongs."""

from pathlib import Path

import pytest

from benchmarks.costs import CASES, StageCosts, by_stage, calls_of, markdown, order, stage_costs
from benchmarks.costs_driver import CHUNKS, CHUNKS_FROM, CLIENT, COUNTED, LOOP, stage_of
from benchmarks.instructions import NotCounted

EACH = CHUNKS - CHUNKS_FROM


def part(total: int) -> str:
    return f"version: 1\nfn=(1) main\n12 999\ntotals: {total}\n"


LABELS = ["", "=json", "=cached", "=chunk", "json/server", "json/wire", "json/server", "chunk/wire"]
TOTALS = [9_000, 600 * COUNTED, 500 * COUNTED, 70 * EACH, 100, 300, 200, 70 * EACH]


def test_parts_are_summed_by_stage() -> None:
    """A stage's parts are added; the parts before a case count for nothing; a chunk is one of its batch."""
    costs = stage_costs({"parts": LABELS, "calls": {"json/wire": 7}}, [part(total) for total in TOTALS])
    assert costs.instructions["json"] == {"server": 300, "wire": 300}
    assert costs.instructions["chunk"] == {"wire": 70}
    assert costs.uncut == {"json": 600, "cached": 500, "chunk": 70}
    assert costs.calls["json"] == {"wire": 7}
    assert costs.remainder("json") == 0


def test_a_profile_that_was_not_cut() -> None:
    """A profile with other parts than the driver has cut is an error, never a table."""
    with pytest.raises(NotCounted, match="parts"):
        by_stage(LABELS, TOTALS[1:])


def test_calls_of_functions_in_c() -> None:
    """Calls are added by the name of the function, which a profile writes out once; recursion is the same."""
    profile = "fn=(1) main\n0 5\ncfn=(2) malloc\ncalls=3 971\n0 41\nfn=(3) f\ncfn=(2)\ncalls=4 971\n0 1\n"
    again = "cfn=(4) malloc'2\ncalls=1 971\n"
    assert calls_of(profile + again) == {"malloc": 8}


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("/x/site-packages/uvicorn/protocols/http/httptools_impl.py", "server"),
        ("/x/src/dub5/service/wire/base.py", "wire"),
        ("/x/src/dub5/service/resilience/spending.py", "events"),
        ("/x/src/dub5/service/resilience/permit.py", "order and permits"),
        ("/x/src/dub5/service/api/chat.py", "exchange"),
        ("/x/src/dub5/service/clock.py", ""),
        ("/x/lib/python3.13/asyncio/tasks.py", ""),
        ("/x/benchmarks/memory_server.py", CLIENT),
    ],
)
def test_stages_of_modules(path: str, stage: str) -> None:
    """The first name of the table that a path holds says the stage; other modules are of their caller."""
    assert stage_of(path) == stage


def test_every_stage_has_a_module() -> None:
    """A stage whose files were moved away would be empty, and its cost somewhere else."""
    root = Path(__file__).resolve().parent.parent.parent
    files = {stage_of(f"/{path.relative_to(root)}") for path in (root / "service").rglob("*.py")}
    assert set(order()) - files <= {LOOP}


def test_the_table() -> None:
    """Each stage has a row; the client is in none, and in no sum."""
    stages = {case: {"wire": 2000.0, CLIENT: 500.0} for case in CASES}
    costs = StageCosts(
        stages, {case: {"wire": 3.0} for case in CASES}, dict.fromkeys(CASES, 2500.0), {"tasks": 2.0}
    )
    text = markdown(costs)
    assert "| wire | 2.0 k | 3 | 2.0 k | 3 | 2.0 k | 3 |" in text
    assert "| all | 2.0 k | 3 | 2.0 k | 3 | 2.0 k | 3 |" in text
    assert "+0.0%" in text and "| tasks | 2.0 |" in text and CLIENT not in text
