"""Paired benchmarks: subject and reference alternate in one process, so a busy machine slows both alike."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 9
ATTEMPTS = 3

RunBatch = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The CPU time of the fastest round of each, in seconds per batch."""

    subject_s: float
    reference_s: float

    @property
    def value(self) -> float:
        """Return the subject's cost as a multiple of the reference's."""
        return self.subject_s / self.reference_s


def compare(subject: RunBatch, reference: RunBatch, rounds: int = ROUNDS) -> Ratio:
    """Alternate subject and reference, after one warm-up round of each."""
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
    """Return the first of ATTEMPTS comparisons within the budget, else the last: noise only adds time."""
    for _ in range(ATTEMPTS):
        ratio = compare(subject, reference)
        if ratio.value <= budget:
            break
    return ratio


def _span(run: RunBatch) -> float:
    started_s = time.process_time()
    run()
    return time.process_time() - started_s
