r"""Whether a provider lets everybody wait: it has taken more than it can do, and says nothing.

    first     |          . .:.:.:.:       a line of its own: even the quickest answer takes much longer than
    token     |   .  . :'                 the quickest of the last minutes
              | .:.:':.
    quickest  |_____________________

CoDel's question, put to a line that is somebody else's: not how long one answer took, but the least of a while. Slow
prompts among quick ones are no line. If a lower limit does not make the quickest any quicker it was no line either,
but other prompts, or a slower provider: then that is what answers take, for a while.
"""

from collections import deque
from math import inf

BEST_S = 300.0  # the quickest of the last five to ten minutes
STANDS_S = 1.0  # a line is what stands for so long
SAMPLES = 5
TIMES = 2.0  # late is what takes so many times as long as the quickest
SLACK_S = 0.5  # and longer than it by at least so much
HELPED = 0.9  # fewer in flight helped if the quickest takes at most so much of what it took before
LESS = 0.85  # fewer are so many of those of then
ALIKE_MIN = 2  # so often in a row it did not help
BELIEVED_S = 120.0


class QueueDelayDetector:
    """Decides from what it is told; reads no clock. Times are loop seconds."""

    def __init__(self) -> None:
        self._best_s = self._best_before_s = inf
        self._turn_at_s = 0.0
        self._late_since_s: float | None = None  # and none was in time
        self._late: deque[float] = deque(maxlen=SAMPLES)  # the last of those
        self._then = (inf, 0)  # of when it was told last: the quickest, and how many were in flight
        self._alike = 0
        self._usual_s = 0.0  # believed to be no line
        self._believed_until_s = 0.0

    def note(self, took_s: float, busy: int, now_s: float, *, unanswered: bool = False) -> bool:
        """An answer began so long after it was asked for, with so many in flight then; whether there is a line.
        `unanswered`: it did not, its client waited for so long and gave up."""
        self._turn(now_s)
        if not unanswered:
            self._best_s = min(self._best_s, took_s)
        best_s = min(self._best_s, self._best_before_s)
        usual_s = max(best_s, self._usual_s) if now_s < self._believed_until_s else best_s
        if took_s <= max(TIMES * usual_s, usual_s + SLACK_S):
            if not unanswered:
                self._late_since_s, self._then, self._alike = None, (inf, 0), 0
            return False
        if self._late_since_s is None:
            self._late_since_s = now_s
            self._late.clear()
        self._late.append(inf if unanswered else took_s)
        if len(self._late) < SAMPLES or now_s - self._late_since_s < STANDS_S:
            return False
        self._late_since_s = None
        return not self._is_usual(busy, now_s)

    def _is_usual(self, busy: int, now_s: float) -> bool:
        """Whether fewer than last time take as long, and so it was the time before."""
        quickest_s, (then_s, then_busy) = min(self._late), self._then
        self._then = (quickest_s, busy)
        alike = inf not in self._late and HELPED <= quickest_s / then_s <= 1 / HELPED
        self._alike = self._alike + 1 if alike and busy <= then_busy * LESS else 0
        if self._alike < ALIKE_MIN:
            return False
        self._usual_s, self._believed_until_s = quickest_s, now_s + BELIEVED_S
        self._alike = 0
        return True

    def _turn(self, now_s: float) -> None:
        if now_s >= self._turn_at_s:
            self._best_before_s = self._best_s if now_s < self._turn_at_s + BEST_S else inf
            self._best_s, self._turn_at_s = inf, now_s + BEST_S
