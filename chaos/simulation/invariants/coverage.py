"""What must have happened at least once over all seeds: a branch that is never taken proves nothing."""

from dub5.chaos.simulation.invariants.record import Books, Case
from dub5.chaos.simulation.world.model import World
from dub5.service.model import Outcome

REQUIRED = (
    *(f"ended {outcome}" for outcome in Outcome),
    "breaker closed -> open",
    "breaker open -> half_open",
    "breaker half_open -> closed",
    "breaker half_open -> open",
    "breaker closed -> isolated",
    "host breaker closed -> open",
    "host breaker half_open -> closed",
    "breaker open for slowness",
    "breaker closed by an active probe",
    "last resort used",
    "budget spent",
    "limit lowered",
    "health healthy -> degraded",
    "health degraded -> healthy",
    "hedged: probe",
    "hedged: degraded",
    "hedged: slow",
    "hedged: late",
    "hedge of a slow one won",
    "hedge of a slow one lost",
    "cache: hit",
    "cache: stale",
    "a stale answer was asked for anew",
    "shared call: joined",
    "shared call: handed_over",
    "degraded: stale",
    "degraded: words",
    "whole: failed over after content",
    "heartbeat",
    "queue: served",
    "queue: expired",
    "queue: overloaded",
    "queue: full",
    "queue: left",
    "settings reloaded",
    "asked with a new key",
    "probe hedged and won",
    "probe hedged and lost",
    "probe heard out",
    "permit returned on cancel",
    "same-target retry succeeded",
    "Retry-After waited out",
    "a Retry-After to heed",
    "another key tried",
    "a fresh connection tried",
    "failed over",
    "passed over: breaker_open",
    "passed over: host_breaker_open",
    "passed over: slow_start",
    "passed over: provider_full",
    "passed over: cooling_down",
    "told: all_targets_down",
    "told: all_targets_limited",
    "told: deadline_exceeded",
    "told: overloaded",
    "told: provider_refused",
    "told: shutting_down",
    "told: stream_cut",
    "told: stream_stalled",
    "drain cut",
    "left before the first content",
    "left after the first content",
    "slow client",
    "slow client given up",
    "recovery noticed",
    "asked with a healthy target",
    "asked after the rest",
)


def look_back(world: World, books: Books) -> None:
    """Counts what shows only at the end."""
    for case in books.cases.values():
        _count(world, books, case)


def _count(world: World, books: Books, case: Case) -> None:
    sometimes, ended = books.sometimes, case.ended
    if ended is None:
        return
    sometimes[f"ended {ended.outcome}"] += 1
    if ended.code is not None:
        sometimes[f"told: {ended.code}"] += 1
    if ended.code == "shutting_down" and case.trials:
        sometimes["drain cut"] += 1
    if case.left_s is not None:
        sometimes[f"left {'after' if case.content_seen else 'before'} the first content"] += 1
    if case.ask.pause_s:
        sometimes["slow client"] += 1
        sometimes["slow client given up"] += ended.outcome is Outcome.CANCELLED
    for attempt in ended.attempts:
        if not attempt.tried:
            sometimes[f"passed over: {attempt.reason}"] += 1
    if len(case.trials) > 1 and ended.outcome is Outcome.COMPLETE:
        sometimes["failed over"] += case.trials[0].target != ended.target
    _tries(books, case)


def _tries(books: Books, case: Case) -> None:
    sometimes, ended = books.sometimes, case.ended
    limited: set[str] = set()
    hedged = any(trial.attempt and trial.attempt.kind == "hedge" for trial in case.trials)
    for trial in case.trials:
        attempt = trial.attempt
        if attempt is None or ended is None:
            continue
        if attempt.kind == "probe" and hedged:
            sometimes[
                "probe hedged and won" if ended.target == trial.target else "probe hedged and lost"
            ] += 1
            sometimes["probe heard out"] += (trial.closed_s or 0.0) > case.ended_s
        if attempt.kind == "hedge" and "slow" in case.hedged.values():
            sometimes["hedge of a slow one won"] += ended.target == trial.target
            sometimes["hedge of a slow one lost"] += attempt.reason == "outrun"
        sometimes["a stale answer was asked for anew"] += case.refreshes and attempt.ok
        if attempt.kind == "retry":
            sometimes["same-target retry succeeded"] += attempt.ok
            sometimes["Retry-After waited out"] += trial.target in limited
        sometimes["another key tried"] += attempt.kind == "key"
        sometimes["a fresh connection tried"] += attempt.kind == "fresh"
        sometimes["permit returned on cancel"] += attempt.reason == "cancelled" and case.left_s is not None
        if attempt.status == 429 and trial.retry_after_s:
            limited.add(trial.target)
