"""What users of other gateways met, on this service, in virtual time, where no other test covers it."""

import asyncio
import json

import pytest

from dub5.service import clock
from dub5.service.config.options import BreakerOptions, ProbeOptions, TimeoutOptions
from dub5.service.config.settings import ServerSettings
from dub5.service.telemetry.logs import EventLogger
from dub5.simulators.script import Action, Close, Data, End, Hang, Head, Reset, Respond, Wait
from tests.support.world import SSE, ServiceWorld, chunk, healthy, in_turn, payloads, script, status, text_of

TEXT = "hello big world"
LIMIT_EVENT = Data(b'data: {"error":{"message":"slow down","code":429,"type":"rate_limit_error"}}\n\n')
QUIET = {"probe": ProbeOptions(enabled=False)}
HOUR_S = 3600.0


def until(at_s: float, before: Respond, after: Respond) -> Respond:
    return lambda request: (before if clock.now() < at_s else after)(request)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "broken",
    [
        (Head(200, SSE), Close()),
        (Head(200, SSE), Reset()),
        (Head(200, SSE), Hang()),
        (Head(200, SSE), chunk({"role": "assistant", "content": ""}), Close()),
        (Head(200, SSE), LIMIT_EVENT, End()),
        (Head(200, SSE), Data(b"data: [DONE]\n\n"), End()),
        (Head(200, {"content-type": "application/json"}), Data(b'{"choices":[]}'), End()),
    ],
    ids=["closed", "reset", "stall", "role", "error_event", "done", "no_choices"],
)
async def test_both_fail_without_content(broken: tuple[Action, ...], stream: bool) -> None:
    """When two providers have answered 200 without content, the client gets a 503 in JSON, and never a 200
    first."""
    timeouts = TimeoutOptions(first_token_s=1.0, whole_answer_s=1.0)
    async with ServiceWorld(one=script(*broken), two=script(*broken), timeouts=timeouts) as world:
        answer = await world.ask(stream=stream)
    assert (answer.status, answer.headers["content-type"]) in [(s, "application/json") for s in (429, 503)]
    assert {line["target"] for line in answer.json()["error"]["attempts"]} == {"one/m", "two/m"}


