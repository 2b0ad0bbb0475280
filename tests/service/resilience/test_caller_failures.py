"""Whose fault the failures of a target are: one caller's, until two of the last ten are other callers'."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.config.options import BreakerOptions, BudgetOptions, HealthOptions, LimiterOptions
from dub5.service.events import CallerBarred, Event, Events
from dub5.service.model import Caller, Target
from dub5.service.resilience.caller_failures import PROBER, RECORDS_MAX, CallerFailures, OwnRecord
from dub5.service.resilience.circuit_breaker import Breaker, BreakerState
from dub5.service.resilience.classify import Blame, Classification, Then
from dub5.service.resilience.fleet import Fleet, GuardOptions
from dub5.service.resilience.health import ErrorRateWindow, Health
from dub5.service.resilience.permit import Permit
from dub5.service.resilience.target import NotPermitted

ONE, TWO, THREE = Caller("1"), Caller("2"), Caller("3")


def new_record(caller: str, on_open: Callable[[], None]) -> OwnRecord:
    breaker = Breaker(BreakerOptions(), 12.0, Random(1), lambda before, after, why: None)
    return OwnRecord(breaker, ErrorRateWindow(HealthOptions()))


def counted(*callers: Caller, told_apart: bool = True, every_s: float = 1.0) -> list[bool]:
    """Return which of these failures count for everybody as they come."""
    failures = CallerFailures(new_record, told_apart=told_apart)
    return [failures.counts_for_all(caller, n * every_s) for n, caller in enumerate(callers)]


@given(st.integers(1, 100))
def test_one_callers(times: int) -> None:
    """The failures of one caller count against it alone, however many."""
    assert not any(counted(*[ONE] * times))


@given(st.permutations([ONE] * 8 + [TWO]))
def test_one_of_others_is_chance(callers: list[Caller]) -> None:
    """A single failure of another caller among them makes none of the one's count."""
    assert not any(count for count, caller in zip(counted(*callers), callers, strict=True) if caller is ONE)


@pytest.mark.parametrize("others", [(TWO, TWO), (TWO, THREE), (PROBER,)])
def test_two_of_others_are_not(others: tuple[Caller, ...]) -> None:
    """From the second failure of others on, or one of our own probe, every failure counts."""
    assert counted(*[ONE] * 5, *others, ONE)[-1]


def test_others_of_long_ago() -> None:
    """Failures older than a minute, or before the last ten, are forgotten."""
    assert not counted(TWO, TWO, ONE, every_s=31.0)[-1]
    assert not counted(TWO, TWO, *[ONE] * 10)[-1]


@pytest.mark.parametrize(("caller", "told_apart"), [(ONE, False), (Caller(), True)])
def test_callers_that_cannot_be_told_apart(caller: Caller, told_apart: bool) -> None:
    """Failures of callers without a key, or with the only one, count at once."""
    assert all(counted(*[caller] * 3, told_apart=told_apart))


def test_what_was_withheld() -> None:
    """Failures that were withheld are released once, when they count."""
    failures = CallerFailures(new_record, told_apart=True)
    for caller in (ONE, ONE, TWO):
        failures.counts_for_all(caller, 0.0)
        assert not failures.release()
    failures.counts_for_all(TWO, 0.0)
    assert failures.release()
    assert not failures.release()


def test_many_callers() -> None:
    """Of ten thousand callers the records of those that failed last are kept."""
    failures = CallerFailures(new_record, told_apart=True)
    for number in range(10_000):
        failures.late_permit(ONE, 0.0)
        failures.late_permit(Caller(f"caller {number}"), 0.0)
    assert len(failures.records) == RECORDS_MAX
    assert {ONE.key, "caller 9999"} <= failures.records.keys()


def test_a_day_of_failures() -> None:
    """However many failures were withheld, only as many count later as open the target's breaker."""
    fleet = new_fleet()
    breaker = fleet._states[TARGET].breaker
    for _ in range(10_000):
        breaker.withhold_failure()
    assert breaker.count_withheld(0.0) == BreakerOptions().failures_in_a_row
    assert breaker.state is BreakerState.OPEN


def test_the_next_probe() -> None:
    """Whose probe failed leaves the next one to others for 3 s; we ourselves are never kept from it."""
    failures = CallerFailures(new_record, told_apart=True)
    failures.note_failed_probe(ONE)
    failures.note_failed_probe(PROBER)
    assert not failures.may_probe(ONE, 10.0, 12.9)
    assert failures.may_probe(ONE, 10.0, 13.0)
    assert failures.may_probe(TWO, 10.0, 10.0) and failures.may_probe(PROBER, 10.0, 10.0)
    failures.note_recovery(10.0)
    assert failures.may_probe(ONE, 10.0, 10.0)


def test_our_own_probe() -> None:
    """A caller's breaker that opens asks for a probe of our own, once a minute."""
    failures = CallerFailures(new_record, told_apart=True)
    assert not failures.take_doubt(0.0)
    failures.note_opened()
    assert [failures.take_doubt(now_s) for now_s in (1.0, 1.0)] == [True, False]
    failures.note_opened()
    assert [failures.take_doubt(now_s) for now_s in (60.9, 61.0)] == [False, True]


