"""Nobody can answer: a route that wants it gives a labelled substitute at once, every other one an honest
error."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from dub5.service import clock
from dub5.service.config.options import (
    BreakerOptions,
    CacheOptions,
    DegradedOptions,
    ProbeOptions,
    TimeoutOptions,
)
from dub5.service.config.settings import ServerSettings
from dub5.simulators.script import Close, End, Hang, Head, Respond, Script, SimRequest, Wait
from dub5.simulators.virtual import AppClient, AppResponse, Connect
from tests.support.world import (
    SSE,
    ServiceWorld,
    body,
    chunk,
    healthy,
    in_turn,
    payloads,
    script,
    status,
    text_of,
)

STALLS = script(Hang())
DOWN = status(500, b"{}")
ON = {"degraded": DegradedOptions(enabled=True)}
QUICK = {"degraded": DegradedOptions(enabled=True, answer_within_s=0.25)}
TOOL = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}
SCHEMA = {"response_format": {"type": "json_object"}}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def label_of(answer: AppResponse) -> dict[str, Any]:
    label: dict[str, Any] = answer.json()["degraded"]
    return label


async def dead(world: ServiceWorld, times: int = 8) -> None:
    """Everybody's breaker opens."""
    for _ in range(times):
        await world.ask(**TOOL)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "respond",
    [status(530, b""), DOWN, status(429, b"{}", {"retry-after": "1"}), status(429, b"{}"), STALLS],
    ids=["530", "500", "429, soon", "429", "stalls"],
)
async def test_all_down(respond: Respond, stream: bool) -> None:
    """However they are down, and through probes that find out that they still are: an answer within 300 ms,
    labelled."""
    route = QUICK | {"targets": ("one/m", "two/m")}
    async with ServiceWorld(one=respond, two=respond, route=route) as world:
        for _ in range(80):
            began_s = clock.now()
            answer = await world.ask(stream=stream)
            assert clock.now() - began_s <= 0.3
            assert answer.status == 200 and answer.headers["x-dub5-degraded"] == "words"
            await asyncio.sleep(0.2)
    assert world.outcomes() == {"degraded": 80}


async def test_all_gone() -> None:
    """With no provider listening, a request gets the fallback answer too."""
    async with ServiceWorld(one=healthy(), two=healthy(), route=QUICK) as world:
        for name in ("one", "two"):
            world.wire.link(f"http://{name}.test/v1").connect = Connect.STALLS
        for _ in range(50):
            began_s = clock.now()
            assert (await world.ask()).headers["x-dub5-degraded"]
            assert clock.now() - began_s <= 0.3


async def test_breakers_open() -> None:
    """Once it is known that nobody is there, nobody waits, whatever the clocks would allow: not even who
    probes."""
    async with ServiceWorld(
        one=STALLS, two=STALLS, route=ON, timeouts=TimeoutOptions(first_token_s=2.0)
    ) as world:
        for _ in range(6):
            await world.ask(stream=True)
        assert world.happened("breaker_opened") == 2
        for _ in range(100):
            began_s = clock.now()
            assert (await world.ask(stream=True)).headers["x-dub5-degraded"]
            assert clock.now() - began_s < 0.01
            await asyncio.sleep(0.5)
        assert world.happened("breaker_half_opened") > 2, "they were probed all the same"


async def test_recovery() -> None:
    """Requests that got a substitute find out that a target is back; no probe of the background is needed."""
    first_dead = in_turn(*[STALLS] * 6, healthy())
    options = {"probe": ProbeOptions(enabled=False)}
    async with ServiceWorld(
        one=first_dead, route=ON, timeouts=TimeoutOptions(first_token_s=1.0), options=options
    ) as world:
        headers = [(await world.ask(stream=True)).headers]
        while "x-dub5-degraded" in headers[-1] and clock.now() < 60:
            await asyncio.sleep(1.0)
            headers.append((await world.ask(stream=True)).headers)
    assert headers[-1]["x-dub5-target"] == "one/m"
    assert clock.now() < 30


