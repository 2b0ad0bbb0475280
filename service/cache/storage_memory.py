"""Cache storage in the memory of this process, bounded by number and bytes (LRU).

Expiry needs no timers: what has ended is dropped at the next call.
"""

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from dub5.service import clock
from dub5.service.cache.storage import EVERYTHING, CacheEntry, Generations, next_generations
from dub5.service.config.options import CacheBounds

ENTRY_OVERHEAD_BYTES = 500  # of an entry besides its body, in all tables


@dataclass(frozen=True, slots=True)
class _Held:
    entry: CacheEntry
    size: int
    ends_s: float


class MemoryStorage:
    """A Storage in memory, which is lost with the process."""

    across_processes = False
    failures: tuple[type[Exception], ...] = ()

    def __init__(self, bounds: CacheBounds) -> None:
        self.bounds = bounds  # may be replaced: applies from the next entry on
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._ends: list[tuple[float, str]] = []  # a heap of expiry times, those of replaced entries included
        self._bytes = 0
        self._claims: dict[str, tuple[str, float]] = {}
        self._generations: Generations = {EVERYTHING: ""}

    @property
    def entries(self) -> int:
        """The number of entries."""
        return len(self._held)

    @property
    def bytes(self) -> int:
        """The bytes of all entries."""
        return self._bytes

    def now(self) -> float:
        """Return the loop's time: when the host's clock jumps, no answer becomes older."""
        return clock.now()

    async def read(self, digests: Sequence[str]) -> tuple[list[CacheEntry | None], Generations]:
        """Do as Storage says."""
        self._drop_expired()
        entries: list[CacheEntry | None] = []
        for digest in digests:
            held = self._held.get(digest)
            if held is not None:
                self._held.move_to_end(digest)
            entries.append(None if held is None else held.entry)
        return entries, self._generations

    async def write(self, entry: CacheEntry, life_s: float) -> None:
        """Do as Storage says. An entry that is too large for the bounds is not stored."""
        size = len(entry.body) + ENTRY_OVERHEAD_BYTES
        self._drop_expired()
        self._drop(entry.digest)
        if size > self.bounds.bytes_max:
            return
        while len(self._held) >= self.bounds.entries_max or self._bytes + size > self.bounds.bytes_max:
            self._drop(next(iter(self._held)))
        ends_s = self.now() + life_s
        self._held[entry.digest] = _Held(entry, size, ends_s)
        self._bytes += size
        heapq.heappush(self._ends, (ends_s, entry.digest))
        self._tidy()

    async def claim(self, digest: str, owner: str, for_s: float) -> bool:
        """Do as Storage says."""
        now_s = self.now()
        if self._claims.get(digest, ("", 0.0))[1] > now_s:
            return False
        if len(self._claims) >= self.bounds.entries_max:
            self._claims = {digest: claim for digest, claim in self._claims.items() if claim[1] > now_s}
        self._claims[digest] = (owner, now_s + for_s)
        return True

    async def release(self, digest: str, owner: str) -> None:
        """Do as Storage says."""
        if self._claims.get(digest, ("", 0.0))[0] == owner:
            del self._claims[digest]

    async def invalidate(self, selectors: Sequence[str], token: str) -> None:
        """Do as Storage says."""
        self._generations = next_generations(self._generations, selectors, token)
        for digest, held in list(self._held.items()):
            if not held.entry.valid(self._generations):
                self._drop(digest)

    async def aclose(self) -> None:
        """Do as Storage says."""
        self._held.clear()
        self._ends.clear()
        self._claims.clear()
        self._bytes = 0

    def _drop_expired(self) -> None:
        now_s = clock.now()
        while self._ends and self._ends[0][0] <= now_s:
            ends_s, digest = heapq.heappop(self._ends)
            if digest in self._held and self._held[digest].ends_s == ends_s:
                self._drop(digest)

    def _drop(self, digest: str) -> None:
        held = self._held.pop(digest, None)
        if held is not None:
            self._bytes -= held.size

    def _tidy(self) -> None:
        """Rebuild the heap if most of its times belong to replaced or dropped entries."""
        if len(self._ends) > 2 * len(self._held) + 100:
            self._ends = [(held.ends_s, digest) for digest, held in self._held.items()]
            heapq.heapify(self._ends)
