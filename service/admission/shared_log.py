"""The sliding log of all processes, in Redis: one script counts a request in all of its limits, or in none.

    <prefix>:limit:<digest>  a list of the times of accepted requests, by Redis's own clock, with an expiry

The digest hides who is counted: neither a session's cookie nor an address is stored in Redis.
"""

import itertools
from collections.abc import Sequence
from hashlib import blake2b
from random import Random

from dub5.service.admission.rate_limit import LimitUsage, RateLimit
from dub5.service.config.options import RedisOptions
from dub5.service.config.settings import Secret, Settings
from dub5.service.events import BreakerChanged, Events
from dub5.service.optional_parts import load_part
from dub5.service.resilience.circuit_breaker import BreakerState, OnStateChange
from dub5.service.resilience.storage_guard import BreakerGuard, Patience

SCOPE = "limits"  # of its breaker

# ARGV: count and window of each key. Times are whole microseconds, which a Lua number holds exactly.
# A time that lies a window ahead was written before Redis's clock was set back: it counts no more.
# Returns, for each key, the number of requests before this one, and the time until the oldest counts no more.
_TAKE = """
local time = redis.call('time')
local now = time[1] * 1000000 + time[2]
local found, free = {}, true
for i, key in ipairs(KEYS) do
  local count, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local oldest = tonumber(redis.call('lindex', key, 0))
  while oldest and math.abs(now - oldest) >= window do
    redis.call('lpop', key)
    oldest = tonumber(redis.call('lindex', key, 0))
  end
  local used = redis.call('llen', key)
  free = free and used < count
  found[2 * i - 1], found[2 * i] = used, oldest and oldest + window - now or 0
end
if free then
  for i, key in ipairs(KEYS) do
    redis.call('rpush', key, string.format('%.0f', now))
    redis.call('pexpire', key, math.ceil(ARGV[2 * i] / 1000))
  end
end
return found
"""


class SharedLog:
    """A log that all processes with the same Redis and prefix share. It connects at the first call."""

    def __init__(self, url: str, options: RedisOptions, rng: Random, on_change: OnStateChange) -> None:
        redis = load_part("redis client")(url, options)
        self._client = redis.cache.client
        self._script = self._client.register_script(_TAKE)
        self._prefix = options.prefix
        self._guard = BreakerGuard(options.timeout_s, options.connections_max, redis.failures, rng, on_change)

    async def take(self, counted: Sequence[tuple[RateLimit, str]]) -> list[LimitUsage]:
        """Count a request with all of these keys, unless a limit is full. Return what each had used.

        Raises StorageLost.
        """
        keys = [self._key(limit, key) for limit, key in counted]
        args = list(itertools.chain.from_iterable((limit.count, limit.window_us) for limit, _ in counted))
        patience = Patience(self._guard.patience_s)
        found = await self._guard.call(patience, lambda: self._script(keys=keys, args=args))
        return [LimitUsage(limit, found[2 * i], found[2 * i + 1]) for i, (limit, _) in enumerate(counted)]

    async def aclose(self) -> None:
        """Close the connections; the times stay."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    def _key(self, limit: RateLimit, key: str) -> str:
        # With its values: the times of a limit that was larger would fill a smaller one beyond what is told.
        name = f"{limit.by}:{limit.count}:{limit.window_s}:{key}"
        digest = blake2b(name.encode(), digest_size=16).hexdigest()
        return f"{self._prefix}:limit:{digest}"


def open_shared_log(
    settings: Settings, redis_url: Secret | None, events: Events, rng: Random
) -> SharedLog | None:
    """Return the shared log of the settings, or None. It does not connect yet."""
    if redis_url is None or not settings.limits.shared:
        return None

    def on_change(before: BreakerState, after: BreakerState, why: str) -> None:
        events.emit(BreakerChanged(SCOPE, before, after, why))

    return SharedLog(redis_url.reveal(), settings.cache.redis, rng, on_change)
