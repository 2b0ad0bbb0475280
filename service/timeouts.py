"""Timeouts: bounds each wait of one task, all on a single timer.

Call `Timeouts.run(name, limit_s, awaitable)`.

    run("first_token", 10.0, awaitable) -> its result      time runs only while it is awaited
                                 | expired
                                 TimedOut("first_token"), or TimedOut("deadline") if that came first

`asyncio.timeout` sets and removes a timer for each wait, which costs more than relaying a chunk. Here a wait
moves one number; the timer compares it with the time when it fires.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
NEVER = float("inf")
LOOP_LAG_S = 0.1  # a timer that fires later than this shows that the loop was busy
GRACE_S = 0.25  # to read what has arrived meanwhile
LOOK_S = 3.0  # a timer fires at least so often: a look costs less than a new timer for each shorter wait


class TimedOut(Exception):
    """A wait exceeded its limit. `timeout` is the name of a timeout of the route, or "deadline"."""

    def __init__(self, timeout: str) -> None:
        super().__init__(timeout)
        self.timeout = timeout


class CutShort(Exception):
    """The wait is of no use any more: another branch has the answer."""


class Timeouts:
    """The waits of one task: each has its own limit, and all of them one deadline. Times are loop seconds.

    `outer` are the timeouts of a task that waits for this one.
    """

    def __init__(self, deadline_s: float, outer: "Timeouts | None" = None) -> None:
        self.deadline_s = deadline_s
        self._outer = outer
        self._inner: list[Timeouts] = []
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None, "its waits are those of a task"
        self.task: asyncio.Task[Any] = task
        self.began_s = NEVER  # of the last wait
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at_s = NEVER  # of the timer; NEVER without one
        self._until_s = NEVER
        self._limit_at_s = NEVER  # as `_until_s`, without the deadline
        self._expired = False
        self._in_grace = False
        self._cut_short = False
        self.notice: Callable[[], None] | None = None  # called once, at `_notice_at_s`, while a wait goes on
        self._notice_at_s = NEVER
        if outer is not None:
            outer._inner.append(self)

    async def run(self, name: str, limit_s: float, awaitable: Awaitable[T]) -> T:
        """Await for at most `limit_s` seconds. Return the result. Raises TimedOut, CutShort."""
        self.began_s = now_s = self._loop.time()
        self._limit_at_s = at_s = now_s + limit_s
        until_s = at_s if at_s < self.deadline_s else self.deadline_s  # noqa: FURB136 `min` takes longer
        self._until_s = until_s
        self._in_grace = False
        if until_s < self._fires_at_s:
            self._set_timer(min(until_s, now_s + LOOK_S))
        if self._cut_short:
            self._loop.call_soon(self._fire_if_waiting)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._expired:
                self._expired = False
                if self.task.uncancel() == 0:
                    if self._cut_short:
                        raise CutShort from None
                    raise TimedOut("deadline" if self.deadline_s <= self._limit_at_s else name) from None
            raise  # the task was also cancelled from outside: that counts
        finally:
            self._until_s = NEVER
            if self._expired:
                self._expired = False  # the awaitable has turned our cancellation into something else
                self.task.uncancel()

    def notify_at(self, at_s: float, notice: Callable[[], None]) -> None:
        """Call `notice` at this time, while a wait goes on, unless `notice` is set to None before."""
        self.notice, self._notice_at_s = notice, at_s
        if at_s < self._fires_at_s:
            self._set_timer(at_s)

    def extend(self, deadline_s: float) -> None:
        """Move the deadline to a later time, also for the current wait and for the inner timeouts."""
        if deadline_s <= self.deadline_s:
            return
        self.deadline_s = deadline_s
        if self._until_s != NEVER:
            self._until_s = min(self._limit_at_s, deadline_s)
        for inner in self._inner:
            inner.extend(deadline_s)

    def cut_short(self) -> None:
        """End the current wait, and every later one at once, with CutShort, until `resume`.

        What the task does outside of `run`, such as releasing a connection, is never disturbed.
        """
        self._cut_short = True
        self._fire_if_waiting()

    def resume(self) -> None:
        """Let waits take their time again."""
        self._cut_short = False

    def close(self) -> None:
        """Remove the timer. There are no more waits."""
        if self._outer is not None:
            self._outer._inner.remove(self)
            self._outer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._fires_at_s = None, NEVER

    def _set_timer(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._fires_at_s = self._loop.call_at(at_s, self._on_timer), at_s

    def _on_timer(self) -> None:
        self._timer, self._fires_at_s = None, NEVER
        if self.notice is not None:
            self._give_notice(self.notice)
        if self._until_s == NEVER:
            return
        now_s = self._loop.time()
        if now_s < self._until_s:
            if self._until_s < self._fires_at_s:
                self._set_timer(self._until_s)
        elif now_s - self._until_s > LOOP_LAG_S and not self._in_grace and self._until_s < self.deadline_s:
            # Our own loop stood still: what has arrived meanwhile is unread, and no provider has failed.
            self._in_grace = True
            self._until_s = min(now_s + GRACE_S, self.deadline_s)
            self._set_timer(self._until_s)
        else:
            self._fire()

    def _give_notice(self, notice: Callable[[], None]) -> None:
        late_s = self._loop.time() - self._notice_at_s
        if late_s < 0:
            self._set_timer(self._notice_at_s)
        elif late_s > LOOP_LAG_S:  # our own loop stood still: what has arrived meanwhile is read first
            self.notify_at(self._notice_at_s + late_s + GRACE_S, notice)
        else:
            self.notice = None
            notice()

    def _fire_if_waiting(self) -> None:
        if self._cut_short and self._until_s != NEVER:
            self._fire()

    def _fire(self) -> None:
        self._expired = True
        self._until_s = NEVER
        self.task.cancel()


async def wait_at_most(event: asyncio.Event, at_most_s: float) -> bool:
    """Wait for an event, or until this time is up. Return whether the event came."""
    try:
        async with asyncio.timeout(at_most_s):
            return await event.wait()
    except TimeoutError:
        return False
