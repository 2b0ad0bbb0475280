"""The order in which the targets of a route are tried. Pure: it reads routing scores.

ordered    healthy before degraded before unhealthy; among equals the route's own order
balanced   the same ranks; among equals by power of two choices: the better of two random targets, repeatedly

No target is left out: whether a target may be called is decided when its turn comes. The better target has
less load: peak-sensitive time to first token times requests in flight, as Finagle's P2C with peak EWMA.
"""

from collections.abc import Mapping, Sequence
from random import Random

from dub5.service.config.settings import PolicyName
from dub5.service.model import Target
from dub5.service.resilience.health import RoutingScore


def order(
    targets: Sequence[Target], policy: PolicyName, scores: Mapping[Target, RoutingScore], rng: Random
) -> list[Target]:
    """Return the targets in the order in which they should be tried."""
    if policy == "balanced":
        targets = _two_choices(targets, scores, rng)
    return sorted(targets, key=lambda target: scores[target].rank)


def _two_choices(
    targets: Sequence[Target], scores: Mapping[Target, RoutingScore], rng: Random
) -> list[Target]:
    left, chosen = [(scores[target].load_s, target) for target in targets], []
    for last in range(len(left) - 1, 0, -1):
        one, other = int(rng.random() * (last + 1)), int(rng.random() * last)
        other += other >= one
        better = one if left[one][0] <= left[other][0] else other
        chosen.append(left[better][1])
        left[better] = left[last]  # the last one moves to the gap: each step costs the same
    return [*chosen, left[0][1]]
