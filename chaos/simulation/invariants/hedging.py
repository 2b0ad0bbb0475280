"""Hedged requests: how many there are, and how soon a losing attempt is cancelled.

rule             says
hedging_bounded  hedges of slow attempts stay within their share of the requests over any minute; a losing
                 attempt is cancelled within 10 ms, unless it is a probe that finishes in the background; a
                 slow or late attempt is hedged at another provider
"""

from bisect import bisect_left, bisect_right

from dub5.chaos.simulation.invariants.record import (
    FINISHES_IN_BACKGROUND,
    ObservedAttempt,
    RequestRecord,
    RunRecord,
    provider_of,
)
from dub5.chaos.simulation.world.model import World
from dub5.service.model import AttemptRecord

WINDOW_S = 60  # of the share, in whole seconds
AT_ONCE_S = 0.01
EPSILON_S = 1e-6


def check_hedging(world: World, record: RunRecord) -> None:
    """Check the number of hedges in a run, and each race."""
    for generation, tuning in enumerate(world.tunings):
        _check_share(record, generation, tuning.hedge.share)
    for request in record.requests.values():
        if request.hedged:
            _check_losers(record, request)
            _check_provider(record, request)


def _check_share(record: RunRecord, generation: int, share: float) -> None:
    hedged_s = [at_s for at_s, by in record.hedges if by == generation]
    if not hedged_s:
        return
    requests = [
        request
        for request in record.requests.values()
        if request.generation == generation and _may_call_providers(request)
    ]
    sent_s = sorted(
        request.waits[-1].to_s if request.waits else request.cache_looked_s or request.began_s
        for request in requests
    )
    for n, at_s in enumerate(hedged_s, start=1):
        from_s = int(at_s) - WINDOW_S + 1
        hedge_count = n - bisect_left(hedged_s, from_s)
        request_count = bisect_right(sent_s, at_s) - bisect_left(sent_s, from_s)
        if hedge_count > share * request_count + EPSILON_S:
            record.violated(
                "hedging_bounded",
                f"{hedge_count} hedges in the 60 s before {at_s:.3f} s, for {request_count} requests",
            )


def _may_call_providers(request: RequestRecord) -> bool:
    """Say whether a request may call providers itself."""
    return request.leader is None and request.cache_result != "hit"


def _check_provider(record: RunRecord, request: RequestRecord) -> None:
    """Check that each slow or late attempt is hedged at another provider: its models are slow together.

    A neighbour will do where other providers have refused the hedge.
    """
    for hedge in request.hedges:
        if hedge.why in ("slow", "late") and hedge.target:
            record.sometimes["hedged at another provider"] += 1
            record.sometimes["hedged at another provider, with several hedges"] += len(request.hedges) > 1
            provider = provider_of(hedge.hedged)
            if provider_of(hedge.target) == provider and not _was_passed_over(request, hedge.at_s, provider):
                record.violated(
                    "hedging_bounded",
                    f"#{request.plan.number}: {hedge.hedged} is hedged at {hedge.target}, of its provider",
                )


def _was_passed_over(request: RequestRecord, at_s: float, provider: str) -> bool:
    """Return whether a target of another provider could not be called at this time."""
    return any(
        not attempt.tried
        and provider_of(attempt.target) != provider
        and abs(request.began_s + attempt.started_s - at_s) <= AT_ONCE_S
        for attempt in (request.ended.attempts if request.ended else ())
    )


def _check_losers(record: RunRecord, request: RequestRecord) -> None:
    """Check that the first content wins, and that losing attempts are cancelled unless they finish in the
    background."""
    won_s = min(
        (at_s for attempt in request.attempts if (at_s := _won_s(request, attempt)) is not None), default=None
    )
    if won_s is None:
        return
    for attempt in request.attempts:
        late_s = record.ran_s(won_s, attempt.closed_s or 0.0)
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
                f"#{request.plan.number}: the losing attempt at {attempt.target} ran for {late_s:.3f} s more",
            )


def _won_s(request: RequestRecord, attempt: ObservedAttempt) -> float | None:
    """Return when an attempt brought an answer, or the beginning of one that its client received."""
    reported = attempt.reported
    if reported is None or reported.first_token_s is None or reported.reason == "hedge_lost":
        return None
    if request.plan.stream and not request.plan.whole:
        return attempt.ended_s - reported.ended_s + reported.first_token_s
    return _ended_s(reported, attempt)


def _ended_s(reported: AttemptRecord, attempt: ObservedAttempt) -> float | None:
    return attempt.ended_s if reported.ok else None
