"""How long is waited before a second target is asked, and how often that may be."""

import pytest

from dub5.service import clock
from dub5.service.config.options import BudgetOptions, HedgeOptions, ProbeOptions
from dub5.service.failover.hedging import SAMPLES_MAX, Hedges
from dub5.simulators.script import Script, SimRequest, Wait
from tests.support.world import ServiceWorld, healthy

PLENTY = {"budget": BudgetOptions(floor_per_s=1000.0), "probe": ProbeOptions(enabled=False)}


def known(
    hedges: Hedges, *took_s: float, target: str = "one/m", stream: bool = True, size: int = 100
) -> None:
    for one_s in took_s:
        hedges.observe(target, stream, size, one_s)


class TestDelay:
    def test_the_95th_percentile(self) -> None:
        """Of what it took lately: nineteen of twenty come sooner."""
        hedges = Hedges(HedgeOptions())
        known(hedges, *(n / 100 for n in range(100, 0, -1)))
        assert hedges.delay_s("one/m", True, 100) == pytest.approx(0.96)

    def test_too_few_say_nothing(self) -> None:
        """Few samples give no delay, and so no hedge."""
        hedges = Hedges(HedgeOptions(samples_min=20))
        known(hedges, *[0.5] * 19)
        assert hedges.delay_s("one/m", True, 100) is None
        known(hedges, 0.5)
        assert hedges.delay_s("one/m", True, 100) == 0.5

    def test_never_at_once(self) -> None:
        """A hedge is never sent at once, however fast the target usually is."""
        hedges = Hedges(HedgeOptions(delay_min_s=0.2))
        known(hedges, *[0.001] * 50)
        assert hedges.delay_s("one/m", True, 100) == 0.2

    @pytest.mark.parametrize(
        "other",
        [{"target": "two/m"}, {"stream": False}, {"size": 5_000}, {"size": 50_000}],
        ids=["another target", "JSON", "a longer prompt", "a very long prompt"],
    )
    def test_apart(self, other: dict[str, object]) -> None:
        """Each target, streams and JSON, and each size of prompts have usual latencies of their own."""
        hedges = Hedges(HedgeOptions())
        known(hedges, *[1.0] * 50)
        known(hedges, *[9.0] * 50, **other)  # type: ignore[arg-type]
        assert hedges.delay_s("one/m", True, 100) == 1.0

    def test_of_late(self) -> None:
        """Older latencies are forgotten."""
        hedges = Hedges(HedgeOptions())
        known(hedges, *[9.0] * SAMPLES_MAX)
        known(hedges, *[1.0] * SAMPLES_MAX)
        assert hedges.delay_s("one/m", True, 100) == 1.0


async def test_the_second_is_asked_then() -> None:
    """In the service a hedge is sent after the 95th percentile of the first target, and no sooner."""
    began: list[float] = []
    asked: list[float] = []
    waits_s = [*(n / 40 for n in range(1, 41)), 5.0]

    def varies(request: SimRequest) -> Script:
        began.append(clock.now())
        yield Wait(waits_s[len(began) - 1])
        yield from healthy(first_s=0.0)(request)

    def second(request: SimRequest) -> Script:
        asked.append(clock.now())
        yield from healthy()(request)

    options = {**PLENTY, "hedge": HedgeOptions(samples_min=40, share=0.5)}
    async with ServiceWorld(one=varies, two=second, options=options) as world:
        for _ in range(41):
            answer = await world.ask(stream=True)
    assert answer.headers["x-dub5-target"] == "two/m"
    assert [at_s - began[-1] for at_s in asked] == [pytest.approx(0.975, abs=0.01)]