async def test_a_dead_connection_does_not_move_the_deadline() -> None:
    """A kept connection that turns out dead late, and a fresh one that stalls, both count against the one
    deadline."""
    answers = in_turn(healthy(), script(Wait(1.5), Close()), script(Hang()))
    async with ServiceWorld(one=answers) as world:
        await world.ask(stream=True)
        began_s = clock.now()
        answer = await world.ask(stream=True, headers={"x-deadline-ms": "2000"})
    assert clock.now() - began_s == pytest.approx(2.0)
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    assert [line["reason"] for line in answer.json()["error"]["attempts"]] == [
        "wait_closed",
        "deadline_timeout",
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_streams_are_retried_as_json_is(stream: bool) -> None:
    """A 503 with Retry-After is retried once, not a moment sooner, as JSON and as a stream."""
    at_s: list[float] = []

    def noting(request: object) -> Respond:
        at_s.append(clock.now())
        return healthy() if len(at_s) > 1 else status(503, b"{}", {"retry-after": "1"})

    async with ServiceWorld(one=lambda request: noting(request)(request), two=healthy()) as world:
        answer = await world.ask(stream=stream)
    assert answer.headers["x-dub5-target"] == "one/m"
    assert len(at_s) == 2
    assert at_s[1] - at_s[0] >= 1.0


@pytest.mark.parametrize("begun", [False, True])
async def test_a_limit_in_the_middle_of_a_stream(begun: bool) -> None:
    """A rate limit in the middle of a stream is one failure: before the first content each target is asked
    once, after it none."""
    said = [chunk({"content": "word "}), Wait(0.1)] if begun else []
    limited = script(Head(200, SSE), *said, LIMIT_EVENT, End())
    async with ServiceWorld(one=limited, two=limited) as world:
        answers = await asyncio.gather(*(world.ask(stream=True) for _ in range(20)))
        took_s = clock.now()
    assert [len(world.asked[name]) for name in ("one", "two")] == ([20, 0] if begun else [1, 1])
    assert took_s < 1.0
    assert {answer.status for answer in answers} <= ({200} if begun else {429, 503})
    assert not any(b"[DONE]" in answer.body for answer in answers)


async def test_who_cools_down_says_why() -> None:
    """When no target may be asked, the error names each target, its limit, and the shortest wait."""
    limited = [status(429, b"{}", {"retry-after": str(wait)}) for wait in (40, 20)]
    async with ServiceWorld(one=limited[0], two=limited[1]) as world:
        await world.ask()
        await asyncio.sleep(5)
        answer = await world.ask(stream=True)
    error = answer.json()["error"]
    assert (answer.status, error["code"], answer.headers["retry-after"]) == (429, "all_targets_limited", "15")
    assert [(line["target"], line["reason"]) for line in error["attempts"]] == [
        ("one/m", "cooling_down"),
        ("two/m", "cooling_down"),
    ]


async def test_resting_again_lasts_longer() -> None:
    """A target limited at 0 s and again at 4 s, for five seconds each, cools down until the ninth second."""
    bare = status(429, b"{}")
    late = script(Wait(4.0), Head(429), Data(b"{}"), End())
    async with ServiceWorld(one=in_turn(late, bare, healthy()), two=healthy()) as world:
        first = asyncio.create_task(world.ask())
        await asyncio.sleep(0.001)
        await asyncio.gather(first, world.ask())
        for at_s, target in ((8.9, "two/m"), (9.1, "one/m")):
            await asyncio.sleep(at_s - clock.now())
            assert (await world.ask()).headers["x-dub5-target"] == target


@pytest.mark.parametrize(
    ("limited", "back_within_s", "asked_max"),
    [
        (status(429, b'{"error":{"message":"quota","code":"insufficient_quota"}}'), HOUR_S, 5),
        (status(429, b"{}"), 60.0, 4 * 60 + 1),
        (status(429, b"{}", {"retry-after": "900"}), 900.0, 17),
    ],
    ids=["quota", "bare", "with_retry_after"],
)
async def test_limited_for_four_hours(limited: Respond, back_within_s: float, asked_max: int) -> None:
    """While a target is limited for four hours, others answer; it is asked now and then, and is back in
    time."""
    ends_s = 4 * HOUR_S
    async with ServiceWorld(one=until(ends_s, limited, healthy()), two=healthy()) as world:
        targets = []
        while clock.now() < ends_s + back_within_s + 60.0:
            answer = await world.ask()
            targets.append(answer.headers["x-dub5-target"])
            if clock.now() < ends_s:
                asked = len(world.asked["one"])
            await asyncio.sleep(60.0)
    assert set(targets[:230]) == {"two/m"}
    assert targets[-1] == "one/m"
    assert asked <= asked_max
    assert world.outcomes() == {"complete": len(targets)}


async def test_an_open_breaker_is_news_once() -> None:
    """A thousand requests past an open breaker cause a handful of warnings, and one ordinary log line
    each."""
    lines: list[str] = []
    log = EventLogger(lambda line, *, at_once: lines.append(json.loads(line)["level"]))
    broken = status(500, b"{}")
    async with ServiceWorld(one=broken, two=healthy(first_s=0.0), options=QUIET) as world:
        world.service.events.subscribe(log.log)
        for _ in range(1000):
            await world.ask()
    assert world.happened("breaker_opened") >= 1
    assert lines.count("WARNING") + lines.count("ERROR") <= 5
    assert len(lines) <= 1010


async def test_alive_whatever_the_load() -> None:
    """At many times the capacity requests are rejected, and a liveness check is answered at once."""
    async with ServiceWorld(one=script(Hang()), server=ServerSettings(in_flight_max=4)) as world:
        crowd = [asyncio.create_task(world.ask(headers={"x-deadline-ms": "5000"})) for _ in range(40)]
        await asyncio.sleep(1.0)
        for path in ("/livez", "/readyz", "/health"):
            assert (await world.client.request("GET", path)).status == 200
        assert clock.now() == 1.0
        codes = [(await asked).json()["error"]["code"] for asked in crowd]
    assert codes.count("overloaded") == 36


CALLERS = [
    status(400, b'{"error":{"message":"bad"}}'),
    status(422, b'{"error":{"message":"bad"}}'),
    status(400, b'{"error":{"message":"no","code":"content_filter"}}'),
    script(Head(200, SSE), Data(b'data: {"error":{"message":"no","code":"content_filter"}}\n\n'), End()),
]
THEIRS = [
    status(number, b"{}") for number in (401, 403, 404, 408, 413, 429, 500, 502, 503, 504, 520, 529, 530)
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "moves_on"),
    [
        *((one, True) for one in CALLERS[:2]),
        *((one, False) for one in CALLERS[2:]),
        *((one, True) for one in THEIRS),
    ],
    ids=["400", "422", "filter", "filter_in_200"]
    + ["401", "403", "404", "408", "413", "429", "500", "502", "503", "504", "520", "529", "530"],
)
async def test_who_is_asked_next(answer: Respond, moves_on: bool, stream: bool) -> None:
    """A content filter ends the failover; every other failure goes on to the next target, in either form.

    A 400 proves little until a second target says the same.
    """
    if answer is CALLERS[3] and not stream:
        answer = status(200, b'{"error":{"message":"no","code":"content_filter"}}')
    async with ServiceWorld(one=answer, two=healthy()) as world:
        got = await world.ask(stream=stream)
    assert len(world.asked["two"]) == moves_on
    assert (got.status == 200) == moves_on


