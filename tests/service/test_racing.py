"""Who is asked beside a target that may be sick, and what must not come of it. In virtual time."""

import asyncio

import pytest

from dub5.service import clock
from dub5.service.config.options import (
    BreakerOptions,
    DegradedOptions,
    HedgeOptions,
    ProbeOptions,
    TimeoutOptions,
)
from dub5.service.resilience.health import Health
from dub5.simulators.script import Hang
from tests.support.steady_clients import SteadyClients
from tests.support.world import STRICT, ServiceWorld, healthy, script, status

CALM = {"probe": ProbeOptions(enabled=False), "breaker": BreakerOptions(slow_start_s=0.0)}
WHOLE = {"x-dub5-delivery": "whole"}
STALLS = script(Hang())


def doubt(world: ServiceWorld, *providers: str) -> None:
    """They have just come back, and owe five proofs that they are well."""
    fleet = world.service.fleet
    fleet.isolate(providers, clock.now())
    fleet.isolate([], clock.now())


def calls(world: ServiceWorld) -> list[int]:
    """How often each provider was asked."""
    return [len(asked) for asked in world.asked.values()]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_stored_is_never_asked_twice(stream: bool) -> None:
    """Under suspicion it goes where it would go, alone; a probe is left to others as long as somebody else
    answers."""
    breaker = {"breaker": BreakerOptions(slow_start_s=0.0, failures_in_a_row=1, open_s=1.0)}
    async with ServiceWorld(one=healthy(first_s=0.5), two=healthy(), options=CALM | breaker) as world:
        doubt(world, "one")
        await world.ask(stream=stream, store=True)
        await asyncio.sleep(5)
        assert calls(world) == [1, 0]
    async with ServiceWorld(one=STALLS, two=healthy(), options=CALM | breaker, timeouts=STRICT) as world:
        await world.ask(stream=True)
        await asyncio.sleep(5)
        began_s, before = clock.now(), calls(world)
        answer = await world.ask(stream=stream, store=True)
        assert (answer.status, before, calls(world)) == (200, [1, 1], [1, 2])
        assert clock.now() - began_s < 0.5


async def test_what_is_stored_is_a_probe_where_nobody_else_answers() -> None:
    """One after the other."""
    options = CALM | {"breaker": BreakerOptions(slow_start_s=0.0, failures_in_a_row=1, open_s=1.0)}
    async with ServiceWorld(one=STALLS, two=STALLS, options=options) as world:
        await world.ask(stream=True)
        await asyncio.sleep(5)
        before = calls(world)
        await world.ask(stream=True, store=True)
        assert (before, calls(world)) == ([1, 1], [2, 2])


async def test_side_effects_where_there_is_a_fallback() -> None:
    """A request with side effects is sent to one target at a time, also where its route has a fallback."""
    options = CALM | {"breaker": BreakerOptions(slow_start_s=0.0, failures_in_a_row=1, open_s=1.0)}
    route = {"degraded": DegradedOptions(enabled=True)}
    timeouts = TimeoutOptions(first_token_s=2.0, whole_answer_s=2.0)
    async with ServiceWorld(one=STALLS, two=STALLS, options=options, route=route, timeouts=timeouts) as world:
        await world.ask(stream=True)
        await asyncio.sleep(5)
        before, asking = calls(world), asyncio.create_task(world.ask(stream=True, store=True))
        await asyncio.sleep(1.0)
        assert sum(calls(world)) == sum(before) + 1
        assert (await asking).headers["x-dub5-degraded"] == "words"


async def test_another_ones_refusal_is_not_the_last_word() -> None:
    """A request that its first target takes is answered, though one that is asked beside it takes less."""
    async with ServiceWorld(one=healthy(first_s=0.5), two=status(400), options=CALM) as world:
        doubt(world, "one")
        answer = await world.ask(stream=True)
        both = await world.ask(stream=True)
    assert (answer.status, both.status) == (200, 200)


async def test_both_refuse() -> None:
    """When both targets refuse the request, it is the caller's error."""
    async with ServiceWorld(one=status(400), two=status(400), options=CALM) as world:
        doubt(world, "one")
        assert (await world.ask(stream=True)).status == 400


async def test_one_is_asked_beside_it() -> None:
    """Three models of a provider are under suspicion: one of them is asked, and one that does well."""
    targets = {"targets": ("one/a", "one/b", "one/c", "two/m")}
    async with ServiceWorld(one=healthy(first_s=0.5), two=healthy(), route=targets, options=CALM) as world:
        doubt(world, "one")
        await world.ask(stream=True)
        await asyncio.sleep(3)
        assert calls(world) == [1, 1]


