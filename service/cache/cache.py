"""Answer cache: stores complete answers and serves them to requests that are exactly equal.

    0 ..... ttl_s ..... + stale_while_revalidate_s    fresh, then stale: served at once, then refreshed
    0 ..... ttl_s ..... + stale_if_error_s            served when no provider answers
    stored  complete plain-text answers to requests with temperature 0, as chat.completion objects
    served  as JSON or as a stream, whichever the request wants

Call `lookup(...)`, and after a miss `keep(...)`. An unavailable storage is a miss: only `invalidate` and
`offer` raise StorageLost. The two stale periods are those of RFC 5861.
"""

import asyncio
from random import Random

import msgspec

from dub5.service import clock
from dub5.service.cache.key import CacheKey, key_of
from dub5.service.cache.storage import (
    EVERYTHING,
    VERSION,
    CacheEntry,
    Generations,
    Storage,
    stamp_of,
)
from dub5.service.cache.storage_memory import MemoryStorage
from dub5.service.config.options import CacheBounds, CacheOptions
from dub5.service.events import CacheInvalidated, CacheLooked, Events
from dub5.service.model import ChatRequest
from dub5.service.resilience.storage_guard import NoGuard, Patience, StorageGuard, StorageLost

INVALIDATE_S = 1.0  # an operator waits longer than a request does
CLAIM_POLL_S = (0.02, 0.1)  # the first and the longest pause between two lookups for another process's answer


class Stored(msgspec.Struct, frozen=True):
    """A stored answer, and the target that gave it."""

    body: bytes
    target: str


class CacheHit(msgspec.Struct, frozen=True):
    """A cache hit. If it is not `fresh`, serve it at once and refresh it."""

    stored: Stored
    fresh: bool
    age_s: float


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which answers to invalidate: exactly one field is set.

    `model` may also name one target, as `provider/model`. `caller` is the hash that the log shows.
    """

    model: str | None = None
    route: str | None = None
    caller: str | None = None
    key: str | None = None
    everything: bool = False

    def chosen(self) -> tuple[str, str] | None:
        """Return the field that is set and its value; None unless exactly one is set."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value}
        if len(given) != 1:
            return None
        ((by, which),) = given.items()
        return by, "" if by == EVERYTHING else which


