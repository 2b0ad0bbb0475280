"""A second target beside one that takes longer than usual, in virtual time."""

import asyncio
from typing import Any
from unittest import mock

import pytest

from dub5.service import clock
from dub5.service.config.options import (
    BreakerOptions,
    BudgetOptions,
    HealthOptions,
    HedgeOptions,
    ProbeOptions,
    TimeoutOptions,
)
from dub5.service.failover import hedge_timer
from dub5.service.failover.hedging import hedge_target
from dub5.service.model import Target
from dub5.simulators.script import Hang, Respond, Script, SimRequest, Wait
from dub5.simulators.virtual import Connect
from tests.support.steady_clients import SteadyClients
from tests.support.world import (
    ServiceWorld,
    healthy,
    in_turn,
    reply,
    script,
    share,
    status,
    text_of,
    until,
)

STALLS = script(Hang())
CALM = HedgeOptions(delay_min_s=0.2)  # simulated answers all take 0.1 s: their 95th percentile is no outlier
PLENTY = {"budget": BudgetOptions(floor_per_s=1000.0), "probe": ProbeOptions(enabled=False), "hedge": CALM}
EAGER = {**PLENTY, "hedge": HedgeOptions(share=0.5, delay_min_s=0.2)}


def then(usual: Respond, after: Respond, calls: int = 40) -> Respond:
    """As usual for so many calls, then otherwise."""
    return in_turn(*[usual] * calls, after)


async def warm(world: ServiceWorld, *, stream: bool = True, calls: int = 40) -> None:
    """So many requests, so that it is known what is usual."""
    for _ in range(calls):
        await world.ask(stream=stream)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_second_answers(stream: bool) -> None:
    """A first token, or a JSON answer, that does not come as soon as usual is asked for elsewhere, and taken
    from there."""
    async with ServiceWorld(one=then(healthy(), STALLS), two=healthy(), options=EAGER) as world:
        await warm(world, stream=stream)
        began_s = clock.now()
        answer = await world.ask(stream=stream)
        took_s = clock.now() - began_s
        assert [state.in_flight for state in world.service.fleet.snapshots(clock.now())] == [0, 0]
    assert took_s < 0.5
    assert "one/m=hedge_lost" in answer.headers["x-dub5-trail"]
    assert answer.headers["x-dub5-target"] == "two/m"
    assert not stream or text_of(answer.body) == "hello big world"
    assert world.happened("hedged") == 1
    assert world.outcomes() == {"complete": 41}


async def test_half_the_time_is_gone() -> None:
    """A caller who cannot wait for as long as an answer may take is asked for elsewhere at half its time,
    free, from the first request on; nobody is given up for it. Who has time enough waits for the clock."""
    options = {**PLENTY, "budget": BudgetOptions(share=0.0, floor_per_s=0.0)}
    timeouts = TimeoutOptions(hedge_after_s=60.0, whole_answer_s=60.0)
    async with ServiceWorld(
        one=healthy(first_s=10.0), two=healthy(), options=options, timeouts=timeouts
    ) as world:
        soon = await world.ask(stream=False, headers={"x-deadline-ms": "8000"})
        later = await world.ask(stream=False, headers={"x-deadline-ms": "30000"})
        patient = await world.ask(stream=False, headers={"x-deadline-ms": "61000"})
    assert soon.headers["x-dub5-trail"] == "two/m=ok;100ms, one/m=hedge_lost;4100ms"
    assert later.headers["x-dub5-trail"] == patient.headers["x-dub5-trail"] == "one/m=ok;10000ms"
    assert world.happened("hedged") == 1


