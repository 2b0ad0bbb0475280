"""Clients that send requests at a steady rate, and what became of each request."""

import asyncio

from dub5.service import clock
from tests.support.world import ServiceWorld


class SteadyClients:
    """Send requests at a steady rate, whatever becomes of the earlier ones."""

    def __init__(self, world: ServiceWorld, *, stream: bool = True, deadline_s: float = 30.0) -> None:
        self.world = world
        self.took_s: list[float] = []
        self.statuses: list[int] = []
        self._stream = stream
        self._headers = {"x-deadline-ms": str(round(deadline_s * 1000))}

    async def ask(self, times: int, every_s: float) -> "SteadyClients":
        """Send so many requests, and return when each has its answer."""
        async with asyncio.TaskGroup() as group:
            for _ in range(times):
                group.create_task(self._one())
                await asyncio.sleep(every_s)
        return self

    async def _one(self) -> None:
        began_s = clock.now()
        answer = await self.world.ask(stream=self._stream, headers=self._headers)
        self.took_s.append(clock.now() - began_s)
        self.statuses.append(answer.status)

    def answered(self) -> float:
        """Return the share of requests that got an answer."""
        return self.statuses.count(200) / len(self.statuses)

    def waited(self, longer_than_s: float) -> int:
        """Return how many requests took longer."""
        return sum(took_s > longer_than_s for took_s in self.took_s)
