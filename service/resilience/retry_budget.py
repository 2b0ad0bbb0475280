"""Retry budget: limits same-target retries and hedges to a share of the first attempts, for each provider.

    first attempts --10 %--> +-----------+
    floor, 1 a second -----> |  balance  | --1 each--> retry | hedge     what is older than 10 s is forgotten
                             +-----------+

When little fails, the budget covers nearly every retry; when everything fails, it limits the extra load to a
tenth. The form is Finagle's RetryBudget. Each provider has a budget of its own, for the attempts that it
receives. Failover to another target is not charged: a request must not fail while a target could answer.
"""

from dub5.service.config.options import BudgetOptions
from dub5.service.resilience.window import SlidingWindow

DEPOSITS, WITHDRAWALS = range(2)


class RetryBudget:
    """A retry budget over a sliding window. It reads no clock: each call passes the time, in loop seconds."""

    def __init__(self, options: BudgetOptions) -> None:
        self._options = options
        self._window = SlidingWindow(options.window_s, 2)

    def deposit(self, now_s: float) -> None:
        """Count one first attempt."""
        self._window.count(now_s, DEPOSITS)

    def withdraw(self, now_s: float) -> bool:
        """Charge one retry or hedge. Return whether the budget covers it; if not, it must not be made."""
        if self.balance(now_s) < 1.0:
            return False
        self._window.count(now_s, WITHDRAWALS)
        return True

    def balance(self, now_s: float) -> float:
        """Return how many retries or hedges the budget covers now."""
        self._window.age(now_s)
        deposits, withdrawals = self._window.sums
        return (
            deposits * self._options.share + self._options.floor_per_s * self._options.window_s - withdrawals
        )
