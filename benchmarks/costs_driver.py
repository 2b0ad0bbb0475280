"""The requests of benchmarks/costs.py, run under callgrind, which cuts its profile where the stage changes.

    MemoryClient -> the server's protocol -> service -> its own wire -> provider     a socket to the provider
    a frame is entered or left (sys.monitoring) -> its stage -> another than before? -> os.getppid

callgrind cuts at each `os.getppid`, and does not collect while the interpreter calls the callbacks here: they
cost nothing. What C does belongs to the frame that called it. A frame of a module without a stage of its own
(the standard library, nouns, the clock) belongs to the stage that called it.

It writes as JSON what each part of the profile is.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import msgspec
import uvloop

from benchmarks.memory_server import MemoryClient, memory_server, request_bytes
from dub5.service.app import Service
from dub5.service.command import server_config
from dub5.service.config.options import CacheOptions
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Settings
from dub5.service.telemetry.logs import EventLogger, LineWriter

LOOP, CLIENT = "event loop", "client"
STAGES = (  # the first that a path holds; of the service, what is not named is of the exchange
    ("/benchmarks/", CLIENT),
    ("/uvicorn/", "server"),
    ("/service/http_protocol.py", "server"),
    ("/service/front.py", "server"),
    ("/service/unread.py", "server"),
    ("/litestar/", "framework"),
    ("/service/app.py", "framework"),
    ("/service/asgi.py", "framework"),
    ("/service/api/edge", "framework"),
    ("/service/api/routes.py", "framework"),
    ("/service/api/schema.py", "decode"),
    ("/service/admission/intake.py", "decode"),
    ("/service/config/decode_messages.py", "decode"),
    ("/service/admission/", "admission"),
    ("/service/api/key_guard.py", "admission"),
    ("/service/cache/", "cache key"),
    ("/service/failover/order.py", "order and permits"),
    ("/service/resilience/spending.py", "events"),
    ("/service/resilience/", "order and permits"),
    ("/service/failover/", "attempt"),
    ("/service/single_flight.py", "attempt"),
    ("/service/gateway.py", "attempt"),
    ("/service/providers/", "dialect"),
    ("/service/wire/", "wire"),
    ("/aiohttp/", "wire"),
    ("/yarl/", "wire"),
    ("/multidict/", "wire"),
    ("/service/telemetry/logs.py", "log"),
    ("/service/telemetry/", "events"),
    ("/service/events.py", "events"),
    ("/service/clock.py", ""),  # of its caller
    ("/service/errors.py", ""),
    ("/service/ids.py", ""),
    ("/service/model.py", ""),
    ("/service/timeouts.py", ""),
    ("/service/", "exchange"),
)
WARM_UP = 40
COUNTED = 10  # requests of a batch that is not cut
CHUNKS, CHUNKS_FROM = 14, 4  # of a stream; the chunks until the second are not counted
SLOWER = 1 / 1000  # the service's time: to cut a profile takes as long as thousands of its steps
BODY = {
    "model": "chat",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Why is the sky blue? " * 10},
    ],
}
PATH = "/v1/chat/completions"
TOOL = 2  # sys.monitoring.PROFILER_ID


def stage_of(path: str) -> str:
    """Return the stage of a module's file; empty: that of who calls it."""
    return next((stage for part, stage in STAGES if part in path), "")


def codes() -> Iterator[CodeType]:
    """Yield the code of every function that is loaded, with the functions within it."""
    found = [each.__code__ for each in gc.get_objects() if isinstance(each, FunctionType)]
    while found:
        code = found.pop()
        yield code
        found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


class SlowLoop(uvloop.Loop):
    """An event loop whose clock runs slower, so that nothing is late or due because the profile is cut."""

    def time(self) -> float:
        return float(super().time()) * SLOWER

    def time_ns(self) -> int:
        """Return what the service reads for short durations."""
        return int(time.perf_counter_ns() * SLOWER)

    def call_later(self, delay: float, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        return super().call_later(delay / SLOWER, *arguments, **options)


class StageCuts:
    """Follows the frames of Python, and cuts the profile where the stage changes."""

    def __init__(self, *, by_file: bool) -> None:
        self._by_file = by_file
        self.parts: list[str] = []  # of the profile: what each is
        self.case = ""  # that is cut; empty: none
        self.calls: Counter[str] = Counter()
        self._stages: dict[CodeType, str] = {}
        self._stack: list[str] = []
        self._stage = CLIENT

    def mark(self, what: str) -> None:
        """Cut the profile: what was until now is `what`."""
        self.parts.append(what)
        os.getppid()

    def begin(self, case: str) -> None:
        """Begin to cut."""
        self.mark("")
        self.case = case

    def end(self) -> None:
        """End with the part that is under way."""
        self.mark(f"{self.case}/{self._stage}")
        self.case = ""

    def watch(self) -> None:
        """Follow every function of a stage that is loaded by now."""
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]  # of 3.12
        events = monitoring.events
        monitoring.use_tool_id(TOOL, "costs")
        for event in (events.PY_START, events.PY_RESUME, events.PY_THROW):
            monitoring.register_callback(TOOL, event, self._enter)
        for event in (events.PY_RETURN, events.PY_YIELD, events.PY_UNWIND):
            monitoring.register_callback(TOOL, event, self._leave)
        local = events.PY_START | events.PY_RESUME | events.PY_RETURN | events.PY_YIELD
        own = {getattr(StageCuts, name).__code__ for name in ("_enter", "_leave", "_change")}
        for code in set(codes()) - own:
            if stage := stage_of(code.co_filename):
                is_named = self._by_file and stage != CLIENT
                self._stages[code] = f"{stage}, {Path(code.co_filename).name}" if is_named else stage
                monitoring.set_local_events(TOOL, code, local)
        monitoring.set_events(TOOL, events.PY_THROW | events.PY_UNWIND)

    def _enter(self, code: CodeType, *_: object) -> None:
        stage = self._stages.get(code)
        if stage is not None:
            self._stack.append(stage)
            if self.case:
                self.calls[f"{self.case}/{stage}"] += 1
            if stage != self._stage:
                self._change(stage)

    def _leave(self, code: CodeType, *_: object) -> None:
        if code in self._stages and self._stack:  # frames that were open before `watch` were not entered
            self._stack.pop()
            stage = self._stack[-1] if self._stack else LOOP
            if stage != self._stage:
                self._change(stage)

    def _change(self, stage: str) -> None:
        if self.case:
            self.parts.append(f"{self.case}/{self._stage}")
            os.getppid()
        self._stage = stage


