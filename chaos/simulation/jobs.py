"""Jobs beside the people of a world: made over the time of the traffic, done by whichever process lives."""

import asyncio
from random import Random

from dub5.chaos.simulation.invariants.jobs import JobsRecord
from dub5.chaos.simulation.job_kind import KIND
from dub5.chaos.simulation.life import Lives
from dub5.chaos.simulation.world.model import World

OWNER = "session:of the jobs"
KEPT_WITHIN_S = 1.0
END_S = 3_600.0  # until all jobs have ended, after the last request


class WorldJobs:
    """Makes the jobs of a world."""

    def __init__(self, world: World, lives: Lives) -> None:
        assert world.jobs is not None and lives.jobs is not None, "the world has jobs"
        self._world = world
        self._load = world.jobs
        self._lives = lives
        self._record: JobsRecord = lives.jobs
        self._loop = asyncio.get_running_loop()

    def start(self) -> asyncio.Task[None]:
        """Begin to make them."""
        return asyncio.create_task(self._make_all(), name="person of the jobs")

    async def until_ended(self) -> None:
        """Wait until all have ended; they have an hour. After a drain nobody does them."""
        until_s = self._loop.time() + END_S
        while self._world.drain is None and not self._record.all_ended() and self._loop.time() < until_s:
            await asyncio.sleep(1.0)

    async def _make_all(self) -> None:
        rng = Random(f"{self._world.seed}:jobs:steps")
        for number in range(self._load.count):
            at_s = self._world.traffic_s * (number + 0.5) / self._load.count
            await asyncio.sleep(at_s - self._loop.time())
            await self._make(number, rng.randint(1, self._load.steps_max))

    async def _make(self, number: int, steps: int) -> None:
        await self._lives.up()
        service = self._lives.now.service
        assert service.jobs is not None and service.store is not None, "it has a database"
        job = service.jobs.new(OWNER, KIND, f"subject {number}", steps)
        write = service.store.write([service.jobs.creation(job)], lane=job.subject)
        if await write.kept(KEPT_WITHIN_S) is not None:
            self._record.kept.append(job.id)
        service.jobs.wake()
