"""A storage that may be slow or gone costs a request milliseconds, never its answer.

call --breaker open--> StorageLost, at once
     --patience of this request used up--> StorageLost, at once
     --late, or failed--> StorageLost, and the breaker hears of it
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol, TypeVar

from dub5.service import clock
from dub5.service.cache.storage import StorageLost
from dub5.service.config.options import BreakerOptions
from dub5.service.resilience.circuit_breaker import Breaker, CallOutcome, OnStateChange

T = TypeVar("T")

SLOW_SHARE = 0.5  # of the patience: a call that takes longer is slow
LEAST_S = 0.005  # with less patience left, a call would prove nothing
OUR_FAULT_S = 0.01  # so late comes a timeout only when we were busy ourselves
OPEN_MAX_S = 4.0
QUEUE_PER_CALL = 8  # more of us at one time would wait in vain, all of them
BREAKER = BreakerOptions(
    window_s=10,
    calls_min=20,
    failures_in_a_row=3,
    open_s=1.0,
    open_max_s=OPEN_MAX_S,
    probe_s=1.0,
    slow_start_s=0.0,
)


class Patience:
    """How long one request may still wait for the storage, all its calls together."""

    __slots__ = ("left_s",)

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s


class StorageGuard(Protocol):
    """Stands between the cache and its storage."""

    patience_s: float

    async def call(self, patience: Patience, work: Callable[[], Awaitable[T]], *, insist: bool = False) -> T:
        """`await work()`. Raises StorageLost. `insist`: even if the breaker is open."""
        ...


class NoGuard:
    """For a storage that can be neither slow nor gone."""

    patience_s = 0.0

    async def call(self, patience: Patience, work: Callable[[], Awaitable[T]], *, insist: bool = False) -> T:
        """See StorageGuard."""
        return await work()


class BreakerGuard:
    """For a storage behind a network. `calls_max`: so many at one time; others wait here, for which it has no blame."""

    def __init__(
        self,
        patience_s: float,
        calls_max: int,
        failures: tuple[type[Exception], ...],
        rng: Random,
        on_change: OnStateChange,
    ) -> None:
        self.patience_s = patience_s
        self.breaker = Breaker(BREAKER, OPEN_MAX_S, rng, on_change)
        self._room = asyncio.Semaphore(calls_max)
        self._here_max = calls_max * QUEUE_PER_CALL
        self._here = 0
        self._failures = failures

    async def call(self, patience: Patience, work: Callable[[], Awaitable[T]], *, insist: bool = False) -> T:
        """See StorageGuard."""
        if patience.left_s < LEAST_S:
            raise StorageLost("this request has waited long enough for it")
        if self._here >= self._here_max:
            raise StorageLost("too many ask at one time")
        began_s = clock.now()
        permit = self.breaker.try_acquire(began_s)
        if permit is None and not insist:
            raise StorageLost("its breaker is open")
        end, asked_s, until_s = CallOutcome.IGNORED, None, began_s + patience.left_s
        self._here += 1
        try:
            async with asyncio.timeout_at(until_s), self._room:
                asked_s = clock.now()
                found = await work()
            end = CallOutcome.SLOW if self._slow(asked_s) and not insist else CallOutcome.SUCCESS
            return found
        except TimeoutError:
            its_fault = self._slow(asked_s) and clock.now() - until_s < OUR_FAULT_S
            end = CallOutcome.FAILURE if its_fault else CallOutcome.IGNORED
            raise StorageLost("it did not answer in time") from None
        except self._failures as error:
            end = CallOutcome.FAILURE
            raise StorageLost(type(error).__name__) from None
        finally:
            self._here -= 1
            patience.left_s -= clock.now() - began_s
            if permit is not None:
                permit.end(end, clock.now())

    def _slow(self, asked_s: float | None) -> bool:
        return asked_s is not None and clock.now() - asked_s > self.patience_s * SLOW_SHARE
