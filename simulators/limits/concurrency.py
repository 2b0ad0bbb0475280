"""Concurrency limit of a provider: slots with a FIFO queue before them (an M/G/c queue).

    request --a slot is free---> served ------------------------> slot free --> the next in the queue
            --no slot is free--> queued (at most queue_max) --^
            --the queue is full> rejected

When a client leaves, a provider that `abandons` frees the slot at once; another one works on until the answer
is done. The capacity may change at any time: requests keep their slots and places; an excess slot is not
filled again.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from dub5.simulators.script import Action, Close, Data, End, Gate, Hang, Reset, Script, Until, Wait

UNSEEN_S_MAX = 600.0  # maximum time of work for a client that has left


class Capacity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's capacity.

    `slots` 0: unlimited. `queue_max`: maximum length of the queue; None: unlimited.
    """

    slots: Annotated[int, Meta(ge=0, le=100_000)] = 0
    queue_max: Annotated[int, Meta(ge=0)] | None = None
    abandons: bool = True


class SlotQueue:
    """The slots of one provider and the queue before them; `now` as in SimulatedProvider."""

    def __init__(self, capacity: Capacity, now: Callable[[], float]) -> None:
        self.capacity = capacity
        self._now = now
        self._busy = 0
        self._unseen_until_s: list[float] = []  # slots that work for clients who have left
        self._queue: deque[Gate] = deque()

    def change(self, capacity: Capacity) -> None:
        """Change the capacity; wake the next request in the queue, which takes a slot if there is one."""
        self.capacity = capacity
        self._call_next()

    def snapshot(self) -> dict[str, int]:
        """Return the number of busy slots, of those whose client has left (unseen), of waiting requests."""
        self._has_room()
        unseen = len(self._unseen_until_s)
        return {"busy": self._busy + unseen, "unseen": unseen, "waiting": len(self._queue)}

    def is_full(self) -> bool:
        """Return whether the next request would be rejected."""
        queue_max = self.capacity.queue_max
        return queue_max is not None and len(self._queue) >= queue_max and not self._has_room()

    def serve(self, script: Script) -> Script:
        """Yield the script once a slot is free, and hold the slot until the script is over."""
        yield from self._wait_in_line()
        self._busy += 1
        over, resumes_s = False, 0.0
        try:
            for action in script:
                if not isinstance(action, Data):
                    over = isinstance(action, (End, Close, Reset))
                    resumes_s = self._now() + _wait_s(action)
                yield action
            over = True
        finally:
            self._busy -= 1
            if not over and not self.capacity.abandons:
                heapq.heappush(self._unseen_until_s, max(resumes_s, self._now()) + _left_s(script))
            self._call_next()

    def _wait_in_line(self) -> Script:
        gate = Gate()
        self._queue.append(gate)
        try:
            while self._queue[0] is not gate or not self._has_room():
                until_s = self._unseen_until_s[0] if self._unseen_until_s else None
                yield Until(gate, None if until_s is None else max(0.0, until_s - self._now()))
        finally:
            self._queue.remove(gate)
            # The next script checks for room only after this one has its slot: front ends wake scripts in
            # turn.
            self._call_next()

    def _has_room(self) -> bool:
        while self._unseen_until_s and self._unseen_until_s[0] <= self._now():
            heapq.heappop(self._unseen_until_s)
        slots = self.capacity.slots
        return not slots or self._busy + len(self._unseen_until_s) < slots

    def _call_next(self) -> None:
        if self._queue:
            self._queue[0].open()


def _wait_s(action: Action) -> float:
    match action:
        case Wait(s):
            return s
        case Hang():
            return UNSEEN_S_MAX
        case _:
            return 0.0


def _left_s(script: Script) -> float:
    """Return the seconds that the rest of the script takes, at most UNSEEN_S_MAX."""
    left_s = 0.0
    for action in script:
        left_s += _wait_s(action)
        if left_s >= UNSEEN_S_MAX:
            return UNSEEN_S_MAX
    return left_s
