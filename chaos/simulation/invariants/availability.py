"""Availability: at least 99.5 % of the requests that a healthy target could answer are complete.

rule             says
enough_complete  99.5 % of such requests are complete: while a target is healthy throughout, and after the
                 rest
"""

from collections.abc import Collection

from dub5.chaos.simulation.invariants.rate_limits import RATE_LIMITED
from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
from dub5.chaos.simulation.invariants.recovery import HOST_SOON_S, RecoveryInvariants
from dub5.chaos.simulation.world.healthy import healthy_throughout, is_sound, needed_s
from dub5.chaos.simulation.world.model import World
from dub5.service.model import Outcome

SHARE = 0.995
JSON_MODE = 1  # index into requests.PROGRAMS: not every dialect supports it
REFUSED_FOR_GOOD = frozenset({"provider_refused", "request_too_large"})


def check_availability(world: World, record: RunRecord, recovery: RecoveryInvariants) -> None:
    """Check all requests that could be answered."""
    healthy = {t for p in world.providers if healthy_throughout(world, p) for t in p.targets}
    sound_ones = [(p, t) for p in world.providers if is_sound(world, p) for t in p.targets]
    recovered = {t for p, t in sound_ones if recovery.cooldown_until_s(p, t, world.end_s) < world.end_s}
    answerable = [
        request
        for request in record.requests.values()
        if not request.plan.last
        and not request.plan.odd
        and could_be_answered(world, record, request, healthy)
    ]
    _check_share(record, "with a healthy target", answerable)
    if all(tuning.probe.enabled for tuning in world.tunings) and world.end_s - world.heal_s > HOST_SOON_S:
        last_ones = [
            request
            for request in record.requests.values()
            if request.plan.last and could_be_answered(world, record, request, recovered)
        ]
        _check_share(record, "after the rest", last_ones)


def _check_share(record: RunRecord, when: str, requests: list[RequestRecord]) -> None:
    failed = [
        request
        for request in requests
        if request.ended is None or request.ended.outcome is not Outcome.COMPLETE
    ]
    record.sometimes[f"requests {when}"] += len(requests)
    record.measured(f"share not complete {when}", len(failed) / len(requests) if requests else 0.0)
    if len(failed) > (1 - SHARE) * len(requests):
        request = failed[0]
        code = request.ended.code if request.ended else "no end"
        record.violated(
            "enough_complete",
            f"{len(failed)} of {len(requests)} failed {when}: #{request.plan.number} with {code}",
        )


def could_be_answered(
    world: World, record: RunRecord, request: RequestRecord, targets: Collection[str]
) -> bool:
    """Say whether one of these targets could answer in time, and no other target ended the request for
    good."""
    plan, ended = request.plan, request.ended
    route, tuning = world.route(plan.route), world.tunings[request.generation]
    time_s = min(plan.deadline_s, tuning.timeouts.total_s)
    if route.degraded.enabled:
        time_s = min(time_s, route.degraded.answer_within_s or time_s)
    time_s = record.ran_s(request.began_s, request.began_s + time_s)
    needs_s = needed_s(tuning, route.targets, stream=plan.stream, whole=plan.whole)
    if not set(route.targets) & set(targets) or time_s < needs_s or plan.program == JSON_MODE:
        return False
    if plan.embed or plan.again:  # a route may have no model for embeddings
        return False
    stopped = request.audience is not None and request.audience.stopped_s is not None
    if (
        request.left_s is not None
        or stopped
        or plan.pause_s
        or (world.drain and plan.at_s + time_s > world.drain.at_s)
    ):
        return False
    if ended is None or ended.outcome is Outcome.COMPLETE:
        return True
    if ended.code == RATE_LIMITED:
        return False
    elsewhere = {attempt.target for attempt in request.leader_or_self.attempts} - set(targets)
    # After the commit point no other target can take over.
    committed = not plan.whole and ended.outcome is Outcome.CUT and ended.target in elsewhere
    return not committed and not (ended.code in REFUSED_FOR_GOOD and elsewhere)
