"""How long is waited before a second target is asked, and how often that may be."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw, convert

from dub5.service import clock
from dub5.service.config.options import BudgetOptions, HedgeOptions, ProbeOptions, TimeoutOptions
from dub5.service.failover.hedging import (
    SAMPLES_MAX,
    Hedges,
    LatencyHistory,
    latency_class,
    silent_after_s,
)
from dub5.service.model import Caller, ChatBody, ChatRequest, Target
from dub5.simulators.script import Script, SimRequest, Wait
from tests.support.world import ServiceWorld, body, healthy

PLENTY = {"budget": BudgetOptions(floor_per_s=1000.0), "probe": ProbeOptions(enabled=False)}


ONE, TWO = Target("one", "m"), Target("two", "m")
STREAM, OTHER_CLASS = 3, 4


def known(hedges: Hedges, *took_s: float, target: Target = ONE, which: int = STREAM) -> None:
    """Observe answers, one after the other."""
    now_s = 0.0
    for one_s in took_s:
        now_s += one_s
        hedges.history(target, which).add(one_s, now_s)


def asked(stream: bool = True, content: str = "Hi", **fields: Any) -> ChatRequest:
    """Return a chat request."""
    written = body(stream=stream, messages=[{"role": "user", "content": content}], **fields)
    raw = {name: Raw(json.dumps(value).encode()) for name, value in written.items()}
    return ChatRequest("r", Caller(), convert(written, ChatBody), raw)


class TestDelay:
    def test_the_95th_percentile(self) -> None:
        """Of what it took lately: nineteen of twenty come sooner."""
        hedges = Hedges(HedgeOptions())
        known(hedges, *(n / 100 for n in range(100, 0, -1)))
        assert hedges.history(ONE, STREAM).delay_s() == pytest.approx(0.96)

    def test_too_few_say_nothing(self) -> None:
        """Few samples give no delay, and so no hedge."""
        hedges = Hedges(HedgeOptions(samples_min=20))
        known(hedges, *[0.5] * 19)
        assert hedges.history(ONE, STREAM).delay_s() is None
        known(hedges, 0.5)
        assert hedges.history(ONE, STREAM).delay_s() == 0.5

    def test_never_at_once(self) -> None:
        """A hedge is never sent at once, however fast the target usually is."""
        hedges = Hedges(HedgeOptions(delay_min_s=0.2))
        known(hedges, *[0.001] * 50)
        assert hedges.history(ONE, STREAM).delay_s() == 0.2

    @pytest.mark.parametrize("other", [{"target": TWO}, {"which": OTHER_CLASS}], ids=["target", "class"])
    def test_apart(self, other: dict[str, Any]) -> None:
        """Each target and each class of requests has a usual latency of its own."""
        hedges = Hedges(HedgeOptions())
        known(hedges, *[1.0] * 50)
        known(hedges, *[9.0] * 50, **other)
        assert hedges.history(ONE, STREAM).delay_s() == 1.0

    def test_of_late(self) -> None:
        """Older latencies are forgotten."""
        hedges = Hedges(HedgeOptions())
        known(hedges, *[9.0] * SAMPLES_MAX)
        known(hedges, *[1.0] * SAMPLES_MAX)
        assert hedges.history(ONE, STREAM).delay_s() == 1.0


class TestClasses:
    @pytest.mark.parametrize(
        "other",
        [
            asked(stream=False),
            asked(content="x" * 5_000),
            asked(content="x" * 50_000),
            asked(reasoning_effort="high"),
            asked(thinking={"type": "enabled"}),
            asked(reasoning={"max_tokens": 1000}),
        ],
        ids=["JSON", "a longer prompt", "a very long prompt", "effort", "thinking", "reasoning"],
    )
    def test_apart(self, other: ChatRequest) -> None:
        """JSON, longer prompts, and requests that are to be thought about are classes of their own."""
        assert latency_class(other) != latency_class(asked())

    @pytest.mark.parametrize("effort", ["none", "minimal", "low", None])
    def test_little_effort_is_none(self, effort: str | None) -> None:
        """A request that asks for little thought is of the class of those that ask for none."""
        assert latency_class(asked(reasoning_effort=effort)) == latency_class(asked())

    @given(st.booleans(), st.integers(0, 60_000), st.sampled_from(["", "high", "low"]))
    @settings(max_examples=40, derandomize=True, deadline=None)
    def test_a_number_for_each(self, stream: bool, size: int, effort: str) -> None:
        """Whatever is asked, requests of one class agree in form, size and effort."""
        request = asked(stream, "x" * size, **({"reasoning_effort": effort} if effort else {}))
        number = latency_class(request)
        assert (number // 3 % 2 == 1, number % 3, number // 6) == (
            stream,
            (request.size > 2_000) + (request.size > 20_000),
            int(effort == "high"),
        )


class TestUsual:
    def test_the_lowest_median_of_the_last_minutes(self) -> None:
        """A target that gets slower is not used to it at once, and is after ten minutes."""
        latency = LatencyHistory(HedgeOptions())
        for n in range(200):
            latency.add(1.0, n * 1.0)
        for n in range(200, 420):
            latency.add(8.0, n * 1.0)
        assert latency.usual_s == 1.0
        for n in range(420, 1100):
            latency.add(8.0, n * 1.0)
        assert latency.usual_s == 8.0

    def test_the_first_answers_are_the_quick_ones(self) -> None:
        """Of many requests sent at once the quickest are answered first: they do not show what is usual."""
        latency = LatencyHistory(HedgeOptions())
        for n in range(20, 60):
            latency.add(float(n), float(n))
        assert latency.usual_s is None
        for n in range(200):
            latency.add(40.0, 200.0 + n)
        assert latency.usual_s == 40.0

    @given(st.lists(st.floats(0.01, 200.0), min_size=5, max_size=60))
    @settings(max_examples=50, derandomize=True, deadline=None)
    def test_it_lies_among_what_was_seen(self, took_s: list[float]) -> None:
        """What counts as usual lies between the quickest and the slowest answer, and silence is beyond it."""
        hedges = Hedges(HedgeOptions())
        known(hedges, *took_s)
        usual_s = hedges.history(ONE, STREAM).usual_s
        assert usual_s is None or min(took_s) <= usual_s <= max(took_s)
        assert silent_after_s(usual_s, TimeoutOptions()) >= max(10.0, usual_s or 0.0)


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
