"""Circuit breaker: stops calling a target or host that keeps failing, until a probe shows a recovery.

                 too many failures, or slow            open time over, on the next call
    closed ---------------------------------> open --------------------------------------> half_open
    (slow start first)                         ^        a probe failed, or never came back     |
      ^                                        +------- (longer open time) -------------------+
      +--------------------------------- a probe succeeded -----------------------------------+

    isolated: an operator said so in the settings; only the settings end it

Call `try_acquire(now_s)` before each call, and `BreakerPermit.end(outcome, now_s)` after it. A cancelled
probe ends as `ignored`: it says nothing about the target, and frees its slot. A probe that has not come back
after `probe_s` counts as failed, so that a hanging provider cannot hold the slot; if that probe succeeds
later, the breaker closes all the same. The open time runs from the start of the probe that failed. Results of
other calls that began before the last change of state are not counted.

A closed breaker is on probation after (a) two consecutive failures, the last of which took `WAITED_S` or
more, (b) two consecutive abandoned calls (another target answered first, or the time was up), or (c) a
recovery. Five consecutive successes end it. During probation the breaker permits every call, and the failover
loop asks a healthy target at the same time. Reason: with little traffic a window never fills, and one success
proves little.

The window follows resilience4j's time-based sliding window, the permit Netflix's three-way listener, the slow
start Envoy's.
"""

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from math import inf
from random import Random

from msgspec import Struct

from dub5.service.config.options import BreakerOptions
from dub5.service.resilience.window import SlidingWindow

CALLS, FAILURES, SLOW = range(3)  # in its window
PROBATION_AFTER = 2  # consecutive failures, or consecutive abandoned calls
WAITED_S = 1.0  # a failure or abandoned call that took at least this long made a request wait
SUCCESSES_REQUIRED = 5  # consecutive successes that end a probation
SLOW_START_FROM = 0.1  # the share of calls that are permitted when slow start begins


