"""A refusal by one target is neither the caller's fault nor everybody's, until another one says the same."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.service import clock
from dub5.service.config.settings import LoadedSettings, Secret
from dub5.service.errors import InvalidRequest
from dub5.service.resilience.error_topics import never_fits
from dub5.service.telemetry.mistakes import MISTAKES
from dub5.simulators import virtual
from dub5.simulators.script import Data, End, Head, Respond, Script, SimRequest
from tests.support.world import (
    SSE,
    ServiceWorld,
    chunk,
    completion,
    healthy,
    in_turn,
    payloads,
    reply,
    status,
)


def refusing(number: int = 400, message: str = "no", code: str = "") -> Respond:
    """Answer every request with this error."""
    return status(number, json.dumps({"error": {"message": message, "code": code}}).encode())


# Texts that a caller may send, and a provider may repeat.
WORDS = (
    "my credit balance is too low",
    "api key not valid",
    "the model x does not exist",
    "your account has been suspended",
    "this request was blocked by the firewall",
    "insufficient quota, check your billing",
    "prompt is too long",
)


def unless(good: Respond, odd: Respond) -> Respond:
    """Answer requests with `temperature: 3` by `odd`, others by `good`."""

    def respond(request: SimRequest) -> Script:
        return (odd if json.loads(request.body).get("temperature") == 3 else good)(request)

    return respond


class TestAnother:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("number", "message"),
        [
            (400, "Your credit balance is too low to access the API."),
            (400, "API key not valid."),
            (400, "The model `m` has been decommissioned."),
            (400, "Unrecognized request argument supplied: stream_options"),
            (400, "messages.1: reasoning_content: Extra inputs are not permitted"),
            (400, "tools.0.input_schema: anyOf is not supported at the top level"),
            (400, "prompt is too long: 210000 tokens > 200000 maximum"),
            (404, "No endpoints found that support tool use"),
            (422, "Expected last role User or Tool but got assistant"),
            (402, "You can only afford 100 tokens."),
        ],
    )
    async def test_takes_it(self, number: int, message: str, stream: bool) -> None:
        """Whatever one target refuses for, the other one's answer is given."""
        async with ServiceWorld(one=refusing(number, message), two=healthy()) as world:
            answers = [await world.ask(stream=stream) for _ in range(10)]
        assert {answer.headers["x-dub5-target"] for answer in answers} == {"two/m"}

    async def test_refuses_as_well(self) -> None:
        """After a second refusal nobody else is asked, and the client reads the first one."""
        async with ServiceWorld(one=refusing(message="a"), two=refusing(422, "b"), three=healthy()) as world:
            answer = await world.ask()
        told = f"a. {InvalidRequest.suggestion}"
        assert (answer.status, answer.json()["error"]["message"]) == (400, told)
        assert world.asked["three"] == []

    async def test_fails(self) -> None:
        """A target that fails has not confirmed the refusal: the next one is asked."""
        down = status(530)
        async with ServiceWorld(one=refusing(), two=down, three=healthy()) as world:
            assert (await world.ask()).headers["x-dub5-target"] == "three/m"

    async def test_of_the_same_provider(self) -> None:
        """A second model of the same provider refuses for the same reason: another provider is asked."""
        targets = {"targets": ("one/m", "one/n", "two/m")}
        async with ServiceWorld(one=refusing(), two=healthy(), route=targets) as world:
            assert (await world.ask()).headers["x-dub5-target"] == "two/m"

    async def test_alone(self) -> None:
        """Where nobody else is there, the refusal is told."""
        async with ServiceWorld(one=refusing(message="a")) as world:
            assert (await world.ask()).json()["error"]["code"] == "provider_refused"

    async def test_has_not_our_field(self) -> None:
        """A field of ours that a lone target refuses is left out at once, and from then on, for streams."""
        refusal = refusing(422, "body.stream_options: Extra inputs are not permitted")

        def strict(request: SimRequest) -> Script:
            return (refusal if "stream_options" in json.loads(request.body) else healthy())(request)

        async with ServiceWorld(one=strict) as world:
            answers = [await world.ask(stream=True) for _ in range(3)]
            own = await world.ask(stream=True, stream_options={"include_usage": True})
        assert {answer.headers.get("x-dub5-target") for answer in answers} == {"one/m"}
        assert (len(world.asked["one"]), own.status) == (5, 422)

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("turn", "name"),
        [
            ({"content": "Hi", "reasoning_content": "Hm"}, "reasoning_content"),
            ({"content": "Hi", "annotations": []}, "annotations"),
            ({"content": None, "reasoning": "Hm"}, "content"),
            ({"content": None, "tool_calls": [{"id": "a", "extra_content": {}}]}, "extra_content"),
        ],
    )
    async def test_has_not_what_others_wrote(self, turn: dict[str, Any], name: str, stream: bool) -> None:
        """A lone target gets the history once more, as OpenAI's format has it; other requests go as ever."""
        refusal = refusing(400, f"messages.1.{name}: not supported")

        def strict(request: SimRequest) -> Script:
            turn = json.loads(request.body)["messages"][0]
            fields = {*turn, *(field for call in turn.get("tool_calls", ()) for field in call)}
            silent = turn["content"] is None and not turn.get("tool_calls")
            odd = fields - {"role", "content", "tool_calls", "id"}
            return (refusal if odd or silent else healthy())(request)

        history = [{"role": "assistant", **turn}, {"role": "user", "content": "So?"}]
        async with ServiceWorld(one=strict) as world:
            answers = [await world.ask(stream=stream, messages=history) for _ in range(2)]
        assert [answer.headers.get("x-dub5-target") for answer in answers] == ["one/m"] * 2
        assert len(world.asked["one"]) == 4

    @pytest.mark.parametrize(("refusal", "asked"), [(refusing(), 1), (refusing(200, code="400"), 0)])
    async def test_with_side_effects(self, refusal: Respond, asked: int) -> None:
        """A plain 400 has not acted, so another target is asked; a refusal inside an answer may have."""
        async with ServiceWorld(one=refusal, two=healthy()) as world:
            await world.ask(store=True)
        assert len(world.asked["two"]) == asked

    @pytest.mark.parametrize(
        "filtered",
        [
            refusing(400, code="content_filter"),
            refusing(403, "openai/gpt requires moderation. Your input was flagged for violence"),
            refusing(403, "Content violates usage guidelines. Team: t-123"),
            refusing(400, "The prompt triggered our content management policy"),
        ],
    )
    async def test_is_not_asked_around_a_filter(self, filtered: Respond) -> None:
        """A refusal that speaks of content is final and rests no key."""
        async with ServiceWorld(one=unless(healthy(), filtered), two=healthy()) as world:
            answer = await world.ask(temperature=3)
            again = await world.ask()
        assert (answer.status, world.asked["two"]) == (400, [])
        assert again.headers["x-dub5-target"] == "one/m"

    async def test_after_a_firewalls_page(self) -> None:
        """A firewall in front of one provider blocks a request: the key stays in use for the others."""
        page = status(
            403, b"<html><h1>Sorry, you have been blocked</h1></html>", {"content-type": "text/html"}
        )
        async with ServiceWorld(one=unless(healthy(), page), two=healthy()) as world:
            answer = await world.ask(temperature=3)
            again = await world.ask()
        assert answer.headers["x-dub5-target"] == "two/m"
        assert again.headers["x-dub5-target"] == "one/m"