class AnswerCache:
    """The answer cache over a storage: this process's memory, unless another one is given, with its guard."""

    def __init__(
        self,
        bounds: CacheBounds,
        events: Events,
        storage: Storage | None = None,
        guard: StorageGuard | None = None,
        rng: Random | None = None,
    ) -> None:
        self._bounds = bounds
        self._events = events
        self._storage = storage or MemoryStorage(bounds)
        self._guard = guard or NoGuard()
        self._rng = rng or Random()
        self._releases: set[asyncio.Task[None]] = set()

    @property
    def bounds(self) -> CacheBounds:
        """The bounds of the cache. New ones apply from the next answer on."""
        return self._bounds

    @bounds.setter
    def bounds(self, bounds: CacheBounds) -> None:
        self._bounds = bounds
        if isinstance(self._storage, MemoryStorage):
            self._storage.bounds = bounds

    def key(self, request: ChatRequest, options: CacheOptions, fingerprint: str) -> CacheKey | None:
        """Return the cache key of a request, or None if its answer may not be stored. See `key_of`."""
        return key_of(request, options, fingerprint, self._guard.patience_s)

    async def lookup(self, key: CacheKey, route: str, options: CacheOptions) -> CacheHit | None:
        """Return the stored answer if it is fresh, or stale but within `stale_while_revalidate_s`."""
        try:
            entry = await self._find(key)
        except StorageLost:
            self._events.emit(CacheLooked(route, "error"))
            return None
        hit = None if entry is None else self._evaluate(entry, options, options.stale_while_revalidate_s)
        if hit is None:
            key.stale = entry
        self._emit_result(route, hit)
        return hit

    async def stale_if_error(self, key: CacheKey, route: str, options: CacheOptions) -> CacheHit | None:
        """Return the stored answer when no provider answers, if it is within `stale_if_error_s`."""
        try:
            entry = await self._find(key)
        except StorageLost:
            entry = key.stale
        hit = None if entry is None else self._evaluate(entry, options, options.stale_if_error_s)
        if hit is not None:
            self._emit_result(route, hit)
        return hit

    async def claim(self, key: CacheKey) -> bool:
        """Claim the key for this request, across all processes. Return whether no other request holds it.

        The claim ends with `keep`, with `release`, or by its expiry.
        """
        for_s = self._bounds.redis.claim_s
        key.claimed_by = self._token()  # set before the call: `release` works even if the call is cancelled
        try:
            won = await self._guard.call(
                key.patience, lambda: self._storage.claim(key.digest, key.claimed_by, for_s)
            )
        except StorageLost:
            won = False
        except asyncio.CancelledError:  # the storage may have given it all the same
            await self.release(key)
            raise
        if not won:
            key.claimed_by = ""
        return won

    async def claim_refresh(self, key: CacheKey) -> bool:
        """Claim the key to refresh a stale answer.

        No client waits for it, so the storage gets its full time again.
        """
        key.patience = Patience(self._guard.patience_s)
        return await self.claim(key)

    async def wait_for_claim(self, key: CacheKey, route: str, options: CacheOptions) -> CacheHit | None:
        """Wait after a miss while another process asks the providers; return its answer.

        Return None if this request is to ask them: it holds the claim, or has waited too long. Within one
        process there is nothing to wait for (single_flight.py does it).
        """
        if not self._storage.across_processes or key.generations is None:
            return None
        try:
            return await self._poll(key, route, options)
        except asyncio.CancelledError:
            await self.release(key)
            raise

    async def _poll(self, key: CacheKey, route: str, options: CacheOptions) -> CacheHit | None:
        until_s, pause_s = clock.now() + self._bounds.redis.claim_wait_s, CLAIM_POLL_S[0]
        while True:
            claimed = bool(key.claimed_by) or await self.claim(key)
            try:
                entry = await self._find(key)
            except StorageLost:
                return None
            hit = None if entry is None else self._evaluate(entry, options, 0.0)
            if hit is not None:
                await self.release(key)
                self._emit_result(route, hit)
                return hit
            if claimed or clock.now() + pause_s > until_s:
                return None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, CLAIM_POLL_S[1])

    async def release(self, key: CacheKey) -> None:
        """Release the claim: the call failed, or its answer is no longer needed.

        A caller that is cancelled meanwhile does not keep the claim from other processes.
        """
        if key.claimed_by:
            claimed_by, key.claimed_by = key.claimed_by, ""
            task = asyncio.create_task(self._release(key, claimed_by))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)
            await asyncio.wait({task})

    async def _release(self, key: CacheKey, claimed_by: str) -> None:
        try:
            await self._guard.call(key.patience, lambda: self._storage.release(key.digest, claimed_by))
        except StorageLost:
            pass  # the claim expires

    async def keep(self, key: CacheKey, stored: Stored, options: CacheOptions) -> None:
        """Store a complete answer for this caller, and release the claim."""
        try:
            await self._write(key, key.digest, key.caller, stored, options)
        except StorageLost:
            pass  # reported by the storage's breaker
        finally:
            await self.release(key)

    async def offer(self, key: CacheKey, stored: Stored, options: CacheOptions) -> None:
        """Store an answer for all callers, unless there is a fresh one. Raises StorageLost."""
        assert key.shared is not None, "only routes with `warm_from` have answers for all callers"
        (entry,), generations = await self._read(key, (key.shared,))
        if entry is None or not entry.valid(generations) or self._evaluate(entry, options, 0.0) is None:
            await self._write(key, key.shared, "", stored, options)

    async def invalidate(self, selection: Selection) -> None:
        """Invalidate the selected answers for all processes that share the storage.

        Raises StorageLost: then they may still be served.
        """
        chosen = selection.chosen()
        if chosen is None:
            raise ValueError("a selection must set exactly one field")
        by, which = chosen
        selector = EVERYTHING if by == EVERYTHING else f"{by}:{which}"
        patience, token = Patience(INVALIDATE_S), self._token()
        await self._guard.call(patience, lambda: self._storage.invalidate((selector,), token), insist=True)
        self._events.emit(CacheInvalidated(by, which))

    async def aclose(self) -> None:
        """Close the storage, once no claim is being released."""
        await asyncio.gather(*self._releases, return_exceptions=True)
        await self._storage.aclose()

    async def _find(self, key: CacheKey) -> CacheEntry | None:
        """Return the youngest valid entry. Raises StorageLost."""
        found, generations = await self._read(
            key, (key.digest,) if key.shared is None else (key.digest, key.shared)
        )
        youngest: CacheEntry | None = None
        for entry in found:
            if entry is None or not entry.valid(generations):
                continue
            if youngest is None or entry.kept_at_s > youngest.kept_at_s:
                youngest = entry
        return youngest

    async def _read(
        self, key: CacheKey, digests: tuple[str, ...]
    ) -> tuple[list[CacheEntry | None], Generations]:
        found, generations = await self._guard.call(key.patience, lambda: self._storage.read(digests))
        if key.generations is None:
            key.generations = generations  # an answer belongs to the time of its request
        return found, generations

    async def _write(
        self, key: CacheKey, digest: str, caller: str, stored: Stored, options: CacheOptions
    ) -> None:
        """Write an entry, if it is not too large. Raises StorageLost."""
        if key.generations is None or len(stored.body) > self._bounds.entry_bytes_max:
            return
        stamp = stamp_of(key.generations, digest, key.route, caller, stored.target)
        now_s = self._storage.now()
        entry = CacheEntry(VERSION, digest, key.route, caller, stored.target, now_s, stamp, stored.body)
        life_s = options.ttl_s + max(options.stale_while_revalidate_s, options.stale_if_error_s)
        await self._guard.call(key.patience, lambda: self._storage.write(entry, life_s))

    def _token(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    def _evaluate(self, entry: CacheEntry, options: CacheOptions, stale_s: float) -> CacheHit | None:
        age_s = max(0.0, self._storage.now() - entry.kept_at_s)
        if age_s >= options.ttl_s + stale_s:
            return None
        return CacheHit(Stored(entry.body, entry.target), age_s < options.ttl_s, age_s)

    def _emit_result(self, route: str, hit: CacheHit | None) -> None:
        result = "miss" if hit is None else "hit" if hit.fresh else "stale"
        self._events.emit(CacheLooked(route, result))
