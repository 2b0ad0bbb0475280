"""The CPU time of single steps of a request, and of requests of costlier kinds, each against its reference.

    a step      against decoding and encoding a JSON answer with msgspec
    a request   against a plain JSON request to the same service

They are those whose instructions benchmarks/instructions.py counts: that says what a change costs, to a
percent or two; this says what it takes.
"""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import BudgetGate
from benchmarks.instructions_kernels import KERNELS
from benchmarks.instructions_requests import GUARDED, REQUEST_CASES, WHOLE, RequestCase, served
from benchmarks.memory_server import MemoryClient
from benchmarks.paired import Ratio, RunBatch, SendOne, best_within, compare_requests, first_within

CALLS = 1000
ROUNDS = 300
JSON, *_, FAILOVER = REQUEST_CASES[""]
(JSON_GUARDED,) = REQUEST_CASES[GUARDED]


@pytest.mark.parametrize("name", sorted(KERNELS.keys() - {"telemetry"}))  # that has a file of its own
def test_a_kernel(name: str, gate: BudgetGate, benchmark: BenchmarkFixture) -> None:
    """A step of a request costs no more than its budgeted multiple of a JSON round trip."""
    budget = f"step_{name.replace(' ', '_')}"
    with asyncio.Runner() as runner:  # some steps ask its clock
        call = runner.run(_made(name))
        steps, reference = _batch(runner, call), _batch(runner, _round_trip)
        ratio = best_within(steps, reference, gate.budget(budget))
        benchmark.pedantic(steps, rounds=5)  # type: ignore[no-untyped-call]
    gate.check(budget, ratio, CALLS)


async def _made(name: str) -> Callable[[], object]:
    return KERNELS[name]()


def _batch(runner: asyncio.Runner, call: Callable[[], object]) -> RunBatch:
    async def run() -> None:
        for _ in range(CALLS):
            call()

    return lambda: runner.run(run())


def _round_trip() -> object:
    return msgspec.json.encode(msgspec.json.decode(WHOLE))


@pytest.mark.parametrize(
    ("case", "settings"), [(FAILOVER, ""), (JSON_GUARDED, GUARDED)], ids=["failover", "guarded"]
)
def test_a_costlier_request(case: RequestCase, settings: str, gate: BudgetGate) -> None:
    """A failover, and a request past keys, limits and sessions, cost no more than budgeted."""
    name = f"{case.name.replace(' ', '_')}_to_json"

    with asyncio.Runner() as runner:
        ratio = first_within(lambda: runner.run(_compare(case, settings)), gate.budget(name))
    gate.check(name, ratio, 1)


async def _compare(case: RequestCase, settings: str) -> Ratio:
    async with served(settings) as client, served("") as plain:
        await client.exchange(case.request())  # a target has to answer once before it is tried first
        return await compare_requests(_sender(client, case), _sender(plain, JSON), ROUNDS)


def _sender(client: MemoryClient, case: RequestCase) -> SendOne:
    request = case.request()

    async def send() -> None:
        assert case.proof in await client.exchange(request)

    return send
