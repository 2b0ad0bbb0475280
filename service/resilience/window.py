"""Sliding window: counts of the last seconds in one-second buckets, with running sums.

The form is resilience4j's time-based sliding window: integer seconds as keys, and reading the sums costs
nothing.
"""

from collections import deque


class SlidingWindow:
    """Sums of several counts over the last `length_s` whole seconds. Times are loop seconds."""

    def __init__(self, length_s: int, counts: int) -> None:
        self.sums = [0] * counts
        self._length_s = length_s
        self._buckets: deque[tuple[int, list[int]]] = deque()
        self._second = -1  # of the last bucket
        self._last = self.sums

    def count(self, now_s: float, which: int, also: int | None = None) -> None:
        """Add one to one or two of the counts, given by their indices in `sums`."""
        second = int(now_s)
        if second != self._second:
            self.age(now_s)
            self._second, self._last = second, [0] * len(self.sums)
            self._buckets.append((second, self._last))
        sums, last = self.sums, self._last
        last[which] += 1
        sums[which] += 1
        if also is not None:
            last[also] += 1
            sums[also] += 1

    def age(self, now_s: float) -> None:
        """Drop the buckets that are older than the window."""
        buckets, oldest = self._buckets, int(now_s) - self._length_s
        while buckets and buckets[0][0] <= oldest:
            second, counts = buckets.popleft()
            if second == self._second:
                self._second = -1
            for i, amount in enumerate(counts):
                self.sums[i] -= amount

    def clear(self) -> None:
        """Drop all counts."""
        self._buckets.clear()
        self.sums = [0] * len(self.sums)
        self._second = -1
