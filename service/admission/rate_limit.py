"""Rate limits: an exact sliding log for each key, and blocks of keys that do not wait. Times are handed in.

    request --each limit that applies--> LimitUsage --all have room?--> counted in all of them
                                                    `--one is full--> refused, counted in none
    refusals before the time that the key was told --`strikes` of them--> a block, doubled each time

A sliding log has no edge at which two windows meet: `count` requests in ANY `window_s`.
"""

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

KEYS_MAX = 100_000  # of one limit; the key that was counted longest ago is forgotten
FORGOTTEN_AT_ONCE = 64  # by one request: 100,000 would stop the event loop for a tenth of a second
STRIKES_WITHIN_S = 60.0
UNDERWAY_S = 2.0  # requests that come so soon after a refusal were sent before their client knew of it
EARLY_S = 0.1  # clients round the time that they were told


class RateLimit(Struct, frozen=True):
    """At most `count` requests in any `window_s`. `by`: what is counted: "session", "caller" or "ip"."""

    by: str
    count: int
    window_s: int

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return self.window_s * 1_000_000


class LimitUsage(NamedTuple):
    """What a key has used of a limit before this request.

    `frees_us`: until the oldest of the `used` requests counts no more.
    """

    limit: RateLimit
    used: int
    frees_us: int

    @property
    def full(self) -> bool:
        """Whether this request would be one too many."""
        return self.used >= self.limit.count


class SlidingLog:
    """The times of the requests that a limit has accepted in its last window, by key.

    Times are whole microseconds, so that the moment that a client is told is exactly that from which on it
    is accepted.
    """

    def __init__(self, limit: RateLimit, keys_max: int = KEYS_MAX) -> None:
        self.limit = limit
        self._window_us = limit.window_us
        self._keys_max = keys_max
        # By the time of the last request. Lists: a deque takes 760 bytes for its first entry.
        self._times: OrderedDict[str, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def usage(self, key: str, now_us: int) -> LimitUsage:
        """Return what the key has used in the window that ends now."""
        times = self._times.get(key)
        if times is None:
            return LimitUsage(self.limit, 0, 0)
        over_us = now_us - self._window_us
        if times and times[0] <= over_us:
            del times[: bisect_right(times, over_us)]
        return LimitUsage(self.limit, len(times), times[0] - over_us if times else 0)

    def add(self, key: str, now_us: int) -> None:
        """Count a request that was accepted."""
        times = self._times.get(key)
        if times is None:
            times = self._times[key] = []
        else:
            self._times.move_to_end(key)
        times.append(now_us)
        if len(times) > self.limit.count:  # Redis has forgotten some of them
            del times[0]
        self._forget(now_us)

    def _forget(self, now_us: int) -> None:
        """Forget some of the keys that have used nothing any more, and one that is too many."""
        for _ in range(min(FORGOTTEN_AT_ONCE, len(self._times))):
            oldest = next(iter(self._times.values()))
            over = not oldest or oldest[-1] <= now_us - self._window_us
            if not over and len(self._times) <= self._keys_max:
                return
            self._times.popitem(last=False)


@dataclass(slots=True)
class _Penalty:
    """What is held against a key."""

    told_at_s: float = 0.0
    told_until_s: float = 0.0  # when it may come again
    strikes: list[float] = field(default_factory=list)
    blocked_until_s: float = 0.0
    block_s: float = 0.0  # of its last block


class Penalties:
    """Strikes and blocks, by key.

    A strike is a refusal that comes before the time that the key was told, and not so soon that its client
    could not know. A client that waits as long as it was told never gets one.
    """

    def __init__(self, strikes: int, block_s: float, block_max_s: float, keys_max: int = KEYS_MAX) -> None:
        self.options = (strikes, block_s, block_max_s)
        self._strikes = strikes
        self._block_s = block_s
        self._block_max_s = block_max_s
        self._keys_max = keys_max
        self._keys: OrderedDict[tuple[str, str], _Penalty] = OrderedDict()  # by the time of the last refusal

    def blocked_s(self, by: str, key: str, now_s: float) -> float:
        """Return how long the key still has to wait if it is blocked; 0 if it is not.

        A block may end before the limit has room again: then its client is told the latter.
        """
        penalty = self._keys.get((by, key))
        if penalty is None or round(penalty.blocked_until_s - now_s, 6) <= 0.0:
            return 0.0
        return round(penalty.told_until_s - now_s, 6)

    def refuse(self, by: str, key: str, wait_s: float, now_s: float) -> float:
        """Note that the key is refused and told to wait. Return the length of the block that this begins.

        0: it begins none. Not for a key that is blocked.
        """
        penalty = self._keys.get((by, key))
        if penalty is None:
            penalty = self._keys[by, key] = _Penalty()
            if len(self._keys) > self._keys_max:
                self._keys.popitem(last=False)
        else:
            self._keys.move_to_end((by, key))
        if now_s >= penalty.told_until_s - EARLY_S:
            penalty.told_at_s, penalty.told_until_s = now_s, now_s + wait_s
            return 0.0
        if now_s - penalty.told_at_s < UNDERWAY_S:
            return 0.0
        return self._strike(penalty, wait_s, now_s)

    def _strike(self, penalty: _Penalty, wait_s: float, now_s: float) -> float:
        strikes = penalty.strikes
        strikes.append(now_s)
        while strikes[0] <= now_s - STRIKES_WITHIN_S:
            del strikes[0]
        if len(strikes) < self._strikes:
            return 0.0
        strikes.clear()
        remembered = penalty.block_s and now_s < penalty.blocked_until_s + 2 * penalty.block_s
        penalty.block_s = min(2 * penalty.block_s if remembered else self._block_s, self._block_max_s)
        penalty.told_at_s, penalty.blocked_until_s = now_s, now_s + penalty.block_s
        penalty.told_until_s = now_s + max(penalty.block_s, wait_s)
        return penalty.block_s
