"""Places: costly work at a bounded number of places; a bounded number waits for one, in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class NoPlace(Exception):
    """Raised where too many wait, or one has waited for too long."""


class Places:
    """`count` places. `waiting_max` may wait for one, each for `wait_s`."""

    def __init__(self, count: int, waiting_max: int, wait_s: float) -> None:
        self._free = asyncio.Semaphore(count)
        self._waiting_max = waiting_max
        self._wait_s = wait_s
        self._waiting = 0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Have a place for as long as the block takes. Raises NoPlace."""
        if self._waiting >= self._waiting_max:
            raise NoPlace
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise NoPlace from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