async def test_a_probe_that_fails_behind_a_substitute() -> None:
    """A probe that fails behind a fallback answer is not retried for a request that has its answer."""
    broken = script(Head(200, SSE), chunk({"content": "hello "}), Wait(0.1), Close())
    options = {"probe": ProbeOptions(enabled=False)}
    breaker = BreakerOptions(failures_in_a_row=2, slow_start_s=0.0)
    route = ON | {"delivery": "whole"}
    async with ServiceWorld(
        one=in_turn(DOWN, DOWN, broken), route=route, breaker=breaker, options=options
    ) as world:
        await world.ask(stream=True)
        await asyncio.sleep(30.0)
        assert (await world.ask(stream=True)).headers["x-dub5-degraded"]
        await asyncio.sleep(30.0)
        assert len(world.asked["one"]) == 3


async def test_a_probe_that_succeeds_behind_a_substitute() -> None:
    """A probe that succeeds behind a fallback answer is closed at once, however long its answer takes."""
    ended: list[float] = []

    def lingers(request: SimRequest) -> Script:
        try:
            yield Wait(0.1)
            yield from healthy()(request)
            yield Wait(20.0)
        finally:
            ended.append(clock.now())

    def slow_to_end(request: SimRequest) -> Script:
        return (action for action in lingers(request) if not isinstance(action, End))

    options = {"probe": ProbeOptions(enabled=False)}
    route = ON | {"delivery": "whole"}
    async with ServiceWorld(one=in_turn(*[DOWN] * 5, slow_to_end), route=route, options=options) as world:
        for _ in range(3):
            await world.ask(stream=True)
        await asyncio.sleep(10.0)
        assert (await world.ask(stream=True)).headers["x-dub5-degraded"]
        began_s = clock.now()
        await asyncio.sleep(30.0)
        assert ended == [pytest.approx(began_s, abs=0.5)]


async def test_not_opted_in() -> None:
    """A route that did not ask for it tells the error, within the deadline, and when to come back."""
    async with ServiceWorld(one=STALLS, two=DOWN) as world:
        for _ in range(20):
            began_s = clock.now()
            answer = await world.ask(headers={"x-deadline-ms": "3000"})
            assert clock.now() - began_s <= 3.0
            assert answer.status == 503 and "x-dub5-degraded" not in answer.headers
            assert int(answer.headers["retry-after"]) >= 1
    assert world.outcomes() == {"failed": 20}


@pytest.mark.parametrize(
    "fields",
    [
        TOOL,
        SCHEMA,
        {"logprobs": True},
        {"n": 2},
        {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "a", "format": "wav"}},
        {"top_logprobs": 2},
        {"functions": [{"name": "f"}]},
        {"messages": [*user("Hi"), {"role": "assistant", "content": "He"}]},
    ],
    ids=[
        "tools",
        "json",
        "logprobs",
        "n",
        "speech",
        "modalities",
        "audio",
        "top_logprobs",
        "functions",
        "the last word is not the user's",
    ],
)
async def test_never_for_programs(fields: dict[str, Any]) -> None:
    """Where a program reads the answer there is no substitute, though the route wants them."""
    async with ServiceWorld(one=DOWN, route=ON) as world:
        answer = await world.ask(**fields)
    assert answer.status == 503 and "x-dub5-degraded" not in answer.headers


@pytest.mark.parametrize(
    "fields", [{"tools": []}, {"response_format": {"type": "text"}}, {"n": 1}, {"logprobs": False}]
)
async def test_fields_that_say_nothing(fields: dict[str, Any]) -> None:
    """Fields without effect, which SDKs send by themselves, do not rule out a fallback answer."""
    async with ServiceWorld(one=DOWN, route=ON) as world:
        assert (await world.ask(**fields)).headers["x-dub5-degraded"] == "words"


@pytest.mark.parametrize(
    ("respond", "code"),
    [
        (status(400, b'{"error":{"message":"no","code":"bad"}}'), "provider_refused"),
        (status(400, b'{"error":{"message":"no","code":"content_filter"}}'), "provider_refused"),
        (status(413, b"{}"), "request_too_large"),
    ],
)
async def test_never_for_the_callers_fault(respond: Respond, code: str) -> None:
    """A caller's error is never replaced by a fallback answer."""
    async with ServiceWorld(one=respond, route=ON) as world:
        assert (await world.ask()).json()["error"]["code"] == code


async def test_never_after_the_first_content() -> None:
    """A stream that has begun ends honestly, and never by a fallback answer."""
    begun = script(Head(200, SSE), chunk({"content": "He"}), Hang())
    async with ServiceWorld(one=begun, route=ON, timeouts=TimeoutOptions(between_tokens_s=1.0)) as world:
        answer = await world.ask(stream=True)
    events = payloads(answer.body)
    assert events[-1]["error"]["code"] == "stream_stalled" and "[DONE]" not in events
    assert not any("degraded" in event for event in events)
    assert world.outcomes() == {"cut": 1}


