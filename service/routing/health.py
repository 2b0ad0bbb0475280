"""How well a target does: all that the router, the page and the metrics see of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from service.attempt.window import Window
from service.options import HealthOptions

CALLS, FAILURES = range(2)


class Health(StrEnum):
    """How well a target does."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # may be asked, but another one is better
    UNHEALTHY = "unhealthy"


class Standing(NamedTuple):
    """What the router reads: `rank` 0 is best; `load_s` is the time to first token times the requests in flight."""

    rank: int
    load_s: float


@dataclass(frozen=True, slots=True)
class TargetState:
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


class Record:
    """Whether a target fails a little: long before its breaker opens, others go first. Pure; times are loop seconds."""

    def __init__(self, options: HealthOptions) -> None:
        self._options = options
        self._window = Window(options.window_s, 2)

    def add(self, failed: bool, now_s: float) -> None:
        """One more answer, or one more failure that was the target's or its host's."""
        if failed:
            self._window.count(now_s, CALLS, FAILURES)
        else:
            self._window.count(now_s, CALLS)

    def clear(self) -> None:
        """Forgets everything."""
        self._window.clear()

    def degraded(self, now_s: float) -> bool:
        """Whether too many of the last calls failed."""
        self._window.age(now_s)
        calls, failures = self._window.sums
        options = self._options
        return calls >= options.calls_min and failures >= calls * options.failure_share
