"""Whatever JSON a provider makes up: an answer, or a ProviderFault; never anything else. One bad answer must
not hurt more than itself."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dub5.service.model import Chunk
from dub5.service.providers.anthropic import AnthropicDialect
from dub5.service.providers.base import Dialect, ProviderFault
from dub5.service.providers.embeddings import reply_with_vectors
from dub5.service.providers.mistral import MistralDialect
from dub5.service.providers.openai import OpenAIDialect
from tests.support.dialect_requests import embed_request, request
from tests.support.examples import examples
from tests.support.world import payloads

Path = tuple[str | int, ...]
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
HEAD = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
OPENAI = {
    **HEAD,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": [CALL]},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
MISTRAL = {
    **HEAD,
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": [THOUGHT, {"type": "text", "text": "Hi"}],
                "tool_calls": [CALL],
            },
            "finish_reason": "model_length",
        }
    ],
    "usage": USAGE,
}
ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "Hm", "signature": "x"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 0},
}
STREAMED = {
    "index": 0,
    "delta": {"role": "assistant", "content": "Hi", "tool_calls": [CALL]},
    "finish_reason": None,
}
LAST = {"index": 0, "delta": {"content": [THOUGHT]}, "finish_reason": "stop"}
CHUNKS = [
    {**HEAD, "choices": [STREAMED]},
    {**HEAD, "choices": [LAST]},
    {**HEAD, "choices": [], "usage": USAGE},
]
EVENTS = [
    {"type": "message_start", "message": {**ANTHROPIC, "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_start", "index": 1, "content_block": ANTHROPIC["content"][2]},  # type: ignore[index]
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]
VECTORS = {"object": "list", "data": [{"index": 0, "embedding": [0.1]}], "model": "e", "usage": USAGE}
ERRORS = [
    {"error": {"message": "m", "type": "t", "code": "c", "details": {"error_code": "e"}}},
    {"detail": [{"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}]},
    {"object": "error", "message": "m", "type": "t", "code": "1300", "raw_status_code": 429},
]

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["", "error", "stop", "text", "tool_use", -1, 2**70, 1e308])
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["content", "type", "text", "function", "choices", "delta", "index", "usage", "message"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def places(value: Any, at: Path = ()) -> list[Path]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for name, one in inner for place in places(one, (*at, name)))]


@st.composite
def mutants(draw: st.DrawFn, original: Any) -> bytes:
    """An answer with a few values replaced or taken out, and now and then a byte changed or the end cut
    off."""
    whole = {"": json.loads(json.dumps(original))}
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([p for p in places(whole) if p]))
        holder: Any = whole
        for step in way:
            holder = holder[step]
        if draw(st.booleans()) or not way:
            holder[last] = draw(ANYTHING)
        else:
            del holder[last]
    data = bytearray(json.dumps(whole.get("")).encode())
    if draw(st.integers(0, 9)) == 0:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 9)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def tolerated(work: Callable[[], Any]) -> Any:
    """What `work` gives, or None after a fault; anything else is a defect of ours."""
    try:
        return work()
    except ProviderFault:
        return None


DIALECTS = [
    pytest.param(OpenAIDialect(5000), OPENAI, CHUNKS, id="openai"),
    pytest.param(MistralDialect(5000), MISTRAL, CHUNKS, id="mistral"),
    pytest.param(AnthropicDialect(5000, None, 9), ANTHROPIC, EVENTS, id="anthropic"),
]
FEW = examples(100)
pytestmark = pytest.mark.hypothesis  # also where the property is inside of a test: its long form finds it


@pytest.mark.parametrize(("dialect", "original", "events"), DIALECTS)
async def test_answers(dialect: Dialect, original: Any, events: list[Any]) -> None:
    """A JSON answer that passes is valid JSON, with usage."""

    @FEW
    @given(mutants(original))
    def holds(body: bytes) -> None:
        answer = tolerated(lambda: dialect.answer(body, request()))
        if answer is not None:
            assert json.loads(answer.body)["choices"]
            assert answer.usage.total_tokens >= 0

    holds()


@pytest.mark.parametrize(("dialect", "original", "events"), DIALECTS)
async def test_streams(dialect: Dialect, original: Any, events: list[Any]) -> None:
    """A stream that passes consists of JSON events, and has its usage if it is whole."""

    @FEW
    @given(mutants(events))
    def holds(body: bytes) -> None:
        reader = dialect.stream(request(stream=True, stream_options={"include_usage": True}), "m")
        made: list[Chunk] = []
        try:
            told = json.loads(body)
        except ValueError:
            told = [body.decode("latin-1")]
        for one in told if isinstance(told, list) else [told]:
            made += reader.feed(b"data: " + json.dumps(one).encode() + b"\n\n")
            if reader.fault is not None:
                return
        made += tolerated(reader.end) or []
        payloads(b"".join(chunk.raw for chunk in made))
        if reader.finished:
            assert any(chunk.usage is not None for chunk in made)

    holds()


@FEW
@given(mutants(VECTORS), st.sampled_from([None, "float", "base64"]))
def test_vectors(body: bytes, form: str | None) -> None:
    """An embeddings answer that passes is valid JSON, with usage."""
    answer = tolerated(lambda: reply_with_vectors(body, embed_request(encoding_format=form)))
    assert answer is None or len(json.loads(answer.body)["data"]) == 1


async def test_errors() -> None:
    """Error bodies: always a fault with that status, short enough to be kept."""

    @FEW
    @given(st.sampled_from(ERRORS).flatmap(mutants), st.sampled_from([400, 429, 500, 530]))
    @example(b'{"detail": [{"loc": null, "msg": "Field required"}]}', 422)
    def holds(body: bytes, status: int) -> None:
        fault = OpenAIDialect(5000).fault(status, {}, body)
        assert fault.status == status
        assert len(fault.message) <= 300
        msgspec.json.encode(fault.message)

    holds()
