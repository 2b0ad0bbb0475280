"""Three providers that a dashboard must tell apart: one that answers, one that is down, one that breaks off."""

import json

from simulators.script import Close, Data, End, Head, Script, SimRequest, Wait

EVENT_STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
FIRST_TOKEN_S = 0.02


def answers(request: SimRequest) -> Script:
    """A healthy provider."""
    if json.loads(request.body).get("stream"):
        yield Head(200, EVENT_STREAM)
        for delta in ({"role": "assistant", "content": "so"}, {"content": " be it"}):
            yield Wait(FIRST_TOKEN_S)
            yield Data(event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
        yield Data(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        yield Data(event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
    else:
        yield Head(200, JSON)
        message = {"role": "assistant", "content": "so be it"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        yield Data(json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode())
    yield End()


def is_down(request: SimRequest) -> Script:
    """A provider behind a tunnel that is gone."""
    yield Head(530, {"content-type": "text/plain"})
    yield Data(b"error code: 1033")
    yield End()


def breaks_off(request: SimRequest) -> Script:
    """A provider that closes the connection in the middle of its answer."""
    yield Head(200, EVENT_STREAM)
    yield Data(event({"choices": [{"index": 0, "delta": {"content": "so"}, "finish_reason": None}]}))
    yield Wait(FIRST_TOKEN_S)
    yield Close()


def event(data: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


PROVIDERS = {"down": is_down, "up": answers, "torn": breaks_off}
TARGETS = {"chat": ("down/m", "up/m"), "torn": ("torn/m",), "down": ("down/m",)}  # by route
