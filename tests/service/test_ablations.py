"""Every mechanism earns its place: with it a verdict holds, without it the same verdict fails.

Each scenario plays the whole service in virtual time and returns what an operator would measure. `without`
switches the one mechanism off: by its settings, or, where nobody may switch it off, by taking its decision
away.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.config.options import (
    BreakerOptions,
    BudgetOptions,
    HealthOptions,
    KeysOptions,
    LimiterOptions,
    ProbeOptions,
    RetryOptions,
    TimeoutOptions,
)
from dub5.service.failover.loop import _FailoverLoop
from dub5.service.resilience.circuit_breaker import Breaker
from dub5.service.resilience.concurrency_limit import Limiter
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.health import ErrorRateWindow
from dub5.simulators.latency import PRESETS
from dub5.simulators.limits.rate import Limits
from dub5.simulators.personas.base import Profile
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.script import Hang, Respond, Script, SimRequest, Wait
from dub5.simulators.virtual import Connect
from tests.support.source import ROOT
from tests.support.steady_clients import SteadyClients
from tests.support.world import STRICT, ServiceWorld, healthy, limited, reply, script, share, status, until

Options = dict[str, Any]
STALLS = script(Hang())
NEVER = 10**6
NO_BREAKER = BreakerOptions(failures_in_a_row=NEVER, calls_min=NEVER)


async def breaker(options: Options) -> bool:
    """A target hangs for five minutes: hardly anybody waits for it."""
    async with ServiceWorld(
        one=STALLS, two=healthy(), options=options, timeouts=TimeoutOptions(first_token_s=3)
    ) as world:
        clients = await SteadyClients(world).ask(300, 1.0)
    return clients.waited(1.0) <= 10


async def host_breaker(options: Options) -> bool:
    """Three models at one host that is gone: what one of them met, the others need not learn."""
    targets = {"targets": ("one/a", "one/b", "one/c", "two/m")}
    async with ServiceWorld(one=healthy(), two=healthy(), route=targets, options=options) as world:
        world.wire.link("http://one.test/v1").connect = Connect.STALLS
        clients = await SteadyClients(world).ask(60, 1.0)
    return clients.waited(6.0) <= 4


async def hedged_probe(options: Options) -> bool:
    """A target hangs; whoever probes it is answered as soon as everybody else."""
    options = {
        **options,
        "breaker": BreakerOptions(failures_in_a_row=2),
        "probe": ProbeOptions(enabled=False),
    }
    async with ServiceWorld(one=STALLS, two=healthy(), options=options, timeouts=STRICT) as world:
        await SteadyClients(world).ask(2, 0.0)
        clients = await SteadyClients(world).ask(120, 1.0)
    return clients.waited(1.0) == 0


async def late(options: Options) -> bool:
    """A target stalls, and programs wait for twenty seconds for answers that may take a minute: they get
    theirs."""
    options = {**options, "budget": BudgetOptions(share=0.0, floor_per_s=0.0)}
    async with ServiceWorld(one=STALLS, two=healthy(), options=options) as world:
        clients = await SteadyClients(world, stream=False, deadline_s=20.0).ask(40, 0.2)
    return clients.answered() == 1.0


async def suspicion(options: Options) -> bool:
    """Now and then somebody asks, and nobody else probes. For an hour a provider takes half a minute longer,
    which ends each stream, and no answer in one piece. Some people wait for a stream at first, and hardly any
    later."""
    options = {**options, "probe": ProbeOptions(enabled=False)}
    late = until(clock.now() + 3600, healthy(first_s=30.0), healthy())
    async with ServiceWorld(one=late, two=healthy(), options=options, timeouts=STRICT) as world:
        streams, whole = SteadyClients(world), SteadyClients(world, stream=False, deadline_s=60.0)
        for _ in range(60):
            await whole.ask(1, 20.0)
            await streams.ask(2, 20.0)
    return streams.waited(1.0) <= 8


async def active_probe(options: Options) -> bool:
    """Nobody asks for a while; when somebody does, the target that is back is known to be back."""
    providers = {"one": until(30, STALLS, healthy()), "two": healthy()}
    async with ServiceWorld(**providers, options=options, timeouts=STRICT) as world:
        await SteadyClients(world).ask(5, 0.1)
        await asyncio.sleep(60 - clock.now())
        answer = await world.ask()
        return "one/m=ok" in answer.headers["x-dub5-trail"] and world.happened("breaker_closed") == 1


async def slow_start(options: Options) -> bool:
    """A provider comes back cold, and has more room the longer it is used: it warms up, instead of falling
    over."""
    cold = _ColdStart(back_s=20.0)
    async with ServiceWorld(one=cold, two=healthy(), options=options) as world:
        await SteadyClients(world).ask(600, 0.05)
    return cold.fell_over < 6


async def slowness(options: Options) -> bool:
    """A target's first tokens take six seconds, which they did not before: people do not wait for them while
    another one is quick."""
    slower = until(clock.now() + 20, healthy(), healthy(first_s=6.0))
    async with ServiceWorld(one=slower, two=healthy(), options=options) as world:
        clients = await SteadyClients(world).ask(120, 1.0)
    return clients.waited(3.0) <= 24


async def last_candidate(options: Options) -> bool:
    """All that is left is slow: everybody is answered, slowly."""
    slower = until(clock.now() + 20, healthy(), healthy(first_s=6.0))
    async with ServiceWorld(one=slower, options=options) as world:
        clients = await SteadyClients(world).ask(60, 1.0)
    return clients.answered() == 1.0


async def retry(options: Options) -> bool:
    """One provider, and one answer in twenty is a 500: nobody sees it."""
    async with ServiceWorld(one=share(0.05, status(500, b"{}"), healthy()), options=options) as world:
        clients = await SteadyClients(world).ask(400, 0.1)
    return clients.answered() >= 0.995


async def retry_after(options: Options) -> bool:
    """One provider that says 429 for a second now and then, and when it ends: nobody sees it."""
    limits = share(0.02, limited("1"), healthy())
    async with ServiceWorld(
        one=limits, options={**options, "budget": BudgetOptions(floor_per_s=NEVER)}
    ) as world:
        clients = await SteadyClients(world).ask(300, 2.0)
    return clients.answered() >= 0.995


async def quota_left(options: Options) -> bool:
    """A provider takes 60 requests a minute, three times fewer than are asked: none is refused there, as its
    headers say when nothing is left; and it answers as many as it can all the same."""
    limits = Limits(requests_per_minute=60)
    profile = Profile("one", PRESETS["quick"])
    one = SimulatedProvider("openai", profile, rng=Random(1), now=clock.now, limits=limits)
    async with ServiceWorld(one=one, two=healthy(), options=options) as world:
        clients = await SteadyClients(world).ask(300, 0.33)
    statuses = [line.status for line in one.ledger.lines()]
    return clients.answered() == 1.0 and statuses.count(200) >= 120 and statuses.count(429) <= 2


async def budget(options: Options) -> bool:
    """A provider fails every request for half a minute: it gets a tenth more, not three times as many."""
    async with ServiceWorld(one=status(500, b"{}"), options={**options, "breaker": NO_BREAKER}) as world:
        await SteadyClients(world).ask(600, 0.05)
        return len(world.asked["one"]) <= 600 * 1.2


async def limiter(options: Options) -> bool:
    """A provider that has room for ten at a time is given about ten, most of the time: hardly any is turned
    away."""
    room = _LimitedCapacity(10)
    async with ServiceWorld(one=room, two=healthy(), options={**options, "breaker": NO_BREAKER}) as world:
        await SteadyClients(world).ask(1200, 0.05)
        return room.turned_away < 60 and len(world.asked["one"]) > 250


async def outage(options: Options) -> bool:
    """A provider refuses every call for ten seconds, and streams from before go on meanwhile. Then it takes
    all, and first tokens take two seconds: hardly anybody is turned away."""
    began_s = clock.now()
    fine, full = healthy(first_s=2.0), _refuses_after(0.1)
    gone = until(began_s + 10.0, fine, until(began_s + 20.0, full, fine))
    async with ServiceWorld(one=gone, options={**options, "breaker": NO_BREAKER}) as world:
        before, after = SteadyClients(world), SteadyClients(world)
        async with asyncio.TaskGroup() as group:
            group.create_task(before.ask(400, 0.05))
            await asyncio.sleep(20.0)
            group.create_task(after.ask(800, 0.05))
    return after.answered() > 0.9


async def health(options: Options) -> bool:
    """A quarter of a target's requests hang, too few for its breaker: others go first, so few people wait."""
    sick = share(0.25, STALLS, healthy())
    async with ServiceWorld(
        one=sick, two=healthy(), options=options, timeouts=TimeoutOptions(first_token_s=5)
    ) as world:
        clients = await SteadyClients(world).ask(600, 0.1)
    return clients.waited(3.0) < 600 * 0.08


