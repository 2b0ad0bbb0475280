"""What stands before a storage behind a network: a patience for each request, and a breaker for all of
them."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from dub5.service import clock
from dub5.service.resilience.circuit_breaker import BreakerState
from dub5.service.resilience.storage_guard import (
    OPEN_MAX_S,
    QUEUE_PER_CALL,
    BreakerGuard,
    Patience,
    StorageLost,
)

PATIENCE_S = 0.05
CALLS_MAX = 16


class GuardedRemote:
    """Something to ask, that can be slow or broken; and its guard."""

    def __init__(self) -> None:
        self.guard = BreakerGuard(PATIENCE_S, CALLS_MAX, (ConnectionError,), Random(1), lambda *change: None)
        self.delay_s = 0.0
        self.error: Exception | None = None
        self.asked = 0

    async def _work(self) -> str:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return "found"

    async def ask(self, patience: Patience | None = None) -> str | None:
        """None: lost."""
        try:
            return await self.guard.call(patience or Patience(PATIENCE_S), self._work)
        except StorageLost:
            return None


async def took_s(asking: Callable[[], Awaitable[object]]) -> float:
    began_s = clock.now()
    await asking()
    return clock.now() - began_s


async def test_a_request_waits_no_longer_than_its_patience() -> None:
    """All storage calls of a request together take no longer than its limit."""
    remote, patience = GuardedRemote(), Patience(PATIENCE_S)
    remote.delay_s = 0.02
    assert await took_s(lambda: remote.ask(patience)) == pytest.approx(0.02)
    remote.delay_s = 5.0
    assert await took_s(lambda: remote.ask(patience)) == pytest.approx(0.03)
    assert await took_s(lambda: remote.ask(patience)) == 0.0
    assert remote.asked == 2


@pytest.mark.parametrize("hang_s", [0.0, 5.0], ids=["refuses", "hangs"])
async def test_nobody_asks_what_is_lost(hang_s: float) -> None:
    """After three failures in a row only an occasional probe calls the storage."""
    remote = GuardedRemote()
    remote.delay_s, remote.error = hang_s, ConnectionError()
    waited = 0
    for _ in range(600):
        waited += await took_s(remote.ask) > 0.001
        await asyncio.sleep(0.1)
    assert 10 <= remote.asked <= 3 + 60 / (OPEN_MAX_S * 0.75) + 4
    assert waited <= remote.asked


@pytest.mark.parametrize("lost_s", [0.3, 3.0, 30.0, 3000.0])
async def test_back_within_ten_seconds(lost_s: float) -> None:
    """A storage that is back is used within ten seconds, however long it was lost."""
    remote = GuardedRemote()
    remote.error = ConnectionError()
    until_s = clock.now() + lost_s
    while clock.now() < until_s:
        await remote.ask()
        await asyncio.sleep(0.05)
    remote.error = None
    healed_s = clock.now()
    while await remote.ask() is None:
        await asyncio.sleep(0.05)
    assert clock.now() - healed_s < 10.0
    assert remote.guard.breaker.state is BreakerState.CLOSED


async def test_always_slow_is_lost_too() -> None:
    """Answers that come just in time would cost every request nearly all of its patience, for ever."""
    remote = GuardedRemote()
    remote.delay_s = 0.045
    for _ in range(100):
        await remote.ask()
        await asyncio.sleep(0.01)
    assert remote.guard.breaker.state is not BreakerState.CLOSED


async def test_a_client_that_leaves_says_nothing() -> None:
    """Cancelled calls are nobody's fault, and hold no probe's place."""
    remote = GuardedRemote()
    remote.delay_s = 0.04
    for _ in range(10):
        task = asyncio.create_task(remote.ask())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert remote.guard.breaker.state is BreakerState.CLOSED


async def test_our_own_delay_is_not_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was too busy to look at the answer in time does not take the storage for lost."""
    remote, real = GuardedRemote(), clock.now
    remote.delay_s = 5.0
    monkeypatch.setattr(clock, "now", lambda: real() * 2)  # each call ends as if the loop had stood still
    for _ in range(10):
        await remote.ask()
    assert remote.guard.breaker.state is BreakerState.CLOSED


async def test_a_crowd_is_not_its_fault() -> None:
    """Calls that find no slot of our own pool do not count as failures, however many they are."""
    remote = GuardedRemote()
    remote.delay_s = 0.02
    began_s = clock.now()
    found = await asyncio.gather(*[remote.ask() for _ in range(500)])
    assert found.count("found") == 2 * CALLS_MAX
    assert clock.now() - began_s <= PATIENCE_S
    assert remote.guard.breaker.state is BreakerState.CLOSED
    assert await remote.ask() == "found"


async def test_a_queue_that_is_too_long() -> None:
    """Most of it would wait in vain: those who come then ask nobody."""
    remote = GuardedRemote()
    remote.delay_s = 0.001
    found = await asyncio.gather(*[remote.ask() for _ in range(500)])
    assert found.count("found") == CALLS_MAX * QUEUE_PER_CALL


async def test_an_operator_insists() -> None:
    """An invalidation is sent even while the breaker is open."""
    remote = GuardedRemote()
    remote.error = ConnectionError()
    for _ in range(5):
        await remote.ask()
    remote.error = None
    assert await remote.ask() is None
    assert await remote.guard.call(Patience(1.0), remote._work, insist=True) == "found"


async def test_a_defect_of_ours_is_no_lost_storage() -> None:
    """An unexpected exception is not hidden as a lost storage."""
    remote = GuardedRemote()
    remote.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await remote.ask()


async def test_who_does_not_probe() -> None:
    """A caller that does not probe is told at once while the storage is lost, and never asks it."""
    remote = GuardedRemote()
    remote.error = ConnectionError()
    for _ in range(3):
        await remote.ask()
    remote.error = None
    await asyncio.sleep(60.0)  # a probe is due, and nobody makes it
    with pytest.raises(StorageLost):
        await remote.guard.call(Patience(1.0), remote._work, probe=False)
    assert remote.asked == 3
    assert await remote.ask() == "found"
    assert await remote.guard.call(Patience(1.0), remote._work, probe=False) == "found"


async def test_a_limit_of_its_own() -> None:
    """A call with more patience may take longer than the guard's own before it counts as slow or failed."""
    remote = GuardedRemote()
    remote.delay_s = 0.8
    for _ in range(50):
        assert await remote.guard.call(Patience(2.0, slow_s=1.0), remote._work) == "found"
    assert remote.guard.breaker.state is BreakerState.CLOSED
    remote.delay_s = 5.0
    for _ in range(3):
        with pytest.raises(StorageLost):
            await remote.guard.call(Patience(2.0, slow_s=1.0), remote._work)
    assert remote.guard.breaker.state is BreakerState.OPEN
