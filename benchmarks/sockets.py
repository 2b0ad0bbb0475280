"""What WebSockets cost a served process: the memory of idle ones, and the time of a message on its way.

    clients (socket_clients.py) -> dub5 serve -> provider (clocked_provider.py)
                                           each a process, over real sockets

    idle     5,000 connections that say nothing, in steps: the resident memory of the service for each
    talking  500 that ask and read streams: from the provider's sending of a chunk to the client's reading it,
             over what clients that ask the provider itself see in the same moment, in the same process

    python -m benchmarks.sockets                      both; run it on a machine that does nothing else
    python -m benchmarks.sockets --idle 1000 --talking 0

Linux only: memory is read from /proc. Both cores of a small machine are shared by all these processes.
"""

import argparse
import asyncio
import math
import os
import resource
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec

from benchmarks.conftest import machine
from benchmarks.socket_clients import KEY_ENV, Reading
from tests.support.one_route import one_route

IDLE_KB_MAX = 30.0
OVER_MS_MAX = 50.0
GROWTH_MAX = 0.05
STEPS = 5
WARM_UP = 200
SETTLE_S = 2.0
STOP_S = 60.0
LINE_BYTES_MAX = 64 * 1024 * 1024
DIRECT_PART = 10  # one direct client for so many that talk over the service
SETTINGS = (
    one_route("{provider}/v1")
    + """
[server]
port = 0
caller_keys_env = ["{key_env}"]
[database]
url = "sqlite:///{folder}/kept.db"
[conversation]
"""
)


def memory_kb(pid: int) -> dict[str, int]:
    """Return the resident memory of a process, and its own part of it, in KB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return {"rss": found["Rss"], "pss": found["Pss"]}


def quantile(values: Sequence[float], share: float) -> float:
    """Return the quantile of nearest rank; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


