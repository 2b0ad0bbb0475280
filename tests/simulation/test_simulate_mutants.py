"""The simulation can fail: each mutant is caught by the rule that it breaks."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from dub5.chaos.simulation.mutant import mutated
from dub5.chaos.simulation.run import run_world
from dub5.chaos.simulation.shrink import rules_of
from dub5.chaos.simulation.world.generate import generate_world
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.odd_caller import FIRST_NUMBER
from tests.simulation import mutants, mutants_people

SEEDS_MAX = 200
# The seed to begin with, so that it is quick, and the rules that should break.
CAUGHT = {
    "first_refusal_believed": (28, {"others_unharmed"}),
    "own_failures_counted": (24, {"others_unharmed"}),
    "first_refusal_final": (174, {"others_unharmed"}),
    "permit_kept_on_cancel": (9, {"permits_accounted_for"}),
    "retry_after_commit": (45, {"no_spliced_answer", "honest_end"}),
    "budget_ignored": (19, {"retry_budget_respected"}),
    "retry_after_ignored": (22, {"retry_after_respected", "final_refusal_respected"}),
    "last_candidate_ejected": (48, {"last_resort_offered"}),
    "last_resort_first": (48, {"only_permitted_attempts"}),
    "attempts_without_time": (68, {"only_permitted_attempts"}),
    "follower_killed_with_leader": (24, {"honest_end"}),
    "caller_missing_in_key": (10, {"cache_and_sharing_correct"}),
    "loser_not_cancelled": (9, {"hedging_bounded"}),
    "cut_answer_cached": (161, {"honest_end"}),
    "whole_delivered_early": (14, {"whole_delivery_respected"}),
    "expired_work_sent": (22, {"queue_fair_and_timely"}),
    "lower_class_first": (11, {"queue_fair_and_timely"}),
    "substitute_for_programs": (23, {"fallback_allowed_and_labelled"}),
    "old_settings_for_new_requests": (223, {"hedging_bounded"}),
    "hedge_at_the_same_provider": (15, {"hedging_bounded"}),
    "deadline_in_backoff_raised": (168, {"one_agreed_end"}),
    "own_key_told_to_callers": (40, {"own_fault_is_5xx"}),
    "fixed_window": (0, {"rate_limits_exact"}),
    "refused_is_counted": (0, {"rate_limits_exact"}),
    "premium_is_counted": (0, {"rate_limits_exact"}),
    "block_never_ends": (21, {"rate_limits_exact"}),
    "blocked_without_strikes": (0, {"rate_limits_exact"}),
    "conflict_raised": (14, {"one_agreed_end"}),
    "owner_missing_in_read": (31, {"owners_apart"}),
    "owner_missing_in_change": (58, {"owners_apart"}),
    "owner_missing_in_ask": (31, {"owners_apart"}),
    "outbox_dropped": (35, {"kept_in_the_end"}),
    "end_written_early": (27, {"half_no_answer"}),
    "asked_again": (14, {"asked_once"}),
    "resumed_off_by_one": (1, {"read_on_exactly"}),
    "linger_forgotten": (42, {"linger_respected"}),
    "linger_cut_short": (1, {"linger_respected"}),
    "owner_missing_in_memory": (31, {"owners_apart"}),
    "bye_forgotten": (38, {"socket_honest"}),
    "patience_not_held": (29, {"database_not_needed"}),
    "one_turn_kept": (1, {"prompt_fits"}),
    "turns_reordered": (1, {"prompt_fits"}),
    "told_before_commit": (1, {"kept_is_kept"}),
    "lease_for_ever": (42, {"jobs_end"}),
    "position_forgotten": (1, {"steps_kept_once"}),
    "result_given_up": (82, {"steps_kept_once"}),
}


# How many requests of a world run; of other worlds the first 100.
PEOPLE_REQUESTS = 20  # beside those of the people, who do all that they plan
REQUESTS = {"expired_work_sent": 150, "last_resort_first": 200}


def beginning(seed: int, requests: int) -> World:
    """Return a world with its first requests only, and as many of its odd caller."""
    kept = ((0, requests - 1), (FIRST_NUMBER, FIRST_NUMBER + requests - 1))
    return replace(generate_world(seed), kept=kept, rest_s=5.0)


@cache
def broken_as_it_is(seed: int, requests: int) -> frozenset[str]:
    """Return the rules that the unbroken build breaks in a world: none."""
    return rules_of(run_world(beginning(seed, requests)))


@pytest.mark.parametrize("name", [mutant.__name__ for mutant in (*mutants.MUTANTS, *mutants_people.MUTANTS)])
def test_a_broken_build_is_caught(name: str) -> None:
    """A mutant breaks its rule within 200 seeds, in a world where the unbroken build breaks none."""
    of_people = hasattr(mutants_people, name)
    (first, rules), module = CAUGHT[name], mutants_people if of_people else mutants
    requests = PEOPLE_REQUESTS if of_people else REQUESTS.get(name, 100)
    for seed in range(first, first + SEEDS_MAX):
        with mutated(f"{module.__name__}:{name}"):
            broken = rules_of(run_world(beginning(seed, requests)))
        if broken & rules:
            assert not broken_as_it_is(seed, requests)
            return
    pytest.fail(f"{name} was not caught in {SEEDS_MAX} worlds")


def test_every_mutant_has_its_test() -> None:
    """A mutant that no world shows is named in the test module that finds it."""
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].glob("service/**/test_*.py"))
    assert not [mutant.__name__ for mutant in mutants.FOUND_BY_TESTS if f'"{mutant.__name__}"' not in tests]
