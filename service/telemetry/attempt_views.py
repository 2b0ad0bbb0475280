"""How the trail of a request reads: shared by the metrics, the log and the board."""

from collections.abc import Iterable

from dub5.service.events import RequestEnded
from dub5.service.model import AttemptRecord

AttemptRow = dict[str, str | int | bool | float | tuple[str, ...] | tuple[int, int] | None]
STOPPED = frozenset({"cancelled", "hedge_lost"})


def stopped(attempt: AttemptRecord) -> bool:
    """Whether somebody stopped it, so that it says nothing about its target."""
    return attempt.reason in STOPPED


def failed(attempt: AttemptRecord) -> bool:
    """Whether a target was asked and did not give its whole answer, without anybody having stopped it."""
    return attempt.tried and not attempt.ok and not stopped(attempt)


def failed_over(event: RequestEnded) -> bool:
    """Whether one target answered after another one had failed."""
    if event.target is None or len(event.attempts) < 2:  # most requests: told at once
        return False
    return any(failed(attempt) and attempt.target != event.target for attempt in event.attempts)


def ms(seconds: float | None) -> float | None:
    """Milliseconds, to a tenth (`round` takes three times as long)."""
    return None if seconds is None else int(seconds * 10_000 + 0.5) / 10


def attempt_rows(attempts: Iterable[AttemptRecord]) -> list[AttemptRow]:
    """The trail as a client reads it."""
    return [_row(attempt) for attempt in attempts]


def attempt_rows_with_cost(attempts: Iterable[AttemptRecord]) -> list[AttemptRow]:
    """The trail as the log and /status show it: what a try without an answer used, too, which is no client's
    business. What the answer used is told beside the trail."""
    return [_row(attempt) if attempt.ok else _row_with_cost(attempt) for attempt in attempts]


def cost_usd(attempts: Iterable[AttemptRecord]) -> float | None:
    """What the answer among these tries cost in dollars; None without an answer, or without a price."""
    for attempt in attempts:
        if attempt.reason == "ok":
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
        "outcome": _outcome(attempt),
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
    return attempt.reason if attempt.ok or stopped(attempt) else "failed"
