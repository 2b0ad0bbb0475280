"""The CPU time of the service as a multiple of an aiohttp relay that only forwards bytes.

    client (here) --in turns--> dub5 serve --+--> canned upstream       four processes, real sockets
                           '--> a bare aiohttp relay    --'

    json        one JSON answer
    chunk       one more chunk of a stream: the difference between long and short streams, per chunk

    python -m benchmarks.relay --rounds 7

Measured is the CPU time of the process in the middle, from /proc: the minimum of several rounds, taken in
turns, so that a busy machine slows both alike. Linux only.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from benchmarks.canned import MESSAGES, WHOLE, chunk
from benchmarks.conftest import machine
from benchmarks.soak import process

JSON_BATCH = 800
STREAM_BATCH = 40
SHORT, LONG = 10, 210  # chunks of a stream
CONCURRENCY = 8
PAUSE_S = 0.002  # between chunks, so that they arrive one by one
UPSTREAM = web.AppKey("upstream", str)
SESSION = web.AppKey("session", aiohttp.ClientSession)
SETTINGS = """
[server]
port = 0
[[provider]]
name = "one"
dialect = "openai"
base_url = "{upstream}/v1"
[[route]]
name = "chat"
targets = ["one/m"]
"""
SSE = {"content-type": "text/event-stream"}
LAST = (chunk(finish_reason="stop"), b"data: [DONE]\n\n")


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer as the upstream: one JSON body, or a stream of as many chunks as the field `user` says."""
    body = await request.json()
    if not body.get("stream"):
        return web.Response(body=WHOLE, content_type="application/json")
    response = web.StreamResponse(headers=SSE)
    await response.prepare(request)
    for i in range(int(body["user"])):
        await response.write(chunk(delta={"content": f"word{i} "}))
        await asyncio.sleep(PAUSE_S)
    for part in LAST:
        await response.write(part)
    return response


async def relay(request: web.Request) -> web.StreamResponse:
    """Forward a request and its answer: the simplest relay."""
    body, url = await request.read(), request.app[UPSTREAM]
    headers = {"content-type": "application/json"}
    async with request.app[SESSION].post(url + request.path, data=body, headers=headers) as upstream:
        if upstream.content_type == "application/json":
            return web.Response(body=await upstream.read(), content_type="application/json")
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        async for data in upstream.content.iter_any():
            await response.write(data)
        return response


async def serve(upstream: str | None) -> None:
    """Serve the relay, or without `upstream` the upstream, until stdin is closed."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", relay if upstream else answer)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        app[SESSION] = session
        app[UPSTREAM] = upstream or ""
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time in microseconds."""

    json_us: float
    chunk_us: float


class MeasuredProcess:
    """The service or the relay, and its CPU time."""

    def __init__(self, session: aiohttp.ClientSession, url: str, pid: int) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self._times = Path(f"/proc/{pid}/schedstat")

    async def round(self) -> Cost:
        """Measure each kind of request once."""
        short_us = await self._batch(STREAM_BATCH, {"stream": True, "user": str(SHORT)})
        long_us = await self._batch(STREAM_BATCH, {"stream": True, "user": str(LONG)})
        return Cost(await self._batch(JSON_BATCH, {}), (long_us - short_us) / (LONG - SHORT))

    async def _batch(self, count: int, fields: dict[str, object]) -> float:
        """Send `count` requests; return the CPU time of one (us)."""
        body, numbers = {"model": "chat", "messages": MESSAGES, **fields}, iter(range(count))

        async def worker() -> None:
            for _ in numbers:
                async with self._session.post(self._url, json=body) as reply:
                    assert reply.status == 200
                    await reply.read()

        before_us = self._cpu_us()
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(worker())
        return (self._cpu_us() - before_us) / count

    def _cpu_us(self) -> float:
        return int(self._times.read_text(encoding="ascii").split()[0]) / 1000


def least(costs: Sequence[Cost]) -> Cost:
    """Return the minimum of each cost: noise only adds time."""
    return Cost(min(cost.json_us for cost in costs), min(cost.chunk_us for cost in costs))


async def compare(rounds: int, folder: Path) -> tuple[Cost, Cost]:
    """Measure the costs of service and relay."""
    here, config = "benchmarks.relay", folder / "relay.toml"
    async with process(folder, "upstream", here, "--serve", "") as (_, upstream):
        config.write_text(SETTINGS.format(upstream=upstream), encoding="utf-8")
        async with (
            process(folder, "service", "dub5.service", "serve", "--config", str(config)) as (service, line),
            process(folder, "relay", here, "--serve", upstream) as (bare, relay_url),
            aiohttp.ClientSession() as session,
        ):
            ours = MeasuredProcess(session, line.rpartition(" ")[2], service.pid)
            theirs = MeasuredProcess(session, relay_url, bare.pid)
            await ours.round(), await theirs.round()  # warm-up
            costs = [(await ours.round(), await theirs.round()) for _ in range(rounds)]
    return least([own for own, _ in costs]), least([other for _, other in costs])


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.relay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default: 5)")
    parser.add_argument("--serve", metavar="UPSTREAM", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve or None))
        return 0
    if not Path("/proc/self/schedstat").exists():
        print("SKIPPED: CPU time is read from /proc, which only Linux has.")
        return 0
    with tempfile.TemporaryDirectory(prefix="dub5-relay-") as folder:
        ours, bare = asyncio.run(compare(arguments.rounds, Path(folder)))
    print(f"{'':8}{'service us':>12}{'relay us':>10}{'times':>8}")
    print(f"{'json':8}{ours.json_us:>12.1f}{bare.json_us:>10.1f}{ours.json_us / bare.json_us:>8.2f}")
    print(f"{'chunk':8}{ours.chunk_us:>12.1f}{bare.chunk_us:>10.1f}{ours.chunk_us / bare.chunk_us:>8.2f}")
    print(f"share of the relay's JSON requests per CPU second: {bare.json_us / ours.json_us:.2f}")
    print(machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
