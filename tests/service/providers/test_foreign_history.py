"""Histories that other providers wrote: each provider gets them by its documented rules, with every word."""

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dub5.service.providers import fields, slices
from dub5.service.providers.anthropic import AnthropicDialect
from dub5.service.providers.base import Dialect, Unsupported
from dub5.service.providers.mistral import MistralDialect
from tests.support.dialect_requests import request
from tests.support.examples import examples

Turn = dict[str, Any]
NEWER = "2026-10-21"
DIALECTS: Mapping[str, Dialect] = {
    "anthropic": AnthropicDialect(10_000, None, 100),
    "anthropic, newer": AnthropicDialect(10_000, NEWER, 100),
    "mistral": MistralDialect(10_000),
}
# What providers leave in a history.
IDS = ("call_abc123", "functions.get:0", "toolu_01A", "chatcmpl-tool-9f", "D681PevKs", "", "a" * 70, "é 1")
FOREIGN = (
    {"reasoning_content": "Hm"},
    {"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]},
    {"refusal": None, "annotations": [], "audio": None},
    {"extra_content": {"google": {"thought_signature": "c2ln"}}},
    {"provider_specific_fields": {"citations": None}, "thinking_blocks": [{"type": "thinking"}]},
    {"prefix": False, "name": "bot"},
)
CALL_FOREIGN: tuple[dict[str, Any], ...] = (
    {},
    {"index": 0},
    {"extra_content": {"google": {"thought_signature": "c2ln"}}},
    {"provider_specific_fields": {"x": 1}},
)
words = st.text("abc é", min_size=1, max_size=6).filter(str.strip)
texts = st.one_of(words, words.map(lambda word: f"{word} \n"), st.sampled_from(["", " "]))


def parts(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]


def joined(turns: list[list[Turn]]) -> list[Turn]:
    return [turn for some in turns for turn in some]


contents = st.one_of(
    texts,
    texts.map(parts),
    st.lists(texts, min_size=1, max_size=3).map(
        lambda several: [part for text in several for part in parts(text)]
    ),
)
says = st.builds(
    lambda role, content: [{"role": role, "content": content}],
    st.sampled_from(["user", "system", "developer"]),
    contents,
)
answers = st.builds(
    lambda content, more: [{"role": "assistant", "content": content, **more}],
    st.one_of(st.none(), contents),
    st.sampled_from(({}, *FOREIGN)),
)


@st.composite
def calls(draw: st.DrawFn) -> list[Turn]:
    """Draw a turn with calls, and their results in some order, or a user's words in between."""
    ids = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3))
    made = [
        {
            "id": one,
            "type": "function",
            "function": {
                "name": draw(st.sampled_from("fg")),
                "arguments": draw(st.sampled_from(("{}", '{"a":1}', ""))),
            },
            **draw(st.sampled_from(CALL_FOREIGN)),
        }
        for one in ids
    ]
    results: list[Turn] = [
        {"role": "tool", "tool_call_id": one, "content": draw(contents)} for one in draw(st.permutations(ids))
    ]
    if draw(st.integers(0, 5)) == 0:
        results.insert(draw(st.integers(0, len(results))), {"role": "user", "content": draw(words)})
    more = draw(st.sampled_from(({}, *FOREIGN)))
    return [
        {"role": "assistant", "content": draw(st.one_of(st.none(), contents)), "tool_calls": made, **more},
        *results,
    ]


whole = st.lists(st.one_of(says, answers, calls()), min_size=1, max_size=7).map(joined)


@st.composite
def broken(draw: st.DrawFn) -> list[Turn]:
    """Draw a history of which a part is missing."""
    turns = draw(whole)
    del turns[draw(st.integers(0, len(turns) - 1))]
    return turns


