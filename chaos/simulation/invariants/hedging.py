"""Hedges stay within their share, and whoever lost is cancelled at once: `hedging_bounded`."""

from bisect import bisect_left, bisect_right

from dub5.chaos.simulation.invariants.record import (
    FINISHES_IN_BACKGROUND,
    ObservedAttempt,
    RequestRecord,
    RunRecord,
)
from dub5.chaos.simulation.world.model import World
from dub5.service.model import AttemptRecord

WINDOW_S = 60  # over which the share is measured, in whole seconds
AT_ONCE_S = 0.01
EPSILON_S = 1e-6


def check_hedging(world: World, record: RunRecord) -> None:
    """Looks at all hedges together, and at each race."""
    for generation, tuning in enumerate(world.tunings):
        _check_share(record, generation, tuning.hedge.share)
    for request in record.requests.values():
        if request.hedged:
            _check_losers(record, request)


def _check_share(record: RunRecord, generation: int, share: float) -> None:
    hedged_s = [at_s for at_s, by in record.hedges if by == generation]
    if not hedged_s:
        return
    requests = [
        request
        for request in record.requests.values()
        if request.generation == generation and _may_ask_itself(request)
    ]
    asked_s = sorted(
        request.waits[-1].to_s if request.waits else request.cache_looked_s or request.began_s
        for request in requests
    )
    for n, at_s in enumerate(hedged_s, start=1):
        from_s = int(at_s) - WINDOW_S + 1
        sent = n - bisect_left(hedged_s, from_s)
        request_count = bisect_right(asked_s, at_s) - bisect_left(asked_s, from_s)
        if sent > share * request_count + EPSILON_S:
            record.violated(
                "hedging_bounded",
                f"{sent} hedges in the 60 s before {at_s:.3f} s, for {request_count} requests",
            )


def _may_ask_itself(request: RequestRecord) -> bool:
    """Whether it may ask providers itself."""
    return request.leader is None and request.cache_result != "hit"


def _check_losers(record: RunRecord, request: RequestRecord) -> None:
    """The first content wins; a loser is cancelled, unless it is a probe or trial that is heard out."""
    won_s = min(
        (at_s for attempt in request.attempts if (at_s := _won_s(request, attempt)) is not None), default=None
    )
    if won_s is None:
        return
    for attempt in request.attempts:
        late_s = (attempt.closed_s or 0.0) - won_s
        if (
            _won_s(request, attempt) == won_s
            or attempt.began_s > won_s
            or request.hedged.get(attempt.target) in FINISHES_IN_BACKGROUND
        ):
            continue
        record.measured("loser cancelled after", late_s)
        if late_s > AT_ONCE_S:
            record.violated(
                "hedging_bounded",
                f"#{request.plan.number}: {attempt.target} lost, and went on for {late_s:.3f} s",
            )


def _won_s(request: RequestRecord, attempt: ObservedAttempt) -> float | None:
    """When this one brought an answer, or the beginning of one that was given to the client."""
    reported = attempt.reported
    if reported is None or reported.first_token_s is None or reported.reason == "hedge_lost":
        return None
    if request.plan.stream and not request.plan.whole:
        return request.began_s + reported.first_token_s
    return _ended_s(reported, attempt)


def _ended_s(reported: AttemptRecord, attempt: ObservedAttempt) -> float | None:
    return attempt.ended_s if reported.ok else None
