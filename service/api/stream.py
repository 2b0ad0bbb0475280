"""A streamed answer's outer form: headers, the last event, and the trail in one line."""

from collections.abc import Sequence

from service.chat import Attempt
from service.gateway import Answer

DONE = b"data: [DONE]\n\n"
SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold tokens back
}


def error_event(body: bytes) -> bytes:
    """An error after the first content. No `[DONE]` follows: a cut answer must not look whole."""
    return b"data: " + body + b"\n\n"


def trail_header(trail: Sequence[Attempt], answer: Answer, first_token_s: float) -> str:
    """`one/gpt=http_530;12ms, two/mistral=ok;40ms`. A stream's own try is still under way: its line says how long
    it took to the first content."""
    lines = [f"{a.target}={a.reason};{round((a.ended_s - a.started_s) * 1000)}ms" for a in trail]
    if answer.stream is not None and not answer.cached:
        began_s = trail[-1].ended_s if trail else 0.0
        lines.append(f"{answer.target}=ok;{round((first_token_s - began_s) * 1000)}ms")
    return ", ".join(lines) or f"{answer.target}=cache;0ms"
