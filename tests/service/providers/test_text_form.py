"""Events that are not decoded, because they differ only in their text from one that was."""

import json
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dub5.service.model import Chunk
from dub5.service.providers.anthropic import AnthropicDialect, AnthropicStream
from dub5.service.providers.base import ProviderFault
from dub5.service.providers.mistral import MistralDialect
from dub5.service.providers.openai import OpenAIDialect, OpenAIStream, sse_payload
from dub5.service.providers.text_form import TextForm, learn
from tests.support.dialect_requests import request
from tests.support.examples import examples

EVENT_BYTES_MAX = 2000
READERS = {
    "openai": OpenAIDialect(EVENT_BYTES_MAX),
    "mistral": MistralDialect(EVENT_BYTES_MAX),
    "anthropic": AnthropicDialect(EVENT_BYTES_MAX, None, 100),
}
TEXTS = st.text(max_size=8) | st.sampled_from(['"', "\\", '"content":"', "\n\n", "\u2028", "é", '"}}]}'])
USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
Reader = OpenAIStream | AnthropicStream


def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a chunk in OpenAI's format."""
    choice = {"index": more.pop("index", 0), "delta": delta, "finish_reason": more.pop("finish", None)}
    return {"id": "c", "model": "m", "choices": [choice], **more}


def event(value: object, *, name: str = "", spaced: bool = False, pad: str = "") -> bytes:
    """Return an event; `pad` goes before its last brace."""
    data = json.dumps(value, separators=None if spaced else (",", ":"), ensure_ascii=spaced)
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {data[:-1]}{pad}}}\n\n".encode()


@st.composite
def openai_events(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream of texts; a few of its events are of another form."""
    spaced, padded = draw(st.booleans()), draw(st.booleans())
    field = draw(st.sampled_from(["content", "content", "reasoning_content", "refusal"]))
    odd = [
        chunk({}, finish="stop"),
        chunk({"content": "x"}, finish="stop"),
        chunk({"content": "y"}, index=1),
        chunk({"content": "z", "tool_calls": None}),
        chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}),
        chunk({"content": "u"}, usage=USAGE),
        {"error": {"message": "down"}},
        chunk({"content": 7}),
    ]
    events = []
    for text in draw(st.lists(TEXTS, min_size=2, max_size=8)):
        value = draw(st.sampled_from(odd)) if draw(st.integers(0, 9)) == 0 else chunk({field: text})
        pad = draw(
            st.sampled_from(["", ',"obfuscation":"aZ9"', ',"p":"ab"', "  ", ',"p":"'])
            if padded
            else st.just("")
        )
        events.append(event(value, spaced=spaced, pad=pad))
    ends = [event(chunk({}, finish="stop", usage=USAGE)), b"data: [DONE]\n\n"]
    return events + ends[: draw(st.integers(0, 2))]


@st.composite
def anthropic_events(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream of Messages events."""
    spaced, kind = draw(st.booleans()), draw(st.sampled_from(["text", "thinking"]))
    values: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 5}}}
    ]
    for text in draw(st.lists(TEXTS, min_size=2, max_size=8)):
        values.append(
            {"type": "content_block_delta", "index": 0, "delta": {"type": f"{kind}_delta", kind: text}}
        )
        if draw(st.integers(0, 9)) == 0:
            values.append(draw(st.sampled_from([values[0], {"type": "content_block_stop", "index": 0}])))
    values.append(
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}
    )
    values.append({"type": "message_stop"})
    pads = st.sampled_from(["", "   "])
    return [event(one, name=one["type"], spaced=spaced, pad=draw(pads)) for one in values]


@st.composite
def reads(draw: st.DrawFn, events: st.SearchStrategy[list[bytes]]) -> list[bytes]:
    """Draw a stream as it is read: mostly event by event; sometimes damaged, sometimes cut anywhere."""
    pieces = draw(events)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(pieces) - 1))
        where = draw(st.integers(0, len(pieces[at])))
        byte = draw(
            st.sampled_from([b"", b'"', b"\\", b"\n", b"\r", b"}", b"\xff", b"\x01", b" ", b"a", b"1e999"])
        )
        pieces[at] = pieces[at][:where] + byte + pieces[at][where + draw(st.integers(0, 2)) :]
    whole = b"".join(pieces)
    if draw(st.booleans()):
        return pieces
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    return [piece for a, b in pairwise([0, *cuts, len(whole)]) if (piece := whole[a:b])]


