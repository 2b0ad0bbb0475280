"""A simulated provider answers as a good model would: tool calls and JSON are valid by their schemas."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.simulators.answers import Proof, judge
from dub5.simulators.personas import PERSONAS
from dub5.simulators.personas.output import SimulatedTool
from dub5.simulators.schema_values import NoValue, value_of
from tests.support.drawn_schemas import SCHEMAS, TOOL_SCHEMAS
from tests.support.examples import examples
from tests.support.json_schema import problems
from tests.support.play import PlayedScript, ask

PROMPT = [{"role": "user", "content": "What is the weather in Paris?"}]
RESULT = {"role": "tool", "tool_call_id": "abc123xyz", "content": "Rain."}
ANTHROPIC_RESULT = {
    "role": "user",
    "content": [{"type": "tool_result", "tool_use_id": "t", "content": "Rain."}],
}


def tools(persona: str, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """Return tools as this persona's API takes them."""
    if persona == "anthropic":
        return [{"name": name, "input_schema": schema} for name, schema in schemas.items()]
    named = [{"name": name, "parameters": schema} for name, schema in schemas.items()]
    return [{"type": "function", "function": function} for function in named]


def calls(persona: str, played: PlayedScript, *, stream: bool) -> list[tuple[str, Any]]:
    """Return the name and the arguments of each call, joined by index where they come in pieces."""
    assert played.status == 200, played.body
    if persona == "anthropic":
        return _anthropic_calls(played, stream=stream)
    if not stream:
        found = played.json["choices"][0]["message"].get("tool_calls") or []
        return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in found]
    joined: dict[int, list[str]] = {}
    for event in played.events:
        for choice in event["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                name, arguments = joined.setdefault(call["index"], ["", ""])
                function = call["function"]
                joined[call["index"]] = [name + function.get("name", ""), arguments + function["arguments"]]
    assert list(joined) == list(range(len(joined)))
    return [(name, json.loads(arguments)) for name, arguments in joined.values()]


def _anthropic_calls(played: PlayedScript, *, stream: bool) -> list[tuple[str, Any]]:
    if not stream:
        return [(b["name"], b["input"]) for b in played.json["content"] if b["type"] == "tool_use"]
    names, texts, open_block = [], [], None
    for event in played.events:
        match event["type"]:
            case "content_block_start":
                assert open_block is None and event["index"] == len(names)
                open_block = event["index"]
                names.append(event["content_block"].get("name"))
                texts.append("")
            case "content_block_delta":
                assert event["index"] == open_block
                texts[open_block] += event["delta"].get("partial_json", "")
            case "content_block_stop":
                assert event["index"] == open_block
                open_block = None
    assert open_block is None
    return [(name, json.loads(text)) for name, text in zip(names, texts, strict=True) if name]


@pytest.mark.parametrize(
    "name, description, prompt, fits",
    [
        ("get_weather", "", "What is the weather in Paris?", True),
        ("getWeatherForecast", "", "Any forecasts for Paris?", True),
        ("calculator", "", "Calculate 2 + 2.", True),
        ("add", "", "Add 2 and 3.", True),
        ("HTTPFetch", "", "Please fetch https://example.com.", True),
        ("lookup", "Convert an amount to another currency.", "A conversion of 5 euros, please.", True),
        ("get_weather", "Return the weather of a city.", "Hi, tell me a joke.", False),
        ("get_weather", "", "Get the time, please.", False),
        ("f", "", "What is f?", False),
    ],
)
def test_fits(name: str, description: str, prompt: str, fits: bool) -> None:
    """A tool fits a prompt that has a telling word of its name or description, in any form."""
    assert SimulatedTool(name, description, {}).fits(prompt) is fits


@examples(300)
@given(schema=st.one_of(SCHEMAS, TOOL_SCHEMAS), text=st.text(max_size=40))
def test_values(schema: Any, text: str) -> None:
    """A value by any schema is valid by it, also where the schema refers to itself."""
    assert problems(value_of(schema, text), schema) == []


def test_the_first_free_text() -> None:
    """The answer stands where any text may, so it proves itself; other texts are words."""
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in "ab"}, "required": ["a"]}
    value = value_of(schema, "one answers")
    assert value["a"] == "one answers" != value["b"]


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}, "required": ["a"]},
        {"$ref": "#"},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "boy"},
        {"type": "string", "pattern": "("},
        {"type": "object", "minProperties": "x"},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
    ],
    ids=str,
)
def test_no_value(schema: Any) -> None:
    """A schema that allows nothing, or makes no sense, has no value; it is found out at once."""
    with pytest.raises(NoValue):
        value_of(schema, "x")


