"""When a route is told to be degraded, and when no more: series of minutes, played in virtual time."""

import random
from collections.abc import Callable, Iterable
from itertools import accumulate, chain, repeat

import pytest

from dub5.service.events import RouteDegraded, RouteMeasure, RouteRecovered
from dub5.service.telemetry.degradation import (
    RECENT,
    USUAL,
    Degradation,
    FirstTokenMeasure,
    RouteHistory,
    RouteTotals,
)
from dub5.service.telemetry.names import FIRST_S

LOOKS = 4  # a minute
Minute = tuple[float, float, float]  # requests, the share of them not whole, seconds to the first token
HOUR, DAY = 60, 1_440


def minutes(count: int, requests: float, share: float, first_s: float = 0.5) -> list[Minute]:
    return [(requests, share, first_s)] * count


def ramp(count: int, requests: float, low: float, high: float) -> list[Minute]:
    """A share that grows from minute to minute."""
    return [(requests, low + (high - low) * minute / count, 0.5) for minute in range(count)]


def by_chance(count: int, requests: int, share: float, seed: int = 5) -> list[Minute]:
    """As a fair coin falls, with traffic that changes over the day."""
    rng = random.Random(seed)
    return [
        (asked, sum(rng.random() < share for _ in range(asked)) / asked, 0.5)
        for asked in (rng.randint(requests // 3, requests) for _ in range(count))
    ]


def play(series: Iterable[Minute]) -> list[tuple[int, RouteDegraded | RouteRecovered]]:
    """Return what is told, each with its minute."""
    degradation, told = Degradation(FIRST_S), []
    whole = not_whole = 0.0
    first = [0.0] * (len(FIRST_S) + 1)
    for minute, (requests, share, first_s) in enumerate(series):
        for look in range(LOOKS):
            asked = requests / LOOKS
            whole, not_whole = whole + asked * (1 - share), not_whole + asked * share
            bucket = next((n for n, bound in enumerate(FIRST_S) if first_s <= bound), len(FIRST_S))
            first[bucket] += asked * (1 - share)
            at_s = 60.0 * minute + 15.0 * look
            totals = {"chat": RouteTotals(whole, not_whole, tuple(first))}
            told += [(minute, change) for change in degradation.look(at_s, totals)]
    return told


Expected = list[tuple[str, range]]  # "+" or "-", with the first letter of the measure, and when
Series = Callable[[], Iterable[Minute]]


def well(count: int = 2 * HOUR, requests: float = 100) -> list[Minute]:
    return minutes(count, requests, 0.004)


SERIES: dict[str, tuple[Series, Expected]] = {
    "well all day": (lambda: well(DAY), []),
    "a step to a third": (
        lambda: [*well(), *minutes(30, 100, 0.31), *well(60)],
        [("+n", range(120, 123)), ("-n", range(156, 163))],
    ),
    "a whole outage": (
        lambda: [*well(), *minutes(20, 100, 1.0), *well(60)],
        [("+n", range(120, 122)), ("-n", range(148, 153))],
    ),
    "an outage that never ends": (lambda: [*well(), *minutes(DAY, 100, 1.0)], [("+n", range(120, 122))]),
    "one minute in which all fails": (
        lambda: [*well(), *minutes(1, 100, 1.0), *well(60)],
        [("+n", range(120, 122)), ("-n", range(128, 134))],
    ),
    "one spike of three requests": (lambda: [*well(), (100, 0.03, 0.5), *well(60)], []),
    "from 0.1 % to 0.4 %": (lambda: [*minutes(120, 100, 0.001), *minutes(120, 100, 0.004)], []),
    "twice as bad": (lambda: [*minutes(120, 200, 0.04), *minutes(120, 200, 0.08)], []),
    "four times as bad": (
        lambda: [*minutes(120, 200, 0.03), *minutes(60, 200, 0.12)],
        [("+n", range(120, 126))],
    ),
    "few requests, all fail": (lambda: [*well(120, 2), *minutes(30, 2, 1.0)], []),
    "five requests a minute, half fail": (
        lambda: [*well(120, 5), *minutes(30, 5, 0.5)],
        [("+n", range(121, 126))],
    ),
    "a slow ramp to a third": (lambda: [*well(), *ramp(120, 100, 0.004, 0.3)], [("+n", range(135, 175))]),
    "a day with its traffic": (
        lambda: [(20 + 180 * (minute % DAY) / DAY, 0.01, 0.5) for minute in range(2 * DAY)],
        [],
    ),
    "chance, at 3 %": (lambda: by_chance(2 * DAY, 60, 0.03), []),
    "chance, at 2 % of few": (lambda: by_chance(4 * DAY, 20, 0.02), []),
    "chance, at 25 % from the start": (lambda: by_chance(2 * DAY, 60, 0.25), [("+n", range(6))]),
    "a night without requests": (lambda: [*well(), *minutes(600, 0, 0.0), *well()], []),
    "degraded, then a night without requests": (
        lambda: [*well(), *minutes(10, 100, 0.5), *minutes(600, 0, 0.0), *well()],
        [("+n", range(120, 122)), ("-n", range(189, 196))],
    ),
    "flapping every other five minutes": (
        lambda: [*well(), *chain.from_iterable(repeat([*minutes(5, 100, 0.6), *well(5)], 12)), *well(60)],
        [("+n", range(120, 122)), ("-n", range(240, 252))],
    ),
    "two outages of ten minutes, an hour apart": (
        lambda: [*well(), *minutes(10, 100, 1.0), *well(40), *minutes(10, 100, 0.2), *well(40)],
        [("+n", range(120, 122)), ("-n", range(138, 143)), ("+n", range(170, 173)), ("-n", range(188, 193))],
    ),
    "too few to tell of half that fail, then many that all fail": (
        lambda: [*minutes(120, 2, 0.5), *minutes(30, 100, 0.95)],
        [("+n", range(120, 126))],
    ),
    "new, and failing from the start": (lambda: minutes(60, 30, 0.2), [("+n", range(3))]),
    "new, and slow from the start": (lambda: minutes(60, 30, 0.0, 9.0), []),
    "the first token takes six times as long": (
        lambda: [*minutes(120, 100, 0.0, 1.0), *minutes(30, 100, 0.0, 6.0), *minutes(40, 100, 0.0, 1.0)],
        [("+f", range(120, 123)), ("-f", range(156, 163))],
    ),
    "slower, and nobody would notice": (
        lambda: [*minutes(120, 100, 0.0, 0.1), *minutes(60, 100, 0.0, 1.0)],
        [],
    ),
    "usual after a day, then slower still": (
        lambda: [
            *minutes(120, 100, 0.0, 1.0),
            *minutes(DAY + 2, 100, 0.0, 4.0),
            *minutes(20, 100, 0.0, 30.0),
        ],
        [("+f", range(120, 123)), ("-f", range(120 + DAY, 123 + DAY)), ("+f", range(122 + DAY, 127 + DAY))],
    ),
    "slower for good: usual after a day": (
        lambda: [*minutes(120, 100, 0.0, 1.0), *minutes(DAY + HOUR, 100, 0.0, 6.0)],
        [("+f", range(120, 123)), ("-f", range(120 + DAY, 123 + DAY))],
    ),
}


@pytest.mark.parametrize("name", SERIES)
def test_series(name: str) -> None:
    """Each series is told of when it should be, to the minute, and of nothing else."""
    series, expected = SERIES[name]
    told = play(series())
    signs = [("+" if isinstance(e, RouteDegraded) else "-") + e.what.value[0] for _, e in told]
    assert signs == [sign for sign, _ in expected], [(at, e.words) for at, e in told]
    late = [(at, e.words) for (at, e), (_, when) in zip(told, expected, strict=True) if at not in when]
    assert not late


def test_words() -> None:
    """What is told can be read by somebody who knows nothing of this page."""
    told = [event.words for _, event in play([*well(), *minutes(30, 100, 0.31), *well(60)])]
    assert told[0].startswith("Route chat: ")
    assert "% of requests were not answered whole in the last 5 minutes; usual is 0.4 %." in told[0]
    assert "as usual again after" in told[1]
    new = [event.words for _, event in play(minutes(60, 30, 0.2))]
    assert new[0].endswith("20 % of requests were not answered whole in the last 5 minutes;"
                           " what is usual is not known yet.")  # fmt: skip


def test_values() -> None:
    """The event holds the numbers of the words."""
    ((_, begun),) = play([*minutes(120, 100, 0.0, 1.0), *minutes(20, 100, 0.0, 6.0)])
    assert isinstance(begun, RouteDegraded) and begun.what is RouteMeasure.FIRST_TOKEN
    assert begun.usual is not None and 0.7 < begun.usual <= 1.0 < 3 * begun.usual < begun.value


def test_sums_agree() -> None:
    """The running sum of the hour before is that of its minutes, and their number stays bounded."""
    history, rng = RouteHistory(2), random.Random(1)
    per_minute = [(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(300)]
    ones = list(accumulate(one for one, _ in per_minute))
    twos = list(accumulate(two for _, two in per_minute))
    for minute in range(300):
        history.add(minute, (ones[minute], twos[minute]), apart=False)
        recent = per_minute[max(0, minute - RECENT + 1) : minute + 1]
        before = per_minute[max(0, minute - RECENT - USUAL + 1) : max(0, minute - RECENT + 1)]
        assert history.recent() == [sum(column) for column in zip(*recent, strict=True)]
        assert history.usual == [sum(pair[place] for pair in before) for place in (0, 1)]
    assert len(history._minutes) == RECENT + USUAL


def test_degraded_minutes_are_not_usual() -> None:
    """Minutes that were set apart, and those of a degraded route, become usual only when they are adopted."""
    history = RouteHistory(2)
    for minute in range(30):
        history.add(minute, (0, minute + 1), apart=minute >= 5)
        if minute == 4:
            history.set_recent_apart()
        assert history.usual == [0, 0]
    history.adopt()
    assert history.usual == [0, 30 - RECENT]


def test_p95_lies_in_its_bucket() -> None:
    """The p95 is between the bounds of the bucket that the value of rank 95 % is in."""
    measure, rng = FirstTokenMeasure(FIRST_S), random.Random(2)
    for _ in range(200):
        values = sorted(rng.uniform(0.0, 60.0) for _ in range(rng.randint(1, 300)))
        counts = [0.0] * (len(FIRST_S) + 1)
        for value in values:
            counts[next((n for n, bound in enumerate(FIRST_S) if value <= bound), len(FIRST_S))] += 1
        true = values[max(0, -(-95 * len(values) // 100) - 1)]
        edges = (0.0, *FIRST_S, 80.0)
        low, high = max(e for e in edges if e < true), min(e for e in edges if e >= true)
        assert low <= measure.value(counts) <= high