def check_anthropic(body: Mapping[str, Any]) -> None:
    """Messages: roles alternate from the user on; no blank text; results first, just after their calls."""
    messages, open_ids, used = body["messages"], set(), set()
    assert [m["role"] for m in messages] == [("user", "assistant")[n % 2] for n in range(len(messages))]
    assert messages and body.get("system", "x").strip()
    for message in messages:
        content = message["content"]
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        assert blocks
        assert all(block["text"].strip() for block in blocks if block["type"] == "text")
        kinds = [block["type"] for block in blocks]
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert kinds[: len(results)] == ["tool_result"] * len(results)
        assert sorted(results) == sorted(open_ids)
        made = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", one) for one in made)
        assert len(used | set(made)) == len(used) + len(made)
        open_ids, used = set(made), used | set(made)
        assert not (made and message["role"] == "user")
    assert not open_ids
    last = messages[-1]["content"]
    text = last if isinstance(last, str) else last[-1].get("text", "")
    assert messages[-1]["role"] == "user" or text == text.rstrip()
    assert not used or body["tools"]


def check_mistral(body: Mapping[str, Any]) -> None:
    """Chat API: known fields; ids of 9; no user after a tool; the user, a tool or a prefix at the end."""
    follows = {
        "": {"system", "user"},
        "system": {"system", "user"},
        "user": {"user", "assistant"},
        "assistant": {"user", "assistant", "tool"},
        "tool": {"tool", "assistant"},
    }
    known = {"role", "content", "tool_calls", "prefix", "tool_call_id", "name"}
    before, open_ids = "", []
    used: set[str] = set()
    for message in body["messages"]:
        role = message["role"]
        assert role in follows[before] and message.keys() <= known
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            assert part.keys() <= {"type", "text"}
        if role == "tool":
            open_ids.remove(message["tool_call_id"])
        else:
            assert not open_ids
        if role == "assistant":
            assert message.get("tool_calls") or (content if isinstance(content, list) else content.strip())
            for call in message.get("tool_calls") or ():
                assert call.keys() <= {"id", "type", "function", "index"}
                assert re.fullmatch("[a-zA-Z0-9]{9}", call["id"]) and call["id"] not in used
                assert json.loads(call["function"]["arguments"]) is not None
                used.add(call["id"])
                open_ids.append(call["id"])
        before = role
    last = body["messages"][-1]
    assert not open_ids and (last["role"] in ("user", "tool") or last.get("prefix") is True)


CHECKS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "anthropic": check_anthropic,
    "anthropic, newer": check_anthropic,
    "mistral": check_mistral,
}
each = pytest.mark.parametrize("name", DIALECTS)


def said_in(turns: list[Turn]) -> list[str]:
    """Return the words of a history."""
    said = []
    for turn in turns:
        content = turn["content"]
        said += [part["text"] for part in content] if isinstance(content, list) else [content]
    return [text.strip() for text in said if text and text.strip()]


def holds(body: object) -> str:
    return json.dumps(body, ensure_ascii=False)


