"""Real processes that are killed: what was told as kept is there, on both engines, and behind nginx."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dub5.simulators.server.thread import SimulatorThread
from tests.support.conversing import Interrupted, Person, ServiceProcess, client
from tests.support.nginx import nginx

PEOPLE = 16
TURNS_BEFORE_A_KILL = 30
ENGINES = ("sqlite", "postgresql")
KILLS = 5


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The address of a provider that answers at once."""
    thread = SimulatorThread()
    handle = thread.start("openai", (), {"words": 12, "models": ["m"]})
    yield handle.url
    handle.close()
    thread.close()


def database(engine: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database."""
    if engine == "sqlite":
        return f"sqlite:///{folder}/kept.db"
    return request.getfixturevalue("postgres").new_database()


async def talk(person: Person, enough: asyncio.Event, ready: asyncio.Event, done: list[int]) -> None:
    """Ask until it is enough. An interrupted question is asked again with its id once the service is back."""
    while not enough.is_set():
        try:
            await person.ask(stream=bool(person.asked % 2))
            done.append(1)
        except Interrupted:
            await ready.wait()
            await asyncio.sleep(0)


@pytest.mark.thorough  # who asks again after a kill waits until the killed process counts as gone: 20 s
@pytest.mark.real_sockets
@pytest.mark.parametrize("engine", ENGINES)
async def test_kill(engine: str, provider: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What kill -9 interrupts: each turn that was told as kept is there once, as its client read it."""
    url = database(engine, tmp_path, request)
    service = ServiceProcess(tmp_path, "service", url, provider)
    enough, ready, done = asyncio.Event(), asyncio.Event(), list[int]()
    await service.start()
    try:
        async with client() as http:
            people = [Person(http, service.url, number) for number in range(PEOPLE)]
            for person in people:
                await person.begin()
            ready.set()
            async with asyncio.TaskGroup() as group:
                for person in people:
                    group.create_task(talk(person, enough, ready, done))
                for number in range(1, KILLS + 1):
                    await _until(done, number * TURNS_BEFORE_A_KILL)
                    ready.clear()
                    service.kill()
                    await service.start()
                    ready.set()
                await _until(done, (KILLS + 1) * TURNS_BEFORE_A_KILL)
                enough.set()
            for person in people:
                _check(person, await person.read())
    finally:
        service.kill()
    if engine == "sqlite":
        with closing(sqlite3.connect(tmp_path / "kept.db")) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def _until(done: list[int], count: int) -> None:
    async with asyncio.timeout(60):
        while len(done) < count:
            await asyncio.sleep(0.005)  # what other processes do has no event


def _check(person: Person, turns: list[dict[str, object]]) -> None:
    kept = {turn["id"]: turn["answer"]["text"] for turn in turns if turn["answer"]}  # type: ignore[index]
    assert {id_: kept.get(id_) for id_ in person.told} == person.told
    names = [turn["asked_as"] for turn in turns]
    assert len(names) == len(set(names)), "a question is there twice"


@pytest.mark.real_sockets
async def test_two_instances(provider: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A conversation begun on one instance goes on at the other behind nginx, also when one is killed."""
    url = database("postgresql", tmp_path, request)
    services = [ServiceProcess(tmp_path, name, url, provider) for name in ("left", "right")]
    try:
        await asyncio.gather(*(service.start() for service in services))
        with nginx(tmp_path, [service.port for service in services]) as address:
            async with client() as http:
                person = Person(http, address, 1)
                await _begun(person)
                ends = [await person.ask(stream=bool(number % 2)) for number in range(6)]
                assert all(end["kept"] and "memory" not in end for end in ends)
                both = [await _turns(http, service.url) for service in services]
                assert all(both), f"nginx sent all questions to one instance: {both}"
                services[0].kill()
                ends = [await person.ask(stream=bool(number % 2)) for number in range(4)]
                assert all(end["kept"] and "memory" not in end for end in ends)
                turns = await person.read()
        assert [turn["asked_as"] for turn in turns] == [f"q-{number}" for number in range(10)]
        assert {turn["outcome"] for turn in turns} == {"complete"}
        _check(person, turns)
    finally:
        for service in services:
            service.kill()


async def _begun(person: Person) -> None:
    """Begin the conversation, once nginx listens."""
    async with asyncio.timeout(10):
        while not person.conversation:
            try:
                await person.begin()
            except Interrupted:
                await asyncio.sleep(0.02)  # nginx does not say when it listens


async def _turns(http: object, url: str) -> int:
    """Return how many turns an instance has answered."""
    async with http.get(f"{url}/metrics") as reply:  # type: ignore[attr-defined]
        lines = (await reply.text()).splitlines()
    found = [line for line in lines if line.startswith("gateway_turns_total{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in found))
