"""The requests that benchmarks/instructions.py counts, sent to the server's protocol in memory.

request bytes -> protocol of the server -> service -> CannedProvider, instant and without a network
"""

import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.memory_server import MemoryClient, memory_server, request_bytes

CHUNKS = 60
PATH = "/v1/chat/completions"
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Why is the sky blue? " * 10},
]

SETTINGS = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "http://one/v1"

[[provider]]
name = "down"
dialect = "openai"
base_url = "http://down/v1"

[[route]]
name = "chat"
targets = ["one/m"]
cache = { enabled = true }

[[route]]
name = "failing-over"
targets = ["down/m", "one/m"]

# A target that has answered once is tried first for as long as this lasts, however often it fails.
[breaker]
window_s = 600
calls_min = 1_000_000
failures_in_a_row = 1_000_000

[health]
window_s = 600
calls_min = 1
failure_share = 1.0
"""
GUARDED = """
[server]
caller_keys_env = ["CALLER_KEY"]

[session]
secret_env = ["SESSION_SECRET"]

[limits]
ip = { count = 10_000, window_s = 60 }
caller = { count = 10_000, window_s = 60 }

[conversation]

[database]
url = "sqlite:///FOLDER/conversations.db"
"""
VARIABLES = {"CALLER_KEY": "sk-1", "SESSION_SECRET": "s" * 32}


def event(**fields: object) -> bytes:
    """Return one event of a stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + msgspec.json.encode(head | fields) + b"\n\n"


def chunk(finish_reason: str | None = None, **delta: object) -> bytes:
    """Return one chunk of a stream."""
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])


USAGE = {"prompt_tokens": 60, "completion_tokens": CHUNKS, "total_tokens": 60 + CHUNKS}
CONTENT = tuple(chunk(content=f"word{i} ") for i in range(CHUNKS))
STREAM = (*CONTENT, chunk("stop"), event(choices=[], usage=USAGE), b"data: [DONE]\n\n")
MESSAGE = {"role": "assistant", "content": "word " * CHUNKS}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}
WHOLE = msgspec.json.encode(
    {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}
    | {"usage": USAGE}
)


class CannedBody:
    """A response whose parts are all there: one for each read."""

    reused = True

    def __init__(self, status: int, media_type: str, *parts: bytes) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": media_type}
        self._parts = iter(parts)

    async def read(self) -> bytes:
        """Return the next part, or nothing at the end."""
        return next(self._parts, b"")

    async def aclose(self) -> None:
        """Do nothing."""


class CannedProvider:
    """A wire to instant providers. The one that is down has answered once."""

    def __init__(self) -> None:
        self._has_answered = False

    async def send(self, request: Any) -> CannedBody:
        """Answer a request."""
        if request.url.startswith("http://down/"):
            if self._has_answered:
                return CannedBody(530, "text/plain", b"error code: 1033")
            self._has_answered = True
        if b'"stream":true' in request.body:
            return CannedBody(200, "text/event-stream", *STREAM)
        return CannedBody(200, "application/json", WHOLE)

    async def aclose(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class RequestCase:
    """A kind of request. `proof`: what an answer of this kind has in it."""

    name: str
    fields: Mapping[str, object]
    proof: bytes

    def request(self) -> bytes:
        """Return the bytes that a client sends."""
        return request_bytes(
            PATH, msgspec.json.encode({"model": "chat", "messages": MESSAGES, **self.fields})
        )


@asynccontextmanager
async def served(more_settings: str) -> AsyncIterator[MemoryClient]:
    """Serve in memory with these settings, and yield a client. Raises as the service does."""
    from dub5.service.app import Service
    from dub5.service.command import server_config
    from dub5.service.config.load import load
    from dub5.service.telemetry.logs import EventLogger, LineWriter

    with tempfile.TemporaryDirectory(prefix="dub5-") as folder:
        settings = Path(folder, "dub5.toml")
        settings.write_text(SETTINGS + more_settings.replace("FOLDER", folder), encoding="utf-8")
        log = EventLogger(LineWriter(os.open(os.devnull, os.O_WRONLY)).write).log
        service = Service(load(settings, VARIABLES), wire=CannedProvider(), seed="0", log=log)
        async with memory_server(server_config(service)) as server:
            yield server.connect()


REQUEST_CASES: Mapping[str, tuple[RequestCase, ...]] = {  # by the settings beside SETTINGS
    "": (
        RequestCase("json", {}, b"x-dub5-target: one/m"),
        RequestCase("json cached", {"temperature": 0}, b"x-dub5-cache: hit"),
        RequestCase("stream", {"stream": True}, b"[DONE]"),
        RequestCase("stream cached", {"stream": True, "temperature": 0}, b"x-dub5-cache: hit"),
        RequestCase("failover", {"model": "failing-over"}, b"down/m=http_530"),
    ),
    GUARDED: (RequestCase("json guarded", {}, b"ratelimit-policy: "),),
}
