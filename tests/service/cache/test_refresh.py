"""A stale answer is given at once, and asked for anew behind it: the whole service, in virtual time."""

import asyncio
from random import Random
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.cache.storage_memory import MemoryStorage
from dub5.service.config.options import (
    CacheBounds,
    CacheOptions,
    DegradedOptions,
    ProbeOptions,
    TimeoutOptions,
)
from dub5.service.config.settings import LoadedSettings
from dub5.service.resilience.storage_guard import BreakerGuard
from dub5.simulators.script import Hang, Respond, Script, SimRequest, Wait
from tests.support.virtual_redis import VirtualRedis
from tests.support.world import ServiceWorld, healthy, in_turn, script, status, text_of

ROUTE = {"cache": CacheOptions(enabled=True, ttl_s=10.0, stale_while_revalidate_s=60.0)}
OLD, NEW = healthy(words=("old",)), healthy(words=("new",))


def world(*answers: Respond) -> ServiceWorld:
    return ServiceWorld(one=in_turn(*answers), route=ROUTE)


async def test_stale_at_once_then_new() -> None:
    """A stale answer is served at once, one call fetches the new one, and then that one is served."""
    async with world(OLD, NEW) as served:
        await served.ask(temperature=0)
        await asyncio.sleep(20)
        stale = await asyncio.gather(*(served.ask(temperature=0) for _ in range(5)))
        await asyncio.sleep(1)
        fresh = await served.ask(temperature=0)
    assert {answer.headers["x-dub5-cache"] for answer in stale} == {"stale"}
    assert {answer.json()["choices"][0]["message"]["content"] for answer in stale} == {"old"}
    assert fresh.headers["x-dub5-cache"] == "hit"
    assert fresh.json()["choices"][0]["message"]["content"] == "new"
    assert len(served.asked["one"]) == 2


async def test_a_stream_is_refreshed_as_well() -> None:
    """The call behind a stale stream is read to its end, though nobody listens."""
    async with world(OLD, NEW) as served:
        await served.ask(stream=True, temperature=0)
        await asyncio.sleep(20)
        stale = await served.ask(stream=True, temperature=0)
        await asyncio.sleep(1)
        fresh = await served.ask(stream=True, temperature=0)
    assert (text_of(stale.body), text_of(fresh.body)) == ("old", "new")


async def test_a_refresh_that_fails() -> None:
    """The old answer is given on, and the next request tries again."""
    async with world(OLD, *[status(500, b"{}")] * 3, NEW) as served:
        await served.ask(temperature=0)
        await asyncio.sleep(20)
        answers = []
        for _ in range(3):
            answers.append(await served.ask(temperature=0))
            await asyncio.sleep(2)
    said = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert said == ["old", "old", "new"]


class TestOneCall:
    """Whoever comes while it is under way asks no provider again."""

    @staticmethod
    async def at(when_s: float, served: ServiceWorld, **fields: Any) -> str:
        await asyncio.sleep(when_s - clock.now())
        answer = await served.ask(temperature=0, **fields)
        return str(answer.json()["choices"][0]["message"]["content"])

    @pytest.mark.parametrize("share", [True, False])
    async def test_stale_readers(self, share: bool) -> None:
        """Stale answers are served until the new one is there."""
        route = {"cache": CacheOptions(enabled=True, ttl_s=10, stale_while_revalidate_s=600, share=share)}
        async with ServiceWorld(
            one=in_turn(OLD, healthy(first_s=20.0, words=("new",))), route=route
        ) as served:
            said = await asyncio.gather(
                *(self.at(at_s, served) for at_s in (0.0, 20.0, 20.0, 25.0, 39.0, 41.0))
            )
        assert said == ["old"] * 5 + ["new"] and len(served.asked["one"]) == 2

    async def test_longer_than_its_claim(self) -> None:
        """A claim of thirty seconds is over before an answer that takes a minute: nobody asks a second time
        for that."""
        route = {"cache": CacheOptions(enabled=True, ttl_s=10, stale_while_revalidate_s=600)}
        async with ServiceWorld(
            one=in_turn(OLD, healthy(first_s=50.0, words=("new",))), route=route
        ) as served:
            said = await asyncio.gather(*(self.at(at_s, served) for at_s in (0.0, 20.0, 55.0, 71.0)))
        assert said == ["old", "old", "old", "new"] and len(served.asked["one"]) == 2

    async def test_too_old_meanwhile(self) -> None:
        """A request that may not get the stale answer waits for the call under way."""
        route = {"cache": CacheOptions(enabled=True, ttl_s=10, stale_while_revalidate_s=15)}
        async with ServiceWorld(
            one=in_turn(OLD, healthy(first_s=20.0, words=("new",))), route=route
        ) as served:
            said = await asyncio.gather(*(self.at(at_s, served) for at_s in (0.0, 20.0, 30.0)))
            assert clock.now() == pytest.approx(40.1, abs=0.5)
        assert said == ["old", "old", "new"] and len(served.asked["one"]) == 2

    async def test_across_a_reload(self) -> None:
        """After a reload stale answers are served while the call from before goes on."""
        async with world(OLD, healthy(first_s=20.0, words=("new",))) as served:
            said = await asyncio.gather(*(self.at(at_s, served) for at_s in (0.0, 20.0)))
            served.service.reload(LoadedSettings(served.service.settings, {}, ()))
            said += await asyncio.gather(*(self.at(at_s, served) for at_s in (25.0, 41.0)))
        assert said == ["old", "old", "old", "new"] and len(served.asked["one"]) == 2


