"""The kind of the jobs of a world: a step takes a while, as an ask of a provider does, and sometimes fails.

It keeps nothing but its position. Each step that is asked is recorded.
"""

import asyncio
from random import Random

from dub5.chaos.simulation.invariants.jobs import JobsRecord, JobStep
from dub5.chaos.simulation.world.jobs import JobLoad
from dub5.service.errors import AllTargetsDown
from dub5.service.jobs.model import Job
from dub5.service.store.base import BoundStatement

KIND = "simulated"


class SimulatedKind:
    """The kind, in the process `life`."""

    def __init__(self, load: JobLoad, record: JobsRecord, life: int, seed: int) -> None:
        self._load = load
        self._record = record
        self._life = life
        self._seed = seed

    async def step(self, job: Job) -> list[BoundStatement]:
        """Do a step."""
        step = JobStep(job.id, job.done)
        rng = Random(f"{self._seed}:{job.id}:{job.done}:{self._record.asked[step]}")
        self._record.begin(step, self._life)
        worked = False
        try:
            await asyncio.sleep(rng.expovariate(1 / self._load.step_s))
            worked = rng.random() >= self._load.fail_share
        finally:
            self._record.end(step, self._life, worked=worked)
        if not worked:
            raise AllTargetsDown("No provider answered.")
        return []