class TestOthers:
    @pytest.mark.parametrize("two", [None, healthy()], ids=["alone", "contradicted"])
    @pytest.mark.parametrize(
        "odd",
        [
            refusing(),
            refusing(422),
            refusing(404, "No endpoints found that support tool use"),
            refusing(402, "You can only afford 100 tokens."),
            refusing(413),
            refusing(400, "Invalid role: 'credit balance is too low'"),
            refusing(400, "Invalid value for user: my credit balance is too low"),
            refusing(400, "x is not a valid model ID"),
            refusing(404, "No endpoints found matching your data policy", "model_not_found"),
            refusing(404, ""),
            refusing(402, "Payment required for a request of this size"),
            refusing(403, "This organization may not use service_tier: priority"),
            refusing(403, ""),
            refusing(200, "Invalid value for user: my credit balance is too low"),
            refusing(200, code="400"),
            refusing(200, "Invalid value for temperature: 3."),
            refusing(200, "Unexpected value", "odd_value"),
            refusing(200, code="odd_value"),
            status(200, b'{"detail":"Unsupported parameter"}'),
            status(200, completion("", "length")),
        ],
    )
    async def test_are_served(self, odd: Respond, two: Respond | None) -> None:
        """One caller's odd request each second takes the target from nobody who asks every 3 s."""
        providers = {"one": unless(healthy(), odd)} | ({"two": two} if two else {})
        async with ServiceWorld(**providers, caller_keys=("a", "b")) as world:
            good = []
            for second in range(90):
                await world.ask(temperature=3, headers={"authorization": "Bearer a"})
                if second % 3 == 0:
                    good.append(await world.ask(headers={"authorization": "Bearer b"}))
                await asyncio.sleep(second + 1 - clock.now() if second + 1 > clock.now() else 0)
        assert {answer.headers.get("x-dub5-target") for answer in good} == {"one/m"}
        assert world.happened("breaker_opened") == 0

    @given(st.sampled_from(WORDS), st.sampled_from((400, 402, 403, 404, 422)), st.booleans())
    @settings(max_examples=12, deadline=None, derandomize=True)
    def test_are_served_whatever_is_echoed(self, words: str, number: int, many: bool) -> None:
        """Whatever text of one caller a provider's refusal repeats, the next caller gets the answer."""

        async def ask() -> list[str | None]:
            echo = unless(healthy(), refusing(number, f"Invalid value: {words}"))
            keys = {"one": ("sk-1", "sk-2") if many else ("sk-1",)}
            async with ServiceWorld(one=echo, caller_keys=("a", "b"), keys=keys) as world:
                answers = []
                for _ in range(12):
                    await world.ask(temperature=3, user=words, headers={"authorization": "Bearer a"})
                    answers.append(await world.ask(headers={"authorization": "Bearer b"}))
            return [answer.headers.get("x-dub5-target") for answer in answers]

        assert set(virtual.run(ask())) == {"one/m"}

    async def test_leave_a_target_that_refuses_all(self) -> None:
        """A target that suddenly refuses what another one takes is called less and less; nobody notices."""
        suddenly = in_turn(*[healthy()] * 12, refusing(message="mismatch"))
        async with ServiceWorld(one=suddenly, two=healthy()) as world:
            answers = []
            for _ in range(120):
                answers.append(await world.ask())
                await asyncio.sleep(1)
        assert {answer.status for answer in answers} == {200}
        assert world.happened("breaker_opened") >= 1
        assert len(world.asked["one"]) < 80


