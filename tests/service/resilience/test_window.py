"""The window against a list of everything that was ever added."""

from hypothesis import given
from hypothesis import strategies as st

from dub5.service.resilience.window import SlidingWindow

LENGTHS_S = st.integers(1, 60)
COUNTED = st.sampled_from([(0,), (1,), (0, 1)])
PAUSES_S = st.one_of(st.just(0.0), st.floats(0.0, 12.0))
STEPS = st.lists(st.tuples(PAUSES_S, COUNTED), max_size=60)
Step = tuple[float, tuple[int] | tuple[int, int]]


@given(length_s=LENGTHS_S, start_s=st.floats(0.0, 1e6), steps=STEPS, idle_s=st.floats(0.0, 90.0))
def test_sums_equal_a_plain_list(length_s: int, start_s: float, steps: list[Step], idle_s: float) -> None:
    """After any adds and any pause, the sums are those of the last `length_s` whole seconds, this one
    included."""
    window, everything, now_s = SlidingWindow(length_s, 2), list[tuple[float, int]](), start_s

    def as_listed() -> list[int]:
        recent = [which for at_s, which in everything if int(at_s) > int(now_s) - length_s]
        return [recent.count(0), recent.count(1)]

    for pause_s, counted in steps:
        now_s += pause_s
        for which in counted:
            window.count(now_s, which)
        everything += [(now_s, which) for which in counted]
        assert window.sums == as_listed()
    now_s += idle_s
    window.age(now_s)
    assert window.sums == as_listed()


@given(length_s=LENGTHS_S, steps=STEPS)
def test_it_keeps_no_more_than_one_bucket_a_second(length_s: int, steps: list[Step]) -> None:
    """Memory is bounded by its length, however much is added."""
    window, now_s = SlidingWindow(length_s, 2), 0.0
    for pause_s, counted in steps * 3:
        now_s += pause_s / 10
        for which in counted:
            window.count(now_s, which)
        assert len(window._buckets) <= length_s


def test_cleared() -> None:
    """After `clear` nothing of before counts, not even when its second passes out of the window."""
    window = SlidingWindow(5, 1)
    window.count(1.0, 0)
    window.clear()
    window.count(1.5, 0)
    window.count(1.5, 0)
    assert window.sums == [2]
    window.age(6.5)
    assert window.sums == [0]
