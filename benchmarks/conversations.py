"""Turns of conversations over an instant provider and a real database, in one process.

    client -> service (everything but sockets) -> CannedWire
                  `-> store -> SQLite (its threads count too) | PostgreSQL (its server does not)

    python -m benchmarks.conversations --turns 100000        memory, and pauses of the garbage collector

test_conversations.py compares the processor time of a turn with that of its parts: the gateway's own request,
and three bare calls of the database (bare_database.py).
"""

import argparse
import asyncio
import gc
import itertools
import os
import resource
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from benchmarks.bare_database import bare_database
from benchmarks.canned import MESSAGE, CannedWire
from benchmarks.conftest import machine
from benchmarks.paired import RunBatch
from dub5.service.app import Service
from dub5.service.config.settings import (
    ConversationSettings,
    DatabaseSettings,
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    ServerSettings,
    Settings,
)
from dub5.service.telemetry.logs import EventLogger, LineWriter
from dub5.simulators.virtual import AppClient

KEY = "a-key-of-a-benchmark"
QUESTION = "Why is the sky blue? " * 10
EXCHANGES = 9  # about as many fit into the window
WINDOW = ConversationSettings(context_tokens=1_500, answer_tokens=300)
PATIENT = DatabaseSettings(patience_s=10.0, keep_s=10.0)
CONVERSATIONS = 16
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
EXCHANGE = [{"role": "user", "content": QUESTION}, MESSAGE]
CHAT = msgspec.json.encode(
    {"model": "chat", "messages": [*(EXCHANGE * EXCHANGES), {"role": "user", "content": QUESTION}]}
)


def service(database_url: str) -> Service:
    """Create the application with conversations, as it is served."""
    settings = Settings(
        provider=(ProviderSettings("one", "openai", "http://one/v1"),),
        route=(RouteSettings("chat", ("one/m",)),),
        server=ServerSettings(caller_keys_env=("KEY",)),
        database=msgspec.structs.replace(PATIENT, url=database_url),
        conversation=WINDOW,
    )
    writer = LineWriter(os.open(os.devnull, os.O_WRONLY))
    loaded = LoadedSettings(settings, {}, (Secret(KEY),), database_url=Secret(database_url))
    return Service(loaded, wire=CannedWire(), seed="0", log=EventLogger(writer.write).log)


class ConversationBench:
    """A service with conversations that have a whole window of history: `with ConversationBench(url)`."""

    def __init__(self, database_url: str, conversations: int = CONVERSATIONS) -> None:
        self._runner = asyncio.Runner()
        self._url = database_url
        self._count = conversations
        self._ids: list[str] = []
        self._names = itertools.count()
        self._bare = bare_database(database_url)

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._client = self._runner.run(self._open())
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._client.__aexit__(None, None, None))
        self._runner.run(self._bare.aclose())
        self._runner.close()

    async def _open(self) -> AppClient:
        self._client = await AppClient(service(self._url).asgi).__aenter__()
        for _ in range(self._count):
            begun = await self._post("/v1/conversations", {})
            self._ids.append(begun["id"])
        await self._bare.open()
        return self._client

    def turns(self, count: int, *, together: int = 1) -> RunBatch:
        """Ask `count` questions, `together` at a time, each in the next conversation."""
        return lambda: self._runner.run(self._spread(count, together, self._turn))

    def parts(self, count: int, *, together: int = 1) -> RunBatch:
        """Send the gateway what those turns send it, and ask a bare database as often as they do."""

        async def part(number: int) -> None:
            await self._chat(number)
            await self._bare.turn(QUESTION)

        return lambda: self._runner.run(self._spread(count, together, part))

    def bare_readings(self, count: int) -> RunBatch:
        """Read 100 exchanges of a bare database `count` times, and write them as JSON."""

        async def read(_: int) -> None:
            await self._bare.reading()

        return lambda: self._runner.run(self._spread(count, 1, read))

    def readings(self, count: int) -> RunBatch:
        """Read the newest 100 turns of the first conversation `count` times."""
        path = f"/v1/conversations/{self._ids[0]}?limit=100"

        async def read(_: int) -> None:
            answer = await self._client.request("GET", path, headers=HEADERS)
            assert answer.status == 200
            assert answer.body.count(b'"object":"turn"') == 100

        return lambda: self._runner.run(self._spread(count, 1, read))

    async def _chat(self, _: int) -> None:
        answer = await self._client.request("POST", "/v1/chat/completions", body=CHAT, headers=HEADERS)
        assert answer.status == 200

    async def _turn(self, number: int) -> None:
        path = f"/v1/conversations/{self._ids[number % len(self._ids)]}/turns"
        turn = await self._post(path, {"text": QUESTION, "id": f"q-{next(self._names)}"})
        assert turn["kept"], turn

    async def _post(self, path: str, body: object) -> Any:
        data = msgspec.json.encode(body)
        answer = await self._client.request("POST", path, body=data, headers=HEADERS)
        assert answer.status in (200, 201), answer.body
        return msgspec.json.decode(answer.body)

    async def _spread(self, count: int, together: int, ask: Any) -> None:
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                await ask(number)

        workers: list[Coroutine[Any, Any, None]] = [worker() for _ in range(together)]
        await asyncio.gather(*workers)


@contextmanager
def pauses() -> Iterator[list[float]]:
    """Yield the seconds of each full collection while the block lasts."""
    found: list[float] = []
    began_s = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal began_s
        if phase == "start":
            began_s = time.perf_counter()
        elif info["generation"] == 2:
            found.append(time.perf_counter() - began_s)

    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)


def resident_mb() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conversations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--turns", type=int, default=10_000, help="how many (default: 10,000)")
    parser.add_argument("--together", type=int, default=64, help="turns at one time (default: 64)")
    parser.add_argument("--url", help="the database (default: a SQLite file in a temporary folder)")
    options = parser.parse_args()
    steps = 10
    with tempfile.TemporaryDirectory(prefix="dub5-turns-") as folder:
        url = options.url or f"sqlite:///{folder}/turns.db"
        with ConversationBench(url, conversations=options.together) as bench, pauses() as found:
            gc.freeze()  # as `dub5 serve` does
            print(f"{'turns':>10}{'memory MB':>12}{'turns/s':>10}{'longest full collection ms':>30}")
            for step in range(1, steps + 1):
                began_s = time.perf_counter()
                bench.turns(options.turns // steps, together=options.together)()
                speed = options.turns / steps / (time.perf_counter() - began_s)
                longest_ms, done = max(found, default=0.0) * 1000, step * options.turns // steps
                print(f"{done:>10}{resident_mb():>12.1f}{speed:>10.0f}{longest_ms:>30.1f}", flush=True)
                found.clear()
    print(machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
