"""A process whose event loop stands still for a while: its requests end honestly, and its prober goes on."""

import asyncio
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.chaos.simulation.mutant import mutated
from dub5.service import clock
from dub5.service.config.options import BreakerOptions, CacheBounds, CacheOptions, ProbeOptions, RedisOptions
from dub5.service.failover.prober import Prober
from dub5.simulators.script import Hang, Head, Wait
from dub5.simulators.virtual import AppResponse, Stalls, run
from tests.support.virtual_redis import VirtualRedis
from tests.support.world import SSE, ServiceWorld, chunk, healthy, script, status

DOWN = status(503, b"{}")
HARD = {"breaker": BreakerOptions(failures_in_a_row=1, open_s=1.0, slow_start_s=0.0)}
PROBES = HARD | {"probe": ProbeOptions(enabled=True, idle_s=1.0)}
NO_PROBES = {"probe": ProbeOptions(enabled=False)}


async def _ask(world: ServiceWorld, deadline_ms: int, **fields: Any) -> AppResponse:
    async with world:
        return await world.ask(headers={"x-deadline-ms": str(deadline_ms)}, **fields)


@given(
    at_s=st.floats(0.0, 0.6),
    for_s=st.floats(0.02, 3.0),
    deadline_ms=st.integers(100, 900),
    stream=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_deadline_that_passes_while_the_loop_stands_still(
    at_s: float, for_s: float, deadline_ms: int, stream: bool, seed: int
) -> None:
    """The caller is told so, with 503 and a reason, whatever was being waited for: a backoff, too."""

    async def main() -> AppResponse:
        return await _ask(ServiceWorld(one=DOWN, two=DOWN, options=NO_PROBES), deadline_ms, stream=stream)

    answer = run(main(), seed=seed, stalls=Stalls([(at_s, for_s)], 0.005, seed))
    assert answer.status == 503
    assert answer.json()["error"]["code"] in ("deadline_exceeded", "all_targets_down")


async def test_the_prober_goes_on_after_a_defect() -> None:
    """A defect ends one probe; the next one is sent, and the defect is counted and told with its place."""
    probe, defects = Prober._probe, [RuntimeError("a defect of ours"), KeyError("another")]

    async def broken_at_first(self: Prober, target: Any) -> None:
        if defects:
            raise defects.pop()
        await probe(self, target)

    with mock.patch.object(Prober, "_probe", broken_at_first):
        async with ServiceWorld(one=DOWN, options=PROBES) as world:
            await world.ask()
            await asyncio.sleep(30.0)
            assert len(world.asked["one"]) > 3
            assert world.happened("crashed") == 2


async def test_a_prober_that_ends_is_caught() -> None:
    """A build whose prober ends with its first defect fails the test above."""
    with mutated("tests.simulation.mutants:" + "prober_ended_by_a_defect"), pytest.raises(AssertionError):
        await test_the_prober_goes_on_after_a_defect()


async def test_the_prober_goes_on_after_a_defect_of_its_own_loop() -> None:
    """Even if the search for due probes fails, the search is repeated."""
    async with ServiceWorld(one=DOWN, options=PROBES) as world:
        await world.ask()
        with mock.patch.object(world.service.fleet, "probes_due", side_effect=RuntimeError):
            await asyncio.sleep(5.0)
        before = len(world.asked["one"])
        await asyncio.sleep(20.0)
        assert len(world.asked["one"]) > before and world.happened("crashed") >= 4


@settings(max_examples=10)
@given(
    stalls=st.lists(st.tuples(st.floats(2.0, 60.0), st.floats(0.5, 3.0)), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_the_prober_goes_on_after_stalls(stalls: list[tuple[float, float]], seed: int) -> None:
    """However often the process stops, a target that is back is found without traffic."""

    async def main() -> int:
        async with ServiceWorld(one=DOWN, options=PROBES) as world:
            await world.ask()
            await asyncio.sleep(90.0)
            before = len(world.asked["one"])
            await asyncio.sleep(40.0)
            return len(world.asked["one"]) - before

    assert run(main(), seed=seed, stalls=Stalls(stalls, 0.01, seed)) > 0


@pytest.mark.parametrize("deadline_ms", [100, 250, 399])
async def test_the_deadline_applies_while_an_answer_is_judged(deadline_ms: int) -> None:
    """An answer that is held back to be judged is no reason to be late, or to send a 200 that is then cut."""
    slow = script(Head(200, SSE), chunk({"content": "So"}), Hang())
    world = ServiceWorld(one=slow, route={"reject_patterns": ("upgrade",)}, options=NO_PROBES)
    answer = await _ask(world, min(deadline_ms, 299), stream=True)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert clock.now() <= min(deadline_ms, 299) / 1e3 + 0.1


@pytest.mark.parametrize("stalled_s", [0.1, 2.0])
def test_an_answer_is_judged_by_what_has_arrived(stalled_s: float) -> None:
    """A notice whose rest arrived while the loop stood still is read before it is passed on."""
    notice = script(
        Head(200, SSE), chunk({"content": "Important "}), Wait(0.25), chunk({"content": "notice"})
    )
    route = {"reject_patterns": ("important notice",)}

    async def main() -> str:
        async with ServiceWorld(one=notice, two=healthy(), route=route, options=NO_PROBES) as world:
            return (await world.ask(stream=True)).headers["x-dub5-target"]

    for seed in range(60):
        assert run(main(), seed=seed, stalls=Stalls([(0.01, stalled_s)], 0.0, seed)) == "two/m"


@pytest.mark.parametrize("share", [True, False])
async def test_the_deadline_applies_while_another_process_has_the_claim(share: bool) -> None:
    """A request that waits for the answer of another process ends at its own deadline."""
    cache = CacheOptions(enabled=True, share=share)
    world = ServiceWorld(one=healthy(first_s=5.0), route={"cache": cache}, options=NO_PROBES)
    world.service.cache._storage = VirtualRedis(CacheBounds(redis=RedisOptions(url="redis://")))
    async with world:
        with mock.patch.object(VirtualRedis, "claim", _taken):
            answer = await world.ask(temperature=0, headers={"x-deadline-ms": "200"})
            assert (answer.status, answer.json()["error"]["code"]) == (503, "deadline_exceeded")
            assert clock.now() <= 0.3


async def _taken(self: VirtualRedis, *claim: object) -> bool:
    await asyncio.sleep(self.delay_s)
    return False
