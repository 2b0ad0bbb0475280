"""Wait queue of requests for the same targets: their order, and which waited too long. Never acts itself."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

from dub5.service.admission.codel import Codel
from dub5.service.admission.service_time import ServiceTime
from dub5.service.config.options import AdmissionOptions
from dub5.service.errors import GatewayError
from dub5.service.model import Priority, Target
from dub5.service.resilience.fleet import Fleet

TIME_MIN_S = 0.05  # with less time left no provider can answer
RATE_S = 10.0  # the period over which the service rate of a queue is measured
RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 60.0


class Waiter:
    """A waiting request. `called`: done when it may go on, or is refused with `error`. `how`: how it left."""

    __slots__ = ("called", "deadline_s", "error", "how", "joined_s", "priority", "service_time", "wait_queue")

    def __init__(
        self,
        wait_queue: "WaitQueue",
        priority: Priority,
        called: "asyncio.Future[None]",
        joined_s: float,
        deadline_s: float,
        service_time: ServiceTime,
    ) -> None:
        self.wait_queue = wait_queue
        self.priority = priority
        self.called = called
        self.joined_s = joined_s
        self.deadline_s = deadline_s
        self.service_time = service_time
        self.error: GatewayError | None = None
        self.how = "left"

    def expired(self, now_s: float) -> bool:
        """Return whether the remaining deadline is too short for an answer to such a request."""
        return self.deadline_s - now_s < max(TIME_MIN_S, self.service_time.seconds)


class PriorityLane:
    """The waiting requests of one priority class, in order of arrival."""

    def __init__(self, options: AdmissionOptions) -> None:
        self.codel = Codel(options)
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()

    def oldest(self) -> Waiter:
        """Return the request that came first."""
        return next(iter(self.waiting))

    def next_waiter(self, now_s: float) -> Waiter:
        """Return the request to serve next: the oldest one, or the newest one while the queue stands."""
        return next(reversed(self.waiting)) if self.codel.is_standing(now_s) else self.oldest()


class WaitQueue:
    """The requests that wait for the same targets, in a lane for each class. Times are loop seconds."""

    def __init__(self, fleet: Fleet, targets: tuple[Target, ...], options: AdmissionOptions) -> None:
        self.fleet = fleet
        self.targets = targets
        self.providers = frozenset(target.provider for target in targets)
        self.lanes = {priority: PriorityLane(options) for priority in Priority}
        self._served_s: deque[float] = deque(maxlen=10_000)
        self._opened_s = 0.0

    def __len__(self) -> int:
        return sum(len(lane.waiting) for lane in self.lanes.values())

    def __iter__(self) -> Iterator[Waiter]:
        for lane in self.lanes.values():
            yield from lane.waiting

    def add(self, waiter: Waiter) -> None:
        """Add a request at the end of its lane."""
        if not len(self):
            self._opened_s = waiter.joined_s
        self.lanes[waiter.priority].waiting[waiter] = None

    def remove(self, waiter: Waiter) -> bool:
        """Remove a request. Return whether it was waiting."""
        lane = self.lanes[waiter.priority]
        if waiter not in lane.waiting:
            return False
        del lane.waiting[waiter]
        if not lane.waiting:
            lane.codel.reset()
        return True

    def highest(self) -> Priority:
        """Return the highest class with a waiting request. The queue must not be empty."""
        return next(priority for priority, lane in self.lanes.items() if lane.waiting)

    def next_waiter(self, now_s: float) -> Waiter:
        """Return the request to serve next. The queue must not be empty."""
        return self.lanes[self.highest()].next_waiter(now_s)

    def may_go(self, now_s: float) -> bool:
        """Return whether a slot is free, or waiting is of no use."""
        return not self.fleet.must_wait(self.targets, now_s)

    def note_delays(self, now_s: float) -> None:
        """Record how long the oldest request of each class has waited."""
        for lane in self.lanes.values():
            if lane.waiting:
                lane.codel.note(now_s - lane.oldest().joined_s, now_s)

    def too_long(self, now_s: float) -> Iterator[Waiter]:
        """Yield the requests that have waited too long, the lowest class and the oldest one first.

        The caller removes each one before it asks for the next. The last waiting request stays, or a slot
        that becomes free would find no request; CoDel does not drop the last packet either.
        """
        for priority in reversed(Priority):
            lane = self.lanes[priority]
            while len(self) > 1 and lane.waiting:
                oldest = lane.oldest()
                if not lane.codel.too_long(now_s - oldest.joined_s, now_s):
                    break
                yield oldest

    def note_served(self, now_s: float) -> None:
        """Count one request that got its slot."""
        self._served_s.append(now_s)

    def rate_per_s(self, now_s: float) -> float:
        """Return how many requests got a slot lately, per second."""
        served_s = self._served_s
        while served_s and served_s[0] < now_s - RATE_S:
            served_s.popleft()
        return len(served_s) / min(RATE_S, max(1.0, now_s - self._opened_s))

    def retry_after_s(self, priority: Priority, now_s: float) -> float:
        """Return the seconds until the waiting requests of this and higher classes will have been served."""
        rate_per_s = self.rate_per_s(now_s)
        if not rate_per_s:
            return RATE_S
        before = sum(len(self.lanes[other].waiting) for other in Priority if other <= priority)
        return min(max(RETRY_AFTER_MIN_S, (before + 1) / rate_per_s), RETRY_AFTER_MAX_S)

    def snapshot(self, now_s: float) -> dict[str, Any]:
        """Return the state of the queue as `/status` shows it."""
        oldest_s = min(waiter.joined_s for waiter in self)
        return {
            "targets": [target.name for target in self.targets],
            "waiting": {priority.label: len(lane.waiting) for priority, lane in self.lanes.items()},
            "stands": any(lane.codel.is_standing(now_s) for lane in self.lanes.values()),
            "oldest_s": round(now_s - oldest_s, 3),
            "served_per_s": round(self.rate_per_s(now_s), 1),
        }
