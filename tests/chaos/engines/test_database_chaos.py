"""A real PostgreSQL behind a real Toxiproxy that is refused, slow or silent, and one that restarts: no turn
waits for it, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from dub5.chaos.engines.proxies import toxiproxy_server
from dub5.chaos.engines.toxiproxy_client import Proxy
from dub5.service.config.settings import DatabaseSettings
from dub5.service.events import Event, Events, WritesForgotten
from dub5.service.store.opening import ConfiguredStore
from dub5.service.store.url import open_database
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.store_turns import ALL, TABLE, KeptStore, Turns, until_in_use

# The short form is in tests/service/store/test_store.py, on virtual time: here real time passes.
pytestmark = [pytest.mark.real_sockets, pytest.mark.thorough]

EVERY_S = 1 / 20
WELL_S = 1.0
INCIDENT_S = {"refused": 6.0, "slow": 7.5, "silent": 9.0}  # they do not recover at the same time
COST_S = 0.060
OVER_MAX = 4  # turns that may pay more until the breaker opens: 1 % of an incident of 20 s
BACK_S = 5.0
SLOW_MS = 500
QUIET_LAG_S = 0.02


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@asynccontextmanager
async def turns_over(url: str) -> AsyncIterator[tuple[KeptStore, Turns]]:
    """Turns over a store with this URL, from when it is in use until after the block."""
    events: list[Event] = []
    store = ConfiguredStore(url, DatabaseSettings(), 30, Events(events.append), Random(1))
    await store.start()
    kept = KeptStore(store, events)
    turns = Turns(kept, EVERY_S)
    try:
        await until_in_use(store, 10.0)
        running = asyncio.create_task(turns.run())
        await asyncio.sleep(WELL_S)
        yield kept, turns
        turns.end()
        await running
        async with asyncio.timeout(5.0):
            while store.outbox.count:
                await asyncio.sleep(0.01)
    finally:
        await store.aclose()


async def found_in(url: str) -> dict[str, list[int]]:
    """Return what is in the database, past the store and the proxy."""
    database = open_database(url, DatabaseSettings())
    found: dict[str, list[int]] = {}
    for lane, number in sorted(await database.read(ALL.bind())):  # type: ignore[type-var]
        found.setdefault(str(lane), []).append(int(number or 0))
    await database.aclose()
    return found


def check(kept: KeptStore, turns: Turns, found: dict[str, list[int]]) -> None:
    """Nothing is lost, and the turns waited for milliseconds."""
    told_kept = sum(turns.labels.values())
    costs_ms = [round(cost_s * 1e3, 1) for cost_s in sorted(turns.costs_s, reverse=True)]
    print(f"{len(costs_ms)} turns, {told_kept} told to be kept, p99 {turns.quantile_s(99) * 1e3:.1f} ms")
    print(f"  the largest: {costs_ms[:12]} ms; the machine's own lag: {turns.lag_s * 1e3:.1f} ms")
    assert {lane: found.get(lane) for lane in turns.labels} == {lane: [1, 2] for lane in turns.labels}
    assert kept.store.outbox.count == 0
    assert not kept.told(WritesForgotten)
    assert 0 < told_kept < len(turns.labels)
    # A timeout that fires late is the machine's fault and opens no breaker, so a busy machine makes more
    # turns pay; what holds exactly is in tests/service/store/test_store.py, on virtual time.
    over = sum(cost_s > COST_S + 2 * turns.lag_s for cost_s in turns.costs_s)  # a turn waits twice
    assert over <= (OVER_MAX if turns.lag_s <= QUIET_LAG_S else len(turns.costs_s) / 10)


async def play(proxy: Proxy, url: str, trouble: str) -> None:
    """Play one trouble in front of a database of its own."""
    address = url.replace(proxy.upstream, proxy.listen)
    async with turns_over(address) as (kept, turns):
        if trouble == "refused":
            await asyncio.to_thread(proxy.disable)
            await asyncio.sleep(INCIDENT_S[trouble])
            await asyncio.to_thread(proxy.enable)
        else:
            kind = ("latency", {"latency": SLOW_MS}) if trouble == "slow" else ("timeout", {"timeout": 0})
            toxic = await asyncio.to_thread(proxy.add, *kind)
            await asyncio.sleep(INCIDENT_S[trouble])
            assert not kept.store.is_ok()
            await asyncio.to_thread(proxy.lift, toxic)
        back_s = await until_in_use(kept.store, BACK_S + turns.lag_s)
        print(f"{trouble}: in use again after {back_s:.2f} s")
        await asyncio.sleep(WELL_S)
    check(kept, turns, await found_in(url))


async def test_refused_slow_and_silent(postgres: PostgresServer, server_path: Path, tmp_path: Path) -> None:
    """A database that refuses connections, answers after 500 ms or not at all costs a turn at most 60 ms
    (p99), is in use again within 5 s, and has every write in the end."""
    async with toxiproxy_server(server_path, tmp_path) as (_, api):
        troubles = {}
        for trouble in INCIDENT_S:
            url = await asyncio.to_thread(postgres.new_database)
            await asyncio.to_thread(postgres.sql, TABLE, url.rpartition("/")[2])
            proxy = await asyncio.to_thread(api.create, trouble, f"127.0.0.1:{postgres.port}")
            troubles[trouble] = (proxy, url)
        await asyncio.gather(*(play(proxy, url, trouble) for trouble, (proxy, url) in troubles.items()))


async def test_a_crash_of_the_server(postgres: PostgresServer) -> None:
    """After a crash of PostgreSQL the store uses it within 5 s of its start; no write is lost."""
    url = await asyncio.to_thread(postgres.new_database)
    await asyncio.to_thread(postgres.sql, TABLE, url.rpartition("/")[2])
    async with turns_over(url) as (kept, turns):
        await asyncio.to_thread(postgres.stop, "immediate")
        await asyncio.sleep(1.0)
        await asyncio.to_thread(postgres.start)
        back_s = await until_in_use(kept.store, BACK_S + turns.lag_s)
        print(f"crashed: in use again after {back_s:.2f} s")
        await asyncio.sleep(2 * WELL_S)
    check(kept, turns, await found_in(url))
