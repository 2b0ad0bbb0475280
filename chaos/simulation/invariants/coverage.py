"""Coverage: the branches that must be reached at least once over all seeds (`sometimes`).

A branch that is never reached proves nothing. `REQUIRED` lists the branches; a run of the default number of
worlds or more fails if one of them was never counted in `RunRecord.sometimes`.
"""

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
    "limit lowered: backlog",
    "health healthy -> degraded",
    "health degraded -> healthy",
    "hedged: probe",
    "hedged: degraded",
    "hedged: on probation",
    "hedged: slow",
    "hedged: late",
    "hedged at another provider",
    "hedge of a slow attempt won",
    "hedge of a slow attempt lost",
    "cache: hit",
    "cache: stale",
    "stale answer refreshed",
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
    "attempt with a reloaded key",
    "probe hedged and won",
    "probe hedged and lost",
    "losing probe finished in background",
    "permit returned on cancel",
    "same-target retry succeeded",
    "Retry-After waited out",
    "Retry-After received",
    "another key tried",
    "a fresh connection tried",
    "failed over",
    "refusal contradicted",
    "notice rejected",
    "embedding complete",
    "burst of requests",
    "skipped: breaker_open",
    "skipped: host_breaker_open",
    "skipped: caller_breaker_open",
    "skipped: slow_start",
    "skipped: provider_full",
    "skipped: cooling_down",
    "rate limited",
    "rate limit: blocked",
    "error: all_targets_down",
    "error: all_targets_limited",
    "error: deadline_exceeded",
    "error: overloaded",
    "error: provider_refused",
    "error: shutting_down",
    "error: stream_cut",
    "error: stream_stalled",
    "drain cut",
    "left before the first content",
    "left after the first content",
    "slow client",
    "slow client disconnected",
    "recovery noticed",
    "requests with a healthy target",
    "requests after the rest",
    "good requests beside an odd caller",
    "odd requests that a healthy target takes",
    "odd request broke its target",
    "odd request refused",
    "crashed with an open turn",
    "turn asked again after a crash",
    "read again after a crash",
    "unsure write repeated",
    "sent by the outbox after an outage",
    "memory lost",
    "history pruned",
    "turn asked twice",
    "stranger refused",
    "stranger refused on a socket",
    "resumed live",
    "resumed in mid-answer",
    "resumed from memory",
    "resumed from the database",
    "resumed after a crash",
    "resumed by events",
    "resumed by resume",
    "came back in time",
    "came back too late",
    "two connections on one turn",
    "stopped",
    "bye on drain",
    "job done",
    "job failed",
    "job step tried again",
    "lease taken over",
)


REFUSALS = (400, 404, 422)  # of a request itself: another target is asked


def count_coverage(world: World, record: RunRecord) -> None:
    """Count the branches that show only at the end of a run."""
    for request in record.requests.values():
        _count(world, record, request)


def _count(world: World, record: RunRecord, request: RequestRecord) -> None:
    sometimes, ended = record.sometimes, request.ended
    if ended is None:
        return
    sometimes[f"ended {ended.outcome}"] += 1
    if ended.code is not None:
        sometimes[f"error: {ended.code}"] += 1
    if ended.code == "shutting_down" and request.attempts:
        sometimes["drain cut"] += 1
    if request.left_s is not None:
        sometimes[f"left {'after' if request.content_seen else 'before'} the first content"] += 1
    if request.plan.pause_s:
        sometimes["slow client"] += 1
        sometimes["slow client disconnected"] += ended.outcome is Outcome.CANCELLED
    for reported in ended.attempts:
        if not reported.tried:
            sometimes[f"skipped: {reported.reason}"] += 1
    if len(request.attempts) > 1 and ended.outcome is Outcome.COMPLETE:
        sometimes["failed over"] += request.attempts[0].target != ended.target
        statuses = {attempt.reported.status for attempt in request.attempts if attempt.reported}
        sometimes["refusal contradicted"] += not statuses.isdisjoint(REFUSALS)
    sometimes["embedding complete"] += request.plan.embed and ended.outcome is Outcome.COMPLETE
    burst = any(at_s <= request.plan.at_s < at_s + 0.001 for at_s, _ in world.load.bursts)
    sometimes["burst of requests"] += burst
    _count_attempts(record, request)


def _count_attempts(record: RunRecord, request: RequestRecord) -> None:
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
            sometimes["losing probe finished in background"] += (attempt.closed_s or 0.0) > request.ended_s
        if reported.kind == "hedge" and "slow" in request.hedged.values():
            sometimes["hedge of a slow attempt won"] += ended.target == attempt.target
            sometimes["hedge of a slow attempt lost"] += reported.reason == "hedge_lost"
        sometimes["stale answer refreshed"] += request.is_refresh and reported.ok
        if reported.kind == "retry":
            sometimes["same-target retry succeeded"] += reported.ok
            sometimes["Retry-After waited out"] += attempt.target in limited
        sometimes["notice rejected"] += reported.reason == "rejected_content"
        sometimes["another key tried"] += reported.kind == "key"
        sometimes["a fresh connection tried"] += reported.kind == "fresh"
        sometimes["permit returned on cancel"] += (
            reported.reason == "cancelled" and request.left_s is not None
        )
        if reported.status == 429 and attempt.retry_after_s:
            limited.add(attempt.target)
