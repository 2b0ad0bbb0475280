"""Request queue: holds requests while all providers that could answer them are at capacity.

    may_pass --a target may be called, and no request waits for it----------------> go on
      '--wait, all at capacity--> high | normal | low --a slot is free, it is called--> go on
                              |-- its client disconnected            (one call for each slot)
                              |-- the remaining deadline is too short for an answer    503 deadline_exceeded
                              |-- the queue stands, and it waited more than twice the target  503 overloaded
                              '-- too many wait: the oldest of the lowest class        503 overloaded

Call `Queue.may_pass(...)`, else `await Queue.wait(...)`, and call a target in the same step. A moving queue
is served first in, first out; a standing one (codel.py) newest first, because the client of the oldest
request is nearest to giving up. No slot is reserved: a request that is called checks again, in the same step
in which it calls a target, and keeps its position if another request was faster. One request is called at a
time, and calls the next.

A request that waits for one provider holds back none that needs another: a newcomer passes where a provider
has room that nobody waits for, and "too many" are counted for each provider.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from dub5.service import clock
from dub5.service.admission.service_time import ServiceTimes
from dub5.service.admission.wait_queue import Waiter, WaitQueue
from dub5.service.config.options import AdmissionOptions
from dub5.service.errors import DeadlineExceeded, Overloaded
from dub5.service.events import Events, QueueLeft
from dub5.service.failover.context import RequestContext
from dub5.service.model import AttemptRecord, Target
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.target import PROVIDER_FULL

TICK_S = 0.05  # how often waiting requests are checked; a refusal goes out at once
BUSY = "All providers for this model are at capacity."
TOO_LATE = "All providers were busy, and the remaining deadline is too short for an answer."


class Queue:
    """All requests that wait, in one WaitQueue for each list of targets. Times are loop seconds."""

    def __init__(self, options: AdmissionOptions, service_times: ServiceTimes, events: Events) -> None:
        self.options = options
        self.waiting = 0
        self._service_times = service_times
        self._events = events
        self._queues: dict[tuple[Fleet, tuple[Target, ...]], WaitQueue] = {}  # the last one served is last
        self._called: Waiter | None = None  # called, and has not gone on yet
        self._timer: asyncio.TimerHandle | None = None

    def may_pass(self, fleet: Fleet, targets: Sequence[Target], now_s: float) -> bool:
        """Return whether a request need not wait. It leaves alone the providers that others wait for."""
        if self.waiting:
            wanted = {name for wait_queue in self._nonempty() for name in wait_queue.providers}
            if any(target.provider in wanted for target in targets):
                return fleet.may_ask_any([t for t in targets if t.provider not in wanted], now_s)
        return not self.options.waiting_max or not fleet.must_wait(targets, now_s)

    async def wait(self, context: RequestContext, fleet: Fleet, targets: Sequence[Target]) -> None:
        """Wait until one of the targets may be called, which must happen in the same step.

        Raises Overloaded, DeadlineExceeded.
        """
        now_s, began_ns, loop = clock.now(), clock.tick_ns(), asyncio.get_running_loop()
        waiter = Waiter(
            self._wait_queue(fleet, tuple(targets)),
            context.request.caller.priority,
            loop.create_future(),
            now_s,
            context.timeouts.deadline_s,
            self._service_times.of(context.route, context.request.operation, context.request.stream),
        )
        try:
            self._join(waiter, now_s)
            await self._wait_for_slot(waiter)
        finally:
            self._remove(waiter)
            loop.call_soon(self.call)  # by then the request that goes on has taken its slot
            context.progress.upstream_ns += clock.tick_ns() - began_ns
            priority, waited_s = waiter.priority.label, clock.now() - now_s
            self._events.emit(QueueLeft(context.request.id, context.route, priority, waiter.how, waited_s))
        if waiter.error is not None:
            waiter.error.attempts = _passed_over(context, targets, now_s)
            raise waiter.error

    async def _wait_for_slot(self, waiter: Waiter) -> None:
        """Wait until this request may go on, or is refused."""
        loop = asyncio.get_running_loop()
        while True:
            await waiter.called
            if waiter.error is not None:
                return
            self._called, now_s = None, clock.now()
            if waiter.wait_queue.may_go(now_s):
                waiter.wait_queue.note_served(now_s)
                waiter.how = "served"
                return
            waiter.called = loop.create_future()  # another request was faster
            loop.call_soon(self.call)

    def _nonempty(self) -> list[WaitQueue]:
        return [wait_queue for wait_queue in self._queues.values() if len(wait_queue)]

    def _wait_queue(self, fleet: Fleet, targets: tuple[Target, ...]) -> WaitQueue:
        key = (fleet, targets)
        if key not in self._queues:
            # Empty queues of a fleet that a reload has replaced are dropped.
            self._queues = {
                k: wait_queue for k, wait_queue in self._queues.items() if len(wait_queue) or k[0] is fleet
            }
            self._queues[key] = WaitQueue(fleet, targets, self.options)
        return self._queues[key]

    def _join(self, waiter: Waiter, now_s: float) -> None:
        wait_queue = waiter.wait_queue
        if waiter.expired(now_s):
            self._refuse(waiter, "expired", now_s)
            return
        if self._is_full(wait_queue) and not self._make_room(waiter, now_s):
            self._refuse(waiter, "full", now_s)
            return
        wait_queue.add(waiter)
        self.waiting += 1
        wait_queue.fleet.on_room(wait_queue.targets, self.call)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self.call()

    def _is_full(self, wait_queue: WaitQueue) -> bool:
        """Return whether as many requests as may wait do, before each provider of this queue."""
        if self.waiting < self.options.waiting_max:
            return False
        queues = self._nonempty()
        return all(
            sum(len(other) for other in queues if name in other.providers) >= self.options.waiting_max
            for name in wait_queue.providers
        )

    def _make_room(self, waiter: Waiter, now_s: float) -> bool:
        """Refuse a request of a lower class, or an older one of a standing queue. Return whether one was.

        Only one that waits for a provider of the newcomer: the others are not in its way.
        """
        own, providers = waiter.wait_queue.lanes[waiter.priority], waiter.wait_queue.providers
        lanes = (
            lane
            for wait_queue in self._nonempty()
            if wait_queue.providers & providers
            for lane in wait_queue.lanes.values()
            if lane.waiting
        )
        lower = [oldest for lane in lanes if (oldest := lane.oldest()).priority > waiter.priority]
        if lower:
            self._refuse(max(lower, key=lambda other: (other.priority, -other.joined_s)), "full", now_s)
        elif own.codel.is_standing(now_s):
            self._refuse(own.oldest(), "full", now_s)
        else:
            return False
        return True

    def _refuse(self, waiter: Waiter, how: str, now_s: float) -> None:
        self._remove(waiter)
        retry_after_s = waiter.wait_queue.retry_after_s(waiter.priority, now_s)
        if how == "expired":
            waiter.error = DeadlineExceeded(TOO_LATE, retry_after_s=retry_after_s)
        else:
            waiter.error = Overloaded(BUSY, retry_after_s=retry_after_s)
        waiter.how = how
        if not waiter.called.done():
            waiter.called.set_result(None)

    def _remove(self, waiter: Waiter) -> None:
        self.waiting -= waiter.wait_queue.remove(waiter)
        if self._called is waiter:
            self._called = None

    def call(self) -> None:
        """Call the next request if a slot is free: the highest class first, its queues in rotation."""
        if self._called is not None or not self.waiting:
            return
        now_s = clock.now()
        for wait_queue in sorted(self._nonempty(), key=WaitQueue.highest):
            if wait_queue.may_go(now_s):
                self._called = waiter = wait_queue.next_waiter(now_s)
                if not waiter.called.done():
                    waiter.called.set_result(None)
                self._queues[wait_queue.fleet, wait_queue.targets] = self._queues.pop(
                    (wait_queue.fleet, wait_queue.targets)
                )
                return

    def _tick(self) -> None:
        """Refuse requests that have waited too long, and call the next one."""
        now_s = clock.now()
        for wait_queue in self._nonempty():
            for waiter in list(wait_queue):
                if waiter.expired(now_s):
                    self._refuse(waiter, "expired", now_s)
            wait_queue.note_delays(now_s)
            for waiter in wait_queue.too_long(now_s):
                self._refuse(waiter, "overloaded", now_s)
        self.call()  # a cool-down may be over or a breaker half open, and no event reports that
        more = self.waiting > 0
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick) if more else None

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the queue as `/status` shows it."""
        now_s = clock.now()
        queues = [wait_queue.snapshot(now_s) for wait_queue in self._nonempty()]
        return {"waiting": self.waiting, "waiting_max": self.options.waiting_max, "lines": queues}


def _passed_over(
    context: RequestContext, targets: Sequence[Target], since_s: float
) -> tuple[AttemptRecord, ...]:
    from_s, to_s = since_s - context.started_s, clock.now() - context.started_s
    return (
        *context.progress.trail,
        *(AttemptRecord(t.name, from_s, to_s, PROVIDER_FULL, tried=False) for t in targets),
    )
