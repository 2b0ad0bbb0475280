"""The clients of benchmarks/sockets.py, in a process of their own.

    python -m benchmarks.socket_clients idle URL     opens as many as each line of its input says
    python -m benchmarks.socket_clients talk URL     talks for so many seconds, then prints what it has seen

The key is in DUB5_BENCH_KEY. The provider's chunks are the time of their sending (clocked_provider.py), so a
delta that holds several of them gives as many readings.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack

import aiohttp
import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

KEY_ENV = "DUB5_BENCH_KEY"
CONNECTING_MAX = 50  # at one time
DIRECT = {"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": True}


class Reading(Struct):
    """What talking clients have seen: how long each chunk was on its way, and answers that were not whole."""

    ms: list[float] = []
    direct_ms: list[float] = []
    answers: int = 0
    direct_answers: int = 0
    wrong: list[str] = []


class SeenMessage(Struct):
    """A message of the service."""

    type: str
    text: str = ""
    conversation: str = ""
    outcome: str = ""


_MESSAGE = msgspec.json.Decoder(SeenMessage).decode


def opening(url: str) -> connect:
    """Return a WebSocket that is about to be opened."""
    return connect(
        f"ws{url.removeprefix('http')}/v1/ws",
        subprotocols=[Subprotocol("dub5.v1")],
        additional_headers={"authorization": f"Bearer {os.environ[KEY_ENV]}"},
        compression=None,
        ping_interval=None,
        open_timeout=60,
        close_timeout=5,
        proxy=None,
    )


async def open_many(url: str, count: int, stack: AsyncExitStack) -> list[ClientConnection]:
    """Open sockets, and take the greeting of each."""
    room = asyncio.Semaphore(CONNECTING_MAX)

    async def one() -> ClientConnection:
        async with room:
            socket = await stack.enter_async_context(opening(url))
            await socket.recv()
            return socket

    return await asyncio.gather(*(one() for _ in range(count)))


async def idle(url: str) -> None:
    """Open as many more as each line of the input says; close all at its end."""
    async with AsyncExitStack() as stack:
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            await open_many(url, int(line), stack)
            print("open", flush=True)


def late_ms(text: str) -> Iterable[float]:
    """Yield how long each chunk of a text was on its way."""
    now_ns = time.monotonic_ns()
    return [(now_ns - int(sent_ns)) / 1e6 for sent_ns in text.split()]


async def talk(socket: ClientConnection, name: str, start_s: float, end_s: float, seen: Reading) -> None:
    """Ask one question after another until it is time."""
    await asyncio.sleep(start_s)
    number, known = 0, dict[str, str]()
    while time.monotonic() < end_s:
        asked = {"type": "ask", "id": f"{name}-{number}", "text": "What time is it?", **known}
        await socket.send(json.dumps(asked))
        number += 1
        while (message := _MESSAGE(await socket.recv())).type not in ("end", "error"):
            if message.type == "delta":
                seen.ms.extend(late_ms(message.text))
            elif message.conversation:
                known = {"conversation": message.conversation}
        seen.answers += 1
        if message.outcome != "complete":
            seen.wrong.append(message.outcome or message.type)


async def talk_directly(
    session: aiohttp.ClientSession, url: str, start_s: float, end_s: float, seen: Reading
) -> None:
    """Ask the provider itself, as a client without a service would."""
    await asyncio.sleep(start_s)
    while time.monotonic() < end_s:
        async with session.post(f"{url}/v1/chat/completions", json=DIRECT) as reply:
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    (choice,) = msgspec.json.decode(line[6:])["choices"]
                    seen.direct_ms.extend(late_ms(choice["delta"].get("content", "")))
        seen.direct_answers += 1


async def talk_all(url: str, direct: str, count: int, direct_count: int, seconds: float) -> Reading:
    """Let all talk at one time; their questions are spread over the first second."""
    seen = Reading()
    async with AsyncExitStack() as stack:
        sockets = await open_many(url, count, stack)
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        end_s = time.monotonic() + seconds
        name = f"{os.getpid()}-{time.monotonic_ns()}"
        async with asyncio.TaskGroup() as group:
            for i, socket in enumerate(sockets):
                group.create_task(talk(socket, f"{name}-{i}", i / max(1, count), end_s, seen))
            for i in range(direct_count):
                group.create_task(talk_directly(session, direct, i / max(1, direct_count), end_s, seen))
    return seen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.socket_clients", description=__doc__)
    parser.add_argument("what", choices=("idle", "talk"))
    parser.add_argument("url", help="of the service")
    parser.add_argument("--direct", default="", help="URL of the provider")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--direct-count", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args(arguments)
    if options.what == "idle":
        asyncio.run(idle(options.url))
        return 0
    seen = asyncio.run(
        talk_all(options.url, options.direct, options.count, options.direct_count, options.seconds)
    )
    print(msgspec.json.encode(seen).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
