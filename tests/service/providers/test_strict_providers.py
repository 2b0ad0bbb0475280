"""Whole requests, there and back: simulated providers that refuse what the real ones refuse, and the official
package's types for what the client gets."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.support.dialect_client import chat
from tests.support.world import payloads

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
CALL = {
    "id": "call_abc123",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
}
EVERYTHING: Mapping[str, Any] = {
    "messages": [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [CALL],
            "reasoning_content": "Hm",
        },
        {"role": "tool", "tool_call_id": "call_abc123", "content": "Rain"},
        {"role": "user", "content": "So?"},
    ],
    "tools": [TOOL],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "max_completion_tokens": 200,
    "temperature": 1.3,
    "top_p": 0.9,
    "stop": ["END"],
    "seed": 7,
    "user": "u-1",
    "n": 1,
    "logit_bias": {"5": -100},
    "presence_penalty": 0.1,
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "auto",
}


EACH = pytest.mark.parametrize(
    ("dialect", "api_version"),
    [("openai", None), ("mistral", None), ("anthropic", None), ("anthropic", "2026-10-21")],
)


@EACH
async def test_everything_at_once(dialect: str, api_version: str | None) -> None:
    """A request with all that clients send is accepted, and its answer is what the official package reads."""
    async with chat(dialect, api_version=api_version, usual=EVERYTHING) as c:
        answer = await c.ask()
        assert answer.status == 200, answer.body
        whole = ChatCompletion.model_validate(answer.json())
        assert whole.choices[0].message.content
        assert whole.usage is not None and whole.usage.total_tokens > 0
        streamed = await c.ask(stream=True, stream_options={"include_usage": True})
    *events, done = payloads(streamed.body)
    chunks = [ChatCompletionChunk.model_validate(event) for event in events]
    assert done == "[DONE]"
    assert chunks[-1].usage is not None and not chunks[-1].choices
    if dialect == "anthropic":
        dropped = "seed+logit_bias+presence_penalty+metadata"
        names = f"{dropped}+messages.name+messages.reasoning_content"
        assert answer.headers["x-dub5-trail"].partition(";dropped:")[2].startswith(names)
        assert streamed.headers["x-dub5-trail"].partition(";dropped:")[2].startswith(names)


@EACH
async def test_a_large_request(dialect: str, api_version: str | None) -> None:
    """A request that is read and translated in steps arrives with every character."""
    text = '\u00e9\n"' * 150_000
    parts = [{"type": "text", "text": text}, {"type": "text", "text": " end"}]
    history = [
        *EVERYTHING["messages"],
        {"role": "assistant", "content": text},
        {"role": "user", "content": parts},
    ]
    async with chat(dialect, api_version=api_version) as c:
        answer = await c.ask(messages=history)
    assert answer.status == 200, answer.body[:500]
    assert json.loads(c.asked[-1].body).get("messages")
    assert json.dumps(json.loads(c.asked[-1].body)).count("\\u00e9") == 2 * 150_000


@EACH
async def test_a_forced_call(dialect: str, api_version: str | None) -> None:
    """A tool that must be called is called, whole and in pieces."""
    choice = {"type": "function", "function": {"name": "weather"}}
    async with chat(dialect, api_version=api_version, usual=EVERYTHING) as c:
        whole = ChatCompletion.model_validate((await c.ask(tool_choice=choice)).json())
        streamed = await c.ask(tool_choice=choice, stream=True)
    [call] = whole.choices[0].message.tool_calls or ()
    assert call.type == "function" and call.function.name == "weather"
    assert whole.choices[0].finish_reason == "tool_calls"
    chunks = [ChatCompletionChunk.model_validate(event) for event in payloads(streamed.body)[:-1]]
    deltas = [d for c in chunks for choice_ in c.choices for d in choice_.delta.tool_calls or ()]
    assert {delta.index for delta in deltas} == {0}
    pieces = "".join(d.function.arguments or "" for d in deltas if d.function)
    assert pieces == call.function.arguments
    assert [d.function.name for d in deltas if d.function and d.function.name] == ["weather"]


async def test_what_one_cannot_another_can() -> None:
    """A field that the first dialect cannot carry goes with the request to the next target; alone it is a 400
    that names the field."""
    async with chat("anthropic", "openai", usual=EVERYTHING) as c:
        answer = await c.ask(logprobs=True)
        assert answer.headers["x-dub5-trail"].startswith(
            "anthropic/claude-sim=unsupported_logprobs;0ms, openai/"
        )
    async with chat("anthropic", usual=EVERYTHING) as c:
        answer = await c.ask(logprobs=True)
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "invalid_request", "logprobs")
    assert "'logprobs'" in error["message"]
