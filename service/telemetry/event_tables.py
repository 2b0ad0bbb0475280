"""What each event means to each subscriber: a row in a table per event. Those with more to do have a method.

    COUNTS     metrics.py: the counter that it adds one to, and its labels
    HAPPENED   board.py: the names that it is counted under in /status
    LINES      logs.py: its line, level and fields

A new event needs its class in events.py and its rows here. `tests/test_architecture.py` finds a missing one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from dub5.service.admission.shared_log import SCOPE as LIMITS_SCOPE
from dub5.service.cache.factory import SCOPE
from dub5.service.events import (
    BreakerChanged,
    BudgetSpent,
    CacheInvalidated,
    CacheLooked,
    CacheWarmed,
    CallerBarred,
    CloseCode,
    Crashed,
    DocumentRead,
    DrainBegan,
    FeedbackGiven,
    HealthChanged,
    Hedged,
    HistoryPruned,
    JobEnded,
    JobStepEnded,
    KeyChecked,
    KeyStateChanged,
    LimitCountedLocally,
    LimitLowered,
    MigrationEnded,
    NotificationEnded,
    QueueLeft,
    RateLimitHit,
    RouteDegraded,
    RouteRecovered,
    SecurityNoted,
    SettingsReloaded,
    Shared,
    SocketClosed,
    SocketOpened,
    SpendingNoted,
    StatementEnded,
    TurnEnded,
    TurnResumed,
    WritesForgotten,
)
from dub5.service.model import Target
from dub5.service.store.base import SCOPE as DATABASE_SCOPE
from dub5.service.telemetry import names
from dub5.service.telemetry.names import OTHER, Metric

Labels = tuple[str, ...]
CLOSE_CODES = frozenset(CloseCode)


class Level(IntEnum):
    """The severity of a line."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(slots=True)
class KnownNames:
    """All names that may become a label, since the settings have them. Others are "other"."""

    routes: set[str] = field(default_factory=set)
    targets: dict[str, tuple[str, str]] = field(default_factory=dict)  # provider and model of each
    providers: set[str] = field(default_factory=set)
    scopes: set[str] = field(  # of a breaker: targets, hosts
        default_factory=lambda: {SCOPE, LIMITS_SCOPE, DATABASE_SCOPE}
    )

    def add(self, routes: Iterable[str], targets: Iterable[Target], hosts: Iterable[str]) -> None:
        """Add the names of new settings. Old names stay: requests to them may still be in flight."""
        self.routes.update(routes)
        for target in targets:
            self.targets[target.name] = (target.provider, target.model)
            self.providers.add(target.provider)
        self.scopes.update(self.targets, hosts)

    def route(self, name: str) -> str:
        """Return a route's name as a label."""
        return name if name in self.routes else OTHER

    def provider(self, name: str) -> str:
        """Return a provider's name as a label."""
        return name if name in self.providers else OTHER

    def scope(self, name: str) -> str:
        """Return the name of a target or a breaker as a label."""
        return name if name in self.scopes else OTHER


class CountRule(NamedTuple):
    """The counter that an event adds one to, and its labels."""

    metric: Metric
    labels: Callable[[Any, KnownNames], Labels]


class Line(NamedTuple):
    """A line of the log."""

    level: Level
    name: str
    fields: Mapping[str, Any]


