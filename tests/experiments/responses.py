"""Two responses to incidents that the service does not have, tried: what isolating and shedding would change.

    python -m tests.experiments.responses [incidents]

isolate   a target whose circuit breaker opened 5 times in 10 minutes rests for 10 minutes
shed      while a route is degraded, its low requests get no place in the queue

It prints the numbers of docs/decisions/0012-responses.md; with `incidents` those of the replayed incidents.
"""

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any
from unittest import mock

from dub5.chaos.engines import virtual
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.run.runner import NullObserver
from dub5.chaos.run.verdict import judge_run
from dub5.chaos.scenario.parse import INCIDENTS, names, read_bundled
from dub5.service import clock
from dub5.service.admission.queue import Queue
from dub5.service.config.options import AdmissionOptions, TimeoutOptions
from dub5.service.config.settings import ServerSettings
from dub5.service.errors import Overloaded
from dub5.service.failover.context import RequestContext
from dub5.service.model import Priority
from dub5.service.resilience.circuit_breaker import Breaker, BreakerState
from dub5.simulators import virtual as virtually
from dub5.simulators.limits.concurrency import Capacity
from dub5.simulators.script import Hang, Respond, Script, SimRequest
from tests.experiments.pressure import PressureRun, PressureScene
from tests.support.steady_clients import SteadyClients
from tests.support.world import ServiceWorld, healthy, script, status

OPENINGS, WITHIN_S, REST_S = 5, 600.0, 600.0
HANGS = script(Hang())
SLOTS = 8


@contextlib.contextmanager
def isolating() -> Iterator[None]:
    """Let a target rest for ten minutes when its breaker opens for the fifth time in ten minutes."""
    openings: dict[int, deque[float]] = {}
    original = Breaker._transition

    def transition(breaker: Breaker, after: BreakerState, why: str) -> None:
        original(breaker, after, why)
        if after is BreakerState.OPEN:
            times = openings.setdefault(id(breaker), deque(maxlen=OPENINGS))
            times.append(clock.now())
            if len(times) == OPENINGS and times[-1] - times[0] <= WITHIN_S:
                breaker.opened_until_s = clock.now() + REST_S
                times.clear()

    with (
        mock.patch.object(Breaker, "_transition", transition),
        mock.patch.object(Breaker, "permit_probe", lambda breaker, now_s: None),
    ):
        yield


def flapping(first: Respond, period_s: float) -> Respond:
    """Answer well for a period, then as `first` does, and so on."""

    def respond(request: SimRequest) -> Script:
        return (first if int(clock.now() / period_s) % 2 == 0 else healthy())(request)

    return respond


def until_s(at_s: float, before: Respond) -> Respond:
    """Answer as `before` does until this second, then well."""
    return lambda request: (before if clock.now() < at_s else healthy())(request)


TARGETS = {
    "hangs every other 20 s": flapping(HANGS, 20.0),
    "503 every other 20 s": flapping(status(503), 20.0),
    "hangs every other 2 min": flapping(HANGS, 120.0),
    "down for 8 min, then well": until_s(480.0, status(503)),
}


async def beside_a_good_one(target: Respond) -> str:
    """Return what half an hour with this target first and a good one second is like."""
    async with ServiceWorld(one=target, two=healthy(), timeouts=TimeoutOptions(first_token_s=10.0)) as world:
        clients = await SteadyClients(world).ask(1_800, 1.0)
        answered = 100 * clients.answered()
        return (
            f"{answered:6.2f} % answered, {clients.waited(1.0):4} waited over 1 s,"
            f" {len(world.asked['one']):5} asked at the first target"
        )


@contextlib.contextmanager
def shedding(run: PressureRun) -> Iterator[None]:
    """Refuse low requests that would have to queue while the route is degraded."""
    original = Queue.wait

    async def wait(queue: Queue, context: RequestContext, *rest: Any) -> None:
        if context.request.caller.priority is Priority.LOW and run.service.watch.degraded():
            raise Overloaded("Too many requests.")
        await original(queue, context, *rest)

    with mock.patch.object(Queue, "wait", wait):
        yield


async def under_pressure(rate: float, *, shed: bool) -> str:
    """Return what three minutes of too many requests are like for high and low callers."""
    callers = {"KEY_WEB": 1.0, "KEY_APP": 2.0}
    options = {
        "server": ServerSettings(caller_keys_env=tuple(callers)),
        "admission": AdmissionOptions(priorities={"KEY_WEB": "high", "KEY_APP": "low"}),
    }
    capacity = Capacity(slots=SLOTS, queue_max=SLOTS // 2)
    scene = PressureScene(rate * SLOTS, 180.0, capacity, callers=callers, options=options)
    run = PressureRun(scene)
    with shedding(run) if shed else contextlib.nullcontext():
        async with run.client, asyncio.TaskGroup() as group:
            await run.arrive(group)
    late = [asked for asked in run.asked if asked.at_s >= 60.0]
    shares = [_whole(late, caller) for caller in (0, 1)]
    good = sum(asked.whole for asked in late) / 120.0
    return f"high {shares[0]:5.1f} % answered, low {shares[1]:5.1f} %; {good:.2f} answers a second"


def _whole(asked: list[Any], caller: int) -> float:
    of_caller = [one for one in asked if one.caller == caller]
    return 100 * sum(one.whole for one in of_caller) / len(of_caller)


def incidents() -> None:
    """Print what isolating changes in each replayed incident."""
    for name in names(INCIDENTS):
        results = []
        for context in (contextlib.nullcontext(), isolating()):
            with context:
                journal = virtual.run(read_bundled(INCIDENTS, name), 1, NullObserver(), lambda line: None)
            complete = sum(one.outcome is ClientOutcome.COMPLETE for one in journal.requests)
            held = all(line.ok for line in judge_run(journal).lines)
            results.append(f"{100 * complete / len(journal.requests):7.3f} % {'held' if held else 'FAILED'}")
        print(f"{name:28} as it is {results[0]}   isolating {results[1]}", flush=True)


def main() -> None:
    """Print all numbers."""
    if sys.argv[1:] == ["incidents"]:
        incidents()
        return
    for name, target in TARGETS.items():
        print(f"{name:28} as it is   {virtually.run(beside_a_good_one(target))}", flush=True)
        with isolating():
            print(f"{'':28} isolating  {virtually.run(beside_a_good_one(target))}", flush=True)
    for rate in (1.2, 2.0, 4.0):
        print(
            f"{rate} times the capacity          as it is  {virtually.run(under_pressure(rate, shed=False))}"
        )
        print(f"{'':28}  shedding  {virtually.run(under_pressure(rate, shed=True))}", flush=True)


if __name__ == "__main__":
    main()
