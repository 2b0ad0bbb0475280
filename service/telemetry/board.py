"""What an operator sees now: /status and the page read this. Counts since the start, and the last of each kind."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, assert_never

from service import clock
from service.chat import Outcome
from service.events import (
    AttemptEnded,
    BreakerChanged,
    BudgetSpent,
    CacheLooked,
    Crashed,
    DrainBegan,
    Event,
    HealthChanged,
    Hedged,
    LimitLowered,
    RequestEnded,
    SettingsReloaded,
)
from service.telemetry.reading import failed, failed_over, ms, rows

RECENT_MAX = 50
INCIDENTS_MAX = 100
TEXT_CHARS_MAX = 200

HAPPENED = (
    "breaker_opened",
    "breaker_half_opened",
    "breaker_closed",
    "failed_over",
    "stream_cut",
    "cache_hit",
    "cache_error",
    "drained",
    "crashed",
)
BREAKER_HAPPENED = {"open": "breaker_opened", "half_open": "breaker_half_opened", "closed": "breaker_closed"}


@dataclass(slots=True)
class Standing:
    """One target's record. `last_reason` is of its last try that nobody cancelled."""

    answered: int = 0
    failed: int = 0
    last_reason: str | None = None
    first_token_ms: float | None = None  # of its last answer


class Board:
    """A subscriber of every event."""

    def __init__(self) -> None:
        self.started_at = 0.0  # epoch seconds; set when the service opens
        self.outcomes = Counter({outcome.value: 0 for outcome in Outcome})
        self.happened = Counter(dict.fromkeys(HAPPENED, 0))
        self.standings: dict[str, Standing] = {}
        self.reloaded: dict[str, Any] | None = None  # the last time the settings were read again
        self._recent: deque[tuple[float, RequestEnded]] = deque(maxlen=RECENT_MAX)
        self._incidents: deque[dict[str, Any]] = deque(maxlen=INCIDENTS_MAX)

    def note(self, event: Event) -> None:
        """The subscriber."""
        match event:
            case AttemptEnded():
                self._attempt(event)
            case RequestEnded():
                self._request(event)
            case BreakerChanged(scope=scope, after=after, why=why):
                self._incident(BREAKER_HAPPENED.get(after, f"breaker_{after}"), scope, why)
            case CacheLooked(result=result):
                if result != "miss":
                    self.happened[f"cache_{result}"] += 1
            case SettingsReloaded():
                self._settings(event)
            case DrainBegan(in_flight=in_flight):
                self._incident("drained", None, f"told to end with {in_flight} requests in flight")
            case Crashed(where=where):
                self._incident("crashed", None, where)
            case HealthChanged() | LimitLowered() | BudgetSpent() | Hedged():
                pass
            case _:
                assert_never(event)

    def _attempt(self, event: AttemptEnded) -> None:
        attempt = event.attempt
        standing = self.standings.setdefault(attempt.target, Standing())
        if attempt.ok:
            standing.answered += 1
        elif failed(attempt):
            standing.failed += 1
        if attempt.reason != "cancelled":
            standing.last_reason = attempt.reason
        if attempt.first_token_s is not None:
            standing.first_token_ms = ms(attempt.first_token_s - attempt.started_s)

    def _request(self, event: RequestEnded) -> None:
        self.outcomes[event.outcome.value] += 1
        if failed_over(event):
            self.happened["failed_over"] += 1
        if event.outcome is Outcome.CUT:
            self.happened["stream_cut"] += 1
        self._recent.append((clock.wall(), event))

    def _settings(self, event: SettingsReloaded) -> None:
        at, problems = round(clock.wall(), 3), [problem[:TEXT_CHARS_MAX] for problem in event.problems]
        self.reloaded = {"at": at, "ok": event.ok, "problems": problems}
        what = "settings_reloaded" if event.ok else "settings_refused"
        self._incident(what, None, problems[0] if problems else "read again")

    def _incident(self, what: str, target: str | None, why: str) -> None:
        self.happened[what] += 1
        at = round(clock.wall(), 3)
        self._incidents.append({"at": at, "what": what, "target": target, "why": why[:TEXT_CHARS_MAX]})

    def snapshot(self) -> dict[str, Any]:
        """Plain data for /status, the newest first; "targets" maps a name to its record. Times are epoch seconds."""
        return {
            "outcomes": dict(self.outcomes),
            "happened": dict(self.happened),
            "targets": {name: _standing(standing) for name, standing in self.standings.items()},
            "reloaded": self.reloaded,
            "recent": [_request_row(at, event) for at, event in reversed(self._recent)],
            "incidents": list(reversed(self._incidents)),
        }


def _standing(standing: Standing) -> dict[str, Any]:
    return {
        "answered": standing.answered,
        "failed": standing.failed,
        "last_reason": standing.last_reason,
        "first_token_ms": standing.first_token_ms,
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
        "first_token_ms": ms(event.first_token_s),
        "total_ms": ms(event.total_s),
        "tokens": [event.usage.prompt_tokens, event.usage.completion_tokens] if event.usage else None,
        "tokens_estimated": bool(event.usage and event.usage.estimated),
        "attempts": rows(event.attempts),
    }
