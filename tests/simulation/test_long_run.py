"""What shows only after hours: daily quotas, limits of half a day, an answer of ten minutes, a host whose
clock is set, a day of faults that leaves nothing behind."""

import asyncio
import gc
import json
import random
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from itertools import pairwise
from types import TracebackType
from typing import Any, Self, cast

import pytest

from dub5.service import clock
from dub5.service.app import Service
from dub5.service.config.options import CacheOptions, KeysOptions, TimeoutOptions
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Secret, Settings
from dub5.service.failover import prober
from dub5.simulators.answers import Proof, judge
from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.latency import PRESETS
from dub5.simulators.ledger import Ledger, LedgerLine
from dub5.simulators.limits.rate import Limits
from dub5.simulators.personas.base import Profile
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.script import Action, Close, Data, End, Head, Script, SimRequest, Wait
from dub5.simulators.virtual import AppClient, AppResponse, VirtualLoop, VirtualWire, run
from tests.support.world import SSE, ServiceWorld, chunk, completion, healthy, in_turn, reply, script, text_of

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
AT_ONCE_S = 1.0  # nobody waits for anything but an answer
NAMES = ("one", "two")
SEED_OF_MORNING = 0
CHECK_INTERVAL_S = 15.0


@pytest.fixture(autouse=True)
def _rare_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the prober look for targets that are due four times a minute: each second, it is most of a day."""
    monkeypatch.setattr(prober, "CHECK_INTERVAL_S", CHECK_INTERVAL_S)


class LongRunWorld:
    """The service over two simulated providers, `one` before `two`, with a steady load.

    `forecasts`: a key rests before it is refused, since the provider says that nothing is left.
    """

    def __init__(
        self, persona: str = "free", limits: Limits | None = None, *, forecasts: bool = False
    ) -> None:
        self.ledger = Ledger()
        loop = asyncio.get_running_loop()
        self.epoch_s = int(clock.wall() - clock.now())
        self.providers = {
            name: SimulatedProvider(
                persona if name == "one" else "openai",
                Profile(name, PRESETS["quick"], 5),
                rng=random.Random(name),
                now=loop.time,
                ledger=self.ledger,
                epoch_s=self.epoch_s,
                limits=limits if name == "one" else None,
            )
            for name in NAMES
        }
        urls = {name: f"http://{name}.test/v1" for name in NAMES}
        self.wire = VirtualWire({urls[name]: provider for name, provider in self.providers.items()})
        settings = Settings(
            provider=tuple(ProviderSettings(name, "openai", urls[name]) for name in NAMES),
            route=(RouteSettings("chat", tuple(f"{name}/m" for name in NAMES)),),
            keys=KeysOptions(check_s=0.0, quota_headers=forecasts),
        )
        secrets = {name: (Secret("sk"),) for name in NAMES}
        self.service = Service(LoadedSettings(settings, secrets, ()), wire=self.wire, seed="long")
        self.client = AppClient(self.service.asgi)
        self.waits_s: list[float] = []
        self.answered: list[str] = []

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.__aexit__(kind, error, trace)

    async def ask(self, n: int) -> None:
        """Send one request. Fail the test if the answer is not complete."""
        prompt, began_s = f"Question {n}", clock.now()
        body = {"model": "chat", "messages": [{"role": "user", "content": prompt}], "stream": True}
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as got:
            self.waits_s.append(clock.now() - began_s)
            data = await got.body()
        assert got.status == 200, data
        assert judge(text_of(data), prompt) is Proof.WHOLE
        self.answered.append(got.headers["x-dub5-target"].partition("/")[0])

    async def people(self, until_s: float, every_s: float) -> None:
        """Send requests one after the other until a moment."""
        while clock.now() < until_s:
            await self.ask(len(self.answered))
            await asyncio.sleep(every_s)

    def asked(self, name: str) -> list[LedgerLine]:
        """Return the ledger lines of a provider."""
        return self.ledger.lines(provider=name)

    def midnights_s(self, until_s: float) -> list[float]:
        """Return when days begin for the providers."""
        return [
            at_s - self.epoch_s
            for at_s in range(0, self.epoch_s + int(until_s), int(DAY_S))
            if at_s > self.epoch_s
        ]


# quotas and long limits


@pytest.mark.parametrize("persona", ["free", pytest.param("openrouter", marks=pytest.mark.thorough)])
async def test_a_daily_quota(persona: str) -> None:
    """A provider whose daily quota is spent is not called until the quota is renewed, then with the next
    request."""
    until_s, every_s = 2 * DAY_S, 5 * MINUTE_S
    async with LongRunWorld(persona, Limits(requests_per_day=100)) as world:
        await world.people(until_s, every_s)
        refused = [line for line in world.asked("one") if line.status == 429]
        assert len(refused) in (2, 3)  # once for each day that had more requests than the quota
        midnights_s = world.midnights_s(until_s)
        for line in refused:
            back_s = min((at_s for at_s in midnights_s if at_s > line.at_s), default=until_s)
            after = [other for other in world.asked("one") if other.at_s > line.at_s]
            assert not after or back_s <= after[0].at_s <= back_s + every_s + MINUTE_S
            assert not after or after[0].status == 200
        assert max(world.waits_s) < AT_ONCE_S
        assert world.answered.count("one") + world.answered.count("two") == len(world.waits_s)


async def test_a_daily_quota_that_is_told() -> None:
    """A provider that says what is left of its daily quota is used to the end, and never refuses."""
    quota, until_s = 100, 2 * DAY_S
    async with LongRunWorld("free", Limits(requests_per_day=quota), forecasts=True) as world:
        await world.people(until_s, 5 * MINUTE_S)
        assert {line.status for line in world.asked("one")} == {200}
        edges_s = [0.0, *world.midnights_s(until_s), until_s]
        whole_days = [
            sum(begin_s <= line.at_s < end_s for line in world.asked("one"))
            for begin_s, end_s in pairwise(edges_s)
            if end_s - begin_s > DAY_S / 2
        ]
        assert whole_days and all(count >= quota - 1 for count in whole_days)


@pytest.mark.parametrize("headers", ["date", 4 * HOUR_S])
async def test_a_quota_that_says_when(headers: Any) -> None:
    """A provider's own Retry-After for its quota is respected, as a date or longer than needed."""
    async with LongRunWorld("free", Limits(requests_per_day=10, retry_after=headers)) as world:
        await world.people(DAY_S / 2, 2 * MINUTE_S)
        asked = world.asked("one")
        refused = [line for line in asked if line.status == 429]
        told_s = headers if isinstance(headers, float) else DAY_S
        for line, following in pairwise(refused):
            assert following.at_s - line.at_s >= min(told_s, world.midnights_s(DAY_S)[0] - line.at_s)
        assert 1 <= len(refused) <= 4
        assert max(world.waits_s) < AT_ONCE_S


