"""What the rules read out of a reply, and out of a request's tries."""

import re
from collections.abc import Mapping

from dub5.chaos.simulation.invariants.record import FINISHES_IN_BACKGROUND, ObservedAttempt, RequestRecord

STALE = frozenset({"send_closed", "send_reset", "wait_closed", "wait_reset"})
NUMBER = re.compile(r"\d+(\.\d+)?")


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """What a reply says in so many words; milliseconds before seconds. Dates and nonsense are left to the service."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if NUMBER.fullmatch(said := headers.get(name, "")):
            return float(said) * unit_s
    return None


def answered_elsewhere(request: RequestRecord, attempt: ObservedAttempt) -> bool:
    """Whether another target, or a substitute, was faster: then a probe may be heard out, client or no client."""
    if any(one.ended is not None and one.ended.degraded for one in (request, *request.subscribers)):
        return True
    others = [other for other in request.attempts if other is not attempt]
    return any(other.reported is not None and other.reported.first_token_s is not None for other in others)


def is_background_retry(request: RequestRecord, attempt: ObservedAttempt) -> bool:
    """Whether it is a probe or trial that is heard out, and that had met a dead connection, which tells nothing."""
    before = [
        other.reported
        for other in request.attempts
        if other.target == attempt.target and other is not attempt
    ]
    heard_out = request.hedged.get(attempt.target) in FINISHES_IN_BACKGROUND
    return heard_out and len(before) == 1 and before[0] is not None and before[0].reason in STALE
