"""`fallback_allowed_and_labelled`: a fallback comes only where the route wants one, a person reads it,
and nobody could answer; and then it always comes."""

from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.service.model import Outcome

FALLBACK_ERRORS = frozenset({"all_targets_down", "all_targets_limited", "deadline_exceeded", "overloaded"})
LATE_S = 0.1
AT_ONCE_S = 0.3  # where nobody has to be asked


def check_fallbacks(world: World, record: RunRecord) -> None:
    """Looks at every end."""
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
                f"#{request.plan.number} failed with {request.ended.code}, and its route has substitutes",
            )


def _fallback_allowed(world: World, request: RequestRecord) -> bool:
    return world.route(request.plan.route).degraded.enabled and request.plan.program is None


def _check_fallback(world: World, record: RunRecord, request: RequestRecord) -> None:
    number, ended, ending = request.plan.number, request.ended, request.client_ending
    assert ended is not None and ending is not None and ended.degraded is not None, "asked above"
    if ended.outcome is Outcome.DEGRADED:  # else its client left while it came
        record.sometimes[f"degraded: {ended.degraded}"] += 1
        record.happened[f"degraded_{ended.degraded}"] += 1
    violated = record.violated
    if not _fallback_allowed(world, request):
        violated("fallback_allowed_and_labelled", f"#{number} was given a substitute, and must never be")
    if ending.outcome is ClientOutcome.DEGRADED and ending.reason != ended.degraded:
        violated(
            "fallback_allowed_and_labelled",
            f"#{number} reads {ending.reason}, and the events say {ended.degraded}",
        )
    said = request.headers.get("x-dub5-degraded")
    if "x-dub5-target" in request.headers and said != ended.degraded:
        violated(
            "fallback_allowed_and_labelled",
            f"#{number} has the label {said} in its headers, not {ended.degraded}",
        )
    if any(
        t.reported is not None and t.reported.ok and t.ended_s < request.ended_s
        for t in request.leader_or_self.attempts
    ):
        violated(
            "fallback_allowed_and_labelled", f"#{number} was given a substitute, and a provider had answered"
        )
    within_s = world.route(request.plan.route).degraded.answer_within_s
    took_s = ended.first_token_s or ended.total_s
    if within_s is not None and took_s > within_s + LATE_S:
        violated("fallback_allowed_and_labelled", f"#{number} was given a substitute after {took_s:.3f} s")
    if not (request.leader_or_self.attempts or request.leader_or_self.waits) and took_s > AT_ONCE_S:
        violated(
            "fallback_allowed_and_labelled",
            f"#{number} waited {took_s:.3f} s for a substitute, and nobody was asked",
        )
