"""Rate limits in a real Redis: exact over processes, all or none, and never a reason why a request fails."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from random import Random

import pytest
from redis.asyncio import Redis

from dub5.service import clock
from dub5.service.admission.rate_limit import LimitUsage, RateLimit
from dub5.service.admission.shared_log import SharedLog
from dub5.service.config.options import RedisOptions
from dub5.service.resilience.storage_guard import StorageLost
from dub5.simulators.virtual import AppClient
from tests.support import limited_service as limited
from tests.support.limited_service import ask_at_once, limited_service
from tests.support.redis_server import RedisServer, redis_server
from tests.support.source import ROOT

pytestmark = pytest.mark.real_sockets

IP, CALLER = RateLimit("ip", 3, 60), RateLimit("caller", 2, 60)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


@asynccontextmanager
async def shared_log(
    server: RedisServer, prefix: str = "p", timeout_s: float = 2.0
) -> AsyncIterator[SharedLog]:
    options = RedisOptions(url=server.url, prefix=prefix, timeout_s=timeout_s)
    log = SharedLog(server.url, options, Random(), lambda before, after, why: None)
    try:
        yield log
    finally:
        await log.aclose()


async def used(log: SharedLog, *counted: tuple[RateLimit, str]) -> list[int]:
    return [usage.used for usage in await log.take(counted)]


async def test_all_or_none(server: RedisServer) -> None:
    """A request is counted by all of its limits, or by none if one is full."""
    both = (IP, "a"), (CALLER, "k")
    async with shared_log(server) as log, shared_log(server, prefix="q") as another:
        assert [await used(log, *both) for _ in range(4)] == [[0, 0], [1, 1], [2, 2], [2, 2]]
        assert await used(log, (IP, "a"), (CALLER, "other")) == [2, 0]
        assert [usage.full for usage in await log.take([(IP, "a"), (CALLER, "other")])] == [True, False]
        assert await used(log, (CALLER, "other")) == [1], "the full one took nothing from the other"
        assert await used(another, (IP, "a")) == [0]


async def test_the_window_slides_by_the_clock_of_redis(server: RedisServer) -> None:
    """The oldest request counts for a window and no longer; the time until then is told; keys expire."""
    limit = RateLimit("ip", 2, 1)
    async with shared_log(server) as log, Redis.from_url(server.url) as client:
        first, second, full = [(await log.take([(limit, "a")]))[0] for _ in range(3)]
        assert first == LimitUsage(limit, 0, 0) and second.used == 1 and full.full
        assert 0 < full.frees_us <= 1_000_000
        (key,) = await client.keys("*")
        assert key.startswith(b"p:limit:") and 0 < await client.pttl(key) <= 1_000
        while await client.exists(key):
            await asyncio.sleep(0.01)
        assert await used(log, (limit, "a")) == [0]


async def test_a_limit_that_was_lowered_begins_anew(server: RedisServer) -> None:
    """As in a process: the requests of the old limit would fill the new one for longer than is told."""
    high, low = RateLimit("ip", 5, 60), RateLimit("ip", 1, 60)
    async with shared_log(server) as log:
        assert [await used(log, (high, "a")) for _ in range(5)] == [[0], [1], [2], [3], [4]]
        assert [await used(log, (low, "a")) for _ in range(2)] == [[0], [1]]


async def test_the_clock_of_redis_is_set_back(server: RedisServer) -> None:
    """Times of the clock as it was before lock nobody out for as long as it was wrong."""
    async with shared_log(server) as log, Redis.from_url(server.url) as client:
        await log.take([(CALLER, "k")])
        (key,) = await client.keys("*")
        hour_ahead = int(await client.lindex(key, 0)) + 3_600_000_000
        await client.delete(key)
        await client.rpush(key, hour_ahead, hour_ahead)
        assert [await used(log, (CALLER, "k")) for _ in range(3)] == [[0], [1], [2]]


async def test_one_script_call_for_all_limits_of_a_request(server: RedisServer) -> None:
    """A counted request costs one command, and no cookie or address is stored."""
    both = (IP, "203.0.113.7"), (CALLER, "k")
    async with shared_log(server) as log, Redis.from_url(server.url) as client:
        await log.take(both)
        await client.config_resetstat()
        await log.take(both)
        commands = await client.info("commandstats")
        assert commands["cmdstat_evalsha"]["calls"] == 1 and "cmdstat_eval" not in commands
        assert not [key for key in await client.keys("*") if b"203.0" in key]


def test_two_processes_let_exactly_as_many_pass(server: RedisServer) -> None:
    """Of 40 requests that two processes send at once, exactly 20 are answered, three times out of three."""
    command = [sys.executable, "-m", limited.__name__, server.url, "20", "20"]
    with ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))  # type: ignore[call-overload]
            for _ in range(2)
        ]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
        for _ in range(3):
            server.flush()
            for process in processes:
                process.stdin.write("\n")
                process.stdin.flush()
            lines = [tuple(map(int, process.stdout.readline().split())) for process in processes]
            assert sum(passed for passed, _, _ in lines) == sum(refused for _, refused, _ in lines) == 20
            assert not sum(lost for _, _, lost in lines), "Redis has decided each time"
        for process in processes:
            process.stdin.close()


async def test_a_flood(server: RedisServer) -> None:
    """Of more requests at once than may ask Redis, no more pass: the others know what Redis is asked for."""
    service = limited_service(server.url, 20)
    async with AppClient(service.asgi) as client:
        assert await ask_at_once(client, 400) == {200: 20, 429: 380}
        assert service.board.happened["rate_limit_local"] > 0
        assert not service._current.deps.gate._asked  # type: ignore[union-attr]


async def test_a_lost_redis_is_no_reason_to_fail(server: RedisServer) -> None:
    """Redis is killed in mid-traffic: every request is answered, by the log of the process, and at once."""
    service = limited_service(server.url, 1_000, timeout_s=0.05)
    async with AppClient(service.asgi) as client:
        statuses = await ask_at_once(client, 20)
        running = asyncio.create_task(ask_at_once(client, 200))
        await asyncio.sleep(0.01)
        server.kill()
        statuses += await running
        began_s = clock.now()
        for _ in range(20):
            statuses += await ask_at_once(client, 10)
        took_s = (clock.now() - began_s) / 20
        assert statuses == {200: 420}
        assert service.board.happened["rate_limit_local"] >= 200
        assert service.board.happened["breaker_opened"] >= 1
        metrics = (await client.request("GET", "/metrics")).body.decode()
        assert 'gateway_breaker_changes_total{after="open",scope="limits"}' in metrics
        assert "gateway_rate_limit_local_total 0" not in metrics
    assert took_s < 0.5


async def test_without_its_redis_the_process_counts_alone(server: RedisServer) -> None:
    """What Redis has accepted counts here as well, so the limit still holds when Redis is lost."""
    service = limited_service(server.url, 5)
    async with AppClient(service.asgi) as client:
        assert await ask_at_once(client, 3) == {200: 3}
        server.kill()
        assert await ask_at_once(client, 5) == {200: 2, 429: 3}


async def test_a_silent_redis_costs_its_time_limit(server: RedisServer) -> None:
    """A Redis that does not answer is given up after its time limit, and soon not asked for a while."""
    async with shared_log(server, timeout_s=0.05) as log:
        await log.take([(IP, "a")])
        server.pause()
        why = ""
        while "breaker" not in why:  # a moment at which this machine was busy counts against nobody
            with pytest.raises(StorageLost) as lost:
                await log.take([(IP, "a")])
            why = str(lost.value)
        server.resume()
