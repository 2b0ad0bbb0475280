"""A request that ends at any step of the loop leaves nothing open: no connection, permit, task, or claim.

Each way of a request is driven once, and its steps are counted. Then it is driven again for each of them,
and ended right after it: its client leaves, the server cancels it, a drain cuts it, or its deadline passes.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.chaos.simulation.mutant import mutated
from dub5.service import clock
from dub5.service.config.options import (
    CacheBounds,
    CacheOptions,
    DegradedOptions,
    LimiterOptions,
    ProbeOptions,
    RedisOptions,
)
from dub5.service.model import Target
from dub5.simulators.script import Hang, Head, Respond
from dub5.simulators.virtual import Stalls, VirtualLoop, run
from tests.support.virtual_redis import VirtualRedis
from tests.support.world import SSE, ServiceWorld, chunk, healthy, in_turn, script, status

SETTLED_S = 25.0  # all that goes on in the background is over by then; a forgotten claim is not
NO_PROBES = {"probe": ProbeOptions(enabled=False)}
CACHE = CacheOptions(enabled=True, ttl_s=5.0, stale_while_revalidate_s=60.0)
WHOLE = {"x-dub5-delivery": "whole"}
SOON = {"x-deadline-ms": "4000"}  # a hedge goes out at half of it
DOWN = status(503, b"{}")
Prepare = Callable[[ServiceWorld], Awaitable[None]]
End = Callable[[ServiceWorld, asyncio.Task[Any]], None]


async def _nothing(world: ServiceWorld) -> None:
    """Prepare nothing."""


async def _on_probation(world: ServiceWorld) -> None:
    """Let the first target owe proofs that it is well: its next request is a canary."""
    world.service.fleet.isolate(["one"], clock.now())
    world.service.fleet.isolate([], clock.now())


async def _half_open(world: ServiceWorld) -> None:
    """Let the first target's breaker be due for a probe."""
    breaker = world.service.fleet._states[Target("one", "m")].breaker
    breaker._open(clock.now(), clock.now(), "test")
    await asyncio.sleep(20.0)


async def _stale(world: ServiceWorld) -> None:
    """Let there be a stale answer."""
    await world.ask(temperature=0)
    await asyncio.sleep(10.0)


@dataclass(frozen=True)
class Way:
    """One way of a request through the service, in a world that `prepare` brings into its state."""

    one: Callable[[], Respond] = healthy
    two: Callable[[], Respond] | None = None
    stream: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    route: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Prepare = _nothing
    across_processes: bool = False  # the cache's storage
    before: int = 0  # equal requests that are open already

    def world(self) -> ServiceWorld:
        providers = {"one": self.one()} | ({"two": self.two()} if self.two else {})
        world = ServiceWorld(**providers, route=self.route, options=NO_PROBES | self.options)  # type: ignore[arg-type]
        if self.across_processes:
            world.service.cache._storage = VirtualRedis(CacheBounds(redis=RedisOptions(url="redis://")))
        return world


WAYS = {
    "json": Way(stream=False),
    "stream": Way(),
    "held_stream": Way(headers=WHOLE),
    "failover": Way(lambda: DOWN, healthy),
    "rate_limit": Way(lambda: in_turn(status(429, b"{}", {"retry-after": "1"}), healthy())),
    "hedge": Way(lambda: healthy(first_s=3.0), healthy, headers=SOON),
    "dead_heat": Way(lambda: healthy(first_s=2.1), healthy, headers=SOON),
    "dead_heat_of_held_streams": Way(lambda: healthy(first_s=2.1), healthy, headers=SOON | WHOLE),
    "probe": Way(healthy, healthy, prepare=_half_open),
    "probe_of_a_held_stream": Way(healthy, healthy, prepare=_half_open, headers=WHOLE),
    "canary": Way(healthy, healthy, prepare=_on_probation, stream=False),
    "judged": Way(
        lambda: script(Head(200, SSE), chunk({"content": "So"}), Hang()),
        healthy,
        route={"reject_patterns": ("upgrade your plan",)},
    ),
    "shared_call": Way(route={"cache": CACHE}, before=1),
    "shared_held_stream": Way(route={"cache": CACHE}, headers=WHOLE),
    "stale": Way(route={"cache": CACHE}, prepare=_stale),
    "claim": Way(
        route={"cache": CacheOptions(enabled=True, share=False)}, across_processes=True, stream=False
    ),
    "shared_claim": Way(route={"cache": CACHE}, across_processes=True),
    "stale_claim": Way(route={"cache": CACHE}, across_processes=True, prepare=_stale),
    "fallback": Way(lambda: DOWN, route={"degraded": DegradedOptions(enabled=True)}),
    "queue": Way(
        lambda: healthy(first_s=1.0),
        options={"limiter": LimiterOptions(min=1, max=1)},
        before=1,
        route={"cache": CacheOptions(enabled=True, share=False)},
        stream=False,
    ),
}


def _app_task() -> asyncio.Task[Any] | None:
    """Return the server's task of the youngest request."""
    names = {task.get_name(): task for task in asyncio.all_tasks()}
    youngest = max((n for n in names if n.startswith("app ") and " POST " in n), key=_number, default=None)
    return None if youngest is None else names[youngest]


