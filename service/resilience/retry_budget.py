"""A purse for tries that nobody had to make: same-target retries, and hedges. One per receiving provider.

    first tries --10 %--> +-----------+
    floor, 1 a second --> |  balance  | --1 each--> retry | hedge        what is older than 10 s is forgotten
                          +-----------+

When little fails, nearly every retry is paid; when everything fails, the extra load ends at a tenth. The form is
Finagle's RetryBudget. Failover to another target is free: a request must not fail while somebody could answer.
"""

from dub5.service.config.options import BudgetOptions
from dub5.service.resilience.window import SlidingWindow

DEPOSITS, WITHDRAWALS = range(2)


class RetryBudget:
    """Decides from what it is told; reads no clock. Times are loop seconds."""

    def __init__(self, options: BudgetOptions) -> None:
        self._options = options
        self._window = SlidingWindow(options.window_s, 2)

    def deposit(self, now_s: float) -> None:
        """A first try was made."""
        self._window.count(now_s, DEPOSITS)

    def withdraw(self, now_s: float) -> bool:
        """Pays for one more try, or does not: then it must not be made."""
        if self.balance(now_s) < 1.0:
            return False
        self._window.count(now_s, WITHDRAWALS)
        return True

    def balance(self, now_s: float) -> float:
        """How many tries could be paid now."""
        self._window.age(now_s)
        deposits, withdrawals = self._window.sums
        return (
            deposits * self._options.share + self._options.floor_per_s * self._options.window_s - withdrawals
        )
