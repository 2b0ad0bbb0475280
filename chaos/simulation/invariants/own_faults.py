"""Own faults: what is not the caller's fault is never told as if it were.

rule              says
own_fault_is_5xx  a fault of the gateway, of its keys or of its providers reaches the caller as a 5xx with a
                  code; 401, 402 and 403 never come, as every caller's key is good; a 429 comes only if a rate
                  limit or quota is the reason of every target, or of this service (rate_limits.py)
"""

from dub5.chaos.simulation.invariants.rate_limits import RATE_LIMITED
from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord

CALLERS_KEY = (401, 402, 403, 407)
LIMITS = {"http_429", "cooling_down", "quota_used_up"}


def check_own_faults(record: RunRecord) -> None:
    """Check the status of every reply."""
    for request in record.requests.values():
        if wrong := _what_is_wrong(request):
            record.violated("own_fault_is_5xx", f"#{request.plan.number} {wrong}")


def _what_is_wrong(request: RequestRecord) -> str:
    """Return what is wrong with the status of a reply; empty if nothing."""
    ending, ended = request.client_ending, request.ended
    if request.status in CALLERS_KEY:
        return f"was told {request.status}, but its key is good"
    if ending is None or ended is None:
        return ""
    if request.status >= 500 and ending.reason == f"http_{request.status}":
        return f"was told {request.status} without a code"
    reasons = {attempt.reason for attempt in ended.attempts}
    own_limit = RATE_LIMITED in (ending.reason, ended.code)  # a client that left has read no code
    if request.status == 429 and not own_limit and (not reasons or reasons - LIMITS):
        return f"was told 429, because of {', '.join(sorted(reasons)) or 'nothing'}"
    return ""
