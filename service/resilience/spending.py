"""Spending: what each key of each provider has cost today (UTC), against the provider's daily budget.

    attempt ends with a cost --note--> sums --80 %--> SpendingNoted("spending_near")
                                            --100 %-> SpendingNoted("spending_reached"), and its keys rest

A rest lasts until midnight UTC. Costs come from `prices`: of whole answers, and of what a broken one may have
been billed for. Streams that have begun go on. A database adds what other processes have spent
(store/spending.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from dub5.service.events import Events, SpendingNoted
from dub5.service.resilience.classify import CooldownReason
from dub5.service.resilience.provider_keys import KeyState, RestCause

DAY_S = 86_400.0
NEARLY = 0.8  # of the budget: told once a day


class Spender(NamedTuple):
    """A key of a provider, on one day since the epoch."""

    day: int
    provider: str
    key: str


class KeyOwner(Protocol):
    """What holds the keys: the fleet."""

    @property
    def key_states(self) -> Iterable[KeyState]: ...


class SpendingExchange(Protocol):
    """What shares the sums with other processes."""

    async def read(self) -> None: ...

    async def run(self) -> None: ...

    def write(self) -> None: ...


class SpendingBook:
    """The sums of all keys, in US dollars. `wall` is epoch seconds, `now_s` loop seconds."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.cost: dict[tuple[str, str], float] = {}  # of this process since its start, by provider and key
        self._own: dict[Spender, float] = {}  # of this process; they only grow
        self._others: dict[Spender, float] = {}  # of other processes, and of this one before a restart
        self._budgets: Mapping[str, float] = {}
        self._told: dict[str, tuple[int, str]] = {}  # of each provider: the day, and the last event
        self._keys: KeyOwner | None = None

    def use(self, budgets: Mapping[str, float], keys: KeyOwner, wall: float, now_s: float) -> None:
        """Use these budgets and keys from now on; what has been spent today counts for them, too."""
        self._budgets, self._keys = budgets, keys
        for state in keys.key_states:
            state.lift(RestCause.BUDGET)
        for provider in budgets:
            self._look(provider, wall, now_s)

    def note(self, state: KeyState, usd: float, wall: float, now_s: float) -> None:
        """Add the cost of one attempt."""
        spender = Spender(int(wall // DAY_S), state.provider, state.label)
        self._own[spender] = self._own.get(spender, 0.0) + usd
        whose = (state.provider, state.label)
        self.cost[whose] = self.cost.get(whose, 0.0) + usd
        if state.provider in self._budgets:
            self._look(state.provider, wall, now_s)

    def note_others(self, spent: Mapping[Spender, float], wall: float, now_s: float) -> None:
        """Replace what the others have spent today."""
        self._others = dict(spent)
        for provider in self._budgets:
            self._look(provider, wall, now_s)

    def own(self, wall: float) -> dict[Spender, float]:
        """Return what this process has spent, today and yesterday; what is older is forgotten."""
        oldest = int(wall // DAY_S) - 1
        self._own = {spender: usd for spender, usd in self._own.items() if spender.day >= oldest}
        return dict(self._own)

    def spent_usd(self, provider: str, wall: float, key: str | None = None) -> float:
        """Return what was spent at a provider today, with all keys or with this one."""
        return sum(
            usd
            for spender, usd in self._all()
            if spender.day == int(wall // DAY_S)
            and spender.provider == provider
            and key in (None, spender.key)
        )

    def _all(self) -> Iterator[tuple[Spender, float]]:
        yield from self._own.items()
        yield from self._others.items()

    def _look(self, provider: str, wall: float, now_s: float) -> None:
        """Compare a provider's sum with its budget: tell what is new, and let its keys rest."""
        spent_usd, max_usd = self.spent_usd(provider, wall), self._budgets[provider]
        stage = (
            "spending_reached"
            if spent_usd >= max_usd
            else "spending_near"
            if spent_usd >= NEARLY * max_usd
            else ""
        )
        if stage == "spending_reached" and self._keys is not None:
            until_s = now_s + DAY_S - wall % DAY_S
            for state in self._keys.key_states:
                if state.provider == provider:
                    state.rest(RestCause.BUDGET, until_s, CooldownReason.QUOTA)
        told = (int(wall // DAY_S), stage)
        if stage and self._told.get(provider) not in (told, (told[0], "spending_reached")):
            self._told[provider] = told
            self._events.emit(SpendingNoted(provider, stage, spent_usd, max_usd))
