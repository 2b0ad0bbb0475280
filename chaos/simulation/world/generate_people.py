"""Add people with conversations to some worlds, with troubles of the database and a crash of the process.

Drawn from rng streams of their own, so all else of a world stays as it is, and worlds without people, too.
"""

from dataclasses import replace
from random import Random

from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.people import Crash, People
from dub5.service.config.options import LimitsOptions
from dub5.simulators.virtual.database import DatabaseFault, DatabaseFaultKind

PEOPLE_SHARE = 0.3  # of the worlds
TURNS = (12, 60)  # in a world, about
KINDS: tuple[DatabaseFaultKind, ...] = ("lost", "lost", "slow", "silent", "unsure", "unsure", "full")


def with_people(world: World) -> World:
    """Return the world with its people, if it has any."""
    rng = Random(f"{world.seed}:people")
    if rng.random() > PEOPLE_SHARE:
        return world
    count = rng.choice((1, 2, 3, 6))
    turns = max(2, round(rng.uniform(*TURNS) / count))
    people = People(
        count=count,
        turns=turns,
        think_s=round(world.traffic_s / (turns + 1) * rng.uniform(0.5, 1.0), 2),
        stream_share=rng.choice((0.0, 0.5, 0.5, 1.0)),
        leave_share=rng.choice((0.0, 0.1, 0.3, 0.5)),
        ask_twice_share=rng.choice((0.0, 0.2, 0.5)),
        stranger_share=rng.choice((0.0, 0.2)),
        reread_share=rng.choice((0.1, 0.4)),
        long_share=rng.choice((0.0, 0.3, 1.0)),
        new_share=rng.choice((0.0, 0.05, 0.2)),
        tidy_share=rng.choice((0.0, 0.1, 0.3)),
        context_tokens=rng.choice((600, 1_200, 8_000)),
        socket_share=rng.choice((0.0, 0.5, 0.7, 1.0)),
        back_share=rng.choice((0.0, 0.7, 1.0)),
        beside_share=rng.choice((0.0, 0.0, 0.2)),
        stop_share=rng.choice((0.0, 0.0, 0.1)),
        linger_s=rng.choice((0.0, 0.3, 2.0, 15.0)),
    )
    return _with_crash(replace(world, people=people, database=_faults(world)))


def _faults(world: World) -> tuple[DatabaseFault, ...]:
    """Choose what is wrong with the database: nothing in one world of three."""
    rng = Random(f"{world.seed}:database")
    found = []
    for _ in range(rng.choice((0, 1, 1, 2, 3, 3))):
        at_s = world.warm_s + rng.random() * world.storm_s * 0.9
        for_s = min(world.heal_s - at_s, rng.choice((0.2, 2.0, 10.0, 30.0)))
        found.append(
            DatabaseFault(
                kind=rng.choice(KINDS),
                at_s=round(at_s, 2),
                for_s=round(for_s, 2) + 0.01,
                share=rng.choice((1.0, 1.0, 0.5, 0.2)),
                wait_s=rng.choice((0.01, 0.04, 0.2, 2.0)),
            )
        )
    return tuple(sorted(found, key=lambda fault: fault.at_s))


def _with_crash(world: World) -> World:
    """Let the process die in some worlds, in mid-traffic. What only a process knows is left out of those."""
    rng = Random(f"{world.seed}:crash")
    if world.drain is not None or world.reload is not None or rng.random() > 0.5:
        return world
    at_s = (
        round(rng.uniform(world.warm_s, world.traffic_s), 2) + 0.0047
    )  # never with a request in one instant
    return replace(world, crash=Crash(at_s), limits=LimitsOptions(), addresses=0)
