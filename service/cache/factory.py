"""Factory of the answer cache: in memory, or in Redis behind a circuit breaker. Call `open_cache(...)`."""

from random import Random

from dub5.service.cache.cache import AnswerCache
from dub5.service.cache.storage import Storage
from dub5.service.config.options import CacheBounds
from dub5.service.config.settings import Secret
from dub5.service.events import BreakerChanged, Events
from dub5.service.optional_parts import load_part
from dub5.service.resilience.circuit_breaker import BreakerState
from dub5.service.resilience.storage_guard import BreakerGuard

SCOPE = "cache"  # of its breaker


def open_cache(bounds: CacheBounds, redis_url: Secret | None, events: Events, rng: Random) -> AnswerCache:
    """Build the answer cache: in Redis if `redis_url` is given, else in memory. It does not connect yet."""
    if redis_url is None:
        return AnswerCache(bounds, events, rng=rng)

    def on_change(before: BreakerState, after: BreakerState, why: str) -> None:
        events.emit(BreakerChanged(SCOPE, before, after, why))

    storage: Storage = load_part("storage redis")(redis_url.reveal(), bounds.redis, rng)
    redis = bounds.redis
    guard = BreakerGuard(redis.timeout_s, redis.connections_max, storage.failures, rng, on_change)
    return AnswerCache(bounds, events, storage, guard, rng)