@pytest.mark.parametrize("text_bytes", [slices.TEXT_BYTES, 4], ids=["small", "large"])
@each
@given(whole)
@example([{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Hi"}])
@examples(300)
def test_a_whole_history(name: str, text_bytes: int, turns: list[Turn]) -> None:
    """A history that holds a word is taken, and no word of it gets lost, nor where texts stay undecoded."""
    lazily = (
        mock.patch.object(slices, "TEXT_BYTES", text_bytes),
        mock.patch.object(fields, "LARGE_BYTES", text_bytes),
    )
    try:
        with lazily[0], lazily[1]:
            body = json.loads(DIALECTS[name].encode(request(messages=turns), "m", None).body)
    except Unsupported:
        assert not said_in(turns)
        return
    CHECKS[name](body)
    sent = holds(body)
    assert all(json.dumps(text, ensure_ascii=False)[1:-1] in sent for text in said_in(turns))


@each
@given(broken())
@examples(200)
def test_a_broken_history(name: str, turns: list[Turn]) -> None:
    """A call without its result, or a result without its call, is left to other targets, never sent."""
    if not turns:
        return
    try:
        body = json.loads(DIALECTS[name].encode(request(messages=turns), "m", None).body)
    except Unsupported as error:
        assert error.param.startswith("messages")
        return
    CHECKS[name](body)


def called(ids: list[str]) -> list[Turn]:
    """Return a history with one call for each id, all in one turn, and their results."""
    made = [{"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in ids]
    results = [{"role": "tool", "tool_call_id": one, "content": "x"} for one in ids]
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": made}, *results]


@each
def test_many_calls_of_one_id(name: str) -> None:
    """Twice the calls with the same id take about twice the time to encode."""

    def seconds(count: int) -> float:
        asked = request(messages=called(["call_0"] * count))
        began = time.thread_time()
        DIALECTS[name].encode(asked, "m", None)
        return time.thread_time() - began

    few = min(seconds(200) for _ in range(3))
    assert min(seconds(1600) for _ in range(3)) < 8 * 3 * few


@each
def test_an_image_at_the_end(name: str) -> None:
    """An answer that is to be continued may end with an image."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = [{"type": "text", "text": "Here: "}, image]
    turns = [{"role": "user", "content": "Draw."}, {"role": "assistant", "content": content}]
    sent = DIALECTS[name].encode(request(messages=turns), "m", None).body
    assert b"iVBORw0KGgo=" in sent


@pytest.mark.parametrize("text_bytes", [slices.TEXT_BYTES, 4], ids=["small", "large"])
@each
def test_a_refusal_beside_words(name: str, text_bytes: int) -> None:
    """What an assistant said, and what it refused to say, both are in the history."""
    answer = {"role": "assistant", "content": "One part.", "refusal": "Not the other."}
    turns = [{"role": "user", "content": "Hi"}, answer, {"role": "user", "content": "Go on"}]
    with mock.patch.object(slices, "TEXT_BYTES", text_bytes):
        sent = DIALECTS[name].encode(request(messages=turns), "m", None).body.decode()
    assert sent.index("One part.") < sent.index("Not the other.")


KEYS = ("type", "text", "refusal", "image_url", "url", "id", "function", "name", "arguments", "x")
WORDS = ("", " ", "a", "text", "refusal", "image_url", "https://a", "data:image/png;base64,AA", "{}", "[")
odd = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(WORDS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)
odd_parts = st.builds(
    lambda kind, value, more: {**more, "type": kind, str(kind): value},
    st.sampled_from(("text", "refusal", "image_url", "thinking", None)),
    odd,
    st.dictionaries(st.sampled_from(KEYS), odd, max_size=2),
)
odd_calls = st.fixed_dictionaries(
    {"id": odd},
    optional={"function": st.one_of(odd, st.fixed_dictionaries({"name": odd, "arguments": odd}))},
)
odd_messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(("system", "developer", "user", "assistant", "tool", "function")),
        "content": st.one_of(st.none(), st.sampled_from(WORDS), st.lists(odd_parts, max_size=3)),
    },
    optional={
        "tool_calls": st.lists(odd_calls, max_size=2),
        "tool_call_id": st.sampled_from(WORDS),
        "refusal": odd,
        "reasoning_content": odd,
    },
)


@pytest.mark.parametrize("text_bytes", [slices.TEXT_BYTES, 4], ids=["small", "large"])
@each
@given(st.lists(odd_messages, min_size=1, max_size=4))
@example([{"role": "user", "content": [{"type": "text", "text": [None]}]}])
@examples(200)
def test_any_history(name: str, text_bytes: int, turns: list[Turn]) -> None:
    """Whatever a history holds is sent, or left to other targets: it is never a defect of ours."""
    with mock.patch.object(slices, "TEXT_BYTES", text_bytes):
        try:
            assert json.loads(DIALECTS[name].encode(request(messages=turns), "m", None).body)
        except Unsupported as error:
            assert error.param.startswith("messages")
