"""Rate limits: they are exact. Computed from what the clients saw: when they asked, and what they were told.

rule               says
rate_limits_exact  never more than `count` requests of a key are accepted in any window, and none is refused
                   below it, but for a block that follows strikes and ends in its time; premium callers are
                   never refused; a refused request reaches no provider; what is counted says so

A client that left before the head of its reply saw nothing: its request may have been accepted or refused.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator

from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
from dub5.chaos.simulation.world.generate_limits import caller_variable
from dub5.chaos.simulation.world.model import World
from dub5.service.config.options import LimitOptions

RATE_LIMITED = "rate_limited"
STRIKES_WITHIN_S = 60.0
# The service counts whole microseconds.
EPSILON_S = 3e-6


class CountedKey:
    """All requests of one key of a limit, as its clients saw them. `requests` are in the order of arrival."""

    def __init__(self, world: World, by: str, limit: LimitOptions, requests: list[RequestRecord]) -> None:
        self.by = by
        self.limit = limit
        self._strikes_min = world.limits.strikes
        self._block_max_s = world.limits.block_max_s
        self.accepted = [request for request in requests if _is_accepted(request)]
        unseen_s = [request.began_s for request in requests if not request.status]
        self._counted_s = sorted([*(request.began_s for request in self.accepted), *unseen_s])
        refused_s = [request.began_s for request in requests if _is_refused(request)]
        self._strikes_s = sorted([*filter(self.may_be_full, refused_s), *unseen_s])

    def may_be_full(self, at_s: float) -> bool:
        """Say whether the requests that may have been accepted fill the window that ends at this moment."""
        return _within(self._counted_s, at_s, self.limit.window_s) >= self.limit.count

    def may_be_blocked(self, at_s: float) -> bool:
        """Say whether a block of this key may be going on: it has begun with a strike at a full limit."""
        first = bisect_right(self._strikes_s, at_s - self._block_max_s - EPSILON_S)
        return any(
            _within(self._strikes_s, began_s, STRIKES_WITHIN_S) >= self._strikes_min
            for began_s in self._strikes_s[first : bisect_left(self._strikes_s, at_s)]
        )


def check_rate_limits(world: World, record: RunRecord) -> None:
    """Check all requests of a world with rate limits."""
    found: dict[tuple[str, str], list[RequestRecord]] = defaultdict(list)
    for request in sorted(record.requests.values(), key=lambda request: request.began_s):
        counted_by = list(_keys(world, request))
        _check_told(record, request, counted=bool(counted_by))
        for by, name in counted_by:
            found[by, name].append(request)
    limits = {"caller": world.limits.caller, "ip": world.limits.ip}
    keys = {
        (by, name): CountedKey(world, by, limit, requests)
        for (by, name), requests in found.items()
        if (limit := limits[by]) is not None
    }
    for (by, name), key in keys.items():
        _check_accepted(record, f"{by} {name}", key)
    for request in filter(_is_refused, record.requests.values()):
        _check_refused(record, request, [keys[by, name] for by, name in _keys(world, request)])


def _keys(world: World, request: RequestRecord) -> Iterator[tuple[str, str]]:
    """Yield what a request is counted by: the kind and the name of each key."""
    limits, caller = world.limits, request.plan.caller
    if caller is not None and caller_variable(caller) in limits.premium:
        return
    if caller is not None and limits.caller is not None:
        yield "caller", str(caller)
    if limits.ip is not None:
        yield "ip", request.plan.address


def _within(times_s: list[float], at_s: float, window_s: float) -> int:
    """Count the times in the window that ends at this moment."""
    return bisect_right(times_s, at_s) - bisect_right(times_s, at_s - window_s - EPSILON_S)


def _is_refused(request: RequestRecord) -> bool:
    ending = request.client_ending
    return request.status == 429 and ending is not None and ending.reason == RATE_LIMITED


def _is_accepted(request: RequestRecord) -> bool:
    """Say whether it was counted. What was refused before, for a drain, has no such header."""
    return "ratelimit" in request.headers and not _is_refused(request)


def _check_told(record: RunRecord, request: RequestRecord, *, counted: bool) -> None:
    """Check that what is counted says so, that nothing else is, and that no provider sees a refused one."""
    number, told = request.plan.number, "ratelimit" in request.headers
    if not counted and (told or _is_refused(request)):
        record.violated("rate_limits_exact", f"#{number} has no limit, and was counted")
    if counted and not told and request.status == 200:
        record.violated("rate_limits_exact", f"#{number} has a limit, and was not counted")
    if _is_refused(request) and request.attempts:
        record.violated("rate_limits_exact", f"#{number} was refused, and sent to a provider")


def _check_accepted(record: RunRecord, name: str, key: CountedKey) -> None:
    """Compare each accepted request with the one that came `count` before it."""
    limit = key.limit
    for before, request in zip(key.accepted, key.accepted[limit.count :], strict=False):
        apart_s = request.began_s - before.began_s
        if apart_s < limit.window_s - EPSILON_S:
            record.violated(
                "rate_limits_exact",
                f"{limit.count + 1} requests of {name} were accepted within {apart_s:.6f} s, the last of them"
                f" #{request.plan.number}; allowed are {limit.count} in {limit.window_s} s",
            )


def _check_refused(record: RunRecord, request: RequestRecord, keys: list[CountedKey]) -> None:
    """Check that a refusal has a reason: the limit that it names is full, or blocked for strikes."""
    named = request.headers.get("ratelimit", "").partition(";")[0].strip('"')
    record.sometimes["rate limited"] += 1
    for key in keys:
        if key.by == named and key.may_be_full(request.began_s):
            return
        if key.by == named and key.may_be_blocked(request.began_s):
            record.sometimes["rate limit: blocked"] += 1
            return
    record.violated(
        "rate_limits_exact", f"#{request.plan.number} was refused by {named or 'nothing'}, which was not full"
    )