def told(reader: Reader, pieces: list[bytes]) -> list[object]:
    """Return all that a reader says of a stream."""
    said: list[object] = []
    for piece in pieces:
        chunks = [_without_text(chunk) for chunk in reader.feed(piece)]
        said.append((chunks, _reason(reader.fault), reader.finished, reader.ended))
        if reader.fault is not None or reader.ended:
            break
    said.append(reader.usage_so_far())
    try:
        said.append(reader.end())
    except ProviderFault as fault:
        said.append(_reason(fault))
    return said


def _without_text(chunk: Chunk) -> Chunk:
    """Return the chunk as one that was decoded; if it has a text, it is what a client reads."""
    if chunk.text:
        (delta,) = [choice["delta"] for choice in json.loads(sse_payload(chunk.raw))["choices"]]
        assert chunk.text in delta.values()
    return structs.replace(chunk, text="")


def _reason(fault: ProviderFault | None) -> str | None:
    return None if fault is None else fault.reason


def both(dialect: str, pieces: list[bytes], *, usage: bool = False) -> tuple[list[object], list[object]]:
    """Return what is said of a stream with forms, and where every event is decoded."""
    asked = request(stream=True, stream_options={"include_usage": usage})
    with mock.patch("dub5.service.clock.wall", return_value=1.0):
        quick, slow = (READERS[dialect].stream(asked, "m") for _ in range(2))
    slow._forms_left = 0  # as if no form were ever certain
    return told(quick, pieces), told(slow, pieces)


@pytest.mark.parametrize("dialect", ["openai", "mistral"])
@examples(300)
@given(pieces=reads(openai_events()))
def test_openai(dialect: str, pieces: list[bytes]) -> None:
    """What is said of a stream is the same as if every event were decoded, however it is damaged."""
    quick, slow = both(dialect, pieces)
    assert quick == slow


@examples(300)
@given(pieces=reads(anthropic_events()))
def test_anthropic(pieces: list[bytes]) -> None:
    """The same holds for events that are translated."""
    quick, slow = both("anthropic", pieces, usage=True)
    assert quick == slow


def test_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all events of a usual stream are not decoded; those with padding of any length are none less."""
    decoded = []
    chunk_of = OpenAIStream.chunk
    monkeypatch.setattr(OpenAIStream, "chunk", lambda self, *a: decoded.append(a) or chunk_of(self, *a))
    reader = READERS["openai"].stream(request(stream=True), "m")
    reader.feed(event(chunk({"role": "assistant", "content": ""})))
    for at in range(20):
        reader.feed(event(chunk({"content": f'"word" {at}\n'}), pad=f',"obfuscation":"{"x" * (at % 7)}"'))

    assert len(decoded) == 2


def test_long_event() -> None:
    """An event that is longer than allowed is a fault, though its form is known."""
    pieces = [event(chunk({"content": text})) for text in ("a", "b", "c" * EVENT_BYTES_MAX)]
    quick, slow = both("openai", pieces)
    assert quick == slow
    assert "event_too_long" in str(quick)


def test_another_field_of_the_name() -> None:
    """A text is not taken for the answer's because its field has the same name."""
    pieces = [event({"note": {"content": note}, **chunk({"content": "b"})}) for note in "ac"]
    text_of = lambda payload: json.loads(payload)["choices"][0]["delta"]["content"]
    assert learn(b"data: ", pieces[0][6:-2], "content", 1000, text_of) is None
    quick, slow = both("openai", pieces)
    assert quick == slow


def test_head_and_tail_overlap() -> None:
    """An event that is shorter than its form has no text."""
    form = TextForm(b'data: "', b'"\n\n', 6, -2, 100, is_padded=False)
    assert form.text(b'data: "\n\n') == ""
    assert form.text(b'data: "a"\n\n') == "a"
