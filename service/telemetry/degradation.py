"""Degradation: a route does worse than usual. Pure: it is told the totals of each route, and the time.

    totals since the start --differences--> minutes --> the last five, against the hour before them

    worse   3 times its usual, over a bound that people notice, by 20 requests or more of which 5 are bad, and
            by more than chance makes of few requests (`evidence`)
    over    under 1.5 times its usual for 5 minutes

Minutes in which a route was degraded do not become its usual. Without 20 requests in the hour before, a share
of `ShareMeasure.usual_default` counts as usual; of the time to the first token nothing is said then.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from dub5.service.events import RouteDegraded, RouteMeasure, RouteRecovered

MINUTE_S = 60.0
RECENT = 5  # minutes, with the one that is not over yet
USUAL = 60  # minutes
REQUESTS_MIN = 20
BAD_MIN = 5
WORSE, WELL = 3.0, 1.5  # times its usual
EVIDENCE = 14.0  # nats: chance alone makes such a difference in one of a million looks (exp(-14))
DEFAULT_WEIGHT = 1_000  # requests: how sure a default is
OVER_AFTER_S = 300.0
QUIET_S = 3_600.0  # without a request, nothing is known of a route
ADOPTED_S = 86_400.0  # a time to the first token that lasts for a day is the usual one

RequestCounts = Sequence[float]


class RouteTotals(Struct, frozen=True):
    """What a route has done since the start. `first_token`: streams by the bucket of their first token."""

    whole: float
    not_whole: float
    first_token: RequestCounts


class Measure(Protocol):
    """One thing that a route is watched for, read from counts: of requests, by class or bucket."""

    what: RouteMeasure
    value_min: float  # what is under it is never an alarm
    usual_default: float | None  # while the route has no hour before
    adopts: bool  # what lasts for a day is usual

    def value(self, counts: RequestCounts) -> float:
        """Return the value, of at least one request."""
        ...

    def limit(self, usual: float) -> float:
        """Return the value from which on it is worse than usual."""
        ...

    def bad(self, counts: RequestCounts, limit: float) -> float:
        """Return how many requests are beyond the limit."""
        ...

    def words(self, value: float) -> str:
        """Return what happens, with its value, to follow "Route chat: "."""
        ...

    def number(self, value: float) -> str:
        """Return the value with its unit."""
        ...


class ShareMeasure:
    """The share of requests that were not answered whole. Counts: the whole ones, the others."""

    what = RouteMeasure.NOT_WHOLE
    value_min = 0.05
    usual_default: float | None = 0.03
    adopts = False  # an outage stays one

    def value(self, counts: RequestCounts) -> float:
        """Return the share."""
        return counts[1] / (counts[0] + counts[1])

    def limit(self, usual: float) -> float:
        """Return the share from which on it is worse; of a bad route: with a third of its good answers."""
        return max(self.value_min, min(WORSE * usual, 1 - (1 - usual) / WORSE))

    def bad(self, counts: RequestCounts, limit: float) -> float:
        """Return how many were not answered whole."""
        return counts[1]

    def words(self, value: float) -> str:
        """Return what happens, with the share."""
        return f"{self.number(value)} of requests were not answered whole in the last {RECENT} minutes"

    def number(self, value: float) -> str:
        """Return the share in percent."""
        return f"{100 * value:.3g} %"


class FirstTokenMeasure:
    """The p95 of the time to the first token. Counts: streams by bucket, whose upper `bounds` are seconds."""

    what = RouteMeasure.FIRST_TOKEN
    value_min = 2.0
    usual_default: float | None = None  # models differ too much
    adopts = True  # the models of a route may have been changed

    def __init__(self, bounds: Sequence[float]) -> None:
        self._edges = (0.0, *bounds, 2 * bounds[-1])

    def value(self, counts: RequestCounts) -> float:
        """Return the p95: between the bounds of its bucket in proportion."""
        rank, below = 0.95 * sum(counts), 0.0
        for bucket, count in enumerate(counts):
            if count and below + count >= rank:
                low, high = self._edges[bucket], self._edges[bucket + 1]
                return low + (high - low) * (rank - below) / count
            below += count
        return self._edges[-1]

    def limit(self, usual: float) -> float:
        """Return the time from which on it is worse."""
        return max(self.value_min, WORSE * usual)

    def bad(self, counts: RequestCounts, limit: float) -> float:
        """Return how many streams took longer, those of the limit's own bucket in proportion."""
        longer = 0.0
        for bucket, count in enumerate(counts):
            low, high = self._edges[bucket], self._edges[bucket + 1]
            longer += count * min(1.0, max(0.0, (high - limit) / (high - low)))
        return longer

    def words(self, value: float) -> str:
        """Return what happens, with the time."""
        waited = f"waited {self.number(value)} or longer for its first token"
        return f"one stream in 20 {waited} in the last {RECENT} minutes"

    def number(self, value: float) -> str:
        """Return the time in seconds."""
        return f"{value:.2g} s"