async def test_json() -> None:
    """An official SDK reads the fallback answer and its label."""
    async with ServiceWorld(one=status(429, b"{}", {"retry-after": "42"}), route=ON) as world:
        answer = await world.ask(headers={"accept-language": "de"})
    parsed = ChatCompletion.model_validate(answer.json(), strict=False)
    assert parsed.model == "dub5/degraded" and parsed.choices[0].finish_reason == "stop"
    assert "42 Sekunden" in str(parsed.choices[0].message.content)
    assert label_of(answer) == {
        "source": "words",
        "reason": "all_targets_limited",
        "retry_after": pytest.approx(42, abs=1),
        "age_s": None,
        "model": None,
        "language": "de",
    }
    assert answer.headers["x-dub5-target"] == "dub5/degraded"
    assert answer.headers["x-dub5-trail"].startswith("one/m=http_429")


@pytest.mark.parametrize("usage", [False, True])
async def test_stream(usage: bool) -> None:
    """The label is on the first and on the last chunk; the stream is whole as any other."""
    options = {"stream_options": {"include_usage": True}} if usage else {}
    async with ServiceWorld(one=DOWN, route=ON) as world:
        answer = await world.ask(stream=True, **options)
    *events, done = payloads(answer.body)
    chunks = [ChatCompletionChunk.model_validate(event) for event in events]
    assert done == "[DONE]" and {c.model for c in chunks} == {"dub5/degraded"}
    assert events[0]["degraded"] == events[-1]["degraded"]
    assert events[0]["degraded"]["reason"] == "all_targets_down"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert (chunks[-1].usage is not None) == usage
    assert "No AI model can answer" in text_of(answer.body)


@pytest.mark.parametrize("stream", [False, True])
async def test_official_sdk(stream: bool) -> None:
    """The openai package takes both for answers, and shows the label to who looks for it."""
    async with ServiceWorld(one=DOWN, route=ON) as world:
        answer = await world.ask(stream=stream)
    kept = httpx.MockTransport(
        lambda request: httpx.Response(200, headers=answer.headers, content=answer.body)
    )
    with openai.OpenAI(
        api_key="k", base_url="http://x.test/v1", http_client=httpx.Client(transport=kept)
    ) as client:
        if stream:
            with client.chat.completions.stream(
                model="chat", messages=[{"role": "user", "content": "Hi"}]
            ) as events:
                events.until_done()
                whole = events.get_final_completion()
        else:
            whole = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Hi"}])
    assert whole.choices[0].finish_reason == "stop" and whole.choices[0].message.content
    assert (whole.model_extra or {})["degraded"]["source"] == "words"


@pytest.mark.parametrize("stream", [False, True])
async def test_stale(stream: bool) -> None:
    """An answer from before is better than any words of ours, however it is asked for; its age and model are
    told."""
    route = ON | {"cache": CacheOptions(enabled=True, ttl_s=10, stale_if_error_s=600)}
    async with ServiceWorld(one=in_turn(healthy(), DOWN), route=route) as world:
        fresh = await world.ask(temperature=0)
        await asyncio.sleep(60)
        stale = await world.ask(temperature=0, stream=stream)
        await asyncio.sleep(600)
        gone = await world.ask(temperature=0)
    label = payloads(stale.body)[-2]["degraded"] if stream else label_of(stale)
    said = text_of(stale.body) if stream else stale.json()["choices"][0]["message"]["content"]
    assert stale.headers["x-dub5-degraded"] == label["source"] == "stale"
    assert said == fresh.json()["choices"][0]["message"]["content"] == "hello big world"
    assert (label["age_s"], label["model"]) == (pytest.approx(60, abs=2), "m")
    assert gone.headers["x-dub5-degraded"] == "words"
    assert world.outcomes() == {"complete": 1, "degraded": 2}


@pytest.mark.parametrize(
    ("accepts", "language"),
    [("de", "de"), ("fr-CH, de;q=0.5", "fr"), ("xx, es;q=0.1", "es"), ("xx", "en"), ("", "en")],
)
async def test_language(accepts: str, language: str) -> None:
    """The text is in the first language that the client accepts and that there is; else in English."""
    async with ServiceWorld(one=DOWN, route=ON) as world:
        answer = await world.ask(headers={"accept-language": accepts})
    assert answer.headers["x-dub5-degraded"] == "words"
    assert label_of(answer)["language"] == language
    assert "{" not in answer.json()["choices"][0]["message"]["content"]


