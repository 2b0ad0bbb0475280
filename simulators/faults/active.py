"""An active fault: decides whether the fault applies to a request, or to a new connection.

Time and random generator are arguments: equal ones give equal decisions.
"""

import random
from dataclasses import dataclass, field

from dub5.simulators.faults.answers import Sequence
from dub5.simulators.faults.base import Fault
from dub5.simulators.faults.connections import ConnectStage, Unreachable
from dub5.simulators.personas.base import ParsedRequest
from dub5.simulators.script import SimRequest


@dataclass
class Flap:
    """An outage that comes and goes: off and on for times drawn from exponential distributions."""

    up_s: float
    down_s: float
    rng: random.Random
    on: bool = False
    until_s: float = -1.0
    openings: int = 0  # how often it has begun

    def is_on(self, t_s: float) -> bool:
        """Return whether the outage is on `t_s` after its begin. Calls must be in the order of time."""
        if self.until_s < 0:
            self.until_s = self._drawn()
        while t_s >= self.until_s:
            self.on = not self.on
            self.openings += self.on
            self.until_s += self._drawn()
        return self.on

    def _drawn(self) -> float:
        return self.rng.expovariate(1 / (self.down_s if self.on else self.up_s))


@dataclass(eq=False)
class ActiveFault:
    """A fault that is active since `since_s`, with counts of what it matched and hit."""

    fault: Fault
    since_s: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    seen: int = 0  # requests, or connections, that matched while its window was open
    applied: int = 0

    def __post_init__(self) -> None:
        up_s, down_s = self.fault.up_s, self.fault.down_s
        self._flap = Flap(up_s, down_s, self.rng) if up_s and down_s else None

    def apply_to(
        self, request: SimRequest, parsed: ParsedRequest, now_s: float, rng: random.Random
    ) -> Fault | None:
        """Return the fault that hits this request, or None.

        Draws in any case, so that the draws of the faults after this one stay the same.
        """
        drawn = rng.random()
        if isinstance(self._due(), Unreachable) or not (self._matches(request, parsed) and self.is_on(now_s)):
            return None
        return self._applied(drawn)

    def apply_to_connection(
        self, stage: ConnectStage, now_s: float, rng: random.Random
    ) -> Unreachable | None:
        """Return the fault that hits a new connection at this stage, or None. Draws in any case."""
        drawn, due = rng.random(), self._due()
        if not isinstance(due, Unreachable) or due.stage != stage or not self.is_on(now_s):
            return None
        return due if self._applied(drawn) else None

    def is_on(self, now_s: float) -> bool:
        """Return whether the fault's time window is open."""
        fault, t_s = self.fault, self._t_s(now_s)
        if t_s < 0:
            return False
        if fault.every_s is not None:
            t_s %= fault.every_s
        if fault.for_s is not None and t_s >= fault.for_s:
            return False
        return self._flap is None or self._flap.is_on(t_s)

    def openings(self, now_s: float) -> int:
        """Return how often the fault's time window has opened until now."""
        fault, t_s = self.fault, self._t_s(now_s)
        if t_s < 0:
            return 0
        if self._flap is not None:
            self._flap.is_on(t_s if fault.for_s is None else min(t_s, fault.for_s))
            return self._flap.openings
        return 1 if fault.every_s is None else 1 + int(t_s // fault.every_s)

    def next_change_s(self, now_s: float) -> float | None:
        """Return the time at which the window opens or closes next, or None if it never does."""
        fault, t_s = self.fault, self._t_s(now_s)
        if t_s < 0:
            return now_s - t_s
        if fault.every_s is not None and fault.for_s is not None:
            t_s %= fault.every_s
            return now_s - t_s + (fault.for_s if t_s < fault.for_s else fault.every_s)
        if fault.for_s is not None and t_s >= fault.for_s:
            return None
        ends = [] if fault.for_s is None else [fault.for_s]
        if self._flap is not None:
            self._flap.is_on(t_s)
            ends.append(self._flap.until_s)
        return now_s - t_s + min(ends) if ends else None

    def _t_s(self, now_s: float) -> float:
        """Return the seconds since the first window opened; below 0 before that."""
        return now_s - self.since_s - (self.fault.at_s or 0.0)

    def _due(self) -> Fault | None:
        """Return the fault for the next match: the current step of a sequence, else the fault itself."""
        return self.fault.step(self.seen + 1) if isinstance(self.fault, Sequence) else self.fault

    def _applied(self, drawn: float) -> Fault | None:
        due = self._due()
        self.seen += 1
        if drawn >= self.fault.share or (self.fault.first is not None and self.seen > self.fault.first):
            return None
        self.applied += due is not None
        return due

    def _matches(self, request: SimRequest, parsed: ParsedRequest) -> bool:
        if isinstance(self.fault, Sequence) and request.method != "POST":
            return False  # a GET of the models must not use up a step
        return self.fault.model in (None, parsed.model)
