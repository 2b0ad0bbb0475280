"""The service over a real Redis that is killed, stopped, slow, or comes and goes, under load: nobody notices.

Each request has a twin at the same instant, on a route that has no cache: what the machine costs, both pay.
"""

import asyncio
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.app import Service
from dub5.service.config.options import CacheBounds, CacheOptions, RedisOptions
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Secret, Settings
from dub5.simulators.virtual import AppClient, AppResponse, VirtualWire
from tests.support.redis_server import RedisServer, SlowProxy, redis_server
from tests.support.world import body, healthy

EVERY_S = 0.015
COST_S = 0.060
BACK_WITHIN_S = 10.0

pytestmark = pytest.mark.real_sockets


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


class SteadyRequests:
    """Requests and their twins at a steady rate, each other one for an answer that was given before."""

    def __init__(self, service: Service, client: AppClient) -> None:
        self.service = service
        self.longer_s: list[float] = []  # than its twin a request took
        self.statuses: list[int] = []
        self.hits: list[float] = []  # when
        self.lag_s = 0.0  # the longest that the machine kept this loop from running: no fault of Redis
        self._client = client
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = False

    async def run(self) -> None:
        while not self._stop:
            self._count += 1
            self._tasks.add(asyncio.create_task(self._one(self._count)))
            due_s = clock.now() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.lag_s = max(self.lag_s, clock.now() - due_s)
        await asyncio.gather(*self._tasks)

    def end(self) -> None:
        self._stop = True

    def p99_s(self) -> float:
        """Return how much longer than its twin the slowest of a hundred took, and forget them all."""
        longer_s, self.longer_s = self.longer_s, []
        return statistics.quantiles(longer_s, n=100)[98]

    async def _one(self, number: int) -> None:
        question = number if number % 2 else number % 8
        asked = body(temperature=0, stream=number % 3 == 0, seed=question)
        (answer, took_s), (twin, twin_took_s) = await asyncio.gather(
            self._timed(asked), self._timed({**asked, "model": "plain"})
        )
        self.longer_s.append(took_s - twin_took_s)
        assert twin.status == 200
        self.statuses.append(answer.status)
        if answer.headers.get("x-dub5-cache") == "hit":
            self.hits.append(clock.now())

    async def _timed(self, asked: dict[str, Any]) -> tuple[AppResponse, float]:
        began_s = clock.now()
        answer = await self._client.request("POST", "/v1/chat/completions", json=asked)
        return answer, clock.now() - began_s


@asynccontextmanager
async def requests(url: str) -> AsyncIterator[SteadyRequests]:
    """The service with one healthy provider and its answers in this Redis."""
    settings = Settings(
        provider=(ProviderSettings("one", "openai", "http://one.test/v1"),),
        route=(
            RouteSettings("chat", ("one/m",), cache=CacheOptions(enabled=True, ttl_s=60.0)),
            RouteSettings("plain", ("one/m",)),
        ),
        cache=CacheBounds(redis=RedisOptions(url=url)),
    )
    wire = VirtualWire({"http://one.test/v1": healthy(first_s=0.005, gap_s=0.0)})
    service = Service(LoadedSettings(settings, {"one": (Secret("k"),)}, (), redis_url=Secret(url)), wire=wire)
    async with AppClient(service.asgi) as client:
        asking = SteadyRequests(service, client)
        running = asyncio.create_task(asking.run())
        try:
            yield asking
        finally:
            asking.end()
            await running


Fault = Callable[[RedisServer, SlowProxy], Awaitable[None]]


async def killed(server: RedisServer, proxy: SlowProxy) -> None:
    server.kill()
    await asyncio.sleep(1.5)
    server.start()


async def stopped(server: RedisServer, proxy: SlowProxy) -> None:
    server.pause()
    await asyncio.sleep(1.5)
    server.resume()


async def slow(server: RedisServer, proxy: SlowProxy) -> None:
    proxy.delay_s = 5.0
    await asyncio.sleep(1.5)
    proxy.delay_s = 0.0


async def flapping(server: RedisServer, proxy: SlowProxy) -> None:
    for _ in range(6):
        server.pause()
        await asyncio.sleep(0.15)
        server.resume()
        await asyncio.sleep(0.15)


@pytest.mark.parametrize("fault", [killed, stopped, slow, flapping])
async def test_a_lost_redis_costs_milliseconds(server: RedisServer, fault: Fault) -> None:
    """With a lost Redis no request fails, the slowest of a hundred waits at most 60 ms longer, and Redis is
    used again soon after."""
    async with SlowProxy(server.port) as proxy, requests(proxy.url) as asking:
        await asyncio.sleep(1.0)
        before_s = asking.p99_s()
        await fault(server, proxy)
        during_s, healed_s = asking.p99_s(), clock.now()
        while not (asking.hits and asking.hits[-1] > healed_s) and clock.now() < healed_s + BACK_WITHIN_S:
            await asyncio.sleep(0.02)
    back_s = next((hit_s - healed_s for hit_s in asking.hits if hit_s > healed_s), None)
    happened = asking.service.board.happened
    print(
        f"{fault.__name__}: {len(asking.statuses)} requests, "
        f"p99 {before_s * 1e3:.1f} -> {during_s * 1e3:.1f} ms "
        f"(the machine's own lag {asking.lag_s * 1e3:.1f}), back after {back_s} s, "
        f"breaker opened {happened['breaker_opened']}, errors {happened['cache_error']}"
    )
    assert set(asking.statuses) == {200}
    assert during_s <= before_s + COST_S + asking.lag_s
    assert back_s is not None and back_s < BACK_WITHIN_S
    assert happened["breaker_opened"] >= 1 and happened["cache_error"] >= 1, "the fault was felt"


async def test_it_starts_without_its_redis(server: RedisServer) -> None:
    """The service starts without its Redis, and uses it when it comes."""
    server.kill()
    async with requests(server.url) as asking:
        await asyncio.sleep(0.5)
        assert not asking.hits
        server.start()
        up_s = clock.now()
        while not asking.hits and clock.now() < up_s + BACK_WITHIN_S:
            await asyncio.sleep(0.02)
    assert set(asking.statuses) == {200}
    assert asking.hits
