"""The time to first token that a target shows now."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.resilience.ewma import TAU_S, PeakEwma

TIMES_S = st.floats(0.0, 100.0)
SEEN = st.lists(st.tuples(st.floats(0.0, 60.0), TIMES_S), min_size=1, max_size=40)


@given(SEEN)
def test_bounds(seen: list[tuple[float, float]]) -> None:
    """Never below what was seen last, never above the worst ever seen; a worse time counts at once, in
    full."""
    ewma, now_s, worst_s = PeakEwma(), 0.0, 0.0
    for pause_s, took_s in seen:
        now_s += pause_s
        before_s, worst_s = ewma.value_s, max(worst_s, took_s)
        ewma.observe(took_s, now_s)
        assert took_s <= ewma.value_s + 1e-9 and ewma.value_s <= worst_s
        if took_s >= before_s:
            assert ewma.value_s == took_s
        else:
            assert ewma.value_s <= before_s, "better times bring it down, little by little"


@given(peak_s=st.floats(1.0, 60.0), after_s=st.floats(0.01, 100.0))
def test_decay(peak_s: float, after_s: float) -> None:
    """After `TAU_S` seconds of better times, two thirds of a peak are forgotten; how many came does not
    matter much."""
    one, many = PeakEwma(), PeakEwma()
    for ewma, steps in ((one, 1), (many, 50)):
        ewma.observe(peak_s, 0.0)
        for step in range(1, steps + 1):
            ewma.observe(0.5, after_s * step / steps)
        assert ewma.value_s == pytest.approx(0.5 + (peak_s - 0.5) * exp(-after_s / TAU_S))


@given(SEEN, st.floats(0.0, 200.0), st.floats(0.0, 200.0))
def test_what_nobody_sees_fades(seen: list[tuple[float, float]], idle_s: float, more_s: float) -> None:
    """Without news a time counts less and less: who is avoided for it is asked again one day. Looking moves
    nothing."""
    ewma, now_s = PeakEwma(), 0.0
    for pause_s, took_s in seen:
        now_s += pause_s
        ewma.observe(took_s, now_s)
    assert ewma.at(now_s) == ewma.value_s
    assert ewma.at(now_s + idle_s) == pytest.approx(ewma.value_s * exp(-idle_s / TAU_S))
    assert ewma.at(now_s + idle_s + more_s) <= ewma.at(now_s + idle_s)
