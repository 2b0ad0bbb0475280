"""Bad-request bursts: detects a target that suddenly answers most requests with 400, by its own fault.

A single 400 is the caller's fault. Many of them from a target that sent nearly none before are the target's
(Azure OpenAI on 2026-03-09 answered 400 for one model for 20 hours).

    begins   of at least 10 calls in the last 30 s, half or more got a 400 or 422; of at least 10 calls in
             the ten minutes before, fewer than a tenth
    ends     fewer than a quarter of the calls in the last 30 s got one

Call `record(...)` for each answer; True means: this 400 counts against the target (`Permit.reconsider`).
"""

from collections import deque

RECENT_S = 30
EARLIER_S = 600
CALLS_MIN = 10  # in each of the two periods, or no burst begins
SHARE = 0.5  # of the recent calls are 400s: a burst begins; below half of this share it is over
QUIET_SHARE = 0.1  # of the earlier calls at most were 400s, or no burst begins


class BadRequestBurst:
    """The share of 400s among one target's answers, in buckets of a second. Times are loop seconds."""

    def __init__(self) -> None:
        self.on = False
        self._recent: deque[list[int]] = deque()  # [second, calls, refused]
        self._earlier: deque[list[int]] = deque()

    def record(self, *, refused: bool, now_s: float) -> bool:
        """Count one answer. Return whether 400s count against the target now."""
        second = int(now_s)
        self._age(second)
        if not self._recent or self._recent[-1][0] != second:
            self._recent.append([second, 0, 0])
        last = self._recent[-1]
        last[1] += 1
        last[2] += refused
        if not (refused or self.on):
            return False
        calls, share = _share(self._recent)
        if self.on:
            self.on = share >= SHARE / 2
        elif calls >= CALLS_MIN and share >= SHARE:
            earlier, before = _share(self._earlier)
            self.on = earlier >= CALLS_MIN and before < QUIET_SHARE
        return self.on

    def _age(self, second: int) -> None:
        """Move buckets that are no longer recent to the earlier period, unless they are part of a burst."""
        while self._recent and self._recent[0][0] <= second - RECENT_S:
            old = self._recent.popleft()
            if not self.on:
                self._earlier.append(old)
        while self._earlier and self._earlier[0][0] <= second - EARLIER_S:
            self._earlier.popleft()


def _share(buckets: deque[list[int]]) -> tuple[int, float]:
    calls = sum(bucket[1] for bucket in buckets)
    refused = sum(bucket[2] for bucket in buckets)
    return calls, refused / calls if calls else 0.0