@dataclass(slots=True)
class _Minute:
    counts: list[float]
    apart: bool = False  # the route was degraded: it says nothing about what is usual


class RouteHistory:
    """The counts of the last 65 minutes, from totals that only grow."""

    def __init__(self, width: int) -> None:
        self.usual = [0.0] * width  # of the hour before the recent minutes, without those set apart
        self._totals: RequestCounts = self.usual[:]
        self._minutes: deque[_Minute] = deque()
        self._now = -1  # the number of the newest minute

    def add(self, minute: int, totals: RequestCounts, *, apart: bool) -> None:
        """Count what has come since the last time in this minute."""
        for _ in range(min(minute - self._now, RECENT + USUAL) if self._now >= 0 else 1):
            self._begin_minute(apart)
        self._now = max(self._now, minute)
        newest = self._minutes[-1].counts
        for place, total in enumerate(totals):
            newest[place] += total - self._totals[place]
        self._totals = totals

    def _begin_minute(self, apart: bool) -> None:
        self._minutes.append(_Minute([0.0] * len(self.usual), apart))
        if len(self._minutes) > RECENT:
            self._count(self._minutes[-1 - RECENT], 1)
        if len(self._minutes) > RECENT + USUAL:
            self._count(self._minutes.popleft(), -1)

    def _count(self, minute: _Minute, sign: int) -> None:
        if not minute.apart:
            for place, count in enumerate(minute.counts):
                self.usual[place] += sign * count

    def recent(self) -> list[float]:
        """Return the counts of the last five minutes."""
        newest = [self._minutes[-each] for each in range(1, min(RECENT, len(self._minutes)) + 1)]
        return [sum(counts) for counts in zip(*(minute.counts for minute in newest), strict=True)]

    def set_recent_apart(self) -> None:
        """Let the last five minutes never become usual: the route was degraded."""
        for each in range(1, min(RECENT, len(self._minutes)) + 1):
            self._minutes[-each].apart = True

    def adopt(self) -> None:
        """Take all minutes for usual ones."""
        for place, minute in enumerate(self._minutes):
            if minute.apart and place < len(self._minutes) - RECENT:
                minute.apart = False
                self._count(minute, 1)
            minute.apart = False


@dataclass(slots=True)
class _Watched:
    """One measure of one route. `since`: when it began to be worse than usual; None: it is not."""

    history: RouteHistory
    since: float | None = None
    usual: float | None = None  # as it was then
    value: float = 0.0  # at the last look
    well_since: float | None = None
    asked_at: float = 0.0


