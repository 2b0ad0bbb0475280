"""How the trail of a request reads: shared by the metrics, the log and the board."""

from collections.abc import Iterable

from service.chat import Attempt
from service.events import RequestEnded

AttemptRow = dict[str, str | int | bool | float | None | tuple[str, ...]]


def failed(attempt: Attempt) -> bool:
    """Whether a target was asked and did not give its whole answer, without anybody having stopped it."""
    return attempt.tried and attempt.reason not in ("ok", "cancelled", "outrun")


def failed_over(event: RequestEnded) -> bool:
    """Whether one target answered after another one had failed."""
    return event.target is not None and any(
        failed(attempt) and attempt.target != event.target for attempt in event.attempts
    )


def ms(seconds: float | None) -> float | None:
    """Milliseconds, to a tenth (`round` takes three times as long)."""
    return None if seconds is None else int(seconds * 10_000 + 0.5) / 10


def rows(attempts: Iterable[Attempt]) -> list[AttemptRow]:
    """The trail as the log and /status show it."""
    return [_row(attempt) for attempt in attempts]


def _row(attempt: Attempt) -> AttemptRow:
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


def _outcome(attempt: Attempt) -> str:
    if not attempt.tried:
        return "passed_over"
    return attempt.reason if attempt.reason in ("ok", "cancelled", "outrun") else "failed"
