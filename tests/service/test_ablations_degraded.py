"""Substitutes and features earn their place: with each mechanism the verdict holds, without it the same
verdict fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.cache.cache import AnswerCache
from dub5.service.config.options import CacheOptions, DegradedOptions, TimeoutOptions
from dub5.service.config.settings import ServerSettings
from dub5.service.failover.context import Upstream
from dub5.service.failover.loop import _FailoverLoop
from dub5.simulators.script import Hang
from tests.support.unequal_targets import DOWN, TOOL, UnequalTargets
from tests.support.world import ServiceWorld, healthy, in_turn, script, status

STALLS = script(Hang())
TIMEOUTS = TimeoutOptions(first_token_s=2.0)


async def longest_s(world: ServiceWorld, times: int, every_s: float) -> float:
    """How long the unluckiest of them waited."""
    waits = [0.0]
    for _ in range(times):
        began_s = clock.now()
        await world.ask(stream=True)
        waits.append(clock.now() - began_s)
        await asyncio.sleep(every_s)
    return max(waits)


async def substitute(degraded: DegradedOptions) -> bool:
    """All are down: everybody reads something, and it says what it is."""
    async with ServiceWorld(one=status(530, b""), route={"degraded": degraded}) as world:
        answers = [await world.ask() for _ in range(20)]
    return all(one.status == 200 and one.headers["x-dub5-degraded"] for one in answers)


async def answer_within(degraded: DegradedOptions) -> bool:
    """All stall, and it is not known yet: nobody waits longer than the route allows."""
    async with ServiceWorld(one=STALLS, two=STALLS, route={"degraded": degraded}, timeouts=TIMEOUTS) as world:
        return await longest_s(world, 3, 0.0) <= 0.6


async def stand_in(degraded: DegradedOptions) -> bool:
    """All are known to be down: whoever probes them is answered as soon as everybody else."""
    async with ServiceWorld(one=STALLS, two=STALLS, route={"degraded": degraded}, timeouts=TIMEOUTS) as world:
        for _ in range(6):
            await world.ask(stream=True)
        return await longest_s(world, 40, 1.0) <= 0.3


async def stale(degraded: DegradedOptions, stale_if_error_s: float = 3_600.0) -> bool:
    """The answer of an hour ago is what people read, not an excuse."""
    cached = CacheOptions(enabled=True, ttl_s=60.0, stale_if_error_s=stale_if_error_s)
    async with ServiceWorld(
        one=in_turn(healthy(), DOWN), route={"degraded": degraded, "cache": cached}
    ) as world:
        await world.ask(temperature=0)
        await asyncio.sleep(3_000)
        answer = await world.ask(temperature=0)
    return "hello big world" in answer.body.decode()


async def spare(degraded: DegradedOptions) -> bool:
    """The process has no room: whoever comes then reads something at once, and no provider has more to do."""
    stays, server = healthy(gap_s=10.0, words=("a ",) * 10), ServerSettings(in_flight_max=1)
    async with ServiceWorld(one=stays, route={"degraded": degraded}, server=server) as world, world.stream():
        waited_s = await longest_s(world, 20, 0.1)
        answers = [await world.ask() for _ in range(20)]
        return all(one.status == 200 for one in answers) and waited_s <= 0.3 and len(world.asked["one"]) == 1


async def reduced(_: DegradedOptions) -> bool:
    """Tools are out of reach: the error says so, and that the rest works."""
    async with UnequalTargets(DOWN, healthy()) as pair:
        for _ in range(8):
            await pair.ask()
        answer = await pair.ask(**TOOL)
    return answer.json()["error"]["code"] == "feature_unavailable" and answer.status == 503


async def context(_: DegradedOptions) -> bool:
    """A conversation that is too long for the first target costs it nothing."""
    async with UnequalTargets(healthy(), healthy(), (1_000, 128_000)) as pair:
        await pair.ask(messages=[{"role": "user", "content": "x" * 40_000}])
    return pair.asked == ["plain"]


ON = DegradedOptions(enabled=True)
Play = Callable[[DegradedOptions], Awaitable[bool]]


def no_stand_in(patch: pytest.MonkeyPatch) -> None:
    whole = _FailoverLoop._needs_branch

    def waits(self: _FailoverLoop, *args: Any) -> bool:
        self._context.has_fallback = False
        return whole(self, *args)

    patch.setattr(_FailoverLoop, "_needs_branch", waits)


def no_stale(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        return None

    patch.setattr(AnswerCache, "stale_if_error", nothing)


def blind(patch: pytest.MonkeyPatch) -> None:
    for module in ("context", "attempt"):
        patch.setattr(f"dub5.service.failover.{module}.fits", lambda request, tokens: True)


MECHANISMS: list[tuple[Play, DegradedOptions, DegradedOptions, Callable[[pytest.MonkeyPatch], None]]] = [
    (substitute, ON, DegradedOptions(), lambda patch: None),
    (answer_within, DegradedOptions(enabled=True, answer_within_s=0.5), ON, lambda patch: None),
    (stand_in, ON, ON, no_stand_in),
    (stale, ON, ON, no_stale),
    (spare, ON, ON, lambda patch: patch.setattr("dub5.service.admission.admission.SPARE_MAX", 0)),
    (reduced, ON, ON, lambda patch: patch.setattr(Upstream, "supports", lambda self, request: False)),
    (context, ON, ON, blind),
]


@pytest.mark.parametrize(
    ("play", "given", "less", "without"), MECHANISMS, ids=[one[0].__name__ for one in MECHANISMS]
)
async def test_with(play: Play, given: DegradedOptions, less: DegradedOptions, without: Any) -> None:
    """With the mechanism the verdict holds."""
    assert await play(given)


@pytest.mark.parametrize(
    ("play", "given", "less", "without"), MECHANISMS, ids=[one[0].__name__ for one in MECHANISMS]
)
async def test_without(
    play: Play, given: DegradedOptions, less: DegradedOptions, without: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the mechanism the same verdict fails."""
    without(monkeypatch)
    assert not await play(less)
