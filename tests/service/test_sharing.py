"""Equal requests at one time share one call to a provider, and are otherwise as they would be alone."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.cache.cache import Selection
from dub5.service.config.options import (
    BreakerOptions,
    CacheOptions,
    DegradedOptions,
    ProbeOptions,
    TimeoutOptions,
)
from dub5.service.events import Event, RequestEnded
from dub5.service.model import AttemptRecord
from dub5.simulators.script import Close, Hang, Head, Respond, Wait
from dub5.simulators.virtual import AppFault, run
from tests.simulation import mutants
from tests.support.world import (
    SSE,
    WORDS,
    ServiceWorld,
    chunk,
    healthy,
    in_turn,
    payloads,
    script,
    status,
    text_of,
)

ON: dict[str, Any] = {"route": {"cache": CacheOptions(enabled=True)}}
OFF: dict[str, Any] = {"route": {"cache": CacheOptions(enabled=True, share=False)}}
ANOTHER_CALLER: dict[str, Any] = {"headers": {"authorization": "Bearer other"}}
ONE_FAILURE = BreakerOptions(failures_in_a_row=1, open_s=5.0)
NO_PROBES = {"probe": ProbeOptions(enabled=False)}
SLOW = healthy(first_s=1.0, gap_s=1.0)  # words at 1, 2 and 3 s, whole at 4 s


async def crowd(world: ServiceWorld, size: int, **fields: Any) -> list[Any]:
    """Many ask the same at once."""
    return await asyncio.gather(*(world.ask(temperature=0, **fields) for _ in range(size)))


@pytest.mark.parametrize("stream", [False, True])
async def test_one_call(stream: bool) -> None:
    """A crowd with one question makes one call, and everybody has the whole answer; all but one are told
    so."""
    async with ServiceWorld(one=SLOW, **ON) as world:
        answers = await crowd(world, 20, stream=stream)
        assert len(world.asked["one"]) == 1
        assert world.outcomes() == {"complete": 20}
        assert world.happened("shared") == 19
    assert {answer.body for answer in answers} == {answers[0].body}
    assert (text_of(answers[0].body) if stream else answers[0].json()["model"]) in ("".join(WORDS), "m")
    assert [answer.headers.get("x-dub5-shared") for answer in answers].count("true") == 19
    assert len({answer.headers["x-request-id"] for answer in answers}) == 20
    assert {answer.headers["x-dub5-cache"] for answer in answers} == {"miss"}


@pytest.mark.parametrize("stream", [False, True])
async def test_ablation(stream: bool) -> None:
    """Without sharing the same crowd makes one call each."""
    async with ServiceWorld(one=SLOW, **OFF) as world:
        answers = await crowd(world, 20, stream=stream)
        assert len(world.asked["one"]) == 20
    assert all("x-dub5-shared" not in answer.headers for answer in answers)


@pytest.mark.parametrize(
    "different",
    [
        ANOTHER_CALLER,
        {"headers": {"cache-control": "no-store"}},
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"seed": 1},
        {"stream": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
    ids=str,
)
async def test_only_equals_share(different: dict[str, Any]) -> None:
    """Another caller, another question, another shape, or one that may not be cached: a call of its own."""
    keys = {"caller_keys": ("mine", "other")}
    mine = {"headers": {"authorization": "Bearer mine"}}
    fields = {**mine, **different}
    fields["headers"] = mine["headers"] | fields["headers"]
    async with ServiceWorld(one=SLOW, **ON, **keys) as world:
        answers = await asyncio.gather(
            world.ask(temperature=0, **mine), world.ask(**{"temperature": 0, **fields})
        )
        assert [answer.status for answer in answers] == [200, 200]
        assert len(world.asked["one"]) == 2
    assert all("x-dub5-shared" not in answer.headers for answer in answers)


async def test_what_was_invalidated_is_not_joined() -> None:
    """A request after an invalidation gets an answer from after it."""
    async with ServiceWorld(one=SLOW, **ON) as world:
        before = asyncio.ensure_future(world.ask(temperature=0, stream=True))
        await asyncio.sleep(0.5)
        await world.service.cache.invalidate(Selection(model="m"))
        after = await world.ask(temperature=0, stream=True)
        assert len(world.asked["one"]) == 2
    assert "x-dub5-shared" not in after.headers
    assert text_of((await before).body) == text_of(after.body) == "".join(WORDS)


async def test_usage_only_for_who_asked() -> None:
    """Only clients that requested the usage chunk get it, though they share a call."""
    async with ServiceWorld(one=SLOW, **ON) as world:
        plain, wanted = await asyncio.gather(
            world.ask(stream=True, temperature=0),
            world.ask(stream=True, temperature=0, stream_options={"include_usage": True}),
        )
        assert len(world.asked["one"]) == 2
    assert text_of(plain.body) == text_of(wanted.body) == "".join(WORDS)


async def test_delivery_is_not_mixed() -> None:
    """Requests with live and with whole delivery do not share a call."""
    async with ServiceWorld(one=SLOW, **ON) as world:
        whole = asyncio.ensure_future(
            world.ask(stream=True, temperature=0, headers={"x-dub5-delivery": "whole"})
        )
        await asyncio.sleep(0)
        async with world.stream(temperature=0) as live:
            assert clock.now() == pytest.approx(1.0)
            assert text_of(await live.read()) == WORDS[0]
            assert text_of((await whole).body) == "".join(WORDS)
        assert len(world.asked["one"]) == 2


async def test_a_late_joiner_has_the_beginning_at_once() -> None:
    """A late subscriber gets the beginning at once, then reads along."""
    async with ServiceWorld(one=SLOW, **ON) as world:
        first = asyncio.ensure_future(world.ask(stream=True, temperature=0))
        await asyncio.sleep(2.5)
        async with world.stream(temperature=0) as late:
            began_s = clock.now()
            assert text_of(await late.read()) == WORDS[0] + WORDS[1]
            assert clock.now() == pytest.approx(began_s, abs=0.01)
            assert late.headers["x-dub5-trail"].startswith("one/m=ok;1000ms")
            rest = b"".join([data async for data in _all(late)])
        assert text_of(rest) == WORDS[2]
        assert payloads(rest)[-1] == "[DONE]"
        assert text_of((await first).body) == "".join(WORDS)
        assert len(world.asked["one"]) == 1


async def test_who_began_it_leaves() -> None:
    """The others go on unharmed, and the provider is not told."""
    async with ServiceWorld(one=SLOW, **ON) as world:
        async with world.stream(temperature=0):
            others = [asyncio.ensure_future(world.ask(stream=True, temperature=0)) for _ in range(3)]
            await asyncio.sleep(0.5)
        answers = await asyncio.gather(*others)
        assert len(world.asked["one"]) == 1
        assert world.happened("handed_over") == 1
        assert world.outcomes() == {"complete": 3, "cancelled": 1}
    assert {text_of(answer.body) for answer in answers} == {"".join(WORDS)}
    assert all(payloads(answer.body)[-1] == "[DONE]" for answer in answers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("every_s", [0.0, 0.3, 1.2])
async def test_all_leave(stream: bool, every_s: float) -> None:
    """With the last client the call ends at once: before its head, before its first content, or after it."""
    left: list[float] = []
    async with ServiceWorld(one=_noting_the_end(left, SLOW if stream else _later(9.0, SLOW)), **ON) as world:
        asking = [asyncio.ensure_future(world.ask(stream=stream, temperature=0)) for _ in range(3)]
        for task in asking:
            await asyncio.sleep(every_s)
            assert not left
            gone_s = clock.now()
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert len(left) == len(world.asked["one"]) <= 1
        assert all(end_s <= gone_s + 0.1 for end_s in left)
        assert not _flying()


async def test_an_error_is_shared() -> None:
    """An error is shared: one attempt, the same error for all, each with an id of its own."""
    async with ServiceWorld(one=in_turn(_later(1.0, status(530))), **ON) as world:
        answers = await crowd(world, 5, stream=True)
        assert len(world.asked["one"]) == 1
        assert world.outcomes() == {"failed": 5}
    errors = [answer.json()["error"] for answer in answers]
    assert {answer.status for answer in answers} == {503}
    assert {error["code"] for error in errors} == {"all_targets_down"}
    assert len({error["id"] for error in errors}) == 5
    assert [row["reason"] for error in errors for row in error["attempts"]] == ["http_530"] * 5


async def test_everybody_has_a_clock_of_their_own() -> None:
    """Who came later is told of the tries in its own time, and waiting for them is not our overhead."""
    async with ServiceWorld(one=_later(1.0, status(530)), **ON) as world:
        first = asyncio.ensure_future(world.ask(temperature=0))
        await asyncio.sleep(0.4)
        late = await world.ask(temperature=0)
        rows = [answer.json()["error"]["attempts"][0] for answer in (await first, late)]
    assert [row["started_ms"] for row in rows] == pytest.approx([0, -400], abs=0.2)
    assert [row["ended_ms"] for row in rows] == pytest.approx([1000, 600], abs=0.2)
    async with ServiceWorld(one=SLOW, **ON) as world:
        ended = _ended(world)
        await crowd(world, 3, stream=True)
    assert [event.overhead_s for event in ended] == [0.0] * 3


async def test_a_refusal_is_shared() -> None:
    """A provider's 422 keeps its status and its words."""
    said = b'{"error": {"message": "max_tokens is too large"}}'
    async with ServiceWorld(one=_later(1.0, status(422, said)), **ON) as world:
        answers = await crowd(world, 3)
        assert len(world.asked["one"]) == 1
    assert [answer.status for answer in answers] == [422] * 3
    [message] = {answer.json()["error"]["message"] for answer in answers}
    assert message.startswith("max_tokens is too large. ")


