"""Incidents: what an operator is told of, once as it begins and once as it is over. Pure.

    event --SIGNALS--> Signal(kind, name, on or off) --> Incident --> Notice "began"
    tick  -->  over since `settles_s` without another signal -----> Notice "over"

Signals of an incident that is not over are counted and told with its end, so a flapping part sends two
messages, not two hundred. To tell of another event: its kind in `NotifyKind`, its rule in `RULES` and its row
in `SIGNALS`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from msgspec import Struct

from dub5.service.config.settings import NotifyKind
from dub5.service.events import (
    BreakerChanged,
    Crashed,
    Event,
    JobStepEnded,
    KeyStateChanged,
    MigrationEnded,
    RouteDegraded,
    RouteRecovered,
    SecurityNoted,
    SpendingNoted,
    StepResult,
    WritesForgotten,
)
from dub5.service.store.base import SCOPE as DATABASE

INCIDENTS_MAX = 200  # open at one time; more are not told
IncidentKey = tuple[NotifyKind, str]
Number = int | float | str | None


class IncidentRule(Struct, frozen=True):
    """When an incident of a kind begins, and when it is over.

    It begins with `times` signals within `within_s`. `ends`: a signal says that it is over; else it is over
    after `settles_s` without another one. An end that another beginning follows within `settles_s` is none.
    """

    settles_s: float
    ends: bool = False
    times: int = 1
    within_s: float = 600.0


RULES: Mapping[NotifyKind, IncidentRule] = {
    "degraded": IncidentRule(0.0, ends=True),  # has settled already
    "database_lost": IncidentRule(300.0, ends=True),
    "breaker_flaps": IncidentRule(900.0, times=5),
    "crash": IncidentRule(900.0),
    "writes_forgotten": IncidentRule(900.0),
    "migration_failed": IncidentRule(300.0, ends=True),
    "job_failed": IncidentRule(900.0),
    "key_refused": IncidentRule(300.0, ends=True),
    "budget": IncidentRule(3_600.0),
    "security": IncidentRule(900.0, times=10, within_s=60.0),
}


class Signal(Struct, frozen=True):
    """One sign of an incident, or of its end. `name`: what tells it from others of its kind."""

    kind: NotifyKind
    name: str
    words: str
    numbers: Mapping[str, Number] = {}
    on: bool = True


class IncidentNotice(Struct, frozen=True):
    """What is told: that an incident began, or that it is over. `since`, `at`: epoch seconds."""

    id: str
    what: str
    state: str  # "began", "over" or "test"
    since: float
    at: float
    words: str
    numbers: Mapping[str, Number]


@dataclass(slots=True)
class Incident:
    """One incident that is not over. Times are loop seconds but `since`, which is epoch seconds."""

    id: str
    since: float
    times: int
    last_s: float
    last: Signal
    ended_s: float | None = None


def _breaker(event: BreakerChanged) -> Signal | None:
    if event.scope == DATABASE:
        if event.after == "half_open" or event.before == event.after:
            return None
        on = event.after != "closed"
        words = f"The database is lost: {event.why}." if on else "The database is back."
        return Signal("database_lost", DATABASE, words, on=on)
    if event.after != "open":
        return None
    words = f"The circuit breaker of {event.scope} opens again and again: {event.why}."
    return Signal("breaker_flaps", event.scope, words, {"scope": event.scope})


def _degraded(event: RouteDegraded) -> Signal:
    numbers: dict[str, Number] = {"route": event.route, "measure": event.what.value}
    numbers |= {"value": event.value, "usual": event.usual}
    return Signal("degraded", f"{event.route} {event.what}", event.words, numbers)


def _recovered(event: RouteRecovered) -> Signal:
    numbers: dict[str, Number] = {"route": event.route, "measure": event.what.value}
    numbers |= {"value": event.value, "usual": event.usual, "lasted_s": round(event.lasted_s)}
    return Signal("degraded", f"{event.route} {event.what}", event.words, numbers, on=False)


def _crash(event: Crashed) -> Signal:
    words = f"A defect of the service was caught: {event.where}."
    return Signal("crash", event.where, words, {"where": event.where, "request": event.request_id})


def _forgotten(event: WritesForgotten) -> Signal:
    words = f"{event.count} writes of conversations are not in the database: {event.why}."
    return Signal("writes_forgotten", "", words, {"count": event.count})


def _migration(event: MigrationEnded) -> Signal:
    if event.ok:
        return Signal("migration_failed", "", "The migrations of the database are applied.", on=False)
    words = f"A migration of the database failed: {event.name}."
    return Signal("migration_failed", "", words, {"migration": event.name})


def _job(event: JobStepEnded) -> Signal | None:
    """Return the signal of a job that has failed; one that its owner has stopped has not."""
    if event.result is not StepResult.FAILED:
        return None
    words = f"A job of the kind {event.kind} has failed, at step {event.step} after {event.tries} tries."
    return Signal("job_failed", event.kind, words, {"kind": event.kind, "job": event.job})


def _key(event: KeyStateChanged) -> Signal | None:
    key = f"The key {event.key} of provider {event.provider}"
    numbers: dict[str, Number] = {"provider": event.provider, "key": event.key}
    name = f"{event.provider} {event.key}"
    if event.after == "refused":
        words = f"{key} is refused: the provider's other keys, or other providers, answer meanwhile."
        return Signal("key_refused", name, words, numbers)
    over = "is taken again" if event.after == "valid" else "is not in the settings any more"
    return Signal("key_refused", name, f"{key} {over}.", numbers, on=False)


def _spending(event: SpendingNoted) -> Signal:
    spent = f"${event.spent_usd:.2f} of ${event.max_usd:.2f} a day"
    if event.what == "spending_reached":
        words = (
            f"Provider {event.provider} has reached its budget, {spent}: it is not asked until midnight UTC."
        )
    else:
        words = f"Provider {event.provider} is near its budget: {spent}."
    numbers: dict[str, Number] = {
        "provider": event.provider,
        "spent_usd": event.spent_usd,
        "max_usd": event.max_usd,
    }
    return Signal("budget", f"{event.provider} {event.what}", words, numbers)


def _security(event: SecurityNoted) -> Signal:
    words = f"Many security events of the kind {event.what}; the log has the addresses."
    return Signal("security", event.what, words, {"kind": event.what.value})


SIGNALS: Mapping[type, Callable[[Any], Signal | None]] = {
    BreakerChanged: _breaker,
    Crashed: _crash,
    JobStepEnded: _job,
    KeyStateChanged: _key,
    MigrationEnded: _migration,
    RouteDegraded: _degraded,
    RouteRecovered: _recovered,
    SecurityNoted: _security,
    SpendingNoted: _spending,
    WritesForgotten: _forgotten,
}


@dataclass(slots=True)
class Incidents:
    """The incidents of the chosen kinds. `rng` makes their ids."""

    kinds: frozenset[NotifyKind]
    rng: Random
    _open: dict[IncidentKey, Incident] = field(default_factory=dict)
    _signs: dict[IncidentKey, deque[float]] = field(default_factory=dict)  # before one begins

    def note(self, event: Event, now_s: float, at: float) -> IncidentNotice | None:
        """Return what an event gives to tell at once. `now_s`: loop seconds; `at`: epoch seconds."""
        read = SIGNALS.get(type(event))
        signal = None if read is None else read(event)
        if signal is None or signal.kind not in self.kinds:
            return None
        key: IncidentKey = signal.kind, signal.name
        incident = self._open.get(key)
        if incident is None:
            return self._begin(key, signal, now_s, at) if signal.on else None
        if signal.on:
            incident.times, incident.last_s, incident.ended_s = incident.times + 1, now_s, None
        elif incident.ended_s is None:
            incident.ended_s = now_s
        incident.last = signal
        return self._end_if_over(key, incident, now_s, at)

    def tick(self, now_s: float, at: float) -> list[IncidentNotice]:
        """Return the ends of the incidents that are over by now."""
        ends = [self._end_if_over(key, incident, now_s, at) for key, incident in list(self._open.items())]
        for key, times in list(self._signs.items()):
            if now_s - times[-1] > RULES[key[0]].within_s:
                del self._signs[key]
        return [notice for notice in ends if notice is not None]

    def _begin(self, key: IncidentKey, signal: Signal, now_s: float, at: float) -> IncidentNotice | None:
        rule = RULES[signal.kind]
        if len(self._open) >= INCIDENTS_MAX or (key not in self._signs and len(self._signs) >= INCIDENTS_MAX):
            return None
        signs = self._signs.setdefault(key, deque(maxlen=rule.times))
        signs.append(now_s)
        if len(signs) < rule.times or now_s - signs[0] > rule.within_s:
            return None
        del self._signs[key]
        incident = Incident(f"{self.rng.getrandbits(64):016x}", at, len(signs), now_s, signal)
        self._open[key] = incident
        return IncidentNotice(incident.id, signal.kind, "began", at, at, signal.words, signal.numbers)

    def _end_if_over(
        self, key: IncidentKey, incident: Incident, now_s: float, at: float
    ) -> IncidentNotice | None:
        rule, signal = RULES[key[0]], incident.last
        quiet_since_s = incident.ended_s if rule.ends else incident.last_s
        if quiet_since_s is None or now_s - quiet_since_s < rule.settles_s:
            return None
        del self._open[key]
        words = signal.words if rule.ends else f"It has not come again for {rule.settles_s / 60:g} minutes."
        numbers = {**signal.numbers, "times": incident.times}
        return IncidentNotice(incident.id, signal.kind, "over", incident.since, at, words, numbers)
