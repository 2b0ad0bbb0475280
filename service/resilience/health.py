"""Health of a target: what the router, the status page and the metrics read, and the error rate behind it.

`Health` comes from breakers, cool-downs and error rate (`TargetState.health`): a target whose keys all cool
down is unhealthy. Retries, hedges and probes ask `Fleet.is_healthy` instead, which leaves cool-downs out: a
rate-limited target is not broken.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from msgspec import Struct

from dub5.service.config.options import HealthOptions
from dub5.service.resilience.window import SlidingWindow

CALLS, FAILURES = range(2)


# Where the window has too few calls: the last `LAST` calls, if at least `LAST_MIN` are younger than `LAST_S`.
LAST, LAST_MIN, LAST_S = 20, 10, 600.0
LAST_SHARE = 0.25  # of those calls failed: one in four is no coincidence


class Health(StrEnum):
    """The health of a target."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # called after the healthy targets
    UNHEALTHY = "unhealthy"  # a breaker is open, it is isolated, or all its keys cool down


class RoutingScore(Struct, frozen=True):
    """What the router compares. `rank`: 0 is best. `load_s`: time to first token * (in flight + 1)."""

    rank: int
    load_s: float


@dataclass(frozen=True, slots=True)
class TargetSnapshot:
    """The state of a target at one moment.

    `wait_s`: seconds until it may be asked again. `probe_due`: the next call would be a probe. `limit` and
    `provider_in_flight` are those of its provider.
    """

    name: str
    provider: str
    health: Health
    breaker: str
    cooling_s: float
    wait_s: float
    in_flight: int
    probing: int
    probe_due: bool
    limit: int
    provider_in_flight: int


class ErrorRateWindow:
    """The error rate of one target, in loop seconds. It shows degradation long before the breaker opens.

    With little traffic the window never has enough calls. Then the last 20 calls of 10 minutes count, and a
    larger share of failures is needed.
    """

    def __init__(self, options: HealthOptions) -> None:
        self._options = options
        self._window = SlidingWindow(options.window_s, 2)
        self._last: deque[tuple[float, bool]] = deque(maxlen=LAST)
        self._clean_from_s = 0.0  # from then on no failure counts any more; no window is longer than `LAST_S`

    def add(self, failed: bool, now_s: float) -> None:
        """Count one answer, or one failure that is the target's or its host's."""
        self._window.count(now_s, CALLS)
        if failed:
            self._window.count(now_s, FAILURES)
            self._clean_from_s = now_s + LAST_S
        self._last.append((now_s, failed))

    def clear(self) -> None:
        """Drop all counts."""
        self._window.clear()
        self._last.clear()
        self._clean_from_s = 0.0

    def degraded(self, now_s: float) -> bool:
        """Return whether too many of the last calls failed."""
        if now_s >= self._clean_from_s:
            return False
        self._window.age(now_s)
        calls, failures = self._window.sums
        options = self._options
        if calls >= options.calls_min:
            return failures >= calls * options.failure_share
        return self._failed_last(now_s)

    def _failed_last(self, now_s: float) -> bool:
        last = self._last
        while last and last[0][0] <= now_s - LAST_S:
            last.popleft()
        return len(last) >= LAST_MIN and sum(failed for _, failed in last) >= len(last) * LAST_SHARE