def _number(name: str) -> int:
    return int(name.split()[1])


def client_leaves(world: ServiceWorld, client: asyncio.Task[Any]) -> None:
    client.cancel()


def server_cancels(world: ServiceWorld, client: asyncio.Task[Any]) -> None:
    if task := _app_task():
        task.cancel()


def drain_cuts(world: ServiceWorld, client: asyncio.Task[Any]) -> None:
    world.service.admission.cut_all()


async def ended_after(way: Way, steps: int, ends: tuple[End, ...]) -> int:
    """Drive a request, and end it after so many steps, by each of `ends` in turn. Return its steps."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    async with way.world() as world:
        await way.prepare(world)
        idle = Counter(task.get_name() for task in asyncio.all_tasks())
        before = [asyncio.create_task(_ask(world, way)) for _ in range(way.before)]
        await asyncio.sleep(0.05 if before else 0.0)
        client, taken, left = asyncio.create_task(_ask(world, way)), 0, list(ends)

        def count(at_ns: int, name: str) -> None:
            nonlocal taken
            taken += 1
            if taken >= steps and left:
                left.pop(0)(world, client)

        loop.on_step = count
        await asyncio.wait({client})
        loop.on_step = None
        await asyncio.gather(client, *before, return_exceptions=True)
        await asyncio.sleep(SETTLED_S)
        assert_nothing_left(world, idle)
    return taken


async def _ask(world: ServiceWorld, way: Way, headers: dict[str, str] | None = None) -> None:
    await world.ask(stream=way.stream, headers=way.headers | (headers or {}), temperature=0)


def assert_nothing_left(world: ServiceWorld, idle: Counter[str]) -> None:
    """Check that all that was acquired is back."""
    service = world.service
    assert not world.wire._open, "connections are open"
    for state in service.fleet.snapshots(clock.now()):
        assert (state.in_flight, state.probing, state.provider_in_flight) == (0, 0, 0), state.name
    assert (service.admission.in_flight, service.queue.waiting) == (0, 0)
    assert not service.cache._storage._claims, "claims are held"  # type: ignore[attr-defined]
    tasks = Counter(task.get_name() for task in asyncio.all_tasks()) - idle
    del tasks["look"]  # of telemetry, each 15 s, for one step of the loop
    assert not tasks, f"tasks are left: {tasks}"


ENDS = {
    "client_leaves": (client_leaves,),
    "server_cancels": (server_cancels,),
    "cancelled_again": (client_leaves, server_cancels, server_cancels),
    "drain": (drain_cuts,),
}
SHORT = ("client_leaves", "cancelled_again")
LONG = [pytest.param(name, marks=pytest.mark.thorough) for name in ENDS if name not in SHORT]


@pytest.mark.parametrize("ends", [*SHORT, *LONG])
@pytest.mark.parametrize("name", WAYS)
async def test_nothing_is_left_open(name: str, ends: str) -> None:
    """Whichever step of the loop a request ends after, nothing of it is left."""
    steps = 1
    while await ended_after(WAYS[name], steps, ENDS[ends]) >= steps:
        steps += 1
    assert steps > 5, "it has been ended in its midst"


@pytest.mark.parametrize(
    ("mutant", "name", "ends"),
    [
        ("answer_without_an_owner", "stream", "client_leaves"),
        ("raced_answer_forgotten", "dead_heat", "cancelled_again"),
        ("claim_kept_on_cancel", "claim", "client_leaves"),
    ],
)
async def test_a_broken_build_is_caught(mutant: str, name: str, ends: str) -> None:
    """A build that lets go of what it holds at one step fails the test above."""
    with mutated(f"tests.simulation.mutants:{mutant}"), pytest.raises(AssertionError):
        await test_nothing_is_left_open(name, ends)


@given(
    name=st.sampled_from(sorted(WAYS)),
    ends=st.lists(st.sampled_from([client_leaves, server_cancels, drain_cuts]), min_size=1, max_size=3),
    steps=st.integers(1, 60),
    stalls=st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.02, 3.0)), max_size=3),
    seed=st.integers(0, 1000),
)
def test_a_busy_loop(
    name: str, ends: list[End], steps: int, stalls: list[tuple[float, float]], seed: int
) -> None:
    """So it is while the loop stands still, in any order of one instant."""
    run(ended_after(WAYS[name], steps, tuple(ends)), seed=seed, stalls=Stalls(stalls, 0.01, seed))


@pytest.mark.parametrize("name", WAYS)
async def test_a_deadline_at_any_instant(name: str) -> None:
    """At whatever instant of a request its deadline passes, nothing of it is left."""
    way = WAYS[name]
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    instants: set[int] = set()
    async with way.world() as world:
        await way.prepare(world)
        began_s = clock.now()
        loop.on_step = lambda at_ns, name: instants.add(round((at_ns / 1e9 - began_s) * 1000))
        await _ask(world, way)
        loop.on_step = None
    for at_ms in sorted(instants - {0}):
        async with way.world() as world:
            await way.prepare(world)
            idle = Counter(task.get_name() for task in asyncio.all_tasks())
            await _ask(world, way, {"x-deadline-ms": str(at_ms)})
            await asyncio.sleep(SETTLED_S)
            assert_nothing_left(world, idle)
