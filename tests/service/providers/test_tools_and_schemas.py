"""Tools and schemas, there and back, through every dialect: what arrives is valid by the caller's schema."""

import json
import re
from typing import Any, Literal

import openai
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.simulators.personas import PERSONAS
from dub5.simulators.virtual import AppResponse, run
from tests.support.dialect_client import chat, sdk
from tests.support.drawn_schemas import TOOL_SCHEMAS
from tests.support.examples import examples
from tests.support.json_schema import problems
from tests.support.world import payloads, text_of

EACH = pytest.mark.parametrize("persona", PERSONAS)
PROMPT: Any = [{"role": "user", "content": "What is the weather in Paris, and the time?"}]


def calls_of(answer: AppResponse, *, stream: bool) -> list[tuple[str, Any]]:
    """Return the name and the arguments of each call, as a client joins them."""
    assert answer.status == 200, answer.body
    if not stream:
        [choice] = answer.json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        functions = [call["function"] for call in choice["message"]["tool_calls"]]
        return [(function["name"], json.loads(function["arguments"])) for function in functions]
    names, texts, ids = {}, {}, {}
    *events, done = payloads(answer.body)
    assert done == "[DONE]"
    choices = [choice for event in events for choice in event["choices"]]
    for delta in [call for choice in choices for call in choice["delta"].get("tool_calls") or ()]:
        index, function = delta["index"], delta["function"]
        names[index] = names.get(index, "") + (function.get("name") or "")
        texts[index] = texts.get(index, "") + function["arguments"]
        if index not in ids:
            ids[index] = delta["id"]
    assert list(names) == list(range(len(names))) and len(set(ids.values())) == len(ids)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]
    return [(names[index], json.loads(texts[index])) for index in names]


@EACH
@examples(30)
@given(schemas=st.lists(TOOL_SCHEMAS, min_size=1, max_size=2), stream=st.booleans(), parallel=st.booleans())
def test_tools(persona: str, schemas: list[Any], stream: bool, parallel: bool) -> None:
    """On `auto` a client gets the calls that fit its prompt, each valid by its tool's schema."""
    offered = dict(zip(("get_weather", "current_time"), schemas, strict=False))
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in {"get_stock": {"type": "object"}, **offered}.items()
    ]

    async def ask() -> AppResponse:
        async with chat(persona) as client:
            fields = {"tools": tools, "tool_choice": "auto", "parallel_tool_calls": parallel}
            return await client.ask(messages=PROMPT, stream=stream, max_tokens=50_000, **fields)

    found = calls_of(run(ask()), stream=stream)
    assert [name for name, _ in found] == list(offered)[: None if parallel else 1]
    for name, arguments in found:
        assert problems(arguments, offered[name]) == []


@EACH
@examples(30)
@given(schema=TOOL_SCHEMAS, stream=st.booleans())
def test_json_schema(persona: str, schema: Any, stream: bool) -> None:
    """An answer by a schema is valid by it; one that needs open objects is a 400 where there are none."""
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}

    async def ask() -> AppResponse:
        async with chat(persona) as client:
            return await client.ask(stream=stream, max_tokens=50_000, response_format=form)

    answer = run(ask())
    if persona == "anthropic" and answer.status == 400:
        assert "response_format" in answer.json()["error"]["message"]
        assert re.search("additionalProperties|minProperties", json.dumps(schema))
        return
    text = text_of(answer.body) if stream else answer.json()["choices"][0]["message"]["content"]
    assert problems(json.loads(text), schema) == []


class Place(pydantic.BaseModel):
    """Where."""

    city: str = pydantic.Field(min_length=2)
    country: Literal["FR", "DE"]
    near: list["Place"] = []


class GetWeather(pydantic.BaseModel):
    """Return the weather."""

    place: Place
    days: int = pydantic.Field(ge=1, le=7)
    unit: Literal["C", "F"] | None


@EACH
def test_official_helpers(persona: str) -> None:
    """The official package's own helpers parse answers and calls into its user's classes, also of streams."""
    tool = openai.pydantic_function_tool(GetWeather)
    asked: Any = {"model": "chat", "messages": PROMPT}
    with sdk(persona) as client:
        completions = client.chat.completions
        said = completions.parse(response_format=Place, **asked)
        called = completions.parse(tools=[tool], **asked)
        with completions.stream(response_format=Place, **asked) as stream:
            said_in_pieces = stream.get_final_completion()
        with completions.stream(tools=[tool], **asked) as stream:
            called_in_pieces = stream.get_final_completion()
    for completion in (said, said_in_pieces):
        assert isinstance(completion.choices[0].message.parsed, Place)
    for completion in (called, called_in_pieces):
        [call] = completion.choices[0].message.tool_calls or ()
        assert isinstance(call.function.parsed_arguments, GetWeather)
