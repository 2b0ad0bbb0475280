"""Compares two things within one process, turn by turn, so that a busy machine hurts both alike."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 9
ATTEMPTS = 3

RunBatch = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Processor time of the fastest round of each, in seconds a batch."""

    subject_s: float
    reference_s: float

    @property
    def value(self) -> float:
        """How many times the reference the thing costs."""
        return self.subject_s / self.reference_s


def compare(subject: RunBatch, reference: RunBatch, rounds: int = ROUNDS) -> Ratio:
    """Alternates the two, after one round of each that does not count."""
    subject()
    reference()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        spans = [(_span(subject), _span(reference)) for _ in range(rounds)]
    finally:
        if collecting:
            gc.enable()
    return Ratio(min(subject_s for subject_s, _ in spans), min(reference_s for _, reference_s in spans))


def best_within(subject: RunBatch, reference: RunBatch, budget: float) -> Ratio:
    """The first of three comparisons that keeps the budget, else the last: noise only ever makes things slower."""
    for _ in range(ATTEMPTS):
        ratio = compare(subject, reference)
        if ratio.value <= budget:
            break
    return ratio


def _span(run: RunBatch) -> float:
    began_s = time.process_time()
    run()
    return time.process_time() - began_s