async def test_limited_for_hours() -> None:
    """After a 429 with hours of Retry-After a provider is not called for those hours, then with the next
    request."""
    async with LongRunWorld() as world:
        limited = parse_fault({"kind": "status", "status": 429, "retry_after_s": 4 * HOUR_S})
        await world.people(HOUR_S, MINUTE_S)
        world.providers["one"].set_fault(limited)
        await world.people(1.5 * HOUR_S, MINUTE_S)
        world.providers["one"].clear_faults()
        await world.people(6 * HOUR_S, MINUTE_S)
        (refused,) = [line for line in world.asked("one") if line.status == 429]
        after = [line for line in world.asked("one") if line.at_s > refused.at_s]
        assert refused.at_s + 4 * HOUR_S <= after[0].at_s <= refused.at_s + 4 * HOUR_S + 2 * MINUTE_S
        assert {line.status for line in after} == {200}
        assert max(world.waits_s) < AT_ONCE_S


# a long answer

TOKENS, GAP_S = 120, 5.0


def ten_minutes(request: SimRequest) -> Script:
    """Return a script that sends a word every five seconds with comments in between."""
    yield Head(200, SSE)
    for n in range(TOKENS):
        yield Data(b": still here\n\n")
        yield Wait(GAP_S)
        yield chunk({"content": f"{n} "})
    yield chunk({}, "stop")
    yield Data(b"data: [DONE]\n\n")
    yield End()


WORDS = "".join(f"{n} " for n in range(TOKENS))


@pytest.mark.parametrize("delivery", ["live", "whole"])
async def test_an_answer_of_ten_minutes(delivery: str) -> None:
    """No timeout ends an answer that comes steadily for ten minutes, if its route allows the time."""
    timeouts = TimeoutOptions(total_s=900.0)
    async with ServiceWorld(
        one=ten_minutes, two=ten_minutes, timeouts=timeouts, route={"delivery": delivery}
    ) as world:
        began_s = clock.now()
        answer = await world.ask(stream=True)
        assert clock.now() - began_s == pytest.approx(TOKENS * GAP_S, abs=1.0)
        assert answer.body.endswith(b"data: [DONE]\n\n") and text_of(content_of(answer)) == WORDS
        assert len(world.asked["one"]) == 1 and not world.asked["two"]
        assert world.outcomes() == {"complete": 1}