async def test_who_often_takes_long_is_not_late_at_half_the_time() -> None:
    """Where answers take seven seconds of the ten that callers have, they cost one call each, once that is
    known."""
    slow = then(healthy(first_s=7.0), healthy(first_s=6.5), calls=20)
    async with ServiceWorld(
        one=slow, two=healthy(first_s=7.0), options={"hedge": HedgeOptions(share=0.0)}
    ) as world:
        for _ in range(60):
            await world.ask(stream=False, headers={"x-deadline-ms": "10000"})
    assert world.outcomes() == {"complete": 60}
    assert len(world.asked["two"]) <= 21


async def test_each_pays_from_its_own_purse() -> None:
    """Who has just recovered is spared, and pays for nobody else: the next one is asked if its own budget
    allows it."""
    options = {**EAGER, "budget": BudgetOptions(share=0.0, floor_per_s=1.0)}
    timeouts = TimeoutOptions(first_token_s=0.97)  # then there is no time for anybody else
    providers = {"one": then(healthy(), STALLS), "two": healthy(), "three": healthy()}
    async with ServiceWorld(**providers, options=options, timeouts=timeouts) as world:
        await warm(world)
        fleet = world.service.fleet
        fleet.isolate(["two"], clock.now())
        fleet.isolate([], clock.now())
        while fleet.withdraw(Target("three", "m"), clock.now()):
            pass
        await world.ask(stream=True, headers={"x-deadline-ms": "1000"})
        assert world.happened("hedged") == 0
        assert not (world.asked["two"] or world.asked["three"])


async def test_only_who_was_paid_for_is_told_of_as_a_hedge() -> None:
    """It fails, and the way goes on to who has just recovered: a first try there, which nobody has to pay."""
    full = status(429, b"{}")
    async with ServiceWorld(one=then(healthy(), STALLS), two=full, three=healthy(), options=EAGER) as world:
        await warm(world)
        fleet = world.service.fleet
        fleet.isolate(["three"], clock.now())
        fleet.isolate([], clock.now())
        answer = await world.ask(stream=True)
        _, ended = world.service.board._recent[-1]
    assert answer.headers["x-dub5-target"] == "three/m"
    tried = [(attempt.target, attempt.kind) for attempt in ended.attempts if attempt.tried]
    assert sorted(tried) == [("one/m", "first"), ("three/m", "first"), ("two/m", "hedge")]


async def test_the_first_answers_after_all() -> None:
    """When the first target answers after all, the second call is closed at once."""
    slower = healthy(first_s=0.6)
    async with ServiceWorld(one=then(healthy(), slower), two=STALLS, options=EAGER) as world:
        await warm(world)
        answer = await world.ask(stream=True)
        assert world.service.fleet.snapshots(clock.now())[1].in_flight == 0
    assert answer.headers["x-dub5-target"] == "one/m"
    assert text_of(answer.body) == "hello big world"
    assert len(world.asked["two"]) == 1


async def test_the_first_fails_while_the_second_is_asked() -> None:
    """When the first target fails during a hedge, the second is waited for, and no target is called twice."""

    def late_failure(request: SimRequest) -> Script:
        yield Wait(0.5)
        yield from reply(529, b"{}")

    async with ServiceWorld(
        one=then(healthy(), late_failure), two=healthy(first_s=1.0), three=healthy(), options=EAGER
    ) as world:
        await warm(world)
        answer = await world.ask(stream=True)
    assert answer.status == 200
    assert len(world.asked["two"]) + len(world.asked["three"]) == 1


async def test_both_fail() -> None:
    """The rest of the way is walked beside the first one, each target once, and the error is honest."""
    broken = status(529, b"{}")
    breaker = BreakerOptions(failures_in_a_row=1000, calls_min=1000)
    never = {**EAGER, "health": HealthOptions(calls_min=1000)}
    async with ServiceWorld(
        one=then(healthy(), STALLS), two=broken, three=broken, options=never, breaker=breaker
    ) as world:
        await warm(world)
        answer = await world.ask(stream=True, headers={"x-deadline-ms": "3000"})
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    assert len(world.asked["two"]) == len(world.asked["three"]) == 1


