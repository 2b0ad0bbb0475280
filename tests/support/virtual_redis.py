"""A storage that all processes share, as Redis is, on virtual time."""

import asyncio
from collections.abc import Sequence

from dub5.service.cache.storage import CacheEntry, Generations
from dub5.service.cache.storage_memory import MemoryStorage


class VirtualRedis(MemoryStorage):
    """A storage in memory whose every call takes `delay_s`."""

    across_processes = True
    delay_s = 0.001

    async def read(self, digests: Sequence[str]) -> tuple[list[CacheEntry | None], Generations]:
        await asyncio.sleep(self.delay_s)
        return await super().read(digests)

    async def write(self, entry: CacheEntry, life_s: float) -> None:
        await asyncio.sleep(self.delay_s)
        await super().write(entry, life_s)

    async def claim(self, digest: str, owner: str, for_s: float) -> bool:
        await asyncio.sleep(self.delay_s)
        return await super().claim(digest, owner, for_s)

    async def release(self, digest: str, owner: str) -> None:
        await asyncio.sleep(self.delay_s)
        await super().release(digest, owner)
