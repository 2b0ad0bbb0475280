"""Add rate limits to some worlds: of callers, of addresses, or of both; some callers are premium.

Drawn from an rng stream of its own, so all else of a world stays as it is.
"""

from dataclasses import replace
from random import Random

from dub5.chaos.simulation.world.model import World
from dub5.service.config.options import LimitOptions, LimitsOptions


def with_limits(world: World) -> World:
    """Return the world with its rate limits, if it has any."""
    rng = Random(f"{world.seed}:rate limits")
    if rng.random() > 0.25:
        return world
    callers, addresses = len(world.priorities), rng.choice((1, 2, 5))
    of_callers, of_addresses = _limit(rng, world, max(1, callers)), _limit(rng, world, addresses)
    which = rng.choice(("caller", "ip", "both")) if callers else "ip"
    premium = (caller_variable(rng.randrange(callers)),) if callers and rng.random() < 0.5 else ()
    block_s = rng.choice((0.5, 2.0, 8.0))
    limits = LimitsOptions(
        caller=of_callers if which != "ip" else None,
        ip=of_addresses if which != "caller" else None,
        premium=premium,
        strikes=rng.choice((1, 3, 5, 5)),
        block_s=block_s,
        block_max_s=block_s * rng.choice((1, 4)),
    )
    return replace(world, limits=limits, addresses=addresses)


def caller_variable(number: int) -> str:
    """Return the name of the variable that holds the key of a caller."""
    return f"CALLER_{number}"


def _limit(rng: Random, world: World, keys: int) -> LimitOptions:
    """Choose a limit that about so many keys reach now and then."""
    window_s = rng.choice((1, 3, 10, 30))
    usual = world.load.rate_per_s * window_s / keys
    return LimitOptions(count=max(1, round(usual * rng.uniform(0.4, 2.0))), window_s=window_s)
