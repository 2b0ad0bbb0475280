"""The cache that the settings ask for: in memory, or in a Redis with a guard before it."""

from random import Random

from service.answers.cache import AnswerCache
from service.answers.storage_guard import BreakerGuard
from service.answers.storage_redis import RedisStorage
from service.attempt.breaker import State
from service.events import BreakerChanged, Events
from service.options import CacheBounds
from service.settings import Secret

SCOPE = "cache"  # of its breaker


def opened(bounds: CacheBounds, redis_url: Secret | None, events: Events, dice: Random) -> AnswerCache:
    """Connects to nothing yet. `redis_url`: where the settings name a Redis."""
    if redis_url is None:
        return AnswerCache(bounds, events, dice=dice)

    def tell(before: State, after: State, why: str) -> None:
        events.emit(BreakerChanged(SCOPE, before, after, why))

    storage = RedisStorage(redis_url.reveal(), bounds.redis, dice)
    redis = bounds.redis
    guard = BreakerGuard(redis.timeout_s, redis.connections_max, storage.failures, dice, tell)
    return AnswerCache(bounds, events, storage, guard, dice)
