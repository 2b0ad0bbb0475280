"""What the service costs, as a multiple of a bare relay that only forwards bytes (bare_relay.py).

    client (here) --in turns--> dub5 serve --+--> canned upstream (here)      three processes, real sockets
                           '--> bare relay --'

    json        one JSON answer
    cached      a JSON answer from the cache; the relay, which has none, asks the upstream
    chunk       one more chunk of a stream: the difference between long and short streams, per chunk

    python -m benchmarks.relay --rounds 40
    python -m benchmarks.relay --instructions        counted by callgrind, one process after the other

Measured is the CPU time of the process in the middle, with all its threads, from /proc: the minimum of
several rounds, taken in turns, so that a busy machine slows both alike. Linux only.

A chunk of a stream leaves the upstream when the client has read the one before. So each chunk is read and
written alone, however busy the machine is.
"""

import argparse
import asyncio
import itertools
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from benchmarks.canned import WHOLE, chunk
from benchmarks.conftest import machine
from benchmarks.instructions_requests import MESSAGES
from benchmarks.soak import cpu_us, process
from tests.support.one_route import one_route

SHORT, LONG = "10", "110"  # chunks of a stream
STALL_S = 60.0  # a chunk that does not come for so long never will
SETTINGS = f"[server]\nport = 0\n{one_route('{upstream}/v1')}cache.enabled = true\n"
SSE = {"content-type": "text/event-stream"}
LAST = (chunk(finish_reason="stop"), b"data: [DONE]\n\n")
WORD = b"word"  # in each chunk once
TOTALS = re.compile(rb"^totals: (\d+)$", re.MULTILINE)
KINDS: dict[str, dict[str, object]] = {  # fields of a request; `user` tells the upstream what to send
    "json": {},
    "cached": {"temperature": 0},
    "short": {"stream": True, "user": SHORT},
    "long": {"stream": True, "user": LONG},
}
Meter = Callable[[], Awaitable[float]]  # how much a process has spent until now


class PacedUpstream:
    """The provider and its clients. A stream's next chunk is sent when the client has read the last."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._names = itertools.count()
        self._turns: dict[str, asyncio.Semaphore] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as the provider: one JSON body, or a stream of as many chunks as `user` says."""
        body = await request.json()
        if not body.get("stream"):
            return web.Response(body=WHOLE, content_type="application/json")
        turn, response = self._turns[body["user"]], web.StreamResponse(headers=SSE)
        await response.prepare(request)
        for i in range(int(body["user"].partition(" ")[0])):
            await response.write(chunk(delta={"content": f"{WORD.decode()}{i} "}))
            await turn.acquire()
        for part in LAST:
            await response.write(part)
        return response

    async def ask(self, url: str, fields: dict[str, object]) -> None:
        """Send a request as a client, and read its answer."""
        body, turn = {"model": "chat", "messages": MESSAGES, **fields}, asyncio.Semaphore(0)
        if "user" in fields:
            name = body["user"] = f"{fields['user']} {next(self._names)}"
            self._turns[name] = turn
        async with self._session.post(url, json=body) as reply:
            assert reply.status == 200, await reply.text()
            async for data in reply.content.iter_any():
                for _ in range(data.count(WORD)):
                    turn.release()


