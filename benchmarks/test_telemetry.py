"""The CPU time of telemetry per request, as a multiple of decoding and encoding its answer with msgspec."""

import asyncio

import msgspec
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.canned import WHOLE
from benchmarks.conftest import BudgetGate
from benchmarks.instructions_kernels import new_telemetry
from benchmarks.paired import compare_requests, first_within

BATCH = 100
ROUNDS = 200


def test_the_telemetry_of_a_request(gate: BudgetGate, benchmark: BenchmarkFixture) -> None:
    """Metrics, board and log together cost no more than their budgeted multiple of a JSON round trip."""
    emit, flush = new_telemetry()

    async def emit_all() -> None:
        for _ in range(BATCH):
            emit()
        flush()

    async def codec() -> None:
        for _ in range(BATCH):
            msgspec.json.encode(msgspec.json.decode(WHOLE))

    with asyncio.Runner() as runner:
        ratio = first_within(
            lambda: runner.run(compare_requests(emit_all, codec, ROUNDS)), gate.budget("telemetry")
        )
        benchmark.pedantic(lambda: runner.run(emit_all()), rounds=5)  # type: ignore[no-untyped-call]
    gate.check("telemetry", ratio, BATCH)