TARGET = Target("one", "m")
DOWN = Classification(Then.RETRY, Blame.TARGET, "http_500", status=500)


def new_fleet(*, told_apart: bool = True) -> Fleet:
    guards = GuardOptions(
        BreakerOptions(), BudgetOptions(), LimiterOptions(), HealthOptions(), callers_told_apart=told_apart
    )
    return Fleet({TARGET: "http://one.test"}, {}, guards, Random(3), Events())


def acquire(fleet: Fleet, now_s: float, caller: Caller) -> Permit:
    permit = fleet.try_acquire(TARGET, now_s, caller=caller)
    assert isinstance(permit, Permit)
    permit.usual_s = 0.5
    return permit


@pytest.mark.parametrize(("told_apart", "limit"), [(True, 1000), (False, 14)])
def test_requests_that_hang(told_apart: bool, limit: int) -> None:
    """Waits of one caller that the target never ends are no queue: they lower no limit."""
    fleet = new_fleet(told_apart=told_apart)
    acquire(fleet, 0.0, TWO).end(None, 0.5, reached=True)
    hanging = [acquire(fleet, 1.0, ONE) for _ in range(6)]
    for at_s, permit in enumerate(hanging, 20):
        permit.note_silence(at_s, late=True, mute=False)
    for at_s, permit in enumerate(hanging, 60):
        permit.end(Classification(Then.GIVE_UP, Blame.NOBODY, "deadline_timeout"), at_s, reached=False)
    assert fleet.limit("one") == limit


@pytest.mark.parametrize(
    ("callers", "told_apart", "on_probation"),
    [
        ([ONE] * 9, True, False),
        ([ONE, ONE, TWO, ONE], True, False),
        ([ONE, TWO, ONE, TWO], True, True),
        ([ONE, TWO, THREE], True, True),
        ([ONE, ONE], False, True),
    ],
)
def test_abandoned_attempts(callers: list[Caller], told_apart: bool, on_probation: bool) -> None:
    """Those of the caller that abandons most put no target on probation."""
    fleet = new_fleet(told_apart=told_apart)
    for at_s, caller in enumerate(callers, 1):
        acquire(fleet, at_s, caller).record_inconclusive(at_s + 5.0)
    assert fleet.on_probation(TARGET) is on_probation


def test_a_fleet() -> None:
    """A caller whose five requests failed is kept from the target, which says so once; others are not."""
    events: list[Event] = []
    guards = GuardOptions(
        BreakerOptions(), BudgetOptions(), LimiterOptions(), HealthOptions(), callers_told_apart=True
    )
    target = Target("one", "m")
    fleet = Fleet({target: "http://one.test"}, {}, guards, Random(3), Events(events.append))
    for at_s in range(5):
        permit = fleet.try_acquire(target, at_s, caller=ONE)
        assert isinstance(permit, Permit)
        permit.end(DOWN, at_s + 0.5, reached=True)
    assert fleet.try_acquire(target, 5.0, caller=ONE) == NotPermitted("caller_breaker_open")
    assert fleet.wait_s(target, 5.0, ONE) > 0.0 == fleet.wait_s(target, 5.0, TWO)
    assert isinstance(fleet.try_acquire(target, 5.0, caller=TWO), Permit)
    assert [fleet.may_ask_any([target], 5.0, caller) for caller in (ONE, TWO)] == [False, True]
    assert events == [CallerBarred("one/m", "1", "5 failures in a row")]
    assert fleet.snapshot(target, 5.0).health is Health.HEALTHY
    assert fleet.take_doubts(5.0) == [target]


def test_a_target_that_fails_with_others_too() -> None:
    """Failures that count for everybody count for their caller as well, which is kept from the target.

    When the target has recovered, the caller may try at once.
    """
    fleet = new_fleet()
    for at_s, caller in enumerate((TWO, TWO, *[ONE] * 3)):
        acquire(fleet, at_s, caller).end(DOWN, at_s + 0.5, reached=True)
    state = fleet._states[TARGET]
    assert state.breaker.state is BreakerState.OPEN
    for at_s in (20.0, 40.0):
        acquire(fleet, at_s, ONE).end(DOWN, at_s + 0.5, reached=True)
    assert state.caller_failures.wait_s(ONE, 41.5) > 1.0
    state.breaker.opened_until_s = 41.0
    acquire(fleet, 41.0, TWO).end(None, 41.5, reached=True)
    assert state.caller_failures.wait_s(ONE, 41.5) == 0.0


def test_a_reload() -> None:
    """New settings begin without callers' records."""
    guards = GuardOptions(
        BreakerOptions(), BudgetOptions(), LimiterOptions(), HealthOptions(), callers_told_apart=True
    )
    target = Target("one", "m")
    fleet = Fleet({target: "http://one.test"}, {}, guards, Random(3), Events())
    fleet._states[target].caller_failures.counts_for_all(ONE, 0.0)
    after = Fleet({target: "http://one.test"}, {}, guards, Random(3), Events(), fleet)
    assert not after._states[target].caller_failures.any
