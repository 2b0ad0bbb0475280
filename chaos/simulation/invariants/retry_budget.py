"""S3: how often one target is asked for one request, and how much of a provider's load nobody had to make."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict

from dub5.chaos.simulation.invariants.record import Books, Trial
from dub5.chaos.simulation.world.build import keys
from dub5.chaos.simulation.world.model import World

FREE = (
    "first",
    "hedge",
    "probe",
)  # a hedge is free beside a probe or trial, paid beside a target that is only slow
EDGE = 1.0  # a window of whole seconds may hold one more than a window that slides


def spending(world: World, books: Books) -> None:
    """Looks at all tries together."""
    by_provider: dict[str, list[Trial]] = defaultdict(list)
    for trial in books.trials():
        if trial.attempt is not None:
            by_provider[trial.provider].append(trial)
    for number, case in books.cases.items():
        if len(case.trials) < 2:
            continue
        retry = world.tunings[case.generation].retry
        retries_max = max(retry.same_target_max, retry.last_target_max)
        rotated = world.reload is not None and case.began_s < world.reload.at_s < case.trials[-1].began_s
        kinds = Counter(
            (t.target, t.attempt.kind if t.attempt.kind not in FREE else "first")
            for t in case.trials
            if t.attempt
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
                books.violated(
                    "S3", f"#{number} asks {target} {count} times as {kind}; the policy allows {allowed}"
                )
    for name, trials in by_provider.items():
        _within_budget(world, books, name, trials)


def _within_budget(world: World, books: Books, name: str, trials: list[Trial]) -> None:
    """Over any window that ends with a try that was paid for: so many were paid as its first tries have earned."""
    paid = [t.began_s for t in trials if _paid(books, t)]
    first = [t.began_s for t in trials if t.attempt and t.attempt.kind in FREE and not _paid(books, t)]
    first = sorted(
        [*first, *(at_s for provider, at_s in books.unsent if provider == name)]
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
            books.violated(
                "S3",
                f"{name}: {spent} paid tries in the {options.window_s} s before {at_s:.3f} s, {bound:.1f} allowed",
            )


def _paid(books: Books, trial: Trial) -> bool:
    """Whether nobody had to make it."""
    kind = trial.attempt.kind if trial.attempt else ""
    if kind != "hedge" or trial.number is None:
        return kind == "retry"
    return set(books.cases[trial.number].hedged.values()) == {"slow"}
