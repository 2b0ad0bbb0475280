"""Draws a world from a seed, swarm style: each world has some kinds of trouble, and none of the others.

Every choice comes from a stream of chance with a name of its own, so that a new choice moves no other.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from chaos.simulate.troubles import storm
from chaos.simulate.world import Drain, Load, Provider, Route, Tuning, World
from service.options import (
    BreakerOptions,
    BudgetOptions,
    Clocks,
    HealthOptions,
    HedgeOptions,
    LimiterOptions,
    ProbeOptions,
    RetryOptions,
)
from simulators.personas import PERSONAS

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
REQUESTS = (80, 460)  # of one world, about
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
    return World(
        seed=seed,
        providers=providers,
        routes=_routes(Random(f"{seed}:routes"), [t for p in providers for t in p.targets]),
        troubles=storm(seed, [p for p in providers if p is not spared], warm_s, storm_s),
        load=load,
        tuning=_tuning(seed, roomy=spared is not None),
        warm_s=warm_s,
        storm_s=storm_s,
        calm_s=calm_s,
        rest_s=REST_S,
        drain=_drain(Random(f"{seed}:drain"), warm_s, storm_s + calm_s),
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
        words=dice.randint(3, 8),
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


def _tuning(seed: int, *, roomy: bool) -> Tuning:
    """Half of all worlds change nothing in a mechanism; the other half what it is told, within what the promises
    of the design still allow. `roomy`: as many requests at one time as come."""

    def dice(name: str) -> Random | None:
        found = Random(f"{seed}:{name}")
        return found if found.random() < 0.5 else None

    clocks, breaker, retry, budget = dice("clocks"), dice("breaker"), dice("retry"), dice("budget")
    health, probe, hedge = dice("health"), dice("probe"), dice("hedge")
    limiter, server = (None, None) if roomy else (dice("limiter"), dice("server"))
    return Tuning(
        clocks=_clocks(clocks)
        if clocks
        else Clocks(first_token_s=4.0, whole_answer_s=8.0, between_tokens_s=4.0),
        breaker=_breaker(breaker) if breaker else BreakerOptions(),
        retry=_retry(retry) if retry else RetryOptions(),
        budget=BudgetOptions(
            share=budget.choice((0.0, 0.1, 0.2)),
            floor_per_s=budget.choice((0.0, 0.05, 0.2, 1.0)),
            window_s=budget.choice((5, 10, 20)),
        )
        if budget
        else BudgetOptions(),
        hedge=HedgeOptions(
            share=hedge.choice((0.0, 0.1, 0.3)),
            percentile=hedge.choice((0.7, 0.9)),
            samples_min=hedge.choice((5, 20)),
        )
        if hedge
        else HedgeOptions(),
        limiter=LimiterOptions(min=limiter.choice((1, 2, 4)), max=limiter.choice((4, 8, 20, 100)))
        if limiter
        else LimiterOptions(),
        health=HealthOptions(window_s=health.choice((10, 30)), failure_share=health.choice((0.02, 0.05, 0.2)))
        if health
        else HealthOptions(),
        probe=ProbeOptions(enabled=not _one_in(probe, 4), idle_s=probe.choice((0.5, 1.0, 2.0)))
        if probe
        else ProbeOptions(),
        client_stall_s=server.choice((1.0, 5.0)) if server else 30.0,
        connections_per_origin_max=server.choice((2, 8, 1000)) if server else 1000,
        in_flight_max=server.choice((15, 10_000)) if server else 10_000,
    )


def _clocks(dice: Random) -> Clocks:
    first_token_s = dice.choice((1.5, 3.0, 10.0))
    return Clocks(
        pool_s=dice.choice((0.2, 1.0)),
        connect_s=dice.choice((0.5, 3.0)),
        first_token_s=first_token_s,
        whole_answer_s=dice.choice((first_token_s * 2, 20.0)),
        between_tokens_s=dice.choice((1.0, 5.0, 15.0)),
        total_s=dice.choice((10.0, 60.0, 300.0)),
    )


def _breaker(dice: Random) -> BreakerOptions:
    return BreakerOptions(
        window_s=dice.choice((10, 30)),
        calls_min=dice.choice((4, 10, 20)),
        failures_in_a_row=dice.choice((3, 5, 8)),
        slow_of_clock=dice.choice((0.1, 0.3, 0.5)),
        slow_share=dice.choice((0.3, 0.6)),
        open_s=dice.choice((1.0, 3.0, 5.0)),
        probes_max=dice.choice((1, 1, 2, 3)),
        ramp_s=dice.choice((0.0, 5.0, 10.0)),
    )


def _retry(dice: Random) -> RetryOptions:
    return RetryOptions(
        same_target_max=dice.choice((0, 1, 2, 5)),
        last_target_max=dice.choice((0, 2, 5)),
        base_s=dice.choice((0.05, 0.1, 0.5)),
        wait_max_s=dice.choice((0.0, 3.0, 10.0)),
    )


def _drain(dice: Random, from_s: float, for_s: float) -> Drain | None:
    if not _one_in(dice, 10):
        return None
    at_s = round(from_s + dice.random() * for_s, 1)
    return Drain(at_s, dice.choice((0.5, 3.0, 25.0)), dice.choice((0.0, 0.0, 2.0)))


def _one_in(dice: Random, n: int) -> bool:
    return dice.random() * n < 1.0
