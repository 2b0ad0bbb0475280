"""Queue delay detection: infers from latency that a provider queues requests instead of rejecting them.

    late     an answer that takes more than twice the quickest one of the last minutes, and 0.5 s more
    queue    for at least 1 s every answer is late, and there are at least five of them
    usual    the limit was lowered twice, and the latency stayed: there is no queue, but longer prompts or a
             slower provider. That latency counts as usual for the next two minutes (`BELIEVED_S`)

Call `note(...)` for each answer; True means: lower the concurrency limit. The test is CoDel's, applied to the
queue of another system: the minimum delay over an interval counts, not the delay of one answer. Slow prompts
among quick ones are no queue.
"""

from collections import deque
from math import inf

BEST_S = 300.0  # the baseline is the quickest answer of the last five to ten minutes
STANDS_S = 1.0  # a queue stands if every answer was late for this long
SAMPLES = 5  # late answers needed, at least
TIMES = 2.0  # late: takes more than this many times the baseline
SLACK_S = 0.5  # and exceeds the baseline by more than this
HELPED = 0.9  # a lower limit helped if the quickest answer takes less than this fraction of the time before
LESS = 0.85  # "a lower limit": at most this fraction of the requests that were in flight before
LONG_S = 5.0  # answers that usually take so long differ by more than that: what is usual is no queue
ALIKE_MIN = 2  # a lower limit did not help this many times in a row: there is no queue
BELIEVED_S = 120.0  # a latency that a lower limit did not reduce counts as usual for this long


class QueueDelayDetector:
    """Detector of a standing queue at a provider. It reads no clock: calls pass the time, in loop seconds."""

    def __init__(self) -> None:
        self._best_s = self._best_before_s = inf  # the quickest answer of this and the last `BEST_S`
        self._rotate_at_s = 0.0
        self._late_since_s: float | None = None  # every answer since then was late
        self._late: deque[float] = deque(maxlen=SAMPLES)  # the last late answers, in seconds
        self._then = (inf, 0)  # at the last detection: the quickest late answer, and the requests in flight
        self._alike = 0  # detections in a row at which a lower limit had not helped
        self._usual_s = 0.0  # a latency that counts as usual, until `_believed_until_s`
        self._believed_until_s = 0.0

    def note(
        self,
        took_s: float,
        busy: int,
        now_s: float,
        *,
        usual_s: float | None = None,
        unanswered: bool = False,
    ) -> bool:
        """Count an answer that began after `took_s`, and return whether a queue stands.

        `busy`: the requests in flight when it was sent. `usual_s`: the usual latency of such requests, where
        it is known. `unanswered`: the client gave up after `took_s`.
        """
        self._rotate(now_s)
        if not unanswered:
            self._best_s = min(self._best_s, took_s)
        best_s = min(self._best_s, self._best_before_s)
        usual_s = best_s if usual_s is None or usual_s < LONG_S else max(best_s, usual_s)
        if now_s < self._believed_until_s:
            usual_s = max(usual_s, self._usual_s)
        if took_s <= max(TIMES * usual_s, usual_s + SLACK_S):
            if not unanswered:
                self._late_since_s, self._then, self._alike = None, (inf, 0), 0
            return False
        if self._late_since_s is None:
            self._late_since_s = now_s
            self._late.clear()
        self._late.append(inf if unanswered else took_s)
        stands_s = max(STANDS_S, best_s) if best_s < inf else STANDS_S
        if len(self._late) < SAMPLES or now_s - self._late_since_s < stands_s:
            return False
        self._late_since_s = None
        return not self._is_usual(busy, now_s)

    def _is_usual(self, busy: int, now_s: float) -> bool:
        """Return whether the latency stayed the same twice although fewer requests were in flight."""
        quickest_s, (then_s, then_busy) = min(self._late), self._then
        self._then = (quickest_s, busy)
        alike = inf not in self._late and HELPED <= quickest_s / then_s <= 1 / HELPED
        self._alike = self._alike + 1 if alike and busy <= then_busy * LESS else 0
        if self._alike < ALIKE_MIN:
            return False
        self._usual_s, self._believed_until_s = quickest_s, now_s + BELIEVED_S
        self._alike = 0
        return True

    def _rotate(self, now_s: float) -> None:
        if now_s >= self._rotate_at_s:
            self._best_before_s = self._best_s if now_s < self._rotate_at_s + BEST_S else inf
            self._best_s, self._rotate_at_s = inf, now_s + BEST_S
