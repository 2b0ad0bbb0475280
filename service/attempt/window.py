"""What happened within the last seconds: counts in one-second buckets, summed as they come and go.

The form is resilience4j's time window: integer seconds as keys, reading costs nothing.
"""

from collections import deque


class Window:
    """Sums of several counts over the last `length_s` whole seconds. Times are loop seconds."""

    def __init__(self, length_s: int, counts: int) -> None:
        self.sums = [0] * counts
        self._length_s = length_s
        self._buckets: deque[tuple[int, list[int]]] = deque()

    def add(self, now_s: float, *amounts: int) -> None:
        """More of each count."""
        self.age(now_s)
        second = int(now_s)
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append((second, [0] * len(self.sums)))
        bucket = self._buckets[-1][1]
        for i, amount in enumerate(amounts):
            bucket[i] += amount
            self.sums[i] += amount

    def age(self, now_s: float) -> None:
        """Forgets what is older than the window."""
        oldest = int(now_s) - self._length_s
        while self._buckets and self._buckets[0][0] <= oldest:
            for i, amount in enumerate(self._buckets.popleft()[1]):
                self.sums[i] -= amount

    def clear(self) -> None:
        """Forgets everything."""
        self._buckets.clear()
        self.sums = [0] * len(self.sums)
