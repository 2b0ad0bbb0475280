"""Which target next. Pure: reads states, asks nobody."""

from collections.abc import Callable, Sequence

from service.chat import Target
from service.routing.health import Health, TargetState

_RANK = {Health.HEALTHY: 0, Health.DEGRADED: 1, Health.UNHEALTHY: 2}


def order(targets: Sequence[Target], state: Callable[[Target], TargetState]) -> list[Target]:
    """The targets of a route as they should be asked: the route's own order among the equally healthy.

    A target that is due for a probe stands where a healthy one would, or nobody would ever find out that it is
    back. Nobody is left out: whether a target may be asked at all is its guards' word at that moment.
    """

    def rank(target: Target) -> int:
        seen = state(target)
        return 0 if seen.probe_due else _RANK[seen.health]

    return sorted(targets, key=rank)
