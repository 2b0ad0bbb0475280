"""Hedged requests: when a second target is asked in parallel with a first one, and which. Pure.

    slow    after the 95th percentile of this target's recent latency for prompts of this size: time to
            first token of a stream, time to a whole JSON answer. At most 5 % of the requests of the last
            minute, charged to the retry budget of the provider that receives the hedge
    late    after half of the time left, where the target could use up all of it. A failover that keeps the
            first attempt running: free if a healthy target exists, otherwise charged to that budget

From "The Tail at Scale" (Dean and Barroso, 2013), with Finagle's percentile delay and one budget with the
retries.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

from dub5.service.config.options import HedgeOptions, TimeoutOptions
from dub5.service.model import AnyRequest, Target
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.window import SlidingWindow

SLOW, LATE = "slow", "late"
LATE_SHARE = 0.75  # of the time left: the latest moment for a late hedge

SAMPLES_MAX = 200
WINDOW_S = 60
REQUESTS, HEDGES = range(2)  # in it
SMALL_BYTES, MEDIUM_BYTES = 2_000, 20_000  # the largest prompts of these sizes; others are large


def size_class(size: int) -> int:
    """Return 0, 1 or 2: prompts of one class take about equally long to read."""
    return (size > SMALL_BYTES) + (size > MEDIUM_BYTES)


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


class Hedges:
    """The latency of each target, and the share of hedges. Times are loop seconds."""

    def __init__(self, options: HedgeOptions) -> None:
        self._options = options
        self._took: dict[tuple[str, bool, int], Percentile] = {}
        self._window = SlidingWindow(WINDOW_S, 2)

    def note_request(self, now_s: float) -> None:
        """Count a request."""
        self._window.count(now_s, REQUESTS)

    def note_hedge(self, now_s: float) -> None:
        """Count a hedge."""
        self._window.count(now_s, HEDGES)

    def observe(self, target: str, stream: bool, size: int, took_s: float) -> None:
        """Record a target's latency in seconds; of a loser, the time until it lost."""
        key = (target, stream, size_class(size))
        known = self._took.get(key)
        if known is None:
            known = self._took[key] = Percentile(self._options.percentile)
        known.add(took_s)

    def delay_s(self, target: str, stream: bool, size: int) -> float | None:
        """Return the seconds after which a second target may be asked; None: too few samples."""
        known = self._took.get((target, stream, size_class(size)))
        usual_s = known.read(self._options.samples_min) if known else None
        return None if usual_s is None else max(usual_s, self._options.delay_min_s)

    def may_send(self, now_s: float) -> bool:
        """Return whether one more hedge stays within the share."""
        self._window.age(now_s)
        requests, hedges = self._window.sums
        return hedges + 1 <= requests * self._options.share


def hedge_delays_s(
    hedges: Hedges, target: Target, request: AnyRequest, options: TimeoutOptions, left_s: float
) -> dict[str, float]:
    """Return the delay in seconds for each reason to hedge an attempt with `left_s` seconds left."""
    delays_s = {}
    if (usual_s := hedges.delay_s(target.name, request.stream, request.size)) is not None:
        delays_s[SLOW] = usual_s
    if left_s <= (options.first_token_s if request.stream else options.whole_answer_s):
        # A target whose usual latency is over half of the time left gets more of it.
        delays_s[LATE] = max(left_s / 2, min(usual_s or 0.0, left_s * LATE_SHARE))
    return delays_s


def hedge_target(
    fleet: Fleet, target: Target, rest: Sequence[Target], why: str, now_s: float
) -> tuple[Target | None, bool]:
    """Return the target of another provider that gets the hedge, or None; and whether it is free."""
    elsewhere = [o for o in rest if o.provider != target.provider and fleet.may_ask(o, now_s)]
    healthy = [o for o in elsewhere if fleet.is_healthy(o, now_s) and not fleet.in_slow_start(o, now_s)]
    if healthy:
        return healthy[0], why == LATE
    if why == LATE:  # else a late request would never find out that a target is back
        return next((o for o in elsewhere if not fleet.probe_due(o, now_s)), None), False
    return None, False
