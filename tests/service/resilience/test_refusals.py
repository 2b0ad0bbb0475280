"""Contradicted refusals: when they count against their target."""

from dub5.service.model import Caller
from dub5.service.resilience.refusals import REFUSING_S, Refusals

ONE, OTHER, ANONYMOUS = Caller("one"), Caller("other"), Caller()


def test_one_caller() -> None:
    """One caller's refusals never count, however many they are."""
    refusals = Refusals()
    assert not any(refusals.counts(ONE, float(now_s)) for now_s in range(1_000))


def test_several_callers() -> None:
    """Refusals of several callers count, after half a minute in which the target took nothing."""
    refusals = Refusals()
    counted = [refusals.counts(ONE if now_s % 2 else OTHER, float(now_s)) for now_s in range(40)]
    assert counted == [False] * int(REFUSING_S) + [True] * 10


def test_callers_without_a_key() -> None:
    """Callers who cannot be told apart count as several."""
    refusals = Refusals()
    assert not refusals.counts(ANONYMOUS, 0.0)
    assert refusals.counts(ANONYMOUS, REFUSING_S)


def test_a_request_that_is_taken() -> None:
    """A target that takes a request is not the one at fault: the count begins again."""
    refusals = Refusals()
    refusals.counts(ANONYMOUS, 0.0)
    refusals.since_s = None
    assert not refusals.counts(ANONYMOUS, 50.0)
