"""How much later an answer comes through the service than from the provider itself.

                        .--> dub5 serve ----.
    load generator -----+--> a bare relay --+--> steady provider      each a process, over real sockets
    (here)              +--> nginx ---------+
                        '-------------------'
                              direct

    answers    JSON, 50 a second on each way: in one window, in turns drawn anew, so that noise hits all alike
    streams    100 at once on one way and as many direct, in one window; the ways take turns
    answer, first token: from the moment that the schedule gave, whatever had been answered until then
    gap        between two chunks, over the gap at which the provider sent them

    python -m benchmarks.overhead
    python -m benchmarks.overhead --seconds 300 --out overhead.json
    python -m benchmarks.overhead --gateway http://127.0.0.1:4000 --model m --key-env KEY --upstream-port 9100

A failed request voids its window, and so does a generator that was late itself. The gateway of --gateway must
ask the provider of this run: OpenAI's dialect at http://127.0.0.1:UPSTREAM_PORT/v1, any key.
Exit codes: 0 every bound holds, 1 one does not, 2 nothing could be measured.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks.conftest import machine
from benchmarks.overhead_client import LoadedArm, send_all
from benchmarks.overhead_figures import (
    SHARES,
    ArmTimes,
    LoadWindow,
    added,
    has_step,
    percentiles,
    pooled,
    schedule,
    verdicts,
)
from benchmarks.overhead_upstream import before_others
from benchmarks.soak import cpu_us, process
from tests.support.one_route import one_route

RATE_PER_S = 50.0
STREAMS = 100
CHUNKS, EVERY_MS = 20, 50.0  # of a stream, which so takes a second
STREAM_S = CHUNKS * EVERY_MS / 1000
JSON_S, JSON_WINDOWS = 2.4, 3  # of a window of answers; so many a round, so that one void one costs little
MEASURED_S = 2.0  # of a window of streams, after the first have ended
WARM_UP_S = 1.5
LATE_MS_MAX = 1.0
START_S = 5.0
SETTINGS = f"[server]\nport = 0\n{one_route('{upstream}/v1')}"
NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream provider {{ server {upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class WayThrough:
    """A way to the provider. `pid` is that of its process, where this run has started it."""

    url: str
    model: str = "chat"
    key: str = field(default="sk-1", repr=False)
    pid: int = 0

    def cpu_us(self) -> float:
        """Return the processor time that the process has taken; NaN of one that is not ours."""
        return cpu_us(self.pid) if self.pid else float("nan")


@asynccontextmanager
async def nginx(folder: Path, upstream: str) -> AsyncIterator[WayThrough]:
    """Run nginx as a proxy without buffers until the block ends."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]  # free a moment ago
    server.close()
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, upstream=urlsplit(upstream).netloc, port=port), "utf-8")
    program = shutil.which("nginx") or "nginx"
    with (folder / "nginx.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(program, "-c", str(file), stderr=log)
    try:
        yield WayThrough(f"http://127.0.0.1:{port}", pid=child.pid)
    finally:
        child.terminate()
        await child.wait()


async def until_accepting(url: str) -> None:
    """Wait until a server accepts connections. Raises TimeoutError."""
    parts = urlsplit(url)
    async with asyncio.timeout(START_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


class OverheadRun:
    """All windows of one run."""

    def __init__(self, ways: Mapping[str, WayThrough], rate_per_s: float, streams: int, seed: int) -> None:
        self._ways, self._rate_per_s, self._streams = ways, rate_per_s, streams
        self._rng = random.Random(seed)
        self._number = 1
        self.windows: list[LoadWindow] = []

    async def answers(self, seconds: float = JSON_S, names: Sequence[str] = ()) -> LoadWindow:
        """Send JSON requests on all ways, or on some, for one window."""
        ways = {name: self._ways[name] for name in names or self._ways}
        plan = list(schedule(list(ways), self._rate_per_s, seconds, self._rng))
        return await self._window(ways, plan, 0.0, is_stream=False, connections=16)

    async def streams(self, name: str, measured_s: float = MEASURED_S) -> LoadWindow:
        """Open streams on one way and direct, for one window."""
        ways = {each: self._ways[each] for each in ("direct", name)}
        plan = list(schedule(list(ways), self._streams / STREAM_S, STREAM_S + measured_s, self._rng))
        return await self._window(
            ways, plan, STREAM_S, is_stream=True, connections=self._streams + self._streams // 4
        )

    async def _window(
        self,
        ways: Mapping[str, WayThrough],
        plan: Sequence[tuple[float, str]],
        measured_from_s: float,
        *,
        is_stream: bool,
        connections: int,
    ) -> LoadWindow:
        arms = {
            name: LoadedArm(name, way.url, way.model, way.key, is_stream=is_stream)
            for name, way in ways.items()
        }
        for arm in arms.values():
            await arm.open(connections)
        gc.collect()
        before_us = {name: way.cpu_us() for name, way in ways.items()}
        window = await send_all(arms, plan, measured_from_s, self._number)
        self._number += len(plan)
        for name, way in ways.items():
            arms[name].times.cpu_us.append((way.cpu_us() - before_us[name]) / (len(plan) / len(ways)))
            arms[name].close()
        return window

    async def measure(self, rounds: int) -> None:
        """Warm all ways up, and take so many windows of each kind."""
        through = [name for name in self._ways if name != "direct"]
        await self.answers(WARM_UP_S)
        for name in through:
            await self.streams(name, 0.0)
        gc.collect()
        gc.disable()
        for _ in range(rounds):
            for _ in range(JSON_WINDOWS):
                self.windows.append(await self.answers())
            for name in through:
                self.windows.append(await self.streams(name))
        gc.enable()


def round_s(ways: int) -> float:
    """Return how long a round of windows takes, for so many ways through."""
    return JSON_S * JSON_WINDOWS + ways * (2 * STREAM_S + MEASURED_S)


async def measured(arguments: argparse.Namespace, folder: Path) -> tuple[list[LoadWindow], list[str]]:
    """Start the processes, and measure; return the windows, and the names of the ways through."""
    async with AsyncExitStack() as stack:

        async def start(name: str, *command: str) -> tuple[asyncio.subprocess.Process, str]:
            return await stack.enter_async_context(process(folder, name, *command))

        shape = ("--chunks", str(CHUNKS), "--every-ms", str(EVERY_MS))
        port = ("--port", str(arguments.upstream_port))
        provider, upstream = await start("provider", "benchmarks.overhead_upstream", *shape, *port)
        ways = {"direct": WayThrough(upstream, pid=provider.pid)}
        config = folder / "dub5.toml"
        config.write_text(SETTINGS.format(upstream=upstream), encoding="utf-8")
        service, line = await start("service", "dub5.service", "serve", "--config", str(config))
        ways["service"] = WayThrough(line.rpartition(" ")[2], pid=service.pid)
        relay, url = await start("relay", "benchmarks.bare_relay", upstream)
        ways["relay"] = WayThrough(url, pid=relay.pid)
        if shutil.which("nginx"):
            ways["nginx"] = await stack.enter_async_context(nginx(folder, upstream))
        if arguments.gateway:
            key = os.environ[arguments.key_env] if arguments.key_env else "sk-1"
            ways["gateway"] = WayThrough(arguments.gateway, arguments.model, key)
        before_others()  # and before its children
        for way in ways.values():
            await until_accepting(way.url)
        through = [name for name in ways if name != "direct"]
        rounds = max(1, int(arguments.seconds / round_s(len(through))))
        run = OverheadRun(ways, arguments.rate, arguments.streams, arguments.seed)
        await run.measure(rounds)
        return run.windows, through


def rows(windows: Sequence[LoadWindow], through: Sequence[str]) -> list[dict[str, object]]:
    """Return the figures of each way through and kind of time."""
    found: list[dict[str, object]] = []
    for name in through:
        for kind, is_kind in (("answer", True), ("first token", False), ("gap", False)):
            chosen = [window for window in windows if bool(window.arms["direct"].answers) is is_kind]
            direct, times = pooled(chosen, name)
            ours, base = times.by_kind().get(kind, []), direct.by_kind().get(kind, [])
            if ours and base:
                found.append(
                    {
                        "way": name,
                        "what": kind,
                        "count": len(ours),
                        "direct_ms": percentiles(base),
                        "through_ms": percentiles(ours),
                        "over_direct_ms": added(percentiles(base), percentiles(ours)),
                        "step_of_40_ms": has_step(ours) and not has_step(base),
                        "cpu_us": _mean(times),
                    }
                )
    return found


def _mean(times: ArmTimes) -> float:
    return sum(times.cpu_us) / len(times.cpu_us)


def table(found: Sequence[Mapping[str, object]]) -> str:
    """Format the figures for people, as Markdown."""
    head = "| what | way | count | " + " | ".join(f"over direct {share}" for share in SHARES)
    lines = [head + " | direct p50 | p99 | CPU a request |", "|---" * (len(SHARES) + 6) + "|"]
    for row in found:
        over: Mapping[str, float] = row["over_direct_ms"]  # type: ignore[assignment]
        direct: Mapping[str, float] = row["direct_ms"]  # type: ignore[assignment]
        cells = [row["what"], row["way"], f"{row['count']:,}"]
        cells += [f"{over[share]:.2f} ms" if share in over else "" for share in SHARES]
        cells += [f"{direct[share]:.2f} ms" for share in ("p50", "p99")]
        cpu = "" if row["what"] == "gap" or row["cpu_us"] != row["cpu_us"] else f"{row['cpu_us']:.0f} us"
        lines.append("| " + " | ".join(map(str, [*cells, cpu])) + " |")
    return "\n".join(lines)


def report(windows: Sequence[LoadWindow], through: Sequence[str], late_ms_max: float, loads: str) -> dict:  # type: ignore[type-arg]
    """Return all that a run says, ready for JSON."""
    reasons = [window.void_because(late_ms_max) for window in windows]
    valid = [window for window, reason in zip(windows, reasons, strict=True) if not reason]
    found = rows(valid, through)
    ours = {str(row["what"]): row["over_direct_ms"] for row in found if row["way"] == "service"}
    steps = [f"{row['way']}, {row['what']}" for row in found if row["step_of_40_ms"]]
    return {
        "machine": machine(),
        "interpreter": f"Python {sys.version.replace(chr(10), ' ')}",
        "loadavg": loads,
        "windows": len(windows),
        "void": [reason for reason in reasons if reason],
        "rows": found,
        "steps_of_40_ms": steps,
        "verdicts": verdicts(ours),  # type: ignore[arg-type]
    }


def said(told: Mapping[str, list]) -> str:  # type: ignore[type-arg]
    """Format a report for people."""
    lines = [table(told["rows"]), "", f"windows: {told['windows']}, of which {len(told['void'])} are void"]
    lines += [f"void: {reason}" for reason in told["void"]]
    steps = "; ".join(told["steps_of_40_ms"])
    lines += [f"steps of 40 ms: {steps or 'none'}", *told["verdicts"]]
    return "\n".join([*lines, f"loadavg {told['loadavg']}", str(told["machine"]), str(told["interpreter"])])


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=58.0, help="of load, in all (default: 58)")
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help="JSON requests a second (default: 50)")
    parser.add_argument("--streams", type=int, default=STREAMS, help="streams at once (default: 100)")
    parser.add_argument("--late-ms", type=float, default=LATE_MS_MAX, help="of the generator (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of requests (default: 1)")
    parser.add_argument(
        "--alone",
        action="store_true",
        help="run the ways before all other processes, too, as if the machine were idle (root only)",
    )
    parser.add_argument("--gateway", metavar="URL", help="another gateway, without /v1")
    parser.add_argument("--model", default="chat", help="that the gateway is asked for (default: chat)")
    parser.add_argument("--key-env", metavar="NAME", help="environment variable with the gateway's key")
    parser.add_argument("--upstream-port", type=int, default=0, help="of the provider (default: any)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures as JSON")
    return parser


def main() -> int:
    """Run the command; return the exit code."""
    arguments = options().parse_args()
    if not Path("/proc/self/schedstat").exists():
        print("SKIPPED: processor time is read from /proc, which only Linux has.")
        return 0
    before = os.getloadavg()
    if not before_others(children_too=arguments.alone):
        print("generator and provider have no priority over other processes: only root may give it")
    with tempfile.TemporaryDirectory(prefix="dub5-overhead-") as folder:
        windows, through = uvloop.run(measured(arguments, Path(folder)))
    loads = " -> ".join(f"{load[0]:.2f}" for load in (before, os.getloadavg()))
    told = report(windows, through, arguments.late_ms, loads)
    print(said(told))
    if arguments.out:
        arguments.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if len(told["void"]) == len(windows):
        print("NOT MEASURED: every window is void")
        return 2
    held = all(line.startswith("held") for line in told["verdicts"]) and not told["steps_of_40_ms"]
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