async def test_a_cut_is_a_cut_for_all() -> None:
    """A cut is shared, also by late subscribers: the text so far, then an error event and no [DONE]."""
    dying = script(Head(200, SSE), chunk({"content": "hello "}), Wait(2.0), Close())
    async with ServiceWorld(one=dying, **ON) as world:
        first = asyncio.ensure_future(world.ask(stream=True, temperature=0))
        await asyncio.sleep(1.0)
        answers = [await world.ask(stream=True, temperature=0), await first]
        assert len(world.asked["one"]) == 1
        assert world.outcomes() == {"cut": 2}
    for answer in answers:
        assert text_of(answer.body) == "hello "
        assert payloads(answer.body)[-1]["error"]["code"] == "stream_cut"
        assert "[DONE]" not in payloads(answer.body)


class TestDeadlines:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("hasty_first", [False, True])
    async def test_each_its_own(self, stream: bool, hasty_first: bool) -> None:
        """A request with less time gets its own error at that time; one with more gets the answer, whichever
        came first."""
        async with ServiceWorld(one=_later(3.0, healthy()), **ON) as world:
            ask = {
                True: lambda: world.ask(stream=stream, temperature=0, headers={"x-deadline-ms": "2000"}),
                False: lambda: world.ask(stream=stream, temperature=0),
            }
            asked_s, tasks = {}, {}
            for is_hasty in (hasty_first, not hasty_first):
                asked_s[is_hasty] = clock.now()
                tasks[is_hasty] = asyncio.ensure_future(ask[is_hasty]())
                await asyncio.sleep(0.1)
            hasty = await tasks[True]
            assert clock.now() == pytest.approx(asked_s[True] + 2.0)
            patient = await tasks[False]
            assert len(world.asked["one"]) == 1
        assert hasty.json()["error"]["code"] == "deadline_exceeded"
        assert patient.status == 200

    async def test_in_the_middle(self) -> None:
        """A stream whose time is over ends honestly; the other one goes on."""
        async with ServiceWorld(one=SLOW, **ON) as world:
            hasty, patient = await asyncio.gather(
                world.ask(stream=True, temperature=0, headers={"x-deadline-ms": "2500"}),
                world.ask(stream=True, temperature=0),
            )
            assert len(world.asked["one"]) == 1
        assert text_of(hasty.body) == WORDS[0] + WORDS[1]
        assert payloads(hasty.body)[-1]["error"]["code"] == "stream_stalled"
        assert text_of(patient.body) == "".join(WORDS)

    @pytest.mark.parametrize("stream", [False, True])
    def test_the_answer_comes_in_that_very_moment(self, stream: bool) -> None:
        """Too late for who has left, whatever came first: an error before the first byte, of a request not
        answered."""

        async def play() -> None:
            timeouts, at_once = (
                TimeoutOptions(first_token_s=2.0, whole_answer_s=2.0),
                healthy(first_s=0.0, gap_s=0.0),
            )
            async with ServiceWorld(one=script(Hang()), two=at_once, timeouts=timeouts, **ON) as world:
                hasty, patient = await asyncio.gather(
                    world.ask(temperature=0, stream=stream, headers={"x-deadline-ms": "2000"}),
                    world.ask(temperature=0, stream=stream),
                )
                assert (hasty.status, hasty.json()["error"]["code"]) == (503, "deadline_exceeded")
                assert patient.status == 200
                assert world.outcomes() == {"failed": 1, "complete": 1}

        for seed in range(8):
            run(play(), seed=seed)

    async def test_over_for_all(self) -> None:
        """Nobody has time left: the try is told as in time of its own, and nothing goes on."""
        async with ServiceWorld(one=script(Hang()), **ON) as world:
            headers = {"x-deadline-ms": "2000"}
            answers = await crowd(world, 3, headers=headers)
            await asyncio.sleep(0.1)
            assert not _flying()
        async with ServiceWorld(one=script(Hang()), **OFF) as world:
            alone = await world.ask(temperature=0, headers=headers)
        errors = [answer.json()["error"] for answer in (*answers, alone)]
        assert [row["reason"] for error in errors for row in error["attempts"]] == ["deadline_timeout"] * 4
        assert {error["code"] for error in errors} == {"deadline_exceeded"}

    async def test_a_race_goes_on_for_who_has_time(self) -> None:
        """Also while two targets are asked at once: the time of both is extended with the call's."""
        one, two = in_turn(status(530), script(Hang())), in_turn(healthy(), _later(3.0, healthy()))
        async with ServiceWorld(one=one, two=two, breaker=ONE_FAILURE, options=NO_PROBES, **ON) as world:
            await world.ask(messages=[{"role": "user", "content": "Before"}])
            await asyncio.sleep(6.0)
            hasty = asyncio.ensure_future(world.ask(temperature=0, headers={"x-deadline-ms": "2000"}))
            await asyncio.sleep(0.5)
            patient = await world.ask(temperature=0)
            assert world.happened("hedged") == 1
        assert (await hasty).json()["error"]["code"] == "deadline_exceeded"
        assert patient.status == 200
        assert patient.headers["x-dub5-shared"] == "true"

    async def test_a_short_time_to_commit(self) -> None:
        """A route that gives substitutes soon shortens the time to the first content, not the answer's."""
        soon = {"route": {**ON["route"], "degraded": DegradedOptions(enabled=True, answer_within_s=2.0)}}
        async with ServiceWorld(one=SLOW, **soon) as world:
            answers = await crowd(world, 2, stream=True)
            assert world.outcomes() == {"complete": 2}
        assert [text_of(answer.body) for answer in answers] == ["".join(WORDS)] * 2


