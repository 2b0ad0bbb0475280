"""When an incident begins and when it is over: tables of events, with the seconds at which they come."""

import random
from typing import get_args

import pytest
from msgspec.structs import replace

from dub5.service.config.settings import NotifyKind
from dub5.service.events import (
    BreakerChanged,
    Crashed,
    Event,
    JobStepEnded,
    KeyStateChanged,
    RouteDegraded,
    RouteMeasure,
    RouteRecovered,
    SecurityKind,
    SecurityNoted,
    SpendingNoted,
    StepResult,
)
from dub5.service.telemetry.incidents import INCIDENTS_MAX, RULES, Incidents

LOST = BreakerChanged("database", "closed", "open", "no answer")
STILL = BreakerChanged("database", "half_open", "open", "no answer")
BACK = BreakerChanged("database", "half_open", "closed", "it answers")
CRASH = Crashed("r-1", "KeyError at chat.py:1")
OPENS = BreakerChanged("one/m", "closed", "open", "5 failures")
BAD_KEY = SecurityNoted(SecurityKind.BAD_KEY, "192.0.2.1", "/v1/chat/completions")
WORSE = RouteDegraded("chat", RouteMeasure.NOT_WHOLE, 0.3, 0.01, "Route chat: much worse.")
BETTER = RouteRecovered("chat", RouteMeasure.NOT_WHOLE, 0.0, 0.01, 600.0, "Route chat: as usual.")

JOB_FAILED = JobStepEnded("deck", "job-1", 3, StepResult.FAILED, 1.0, 5)
JOB_RETRIED = replace(JOB_FAILED, result=StepResult.RETRY)

SERIES: dict[str, tuple[list[tuple[float, Event]], list[tuple[str, str, float]]]] = {
    "a lost database": (
        [(0, LOST), (30, STILL), (90, BACK)],
        [("database_lost", "began", 0), ("database_lost", "over", 390)],
    ),
    "a database that flaps": (
        [event for at in range(0, 1_200, 100) for event in ((at, LOST), (at + 50, BACK))],
        [("database_lost", "began", 0), ("database_lost", "over", 1_450)],
    ),
    "a database that is back is no news": ([(0, BACK)], []),
    "a degraded route": (
        [(0, WORSE), (700, BETTER)],
        [("degraded", "began", 0), ("degraded", "over", 700)],
    ),
    "crashes at one place": (
        [(at, CRASH) for at in range(0, 600, 20)],
        [("crash", "began", 0), ("crash", "over", 1_480)],
    ),
    "crashes at two places": (
        [(0, CRASH), (10, Crashed("r-2", "ValueError at x.py:2"))],
        [("crash", "began", 0), ("crash", "began", 10), ("crash", "over", 900), ("crash", "over", 910)],
    ),
    "a breaker that opens four times": ([(at, OPENS) for at in range(0, 400, 100)], []),
    "a breaker that opens five times in an hour": ([(at, OPENS) for at in range(0, 3_600, 720)], []),
    "a breaker that flaps": (
        [(at, OPENS) for at in range(0, 500, 100)],
        [("breaker_flaps", "began", 400), ("breaker_flaps", "over", 1_300)],
    ),
    "jobs that fail": (
        [(0, JOB_RETRIED), (10, JOB_FAILED), (20, JOB_FAILED)],
        [("job_failed", "began", 10), ("job_failed", "over", 920)],
    ),
    "a key that is revoked, and replaced": (
        [
            (0, KeyStateChanged("one", "0a1b2c3d", "valid", "refused", "call")),
            (50, KeyStateChanged("one", "ffffffff", "valid", "refused", "check")),
            (100, KeyStateChanged("one", "0a1b2c3d", "refused", "valid", "check")),
            (200, KeyStateChanged("one", "ffffffff", "refused", "valid", "call")),
        ],
        [
            ("key_refused", "began", 0),
            ("key_refused", "began", 50),
            ("key_refused", "over", 400),
            ("key_refused", "over", 500),
        ],
    ),
    "a budget that is near, then reached": (
        [
            (0, SpendingNoted("one", "spending_near", 8.0, 10.0)),
            (100, SpendingNoted("one", "spending_reached", 10.0, 10.0)),
        ],
        [
            ("budget", "began", 0),
            ("budget", "began", 100),
            ("budget", "over", 3_600),
            ("budget", "over", 3_700),
        ],
    ),
    "one wrong key": ([(0, BAD_KEY)], []),
    "many wrong keys": (
        [(at, BAD_KEY) for at in range(12)],
        [("security", "began", 9), ("security", "over", 911)],
    ),
}


def play(incidents: Incidents, series: list[tuple[float, Event]]) -> list[tuple[str, str, float]]:
    """Return what is told, and when; a tick each 10 s."""
    told = []
    events = dict(enumerate(series))
    for now_s in range(4_000):
        due = [number for number, (at, _) in events.items() if at <= now_s]
        notices = [incidents.note(events.pop(number)[1], now_s, 1e9 + now_s) for number in due]
        if now_s % 10 == 0:
            notices += incidents.tick(now_s, 1e9 + now_s)
        told += [(notice.what, notice.state, float(now_s)) for notice in notices if notice is not None]
    return told


@pytest.mark.parametrize("name", SERIES)
def test_series(name: str) -> None:
    """An incident is told once as it begins and once as it is over, within a tick; repeats are folded."""
    series, expected = SERIES[name]
    incidents = Incidents(frozenset(RULES), random.Random(1))
    told = play(incidents, series)
    assert [row[:2] for row in told] == [row[:2] for row in expected]
    assert all(0 <= at - when <= 10 for (*_, at), (*_, when) in zip(told, expected, strict=True))
    assert not incidents._open and not incidents._signs


def test_only_what_is_chosen() -> None:
    """Kinds that the settings do not name are not told."""
    assert play(Incidents(frozenset({"degraded"}), random.Random(1)), SERIES["a lost database"][0]) == []


def test_one_id() -> None:
    """The beginning and the end of an incident have one id and one `since`; the end says how often."""
    incidents = Incidents(frozenset(RULES), random.Random(1))
    began = incidents.note(CRASH, 0.0, 100.0)
    incidents.note(CRASH, 5.0, 105.0)
    (over,) = incidents.tick(1_000.0, 1_100.0)
    assert began is not None and (began.id, began.since) == (over.id, over.since)
    assert over.numbers["times"] == 2 and over.at == 1_100.0


def test_bounded() -> None:
    """No number of different incidents makes it grow beyond its bound."""
    incidents = Incidents(frozenset(RULES), random.Random(1))
    for number in range(3 * INCIDENTS_MAX):
        incidents.note(Crashed("r", f"KeyError at x.py:{number}"), 0.0, 0.0)
    assert len(incidents._open) == INCIDENTS_MAX
    for number in range(3 * INCIDENTS_MAX):
        incidents.note(BreakerChanged(f"t/{number}", "closed", "open", "x"), 0.0, 0.0)
    assert len(incidents._signs) <= INCIDENTS_MAX


def test_every_kind_has_a_rule() -> None:
    """What the settings may name has a rule."""
    assert set(RULES) == set(get_args(NotifyKind))