async def few_calls(options: Options) -> bool:
    """Six requests a minute, and every second one hangs: no window ever fills, and yet few people wait."""
    sick = share(0.5, STALLS, healthy())
    async with ServiceWorld(one=sick, two=healthy(), options=options) as world:
        clients = await SteadyClients(world).ask(120, 10.0)
    return clients.waited(3.0) <= 12


async def balanced(options: Options) -> bool:
    """One of two equals takes ten times as long, though not too long for any clock: most people do not
    notice."""
    route = {"policy": options.get("policy", "balanced")}
    async with ServiceWorld(one=healthy(first_s=3.0), two=healthy(first_s=0.3), route=route) as world:
        clients = await SteadyClients(world).ask(300, 0.1)
    return clients.waited(1.0) < 100


def _refuses_after(wait_s: float) -> Respond:
    def respond(request: SimRequest) -> Script:
        yield Wait(wait_s)
        yield from reply(529, b"{}")

    return respond


@dataclass
class _LimitedCapacity:
    """Answers so many at a time within a second, and turns the others away."""

    places: int
    busy: int = 0
    turned_away: int = 0

    def __call__(self, request: SimRequest) -> Script:
        if self.busy >= self.places:
            self.turned_away += 1
            yield from reply(529, b"{}")
            return
        self.busy += 1
        try:
            yield from healthy(first_s=1.0)(request)
        finally:
            self.busy -= 1


