"""A circuit breaker: leaves alone what keeps failing, and lets a probe find out when that is over.

                 too many failures, or slow            open time over, on the next call
    closed ---------------------------------> open --------------------------------------> half_open
    (a ramp first)                             ^        a probe failed, or never came back     |
      ^                                        +------- (longer open time) -------------------+
      +--------------------------------- a probe succeeded -----------------------------------+

    isolated: by an operator's hand, until the same hand lets go

A permit ends in one of four ways. A cancelled probe is `ignored`: it says nothing, and its place is free again. A probe
that has not come back after `probe_s` counts as failed, so a hanging provider cannot hold the place; should it answer
later all the same, that closes the breaker. The open time runs from the start of the probe that failed. Results of
other calls that began before the last change of state are not counted.

A closed one is under suspicion after two failures in a row for which somebody had to wait, after two that somebody gave
up for another one or for lack of time, without an answer between, and after a recovery, until five calls in a row have
succeeded. It lets everybody in then; who else can be asked is asked at the same time. With
little traffic a window never fills, and one good answer proves little.

The window follows resilience4j's time window, the permit Netflix's three-way listener, the ramp Envoy's slow start.
"""

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from random import Random

from dub5.service.config.options import BreakerOptions
from dub5.service.resilience.window import SlidingWindow

CALLS, FAILURES, SLOW = range(3)  # in its window
PROBATION_AFTER = 2  # failures in a row,
WAITED_S = 1.0  # the last of which took as long; one that comes at once costs nobody anything
SUCCESSES_REQUIRED = 5  # successes in a row that end a suspicion
SLOW_START_FROM = 0.1  # the share of calls that a ramp lets through at its beginning


