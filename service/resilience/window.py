"""What happened within the last seconds: counts in one-second buckets, summed as they come and go.

The form is resilience4j's time window: integer seconds as keys, reading costs nothing.
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

    def count(self, now_s: float, *which: int) -> None:
        """One more of each of these, by their places in `sums`."""
        second = int(now_s)
        if second != self._second:
            self.age(now_s)
            self._second, self._last = second, [0] * len(self.sums)
            self._buckets.append((second, self._last))
        sums, last = self.sums, self._last
        for i in which:
            last[i] += 1
            sums[i] += 1

    def age(self, now_s: float) -> None:
        """Forgets what is older than the window."""
        buckets, oldest = self._buckets, int(now_s) - self._length_s
        while buckets and buckets[0][0] <= oldest:
            second, counts = buckets.popleft()
            if second == self._second:
                self._second = -1
            for i, amount in enumerate(counts):
                self.sums[i] -= amount

    def clear(self) -> None:
        """Forgets everything."""
        self._buckets.clear()
        self.sums = [0] * len(self.sums)
        self._second = -1
