"""Rate limits: they are exact. Computed from what the clients saw: when they asked, and what they were told.

rule               says
rate_limits_exact  never more than `count` requests of a key are accepted in any window, and none is refused
                   below it, but for a block that follows strikes and ends in its time; premium callers are
                   never refused; a refused request reaches no provider; what is counted says so

A client that left before it could know saw nothing: its request may have been accepted or refused.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator

from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
from dub5.chaos.simulation.world.generate_limits import caller_variable
from dub5.chaos.simulation.world.model import World
from dub5.service.admission.rate_limit_gate import SESSION_LIMIT
from dub5.service.config.options import LimitOptions, LimitsOptions

KeyName = tuple[str, str]  # kind and name

RATE_LIMITED = "rate_limited"
STRIKES_WITHIN_S = 60.0
# The service counts whole microseconds.
EPSILON_S = 3e-6


class CountedKey:
    """All requests of one key of a limit, as its clients saw them, in the order of arrival."""

    def __init__(self, by: str, limit: LimitOptions, requests: list[RequestRecord]) -> None:
        self.by = by
        self.limit = limit
        self.accepted = [request for request in requests if _is_accepted(request)]
        unseen = filter(_is_unseen, requests)
        self._counted_s = sorted(request.began_s for request in (*self.accepted, *unseen))

    def may_be_full(self, at_s: float) -> bool:
        """Say whether the requests that may have been accepted fill the window that ends at this moment."""
        return _within(self._counted_s, at_s, self.limit.window_s) >= self.limit.count


class Blocks:
    """When a client may have been blocked: from a strike on, which is a refusal by a limit that is full."""

    def __init__(self, limits: LimitsOptions, strikes_s: list[float]) -> None:
        self._strikes_s = sorted(strikes_s)
        self._strikes_min = limits.strikes
        self._block_max_s = limits.block_max_s

    def may_be_on(self, at_s: float) -> bool:
        """Say whether a block may be going on at this moment, or begin with a strike in it."""
        first = bisect_right(self._strikes_s, at_s - self._block_max_s - EPSILON_S)
        return any(
            _within(self._strikes_s, began_s, STRIKES_WITHIN_S) >= self._strikes_min
            for began_s in self._strikes_s[first : bisect_right(self._strikes_s, at_s)]
        )


def check_rate_limits(world: World, record: RunRecord) -> None:
    """Check all requests of a world with rate limits."""
    requests = sorted(record.requests.values(), key=lambda request: request.began_s)
    names = {request.plan.number: list(_keys(world, request)) for request in requests}
    found: dict[KeyName, list[RequestRecord]] = defaultdict(list)
    for request in requests:
        _check_told(record, request, counted=bool(names[request.plan.number]))
        for name in names[request.plan.number]:
            found[name].append(request)
    limits = {"session": SESSION_LIMIT, "caller": world.limits.caller, "ip": world.limits.ip}
    keys = {
        name: CountedKey(name[0], limit, requests)
        for name, requests in found.items()
        if (limit := limits[name[0]]) is not None
    }
    for name, key in keys.items():
        _check_accepted(record, " ".join(name), key)
    strikes_s: dict[KeyName, list[float]] = defaultdict(list)  # by client: the key that names it most closely
    counted = [request for request in requests if names[request.plan.number]]
    for request in counted:
        known, at_s = names[request.plan.number], request.began_s
        by_full = _is_refused(request) and any(keys[name].may_be_full(at_s) for name in known)
        if by_full or _is_unseen(request):
            strikes_s[known[0]].append(at_s)
    blocks = {name: Blocks(world.limits, times) for name, times in strikes_s.items()}
    for request in filter(_is_refused, counted):
        known = names[request.plan.number]
        _check_refused(record, request, [keys[name] for name in known], blocks.get(known[0]))


def _keys(world: World, request: RequestRecord) -> Iterator[KeyName]:
    """Yield what a request is counted by, first what names its client most closely."""
    limits, caller = world.limits, request.plan.caller
    if caller is not None and caller_variable(caller) in limits.premium:
        return
    if request.plan.session is not None:
        yield "session", str(request.plan.session)
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


def _is_unseen(request: RequestRecord) -> bool:
    """Say whether the client left before it could know: before the head, or before the body of a 429."""
    left = request.client_ending is not None and request.client_ending.outcome is ClientOutcome.CANCELLED
    return not request.status or (request.status == 429 and left)


def _is_accepted(request: RequestRecord) -> bool:
    """Say whether it was counted. What was refused before, for a drain, has no such header."""
    return "ratelimit" in request.headers and not _is_refused(request) and not _is_unseen(request)


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


def _check_refused(
    record: RunRecord, request: RequestRecord, keys: list[CountedKey], blocks: Blocks | None
) -> None:
    """Check that a refusal has a reason: the limit that it names is full, or its client is blocked."""
    named, any_of = request.headers["ratelimit"].partition(";")[0].strip('"'), request.plan.socket
    record.sometimes["rate limited"] += 1
    if any((any_of or key.by == named) and key.may_be_full(request.began_s) for key in keys):
        return
    if (any_of or keys[0].by == named) and blocks is not None and blocks.may_be_on(request.began_s):
        record.sometimes["rate limit: blocked"] += 1
        return
    record.violated(
        "rate_limits_exact", f"#{request.plan.number} was refused by its {named}, which was not full"
    )
