"""The cost of attempts: tokens and dollars, those certainly billed apart from those possibly billed."""

from dataclasses import dataclass, field
from typing import Any

from dub5.service.model import AttemptRecord

COST_DIGITS = 9  # of a dollar: one token of the cheapest model is a few units of the last digit


@dataclass(slots=True)
class CostTotals:
    """A sum of tokens and dollars.

    `estimated_tokens` of the tokens are our estimate instead of the provider's count. `cost_usd` is None
    while no attempt in the sum had a price.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0
    cost_usd: float | None = None

    def add(self, other: "CostTotals") -> None:
        """Add the other sum to this one."""
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.estimated_tokens += other.estimated_tokens
        if other.cost_usd is not None:
            self.cost_usd = (self.cost_usd or 0.0) + other.cost_usd

    def snapshot(self) -> dict[str, Any]:
        """Return the sums in /status format."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "estimated_tokens": self.estimated_tokens,
            "cost_usd": None if self.cost_usd is None else round(self.cost_usd, COST_DIGITS),
        }


@dataclass(slots=True)
class CostCounters:
    """Costs by certainty. `billed`: complete answers. `maybe`: failed, cut or cancelled attempts."""

    billed: CostTotals = field(default_factory=CostTotals)
    maybe: CostTotals = field(default_factory=CostTotals)

    def note(self, attempt: AttemptRecord) -> None:
        """Add one attempt."""
        usage = attempt.usage
        if usage is None:
            return
        totals = self.billed if attempt.reason == "ok" else self.maybe
        totals.prompt_tokens += usage.prompt_tokens
        totals.completion_tokens += usage.completion_tokens
        if usage.estimated:
            totals.estimated_tokens += usage.prompt_tokens + usage.completion_tokens
        if attempt.cost_usd is not None:
            totals.cost_usd = (totals.cost_usd or 0.0) + attempt.cost_usd

    def add(self, other: "CostCounters") -> None:
        """Add the other counters to these."""
        self.billed.add(other.billed)
        self.maybe.add(other.maybe)

    def by_certainty(self) -> tuple[tuple[str, CostTotals], ...]:
        """Return the sums with their certainty."""
        return ("billed", self.billed), ("maybe", self.maybe)

    def snapshot(self) -> dict[str, Any]:
        """Return the sums in /status format."""
        return {certainty: totals.snapshot() for certainty, totals in self.by_certainty()}
