"""The examples of docs/use/examples/ while the network and the process are lost, on both engines."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import pytest
from msgspec import Struct

from tests.support.conversing import ServiceProcess, client
from tests.support.example_clients import ExampleClient, example_clients
from tests.support.machine import free_port
from tests.support.nginx import nginx
from tests.support.relay import Relay, relaying
from tests.support.slow_provider import SlowProvider, slow_provider

pytestmark = pytest.mark.real_sockets
ENGINES = ("sqlite", "postgresql")
PARTS = ("Schön blau – das ist er,", "weil die Luft – und nur sie – kürzere Wellen", "stärker streut 🌍.")
ANSWER = " ".join(PARTS) + " "
BEGINNING = f"{PARTS[0]} "
POSITION = len(BEGINNING.encode())


class Stage(Struct):
    """A service with its provider, and the network between it and its clients."""

    service: ServiceProcess
    provider: SlowProvider
    relay: Relay
    database: str
    postgres: object = None

    async def restart(self) -> None:
        """Kill the process, and start it again when it counts as gone, which takes 20 s."""
        self.service.kill()
        self._sql("UPDATE worker SET until = 0")
        await self.service.start()

    def _sql(self, text: str) -> None:
        if self.database.startswith("sqlite"):
            with closing(sqlite3.connect(self.database.removeprefix("sqlite:///"))) as file, file:
                file.execute(text)
        else:
            self.postgres.sql(text, self.database.rpartition("/")[2])  # type: ignore[attr-defined]


@asynccontextmanager
async def staged(
    folder: Path, request: pytest.FixtureRequest, engine: str = "sqlite", more: str = ""
) -> AsyncIterator[Stage]:
    """Run the service over a provider that waits to be told to go on."""
    postgres = None if engine == "sqlite" else request.getfixturevalue("postgres")
    database = f"sqlite:///{folder}/kept.db" if postgres is None else postgres.new_database()
    async with slow_provider(PARTS) as provider:
        service = ServiceProcess(folder, "service", database, provider.url)
        with (folder / "service.toml").open("a", encoding="utf-8") as file:
            file.write(f"[session]\n{more}")
        try:
            await service.start()
            async with relaying(service.url) as relay:
                yield Stage(service, provider, relay, database, postgres)
        finally:
            service.kill()


def asking(stage: Stage, question: str = "Why?") -> AbstractAsyncContextManager[list[ExampleClient]]:
    return example_clients(stage.relay.url, question)


async def all_of(work: Sequence[Awaitable[object]]) -> list[object]:
    return list(await asyncio.gather(*work))


async def all_end(clients: list[ExampleClient]) -> dict[str, tuple[object, str]]:
    """Return the exit code of each program, and the answer that it printed."""
    codes = await all_of([each.end() for each in clients])
    return {each.name: (code, each.said) for each, code in zip(clients, codes, strict=True)}


@pytest.mark.parametrize("engine", ENGINES)
async def test_network_lost(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """In mid-answer the network goes twice: each program prints the answer once, without a gap.

    The second time the answer ends, and the process is killed, before the network is back.
    """
    async with staged(tmp_path, request, engine) as stage, asking(stage) as clients:
        stage.provider.say(1)
        await all_of([each.until(said=BEGINNING) for each in clients])
        stage.relay.cut()
        stage.provider.say(2)
        await all_of([each.until(noted=f"reading on from byte {POSITION}") for each in clients])
        stage.relay.mend()
        await all_of([each.until(said=f"{BEGINNING}{PARTS[1]} ") for each in clients])
        stage.relay.cut()
        stage.provider.say(3)
        assert await read_ends(stage.service.url) == [("complete", True)] * len(clients)
        await stage.restart()
        stage.relay.mend()
        assert await all_end(clients) == {each.name: (0, f"{ANSWER}\n") for each in clients}
        assert stage.provider.asked == len(clients)


@pytest.mark.parametrize("engine", ENGINES)
async def test_process_killed(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The process is killed in mid-answer: each program keeps what it has, and says so."""
    async with staged(tmp_path, request, engine) as stage, asking(stage) as clients:
        stage.provider.say(1)
        await all_of([each.until(said=BEGINNING) for each in clients])
        await stage.restart()
        assert await all_end(clients) == {each.name: (1, f"{BEGINNING}\n") for each in clients}
        assert all("[cut, kept: " in each.noted for each in clients)
        assert stage.provider.asked == len(clients)


