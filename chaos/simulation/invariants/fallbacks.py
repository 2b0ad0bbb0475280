"""Fallback answers: labelled substitutes for requests that no provider could answer.

rule                           says
fallback_allowed_and_labelled  a fallback is given only on a route that enables it, to a request that no
                               program reads, when no provider has answered; there it is always given, in
                               time; client, headers and events agree on its source
"""

from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.service.model import Outcome

FALLBACK_ERRORS = frozenset({"all_targets_down", "all_targets_limited", "deadline_exceeded", "overloaded"})
LATE_S = 0.1
AT_ONCE_S = 0.3  # for a fallback without any attempt or wait


def check_fallbacks(world: World, record: RunRecord) -> None:
    """Check every end of a run."""
    for request in record.requests.values():
        if request.ended is None or request.client_ending is None:
            continue
        if request.ended.degraded:
            _check_fallback(world, record, request)
        elif (
            _fallback_allowed(world, request)
            and request.ended.code in FALLBACK_ERRORS
            and request.ended.route
        ):
            record.violated(
                "fallback_allowed_and_labelled",
                f"#{request.plan.number} failed with {request.ended.code} although its route has fallbacks",
            )


def _fallback_allowed(world: World, request: RequestRecord) -> bool:
    plan = request.plan
    return world.route(plan.route).degraded.enabled and plan.program is None and not plan.embed


def _check_fallback(world: World, record: RunRecord, request: RequestRecord) -> None:
    number, ended, ending = request.plan.number, request.ended, request.client_ending
    assert ended is not None and ending is not None and ended.degraded is not None, "checked by the caller"
    if ended.outcome is Outcome.DEGRADED:  # else its client left meanwhile
        record.sometimes[f"degraded: {ended.degraded}"] += 1
        record.happened[f"degraded_{ended.degraded}"] += 1
    violated = record.violated
    if not _fallback_allowed(world, request):
        violated("fallback_allowed_and_labelled", f"#{number} was given a fallback that it must never get")
    if ending.outcome is ClientOutcome.DEGRADED and ending.reason != ended.degraded:
        violated(
            "fallback_allowed_and_labelled",
            f"#{number} reads {ending.reason}, but the events say {ended.degraded}",
        )
    label = request.headers.get("x-dub5-degraded")
    if "x-dub5-target" in request.headers and label != ended.degraded:
        violated(
            "fallback_allowed_and_labelled",
            f"#{number} has the label {label} in its headers, not {ended.degraded}",
        )
    if any(  # a stall may lie between an answer and the deadline, which has passed when the loop runs again
        attempt.reported is not None
        and attempt.reported.ok
        and record.ran_s(attempt.ended_s, request.ended_s) > 0.0
        for attempt in request.leader_or_self.attempts
    ):
        violated(
            "fallback_allowed_and_labelled",
            f"#{number} was given a fallback although a provider had answered",
        )
    within_s = world.route(request.plan.route).degraded.answer_within_s
    took_s = ended.first_token_s or ended.total_s
    took_s -= record.stalled_s(request.began_s, request.began_s + took_s)
    if within_s is not None and took_s > within_s + LATE_S:
        violated("fallback_allowed_and_labelled", f"#{number} was given a fallback after {took_s:.3f} s")
    if not (request.leader_or_self.attempts or request.leader_or_self.waits) and took_s > AT_ONCE_S:
        violated(
            "fallback_allowed_and_labelled",
            f"#{number} waited {took_s:.3f} s for a fallback without any attempt",
        )
