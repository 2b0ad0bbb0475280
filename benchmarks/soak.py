"""The soak test: ten thousand streams through one real process leak no connections, attempts or memory.

    client (here) -> dub5 serve -> python -m simulators        three processes, real sockets

    warm-up     one after another, then 500 at a time: the baseline
    steady      one after another, then 500 at a time
    rough       500 at a time, while providers cut, reset and refuse, and every tenth client leaves

    python -m benchmarks.soak --streams 10000

Linux only: memory and open files are read from /proc.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from dub5.simulators.answers import Proof, judge

CONCURRENCY = 500
WARM_UP = 1500
LEAVES_EVERY = 10
GROWTH_MAX = 0.05
CONNECTIONS_GONE_S = 80.0  # the service keeps an idle connection for 30 s, and checks every 30 s
STOP_S = 40.0
ROUGH_FAULTS = (
    {"kind": "cut", "after_tokens": 5, "how": "close", "share": 0.1},
    {"kind": "reset", "share": 0.1},
    {"kind": "status", "status": 530, "body": "cloudflare_1033_text", "share": 0.1},
    {"kind": "garbage", "where": "sse", "share": 0.1},
)
SETTINGS = """
[server]
port = 0
[[provider]]
name = "one"
dialect = "openai"
base_url = "{one}/v1"
[[provider]]
name = "two"
dialect = "mistral"
base_url = "{two}/v1"
[[provider]]
name = "three"
dialect = "anthropic"
base_url = "{three}"
[[route]]
name = "chat"
targets = ["one/gpt-sim", "two/mistral-sim", "three/claude-sim"]
[[route]]
name = "chat-three"
targets = ["three/claude-sim", "one/gpt-sim"]
"""


@dataclass(frozen=True)
class ProcessSample:
    """The memory and sockets of a process at one moment."""

    at: str
    rss_mib: float
    sockets: int

    def __str__(self) -> str:
        return f"{self.at:24} {self.rss_mib:7.1f} MiB {self.sockets:5} sockets"


def sample(pid: int, at: str) -> ProcessSample:
    """Read a sample from /proc."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return ProcessSample(at, kib / 1024, sum(map(_is_socket, Path(f"/proc/{pid}/fd").iterdir())))


def _is_socket(descriptor: Path) -> bool:
    try:
        return os.readlink(descriptor).startswith("socket:")
    except FileNotFoundError:  # closed meanwhile
        return False


@asynccontextmanager
async def process(
    folder: Path, name: str, *command: str, under: Sequence[str] = ()
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run `python -m command` until the block ends; yield it and the line that it prints when it is ready.

    `under`: the command of a tool that runs it.
    """
    with (folder / f"{name}.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            *under,
            sys.executable,
            "-m",
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        assert child.stdout is not None
        line = (await child.stdout.readline()).decode().strip()
        rest = asyncio.create_task(child.stdout.read(), name=f"output of {name}")
        try:
            if not line:
                raise SystemExit(f"{name} did not start; see {log.name}")
            yield child, line
        finally:
            if child.returncode is None:
                child.terminate()
            async with asyncio.timeout(STOP_S):
                await child.wait()
            await rest


class Soak:
    """The client: sends requests, judges the answers, counts the outcomes."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.url = url
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._session = session
        self._number = 0

    async def one_after_another(self, streams: int) -> None:
        for _ in range(streams):
            await self.ask()

    async def many_at_a_time(self, streams: int, *, leaving: bool = False) -> None:
        """Send requests, CONCURRENCY at a time."""
        numbers = iter(range(streams))

        async def worker() -> None:
            for number in numbers:
                await self.ask(leaves=leaving and number % LEAVES_EVERY == 0)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, streams)):
                group.create_task(worker())

    async def ask(self, *, leaves: bool = False) -> None:
        """Send one request and judge its stream: complete, honestly cut, or wrong."""
        self._number += 1
        prompt = f"soak {self._number}"
        body = {
            "model": "chat-three" if self._number % 4 == 0 else "chat",
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
        }
        async with self._session.post(f"{self.url}/v1/chat/completions", json=body) as reply:
            if reply.status != 200:
                await reply.read()
                self.counts["refused"] += 1
                return
            if leaves:
                await reply.content.readany()
                reply.close()
                self.counts["cancelled"] += 1
                return
            self._judge(await reply.read(), prompt)

    def _judge(self, data: bytes, prompt: str) -> None:
        events = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
        done = events[-1:] == [b"[DONE]"]
        chunks = [json.loads(event) for event in events if event != b"[DONE]"]
        text = "".join(
            choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ())
        )
        proof = judge(text, prompt)
        if done and proof is Proof.WHOLE:
            self.counts["complete"] += 1
        elif not done and proof is Proof.CUT and "error" in chunks[-1]:
            self.counts["cut"] += 1
        else:
            self.wrong.append(f"{prompt}: {proof}, done={done}: {data[-300:]!r}")

    async def json(self, method: str, url: str, token: str = "", body: object = None) -> Any:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        async with self._session.request(method, url, headers=headers, json=body) as reply:
            return await reply.json()


