"""The gate for rate limits: counts each request for its session, its caller and its address, or refuses it.

    admit --premium--> not counted
          --its client is blocked--> refused, without asking a log
          --shared log (Redis), or the log of this process where that is lost--> counted, or refused

The tightest limit is told in the headers of the answer, refused or not.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dub5.service import clock
from dub5.service.admission.rate_limit import LimitUsage, Penalties, RateLimit, SlidingLog
from dub5.service.admission.sessions import Session
from dub5.service.admission.shared_log import SharedLog
from dub5.service.config.options import LimitOptions, LimitsOptions
from dub5.service.errors import RateLimited
from dub5.service.events import Events, LimitCountedLocally, RateLimitHit, SecurityKind, SecurityNoted
from dub5.service.model import ANONYMOUS, Caller
from dub5.service.resilience.storage_guard import StorageLost

SESSION_LIMIT = LimitOptions(count=20)  # where sessions are on, and no limit is set
WHO = {"session": "This session", "caller": "This API key", "ip": "This address"}
UNCOUNTED: Mapping[str, str] = {}


class Passage(NamedTuple):
    """What came of a request at the gate. `headers` belong to its answer, whatever that is."""

    headers: Mapping[str, str]
    refusal: RateLimited | None = None


class Counted(NamedTuple):
    """A limit that applies to a request. `who`: the name of `key` in logs."""

    log: SlidingLog
    key: str
    who: str


class RateLimitGate:
    """All rate limits of a configuration. `previous`: its logs are kept for the limits that stay equal."""

    def __init__(
        self,
        limits: Sequence[RateLimit],
        options: LimitsOptions,
        events: Events,
        shared: SharedLog | None = None,
        previous: "RateLimitGate | None" = None,
    ) -> None:
        known = {log.limit: log for log in previous.logs.values()} if previous else {}
        self.logs: dict[str, SlidingLog] = {
            limit.by: known[limit] if limit in known else SlidingLog(limit) for limit in limits
        }
        self.penalties = Penalties(options.strikes, options.block_s, options.block_max_s)
        if previous is not None and previous.penalties.options == self.penalties.options:
            self.penalties = previous.penalties
        self._events = events
        self._shared = shared
        self._asked: Counter[tuple[RateLimit, str]] = Counter()  # of Redis, at this moment

    async def admit(self, address: str, session: Session | None, caller: Caller) -> Passage:
        """Count a request, or refuse it. `address`: the key of the client's address."""
        if caller.premium:
            return Passage(UNCOUNTED)
        counted = self._counted(address, session, caller)
        if not counted:
            return Passage(UNCOUNTED)
        client = counted[0]
        if blocked_s := self.penalties.blocked_s(client.log.limit.by, client.key, clock.now()):
            return self._refuse_blocked(client, blocked_s)
        usages = await self._take(counted)
        if any(usage.full for usage in usages):
            return self._refuse(counted, usages)
        limit, used, frees_us = min(
            usages, key=lambda usage: (usage.limit.count - usage.used, -usage.frees_us)
        )
        return Passage(_headers(limit, limit.count - used - 1, frees_us / 1e6 if used else limit.window_s))

    def _counted(self, address: str, session: Session | None, caller: Caller) -> list[Counted]:
        """Return what counts a request. The first of it names the client most closely, and may be blocked.

        So nobody is blocked for what others behind the same address do.
        """
        found = []
        if session is not None and (log := self.logs.get("session")) is not None:
            found.append(Counted(log, session.id, session.label))
        if caller is not ANONYMOUS and (log := self.logs.get("caller")) is not None:
            found.append(Counted(log, caller.key, caller.key))
        if (log := self.logs.get("ip")) is not None:
            found.append(Counted(log, address, address))
        return found

    async def _take(self, counted: Sequence[Counted]) -> list[LimitUsage]:
        """Count the request in all of its limits, unless one is full. Return what each had used before.

        What Redis counts is counted here as well, for the time when Redis is lost.
        """
        usages = None if self._shared is None else await self._take_shared(self._shared, counted)
        now_us = round(clock.now() * 1e6)
        if usages is None:
            usages = [self._usage(log, key, now_us) for log, key, _ in counted]
        if not any(usage.full for usage in usages):
            for log, key, _ in counted:
                log.add(key, now_us)
        return usages

    async def _take_shared(self, shared: SharedLog, counted: Sequence[Counted]) -> list[LimitUsage] | None:
        """Count the request in Redis; None if Redis is lost, or has too many questions at once."""
        asked = [(log.limit, key) for log, key, _ in counted]
        self._asked.update(asked)
        try:
            return await shared.take(asked)
        except StorageLost as lost:
            self._events.emit(LimitCountedLocally(str(lost)))
            return None
        finally:
            for one in asked:
                self._asked[one] -= 1
                if not self._asked[one]:
                    del self._asked[one]

    def _usage(self, log: SlidingLog, key: str, now_us: int) -> LimitUsage:
        """Return the usage as this process knows it. What Redis is asked for now, it may accept as well."""
        usage = log.usage(key, now_us)
        if not (asked := self._asked.get((log.limit, key), 0)):
            return usage
        return usage._replace(used=usage.used + asked, frees_us=usage.frees_us or log.limit.window_us)

    def _refuse(self, counted: Sequence[Counted], usages: Sequence[LimitUsage]) -> Passage:
        """Refuse a request, and block its client if it does not wait. The longest wait is told."""
        waits = [(usage.frees_us, one) for one, usage in zip(counted, usages, strict=True) if usage.full]
        wait_us, tightest = max(waits, key=lambda wait: wait[0])
        client, wait_s = counted[0], wait_us / 1e6
        by = client.log.limit.by
        if block_s := self.penalties.refuse(by, client.key, wait_s, clock.now()):
            where = f"blocked for {block_s:g} s, as a {by} that does not wait"
            self._events.emit(SecurityNoted(SecurityKind.RATE_ABUSE, client.who, where))
            return self._refuse_blocked(client, max(block_s, wait_s))
        limit = tightest.log.limit
        what = f"may send {limit.count:,} requests in {limit.window_s:,} s, and has sent them"
        return self._refusal(tightest, wait_s, f"{WHO[limit.by]} {what}.", blocked=False)

    def _refuse_blocked(self, one: Counted, left_s: float) -> Passage:
        text = f"{WHO[one.log.limit.by]} is blocked, because it did not wait when it was told to."
        return self._refusal(one, left_s, text, blocked=True)

    def _refusal(self, one: Counted, wait_s: float, text: str, *, blocked: bool) -> Passage:
        wait_s = _ceil(wait_s * 1000) / 1000
        limit = one.log.limit
        self._events.emit(RateLimitHit(limit.by, one.who, blocked))
        error = RateLimited(f"{text} Come again in {_ceil(wait_s):,} s.", retry_after_s=wait_s)
        return Passage(_headers(limit, 0, wait_s), error)