async def test_all_is_lost(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Process and database are lost: each program asks again with its id, and says so."""
    async with staged(tmp_path, request) as stage, asking(stage) as clients:
        stage.provider.say(1)
        await all_of([each.until(said=BEGINNING) for each in clients])
        stage.service.kill()
        for file in tmp_path.glob("kept.db*"):
            file.unlink()
        stage.provider.say(3)
        await stage.service.start()
        assert await all_end(clients) == {each.name: (0, f"{BEGINNING}{ANSWER}\n") for each in clients}
        assert all("[the answer begins again]" in each.noted for each in clients)


async def test_accepted_is_lost(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The network goes before `accepted` has come: the question is sent again with its id, and asked once."""
    async with staged(tmp_path, request) as stage:
        stage.relay.cut_at = b'"accepted"'
        async with asking(stage) as clients:
            stage.provider.say(1)
            await all_of([each.until(noted="asking again") for each in clients])
            stage.relay.mend()
            stage.provider.say(3)
            assert await all_end(clients) == {each.name: (0, f"{ANSWER}\n") for each in clients}
            assert stage.provider.asked == len(clients)


async def test_stopped(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Ctrl-C ends the turn: each program says so."""
    async with staged(tmp_path, request) as stage, asking(stage) as clients:
        stage.provider.say(1)
        await all_of([each.until(said=BEGINNING) for each in clients])
        for each in clients:
            each.interrupt()
        assert await all_end(clients) == {each.name: (1, f"{BEGINNING}\n") for each in clients}
        assert [each.noted for each in clients if "[cancelled, kept: " not in each.noted] == []


async def test_refused(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A question that is too long is not sent again; each program says why."""
    async with staged(tmp_path, request) as stage, asking(stage, "x" * 2001) as clients:
        assert await all_end(clients) == {each.name: (1, "\n") for each in clients}
        assert all("2,000 are taken here" in each.noted for each in clients)
        assert stage.provider.asked == 0


async def test_rate_limited(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Who is told to wait waits as long as told, and asks again with the same id."""
    limits = "[limits]\ncaller = { count = 3, window_s = 1 }\n"
    async with staged(tmp_path, request, more=limits) as stage:
        stage.provider.say(3)
        async with asking(stage) as clients:
            assert await all_end(clients) == {each.name: (0, f"{ANSWER}\n") for each in clients}
        assert stage.provider.asked == len(clients)


async def test_provider_down(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """No provider answers: each program says so, and does not ask for ever."""
    async with staged(tmp_path, request) as stage:
        settings = tmp_path / "service.toml"
        down = settings.read_text().replace(stage.provider.url, f"http://127.0.0.1:{free_port()}")
        settings.write_text(down)
        await stage.restart()
        async with asking(stage) as clients:
            assert await all_end(clients) == {each.name: (1, "\n") for each in clients}
            assert all("Try again" in each.noted for each in clients)


async def test_behind_nginx(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """With the lines of docs/operate/deploy.md nginx lets both carriers through, piece by piece."""
    async with staged(tmp_path, request) as stage:
        with nginx(tmp_path, [stage.service.port]) as url:
            async with example_clients(url, "Why?") as clients:
                stage.provider.say(1)
                await all_of([each.until(said=BEGINNING) for each in clients])
                stage.provider.say(3)
                assert await all_end(clients) == {each.name: (0, f"{ANSWER}\n") for each in clients}
                assert stage.provider.asked == len(clients)


async def read_ends(url: str) -> list[tuple[str, bool]]:
    """Read all turns at the service to their ends. Return each outcome, and whether it is kept."""
    ends = []
    async with client() as http:
        listed = await (await http.get(f"{url}/v1/conversations")).json()
        for conversation in listed["data"]:
            found = await (await http.get(f"{url}/v1/conversations/{conversation['id']}")).json()
            for turn in found["turns"]:
                async with http.get(f"{url}/v1/turns/{turn['id']}/events") as reply:
                    lines = [line async for line in reply.content if line.startswith(b"data: ")]
                last = json.loads(lines[-1].removeprefix(b"data: "))
                ends.append((last["outcome"], last["kept"]))
    return ends
