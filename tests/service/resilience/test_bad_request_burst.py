"""Whose fault 400s are."""

from dub5.service.resilience.bad_request_burst import CALLS_MIN, BadRequestBurst


def answers(burst: BadRequestBurst, pattern: str, from_s: float, every_s: float = 1.0) -> list[bool]:
    """One answer each: `.` taken, `x` refused; whether refusals counted against the target by then."""
    return [burst.record(refused=c == "x", now_s=from_s + i * every_s) for i, c in enumerate(pattern)]


def quiet() -> BadRequestBurst:
    """A target that has answered everything, a minute ago."""
    burst = BadRequestBurst()
    answers(burst, "." * 20, 0.0)
    return burst


def test_a_burst_after_a_quiet_time() -> None:
    """From the tenth call on, when half of them are refused, it is the target's fault."""
    assert answers(quiet(), "x" * 12, 60.0) == [False] * (CALLS_MIN - 1) + [True] * 3


def test_one_bad_caller() -> None:
    """A caller whose every request is bad, among others that are well, is no burst."""
    assert not any(answers(quiet(), "x..x..x.." * 4, 60.0))


def test_bad_callers_from_the_start() -> None:
    """A target that nobody has seen answer, or that has always refused much, is no proof of anything."""
    assert not any(answers(BadRequestBurst(), "x" * 25, 0.0))
    always = BadRequestBurst()
    answers(always, "..x" * 20, 0.0)
    assert not any(answers(always, "x" * 20, 100.0))


def test_it_ends() -> None:
    """When refusals have become half as many again, they are the callers' once more."""
    burst = quiet()
    answers(burst, "x" * 15, 60.0)
    told = answers(burst, "." * 60, 75.0)
    assert told[0] and not told[-1]
    assert not any(answers(burst, "x" * 3, 140.0))


def test_a_second_burst() -> None:
    """The first burst is no part of what the second one is compared with."""
    burst = quiet()
    answers(burst, "x" * 200 + "." * 200, 60.0)
    assert answers(burst, "x" * 30, 460.0)[-1]


def test_a_long_burst_does_not_become_the_usual() -> None:
    """Hours of 400s stay the target's fault to the end: they are never what it is compared with."""
    burst = quiet()
    told = answers(burst, "x" * 5_000, 60.0, every_s=2.5)
    assert told.index(True) < 15 and all(told[told.index(True) :])
