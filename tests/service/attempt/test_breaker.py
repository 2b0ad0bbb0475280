"""The breaker as a pure decider, and as a machine that hypothesis drives."""

from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.attempt.breaker import Breaker, End, Permit, State
from service.options import BreakerOptions

OPTIONS = BreakerOptions(
    window_s=30,
    calls_min=10,
    failure_share=0.5,
    failures_in_a_row=5,
    open_s=4.0,
    open_max_s=15.0,
    probes_max=1,
)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(OPTIONS, Random(1), lambda before, after, why: None)


def call(breaker: Breaker, how: End, now_s: float) -> None:
    permit = breaker.enter(now_s)
    assert permit is not None
    permit.end(how, now_s)


def trip(breaker: Breaker, now_s: float = 0.0) -> None:
    for _ in range(OPTIONS.failures_in_a_row):
        call(breaker, End.FAILURE, now_s)


class TestClosed:
    def test_failures_in_a_row(self, breaker: Breaker) -> None:
        """The fifth failure in a row opens it, the fourth does not."""
        for _ in range(4):
            call(breaker, End.FAILURE, 0.0)
        assert breaker.state is State.CLOSED
        call(breaker, End.FAILURE, 0.0)
        assert breaker.state is State.OPEN

    def test_failure_share(self, breaker: Breaker) -> None:
        """Half of ten calls failing opens it, though never five in a row."""
        for _ in range(5):
            call(breaker, End.SUCCESS, 1.0)
            call(breaker, End.FAILURE, 1.0)
        assert breaker.state is State.OPEN

    def test_old_failures_are_forgotten(self, breaker: Breaker) -> None:
        """What lies further back than the window does not count."""
        for _ in range(4):
            call(breaker, End.FAILURE, 0.0)
        call(breaker, End.SUCCESS, 0.0)
        for second in range(31, 36):
            call(breaker, End.SUCCESS, float(second))
            call(breaker, End.FAILURE, float(second)) if second < 35 else None
        assert breaker.state is State.CLOSED

    def test_ignored_ends_count_for_nothing(self, breaker: Breaker) -> None:
        """A client that leaves neither adds to a row of failures nor breaks it."""
        for _ in range(4):
            call(breaker, End.FAILURE, 0.0)
        call(breaker, End.IGNORED, 0.0)
        call(breaker, End.FAILURE, 0.0)
        assert breaker.state is State.OPEN


class TestOpen:
    def test_nobody_enters_until_its_time_is_over(self, breaker: Breaker) -> None:
        """It stays shut between three quarters and the whole of its open time."""
        trip(breaker)
        assert breaker.enter(2.9) is None
        assert breaker.enter(4.0) is not None

    def test_never_before_retry_after(self, breaker: Breaker) -> None:
        """What the provider asked for holds, however short the open time."""
        for _ in range(5):
            permit = breaker.enter(0.0)
            assert permit is not None
            permit.end(End.FAILURE, 0.0, not_before_s=60.0)
        assert breaker.enter(59.9) is None
        assert breaker.enter(60.0) is not None

    def test_late_failures_do_not_prolong_it(self, breaker: Breaker) -> None:
        """A call that began before it opened may fail later without moving anything."""
        late = breaker.enter(0.0)
        assert late is not None
        trip(breaker)
        until_s = breaker.opened_until_s
        late.end(End.FAILURE, 3.0)
        assert until_s == breaker.opened_until_s


class TestHalfOpen:
    @pytest.fixture
    def probe(self, breaker: Breaker) -> Permit:
        trip(breaker)
        permit = breaker.enter(4.0)
        assert permit is not None
        return permit

    def test_one_probe_at_a_time(self, breaker: Breaker, probe: Permit) -> None:
        """While a probe is out, nobody else may ask."""
        assert breaker.state is State.HALF_OPEN
        assert breaker.enter(4.1) is None

    def test_cancelled_probe(self, breaker: Breaker, probe: Permit) -> None:
        """A cancelled probe hands its place on: the breaker neither closes nor opens."""
        probe.end(End.IGNORED, 4.2)
        assert breaker.state is State.HALF_OPEN
        call(breaker, End.SUCCESS, 4.3)
        assert breaker.state is State.CLOSED

    def test_failed_probe_opens_it_for_longer(self, breaker: Breaker, probe: Permit) -> None:
        """Each failed probe doubles the open time, up to its cap."""
        probe.end(End.FAILURE, 4.5)
        assert 4.5 + 0.75 * 8.0 <= breaker.opened_until_s <= 4.5 + 8.0
        for _ in range(6):
            again = breaker.enter(breaker.opened_until_s)
            assert again is not None
            now_s = breaker.opened_until_s
            again.end(End.FAILURE, now_s)
            assert breaker.opened_until_s <= now_s + OPTIONS.open_max_s

    def test_probe_commits(self, breaker: Breaker, probe: Permit) -> None:
        """A probing stream closes the breaker at its first content, and counts as failed if it is cut later."""
        probe.commit(4.5)
        assert breaker.state is State.CLOSED
        probe.end(End.FAILURE, 9.0)
        for _ in range(4):
            call(breaker, End.FAILURE, 9.0)
        assert breaker.state is State.OPEN


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens, in whatever order: permits are bounded and always come back."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.breaker = Breaker(OPTIONS, Random(7), lambda before, after, why: None)
        self.out: list[Permit] = []

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def enter(self) -> None:
        allowed = self.breaker.may_enter(self.now_s)
        permit = self.breaker.enter(self.now_s)
        assert allowed == (permit is not None)
        if permit:
            self.out.append(permit)

    @rule(data=st.data(), how=st.sampled_from(End))
    def end(self, data: st.DataObject, how: End) -> None:
        if self.out:
            self.out.pop(data.draw(st.integers(0, len(self.out) - 1))).end(how, self.now_s)

    @invariant()
    def probes_are_bounded(self) -> None:
        probes = [p for p in self.out if p.probe and p._era == self.breaker.era]
        assert len(probes) <= OPTIONS.probes_max

    @invariant()
    def it_can_always_recover(self) -> None:
        """With every permit given back, a probe is let in at the latest when the open time is over."""
        if not self.out and self.breaker.state is not State.CLOSED:
            assert self.breaker.may_enter(max(self.now_s, self.breaker.opened_until_s))


TestBreakerMachine = BreakerMachine.TestCase
