"""Retry decision: whether the same target is asked again, after which delay, and what that charges. Pure.

    another of its keys is free      at once                               not charged
    the connection was stale         at once, on a fresh connection        not charged
    a rate limit that ends soon      Retry-After + U(0, base * 2^retries)  charged to the retry budget
    a failure that may be transient  U(0, base * 2^retries)                charged; if the target is healthy

Call `decide_retry(...)`. The jitter is AWS's full jitter; a Retry-After is its floor.
"""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from dub5.service.config.options import RetryOptions
from dub5.service.resilience.classify import Blame, Classification, Then


class BudgetCharge(StrEnum):
    """What an attempt does to the retry budget of its provider."""

    DEPOSIT = "deposit"  # a first attempt: adds to the budget
    NONE = "none"
    WITHDRAW = "withdraw"  # a retry or hedge: charged to the budget


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Ask the same target again after `wait_s`. `why` is the kind of the attempt in the trail."""

    why: str
    charge: BudgetCharge = BudgetCharge.NONE
    wait_s: float = 0.0


@dataclass(slots=True)
class RetryState:
    """The attempts that one request has made at one target so far, beyond the first one."""

    retries: int = 0
    keys: int = 0
    refreshed: bool = False  # a stale connection has been replaced once
    fresh: bool = False  # the next attempt must use a new connection

    def note(self, decision: RetryDecision) -> None:
        """Count one more attempt."""
        self.retries += decision.charge is BudgetCharge.WITHDRAW
        self.keys += decision.why == "key"
        self.fresh = decision.why == "fresh"
        self.refreshed = self.refreshed or self.fresh


def decide_retry(
    classification: Classification,
    state: RetryState,
    *,
    has_side_effects: bool,
    last: bool,
    other_key: bool,
    healthy: bool,
    options: RetryOptions,
    rng: Random,
) -> RetryDecision | None:
    """Decide what follows a failure: a retry at this target, or None for the next target.

    `has_side_effects`: an attempt that the provider may have acted on is not repeated. `last`: no other
    target can be asked. `other_key`: another key of this target is free. `healthy`: the target is healthy.
    """
    if has_side_effects and classification.maybe_billed:
        return None
    if classification.then is Then.FRESH:
        return None if state.refreshed else RetryDecision("fresh")
    if classification.blame is Blame.KEY and other_key:
        return RetryDecision("key")
    if state.retries >= (options.last_target_max if last else options.same_target_max):
        return None
    if (
        classification.then is not Then.RETRY
        or classification.cooldown_s > options.wait_max_s
        or not (healthy or last)
    ):
        return None
    longest_s = min(options.max_s, options.base_s * 2.0**state.retries)
    return RetryDecision(
        "retry", BudgetCharge.WITHDRAW, classification.cooldown_s + rng.uniform(0.0, longest_s)
    )
