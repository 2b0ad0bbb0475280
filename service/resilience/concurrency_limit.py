"""How many requests a provider is given at one time: found by trying (additive increase, multiplicative decrease).

    limit |‾‾‾‾‾|              ___/    a drop (429, 529, a timeout): 0.7 times what was in flight
          |     |        ___ /         the beginning of an answer, near the limit: one more, up to what the last
          |     |       /              overload left; beyond that a tenth more per round of answers
          |     |_______|
               drop     answers

Losses alone move it, never latency: how long an answer takes depends on how long it is (Netflix concurrency-limits
recommends the same for clients). Tries that began before the last decrease do not decrease it again: they are news
of the same overload; after a minute without one it is forgotten. The two speeds of growth are TCP's slow start and congestion avoidance (RFC 5681): without the
first, a provider whose answers take a minute would need a quarter of an hour to get its load back.
"""

from collections.abc import Callable
from enum import StrEnum
from math import inf

from dub5.service.config.options import LimiterOptions

ASSUMED_ROOM = (
    20  # so much anybody takes, until shown otherwise: one 429 with one in flight is no proof of the contrary
)


class LoadSignal(StrEnum):
    """What the end of a try says about the provider's load."""

    ACCEPTED = "taken"  # it answered
    DROPPED = "dropped"  # it had no room
    UNKNOWN = "unknown"  # neither: the client left, say


class Limiter:
    """Decides from what it is told; reads no clock. Times are loop seconds."""

    def __init__(self, options: LimiterOptions) -> None:
        self.limit = float(options.max)
        self.in_flight = 0
        self.era = 0  # grows with each decrease
        self._known_good = self.limit  # so much the last overload left; more is found out slowly
        self.on_room: Callable[[], None] | None = None  # called when one more may be sent
        self._answered = True  # since the last decrease
        self._forget_at_s = inf  # what the last overload taught
        self._options = options

    def has_room(self, now_s: float) -> bool:
        """Whether one more may be sent."""
        if now_s >= self._forget_at_s:
            self.limit = self._known_good = float(self._options.max)
            self._forget_at_s = inf
        return self.in_flight < int(self.limit)

    def acquire(self) -> int:
        """One more is sent; what `release` wants back. Only where there is room."""
        self.in_flight += 1
        return self.era

    def accepted(self) -> None:
        """The provider began to answer one that is in flight."""
        self._answered = True
        if self.in_flight * 2 >= self.limit:
            fast = self.limit < self._known_good
            step = 1.0 if fast else max(1.0, self.limit * self._options.growth) / self.limit
            self.limit = min(self.limit + step, float(self._options.max))
            self._tell_room()

    def release(self, era: int, load: LoadSignal, now_s: float) -> bool:
        """One is back; whether the limit was lowered."""
        busy = self.in_flight
        if load is LoadSignal.ACCEPTED:
            self.accepted()
        self.in_flight -= 1
        lowered = load is LoadSignal.DROPPED and era == self.era and self.decrease(busy, now_s)
        self._tell_room()
        return lowered

    def decrease(self, busy: int, now_s: float) -> bool:
        """`busy` at one time are too many; whether the limit was lowered."""
        self.era += 1
        self._forget_at_s = now_s + self._options.forget_s
        before = self.limit
        cut = min(before, max(busy, ASSUMED_ROOM)) * self._options.decrease
        self.limit = min(before, max(cut, float(self._options.min)))
        if self._answered:  # else it is still the same trouble, which says nothing about room
            self._known_good, self._answered = self.limit, False
        return int(self.limit) < int(before)

    def _tell_room(self) -> None:
        if self.on_room is not None and self.in_flight < int(self.limit):
            self.on_room()

    def reconfigure(self, options: LimiterOptions) -> None:
        """Other options from now on."""
        untried = self.limit >= self._options.max
        self._options = options
        self.limit = float(options.max) if untried else min(max(self.limit, options.min), float(options.max))
