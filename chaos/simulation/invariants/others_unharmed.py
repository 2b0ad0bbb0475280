"""Others unharmed: what one caller sends takes nothing from the others, and is answered where it can be.

rule            says
others_unharmed at most 1 % of the requests of good callers fail, or pass over a target, where that target is
                healthy throughout and fails with an odd caller's requests only; an odd request that only one
                provider refuses is answered by a healthy one that takes it, unless a filter refused it
"""

from dub5.chaos.simulation.invariants.availability import REFUSED_FOR_GOOD, could_be_answered
from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord, provider_of
from dub5.chaos.simulation.world.healthy import healthy_throughout
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.odd_caller import BREAKS, FILTERED
from dub5.service.model import Outcome

SHARE = 0.01
REFUSALS = (400, 404, 413, 422)
# Reasons to pass over a target that say that somebody took it: a healthy one gives no cause for them.
TAKEN = frozenset({"key_refused", "quota_used_up", "cooling_down", "retry_after", "breaker_open"})


def check_others_unharmed(world: World, record: RunRecord) -> None:
    """Check all requests of a world with an odd caller."""
    if world.odd is None:
        return
    healthy = {target for p in world.providers if healthy_throughout(world, p) for target in p.targets}
    good = [r for r in record.requests.values() if not r.plan.odd and _may_get(world, r, healthy)]
    _check(record, "good requests beside an odd caller", good, [r for r in good if _is_harmed(r, healthy)])
    answerable = [r for r in good if could_be_answered(world, record, r, healthy)]
    failed = [r for r in answerable if r.ended is None or r.ended.outcome is not Outcome.COMPLETE]
    _check(record, "answerable good requests", answerable, failed)
    takers = {
        kind: _takers(world, healthy, kind) for kind in world.odd.kinds if kind not in (BREAKS, FILTERED)
    }
    odd = [r for r in record.requests.values() if r.plan.odd in takers and _one_refuses(world, r)]
    odd = [r for r in odd if _may_get(world, r, takers[r.plan.odd]) and not _is_in_its_own_way(world, r)]
    told = [r for r in odd if r.ended is not None and r.ended.code in REFUSED_FOR_GOOD]
    _check(record, "odd requests that a healthy target takes", odd, told)
    record.sometimes["odd request broke its target"] += sum(
        attempt.reason not in ("ok", "") and request.plan.odd == BREAKS
        for request in record.requests.values()
        for attempt in (request.ended.attempts if request.ended else ())
    )
    record.sometimes["odd request refused"] += sum(
        r.ended is not None and r.ended.code in REFUSED_FOR_GOOD
        for r in record.requests.values()
        if r.plan.odd
    )


def _may_get(world: World, request: RequestRecord, targets: set[str]) -> bool:
    """Say whether one of these targets is behind the request's route."""
    return not targets.isdisjoint(world.route(request.plan.route).targets)


def _check(record: RunRecord, what: str, requests: list[RequestRecord], harmed: list[RequestRecord]) -> None:
    record.sometimes[what] += len(requests)
    if len(harmed) > SHARE * len(requests):
        plan, ended = harmed[0].plan, harmed[0].ended
        trail = ", ".join(f"{a.target} {a.reason}" for a in ended.attempts) if ended else "no end"
        record.violated(
            "others_unharmed", f"{len(harmed)} of {len(requests)} {what}: #{plan.number}{plan.odd} {trail}"
        )


def _is_harmed(request: RequestRecord, healthy: set[str]) -> bool:
    """Say whether a request passed over a healthy target for what somebody else sent."""
    ended = request.leader_or_self.ended
    return ended is not None and any(
        attempt.target in healthy and not attempt.tried and attempt.reason in TAKEN
        for attempt in ended.attempts
    )


def _takers(world: World, healthy: set[str], kind: str) -> set[str]:
    """Return the healthy targets that take odd requests of this kind."""
    refused = world.odd.refused if world.odd else {}
    return {target for target in healthy if kind not in refused[provider_of(target)]}


def _is_in_its_own_way(world: World, request: RequestRecord) -> bool:
    """Say whether a request passed over a target that fails with other requests of the odd caller."""
    refused = world.odd.refused if world.odd else {}
    return request.ended is not None and any(
        attempt.reason == "caller_breaker_open" and BREAKS in refused[provider_of(attempt.target)]
        for attempt in request.ended.attempts
    )


def _one_refuses(world: World, request: RequestRecord) -> bool:
    """Say whether exactly one provider of the request's route refuses it, and no fault refuses others."""
    if any(window.fault.get("status", 500) in REFUSALS for window in world.troubles):
        return False
    providers = {provider_of(target) for target in world.route(request.plan.route).targets}
    refused = world.odd.refused if world.odd else {}
    return sum(request.plan.odd in refused[name] for name in providers) == 1
