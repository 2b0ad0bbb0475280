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
from dub5.service.resilience.health import RoutingScore


def order(
    targets: Sequence[Target], policy: PolicyName, score: Callable[[Target], RoutingScore], rng: Random
) -> list[Target]:
    """The targets of a route as they should be asked."""
    if len(targets) == 1:
        return list(targets)
    scores = {target: score(target) for target in targets}
    if policy == "balanced":
        targets = _two_choices(targets, scores, rng)
    return sorted(targets, key=lambda target: scores[target].rank)


def _two_choices(targets: Sequence[Target], scores: dict[Target, RoutingScore], rng: Random) -> list[Target]:
    left, chosen = list(targets), []
    while len(left) > 1:
        one, other = rng.sample(left, 2)
        better = one if scores[one].load_s <= scores[other].load_s else other
        left.remove(better)
        chosen.append(better)
    return chosen + left
