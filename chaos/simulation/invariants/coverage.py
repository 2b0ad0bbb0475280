"""What must have happened at least once over all seeds: a branch that is never taken proves nothing."""

from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
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


def count_coverage(world: World, record: RunRecord) -> None:
    """Counts what shows only at the end."""
    for request in record.requests.values():
        _count(world, record, request)


def _count(world: World, record: RunRecord, request: RequestRecord) -> None:
    sometimes, ended = record.sometimes, request.ended
    if ended is None:
        return
    sometimes[f"ended {ended.outcome}"] += 1
    if ended.code is not None:
        sometimes[f"told: {ended.code}"] += 1
    if ended.code == "shutting_down" and request.attempts:
        sometimes["drain cut"] += 1
    if request.left_s is not None:
        sometimes[f"left {'after' if request.content_seen else 'before'} the first content"] += 1
    if request.plan.pause_s:
        sometimes["slow client"] += 1
        sometimes["slow client given up"] += ended.outcome is Outcome.CANCELLED
    for reported in ended.attempts:
        if not reported.tried:
            sometimes[f"passed over: {reported.reason}"] += 1
    if len(request.attempts) > 1 and ended.outcome is Outcome.COMPLETE:
        sometimes["failed over"] += request.attempts[0].target != ended.target
    _tries(record, request)


def _tries(record: RunRecord, request: RequestRecord) -> None:
    sometimes, ended = record.sometimes, request.ended
    limited: set[str] = set()
    hedged = any(attempt.reported and attempt.reported.kind == "hedge" for attempt in request.attempts)
    for attempt in request.attempts:
        reported = attempt.reported
        if reported is None or ended is None:
            continue
        if reported.kind == "probe" and hedged:
            sometimes[
                "probe hedged and won" if ended.target == attempt.target else "probe hedged and lost"
            ] += 1
            sometimes["probe heard out"] += (attempt.closed_s or 0.0) > request.ended_s
        if reported.kind == "hedge" and "slow" in request.hedged.values():
            sometimes["hedge of a slow one won"] += ended.target == attempt.target
            sometimes["hedge of a slow one lost"] += reported.reason == "hedge_lost"
        sometimes["a stale answer was asked for anew"] += request.is_refresh and reported.ok
        if reported.kind == "retry":
            sometimes["same-target retry succeeded"] += reported.ok
            sometimes["Retry-After waited out"] += attempt.target in limited
        sometimes["another key tried"] += reported.kind == "key"
        sometimes["a fresh connection tried"] += reported.kind == "fresh"
        sometimes["permit returned on cancel"] += (
            reported.reason == "cancelled" and request.left_s is not None
        )
        if reported.status == 429 and attempt.retry_after_s:
            limited.add(attempt.target)
