"""Metrics of requests that are counted many at a time: as if each had been counted when it came."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.events import AttemptEnded, RequestEnded
from dub5.service.model import AttemptRecord, Outcome, Target, Usage
from dub5.service.telemetry import names
from dub5.service.telemetry.event_tables import KnownNames, Labels
from dub5.service.telemetry.histogram import Histogram
from dub5.service.telemetry.names import Metric
from dub5.service.telemetry.request_metrics import WAITING_MAX, RequestMetrics

BOUNDS = names.LONG_S
DURATIONS_S = st.floats(0, 2 * BOUNDS[-1]) | st.sampled_from(BOUNDS)
REASONS = ("ok", "ok", "http_530", "http_418", "cancelled", "breaker_open")


class CountedRequests:
    """Request metrics with all that they count."""

    def __init__(self) -> None:
        self.counters: dict[str, defaultdict[Labels, float]] = {}
        self.histograms: dict[str, Histogram] = {}
        known = KnownNames()
        known.add(["chat"], [Target("one", "fast"), Target("two", "slow")], [])
        self.metrics = RequestMetrics(known, self._counter, self._histogram)

    def _counter(self, metric: Metric) -> defaultdict[Labels, float]:
        return self.counters.setdefault(metric.name, defaultdict(int))

    def _histogram(self, metric: Metric) -> Histogram:
        return self.histograms.setdefault(metric.name, Histogram(metric))

    def note(self, event: AttemptEnded | RequestEnded) -> None:
        """Note one event."""
        if isinstance(event, AttemptEnded):
            self.metrics.note_attempt(event)
        else:
            self.metrics.note_request(event)

    def read(self) -> dict[str, float]:
        """Return each value that a scrape reads, by name and labels."""
        self.metrics.count_waiting()
        counted = {f"{name} {key}": n for name, rows in self.counters.items() for key, n in rows.items()}
        counted |= {f"tokens {key}": count for key, count in self.metrics.read_tokens()}
        counted |= {f"cost {key}": usd for key, usd in self.metrics.read_costs()}
        for name, histogram in self.histograms.items():
            for labels, row in histogram._rows.items():
                counted |= {f"{name} {labels} {i}": value for i, value in enumerate(row)}
        return counted


def drawn_attempt(rng: Random) -> AttemptRecord:
    """Return any attempt."""
    began_s = rng.random()
    return AttemptRecord(
        rng.choice(["one/fast", "two/slow", "gone/x"]),
        began_s,
        began_s + 30 * rng.random(),
        rng.choice(REASONS),
        first_token_s=rng.choice([None, began_s + rng.random()]),
        kind=rng.choice(["first", "retry", "odd"]),
        usage=drawn_usage(rng),
        cost_usd=rng.choice([None, rng.random()]),
        tried=rng.random() < 0.9,
    )


def drawn_usage(rng: Random) -> Usage | None:
    """Return any usage, or none."""
    return rng.choice([None, Usage(rng.randrange(3_000), rng.randrange(50), 0, rng.random() < 0.2)])


def drawn_event(rng: Random, request_ended: Callable[..., RequestEnded]) -> AttemptEnded | RequestEnded:
    """Return any event of a request."""
    operation = rng.choice(["chat", "embeddings"])
    if rng.random() < 0.5:
        return AttemptEnded("r-1", "chat", "one", drawn_attempt(rng), "target", operation)
    return request_ended(
        route=rng.choice(["chat", "unknown"]),
        outcome=rng.choice(list(Outcome)),
        code=rng.choice([None, "overloaded", "odd"]),
        target=rng.choice([None, "one/fast", "gone/x"]),
        stream=rng.random() < 0.5,
        cached=rng.random() < 0.2,
        shared=rng.random() < 0.2,
        degraded=rng.choice([None, "stale"]),
        first_token_s=rng.choice([None, rng.random()]),
        total_s=1 + rng.random(),
        usage=drawn_usage(rng),
        attempts=tuple(drawn_attempt(rng) for _ in range(rng.randrange(4))),
        operation=operation,
    )


@pytest.mark.parametrize("seed", range(20))
def test_many_at_a_time(seed: int, request_ended: Callable[..., RequestEnded]) -> None:
    """Whether metrics are read after each event or at the end, they say the same."""
    rng = Random(seed)
    each, together = CountedRequests(), CountedRequests()
    for _ in range(3 * WAITING_MAX):
        event = drawn_event(rng, request_ended)
        each.note(event)
        each.metrics.count_waiting()
        together.note(event)
    assert together.read() == pytest.approx(each.read())


def test_bounded(request_ended: Callable[..., RequestEnded]) -> None:
    """Events that nobody reads are counted when enough of them wait, whatever their kinds."""
    counted = CountedRequests()
    for number in range(5 * WAITING_MAX):
        counted.note(request_ended(route=f"route-{number}"))
        waiting = counted.metrics._waiting_requests
        assert len(waiting) == counted.metrics._waiting < WAITING_MAX
    assert sum(counted.counters[names.REQUESTS.name].values()) == 5 * WAITING_MAX


@given(st.lists(DURATIONS_S, max_size=30))
def test_all_values_of_a_histogram(values: Sequence[float]) -> None:
    """Values that are recorded together lie in the buckets of each alone; a bound is in its own bucket."""
    together, each = Histogram(names.DURATION), Histogram(names.DURATION)
    together.record_all(list(values), ("chat", "complete"))
    for value in values:
        each.record(value, ("chat", "complete"))
    assert together._rows.keys() == each._rows.keys()
    for labels in each._rows:
        assert together._rows[labels] == pytest.approx(each._rows[labels])
