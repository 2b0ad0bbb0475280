"""Draws a world from a seed, swarm style: each world has some kinds of trouble, and none of the others.

Every choice comes from a stream of chance with a name of its own, so that a new choice moves no other.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from dub5.chaos.simulation.world.generate_faults import storm
from dub5.chaos.simulation.world.generate_settings import drawn_tuning
from dub5.chaos.simulation.world.model import Drain, Load, Provider, Reload, Route, Tuning, World
from dub5.service.config.options import CacheOptions, DegradedOptions, PriorityName
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
REQUESTS = (120, 720)  # of one world, about
REST_S = 80.0  # longer than a host that was gone may be left alone


def draw(seed: int) -> World:
    """The world of this seed."""
    dice = Random(f"{seed}:shape")
    warm_s, storm_s = round(dice.uniform(3, 12), 1), round(dice.uniform(12, 60), 1)
    calm_s = dice.choice((0.0, round(dice.uniform(5, 40), 1), round(dice.uniform(20, 40), 1)))
    load = _load(Random(f"{seed}:load"), warm_s + storm_s + calm_s, warm_s, storm_s)
    providers = _providers(Random(f"{seed}:providers"), load.rate_per_s)
    spared = _spared(Random(f"{seed}:spared"), providers)
    if spared is not None:
        providers = tuple(spared if p.name == spared.name else p for p in providers)
    routes = _routes(Random(f"{seed}:routes"), [t for p in providers for t in p.targets])
    tuning = drawn_tuning(seed, roomy=spared is not None)
    reload = _reload(Random(f"{seed}:reload"), seed, tuning, providers, spared, warm_s + storm_s)
    return World(
        seed=seed,
        providers=providers,
        routes=tuple(_answering(Random(f"{seed}:answers:{route.name}"), route) for route in routes),
        troubles=storm(seed, [p for p in providers if p is not spared], warm_s, storm_s),
        load=_repeating(Random(f"{seed}:repeats"), load),
        tuning=tuning,
        warm_s=warm_s,
        storm_s=storm_s,
        calm_s=calm_s,
        rest_s=REST_S,
        drain=_drain(Random(f"{seed}:drain"), warm_s, storm_s + calm_s),
        callers=_callers(Random(f"{seed}:callers")),
        reload=reload,
    )


def _callers(dice: Random) -> tuple[PriorityName, ...]:
    """In some worlds nobody has a key."""
    names: tuple[PriorityName, ...] = ("high", "normal", "low")
    return tuple(dice.choice(names) for _ in range(dice.choice((0, 1, 2, 3))))


def _repeating(dice: Random, load: Load) -> Load:
    return replace(
        load,
        repeat_share=dice.choice((0.0, 0.3, 0.8)),
        questions=dice.choice((1, 2, 5, 20)),
        program_share=dice.choice((0.0, 0.1)),
        delivery_share=dice.choice((0.0, 0.0, 0.3)),
    )


def _answering(dice: Random, route: Route) -> Route:
    """How a route answers: from memory, whole, with something else where nobody can."""
    kept = CacheOptions(
        enabled=True,
        ttl_s=dice.choice((0.3, 3.0, 20.0)),
        stale_while_revalidate_s=dice.choice((0.0, 0.0, 5.0, 60.0)),
        stale_if_error_s=dice.choice((0.0, 60.0, 600.0)),
        share=not _one_in(dice, 6),
    )
    stands_in = DegradedOptions(enabled=True, answer_within_s=dice.choice((None, None, 5.0, 12.0)))
    return replace(
        route,
        delivery="whole" if _one_in(dice, 4) else "live",
        cache=kept if dice.random() < 0.6 else CacheOptions(),
        degraded=stands_in if _one_in(dice, 3) else DegradedOptions(),
    )


def _reload(
    dice: Random,
    seed: int,
    tuning: Tuning,
    providers: Sequence[Provider],
    spared: Provider | None,
    until_s: float,
) -> Reload | None:
    """In mid-traffic. Whoever is spared stays as it is."""
    if not _one_in(dice, 4):
        return None
    others = [provider for provider in providers if provider is not spared]
    other = drawn_tuning(seed + 500_000, roomy=spared is not None) if dice.random() < 0.7 else tuning
    bound = replace(
        other,
        client_stall_s=tuning.client_stall_s,
        connections_per_origin_max=tuning.connections_per_origin_max,
    )
    return Reload(
        at_s=round(dice.uniform(2.0, until_s), 1) + 0.0123,  # never with a request in the same instant
        tuning=bound,
        isolated=tuple(p.name for p in others if _one_in(dice, 4)),
        rotated=tuple(p.name for p in others if p.keys and not p.bad_keys and _one_in(dice, 3)),
    )


def _load(dice: Random, seconds: float, warm_s: float, storm_s: float) -> Load:
    short = dice.uniform(4, 15)
    bursts = tuple(
        (round(dice.uniform(warm_s, warm_s + storm_s), 1), dice.choice((10, 30, 60)))
        for _ in range(dice.choice((0, 0, 1, 2)))
    )
    return Load(
        rate_per_s=round(dice.uniform(*REQUESTS) / seconds, 2),
        stream_share=dice.choice((0.0, 0.3, 0.5, 0.7, 1.0)),
        leave_share=dice.choice((0.0, 0.0, 0.05, 0.3)),
        slow_share=dice.choice((0.0, 0.0, 0.05, 0.2)),
        deadline_s=dice.choice(
            ((300.0, 300.0), (60.0, 120.0), (round(short, 1), 60.0), (0.5, round(short, 1)))
        ),
        bursts=bursts,
    )


def _providers(dice: Random, rate_per_s: float) -> tuple[Provider, ...]:
    count = dice.choice((1, 2, 2, 3, 3, 3, 4, 5))
    return tuple(_provider(Random(dice.getrandbits(64)), name, rate_per_s) for name in NAMES[:count])


def _provider(dice: Random, name: str, rate_per_s: float) -> Provider:
    persona = dice.choice(list(PERSONAS))
    known = PERSONAS[persona].models
    keys = 0 if persona == "free" else dice.choice((1, 1, 1, 2, 3))
    limits = capacity = None
    if _one_in(dice, 7):
        share = dice.uniform(0.2, 0.9)
        limits = {
            "requests_per_minute": max(1, int(rate_per_s * 60 * share)),
            "headers": dice.random() < 0.7,
            "retry_after": dice.choice(
                ("true", "true", "none", "zero", "date", "garbage", 1.0, 2.5, 8.0, 40.0)
            ),
        }
    if _one_in(dice, 7):
        capacity = {
            "slots": dice.randint(1, 8),
            "queue_max": dice.choice((0, 2, 10, None)),
            "abandons": dice.random() < 0.7,
        }
    return Provider(
        name,
        persona,
        dice.choice(LATENCIES),
        words=dice.randint(2, 5),
        models=tuple(known[: 2 if _one_in(dice, 5) else 1]),
        keys=keys,
        bad_keys=dice.randint(1, keys) if keys and _one_in(dice, 12) else 0,
        limits=limits,
        capacity=capacity,
        priced=_one_in(dice, 2),
        isolated=_one_in(dice, 25),
    )


def _spared(dice: Random, providers: Sequence[Provider]) -> Provider | None:
    """In some worlds one provider is healthy throughout."""
    if not _one_in(dice, 3):
        return None
    one = dice.choice(providers)
    return replace(
        one,
        latency=dice.choice(("zero", "quick", "lpu")),
        keys=min(one.keys, 1),
        bad_keys=0,
        limits=None,
        capacity=None,
        isolated=False,
    )


def _routes(dice: Random, targets: Sequence[str]) -> tuple[Route, ...]:
    routes = [Route("chat", dice.choice(("ordered", "ordered", "balanced")), tuple(targets))]
    if _one_in(dice, 4):
        some = dice.sample(targets, dice.randint(1, len(targets)))
        routes.append(Route("other", dice.choice(("ordered", "balanced")), tuple(some)))
    return tuple(routes)


def _drain(dice: Random, from_s: float, for_s: float) -> Drain | None:
    if not _one_in(dice, 10):
        return None
    at_s = round(from_s + dice.random() * for_s, 1)
    return Drain(at_s, dice.choice((0.5, 3.0, 25.0)), dice.choice((0.0, 0.0, 2.0)))


def _one_in(dice: Random, n: int) -> bool:
    return dice.random() * n < 1.0