@dataclass(slots=True)
class Degradation:
    """All routes and measures. `look` returns what has changed; `now` lists what is degraded.

    `bounds`: upper bounds of the buckets of `RouteTotals.first_token`, seconds.
    """

    bounds: Sequence[float]
    _watched: dict[tuple[str, RouteMeasure], _Watched] = field(default_factory=dict)

    def look(self, now_s: float, totals: Mapping[str, RouteTotals]) -> list[RouteDegraded | RouteRecovered]:
        """Return what has become worse than usual, or is over. `now_s`: of a clock that only advances."""
        share, first_token = ShareMeasure(), FirstTokenMeasure(self.bounds)
        changes = []
        for route, total in totals.items():
            for measure, counts in (
                (share, (total.whole, total.not_whole)),
                (first_token, total.first_token),
            ):
                change = self._look_at(route, measure, counts, now_s)
                if change is not None:
                    changes.append(change)
        return changes

    def now(self) -> list[tuple[str, RouteMeasure, float, float | None, float]]:
        """Return what is degraded: route, measure, value, usual value, and since when (the look's clock)."""
        return [
            (route, what, watched.value, watched.usual, watched.since)
            for (route, what), watched in self._watched.items()
            if watched.since is not None
        ]

    def _look_at(
        self, route: str, measure: Measure, totals: RequestCounts, now_s: float
    ) -> RouteDegraded | RouteRecovered | None:
        watched = self._watched.get((route, measure.what))
        if watched is None:
            watched = self._watched[route, measure.what] = _Watched(RouteHistory(len(totals)), asked_at=now_s)
        watched.history.add(int(now_s // MINUTE_S), totals, apart=watched.since is not None)
        recent = watched.history.recent()
        requests = sum(recent)
        if requests:
            watched.asked_at, watched.value = now_s, measure.value(recent)
        if watched.since is None:
            return _alarm(route, measure, watched, recent, now_s) if requests >= REQUESTS_MIN else None
        return _recovery(route, measure, watched, requests, now_s, watched.since)


def _alarm(
    route: str, measure: Measure, watched: _Watched, recent: RequestCounts, now_s: float
) -> RouteDegraded | None:
    """Begin an alarm, and return its event, if the last minutes are much worse than usual."""
    before = watched.history.usual
    usual = measure.value(before) if sum(before) >= REQUESTS_MIN else None
    compared = measure.usual_default if usual is None else usual
    if compared is None:
        return None
    limit = measure.limit(compared)
    bad, requests = measure.bad(recent, limit), sum(recent)
    if watched.value < limit or bad < BAD_MIN:
        return None
    if usual is None:
        against = DEFAULT_WEIGHT * compared, float(DEFAULT_WEIGHT)
    else:
        against = measure.bad(before, limit), sum(before)
    if evidence(bad, requests, *against) < EVIDENCE:
        return None
    watched.since, watched.usual, watched.well_since = now_s, usual, None
    watched.history.set_recent_apart()
    known = "what is usual is not known yet" if usual is None else f"usual is {measure.number(usual)}"
    words = f"Route {route}: {measure.words(watched.value)}; {known}."
    return RouteDegraded(route, measure.what, watched.value, usual, words)


def _recovery(
    route: str, measure: Measure, watched: _Watched, requests: float, now_s: float, since: float
) -> RouteRecovered | None:
    """End an alarm, and return its event, if the route has done well for a while."""
    lasted_s, why = now_s - since, ""
    usual = watched.usual if watched.usual is not None else measure.usual_default or 0.0
    if requests and watched.value <= max(WELL * usual, measure.value_min / 2):
        if watched.well_since is None:
            watched.well_since = now_s
        if now_s - watched.well_since >= OVER_AFTER_S:
            why = f"as usual again after {_minutes(lasted_s)}: {measure.words(watched.value)}."
    elif requests:
        watched.well_since = None
        if measure.adopts and lasted_s >= ADOPTED_S:
            watched.history.adopt()
            why = f"{measure.words(watched.value)}; it has been so for a day, and is usual from now on."
    if now_s - watched.asked_at >= QUIET_S:
        why = "nobody has asked for an hour, so nothing is known of it any more."
    if not why:
        return None
    watched.since = None
    value = watched.value if requests else None
    return RouteRecovered(route, measure.what, value, watched.usual, lasted_s, f"Route {route}: {why}")


def evidence(bad: float, requests: float, bad_before: float, requests_before: float) -> float:
    """Return how sure it is that two shares differ: the logarithm of the ratio of their likelihoods."""
    both = (bad + bad_before) / (requests + requests_before)
    return requests * _divergence(bad / requests, both) + requests_before * _divergence(
        bad_before / requests_before, both
    )


def _divergence(share: float, other: float) -> float:
    """Return the Kullback-Leibler divergence of two shares; `other` is 0 or 1 only where `share` is."""
    parts = ((share, other), (1 - share, 1 - other))
    return sum(one * math.log(one / two) for one, two in parts if one > 0)


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return "a minute" if minutes == 1 else f"{minutes} minutes"
