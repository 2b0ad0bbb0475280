"""Twice as many requests as the provider can answer, in virtual time: what comes of them, and what does it
cost?"""

import asyncio
from statistics import median

import pytest

from dub5.service.config.options import AdmissionOptions
from dub5.service.config.settings import ServerSettings
from dub5.simulators.limits.concurrency import Capacity
from tests.experiments.pressure import PressureOutcome, PressureRun, PressureScene

SLOTS = 12  # and each answers one request a second
FROM_S, TO_S = 10.0, 32.0  # the first seconds are a burst, and are absorbed
KINDS = {
    "a short line, then refuses": Capacity(slots=SLOTS, queue_max=SLOTS // 2),
    "takes all, says nothing": Capacity(slots=SLOTS),
    "takes all, finishes for nobody": Capacity(slots=SLOTS, abandons=False),
}
CALLERS = {"KEY_WEB": 0.3, "KEY_APP": 0.4, "KEY_BATCH": 0.3}
PRIORITIES = {"KEY_WEB": "high", "KEY_BATCH": "low"}


def twice(capacity: Capacity, **more: object) -> PressureScene:
    return PressureScene(rate_per_s=2.0 * SLOTS, seconds=TO_S, capacity=capacity, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
async def test_twice_the_load(kind: str) -> None:
    """The provider is busy with answers that somebody reads, and is hardly asked for more than those."""
    played = await twice(KINDS[kind]).play()
    good_per_s, tries_per_s = played.good_per_s(FROM_S, TO_S), played.tries(FROM_S, TO_S) / (TO_S - FROM_S)
    assert good_per_s >= 0.9 * SLOTS
    assert tries_per_s <= 1.2 * good_per_s
    assert median(asked.first_s for asked in played.during(FROM_S, TO_S) if asked.whole) < 2.0
    _refusals(played)


def _refusals(played: PressureOutcome) -> None:
    """They come soon, and say when to come back."""
    refused = [asked for asked in played.during(FROM_S, TO_S) if asked.status == 503]
    assert len(refused) > 120
    waited_s = sorted(asked.took_s for asked in refused)
    assert waited_s[len(refused) * 9 // 10] < 1.5  # twice the target, and the next looks
    assert {asked.code for asked in refused} <= {"overloaded", "deadline_exceeded", "all_targets_down"}
    assert all(asked.retry_after_s is not None and 1.0 <= asked.retry_after_s <= 10.0 for asked in refused)


async def test_who_goes_first() -> None:
    """Under overload callers of high priority notice nothing; those of low priority are refused."""
    options = {
        "admission": AdmissionOptions(priorities=PRIORITIES),  # type: ignore[arg-type]
        "server": ServerSettings(caller_keys_env=tuple(CALLERS)),
    }
    played = await twice(KINDS["a short line, then refuses"], callers=CALLERS, options=options).play()
    answered = [
        sum(asked.whole for asked in mine) / len(mine)
        for caller in range(3)
        for mine in [[asked for asked in played.during(FROM_S, TO_S) if asked.caller == caller]]
    ]
    assert answered[0] > 0.97
    assert 0.3 < answered[1] < 0.8
    assert answered[2] < 0.1


async def test_operators_do_not_queue() -> None:
    """Whether the service lives, and how it does, is told at once; and that there is a queue."""
    stage = PressureRun(twice(KINDS["takes all, says nothing"]))
    async with stage.client, asyncio.TaskGroup() as group:
        people = group.create_task(stage.arrive(group))
        await asyncio.sleep(15.0)
        stood = 0
        for _ in range(10):
            await asyncio.sleep(0.5)
            async with asyncio.timeout(0.0005):
                for path in ("/livez", "/readyz", "/health"):
                    assert (await stage.client.request("GET", path)).status == 200
                told = (await stage.client.request("GET", "/status")).json()
            stood += any(line["waiting"]["normal"] and line["stands"] for line in told["queue"]["lines"])
        assert stood > 0, "there is a line, and it is told that it stands"
        assert told["happened"]["queued"] > told["happened"]["shed_overloaded"] > 0
        people.cancel()
