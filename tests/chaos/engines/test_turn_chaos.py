"""Turns through a real Toxiproxy: connections that break in mid-answer, a database that is lost."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dub5.chaos.engines.proxies import toxiproxy_server
from dub5.chaos.engines.toxiproxy_client import Proxy
from dub5.simulators.server.thread import SimulatorThread
from tests.support.conversing import ServiceProcess, client, metric
from tests.support.postgres import postgres_server
from tests.support.reading_on import Reader, Readers

pytestmark = pytest.mark.real_sockets

OF_EACH = 4  # people, over each carrier
BYTES_OF_A_CONNECTION = 2_000  # more than the heads of a request and an answer: each one gets further
DOWN_S = 0.3
MEMORY = 'gateway_turns_resumed_total{source="memory"}'
IN_FLIGHT = 'gateway_target_in_flight{target="one/m"}'
OUTBOX = "gateway_store_outbox"
READY = "gateway_store_ready"
BACK_S = 10.0


@pytest.fixture
def provider(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a provider that speaks after half a second, and says 40 words a second."""
    thread = SimulatorThread()
    handle = thread.start("openai", (), {"words": request.param, "models": ["m"], "latency": "hosted-70b"})
    yield handle.url
    handle.close()
    thread.close()


async def until_asked(service: ServiceProcess, people: int) -> None:
    """Wait until the provider has the questions of all."""
    async with asyncio.timeout(BACK_S):
        while await metric(service.url, IN_FLIGHT) < people:
            await asyncio.sleep(0.02)  # what other processes do has no event


def ask_and_read_on(reader: Reader) -> int:
    """Ask, and read to the end over as many connections as it takes; return how many were lost."""
    read = reader.read_on(reader.ask())
    reader.check(read)
    return read.losses


@pytest.mark.parametrize("provider", [80], indirect=True)
async def test_connections_that_break(provider: str, server_path: Path, tmp_path: Path) -> None:
    """A connection is cut after so many bytes, in the middle of a message; all of them are cut at one moment:
    each answer is read whole, over several connections, and no question is asked twice."""
    service = ServiceProcess(tmp_path, "service", f"sqlite:///{tmp_path}/kept.db", provider)
    await service.start()
    try:
        async with toxiproxy_server(server_path, tmp_path) as (_, api):
            proxy = await asyncio.to_thread(api.create, "service", f"127.0.0.1:{service.port}")
            readers = Readers(f"http://{proxy.listen}", OF_EACH)
            toxic = await asyncio.to_thread(proxy.add, "limit_data", {"bytes": BYTES_OF_A_CONNECTION})
            losses = await readers.all(ask_and_read_on)
            assert min(losses) >= 1, losses
            await asyncio.to_thread(proxy.lift, toxic)
            asking = asyncio.create_task(readers.all(ask_and_read_on))
            await until_asked(service, len(readers.people))
            await asyncio.sleep(0.8)  # into the answers
            await asyncio.to_thread(proxy.disable)
            await asyncio.sleep(DOWN_S)
            await asyncio.to_thread(proxy.enable)
            again = await asking
            assert min(again) >= 1, again
            readers.close()
        assert await metric(service.url, MEMORY) >= len(losses) + len(again)
        asked = 'gateway_attempts_total{kind="first",reason="ok",target="one/m"}'
        assert await metric(service.url, asked) == 2 * len(losses)
    finally:
        service.kill()


@pytest.mark.parametrize("provider", [30], indirect=True)
async def test_no_database_meanwhile(provider: str, server_path: Path, tmp_path: Path) -> None:
    """While the database is lost, answers go on, say that they are not kept, and are read on from memory;
    once it is back, it is used again and has them all."""
    with postgres_server() as postgres:
        async with toxiproxy_server(server_path, tmp_path) as (_, api):
            proxy = await asyncio.to_thread(api.create, "database", f"127.0.0.1:{postgres.port}")
            url = (await asyncio.to_thread(postgres.new_database)).replace(proxy.upstream, proxy.listen)
            service = ServiceProcess(tmp_path, "service", url, provider, patience_s=0.3, keep_s=0.3)
            await service.start()
            try:
                await _without_database(service, proxy)
            finally:
                service.kill()


async def _without_database(service: ServiceProcess, proxy: Proxy) -> None:
    readers = Readers(service.url, OF_EACH)
    before = await readers.all(lambda reader: reader.ask())
    assert all(read.kept and not read.memory_lost for read in before)
    asking = asyncio.create_task(readers.all(lambda reader: reader.ask(lose_after=5)))
    await until_asked(service, len(readers.people))
    await asyncio.to_thread(proxy.disable)
    halves = dict(zip(readers.people, await asking, strict=True))
    cut = await readers.all(lambda reader: reader.read_on(halves[reader]))
    for reader, read in zip(readers.people, cut, strict=True):
        reader.check(read)
        assert read.accepted_kept and not read.kept
    lost = await readers.all(lambda reader: reader.read_on(reader.ask(lose_after=5)))
    for reader, read in zip(readers.people, lost, strict=True):
        reader.check(read)
        assert read.memory_lost and not read.kept
    assert await metric(service.url, MEMORY) == 2 * len(readers.people)
    await asyncio.to_thread(proxy.enable)
    async with asyncio.timeout(BACK_S):
        while not await metric(service.url, READY) or await metric(service.url, OUTBOX):
            await asyncio.sleep(0.05)
    after = await readers.all(lambda reader: reader.ask())
    assert all(read.kept and not read.memory_lost for read in after)
    await _all_kept(service, readers)
    readers.close()


async def _all_kept(service: ServiceProcess, readers: Readers) -> None:
    """Read every conversation from the database: four whole turns each."""
    async with client() as http:
        for reader in readers.people:
            async with http.get(f"{service.url}/v1/conversations/{reader.conversation}") as reply:
                turns = (await reply.json())["turns"]
            assert [turn["outcome"] for turn in turns] == ["complete"] * 4
            assert all(turn["kept"] and turn["answer"] for turn in turns)
