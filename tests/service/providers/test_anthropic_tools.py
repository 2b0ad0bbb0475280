"""Tools, images and formats for anthropic: there in its words, back in OpenAI's."""

import json
from typing import Any

import msgspec
import pytest

from dub5.service.providers.base import Unsupported
from tests.support.anthropic_events import NEW, OLD, START, event, read
from tests.support.dialect_requests import request
from tests.support.world import payloads

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
PARIS = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
STOP = event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 9})
END = event("message_stop")


def sent(**fields: object) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(OLD.encode(request(**fields), "claude", None).body)
    return body


class TestRequest:
    def test_tools(self) -> None:
        """A function's parameters are a tool's input schema."""
        nothing = {"type": "function", "function": {"name": "now", "strict": True}}
        assert sent(tools=[WEATHER, nothing])["tools"] == [
            {
                "name": "weather",
                "description": "Tells it.",
                "input_schema": WEATHER["function"]["parameters"],
            },
            {"name": "now", "input_schema": {"type": "object", "properties": {}}, "strict": True},
        ]

    @pytest.mark.parametrize(
        ("fields", "choice"),
        [
            ({}, None),
            ({"tool_choice": "auto"}, {"type": "auto"}),
            ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
            ({"tool_choice": "required"}, {"type": "any"}),
            (
                {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
                {"type": "tool", "name": "weather"},
            ),
            ({"parallel_tool_calls": True}, None),
            ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
            (
                {"tool_choice": "required", "parallel_tool_calls": False},
                {"type": "any", "disable_parallel_tool_use": True},
            ),
        ],
    )
    def test_choice(self, fields: dict[str, object], choice: object) -> None:
        """`tool_choice` says which tool, and whether several at once."""
        assert sent(tools=[WEATHER], **fields).get("tool_choice") == choice

    def test_calls_and_results(self) -> None:
        """Calls become tool_use blocks, results blocks of the user turn after them; ids agree, whoever made
        them."""
        odd = {**PARIS, "id": "call:with spaces and more"}
        messages = [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [PARIS, odd]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Rain"},
            {"role": "tool", "tool_call_id": odd["id"], "content": [{"type": "text", "text": "Sun"}]},
            {"role": "user", "content": "So?"},
        ]
        _, said, results = sent(messages=messages, tools=[WEATHER])["messages"]
        use = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}
        other = said["content"][2]["id"]
        assert said["content"] == [{"type": "text", "text": "Let me see."}, use, {**use, "id": other}]
        assert results == {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "Rain"},
                {"type": "tool_result", "tool_use_id": other, "content": "Sun"},
                {"type": "text", "text": "So?"},
            ],
        }
        assert other.replace("_", "").isalnum()

    def test_images(self) -> None:
        """Images that come along go along, links as links."""
        parts = [
            {"type": "text", "text": "Which?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://example.org/cat.jpg"}},
        ]
        call = OLD.encode(request(messages=[{"role": "user", "content": parts}]), "claude", None)
        assert json.loads(call.body)["messages"][0]["content"] == [
            {"type": "text", "text": "Which?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}},
            {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.jpg"}},
        ]
        assert call.dropped == ("messages.content.image_url.detail",)

    def test_schema(self) -> None:
        """A schema goes along, its objects closed as the endpoint wants them; an open one is refused."""
        item = {"type": "object", "properties": {"a": {"type": "integer"}}}
        schema = {"type": "object", "properties": {"items": {"type": "array", "items": item}}}
        asked = {"type": "json_schema", "json_schema": {"name": "list", "schema": schema}}
        there = sent(response_format=asked)["output_config"]["format"]
        assert there["type"] == "json_schema"
        assert there["schema"]["additionalProperties"] is False
        assert there["schema"]["properties"]["items"]["items"]["additionalProperties"] is False
        item["additionalProperties"] = True
        with pytest.raises(Unsupported, match="response_format"):
            sent(response_format=asked)

    def test_turns_that_say_nothing(self) -> None:
        """Empty text is refused there, so it is left out; instructions alone become the question."""
        assert sent(messages=[{"role": "system", "content": "Say hi."}])["messages"] == [
            {"role": "user", "content": "Say hi."}
        ]
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]
        assert sent(messages=messages)["messages"] == [{"role": "user", "content": "Hi"}]

    @pytest.mark.parametrize(
        ("message", "param"),
        [
            ({"role": "function", "name": "f", "content": "x"}, "messages[0].role"),
            (
                {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
                "messages[0].content[0].type",
            ),
            (
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,"}}],
                },
                "messages[0].content[0].image_url",
            ),
            (
                {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]},
                "messages[0].tool_calls",
            ),
        ],
    )
    def test_what_it_cannot_carry(self, message: dict[str, object], param: str) -> None:
        """The error names the very place."""
        with pytest.raises(Unsupported) as caught:
            sent(messages=[message])
        assert caught.value.param == param

    def test_two_ways_of_sampling(self) -> None:
        """Newer models take temperature or top_p, not both; the version after takes none."""
        fields = request(temperature=0, top_p=0.9, top_k=5, user="u-1")
        old, new = OLD.encode(fields, "claude", None), NEW.encode(fields, "claude", None)
        body = json.loads(old.body)
        assert (body["temperature"], body["top_k"], body["metadata"]) == (0, 5, {"user_id": "u-1"})
        assert (old.dropped, new.dropped) == (("top_p",), ("temperature", "top_p", "top_k"))