class SteppedProvider:
    """The provider, in a process that callgrind does not follow. Each step lets it send one chunk."""

    def __init__(self) -> None:
        module = ("-m", "benchmarks.overhead_upstream", "--steps", "--chunks", str(CHUNKS))
        self._process = subprocess.Popen(
            [sys.executable, *module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
        )
        assert self._process.stdout is not None, "started with a pipe"
        assert self._process.stdin is not None, "started with a pipe"
        self.url = self._process.stdout.readline().decode().strip()
        self._steps = self._process.stdin

    def step(self) -> None:
        """Let it send."""
        os.write(self._steps.fileno(), b".")

    def close(self) -> None:
        """End it."""
        self._steps.close()
        self._process.wait()


class SteppedReader:
    """Reads streams in steps: asks for a chunk when the one before is here, and says which are counted."""

    def __init__(self, client: MemoryClient, provider: SteppedProvider, cuts: StageCuts) -> None:
        self._provider, self._cuts = provider, cuts
        self._what = ""
        transport: Any = client._transport
        self._write = transport.write
        transport.write = self._on_write
        self._client = client

    async def read(self, request: bytes, what: str) -> None:
        """Read a stream. `what` is counted: cut by stages if it is a case, whole if it begins with `=`."""
        self._what, self._seen = what, 0
        await self._client.exchange(request)

    def _on_write(self, data: bytes) -> None:
        self._write(data)
        for _ in range(data.count(b"@") // 2):
            self._seen += 1
            if self._seen == CHUNKS_FROM and self._what:
                self._cuts.mark("") if self._what[0] == "=" else self._cuts.begin(self._what)
            elif self._seen == CHUNKS and self._what:
                self._cuts.mark(self._what) if self._what[0] == "=" else self._cuts.end()
            self._provider.step()


def service(upstream: str, writer: LineWriter) -> Service:
    """Create the service as it is served, with the cache on."""
    settings = Settings(
        provider=(ProviderSettings("one", "openai", f"{upstream}/v1"),),
        route=(RouteSettings("chat", ("one/m",), cache=CacheOptions(enabled=True)),),
    )
    return Service(LoadedSettings(settings, {}, ()), seed="0", log=EventLogger(writer.write).log)


async def run(cuts: StageCuts, provider: SteppedProvider) -> None:
    """Send all requests: warm, then in batches that are not cut, then few that are."""
    writer = LineWriter(os.open(os.devnull, os.O_WRONLY))
    async with memory_server(server_config(service(provider.url, writer))) as server:
        client = server.connect()
        plain = request_bytes(PATH, msgspec.json.encode(BODY))
        same = request_bytes(PATH, msgspec.json.encode(BODY | {"temperature": 0}))
        streamed = request_bytes(PATH, msgspec.json.encode(BODY | {"stream": True}))
        streams = SteppedReader(server.connect(), provider, cuts)
        wholes = {"json": plain, "cached": same}
        for request in wholes.values():
            for _ in range(WARM_UP):
                await client.exchange(request)
        for _ in range(4):
            await streams.read(streamed, "")
        gc.collect()
        gc.disable()
        for case, request in wholes.items():
            writer.flush()
            cuts.mark("")
            for _ in range(COUNTED):
                await client.exchange(request)
                writer.flush()  # else it happens by time, once for many requests
            cuts.mark(f"={case}")
        await streams.read(streamed, "=chunk")
        cuts.watch()
        for request in wholes.values():
            for _ in range(WARM_UP // 2):
                await client.exchange(request)
        await streams.read(streamed, "")
        for case, request in wholes.items():
            await client.exchange(request)
            writer.flush()
            cuts.begin(case)
            await client.exchange(request)
            writer.flush()
            cuts.end()
        await streams.read(streamed, "chunk")


def main() -> int:
    """Run all, and write the labels of the profile's parts to a file; by file if so told."""
    cuts, provider = StageCuts(by_file="by-file" in sys.argv[2:]), SteppedProvider()
    try:
        with asyncio.Runner(loop_factory=SlowLoop) as runner:
            runner.run(run(cuts, provider))
    finally:
        provider.close()
    Path(sys.argv[1]).write_text(json.dumps({"parts": cuts.parts, "calls": cuts.calls}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
