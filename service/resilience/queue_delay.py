"""Queue delay detection: infers from latency that a provider queues requests instead of rejecting them.

    late     an answer that takes more than twice the quickest one of the last minutes, and 0.5 s more
    queue    for at least 1 s every answer is late, and there are at least five of them
    usual    answers to requests sent among far more others took as long: there is no queue, but longer
             prompts or a slower provider. That latency counts as usual for five minutes (`BELIEVED_S`)

Call `note(...)` for each answer; True means: lower the concurrency limit. The test is CoDel's, applied to the
queue of another system: the minimum delay over an interval counts, not the delay of one answer. Slow prompts
among quick ones are no queue.
"""

from collections import deque
from collections.abc import Sequence
from math import inf, sqrt
from operator import itemgetter
from statistics import median

BEST_S = 300.0  # the baseline is the quickest answer of the last five to ten minutes
STANDS_S = 1.0  # a queue stands if every answer was late for this long
SAMPLES = 5  # late answers needed, at least
TIMES = 2.0  # late: takes more than this many times the baseline
SLACK_S = 0.5  # and exceeds the baseline by more than this
LATE_MAX = 100  # late answers that are kept
FAR_MORE = 1.6  # times as many requests in flight: in a queue they would take about as many times as long
LONG_S = 5.0  # answers that usually take so long differ by more than that: what is usual is no queue
BELIEVED_S = BEST_S  # a latency that did not follow the requests in flight counts as usual for this long


class QueueDelayDetector:
    """Detector of a standing queue at a provider. It reads no clock: calls pass the time, in loop seconds."""

    def __init__(self) -> None:
        self._best_s = self._best_before_s = inf  # the quickest answer of this and the last `BEST_S`
        self._rotate_at_s = 0.0
        self._late_since_s: float | None = None  # every answer since then was late
        self._late_count = 0  # of them
        # The late answers since the last one in time: seconds, and the requests in flight when it was sent.
        self._late: deque[tuple[float, int]] = deque(maxlen=LATE_MAX)
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
        if now_s >= self._rotate_at_s:
            self._rotate(now_s)
        if not unanswered and took_s < self._best_s:
            self._best_s = took_s
        best_s = min(self._best_s, self._best_before_s)
        if took_s <= SLACK_S or took_s <= self._late_after_s(best_s, usual_s, now_s):
            if not unanswered:
                self._late_since_s = None
                if self._late:
                    self._late.clear()
            return False
        if self._late_since_s is None:
            self._late_since_s, self._late_count = now_s, 0
        self._late_count += 1
        self._late.append((inf if unanswered else took_s, busy))
        stands_s = max(STANDS_S, best_s) if best_s < inf else STANDS_S
        if self._late_count < SAMPLES or now_s - self._late_since_s < stands_s:
            return False
        self._late_since_s = None
        median_s = median(took_s for took_s, _ in self._late)
        if median_s == inf or not self._is_usual():
            return True
        self._usual_s = median_s
        self._believed_until_s = now_s + BELIEVED_S
        self._late.clear()
        return False

    def _late_after_s(self, best_s: float, usual_s: float | None, now_s: float) -> float:
        usual_s = best_s if usual_s is None or usual_s < LONG_S else max(best_s, usual_s)
        if now_s < self._believed_until_s:
            usual_s = max(usual_s, self._usual_s)
        return max(TIMES * usual_s, usual_s + SLACK_S)

    def _is_usual(self) -> bool:
        """Return whether answers took as long where far more requests were in flight: no queue is so."""
        by_busy = sorted(self._late, key=itemgetter(1))
        (few_s, few), (many_s, many) = _medians(by_busy[:SAMPLES]), _medians(by_busy[-SAMPLES:])
        times = many / max(few, 1.0)
        if times < FAR_MORE or inf in (few_s, many_s):
            return False
        like = sqrt(times)  # in a queue the latter would have taken `times` as long
        return 1.0 / like < many_s / few_s < like

    def _rotate(self, now_s: float) -> None:
        self._best_before_s = self._best_s if now_s < self._rotate_at_s + BEST_S else inf
        self._best_s, self._rotate_at_s = inf, now_s + BEST_S


def _medians(answers: Sequence[tuple[float, int]]) -> tuple[float, float]:
    return median(took_s for took_s, _ in answers), median(busy for _, busy in answers)
