"""Turns of real processes that are read on elsewhere: after kill -9, and at another instance behind nginx."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dub5.loadtests.turn_text import TurnText
from dub5.simulators.server.thread import SimulatorThread
from tests.support.conversing import ServiceProcess, client, metric
from tests.support.nginx import nginx
from tests.support.reading_on import Reader, Readers

pytestmark = pytest.mark.real_sockets

OF_EACH = 3  # people, over each carrier
ENGINES = ("sqlite", "postgresql")
WORDS = 40
PIECES = 5  # that people read before they lose the connection
IN_TIME_S = 60.0
RESUMED = 'gateway_turns_resumed_total{{source="{}"}}'


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The address of a provider whose answers take about two seconds."""
    thread = SimulatorThread()
    handle = thread.start("openai", (), {"words": WORDS, "models": ["m"], "latency": "hosted-70b"})
    yield handle.url
    handle.close()
    thread.close()


def lose(reader: Reader) -> TurnText:
    """Ask, and lose the connection in mid-answer."""
    read = reader.ask(lose_after=PIECES)
    assert read.turn and not read.is_over
    return read


@dataclass(frozen=True)
class Lost:
    """People who have lost their connections, and what each of them has read."""

    service: ServiceProcess
    readers: Readers
    halves: list[TurnText]

    async def read_on(self, url: str | None = None) -> list[tuple[Reader, TurnText]]:
        """Read all turns to their ends, at another address where one is given."""
        halves = dict(zip(self.readers.people, self.halves, strict=True))

        def go_on(reader: Reader) -> TurnText:
            if url is not None:
                reader.move(url)
            return reader.read_on(halves[reader])

        return list(zip(self.readers.people, await self.readers.all(go_on), strict=True))


async def until_ended(service: ServiceProcess, turns: list[TurnText]) -> None:
    """Wait until these turns are over, and kept."""
    async with asyncio.timeout(IN_TIME_S), client() as http:
        for read in turns:
            state = ""
            while state != "ended":
                async with http.get(f"{service.url}/v1/turns/{read.turn}") as reply:
                    state = (await reply.json())["state"]
                await asyncio.sleep(0.02)  # what other processes do has no event


def database(engine: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database."""
    if engine == "sqlite":
        return f"sqlite:///{folder}/kept.db"
    return request.getfixturevalue("postgres").new_database()


@asynccontextmanager
async def killed(url: str, provider: str, folder: Path, *, in_time: bool) -> AsyncIterator[Lost]:
    """Kill a service whose turns have no listeners, once they have ended or before; start it again."""
    service = ServiceProcess(folder, "service", url, provider)
    await service.start()
    readers = Readers(service.url, OF_EACH)
    try:
        halves = await readers.all(lose)
        if in_time:
            await until_ended(service, halves)
        service.kill()
        await service.start()
        yield Lost(service, readers, halves)
        assert await metric(service.url, RESUMED.format("database" if in_time else "other_process")) == len(
            halves
        )
    finally:
        service.kill()
        readers.close()


@pytest.mark.parametrize("engine", ENGINES)
async def test_after_a_kill(
    engine: str, provider: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """After kill -9 a turn that had ended is read on from the database, whole."""
    url = database(engine, tmp_path, request)
    async with killed(url, provider, tmp_path, in_time=True) as lost:
        for reader, read in await lost.read_on():
            reader.check(read)
            assert read.kept


@pytest.mark.thorough  # a killed process counts as gone after 20 s, as there may be others
@pytest.mark.parametrize("engine", ENGINES)
async def test_cut_by_a_kill(
    engine: str, provider: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A turn that kill -9 has cut says so when it is read on, and the conversation goes on."""
    url = database(engine, tmp_path, request)
    async with killed(url, provider, tmp_path, in_time=False) as lost:
        for reader, read in await lost.read_on():
            reader.check(read, "cut")
        again = await lost.readers.all(lambda reader: reader.ask())
        assert {(read.outcome, read.kept) for read in again} == {("complete", True)}


async def test_at_another_instance(provider: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A turn that one instance answers is read on at another one, whole, although nobody listens at the first
    one for longer than `linger_s`: it is told that somebody waits."""
    url = request.getfixturevalue("postgres").new_database()
    left, right = (ServiceProcess(tmp_path, name, url, provider, linger_s=0.7) for name in ("left", "right"))
    try:
        await asyncio.gather(left.start(), right.start())
        readers = Readers(left.url, OF_EACH)
        lost = Lost(left, readers, await readers.all(lose))
        for reader, read in await lost.read_on(right.url):
            reader.check(read)
            assert read.kept
        assert await metric(right.url, RESUMED.format("other_process")) == len(readers.people)
        readers.close()
    finally:
        left.kill()
        right.kill()


async def test_behind_nginx(provider: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Behind nginx, where a new connection may reach any instance, every turn is read on to its end."""
    url = request.getfixturevalue("postgres").new_database()
    services = [ServiceProcess(tmp_path, name, url, provider) for name in ("left", "right")]
    try:
        await asyncio.gather(*(service.start() for service in services))
        with nginx(tmp_path, [service.port for service in services]) as address:
            await _until_it_listens(address)
            readers = Readers(address, OF_EACH)
            lost = Lost(services[0], readers, await readers.all(lose))
            for reader, read in await lost.read_on():
                reader.check(read)
            readers.close()
        sources = [
            await metric(service.url, RESUMED.format(source))
            for service in services
            for source in ("memory", "other_process", "database")
        ]
        assert sum(sources) >= len(readers.people)
    finally:
        for service in services:
            service.kill()


async def _until_it_listens(address: str) -> None:
    async with asyncio.timeout(IN_TIME_S), client() as http:
        while True:
            try:
                async with http.get(f"{address}/livez"):
                    return
            except OSError:
                await asyncio.sleep(0.02)  # nginx does not say when it listens
