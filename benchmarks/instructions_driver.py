"""The driver of the requests that benchmarks/instructions.py counts, run under callgrind inside any checkout.

    batches -> the checkout's own service, or a bare Litestar route     one process, plain asyncio, no sockets
    events of a stream -> the checkout's own metrics, board and log

It needs only benchmarks/canned.py and the telemetry of the checkout, so that one driver counts old code and
new code.
"""

import asyncio
import gc
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import canned
from dub5.service.events import AttemptEnded, Events, RequestEnded
from dub5.service.model import AttemptRecord, Outcome, Target, Usage
from dub5.service.telemetry.board import StatusBoard
from dub5.service.telemetry.logs import EventLogger, LineWriter
from dub5.service.telemetry.metrics import Metrics

WARM_UP = 40  # requests before the counted ones, after which Python has specialised its bytecode
REQUESTS = 40
SHORT, LONG = 10, 60  # chunks of a stream
BARE = "bare "
TELEMETRY = "telemetry"  # a part of each request above, counted alone
CASES = (  # name, kind of request, chunks of its stream
    ("json", "json", LONG),
    ("json_cached", "json_cached", LONG),
    ("stream", "stream", LONG),
    ("stream_cached", "stream_cached", LONG),
    ("stream_short", "stream", SHORT),
    (f"{BARE}json", "json", LONG),
    (f"{BARE}stream", "stream", LONG),
    (f"{BARE}stream_short", "stream", SHORT),
    (TELEMETRY, TELEMETRY, LONG),
)
ATTEMPT = AttemptRecord(
    "one/m", 0.001, 1.2, "ok", status=200, first_token_s=0.4, usage=Usage(60, 50, 110), cost_usd=0.00002
)
EVENTS = (
    AttemptEnded("req_1", "chat", "one", ATTEMPT, "nobody"),
    RequestEnded(
        request_id="req_1",
        caller="anonymous",
        route="chat",
        outcome=Outcome.COMPLETE,
        code=None,
        target="one/m",
        stream=True,
        cached=False,
        first_token_s=0.4,
        total_s=1.2,
        overhead_s=0.0004,
        usage=Usage(60, 50, 110),
        attempts=(ATTEMPT,),
    ),
)


async def request(app: Any, path: str, body: bytes) -> None:
    """Send one request through ASGI, and receive each message of the answer."""
    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "state": {}}
    scope |= {"asgi": {"version": "3.0"}, "client": ("127.0.0.1", 50000), "server": ("test", 80)}
    scope["headers"] = [(b"host", b"test"), (b"content-type", b"application/json")]
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    ended = asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        return messages.pop() if messages else await ended

    async def send(message: Any) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"the answer is not a 200: {message}")
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set_result({"type": "http.disconnect"})

    await app(scope, receive, send)
    if not ended.done():
        raise RuntimeError("the answer has no end")


async def batch(app: Any, path: str, body: bytes, count: int) -> None:
    """Send requests one after another."""
    for _ in range(count):
        await request(app, path, body)


def telemetry() -> Callable[[int], None]:
    """Create all subscribers of events, and return a function that emits the events of so many requests."""
    metrics = Metrics(
        version="0",
        routes=["chat"],
        targets=[Target("one", "m")],
        hosts=[],
        in_flight=lambda: 0,
        waiting=lambda: 0,
        states=list,
    )
    writer = LineWriter(os.open(os.devnull, os.O_WRONLY))
    events = Events(metrics.count, StatusBoard().note, EventLogger(writer.write).log)

    def emit(count: int) -> None:
        for _ in range(count):
            for event in EVENTS:
                events.emit(event)
        writer.flush()

    return emit


async def main() -> None:
    """Send a batch for every case. callgrind cuts its profile at each `os.getppid`, a call without effect."""
    service, last = canned.service(), canned.STREAM[canned.CHUNKS :]
    if not Path(inspect.getfile(type(service))).is_relative_to(Path.cwd()):
        raise RuntimeError(f"{inspect.getfile(type(service))} is not of this checkout, {Path.cwd()}")
    kinds, bare = {case.name: case for case in canned.CASES}, canned.bare()
    gc.disable()
    asgi: Any = service.asgi  # a Litestar: the settings ask for no edge
    async with asgi.lifespan(), bare.lifespan():
        for name, kind, chunks in CASES:
            print(f"  {name}", file=sys.stderr, flush=True)
            if kind == TELEMETRY:
                emit = telemetry()
                emit(WARM_UP)
                gc.collect()
                os.getppid()
                emit(REQUESTS)
                os.getppid()
                continue
            canned.STREAM = (*(canned.chunk(delta={"content": f"word{i} "}) for i in range(chunks)), *last)
            case, is_bare = kinds[kind], name.startswith(BARE)
            app, path = bare if is_bare else asgi, "/v1/chat/completions"
            path = case.reference_path if is_bare else path
            await batch(app, path, case.body, WARM_UP)
            gc.collect()
            os.getppid()
            await batch(app, path, case.body, REQUESTS)
            os.getppid()


if __name__ == "__main__":
    asyncio.run(main())
