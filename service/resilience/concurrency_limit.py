"""Adaptive concurrency limit of a provider: additive increase, multiplicative decrease (AIMD).

    decrease   overload signal (429, 529, a timeout): 0.7 times the requests in flight
    increase   an answer begins while at least half of the limit is in use: one more, up to the limit that the
               last overload left; beyond that, a tenth more per round of answers
    forget     a minute without a decrease: the maximum again

Call `acquire()` where `has_room(now_s)`, and `release(era, signal, now_s)` when the attempt is over. Only
overload signals lower the limit, never the latency of one answer: it depends on the length of the answer
(Netflix concurrency-limits recommends the same for clients). Attempts that began before the last decrease do
not lower the limit again: they report the same overload.

The two speeds of growth are TCP's slow start and congestion avoidance (RFC 5681). Without the first, a
provider whose answers take a minute would need a quarter of an hour to get its load back.
"""

from collections.abc import Callable
from enum import StrEnum
from math import inf

from dub5.service.config.options import LimiterOptions

ASSUMED_ROOM = 20  # assumed of every provider: one 429 with one request in flight does not disprove it


class LoadSignal(StrEnum):
    """What the end of an attempt says about the provider's load."""

    ACCEPTED = "taken"  # it answered
    DROPPED = "dropped"  # it was overloaded
    UNKNOWN = "unknown"  # neither: the client disconnected, say


class Limiter:
    """An AIMD concurrency limit. It reads no clock: each call passes the time, in loop seconds."""

    def __init__(self, options: LimiterOptions) -> None:
        self.limit = float(options.max)
        self.in_flight = 0
        self.era = 0  # grows with each decrease
        self._known_good = self.limit  # the limit after the last overload; above it the limit grows slowly
        self.on_room: Callable[[], None] | None = None  # called when one more request may be sent
        self._answered = True  # since the last decrease
        self._forget_at_s = inf  # when the limit becomes the maximum again
        self._options = options

    def has_room(self, now_s: float) -> bool:
        """Return whether one more request may be sent."""
        if now_s >= self._forget_at_s:
            self.limit = self._known_good = float(self._options.max)
            self._forget_at_s = inf
        return self.in_flight < int(self.limit)

    def acquire(self) -> int:
        """Count one more request in flight, where there is room. Return the era, for `release`."""
        self.in_flight += 1
        return self.era

    def accepted(self) -> None:
        """Count the beginning of an answer: where the limit is at least half used, it grows."""
        self._answered = True
        if self.in_flight * 2 >= self.limit:
            fast = self.limit < self._known_good
            step = 1.0 if fast else max(1.0, self.limit * self._options.growth) / self.limit
            self.limit = min(self.limit + step, float(self._options.max))
            self._notify_room()

    def release(self, era: int, load: LoadSignal, now_s: float) -> bool:
        """Count one request in flight less. Return whether the limit was lowered."""
        busy = self.in_flight
        if load is LoadSignal.ACCEPTED:
            self.accepted()
        self.in_flight -= 1
        lowered = load is LoadSignal.DROPPED and era == self.era and self.decrease(busy, now_s, refused=True)
        self._notify_room()
        return lowered

    def decrease(self, busy: int, now_s: float, *, refused: bool = False) -> bool:
        """Lower the limit: `busy` requests at one time are too many. Return whether it is lower now.

        `refused`: the provider said so. Where few were in flight, that says little of many at one time.
        """
        self.era += 1
        self._forget_at_s = now_s + self._options.forget_s
        before = self.limit
        known = busy * 2 >= before or not refused
        room = max(busy, ASSUMED_ROOM)
        cut = (min(before, room) if known else room) * self._options.decrease
        self.limit = min(before, max(cut, float(self._options.min)))
        if known and self._answered:  # else it is still the same overload
            self._known_good, self._answered = self.limit, False
        return int(self.limit) < int(before)

    def _notify_room(self) -> None:
        if self.on_room is not None and self.in_flight < int(self.limit):
            self.on_room()

    def reconfigure(self, options: LimiterOptions) -> None:
        """Use other options from now on."""
        untried = self.limit >= self._options.max
        self._options = options
        self.limit = float(options.max) if untried else min(max(self.limit, options.min), float(options.max))
