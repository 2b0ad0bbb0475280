"""A target that fails with one caller's requests alone is not taken from the other callers."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.service import clock
from dub5.service.config.options import LimiterOptions
from dub5.simulators import virtual
from dub5.simulators.script import Close, Data, Hang, Head, Reset, Respond, Script, SimRequest
from dub5.simulators.virtual import AppResponse
from tests.support.world import SSE, STRICT, ServiceWorld, chunk, healthy, script, share, status, until

Answers = Sequence[AppResponse]
CUT = script(Head(200, SSE), chunk({"content": "a"}), Close())
POISONS: dict[str, Respond] = {
    "500": status(500),
    "502": status(502, b"<html>Bad gateway</html>"),
    "503": status(503),
    "504": status(504),
    "cut": CUT,
    "closed": script(Close()),
    "reset": script(Reset()),
    "stalls": script(Hang()),
    "stalls after its head": script(Head(200, SSE), Hang()),
    "stops": script(Head(200, SSE), chunk({"content": "a"}), Hang()),
    "garbled": script(Head(200, SSE), Data(b"data: {\n\n"), Close()),
    "empty": status(200, b"{}"),
}


def poisoned(odd: Respond, good: Respond) -> Respond:
    """Answer requests with `temperature: 3` by `odd`, others by `good`."""

    def respond(request: SimRequest) -> Script:
        return (odd if json.loads(request.body).get("temperature") == 3 else good)(request)

    return respond


async def send(world: ServiceWorld, caller: str, every_s: float, until_s: float, odd: float = 0.0) -> Answers:
    """Send streamed and JSON requests of one caller in turn, until then; return all answers.

    `odd`: this share of them makes the first target fail.
    """
    sent = []
    while clock.now() < until_s:
        number = len(sent)
        fields = {"temperature": 3} if int((number + 1) * odd) > int(number * odd) else {}
        headers = {"authorization": f"Bearer {caller}"}
        sent.append(asyncio.ensure_future(world.ask(stream=number % 2 == 0, headers=headers, **fields)))
        await asyncio.sleep(every_s)
    return await asyncio.gather(*sent)


def targets(answers: Answers) -> set[str | None]:
    """Return who answered; None: nobody."""
    return {answer.headers.get("x-dub5-target") for answer in answers}


def world_of(one: Respond, two: Respond | None = None, callers: tuple[str, ...] = ("a", "b")) -> ServiceWorld:
    """Return a world in which a dead target is given up after 10 s."""
    providers = {"one": one} | ({"two": two} if two else {})
    return ServiceWorld(**providers, caller_keys=callers, timeouts=STRICT)


class TestOthers:
    @pytest.mark.parametrize("two", [None, healthy()], ids=["alone", "with another"])
    @pytest.mark.parametrize("odd", POISONS.values(), ids=list(POISONS))
    async def test_are_served(self, odd: Respond, two: Respond | None) -> None:
        """Whatever one caller's requests do to a target, the others are answered by it each time."""
        async with world_of(poisoned(odd, healthy()), two) as world:
            _, good = await asyncio.gather(send(world, "a", 0.4, 60.0, odd=1.0), send(world, "b", 3.0, 60.0))
            assert targets(good) == {"one/m"}
            assert world.happened("breaker_opened") == 0

    @given(
        st.lists(st.sampled_from(sorted(POISONS)), min_size=1, max_size=3),
        st.sampled_from((0.3, 1.0, 4.0)),
        st.sampled_from((1.0, 0.5)),
        st.sampled_from((0.7, 5.0, 20.0)),
    )
    @settings(max_examples=12, deadline=None, derandomize=True)
    def test_are_served_at_any_rates(
        self, kinds: list[str], odd_s: float, part: float, good_s: float
    ) -> None:
        """That holds for failures of several kinds, few or many, and however rarely the others ask."""

        async def ask() -> set[str | None]:
            turn = itertools.cycle(POISONS[kind] for kind in kinds)
            async with world_of(poisoned(lambda request: next(turn)(request), healthy())) as world:
                odd = asyncio.ensure_future(send(world, "a", odd_s, 90.0, odd=part))
                await asyncio.sleep(7.0)
                good = await send(world, "b", good_s, 90.0)
                await odd
            return targets(good)

        assert virtual.run(ask()) == {"one/m"}

    async def test_are_served_though_few_of_theirs_fail(self) -> None:
        """A failure in fifty of everybody's makes the one caller's failures nobody else's."""
        now_and_then = share(0.02, status(500), healthy())
        async with world_of(poisoned(status(500), now_and_then)) as world:
            _, good = await asyncio.gather(
                send(world, "a", 0.4, 120.0, odd=1.0), send(world, "b", 0.7, 120.0)
            )
            assert targets(good) == {"one/m"}

    @pytest.mark.parametrize("part", [0.02, 0.05])
    async def test_are_served_though_some_of_theirs_fail(self, part: float) -> None:
        """Failures of others by chance do not free the one caller to open everybody's breaker."""
        rng = Random(1)

        def now_and_then(request: SimRequest) -> Script:
            return (status(500) if rng.random() < part else healthy())(request)

        async with world_of(poisoned(status(500), now_and_then)) as world:
            await asyncio.gather(send(world, "a", 0.2, 300.0, odd=1.0), send(world, "b", 0.7, 300.0))
            assert world.happened("breaker_opened") == 0

    async def test_are_served_after_an_outage(self) -> None:
        """When a target is well again, the one whose requests make it fail is not the only one to probe."""
        well = until(10.0, healthy(), until(20.0, status(500), healthy()))
        async with world_of(poisoned(status(500), well)) as world:
            odd = asyncio.ensure_future(send(world, "a", 0.2, 90.0, odd=1.0))
            await send(world, "b", 3.0, 40.0)
            good = await send(world, "b", 3.0, 90.0)
            await odd
            assert targets(good) == {"one/m"}

    async def test_are_not_served_for_the_one(self) -> None:
        """The caller itself is kept from the target after five failures, and answered by the next one."""
        async with world_of(poisoned(status(500), healthy()), healthy()) as world:
            own, _ = await asyncio.gather(send(world, "a", 0.5, 60.0, odd=1.0), send(world, "b", 3.0, 60.0))
            assert targets(own) == {"two/m"}
            assert len(world.asked["one"]) < 20 + 15


