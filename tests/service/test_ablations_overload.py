"""What keeps the service useful under pressure earns its place: with it a verdict holds, without it the same
one fails."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from statistics import median
from typing import Any

import pytest

from dub5.service.admission.codel import Codel
from dub5.service.admission.wait_queue import PriorityLane, Waiter, WaitQueue
from dub5.service.config.options import AdmissionOptions, LimiterOptions
from dub5.service.config.settings import ServerSettings
from dub5.service.resilience import classify
from dub5.service.resilience.queue_delay import QueueDelayDetector
from dub5.simulators.latency import Latency
from dub5.simulators.limits.concurrency import Capacity
from tests.experiments.pressure import PressureRun, PressureScene

Options = dict[str, Any]
Patch = pytest.MonkeyPatch
SLOTS = 8  # and each answers one request a second
FROM_S, TO_S = 8.0, 20.0
LINE = Capacity(slots=SLOTS, queue_max=SLOTS // 2)
NO_ROOM = AdmissionOptions(waiting_max=0)


def twice(capacity: Capacity, options: Options, **more: Any) -> PressureScene:
    return PressureScene(rate_per_s=2.0 * SLOTS, seconds=TO_S, capacity=capacity, options=options, **more)


async def queue(options: Options) -> bool:
    """A burst of a second and a half, twice the load on a provider that can be known to be full: everybody
    gets an answer."""
    options = {**options, "limiter": _limit(SLOTS)}
    played = await PressureScene(2.0 * SLOTS, 1.5, Capacity(slots=SLOTS), options=options).play()
    return all(asked.whole for asked in played.asked)


async def codel(options: Options) -> bool:
    """People wait for three seconds: those who are answered are answered in time, the others hear so soon."""
    played = await twice(LINE, options, patience_s=3.0).play()
    return played.good_per_s(FROM_S, TO_S) >= 0.85 * SLOTS


async def newest_first(options: Options) -> bool:
    """Nobody's answer begins late, since those who are asked for are those who have just come."""
    options = {**options, "limiter": _limit(SLOTS)}
    played = await twice(Capacity(slots=SLOTS), options).play()
    return median(asked.first_s for asked in played.during(FROM_S, TO_S) if asked.whole) < 0.9


async def expiry(options: Options) -> bool:
    """People allow a second and a half: no provider is asked for an answer that would come too late."""
    options = {**options, "limiter": _limit(SLOTS)}
    played = await twice(Capacity(slots=SLOTS), options, deadline_s=1.4).play()
    return played.good_per_s(FROM_S, TO_S) >= 0.4 * played.tries(FROM_S, TO_S) / (TO_S - FROM_S)


async def priorities(options: Options) -> bool:
    """A third of the callers is named high: they do not notice the overload."""
    callers = {"KEY_WEB": 1.0, "KEY_APP": 2.0}
    options = {"server": ServerSettings(caller_keys_env=tuple(callers)), **options}
    played = await twice(LINE, options, callers=callers).play()
    high = [asked for asked in played.during(FROM_S, TO_S) if asked.caller == 0]
    return sum(asked.whole for asked in high) >= 0.95 * len(high)


async def last_one_stays(options: Options) -> bool:
    """One slot, and now and then two people at one time: the second one waits for its turn, as there is
    nobody else."""
    slow = Latency(1.0, 0.0, 0.5, 0.0)  # five seconds in all
    scene = PressureScene(
        0.0, 0.0, Capacity(slots=1), options={**options, "limiter": _limit(1)}, latency=slow, patience_s=60.0
    )
    stage = PressureRun(scene)
    async with stage.client, asyncio.TaskGroup() as group:
        for _ in range(5):
            for _ in range(2):
                group.create_task(stage.ask())
            await asyncio.sleep(20.0)
    return all(asked.whole for asked in stage.asked)


async def backlog(options: Options) -> bool:
    """The provider takes everything and says nothing: people have answers, not places in its line."""
    played = await twice(Capacity(slots=SLOTS), options, patience_s=5.0).play()
    return played.good_per_s(FROM_S, TO_S) >= 0.9 * SLOTS


