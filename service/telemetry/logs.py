"""Structured logs: one line (of JSON, or of text) per request and per change of state.

    event --EventLogger--> line --LineWriter--> stderr, ten times a second; a warning at once

No line holds a prompt, an answer, a key or a provider's body. Callers appear as the hash of their key.
Writing never blocks: when the reader of stderr stops reading, lines are dropped and counted.
"""

import asyncio
import os
import select
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from dub5.service import clock
from dub5.service.events import (
    AttemptEnded,
    BudgetSpent,
    CacheLooked,
    EventHandlers,
    LimitCountedLocally,
    LimitLowered,
    QueueLeft,
    RateLimitHit,
    RequestEnded,
    SecurityNoted,
    SettingsReloaded,
    methods_of,
)
from dub5.service.model import Outcome
from dub5.service.telemetry.attempt_views import OK, AttemptRow, attempt_rows_with_cost, cost_usd, ms
from dub5.service.telemetry.event_tables import LINES, Level, Line
from dub5.service.telemetry.mistakes import MISTAKES, mistake_reason

FLUSH_S = 0.1
LINES_MAX = 10_000
WRITE_BYTES_MAX = 4096  # a writable pipe accepts this much at once (PIPE_BUF on Linux)
REPEAT_EVERY_S = 1.0  # per provider, for events that an overload repeats many times
WHERE_CHARS_MAX = 200  # a path is the caller's own text
ROUTE_CHARS_MAX = 128  # the name of an unknown route is the caller's own text


LEVEL_NAMES = {level: level.name for level in Level}  # an enum's `name` takes twice as long
LEVEL_OF = {Outcome.FAILED: Level.WARNING, Outcome.CUT: Level.WARNING}
_ENCODE = msgspec.json.Encoder().encode


class RequestLine(Struct):
    """The log line of a request. A field that is UNSET is omitted."""

    at: datetime
    level: str
    event: str
    id: str
    caller: str
    session: str | UnsetType
    route: str
    outcome: Outcome
    code: str | None
    target: str | None
    stream: bool
    cached: bool
    degraded: str | UnsetType
    shared: bool | UnsetType
    first_token_ms: float | None
    total_ms: float | None
    overhead_ms: float
    tokens: tuple[int, int] | None
    tokens_estimated: bool | UnsetType
    cost_usd: float | UnsetType
    trail: list[AttemptRow]


