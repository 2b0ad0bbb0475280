"""Views of the attempts in a request's trail, shared by the metrics, the log and the status board."""

from collections.abc import Iterable

from dub5.service.events import RequestEnded
from dub5.service.model import AttemptRecord

AttemptRow = dict[str, str | int | bool | float | tuple[str, ...] | tuple[int, int] | None]
OK = "ok"  # compared here, because a property takes longer and each request's line has a row
STOPPED = frozenset({"cancelled", "hedge_lost"})


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


def attempt_rows(attempts: Iterable[AttemptRecord]) -> list[AttemptRow]:
    """Return the trail as a client reads it."""
    return [_row(attempt) for attempt in attempts]


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
        row["tokens"] = (usage.prompt_tokens, usage.completion_tokens)
        if usage.estimated:
            row["tokens_estimated"] = True
        if attempt.cost_usd is not None:
            row["cost_usd"] = attempt.cost_usd
    return row


def _row(attempt: AttemptRecord) -> AttemptRow:
    row: AttemptRow = {
        "target": attempt.target,
        "outcome": OK if attempt.reason == OK else _outcome(attempt),
        "reason": attempt.reason,
        "started_ms": ms(attempt.started_s),
        "ended_ms": ms(attempt.ended_s),
    }
    if attempt.code:
        row["code"] = attempt.code
    if attempt.dropped:
        row["dropped"] = attempt.dropped
    if attempt.kind != "first":
        row["kind"] = attempt.kind
    if attempt.maybe_billed:
        row["maybe_billed"] = True
    return row


def _outcome(attempt: AttemptRecord) -> str:
    if not attempt.tried:
        return "passed_over"
    return attempt.reason if stopped(attempt) else "failed"
