"""What it means that a provider is healthy: one definition, for all invariants that depend on it."""

from dub5.chaos.simulation.world.model import ServiceSettings, World, WorldProvider

SLOWLY_S = 20.0  # for all tokens of an answer, at a slow provider
CONNECTIONS_MIN = 8  # for a few requests at one time, each possibly hedged
# Latency presets without a long tail, and the time within which the first token practically always comes.
FIRST_TOKEN_MAX_S = {"zero": 0.0, "quick": 0.4, "lpu": 0.6, "frontier": 3.0, "hosted-70b": 1.6}


def is_sound(world: World, provider: WorldProvider) -> bool:
    """Say whether nothing but its fault windows is wrong with a provider: no rate limit or capacity, a good
    key, enough connections, and never slow by this world's settings. The event loop that may stand still is
    also the simulated provider's."""
    enough_s = FIRST_TOKEN_MAX_S.get(provider.latency)
    return (
        enough_s is not None
        and all(
            enough_s + world.stalls.longest_s <= _patience_s(t) * t.breaker.slow_of_timeout
            for t in world.tunings
        )
        and all(t.connections_per_origin_max >= CONNECTIONS_MIN for t in world.tunings)
        and not (world.reload and provider.name in world.reload.isolated)
        and not provider.limits
        and not provider.capacity
        and not provider.isolated
        and (provider.bad_keys == 0 or provider.bad_keys < provider.keys)
    )


def _patience_s(tuning: ServiceSettings) -> float:
    """Return the seconds of which a share makes a first token slow, whatever is usual."""
    return min(tuning.timeouts.first_token_s, tuning.timeouts.hedge_after_s)


def healthy_throughout(world: World, provider: WorldProvider) -> bool:
    """Say whether it is sound, has no fault window and only good keys, and may get all requests at once."""
    return (
        is_sound(world, provider)
        and provider.bad_keys == 0
        and not any(window.provider == provider.name for window in world.troubles)
        and all(
            min(t.limiter.max, t.connections_per_origin_max, t.in_flight_max) >= 1000 for t in world.tunings
        )
    )


def needed_s(tuning: ServiceSettings, targets: tuple[str, ...], *, stream: bool, whole: bool) -> float:
    """Return how long a request may take until it reaches the last target of its route. `whole`: each target
    before it may fail in the middle of its answer."""
    timeouts, retry = tuning.timeouts, tuning.retry
    answer_s = timeouts.first_token_s if stream else timeouts.whole_answer_s
    one_s = timeouts.pool_s + timeouts.connect_s + answer_s + 1.0
    if whole:
        one_s += timeouts.between_tokens_s + SLOWLY_S
    attempts = 2 + retry.same_target_max  # one more on a fresh connection
    waits_s = retry.same_target_max * (retry.wait_max_s + retry.max_s)
    return (len(targets) - 1) * (attempts * one_s + waits_s) + 10.0
