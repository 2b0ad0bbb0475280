"""The CPU time of one request in the service, without sockets, as a multiple of a bare Litestar route."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.canned import CASES, BenchmarkCase, ServiceAndReference
from benchmarks.conftest import BATCH, BudgetGate
from benchmarks.paired import best_within


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request(
    case: BenchmarkCase, pair: ServiceAndReference, gate: BudgetGate, benchmark: BenchmarkFixture
) -> None:
    """A request costs no more than its budgeted multiple of the bare framework."""
    ratio = best_within(pair.service(case), pair.reference(case), gate.budget(case.name))
    benchmark.extra_info |= {"inner": BATCH, "ratio": ratio.value}
    benchmark.pedantic(pair.service(case), rounds=5)  # type: ignore[no-untyped-call]
    gate.check(case.name, ratio, BATCH)
