"""The CPU time of a request in the service, without sockets, as a multiple of its reference's (canned.py)."""

from functools import partial

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.canned import CASES, BenchmarkCase, RequestBench
from benchmarks.conftest import BudgetGate
from benchmarks.paired import first_within

ROUNDS = 1000
BATCH = 50


@pytest.mark.parametrize(
    ("case", "way"),
    [pytest.param(case, way, id=case.name + way) for case in CASES for way in case.ways],
)
def test_a_request(
    case: BenchmarkCase, way: str, bench: RequestBench, gate: BudgetGate, benchmark: BenchmarkFixture
) -> None:
    """A request costs no more than its budgeted multiple of its reference."""
    name = case.name + way
    ratio = first_within(partial(bench.compare, case, way, ROUNDS), gate.budget(name))
    benchmark.extra_info |= {"inner": BATCH, "ratio": ratio.value}
    benchmark.pedantic(bench.run, (case, way, BATCH), rounds=5)  # type: ignore[no-untyped-call]
    gate.check(name, ratio, 1)
