"""The clock: the only source of time in the service. The simulation brings an event loop with virtual time.

now       loop seconds, for deadlines
tick_ns   nanoseconds, for short durations
wall      epoch seconds, for people and other machines
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, cast

ANCHOR_S = 60.0  # how long `wall` runs on the loop's clock before it reads the host's again


class VirtualTime(Protocol):
    """What an event loop with virtual time offers."""

    def time_ns(self) -> int: ...

    def wall(self) -> float: ...


def now() -> float:
    """Return the seconds of the loop's clock, for deadlines. uvloop advances it in steps of 1 ms."""
    return asyncio.get_running_loop().time()


def tick_ns() -> int:
    """Return nanoseconds, for durations too short for `now`."""
    read: Callable[[], int] = getattr(asyncio.get_running_loop(), "time_ns", time.perf_counter_ns)
    return read()


def tick_reader() -> Callable[[], int]:
    """Return what `tick_ns` reads inside this loop, for a caller that may be outside of it."""
    read: Callable[[], int] = getattr(asyncio.get_running_loop(), "time_ns", time.perf_counter_ns)
    return read


class _Wall:
    """Epoch seconds that advance with the loop's clock.

    When the host's clock is set back, time does not run backwards inside a request. The host's clock is read
    again every `ANCHOR_S`, so that the epoch seconds do not drift.
    """

    def __init__(self) -> None:
        self._anchored_at_s = float("-inf")
        self._epoch_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None  # one whose time is not virtual

    def read(self) -> float:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if hasattr(loop, "wall"):
                return cast(VirtualTime, loop).wall()
            self._loop, self._anchored_at_s = loop, float("-inf")
        at_s = loop.time()
        if at_s - self._anchored_at_s > ANCHOR_S:
            self._anchored_at_s, self._epoch_s = at_s, time.time()
        return self._epoch_s + at_s - self._anchored_at_s


wall = _Wall().read
