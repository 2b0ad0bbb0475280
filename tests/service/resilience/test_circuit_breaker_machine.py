"""The breaker beside a model of itself: plain lists, no buckets, no eras. Hypothesis drives both."""

from dataclasses import dataclass
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dub5.service.config.options import BreakerOptions
from dub5.service.resilience.circuit_breaker import Breaker, BreakerPermit, BreakerState, CallOutcome
from tests.support.examples import examples

OPTIONS = BreakerOptions(
    window_s=20,
    calls_min=5,
    failure_share=0.5,
    slow_share=0.6,
    failures_in_a_row=3,
    open_s=4.0,
    probes_max=2,
    probe_s=6.0,
    slow_start_s=10.0,
)
OPEN_MAX_S = 15.0
AWAY_S = 50.0  # the longest Retry-After


@dataclass
class OpenPermit:
    """A permit that has not come back. `live`: no change of state has happened since."""

    permit: BreakerPermit
    began_s: float
    probe: bool
    live: bool = True


class BreakerMachine(RuleBasedStateMachine):
    """Every change of state is foretold, and every change that happens was."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(OPTIONS, OPEN_MAX_S, Random(7), self.told)
        self.now_s = 0.0
        self.out: list[OpenPermit] = []
        self.state = BreakerState.CLOSED
        self.changes: list[tuple[BreakerState, BreakerState]] = []
        self.ends: list[tuple[float, CallOutcome]] = []  # since it last closed
        self.in_a_row = 0
        self.openings = 0

    def told(self, before: BreakerState, after: BreakerState, why: str) -> None:
        assert why and before is not after
        self.changes.append((before, after))

    # What the model expects.

    def probes(self) -> list[OpenPermit]:
        return [one for one in self.out if one.live and one.probe]

    def expect(self, after: BreakerState) -> None:
        assert self.changes.pop(0) == (self.state, after)
        self.state, self.in_a_row = after, 0
        for one in self.out:
            one.live = False

    def expect_open(self, from_s: float, not_before_s: float, slow: bool) -> None:
        """Open: for a time between the bounds, marked slow only where slowness alone was the reason."""
        self.expect(BreakerState.OPEN)
        longest_s = min(OPTIONS.open_s * 2.0**self.openings, OPEN_MAX_S)
        until_s = self.breaker.opened_until_s
        assert until_s >= max(from_s + 0.75 * longest_s, not_before_s)
        assert until_s <= max(from_s + longest_s, not_before_s)
        assert self.breaker.slow == slow
        self.openings += 1

    def expect_closed(self) -> None:
        self.expect(BreakerState.CLOSED)
        self.ends.clear()
        self.openings = 0

    def expect_lost_probes(self) -> None:
        """A probe that has been out for `probe_s` holds nobody up: it has failed, from its beginning on."""
        began_s = min((one.began_s for one in self.probes()), default=self.now_s)
        if self.state is BreakerState.HALF_OPEN and began_s + OPTIONS.probe_s <= self.now_s:
            self.expect_open(began_s, 0.0, slow=False)

    def too_many(self) -> str:
        recent = [how for at_s, how in self.ends if int(at_s) > int(self.now_s) - OPTIONS.window_s]
        if self.in_a_row >= OPTIONS.failures_in_a_row:
            return "failures"
        if len(recent) < OPTIONS.calls_min:
            return ""
        if recent.count(CallOutcome.FAILURE) >= len(recent) * OPTIONS.failure_share:
            return "failures"
        return "slow" if recent.count(CallOutcome.SLOW) >= len(recent) * OPTIONS.slow_share else ""

    def expect_end(self, one: OpenPermit, how: CallOutcome, not_before_s: float) -> None:
        if how is CallOutcome.IGNORED:
            return
        if not one.live:
            if (
                one.probe
                and how is CallOutcome.SUCCESS
                and self.state in (BreakerState.OPEN, BreakerState.HALF_OPEN)
            ):
                self.expect_closed()  # given up, and it answered after all
            return
        if one.probe:
            if how is CallOutcome.SUCCESS:
                self.expect_closed()
            else:
                self.expect_open(one.began_s, not_before_s, how is CallOutcome.SLOW)
        elif self.state is BreakerState.CLOSED:
            self.ends.append((self.now_s, how))
            self.in_a_row = self.in_a_row + 1 if how is CallOutcome.FAILURE else 0
            if how is not CallOutcome.SUCCESS and (why := self.too_many()):
                self.expect_open(self.now_s, not_before_s, why == "slow")

    # What happens.

    @initialize(how=st.sampled_from([CallOutcome.SUCCESS, CallOutcome.FAILURE, CallOutcome.SLOW]))
    def a_past(self, how: CallOutcome) -> None:
        """Most runs begin with a breaker that has just opened, or is about to."""
        for _ in range(OPTIONS.calls_min):
            self.enter()
            if self.out:
                self._end(0, how, 0.0)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 5.9, 6.0, 14.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.state is BreakerState.OPEN)
    @rule()
    def open_time_passes(self) -> None:
        self.now_s = max(self.now_s, self.breaker.opened_until_s)

    @rule()
    def enter(self) -> None:
        breaker, before_s = self.breaker, self.breaker.opened_until_s
        may = breaker.would_permit(self.now_s)
        permit = breaker.try_acquire(self.now_s)
        self.expect_lost_probes()
        allowed = {
            BreakerState.CLOSED: True,
            BreakerState.OPEN: self.now_s >= breaker.opened_until_s,
            BreakerState.HALF_OPEN: len(self.probes()) < OPTIONS.probes_max,
            BreakerState.ISOLATED: False,
        }[self.state]
        assert may == allowed == (permit is not None), f"{self.state}, open until {before_s}"
        if permit is None:
            return
        if self.state is BreakerState.OPEN:
            self.expect(BreakerState.HALF_OPEN)
        assert permit.probe == (self.state is BreakerState.HALF_OPEN)
        self.out.append(OpenPermit(permit, self.now_s, permit.probe))

    @rule()
    def enter_slow(self) -> None:
        breaker = self.breaker
        permit = breaker.try_acquire_last_resort(self.now_s)
        trouble = self.state in (BreakerState.OPEN, BreakerState.HALF_OPEN)
        assert (permit is not None) == (trouble and breaker.slow)
        if permit is not None:
            self.out.append(OpenPermit(permit, self.now_s, probe=False, live=False))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), how=st.sampled_from(CallOutcome), away_s=st.sampled_from([0.0, 0.0, 2.0, AWAY_S]))
    def end(self, data: st.DataObject, how: CallOutcome, away_s: float) -> None:
        self._end(data.draw(st.integers(0, len(self.out) - 1)), how, self.now_s + away_s)

    def _end(self, which: int, how: CallOutcome, not_before_s: float) -> None:
        one, before = self.out.pop(which), self.seen()
        one.permit.end(how, self.now_s, not_before_s)
        self.expect_end(one, how, not_before_s)
        if how is CallOutcome.IGNORED:
            assert self.seen() == before, "ignored leaves no trace"
        after = self.seen()
        one.permit.end(CallOutcome.FAILURE, self.now_s, 1e6)
        assert self.seen() == after, "a permit ends once"

    def seen(self) -> tuple[object, ...]:
        """All of the breaker that a permit's end could move, but for the places of its probes."""
        b = self.breaker
        return (
            b.state,
            b.era,
            b.opened_until_s,
            b.slow,
            b._consecutive_failures,
            b._openings,
            tuple(b._window.sums),
        )

    @precondition(lambda self: self.out)
    @rule(data=st.data(), slow=st.booleans())
    def first_content(self, data: st.DataObject, slow: bool) -> None:
        """A probe has proven its point; the stream that follows is an ordinary call, if it is let go on as
        one."""
        one = self.out[data.draw(st.integers(0, len(self.out) - 1))]
        how, live, probe = CallOutcome.SLOW if slow else CallOutcome.SUCCESS, one.live, one.probe
        one.permit.commit(how, self.now_s)
        if probe:
            self.expect_end(one, how, 0.0)
            one.probe = False
            one.live = live and not slow

    @rule(on=st.booleans())
    def isolate(self, on: bool) -> None:
        self.breaker.isolate(on, self.now_s)
        if on and self.state is not BreakerState.ISOLATED:
            self.expect(BreakerState.ISOLATED)
        elif not on and self.state is BreakerState.ISOLATED:
            self.expect_closed()

    @invariant()
    def nothing_else_happened(self) -> None:
        assert not self.changes
        assert self.breaker.state is self.state
        assert self.breaker.probing == len(self.probes()) <= OPTIONS.probes_max

    def teardown(self) -> None:
        """Whatever never came back: after `probe_s`, and the open time that follows, somebody is let in."""
        self.isolate(False)
        self.now_s += OPTIONS.probe_s
        if not self.breaker.would_permit(self.now_s):
            assert self.breaker.opened_until_s <= self.now_s + max(OPEN_MAX_S, AWAY_S)
            assert self.breaker.would_permit(self.breaker.opened_until_s)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = examples(100, stateful_step_count=40)
