"""What a world comes to, as two digests: of its events, and of each step of the loop."""

from dataclasses import replace

from dub5.chaos.simulation.run import run_world
from dub5.chaos.simulation.world.generate import generate_world
from dub5.simulators.virtual import Trace


def digests(seed: int) -> str:
    """Return the digests of the first requests of a world."""
    steps, world = Trace(), replace(generate_world(seed), kept=((0, 80),), rest_s=5.0)
    return f"{run_world(world, on_step=steps).digest} {steps.digest()}"
