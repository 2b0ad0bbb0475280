"""The retry budget: how often one target is called for one request, and the share of a provider's load that
is retries.

    rule                    says
    retry_budget_respected  at one target a request has one first attempt, one on a fresh connection, one per
                            other key, and the retries of the policy; over any window of the budget, attempts
                            charged to it are at most `share` x first attempts + `floor_per_s` x window, plus
                            one for the edge
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict

from dub5.chaos.simulation.invariants.record import ObservedAttempt, RunRecord, provider_of
from dub5.chaos.simulation.world.build import keys
from dub5.chaos.simulation.world.model import World

# A hedge of a probe is not charged; a hedge of a target that is only slow is.
FREE = ("first", "hedge", "probe")
EDGE = 1.0  # a window of whole seconds may hold one more than a sliding one


def check_retry_budget(world: World, record: RunRecord) -> None:
    """Check all attempts of a run."""
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
            (attempt.target, attempt.reported.kind if attempt.reported.kind not in FREE else "first")
            for attempt in request.attempts
            if attempt.reported
        )
        for (target, kind), count in kinds.items():
            provider = world.provider(provider_of(target))
            allowed = {
                "first": 1,
                "fresh": 1,
                "retry": retries_max,
                "key": (len(keys(provider)) << rotated) - 1,
            }[kind]
            if count > allowed:
                record.violated(
                    "retry_budget_respected",
                    f"#{number} calls {target} {count} times as {kind}; the policy allows {allowed}",
                )
    for name, attempts in by_provider.items():
        _check_budget(world, record, name, attempts)


def _check_budget(world: World, record: RunRecord, name: str, attempts: list[ObservedAttempt]) -> None:
    """Check every window that ends with a charged attempt: the first attempts within it must have earned the
    charges."""
    charged_s = [attempt.began_s for attempt in attempts if _is_charged(record, attempt)]
    first_s = [
        attempt.began_s
        for attempt in attempts
        if attempt.reported and attempt.reported.kind in FREE and not _is_charged(record, attempt)
    ]
    # Attempts that were not sent for want of a feature deposit as well.
    first_s = sorted([*first_s, *(at_s for provider, at_s in record.unsent if provider == name)])
    for n, at_s in enumerate(charged_s, start=1):
        options = world.tuning_at(at_s).budget
        from_s = float(int(at_s) - options.window_s + 1)
        if world.reload is not None and from_s < world.reload.at_s <= at_s and options != world.tuning.budget:
            from_s = world.reload.at_s  # the reload made a new budget
        earned = options.share * (bisect_right(first_s, at_s) - bisect_left(first_s, from_s))
        spent = n - bisect_left(charged_s, from_s)
        bound = earned + options.floor_per_s * options.window_s + EDGE
        if spent > bound:
            record.violated(
                "retry_budget_respected",
                f"{name}: {spent} charged in the {options.window_s} s to {at_s:.3f} s, {bound:.1f} allowed",
            )


def _is_charged(record: RunRecord, attempt: ObservedAttempt) -> bool:
    """Say whether an attempt is charged to the retry budget."""
    kind = attempt.reported.kind if attempt.reported else ""
    if kind != "hedge" or attempt.number is None:
        return kind == "retry"
    return set(record.requests[attempt.number].hedged.values()) == {"slow"}