class TestAccount:
    @pytest.mark.parametrize("number", [400, 402, 403])
    async def test_rests_once_several_callers_are_refused(self, number: int) -> None:
        """An account that is broke is asked less and less, though no single refusal proves it."""
        broke = refusing(number, "Your credit balance is too low.")
        async with ServiceWorld(one=broke, two=healthy()) as world:
            for _ in range(120):
                await world.ask()
                await asyncio.sleep(1)
        assert 30 <= len(world.asked["one"]) <= 34

    async def test_a_closed_account(self) -> None:
        """An account closed for breaking a policy is no filter that found this request's content at fault."""
        message = "Your organization has been disabled for violating our usage policies."
        async with ServiceWorld(one=refusing(403, message), two=healthy()) as world:
            assert (await world.ask()).headers["x-dub5-target"] == "two/m"

    async def test_the_next_key(self) -> None:
        """A 400 for one key is answered with the other one; the bad one rests."""

        def by_key(request: SimRequest) -> Script:
            dead = request.headers["authorization"] == "Bearer sk-dead"
            message = "API key not valid. Please pass a valid API key."
            return (refusing(message=message) if dead else healthy())(request)

        async with ServiceWorld(one=by_key, two=healthy(), keys={"one": ("sk-dead", "sk-good")}) as world:
            answers = [await world.ask() for _ in range(3)]
        assert {answer.headers["x-dub5-target"] for answer in answers} == {"one/m"}
        assert len(world.asked["one"]) == 4

    async def test_no_key_rests_for_what_all_refuse(self) -> None:
        """A request that each key is refused for was refused for itself: no key is taken from the others."""
        odd = unless(healthy(), refusing(400, "user: my api key is not valid"))
        async with ServiceWorld(one=odd, two=healthy(), keys={"one": ("sk-1", "sk-2", "sk-3")}) as world:
            odd_one = await world.ask(temperature=3)
            for _ in range(3):
                await world.ask()
        used = [request.headers["authorization"] for request in world.asked["one"]]
        assert (odd_one.headers["x-dub5-target"], len(set(used[:3])), len(used)) == ("two/m", 3, 6)
        assert used[3] == "Bearer sk-1"

    @pytest.mark.parametrize("second", [401, 402, 403])
    @pytest.mark.parametrize("first", [400, 401, 402, 403, 422])
    async def test_is_not_told(self, first: int, second: int) -> None:
        """Where every account is refused, clients hear so, not to try again, and no provider's words."""
        words = "Your credit balance is too low, org-123."
        async with ServiceWorld(one=refusing(first, words), two=refusing(second, words)) as world:
            answers = [await world.ask() for _ in range(2)]
        for answer in answers:
            error = answer.json()["error"]
            assert (answer.status, error["code"]) == (503, "keys_refused")
            assert answer.headers["x-should-retry"] == "false"
            assert error["retry_after"] is None
            assert not answer.headers.keys() & {"retry-after", "retry-after-ms"}
            assert "key or account" in error["message"]
            assert "org-123" not in answer.body.decode()

    @pytest.mark.parametrize("number", [400, 401, 403, 200])
    async def test_is_told_to_the_operator(self, number: int) -> None:
        """Whatever status it comes with, a refused account is told apart from an outage, on /status."""
        error = b'{"error": {"code": "invalid_api_key", "message": "API key not valid."}}'
        async with ServiceWorld(one=status(number, error), two=healthy()) as world:
            await world.ask()
            [one, two] = (await world.client.request("GET", "/status")).json()["targets"]
        assert one["mistake"] == MISTAKES["key_refused" if number in (200, 400) else f"http_{number}"]
        assert two["mistake"] is None


