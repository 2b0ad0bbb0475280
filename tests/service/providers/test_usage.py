"""Usage is known at the end of every whole answer: the provider's own, or an estimate that says so. It is
known of answers that broke off, too, and of every try that may be billed."""

import asyncio
import json

import msgspec
import pytest

from dub5.service.app import Service
from dub5.service.config.options import CacheOptions, TimeoutOptions
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Settings
from dub5.service.events import AttemptEnded, Event, RequestEnded
from dub5.service.model import Outcome, Price, Usage
from dub5.service.providers.anthropic import AnthropicDialect
from dub5.service.providers.base import Dialect
from dub5.service.providers.mistral import MistralDialect
from dub5.service.providers.openai import OpenAIDialect
from dub5.service.providers.usage import parse_usage, prompt_tokens
from dub5.service.tokens import estimate_tokens
from dub5.simulators.script import Action, Close, Data, End, Hang, Head, Reset, Wait
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.support.anthropic_events import END, START, STOP, event
from tests.support.dialect_requests import request
from tests.support.openai_events import CONTENT, DONE, USAGE, choice
from tests.support.openai_events import STOP as STOPPED
from tests.support.openai_events import event as chunk
from tests.support.world import SSE, ServiceWorld, body, completion, payloads, reply, script, text_of

LONG = "x" * 41
SAID = {"index": 0, "message": {"role": "assistant", "content": LONG}, "finish_reason": "stop"}
ESTIMATED = {"prompt_tokens": 1, "completion_tokens": 11, "total_tokens": 12, "estimated": True}


@pytest.mark.parametrize(
    "dialect", [OpenAIDialect(10_000), MistralDialect(10_000)], ids=["openai", "mistral"]
)
@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {}}, {"usage": "?"}], ids=str)
def test_json_without(dialect: Dialect, usage: dict[str, object]) -> None:
    """Without usage a JSON answer gets an estimate, marked as such."""
    answer = dialect.answer(msgspec.json.encode({"choices": [SAID], "x": 1.50, **usage}), request())
    told = json.loads(answer.body)
    assert told == {"choices": [SAID], "x": 1.5, "usage": ESTIMATED}
    assert answer.usage == Usage(1, 11, 12, estimated=True)