async def soak(streams: int, folder: Path) -> tuple[list[str], list[ProcessSample], Counter[str]]:
    """Run the test; return the problems, the samples, and the outcomes of the streams."""
    async with process(folder, "simulators", "dub5.simulators", "--latency", "zero", "--leash") as (
        _,
        report,
    ):
        ready = json.loads(report)
        config = folder / "soak.toml"
        urls = {name: provider["url"] for name, provider in ready["providers"].items()}
        config.write_text(SETTINGS.format(**urls))
        command = ("dub5.service", "serve", "--config", str(config))
        async with process(folder, "service", *command) as (service, line):
            connector = aiohttp.TCPConnector(limit=0, force_close=False)
            async with aiohttp.ClientSession(connector=connector, read_bufsize=2**20) as session:
                client = Soak(session, line.rpartition(" ")[2])
                admin = (ready["admin"], ready["token"])
                return await _phases(client, service.pid, admin, streams)


async def _phases(
    client: Soak, pid: int, admin: tuple[str, str], streams: int
) -> tuple[list[str], list[ProcessSample], Counter[str]]:
    samples = []

    def take_sample(at: str) -> None:
        samples.append(sample(pid, at))
        print(samples[-1], flush=True)

    await client.json("GET", f"{client.url}/status")
    take_sample("at the start")
    await client.one_after_another(WARM_UP // 3)
    await client.many_at_a_time(WARM_UP - WARM_UP // 3)
    take_sample("after the warm-up")
    await client.one_after_another(streams * 2 // 5)
    take_sample("one after another")
    await client.many_at_a_time(streams * 2 // 5)
    take_sample("500 at a time")
    await client.json("PUT", f"{admin[0]}/faults/one", admin[1], ROUGH_FAULTS)
    await client.many_at_a_time(streams - 2 * (streams * 2 // 5), leaving=True)
    take_sample("500 at a time, rough")
    await client.json("DELETE", f"{admin[0]}/faults/one", admin[1])
    leaks = await _wait_for_connections(client, pid, admin, samples[0].sockets)
    take_sample("at rest")
    return [*_verdict(client, samples), *leaks], samples, client.counts


async def _wait_for_connections(client: Soak, pid: int, admin: tuple[str, str], sockets: int) -> list[str]:
    """Wait until the service has closed its idle connections; return what is still open then."""
    until = time.monotonic() + CONNECTIONS_GONE_S
    while time.monotonic() < until:
        if sample(pid, "").sockets <= sockets:
            break
        await asyncio.sleep(0.5)
    status = await client.json("GET", f"{client.url}/status")
    ledger = await client.json("GET", f"{admin[0]}/ledger?limit=0", admin[1])
    counted = {
        "sockets": max(0, sample(pid, "").sockets - sockets),
        "requests in flight": status["in_flight"],
        "attempts in flight": sum(target["in_flight"] for target in status["targets"]),
        "attempts open at the providers": sum(ledger["open"].values()),
    }
    return [f"{count} {what} are left" for what, count in counted.items() if count]


def _verdict(client: Soak, samples: list[ProcessSample]) -> list[str]:
    before, after = samples[1].rss_mib, samples[-1].rss_mib
    growth = after / before - 1
    print(f"memory: {before:.1f} -> {after:.1f} MiB, {growth:+.1%} (allowed: +{GROWTH_MAX:.0%})")
    wrong = client.wrong[:5]
    if growth > GROWTH_MAX:
        wrong.append(f"memory grew by {growth:.1%}")
    if client.counts["refused"] > sum(client.counts.values()) / 100:
        wrong.append(f"{client.counts['refused']} streams were refused")
    return wrong


def cpu_us(pid: int) -> float:
    """Return the CPU time of a process, all threads together, in microseconds. Linux only."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_bytes().split()[0]) for thread in threads) / 1000


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--streams", type=int, default=10_000, help="streams after the warm-up (default: 10000)"
    )
    parser.add_argument("--out", type=Path, help="write the numbers to this file, as JSON")
    arguments = parser.parse_args()
    if not Path("/proc/self/status").exists():
        print("SKIPPED: memory and open files are read from /proc, which only Linux has.")
        return 0
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="dub5-soak-") as folder:
        wrong, samples, counts = asyncio.run(soak(arguments.streams, Path(folder)))
    took_s = time.perf_counter() - started_s
    print(f"{', '.join(f'{count} {what}' for what, count in counts.most_common())}; {took_s:.0f} s")
    if arguments.out is not None:
        figures = [{"at": r.at, "rss_mib": round(r.rss_mib, 1), "sockets": r.sockets} for r in samples]
        report = {"streams": dict(counts), "readings": figures, "wrong": wrong, "took_s": round(took_s, 1)}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for problem in wrong:
        print(f"WRONG: {problem}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
