"""Streams drawn at random, read by the official package and through the service."""

import json
from typing import Any

import pytest
from hypothesis import given, note

from dub5.simulators.virtual import run
from tests.experiments import upstream_reading
from tests.experiments.deviations.heard import hear_bytes
from tests.support.odd_streams import OddStream, odd_streams
from tests.support.world import ServiceWorld, script

KNOWN_REASONS = ("stop", "length", "content_filter", "tool_calls")


def through_the_service(stream: OddStream, delivery: str) -> tuple[int, bytes]:
    """Return what a client receives of such a provider's stream."""

    async def play() -> tuple[int, bytes]:
        route: dict[str, Any] = {"delivery": delivery}
        async with ServiceWorld(one=script(*stream.script()), route=route) as world:
            answer = await world.ask(stream=True)
            return answer.status, answer.body

    return run(play(), seed=1)


@pytest.mark.parametrize("delivery", ["live", "whole"])
@given(stream=odd_streams())
def test_the_same_text_or_a_failure(delivery: str, stream: OddStream) -> None:
    """What is whole through the service has the text that the package reads of the provider, and its proper
    end; what the package reads of a proper answer is whole, but for the strictness that is meant."""
    status, body = through_the_service(stream, delivery)
    seen, itself = hear_bytes(status, body), hear_bytes(200, stream.body, stream.broken)
    oracle = upstream_reading.openai_stream(stream.body)
    note(f"{stream.told}\n{stream.body!r}\n{body!r}\n{itself}")
    assert bool(seen.error) == (b"[DONE]" not in body)
    if seen.error:
        proper = oracle.whole is not None and itself.text and not itself.error
        assert not proper or is_doubtful(stream.body), "a whole answer is lost"
        return
    assert oracle.whole is not None, "told as whole, and no provider said so"
    assert upstream_reading.begins(oracle.whole, upstream_reading.openai_stream(body).texts)
    if not itself.error:
        assert (seen.text, json.dumps(seen.others)) == (itself.text, json.dumps(itself.others))


def is_doubtful(body: bytes) -> bool:
    """Return whether the service is stricter on purpose: it holds an error, a finish reason outside the list,
    content that no client can read, or more content after the finish."""
    finished = False
    for _, data in upstream_reading.events(body):
        if data.startswith(b"[DONE]"):
            return not finished
        try:
            chunk = json.loads(data)
        except ValueError:
            if data.startswith(b"{"):
                return True
            continue
        if not isinstance(chunk, dict):
            continue
        choices = chunk.get("choices") or []
        if "error" in (chunk.get("type"), chunk.get("object")) or not isinstance(choices, list):
            return True
        for choice in choices:
            if not isinstance(choice, dict) or _is_doubtful(choice, finished):
                return True
            finished = finished or bool(choice.get("finish_reason"))
    return False


def _is_doubtful(choice: dict[str, Any], finished: bool) -> bool:
    delta, reason = choice.get("delta") or {}, choice.get("finish_reason")
    if (reason and reason not in KNOWN_REASONS) or not isinstance(delta, dict):
        return True
    content = delta.get("content")
    more = finished and any(value for name, value in delta.items() if name != "role")
    return more or bool(content and not isinstance(content, str | list))