@asynccontextmanager
async def running(folder: Path, name: str, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m command` until the block ends."""
    pipe = asyncio.subprocess.PIPE
    with (folder / f"{name}.log").open("wb") as log:
        pipes = {"stdin": pipe, "stdout": pipe, "stderr": log, "limit": LINE_BYTES_MAX}
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", *command, **pipes)  # type: ignore[arg-type]
    try:
        yield child
    finally:
        assert child.stdin is not None, "started with a pipe"
        child.stdin.close()  # the end of clients and provider
        if name == "service":
            child.terminate()
        async with asyncio.timeout(STOP_S):
            await child.communicate()


async def line_of(child: asyncio.subprocess.Process) -> str:
    """Return the next line that a process prints."""
    assert child.stdout is not None, "started with a pipe"
    line = (await child.stdout.readline()).decode().strip()
    if not line:
        raise SystemExit("a process ended early")
    return line


async def measure_idle(folder: Path, url: str, pid: int, count: int) -> list[str]:
    """Open idle connections in steps, and print the memory of the service; return what is over its bound.

    Then all are closed, and opened once more: what is not used again is a leak.
    """

    def note(what: str) -> int:
        found = memory_kb(pid)
        print(f"{what:>14}{found['rss'] / 1024:>10.1f}{found['pss'] / 1024:>10.1f}", flush=True)
        return found["rss"]

    print(f"{'idle sockets':>14}{'RSS MB':>10}{'PSS MB':>10}")
    async with running(folder, "idle", "benchmarks.socket_clients", "idle", url) as clients:
        await _open(clients, WARM_UP)
        before = note(f"{WARM_UP:,}")
        for step in range(1, STEPS + 1):
            await _open(clients, count // STEPS)
            most = note(f"{WARM_UP + step * (count // STEPS):,}")
    await asyncio.sleep(SETTLE_S)
    note("closed")
    async with running(folder, "again", "benchmarks.socket_clients", "idle", url) as clients:
        await _open(clients, WARM_UP + count)
        again = note(f"{WARM_UP + count:,} again")
    each_kb, growth = (most - before) / count, again / most - 1
    print(f"{each_kb:.1f} KB for each socket; opened once more: {growth:+.1%}")
    over = [f"an idle socket takes {each_kb:.1f} KB"] if each_kb > IDLE_KB_MAX else []
    return over + ([f"sockets once more: {growth:+.1%} of memory"] if growth > GROWTH_MAX else [])


async def _open(clients: asyncio.subprocess.Process, count: int) -> None:
    assert clients.stdin is not None, "started with a pipe"
    clients.stdin.write(b"%d\n" % count)
    await line_of(clients)
    await asyncio.sleep(SETTLE_S)


async def measure_talk(
    folder: Path, url: str, provider: str, pid: int, options: argparse.Namespace
) -> list[str]:
    """Let clients talk, and print how long messages were on their way; return what is over its bound."""
    numbers = {
        "--direct": provider,
        "--count": options.talking,
        "--direct-count": max(1, options.talking // DIRECT_PART),
        "--seconds": options.seconds,
    }
    words = [str(word) for pair in numbers.items() for word in pair]
    before_s = cpu_s(pid)
    async with running(folder, "talk", "benchmarks.socket_clients", "talk", url, *words) as clients:
        seen = msgspec.json.decode(await line_of(clients), type=Reading)
    used_s = cpu_s(pid) - before_s
    print(f"\n{'ms on the way':>14}{'chunks':>10}{'p50':>9}{'p99':>9}{'max':>9}")
    for name, found in (("over sockets", seen.ms), ("directly", seen.direct_ms)):
        figures = "".join(f"{quantile(found, share):>9.1f}" for share in (0.5, 0.99, 1.0))
        print(f"{name:>14}{len(found):>10}{figures}")
    over_ms = {share: quantile(seen.ms, share) - quantile(seen.direct_ms, share) for share in (0.5, 0.99)}
    print(f"{'over':>14}{'':>10}{over_ms[0.5]:>9.1f}{over_ms[0.99]:>9.1f}")
    chunk_us = used_s / max(1, len(seen.ms)) * 1e6
    print(f"{seen.answers} answers, {seen.direct_answers} directly, {len(seen.wrong)} not whole")
    print(f"the service used {used_s:.1f} s of processor time, {chunk_us:.0f} us a chunk", flush=True)
    wrong = [f"{len(seen.wrong)} answers were not whole: {seen.wrong[:3]}"] if seen.wrong else []
    return wrong + [
        f"p{share * 100:g} is {ms:.1f} ms over a direct client's"
        for share, ms in over_ms.items()
        if ms > OVER_MS_MAX
    ]


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(options: argparse.Namespace, folder: Path) -> list[str]:
    """Run the benchmark; return what is over its bounds."""
    os.environ[KEY_ENV] = secrets.token_hex(16)
    chunks = ("--every-ms", str(options.every_ms), "--chunks", str(options.chunks))
    async with running(folder, "provider", "benchmarks.clocked_provider", *chunks) as provider:
        provider_url = await line_of(provider)
        config = folder / "service.toml"
        config.write_text(
            SETTINGS.format(key_env=KEY_ENV, folder=folder, provider=provider_url), encoding="utf-8"
        )
        async with running(folder, "service", "dub5.service", "serve", "--config", str(config)) as service:
            url = (await line_of(service)).removeprefix("listening on ")
            over = []
            if options.idle:
                over += await measure_idle(folder, url, service.pid, options.idle)
            if options.talking:
                over += await measure_talk(folder, url, provider_url, service.pid, options)
            return over


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.sockets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--idle", type=int, default=5_000, metavar="N", help="idle connections; 0: none (default: 5,000)")
    add("--talking", type=int, default=500, metavar="N", help="talking ones; 0: none (default: 500)")
    add("--seconds", type=float, default=20.0, help="for which they talk (default: 20)")
    add("--every-ms", type=float, default=250.0, help="between two chunks of an answer (default: 250)")
    add("--chunks", type=int, default=40, help="of an answer (default: 40)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = parser().parse_args(arguments)
    if not Path("/proc/self/smaps_rollup").exists():
        print("SKIPPED: memory is read from /proc, which only Linux has.")
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{machine()}, websockets {version('websockets')}", flush=True)
    with tempfile.TemporaryDirectory(prefix="dub5-sockets-") as folder:
        over = asyncio.run(measure(options, Path(folder)))
    for problem in over:
        print(f"OVER: {problem}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
