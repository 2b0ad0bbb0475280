"""The purse for retries and hedges: what it pays is bounded by what came in, whatever is asked of it."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dub5.service.config.options import BudgetOptions
from dub5.service.resilience.retry_budget import RetryBudget
from tests.support.examples import examples

OPTIONS = BudgetOptions(share=0.25, floor_per_s=0.3, window_s=10)
FLOOR = OPTIONS.floor_per_s * OPTIONS.window_s


def test_a_tenth_of_the_load_when_everything_fails() -> None:
    """With 20 first tries a second and a retry wanted for each, the load grows by a tenth and the floor, no
    more."""
    budget = RetryBudget(BudgetOptions())
    paid = 0
    for tick in range(20 * 60):
        budget.deposit(tick / 20)
        paid += budget.withdraw(tick / 20)
    assert 0.1 * 1200 <= paid <= (0.1 * 20 + 1.0) * (60 + 10)


def test_nothing_is_saved_up() -> None:
    """A quiet night does not pay for a storm in the morning: what is older than the window is forgotten."""
    budget = RetryBudget(OPTIONS)
    for _ in range(1_000):
        budget.deposit(0.0)
    assert sum(budget.withdraw(20.0) for _ in range(100)) == int(FLOOR)


@given(share=st.floats(0.0, 1.0), firsts=st.integers(0, 500))
def test_without_a_floor(share: float, firsts: int) -> None:
    """The floor may be nothing: then retries are a share of first tries and nothing else."""
    budget = RetryBudget(BudgetOptions(share=share, floor_per_s=0.0))
    for _ in range(firsts):
        budget.deposit(1.0)
    assert sum(budget.withdraw(1.0) for _ in range(600)) <= firsts * share


class BudgetMachine(RuleBasedStateMachine):
    """Beside the budget stands a list of all that was ever done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.budget = RetryBudget(OPTIONS)
        self.firsts: list[float] = []
        self.paid: list[float] = []

    def recent(self, times: list[float], windows: int = 1) -> int:
        return sum(int(at_s) > int(self.now_s) - windows * OPTIONS.window_s for at_s in times)

    def balance(self) -> float:
        return self.recent(self.firsts) * OPTIONS.share + FLOOR - self.recent(self.paid)

    @rule(seconds=st.sampled_from([0.2, 1.0, 4.0, 9.9, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(count=st.integers(1, 10))
    def deposit(self, count: int) -> None:
        for _ in range(count):
            self.budget.deposit(self.now_s)
            self.firsts.append(self.now_s)

    @rule(count=st.integers(1, 6))
    def withdraw(self, count: int) -> None:
        for _ in range(count):
            may = self.balance() >= 1.0
            assert self.budget.withdraw(self.now_s) == may
            if may:
                self.paid.append(self.now_s)
                bound = OPTIONS.share * self.recent(self.firsts) + FLOOR
                assert self.recent(self.paid) <= bound, "paid more than came in"

    @invariant()
    def at_any_moment(self) -> None:
        """Looked at from any moment, the last window holds no more than two windows of first tries pay
        for."""
        assert self.budget.balance(self.now_s) == self.balance()
        assert self.recent(self.paid) <= OPTIONS.share * self.recent(self.firsts, windows=2) + FLOOR


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = examples(40, stateful_step_count=25)
