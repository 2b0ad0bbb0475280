"""What it means that a target is healthy: said once, as the promises lean on it."""

from chaos.simulate.world import Provider, World

# Latency presets whose first token has no tail to speak of, and the time within which it practically always comes.
PROMPT = {"zero": 0.0, "quick": 0.4, "lpu": 0.6, "frontier": 3.0, "hosted-70b": 1.6}


def sound(world: World, provider: Provider) -> bool:
    """Nothing is wrong with it but its troubles: no limit, no bound on what it does at once, a good key, and never as
    slow as this world's settings call slow."""
    clocks, enough_s = world.tuning.clocks, PROMPT.get(provider.latency)
    return (
        enough_s is not None
        and enough_s <= clocks.first_token_s * world.tuning.breaker.slow_of_clock
        and not provider.limits
        and not provider.capacity
        and not provider.isolated
        and (provider.bad_keys == 0 or provider.bad_keys < provider.keys)
    )


def healthy_throughout(world: World, provider: Provider) -> bool:
    """Sound, never in trouble, every key of it good, and given as many requests as come."""
    tuning = world.tuning
    return (
        sound(world, provider)
        and provider.bad_keys == 0
        and not any(trouble.provider == provider.name for trouble in world.troubles)
        and min(tuning.limiter.max, tuning.connections_per_origin_max, tuning.in_flight_max) >= 1000
    )


def needed_s(world: World, targets: tuple[str, ...], *, stream: bool) -> float:
    """How long a request may be on its way through all other targets before one that answers is asked."""
    clocks, retry = world.tuning.clocks, world.tuning.retry
    clock_s = clocks.first_token_s if stream else clocks.whole_answer_s
    one_s = clocks.pool_s + clocks.connect_s + clock_s + 1.0
    tries = 2 + retry.same_target_max  # one more on a fresh connection
    waits_s = retry.same_target_max * (retry.wait_max_s + retry.max_s)
    return (len(targets) - 1) * (tries * one_s + waits_s) + 10.0
