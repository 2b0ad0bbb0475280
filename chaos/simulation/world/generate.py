"""Generate a world from a seed: `generate_world(seed)`.

Swarm testing (Groce et al., 2012): each world has some kinds of fault and none of the others, because worlds
that have everything at once hide defects. Every choice uses a random stream with its own name, so a new
choice changes no other.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from msgspec import structs

from dub5.chaos.simulation.world.generate_extras import with_extras
from dub5.chaos.simulation.world.generate_faults import generate_faults
from dub5.chaos.simulation.world.generate_jobs import with_jobs
from dub5.chaos.simulation.world.generate_limits import with_limits
from dub5.chaos.simulation.world.generate_people import with_people
from dub5.chaos.simulation.world.generate_settings import generate_settings
from dub5.chaos.simulation.world.model import (
    Drain,
    LoadProfile,
    LoopStalls,
    Reload,
    ServiceSettings,
    World,
    WorldProvider,
    WorldRoute,
)
from dub5.chaos.simulation.world.odd_caller import odd_caller
from dub5.service.config.options import CacheOptions, DegradedOptions, PriorityName
from dub5.simulators.odd_forms import ODD_FORMS, OddForm
from dub5.simulators.personas import PERSONAS

T = TypeVar("T")
NAMES = ("one", "two", "three", "four", "five")
LATENCIES = [
    "zero",
    "quick",
    "quick",
    "quick",
    "lpu",
    "lpu",
    "frontier",
    "hosted-70b",
    "free-shared",
    "cold-start",
]
REQUESTS = (120, 720)  # per world, about
REST_S = 80.0  # longer than the longest time until a failed host is probed again


def generate_world(seed: int) -> World:
    """Return the world of this seed."""
    rng = Random(f"{seed}:shape")
    warm_s, storm_s = round(rng.uniform(3, 12), 1), round(rng.uniform(12, 60), 1)
    calm_s = rng.choice((0.0, round(rng.uniform(5, 40), 1), round(rng.uniform(20, 40), 1)))
    load = _load(Random(f"{seed}:load"), warm_s + storm_s + calm_s, warm_s, storm_s)
    providers = _providers(Random(f"{seed}:providers"), load.rate_per_s)
    providers = tuple(replace(p, form=_form(Random(f"{seed}:form:{p.name}"))) for p in providers)
    always_healthy = _always_healthy(Random(f"{seed}:spared"), providers)
    if always_healthy is not None:
        providers = tuple(always_healthy if p.name == always_healthy.name else p for p in providers)
    routes = _routes(Random(f"{seed}:routes"), [t for p in providers for t in p.targets])
    tuning = generate_settings(seed, roomy=always_healthy is not None)
    callers = _callers(Random(f"{seed}:callers"))
    reload = _reload(Random(f"{seed}:reload"), seed, tuning, providers, always_healthy, warm_s + storm_s)
    world = World(
        seed=seed,
        providers=providers,
        routes=tuple(_with_answers(Random(f"{seed}:answers:{route.name}"), route) for route in routes),
        troubles=generate_faults(seed, [p for p in providers if p is not always_healthy], warm_s, storm_s),
        load=_with_repeats(Random(f"{seed}:repeats"), load),
        tuning=tuning,
        warm_s=warm_s,
        storm_s=storm_s,
        calm_s=calm_s,
        rest_s=REST_S,
        drain=_drain(Random(f"{seed}:drain"), warm_s, storm_s + calm_s),
        callers=callers,
        reload=reload,
        stalls=_stalls(Random(f"{seed}:stalls"), warm_s + storm_s + calm_s),
        odd=odd_caller(seed, providers, len(callers), often=always_healthy is not None),
    )
    world = with_limits(with_extras(world, always_healthy))
    return with_jobs(with_people(_with_thinkers(Random(f"{seed}:thinkers"), world, always_healthy)))


def _with_thinkers(rng: Random, world: World, always_healthy: WorldProvider | None) -> World:
    """Let some providers think in some worlds, whose settings give up only much later than they hedge."""
    if not _one_in(rng, 4):
        return world
    hedge_after_s, thinking = rng.choice((0.5, 2.0, 10.0)), rng.choice(("thinker", "reasoning"))
    give_up_s = 240.0 if thinking == "thinker" else rng.choice((20.0, 240.0))
    providers = tuple(
        replace(provider, latency=thinking)
        if rng.random() < 0.5 and provider != always_healthy and not (provider.limits or provider.capacity)
        else provider
        for provider in world.providers
    )
    timeouts = structs.replace(
        world.tuning.timeouts,
        hedge_after_s=hedge_after_s,
        first_token_s=give_up_s,
        whole_answer_s=give_up_s,
        total_s=max(world.tuning.timeouts.total_s, give_up_s),
    )
    # Without stalls of the loop: the rules on long waits measure them to the millisecond.
    tuning = replace(world.tuning, timeouts=timeouts)
    return replace(world, providers=providers, tuning=tuning, stalls=LoopStalls())


def _stalls(rng: Random, until_s: float) -> LoopStalls:
    """Choose when the event loop stands still: in half of the worlds never, else up to half of the time."""
    if rng.random() < 0.5:
        return LoopStalls()
    longest_s, often_s = rng.choice((0.1, 0.5, 1.5, 3.0)), rng.choice((0.3, 1.0, 5.0, 20.0))
    at, at_s = [], rng.uniform(0.5, often_s)
    while at_s < until_s:
        for_s = rng.uniform(0.02, longest_s)
        at.append((round(at_s, 3), round(for_s, 3)))
        at_s += for_s + max(for_s, rng.uniform(0.0, 2 * often_s))
    return LoopStalls(tuple(at), overshoot_s=rng.choice((0.0, 0.001, 0.01)))


def _callers(rng: Random) -> tuple[PriorityName, ...]:
    """Choose the callers; in some worlds there are no caller keys."""
    names: tuple[PriorityName, ...] = ("high", "normal", "low")
    return tuple(rng.choice(names) for _ in range(rng.choice((0, 1, 2, 3))))


def _with_repeats(rng: Random, load: LoadProfile) -> LoadProfile:
    return replace(
        load,
        repeat_share=rng.choice((0.0, 0.3, 0.8)),
        questions=rng.choice((1, 2, 5, 20)),
        program_share=rng.choice((0.0, 0.1)),
        delivery_share=rng.choice((0.0, 0.0, 0.3)),
    )


def _with_answers(rng: Random, route: WorldRoute) -> WorldRoute:
    """Choose how a route answers: from the cache, whole, with a fallback."""
    cache = CacheOptions(
        enabled=True,
        ttl_s=rng.choice((0.3, 3.0, 20.0)),
        stale_while_revalidate_s=rng.choice((0.0, 0.0, 5.0, 60.0)),
        stale_if_error_s=rng.choice((0.0, 60.0, 600.0)),
        share=not _one_in(rng, 6),
    )
    fallback = DegradedOptions(enabled=True, answer_within_s=rng.choice((None, None, 5.0, 12.0)))
    return replace(
        route,
        delivery="whole" if _one_in(rng, 4) else "live",
        cache=cache if rng.random() < 0.6 else CacheOptions(),
        degraded=fallback if _one_in(rng, 3) else DegradedOptions(),
    )


def _reload(
    rng: Random,
    seed: int,
    tuning: ServiceSettings,
    providers: Sequence[WorldProvider],
    always_healthy: WorldProvider | None,
    until_s: float,
) -> Reload | None:
    """Choose a reload while traffic goes on, or None. The provider that stays healthy is not changed."""
    if not _one_in(rng, 4):
        return None
    others = [provider for provider in providers if provider is not always_healthy]
    other = (
        generate_settings(seed + 500_000, roomy=always_healthy is not None) if rng.random() < 0.7 else tuning
    )
    bound = replace(
        other,
        client_stall_s=tuning.client_stall_s,
        connections_per_origin_max=tuning.connections_per_origin_max,
    )
    return Reload(
        at_s=round(rng.uniform(2.0, until_s), 1) + 0.0123,  # never with a request in the same instant
        tuning=bound,
        isolated=tuple(p.name for p in others if _one_in(rng, 4)),
        rotated=tuple(p.name for p in others if p.keys and not p.bad_keys and _one_in(rng, 3)),
    )


def _load(rng: Random, seconds: float, warm_s: float, storm_s: float) -> LoadProfile:
    short = rng.uniform(4, 15)
    bursts = tuple(
        (round(rng.uniform(warm_s, warm_s + storm_s), 1), rng.choice((10, 30, 60)))
        for _ in range(rng.choice((0, 0, 1, 2)))
    )
    return LoadProfile(
        rate_per_s=round(rng.uniform(*REQUESTS) / seconds, 2),
        stream_share=rng.choice((0.0, 0.3, 0.5, 0.7, 1.0)),
        leave_share=rng.choice((0.0, 0.0, 0.05, 0.3)),
        slow_share=rng.choice((0.0, 0.0, 0.05, 0.2)),
        deadline_s=rng.choice(
            ((300.0, 300.0), (60.0, 120.0), (round(short, 1), 60.0), (0.5, round(short, 1)))
        ),
        bursts=bursts,
    )


def _providers(rng: Random, rate_per_s: float) -> tuple[WorldProvider, ...]:
    count = rng.choice((1, 2, 2, 3, 3, 3, 4, 5))
    return tuple(_provider(Random(rng.getrandbits(64)), name, rate_per_s) for name in NAMES[:count])


def _provider(rng: Random, name: str, rate_per_s: float) -> WorldProvider:
    persona = rng.choice(list(PERSONAS))
    known = PERSONAS[persona].models
    keys = 0 if persona == "free" else rng.choice((1, 1, 1, 2, 3))
    limits = capacity = None
    if _one_in(rng, 7):
        share = rng.uniform(0.2, 0.9)
        limits = {
            "requests_per_minute": max(1, int(rate_per_s * 60 * share)),
            "headers": rng.random() < 0.7,
            "retry_after": rng.choice(
                ("true", "true", "none", "zero", "date", "garbage", 1.0, 2.5, 8.0, 40.0)
            ),
        }
    if _one_in(rng, 7):
        capacity = {
            "slots": rng.randint(1, 8),
            "queue_max": rng.choice((0, 2, 10, None)),
            "abandons": rng.random() < 0.7,
        }
    return WorldProvider(
        name,
        persona,
        rng.choice(LATENCIES),
        words=rng.randint(2, 5),
        models=tuple(known[: 2 if _one_in(rng, 5) else 1]),
        keys=keys,
        bad_keys=rng.randint(1, keys) if keys and _one_in(rng, 12) else 0,
        limits=limits,
        capacity=capacity,
        priced=_one_in(rng, 2),
        isolated=_one_in(rng, 25),
    )


def _always_healthy(rng: Random, providers: Sequence[WorldProvider]) -> WorldProvider | None:
    """Make one provider healthy throughout in some worlds. Return it, or None."""
    if not _one_in(rng, 3):
        return None
    one = rng.choice(providers)
    return replace(
        one,
        latency=rng.choice(("zero", "quick", "lpu")),
        keys=min(one.keys, 1),
        bad_keys=0,
        limits=None,
        capacity=None,
        isolated=False,
    )


def _form(rng: Random) -> OddForm | None:
    """Choose how a provider writes its streams: in half of all cases as its persona does."""
    return rng.choice(ODD_FORMS) if rng.random() < 0.5 else None


def _routes(rng: Random, targets: Sequence[str]) -> tuple[WorldRoute, ...]:
    routes = [WorldRoute("chat", rng.choice(("ordered", "ordered", "balanced")), tuple(targets))]
    if _one_in(rng, 4):
        some = rng.sample(targets, rng.randint(1, len(targets)))
        routes.append(WorldRoute("other", rng.choice(("ordered", "balanced")), tuple(some)))
    return tuple(routes)


def _drain(rng: Random, from_s: float, for_s: float) -> Drain | None:
    if not _one_in(rng, 10):
        return None
    at_s = round(from_s + rng.random() * for_s, 1)
    return Drain(at_s, rng.choice((0.5, 3.0, 25.0)), rng.choice((0.0, 0.0, 2.0)))


def _one_in(rng: Random, n: int) -> bool:
    return rng.random() * n < 1.0
