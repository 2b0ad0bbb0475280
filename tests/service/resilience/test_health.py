"""Whether a target fails a little."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.config.options import HealthOptions
from dub5.service.resilience.health import LAST, LAST_MIN, LAST_S, LAST_SHARE, ErrorRateWindow

OPTIONS = HealthOptions(window_s=30, calls_min=20, failure_share=0.1)


def record(calls: int, failures: int, now_s: float = 0.0) -> ErrorRateWindow:
    made = ErrorRateWindow(OPTIONS)
    for i in range(calls):
        made.add(i < failures, now_s)
    return made


@pytest.mark.parametrize(
    ("calls", "failures", "degraded"),
    [
        (9, 9, False),
        (19, 4, False),
        (20, 1, False),
        (20, 2, True),
        (100, 9, False),
        (100, 10, True),
        (0, 0, False),
    ],
)
def test_where_it_begins(calls: int, failures: int, degraded: bool) -> None:
    """A tenth of the calls, of twenty at least: fewer calls prove nothing."""
    assert record(calls, failures).degraded(0.0) is degraded


def test_it_passes() -> None:
    """What lies further back than the window is forgiven; a quarter of the last twenty after ten minutes."""
    few, many = record(20, 4), record(20, 5)
    assert few.degraded(29.9) and many.degraded(29.9)
    assert not few.degraded(30.0)
    assert many.degraded(599.9) and not many.degraded(600.0)


def test_with_little_traffic() -> None:
    """Six calls a minute: ten must be there, and one in four have failed; good ones make up for it."""
    made = ErrorRateWindow(OPTIONS)
    for n in range(10):
        assert not made.degraded(n * 10.0)
        made.add(n in (2, 5, 8), n * 10.0)
    assert made.degraded(100.0)
    for n in range(10, 13):
        made.add(False, n * 10.0)
    assert not made.degraded(130.0)
    made.clear()
    assert not made.degraded(130.0)


@given(st.lists(st.tuples(st.floats(0.0, 4.0), st.booleans()), max_size=120), st.floats(0.0, 40.0))
def test_equals_a_plain_list(answers: list[tuple[float, bool]], idle_s: float) -> None:
    """At any moment: the share among the answers of the last thirty seconds; if they are few, among the last
    twenty."""
    made, listed, now_s = ErrorRateWindow(OPTIONS), list[tuple[float, bool]](), 0.0

    def as_listed() -> bool:
        recent = [failed for at_s, failed in listed if int(at_s) > int(now_s) - OPTIONS.window_s]
        if len(recent) >= OPTIONS.calls_min:
            return sum(recent) >= len(recent) * OPTIONS.failure_share
        last = [failed for at_s, failed in listed[-LAST:] if at_s > now_s - LAST_S]
        return len(last) >= LAST_MIN and sum(last) >= len(last) * LAST_SHARE

    for pause_s, failed in answers:
        now_s += pause_s
        made.add(failed, now_s)
        listed.append((now_s, failed))
        assert made.degraded(now_s) is as_listed()
    now_s += idle_s
    assert made.degraded(now_s) is as_listed()