class LineWriter:
    """A buffered writer of lines to a file descriptor, several per write."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None

    def write(self, line: bytes, *, at_once: bool) -> None:
        """Buffer one line (without its line break); `at_once` flushes the buffer."""
        if len(self._lines) >= LINES_MAX:
            self._dropped += 1
            return
        self._lines.append(line + b"\n")
        if at_once:
            self.flush()
        elif self._timer is None:
            self._schedule_flush()

    def flush(self) -> None:
        """Write as much as the reader accepts now; the rest is retried after FLUSH_S."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dropped:
            notice, self._dropped = {"level": "WARNING", "event": "log_lines_lost", "lost": self._dropped}, 0
            self._lines.append(_ENCODE(notice) + b"\n")
        try:
            while self._lines and self._is_writable():
                self._write(self._next_batch())
        except OSError:  # the reader has closed the pipe
            self._dropped += len(self._lines)
            self._lines.clear()
            return
        if self._lines:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def _is_writable(self) -> bool:
        return bool(select.select([], [self._descriptor], [], 0)[1])

    def _next_batch(self) -> bytes:
        """Take the lines that fit in one write; a longer line is split into pieces."""
        lines, parts, size = self._lines, [], 0
        while lines and (size := size + len(lines[0])) <= WRITE_BYTES_MAX:
            parts.append(lines.popleft())
        if parts:
            return b"".join(parts)
        first = lines.popleft()
        lines.appendleft(first[WRITE_BYTES_MAX:])
        return first[:WRITE_BYTES_MAX]

    def _write(self, data: bytes) -> None:
        written = os.write(self._descriptor, data)
        if written < len(data):
            self._lines.appendleft(data[written:])

    def close(self) -> None:
        """Flush the last lines, as far as the reader accepts them, and cancel the timer."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class WriteLine(Protocol):
    """A function that takes one line without its line break; `at_once` flushes it."""

    def __call__(self, line: bytes, *, at_once: bool) -> None: ...


class EventLogger:
    """A subscriber of all events that writes lines. Subscribe `log`.

    Attempts and hedges are part of their request's line; a failure that only the settings mend
    is told once besides. Cache lookups are logged only when they begin to fail and when they work again.
    """

    def __init__(
        self, write: WriteLine, level: Level = Level.INFO, form: Literal["json", "text"] = "json"
    ) -> None:
        self._write = write
        self._level = level
        self._encode: Callable[[Any], bytes] = _ENCODE if form == "json" else encode_text
        self._cache_fails = False
        self._mistakes: set[tuple[str, str]] = set()
        self._logged_s: dict[tuple[str, str], float] = {}  # loop seconds
        self._suppressed: Counter[tuple[str, str]] = Counter()
        self.log = EventHandlers(
            {kind: self._writer(make_line) for kind, make_line in LINES.items()}
            | methods_of(self, self.METHODS)
        )

    def started(
        self,
        version: str,
        settings_file: str,
        address: str,
        targets: Sequence[str],
        admin_token: str,
        warnings: Sequence[str] = (),
    ) -> None:
        """Log that the service listens, and with what. `admin_token`: where the token is from.

        The warnings about the settings have a line of their own, the one that a reload writes.
        """
        self._line(
            Level.INFO,
            "started",
            version=version,
            settings=settings_file,
            address=address,
            targets=list(targets),
            admin_token=admin_token,
        )
        if warnings:
            self._line(Level.WARNING, "settings", applied=True, problems=list(warnings))

    def _writer(self, make_line: Callable[[Any], Line | None]) -> Callable[[Any], None]:
        """Return what writes the line of an event."""

        def write(event: Any) -> None:
            if (line := make_line(event)) is not None:
                self._line(line.level, line.name, **line.fields)

        return write

    def _attempt(self, event: AttemptEnded) -> None:
        if event.attempt.reason != OK and (reason := mistake_reason(event)):
            self._mistake(event.attempt.target, reason)

    def _settings(self, event: SettingsReloaded) -> None:
        level = Level.WARNING if event.problems else Level.INFO
        self._line(level, "settings", applied=event.ok, problems=event.problems)
        self._mistakes.clear()

    def _limit(self, event: LimitLowered) -> None:
        self._line_rate_limited(
            "limit_lowered", event.provider, before=event.before, after=event.after, why=event.why
        )

    def _budget(self, event: BudgetSpent) -> None:
        self._line_rate_limited("retry_denied", event.provider)

    def _queue(self, event: QueueLeft) -> None:
        if event.how not in ("served", "left"):
            self._line_rate_limited("shed", event.route, of="route", why=event.how)

    def _security(self, event: SecurityNoted) -> None:
        self._line_rate_limited(
            "security", event.what, of="what", who=event.who, where=event.where[:WHERE_CHARS_MAX]
        )

    def _rate_limit(self, event: RateLimitHit) -> None:
        self._line_rate_limited("rate_limited", event.by, of="by", who=event.who, blocked=event.blocked)

    def _local(self, event: LimitCountedLocally) -> None:
        self._line_rate_limited("rate_limit_local", "redis", of="lost", why=event.why)

    def _mistake(self, target: str, reason: str) -> None:
        """Warn of a failure that only the settings mend, once until they are reloaded."""
        if (target, reason) not in self._mistakes:
            self._mistakes.add((target, reason))
            self._line(Level.WARNING, "check_settings", target=target, reason=reason, what=MISTAKES[reason])

    def _request(self, event: RequestEnded) -> None:
        level = LEVEL_OF.get(event.outcome, Level.INFO)
        if level < self._level:
            return
        usage, cost = event.usage, cost_usd(event.attempts)
        line = RequestLine(  # by position: Python makes a dictionary for a call with more than 15 names
            _now(),
            LEVEL_NAMES[level],
            "request",
            event.request_id,
            event.caller,
            event.session or UNSET,
            event.route[:ROUTE_CHARS_MAX],
            event.outcome,
            event.code,
            event.target,
            event.stream,
            event.cached,
            event.degraded or UNSET,
            event.shared or UNSET,
            ms(event.first_token_s),
            ms(event.total_s),
            int(event.overhead_s * 1_000_000 + 0.5) / 1000,
            (usage.prompt_tokens, usage.completion_tokens) if usage else None,
            UNSET if usage is None else usage.estimated or UNSET,
            UNSET if cost is None else cost,
            attempt_rows_with_cost(event.attempts),
        )
        self._write(self._encode(line), at_once=level >= Level.WARNING)

    def _cache(self, event: CacheLooked) -> None:
        fails = event.result == "error"
        if fails != self._cache_fails:
            self._cache_fails = fails
            self._line(Level.WARNING if fails else Level.INFO, "cache", works=not fails)

    def _line_rate_limited(self, event: str, name: str, *, of: str = "provider", **fields: Any) -> None:
        """Log at most one line per `REPEAT_EVERY_S`; `times` counts the events since the last line."""
        key, now_s = (event, name), clock.now()
        self._suppressed[key] += 1
        if now_s - self._logged_s.get(key, float("-inf")) >= REPEAT_EVERY_S:
            self._logged_s[key] = now_s
            self._line(Level.WARNING, event, **{of: name, "times": self._suppressed.pop(key)}, **fields)

    def _line(self, level: Level, event: str, **fields: Any) -> None:
        if level < self._level:
            return
        line = self._encode({"at": _now(), "level": level.name, "event": event, **fields})
        self._write(line, at_once=level >= Level.WARNING)

    METHODS: ClassVar[Mapping[type, Callable[["EventLogger", Any], None]]] = {
        AttemptEnded: _attempt,
        BudgetSpent: _budget,
        CacheLooked: _cache,
        LimitCountedLocally: _local,
        LimitLowered: _limit,
        QueueLeft: _queue,
        RateLimitHit: _rate_limit,
        RequestEnded: _request,
        SecurityNoted: _security,
        SettingsReloaded: _settings,
    }


def encode_text(line: Any) -> bytes:
    """Return a line for people: time, level, event, then `name=value`.

    Each value is written as JSON, so no text of a caller or provider can forge a line.
    """
    fields: dict[str, Any] = msgspec.to_builtins(line)
    head = [str(fields.pop(name)) for name in ("at", "level", "event")]
    return b" ".join(
        [" ".join(head).encode(), *(b"%s=%s" % (n.encode(), _ENCODE(v)) for n, v in fields.items())]
    )


def _now() -> datetime:
    return datetime.fromtimestamp(clock.wall(), UTC)
