"""Which target next, from standings alone."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.config.settings import PolicyName
from dub5.service.failover.order import order
from dub5.service.model import Target
from dub5.service.resilience.health import RoutingScore

STANDINGS = st.lists(
    st.builds(RoutingScore, st.integers(0, 2), st.one_of(st.just(0.0), st.floats(0.0, 60.0))),
    min_size=1,
    max_size=7,
)
POLICIES = st.sampled_from(["ordered", "balanced"])
SEEDS = range(2_000)


def named(standings: list[RoutingScore]) -> dict[Target, RoutingScore]:
    return {Target(str(i), "m"): standing for i, standing in enumerate(standings)}


def ordered(seen: dict[Target, RoutingScore], policy: PolicyName, seed: int = 0) -> list[Target]:
    return order(list(seen), policy, seen, Random(seed))


@given(STANDINGS, POLICIES, st.integers(0, 1_000))
def test_nobody_is_lost(standings: list[RoutingScore], policy: PolicyName, seed: int) -> None:
    """Every target once, healthy before degraded before unhealthy, by either policy."""
    seen = named(standings)
    targets = ordered(seen, policy, seed)
    assert set(targets) == set(seen) and len(targets) == len(seen)
    ranks = [seen[target].rank for target in targets]
    assert ranks == sorted(ranks)


@given(STANDINGS, st.integers(0, 1_000))
def test_ordered_keeps_the_routes_order(standings: list[RoutingScore], seed: int) -> None:
    """Among equals the settings decide, whatever their load, and no dice."""
    seen = named(standings)
    targets = ordered(seen, "ordered", seed)
    for rank in range(3):
        assert [t for t in targets if seen[t].rank == rank] == [t for t in seen if seen[t].rank == rank]


@given(st.floats(0.0, 60.0), st.floats(0.0, 60.0), st.integers(0, 1_000))
def test_two_choices_of_two(one_s: float, other_s: float, seed: int) -> None:
    """With two targets of one rank, balanced always asks the one with less load."""
    seen = named([RoutingScore(0, one_s), RoutingScore(0, other_s)])
    loads = [seen[target].load_s for target in ordered(seen, "balanced", seed)]
    assert loads == sorted(loads)


@given(st.lists(st.floats(0.0, 60.0), min_size=2, max_size=7, unique=True), st.integers(0, 1_000))
def test_the_worst_is_never_first(loads_s: list[float], seed: int) -> None:
    """Whoever is drawn beside the most loaded is better: balanced never begins with it."""
    seen = named([RoutingScore(0, load_s) for load_s in loads_s])
    assert seen[ordered(seen, "balanced", seed)[0]].load_s < max(loads_s)


def test_balanced_prefers_less_load() -> None:
    """Of four, the first place goes to each in turn of load, in the shares that two choices of four give."""
    seen = named([RoutingScore(0, load_s) for load_s in (4.0, 1.0, 3.0, 2.0)])
    first = [seen[ordered(seen, "balanced", seed)[0]].load_s for seed in SEEDS]
    for load_s, share in ((1.0, 3 / 6), (2.0, 2 / 6), (3.0, 1 / 6), (4.0, 0.0)):
        assert first.count(load_s) / len(SEEDS) == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_equals_share_evenly(count: int) -> None:
    """With nothing known of any of them, balanced begins with each as often as with the others."""
    seen = named([RoutingScore(0, 0.0)] * count)
    first = [ordered(seen, "balanced", seed)[0] for seed in SEEDS]
    for target in seen:
        assert first.count(target) / len(SEEDS) == pytest.approx(1 / count, abs=0.04)


class CountingRandom(Random):
    """Counts its draws."""

    draws = 0

    def random(self) -> float:
        self.draws += 1
        return super().random()


def test_the_work_of_balanced() -> None:
    """The work grows with the number of targets, not with its square: two draws a target, no comparisons."""
    compared: list[object] = []
    for count in (50, 100):
        seen, rng = named([RoutingScore(0, 1.0)] * count), CountingRandom(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Target, "__eq__", lambda one, other: compared.append(one) or one is other)
            assert len(order(list(seen), "balanced", seen, rng)) == count
        assert (rng.draws, len(compared)) == (2 * (count - 1), 0)
