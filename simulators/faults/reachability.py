"""The way to a provider: whether new connections open, and whether open ones stay. Faults decide, front ends act.

Provider.set_fault --check: can it be done?--> Way --changed--> fronts: listener.py | virtual/wire.py
                                                   <--meets, held, losses, next_change_s--
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, get_args

from dub5.simulators.faults.active import SetFault
from dub5.simulators.faults.answers import BadFault, Sequence
from dub5.simulators.faults.base import Fault
from dub5.simulators.faults.connections import Stage, Unreachable
from dub5.simulators.script import Respond


class Front(Protocol):
    """Where connections arrive."""

    def cannot(self, fault: Unreachable, *, counted: bool) -> str:
        """Why this fault cannot be played here; empty if it can. `counted`: it picks among connections."""
        ...

    def changed(self) -> None:
        """Faults have been set, or lifted."""
        ...


class Way:
    """What becomes of connections; `now` as in Provider, `luck` draws shares, each stage's apart."""

    def __init__(self, now: Callable[[], float], luck: random.Random) -> None:
        self._now = now
        self._luck = {stage: random.Random(luck.getrandbits(64)) for stage in get_args(Stage)}
        self._set: list[SetFault] = []
        self._fronts: list[Front] = []
        self._losses = 0  # by faults that are no longer set

    def attach(self, front: Front) -> None:
        """A front end begins to ask. Raises BadFault if it cannot do what is set already."""
        self._check(front, [known.fault for known in self._set])
        self._fronts.append(front)

    def detach(self, front: Front) -> None:
        """It asks no more."""
        if front in self._fronts:
            self._fronts.remove(front)

    def check(self, faults: Iterable[Fault]) -> None:
        """Raises BadFault, with the reason, if a front end cannot do one of them."""
        wanted = list(faults)
        for front in self._fronts:
            self._check(front, wanted)

    def use(self, faults: list[SetFault]) -> None:
        """These are set now."""
        now_s = self._now()
        gone = [known for known in self._set if known not in faults]
        self._losses += sum(_losses(known, now_s) for known in gone)
        self._set = faults
        for front in self._fronts:
            front.changed()

    def meets(self, stage: Stage) -> Unreachable | None:
        """What a new connection meets at this stage; asked once for each, as it counts."""
        now_s = self._now()
        struck = [known.strike_connection(stage, now_s, self._luck[stage]) for known in self._set]
        return next((fault for fault in struck if fault is not None), None)

    def held(self) -> Unreachable | None:
        """The fault that keeps everybody from connecting at this moment."""
        now_s = self._now()
        for known in self._set:
            fault = known.fault
            if isinstance(fault, Unreachable) and fault.stage == "connect" and known.is_on(now_s):
                return fault
        return None

    def still(self, fault: Unreachable) -> bool:
        """Whether what a connection has met is still in force."""
        now_s = self._now()
        return any(
            known.is_on(now_s)
            for known in self._set
            if known.fault == fault or isinstance(known.fault, Sequence)
        )

    def losses(self) -> int:
        """How often until now all open connections were lost; who saw it grow drops his."""
        now_s = self._now()
        return self._losses + sum(_losses(known, now_s) for known in self._set)

    def next_change_s(self) -> float | None:
        """Seconds until `held` or `losses` may change by themselves."""
        now_s = self._now()
        found = [
            at_s
            for known in self._set
            if isinstance(known.fault, Unreachable) and known.fault.stage == "connect"
            if (at_s := known.next_change_s(now_s)) is not None
        ]
        return max(0.0, min(found) - now_s) if found else None

    def _check(self, front: Front, faults: Iterable[Fault]) -> None:
        for fault, counted in _unreachable_in(faults):
            if why := front.cannot(fault, counted=counted):
                raise BadFault(f"unreachable: {why}")


def way_of(respond: Respond) -> Way | None:
    """The way to whoever answers, if faults can be set on it."""
    way = getattr(respond, "way", None)
    return way if isinstance(way, Way) else None


def _unreachable_in(faults: Iterable[Fault]) -> Iterator[tuple[Unreachable, bool]]:
    for fault in faults:
        if isinstance(fault, Unreachable):
            yield fault, fault.counted
        elif isinstance(fault, Sequence):
            steps = map(fault.step, range(1, len(fault.steps) + 1))
            yield from ((step, True) for step in steps if isinstance(step, Unreachable))


def _losses(known: SetFault, now_s: float) -> int:
    closes = isinstance(known.fault, Unreachable) and known.fault.closes_open
    return known.openings(now_s) if closes else 0
