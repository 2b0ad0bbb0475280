"""Reasoning models with default settings: no healthy thinker is cut; a dead provider is left all the same."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest

from dub5.chaos.simulation.mutant import mutated
from dub5.chaos.simulation.run import Simulation
from dub5.chaos.simulation.world.model import (
    FaultWindow,
    LoadProfile,
    ServiceSettings,
    World,
    WorldProvider,
    WorldRoute,
)
from dub5.simulators.virtual import run
from tests.simulation import mutants

LEFT_S = 10.0  # in which a dead provider is left
CUT_MAX = 0.001  # of healthy calls
EXTRA_MAX = 0.05  # calls beyond one for each request
LEARNING_S = 45.0  # until the first answers show what is usual
ALONE_EXTRA = 0.05  # where nobody else asks, an answer of 10 s and a stall look alike


@dataclass(frozen=True)
class Played:
    """What came of a world."""

    simulation: Simulation

    @property
    def endings(self) -> Counter[str]:
        """Return how many requests ended in which outcome."""
        ended = [r.ended for r in self.simulation.record.requests.values()]
        return Counter(e.outcome.value if e else "never" for e in ended)

    @property
    def reasons(self) -> Counter[str]:
        """Return how many attempts ended for which reason."""
        return Counter(a.reported.reason for a in self.simulation.record.attempts() if a.reported)

    @property
    def extra(self) -> float:
        """Return the attempts beyond one for each request, as a share of the requests."""
        return len(self.simulation.record.attempts()) / len(self.simulation.record.requests) - 1.0

    def first_s(self, since_s: float, until_s: float) -> list[float]:
        """Return how long each request of this time waited for its first content."""
        return [
            r.ended.first_token_s if r.ended and r.ended.first_token_s is not None else float("inf")
            for r in self.simulation.record.requests.values()
            if since_s <= r.began_s < until_s
        ]


def play(
    *latencies: str,
    rate_per_s: float,
    requests: int,
    dead_s: tuple[float, float] = (0.0, 0.0),
    fault: Mapping[str, Any] = MappingProxyType({"kind": "stall"}),
    seed: int = 1,
) -> Played:
    """Run a world of these providers with default settings. `dead_s`: when the first one answers nobody."""
    providers = tuple(
        WorldProvider(f"p{number}", "openai", latency, 12, ("m",)) for number, latency in enumerate(latencies)
    )
    dead = FaultWindow("p0", dead_s[0], dead_s[1] - dead_s[0], dict(fault))
    world = World(
        seed=seed,
        providers=providers,
        routes=(WorldRoute("chat", "ordered", tuple(p.targets[0] for p in providers)),),
        troubles=(dead,) if dead.for_s else (),
        load=LoadProfile(rate_per_s, 0.7, 0.0, 0.0, (300.0, 300.0)),
        tuning=ServiceSettings(),
        warm_s=dead_s[0],
        storm_s=dead.for_s,
        calm_s=requests / rate_per_s - dead_s[1],
        rest_s=80.0,
    )
    simulation = Simulation(world)
    run(simulation.run(), seed=seed)
    assert not simulation.record.violations, simulation.record.violations[:3]
    return Played(simulation)


@pytest.mark.parametrize("latency", ["thinker", "reasoning"])
@pytest.mark.parametrize(
    ("rate_per_s", "requests"),
    [
        (0.05, 200),
        (2.0, 400),
        pytest.param(0.05, 500, marks=pytest.mark.thorough),
        pytest.param(2.0, 1200, marks=pytest.mark.thorough),
    ],
)
def test_no_thinker_is_cut(latency: str, rate_per_s: float, requests: int) -> None:
    """In a world of thinkers at most one healthy call in a thousand is cut, and no breaker opens for
    slowness. Extra calls stay within the hedging budget: 5 %, or one a minute; before anything is learned,
    one for each request."""
    played = play(latency, latency, rate_per_s=rate_per_s, requests=requests)
    record = played.simulation.record
    count = len(record.requests)
    assert played.endings["complete"] >= (1 - CUT_MAX) * count, played.endings
    cut = sum(number for reason, number in played.reasons.items() if reason not in ("ok", "hedge_lost"))
    assert cut <= CUT_MAX * count, played.reasons
    assert not record.breaker_moves, record.breaker_moves
    assert played.extra <= EXTRA_MAX + LEARNING_S * rate_per_s / count + ALONE_EXTRA * (rate_per_s < 1)


@pytest.mark.parametrize("name", [mutant.__name__ for mutant in mutants.OF_THINKERS])
def test_a_broken_build_is_caught(name: str) -> None:
    """A build that takes thinkers for dead fails the test above, in the shortest of its busy worlds."""
    with mutated(f"{mutants.__name__}:{name}"), pytest.raises(AssertionError):
        test_no_thinker_is_cut("thinker", 2.0, 400)


def test_a_single_thinker_is_waited_for() -> None:
    """With one target only, everybody is answered by it."""
    played = play("thinker", rate_per_s=2.0, requests=300)
    assert set(played.endings) == {"complete"}
    assert set(played.reasons) == {"ok"}
    assert not played.simulation.record.breaker_moves


@pytest.mark.parametrize(
    ("rate_per_s", "from_s", "dead_s"),
    [(0.2, 100.0, 300.0), (3.0, 30.0, 100.0), pytest.param(3.0, 100.0, 300.0, marks=pytest.mark.thorough)],
)
def test_a_dead_provider_is_left(rate_per_s: float, from_s: float, dead_s: float) -> None:
    """A provider that is usually quick answers nobody for minutes: nobody waits for longer than 10 s, and
    hardly anybody waits at all."""
    until_s = from_s + dead_s
    requests = int((from_s + until_s) * rate_per_s)
    played = play("quick", "quick", rate_per_s=rate_per_s, requests=requests, dead_s=(from_s, until_s))
    waits_s = played.first_s(from_s, until_s)
    assert set(played.endings) == {"complete"}
    assert max(waits_s) <= LEFT_S + 1.0
    assert sum(wait_s > 2.0 for wait_s in waits_s) <= 8 + LEFT_S * rate_per_s


def test_a_busy_dead_provider_is_left_sooner() -> None:
    """Of a quick provider with ten calls a second it is seen within 5 s that it has stopped."""
    played = play("quick", "quick", rate_per_s=10.0, requests=700, dead_s=(30.0, 50.0))
    waits_s = played.first_s(30.0, 50.0)
    assert set(played.endings) == {"complete"}
    assert max(waits_s) <= 5.0
    assert sum(wait_s > 2.0 for wait_s in waits_s) <= 6.0 * 10.0


def test_a_pause_is_no_failure() -> None:
    """Where the same provider only pauses for 5 s, others are asked meanwhile, and no breaker opens."""
    pause = {"kind": "stall", "before": "head", "s": 5.0}
    played = play("quick", "quick", rate_per_s=10.0, requests=700, dead_s=(30.0, 35.0), fault=pause)
    assert set(played.endings) == {"complete"}
    assert not played.simulation.record.breaker_moves
    assert played.reasons["hedge_lost"] > 5


def test_a_dead_thinker_is_left() -> None:
    """A provider whose answers usually take a minute stops to answer anybody: that is seen within 10 s by how
    many are overdue. Whoever comes later does not wait for it, and nobody waits until it would be silent."""
    played = play("thinker", "lpu", rate_per_s=2.0, requests=900, dead_s=(200.0, 400.0))
    assert set(played.endings) == {"complete"}
    died_s = played.first_s(200.0, 270.0)
    later_s = sorted(played.first_s(270.0, 400.0))
    assert max(died_s) <= 80.0
    assert later_s[int(len(later_s) * 0.97)] <= 2.0
