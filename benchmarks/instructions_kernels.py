"""Single steps of a request, each to be counted alone by benchmarks/instructions.py.

A kernel is a function that makes its objects and returns what is called again and again. What it uses of
`dub5` is imported inside: a kernel whose names are not there is left out, and the others are counted.
The times that a step is told are always the same.
"""

import inspect
import os
from collections.abc import Callable
from random import Random
from typing import Any, cast

import msgspec

from benchmarks.instructions_requests import MESSAGES

Kernel = Callable[[], Callable[[], object]]
NOW_S = 1000.0
MODEL = "m"
EVENT_BYTES_MAX = 1 << 20
ERROR = b'{"error":{"message":"Rate limit reached. Try again in 2s.","code":"rate_limited"}}'
OPENAI_ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "word " * 50}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 60, "completion_tokens": 50, "total_tokens": 110},
}
OPENAI_CHUNK = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}],
}
ANTHROPIC_START = {"id": "msg_1", "model": MODEL, "content": [], "usage": {"input_tokens": 60}}
ANTHROPIC_ANSWER = {
    "id": "msg_1",
    "type": "message",
    "model": MODEL,
    "content": [{"type": "text", "text": "word " * 50}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 60, "output_tokens": 50},
}


def event(value: dict[str, Any], name: str = "") -> bytes:
    """Return a server-sent event."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + msgspec.json.encode(value) + b"\n\n"


def new_request(**fields: object) -> Any:
    """Return a chat request, as it is after it was read."""
    from dub5.service.model import ANONYMOUS, ChatBody, ChatRequest

    raw = msgspec.json.encode({"model": "chat", "messages": MESSAGES, **fields})
    fields_read = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return ChatRequest("req_1", ANONYMOUS, msgspec.json.decode(raw, type=ChatBody), fields_read)


def new_fleet(count: int) -> tuple[Any, list[Any]]:
    """Return a fleet of so many targets, each of its own provider, and the targets."""
    from dub5.service.config.options import BreakerOptions, BudgetOptions, HealthOptions, LimiterOptions
    from dub5.service.events import Events
    from dub5.service.model import Target
    from dub5.service.resilience.fleet import Fleet, GuardOptions

    targets = [Target(f"provider{i}", MODEL) for i in range(count)]
    options = GuardOptions(BreakerOptions(), BudgetOptions(), LimiterOptions(), HealthOptions())
    origins = {target: f"http://{target.provider}" for target in targets}
    return Fleet(origins, {}, options, Random(0), Events()), targets


def order() -> Callable[[], object]:
    """Order three targets by their load."""
    from dub5.service.failover.order import order as order_targets

    fleet, targets = new_fleet(3)
    rng, ordered = Random(0), cast(Any, order_targets)
    if "score" in inspect.signature(order_targets).parameters:  # until 2026-11-30 it called for the scores
        return lambda: ordered(targets, "balanced", lambda target: fleet.score(target, NOW_S), rng)
    return lambda: ordered(targets, "balanced", {t: fleet.score(t, NOW_S) for t in targets}, rng)


def permit() -> Callable[[], object]:
    """Acquire a permit, and end it as after a stream."""
    fleet, (target,) = new_fleet(1)

    def call() -> None:
        acquired = fleet.try_acquire(target, NOW_S)
        acquired.commit(NOW_S + 0.5, 0.5, 10.0)
        acquired.end(None, NOW_S + 1.0, reached=True)

    return call


def breaker() -> Callable[[], object]:
    """Ask a circuit breaker, and record a success."""
    from dub5.service.config.options import BreakerOptions
    from dub5.service.resilience.circuit_breaker import Breaker, CallOutcome

    circuit, success = Breaker(BreakerOptions(), 12.0, Random(0), lambda *_: None), CallOutcome.SUCCESS

    def call() -> None:
        acquired = circuit.try_acquire(NOW_S)
        assert acquired is not None
        acquired.end(success, NOW_S + 1.0)

    return call


def limiter() -> Callable[[], object]:
    """Count a request in flight, and its answer."""
    from dub5.service.config.options import LimiterOptions
    from dub5.service.resilience.concurrency_limit import Limiter, LoadSignal

    limit, accepted = Limiter(LimiterOptions()), LoadSignal.ACCEPTED

    def call() -> None:
        if limit.has_room(NOW_S):
            limit.release(limit.acquire(), accepted, NOW_S)

    return call


def classify() -> Callable[[], object]:
    """Classify a status and a failure of the wire."""
    from dub5.service.providers.base import ProviderFault
    from dub5.service.resilience.classify import classify as classify_error
    from dub5.service.wire.base import FailureKind, Stage, WireFailure

    fault = ProviderFault("http_503", status=503, message="The server is overloaded.")
    failure = WireFailure(Stage.CONNECT, FailureKind.REFUSED, sent=False)

    def call() -> None:
        classify_error(fault)
        classify_error(failure)

    return call


def sse() -> Callable[[], object]:
    """Decode an event that comes whole."""
    from dub5.service.providers.sse import SseDecoder

    decoder, data = SseDecoder(EVENT_BYTES_MAX), event(OPENAI_CHUNK)
    return lambda: decoder.feed(data)


def dialect(name: str) -> Any:
    """Return a dialect by its name."""
    from dub5.service.config.settings import ProviderSettings
    from dub5.service.providers.registry import dialect_of

    return dialect_of(ProviderSettings("one", name, "http://one/v1"), EVENT_BYTES_MAX)  # type: ignore[arg-type]


def encode(name: str) -> Kernel:
    """Encode a request."""

    def prepare() -> Callable[[], object]:
        spoken, request = dialect(name), new_request()
        return lambda: spoken.encode(request, MODEL, "sk-1")

    return prepare


def answer(name: str, body: dict[str, Any]) -> Kernel:
    """Decode a whole answer."""

    def prepare() -> Callable[[], object]:
        spoken, request, encoded = dialect(name), new_request(), msgspec.json.encode(body)
        return lambda: spoken.answer(encoded, request)

    return prepare


def chunk(name: str, data: bytes, start: bytes = b"") -> Kernel:
    """Read a chunk in the middle of a stream."""

    def prepare() -> Callable[[], object]:
        reader = dialect(name).stream(new_request(stream=True), MODEL)
        reader.feed(start)

        def call() -> None:
            if not reader.feed(data):
                raise RuntimeError(f"no chunk of {data!r}: {reader.fault}")

        return call

    return prepare


def cache_key() -> Callable[[], object]:
    """Make the key of a request in the cache."""
    from dub5.service.cache.key import key_of
    from dub5.service.config.options import CacheOptions

    request, options = new_request(temperature=0), CacheOptions(enabled=True)
    return lambda: key_of(request, options, "fingerprint", 1.0)


def provider_error() -> Callable[[], object]:
    """Read the body of a provider's error."""
    spoken, headers = dialect("openai"), {"content-type": "application/json"}
    return lambda: spoken.fault(429, headers, ERROR)


