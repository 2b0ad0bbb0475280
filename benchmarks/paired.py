"""Paired benchmarks: subject and reference alternate in one process, so a busy machine slows both alike."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

ROUNDS = 9
ATTEMPTS = 3
WARM_UP = 60  # requests of each, after which Python has specialised its bytecode
STEPS_AFTER = 4  # of the event loop, in which what a request has left behind is done

RunBatch = Callable[[], None]
SendOne = Callable[[], Awaitable[None]]  # sends a request, and reads its answer to the end


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
    with _uncollected():
        spans = [(_span(subject), _span(reference)) for _ in range(rounds)]
    return _fastest(spans)


async def compare_requests(subject: SendOne, reference: SendOne, rounds: int, in_a_row: int = 1) -> Ratio:
    """Alternate requests, as `compare` does batches.

    One by one, each finds the processor's caches as the other has left them. So the ratio hardly depends on
    what else runs on the machine; that of batches grows with it, as the subject needs more of the caches.
    """
    for _ in range(WARM_UP):
        await subject()
        await reference()
    with _uncollected():
        spans = [
            (await _requests_span(subject, in_a_row), await _requests_span(reference, in_a_row))
            for _ in range(rounds)
        ]
    return _fastest(spans)


def best_within(subject: RunBatch, reference: RunBatch, budget: float) -> Ratio:
    """Return the first of ATTEMPTS comparisons within the budget, else the last: noise only adds time."""
    return first_within(partial(compare, subject, reference), budget)


def first_within(measure: Callable[[], Ratio], budget: float) -> Ratio:
    """Return the first of ATTEMPTS measurements within the budget, else the last."""
    for _ in range(ATTEMPTS):
        ratio = measure()
        if ratio.value <= budget:
            break
    return ratio


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from running."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _fastest(spans: list[tuple[float, float]]) -> Ratio:
    return Ratio(min(subject_s for subject_s, _ in spans), min(reference_s for _, reference_s in spans))


def _span(run: RunBatch) -> float:
    started_s = time.process_time()
    run()
    return time.process_time() - started_s


async def _requests_span(ask: SendOne, count: int) -> float:
    started_s = time.process_time()
    for _ in range(count):
        await ask()
    for _ in range(STEPS_AFTER):
        await asyncio.sleep(0)
    return (time.process_time() - started_s) / count
