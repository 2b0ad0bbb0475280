"""The turns of this process: those that are answered, and those that ended a short time ago.

Memory is bounded: open turns are no more than requests are admitted, ended ones by REMEMBERED_BYTES_MAX.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from dub5.service import clock
from dub5.service.conversation.live_turn import Key, LiveTurn
from dub5.service.store.store import PendingWrite

REMEMBER_S = 60.0
REMEMBERED_BYTES_MAX = 64 * 1024 * 1024
OBJECTS_BYTES = 4 * 1024  # of a turn beside its text
PIECE_BYTES = 64  # of a piece of it beside its characters


class LiveTurns:
    """Finds turns by id, and by what an equal question is found by."""

    def __init__(self) -> None:
        self._by_id: dict[str, LiveTurn] = {}
        self._by_key: dict[Key, LiveTurn] = {}
        # Finished ones, the first to be forgotten first: until when, and the write of the end.
        self._ended: OrderedDict[str, tuple[float, PendingWrite | None]] = OrderedDict()
        self._ended_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}

    @property
    def count(self) -> int:
        """The number of turns that are being answered."""
        return len(self._by_id) - len(self._ended)

    def find(self, key: Key) -> LiveTurn | None:
        """Return the turn of an equal question."""
        return self._by_key.get(key)

    def get(self, owner: str, id_: str) -> LiveTurn | None:
        """Return a turn of this owner."""
        live = self._by_id.get(id_)
        return live if live is not None and live.owner == owner else None

    def add(self, live: LiveTurn) -> None:
        """Let the turn be found."""
        self._by_id[live.id] = self._by_key[live.key] = live

    def remove(self, live: LiveTurn) -> None:
        """Let the turn be found no more."""
        if self._by_id.get(live.id) is live:
            del self._by_id[live.id]
        if self._by_key.get(live.key) is live:
            del self._by_key[live.key]

    def remember(self, live: LiveTurn, end: PendingWrite | None) -> None:
        """Let a turn that has ended be found for a while, and until its end is kept, if there is room."""
        self._ended[live.id] = clock.now() + REMEMBER_S, end
        self._ended_bytes += _bytes_of(live)
        while self._ended_bytes > REMEMBERED_BYTES_MAX:
            self._forget(next(iter(self._ended)))
        self._set_timer()

    def run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a task that no connection ends."""
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def aclose(self) -> None:
        """Cancel what a drain has left."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _set_timer(self) -> None:
        if self._timer is None and self._ended:
            until_s, _ = next(iter(self._ended.values()))
            self._timer = asyncio.get_running_loop().call_at(until_s, self._forget_old)

    def _forget_old(self) -> None:
        self._timer = None
        now_s = clock.now()
        while self._ended:
            id_, (until_s, end) = next(iter(self._ended.items()))
            if until_s > now_s:
                break
            if end is None or end.done:
                self._forget(id_)
            else:
                self._ended[id_] = now_s + REMEMBER_S, end
                self._ended.move_to_end(id_)
        self._set_timer()

    def _forget(self, id_: str) -> None:
        del self._ended[id_]
        live = self._by_id[id_]
        self._ended_bytes -= _bytes_of(live)
        self.remove(live)


def _bytes_of(live: LiveTurn) -> int:
    return live.size + len(live.pieces) * PIECE_BYTES + OBJECTS_BYTES
