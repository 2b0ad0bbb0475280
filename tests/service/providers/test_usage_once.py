"""The usage of a stream is told as OpenAI tells it: in one chunk of its own at the end, where asked for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.simulators.personas import PERSONAS
from dub5.simulators.virtual import AppResponse, run
from tests.support.dialect_client import chat
from tests.support.examples import examples
from tests.support.world import payloads

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
KINDS = st.sampled_from(
    [
        {},
        {"tools": [WEATHER]},
        {"response_format": {"type": "json_object"}},
        {"max_tokens": 3},
        {"temperature": 0, "seed": 1},
    ]
)
OPTIONS = st.sampled_from(
    [{}, {"stream_options": None}, {"stream_options": {}}]
    + [{"stream_options": {"include_usage": value}} for value in (None, False, True, True, True)]
)


@pytest.mark.parametrize("persona", PERSONAS)
@examples(30)
@given(kind=KINDS, options=OPTIONS, delivery=st.sampled_from(["live", "whole"]))
def test_usage_is_told_once(
    persona: str, kind: dict[str, Any], options: dict[str, Any], delivery: str
) -> None:
    """Whatever the provider sends by itself, a client gets the usage once if it asked, and else never."""

    async def ask() -> AppResponse:
        async with chat(persona) as client:
            headers = {"x-dub5-delivery": delivery}
            return await client.ask(
                headers=headers,
                stream=True,
                messages=[{"role": "user", "content": "The weather?"}],
                **kind,
                **options,
            )

    answer = run(ask())
    assert answer.status == 200, answer.body
    *events, done = payloads(answer.body)
    asked = (options.get("stream_options") or {}).get("include_usage") is True
    told = [event for event in events if event.get("usage") is not None]
    assert done == "[DONE]"
    assert told == (events[-1:] if asked else [])
    assert all(event["choices"] for event in events[: -1 if asked else None])
    for event in told:
        usage = event["usage"]
        assert event["choices"] == []
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
