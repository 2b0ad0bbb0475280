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
from dub5.service.resilience.classify import Blame, Classification, Then


class BudgetCharge(StrEnum):
    """How a try is paid."""

    DEPOSIT = "deposit"  # free, and earns the provider's budget something
    NONE = "none"  # nobody's fault
    WITHDRAW = "withdraw"  # from the provider's budget


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Once more, after `wait_s`. `why` is how the trail names it."""

    why: str
    charge: BudgetCharge = BudgetCharge.NONE
    wait_s: float = 0.0


@dataclass(slots=True)
class RetryState:
    """What one request has done at one target so far, beyond the first try."""

    retries: int = 0
    keys: int = 0
    refreshed: bool = False
    fresh: bool = False  # the next one is to be on a new connection

    def note(self, decision: RetryDecision) -> None:
        """One more is made."""
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
    """What follows a failure at this target: once more, or None: the next one.

    `has_side_effects`: asking twice leaves two, so what the provider may have acted on is not repeated. `last`: nobody else can
    be asked. `other_key`: it has one that is free. `healthy`: it does well on the whole.
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
