"""The watch of the process: how late its event loop is, and how long garbage collections stop it.

A timer each `EVERY_S` notes how late it came: whatever blocks the loop for longer than that is seen. Python
calls back at the begin and the end of each collection, in whatever thread it happens:
5 us for each, and a request has 0.03 of them.
"""

import asyncio
import gc
from collections.abc import Callable

from dub5.service import clock

EVERY_S = 0.5
GENERATIONS = range(3)


class ProcessWatch:
    """The watch of one process. `start` it inside the loop that it watches; `close` leaves nothing behind."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._tick_ns: Callable[[], int] = lambda: 0
        self._began_ns: int | None = None

    def start(self, note_lag: Callable[[float], None], note_pause: Callable[[int, float], None]) -> None:
        """Begin. `note_lag` gets the seconds that a timer came late, `note_pause` generation and seconds."""
        self._note_lag = note_lag
        self._note_pause = note_pause
        self._tick_ns = clock.tick_reader()
        gc.callbacks.append(self._on_collection)
        self._set_timer()

    def close(self) -> None:
        """End. Does nothing if it has not begun."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            gc.callbacks.remove(self._on_collection)

    def _set_timer(self) -> None:
        self._due_s = clock.now() + self._every_s
        self._timer = asyncio.get_running_loop().call_at(self._due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._note_lag(max(0.0, clock.now() - self._due_s))
        self._set_timer()

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began_ns = self._tick_ns()
        elif self._began_ns is not None:
            pause_s, self._began_ns = (self._tick_ns() - self._began_ns) / 1e9, None
            self._note_pause(info["generation"], max(0.0, pause_s))