async def test_own_texts(tmp_path: Any) -> None:
    """An operator's texts go before ours, text by text; a language of their own is spoken where it is
    accepted."""
    file = tmp_path / "texts.toml"
    file.write_text(
        '[en]\ngeneral = "Moo. Back {wait}."\n[nl]\ngeneral = "Nu niet. {wait}"\nsoon = "Straks"\n'
    )
    route = {"degraded": DegradedOptions(enabled=True, templates=str(file))}
    async with ServiceWorld(one=DOWN, route=route) as world:
        answers = [await world.ask(headers={"accept-language": accepts}) for accepts in ("", "de", "nl")]
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert texts[0].startswith("Moo. Back in about")
    assert "Gerade kann kein KI-Modell antworten" in texts[1]
    assert texts[2].startswith("Nu niet.") and label_of(answers[2])["language"] == "nl"
    assert [label_of(answer)["source"] for answer in answers] == ["template", "words", "template"]


async def test_counted_apart() -> None:
    """A substitute is no complete answer, for nobody who counts, and no first token."""
    async with ServiceWorld(one=DOWN, route=ON) as world:
        await world.ask(stream=True)
        seen = (await world.client.request("GET", "/status")).json()
        scraped = (await world.client.request("GET", "/metrics")).body.decode()
    assert (seen["outcomes"]["degraded"], seen["outcomes"]["complete"]) == (1, 0)
    assert seen["happened"]["degraded_words"] == 1
    assert (seen["recent"][0]["outcome"], seen["recent"][0]["degraded"]) == ("degraded", "words")
    assert 'gateway_degraded_total{route="chat",source="words"} 1.0' in scraped
    assert 'outcome="degraded"' in scraped and 'outcome="complete"' not in scraped
    assert "time_to_first_token_seconds_count" not in scraped


async def test_within() -> None:
    """While nobody has committed, so long and no longer; who has committed by then goes on as long as it
    takes."""
    route = {"degraded": DegradedOptions(enabled=True, answer_within_s=2.0)}
    slow = in_turn(healthy(first_s=1.9, gap_s=1.0), healthy(first_s=2.1))
    async with ServiceWorld(one=slow, route=route) as world:
        whole, late = await world.ask(stream=True), await world.ask(stream=True)
    assert text_of(whole.body) == "hello big world" and "x-dub5-degraded" not in whole.headers
    assert payloads(late.body)[0]["degraded"]["reason"] == "deadline_exceeded"
    assert world.wire.link("http://one.test/v1") is not None


@pytest.mark.parametrize("stream", [False, True])
async def test_within_of_a_shared_call(stream: bool) -> None:
    """A request of a shared call waits no longer than alone, and a committed call goes on for all."""
    route = QUICK | {"cache": CacheOptions(enabled=True)}
    async with ServiceWorld(one=in_turn(STALLS, healthy(first_s=0.2, gap_s=1.0)), route=route) as world:
        began_s = clock.now()
        late = await asyncio.gather(*(world.ask(stream=stream, temperature=0) for _ in range(5)))
        assert clock.now() - began_s <= 0.3 and len(world.asked["one"]) == 1
        whole = await asyncio.gather(*(world.ask(stream=stream, temperature=0) for _ in range(5)))
    assert {one.headers["x-dub5-degraded"] for one in late} == {"words"}
    assert not any("x-dub5-degraded" in one.headers for one in whole) and len(world.asked["one"]) == 2
    assert world.outcomes() == {"degraded": 5, "complete": 5}


async def test_the_callers_own_deadline() -> None:
    """A caller with little time gets the fallback answer when the time is up."""
    async with ServiceWorld(one=STALLS, route=ON) as world:
        answer = await world.ask(headers={"x-deadline-ms": "400"})
    assert label_of(answer)["reason"] == "deadline_exceeded" and clock.now() <= 0.41


