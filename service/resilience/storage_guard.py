"""Storage guard: a circuit breaker and time limits. A slow or lost storage costs a request only milliseconds.

call --the breaker is open--> StorageLost, at once
     --this request's time for the storage is used up--> StorageLost, at once
     --late, or failed--> StorageLost, and the breaker counts it
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol, TypeVar

from dub5.service import clock
from dub5.service.config.options import BreakerOptions
from dub5.service.resilience.circuit_breaker import Breaker, CallOutcome, OnStateChange

T = TypeVar("T")

SLOW_SHARE = 0.5  # of the time that a request has: a call that takes longer is slow
LEAST_S = 0.005  # with less time left, a call would prove nothing
OUR_FAULT_S = 0.01  # a timeout that fires later than this means that our own event loop was busy
OPEN_MAX_S = 4.0
QUEUE_PER_CALL = 8  # callers for each concurrent call: with more, all of them would wait in vain
BREAKER = BreakerOptions(
    window_s=10,
    calls_min=20,
    failures_in_a_row=3,
    open_s=1.0,
    open_max_s=OPEN_MAX_S,
    probe_s=1.0,
    slow_start_s=0.0,
)


class StorageLost(Exception):
    """The storage is unavailable now. No request fails because of it."""


class Patience:
    """The time that one request may still wait for the storage, in all its calls together."""

    __slots__ = ("left_s",)

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s


class StorageGuard(Protocol):
    """What stands between the service and a storage: cache, counters of limits, database."""

    patience_s: float

    async def call(self, patience: Patience, work: Callable[[], Awaitable[T]], *, insist: bool = False) -> T:
        """Return `await work()`. Raises StorageLost. `insist`: call even if the breaker is open."""
        ...


class NoGuard:
    """The guard of a storage that can be neither slow nor lost."""

    patience_s = 0.0

    async def call(self, patience: Patience, work: Callable[[], Awaitable[T]], *, insist: bool = False) -> T:
        """Do as StorageGuard says."""
        return await work()


class BreakerGuard:
    """The guard of a storage behind a network.

    `calls_max`: concurrent calls. Other callers wait here; the breaker does not count that wait against the
    storage.
    """

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
        self._callers_max = calls_max * QUEUE_PER_CALL
        self._callers = 0
        self._failures = failures

    async def call(self, patience: Patience, work: Callable[[], Awaitable[T]], *, insist: bool = False) -> T:
        """Do as StorageGuard says."""
        if patience.left_s < LEAST_S:
            raise StorageLost("this request's time for the storage is used up")
        if self._callers >= self._callers_max:
            raise StorageLost("too many concurrent callers")
        began_s = clock.now()
        permit = self.breaker.try_acquire(began_s)
        if permit is None and not insist:
            raise StorageLost("its breaker is open")
        outcome, called_s, until_s = CallOutcome.IGNORED, None, began_s + patience.left_s
        self._callers += 1
        try:
            async with asyncio.timeout_at(until_s), self._room:
                called_s = clock.now()
                found = await work()
            outcome = CallOutcome.SLOW if self._slow(called_s) and not insist else CallOutcome.SUCCESS
            return found
        except TimeoutError:
            its_fault = self._slow(called_s) and clock.now() - until_s < OUR_FAULT_S
            outcome = CallOutcome.FAILURE if its_fault else CallOutcome.IGNORED
            raise StorageLost("it did not answer in time") from None
        except self._failures as error:
            outcome = CallOutcome.FAILURE
            raise StorageLost(type(error).__name__) from None
        finally:
            self._callers -= 1
            patience.left_s -= clock.now() - began_s
            if permit is not None:
                permit.end(outcome, clock.now())

    def _slow(self, called_s: float | None) -> bool:
        return called_s is not None and clock.now() - called_s > self.patience_s * SLOW_SHARE
