"""The subjects of the benchmarks: the real application over an instant provider, and its references.

    client -> service (everything but sockets) -> CannedWire     the service
    client -> Litestar echo                                      the framework alone
    client -> bare relay                       -> CannedWire     neither framework nor guards

The same client drives both of a pair, on the event loop that the service is served on, so that the costs of
client and event loop cancel out. It speaks bytes to the server's protocol, or messages to the application.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

import msgspec
import uvicorn
from litestar import Litestar, post
from litestar.params import JSONBody
from litestar.response import Stream

from benchmarks.bare_relay import body_of
from benchmarks.instructions_requests import MESSAGES
from benchmarks.memory_server import MemoryClient, memory_server, request_bytes
from benchmarks.paired import Ratio, SendOne, compare_requests
from dub5.service.app import Service
from dub5.service.command import server_config
from dub5.service.config.options import CacheOptions
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Settings
from dub5.service.telemetry.logs import EventLogger, LineWriter
from dub5.service.wire.base import WireRequest
from dub5.simulators.virtual import AppClient

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
# The ways of a request, as endings of the names of budgets, each with its reference.
PLAIN = ""  # bytes through the server's protocol, against the bare route of the framework
BY_ASGI = "_asgi"  # messages through ASGI, against the same
TO_RELAY = "_relay"  # bytes through the server's protocol, against the bare relay
WAYS = (PLAIN, BY_ASGI, TO_RELAY)
CHUNKS = 50


def event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def chunk(**choice: object) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return event(head | {"choices": [{"index": 0, "finish_reason": None, "delta": {}} | choice]})


USAGE = {"prompt_tokens": 60, "completion_tokens": CHUNKS, "total_tokens": 60 + CHUNKS}
STREAM = (
    *(chunk(delta={"content": f"word{i} "}) for i in range(CHUNKS)),
    chunk(finish_reason="stop"),
    event(
        {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": [], "usage": USAGE}
    ),
    b"data: [DONE]\n\n",
)
MESSAGE = {"role": "assistant", "content": "word " * CHUNKS}
WHOLE = msgspec.json.encode(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)


class CannedResponse:
    """A response with all bytes available, one chunk per read."""

    status = 200
    reused = True

    def __init__(self, parts: tuple[bytes, ...], media_type: str) -> None:
        self.headers: Mapping[str, str] = {"content-type": media_type}
        self._parts = iter(parts)

    async def read(self) -> bytes:
        return next(self._parts, b"")

    async def aclose(self) -> None:
        return None


class CannedWire:
    """A wire to an instant provider, without a network."""

    async def send(self, request: WireRequest) -> CannedResponse:
        if b'"stream":true' in request.body or b'"stream": true' in request.body:
            return CannedResponse(STREAM, "text/event-stream")
        return CannedResponse((WHOLE,), "application/json")

    async def aclose(self) -> None:
        return None


def service() -> Service:
    """Create the application as it is served, with its log written to /dev/null."""
    settings = Settings(
        provider=(ProviderSettings("one", "openai", "http://one/v1"),),
        route=(RouteSettings("chat", ("one/m",), cache=CacheOptions(enabled=True)),),
    )
    writer = LineWriter(os.open(os.devnull, os.O_WRONLY))
    return Service(
        LoadedSettings(settings, {}, ()), wire=CannedWire(), seed="0", log=EventLogger(writer.write).log
    )


class AskedOfBare(msgspec.Struct):
    """The part of a request that the references read."""

    model: str
    messages: list[dict[str, str]]
    stream: bool = False


ASKED = msgspec.json.Decoder(AskedOfBare)


@post(CHAT, status_code=200)
async def echo(data: JSONBody[AskedOfBare]) -> AskedOfBare:
    """Return the body: the least that a typed Litestar route does."""
    return data


@post("/v1/stream", status_code=200)
async def echo_stream(data: JSONBody[AskedOfBare]) -> Stream:
    """Stream the chunks: the least that a streaming route does."""

    async def events() -> AsyncIterator[bytes]:
        for part in STREAM:
            yield part

    return Stream(events(), media_type="text/event-stream")


def bare() -> Litestar:
    """Create the reference that is a framework alone."""
    return Litestar([echo, echo_stream], openapi_config=None, logging_config=None)


def relay() -> Any:
    """Create the reference without a framework: it asks the same wire, and forwards the answer."""
    wire = CannedWire()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        body = await body_of(receive)
        is_stream = ASKED.decode(body).stream
        answer = await wire.send(WireRequest("POST", f"http://one{CHAT}", {}, body))
        headers = [(b"content-type", answer.headers["content-type"].encode())]
        if not is_stream:
            whole = await answer.read()
            headers.append((b"content-length", b"%d" % len(whole)))
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": whole})
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        while data := await answer.read():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


@dataclass(frozen=True, slots=True)
class BenchmarkCase:
    """A kind of request, the path at the bare application that is its reference, and its ways."""

    name: str
    fields: Mapping[str, Any]
    reference_path: str = CHAT
    ways: tuple[str, ...] = WAYS

    @property
    def body(self) -> bytes:
        return msgspec.json.encode({"model": "chat", "messages": MESSAGES, **self.fields})


KNOWN = (PLAIN, BY_ASGI)  # a relay has no cache
CASES = (
    BenchmarkCase("json", {}),
    BenchmarkCase("json_cached", {"temperature": 0}, ways=KNOWN),
    BenchmarkCase("stream", {"stream": True}, "/v1/stream"),
    BenchmarkCase("stream_cached", {"stream": True, "temperature": 0}, "/v1/stream", KNOWN),
)
MakeSender = Callable[[str, bytes], SendOne]  # from a path and a body


def through_protocol(client: MemoryClient) -> MakeSender:
    """Send the bytes of requests to the server's protocol."""

    def prepare(path: str, body: bytes) -> SendOne:
        sent = request_bytes(path, body)

        async def ask() -> None:
            answer = await client.exchange(sent)
            assert answer.startswith(b"HTTP/1.1 200 "), answer

        return ask

    return prepare


