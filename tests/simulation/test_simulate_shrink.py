"""Shrinking: a failing world is reduced to what makes it fail."""

from collections import Counter

from dub5.chaos.simulation.run import WorldResult
from dub5.chaos.simulation.shrink import Shrinker
from dub5.chaos.simulation.world.generate import generate_world
from dub5.chaos.simulation.world.model import World


def result(world: World, *violations: str) -> WorldResult:
    return WorldResult(world.seed, 1, 1.0, 1.0, "", Counter(), Counter(), {}, violations)


def world_with_troubles() -> World:
    return next(world for seed in range(100) if len((world := generate_world(seed)).troubles) > 5)


def test_only_the_guilty_trouble_is_left() -> None:
    """Of many fault windows the one that breaks the rule remains, with few requests and providers."""
    world = world_with_troubles()
    guilty = world.troubles[3]

    def play(candidate: World) -> WorldResult:
        return result(candidate, *["only_permitted_attempts at 1 s: ..."] * (guilty in candidate.troubles))

    small = Shrinker(frozenset({"only_permitted_attempts"}), 60.0, play).shrink(world)
    assert small.troubles == (guilty,)
    assert [provider.name for provider in small.providers] == [guilty.provider]
    assert small.kept == ()
    assert small.rest_s == 0.0


def test_of_people_only_those_that_matter_are_left() -> None:
    """Of people, database faults and a crash only what breaks the rule remains."""
    world = next(
        world
        for seed in range(400)
        if (world := generate_world(seed)).crash and world.people and len(world.database) > 1
    )
    guilty = world.database[1]

    def play(candidate: World) -> WorldResult:
        broken = guilty in candidate.database and candidate.people is not None
        return result(candidate, *["kept_is_kept at 1 s: ..."] * broken)

    small = Shrinker(frozenset({"kept_is_kept"}), 60.0, play).shrink(world)
    assert small.database == (guilty,)
    assert small.crash is None
    assert small.people is not None and (small.people.count, small.people.turns) == (1, 1)
    assert small.people.ask_twice_share == small.people.tidy_share == 0.0


def test_people_that_do_not_matter_are_left_out() -> None:
    """A world that fails without its people is left without them."""
    world = next(world for seed in range(400) if (world := generate_world(seed)).crash)

    def play(candidate: World) -> WorldResult:
        return result(candidate, "honest_end at 1 s: ...")

    small = Shrinker(frozenset({"honest_end"}), 60.0, play).shrink(world)
    assert (small.people, small.database, small.crash) == (None, (), None)


def test_another_failure_is_not_the_same_one() -> None:
    """A smaller world that breaks another rule is not accepted."""
    world = world_with_troubles()

    def play(candidate: World) -> WorldResult:
        return result(
            candidate,
            "only_permitted_attempts at 1 s" if candidate == world else "cache_and_sharing_correct at 1 s",
        )

    assert Shrinker(frozenset({"only_permitted_attempts"}), 60.0, play).shrink(world) == world