def error_body() -> Callable[[], object]:
    """Write the body of an error to a client."""
    from dub5.service.api.errors import error_body as body_of
    from dub5.service.errors import InvalidRequest

    error = InvalidRequest("There is no such model.", param="model")
    return lambda: msgspec.json.encode(body_of(error, "req_1"))


def new_telemetry() -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what tells metrics, board and log of a stream, and what writes the log."""
    from dub5.service.events import AttemptEnded, Events, RequestEnded
    from dub5.service.model import AttemptRecord, Outcome, Target, Usage
    from dub5.service.telemetry.board import StatusBoard
    from dub5.service.telemetry.logs import EventLogger, LineWriter
    from dub5.service.telemetry.metrics import Metrics

    metrics = Metrics(
        version="0",
        routes=["chat"],
        targets=[Target("one", MODEL)],
        hosts=[],
        in_flight=lambda: 0,
        waiting=lambda: 0,
        states=list,
    )
    usage = Usage(60, 50, 110)
    attempt = AttemptRecord(
        "one/m", 0.001, 1.2, "ok", status=200, first_token_s=0.4, usage=usage, cost_usd=0.00002
    )
    request = RequestEnded(
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
        usage=usage,
        attempts=(attempt,),
    )
    writer = LineWriter(os.open(os.devnull, os.O_WRONLY))
    events = Events(metrics.count, StatusBoard().note, EventLogger(writer.write).log)
    ended = AttemptEnded("req_1", "chat", "one", attempt, "nobody")

    def emit() -> None:
        events.emit(ended)
        events.emit(request)

    return emit, writer.flush


def telemetry() -> Callable[[], object]:
    """Tell metrics, board and log of a stream, and write its line."""
    emit, flush = new_telemetry()

    def call() -> None:
        emit()
        flush()

    return call


ANTHROPIC_BEGIN = event({"type": "message_start", "message": ANTHROPIC_START}, "message_start")
ANTHROPIC_CHUNK = event(
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}},
    "content_block_delta",
)
KERNELS: dict[str, Kernel] = {
    "order": order,
    "permit": permit,
    "breaker": breaker,
    "limiter": limiter,
    "classify": classify,
    "sse": sse,
    "openai encode": encode("openai"),
    "openai answer": answer("openai", OPENAI_ANSWER),
    "openai chunk": chunk("openai", event(OPENAI_CHUNK)),
    "mistral encode": encode("mistral"),
    "mistral answer": answer("mistral", OPENAI_ANSWER),
    "mistral chunk": chunk("mistral", event(OPENAI_CHUNK)),
    "anthropic encode": encode("anthropic"),
    "anthropic answer": answer("anthropic", ANTHROPIC_ANSWER),
    "anthropic chunk": chunk("anthropic", ANTHROPIC_CHUNK, ANTHROPIC_BEGIN),
    "cache key": cache_key,
    "provider error": provider_error,
    "error body": error_body,
    "telemetry": telemetry,
}
