"""Odd values anywhere in a request: each dialect translates them or declines them, and never fails."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from dub5.service.config.settings import DialectOverrides, ProviderSettings
from dub5.service.model import ChatRequest
from dub5.service.providers.base import Unsupported
from dub5.service.providers.registry import dialect_of
from tests.support.dialect_requests import request

ODD: tuple[Any, ...] = (None, True, 7, 1.5, "", "x", "a\r\nb", [], ["x"], [[]], [None], {}, {"a": 1}, [{}])
HEADER_SAFE = re.compile(r"[ -~]*")
NAMES = {"type": "text", "text": "Hi"}

Place = Callable[[Any], dict[str, Any]]


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", **fields}]}


def part(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, fields]}]}


def call(**fields: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    return message(tool_calls=[{"id": "call_1", "type": "function", "function": function, **fields}])


PLACES: dict[str, Place] = {
    "part.type": lambda odd: part(type=odd, text="Hi"),
    "part.text": lambda odd: part(type="text", text=odd),
    "part.refusal": lambda odd: part(type="refusal", refusal=odd),
    "part.image_url": lambda odd: part(type="image_url", image_url=odd),
    "part.image_url.url": lambda odd: part(type="image_url", image_url={"url": odd}),
    "part.image_url.detail": lambda odd: part(
        type="image_url", image_url={"url": "https://a/b.png", "detail": odd}
    ),
    "message.refusal": lambda odd: message(content=None, refusal=odd),
    "message.other": lambda odd: message(content="Hi", **{"an\r\nx: y": odd}),
    "call.id": lambda odd: call(id=odd),
    "call.type": lambda odd: call(type=odd),
    "call.function": lambda odd: call(function=odd),
    "call.function.name": lambda odd: call(function={"name": odd, "arguments": "{}"}),
    "call.function.arguments": lambda odd: call(function={"name": "f", "arguments": odd}),
    "tool.type": lambda odd: {"tools": [{"type": odd, "function": {"name": "f"}}]},
    "tool.function": lambda odd: {"tools": [{"type": "function", "function": odd}]},
    "tool.function.name": lambda odd: {"tools": [{"type": "function", "function": {"name": odd}}]},
    "tool.function.parameters": lambda odd: {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": odd}}]
    },
    "tool_choice": lambda odd: {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": odd,
    },
    "tool_choice.function": lambda odd: {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": {"type": "function", "function": odd},
    },
    "parallel_tool_calls": lambda odd: {"parallel_tool_calls": odd},
    "response_format": lambda odd: {"response_format": odd},
    "response_format.type": lambda odd: {"response_format": {"type": odd}},
    "response_format.json_schema": lambda odd: {
        "response_format": {"type": "json_schema", "json_schema": odd}
    },
    "response_format.schema": lambda odd: {
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": odd}}
    },
    "response_format.schema.properties": lambda odd: {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": {"type": "object", "properties": odd}},
        }
    },
    "user": lambda odd: {"user": odd},
    "top_k": lambda odd: {"top_k": odd},
    "metadata": lambda odd: {"metadata": odd},
    "functions": lambda odd: {"functions": odd},
    "modalities": lambda odd: {"modalities": odd},
    "a\r\nx-forged: y": lambda odd: {"a\r\nx-forged: y": odd},
}
OVERRIDES = {
    "plain": DialectOverrides(),
    "overridden": DialectOverrides(
        renames={"user": "end_user"},
        drops=("messages.refusal", "metadata"),
        refuses=("messages.content.image_url", "functions"),
        developer_role=False,
    ),
}


def odd_requests(place: Place) -> Iterator[tuple[Any, ChatRequest]]:
    """Yield each request that the schema lets in."""
    for odd in ODD:
        try:
            yield odd, request(**place(odd))
        except msgspec.ValidationError:
            continue


@pytest.mark.parametrize("overrides", OVERRIDES.values(), ids=OVERRIDES)
@pytest.mark.parametrize("name", ["openai", "mistral", "anthropic"])
@pytest.mark.parametrize("place", PLACES.values(), ids=map(repr, PLACES))
def test_odd_values(name: Any, place: Place, overrides: DialectOverrides) -> None:
    """An odd value is translated or declined, never a defect of ours, and its name fits in a header."""
    dialect = dialect_of(ProviderSettings("p", name, "http://p.test/v1", overrides=overrides), 1000)
    for odd, asked in odd_requests(place):
        try:
            encoded = dialect.encode(asked, "m", "key")
        except Unsupported as error:
            assert HEADER_SAFE.fullmatch(error.param), odd
            continue
        assert isinstance(msgspec.json.decode(encoded.body), dict)
        assert all(HEADER_SAFE.fullmatch(dropped) for dropped in encoded.dropped), odd


@pytest.mark.parametrize("kind", ["text", "refusal"])
def test_no_text_is_no_word(kind: str) -> None:
    """Null text of a part is no text: Anthropic does not read the word "None"."""
    dialect = dialect_of(ProviderSettings("p", "anthropic", "http://p.test/v1"), 1000)
    assert b"None" not in dialect.encode(request(**part(type=kind, **{kind: None})), "m", "key").body
