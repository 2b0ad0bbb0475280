"""Generate the settings of a world's service: each mechanism from its own random stream."""

from random import Random

from dub5.chaos.simulation.world.model import ServiceSettings
from dub5.service.config.options import (
    AdmissionOptions,
    BreakerOptions,
    BudgetOptions,
    HealthOptions,
    HedgeOptions,
    LimiterOptions,
    ProbeOptions,
    RetryOptions,
    TimeoutOptions,
)


def generate_settings(seed: int, *, roomy: bool) -> ServiceSettings:
    """Return settings in which about half of the mechanisms keep their defaults. The others stay within what
    the invariants allow. `roomy`: limiter and server admit all requests at once."""

    def rng_if_changed(name: str) -> Random | None:
        found = Random(f"{seed}:{name}")
        return found if found.random() < 0.5 else None

    timeouts, breaker, retry, budget = (
        rng_if_changed("clocks"),
        rng_if_changed("breaker"),
        rng_if_changed("retry"),
        rng_if_changed("budget"),
    )
    health, probe, hedge = rng_if_changed("health"), rng_if_changed("probe"), rng_if_changed("hedge")
    limiter, server = (None, None) if roomy else (rng_if_changed("limiter"), rng_if_changed("server"))
    admission = rng_if_changed("admission")
    return ServiceSettings(
        timeouts=_timeouts(timeouts)
        if timeouts
        else TimeoutOptions(first_token_s=4.0, whole_answer_s=8.0, between_tokens_s=4.0),
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
        probe=ProbeOptions(enabled=not probe.random() < 0.25, idle_s=probe.choice((0.5, 1.0, 2.0)))
        if probe
        else ProbeOptions(),
        admission=_admission(admission) if admission else AdmissionOptions(),
        client_stall_s=server.choice((1.0, 5.0)) if server else 30.0,
        connections_per_origin_max=server.choice((2, 8, 1000)) if server else 1000,
        in_flight_max=server.choice((15, 10_000)) if server else 10_000,
    )


def _admission(rng: Random) -> AdmissionOptions:
    return AdmissionOptions(
        waiting_max=rng.choice((0, 3, 10, 1000)),
        target_s=rng.choice((0.1, 0.5)),
        interval_s=rng.choice((0.5, 2.0)),
    )


def _timeouts(rng: Random) -> TimeoutOptions:
    first_token_s = rng.choice((1.5, 3.0, 10.0))
    return TimeoutOptions(
        pool_s=rng.choice((0.2, 1.0)),
        connect_s=rng.choice((0.5, 3.0)),
        first_token_s=first_token_s,
        whole_answer_s=rng.choice((first_token_s * 2, 20.0)),
        between_tokens_s=rng.choice((1.0, 5.0, 15.0)),
        total_s=rng.choice((10.0, 60.0, 300.0)),
    )


def _breaker(rng: Random) -> BreakerOptions:
    return BreakerOptions(
        window_s=rng.choice((10, 30)),
        calls_min=rng.choice((4, 10, 20)),
        failures_in_a_row=rng.choice((3, 5, 8)),
        slow_of_timeout=rng.choice((0.1, 0.3, 0.5)),
        slow_share=rng.choice((0.3, 0.6)),
        open_s=rng.choice((1.0, 3.0, 5.0)),
        probes_max=rng.choice((1, 1, 2, 3)),
        slow_start_s=rng.choice((0.0, 5.0, 10.0)),
    )


def _retry(rng: Random) -> RetryOptions:
    return RetryOptions(
        same_target_max=rng.choice((0, 1, 2, 5)),
        last_target_max=rng.choice((0, 2, 5)),
        base_s=rng.choice((0.05, 0.1, 0.5)),
        wait_max_s=rng.choice((0.0, 3.0, 10.0)),
    )