def open_gate(
    options: LimitsOptions,
    *,
    sessions: bool,
    events: Events,
    shared: SharedLog | None = None,
    previous: RateLimitGate | None = None,
) -> RateLimitGate | None:
    """Return the gate of these settings; None if they limit nothing. `sessions`: whether sessions are on."""
    session = options.session or (SESSION_LIMIT if sessions else None)
    named = {"session": session, "caller": options.caller, "ip": options.ip}
    limits = [RateLimit(by, limit.count, limit.window_s) for by, limit in named.items() if limit is not None]
    return RateLimitGate(limits, options, events, shared, previous) if limits else None


def _headers(limit: RateLimit, remaining: int, reset_s: float) -> dict[str, str]:
    """Return the headers of OpenAI, which its SDKs pass on, and of draft-ietf-httpapi-ratelimit-headers."""
    seconds = _ceil(reset_s)
    return {
        "x-ratelimit-limit-requests": str(limit.count),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": f"{seconds}s",
        "ratelimit-policy": f'"{limit.by}";q={limit.count};w={limit.window_s}',
        "ratelimit": f'"{limit.by}";r={remaining};t={seconds}',
    }


def _ceil(value: float) -> int:
    """Round up, but not for what is left of a subtraction of floats: 38.0000000001 s are 38 s."""
    return math.ceil(round(value, 6))
