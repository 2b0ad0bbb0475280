"""Helpers of the invariants: they read a reply's Retry-After, and how the attempts of one request relate."""

import re
from collections.abc import Mapping

from dub5.chaos.simulation.invariants.record import FINISHES_IN_BACKGROUND, ObservedAttempt, RequestRecord
from dub5.service.config.options import TimeoutOptions

STALE = frozenset({"send_closed", "send_reset", "wait_closed", "wait_reset"})
NUMBER = re.compile(r"\d+(\.\d+)?")


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a reply's Retry-After, milliseconds first; None for dates and malformed
    values."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if NUMBER.fullmatch(value := headers.get(name, "")):
            return float(value) * unit_s
    return None


def answered_elsewhere(request: RequestRecord, attempt: ObservedAttempt) -> bool:
    """Say whether another target or a fallback answered first: then a losing probe may finish in the
    background."""
    if any(each.ended is not None and each.ended.degraded for each in (request, *request.subscribers)):
        return True
    others = [other for other in request.attempts if other is not attempt]
    return any(other.reported is not None and other.reported.first_token_s is not None for other in others)


def repeated_in_background(request: RequestRecord, attempt: ObservedAttempt) -> ObservedAttempt | None:
    """Return the attempt on a dead connection that this one repeats, for a probe that finishes in the
    background."""
    before = [other for other in request.attempts if other.target == attempt.target and other is not attempt]
    if request.hedged.get(attempt.target) not in FINISHES_IN_BACKGROUND or len(before) != 1:
        return None
    reported = before[0].reported
    return before[0] if reported is not None and reported.reason in STALE else None


def background_until_s(attempt: ObservedAttempt, timeouts: TimeoutOptions) -> float:
    """Return when an attempt that finishes in the background must end, whatever its request's deadline."""
    return attempt.began_s + timeouts.connect_s + timeouts.first_token_s