class TestEmptyAnswers:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("finish", "fields", "given"),
        [("length", {}, True), ("stop", {"stop": ["END"]}, True), ("stop", {}, False)],
    )
    async def test_honest(self, finish: str, fields: dict[str, object], given: bool, stream: bool) -> None:
        """Where thinking used up the tokens, or a stop sequence came first, an empty answer is right."""

        def empty(request: SimRequest) -> Script:
            if not stream:
                return reply(200, completion("", finish))
            return iter((Head(200, SSE), chunk({}, finish), Data(b"data: [DONE]\n\n"), End()))

        async with ServiceWorld(one=empty, two=healthy()) as world:
            answer = await world.ask(stream=stream, **fields)
        assert answer.headers["x-dub5-target"] == ("one/m" if given else "two/m")
        if given and stream:
            assert payloads(answer.body)[-1] == "[DONE]"


class TestGemini:
    ERROR = (
        {
            "error": {
                "code": 429,
                "message": "Resource exhausted.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [
                    {"@type": "type.googleapis.com/google.rpc.Help"},
                    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"},
                ],
            }
        },
    )

    @pytest.mark.parametrize("inside", [False, True], ids=["status", "in_a_stream"])
    @pytest.mark.parametrize("listed", [False, True], ids=["object", "list"])
    async def test_rests_as_long_as_it_says(self, listed: bool, inside: bool) -> None:
        """RetryInfo is read from an error's details, in a list or not, with a status or inside a stream."""
        error = json.dumps(list(self.ERROR) if listed else self.ERROR[0]).encode()

        def limited(request: SimRequest) -> Script:
            if inside:
                return iter((Head(200, SSE), Data(b"data: " + error + b"\n\n"), End()))
            return reply(429, error)

        async with ServiceWorld(one=in_turn(limited, healthy()), two=healthy()) as world:
            first = await world.ask(stream=True)
            await asyncio.sleep(35)
            second = await world.ask(stream=True)
            await asyncio.sleep(2)
            third = await world.ask(stream=True)
        targets = [answer.headers["x-dub5-target"] for answer in (first, second, third)]
        assert targets == ["two/m", "two/m", "one/m"]

    async def test_a_dead_key(self) -> None:
        """An ErrorInfo that names the key is our account's trouble, whatever the message's language."""
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
        error = {"error": {"code": 400, "message": "Clave no es correcta.", "details": [info]}}
        async with ServiceWorld(one=status(400, json.dumps([error]).encode())) as world:
            assert (await world.ask()).json()["error"]["code"] == "keys_refused"


async def test_a_reload_forgets_a_wait() -> None:
    """A 503 with a Retry-After rests its target until the settings are reloaded."""
    busy = status(503, b"{}", {"retry-after": "86400"})
    async with ServiceWorld(one=in_turn(busy, healthy()), two=healthy()) as world:
        before = [await world.ask() for _ in range(2)]
        world.service.reload(
            LoadedSettings(
                world.service.settings, {name: (Secret(f"sk-{name}"),) for name in ("one", "two")}, ()
            )
        )
        after = await world.ask()
    assert [answer.headers["x-dub5-target"] for answer in before] == ["two/m", "two/m"]
    assert after.headers["x-dub5-target"] == "one/m"


