"""Outbox: the writes that wait to be sent, in lanes. Pure bookkeeping; store.py sends them.

    lane      the writes of one conversation, in order: the next one is sent when the one before is through
    bounds    `WRITES_MAX` writes, `BYTES_MAX` bytes
    backlog   lanes that waited for a lost database: others go first, since somebody waits for those
    bulk      large writes whose makers wait: they leave room for turns, and are sent at once or never

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
BULK_SHARE = 0.75  # of the bytes, with all else that waits: a document of any letters has about 4 MiB


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
        # Lanes whose first write nobody sends, the longest waiting first: ordered sets.
        self._fresh: dict[str, None] = {}
        self._backlog: dict[str, None] = {}
        self._added = 0
        self._deferred = 0  # the writes up to this one were told to be late
        self._newest: dict[str, int] = {}  # by lane: the number of its last write
        self._overflowed = False

    def add(self, write: W) -> bool:
        """Append a write to its lane. Return whether there was room; if not, it is forgotten."""
        if self._overflowed or self.count >= self._writes_max or self.bytes + write.size > self._bytes_max:
            self._overflowed = self.count > 0
            return False
        lane = self._lanes.get(write.lane)
        if lane is None:
            lane = self._lanes[write.lane] = deque()
            self._fresh[write.lane] = None
        elif self._backlog.pop(write.lane, False) is None:  # somebody waits for this lane now
            self._fresh[write.lane] = None
        lane.append(write)
        self._added += 1
        self._newest[write.lane] = self._added
        self.count, self.bytes = self.count + 1, self.bytes + write.size
        return True

    def has_room_for_bulk(self, size: int) -> bool:
        """Return whether a large write may be added. One that is not added closes the outbox to no other."""
        return self.bytes + size <= self._bytes_max * BULK_SHARE

    def take(self, *, backlog: bool = True) -> W | None:
        """Return the next write to send, of a lane that has none under way; None if there is none.

        `backlog`: also one of the backlog, if there is no other.
        """
        ready = self._fresh or (self._backlog if backlog else None)
        if not ready:
            return None
        lane = next(iter(ready))
        del ready[lane]
        return self._lanes[lane][0]

    def put_back(self, write: W) -> None:
        """Let a write that was taken be sent again, before the rest of its lane."""
        self._make_ready(write.lane)

    def defer(self) -> None:
        """Let all that waits go after what comes now: its requests have been told that it is not kept."""
        self._backlog |= self._fresh
        self._fresh.clear()
        self._deferred = self._added

    def remove(self, write: W) -> None:
        """Remove a write that was taken: it is through."""
        lane = self._lanes[write.lane]
        lane.popleft()
        self.count, self.bytes = self.count - 1, self.bytes - write.size
        if lane:
            self._make_ready(write.lane)
        else:
            del self._lanes[write.lane], self._newest[write.lane]
        if not self.count:
            self._overflowed = False

    def _make_ready(self, lane: str) -> None:
        (self._fresh if self._newest[lane] > self._deferred else self._backlog)[lane] = None

    def last(self, lane: str) -> W | None:
        """Return the newest write of a lane that waits or is under way."""
        waiting = self._lanes.get(lane)
        return waiting[-1] if waiting else None

    def __iter__(self) -> Iterator[W]:
        """Yield all writes, lane by lane."""
        for lane in self._lanes.values():
            yield from lane
