"""What it means that a target is healthy: said once, as the promises lean on it."""

from dub5.chaos.simulation.world.model import ServiceSettings, World, WorldProvider

# Latency presets whose first token has no tail to speak of, and the time within which it practically always comes.
SLOWLY_S = 20.0  # for an answer's tokens, of a provider that is slow
CONNECTIONS_MIN = 8  # for a few requests at one time, each of which may have another one beside it
PROMPT = {"zero": 0.0, "quick": 0.4, "lpu": 0.6, "frontier": 3.0, "hosted-70b": 1.6}


def is_sound(world: World, provider: WorldProvider) -> bool:
    """Nothing is wrong with it but its troubles: no limit, hardly a bound on what it does at once, a good key, and never as
    slow as this world's settings call slow."""
    enough_s = PROMPT.get(provider.latency)
    return (
        enough_s is not None
        and all(enough_s <= t.timeouts.first_token_s * t.breaker.slow_of_timeout for t in world.tunings)
        and all(t.connections_per_origin_max >= CONNECTIONS_MIN for t in world.tunings)
        and not (world.reload and provider.name in world.reload.isolated)
        and not provider.limits
        and not provider.capacity
        and not provider.isolated
        and (provider.bad_keys == 0 or provider.bad_keys < provider.keys)
    )


def healthy_throughout(world: World, provider: WorldProvider) -> bool:
    """Sound, never in trouble, every key of it good, and given as many requests as come."""
    return (
        is_sound(world, provider)
        and provider.bad_keys == 0
        and not any(window.provider == provider.name for window in world.troubles)
        and all(
            min(t.limiter.max, t.connections_per_origin_max, t.in_flight_max) >= 1000 for t in world.tunings
        )
    )


def needed_s(tuning: ServiceSettings, targets: tuple[str, ...], *, stream: bool, whole: bool) -> float:
    """How long a request may be on its way through all other targets before one that answers is asked. `whole`: each
    may take its time to break off in the middle."""
    timeouts, retry = tuning.timeouts, tuning.retry
    clock_s = timeouts.first_token_s if stream else timeouts.whole_answer_s
    one_s = timeouts.pool_s + timeouts.connect_s + clock_s + 1.0
    if whole:
        one_s += timeouts.between_tokens_s + SLOWLY_S
    tries = 2 + retry.same_target_max  # one more on a fresh connection
    waits_s = retry.same_target_max * (retry.wait_max_s + retry.max_s)
    return (len(targets) - 1) * (tries * one_s + waits_s) + 10.0
