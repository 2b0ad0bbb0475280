"""The simulation can fail: each broken build is caught, by the rule that speaks of it."""

from functools import cache

import pytest

from chaos.simulate.batch import play_seed
from chaos.simulate.shrink import rules_of
from tests.simulation import mutants

SEEDS_MAX = 200
# Where to look first, so that it is quick, and the rules that should speak.
CAUGHT = {
    "permit_kept_on_cancel": (3, {"S6"}),
    "retry_after_commit": (13, {"S2", "honest"}),
    "budget_ignored": (10, {"S3"}),
    "retry_after_ignored": (11, {"S7", "S8"}),
    "last_candidate_ejected": (16, {"S12"}),
}


@cache
def broken_as_it_is(seed: int) -> frozenset[str]:
    """The rules that the build itself breaks: none."""
    return rules_of(play_seed(seed))


@pytest.mark.parametrize("name", [mutant.__name__ for mutant in mutants.MUTANTS])
def test_a_broken_build_is_caught(name: str) -> None:
    """Within 200 seeds; and the same seed holds in the build as it is."""
    first, rules = CAUGHT[name]
    for seed in range(first, first + SEEDS_MAX):
        if rules_of(play_seed(seed, f"{mutants.__name__}:{name}")) & rules:
            assert not broken_as_it_is(seed)
            return
    pytest.fail(f"{name} was not caught in {SEEDS_MAX} worlds")