async def test_ten_minutes_with_the_default_deadline() -> None:
    """By default an answer of ten minutes ends honestly at the deadline of five minutes."""
    async with ServiceWorld(one=ten_minutes) as world:
        answer = await world.ask(stream=True)
        assert clock.now() == pytest.approx(300.0, abs=1.0)
        assert b"[DONE]" not in answer.body and b'"error":' in answer.body
        assert WORDS.startswith(text_of(content_of(answer))) and world.outcomes() == {"cut": 1}


def content_of(answer: AppResponse) -> bytes:
    """Return the content of a stream, without comments."""
    return b"".join(event + b"\n\n" for event in answer.body.split(b"\n\n") if event.startswith(b"data: "))


# the host's clock

JUMPS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])


def jump(s: float) -> None:
    """Set the host's clock."""
    cast(VirtualLoop, asyncio.get_running_loop()).jump_wall(s)


class DatedRefusals:
    """A provider with a correct clock that sends some 429s with a date to return at, then answers."""

    def __init__(self, refusals: int, wait_s: float) -> None:
        self._epoch_s = clock.wall() - clock.now()
        self._left = refusals
        self._wait_s = wait_s

    def __call__(self, request: SimRequest) -> Iterator[Action]:
        now_s = self._epoch_s + clock.now()
        if self._left:
            self._left -= 1
            back = {
                "date": formatdate(now_s, usegmt=True),
                "retry-after": formatdate(now_s + self._wait_s, usegmt=True),
            }
            return reply(429, b'{"error":"slow down"}', back)
        return reply(200, completion("well again"))


@JUMPS
async def test_a_date_to_come_back_at(jump_s: float) -> None:
    """A Retry-After date is read against the provider's clock, even if the host's is an hour off or is set
    meanwhile."""
    one = DatedRefusals(1, 1_000.0)
    async with ServiceWorld(one=one, two=lambda request: reply(200, completion("from two"))) as world:
        jump(jump_s)
        assert "from two" in (await world.ask()).body.decode()
        await asyncio.sleep(500.0)
        jump(2 * jump_s)
        await asyncio.sleep(498.0)
        assert "from two" in (await world.ask()).body.decode()
        await asyncio.sleep(3.0)
        assert "well again" in (await world.ask()).body.decode()
        assert len(world.asked["one"]) == 2


@pytest.mark.parametrize("forecasts", [False, True])
def test_a_clock_that_is_set_in_the_middle_of_traffic(*, forecasts: bool) -> None:
    """Setting the host's clock while traffic goes on changes no routing, no quota and no wait: an hour
    forwards, two back, one forwards."""

    async def day(*jumps_s: float) -> list[tuple[float, str, int]]:
        until_s, every_s = 0.75 * DAY_S, 5 * MINUTE_S
        async with LongRunWorld("free", Limits(requests_per_day=40), forecasts=forecasts) as world:
            world.providers["one"].set_fault(parse_fault({"kind": "status", "status": 503, "share": 0.1}))
            for n, s in enumerate(jumps_s, start=1):
                await world.people(until_s * n / (len(jumps_s) + 1), every_s)
                jump(s)
            await world.people(until_s, every_s)
            assert max(world.waits_s) < AT_ONCE_S
            return [(line.at_s, line.provider, line.status) for line in world.ledger.lines()]

    calm = run(day(0.0, 0.0, 0.0), seed=SEED_OF_MORNING)
    assert {status for _, _, status in calm} == {200, 429, 503}
    assert run(day(HOUR_S, -2 * HOUR_S, HOUR_S), seed=SEED_OF_MORNING) == calm


@JUMPS
async def test_kept_answers_are_as_old_as_they_are(jump_s: float) -> None:
    """The age of cached answers follows the loop's clock: setting the host's clock changes none."""
    answers = iter(["first", "second"])
    respond = lambda request: reply(200, completion(next(answers)))
    cache: Mapping[str, Any] = {"cache": CacheOptions(enabled=True, ttl_s=300.0)}
    async with ServiceWorld(one=respond, route=dict(cache)) as world:
        said = []
        for pause_s in (0.0, 100.0, 198.0, 4.0):
            await asyncio.sleep(pause_s)
            answer = await world.ask(temperature=0)
            said.append(json.loads(answer.body)["choices"][0]["message"]["content"])
            jump(jump_s)
        assert said == ["first", "first", "first", "second"]


