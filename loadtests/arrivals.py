"""When requests are sent: an open model. Users of the real world do not wait for each other's answers.

The whole schedule is made before the run. A generator that waits for answers slows down exactly when the service does,
and so leaves out the waiting that it should measure (coordinated omission).
"""

from collections.abc import Iterator
from random import Random


def poisson(rate_per_s: float, seconds: float, rng: Random) -> Iterator[float]:
    """Moments in seconds from the start, as many independent people would choose them."""
    at_s = rng.expovariate(rate_per_s)
    while at_s < seconds:
        yield at_s
        at_s += rng.expovariate(rate_per_s)
