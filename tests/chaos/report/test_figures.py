"""Figures: no request is counted twice or lost, and no bad state is smoothed away."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dub5.chaos.report.axis import axis
from dub5.chaos.report.figures import (
    WORSE,
    during,
    fault_series,
    in_buckets,
    round_top,
    strips,
    visible,
    worst,
)
from dub5.chaos.run.journal import AppliedFault, StatusSample
from dub5.chaos.run.judge import ClientOutcome
from tests.support.journals import result

MOMENTS = st.floats(0, 1000)
SPANS = st.tuples(MOMENTS, MOMENTS).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(MOMENTS), st.lists(SPANS, max_size=8))
def test_during(moments: list[float], spans: list[tuple[float, float]]) -> None:
    """Requests during overlapping faults are found once each."""
    ordered = [result(at_s) for at_s in sorted(moments)]
    wanted = [one for one in ordered if any(from_s <= one.at_s < until_s for from_s, until_s in spans)]
    assert wanted == during(ordered, spans)


@given(st.lists(st.floats(0, 2000)))
def test_buckets(moments: list[float]) -> None:
    """Each request counts in exactly one bucket; requests after the last one count there."""
    rows = in_buckets([result(at_s) for at_s in moments], [(0, 10), (10, 500), (500, 1000)])
    assert [row.requests for row in rows] == [
        sum(at_s < 10 for at_s in moments),
        sum(10 <= at_s < 500 for at_s in moments),
        sum(at_s >= 500 for at_s in moments),
    ]


def test_rate_and_waits() -> None:
    """A bucket has the answers by provider, other outcomes, the request rate and the times to first token."""
    requests = [result(n, first_token_s=n / 10) for n in range(10)]
    requests.append(result(5, "two", ClientOutcome.FAILED, first_token_s=None))
    (row,) = in_buckets(requests, [(0, 20)])
    assert row.answered == {"one": 10}
    assert row.ended == {ClientOutcome.COMPLETE: 10, ClientOutcome.FAILED: 1}
    assert (row.rate_per_s, row.first_token_p50_s, row.first_token_p95_s) == (0.55, 0.4, 0.9)


def samples(*states: str, name: str = "one", target: str = "") -> list[StatusSample]:
    return [StatusSample(n * 10, name, "healthy", state, 0.0, target) for n, state in enumerate(states)]


def test_strips_of_targets() -> None:
    """Two models of one provider have their own strips; a provider's only model goes by the provider's
    name."""
    made = strips(
        samples("closed", "open", "open", target="one/a")
        + samples("closed", "closed", target="one/b")
        + samples("half_open", name="two", target="two/x"),
        40,
    )
    assert [(s.name, s.state, s.from_s, s.until_s) for s in made] == [
        ("one/a", "closed", 0, 10),
        ("one/a", "open", 10, 40),
        ("one/b", "closed", 0, 40),
        ("two", "half_open", 0, 40),
    ]


@given(st.lists(st.sampled_from(WORSE), min_size=1, max_size=300))
def test_nothing_bad_is_too_short_to_be_seen(states: list[str]) -> None:
    """Joined strips cover the same time, and at no moment show a better state than there was."""
    row = strips(samples(*states), 10.0 * len(states))
    drawn = axis(10.0 * len(states), 0, 8)
    shown = visible(row, drawn, 2.0)
    assert (shown[0].from_s, shown[-1].until_s) == (row[0].from_s, row[-1].until_s)
    assert all(a.until_s == b.from_s and a.state != b.state for a, b in pairwise(shown))
    for strip in row:
        middle_s = (strip.from_s + strip.until_s) / 2
        (over,) = [s for s in shown if s.from_s <= middle_s < s.until_s]
        assert worst([over.state, strip.state]) == over.state
    assert len(shown) <= 9


def test_wide_strips_stay() -> None:
    """Strips that are wide enough are drawn unchanged."""
    row = strips(samples("closed", "open", "closed", "half_open"), 40)
    assert row == visible(row, axis(40, 0, 1000), 2.0)


def test_troubles() -> None:
    """A repeated fault is one series with many spans; too many kinds end in one row that says how many."""
    flaps = [AppliedFault("one", "status", "flap", "x", False, n * 10.0, n * 10.0 + 5) for n in range(60)]
    other = [AppliedFault("two", "status", f"fault {n}", "x", False, 5.0 + n, None) for n in range(30)]
    told = fault_series([*other, *flaps], 1000, 10)
    assert len(told) == 10
    assert (told[0].label, len(told[0].spans), told[0].until_s) == ("flap", 60, 595)
    assert told[1].spans == ((5.0, 1000),)
    assert told[-1].label.startswith("22 more kinds")
    assert len(told[-1].spans) == 22


@given(most=st.floats(min_value=0.001, max_value=1e6))
def test_the_top_of_an_axis_is_round(most: float) -> None:
    """An axis ends at a number of one digit, at or above the greatest value, and so does its half."""
    top = round_top(most)
    assert most <= top <= 2 * most * 1.000001
    for mark in (top, top / 2):
        assert len(f"{mark:e}".partition("e")[0].rstrip("0").strip(".").replace(".", "")) == 1, mark