@JUMPS
def test_the_wall_clock_of_a_real_loop(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two readings of the host's clock, wall time advances with the loop's clock, so no request sees
    a jump; a minute after a jump it is right again."""

    class Loop(asyncio.SelectorEventLoop):
        at_s = 1_000.0

        def time(self) -> float:
            return self.at_s

    async def read() -> float:
        return wall()

    loop, wall = Loop(), clock._Wall().read
    monkeypatch.setattr(clock.time, "time", lambda: host_s + loop.at_s)
    try:
        host_s = 1.7e9
        right_s = loop.run_until_complete(read())
        host_s += jump_s
        loop.at_s += 59.0
        assert loop.run_until_complete(read()) == right_s + 59.0
        loop.at_s += 2.0
        assert loop.run_until_complete(read()) == right_s + 61.0 + jump_s
    finally:
        loop.close()


# a suspicion ends


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_suspicion_ends(stream: bool) -> None:
    """A target on probation is hedged until it has succeeded five times. It ends its probation even if the
    other target is always faster."""
    fails = script(Wait(1.5), Close())
    one = in_turn(*[fails] * 12, healthy(first_s=0.3))
    async with ServiceWorld(one=one, two=healthy(first_s=0.1)) as world:
        for n in range(60):
            if n == 40:
                before = len(world.asked["two"])
            await world.ask(stream=stream)
            await asyncio.sleep(10.0)
        assert before > 10 and len(world.asked["two"]) == before


# little traffic


async def test_who_cuts_half_of_its_streams_is_left_alone() -> None:
    """At six requests per minute, a target that cuts half of its streams is ranked behind a healthy one
    within half an hour: a cut cannot be repaired."""

    def cuts(request: SimRequest) -> Script:
        yield Head(200, SSE)
        yield Wait(0.3)
        yield chunk({"content": "hello "})
        if len(world.asked["one"]) % 2:
            yield Close()
        yield chunk({}, "stop")
        yield Data(b"data: [DONE]\n\n")
        yield End()

    async with ServiceWorld(one=cuts, two=healthy(first_s=0.3)) as world:
        for _ in range(180):
            await world.ask(stream=True)
            await asyncio.sleep(10.0)
        assert world.outcomes().get("cut", 0) <= 0.15 * 180


# nothing is left behind


@pytest.mark.parametrize(
    "every_h", [3, pytest.param(6, marks=pytest.mark.thorough)], ids=["half a day", "a day"]
)
async def test_a_day_leaves_nothing_behind(every_h: int) -> None:
    """After a day of failures, limits, stalls and cuts the process holds no more objects than before."""
    async with LongRunWorld("free", Limits(requests_per_minute=20, requests_per_day=500)) as world:
        troubles: list[dict[str, Any]] = [
            {"kind": "status", "status": 530, "up_s": 4 * HOUR_S, "down_s": 20 * MINUTE_S},
            {"kind": "status", "status": 500, "share": 0.05},
            {"kind": "stall", "share": 0.01},
            {"kind": "empty", "share": 0.02},
        ]
        world.providers["one"].set_faults(map(parse_fault, troubles))
        seen = []
        for hours in (every_h, 2 * every_h, 3 * every_h, 4 * every_h):
            await world.people(hours * HOUR_S, 3 * MINUTE_S)
            await asyncio.sleep(2 * MINUTE_S)
            seen.append(held(world))
        assert min(map(world.answered.count, NAMES)) > 5 * every_h
        first, *_, last = seen
        assert last["tasks"] == first["tasks"] and last["timers"] <= first["timers"] + 2
        requests = 3 * every_h * 20  # between the first look and the last: what each leaves must be nothing
        assert last["objects"] - first["objects"] < 1.4 * requests
        assert not world.wire._open and world.service.admission.in_flight == 0
        assert all(not state.in_flight for state in world.service.fleet.snapshots(clock.now()))


def held(world: LongRunWorld) -> dict[str, int]:
    """Count the objects of this process."""
    world.ledger._lines.clear()
    gc.collect()
    loop = cast(VirtualLoop, asyncio.get_running_loop())
    alive = [timer for timer in loop._timers if not timer[2].cancelled()]
    return {"tasks": len(loop.unfinished()), "timers": len(alive), "objects": len(gc.get_objects())}