def block(index: int, **fields: object) -> bytes:
    return event("content_block_start", index=index, content_block=fields)


def argument(index: int, piece: str) -> bytes:
    delta = {"type": "input_json_delta", "partial_json": piece}
    return event("content_block_delta", index=index, delta=delta)


async def test_stream_of_calls() -> None:
    """Each call has its own index, whatever blocks are between; one without arguments is given an empty
    object."""
    data = (
        START
        + block(0, type="text", text="Hm")
        + event("content_block_stop", index=0)
        + block(1, type="tool_use", id="toolu_1", name="weather", input={})
        + argument(1, "")
        + argument(1, '{"city":')
        + argument(1, '"Paris"}')
        + event("content_block_stop", index=1)
        + block(2, type="tool_use", id="toolu_2", name="now", input={})
        + argument(2, "")
        + event("content_block_stop", index=2)
        + STOP
        + END
    )
    chunks = await read(data)
    deltas = [p["choices"][0] for p in payloads(b"".join(chunk.raw for chunk in chunks)) if p["choices"]]
    calls: dict[int, dict[str, str]] = {}
    for delta in (call for d in deltas for call in d["delta"].get("tool_calls", ())):
        known = calls.setdefault(delta["index"], {"id": delta.get("id"), "arguments": ""})
        known["arguments"] += delta["function"]["arguments"]
    assert calls == {
        0: {"id": "toolu_1", "arguments": '{"city":"Paris"}'},
        1: {"id": "toolu_2", "arguments": "{}"},
    }
    assert deltas[-1]["finish_reason"] == "tool_calls"
    assert any(chunk.has_content for chunk in chunks)


async def test_answer_with_calls() -> None:
    """Text, reasoning, calls, and tokens that came from the cache."""
    body = {
        "id": "msg_1",
        "type": "message",
        "model": "claude-sim",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "x"},
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
        ],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 5,
            "output_tokens": 7,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 10,
        },
    }
    answer = json.loads(OLD.answer(msgspec.json.encode(body), request()).body)
    said = answer["choices"][0]
    assert said["message"]["tool_calls"] == [{**PARIS, "id": "toolu_1"}]
    assert (said["message"]["content"], said["message"]["reasoning_content"]) == ("Let me see.", "Hm")
    assert said["finish_reason"] == "tool_calls"
    assert answer["usage"] == {
        "prompt_tokens": 115,
        "completion_tokens": 7,
        "total_tokens": 122,
        "prompt_tokens_details": {"cached_tokens": 100},
    }


@pytest.mark.parametrize("name", ["anyOf", "oneOf", "allOf"])
def test_alternatives_at_the_top_of_a_schema(name: str) -> None:
    """A tool's schema that the endpoint rejects goes to the next target."""
    function = {"name": "f", "parameters": {name: [{"type": "object"}]}}
    with pytest.raises(Unsupported, match=r"tools\[0\].function.parameters"):
        sent(tools=[{"type": "function", "function": function}])


def test_a_schema_without_a_type() -> None:
    """A tool's schema always says that it is an object."""
    function = {"name": "f", "parameters": {"properties": {"a": {}}}}
    tools = sent(tools=[{"type": "function", "function": function}])["tools"]
    assert tools[0]["input_schema"] == {"type": "object", "properties": {"a": {}}}


@pytest.mark.parametrize("stop", [" ", "\n", ["END", "\n\n"]])
def test_blank_stop_sequences(stop: object) -> None:
    """A blank stop sequence, which the endpoint rejects, goes to the next target."""
    with pytest.raises(Unsupported, match="stop"):
        sent(stop=stop)


def test_results_come_first_in_a_turn() -> None:
    """A user's words between a call and its result follow the result, where the endpoint wants it."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = sent(
        messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "user", "content": "And?"},
            {"role": "tool", "tool_call_id": "c1", "content": "4"},
        ]
    )["messages"]
    assert [block["type"] for block in turns[-1]["content"]] == ["tool_result", "text"]
