"""Whole answers, kept for the next caller who asks exactly the same.

    0 ........ ttl_s ........ + stale_while_revalidate_s     fresh, then stale: given at once, and somebody asks anew
    0 ........ ttl_s ........ + stale_if_error_s             given when no provider answers
    kept  finished plain-text answers to requests with temperature 0, as chat.completion objects
    given as JSON or as a stream, whichever is asked

A lost storage is a miss: no method but `invalidate` raises for it.
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
    StorageLost,
    stamp_of,
)
from dub5.service.cache.storage_guard import NoGuard, Patience, StorageGuard
from dub5.service.cache.storage_memory import MemoryStorage
from dub5.service.config.options import CacheBounds, CacheOptions
from dub5.service.events import CacheInvalidated, CacheLooked, Events
from dub5.service.model import ChatRequest

INVALIDATE_S = 1.0  # an operator waits longer than a request does
CLAIM_POLL_S = (
    0.02,
    0.1,
)  # between two looks at what another process is about to bring: the first, the longest


class Stored(msgspec.Struct, frozen=True):
    """An answer and who gave it."""

    body: bytes
    target: str


class CacheHit(msgspec.Struct, frozen=True):
    """What was found. Not `fresh`: give it at once, and see that it is asked for again."""

    stored: Stored
    fresh: bool
    age_s: float


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which answers: all of a model (or of one target, `provider/model`), of a route, of a caller (the hash that the
    log shows), of one key, or everything. One of these."""

    model: str | None = None
    route: str | None = None
    caller: str | None = None
    key: str | None = None
    everything: bool = False

    def chosen(self) -> tuple[str, str] | None:
        """By what, and which; None unless exactly one is named."""
        said = {name: value for name, value in msgspec.structs.asdict(self).items() if value}
        if len(said) != 1:
            return None
        ((by, which),) = said.items()
        return by, "" if by == EVERYTHING else which


class AnswerCache:
    """Keeps answers in a storage: this process's memory, unless another one is given with its guard."""

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

    @property
    def bounds(self) -> CacheBounds:
        """Others hold from the next answer on."""
        return self._bounds

    @bounds.setter
    def bounds(self, bounds: CacheBounds) -> None:
        self._bounds = bounds
        if isinstance(self._storage, MemoryStorage):
            self._storage.bounds = bounds

    def key(self, request: ChatRequest, options: CacheOptions, fingerprint: str) -> CacheKey | None:
        """Where the answer would be, or None if it may not be kept at all. `fingerprint`: the route's."""
        return key_of(request, options, fingerprint, self._guard.patience_s)

    async def lookup(self, key: CacheKey, route: str, options: CacheOptions) -> CacheHit | None:
        """The stored answer, if there is one that is fresh, or stale and still good enough to be given at once."""
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
        """No provider answers: the stored answer, if it is not too old even for that."""
        try:
            entry = await self._find(key)
        except StorageLost:
            entry = key.stale
        hit = None if entry is None else self._evaluate(entry, options, options.stale_if_error_s)
        if hit is not None:
            self._emit_result(route, hit)
        return hit

    async def claim(self, key: CacheKey) -> bool:
        """Whether we are the one to ask for it now: nobody else is at it, in no process. Ends with `keep`, with
        `release`, or by itself."""
        for_s, key.claimed_by = (
            self._bounds.redis.claim_s,
            self._token(),
        )  # ours even if we are cancelled meanwhile
        try:
            won = await self._guard.call(
                key.patience, lambda: self._storage.claim(key.digest, key.claimed_by, for_s)
            )
        except StorageLost:
            won = False
        if not won:
            key.claimed_by = ""
        return won

    async def claim_refresh(self, key: CacheKey) -> bool:
        """Whether we are the one to ask anew for an answer that was given stale. Nobody waits for that: the storage may
        take as long for it as for a request of its own."""
        key.patience = Patience(self._guard.patience_s)
        return await self.claim(key)

    async def wait_for_claim(self, key: CacheKey, route: str, options: CacheOptions) -> CacheHit | None:
        """After a miss, or with the claim in hand: None if it is ours to ask the providers; else the answer, which
        another process asked for meanwhile. Who waits too long for that asks as well. Within one process there is
        nothing to wait for."""
        if not self._storage.across_processes or key.generations is None:
            return None
        until_s, pause_s = clock.now() + self._bounds.redis.claim_wait_s, CLAIM_POLL_S[0]
        while True:
            ours = bool(key.claimed_by) or await self.claim(key)
            try:
                entry = await self._find(key)
            except StorageLost:
                return None
            hit = None if entry is None else self._evaluate(entry, options, 0.0)
            if hit is not None:
                await self.release(key)
                self._emit_result(route, hit)
                return hit
            if ours or clock.now() + pause_s > until_s:
                return None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, CLAIM_POLL_S[1])

    async def release(self, key: CacheKey) -> None:
        """We do not ask any more: it failed, or nobody wants it."""
        if key.claimed_by:
            claimed_by, key.claimed_by = key.claimed_by, ""
            try:
                await self._guard.call(key.patience, lambda: self._storage.release(key.digest, claimed_by))
            except StorageLost:
                pass  # it ends by itself

    async def keep(self, key: CacheKey, stored: Stored, options: CacheOptions) -> None:
        """Stores a whole answer, for who asked it."""
        try:
            await self._write(key, key.digest, key.caller, stored, options)
        except StorageLost:
            pass  # its breaker has told
        await self.release(key)

    async def offer(self, key: CacheKey, stored: Stored, options: CacheOptions) -> None:
        """Stores an answer for everybody, unless a fresh one is there. Raises StorageLost."""
        assert key.shared is not None, "only routes with `warm_from` have answers for everybody"
        (entry,), generations = await self._read(key, (key.shared,))
        if entry is None or not entry.valid(generations) or self._evaluate(entry, options, 0.0) is None:
            await self._write(key, key.shared, "", stored, options)

    async def invalidate(self, selection: Selection) -> None:
        """None of these are given any more, by no process that shares the storage. Raises StorageLost: then they may
        still be."""
        chosen = selection.chosen()
        if chosen is None:
            raise ValueError("a selection names one thing")
        by, which = chosen
        selector = EVERYTHING if by == EVERYTHING else f"{by}:{which}"
        patience, token = Patience(INVALIDATE_S), self._token()
        await self._guard.call(patience, lambda: self._storage.invalidate((selector,), token), insist=True)
        self._events.emit(CacheInvalidated(by, which))

    async def aclose(self) -> None:
        """Lets go of the storage."""
        await self._storage.aclose()

    async def _find(self, key: CacheKey) -> CacheEntry | None:
        """The youngest valid entry. Raises StorageLost."""
        found, generations = await self._read(
            key, (key.digest,) if key.shared is None else (key.digest, key.shared)
        )
        entries = [entry for entry in found if entry is not None and entry.valid(generations)]
        return max(entries, key=lambda entry: entry.kept_at_s, default=None)

    async def _read(
        self, key: CacheKey, digests: tuple[str, ...]
    ) -> tuple[list[CacheEntry | None], Generations]:
        found, generations = await self._guard.call(key.patience, lambda: self._storage.read(digests))
        if key.generations is None:
            key.generations = generations  # an answer belongs to the time when it was asked for
        return found, generations

    async def _write(
        self, key: CacheKey, digest: str, caller: str, stored: Stored, options: CacheOptions
    ) -> None:
        """Raises StorageLost."""
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
