"""Which target next. Pure: reads standings, asks nobody.

ordered    healthy before degraded before unhealthy; among equals the route's own order
balanced   the same ranks; among equals the better of two drawn at random, again and again (two random choices)

Nobody is left out: whether a target may be asked at all is its guards' word at that moment. "The better" is the one
with less load: peak-sensitive time to first token times requests in flight, as Finagle's P2C with peak EWMA.
"""

from collections.abc import Callable, Sequence
from random import Random

from dub5.service.config.settings import PolicyName
from dub5.service.model import Target
from dub5.service.resilience.health import Standing


def order(
    targets: Sequence[Target], policy: PolicyName, standing: Callable[[Target], Standing], dice: Random
) -> list[Target]:
    """The targets of a route as they should be asked."""
    if len(targets) == 1:
        return list(targets)
    seen = {target: standing(target) for target in targets}
    if policy == "balanced":
        targets = _drawn(targets, seen, dice)
    return sorted(targets, key=lambda target: seen[target].rank)


def _drawn(targets: Sequence[Target], seen: dict[Target, Standing], dice: Random) -> list[Target]:
    left, drawn = list(targets), []
    while len(left) > 1:
        one, other = dice.sample(left, 2)
        better = one if seen[one].load_s <= seen[other].load_s else other
        left.remove(better)
        drawn.append(better)
    return drawn + left