async def test_few_whole_streams_are_heard_out() -> None:
    """A stream that is held until it is whole costs as much as a JSON answer: a few prove enough."""
    lasts = healthy(first_s=0.5, gap_s=1.0, words=("a ",) * 40)
    async with ServiceWorld(one=lasts, two=healthy(), options=CALM) as world:
        doubt(world, "one")
        for _ in range(20):
            await world.ask(stream=True, headers=WHOLE)
        assert world.service.fleet.snapshots(clock.now())[0].in_flight == 5


async def test_a_whole_stream_that_has_begun_is_not_slow() -> None:
    """Usual is the first token; that the rest is waited for too makes nobody slow."""
    lasts = healthy(first_s=0.1, gap_s=0.5, words=("a ",) * 20)
    options = CALM | {"hedge": HedgeOptions(share=0.5, delay_min_s=0.2)}
    async with ServiceWorld(one=lasts, two=lasts, options=options) as world:
        for _ in range(30):
            await world.ask(stream=True, headers=WHOLE)
        assert (world.happened("hedged"), calls(world)) == (0, [30, 0])


async def test_too_late_for_late() -> None:
    """No late hedge is sent, or reported, to a target that could not answer in time."""
    async with ServiceWorld(one=STALLS, two=healthy(), options=CALM) as world:
        await world.ask(headers={"x-deadline-ms": "90"})
        assert (world.happened("hedged"), calls(world)) == (0, [1, 0])


async def test_slowness_is_told_when_it_opens_a_breaker() -> None:
    """Slowness is reported when it opens a breaker, not at the next request."""
    async with ServiceWorld(one=healthy(first_s=6.0), options=CALM, timeouts=STRICT) as world:
        await asyncio.gather(*(world.ask(stream=True) for _ in range(12)))
        assert world.happened("breaker_opened") == 1
        assert [entry.reported_health for entry in world.service.fleet._states.values()] == [Health.UNHEALTHY]


@pytest.mark.parametrize("turns", range(6))
async def test_whoever_is_cancelled_twice_leaves_nothing_behind(turns: int) -> None:
    """The client leaves, and the process is told to end while both sides of the race do."""
    async with ServiceWorld(one=healthy(first_s=0.5), two=healthy(first_s=0.5), options=CALM) as world:
        doubt(world, "one")
        asking = asyncio.ensure_future(world.ask(stream=True))
        await asyncio.sleep(0.2)
        (app,) = (task for task in asyncio.all_tasks() if "POST /v1/chat" in task.get_name())
        app.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        app.cancel()
        await asyncio.gather(app, asking, return_exceptions=True)
        await asyncio.sleep(60)
        assert [state.in_flight for state in world.service.fleet.snapshots(clock.now())] == [0, 0]


@pytest.mark.parametrize("every_s", [0.5, 20.0])
async def test_who_is_always_late_is_under_suspicion(every_s: float) -> None:
    """Each answer comes from another one at half the time, so nothing ever fails: those who ask then wait no
    more."""
    async with ServiceWorld(one=STALLS, two=healthy(), options=CALM) as world:
        clients = await SteadyClients(world, stream=False, deadline_s=20.0).ask(100, every_s)
    assert clients.answered() == 1.0
    assert clients.waited(1.0) <= 2 + 10.0 / every_s


async def test_one_that_is_back_is_found_though_all_are_under_suspicion() -> None:
    """Nobody does well, one of them hangs, and no time is left for another one."""
    async with ServiceWorld(one=STALLS, two=healthy(), options=CALM) as world:
        doubt(world, "one", "two")
        clients = await SteadyClients(world, stream=False, deadline_s=20.0).ask(100, 5.0)
    assert clients.answered() == 1.0
    assert clients.waited(1.0) <= 7


async def test_when_all_hang_late_ones_are_paid_for() -> None:
    """A total outage, and deadlines so short that no clock runs out: calls beyond the first stay within the
    purse."""
    async with ServiceWorld(one=STALLS, two=STALLS, options=CALM) as world:
        clients = await SteadyClients(world, stream=False, deadline_s=20.0).ask(300, 0.5)
    assert clients.answered() == 0.0
    assert calls(world)[1] <= 300 * 0.1 + 160


async def test_short_deadlines_are_their_callers_own() -> None:
    """Two requests that allow less time than the target usually takes put nobody else's under suspicion."""
    async with ServiceWorld(one=healthy(first_s=2.0), two=healthy()) as world:
        for _ in range(2):
            await world.ask(stream=True, headers={"x-deadline-ms": "300"})
        before = calls(world)
        answers = await asyncio.gather(*(world.ask(stream=True) for _ in range(30)))
        assert {answer.status for answer in answers} == {200}
        assert [now - then for now, then in zip(calls(world), before, strict=True)] == [30, 0]
