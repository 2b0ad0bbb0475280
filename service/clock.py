"""The only door to time. The simulation stands behind it by bringing its own event loop."""

import asyncio
import time
from typing import Protocol, cast

ANCHOR_S = 60.0


class VirtualTime(Protocol):
    """What an event loop with its own time offers."""

    def time_ns(self) -> int: ...

    def wall(self) -> float: ...


def now() -> float:
    """Seconds on the loop's clock: for deadlines. uvloop moves it in steps of 1 ms."""
    return asyncio.get_running_loop().time()


def tick_ns() -> int:
    """Nanoseconds, for durations too short for `now`."""
    loop = asyncio.get_running_loop()
    if hasattr(loop, "time_ns"):
        return cast(VirtualTime, loop).time_ns()
    return time.perf_counter_ns()


class _Wall:
    """Epoch seconds that move with the loop's clock, so that a jump of the host's clock never runs backwards
    inside a request; anchored anew each minute, so that they do not drift either."""

    def __init__(self) -> None:
        self._anchored_at_s = float("-inf")
        self._epoch_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def read(self) -> float:
        loop = asyncio.get_running_loop()
        if hasattr(loop, "wall"):
            return cast(VirtualTime, loop).wall()
        at_s = loop.time()
        if loop is not self._loop or at_s - self._anchored_at_s > ANCHOR_S:
            self._loop, self._anchored_at_s, self._epoch_s = loop, at_s, time.time()
        return self._epoch_s + at_s - self._anchored_at_s


wall = _Wall().read