COUNTS: Mapping[type, CountRule] = {
    BreakerChanged: CountRule(
        names.BREAKER_CHANGES, lambda event, known: (known.scope(event.scope), event.after)
    ),
    BudgetSpent: CountRule(names.RETRIES_DENIED, lambda event, known: (known.provider(event.provider),)),
    CacheLooked: CountRule(names.CACHE, lambda event, known: (known.route(event.route), event.result)),
    Crashed: CountRule(names.CRASHES, lambda event, known: ()),
    FeedbackGiven: CountRule(
        names.FEEDBACK,
        lambda event, known: (
            event.kind,
            names.FEEDBACK_VALUES[event.value],
            known.scope(event.target or ""),
        ),
    ),
    HealthChanged: CountRule(
        names.HEALTH_CHANGES, lambda event, known: (known.scope(event.target), event.after)
    ),
    Hedged: CountRule(
        names.HEDGES, lambda event, known: (known.scope(event.target), _hedge_reason(event.why))
    ),
    HistoryPruned: CountRule(names.HISTORY_PRUNED, lambda event, known: (known.route(event.route),)),
    JobEnded: CountRule(names.JOBS_ENDED, lambda event, known: (event.kind, event.state)),
    KeyChecked: CountRule(
        names.KEY_CHECKS, lambda event, known: (known.provider(event.provider), event.result)
    ),
    KeyStateChanged: CountRule(
        names.KEY_CHANGES, lambda event, known: (known.provider(event.provider), event.after)
    ),
    LimitCountedLocally: CountRule(names.RATE_LIMIT_LOCAL, lambda event, known: ()),
    LimitLowered: CountRule(names.LIMIT_LOWERED, lambda event, known: (known.provider(event.provider),)),
    NotificationEnded: CountRule(
        names.NOTIFICATIONS, lambda event, known: (event.to, event.what, event.result)
    ),
    RateLimitHit: CountRule(
        names.RATE_LIMITED, lambda event, known: (event.by, "true" if event.blocked else "false")
    ),
    SecurityNoted: CountRule(names.SECURITY_EVENTS, lambda event, known: (event.what,)),
    SettingsReloaded: CountRule(names.RELOADS, lambda event, known: ("applied" if event.ok else "refused",)),
    Shared: CountRule(names.SHARED, lambda event, known: (known.route(event.route), event.what)),
    SocketClosed: CountRule(names.SOCKETS_CLOSED, lambda event, known: (_close_code(event.code),)),
    SpendingNoted: CountRule(
        names.SPENDING_NOTED, lambda event, known: (known.provider(event.provider), event.what)
    ),
    TurnEnded: CountRule(
        names.TURNS,
        lambda event, known: (known.route(event.route), event.outcome, "true" if event.kept else "false"),
    ),
    TurnResumed: CountRule(names.TURNS_RESUMED, lambda event, known: (event.source,)),
}
LOG_ONLY = frozenset(  # or a gauge says it
    {CacheInvalidated, CacheWarmed, CallerBarred, MigrationEnded, RouteDegraded, RouteRecovered, SocketOpened}
)

HAPPENED: Mapping[type, Callable[[Any], Labels]] = {
    BudgetSpent: lambda event: ("budget_spent",),
    CacheInvalidated: lambda event: ("cache_invalidated",),
    CacheWarmed: lambda event: (),
    CallerBarred: lambda event: (),
    DocumentRead: lambda event: ("document_read",) if event.kind else ("document_refused",),
    FeedbackGiven: lambda event: ("feedback",) if event.value != -1 else ("feedback", "feedback_down"),
    Hedged: lambda event: ("hedged",),
    HistoryPruned: lambda event: ("history_pruned",),
    JobEnded: lambda event: (f"job_{event.state}",),
    JobStepEnded: lambda event: (f"job_step_{event.result}",),
    KeyChecked: lambda event: (),
    LimitCountedLocally: lambda event: ("rate_limit_local",),
    MigrationEnded: lambda event: ("migrated" if event.ok else "migration_failed",),
    NotificationEnded: lambda event: (f"notification_{event.result}",),
    QueueLeft: lambda event: (
        ("queued",) if event.how in ("served", "left") else ("queued", f"shed_{event.how}")
    ),
    RateLimitHit: lambda event: ("rate_limited",),
    Shared: lambda event: ("shared" if event.what == "joined" else event.what,),
    SocketClosed: lambda event: ("socket_closed",),
    SocketOpened: lambda event: ("socket_opened",),
    StatementEnded: lambda event: (),
    TurnEnded: lambda event: ("turn",) if event.kept else ("turn", "turn_not_kept"),
    TurnResumed: lambda event: ("turn_resumed",),
}