async def test_long_answers() -> None:
    """Five JSON answers that honestly take longer than their time open no breaker for the short ones."""

    def by_length(request: SimRequest) -> Script:
        return healthy(first_s=70.0 if json.loads(request.body).get("temperature") == 3 else 0.1)(request)

    async with ServiceWorld(one=by_length, two=healthy()) as world:
        long = [asyncio.ensure_future(world.ask(temperature=3)) for _ in range(5)]
        short = []
        for _ in range(90):
            short.append(await world.ask())
            await asyncio.sleep(1)
        await asyncio.gather(*long)
    assert {answer.headers["x-dub5-target"] for answer in short} == {"one/m"}
    assert world.happened("breaker_opened") == 0


OPENAI_SIZE = (
    "Request too large for gpt-4o in organization org-123 on tokens per min (TPM): Limit 30000, Requested"
    " 30601. The input or output tokens must be reduced in order to run successfully."
)
ANTHROPIC_SIZE = "This request would exceed your organization's rate limit of 80,000 input tokens per minute."
FULL = {
    "anthropic-ratelimit-input-tokens-limit": "80000",
    "anthropic-ratelimit-input-tokens-remaining": "80000",
    "retry-after": "37",
}
USED = FULL | {"anthropic-ratelimit-input-tokens-remaining": "12000"}


def limited(message: str, headers: dict[str, str] | None = None) -> Respond:
    """Answer every request with a 429 that says this."""
    error = {"message": message, "type": "tokens", "code": "rate_limit_exceeded"}
    return status(429, json.dumps({"error": error}).encode(), {"retry-after": "600"} | (headers or {}))


class TestLargerThanARateLimit:
    SIZES = (
        (OPENAI_SIZE, {}),
        ("Request too large for model `m` on tokens per day (TPD): Limit 100000, Requested 112000.", {}),
        ("Rate limit reached for gpt-4 on tokens per min. Limit: 10,000, Requested: 12,000.", {}),
        ("Rate limit reached on TPM: Limit 10000, Used 9000, Requested 12000. Please try again in 6s.", {}),
        ("You requested 250000 tokens, which exceeds your limit of 200000 tokens per minute.", {}),
        ("Extra usage is required for long context requests.", {}),
        (ANTHROPIC_SIZE, FULL),
    )
    OF_ALL = (
        ("Rate limit reached on TPM: Limit 30000, Used 18928, Requested 11159. Try again in 174ms.", {}),
        ("Rate limit reached on tokens per day (TPD): Limit 100000, Used 97050, Requested 3619.", {}),
        (ANTHROPIC_SIZE, USED),
        (ANTHROPIC_SIZE, {}),
        ("Number of concurrent connections has exceeded your rate limit.", FULL),
        ("Rate limit exceeded", {}),
    )

    @pytest.mark.parametrize(("message", "headers"), SIZES)
    async def test_is_this_requests_only(self, message: str, headers: dict[str, str]) -> None:
        """A request that alone exceeds a limit is sent on; the key stays in use for smaller ones."""
        one = unless(healthy(), limited(message, headers))
        async with ServiceWorld(one=one, two=healthy()) as world:
            large = await world.ask(temperature=3)
            small = [await world.ask() for _ in range(3)]
        assert large.headers["x-dub5-target"] == "two/m"
        assert {answer.headers["x-dub5-target"] for answer in small} == {"one/m"}

    @pytest.mark.parametrize(("message", "headers"), OF_ALL)
    async def test_is_told_from_a_limit_in_use(self, message: str, headers: dict[str, str]) -> None:
        """A limit that others have used up rests its key."""
        one = unless(healthy(), limited(message, headers))
        async with ServiceWorld(one=one, two=healthy()) as world:
            await world.ask(temperature=3)
            small = await world.ask()
        assert small.headers["x-dub5-target"] == "two/m"

    @pytest.mark.parametrize(("message", "headers"), SIZES)
    async def test_is_told(self, message: str, headers: dict[str, str]) -> None:
        """Where no other target is left, the client hears that its request is too large: not to try again."""
        async with ServiceWorld(one=limited(message, headers)) as world:
            answer = await world.ask()
        assert (answer.status, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert "org-123" not in answer.body.decode()

    @given(
        st.integers(1, 10**7),
        st.integers(1, 10**7),
        st.sampled_from(
            ("Limit {0}, Requested {1}.", "Requested {1}: the limit is {0}.", "limit={0} requested={1}")
        ),
        st.sampled_from(("{}", "{:,}", "{:_}")),
    )
    def test_reads_numbers(self, limit: int, asked: int, words: str, form: str) -> None:
        """Whatever the numbers and their form, the request is too large where it asks for more."""
        assert never_fits(words.format(form.format(limit), form.format(asked))) == (asked > limit)
