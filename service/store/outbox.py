"""Outbox: the writes that wait to be sent, in lanes. Pure bookkeeping; store.py sends them.

    lane      the writes of one conversation, in order: the next one is sent when the one before is through
    bounds    `WRITES_MAX` writes, `BYTES_MAX` bytes

When it is full, the newest writes are forgotten, and all that follow until it is empty again. So each lane
loses only its end, and no write is sent whose predecessor was forgotten. Forgetting the oldest lane instead
would lose as many writes, and tear turns apart whose first half is in the database.
"""

import sys
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from dub5.service.store.base import BoundStatement

WRITES_MAX = 1_000
BYTES_MAX = 8 * 1024 * 1024


class Waiting(Protocol):
    """A write that waits: its lane, and its size in bytes."""

    @property
    def lane(self) -> str: ...

    @property
    def size(self) -> int: ...


W = TypeVar("W", bound=Waiting)


def size_of(bounds: list[BoundStatement]) -> int:
    """Return the bytes of memory that the values of a write occupy."""
    return sum(sys.getsizeof(value) for bound in bounds for value in bound.values)


class Outbox(Generic[W]):
    """The writes that wait. `take` one, send it, then `remove` it, or `put_back` it to be sent again."""

    def __init__(self, writes_max: int = WRITES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.count = 0
        self.bytes = 0
        self._writes_max = writes_max
        self._bytes_max = bytes_max
        self._lanes: dict[str, deque[W]] = {}
        self._ready: deque[str] = deque()  # lanes whose first write nobody sends, the longest waiting first
        self._overflowed = False

    def add(self, write: W) -> bool:
        """Append a write to its lane. Return whether there was room; if not, it is forgotten."""
        if self._overflowed or self.count >= self._writes_max or self.bytes + write.size > self._bytes_max:
            self._overflowed = self.count > 0
            return False
        lane = self._lanes.get(write.lane)
        if lane is None:
            lane = self._lanes[write.lane] = deque()
            self._ready.append(write.lane)
        lane.append(write)
        self.count, self.bytes = self.count + 1, self.bytes + write.size
        return True

    def take(self) -> W | None:
        """Return the next write to send, of a lane that has none under way; None if there is none."""
        return self._lanes[self._ready.popleft()][0] if self._ready else None

    def put_back(self, write: W) -> None:
        """Let a write that was taken be sent again, before the rest of its lane."""
        self._ready.append(write.lane)

    def remove(self, write: W) -> None:
        """Remove a write that was taken: it is through."""
        lane = self._lanes[write.lane]
        lane.popleft()
        self.count, self.bytes = self.count - 1, self.bytes - write.size
        if lane:
            self._ready.append(write.lane)
        else:
            del self._lanes[write.lane]
        if not self.count:
            self._overflowed = False

    def last(self, lane: str) -> W | None:
        """Return the newest write of a lane that waits or is under way."""
        waiting = self._lanes.get(lane)
        return waiting[-1] if waiting else None

    def __iter__(self) -> Iterator[W]:
        """Yield all writes, lane by lane."""
        for lane in self._lanes.values():
            yield from lane
