"""Hedged requests: when a second target is asked in parallel with a first one, and which. Pure.

    slow    after the 95th percentile of this target's recent latency for requests of this class: time to
            first token of a stream, time to a whole JSON answer. At most 5 % of the requests of the last
            minute, charged to the retry budget of the provider that receives the hedge
    silent  after 10 s, or three times the target's usual latency. A failover that keeps the first attempt
            running: free where the target has answered nobody meanwhile, or is not healthy; otherwise
            within the same share, or one a minute, and charged
    late    after half of the time left, where the target could use up all of it. As free as a failover if a
            healthy target exists, otherwise charged to that budget

From "The Tail at Scale" (Dean and Barroso, 2013), with Finagle's percentile delay and one budget with the
retries.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from math import inf

from dub5.service.config.options import HedgeOptions, TimeoutOptions
from dub5.service.model import ANONYMOUS, AnyRequest, Caller, EmbedRequest, Target
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.window import SlidingWindow

SLOW, SILENT, LATE = "slow", "silent", "late"
LATE_SHARE = 0.75  # of the time left: the latest moment for a late hedge

SAMPLES_MAX = 200
WINDOW_S = 60
REQUESTS, HEDGES = range(2)  # in it
SMALL_BYTES, MEDIUM_BYTES = 2_000, 20_000  # the largest prompts of these sizes; others are large
USUAL_MIN = 5  # answers that show what is usual
USUAL_EVERY = 5  # the median is read after so many answers
USUAL_S = 300.0  # the usual latency is the lowest median of the last five to ten minutes
SILENT_TIMES = 3.0  # a target that takes so many times its usual latency is silent
LOOK_MIN_S = 3.0  # a pause of less is no stop
SLOW_TIMES = 6.0  # the same, for what counts as slow
STALLED_SHARE = 0.98  # an attempt that takes longer than this share of the answers is stalled
NO_EFFORT = frozenset({b"null", b'"none"', b'"minimal"', b'"low"'})


def latency_class(request: AnyRequest) -> int:
    """Return a number for requests that take about equally long at one target.

    That is: requests of one operation, form and size, which are to be thought about or not.
    """
    size = request.size
    number = (size > SMALL_BYTES) + (size > MEDIUM_BYTES)
    if request.stream:
        number += 3
    if isinstance(request, EmbedRequest):
        return number + 12
    fields = request.fields
    effort = fields.get("reasoning_effort")
    if effort is not None:
        thinks = bytes(effort) not in NO_EFFORT
    else:
        thinks = "reasoning" in fields or "thinking" in fields
    return number + 6 if thinks else number


class Percentile:
    """One percentile of the last samples."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._newest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Add a sample; the oldest one is dropped at SAMPLES_MAX."""
        self._newest.append(value)
        insort(self._sorted, value)
        if len(self._newest) > SAMPLES_MAX:
            del self._sorted[bisect_left(self._sorted, self._newest.popleft())]

    def read(self, samples_min: int) -> float | None:
        """Return the percentile, or None with fewer samples than `samples_min`."""
        count = len(self._sorted)
        return self._sorted[min(count - 1, int(count * self._share))] if count >= samples_min else None

    def at(self, share: float) -> float:
        """Return the value at this share of the samples; there is at least one."""
        return self._sorted[int(len(self._sorted) * share)]

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self._sorted)


class LatencyHistory:
    """The latency of one target for one class of requests. Times are loop seconds."""

    def __init__(self, options: HedgeOptions) -> None:
        self.percentile = Percentile(options.percentile)
        self._options = options
        self.usual_s: float | None = None  # the lowest median of the last minutes
        self._lowest_s = self._lowest_before_s = inf
        self._rotate_at_s = 0.0
        self._first_asked_s: float | None = None
        self._answers = 0

    def add(self, took_s: float, now_s: float) -> None:
        """Add the latency of an answer."""
        self.percentile.add(took_s)
        self._answers += 1
        if self._answers < USUAL_MIN or self._answers % USUAL_EVERY:
            if self._first_asked_s is None:
                self._first_asked_s = now_s - took_s
            return
        median_s = self.percentile.at(0.5)
        # Of requests that were sent together the quickest are answered first.
        if self._first_asked_s is None or now_s < self._first_asked_s + SILENT_TIMES * median_s:
            return
        if now_s >= self._rotate_at_s:
            self._lowest_before_s = self._lowest_s if now_s < self._rotate_at_s + USUAL_S else inf
            self._lowest_s, self._rotate_at_s = inf, now_s + USUAL_S
        self._lowest_s = min(self._lowest_s, median_s)
        self.usual_s = min(self._lowest_s, self._lowest_before_s)

    def add_loser(self, waited_s: float) -> None:
        """Add the time until an attempt lost its race, where that alone is already long."""
        long_s = self.percentile.read(self._options.samples_min)
        if long_s is not None and waited_s >= long_s:
            self.percentile.add(waited_s)

    def delay_s(self) -> float | None:
        """Return the seconds after which a second target may be asked; None: too few samples."""
        long_s = self.percentile.read(self._options.samples_min)
        if long_s is None or self.usual_s is None:
            return None
        return max(long_s, self._options.delay_min_s)

    def is_stalled(self, waited_s: float) -> bool:
        """Return whether an attempt has taken longer than nearly all answers of this target."""
        if self.percentile.count < self._options.samples_min:
            return False
        return waited_s > self.percentile.at(STALLED_SHARE)


