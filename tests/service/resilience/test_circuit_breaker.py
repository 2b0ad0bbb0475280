"""The breaker, situation by situation."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.config.options import BreakerOptions
from dub5.service.resilience.circuit_breaker import Breaker, BreakerPermit, BreakerState, CallOutcome

OPTIONS = BreakerOptions(
    window_s=30,
    calls_min=10,
    failure_share=0.5,
    slow_share=0.6,
    failures_in_a_row=5,
    open_s=4.0,
    probes_max=1,
    probe_s=10.0,
    slow_start_s=10.0,
)
OPEN_MAX_S = 15.0
Told = list[tuple[BreakerState, BreakerState, str]]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def breaker(told: Told) -> Breaker:
    return Breaker(OPTIONS, OPEN_MAX_S, Random(1), lambda *change: told.append(change))


def entered(breaker: Breaker, now_s: float) -> BreakerPermit:
    permit = breaker.try_acquire(now_s)
    assert permit is not None
    return permit


def call(breaker: Breaker, how: CallOutcome, now_s: float) -> None:
    entered(breaker, now_s).end(how, now_s)


def trip(breaker: Breaker, now_s: float = 0.0) -> None:
    for _ in range(OPTIONS.failures_in_a_row):
        call(breaker, CallOutcome.FAILURE, now_s)
    assert breaker.state is BreakerState.OPEN


def trip_slow(breaker: Breaker, now_s: float = 0.0) -> None:
    for _ in range(OPTIONS.calls_min):
        call(breaker, CallOutcome.SLOW, now_s)
    assert breaker.state is BreakerState.OPEN


class TestClosed:
    def test_failures_in_a_row(self, breaker: Breaker, told: Told) -> None:
        """The fifth failure in a row opens it, the fourth does not."""
        for _ in range(4):
            call(breaker, CallOutcome.FAILURE, 0.0)
        assert breaker.state is BreakerState.CLOSED
        call(breaker, CallOutcome.FAILURE, 0.0)
        assert told == [(BreakerState.CLOSED, BreakerState.OPEN, "5 failures in a row")]
        assert not breaker.slow

    def test_suspicion(self, breaker: Breaker) -> None:
        """One failure is a blink, one that comes at once costs nobody anything; two in a row, the last of
        which was waited for, want five successes in a row, and another failure wants them anew."""
        call(breaker, CallOutcome.FAILURE, 0.0)
        call(breaker, CallOutcome.FAILURE, 0.0)
        assert not breaker.on_probation
        entered(breaker, 0.0).end(CallOutcome.FAILURE, 1.0)
        for end in (
            [CallOutcome.SUCCESS] * 4
            + [CallOutcome.FAILURE]
            + [CallOutcome.SUCCESS] * 4
            + [CallOutcome.SLOW, CallOutcome.IGNORED]
        ):
            call(breaker, end, 0.0)
            assert breaker.on_probation
        call(breaker, CallOutcome.SUCCESS, 0.0)
        assert not breaker.on_probation
        assert breaker.state is BreakerState.CLOSED

    def test_failure_share(self, breaker: Breaker) -> None:
        """Half of ten calls failing opens it, though never five in a row."""
        for _ in range(5):
            assert breaker.state is BreakerState.CLOSED
            call(breaker, CallOutcome.SUCCESS, 1.0)
            call(breaker, CallOutcome.FAILURE, 1.0)
        assert breaker.state is BreakerState.OPEN

    def test_old_failures_are_forgotten(self, breaker: Breaker) -> None:
        """Failures older than the window do not count."""
        for _ in range(4):
            call(breaker, CallOutcome.FAILURE, 0.0)
        call(breaker, CallOutcome.SUCCESS, 0.0)
        for second in range(31, 36):
            call(breaker, CallOutcome.SUCCESS, float(second))
            call(breaker, CallOutcome.FAILURE, float(second)) if second < 35 else None
        assert breaker.state is BreakerState.CLOSED

    def test_ignored_ends_count_for_nothing(self, breaker: Breaker) -> None:
        """A client that leaves neither adds to a row of failures nor breaks it."""
        for _ in range(4):
            call(breaker, CallOutcome.FAILURE, 0.0)
        call(breaker, CallOutcome.IGNORED, 0.0)
        call(breaker, CallOutcome.FAILURE, 0.0)
        assert breaker.state is BreakerState.OPEN

    def test_slow_answers_are_answers(self, breaker: Breaker) -> None:
        """Five slow ones in a row are no failures in a row; six slow ones of ten open it, marked as slow."""
        for how in [CallOutcome.SLOW] * 5 + [CallOutcome.SUCCESS] * 4:
            call(breaker, how, 0.0)
        assert breaker.state is BreakerState.CLOSED
        call(breaker, CallOutcome.SLOW, 0.0)
        assert breaker.state is BreakerState.OPEN and breaker.slow

    def test_failing_and_slow(self, breaker: Breaker) -> None:
        """A late answer may be the last straw, but where half of the calls fail, slowness is not the
        reason."""
        for how in [CallOutcome.FAILURE, CallOutcome.SLOW] * 5:
            call(breaker, how, 0.0)
        assert breaker.state is BreakerState.OPEN and not breaker.slow


class TestOpen:
    def test_nobody_enters_until_its_time_is_over(self, breaker: Breaker) -> None:
        """An open breaker stays shut for between three quarters and the whole of its open time."""
        trip(breaker)
        assert breaker.try_acquire(2.9) is None
        assert breaker.try_acquire(4.0) is not None

    def test_never_before_retry_after(self, breaker: Breaker) -> None:
        """What the provider asked for holds, however short the open time."""
        for _ in range(5):
            entered(breaker, 0.0).end(CallOutcome.FAILURE, 0.0, not_before_s=60.0)
        assert breaker.try_acquire(59.9) is None
        assert breaker.try_acquire(60.0) is not None

    def test_late_failures_do_not_prolong_it(self, breaker: Breaker) -> None:
        """A call that began before it opened may fail later without moving anything."""
        late = entered(breaker, 0.0)
        trip(breaker)
        until_s = breaker.opened_until_s
        late.end(CallOutcome.FAILURE, 3.0)
        assert until_s == breaker.opened_until_s

    def test_slow_is_better_than_nobody(self, breaker: Breaker) -> None:
        """Open for slowness alone it lets in whoever has nobody else, and what comes of it moves nothing."""
        trip_slow(breaker)
        assert breaker.try_acquire(1.0) is None
        until_s = breaker.opened_until_s
        for how in CallOutcome:
            permit = breaker.try_acquire_last_resort(1.0)
            assert permit is not None and not permit.probe
            permit.end(how, 1.5)
        assert (breaker.state, breaker.opened_until_s) == (BreakerState.OPEN, until_s)

    def test_failing_is_not_better_than_nobody(self, breaker: Breaker) -> None:
        """A breaker opened by failures is no last resort."""
        trip(breaker)
        assert breaker.try_acquire_last_resort(1.0) is None


class TestHalfOpen:
    @pytest.fixture
    def probe(self, breaker: Breaker) -> BreakerPermit:
        trip(breaker)
        permit = entered(breaker, 4.0)
        assert permit.probe
        return permit

    def test_one_probe_at_a_time(self, breaker: Breaker, probe: BreakerPermit) -> None:
        """While a probe is out, no other call is permitted."""
        assert breaker.state is BreakerState.HALF_OPEN
        assert breaker.try_acquire(4.1) is None

    def test_cancelled_probe(self, breaker: Breaker, probe: BreakerPermit) -> None:
        """A cancelled probe hands its place on: the breaker neither closes nor opens."""
        probe.end(CallOutcome.IGNORED, 4.2)
        assert breaker.state is BreakerState.HALF_OPEN
        call(breaker, CallOutcome.SUCCESS, 4.3)
        assert breaker.state is BreakerState.CLOSED

    def test_failed_probe_opens_it_for_longer(self, breaker: Breaker, probe: BreakerPermit) -> None:
        """Each failed probe doubles the open time, from the probe's own beginning, up to its cap."""
        probe.end(CallOutcome.FAILURE, 4.5)
        assert 4.0 + 0.75 * 8.0 <= breaker.opened_until_s <= 4.0 + 8.0
        for _ in range(6):
            now_s = breaker.opened_until_s
            entered(breaker, now_s).end(CallOutcome.FAILURE, now_s + 1.0)
            assert now_s + 0.75 * 15.0 <= breaker.opened_until_s <= now_s + 15.0

    def test_slow_probe(self, breaker: Breaker, probe: BreakerPermit) -> None:
        """A probe that answers late opens it again; by now slowness is all that is known against it."""
        probe.commit(CallOutcome.SLOW, 4.5)
        assert breaker.state is BreakerState.OPEN and breaker.slow

    def test_probe_commits(self, breaker: Breaker, probe: BreakerPermit) -> None:
        """A probing stream closes the breaker at its first content, and counts as failed if it is cut
        later."""
        probe.commit(CallOutcome.SUCCESS, 4.5)
        assert breaker.state is BreakerState.CLOSED
        probe.end(CallOutcome.FAILURE, 9.0)
        for _ in range(4):
            call(breaker, CallOutcome.FAILURE, 9.0)
        assert breaker.state is BreakerState.OPEN

    def test_the_rest_of_a_slow_probe(self, breaker: Breaker) -> None:
        """A slow probe has told all it can at its first content: how its stream ends keeps nobody out for
        longer."""
        trip_slow(breaker)
        probe = entered(breaker, 4.0)
        probe.commit(CallOutcome.SLOW, 9.0)
        until_s = breaker.opened_until_s
        probe.end(CallOutcome.SLOW, 9.5)
        assert breaker.opened_until_s == until_s

    def test_probe_that_does_not_come_back(self, breaker: Breaker, probe: BreakerPermit, told: Told) -> None:
        """A probe that never returns counts as failed from its beginning on, and the next one is
        permitted."""
        assert breaker.try_acquire(13.9) is None
        following = entered(breaker, 14.0)
        assert following.probe and breaker.probing == 1
        assert [why for _, _, why in told[-2:]] == ["the probe did not come back", "open time is over"]
        probe.end(CallOutcome.FAILURE, 15.0)
        assert breaker.state is BreakerState.HALF_OPEN, "what the lost one failed at is no longer asked for"

    def test_lost_probe_speaks_after_all(self, breaker: Breaker, probe: BreakerPermit) -> None:
        """An answer that took longer than a probe may is an answer all the same: the breaker closes, once."""
        following = entered(breaker, 14.0)
        probe.commit(CallOutcome.SUCCESS, 15.0)
        probe.end(CallOutcome.SUCCESS, 16.0)
        assert (breaker.state, breaker.probing) == (BreakerState.CLOSED, 0)
        following.end(CallOutcome.SUCCESS, 17.0)
        assert breaker.state is BreakerState.CLOSED

    def test_lost_probe_speaks_after_a_recovery(self, breaker: Breaker, probe: BreakerPermit) -> None:
        """A stream that began before the breaker closed again is none of the calls that it counts."""
        call(breaker, CallOutcome.SUCCESS, 14.0)
        probe.commit(CallOutcome.SUCCESS, 15.0)
        probe.end(CallOutcome.FAILURE, 16.0)
        for _ in range(4):
            call(breaker, CallOutcome.FAILURE, 16.0)
        assert breaker.state is BreakerState.CLOSED

    def test_a_recovery_is_a_new_beginning(self, breaker: Breaker, probe: BreakerPermit) -> None:
        """After a success the open time is as short as the first one."""
        probe.end(CallOutcome.FAILURE, 4.5)
        call(breaker, CallOutcome.SUCCESS, 12.0)
        trip(breaker, 20.0)
        assert breaker.opened_until_s <= 24.0