async def unfinished(world: ServiceWorld) -> AppResponse:
    """A request whose body never comes to its end."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"model": '
        await asyncio.sleep(60)

    return await world.client.request("POST", "/v1/chat/completions", body=pieces())


STAYS = healthy(gap_s=10.0, words=("a ",) * 100)


class TestNoPlace:
    """More requests are open than the process takes: nobody is asked, and there is an answer at once all the
    same."""

    SERVER = ServerSettings(in_flight_max=1)

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_substitute(self, stream: bool) -> None:
        """The fallback answer comes at once, labelled, without a call to a provider."""
        async with ServiceWorld(one=STAYS, route=ON, server=self.SERVER) as world, world.stream():
            began_s = clock.now()
            answer = await world.ask(stream=stream)
            assert clock.now() - began_s < 0.01
        label = payloads(answer.body)[0]["degraded"] if stream else label_of(answer)
        assert (answer.status, answer.headers["x-dub5-degraded"]) == (200, "words")
        assert label["reason"] == "overloaded" and len(world.asked["one"]) == 1
        assert world.outcomes() == {"cancelled": 1, "degraded": 1}

    async def test_from_the_cache(self) -> None:
        """What is fresh is a whole answer; what is old is better than words of ours."""
        cached = CacheOptions(enabled=True, ttl_s=60.0, stale_if_error_s=600.0)
        async with ServiceWorld(one=STAYS, route=ON | {"cache": cached}, server=self.SERVER) as world:
            await world.ask(temperature=0)
            async with world.stream():
                fresh = await world.ask(temperature=0)
                await asyncio.sleep(100)
                old = await world.ask(temperature=0)
        assert (fresh.headers["x-dub5-cache"], "x-dub5-degraded" in fresh.headers) == ("hit", False)
        assert old.headers["x-dub5-degraded"] == "stale"
        assert len(world.asked["one"]) == 2

    @pytest.mark.parametrize(
        ("route", "fields"), [({}, {}), (ON, TOOL), (ON, SCHEMA)], ids=["not opted in", "tools", "json"]
    )
    async def test_a_refusal(self, route: dict[str, Any], fields: dict[str, Any]) -> None:
        """Where there is no substitute it is an honest one, at once."""
        async with ServiceWorld(one=STAYS, route=route, server=self.SERVER) as world, world.stream():
            began_s = clock.now()
            answer = await world.ask(**fields)
            assert clock.now() - began_s < 0.01
        assert (answer.status, answer.json()["error"]["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1" and len(world.asked["one"]) == 1

    @pytest.mark.parametrize("large", [False, True])
    async def test_whoever_takes_long_to_ask(self, large: bool) -> None:
        """A body that is large, or slow to arrive, holds no spare slot: it is refused."""
        async with ServiceWorld(one=STAYS, route=ON, server=self.SERVER) as world, world.stream():
            began_s = clock.now()
            if large:
                answer = await world.ask(messages=user("x" * 300_000))
            else:
                answer = await unfinished(world)
            assert clock.now() - began_s <= 0.25
        assert (answer.status, answer.json()["error"]["code"]) == (503, "overloaded")

    async def test_spare_places_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond the spare slots nothing is read."""
        monkeypatch.setattr("dub5.service.admission.admission.SPARE_MAX", 2)
        async with ServiceWorld(one=STAYS, route=ON, server=self.SERVER) as world, world.stream():
            slow = [asyncio.create_task(unfinished(world)) for _ in range(2)]
            await asyncio.sleep(0.01)
            answer = await world.ask()
            await asyncio.gather(*slow)
            later = await world.ask()
        assert (answer.status, later.status) == (503, 200)

    async def test_a_spare_place_is_no_other(self) -> None:
        """A request in a spare slot takes no regular slot."""
        async with ServiceWorld(one=STAYS, two=healthy(), route=ON, server=self.SERVER) as world:
            async with world.stream():
                slow = asyncio.create_task(unfinished(world))
                await asyncio.sleep(0.01)
            async with world.stream() as answer:
                assert "x-dub5-degraded" not in answer.headers
            await slow
        assert len(world.asked["one"]) == 2

    async def test_vectors(self) -> None:
        """Embeddings have no fallback answer."""
        async with ServiceWorld(one=STAYS, route=ON, server=self.SERVER) as world, world.stream():
            answer = await world.client.request(
                "POST", "/v1/embeddings", json={"model": "chat", "input": "x"}
            )
        assert (answer.status, answer.json()["error"]["code"]) == (503, "overloaded")

    async def test_about_to_end(self) -> None:
        """In a drain the refusal stays a refusal: another process answers."""
        async with ServiceWorld(one=STAYS, route=ON) as world:
            async with world.stream():
                draining = asyncio.create_task(world.service.drain())
                await asyncio.sleep(0.01)
                answer = await world.ask()
            await draining
        assert (answer.status, answer.json()["error"]["code"]) == (503, "shutting_down")


