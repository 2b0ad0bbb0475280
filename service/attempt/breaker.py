"""A circuit breaker: leaves alone what keeps failing, and lets a probe find out when that is over.

                 too many failures                  open time over, on the next call
    closed ----------------------------> open --------------------------------------> half_open
      ^                                    ^        a probe failed (longer open time)     |
      |                                    +----------------------------------------------+
      +--------------------------------- a probe succeeded -------------------------------+

A permit ends in one of three ways. A cancelled probe is `ignored`: it says nothing, and its place is free again.
Results of calls that began before the last change of state are not counted. The window follows resilience4j's time
window of one-second buckets, the permit Netflix's three-way listener.
"""

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from random import Random

from service.options import BreakerOptions


class State(StrEnum):
    """Where a breaker is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class End(StrEnum):
    """How a permit ends."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


Tell = Callable[[State, State, str], None]


class Breaker:
    """Decides from what it is told; reads no clock. Times are loop seconds."""

    def __init__(self, options: BreakerOptions, dice: Random, tell: Tell) -> None:
        self.state = State.CLOSED
        self.opened_until_s = 0.0
        self.era = 0
        self._options = options
        self._dice = dice
        self._tell = tell
        self._openings = 0  # in a row, without a success between
        self._in_a_row = 0
        self._probes = 0
        self._buckets: deque[list[int]] = deque()  # [second, calls, failures]

    def may_enter(self, now_s: float) -> bool:
        """Whether `enter` would give a permit."""
        match self.state:
            case State.CLOSED:
                return True
            case State.OPEN:
                return now_s >= self.opened_until_s
            case State.HALF_OPEN:
                return self._probes < self._options.probes_max

    def enter(self, now_s: float) -> "Permit | None":
        """A permit for one call, or None: leave it alone."""
        if not self.may_enter(now_s):
            return None
        if self.state is State.OPEN:
            self._move(State.HALF_OPEN, "open time is over")
        if self.state is State.HALF_OPEN:
            self._probes += 1
        return Permit(self, self.era, probe=self.state is State.HALF_OPEN)

    def record(self, end: End, now_s: float, not_before_s: float = 0.0) -> None:
        """How a call of this era ended; `not_before_s` is the time a provider asked to be left alone until."""
        if self.state is State.HALF_OPEN:
            self._probes -= 1
            if end is End.SUCCESS:
                self._close()
            elif end is End.FAILURE:
                self._open(now_s, not_before_s, "the probe failed")
        elif end is not End.IGNORED:
            self._count(end, now_s)
            if end is End.FAILURE and (why := self._too_many()):
                self._open(now_s, not_before_s, why)

    def _count(self, end: End, now_s: float) -> None:
        second = int(now_s)
        while self._buckets and self._buckets[0][0] <= second - self._options.window_s:
            self._buckets.popleft()
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append([second, 0, 0])
        self._buckets[-1][1] += 1
        if end is End.FAILURE:
            self._buckets[-1][2] += 1
            self._in_a_row += 1
        else:
            self._in_a_row = 0

    def _too_many(self) -> str:
        """Why to open, or nothing."""
        if self._in_a_row >= self._options.failures_in_a_row:
            return f"{self._in_a_row} failures in a row"
        calls = sum(bucket[1] for bucket in self._buckets)
        failures = sum(bucket[2] for bucket in self._buckets)
        if calls >= self._options.calls_min and failures >= calls * self._options.failure_share:
            return f"{failures} of {calls} calls failed within {self._options.window_s} s"
        return ""

    def _open(self, now_s: float, not_before_s: float, why: str) -> None:
        longest_s = min(self._options.open_s * 2.0**self._openings, self._options.open_max_s)
        self.opened_until_s = max(now_s + longest_s * self._dice.uniform(0.75, 1.0), not_before_s)
        self._openings = min(self._openings + 1, 30)
        self._move(State.OPEN, why)

    def _close(self) -> None:
        self._openings = 0
        self._buckets.clear()
        self._move(State.CLOSED, "the probe succeeded")

    def _move(self, after: State, why: str) -> None:
        before, self.state = self.state, after
        self.era += 1
        self._probes = self._in_a_row = 0
        self._tell(before, after, why)


class Permit:
    """Leave for one call. Ends once; ending it again does nothing."""

    __slots__ = ("_breaker", "_era", "_open", "probe")

    def __init__(self, breaker: Breaker, era: int, probe: bool) -> None:
        self._breaker = breaker
        self._era = era
        self._open = True
        self.probe = probe

    def end(self, how: End, now_s: float, not_before_s: float = 0.0) -> None:
        """Tells the breaker how the call went, if it is still of its era."""
        if self._open and self._era == self._breaker.era:
            self._breaker.record(how, now_s, not_before_s)
        self._open = False

    def commit(self, now_s: float) -> None:
        """The first content came. A probe has then proven its point and its place is needed: the stream that
        follows counts as an ordinary call. Any other call is counted when it ends."""
        if self.probe:
            self.end(End.SUCCESS, now_s)
            self._era, self._open, self.probe = self._breaker.era, True, False