class TestRamp:
    @staticmethod
    def recovered(options: BreakerOptions = OPTIONS) -> Breaker:
        """Closed again at 4.0."""
        breaker = Breaker(options, OPEN_MAX_S, Random(5), lambda *change: None)
        trip(breaker)
        call(breaker, CallOutcome.SUCCESS, 4.0)
        return breaker

    @pytest.mark.parametrize(
        ("after_s", "share"), [(0.0, 0.1), (0.9, 0.1), (3.0, 0.3), (6.0, 0.6), (9.0, 0.9), (10.0, 1.0)]
    )
    def test_share(self, after_s: float, share: float) -> None:
        """After a recovery a tenth of all calls pass, then a share that grows evenly until all do."""
        breaker = self.recovered()
        passed = sum(breaker.passes_slow_start(4.0 + after_s) for _ in range(4_000))
        assert passed / 4_000 == pytest.approx(share, abs=0.03)
        assert breaker.state is BreakerState.CLOSED, "looking at the ramp moves nothing"

    def test_never_before_a_recovery(self, breaker: Breaker) -> None:
        """A target that has never been down is given all from its first second on."""
        assert all(breaker.passes_slow_start(now_s) for now_s in (0.0, 0.1, 5.0))

    def test_switched_off(self) -> None:
        """With `slow_start_s` 0 all calls pass at once."""
        breaker = self.recovered(BreakerOptions(open_s=4.0, slow_start_s=0.0))
        assert all(breaker.passes_slow_start(4.0) for _ in range(100))

    def test_a_ramp_that_is_switched_off_half_way(self) -> None:
        """Settings without a ramp, read while one goes on: it is over."""
        options = BreakerOptions(open_s=4.0, slow_start_s=10.0)
        breaker = self.recovered(options)
        breaker.reconfigure(BreakerOptions(open_s=4.0, slow_start_s=0.0), 30.0)
        assert all(breaker.passes_slow_start(5.0) for _ in range(100)) and not breaker.in_slow_start(5.0)

    def test_opened_again(self) -> None:
        """What it let through still opens it, and the ramp does not stand in the way of the next probe."""
        breaker = self.recovered()
        trip(breaker, 5.0)
        assert all(breaker.passes_slow_start(breaker.opened_until_s) for _ in range(100))


