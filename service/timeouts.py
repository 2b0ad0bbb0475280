"""The clocks of one request, on a single timer.

    arm("first_token", 10.0) -> await ... -> disarm()      time runs only in between
                                 | ran out
                                 ClockRanOut("first_token"), or ClockRanOut("deadline") if that came first

`asyncio.timeout` sets and removes a timer for each wait, which costs more than relaying a chunk. Here a wait moves
one number, and the timer looks at it when it fires.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")
NEVER = float("inf")
LATE_S = 0.1  # a timer that fires later than this says that the loop was busy
SPARED_S = 0.25  # for what came while it was


class ClockRanOut(Exception):
    """A wait took longer than it may. `clock` names which: a clock of the route, or "deadline"."""

    def __init__(self, clock: str) -> None:
        super().__init__(clock)
        self.clock = clock


class Interrupted(Exception):
    """The wait is of no use any more."""


class Watch:
    """Guards the waits of one task, each with its own limit, all within one deadline (loop seconds). `within`: the
    watch of a task that waits for this one."""

    def __init__(self, deadline_s: float, within: "Watch | None" = None) -> None:
        self.deadline_s = deadline_s
        self._within = within
        self._parts: list[Watch] = []
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_s = NEVER  # when it looks; NEVER without a timer
        self._until_s = NEVER
        self._limit_s = NEVER  # the same without the deadline
        self._ran_out = False
        self._interrupted = False
        self._spared = False
        if within is not None:
            within._parts.append(self)

    async def guard(self, clock: str, limit_s: float, wait: Awaitable[T]) -> T:
        """`await wait`, for at most `limit_s` seconds. Raises ClockRanOut, Interrupted."""
        self._limit_s = at_s = self._loop.time() + limit_s
        self._until_s = until_s = min(at_s, self.deadline_s)
        self._spared = False
        if until_s < self._rings_s:
            self._set_timer(until_s)
        if self._interrupted:
            self._loop.call_soon(self._ring_if_waiting)
        try:
            return await wait
        except asyncio.CancelledError:
            if self._ran_out and self._task is not None:
                self._ran_out = False
                if self._task.uncancel() == 0:
                    if self._interrupted:
                        raise Interrupted from None
                    raise ClockRanOut("deadline" if self.deadline_s <= self._limit_s else clock) from None
            raise  # somebody else cancelled us as well: theirs counts
        finally:
            self._until_s = NEVER
            if self._ran_out and self._task is not None:
                self._ran_out = False  # what we waited for made something else of our cancel
                self._task.uncancel()

    def extend(self, deadline_s: float) -> None:
        """A later deadline, also for the wait that is guarded now, and for the watches within this one."""
        if deadline_s <= self.deadline_s:
            return
        self.deadline_s = deadline_s
        if self._until_s != NEVER:
            self._until_s = min(self._limit_s, deadline_s)
        for part in self._parts:
            part.extend(deadline_s)

    def interrupt(self) -> None:
        """Ends the wait that is guarded now, and those after it at once, with Interrupted, until `calm`."""
        self._interrupted = True
        self._ring_if_waiting()

    def calm(self) -> None:
        """Waits are of use again."""
        self._interrupted = False

    def close(self) -> None:
        """No more waits; the timer goes."""
        if self._within is not None:
            self._within._parts.remove(self)
            self._within = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._rings_s = None, NEVER

    def _set_timer(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings_s = self._loop.call_at(at_s, self._look), at_s

    def _look(self) -> None:
        self._timer, self._rings_s = None, NEVER
        if self._until_s == NEVER:
            return
        now_s = self._loop.time()
        if now_s < self._until_s:
            self._set_timer(self._until_s)
        elif now_s - self._until_s > LATE_S and not self._spared and self._until_s < self.deadline_s:
            # Our own loop stood still: what has come meanwhile lies unread, and is nobody's failure.
            self._spared = True
            self._until_s = min(now_s + SPARED_S, self.deadline_s)
            self._set_timer(self._until_s)
        else:
            self._ring()

    def _ring_if_waiting(self) -> None:
        if self._interrupted and self._until_s != NEVER:
            self._ring()

    def _ring(self) -> None:
        if self._task is not None:
            self._ran_out = True
            self._until_s = NEVER
            self._task.cancel()