class BreakerState(StrEnum):
    """The states of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


class CallOutcome(StrEnum):
    """How a permitted call ended."""

    SUCCESS = "success"
    SLOW = "slow"  # a success whose first token came late
    FAILURE = "failure"
    IGNORED = "ignored"  # says nothing about the target: the call was cancelled, say


# Read from here, for it takes twice as long to read a member from its class.
CLOSED, HALF_OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN
SUCCESS = CallOutcome.SUCCESS

OnStateChange = Callable[[BreakerState, BreakerState, str], None]


class Breaker:
    """A circuit breaker. It reads no clock: each call passes the time, in loop seconds."""

    def __init__(
        self, options: BreakerOptions, open_max_s: float, rng: Random, on_change: OnStateChange
    ) -> None:
        self.state = BreakerState.CLOSED
        self.opened_until_s = 0.0
        self.slow = False  # open for slowness alone: usable as a last resort
        self.era = 0  # grows with each change of state
        self.steady_from_s = 0.0  # permits every call from then on; inf: it is not closed
        self._options = options
        self._open_max_s = open_max_s
        self._rng = rng
        self._on_change = on_change
        self._openings = 0  # consecutive, without a recovery in between
        self._consecutive_failures = 0
        self._inconclusive = 0  # consecutive abandoned calls
        self._withheld = 0  # consecutive failures that are not counted yet
        self._successes_required = 0  # more than 0: on probation
        self._slow_start_until_s = 0.0
        self._probes: deque[float] = deque()  # the start of each probe in flight
        self._window = SlidingWindow(options.window_s, 3)

    @property
    def probing(self) -> int:
        """The number of probes in flight."""
        return len(self._probes)

    @property
    def on_probation(self) -> bool:
        """Whether the breaker is closed, but its target must still prove that it is healthy."""
        return self._successes_required > 0 and self.state is BreakerState.CLOSED

    def would_permit(self, now_s: float) -> bool:
        """Return whether `try_acquire` would return a permit."""
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
        """Return a permit for one call, or None if the call is not permitted."""
        if self.state is CLOSED:
            return BreakerPermit(self, self.era, now_s, probe=False)
        if not self.would_permit(now_s):
            return None
        if self.state is BreakerState.OPEN:
            self._transition(BreakerState.HALF_OPEN, "open time is over")
        self._probes.append(now_s)
        return BreakerPermit(self, self.era, now_s, probe=True)

    def try_acquire_last_resort(self, now_s: float) -> "BreakerPermit | None":
        """Return a permit although the breaker is open, if only for slowness. Its outcome does not count."""
        tripped = self.state in (BreakerState.OPEN, BreakerState.HALF_OPEN)
        return BreakerPermit(self, -1, now_s, probe=False) if tripped and self.slow else None

    def passes_slow_start(self, now_s: float) -> bool:
        """Draw whether slow start permits this call: the permitted share grows from a tenth to all calls."""
        left_s = self._slow_start_until_s - now_s
        if self.state is not BreakerState.CLOSED or left_s <= 0:
            return True
        return self._rng.random() < max(SLOW_START_FROM, 1.0 - left_s / self._options.slow_start_s)

    def in_slow_start(self, now_s: float) -> bool:
        """Return whether the breaker recovered a moment ago and slow start is not over."""
        return self.state is BreakerState.CLOSED and now_s < self._slow_start_until_s

    def record(self, outcome: CallOutcome, now_s: float, began_s: float, not_before_s: float = 0.0) -> None:
        """Count the outcome of a call of this era. `not_before_s`: no probe before then (Retry-After)."""
        if outcome is SUCCESS and self.state is not HALF_OPEN:  # the usual case
            self._window.count(now_s, CALLS)
            self._consecutive_failures = self._inconclusive = self._withheld = 0
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
            self._window.count(now_s, CALLS)
            self._window.count(now_s, FAILURES if failed else SLOW)
            self._consecutive_failures = self._consecutive_failures + 1 if failed else 0
            self._inconclusive = self._inconclusive if failed else 0
            if failed:
                self._update_probation(waited=now_s - began_s >= WAITED_S)
            self._evaluate(now_s, not_before_s)

    def record_stall(self, now_s: float) -> None:
        """Count a call of this era that is out for too long, while its target answers nobody."""
        if self.state is BreakerState.CLOSED:
            self._consecutive_failures += 1
            self._update_probation(waited=True)
            if self._consecutive_failures >= self._options.failures_in_a_row:
                self._open(now_s, 0.0, f"{self._consecutive_failures} calls without an answer")

    def record_inconclusive(self) -> None:
        """Count an abandoned call: another target answered first, or the time was up."""
        if self.state is BreakerState.CLOSED:
            self._inconclusive += 1
            if self._inconclusive >= PROBATION_AFTER:
                self._successes_required = SUCCESSES_REQUIRED

    def record_contradicted(self, now_s: float, began_s: float) -> None:
        """Count a refusal of this era as a failure: another target took the same request."""
        if self.state is BreakerState.HALF_OPEN:
            self._open(began_s, 0.0, "the probe was refused")
        elif self.state is BreakerState.CLOSED:
            self.record(CallOutcome.FAILURE, now_s, now_s)

    def withhold_failure(self) -> None:
        """Remember a failure that may be its caller's, until `count_withheld` or the next success."""
        self._withheld = min(self._withheld + 1, self._options.failures_in_a_row)  # more change nothing

    def count_withheld(self, now_s: float) -> int:
        """Count the failures that are remembered. Return how many they are."""
        withheld, self._withheld = self._withheld, 0
        for _ in range(withheld):
            if self.state is BreakerState.CLOSED:
                self.record(CallOutcome.FAILURE, now_s, now_s)
        return withheld

    def confirm_recovery(self, now_s: float) -> None:
        """Close the breaker: a probe that had counted as lost has succeeded after all."""
        if self.state in (BreakerState.OPEN, BreakerState.HALF_OPEN):
            self._close(now_s, "a late probe succeeded")

    def permit_probe(self, now_s: float) -> None:
        """End the open time."""
        self.opened_until_s = min(self.opened_until_s, now_s)

    def isolate(self, on: bool, now_s: float) -> None:
        """Permit no call (`on`), or close the breaker again (not `on`), as the operator's settings say."""
        if on and self.state is not BreakerState.ISOLATED:
            self._transition(BreakerState.ISOLATED, "isolated by the settings")
        elif not on and self.state is BreakerState.ISOLATED:
            self._close(now_s, "no longer isolated by the settings")

    def reconfigure(self, options: BreakerOptions, open_max_s: float) -> None:
        """Use other options from now on. The state stays; the window is cleared."""
        self._options, self._open_max_s = options, open_max_s
        if not options.slow_start_s:
            self._slow_start_until_s = 0.0
            self._settle()
        self._window = SlidingWindow(options.window_s, 3)

    def _update_probation(self, *, waited: bool) -> None:
        """Begin a probation if this failure is reason enough, or begin it again."""
        if self._successes_required or (waited and self._consecutive_failures >= PROBATION_AFTER):
            self._successes_required = SUCCESSES_REQUIRED

    def _evaluate(self, now_s: float, not_before_s: float) -> None:
        """Open the breaker if the last calls are reason enough."""
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
        self._consecutive_failures = self._inconclusive = self._withheld = 0
        self._probes.clear()
        self._settle()
        self._on_change(before, after, why)

    def _settle(self) -> None:
        self.steady_from_s = self._slow_start_until_s if self.state is CLOSED else inf


class BreakerPermit(Struct, eq=False):
    """A permit for one call. `end` it once; further calls do nothing."""

    _breaker: Breaker
    _era: int
    _began_s: float
    probe: bool
    _open: bool = True
    _stalled: bool = False

    def end(self, outcome: CallOutcome, now_s: float, not_before_s: float = 0.0) -> None:
        """Report the outcome to the breaker, which ignores outcomes from before its last change of state."""
        if self._open and self._era == self._breaker.era:
            self._breaker.record(outcome, now_s, self._began_s, not_before_s)
        elif self._open and (self.probe or self._stalled) and outcome is CallOutcome.SUCCESS:
            self._breaker.confirm_recovery(now_s)
        self._open = False

    def note_stall(self, now_s: float) -> None:
        """Report that the call is out for too long. Its outcome still counts."""
        if self._open and self._era == self._breaker.era and not self.probe:
            self._stalled = True
            self._breaker.record_stall(now_s)

    def contradict(self, now_s: float) -> None:
        """Count the call, which ended as ignored, as a failure."""
        if self._era == self._breaker.era:
            self._breaker.record_contradicted(now_s, self._began_s)

    def commit(self, outcome: CallOutcome, now_s: float) -> None:
        """Report the first content of a stream.

        A probe ends here, and frees its slot; the rest of its stream counts as an ordinary call. Any other
        call is counted when it ends.
        """
        if not self.probe:
            return
        counts = self._open and self._era == self._breaker.era
        self.end(outcome, now_s)
        self.probe = False
        if counts and self._breaker.state is BreakerState.CLOSED:
            self._era, self._open = self._breaker.era, True
