"""Stalls: moments at which the loop stands still, as in a process with a slow callback or too little CPU.

    planned   (0.5 s, for 1.2 s)        overshoot 5 ms
    time      0 ... 0.5 =========== 1.7 ... 2.0 + 3 ms ...
                    nothing runs; then all that fell due runs in one turn, in an order of the seed

A stall begins when the loop has something to do: as it wakes up, or up to TURNS_LATER turns later, between
two steps of one task.
"""

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable

TURNS_LATER = 6


class Stalls:
    """The stalls of one loop. `planned`: (at, for) in seconds. `overshoot_s`: how late the loop may wake up.

    `recorded` stalls are those that have happened, overshoots included.
    """

    def __init__(
        self,
        planned: Iterable[tuple[float, float]] = (),
        overshoot_s: float = 0.0,
        seed: int | None = 0,
    ) -> None:
        self._planned = deque(sorted((round(at_s * 1e9), round(for_s * 1e9)) for at_s, for_s in planned))
        self._overshoot_ns = round(overshoot_s * 1e9)
        self._rng = random.Random(f"{seed}:stalls")
        self._turns = self._draw_turns()
        self._began_ns: list[int] = []
        self._ended_ns: list[int] = []
        self._total_ns = [0]  # of all stalls before the one at the same index

    def wake_up(self, at_ns: int) -> int:
        """Return when a loop that was to wake up at `at_ns` does so."""
        late_ns = self._rng.randrange(self._overshoot_ns) if self._overshoot_ns else 0
        if late_ns:
            self._record(at_ns, at_ns + late_ns)
        return at_ns + late_ns

    def next_turn(self, now_ns: int) -> int:
        """Return the time of the next turn: now, or the end of a stall that begins now."""
        if not self._planned or self._planned[0][0] > now_ns:
            return now_ns
        if self._turns:
            self._turns -= 1
            return now_ns
        self._turns = self._draw_turns()
        until_ns = now_ns + self._planned.popleft()[1]
        self._record(now_ns, until_ns)
        return until_ns

    def between_s(self, from_s: float, to_s: float) -> float:
        """Return how long the loop stood still between two moments."""
        return max(0, self._until_ns(round(to_s * 1e9)) - self._until_ns(round(from_s * 1e9))) / 1e9

    def _until_ns(self, at_ns: int) -> int:
        """Return how long the loop had stood still by a moment."""
        i = bisect_right(self._began_ns, at_ns)
        last_ns = max(0, self._ended_ns[i - 1] - at_ns) if i else 0  # the rest of the last stall
        return self._total_ns[i] - last_ns

    def _record(self, from_ns: int, to_ns: int) -> None:
        self._began_ns.append(from_ns)
        self._ended_ns.append(to_ns)
        self._total_ns.append(self._total_ns[-1] + to_ns - from_ns)

    def _draw_turns(self) -> int:
        return self._rng.randrange(TURNS_LATER + 1)