LINES: Mapping[type, Callable[[Any], Line | None]] = {
    BreakerChanged: lambda event: Line(
        Level.WARNING if event.after == "open" else Level.INFO,
        "breaker",
        {"scope": event.scope, "before": event.before, "after": event.after, "why": event.why},
    ),
    CacheInvalidated: lambda event: Line(
        Level.INFO, "cache_invalidated", {"by": event.by, "which": event.which}
    ),
    CacheWarmed: lambda event: Line(
        Level.WARNING if event.problems else Level.INFO,
        "cache_warmed",
        {"route": event.route, "kept": event.kept, "problems": event.problems},
    ),
    CallerBarred: lambda event: Line(
        Level.WARNING, "caller_barred", {"target": event.target, "caller": event.caller, "why": event.why}
    ),
    Crashed: lambda event: Line(Level.ERROR, "crash", {"id": event.request_id, "where": event.where}),
    DrainBegan: lambda event: Line(Level.INFO, "drain", {"in_flight": event.in_flight}),
    FeedbackGiven: lambda event: Line(
        Level.INFO,
        "feedback",
        {
            "id": event.id,
            "caller": event.caller,
            "session": event.session,
            "kind": event.kind,
            "value": event.value,
            "turn": event.turn,
            "request": event.request_id,
            "route": event.route,
            "target": event.target,
            "kept": event.kept,
        }
        | ({} if event.note is None else {"note": event.note}),
    ),
    HealthChanged: lambda event: Line(
        Level.WARNING if event.before == "healthy" else Level.INFO,
        "health",
        {"target": event.target, "before": event.before, "after": event.after},
    ),
    KeyChecked: lambda event: Line(
        Level.DEBUG, "key_checked", {"provider": event.provider, "key": event.key, "result": event.result}
    ),
    KeyStateChanged: lambda event: Line(
        Level.WARNING if event.after == "refused" else Level.INFO,
        "key",
        {
            "provider": event.provider,
            "key": event.key,
            "before": event.before,
            "after": event.after,
            "by": event.by,
        },
    ),
    SpendingNoted: lambda event: Line(
        Level.WARNING,
        "spending",
        {
            "provider": event.provider,
            "what": event.what,
            "spent_usd": round(event.spent_usd, 6),
            "max_usd": event.max_usd,
        },
    ),
    Hedged: lambda event: None,  # part of its request's line
    MigrationEnded: lambda event: Line(
        Level.INFO if event.ok else Level.ERROR,
        "migration",
        {
            "number": event.number,
            "name": event.name,
            "ok": event.ok,
            "took_ms": round(event.took_ms, 1),
            "why": event.why,
        },
    ),
    NotificationEnded: lambda event: Line(
        Level.INFO if event.result == "sent" else Level.WARNING,
        "notification",
        {"to": event.to, "what": event.what, "result": event.result, "tries": event.tries, "why": event.why},
    ),
    RouteDegraded: lambda event: Line(
        Level.WARNING,
        "route_degraded",
        {
            "route": event.route,
            "what": event.what,
            "value": event.value,
            "usual": event.usual,
            "words": event.words,
        },
    ),
    RouteRecovered: lambda event: Line(
        Level.INFO,
        "route_recovered",
        {
            "route": event.route,
            "what": event.what,
            "value": event.value,
            "usual": event.usual,
            "lasted_s": round(event.lasted_s),
            "words": event.words,
        },
    ),
    Shared: lambda event: None,
    StatementEnded: lambda event: None,  # counted; what fails is told by the breaker
    WritesForgotten: lambda event: Line(
        Level.ERROR, "writes_forgotten", {"count": event.count, "why": event.why}
    ),
    HistoryPruned: lambda event: Line(
        Level.INFO,
        "history_pruned",
        {"id": event.request_id, "route": event.route, "turns": event.turns, "tokens": event.tokens},
    ),
    DocumentRead: lambda event: Line(
        Level.WARNING if event.result in ("crashed", "missing_package") else Level.INFO,
        "document_read",
        {
            "kind": event.kind,
            "result": event.result,
            "took_s": round(event.took_s, 3),
            "bytes": event.size,
            "why": event.why,
        },
    ),
    JobEnded: lambda event: Line(
        Level.INFO if event.state == "done" else Level.WARNING,
        "job",
        {
            "job": event.job,
            "kind": event.kind,
            "state": event.state,
            "took_s": round(event.took_s, 3),
            "tries": event.tries,
        },
    ),
    JobStepEnded: lambda event: Line(
        Level.DEBUG if event.result == "kept" else Level.INFO,
        "job_step",
        {
            "job": event.job,
            "kind": event.kind,
            "step": event.step,
            "result": event.result,
            "took_s": round(event.took_s, 3),
            "tries": event.tries,
        },
    ),
    SocketClosed: lambda event: Line(
        Level.INFO,
        "socket_closed",
        {"id": event.id, "code": event.code, "turns": event.turns, "open_s": round(event.open_s, 1)},
    ),
    SocketOpened: lambda event: Line(
        Level.DEBUG, "socket_opened", {"id": event.id, "caller": event.caller, "session": event.session}
    ),
    TurnEnded: lambda event: Line(
        Level.INFO,
        "turn",
        {
            "id": event.request_id,
            "session": event.session,
            "conversation": event.conversation,
            "turn": event.turn,
            "route": event.route,
            "outcome": event.outcome,
            "kept": event.kept,
            "memory_lost": event.memory_lost,
            "repeated": event.repeated,
        },
    ),
    TurnResumed: lambda event: Line(Level.INFO, "turn_resumed", {"turn": event.turn, "source": event.source}),
}


def _close_code(code: int) -> str:
    return str(code) if code in CLOSE_CODES else OTHER


def _hedge_reason(why: str) -> str:
    return why if why in names.HEDGE_REASONS else OTHER
