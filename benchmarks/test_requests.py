"""What one request costs in this service, everything but the sockets: against a bare Litestar route."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.canned import CASES, Case, Pair
from benchmarks.conftest import BATCH, Gate
from benchmarks.paired import within


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request(case: Case, pair: Pair, gate: Gate, benchmark: BenchmarkFixture) -> None:
    """The guarded path stays within its multiple of the bare framework."""
    ratio = within(pair.thing(case), pair.reference(case), gate.budget(case.name))
    benchmark.extra_info |= {"inner": BATCH, "ratio": ratio.value}
    benchmark.pedantic(pair.thing(case), rounds=5)  # type: ignore[no-untyped-call]
    gate.hold(case.name, ratio, BATCH)
