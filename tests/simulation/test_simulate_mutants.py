"""The simulation can fail: each broken build is caught, by the rule that speaks of it."""

from dataclasses import replace
from functools import cache

import pytest

from dub5.chaos.simulation.mutant import mutated
from dub5.chaos.simulation.run import play
from dub5.chaos.simulation.shrink import rules_of
from dub5.chaos.simulation.world.generate import draw
from dub5.chaos.simulation.world.model import World
from tests.simulation import mutants

SEEDS_MAX = 200
# Where to look first, so that it is quick, and the rules that should speak.
CAUGHT = {
    "permit_kept_on_cancel": (9, {"S6"}),
    "retry_after_commit": (45, {"S2", "honest"}),
    "budget_ignored": (20, {"S3"}),
    "retry_after_ignored": (28, {"S7", "S8"}),
    "last_candidate_ejected": (48, {"S12"}),
    "follower_killed_with_leader": (38, {"honest"}),
    "caller_missing_in_key": (5, {"S9"}),
    "loser_not_cancelled": (9, {"S14"}),
    "cut_answer_cached": (161, {"honest"}),
    "whole_delivered_early": (14, {"S15"}),
    "expired_work_sent": (22, {"S13"}),
    "lower_class_first": (11, {"S13"}),
    "substitute_for_programs": (23, {"S16"}),
    "old_settings_for_new_requests": (48, {"S14"}),
}


REQUESTS = {"expired_work_sent": 150}  # so many of a world are played; of others the first 100


def beginning(seed: int, requests: int) -> World:
    """The first requests of a world."""
    return replace(draw(seed), kept=((0, requests - 1),), rest_s=5.0)


@cache
def broken_as_it_is(seed: int, requests: int) -> frozenset[str]:
    """The rules that the build itself breaks: none."""
    return rules_of(play(beginning(seed, requests)))


@pytest.mark.parametrize("name", [mutant.__name__ for mutant in mutants.MUTANTS])
def test_a_broken_build_is_caught(name: str) -> None:
    """Within 200 seeds; and the same seed holds in the build as it is."""
    (first, rules), requests = CAUGHT[name], REQUESTS.get(name, 100)
    for seed in range(first, first + SEEDS_MAX):
        with mutated(f"{mutants.__name__}:{name}"):
            broken = rules_of(play(beginning(seed, requests)))
        if broken & rules:
            assert not broken_as_it_is(seed, requests)
            return
    pytest.fail(f"{name} was not caught in {SEEDS_MAX} worlds")