async def test_leaving_while_two_are_asked() -> None:
    """When the client leaves during a hedge, both calls are closed at once."""
    async with ServiceWorld(one=then(healthy(), STALLS), two=STALLS, options=EAGER) as world:
        await warm(world)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await world.ask(stream=True)
        assert [state.in_flight for state in world.service.fleet.snapshots(clock.now())] == [0, 0]
    assert len(world.asked["two"]) == 1


async def test_at_most_a_twentieth() -> None:
    """Where every tenth request is slow, hedges still stay within five in a hundred."""
    slow = share(0.1, healthy(first_s=3.0), healthy())
    async with ServiceWorld(one=slow, two=healthy(), options=PLENTY) as world:
        await SteadyClients(world).ask(600, 0.1)
    assert 10 < world.happened("hedged") <= 600 * 0.05 + 1


async def test_the_purse_is_the_receivers() -> None:
    """A provider that has had enough of extra tries gets no hedges."""
    broke = {**EAGER, "budget": BudgetOptions(share=0.0, floor_per_s=0.0)}
    async with ServiceWorld(one=then(healthy(), healthy(first_s=1.0)), two=healthy(), options=broke) as world:
        await warm(world)
        await world.ask(stream=True)
    assert world.asked["two"] == []


async def test_not_toward_trouble() -> None:
    """Nor does anybody whose breaker is not closed."""
    async with ServiceWorld(
        one=until(60, healthy(), healthy(first_s=1.0)), two=healthy(), options=EAGER
    ) as world:
        for _ in range(20):
            await world.ask(stream=True)
        world.wire.link("http://one.test/v1").connect = Connect.REFUSED
        world.wire.link("http://one.test/v1").idle = 0
        world.wire.link("http://two.test/v1").connect = Connect.REFUSED
        for _ in range(5):
            await world.ask(stream=True)
        world.wire.link("http://one.test/v1").connect = Connect.OPENS
        await asyncio.sleep(60)
        await world.ask(stream=True)
        assert world.service.fleet.snapshots(clock.now())[1].breaker != "closed"
        hedged = world.happened("hedged")
        before = len(world.asked["two"])
        await warm(world, calls=5)
    assert len(world.asked["two"]) == before or world.happened("hedged") == hedged


async def test_nobody_can_be_asked_instead() -> None:
    """While a target answers nobody, and no other can be asked, each request looks again once a second."""
    stops, looks = until(20.0, healthy(first_s=0.2), STALLS), []

    def look(*args: Any) -> tuple[Target | None, bool]:
        looks.append(clock.now())
        return hedge_target(*args)

    async with ServiceWorld(one=stops, two=status(500)) as world:
        await SteadyClients(world).ask(95, 0.2)
        await asyncio.sleep(20.0 - clock.now())
        with mock.patch.object(hedge_timer, "hedge_target", look):
            asked = [asyncio.ensure_future(world.ask(stream=True)) for _ in range(12)]
            await asyncio.sleep(60.0)
        assert len(asked) * 30 < len(looks) < len(asked) * 60
        for task in asked:
            task.cancel()


async def test_side_effects() -> None:
    """A request with side effects at the provider is never hedged."""
    async with ServiceWorld(one=then(healthy(), healthy(first_s=1.0)), two=healthy(), options=EAGER) as world:
        await warm(world)
        await world.ask(stream=True, store=True)
    assert world.asked["two"] == []


async def test_ablation() -> None:
    """Where one answer in thirty waits five seconds for its first token, hedging avoids nearly all of these
    waits."""

    async def waited(options: dict[str, object]) -> int:
        slow = share(0.03, healthy(first_s=4.9), healthy())
        async with ServiceWorld(one=slow, two=healthy(), options={**PLENTY, **options}) as world:
            return (await SteadyClients(world).ask(600, 0.1)).waited(1.0)

    assert await waited({}) <= 4
    assert await waited({"hedge": HedgeOptions(share=0.0)}) >= 15
