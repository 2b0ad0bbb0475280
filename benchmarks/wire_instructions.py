"""Counts the instructions of the native wire, alone and in the service, against a provider in memory.

    valgrind --tool=callgrind -> this file, as a driver -> wire, or service -> MemoryUpstream

    python -m benchmarks.wire_instructions     under a minute on a quiet machine; needs valgrind

The loop is uvloop, as in production. Each event of a stream comes in a read of its own. The numbers with
aiohttp's client in its place are in docs/decisions/0014-native-wire.md.
"""

import asyncio
import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import canned
from benchmarks.memory_server import memory_server, request_bytes
from dub5.service.app import Service
from dub5.service.command import server_config
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Settings
from dub5.service.telemetry.logs import EventLogger, LineWriter
from dub5.service.wire.base import WireRequest
from dub5.service.wire.connector import Connector
from dub5.service.wire.http_connection import HttpConnection
from dub5.service.wire.native_wire import NativeWire

WARM_UP, COUNTED = 40, 40  # requests
SHORT, LONG = 10, 60  # chunks of a stream
HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 30 Nov 2026 12:00:00 GMT\r\ncontent-type: %b\r\n%b\r\n"
    b"connection: keep-alive\r\nserver: cloudflare\r\nx-request-id: req_0123456789abcdef\r\n"
    b"openai-version: 2020-10-01\r\nopenai-processing-ms: 412\r\ncf-ray: 8a1b2c3d4e5f-FRA\r\n"
    b"strict-transport-security: max-age=31536000\r\nx-content-type-options: nosniff\r\n\r\n"
)
JSON = (HEAD % (b"application/json", b"content-length: %d" % len(canned.WHOLE)) + canned.WHOLE,)
HEADERS = {"content-type": "application/json", "user-agent": "dub5", "authorization": "Bearer sk-1"}
PATH = "/v1/chat/completions"
TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)

AskUpstream = Callable[[bytes], Awaitable[None]]


def stream(chunks: int) -> tuple[bytes, ...]:
    """Return the reads of a stream of so many chunks with content."""
    content = [canned.chunk(delta={"content": f"word{i} "}) for i in range(chunks)]
    events = [*content, *canned.STREAM[canned.CHUNKS :]]
    framed = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    framed[-1] += b"0\r\n\r\n"
    return (HEAD % (b"text/event-stream", b"transfer-encoding: chunked"), *framed)


CASES = ((b"", JSON), (b'"stream":true,', stream(SHORT)), (b'"stream":true,', stream(LONG)))


class MemoryUpstream(asyncio.Transport):
    """A provider's connection: answers each request with `reads`, one in each turn of the loop."""

    reads: tuple[bytes, ...] = ()

    def __init__(self, protocol: HttpConnection) -> None:
        super().__init__()
        self._protocol, self._loop = protocol, asyncio.get_running_loop()
        self._left: list[bytes] = []
        protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a whole request, and begin to answer."""
        self._left = list(reversed(self.reads))
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._protocol.data_received(self._left.pop())
        if self._left:
            self._loop.call_soon(self._next)

    def abort(self) -> None:
        """Lose the connection."""
        self._loop.call_soon(self._protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


async def batches(ask: AskUpstream) -> None:
    """Send a batch for every case. callgrind cuts its profile at each `os.getppid`, a call without effect."""
    for wanted, MemoryUpstream.reads in CASES:
        body = b"{" + wanted + canned.CASES[0].body[1:]
        for _ in range(WARM_UP):
            await ask(body)
        gc.collect()
        os.getppid()
        for _ in range(COUNTED):
            await ask(body)
        os.getppid()


async def drive() -> None:
    """Send requests over the wire alone, and then through the service."""

    async def connect(*_: Any) -> HttpConnection:
        connection = HttpConnection()
        MemoryUpstream(connection)
        return connection

    async def directly(body: bytes) -> None:
        response = await wire.send(WireRequest("POST", f"http://one{PATH}", dict(HEADERS), body))
        while await response.read():
            pass
        await response.aclose()

    async def through(body: bytes) -> None:
        if not (await client.exchange(request_bytes(PATH, body))).startswith(b"HTTP/1.1 200"):
            raise RuntimeError("the answer is not a 200")

    gc.disable()
    Connector.open = connect  # type: ignore[method-assign, assignment]
    wire = NativeWire()
    await batches(directly)
    settings = Settings(
        (ProviderSettings("one", "openai", "http://one/v1"),), (RouteSettings("chat", ("one/m",)),)
    )
    log = EventLogger(LineWriter(os.open(os.devnull, os.O_WRONLY)).write).log
    service = Service(LoadedSettings(settings, {}, ()), wire=wire, seed="0", log=log)
    async with memory_server(server_config(service)) as server:
        client = server.connect()
        await batches(through)


def main() -> None:
    """Count, and print a table."""
    if "drive" in sys.argv:
        uvloop.run(drive())
        return
    with tempfile.TemporaryDirectory(prefix="dub5-") as folder:
        tool = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--log-file={folder}/log"]
        driver = [sys.executable, "-m", "benchmarks.wire_instructions", "drive"]
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        subprocess.run(
            [*tool, f"--callgrind-out-file={folder}/profile", *driver], check=True, env=environment
        )
        parts = [Path(folder, f"profile.{2 * number}").read_text() for number in range(1, 2 * len(CASES) + 1)]
    totals = [int(found[1]) / COUNTED for part in parts if (found := TOTALS.search(part))]
    print(f"{'instructions':<14}{'JSON':>12}{'chunk':>12}")
    for name, (json, short, long) in (("wire", totals[:3]), ("service", totals[3:])):
        print(f"{name:<14}{json:>12,.0f}{(long - short) / (LONG - SHORT):>12,.0f}")


if __name__ == "__main__":
    main()
