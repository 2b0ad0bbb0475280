"""The mistral dialect: its differences from openai."""

import json
import re

import pytest

from dub5.service.providers.base import Unsupported
from dub5.service.providers.mistral import MistralDialect
from tests.support.dialect_requests import request
from tests.support.openai_events import CONTENT, DONE, choice, event
from tests.support.world import payloads

DIALECT = MistralDialect(event_bytes_max=10_000)
LAST = event(
    id="m",
    choices=[choice({}, "stop")],
    usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
)


def test_only_what_it_knows_is_sent() -> None:
    """Anything else would be answered with 422: renamed where it has a name for it, else left out and
    named."""
    asked = request(
        max_completion_tokens=9,
        seed=7,
        logit_bias={"5": -100},
        stream=True,
        stream_options={"include_usage": True},
    )
    call = DIALECT.encode(asked, "mistral-small", "sk")
    assert json.loads(call.body) == {
        "model": "mistral-small",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "random_seed": 7,
        "stream": True,
    }
    assert call.dropped == ("logit_bias",)


def test_usage_rides_on_the_last_chunk() -> None:
    """A client that asked for a usage chunk gets one of its own."""
    reader = DIALECT.stream(request(stream=True, stream_options={"include_usage": True}), "m")
    chunks = reader.feed(CONTENT + LAST + DONE) + reader.end()
    own = payloads(chunks[-1].raw)[0]
    assert (own["choices"], own["usage"]["total_tokens"]) == ([], 3)


def test_content_in_parts() -> None:
    """Parts of text become content, parts of thinking become reasoning."""
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
        {"type": "text", "text": "Hi"},
    ]
    reader = DIALECT.stream(request(stream=True), "m")
    chunk = reader.feed(event(choices=[choice({"content": parts})]))[0]
    delta = payloads(chunk.raw)[0]["choices"][0]["delta"]
    assert delta == {"content": "Hi", "reasoning_content": "Hm"}
    assert chunk.has_content


def test_messages_hold_what_each_role_may() -> None:
    """What other providers put into a conversation is refused there: it is translated, or left out and
    named."""
    call = {"id": "call_abc", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = request(
        messages=[
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": "Hi", "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "tool_calls": [call],
                "reasoning_content": "Hm",
            },
            {"role": "tool", "tool_call_id": "call_abc", "content": "1"},
        ]
    )
    there = DIALECT.encode(asked, "m", None)
    system, user, assistant, tool = json.loads(there.body)["messages"]
    assert (system["role"], user) == ("system", {"role": "user", "content": "Hi"})
    assert assistant.keys() == {"role", "content", "tool_calls"}
    made = assistant["tool_calls"][0]["id"]
    assert made == tool["tool_call_id"]
    assert re.fullmatch("[A-Za-z0-9]{9}", made), "the only ids it takes"
    assert there.dropped == ("messages.name", "messages.reasoning_content")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"messages": [{"role": "function", "name": "f", "content": "1"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0].type"),
    ],
)
def test_what_it_cannot_do(fields: dict[str, object], param: str) -> None:
    """Better another target than an answer to another question."""
    with pytest.raises(Unsupported) as caught:
        DIALECT.encode(request(**fields), "m", None)
    assert caught.value.param == param


def test_a_tool_without_parameters() -> None:
    """A tool without parameters is sent with an empty schema."""
    tools = [{"type": "function", "function": {"name": "now"}}]
    there = json.loads(DIALECT.encode(request(tools=tools), "m", None).body)["tools"]
    assert there[0]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_an_answer_in_its_own_words() -> None:
    """Tool calls get the type and index that clients look for, and `model_length` is `length`."""
    call = {"id": "D681PevKs", "function": {"name": "f", "arguments": {"a": 1}}}
    said = {"role": "assistant", "content": "", "tool_calls": [call, call]}
    body = {"choices": [{"index": 0, "message": said, "finish_reason": "model_length"}]}
    choice = json.loads(DIALECT.answer(json.dumps(body).encode(), request()).body)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert [c["index"] for c in choice["message"]["tool_calls"]] == [0, 1]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
    assert choice["message"]["tool_calls"][0]["type"] == "function"


@pytest.mark.parametrize("empty", [{"content": ""}, {"content": None}, {"content": [], "tool_calls": []}])
def test_an_empty_turn_of_the_assistant(empty: dict[str, object]) -> None:
    """A turn without anything in it, which the endpoint rejects, is left out."""
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", **empty},
        {"role": "user", "content": "?"},
    ]
    body = MistralDialect(1_000).encode(request(messages=turns), "m", None).body
    assert [turn["role"] for turn in json.loads(body)["messages"]] == ["user", "user"]
