"""Drawn streams of an odd provider: events mutated, put in, left out or repeated, and ends of every kind.

odd_streams() -> OddStream: its bytes, and how the connection ends
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from dub5.simulators.script import Action, Close, Data, End, Head, Reset, Wait

WORDS = ("Hel", "lo", " you")
COUNTS = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
DELETED = object()
Event = dict[str, Any] | str

texts = st.sampled_from(["", " ", ": keepalive", "PROCESSING", "[KEEPALIVE]", "null", "0", "[]", '"x"'])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("abç☃", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "text", "message", "code", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
objects = st.dictionaries(
    st.sampled_from(["type", "object", "status", "usage", "error", "choices", "id", "event", "delta", "x"]),
    values | st.just(COUNTS) | st.sampled_from(["ping", "error", "message_stop", "chat.completion.chunk"]),
    max_size=3,
)
reasons = st.sampled_from(
    ["stop", "length", "content_filter", "tool_calls", "abort", "error", "", None, "other", True, {}]
)
CHOICE_FIELDS = ("index", "delta", "finish_reason", "logprobs", "text", "message", "native_finish_reason")
DELTA_FIELDS = ("role", "content", "refusal", "tool_calls", "function_call", "reasoning", "audio", "images")
FIELDS = ("id", "object", "created", "model", "choices", "usage", "error", "system_fingerprint", "type", "x")


@dataclass(frozen=True)
class OddStream:
    """A stream that a provider sends. `told` says how it was made."""

    pieces: tuple[bytes, ...]
    end: Action
    told: tuple[str, ...]

    @property
    def body(self) -> bytes:
        """All its bytes."""
        return b"".join(self.pieces)

    @property
    def broken(self) -> bool:
        """Whether the connection breaks off."""
        return not isinstance(self.end, End)

    def script(self, gap_s: float = 0.02) -> tuple[Action, ...]:
        """Return what the provider does."""
        said = (part for piece in self.pieces for part in (Data(piece), Wait(gap_s)))
        return (Head(200, {"content-type": "text/event-stream"}), *said, self.end)


def plain() -> list[Event]:
    """Return the events of a healthy stream."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks: list[Event] = [
        {**head, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in WORDS
    ]
    end = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [*chunks, end, {**head, "choices": [], "usage": COUNTS}, "[DONE]"]


@st.composite
def odd_streams(draw: st.DrawFn, changes_max: int = 3) -> OddStream:
    """Draw a stream."""
    events, told = plain(), []
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=changes_max)):
        if events:
            told.append(change.__name__)
            change(draw, events)
    form = draw(st.sampled_from(FORMS))
    pieces = [form(one if isinstance(one, str) else json.dumps(one)) for one in events]
    if pieces and draw(st.integers(0, 9)) == 0:
        told.append("cut")
        at = draw(st.integers(0, len(pieces) - 1))
        pieces = [*pieces[:at], pieces[at][: draw(st.integers(0, len(pieces[at])))]]
    end = draw(st.sampled_from([End(), End(), End(), Close(), Reset()]))
    return OddStream(tuple(pieces), end, (*told, repr(end)))


def inserted(draw: st.DrawFn, events: list[Event]) -> None:
    """Put in an event that says nothing, or something."""
    events.insert(draw(st.integers(0, len(events))), draw(texts | objects))


def left_out(draw: st.DrawFn, events: list[Event]) -> None:
    """Leave an event out."""
    events.pop(draw(st.integers(0, len(events) - 1)))


def repeated(draw: st.DrawFn, events: list[Event]) -> None:
    """Say an event again, somewhere."""
    again = copy.deepcopy(draw(st.sampled_from(events)))
    events.insert(draw(st.integers(0, len(events))), again)


def reason(draw: st.DrawFn, events: list[Event]) -> None:
    """Write a finish reason into a chunk, or into all of them."""
    chunks = [one for one in events if _choice(one) is not None]
    value, every = draw(reasons), draw(st.booleans())
    for one in chunks if every else [draw(st.sampled_from(chunks))] if chunks else []:
        _choice(one)["finish_reason"] = value  # type: ignore[index]


def field(draw: st.DrawFn, events: list[Event]) -> None:
    """Change a field of an event, or take it away."""
    _set(draw, [one for one in events if isinstance(one, dict)], FIELDS)


def choice_field(draw: st.DrawFn, events: list[Event]) -> None:
    """Change a field of a choice, or take it away."""
    _set(draw, [choice for choice in map(_choice, events) if choice is not None], CHOICE_FIELDS)


def delta_field(draw: st.DrawFn, events: list[Event]) -> None:
    """Change a field of a delta, or take it away."""
    choices = [choice for choice in map(_choice, events) if choice is not None]
    deltas = [choice["delta"] for choice in choices if isinstance(choice.get("delta"), dict)]
    _set(draw, deltas, DELTA_FIELDS)


def _set(draw: st.DrawFn, objects: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    if objects:
        chosen, name = draw(st.sampled_from(objects)), draw(st.sampled_from(names))
        value = draw(values | st.just(DELETED))
        chosen.pop(name, None)
        if value is not DELETED:
            chosen[name] = value


def _choice(event: Event) -> dict[str, Any] | None:
    choices = event.get("choices") if isinstance(event, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


CHANGES: tuple[Callable[[st.DrawFn, list[Event]], None], ...] = (
    inserted,
    inserted,
    left_out,
    repeated,
    reason,
    field,
    choice_field,
    delta_field,
)
FORMS: tuple[Callable[[str], bytes], ...] = (
    lambda data: f"data: {data}\n\n".encode(),
    lambda data: f"data:{data}\n\n".encode(),
    lambda data: f"data: {data}\r\n\r\n".encode(),
    lambda data: f"event: completion\nid: 7\ndata: {data}\n\n".encode(),
    lambda data: f": x\n\ndata: {data}\n\n".encode(),
)
