"""The subjects of the benchmarks: the real application over an instant provider, and its reference.

    client -> service (everything but sockets) -> CannedWire     the service
    client -> Litestar echo                                      the reference

The same in-process client drives both, so that the costs of client and event loop cancel out.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Litestar, post
from litestar.params import JSONBody
from litestar.response import Stream

from benchmarks.paired import RunBatch
from dub5.service.app import Service
from dub5.service.config.options import CacheOptions
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Settings
from dub5.service.telemetry.logs import EventLogger, LineWriter
from dub5.service.wire.base import WireRequest
from dub5.simulators.virtual import AppClient

CHUNKS = 50
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Why is the sky blue? " * 10},
]


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


class EchoBody(msgspec.Struct):
    """The part of a request that the reference reads."""

    model: str
    messages: list[dict[str, str]]
    stream: bool = False


@post("/v1/chat/completions", status_code=200)
async def echo(data: JSONBody[EchoBody]) -> EchoBody:
    """Return the body: the least that a typed Litestar route does."""
    return data


@post("/v1/stream", status_code=200)
async def echo_stream(data: JSONBody[EchoBody]) -> Stream:
    """Stream the chunks: the least that a streaming route does."""

    async def events() -> AsyncIterator[bytes]:
        for part in STREAM:
            yield part

    return Stream(events(), media_type="text/event-stream")


def bare() -> Litestar:
    """Create the reference."""
    return Litestar([echo, echo_stream], openapi_config=None, logging_config=None)


@dataclass(frozen=True, slots=True)
class BenchmarkCase:
    """A kind of request, and the path of its reference."""

    name: str
    fields: Mapping[str, Any]
    reference_path: str = "/v1/chat/completions"

    @property
    def body(self) -> bytes:
        return msgspec.json.encode({"model": "chat", "messages": MESSAGES, **self.fields})


CASES = (
    BenchmarkCase("json", {}),
    BenchmarkCase("json_cached", {"temperature": 0}),
    BenchmarkCase("stream", {"stream": True}, "/v1/stream"),
    BenchmarkCase("stream_cached", {"stream": True, "temperature": 0}, "/v1/stream"),
)


async def batch(client: AppClient, path: str, body: bytes, count: int) -> None:
    """Send `count` requests one after another, and read each answer to its end."""
    headers = {"content-type": "application/json"}
    for _ in range(count):
        answer = await client.request("POST", path, body=body, headers=headers)
        assert answer.status == 200


class ServiceAndReference:
    """The service and the reference on one event loop, each ready to run a batch."""

    def __init__(self, runner: asyncio.Runner, service: AppClient, reference: AppClient, count: int) -> None:
        self._runner = runner
        self._service = service
        self._reference = reference
        self._count = count

    def service(self, case: BenchmarkCase) -> RunBatch:
        return self._of(self._service, "/v1/chat/completions", case.body)

    def reference(self, case: BenchmarkCase) -> RunBatch:
        return self._of(self._reference, case.reference_path, case.body)

    def _of(self, client: AppClient, path: str, body: bytes) -> RunBatch:
        return lambda: self._runner.run(batch(client, path, body, self._count))
