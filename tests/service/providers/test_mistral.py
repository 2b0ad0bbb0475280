"""The mistral dialect: its differences from openai."""

import json

from service.providers.mistral import Mistral
from tests.service.providers.test_openai import CONTENT, DONE, choice, event, request
from tests.service.world import payloads

DIALECT = Mistral(event_bytes_max=10_000)
LAST = event(
    id="m",
    choices=[choice({}, "stop")],
    usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
)


def test_only_what_it_knows_is_sent() -> None:
    """Anything else would be answered with 422: renamed where it has a name for it, else left out and named."""
    asked = request(
        max_completion_tokens=9, seed=7, logit_bias={}, stream=True, stream_options={"include_usage": True}
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
    """Text as text, thinking as reasoning."""
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
        {"type": "text", "text": "Hi"},
    ]
    reader = DIALECT.stream(request(stream=True), "m")
    chunk = reader.feed(event(choices=[choice({"content": parts})]))[0]
    delta = payloads(chunk.raw)[0]["choices"][0]["delta"]
    assert delta == {"content": "Hi", "reasoning_content": "Hm"}
    assert chunk.has_content
