"""Jobs end, whatever happens to the process: each step is kept once, and asked again only after a crash."""

import random

from tests.support.job_world import JobWorld, job_database


def world(**more) -> JobWorld:
    return JobWorld(database=more.pop("database", None) or job_database(random.Random(1)), **more)


async def test_job() -> None:
    """A job does its steps in order, each once, and is done."""
    async with world() as one:
        job = await one.make(4)
        assert await one.until_over(job) == "done"
        assert one.kind.asked == [(job.id, step) for step in range(4)]
        assert one.results(job) == [0, 1, 2, 3]
        print(one.row(job), [e for e in one.events if "Job" in type(e).__name__])
