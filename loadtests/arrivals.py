"""Arrival times of an open workload: real users do not wait for each other's answers.

The schedule does not depend on the answers. A generator that waits for answers slows down exactly when the
service does, and so leaves out the waiting that it should measure (coordinated omission).
"""

from collections.abc import Iterator
from random import Random


def poisson(rate_per_s: float, seconds: float, rng: Random) -> Iterator[float]:
    """Yield the arrival times of a Poisson process, in seconds from the start."""
    at_s = rng.expovariate(rate_per_s)
    while at_s < seconds:
        yield at_s
        at_s += rng.expovariate(rate_per_s)
