"""Usage is known at the end of every whole answer: the provider's own, or an estimate that says so."""

import json

import msgspec
import pytest

from service.chat import Usage
from service.options import CacheOptions
from service.providers.anthropic import Anthropic
from service.providers.base import Dialect
from service.providers.mistral import Mistral
from service.providers.openai import OpenAI
from service.providers.usage import prompt_chars, usage_of
from simulators.script import Data, End, Head
from tests.service.providers.test_anthropic import END, START, STOP, event
from tests.service.providers.test_openai import CONTENT, DONE, USAGE, request
from tests.service.providers.test_openai import STOP as STOPPED
from tests.service.world import World, completion, payloads, reply, script

LONG = "x" * 41
SAID = {"index": 0, "message": {"role": "assistant", "content": LONG}, "finish_reason": "stop"}
ESTIMATED = {"prompt_tokens": 1, "completion_tokens": 11, "total_tokens": 12, "estimated": True}


@pytest.mark.parametrize("dialect", [OpenAI(10_000), Mistral(10_000)], ids=["openai", "mistral"])
@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {}}, {"usage": "?"}], ids=str)
def test_json_without(dialect: Dialect, usage: dict[str, object]) -> None:
    """One token for four characters, marked, beside everything as it came."""
    answer = dialect.answer(msgspec.json.encode({"choices": [SAID], "x": 1.50, **usage}), request())
    told = json.loads(answer.body)
    assert told == {"choices": [SAID], "x": 1.5, "usage": ESTIMATED}
    assert answer.usage == Usage(1, 11, 12, estimated=True)


def test_json_with() -> None:
    """A usage that is there is never touched."""
    answer = OpenAI(10_000).answer(completion("Hi"), request())
    assert answer.body == completion("Hi")
    assert answer.usage == Usage(1, 3, 4)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize(
    ("dialect", "data"),
    [
        (OpenAI(10_000), CONTENT + STOPPED + DONE),
        (Mistral(10_000), CONTENT + STOPPED + DONE),
        (
            Anthropic(10_000, None, 9),
            event("message_start", message={"id": "m", "model": "m"})
            + event("content_block_delta", index=0, delta={"text": "Hi"})
            + event("message_delta", delta={"stop_reason": "end_turn"})
            + END,
        ),
    ],
    ids=["openai", "mistral", "anthropic"],
)
async def test_stream_without(dialect: Dialect, data: bytes, wanted: bool) -> None:
    """The last chunk of all tells it, to clients that asked; the log hears it anyway."""
    options = {"stream_options": {"include_usage": True}} if wanted else {}
    reader = dialect.stream(request(stream=True, **options), "m")
    chunks = reader.feed(data) + reader.end()
    assert chunks[-1].usage == Usage(1, 1, 2, estimated=True)
    last = payloads(chunks[-1].raw)
    assert bool(last) is wanted
    if wanted:
        assert last[0]["choices"] == []
        assert last[0]["usage"] == {
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "total_tokens": 2,
            "estimated": True,
        }


async def test_anthropic_counts_are_the_providers() -> None:
    """Told in two events, added up once."""
    reader = Anthropic(10_000, None, 9).stream(request(stream=True), "m")
    said = event("content_block_delta", index=0, delta={"text": "Hi"})
    reader.feed(START + said + STOP + END)
    assert [chunk.usage for chunk in reader.end()] == [Usage(5, 2, 7)]


def test_what_counts_as_asked() -> None:
    """Text, wherever it stands, and what goes along with it."""
    call = {"function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    assert prompt_chars(request(messages=messages)) == len("Hi") + len("f") + len("{}")


@pytest.mark.parametrize(
    "said", [None, [], "9", {"prompt_tokens": "9"}, {"prompt_tokens": -1}, {"total_tokens": 0}]
)
def test_no_count(said: object) -> None:
    """What counts nothing is no usage."""
    assert usage_of(said) is None


async def test_end_to_end() -> None:
    """Client, board and log all see that it is estimated."""
    body = json.dumps({"choices": [SAID]}).encode()
    stream = (CONTENT, STOPPED, DONE)
    async with World(one=lambda request: reply(200, body)) as world:
        assert (await world.ask()).json()["usage"]["estimated"] is True
        row = world.service.board.snapshot()["recent"][0]
        assert (row["tokens"], row["tokens_estimated"]) == ([1, 11], True)
    actions = (Head(200, {"content-type": "text/event-stream"}), *map(Data, stream), End())
    async with World(one=script(*actions)) as world:
        answer = await world.ask(stream=True, stream_options={"include_usage": True})
        assert payloads(answer.body)[-2]["usage"]["estimated"] is True
        assert payloads(answer.body)[-1] == "[DONE]"


async def test_from_the_cache() -> None:
    """A stream whose client did not ask for usage is replayed to one that does, with it."""
    actions = (
        Head(200, {"content-type": "text/event-stream"}),
        *map(Data, (CONTENT, STOPPED, USAGE, DONE)),
        End(),
    )
    async with World(one=script(*actions), route={"cache": CacheOptions(enabled=True)}) as world:
        await world.ask(stream=True, temperature=0)
        answer = await world.ask(temperature=0)
    assert answer.headers["x-dub5-cache"] == "hit"
    assert answer.json()["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
