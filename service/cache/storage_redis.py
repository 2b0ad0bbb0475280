"""Cache storage in Redis, shared by all processes with the same prefix. aiocache is the client.

    <prefix>:answer:<digest>  a CacheEntry in MessagePack, with an expiry
    <prefix>:claim:<digest>   the token of the request that is about to fetch the answer, with an expiry
    <prefix>:version          a new token after each invalidation, read together with every answer
    <prefix>:generations      a hash, selector -> token, read only when the version has changed

A lookup takes one round trip. If Redis has lost version or generations (restart, eviction), all entries are
invalid.
"""

from collections.abc import Sequence
from random import Random
from typing import Any
from urllib.parse import unquote, urlsplit

from aiocache.serializers import BaseSerializer

from dub5.service import clock
from dub5.service.cache.storage import (
    EVERYTHING,
    SELECTORS_MAX,
    CacheEntry,
    Generations,
    decode_entry,
    encode_entry,
)
from dub5.service.config.options import RedisOptions

try:
    from aiocache.backends.redis import RedisCache
    from redis.asyncio import BlockingConnectionPool, SSLConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
except ImportError:  # settings with a Redis are then refused
    RedisCache = None

# What a call may raise while Redis is unavailable, or answers what nobody expects.
FAILURES: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
)
if RedisCache is not None:
    FAILURES = (RedisError, *FAILURES)

# Atomic scripts: no process may see a new version with old generations. ARGV[1] is a new token.
_LEARN = """
if redis.call('exists', KEYS[1]) == 0 or redis.call('hexists', KEYS[2], 'everything') == 0 then
  redis.call('del', KEYS[2])
  redis.call('hset', KEYS[2], 'everything', ARGV[1])
  redis.call('set', KEYS[1], ARGV[1])
end
return {redis.call('get', KEYS[1]), redis.call('hgetall', KEYS[2])}
"""
_INVALIDATE = """
local known = redis.call('hlen', KEYS[2])
if known == 0 or known > tonumber(ARGV[2]) then
  redis.call('del', KEYS[2])
  redis.call('hset', KEYS[2], 'everything', ARGV[1])
end
for i = 3, #ARGV do redis.call('hset', KEYS[2], ARGV[i], ARGV[1]) end
redis.call('set', KEYS[1], ARGV[1])
return 1
"""
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


class _PassThrough(BaseSerializer):  # type: ignore[misc]
    """A serializer that passes bytes through: aiocache would decode them as text."""

    DEFAULT_ENCODING = None

    def dumps(self, value: bytes) -> bytes:
        return value

    def loads(self, value: bytes | None) -> bytes | None:
        return value


class RedisStorage:
    """A Storage that all processes share. It connects at the first call. Time limits: storage_guard."""

    across_processes = True

    def __init__(self, url: str, options: RedisOptions, rng: Random) -> None:
        redis = RedisClient(url, options)
        self.failures = redis.failures
        self._cache = redis.cache
        self._prefix = options.prefix
        self._rng = rng
        self._keys = (f"{self._prefix}:version", f"{self._prefix}:generations")
        self._version: bytes | None = None
        self._generations: Generations = {}

    def now(self) -> float:
        """Return the host's wall-clock time: processes on several hosts share nothing better."""
        return clock.wall()

    async def read(self, digests: Sequence[str]) -> tuple[list[CacheEntry | None], Generations]:
        """Do as Storage says."""
        keys = [*map(self._answer, digests), self._keys[0]]
        *found, version = await self._cache.multi_get(keys)
        if version is None or version != self._version:
            await self._learn()
        return [
            decode_entry(one, digest) for one, digest in zip(found, digests, strict=True)
        ], self._generations

    async def write(self, entry: CacheEntry, life_s: float) -> None:
        """Do as Storage says."""
        await self._cache.set(self._answer(entry.digest), encode_entry(entry), ttl=float(max(life_s, 0.001)))

    async def claim(self, digest: str, owner: str, for_s: float) -> bool:
        """Do as Storage says."""
        life_ms = max(1, round(for_s * 1000))
        return bool(await self._cache.raw("set", self._claim(digest), owner, nx=True, px=life_ms))

    async def release(self, digest: str, owner: str) -> None:
        """Do as Storage says."""
        await self._cache.raw("eval", _RELEASE, 1, self._claim(digest), owner)

    async def invalidate(self, selectors: Sequence[str], token: str) -> None:
        """Do as Storage says."""
        selectors_max = 0 if EVERYTHING in selectors else SELECTORS_MAX
        await self._cache.raw("eval", _INVALIDATE, 2, *self._keys, token, selectors_max, *selectors)

    async def aclose(self) -> None:
        """Close the connections; the answers stay."""
        await self._cache.client.aclose()
        await self._cache.client.connection_pool.disconnect()

    async def _learn(self) -> None:
        token = f"{self._rng.getrandbits(64):016x}"
        version, flat = await self._cache.raw("eval", _LEARN, 2, *self._keys, token)
        texts = [one.decode() for one in flat]
        generations = dict(zip(texts[::2], texts[1::2], strict=True))
        if EVERYTHING not in generations:
            raise ValueError("another program writes to our keys")
        self._version, self._generations = version, generations

    def _answer(self, digest: str) -> str:
        return f"{self._prefix}:answer:{digest}"

    def _claim(self, digest: str) -> str:
        return f"{self._prefix}:claim:{digest}"


class RedisClient:
    """aiocache's client of one Redis, and what its calls may raise."""

    failures = FAILURES

    def __init__(self, url: str, options: RedisOptions) -> None:
        self.cache = _connect(url, options)


def _connect(url: str, options: RedisOptions) -> Any:
    """Return aiocache's client without its own timeouts and retries: storage_guard limits every call."""
    parts = urlsplit(url)
    more: dict[str, Any] = {
        "timeout": None,  # for a free connection
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # saves a round trip for each new connection
        "socket_timeout": None,
        "driver_info": None,
    }
    if parts.username:
        more["username"] = unquote(parts.username)
    if parts.scheme == "rediss":
        more["connection_class"] = SSLConnection
    return RedisCache(
        serializer=_PassThrough(),
        timeout=0,
        endpoint=parts.hostname or "127.0.0.1",
        port=parts.port or 6379,
        db=int(parts.path.strip("/") or 0),
        password=unquote(parts.password) if parts.password else None,
        pool_max_size=options.connections_max,
        connection_pool_class=BlockingConnectionPool,
        connection_pool_kwargs=more,
    )
