"""Facts, told once each, in the past tense. The core emits them; telemetry subscribes.

attempt/run, gateway, breakers, cache --emit--> Events --> telemetry.metrics | .logs | .board
"""

from collections.abc import Callable

from msgspec import Struct

from dub5.service.model import AttemptRecord, Outcome, Usage


class AttemptEnded(Struct, frozen=True):
    """A try at a target is over. `attempt.reason` is "ok", "cancelled" or the failure's name."""

    request_id: str
    route: str
    provider: str
    attempt: AttemptRecord
    blame: str  # "target", "host", "key" or "nobody"
    operation: str = "chat"  # or "embeddings"


class RequestEnded(Struct, frozen=True):
    """A request is over; durations in seconds. `target` is who answered; `overhead_s` is our own share of the
    time before the first byte went out."""

    request_id: str
    caller: str
    route: str
    outcome: Outcome
    code: str | None
    target: str | None
    stream: bool
    cached: bool
    first_token_s: float | None
    total_s: float
    overhead_s: float
    usage: Usage | None
    attempts: tuple[AttemptRecord, ...]
    operation: str = "chat"  # or "embeddings"
    degraded: str | None = None  # where a substitute came from: "stale", "template" or "words"
    shared: bool = False  # its tries and their cost are counted with another request that had the same answer


class BreakerChanged(Struct, frozen=True):
    """A breaker moved between "closed", "open" and "half_open". `scope` is a target or a host."""

    scope: str
    before: str
    after: str
    why: str


class HealthChanged(Struct, frozen=True):
    """A target is "healthy", "degraded" (others go first) or "unhealthy" (nobody asks it)."""

    target: str
    before: str
    after: str


class LimitLowered(Struct, frozen=True):
    """A provider showed that it has less room: so many requests at one time, instead of `before`."""

    provider: str
    before: int
    after: int
    why: str


class BudgetSpent(Struct, frozen=True):
    """A retry or hedge was not made, because this provider has had enough of them."""

    provider: str


class QueueLeft(Struct, frozen=True):
    """A request had to wait, as every provider was full, or would have had to. `how`: "served" (it got a place), "left"
    (its client did), "expired" (less time was left than an answer needs), "overloaded" (it waited too long while the
    line stood) or "full" (too many wait)."""

    request_id: str
    route: str
    priority: str  # "high", "normal" or "low"
    how: str
    waited_s: float


class Hedged(Struct, frozen=True):
    """A second target is asked at once, beside this one, for nobody should wait for it. `why`: "probe" (it may be
    down), "degraded" (it fails now and then), "slow" (it takes longer than it uses to) or "late" (half of the time that
    the request has is gone, and this one may use up all of it)."""

    request_id: str
    route: str
    target: str
    why: str


class Shared(Struct, frozen=True):
    """A request takes part in a call that an equal one has begun: "joined"; or left such a call to the others, though it
    had been there longest: "handed_over". Or it was given a stale answer, and asks anew behind it: "renewed"."""

    request_id: str
    route: str
    what: str


class CacheLooked(Struct, frozen=True):
    """The cache was asked: "hit", "stale" (given though its time is over), "miss" or "error" (it could not answer)."""

    route: str
    result: str


class CacheInvalidated(Struct, frozen=True):
    """Kept answers are given no more: `by` "model", "route", "caller", "key" or "everything", and which."""

    by: str
    which: str


class CacheWarmed(Struct, frozen=True):
    """So many answers of a route's file are kept from the start; `problems`: those that are not, a sentence each."""

    route: str
    kept: int
    problems: tuple[str, ...]


class SettingsReloaded(Struct, frozen=True):
    """The settings were read again. `ok`: they hold from now on, else the old ones do. `problems`: why not, or what
    of them has to wait for a restart, one sentence each."""

    ok: bool
    problems: tuple[str, ...]


class DrainBegan(Struct, frozen=True):
    """The service was told to end; `in_flight` requests may still finish."""

    in_flight: int


class Crashed(Struct, frozen=True):
    """A defect of ours was caught at the edge. `where` is the exception's type and place, never its message."""

    request_id: str
    where: str


Event = (
    AttemptEnded
    | RequestEnded
    | BreakerChanged
    | HealthChanged
    | LimitLowered
    | BudgetSpent
    | QueueLeft
    | Hedged
    | Shared
    | CacheLooked
    | CacheInvalidated
    | CacheWarmed
    | SettingsReloaded
    | DrainBegan
    | Crashed
)
Subscriber = Callable[[Event], None]


class Events:
    """Hands each fact to each subscriber, in the order they joined. Subscribers must not raise or wait."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = subscribers

    def emit(self, event: Event) -> None:
        """Tells a fact."""
        for subscriber in self._subscribers:
            subscriber(event)
