"""Compares two things within one process, turn by turn, so that a busy machine hurts both alike."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 9
ATTEMPTS = 3

Run = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Processor time of the fastest round of each, in seconds a batch."""

    thing_s: float
    reference_s: float

    @property
    def value(self) -> float:
        """How many times the reference the thing costs."""
        return self.thing_s / self.reference_s


def compare(thing: Run, reference: Run, rounds: int = ROUNDS) -> Ratio:
    """Alternates the two, after one round of each that does not count."""
    thing()
    reference()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        spans = [(_span(thing), _span(reference)) for _ in range(rounds)]
    finally:
        if collecting:
            gc.enable()
    return Ratio(min(thing_s for thing_s, _ in spans), min(reference_s for _, reference_s in spans))


def within(thing: Run, reference: Run, budget: float) -> Ratio:
    """The first of three comparisons that keeps the budget, else the last: noise only ever makes things slower."""
    for _ in range(ATTEMPTS):
        ratio = compare(thing, reference)
        if ratio.value <= budget:
            break
    return ratio


def _span(run: Run) -> float:
    began_s = time.process_time()
    run()
    return time.process_time() - began_s