class BreakerState(StrEnum):
    """Where a breaker is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


class CallOutcome(StrEnum):
    """How a permit ends."""

    SUCCESS = "success"
    SLOW = "slow"  # it answered, late
    FAILURE = "failure"
    IGNORED = "ignored"


OnStateChange = Callable[[BreakerState, BreakerState, str], None]


class Breaker:
    """Decides from what it is told; reads no clock. Times are loop seconds."""

    def __init__(
        self, options: BreakerOptions, open_max_s: float, rng: Random, on_change: OnStateChange
    ) -> None:
        self.state = BreakerState.CLOSED
        self.opened_until_s = 0.0
        self.slow = False  # it is open for slowness alone: better than nobody
        self.era = 0
        self._options = options
        self._open_max_s = open_max_s
        self._rng = rng
        self._on_change = on_change
        self._openings = 0  # in a row, without a success between
        self._consecutive_failures = 0
        self._inconclusive = 0  # waited for, without an answer between
        self._successes_required = 0
        self._slow_start_until_s = 0.0
        self._probes: deque[float] = deque()  # when each that is out began
        self._window = SlidingWindow(options.window_s, 3)

    @property
    def probing(self) -> int:
        """How many probes are out."""
        return len(self._probes)

    @property
    def on_probation(self) -> bool:
        """Whether it is closed, and yet has to prove that it is well."""
        return self._successes_required > 0 and self.state is BreakerState.CLOSED

    def would_permit(self, now_s: float) -> bool:
        """Whether `try_acquire` would give a permit."""
        if self.state is BreakerState.CLOSED:
            return True
        self._give_up_lost_probes(now_s)
        match self.state:
            case BreakerState.OPEN:
                return now_s >= self.opened_until_s
            case BreakerState.HALF_OPEN:
                return len(self._probes) < self._options.probes_max
            case _:
                return False

    def try_acquire(self, now_s: float) -> "BreakerPermit | None":
        """A permit for one call, or None: leave it alone."""
        if self.state is BreakerState.CLOSED:
            return BreakerPermit(self, self.era, now_s, probe=False)
        if not self.would_permit(now_s):
            return None
        if self.state is BreakerState.OPEN:
            self._transition(BreakerState.HALF_OPEN, "open time is over")
        self._probes.append(now_s)
        return BreakerPermit(self, self.era, now_s, probe=True)

    def try_acquire_last_resort(self, now_s: float) -> "BreakerPermit | None":
        """A permit although it is open, if for slowness alone: there is nobody else. Its result moves nothing."""
        trouble = self.state in (BreakerState.OPEN, BreakerState.HALF_OPEN)
        return BreakerPermit(self, -1, now_s, probe=False) if trouble and self.slow else None

    def is_steady(self, now_s: float) -> bool:
        """Whether it is closed, and no recovery was a moment ago: it has nothing to say."""
        return self.state is BreakerState.CLOSED and now_s >= self._slow_start_until_s

    def passes_slow_start(self, now_s: float) -> bool:
        """Whether a call may pass the ramp that follows a recovery: a share that grows from a tenth to all."""
        left_s = self._slow_start_until_s - now_s
        if self.state is not BreakerState.CLOSED or left_s <= 0:
            return True
        return self._rng.random() < max(SLOW_START_FROM, 1.0 - left_s / self._options.slow_start_s)

    def in_slow_start(self, now_s: float) -> bool:
        """Whether it closed a moment ago."""
        return self.state is BreakerState.CLOSED and now_s < self._slow_start_until_s

    def record(self, outcome: CallOutcome, now_s: float, began_s: float, not_before_s: float = 0.0) -> None:
        """How a call of this era ended; `not_before_s` is the time a provider asked to be left alone until."""
        if outcome is CallOutcome.SUCCESS and self.state is not BreakerState.HALF_OPEN:  # most
            self._window.count(now_s, CALLS)
            self._consecutive_failures = self._inconclusive = 0
            if self._successes_required:
                self._successes_required -= 1
        elif self.state is BreakerState.HALF_OPEN:
            self._probes.remove(began_s)
            if outcome is CallOutcome.SUCCESS:
                self._close(now_s)
            elif outcome is not CallOutcome.IGNORED:
                slow = outcome is CallOutcome.SLOW
                self._open(
                    began_s, not_before_s, "the probe was slow" if slow else "the probe failed", slow=slow
                )
        elif outcome is not CallOutcome.IGNORED:
            failed = outcome is CallOutcome.FAILURE
            self._window.count(now_s, CALLS, FAILURES if failed else SLOW)
            self._consecutive_failures = self._consecutive_failures + 1 if failed else 0
            self._inconclusive = self._inconclusive if failed else 0
            if failed:
                self._update_probation(waited=now_s - began_s >= WAITED_S)
            self._evaluate(now_s, not_before_s)

    def record_inconclusive(self) -> None:
        """Somebody waited for it, and had the answer from another one or none in time: nobody's failure, and no proof."""
        if self.state is BreakerState.CLOSED:
            self._inconclusive += 1
            if self._inconclusive >= PROBATION_AFTER:
                self._successes_required = SUCCESSES_REQUIRED

    def confirm_recovery(self, now_s: float) -> None:
        """A probe that was given up has answered after all: long answers prove as much as short ones."""
        if self.state in (BreakerState.OPEN, BreakerState.HALF_OPEN):
            self._close(now_s, "a late probe succeeded")

    def isolate(self, on: bool, now_s: float) -> None:
        """By hand: nobody enters until the same hand lets go."""
        if on and self.state is not BreakerState.ISOLATED:
            self._transition(BreakerState.ISOLATED, "isolated by the settings")
        elif not on and self.state is BreakerState.ISOLATED:
            self._close(now_s, "no longer isolated by the settings")

    def reconfigure(self, options: BreakerOptions, open_max_s: float) -> None:
        """Other options from now on; the state stays, the counts begin anew."""
        self._options, self._open_max_s = options, open_max_s
        if not options.slow_start_s:
            self._slow_start_until_s = 0.0
        self._window = SlidingWindow(options.window_s, 3)

    def _update_probation(self, *, waited: bool) -> None:
        """It failed: must it prove that it is well?"""
        if self._successes_required or (waited and self._consecutive_failures >= PROBATION_AFTER):
            self._successes_required = SUCCESSES_REQUIRED

    def _evaluate(self, now_s: float, not_before_s: float) -> None:
        """Opens if there is a reason to."""
        options, consecutive = self._options, self._consecutive_failures
        calls, failures, slow = self._window.sums
        if consecutive >= options.failures_in_a_row:
            self._open(now_s, not_before_s, f"{consecutive} failures in a row")
        elif calls < options.calls_min:
            return
        elif failures >= calls * options.failure_share:
            why = f"{failures} of {calls} calls failed within {options.window_s} s"
            self._open(now_s, not_before_s, why)
        elif slow >= calls * options.slow_share:
            why = f"{slow} of {calls} first tokens were slow within {options.window_s} s"
            self._open(now_s, not_before_s, why, slow=True)

    def _give_up_lost_probes(self, now_s: float) -> None:
        if (
            self.state is BreakerState.HALF_OPEN
            and self._probes
            and now_s >= self._probes[0] + self._options.probe_s
        ):
            self._open(self._probes[0], 0.0, "the probe did not come back")

    def _open(self, from_s: float, not_before_s: float, why: str, *, slow: bool = False) -> None:
        longest_s = min(self._options.open_s * 2.0**self._openings, self._open_max_s)
        self.opened_until_s = max(from_s + longest_s * self._rng.uniform(0.75, 1.0), not_before_s)
        self._openings = min(self._openings + 1, 30)
        self.slow = slow
        self._transition(BreakerState.OPEN, why)

    def _close(self, now_s: float, why: str = "the probe succeeded") -> None:
        self._openings = 0
        self._successes_required = SUCCESSES_REQUIRED
        self._slow_start_until_s = now_s + self._options.slow_start_s
        self._window.clear()
        self._transition(BreakerState.CLOSED, why)

    def _transition(self, after: BreakerState, why: str) -> None:
        before, self.state = self.state, after
        self.era += 1
        self._consecutive_failures = self._inconclusive = 0
        self._probes.clear()
        self._on_change(before, after, why)


class BreakerPermit:
    """Leave for one call. Ends once; ending it again does nothing."""

    __slots__ = ("_began_s", "_breaker", "_era", "_open", "probe")

    def __init__(self, breaker: Breaker, era: int, began_s: float, probe: bool) -> None:
        self._breaker = breaker
        self._era = era
        self._began_s = began_s
        self._open = True
        self.probe = probe

    def end(self, outcome: CallOutcome, now_s: float, not_before_s: float = 0.0) -> None:
        """Tells the breaker how the call went, if it is still of its era."""
        if self._open and self._era == self._breaker.era:
            self._breaker.record(outcome, now_s, self._began_s, not_before_s)
        elif self._open and self.probe and outcome is CallOutcome.SUCCESS:
            self._breaker.confirm_recovery(now_s)
        self._open = False

    def commit(self, outcome: CallOutcome, now_s: float) -> None:
        """The first content came. A probe has then proven its point and its place is needed: the stream that
        follows counts as an ordinary call. Any other call is counted when it ends."""
        if not self.probe:
            return
        counts = self._open and self._era == self._breaker.era
        self.end(outcome, now_s)
        self.probe = False
        if counts and self._breaker.state is BreakerState.CLOSED:
            self._era, self._open = self._breaker.era, True