async def test_a_slow_reader() -> None:
    """The time is up when the substitute is sent; somebody who reads it slowly gets it all the same."""
    async with ServiceWorld(one=STALLS, route=ON) as world:
        client = AppClient(world.service.asgi, buffer_bytes_max=1, lifespan=False)
        asked = client.stream(
            "POST", "/v1/chat/completions", json=body(stream=True), headers={"x-deadline-ms": "400"}
        )
        read = b""
        async with asked as answer:
            await asyncio.sleep(0.5)
            while data := await answer.read():
                read += data
                await asyncio.sleep(0.5)
    assert payloads(read)[-1] == "[DONE]"
    assert world.outcomes() == {"degraded": 1}


async def test_whole_delivery() -> None:
    """A stream that is held to its end and never gets there: the heartbeats have gone out, the label comes
    with the chunks."""
    route = ON | {"delivery": "whole"}
    dies = script(Head(200, SSE), chunk({"content": "x"}), Hang())
    async with ServiceWorld(one=dies, route=route, timeouts=TimeoutOptions(between_tokens_s=12.0)) as world:
        answer = await world.ask(stream=True)
    events = payloads(answer.body)
    assert b": the answer is on its way" in answer.body
    assert events[0]["degraded"] == events[-2]["degraded"] and events[-1] == "[DONE]"
    assert world.outcomes() == {"degraded": 1}


class TestOffline:
    async def test_pack(self, tmp_path: Any) -> None:
        """Texts in every language, and common answers, to be kept by a client; nothing that nobody filled
        in."""
        line = {
            "request": {"messages": user("When do you open?"), "temperature": 0},
            "answer": {
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "At nine."},
                        "finish_reason": "stop",
                    }
                ]
            },
        }
        file = tmp_path / "warm.jsonl"
        file.write_text(json.dumps(line) + "\nnot JSON\n")
        route = ON | {"cache": CacheOptions(enabled=True, warm_from=str(file))}
        async with ServiceWorld(one=DOWN, route=route) as world:
            found = await world.client.request("GET", "/v1/offline")
            again = await world.client.request(
                "GET", "/v1/offline", headers={"if-none-match": found.headers["etag"]}
            )
        pack = found.json()["routes"]["chat"]
        assert pack["answers"] == [{"question": "When do you open?", "answer": "At nine."}]
        assert set(pack["texts"]) == {"en", "de", "es", "fr"}
        assert "offline" in pack["texts"]["en"]["offline"] and b"{wait}" not in found.body
        assert (again.status, again.body) == (304, b"")
        assert "max-age" in found.headers["cache-control"]

    async def test_bounded(self, tmp_path: Any) -> None:
        """What does not fit into the pack is left out, and the pack says so."""
        answer = {
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "x" * 30_000},
                    "finish_reason": "stop",
                }
            ]
        }
        lines = [json.dumps({"request": {"messages": user(str(i))}, "answer": answer}) for i in range(30)]
        file = tmp_path / "warm.jsonl"
        file.write_text("\n".join(lines))
        route = ON | {"cache": CacheOptions(enabled=True, warm_from=str(file))}
        async with ServiceWorld(one=DOWN, route=route) as world:
            found = await world.client.request("GET", "/v1/offline")
        pack = found.json()["routes"]["chat"]
        assert len(found.body) <= 520 * 1024
        assert len(pack["answers"]) + pack["left_out"] == 30 and pack["left_out"] > 0

    async def test_keys(self) -> None:
        """With caller keys the pack is for known callers only."""
        async with ServiceWorld(one=DOWN, route=ON, caller_keys=("secret",)) as world:
            refused = await world.client.request("GET", "/v1/offline")
            given = await world.client.request(
                "GET", "/v1/offline", headers={"authorization": "Bearer secret"}
            )
        assert (refused.status, given.status) == (401, 200)

    async def test_not_opted_in(self) -> None:
        """A route that gives no substitutes has none to keep."""
        async with ServiceWorld(one=DOWN) as world:
            assert (await world.client.request("GET", "/v1/offline")).json()["routes"] == {}