@dataclass
class _ColdStart:
    """Down until `back_s`, then cold: room for two, and for one more with every second that it is used."""

    back_s: float
    used_s: float | None = None
    fell_over: int = 0
    busy: int = 0

    def __call__(self, request: SimRequest) -> Script:
        now_s = clock.now()
        if now_s < self.back_s:
            yield from reply(500, b"{}")
            return
        self.used_s = now_s if self.used_s is None else self.used_s
        if self.busy >= 2 + now_s - self.used_s:
            self.fell_over += 1
            yield from reply(500, b"{}")
            return
        self.busy += 1
        try:
            yield from healthy(first_s=0.5)(request)
        finally:
            self.busy -= 1


def _only(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Takes decisions away that no setting takes."""

    def take(patch: pytest.MonkeyPatch) -> None:
        if "race" in names:
            patch.setattr(Fleet, "may_ask_any", lambda *_: False)
        if "suspicion" in names:
            patch.setattr(Breaker, "on_probation", False)
        if "late" in names:
            patch.setattr(_FailoverLoop, "_schedule_hedge", lambda loop, attempts, rest: None)
        if "few_calls" in names:
            patch.setattr(ErrorRateWindow, "_failed_last", lambda record, now_s: False)
        if "last_resort" in names:
            patch.setattr(Breaker, "try_acquire_last_resort", lambda breaker, now_s: None)
        if "outage" in names:
            patch.setattr(Limiter, "note_refused", lambda limiter, busy: None)

    return take


Scenario = Callable[[Options], Awaitable[bool]]
KEEP: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
MECHANISMS: list[tuple[Scenario, Options, Callable[[pytest.MonkeyPatch], None]]] = [
    (breaker, {"breaker": NO_BREAKER, "health": HealthOptions(calls_min=NEVER)}, _only("suspicion")),
    (host_breaker, {"breaker": NO_BREAKER, "health": HealthOptions(calls_min=NEVER)}, _only("suspicion")),
    (hedged_probe, {}, _only("race")),
    (late, {}, _only("late")),
    (suspicion, {}, _only("suspicion")),
    (active_probe, {"probe": ProbeOptions(enabled=False)}, KEEP),
    (slow_start, {"breaker": BreakerOptions(slow_start_s=0.0)}, KEEP),
    (slowness, {"breaker": BreakerOptions(slow_share=1.0, slow_of_timeout=1.0)}, KEEP),
    (last_candidate, {}, _only("last_resort")),
    (retry, {"retry": RetryOptions(same_target_max=0, last_target_max=0)}, KEEP),
    (retry_after, {"retry": RetryOptions(wait_max_s=0.0)}, KEEP),
    (quota_left, {"keys": KeysOptions(check_s=0.0, quota_headers=False)}, KEEP),
    (budget, {"budget": BudgetOptions(share=1.0, floor_per_s=NEVER)}, KEEP),
    (limiter, {"limiter": LimiterOptions(min=1000, max=1000)}, KEEP),
    (outage, {}, _only("outage")),
    (health, {"health": HealthOptions(calls_min=NEVER)}, _only("few_calls")),
    (few_calls, {}, _only("few_calls")),
    (balanced, {"policy": "ordered"}, KEEP),
]


@pytest.mark.parametrize(
    ("scenario", "without", "take"), MECHANISMS, ids=[case[0].__name__ for case in MECHANISMS]
)
async def test_ablation(
    scenario: Scenario,
    without: Options,
    take: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check passes with the mechanism, and only with it."""
    assert await scenario({})
    take(monkeypatch)
    assert not await scenario(without)


def test_the_page_names_each() -> None:
    """docs/operate/reliability.md names each ablation at its mechanism, and there is no other."""
    (page,) = (ROOT / "docs").rglob("reliability.md")
    lines = re.findall(r"^Ablations?: (.*) in \[", page.read_text(), re.MULTILINE)
    named = [name for line in lines for name in re.findall(r"`([a-z_]+)`", line)]
    assert sorted(named) == sorted(case[0].__name__ for case in MECHANISMS)
