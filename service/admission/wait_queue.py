"""Those who wait for the same targets: in what order they go, and who has waited too long. Decides, never acts."""

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

TIME_MIN_S = 0.05  # with less left nobody can be asked
RATE_S = 10.0  # the drain of a line is measured over so long
RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 60.0


class Waiter:
    """One request in line. `called`: set when it may go, or is refused with `error`; `how` it left the queue."""

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
        """Whether less time is left than an answer to such a request needs."""
        return self.deadline_s - now_s < max(TIME_MIN_S, self.service_time.seconds)


class PriorityLane:
    """Those of one class, in the order in which they came."""

    def __init__(self, options: AdmissionOptions) -> None:
        self.codel = Codel(options)
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()

    def oldest(self) -> Waiter:
        """Who came first."""
        return next(iter(self.waiting))

    def next_waiter(self, now_s: float) -> Waiter:
        """Whose turn it is."""
        return next(reversed(self.waiting)) if self.codel.is_standing(now_s) else self.oldest()


class WaitQueue:
    """Times are loop seconds."""

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
        """The last one in its class."""
        if not len(self):
            self._opened_s = waiter.joined_s
        self.lanes[waiter.priority].waiting[waiter] = None

    def remove(self, waiter: Waiter) -> bool:
        """Whether it was there."""
        lane = self.lanes[waiter.priority]
        if waiter not in lane.waiting:
            return False
        del lane.waiting[waiter]
        if not lane.waiting:
            lane.codel.reset()
        return True

    def highest(self) -> Priority:
        """The highest class in which somebody waits. Somebody must be waiting."""
        return next(priority for priority, lane in self.lanes.items() if lane.waiting)

    def next_waiter(self, now_s: float) -> Waiter:
        """Whose turn it is. Somebody must be waiting."""
        return self.lanes[self.highest()].next_waiter(now_s)

    def may_go(self, now_s: float) -> bool:
        """Whether there is a place, or nothing to wait for."""
        return not self.fleet.must_wait(self.targets, now_s)

    def note_delays(self, now_s: float) -> None:
        """How long the oldest of each class has waited."""
        for lane in self.lanes.values():
            if lane.waiting:
                lane.codel.note(now_s - lane.oldest().joined_s, now_s)

    def too_long(self, now_s: float) -> Iterator[Waiter]:
        """Who has waited too long, the lowest class and the oldest first. Each must be removed before the next is asked
        for. The last one in line stays, or a place that frees would find nobody; nor does CoDel drop the last packet."""
        for priority in reversed(Priority):
            lane = self.lanes[priority]
            while len(self) > 1 and lane.waiting:
                oldest = lane.oldest()
                if not lane.codel.too_long(now_s - oldest.joined_s, now_s):
                    break
                yield oldest

    def note_served(self, now_s: float) -> None:
        """One got its place."""
        self._served_s.append(now_s)

    def rate_per_s(self, now_s: float) -> float:
        """How many got a place lately."""
        served_s = self._served_s
        while served_s and served_s[0] < now_s - RATE_S:
            served_s.popleft()
        return len(served_s) / min(RATE_S, max(1.0, now_s - self._opened_s))

    def retry_after_s(self, priority: Priority, now_s: float) -> float:
        """When those who wait now, and go before somebody of this class, will have had their turn."""
        rate_per_s = self.rate_per_s(now_s)
        if not rate_per_s:
            return RATE_S
        before = sum(len(self.lanes[other].waiting) for other in Priority if other <= priority)
        return min(max(RETRY_AFTER_MIN_S, (before + 1) / rate_per_s), RETRY_AFTER_MAX_S)

    def snapshot(self, now_s: float) -> dict[str, Any]:
        """As /status says it."""
        oldest_s = min(waiter.joined_s for waiter in self)
        return {
            "targets": [target.name for target in self.targets],
            "waiting": {priority.label: len(lane.waiting) for priority, lane in self.lanes.items()},
            "stands": any(lane.codel.is_standing(now_s) for lane in self.lanes.values()),
            "oldest_s": round(now_s - oldest_s, 3),
            "served_per_s": round(self.rate_per_s(now_s), 1),
        }
