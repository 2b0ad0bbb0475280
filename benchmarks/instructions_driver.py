"""The driver of the requests that benchmarks/instructions.py counts, run under callgrind inside any checkout.

    batches -> the checkout's own service, or a bare Litestar route     one process, plain asyncio, no sockets

It needs only benchmarks/canned.py of the checkout, so that one driver counts old code and new code.
"""

import asyncio
import gc
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks import canned

WARM_UP = 40  # requests before the counted ones, after which Python has specialised its bytecode
REQUESTS = 40
SHORT, LONG = 10, 60  # chunks of a stream
BARE = "bare "
CASES = (  # name, kind of request, chunks of its stream
    ("json", "json", LONG),
    ("json_cached", "json_cached", LONG),
    ("stream", "stream", LONG),
    ("stream_cached", "stream_cached", LONG),
    ("stream_short", "stream", SHORT),
    (f"{BARE}json", "json", LONG),
    (f"{BARE}stream", "stream", LONG),
    (f"{BARE}stream_short", "stream", SHORT),
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


async def main() -> None:
    """Send a batch for every case. callgrind cuts its profile at each `os.getppid`, a call without effect."""
    service, last = canned.service(), canned.STREAM[canned.CHUNKS :]
    if not Path(inspect.getfile(type(service))).is_relative_to(Path.cwd()):
        raise RuntimeError(f"{inspect.getfile(type(service))} is not of this checkout, {Path.cwd()}")
    kinds, bare = {case.name: case for case in canned.CASES}, canned.bare()
    gc.disable()
    async with service.asgi.lifespan(), bare.lifespan():
        for name, kind, chunks in CASES:
            print(f"  {name}", file=sys.stderr, flush=True)
            canned.STREAM = (*(canned.chunk(delta={"content": f"word{i} "}) for i in range(chunks)), *last)
            case, is_bare = kinds[kind], name.startswith(BARE)
            app, path = bare if is_bare else service.asgi, "/v1/chat/completions"
            path = case.reference_path if is_bare else path
            await batch(app, path, case.body, WARM_UP)
            gc.collect()
            os.getppid()
            await batch(app, path, case.body, REQUESTS)
            os.getppid()


if __name__ == "__main__":
    asyncio.run(main())