class TestADeadTarget:
    @pytest.mark.parametrize("often", ["a", "b"])
    @pytest.mark.parametrize("dead", [status(500), script(Close())], ids=["500", "closed"])
    async def test_is_left_as_soon(self, dead: Respond, often: str) -> None:
        """A target that is down takes five attempts and at most three more, whoever sends most requests."""
        async with world_of(until(20.0, healthy(), dead), healthy()) as world:
            rates = {"a": 2.0, "b": 2.0, often: 0.2}
            both = asyncio.gather(*(send(world, name, every_s, 24.0) for name, every_s in rates.items()))
            await asyncio.sleep(19.99)
            asked = len(world.asked["one"])
            await both
            assert world.happened("breaker_opened") == 1
            assert 5 <= len(world.asked["one"]) - asked <= 8

    @pytest.mark.parametrize("callers", [(), ("a",)], ids=["no keys", "one key"])
    async def test_is_left_after_five(self, callers: tuple[str, ...]) -> None:
        """Where callers cannot be told apart, each failure counts for everybody."""
        async with world_of(status(500), healthy(), callers) as world:
            await send(world, "a", 0.5, 4.0)
            assert world.happened("breaker_opened") == 1
            assert len(world.asked["one"]) == 5

    async def test_is_found_by_a_probe(self) -> None:
        """Where only one of several callers asks, a probe of our own shows that the target is down."""
        async with world_of(status(500)) as world:
            await send(world, "a", 0.5, 6.0)
            assert world.happened("breaker_opened") >= 1


class TestSlowPrompts:
    @pytest.mark.parametrize("first_s", [8.0, 20.0])
    async def test_are_no_queue(self, first_s: float) -> None:
        """One caller's long prompts lower no limit while others' later requests are answered before them."""
        async with world_of(poisoned(healthy(first_s=first_s), healthy())) as world:
            odd = asyncio.ensure_future(send(world, "a", 0.2, 120.0, odd=1.0))
            good = await send(world, "b", 3.0, 120.0)
            await odd
            assert targets(good) == {"one/m"}
            assert world.service.fleet.limit("one") == LimiterOptions().max


class TestThinkers:
    async def test_are_no_stalls_while_one_callers_requests_hang(self) -> None:
        """Many hanging requests of one caller make nobody's usual wait a stall, and no other call is hedged.

        Neither the target's breaker, nor its health, nor its limit counts them.
        """

        def respond(request: SimRequest) -> Script:
            fields = json.loads(request.body)
            good = healthy(first_s=30.0 if "reasoning_effort" in fields else 0.5)
            return (script(Hang()) if fields.get("temperature") == 3 else good)(request)

        async def think(world: ServiceWorld, caller: str, until_s: float) -> Answers:
            headers, sent = {"authorization": f"Bearer {caller}"}, []
            while clock.now() < until_s:
                ask = world.ask(stream=True, reasoning_effort="high", headers=headers)
                sent.append(asyncio.ensure_future(ask))
                await asyncio.sleep(10.0)
            return await asyncio.gather(*sent)

        world = ServiceWorld(one=respond, two=healthy(), caller_keys=("a", "b", "c"))
        async with world:
            both = asyncio.gather(*(think(world, caller, 350.0) for caller in "bc"))  # until this is usual
            await asyncio.sleep(330.0)
            await asyncio.gather(send(world, "a", 0.5, 350.0), both)
            before = dict(world.service.board.happened)
            odd = asyncio.ensure_future(send(world, "a", 0.5, clock.now() + 40.0, odd=1.0))
            good = await asyncio.gather(*(think(world, caller, clock.now() + 200.0) for caller in "bc"))
            await odd
            assert [targets(answers) for answers in good] == [{"one/m"}] * 2
            after = world.service.board.happened
            assert all(
                after[what] == before[what] for what in ("breaker_opened", "health_degraded", "limit_lowered")
            )