class Hedges:
    """The latency of each target, and the share of hedges. Times are loop seconds."""

    def __init__(self, options: HedgeOptions) -> None:
        self._options = options
        self._took: dict[tuple[Target, int], LatencyHistory] = {}
        self._window = SlidingWindow(WINDOW_S, 2)

    def note_request(self, now_s: float) -> None:
        """Count a request."""
        self._window.count(now_s, REQUESTS)

    def note_hedge(self, now_s: float) -> None:
        """Count a hedge."""
        self._window.count(now_s, HEDGES)

    def history(self, target: Target, which: int) -> LatencyHistory:
        """Return the latency of a target for requests of class `which`."""
        known = self._took.get((target, which))
        if known is None:
            known = self._took[(target, which)] = LatencyHistory(self._options)
        return known

    def may_send(self, now_s: float, least: int = 0) -> bool:
        """Return whether one more hedge stays within the share, or is one of the `least` that may always."""
        self._window.age(now_s)
        requests, hedges = self._window.sums
        return hedges + 1 <= max(requests * self._options.share, least)


def silent_after_s(usual_s: float | None, options: TimeoutOptions) -> float:
    """Return the seconds without an answer after which a target counts as silent."""
    after_s = options.hedge_after_s
    if usual_s is None or SILENT_TIMES * usual_s <= after_s:
        return after_s
    return SILENT_TIMES * usual_s


def first_look_s(usual_s: float | None, options: TimeoutOptions) -> float:
    """Return the seconds until the first look at whether a target has stopped to answer.

    A quick target is looked at sooner.
    """
    if usual_s is None:
        return options.hedge_after_s
    return min(options.hedge_after_s, max(LOOK_MIN_S, SILENT_TIMES * usual_s))


def slow_after_s(usual_s: float | None, options: TimeoutOptions) -> float:
    """Return the seconds of which a share makes a stream slow. What is usual is never slow."""
    if usual_s is None:
        return inf
    return max(options.hedge_after_s, SLOW_TIMES * usual_s)


def hedge_delays_s(
    hedges: Hedges, target: Target, which: int, stream: bool, options: TimeoutOptions, left_s: float
) -> dict[str, float]:
    """Return the delay in seconds for each reason to hedge an attempt with `left_s` seconds left."""
    delays_s = {}
    if (long_s := hedges.history(target, which).delay_s()) is not None:
        delays_s[SLOW] = long_s
    if left_s <= (options.first_token_s if stream else options.whole_answer_s):
        # A target whose usual latency is over half of the time left gets more of it.
        delays_s[LATE] = max(left_s / 2, min(long_s or 0.0, left_s * LATE_SHARE))
    return delays_s


def hedge_target(
    fleet: Fleet, target: Target, rest: Sequence[Target], why: str, now_s: float, caller: Caller = ANONYMOUS
) -> tuple[Target | None, bool]:
    """Return the target that gets the hedge, or None; and whether it is free.

    It is one of another provider. Where there is none, a silent target's neighbour will do.
    """
    may_ask = [other for other in rest if fleet.may_ask(other, now_s, caller)]
    elsewhere = [other for other in may_ask if other.provider != target.provider]
    if why == SILENT:
        elsewhere = elsewhere or may_ask
    healthy = [o for o in elsewhere if fleet.is_healthy(o, now_s) and not fleet.in_slow_start(o, now_s)]
    if healthy:
        return healthy[0], why != SLOW
    if why != SLOW:  # else a late request would never find out that a target is back
        return next((o for o in elsewhere if not fleet.probe_due(o, now_s)), None), False
    return None, False