def test_json_with() -> None:
    """An existing usage is never changed."""
    answer = OpenAIDialect(10_000).answer(completion("Hi"), request())
    assert answer.body == completion("Hi")
    assert answer.usage == Usage(1, 3, 4)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize(
    ("dialect", "data"),
    [
        (OpenAIDialect(10_000), CONTENT + STOPPED + DONE),
        (MistralDialect(10_000), CONTENT + STOPPED + DONE),
        (
            AnthropicDialect(10_000, None, 9),
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
    """Anthropic's counts, sent in two events, are added up once."""
    reader = AnthropicDialect(10_000, None, 9).stream(request(stream=True), "m")
    said = event("content_block_delta", index=0, delta={"text": "Hi"})
    reader.feed(START + said + STOP + END)
    assert [chunk.usage for chunk in reader.end()] == [Usage(5, 2, 7)]


def test_what_counts_as_asked() -> None:
    """The estimate of the prompt counts all text, and what goes along with it."""
    call = {"function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    assert prompt_tokens(request(messages=messages)) == estimate_tokens(["Hi", "f", "{}"]) > 1


@pytest.mark.parametrize(
    "said", [None, [], "9", {"prompt_tokens": "9"}, {"prompt_tokens": -1}, {"total_tokens": 0}]
)
def test_no_count(said: object) -> None:
    """A usage without counts is no usage."""
    assert parse_usage(said) is None


async def test_end_to_end() -> None:
    """Client, board and log show that the usage is estimated."""
    body = json.dumps({"choices": [SAID]}).encode()
    stream = (CONTENT, STOPPED, DONE)
    async with ServiceWorld(one=lambda request: reply(200, body)) as world:
        assert (await world.ask()).json()["usage"]["estimated"] is True
        row = world.service.board.snapshot()["recent"][0]
        assert (row["tokens"], row["tokens_estimated"]) == ([1, 11], True)
    actions = (Head(200, {"content-type": "text/event-stream"}), *map(Data, stream), End())
    async with ServiceWorld(one=script(*actions)) as world:
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
    async with ServiceWorld(one=script(*actions), route={"cache": CacheOptions(enabled=True)}) as world:
        await world.ask(stream=True, temperature=0)
        answer = await world.ask(temperature=0)
    assert answer.headers["x-dub5-cache"] == "hit"
    assert answer.json()["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


DIALECTS = ("openai", "mistral", "anthropic")
PRICE = Price(prompt=2.5, completion=10.0)
PROMPT = "x" * 49  # estimated as 11 tokens
PIECES = ("One two ", "three four ", "five")  # after two of them 19 characters, so 5 tokens
COUNTED = {"prompt_tokens": 500, "completion_tokens": 40, "total_tokens": 540}
OPENING = event("message_start", message={"id": "m", "model": "m", "usage": {"input_tokens": 500}})
TIMEOUTS = TimeoutOptions(first_token_s=2, whole_answer_s=2, between_tokens_s=2)
WELL = (Head(200, SSE), Data(CONTENT + STOPPED + USAGE + DONE), End())


def saying(dialect: str, piece: str) -> bytes:
    """A piece of the answer, as this dialect's stream says it."""
    match dialect:
        case "anthropic":
            return event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
        case "mistral":
            return chunk(choices=[choice({"content": [{"type": "text", "text": piece}]})])
    return chunk(choices=[choice({"content": piece})])


def ending(dialect: str) -> bytes:
    """The end of a whole stream, with what the provider counted."""
    match dialect:
        case "anthropic":
            why = {"stop_reason": "end_turn"}
            return event("message_delta", delta=why, usage={"output_tokens": 40}) + END
        case "mistral":
            return chunk(choices=[choice({}, "stop")], usage=COUNTED) + DONE
    return STOPPED + chunk(choices=[], usage=COUNTED) + DONE


def begun(dialect: str, count: int) -> list[Action]:
    """A stream up to so many pieces, 100 ms apart."""
    pieces = [action for piece in PIECES[:count] for action in (Data(saying(dialect, piece)), Wait(0.1))]
    return [Head(200, SSE), *([Data(OPENING)] if dialect == "anthropic" else []), Wait(0.1), *pieces]


def whole(dialect: str) -> tuple[Action, ...]:
    return (*begun(dialect, 3), Data(ending(dialect)), End())


def usage_so_far(dialect: str, completion_tokens: int) -> Usage:
    """The estimate. Messages tells its prompt's tokens at the beginning."""
    prompt = 500 if dialect == "anthropic" else 11
    return Usage(prompt, completion_tokens, prompt + completion_tokens, estimated=True)


class BilledRoute:
    """A route to "one", which plays `actions`, and then to "two", which is well. What they cost is told."""

    def __init__(self, dialect: str, *actions: Action, prices: bool = True) -> None:
        self.tries: dict[str, AttemptEnded] = {}
        self.ended: RequestEnded
        urls = {"one": "http://one.test", "two": "http://two.test"}
        cost = {"m": PRICE} if prices else {}
        providers = (
            ProviderSettings("one", dialect, urls["one"], prices=cost),  # type: ignore[arg-type]
            ProviderSettings("two", "openai", urls["two"], prices=cost),
        )
        settings = Settings(providers, (RouteSettings("chat", ("one/m", "two/m"), timeouts=TIMEOUTS),))
        wire = VirtualWire({urls["one"]: script(*actions), urls["two"]: script(*WELL)})
        self._client = AppClient(Service(LoadedSettings(settings, {}, ()), wire=wire, log=self._note).asgi)

    async def ask(self, *, stream: bool = True, leave_at_s: float | None = None) -> str:
        """What the client has read when it is over, or when it leaves."""
        asked = body(stream=stream, messages=[{"role": "user", "content": PROMPT}])
        received = b""
        async with self._client as client:
            try:
                async with (
                    asyncio.timeout(leave_at_s),
                    client.stream("POST", "/v1/chat/completions", json=asked) as reply,
                ):
                    while data := await reply.read():
                        received += data
            except TimeoutError:
                pass
        return text_of(received)

    def _note(self, fact: Event) -> None:
        if isinstance(fact, AttemptEnded):
            self.tries[fact.provider] = fact
        elif isinstance(fact, RequestEnded):
            self.ended = fact


def cost_usd(usage: Usage) -> float:
    return (usage.prompt_tokens * 2.5 + usage.completion_tokens * 10.0) / 1e6


BREAKS: dict[str, tuple[Action, ...]] = {"closed": (Close(),), "reset": (Reset(),), "silent": (Hang(),)}


class TestBrokenOff:
    @pytest.mark.parametrize("dialect", DIALECTS)
    @pytest.mark.parametrize("how", BREAKS)
    async def test_cut(self, dialect: str, how: str) -> None:
        """A stream that breaks off has used its prompt and what was said, and that is what it costs."""
        billed = BilledRoute(dialect, *begun(dialect, 2), *BREAKS[how])
        assert await billed.ask() == "One two three four "
        usage, tried = usage_so_far(dialect, 5), billed.tries["one"].attempt
        assert billed.ended.outcome is Outcome.CUT
        assert billed.ended.usage == tried.usage == usage
        assert tried.maybe_billed and tried.cost_usd == cost_usd(usage)

    @pytest.mark.parametrize("dialect", DIALECTS)
    async def test_client_leaves(self, dialect: str) -> None:
        """A stream whose client leaves is estimated from what had been sent by then."""
        billed = BilledRoute(dialect, *whole(dialect))
        assert await billed.ask(leave_at_s=0.25) == "One two three four "
        usage, tried = usage_so_far(dialect, 5), billed.tries["one"].attempt
        assert (billed.ended.outcome, tried.reason) == (Outcome.CANCELLED, "cancelled")
        assert billed.ended.usage == tried.usage == usage
        assert tried.maybe_billed and tried.cost_usd == cost_usd(usage)

    @pytest.mark.parametrize("dialect", DIALECTS)
    async def test_client_leaves_before_content(self, dialect: str) -> None:
        """A client that leaves before the content still costs the prompt."""
        billed = BilledRoute(dialect, *whole(dialect))
        assert await billed.ask(leave_at_s=0.05) == ""
        usage, tried = usage_so_far(dialect, 0), billed.tries["one"].attempt
        assert billed.ended.outcome is Outcome.CANCELLED
        assert (tried.usage, tried.cost_usd) == (usage, cost_usd(usage))

    async def test_counted_along(self) -> None:
        """A provider that counts in each chunk has counted a stream that is cut, too."""
        said = chunk(choices=[choice({"content": "Hi"})], usage=COUNTED)
        billed = BilledRoute("openai", Head(200, SSE), Data(said), Close())
        assert await billed.ask() == "Hi"
        assert billed.ended.usage == billed.tries["one"].attempt.usage == Usage(500, 40, 540)

    async def test_counted_at_the_beginning(self) -> None:
        """The first count of Messages holds a token or two of the answer: the estimate is never below it."""
        usage = {"input_tokens": 500, "output_tokens": 9}
        start = event("message_start", message={"id": "m", "model": "m", "usage": usage})
        billed = BilledRoute("anthropic", Head(200, SSE), Data(start + saying("anthropic", "Hi")), Close())
        await billed.ask()
        assert billed.ended.usage == Usage(500, 9, 509, estimated=True)


NO_CONTENT: dict[str, tuple[bool, tuple[Action, ...]]] = {
    "reset before the headers": (True, (Reset(),)),
    "silence before the headers": (True, (Hang(),)),
    "silence after the headers": (True, (Head(200, SSE), Hang())),
    "a finish and nothing else": (True, (Head(200, SSE), Data(STOPPED + DONE), End())),
    "a page of HTML": (True, (Head(200, {"content-type": "text/html"}), Data(b"<p>"), End())),
    "half a JSON answer": (False, (Head(200, {}), Data(completion("Hi")[:40]), Close())),
    "JSON that comes too late": (False, (Head(200, {}), Wait(9), Data(completion("Hi")), End())),
}
NOT_BILLED: dict[str, tuple[Action, ...]] = {
    "429": tuple(reply(429)),
    "500": tuple(reply(500)),
    "530": tuple(reply(530)),
}


class TestWithoutContent:
    @pytest.mark.parametrize("name", NO_CONTENT)
    async def test_perhaps_billed(self, name: str) -> None:
        """Each failed attempt may cost its prompt; the answer's usage is that of the target that gave it."""
        is_stream, actions = NO_CONTENT[name]
        billed = BilledRoute("openai", *actions)
        await billed.ask(stream=is_stream)
        tried = billed.tries["one"].attempt
        assert tried.maybe_billed and tried.usage == Usage(11, 0, 11, estimated=True)
        assert tried.cost_usd == 11 * 2.5 / 1e6
        if is_stream:
            assert billed.ended.target == "two/m" and billed.ended.usage == Usage(1, 2, 3)
            *failed, last = [one.cost_usd for one in billed.ended.attempts]
            assert set(failed) == {11 * 2.5 / 1e6} and last == (2.5 + 20.0) / 1e6

    async def test_prompt_as_counted(self) -> None:
        """Where the provider has told the prompt's tokens by then, they are its own."""
        role = chunk(
            choices=[choice({"role": "assistant"})], usage={"prompt_tokens": 500, "total_tokens": 500}
        )
        for dialect, opening in (("anthropic", OPENING), ("openai", role)):
            billed = BilledRoute(dialect, Head(200, SSE), Data(opening), Close())
            await billed.ask()
            told = billed.tries["one"].attempt.usage
            assert told == Usage(500, 0, 500, estimated=dialect == "anthropic")

    @pytest.mark.parametrize("name", NOT_BILLED)
    async def test_not_billed(self, name: str) -> None:
        """A refused attempt costs nothing."""
        billed = BilledRoute("openai", *NOT_BILLED[name])
        await billed.ask()
        tried = billed.tries["one"].attempt
        assert (tried.maybe_billed, tried.usage, tried.cost_usd) == (False, None, None)


class TestWhole:
    @pytest.mark.parametrize("dialect", DIALECTS)
    async def test_stream(self, dialect: str) -> None:
        """A stream with usage has the provider's count, and no estimate."""
        billed = BilledRoute(dialect, *whole(dialect))
        assert await billed.ask() == "".join(PIECES)
        tried = billed.tries["one"].attempt
        assert billed.ended.outcome is Outcome.COMPLETE
        assert billed.ended.usage == tried.usage == Usage(500, 40, 540)
        assert not tried.maybe_billed and tried.cost_usd == (500 * 2.5 + 40 * 10.0) / 1e6

    async def test_json(self) -> None:
        """A JSON answer with usage has the provider's count, and no estimate."""
        billed = BilledRoute("openai", *reply(200, completion("Hi")))
        await billed.ask(stream=False)
        tried = billed.tries["one"].attempt
        assert billed.ended.usage == tried.usage == Usage(1, 3, 4)
        assert tried.cost_usd == (2.5 + 30.0) / 1e6

    @pytest.mark.parametrize("count", [2, 3])
    async def test_no_price(self, count: int) -> None:
        """Without a price tokens are counted, and costs are not."""
        end = (Close(),) if count == 2 else (Data(ending("openai")), End())
        billed = BilledRoute("openai", *begun("openai", count), *end, prices=False)
        await billed.ask()
        tried = billed.tries["one"].attempt
        assert tried.usage is not None and tried.cost_usd is None
