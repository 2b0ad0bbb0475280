"""How much a provider does at once: an M/G/c queue. Who finds no slot waits for one, in the order of arrival.

    request --a slot is free--> served -----------------------> slot free --> the next in line
            --none is---------> in line (at most queue_max) --^
            --the line is full> turned away

When a client leaves, a server that `abandons` frees the slot at once; another one finishes for nobody.
The capacity may change meanwhile: whoever has a slot or stands in line keeps it; a slot too many is not filled again.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from dub5.simulators.script import Action, Close, Data, End, Gate, Hang, Reset, Script, Until, Wait

UNSEEN_S_MAX = 600.0  # so long at most goes on what nobody waits for


class Capacity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`slots` 0: no bound. `queue_max`: so many wait for a slot, others are turned away; None: all wait."""

    slots: Annotated[int, Meta(ge=0, le=100_000)] = 0
    queue_max: Annotated[int, Meta(ge=0)] | None = None
    abandons: bool = True


class SlotQueue:
    """The slots of one provider and the line before them; `now` as in SimulatedProvider."""

    def __init__(self, capacity: Capacity, now: Callable[[], float]) -> None:
        self.capacity = capacity
        self._now = now
        self._busy = 0
        self._unseen_until_s: list[float] = []  # slots that work for clients who have left
        self._queue: deque[Gate] = deque()

    def change(self, capacity: Capacity) -> None:
        """Another capacity from now on; the next in line is called if there is room for it."""
        self.capacity = capacity
        self._call_next()

    def snapshot(self) -> dict[str, int]:
        """How many are being served, how many of them for nobody, and how many wait."""
        self._has_room()
        unseen = len(self._unseen_until_s)
        return {"busy": self._busy + unseen, "unseen": unseen, "waiting": len(self._queue)}

    def is_full(self) -> bool:
        """Whether the next one would be turned away."""
        queue_max = self.capacity.queue_max
        return queue_max is not None and len(self._queue) >= queue_max and not self._has_room()

    def serve(self, script: Script) -> Script:
        """The script, as soon as there is a slot for it, and only while it has one."""
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
            self._call_next()  # it looks only after we have taken our slot: front ends wake scripts one after another

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
    """How long the rest of the work takes, if it comes to an end."""
    left_s = 0.0
    for action in script:
        left_s += _wait_s(action)
        if left_s >= UNSEEN_S_MAX:
            return UNSEEN_S_MAX
    return left_s