async def backlog_in_vain(options: Options) -> bool:
    """The same, but it also works for those who have left; and they leave early, so that it answers nobody in
    time."""
    stubborn = Capacity(slots=16, abandons=False)
    scene = PressureScene(32.0, 24.0, stubborn, options=options, patience_s=2.0, works_for_nobody=True)
    return (await scene.play()).good_per_s(12.0, 24.0) >= 5.0


async def slower_for_good(options: Options) -> bool:
    """The provider has room for all and becomes four times slower: it has no queue, nobody is turned away."""
    run = PressureRun(PressureScene(12.0, 40.0, Capacity(slots=500), options=options))
    async with run.client, asyncio.TaskGroup() as group:
        asyncio.get_running_loop().call_later(10.0, _slow_down, run)
        await run.arrive(group)
    return all(asked.whole for asked in run.asked)


async def overload_by_words(options: Options) -> bool:
    """The provider says 503, and in words that it has no room: it is given what it has room for."""
    played = await twice(LINE, options, persona="openai").play()
    return played.good_per_s(FROM_S, TO_S) >= 0.85 * SLOTS


def _slow_down(run: PressureRun) -> None:
    for provider in run.providers.values():
        provider.profile = replace(provider.profile, latency=Latency(2.0, 0.2, 0.045, 0.1))


def _limit(places: int) -> Any:
    return LimiterOptions(min=places, max=places)


def _expired_only_then(waiter: Waiter, now_s: float) -> bool:
    return waiter.deadline_s <= now_s


def _not_in_vain(note: Callable[..., bool]) -> Callable[..., bool]:
    return lambda backlog, *told, unanswered=False, **more: not unanswered and note(backlog, *told, **more)


def _also_the_last(too_long: Callable[..., Any]) -> Callable[..., Any]:
    def all_of_them(line: WaitQueue, now_s: float) -> Any:
        for waiter in list(line):
            if line.lanes[waiter.priority].codel.too_long(now_s - waiter.joined_s, now_s):
                yield waiter

    return all_of_them


Scenario = Callable[[Options], Awaitable[bool]]
KEEP: Callable[[Patch], None] = lambda patch: None
MECHANISMS: list[tuple[Scenario, Options, Options, Callable[[Patch], None]]] = [
    (queue, {}, {"admission": NO_ROOM}, KEEP),
    (codel, {}, {}, lambda patch: patch.setattr(Codel, "is_standing", lambda *_: False)),
    (
        newest_first,
        {},
        {},
        lambda patch: patch.setattr(PriorityLane, "next_waiter", lambda lane, _: lane.oldest()),
    ),
    (expiry, {}, {}, lambda patch: patch.setattr(Waiter, "expired", _expired_only_then)),
    (priorities, {"admission": AdmissionOptions(priorities={"KEY_WEB": "high"})}, {}, KEEP),
    (
        last_one_stays,
        {},
        {},
        lambda patch: patch.setattr(WaitQueue, "too_long", _also_the_last(WaitQueue.too_long)),
    ),
    (backlog, {}, {}, lambda patch: patch.setattr(QueueDelayDetector, "note", lambda *_, **__: False)),
    (
        backlog_in_vain,
        {},
        {},
        lambda patch: patch.setattr(QueueDelayDetector, "note", _not_in_vain(QueueDelayDetector.note)),
    ),
    (
        slower_for_good,
        {},
        {},
        lambda patch: patch.setattr(QueueDelayDetector, "_is_usual", lambda _: False),
    ),
    (overload_by_words, {}, {}, lambda patch: patch.setattr(classify, "OVERLOADED", ())),
]


@pytest.mark.parametrize(
    ("scenario", "having", "without", "take"), MECHANISMS, ids=[case[0].__name__ for case in MECHANISMS]
)
async def test_ablation(
    scenario: Scenario,
    having: Options,
    without: Options,
    take: Callable[[Patch], None],
    monkeypatch: Patch,
) -> None:
    """The check passes with the mechanism, and only with it."""
    assert await scenario(having)
    take(monkeypatch)
    assert not await scenario(without)
