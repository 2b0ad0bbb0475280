"""Sliding window: counts of the last seconds in one-second buckets, with running sums.

The form is resilience4j's time-based sliding window: integer seconds as keys, and reading the sums costs
nothing.
"""

from collections import deque
from math import inf


class SlidingWindow:
    """Sums of several counts over the last `length_s` whole seconds. Times are loop seconds."""

    def __init__(self, length_s: int, counts: int) -> None:
        self.sums = [0] * counts
        self._length_s = length_s
        self._buckets: deque[tuple[int, list[int]]] = deque()
        self._last = self.sums  # the counts of the last bucket,
        self._ends_s = -inf  # which takes no more from then on

    def count(self, now_s: float, which: int) -> None:
        """Add one to one of the counts, given by its index in `sums`."""
        if now_s >= self._ends_s:
            self._begin(int(now_s))
        self._last[which] += 1
        self.sums[which] += 1

    def age(self, now_s: float) -> None:
        """Drop the buckets that are older than the window."""
        buckets, oldest = self._buckets, int(now_s) - self._length_s
        while buckets and buckets[0][0] <= oldest:
            _, counts = buckets.popleft()
            for i, amount in enumerate(counts):
                self.sums[i] -= amount

    def clear(self) -> None:
        """Drop all counts."""
        self._buckets.clear()
        self.sums = [0] * len(self.sums)
        self._ends_s = -inf

    def _begin(self, second: int) -> None:
        self.age(second)
        self._last, self._ends_s = [0] * len(self.sums), second + 1.0
        self._buckets.append((second, self._last))
