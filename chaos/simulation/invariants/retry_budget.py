"""`retry_budget_respected`: how often one target is asked for one request, and how much of a
provider's load was retries."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict

from dub5.chaos.simulation.invariants.record import ObservedAttempt, RunRecord
from dub5.chaos.simulation.world.build import keys
from dub5.chaos.simulation.world.model import World

FREE = (
    "first",
    "hedge",
    "probe",
)  # a hedge is free beside a probe or trial, paid beside a target that is only slow
EDGE = 1.0  # a window of whole seconds may hold one more than a window that slides


def check_retry_budget(world: World, record: RunRecord) -> None:
    """Looks at all tries together."""
    by_provider: dict[str, list[ObservedAttempt]] = defaultdict(list)
    for attempt in record.attempts():
        if attempt.reported is not None:
            by_provider[attempt.provider].append(attempt)
    for number, request in record.requests.items():
        if len(request.attempts) < 2:
            continue
        retry = world.tunings[request.generation].retry
        retries_max = max(retry.same_target_max, retry.last_target_max)
        rotated = (
            world.reload is not None and request.began_s < world.reload.at_s < request.attempts[-1].began_s
        )
        kinds = Counter(
            (t.target, t.reported.kind if t.reported.kind not in FREE else "first")
            for t in request.attempts
            if t.reported
        )
        for (target, kind), count in kinds.items():
            provider = world.provider(target.partition("/")[0])
            allowed = {
                "first": 1,
                "fresh": 1,
                "retry": retries_max,
                "key": (len(keys(provider)) << rotated) - 1,
            }[kind]
            if count > allowed:
                record.violated(
                    "retry_budget_respected",
                    f"#{number} asks {target} {count} times as {kind}; the policy allows {allowed}",
                )
    for name, attempts in by_provider.items():
        _check_budget(world, record, name, attempts)


def _check_budget(world: World, record: RunRecord, name: str, attempts: list[ObservedAttempt]) -> None:
    """Over any window that ends with a try that was paid for: so many were paid as its first tries have earned."""
    paid = [t.began_s for t in attempts if _is_paid(record, t)]
    first = [
        t.began_s for t in attempts if t.reported and t.reported.kind in FREE and not _is_paid(record, t)
    ]
    first = sorted(
        [*first, *(at_s for provider, at_s in record.unsent if provider == name)]
    )  # they earn as well
    for n, at_s in enumerate(paid, start=1):
        options = world.tuning_at(at_s).budget
        from_s = float(int(at_s) - options.window_s + 1)
        if world.reload is not None and from_s < world.reload.at_s <= at_s and options != world.tuning.budget:
            from_s = world.reload.at_s  # the purse was a new one
        earned = options.share * (bisect_right(first, at_s) - bisect_left(first, from_s))
        spent = n - bisect_left(paid, from_s)
        bound = earned + options.floor_per_s * options.window_s + EDGE
        if spent > bound:
            record.violated(
                "retry_budget_respected",
                f"{name}: {spent} paid tries in the {options.window_s} s before {at_s:.3f} s, {bound:.1f} allowed",
            )


def _is_paid(record: RunRecord, attempt: ObservedAttempt) -> bool:
    """Whether nobody had to make it."""
    kind = attempt.reported.kind if attempt.reported else ""
    if kind != "hedge" or attempt.number is None:
        return kind == "retry"
    return set(record.requests[attempt.number].hedged.values()) == {"slow"}
