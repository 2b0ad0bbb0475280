"""Each mechanism of the cache earns its place: with it a verdict holds, without it the same verdict fails.

Over a Redis of virtual time that can be slow; `without` takes the one mechanism away.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from dub5.service import clock
from dub5.service.cache.cache import AnswerCache, Selection, Stored
from dub5.service.cache.key import CacheKey
from dub5.service.config.options import CacheBounds, CacheOptions, RedisOptions
from dub5.service.events import Events
from dub5.service.resilience import storage_guard
from dub5.service.resilience.circuit_breaker import Breaker
from dub5.service.resilience.storage_guard import BreakerGuard, NoGuard
from tests.support.questions import MARK, request
from tests.support.virtual_redis import VirtualRedis

BOUNDS = CacheBounds(redis=RedisOptions(url="redis://", claim_wait_s=5.0))
OPTIONS = CacheOptions(enabled=True, ttl_s=10.0, stale_while_revalidate_s=60.0, stale_if_error_s=600.0)
ANSWER_S = 1.0  # of a provider
ANSWER = Stored(b"answer", "one/m")


class CacheProcesses:
    """Processes over one storage, and a provider that is asked when they find nothing."""

    def __init__(self, options: CacheOptions = OPTIONS, processes: int = 1, *, guarded: bool = True) -> None:
        self.redis = VirtualRedis(BOUNDS)
        self.options = options
        self.asked = 0
        self.down = False
        self.refreshing: list[asyncio.Task[bool]] = []
        guards = [
            BreakerGuard(0.05, 64, (), Random(1), lambda *_: None) if guarded else NoGuard()
            for _ in range(processes)
        ]
        self.caches = [
            AnswerCache(BOUNDS, Events(), self.redis, guard, Random(n)) for n, guard in enumerate(guards)
        ]

    async def ask(self, name: str = "q", process: int = 0) -> bool:
        """A request as the gateway plays it; whether there was an answer."""
        cache = self.caches[process]
        key = self.key(name, process)
        found = await cache.lookup(key, "chat", self.options) or await cache.wait_for_claim(
            key, "chat", self.options
        )
        if found is not None and found.fresh:
            return True
        if found is not None:
            if await cache.claim_refresh(key):
                self.refreshing.append(asyncio.create_task(self._provider(cache, key)))
            return True
        if await self._provider(cache, key):
            return True
        await cache.release(key)
        return await cache.stale_if_error(key, "chat", self.options) is not None

    def key(self, name: str, process: int = 0) -> CacheKey:
        key = self.caches[process].key(request(name=name), self.options, MARK)
        assert key is not None
        return key

    async def _provider(self, cache: AnswerCache, key: CacheKey) -> bool:
        if self.down:
            return False
        self.asked += 1
        await asyncio.sleep(ANSWER_S)
        await cache.keep(key, ANSWER, self.options)
        return True


async def timeout(without: bool) -> bool:
    """The storage hangs for ten seconds: no request waits 60 ms for it."""
    shared = CacheProcesses(guarded=not without)
    shared.redis.delay_s = 10.0
    began_s = clock.now()
    await shared.ask()
    return clock.now() - began_s <= ANSWER_S + 0.06


async def breaker(without: bool) -> bool:
    """It hangs for a minute: not every request pays for finding that out."""
    shared = CacheProcesses()
    shared.redis.delay_s = 10.0
    if without:
        guard = shared.caches[0]._guard
        assert isinstance(guard, BreakerGuard)
        never = storage_guard.BREAKER.__class__(failures_in_a_row=10**6, calls_min=10**6)
        guard.breaker = Breaker(never, 1.0, Random(1), lambda *_: None)
    waited = 0
    for number in range(60):
        began_s = clock.now()
        await shared.ask(str(number))
        waited += clock.now() - began_s > ANSWER_S + 0.001
    return waited <= 30


async def claim_of_a_miss(without: bool) -> bool:
    """Four processes are asked the same at once: the provider is asked once."""
    shared = CacheProcesses(processes=4)
    if without:
        shared.redis.across_processes = False  # type: ignore[misc]
    await asyncio.gather(*[shared.ask(process=number % 4) for number in range(40)])
    return shared.asked == 1


async def claim_of_a_refresh(without: bool) -> bool:
    """A stale answer that many are given is asked for anew once."""
    shared = CacheProcesses(processes=4)
    await shared.ask()
    await asyncio.sleep(15)
    if without:
        for cache in shared.caches:
            cache._storage = VirtualRedis(BOUNDS)
            cache._storage.read = shared.redis.read  # type: ignore[method-assign]
    await asyncio.gather(*[shared.ask(process=number % 4) for number in range(40)])
    await asyncio.gather(*shared.refreshing)
    return shared.asked == 2


async def stale_while_revalidate(without: bool) -> bool:
    """A question that comes every few seconds waits for a provider once, at the very beginning."""
    shared = CacheProcesses(CacheOptions(enabled=True, ttl_s=10.0) if without else OPTIONS)
    waited = 0
    for _ in range(20):
        began_s = clock.now()
        await shared.ask()
        waited += clock.now() - began_s >= ANSWER_S
        await asyncio.sleep(5)
    return waited == 1


async def stale_if_error(without: bool) -> bool:
    """No provider answers for five minutes: who asks what was asked before has an answer."""
    shared = CacheProcesses(CacheOptions(enabled=True, ttl_s=10.0) if without else OPTIONS)
    await shared.ask()
    shared.down = True
    await asyncio.sleep(300)
    return await shared.ask()


async def generations(without: bool) -> bool:
    """An answer that was on its way when it was invalidated is not given afterwards."""
    shared = CacheProcesses()
    asking = asyncio.create_task(shared.ask())
    await asyncio.sleep(ANSWER_S / 2)
    if without:  # as if to invalidate were to delete what lies there
        for digest in list(shared.redis._held):
            await shared.redis._drop(digest)
    else:
        await shared.caches[0].invalidate(Selection(route="chat"))
    await asking
    return await shared.caches[0].lookup(shared.key("q"), "chat", OPTIONS) is None


Scenario = Callable[[bool], Awaitable[bool]]
MECHANISMS: tuple[Scenario, ...] = (
    timeout,
    breaker,
    claim_of_a_miss,
    claim_of_a_refresh,
    stale_while_revalidate,
    stale_if_error,
    generations,
)


@pytest.mark.parametrize("scenario", MECHANISMS)
async def test_with(scenario: Scenario) -> None:
    """With the mechanism its check passes."""
    assert await scenario(False)


@pytest.mark.parametrize("scenario", MECHANISMS)
async def test_without(scenario: Scenario) -> None:
    """Without the mechanism its check fails: no other mechanism does its work."""
    assert not await scenario(True)