def half_open(breaker: Breaker) -> None:
    trip(breaker)
    entered(breaker, 4.0)


@pytest.mark.parametrize("before", [lambda breaker: None, trip, trip_slow, half_open])
def test_isolated(breaker: Breaker, before: Callable[[Breaker], None]) -> None:
    """From any state isolation rejects all calls until it is lifted, and then a slow start begins."""
    before(breaker)
    late = breaker.try_acquire(4.0)
    breaker.isolate(True, 5.0)
    for now_s in (5.0, 60.0, 1e6):
        assert breaker.try_acquire(now_s) is None and breaker.try_acquire_last_resort(now_s) is None
    if late is not None:
        late.end(CallOutcome.SUCCESS, 6.0)
    assert breaker.state is BreakerState.ISOLATED
    breaker.isolate(False, 100.0)
    assert breaker.state is BreakerState.CLOSED
    assert sum(breaker.passes_slow_start(100.0) for _ in range(1_000)) < 200


def test_isolated_while_a_probe_is_out(breaker: Breaker) -> None:
    """What the probe's stream says later does not undo the operator's hand."""
    for how in [CallOutcome.SUCCESS, CallOutcome.FAILURE] * 5:
        call(breaker, how, 0.0)
    probe = entered(breaker, 4.0)
    breaker.isolate(True, 5.0)
    probe.commit(CallOutcome.SUCCESS, 6.0)
    probe.end(CallOutcome.FAILURE, 7.0)
    assert breaker.state is BreakerState.ISOLATED


@given(
    not_before_s=st.one_of(st.just(0.0), st.floats(0.0, 1e5)),
    failed_probes=st.integers(0, 40),
    open_s=st.floats(0.1, 100.0),
    open_max_s=st.floats(0.1, 100.0),
    seed=st.integers(0, 1_000),
)
def test_open_time(
    not_before_s: float, failed_probes: int, open_s: float, open_max_s: float, seed: int
) -> None:
    """After any number of failed probes: never before Retry-After, never longer than the cap or
    Retry-After."""
    options = BreakerOptions(failures_in_a_row=1, open_s=open_s)
    breaker = Breaker(options, open_max_s, Random(seed), lambda *change: None)
    call(breaker, CallOutcome.FAILURE, 0.0)
    for _ in range(failed_probes):
        call(breaker, CallOutcome.FAILURE, breaker.opened_until_s)
    began_s = breaker.opened_until_s
    entered(breaker, began_s).end(CallOutcome.FAILURE, began_s, not_before_s)
    longest_s = min(open_s * 2.0 ** (failed_probes + 1), open_max_s)
    assert breaker.opened_until_s >= max(began_s + 0.75 * longest_s, not_before_s)
    assert breaker.opened_until_s <= max(began_s + longest_s, not_before_s)
