"""Adaptive concurrency limit of a provider: additive increase, multiplicative decrease (AIMD).

    decrease   overload signal (429, 529, a timeout): 0.7 times the requests in flight
    increase   an answer begins while at least half of the limit is in use: one more, up to the limit that the
               last overload left; beyond that, a tenth more per round of answers
    outage     even calls among few others were refused: once one that was sent after the last decrease is
               answered, the limit grows fast, up to what was good before the first decrease
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


# Read from here, for it takes twice as long to read a member from its class.
ACCEPTED, DROPPED, UNKNOWN = LoadSignal


class Limiter:
    """An AIMD concurrency limit. It reads no clock: each call passes the time, in loop seconds."""

    def __init__(self, options: LimiterOptions) -> None:
        self.limit = float(options.max)
        self.in_flight = 0
        self.era = 0  # grows with each decrease
        self._known_good = self.limit  # the limit after the last overload; above it the limit grows slowly
        self.on_room: Callable[[], None] | None = None  # called when one more request may be sent
        self._answered = True  # since the last decrease
        self._taken_again = True  # a call that was sent after the last decrease was answered
        self._good_before = self.limit  # what was good before the first decrease since one was
        self._outage = False  # since then a call was refused that was sent among few others
        self._forget_at_s = inf  # when the limit becomes the maximum again
        self._options = options

    def has_room(self, now_s: float) -> bool:
        """Return whether one more request may be sent."""
        if now_s >= self._forget_at_s:
            self.limit = self._known_good = float(self._options.max)
            self._forget_at_s = inf
            self._taken_again, self._outage = True, False
        return self.in_flight + 1 <= self.limit

    def acquire(self) -> int:
        """Count one more request in flight, where there is room. Return the era, for `release`."""
        self.in_flight += 1
        return self.era

    def accepted(self, era: int) -> None:
        """Count the beginning of an answer: where the limit is at least half used, it grows.

        The first one after an outage brings back what was good before it, to be reached in the fast way.
        """
        self._answered = True
        if era == self.era:
            self._taken_again = True
            if self._outage:
                self._outage = False
                self._known_good = self._good_before
                room = min(self._good_before, ASSUMED_ROOM * self._options.decrease, float(self._options.max))
                self.limit = max(self.limit, room)
        if self.in_flight * 2 >= self.limit:
            fast = self.limit < self._known_good
            step = 1.0 if fast else max(1.0, self.limit * self._options.growth) / self.limit
            self.limit = min(self.limit + step, float(self._options.max))
            self._notify_room()

    def release(self, era: int, load: LoadSignal, now_s: float) -> bool:
        """Count one request in flight less. Return whether the limit was lowered."""
        busy = self.in_flight
        if load is ACCEPTED:
            self.accepted(era)
        self.in_flight -= 1
        lowered = load is DROPPED and era == self.era and self.decrease(busy, now_s, refused=True)
        if self.on_room is not None:
            self._notify_room()
        return lowered

    def decrease(self, busy: int, now_s: float, *, refused: bool = False) -> bool:
        """Lower the limit: `busy` requests at one time are too many. Return whether it is lower now.

        `refused`: the provider said so. Where few were in flight, that says little of many at one time.
        """
        self.era += 1
        self._forget_at_s = now_s + self._options.forget_s
        before = self.limit
        if self._taken_again:
            self._taken_again = False
            self._good_before = max(self._known_good, before)
        known = busy * 2 >= before or not refused
        room = max(busy, ASSUMED_ROOM)
        cut = (min(before, room) if known else room) * self._options.decrease
        self.limit = min(before, max(cut, float(self._options.min)))
        if known and self._answered:  # else it is still the same overload
            self._known_good, self._answered = self.limit, False
        return int(self.limit) < int(before)

    def note_refused(self, busy: int) -> None:
        """Count a refusal of a call, sent as one of `busy`: few of them are no overload, but an outage."""
        if busy <= self._options.min and not self._taken_again:
            self._outage = True

    def _notify_room(self) -> None:
        if self.on_room is not None and self.in_flight < int(self.limit):
            self.on_room()

    def reconfigure(self, options: LimiterOptions) -> None:
        """Use other options from now on."""
        untried = self.limit >= self._options.max
        self._options = options
        self.limit = float(options.max) if untried else min(max(self.limit, options.min), float(options.max))
