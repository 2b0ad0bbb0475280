"""Whether a target is asked once more, and after how long. Pure.

    another key of it is free          at once, unpaid
    the connection was stale           at once, on a fresh one, unpaid
    a limit that ends soon             Retry-After + U(0, base * 2^tries)  paid from the budget
    a failure that may be a blink      U(0, base * 2^tries)                paid, while the target does well

The jitter is AWS's full jitter; a Retry-After is its floor.
"""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from dub5.service.config.options import RetryOptions
from dub5.service.resilience.classify import Blame, Then, Verdict


class Fare(StrEnum):
    """How a try is paid."""

    FIRST = "first"  # free, and earns the provider's budget something
    FREE = "free"  # nobody's fault
    PAID = "paid"  # from the provider's budget


@dataclass(frozen=True, slots=True)
class Again:
    """Once more, after `wait_s`. `why` is how the trail names it."""

    why: str
    fare: Fare = Fare.FREE
    wait_s: float = 0.0


@dataclass(slots=True)
class Tries:
    """What one request has done at one target so far, beyond the first try."""

    retries: int = 0
    keys: int = 0
    refreshed: bool = False
    fresh: bool = False  # the next one is to be on a new connection

    def note(self, more: Again) -> None:
        """One more is made."""
        self.retries += more.fare is Fare.PAID
        self.keys += more.why == "key"
        self.fresh = more.why == "fresh"
        self.refreshed = self.refreshed or self.fresh


def again(
    verdict: Verdict,
    tries: Tries,
    *,
    stored: bool,
    last: bool,
    other_key: bool,
    healthy: bool,
    options: RetryOptions,
    dice: Random,
) -> Again | None:
    """What follows a failure at this target: once more, or None: the next one.

    `stored`: asking twice leaves two, so what the provider may have acted on is not repeated. `last`: nobody else can
    be asked. `other_key`: it has one that is free. `healthy`: it does well on the whole.
    """
    if stored and verdict.maybe_billed:
        return None
    if verdict.then is Then.FRESH:
        return None if tries.refreshed else Again("fresh")
    if verdict.blame is Blame.KEY and other_key:
        return Again("key")
    if tries.retries >= (options.last_target_max if last else options.same_target_max):
        return None
    if verdict.then is not Then.RETRY or verdict.cool_s > options.wait_max_s or not (healthy or last):
        return None
    longest_s = min(options.max_s, options.base_s * 2.0**tries.retries)
    return Again("retry", Fare.PAID, verdict.cool_s + dice.uniform(0.0, longest_s))
