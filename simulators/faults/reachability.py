"""Reachability of a provider: whether new connections open and open connections stay.

Faults decide, listeners act:

SimulatedProvider.set_fault --check: playable?--> Reachability --faults_changed--> Listener: server/, virtual/
       <--fault_for_new_connection, blocking_fault, drop_count, next_change_s--
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, get_args

from dub5.simulators.faults.active import ActiveFault
from dub5.simulators.faults.answers import BadFault, Sequence
from dub5.simulators.faults.base import Fault
from dub5.simulators.faults.connections import ConnectStage, Unreachable
from dub5.simulators.script import Respond


class Listener(Protocol):
    """A front end that accepts connections."""

    def why_unsupported(self, fault: Unreachable, *, selective: bool) -> str:
        """Return why this fault cannot be played here, or "".

        `selective`: the fault picks among connections.
        """
        ...

    def faults_changed(self) -> None:
        """Learn that faults were set or cleared."""
        ...


class Reachability:
    """The connection faults of one provider, for its listeners.

    `now` is as in SimulatedProvider; `rng` seeds one generator for each stage, which draws shares.
    """

    def __init__(self, now: Callable[[], float], rng: random.Random) -> None:
        self._now = now
        self._rng_by_stage = {stage: random.Random(rng.getrandbits(64)) for stage in get_args(ConnectStage)}
        self._set: list[ActiveFault] = []
        self._listeners: list[Listener] = []
        self._drop_count = 0  # by faults that are no longer set

    def attach(self, listener: Listener) -> None:
        """Add a listener. Raises BadFault if it cannot play an active fault."""
        self._check(listener, [known.fault for known in self._set])
        self._listeners.append(listener)

    def detach(self, listener: Listener) -> None:
        """Remove a listener."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def check(self, faults: Iterable[Fault]) -> None:
        """Check that every listener can play these faults. Raises BadFault, with the reason."""
        wanted = list(faults)
        for listener in self._listeners:
            self._check(listener, wanted)

    def use(self, faults: list[ActiveFault]) -> None:
        """Replace the active faults, and inform the listeners."""
        now_s = self._now()
        gone = [known for known in self._set if known not in faults]
        self._drop_count += sum(_drop_count(known, now_s) for known in gone)
        self._set = faults
        for listener in self._listeners:
            listener.faults_changed()

    def fault_for_new_connection(self, stage: ConnectStage) -> Unreachable | None:
        """Return the fault of a new connection at this stage, or None. Call it once for each: it counts."""
        now_s = self._now()
        applied = [known.apply_to_connection(stage, now_s, self._rng_by_stage[stage]) for known in self._set]
        return next((fault for fault in applied if fault is not None), None)

    def blocking_fault(self) -> Unreachable | None:
        """Return the fault that keeps all new connections from opening at this moment, or None."""
        now_s = self._now()
        for known in self._set:
            fault = known.fault
            if isinstance(fault, Unreachable) and fault.stage == "connect" and known.is_on(now_s):
                return fault
        return None

    def still_active(self, fault: Unreachable) -> bool:
        """Return whether the fault that hit a connection is still active."""
        now_s = self._now()
        return any(
            known.is_on(now_s)
            for known in self._set
            if known.fault == fault or isinstance(known.fault, Sequence)
        )

    def drop_count(self) -> int:
        """Return how often all open connections were lost.

        A listener that sees it grow drops its connections.
        """
        now_s = self._now()
        return self._drop_count + sum(_drop_count(known, now_s) for known in self._set)

    def next_change_s(self) -> float | None:
        """Return the seconds until `blocking_fault` or `drop_count` may change by themselves, or None."""
        now_s = self._now()
        found = [
            at_s
            for known in self._set
            if isinstance(known.fault, Unreachable) and known.fault.stage == "connect"
            if (at_s := known.next_change_s(now_s)) is not None
        ]
        return max(0.0, min(found) - now_s) if found else None

    def _check(self, listener: Listener, faults: Iterable[Fault]) -> None:
        for fault, selective in _unreachable_in(faults):
            if why := listener.why_unsupported(fault, selective=selective):
                raise BadFault(f"unreachable: {why}")


def reachability_of(respond: Respond) -> Reachability | None:
    """Return the reachability of the provider behind `respond`, or None if it has no faults."""
    reachability = getattr(respond, "reachability", None)
    return reachability if isinstance(reachability, Reachability) else None


def _unreachable_in(faults: Iterable[Fault]) -> Iterator[tuple[Unreachable, bool]]:
    for fault in faults:
        if isinstance(fault, Unreachable):
            yield fault, fault.selective
        elif isinstance(fault, Sequence):
            steps = map(fault.step, range(1, len(fault.steps) + 1))
            yield from ((step, True) for step in steps if isinstance(step, Unreachable))


def _drop_count(known: ActiveFault, now_s: float) -> int:
    closes = isinstance(known.fault, Unreachable) and known.fault.closes_open
    return known.openings(now_s) if closes else 0
