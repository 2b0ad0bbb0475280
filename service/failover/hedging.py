"""When a second target is asked beside a first one that takes longer than usual. Pure.

    delay   the 95th percentile of what this target took lately for prompts of this size: time to first token of a
            stream, time to the whole of a JSON answer
    share   at most 5 % of the requests of the last minute
    purse   the budget of the provider that would receive it

From "The Tail at Scale" (Dean and Barroso, 2013), with Finagle's percentile delay and one purse with the retries.
"""

from bisect import bisect_left, insort
from collections import deque

from dub5.service.config.options import HedgeOptions
from dub5.service.resilience.window import SlidingWindow

SAMPLES_MAX = 200
WINDOW_S = 60
REQUESTS, HEDGES = range(2)  # in it
SIZES = (2_000, 20_000)  # bytes of a prompt: small, medium, large


def size_class(size: int) -> int:
    """0, 1 or 2: prompts of one class take about equally long to read."""
    return sum(size > bound for bound in SIZES)


class Percentile:
    """One percentile of the last samples."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._newest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """One more; the oldest goes when there are enough."""
        self._newest.append(value)
        insort(self._sorted, value)
        if len(self._newest) > SAMPLES_MAX:
            del self._sorted[bisect_left(self._sorted, self._newest.popleft())]

    def read(self, samples_min: int) -> float | None:
        """None while there are fewer samples than that."""
        count = len(self._sorted)
        return self._sorted[min(count - 1, int(count * self._share))] if count >= samples_min else None


class Hedges:
    """How long to wait for whom, and whether there may be one more. Times are loop seconds."""

    def __init__(self, options: HedgeOptions) -> None:
        self._options = options
        self._took: dict[tuple[str, bool, int], Percentile] = {}
        self._window = SlidingWindow(WINDOW_S, 2)

    def note_request(self, now_s: float) -> None:
        """A request began."""
        self._window.count(now_s, REQUESTS)

    def note_hedge(self, now_s: float) -> None:
        """A hedge was sent."""
        self._window.count(now_s, HEDGES)

    def observe(self, target: str, stream: bool, size: int, took_s: float) -> None:
        """So long a target took, or had taken when it was outrun."""
        key = (target, stream, size_class(size))
        known = self._took.get(key)
        if known is None:
            known = self._took[key] = Percentile(self._options.percentile)
        known.add(took_s)

    def delay_s(self, target: str, stream: bool, size: int) -> float | None:
        """After so long a second target may be asked; None: it is not known yet what is usual."""
        known = self._took.get((target, stream, size_class(size)))
        usual_s = known.read(self._options.samples_min) if known else None
        return None if usual_s is None else max(usual_s, self._options.delay_min_s)

    def may_send(self, now_s: float) -> bool:
        """Whether one more stays within the share."""
        self._window.age(now_s)
        requests, hedges = self._window.sums
        return hedges + 1 <= requests * self._options.share