async def test_nobody_is_asked_to_go_on() -> None:
    """The next target gets the request as it came, without the half answer of another one."""
    cut = script(Head(200, SSE), chunk({"content": "half "}), Wait(0.1), Close())
    whole = {"delivery": "whole"}
    async with ServiceWorld(one=cut, two=healthy(), route=whole) as world:
        answer = await world.ask(stream=True)
    one, two = (json.loads(world.asked[name][0].body)["messages"] for name in ("one", "two"))
    assert one == two == [{"role": "user", "content": "Hi"}]
    assert text_of(answer.body) == TEXT


async def test_the_first_error_is_told_whoever_comes_next() -> None:
    """An error of the second target about the request does not hide that the first target was down."""
    async with ServiceWorld(one=status(503, b"{}"), two=status(413, b"{}")) as world:
        answer = await world.ask(stream=True)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (503, "all_targets_down")
    assert error["attempts"][0]["reason"] == "http_503"


@pytest.mark.parametrize("size", [1, 65_537, 1_000_000, 20_000_000])
async def test_bodies_of_any_size(size: int) -> None:
    """Bodies from one byte to twenty million bytes arrive as they were sent."""
    text = "x" * size
    async with ServiceWorld(one=healthy()) as world:
        answer = await world.ask(stream=True, messages=[{"role": "user", "content": text}])
    assert payloads(answer.body)[-1] == "[DONE]"
    assert json.loads(world.asked["one"][0].body)["messages"][0]["content"] == text


async def test_a_crowd_before_our_own_pool() -> None:
    """With fifty callers and two connections, a caller without a connection fails over, and no provider is
    blamed for it."""
    nervous = BreakerOptions(failures_in_a_row=2)
    async with ServiceWorld(one=healthy(first_s=5.0), two=healthy(), breaker=nervous) as world:
        world.wire._slots._per_origin_max = 2
        answers = await asyncio.gather(*(world.ask() for _ in range(50)))
        states = world.service.fleet.snapshots(clock.now())
    turned_away = [answer.json()["error"]["attempts"] for answer in answers if answer.status != 200]
    assert {answer.headers["x-dub5-target"] for answer in answers if answer.status == 200} == {
        "one/m",
        "two/m",
    }
    assert {line["reason"] for lines in turned_away for line in lines} == {"pool_timeout"}
    assert world.happened("breaker_opened") == 0
    assert {state.health for state in states} == {"healthy"}
