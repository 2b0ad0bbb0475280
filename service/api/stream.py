"""The form of a streamed answer: headers, heartbeat, last event, and the trail as one header line."""

from collections.abc import Sequence

from dub5.service.gateway import Answer
from dub5.service.model import AttemptRecord

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": the answer is on its way\n\n"
HEARTBEAT_S = 10.0
TRAIL_CHARS_MAX = 1024  # proxies refuse a large head; the log has the whole trail
DROPPED_CHARS_MAX = 512
SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold tokens back
}


def error_event(body: bytes) -> bytes:
    """Return the event for an error after the first content.

    No `[DONE]` follows: a cut answer must not look whole.
    """
    return b"data: " + body + b"\n\n"


def trail_header(trail: Sequence[AttemptRecord], answer: Answer, first_token_s: float) -> str:
    """Return the trail as `one/gpt=http_530;12ms, two/mistral=ok;40ms;dropped:user`.

    A stream's own attempt is still running: its entry says the time to the first content. A long trail is
    shortened in the middle. Names that callers choose were made safe where they were taken (`trail_names`).
    """
    entries = [_trail_entry(a.target, a.reason, a.ended_s - a.started_s, a.dropped) for a in trail]
    live = answer.stream is not None and not (answer.cached or answer.degraded)
    if live and not any(attempt.ok for attempt in trail):  # a held stream has ended by now
        entries.append(_trail_entry(answer.target, "ok", first_token_s - answer.began_s, answer.dropped))
    line = ", ".join(entries) or f"{answer.target}={'degraded' if answer.degraded else 'cache'};0ms"
    return line if len(line) <= TRAIL_CHARS_MAX else _shortened(entries)


def _shortened(entries: list[str]) -> str:
    """Return the first entries, how many are left out, and the last one: `one/m=..., +48, fifty/m=ok;2ms`."""
    *others, last = entries
    room, shown = TRAIL_CHARS_MAX - len(last) - len(", +9999, "), list[str]()
    for entry in others:
        room -= len(entry) + len(", ")
        if room < 0:
            break
        shown.append(entry)
    left_out = [f"+{len(others) - len(shown)}"] if len(shown) < len(others) else []
    return ", ".join([*shown, *left_out, last])


def _trail_entry(target: str, reason: str, took_s: float, dropped: Sequence[str]) -> str:
    line = f"{target}={reason};{round(took_s * 1000)}ms"
    if not dropped:
        return line
    names = "+".join(dropped)
    if len(names) > DROPPED_CHARS_MAX:
        names = names[:DROPPED_CHARS_MAX].rpartition("+")[0] + "+..."
    return f"{line};dropped:{names}"