@asynccontextmanager
async def paced_upstream() -> AsyncIterator[tuple[PacedUpstream, str]]:
    """Serve the upstream; yield it and its address."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=STALL_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        upstream, app = PacedUpstream(session), web.Application()
        app.router.add_post("/v1/chat/completions", upstream.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield upstream, f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """How many requests are measured together."""

    json: int
    streams: int
    together: int


TIMED = BatchSizes(json=400, streams=24, together=8)
COUNTED = BatchSizes(json=100, streams=5, together=1)


class MeasuredProcess:
    """The service or the relay, and the least that each kind of request has cost until now."""

    def __init__(self, upstream: PacedUpstream, url: str, spent: Meter, workload: BatchSizes) -> None:
        self._upstream = upstream
        self._url = f"{url}/v1/chat/completions"
        self._spent = spent
        self._workload = workload
        self._least: dict[str, float] = {}

    async def warm_up(self) -> None:
        """Send every kind of request, without measuring."""
        for kind in KINDS:
            await self._send(kind)

    async def measure(self, kind: str) -> None:
        """Measure a batch of requests. The minimum counts: noise only adds."""
        before = await self._spent()
        count = await self._send(kind)
        each = (await self._spent() - before) / count
        self._least[kind] = min(self._least.get(kind, each), each)

    async def _send(self, kind: str) -> int:
        fields, size = KINDS[kind], self._workload
        count = size.streams if "stream" in fields else size.json
        numbers = iter(range(count))

        async def worker() -> None:
            for _ in numbers:
                await self._upstream.ask(self._url, fields)

        await asyncio.gather(*(worker() for _ in range(size.together)))
        return count

    @property
    def cost(self) -> dict[str, float]:
        """Return what a request of each kind costs."""
        chunk_cost = (self._least["long"] - self._least["short"]) / (int(LONG) - int(SHORT))
        return {"json": self._least["json"], "cached": self._least["cached"], "chunk": chunk_cost}


def cpu_meter(pid: int) -> Meter:
    """Return a meter of the CPU time of a process, in microseconds."""

    async def read() -> float:
        return cpu_us(pid)

    return read


def instructions(pid: int, profile: Path) -> Meter:
    """Return a meter of the instructions of a process under callgrind, which writes parts of `profile`."""
    counted, parts = 0.0, itertools.count(1)

    async def read() -> float:
        nonlocal counted
        dump = await asyncio.create_subprocess_exec(
            "vgdb", f"--pid={pid}", "dump", stderr=asyncio.subprocess.DEVNULL
        )
        if await dump.wait():
            raise SystemExit(f"vgdb could not ask process {pid} for its counts")
        total = TOTALS.search(Path(f"{profile}.{next(parts)}").read_bytes())
        assert total is not None
        counted += int(total[1])
        return counted

    return read


def commands(folder: Path, upstream: str) -> dict[str, tuple[str, ...]]:
    """Return the commands of the service and the relay."""
    config = folder / "relay.toml"
    config.write_text(SETTINGS.format(upstream=upstream), encoding="utf-8")
    return {
        "service": ("dub5.service", "serve", "--config", str(config)),
        "relay": ("benchmarks.bare_relay", upstream),
    }


async def timed(rounds: int, folder: Path) -> list[dict[str, float]]:
    """Measure the CPU time (us) of service and relay in turns."""
    async with paced_upstream() as (upstream, url):
        ours, theirs = commands(folder, url).values()
        async with (
            process(folder, "service", *ours) as (service, line),
            process(folder, "relay", *theirs) as (relay, address),
        ):
            both = [
                MeasuredProcess(upstream, line.rpartition(" ")[2], cpu_meter(service.pid), TIMED),
                MeasuredProcess(upstream, address, cpu_meter(relay.pid), TIMED),
            ]
            for each in both:
                await each.warm_up()
            for _ in range(rounds):
                for kind in KINDS:
                    for each in both:
                        await each.measure(kind)
    return [each.cost for each in both]


async def counted(folder: Path) -> list[dict[str, float]]:
    """Count the instructions of the service, then those of the relay."""
    costs = []
    async with paced_upstream() as (upstream, url):
        for name, command in commands(folder, url).items():
            print(f"counting the {name}: a minute or two", file=sys.stderr, flush=True)
            profile = folder / f"{name}.callgrind"
            tool = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}")
            async with process(folder, name, *command, under=tool) as (running, line):
                address, meter = line.rpartition(" ")[2], instructions(running.pid, profile)
                each = MeasuredProcess(upstream, address, meter, COUNTED)
                await each.warm_up()
                for kind in KINDS:
                    await each.measure(kind)
                costs.append(each.cost)
    return costs


def table(unit: str, ours: dict[str, float], bare: dict[str, float]) -> str:
    """Format the costs for people."""
    lines = [f"{unit:<16}{'service':>12}{'relay':>12}{'times':>8}"]
    for name, cost in ours.items():
        lines.append(f"{name:<16}{cost:>12,.1f}{bare[name]:>12,.1f}{cost / bare[name]:>8.2f}")
    lines.append(f"answers from the cache for the cost of another: {ours['json'] / ours['cached']:.2f}")
    return "\n".join(lines)


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.relay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each (default: 12)")
    parser.add_argument("--instructions", action="store_true", help="count instructions, too")
    arguments = parser.parse_args()
    if not Path("/proc/self/schedstat").exists():
        print("SKIPPED: CPU time is read from /proc, which only Linux has.")
        return 0
    if arguments.instructions and shutil.which("vgdb") is None:
        parser.error("valgrind is not on PATH; install it (Debian, Ubuntu: apt install valgrind)")
    with (
        tempfile.TemporaryDirectory(prefix="dub5-relay-") as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        folder = Path(name)
        print(table("CPU us", *runner.run(timed(arguments.rounds, folder))), flush=True)
        if arguments.instructions:
            print(table("instructions", *runner.run(counted(folder))))
    print(machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