class TestBooks:
    async def test_cost_is_counted_once(self) -> None:
        """The tries, tokens and dollars of a shared answer stand in one request's line."""
        async with ServiceWorld(one=SLOW, **ON) as world:
            ended = _ended(world)
            await crowd(world, 4)
        assert [event.shared for event in ended].count(False) == 1
        assert len([a for event in ended for a in event.attempts if a.usage is not None]) == 1
        assert all(len(event.attempts) == 1 and event.target == "one/m" for event in ended)

    async def test_metrics_count_a_try_once(self) -> None:
        """Tokens, first chunks and targets passed over: once, however many clients the answer has."""
        async with ServiceWorld(one=SLOW, **ON) as world:
            ended = _ended(world)
            await crowd(world, 4, stream=True)
            counts = _counts(world)
            assert counts["gen_ai_client_operation_time_to_first_chunk_seconds_count"] == [1.0]
            assert counts["gen_ai_client_token_usage_count"] == [1.0, 1.0]  # input, output
            assert counts["gateway_shared_total"] == [0.0, 0.0, 3.0]  # handed over, renewed, joined
            barred = AttemptRecord("one/m", 0.0, 0.0, "breaker_open", tried=False)
            for event in ended:
                world.service.metrics.count(replace(event, attempts=(barred,)))
            assert _counts(world)["gateway_passed_over_total"] == [1.0]

    async def test_who_stays_has_the_bill(self) -> None:
        """If who began it leaves, what it costs is counted with who has been there longest."""
        async with ServiceWorld(one=SLOW, **ON) as world:
            ended = _ended(world)
            async with world.stream(temperature=0):
                others = [asyncio.ensure_future(world.ask(stream=True, temperature=0)) for _ in range(2)]
                await asyncio.sleep(0.5)
            await asyncio.gather(*others)
        assert [(ended[0].outcome, ended[0].shared, ended[0].attempts)] == [("cancelled", True, ())]
        assert {event.shared: [a.usage is not None for a in event.attempts] for event in ended[1:]} == {
            False: [True],
            True: [False],
        }

    async def test_kept_once(self) -> None:
        """A shared answer is stored once, and the next one who asks has it from there."""
        async with ServiceWorld(one=SLOW, **ON) as world:
            kept = _counting(world)
            await crowd(world, 4, stream=True)
            again = await world.ask(stream=True, temperature=0)
            assert len(world.asked["one"]) == 1
        assert kept == [1]
        assert again.headers["x-dub5-cache"] == "hit"
        assert "x-dub5-shared" not in again.headers


