"""Latency of a provider: log-normal to the first token, with a slow path; then a gamma gap before each token.

Medians and spreads of the presets were fitted to public measurements of the hosts that their names recall.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from dub5.simulators.script import Wait

HEAD_SHARE = 0.5  # of the time to the first token has passed when status and headers go out
GAP_SHAPE = 3.0  # of the gamma distribution of gaps within one answer


@dataclass(frozen=True, slots=True)
class Latency:
    """Parameters of a provider's latency, in seconds.

    `slow_share` of all requests take the slow path (a cold start, a long queue).
    """

    first_token_s: float = 0.0  # median
    first_token_sigma: float = 0.0
    gap_s: float = 0.0  # mean
    gap_cv: float = 0.0  # how much requests differ in speed (coefficient of variation)
    slow_share: float = 0.0
    slow_s: float = 0.0  # median of the slow path
    slow_sigma: float = 0.0

    def pace(self, rng: random.Random) -> "Pace":
        """Draw the times of one answer."""
        slow = rng.random() < self.slow_share
        median_s, sigma = (
            (self.slow_s, self.slow_sigma) if slow else (self.first_token_s, self.first_token_sigma)
        )
        first_s = median_s * math.exp(rng.gauss(0.0, sigma))
        gap_s = self.gap_s * max(0.3, rng.gauss(1.0, self.gap_cv))
        return Pace(first_s, gap_s, rng)


@dataclass(frozen=True, slots=True)
class Pace:
    """The drawn times of one answer, as waits; a time of zero gives no wait at all."""

    first_s: float
    gap_s: float
    rng: random.Random

    def head(self) -> Iterator[Wait]:
        """Yield the wait before status and headers of a stream."""
        if self.first_s:
            yield Wait(self.first_s * HEAD_SHARE)

    def first_token(self) -> Iterator[Wait]:
        """Yield the wait between the head and the first token."""
        if self.first_s:
            yield Wait(self.first_s * (1 - HEAD_SHARE))

    def gap(self) -> Iterator[Wait]:
        """Yield the wait before each further token."""
        if self.gap_s:
            yield Wait(self.rng.gammavariate(GAP_SHAPE, self.gap_s / GAP_SHAPE))

    def whole(self, tokens: int) -> Iterator[Wait]:
        """Yield the wait before an answer that is not streamed."""
        if self.first_s or self.gap_s:
            yield Wait(self.first_s + self.gap_s * max(0, tokens - 1))


PRESETS = {
    "zero": Latency(),
    "quick": Latency(0.12, 0.25, 0.008, 0.1),
    "lpu": Latency(0.22, 0.19, 0.005, 0.09),
    "frontier": Latency(0.6, 0.35, 0.013, 0.1),
    "hosted-70b": Latency(0.5, 0.25, 0.024, 0.07),
    "free-shared": Latency(1.25, 0.24, 0.097, 0.28, slow_share=0.15, slow_s=19.0, slow_sigma=0.8),
    # Reasoning models: one that always thinks, and one of which a tenth of the requests takes 20 s and more
    # (6 % over 15 s, p99 94 s, as published for 1.04 million calls).
    "thinker": Latency(55.0, 0.4, 0.02, 0.1),
    "reasoning": Latency(0.6, 0.35, 0.013, 0.1, slow_share=0.1, slow_s=20.3, slow_sigma=1.2),
    "cold-start": Latency(0.53, 0.16, 0.0097, 0.28, slow_share=0.03, slow_s=10.8, slow_sigma=2.1),
}
