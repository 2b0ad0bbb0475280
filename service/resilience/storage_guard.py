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
from dub5.service.resilience.circuit_breaker import Breaker, BreakerState, CallOutcome, OnStateChange

T = TypeVar("T")

SLOW_SHARE = 0.5  # of the guard's patience: a call that takes longer is slow
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
    """The time that one request may still wait for the storage, in all its calls together.

    `slow_s`: a call that takes longer is slow; None: half of the guard's own patience.
    """

    __slots__ = ("left_s", "slow_s")

    def __init__(self, left_s: float, slow_s: float | None = None) -> None:
        self.left_s = left_s
        self.slow_s = slow_s


class StorageGuard(Protocol):
    """What stands between the service and a storage: cache, counters of limits, database."""

    patience_s: float

    async def call(
        self,
        patience: Patience,
        work: Callable[[], Awaitable[T]],
        *,
        insist: bool = False,
        probe: bool = True,
    ) -> T:
        """Return `await work()`. Raises StorageLost.

        `insist`: call even if the breaker is open. `probe`: this call may find out whether a lost storage is
        back; without it, any breaker that is not closed is StorageLost at once.
        """
        ...


class NoGuard:
    """The guard of a storage that can be neither slow nor lost."""

    patience_s = 0.0

    async def call(
        self,
        patience: Patience,
        work: Callable[[], Awaitable[T]],
        *,
        insist: bool = False,
        probe: bool = True,
    ) -> T:
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

    async def call(
        self,
        patience: Patience,
        work: Callable[[], Awaitable[T]],
        *,
        insist: bool = False,
        probe: bool = True,
    ) -> T:
        """Do as StorageGuard says."""
        if patience.left_s < LEAST_S:
            raise StorageLost("this request's time for the storage is used up")
        if self._callers >= self._callers_max:
            raise StorageLost("too many concurrent callers")
        began_s = clock.now()
        may_call = probe or self.breaker.state is BreakerState.CLOSED
        permit = self.breaker.try_acquire(began_s) if may_call else None
        if permit is None and not insist:
            raise StorageLost("its breaker is open")
        outcome, called_s, until_s = CallOutcome.IGNORED, None, began_s + patience.left_s
        slow_s = self.patience_s * SLOW_SHARE if patience.slow_s is None else patience.slow_s
        self._callers += 1
        try:
            async with asyncio.timeout_at(until_s), self._room:
                called_s = clock.now()
                found = await work()
            outcome = CallOutcome.SLOW if _longer(called_s, slow_s) and not insist else CallOutcome.SUCCESS
            return found
        except TimeoutError:
            its_fault = _longer(called_s, slow_s) and clock.now() - until_s < OUR_FAULT_S
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


def _longer(called_s: float | None, slow_s: float) -> bool:
    return called_s is not None and clock.now() - called_s > slow_s
