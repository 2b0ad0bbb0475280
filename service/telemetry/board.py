"""The status board: counters since the start, recent requests and incidents, read by /status and the page."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from msgspec import to_builtins

from dub5.service import clock
from dub5.service.errors import FeatureUnavailable, Overloaded
from dub5.service.events import (
    AttemptEnded,
    BreakerChanged,
    CacheLooked,
    Crashed,
    DrainBegan,
    EventHandlers,
    HealthChanged,
    KeyStateChanged,
    LimitLowered,
    RequestEnded,
    RouteDegraded,
    RouteRecovered,
    SecurityKind,
    SecurityNoted,
    SettingsReloaded,
    SpendingNoted,
    WritesForgotten,
    methods_of,
)
from dub5.service.model import Outcome
from dub5.service.telemetry.attempt_views import (
    OK,
    STOPPED,
    attempt_rows_with_cost,
    cost_usd,
    failed_over,
    ms,
)
from dub5.service.telemetry.costs import CostCounters
from dub5.service.telemetry.event_tables import HAPPENED, Labels
from dub5.service.telemetry.mistakes import MISTAKES, mistake_reason

FEW_CALLS = 10  # fewer calls than this say little
FAILS_MIN = 3  # so many failures in a row, and no answer between, are no chance
FRESH_S = 60.0  # older failures say nothing about now
SHED_ONLY_S = 30.0  # a burst sheds some requests; a route that sheds all of them for this long is failing
RECENT_MAX = 50
INCIDENTS_MAX = 100
TEXT_CHARS_MAX = 200
REPEAT_INCIDENT_EVERY_S = 60.0  # one overload may lower a limit many times; an attack is many requests

COUNTERS = (  # of `happened`: each begins at zero
    "breaker_opened",
    "breaker_half_opened",
    "breaker_closed",
    "breaker_isolated",
    "probe_succeeded",
    "health_degraded",
    "health_restored",
    "limit_lowered",
    "key_refused",
    "key_restored",
    "spending_near",
    "spending_reached",
    "budget_spent",
    "queued",
    "shed_full",
    "shed_overloaded",
    "shed_expired",
    "rate_limited",
    "rate_limit_local",
    "retried",
    "hedged",
    "failed_over",
    "stream_cut",
    "degraded_stale",
    "degraded_template",
    "degraded_words",
    "feature_unavailable",
    "shared",
    "handed_over",
    "renewed",
    "cache_hit",
    "cache_stale",
    "cache_error",
    "cache_invalidated",
    "settings_reloaded",
    "settings_refused",
    "migrated",
    "migration_failed",
    "writes_forgotten",
    "feedback",
    "feedback_down",
    "route_degraded",
    "route_recovered",
    "notification_sent",
    "notification_failed",
    "notification_dropped",
    "drained",
    "crashed",
    *SecurityKind,
)
# Outcomes that tell whether providers answer. A caller's own fault and a caller that left do not.
COMPLETE = Outcome.COMPLETE
ANSWERED_OR_NOT = (Outcome.COMPLETE, Outcome.DEGRADED, Outcome.FAILED, Outcome.CUT)
BREAKER_HAPPENED = {
    "open": "breaker_opened",
    "half_open": "breaker_half_opened",
    "closed": "breaker_closed",
    "isolated": "breaker_isolated",
}


@dataclass(slots=True)
class TargetCounters:
    """The counters of one target. `last_reason` is the reason of its last attempt that was not cancelled."""

    answered: int = 0
    failed: int = 0
    last_reason: str | None = None
    mistake_reason: str | None = None  # of the same attempt, as mistakes.py names it
    first_token_s: float | None = None  # of its last answer, since the attempt began
    failed_in_a_row: int = 0
    costs: CostCounters = field(default_factory=CostCounters)

    @property
    def mistake(self) -> str | None:
        """What is probably wrong in the settings, if the target has not answered yet, or not any more."""
        if self.failed_in_a_row >= (FAILS_MIN if self.answered else 1):
            return MISTAKES.get(self.mistake_reason or "")
        return None

    def snapshot(self) -> dict[str, Any]:
        """Return the counters in /status format."""
        return {
            "answered": self.answered,
            "failed": self.failed,
            "failed_in_a_row": self.failed_in_a_row,
            "few_calls": self.answered + self.failed < FEW_CALLS,
            "last_reason": self.last_reason,
            "mistake": self.mistake,
            "first_token_ms": ms(self.first_token_s),
            "spent": self.costs.snapshot(),
        }


@dataclass(slots=True)
class RouteCounters:
    """How the requests of one route ended that providers had to answer."""

    answered: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    last_failed_s: float = 0.0  # loop seconds
    shed_in_a_row: int = 0  # since the last answer
    first_shed_s: float = 0.0  # loop seconds of the first and the last of them
    last_shed_s: float = 0.0

    def note(self, answered: bool) -> None:
        """Count one request."""
        if answered:
            self.answered, self.failed_in_a_row, self.shed_in_a_row = self.answered + 1, 0, 0
        else:
            self.last_failed_s = clock.now()
            self.failed, self.failed_in_a_row = self.failed + 1, self.failed_in_a_row + 1

    def note_shed(self) -> None:
        """Count one request that was refused because the route had no room."""
        now_s = clock.now()
        if now_s - self.last_shed_s >= FRESH_S:
            self.shed_in_a_row = 0
        if not self.shed_in_a_row:
            self.first_shed_s = now_s
        self.shed_in_a_row, self.last_shed_s = self.shed_in_a_row + 1, now_s

    @property
    def failing(self) -> bool:
        """Whether the last answers, of the last `FRESH_S`, all failed; or all requests were shed."""
        now_s = clock.now()
        if self.failed_in_a_row >= FAILS_MIN and now_s - self.last_failed_s < FRESH_S:
            return True
        only_shed = self.last_shed_s - self.first_shed_s >= SHED_ONLY_S
        return self.shed_in_a_row >= FAILS_MIN and only_shed and now_s - self.last_shed_s < FRESH_S

    def snapshot(self) -> dict[str, Any]:
        """Return the counters as /health?deep=true has them."""
        few = self.answered + self.failed < FEW_CALLS
        return {
            "answered": self.answered,
            "failed": self.failed,
            "failed_in_a_row": self.failed_in_a_row,
            "shed_in_a_row": self.shed_in_a_row,
            "few_calls": few,
        }


class StatusBoard:
    """A subscriber of all events. Subscribe `note`; read `snapshot()`."""

    def __init__(self) -> None:
        self.started_at = 0.0  # epoch seconds; set when the service opens
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.happened = Counter(dict.fromkeys(COUNTERS, 0))
        self.targets: dict[str, TargetCounters] = {}
        self.routes: dict[str, RouteCounters] = {}
        self.process = RouteCounters()  # requests that were shed before their route was known
        self._complete_at_shed = 0
        self.cache_fails = False
        self.reloaded: dict[str, Any] | None = None  # the last reload of the settings
        self._recent: deque[tuple[float, RequestEnded]] = deque(maxlen=RECENT_MAX)
        self._incidents: deque[dict[str, Any]] = deque(maxlen=INCIDENTS_MAX)
        self._failed_probes: dict[str, dict[str, Any]] = {}  # the incident of each scope that still fails
        self._incident_s: dict[tuple[str, str], float] = {}  # loop seconds, of kinds that repeat
        self.note = EventHandlers(
            {kind: self._counter(names_of) for kind, names_of in HAPPENED.items()}
            | methods_of(self, self.METHODS)
        )

    @property
    def process_failing(self) -> bool:
        """Whether this process has shed all requests for a while: as many are open as it accepts."""
        return self.process.failing and self._complete_at_shed == self.outcomes[Outcome.COMPLETE]

    def _counter(self, names_of: Callable[[Any], Labels]) -> Callable[[Any], None]:
        """Return what counts an event under its names."""

        def add_one(event: Any) -> None:
            for what in names_of(event):
                self.happened[what] += 1

        return add_one

    def _cache(self, event: CacheLooked) -> None:
        self.cache_fails = event.result == "error"
        if event.result != "miss":
            self.happened[f"cache_{event.result}"] += 1

    def _drain(self, event: DrainBegan) -> None:
        why = f"shutdown began with {event.in_flight} requests in flight"
        self._count_incident("drained", None, why)

    def _crash(self, event: Crashed) -> None:
        self._count_incident("crashed", None, event.where)

    def _forgotten(self, event: WritesForgotten) -> None:
        self.happened["writes_forgotten"] += event.count
        if self._is_due("writes_forgotten", ""):
            self._add_incident("writes_forgotten", None, f"{event.count} writes: {event.why}")

    def _attempt(self, event: AttemptEnded) -> None:
        attempt = event.attempt
        counters = self.targets.get(attempt.target)
        if counters is None:
            counters = self.targets[attempt.target] = TargetCounters()
        reason = attempt.reason
        if reason == OK:
            counters.answered += 1
            counters.failed_in_a_row = 0
            counters.last_reason, counters.mistake_reason = reason, None
        elif reason not in STOPPED:
            if attempt.tried:
                counters.failed += 1
                counters.failed_in_a_row += 1
            counters.last_reason, counters.mistake_reason = reason, mistake_reason(event)
        if attempt.kind == "retry":
            self.happened["retried"] += 1
        if attempt.usage is not None:
            counters.costs.note(attempt)
        if attempt.first_token_s is not None:
            counters.first_token_s = attempt.first_token_s - attempt.started_s

    def _shed(self, route: str) -> None:
        """Count a request that was refused for lack of room, at its route or before that was known."""
        if route:
            self._route(route).note_shed()
            return
        complete = self.outcomes[Outcome.COMPLETE]
        if complete != self._complete_at_shed:
            self.process.shed_in_a_row, self._complete_at_shed = 0, complete
        self.process.note_shed()

    def _request(self, event: RequestEnded) -> None:
        outcome, attempts = event.outcome, event.attempts
        self.outcomes[outcome] += 1
        if outcome is not COMPLETE:
            self._not_whole(event)
        elif attempts:
            self._route(event.route).note(True)
        if len(attempts) > 1 and failed_over(event):
            self.happened["failed_over"] += 1
        self._recent.append((clock.wall(), event))

    def _not_whole(self, event: RequestEnded) -> None:
        if event.attempts and event.outcome in ANSWERED_OR_NOT:
            self._route(event.route).note(False)
        elif event.code == Overloaded.code:
            self._shed(event.route)
        if event.outcome is Outcome.DEGRADED:
            self.happened[f"degraded_{event.degraded}"] += 1
        if event.code == FeatureUnavailable.code:
            self.happened["feature_unavailable"] += 1
        if event.outcome is Outcome.CUT:
            self.happened["stream_cut"] += 1

    def _route(self, name: str) -> RouteCounters:
        route = self.routes.get(name)
        if route is None:
            route = self.routes[name] = RouteCounters()
        return route

    def _breaker(self, event: BreakerChanged) -> None:
        if (event.before, event.after) == ("half_open", "closed"):
            self.happened["probe_succeeded"] += 1
        what = BREAKER_HAPPENED[event.after]
        self.happened[what] += 1
        if event.after == "half_open":
            return  # a probe: what comes of it is the incident
        if (event.before, event.after) == ("half_open", "open"):
            self._add_failed_probe(what, event)
        else:
            self._failed_probes.pop(event.scope, None)
            self._add_incident(what, event.scope, event.why)

    def _add_failed_probe(self, what: str, event: BreakerChanged) -> None:
        """Add an incident for the first failed probe; later ones are folded into it, and it is the newest."""
        known = self._failed_probes.get(event.scope)
        if known is not None and known in self._incidents:
            self._incidents.remove(known)
        times = known["times"] + 1 if known is not None else 1
        why = event.why if times == 1 else f"{event.why} ({times} times)"
        self._add_incident(what, event.scope, why)
        self._failed_probes[event.scope] = self._incidents[-1]
        self._incidents[-1]["times"] = times

    def _health(self, event: HealthChanged) -> None:
        """Count the change; its cause is an incident of its own."""
        if event.after == "healthy":
            self.happened["health_restored"] += 1
        elif (event.before, event.after) == ("healthy", "degraded"):
            self.happened["health_degraded"] += 1

    def _degraded(self, event: RouteDegraded) -> None:
        self._count_incident("route_degraded", event.route, event.words)

    def _recovered(self, event: RouteRecovered) -> None:
        self._count_incident("route_recovered", event.route, event.words)

    def _key(self, event: KeyStateChanged) -> None:
        """Count a key that became refused, or good again; one that is good from the start is no news."""
        if event.after == "refused":
            self._count_incident("key_refused", event.provider, f"key {event.key}, by a {event.by}")
        elif event.after == "valid" and event.before == "refused":
            self._count_incident("key_restored", event.provider, f"key {event.key}, by a {event.by}")

    def _spending(self, event: SpendingNoted) -> None:
        why = f"{event.spent_usd:.2f} of {event.max_usd:.2f} dollars"
        self._count_incident(event.what, event.provider, why)

    def _limit(self, event: LimitLowered) -> None:
        self.happened["limit_lowered"] += 1
        if self._is_due("limit_lowered", event.provider):
            why = f"from {event.before} to {event.after} concurrent requests ({event.why})"
            self._add_incident("limit_lowered", event.provider, why)

    def _security(self, event: SecurityNoted) -> None:
        """Count it. `who` stays in the log: /status may be open to everybody."""
        self.happened[event.what] += 1
        if self._is_due(event.what, ""):
            self._add_incident(event.what, None, event.where)

    def _is_due(self, what: str, name: str) -> bool:
        """Return whether an incident of a kind that repeats was not added for a while."""
        now_s = clock.now()
        if now_s - self._incident_s.get((what, name), float("-inf")) < REPEAT_INCIDENT_EVERY_S:
            return False
        self._incident_s[what, name] = now_s
        return True

    def _settings(self, event: SettingsReloaded) -> None:
        at, problems = round(clock.wall(), 3), [problem[:TEXT_CHARS_MAX] for problem in event.problems]
        self.reloaded = {"at": at, "ok": event.ok, "problems": problems}
        what = "settings_reloaded" if event.ok else "settings_refused"
        self._count_incident(what, None, problems[0] if problems else "reloaded")

    def _count_incident(self, what: str, target: str | None, why: str) -> None:
        self.happened[what] += 1
        self._add_incident(what, target, why)

    def _add_incident(self, what: str, target: str | None, why: str) -> None:
        at = round(clock.wall(), 3)
        self._incidents.append({"at": at, "what": what, "target": target, "why": why[:TEXT_CHARS_MAX]})

    def find_request(self, id_: str) -> RequestEnded | None:
        """Return a request that has ended, if it is one of the last."""
        return next((event for _, event in reversed(self._recent) if event.request_id == id_), None)

    def snapshot(self) -> dict[str, Any]:
        """Return plain data for /status, newest first. Times are epoch seconds; targets are keyed by name."""
        total = CostCounters()
        for counters in self.targets.values():
            total.add(counters.costs)
        return {
            "outcomes": {outcome.value: count for outcome, count in self.outcomes.items()},
            "happened": dict(self.happened),
            "targets": {name: counters.snapshot() for name, counters in self.targets.items()},
            "spent": total.snapshot(),
            "reloaded": self.reloaded,
            "recent": [_request_row(at, event) for at, event in reversed(self._recent)],
            "incidents": list(reversed(self._incidents)),
        }

    METHODS: ClassVar[Mapping[type, Callable[["StatusBoard", Any], None]]] = {
        AttemptEnded: _attempt,
        BreakerChanged: _breaker,
        CacheLooked: _cache,
        Crashed: _crash,
        DrainBegan: _drain,
        HealthChanged: _health,
        KeyStateChanged: _key,
        LimitLowered: _limit,
        RequestEnded: _request,
        RouteDegraded: _degraded,
        RouteRecovered: _recovered,
        SecurityNoted: _security,
        SettingsReloaded: _settings,
        SpendingNoted: _spending,
        WritesForgotten: _forgotten,
    }


def _request_row(at: float, event: RequestEnded) -> dict[str, Any]:
    return {
        "id": event.request_id,
        "at": round(at, 3),
        "route": event.route[:TEXT_CHARS_MAX],
        "outcome": event.outcome.value,
        "code": event.code,
        "target": event.target,
        "stream": event.stream,
        "cached": event.cached,
        "degraded": event.degraded,
        "shared": event.shared,
        "first_token_ms": ms(event.first_token_s),
        "total_ms": ms(event.total_s),
        "tokens": [event.usage.prompt_tokens, event.usage.completion_tokens] if event.usage else None,
        "tokens_estimated": bool(event.usage and event.usage.estimated),
        "cost_usd": cost_usd(event.attempts),
        "attempts": to_builtins(attempt_rows_with_cost(event.attempts)),
    }
