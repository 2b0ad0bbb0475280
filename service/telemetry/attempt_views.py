"""Views of the attempts in a request's trail, shared by the metrics, the log and the status board."""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct, to_builtins

from dub5.service.events import RequestEnded
from dub5.service.model import AttemptRecord

OK = "ok"  # compared here, because a property takes longer and each request's line has a row
STOPPED = frozenset({"cancelled", "hedge_lost"})
FIRST = "first"


class AttemptRow(Struct, omit_defaults=True):
    """One attempt in a trail. What has its default value is not written."""

    target: str
    outcome: str
    reason: str
    started_ms: float
    ended_ms: float
    code: str = ""
    dropped: tuple[str, ...] = ()
    kind: str = FIRST
    maybe_billed: bool = False
    tokens: tuple[int, int] | None = None
    tokens_estimated: bool = False
    cost_usd: float | None = None


def stopped(attempt: AttemptRecord) -> bool:
    """Return whether the attempt was cancelled, so that it says nothing about its target."""
    return attempt.reason in STOPPED


def failed(attempt: AttemptRecord) -> bool:
    """Return whether a target was called and gave no complete answer, without having been cancelled."""
    return attempt.tried and not attempt.ok and not stopped(attempt)


def failed_over(event: RequestEnded) -> bool:
    """Return whether one target answered after another target had failed."""
    return event.target is not None and any(
        failed(attempt) and attempt.target != event.target for attempt in event.attempts
    )


def ms(seconds: float | None) -> float | None:
    """Return milliseconds, rounded to a tenth (`round` takes three times as long)."""
    return None if seconds is None else int(seconds * 10_000 + 0.5) / 10


def attempt_rows(attempts: Iterable[AttemptRecord]) -> list[dict[str, Any]]:
    """Return the trail as a client reads it."""
    return [to_builtins(_row(attempt)) for attempt in attempts]


def attempt_rows_with_cost(attempts: Iterable[AttemptRecord]) -> list[AttemptRow]:
    """Return the trail for the log and /status, with tokens and cost of the attempts without an answer.

    Clients do not see these. Tokens and cost of the answer are reported next to the trail.
    """
    return [_row(attempt) if attempt.reason == OK else _row_with_cost(attempt) for attempt in attempts]


def cost_usd(attempts: Iterable[AttemptRecord]) -> float | None:
    """Return the cost of the answer in dollars; None without an answer, or without a price."""
    for attempt in attempts:
        if attempt.reason == OK:
            return attempt.cost_usd
    return None


def _row_with_cost(attempt: AttemptRecord) -> AttemptRow:
    row, usage = _row(attempt), attempt.usage
    if usage is not None:
        row.tokens = usage.prompt_tokens, usage.completion_tokens
        row.tokens_estimated = usage.estimated
        row.cost_usd = attempt.cost_usd
    return row


def _row(attempt: AttemptRecord) -> AttemptRow:
    reason = attempt.reason
    return AttemptRow(
        attempt.target,
        OK if reason == OK else _outcome(attempt),
        reason,
        int(attempt.started_s * 10_000 + 0.5) / 10,  # `ms` without its call
        int(attempt.ended_s * 10_000 + 0.5) / 10,
        attempt.code,
        attempt.dropped,
        FIRST if attempt.kind == FIRST else attempt.kind,
        attempt.maybe_billed,
    )


def _outcome(attempt: AttemptRecord) -> str:
    if not attempt.tried:
        return "passed_over"
    return attempt.reason if stopped(attempt) else "failed"
