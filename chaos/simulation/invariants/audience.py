"""Who listens to a turn: the connections that asked it or read it on, as their clients know it."""

from collections.abc import Callable
from dataclasses import dataclass, field

LEAVE_S = 0.1  # within which a provider sees that nobody waits any more
EPSILON_S = 1e-6


@dataclass(slots=True, eq=False)
class PresentListener:
    """One connection. `in_time`: the turn goes on for it; `was_missed`: nobody listened before.

    `is_sure`: it has read of the turn, so it listens.
    """

    number: int
    in_time: bool = False
    was_missed: bool = False
    is_sure: bool = False


@dataclass(slots=True, eq=False)
class Audience:
    """The listeners of one turn in one process. `stopped_s`: when its owner has asked to end it."""

    linger_s: float
    number: int = 0  # of the listeners so far
    present: dict[int, PresentListener] = field(default_factory=dict)
    left_s: float | None = None  # when the last one left
    sure_left_s: float | None = None  # when the last one left that surely listened
    stopped_s: float | None = None

    def come(self, now_s: float, ran_s: Callable[[float, float], float]) -> PresentListener:
        """Add a listener. One who comes too late may hear of the end; after a stall it may be in time."""
        gone_s = self.given_up_s()
        self.number += 1
        listener = PresentListener(self.number, in_time=gone_s is None or now_s < gone_s)
        if gone_s is None or ran_s(gone_s, now_s) <= LEAVE_S:
            listener.was_missed = self.left_s is not None and not self.present
            self.present[listener.number] = listener
        return listener

    def leave(self, listener: PresentListener, now_s: float) -> None:
        """Remove a listener."""
        if self.present.pop(listener.number, None) is None:
            return
        self.left_s = now_s
        if listener.is_sure and listener.in_time:
            self.sure_left_s = now_s

    def given_up_s(self) -> float | None:
        """Return from when on nobody waits for the answer; None while somebody does."""
        if self.stopped_s is not None:
            return self.stopped_s
        return None if self.present or self.left_s is None else self.left_s + self.linger_s

    def ends_too_early(self, now_s: float) -> bool:
        """Say whether the turn may not be ended for want of listeners yet."""
        if self.stopped_s is not None:
            return False
        if any(listener.is_sure and listener.in_time for listener in self.present.values()):
            return True
        return self.sure_left_s is not None and now_s < self.sure_left_s + self.linger_s - EPSILON_S
