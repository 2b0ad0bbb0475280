"""Hedges stay within their share, and whoever lost is told so at once (S14)."""

from bisect import bisect_left, bisect_right

from dub5.chaos.simulation.invariants.record import HEARD_OUT, Books, Case, Trial
from dub5.chaos.simulation.world.model import World
from dub5.service.model import Attempt

WINDOW_S = 60  # over which the share is measured, in whole seconds
AT_ONCE_S = 0.01
EPSILON_S = 1e-6


def hedging(world: World, books: Books) -> None:
    """Looks at all hedges together, and at each race."""
    for generation, tuning in enumerate(world.tunings):
        _within_share(books, generation, tuning.hedge.share)
    for case in books.cases.values():
        if case.hedged:
            _losers(books, case)


def _within_share(books: Books, generation: int, share: float) -> None:
    hedged_s = [at_s for at_s, by in books.hedges if by == generation]
    if not hedged_s:
        return
    cases = [case for case in books.cases.values() if case.generation == generation and _asks(case)]
    asked_s = sorted(case.waits[-1].to_s if case.waits else case.looked_s or case.began_s for case in cases)
    for n, at_s in enumerate(hedged_s, start=1):
        from_s = int(at_s) - WINDOW_S + 1
        sent = n - bisect_left(hedged_s, from_s)
        requests = bisect_right(asked_s, at_s) - bisect_left(asked_s, from_s)
        if sent > share * requests + EPSILON_S:
            books.violated("S14", f"{sent} hedges in the 60 s before {at_s:.3f} s, for {requests} requests")


def _asks(case: Case) -> bool:
    """Whether it may ask providers itself."""
    return case.leader is None and case.looked != "hit"


def _losers(books: Books, case: Case) -> None:
    """The first content wins; a loser is cancelled, unless it is a probe or trial that is heard out."""
    won_s = min((at_s for trial in case.trials if (at_s := _won_s(case, trial)) is not None), default=None)
    if won_s is None:
        return
    for trial in case.trials:
        late_s = (trial.closed_s or 0.0) - won_s
        if (
            _won_s(case, trial) == won_s
            or trial.began_s > won_s
            or case.hedged.get(trial.target) in HEARD_OUT
        ):
            continue
        books.measured("loser cancelled after", late_s)
        if late_s > AT_ONCE_S:
            books.violated("S14", f"#{case.ask.number}: {trial.target} lost, and went on for {late_s:.3f} s")


def _won_s(case: Case, trial: Trial) -> float | None:
    """When this one brought an answer, or the beginning of one that was given to the client."""
    attempt = trial.attempt
    if attempt is None or attempt.first_token_s is None or attempt.reason == "outrun":
        return None
    if case.ask.stream and not case.ask.whole:
        return case.began_s + attempt.first_token_s
    return _ended_s(attempt, trial)


def _ended_s(attempt: Attempt, trial: Trial) -> float | None:
    return trial.ended_s if attempt.ok else None