class TestMutants:
    async def test_follower_killed_with_leader(self) -> None:
        """A mutant in which the subscribers end with the first one is caught."""
        with (
            mutants.follower_killed_with_leader(),
            pytest.raises((AssertionError, AppFault, asyncio.CancelledError)),
        ):
            await test_who_began_it_leaves()

    async def test_caller_missing_in_key(self) -> None:
        """A mutant that shares calls between callers is caught."""
        with mutants.caller_missing_in_key(), pytest.raises(AssertionError):
            await test_only_equals_share(ANOTHER_CALLER)


async def _all(reader: Any) -> Any:
    while data := await reader.read():
        yield data


def _later(seconds: float, respond: Respond) -> Respond:
    def late(request: Any) -> Any:
        yield Wait(seconds)
        yield from respond(request)

    return late


def _noting_the_end(left: list[float], slowly: Respond) -> Respond:
    """Tells when nobody wanted more of it."""

    def respond(request: Any) -> Any:
        try:
            yield from slowly(request)
        finally:
            left.append(clock.now())

    return respond


def _flying() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("flight")]


def _ended(world: ServiceWorld) -> list[RequestEnded]:
    """The ends of requests, from now on."""
    ended: list[RequestEnded] = []

    def note(event: Event) -> None:
        if isinstance(event, RequestEnded):
            ended.append(event)

    world.service.events.subscribe(note)
    return ended


def _counts(world: ServiceWorld) -> dict[str, list[float]]:
    """The values of each metric, sorted."""
    counts: dict[str, list[float]] = {}
    for line in world.service.metrics.scrape().decode().splitlines():
        if not line.startswith("#"):
            counts.setdefault(line.split("{")[0], []).append(float(line.rsplit(" ")[-1]))
    return {name: sorted(values) for name, values in counts.items()}


def _counting(world: ServiceWorld) -> list[int]:
    """How often an answer is kept, from now on."""
    cache, count = world.service.cache, [0]
    whole = cache.keep

    async def keep(*given: Any) -> None:
        count[0] += 1
        await whole(*given)

    cache.keep = keep  # type: ignore[method-assign]
    return count