def through_asgi(client: AppClient) -> MakeSender:
    """Send requests as messages to the application."""

    def prepare(path: str, body: bytes) -> SendOne:
        async def ask() -> None:
            answer = await client.request("POST", path, body=body, headers=JSON)
            assert answer.status == 200, answer

        return ask

    return prepare


def plain_config(app: Any) -> uvicorn.Config:
    """Return how a reference is served: by uvicorn's own protocol, with nothing around it."""
    options: Any = {"access_log": False, "server_header": False, "proxy_headers": False}
    return uvicorn.Config(app, http="httptools", log_level="warning", **options)


class RequestBench:
    """The service and its references on one event loop: `with RequestBench() as bench`."""

    def __init__(self) -> None:
        self._opened = AsyncExitStack()
        self._pairs: dict[str, tuple[MakeSender, MakeSender]] = {}  # by way

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=server_config(service()).get_loop_factory())
        self._runner.run(self._open())
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._opened.aclose())
        self._runner.close()

    async def _open(self) -> None:
        enter = self._opened.enter_async_context
        configs = server_config(service()), plain_config(bare()), plain_config(relay())
        servers = [await enter(memory_server(config)) for config in configs]
        ours, a_route, a_relay = (through_protocol(server.connect()) for server in servers)
        clients = [await enter(AppClient(app)) for app in (service().asgi, bare())]
        ours_by_asgi, a_route_by_asgi = map(through_asgi, clients)
        self._pairs[PLAIN], self._pairs[TO_RELAY] = (ours, a_route), (ours, a_relay)
        self._pairs[BY_ASGI] = ours_by_asgi, a_route_by_asgi

    def compare(self, case: BenchmarkCase, way: str, rounds: int, in_a_row: int = 1) -> Ratio:
        """Compare what a request costs with its reference's cost."""
        ours, reference = self._pairs[way]
        asked = ours(CHAT, case.body), reference(case.reference_path, case.body)
        return self._runner.run(compare_requests(*asked, rounds, in_a_row))

    def run(self, case: BenchmarkCase, way: str, count: int) -> None:
        """Send the service so many requests, one after another."""
        ask = self._pairs[way][0](CHAT, case.body)

        async def run() -> None:
            for _ in range(count):
                await ask()

        self._runner.run(run())
