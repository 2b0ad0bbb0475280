"""The CPU time of telemetry per request, as a multiple of decoding and encoding its answer with msgspec."""

import asyncio
import os

import msgspec
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.canned import WHOLE
from benchmarks.conftest import BudgetGate
from benchmarks.paired import compare_requests, first_within
from dub5.service.events import AttemptEnded, Events, RequestEnded
from dub5.service.model import AttemptRecord, Outcome, Target, Usage
from dub5.service.telemetry.board import StatusBoard
from dub5.service.telemetry.logs import EventLogger, LineWriter
from dub5.service.telemetry.metrics import Metrics

BATCH = 100
ROUNDS = 200
ATTEMPT = AttemptRecord(
    "one/m", 0.001, 1.2, "ok", status=200, first_token_s=0.4, usage=Usage(60, 50, 110), cost_usd=0.00002
)
EVENTS = (
    AttemptEnded("req_1", "chat", "one", ATTEMPT, "nobody"),
    RequestEnded(
        request_id="req_1",
        caller="anonymous",
        route="chat",
        outcome=Outcome.COMPLETE,
        code=None,
        target="one/m",
        stream=True,
        cached=False,
        first_token_s=0.4,
        total_s=1.2,
        overhead_s=0.0004,
        usage=Usage(60, 50, 110),
        attempts=(ATTEMPT,),
    ),
)


def test_the_telemetry_of_a_request(gate: BudgetGate, benchmark: BenchmarkFixture) -> None:
    """Metrics, board and log together cost no more than their budgeted multiple of a JSON round trip."""
    metrics = Metrics(
        version="0",
        routes=["chat"],
        targets=[Target("one", "m")],
        hosts=[],
        in_flight=lambda: 0,
        waiting=lambda: 0,
        states=list,
    )
    writer = LineWriter(os.open(os.devnull, os.O_WRONLY))
    events = Events(metrics.count, StatusBoard().note, EventLogger(writer.write).log)

    async def emit_all() -> None:
        for _ in range(BATCH):
            for event in EVENTS:
                events.emit(event)
        writer.flush()

    async def codec() -> None:
        for _ in range(BATCH):
            msgspec.json.encode(msgspec.json.decode(WHOLE))

    with asyncio.Runner() as runner:
        ratio = first_within(
            lambda: runner.run(compare_requests(emit_all, codec, ROUNDS)), gate.budget("telemetry")
        )
        benchmark.pedantic(lambda: runner.run(emit_all()), rounds=5)  # type: ignore[no-untyped-call]
    metrics.close()
    gate.check("telemetry", ratio, BATCH)