@pytest.mark.parametrize("persona", PERSONAS)
class TestEveryPersona:
    @examples(40)
    @given(
        schemas=st.lists(TOOL_SCHEMAS, min_size=1, max_size=3), stream=st.booleans(), parallel=st.booleans()
    )
    def test_tools_on_auto(self, persona: str, schemas: list[Any], stream: bool, parallel: bool) -> None:
        """The tools that fit the prompt are called, one or all of them, by their own schemas."""
        offered = {f"get_weather{number}": schema for number, schema in enumerate(schemas)}
        more = {"get_stock_price": {"type": "object", "properties": {}}}
        fields: dict[str, Any] = {"tools": tools(persona, more | offered), "messages": PROMPT}
        if not parallel and persona == "anthropic":
            fields["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
        elif not parallel:
            fields["parallel_tool_calls"] = False
        played = ask(persona, stream=stream, max_tokens=100_000, **fields)
        found = calls(persona, played, stream=stream)
        assert [name for name, _ in found] == list(offered)[: None if parallel else 1]
        for name, arguments in found:
            assert problems(arguments, offered[name]) == []
        reason = b'"tool_use"' if persona == "anthropic" else b'"tool_calls"'
        assert reason in played.body

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        "messages, choice",
        [
            ([{"role": "user", "content": "Hi"}], "auto"),
            (PROMPT, "none"),
            ([*PROMPT, RESULT], "auto"),
        ],
        ids=["no fit", "none", "result"],
    )
    def test_a_text(self, persona: str, messages: list[Any], choice: str, stream: bool) -> None:
        """Without a tool that fits, or with its result at hand, the answer is a text."""
        if persona == "anthropic" and messages[-1] == RESULT:
            messages = [*messages[:-1], ANTHROPIC_RESULT]
        chosen: Any = {"type": choice} if persona == "anthropic" else choice
        offered = tools(persona, {"get_weather": {"type": "object"}})
        played = ask(persona, stream=stream, tools=offered, tool_choice=chosen, messages=messages)
        assert calls(persona, played, stream=stream) == []

    @examples(40)
    @given(schema=TOOL_SCHEMAS, stream=st.booleans())
    def test_json(self, persona: str, schema: Any, stream: bool) -> None:
        """An answer by a schema is JSON that is valid by it."""
        if persona == "anthropic":
            form: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        else:
            form = {
                "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
            }
        played = ask(persona, stream=stream, max_tokens=100_000, **form)
        assert problems(json.loads(text_of(persona, played, stream=stream)), schema) == []

    @pytest.mark.parametrize("stream", [False, True])
    def test_any_json(self, persona: str, stream: bool) -> None:
        """JSON without a schema is an object with the answer; a text that `max_tokens` cuts is no JSON."""
        form: dict[str, Any] = {"response_format": {"type": "json_object"}}
        if persona == "anthropic":
            form = {"system": "Answer with one JSON object."}
        text = text_of(persona, ask(persona, stream=stream, **form), stream=stream)
        assert judge(json.loads(text)["answer"], "hi") is judge(text, "hi") is Proof.WHOLE
        cut = ask(persona, stream=stream, **form, max_tokens=3)
        assert judge(text_of(persona, cut, stream=stream), "hi") is Proof.CUT
        assert (b'"max_tokens"' if persona == "anthropic" else b'"length"') in cut.body

    def test_a_schema_without_a_value(self, persona: str) -> None:
        """A tool whose schema allows nothing is refused, as the real API refuses what it cannot read."""
        offered = tools(
            persona, {"get_weather": {"type": "object", "required": ["a"], "additionalProperties": False}}
        )
        assert ask(persona, tools=offered, messages=PROMPT).status == 400


def text_of(persona: str, played: PlayedScript, *, stream: bool) -> str:
    """Return the text of an answer."""
    assert played.status == 200, played.body
    if persona == "anthropic":
        if not stream:
            return str(played.json["content"][0]["text"])
        return "".join(
            e["delta"].get("text", "") for e in played.events if e["type"] == "content_block_delta"
        )
    if not stream:
        return str(played.json["choices"][0]["message"]["content"])
    deltas = (choice["delta"] for event in played.events for choice in event["choices"])
    return "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize("length", range(1, 60))
def test_judged_json(length: int) -> None:
    """A cut at any character of an object with the answer is seen."""
    text = text_of("openai", ask("openai", response_format={"type": "json_object"}), stream=False)
    assert judge(text[:length], "hi") is judge(text[:-length], "hi") is Proof.CUT
    assert judge(text, "other") is Proof.FOREIGN


@pytest.mark.parametrize("persona", PERSONAS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_in_the_prompt(persona: str, stream: bool) -> None:
    """Where the prompt holds a schema and speaks of JSON, as clients write it, the answer is valid by it."""
    schema = {
        "properties": {"n": {"$ref": "#/$defs/n"}},
        "required": ["n"],
        "$defs": {"n": {"type": "integer"}},
    }
    for said in (
        f"As JSON, not {{x}}, by:\n{json.dumps(schema, indent=2)}",
        f"```json\n{json.dumps(schema)}```",
    ):
        messages = [{"role": "user", "content": said}]
        text = text_of(persona, ask(persona, stream=stream, messages=messages), stream=stream)
        assert problems(json.loads(text), schema) == []
    messages = [{"role": "user", "content": json.dumps(schema)}]
    assert not text_of(persona, ask(persona, messages=messages), stream=False).startswith("{")


def test_results_of_tools() -> None:
    """After the results of tools the answer is still to the last text of the user, in each dialect."""
    for persona, result in (("openai", RESULT), ("anthropic", ANTHROPIC_RESULT)):
        text = text_of(persona, ask(persona, messages=[*PROMPT, result]), stream=False)
        assert judge(text, PROMPT[0]["content"]) is Proof.WHOLE
