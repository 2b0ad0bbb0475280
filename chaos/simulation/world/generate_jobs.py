"""Add jobs to some of the worlds with people.

Drawn from an rng stream of its own, so all else of a world stays as it is, and worlds without jobs, too.
"""

from dataclasses import replace
from random import Random

from dub5.chaos.simulation.world.jobs import JobLoad
from dub5.chaos.simulation.world.model import World

JOBS_SHARE = 0.6  # of the worlds with people; of those with a crash all


def with_jobs(world: World) -> World:
    """Return the world with jobs, in some of those with people. All else of it stays as it is."""
    rng = Random(f"{world.seed}:jobs")
    if world.people is None or (rng.random() > JOBS_SHARE and world.crash is None):
        return world
    load = JobLoad(
        count=rng.choice((1, 3, 8)),
        steps_max=rng.choice((2, 6, 12)),
        step_s=rng.choice((0.3, 2.0, 8.0)),
        fail_share=rng.choice((0.0, 0.0, 0.1, 0.4)),
        workers=rng.choice((1, 1, 4)),
    )
    return replace(world, jobs=load)
