"""How well a target does: all that the router, the page and the metrics see of it."""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from dub5.service.config.options import HealthOptions
from dub5.service.resilience.window import SlidingWindow

CALLS, FAILURES = range(2)


LAST, LAST_MIN, LAST_S = (
    20,
    10,
    600.0,
)  # calls that count where the window has too few, and how old they may be
LAST_SHARE = 0.25  # of them: one failure in four is no chance


class Health(StrEnum):
    """How well a target does."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # may be asked, but another one is better
    UNHEALTHY = "unhealthy"


class RoutingScore(NamedTuple):
    """What the router reads: `rank` 0 is best; `load_s` is the time to first token times the requests in flight."""

    rank: int
    load_s: float


@dataclass(frozen=True, slots=True)
class TargetSnapshot:
    """A target at one moment; `wait_s` is how long nobody may ask it. `probe_due`: the next call would find out
    whether it is back. `limit` and `provider_in_flight` are of its provider."""

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
    """Whether a target fails a little: long before its breaker opens, others go first. Pure; times are loop seconds.

    With little traffic the window never has calls enough. Then the last ones count, of some minutes, and a larger share.
    """

    def __init__(self, options: HealthOptions) -> None:
        self._options = options
        self._window = SlidingWindow(options.window_s, 2)
        self._last: deque[tuple[float, bool]] = deque(maxlen=LAST)

    def add(self, failed: bool, now_s: float) -> None:
        """One more answer, or one more failure that was the target's or its host's."""
        if failed:
            self._window.count(now_s, CALLS, FAILURES)
        else:
            self._window.count(now_s, CALLS)
        self._last.append((now_s, failed))

    def clear(self) -> None:
        """Forgets everything."""
        self._window.clear()
        self._last.clear()

    def degraded(self, now_s: float) -> bool:
        """Whether too many of the last calls failed."""
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