async def test_nobody_waits_for_its_probe() -> None:
    """All are known to be down, and the call behind a stale answer finds out whether they still are: who
    joins it has a substitute at once, as without it."""
    route = {
        "cache": CacheOptions(enabled=True, ttl_s=10, stale_while_revalidate_s=8.5),
        "degraded": DegradedOptions(enabled=True),
    }
    timeouts, options = TimeoutOptions(whole_answer_s=2.0), {"probe": ProbeOptions(enabled=False)}
    async with ServiceWorld(
        one=in_turn(OLD, script(Hang())), route=route, timeouts=timeouts, options=options
    ) as served:
        await served.ask(temperature=0)
        for _ in range(5):
            await served.ask()  # until its breaker is open
        await asyncio.sleep(18.0 - clock.now())
        assert (await served.ask(temperature=0)).headers["x-dub5-cache"] == "stale"
        await asyncio.sleep(1.0)
        assert len(served.asked["one"]) == 7, "the probe is out"
        began_s = clock.now()
        assert (await served.ask(temperature=0)).headers["x-dub5-degraded"]
        assert clock.now() - began_s < 0.01 and served.happened("renewed") == 1


@pytest.mark.parametrize("delay_s", [0.001, 0.015], ids=["quick", "nearly too slow"])
async def test_over_a_storage_of_all_processes(delay_s: float) -> None:
    """A refresh over Redis starts at once, has timeouts of its own, and its claim ends with it."""
    async with world(OLD, NEW) as served:
        served.service.cache._storage = shared = VirtualRedis(CacheBounds())
        served.service.cache._guard = BreakerGuard(0.05, 64, (), Random(1), lambda *_: None)
        await served.ask(temperature=0)
        shared.delay_s = delay_s
        await asyncio.sleep(20)
        await served.ask(temperature=0)
        await asyncio.sleep(0.5)
        fresh = await served.ask(temperature=0)
    assert fresh.json()["choices"][0]["message"]["content"] == "new" and not shared._claims


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_of_the_process(stream: bool) -> None:
    """A refresh that is under way ends with the service, however long it would take: nothing is left behind,
    neither a task, nor a connection, nor a claim."""
    ended: list[float] = []

    def lasts(request: SimRequest) -> Script:
        try:
            yield Wait(0.0)
            yield from healthy(first_s=50.0)(request)
        finally:
            ended.append(clock.now())

    async with world(OLD, lasts) as served:
        storage = served.service.cache._storage
        await served.ask(temperature=0, stream=stream)
        await asyncio.sleep(20)
        await served.ask(temperature=0, stream=stream)
        await asyncio.sleep(1)
        closing_s = clock.now()
    assert ended == [pytest.approx(closing_s, abs=0.1)] and clock.now() == pytest.approx(closing_s, abs=0.5)
    assert isinstance(storage, MemoryStorage) and not storage._claims
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(("refresh", "flight"))]
