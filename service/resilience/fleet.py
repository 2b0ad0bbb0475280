"""All targets, and who may be asked: every guard is asked here, in one place, and told here how it went.

enter(target) -> Pass(key) -> commit, end(verdict)     one per try, always ended (leave.py)
              -> Barred(reason)                        leave it alone (entry.py)

    scope      guards
    key        cool-down (Retry-After, quota, refused)
    host       breaker of resolve, connect and edge failures
    target     breaker, ramp, burst of bad requests, record of the last 30 s, time to first token
    provider   limiter, retry budget

A fleet of new settings takes over what the one `before` knows of targets that have kept their address: the objects
themselves, so that a try that is still out gives back what it holds, whichever of the two let it in.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from random import Random

from dub5.service.config.options import BreakerOptions, BudgetOptions, HealthOptions, LimiterOptions
from dub5.service.config.settings import Secret
from dub5.service.events import BreakerChanged, BudgetSpent, Events
from dub5.service.model import Target
from dub5.service.resilience.circuit_breaker import Breaker, State
from dub5.service.resilience.health import Health, Record, Standing, TargetState
from dub5.service.resilience.permit import Pass
from dub5.service.resilience.retry import Fare
from dub5.service.resilience.retry_budget import Budget
from dub5.service.resilience.target import NO_ROOM, Barred, Entry, Provider

ISOLATED_S = 60.0  # when to look again whether an operator has let go
TRIAL_EVERY, TRIAL_S_MAX = 5, 60.0  # requests between two trials, unless that takes longer
_RANK = {Health.HEALTHY: 0, Health.DEGRADED: 1, Health.UNHEALTHY: 2}
_SEVERITY = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2, State.ISOLATED: 3}


@dataclass(frozen=True, slots=True)
class Guards:
    """The options of all of them."""

    breaker: BreakerOptions
    budget: BudgetOptions
    limiter: LimiterOptions
    health: HealthOptions


_COOL_UNTIL_S = attrgetter("cool_until_s")


class Fleet:
    """Every target's guards. Times are loop seconds."""

    def __init__(
        self,
        origins: Mapping[Target, str],
        keys: Mapping[str, tuple[Secret, ...]],
        options: Guards,
        dice: Random,
        events: Events,
        before: "Fleet | None" = None,
    ) -> None:
        self._events = events
        self._dice = dice
        self._options = options
        self._slow_of_clock = options.breaker.slow_of_clock
        self._hosts: dict[str, Breaker] = {}
        self._providers: dict[str, Provider] = {}
        self._entries: dict[Target, Entry] = {}
        self._let_in: int = before._let_in if before else 0  # first tries, of all targets together
        if before is not None:
            self._take_over(before, origins)
        for target, origin in origins.items():
            self._entries[target] = entry = self._entries.pop(target, None) or self._new(target, origin)
            entry.use(keys.get(target.provider, ()))

    def _new(self, target: Target, origin: str) -> Entry:
        options = self._options
        if origin not in self._hosts:
            self._hosts[origin] = self._breaker(origin, options.breaker.host_open_max_s)
        if target.provider not in self._providers:
            self._providers[target.provider] = Provider(
                target.provider, origin, options.limiter, options.budget
            )
        return Entry(
            target,
            self._providers[target.provider],
            self._hosts[origin],
            self._breaker(target.name, options.breaker.open_max_s),
            Record(options.health),
            self._events,
        )

    def _breaker(self, scope: str, open_max_s: float) -> Breaker:
        events = self._events

        def tell(before: State, after: State, why: str) -> None:
            events.emit(BreakerChanged(scope, before, after, why))

        return Breaker(self._options.breaker, open_max_s, self._dice, tell)

    def _take_over(self, before: "Fleet", origins: Mapping[Target, str]) -> None:
        """What is known of hosts, providers and targets that are still there, where they were."""
        addresses = {target.provider: origin for target, origin in origins.items()}
        self._hosts = {origin: b for origin, b in before._hosts.items() if origin in addresses.values()}
        self._providers = {
            name: provider
            for name, provider in before._providers.items()
            if addresses.get(name) == provider.origin
        }
        self._entries = {
            target: entry
            for target, entry in before._entries.items()
            if target in origins and target.provider in self._providers
        }
        self._adopt(before._options)

    def _adopt(self, old: Guards) -> None:
        """The new options, where they are new: counts that they judge begin anew."""
        new = self._options
        if new.breaker != old.breaker:
            for host in self._hosts.values():
                host.adopt(new.breaker, new.breaker.host_open_max_s)
            for entry in self._entries.values():
                entry.breaker.adopt(new.breaker, new.breaker.open_max_s)
        if new.health != old.health:
            for entry in self._entries.values():
                entry.record = Record(new.health)
        for provider in self._providers.values():
            if new.limiter != old.limiter:
                provider.limiter.adopt(new.limiter)
            if new.budget != old.budget:
                provider.budget = Budget(new.budget)

    def isolate(self, providers: Collection[str], now_s: float) -> None:
        """By hand: nobody is sent to these providers; the others are let go again."""
        for target, entry in self._entries.items():
            entry.breaker.isolate(target.provider in providers, now_s)

    def enter(
        self, target: Target, now_s: float, fare: Fare = Fare.FIRST, *, last_resort: bool = False
    ) -> Pass | Barred:
        """Leave to ask a target once, with one of its keys; or why not.
        `last_resort`: there is nobody else, so being slow or just recovered is no reason to be left alone."""
        entry = self._entries[target]
        key = entry.keys[0] if len(entry.keys) == 1 else min(entry.keys, key=_COOL_UNTIL_S)
        if key.cool_until_s > now_s:
            return Barred(key.rest)
        if barred := entry.barred(now_s, last_resort=last_resort):
            return barred
        if fare is Fare.PAID and not self.pay(target, now_s):
            return Barred("retry_budget_spent")
        if fare is Fare.FIRST:
            entry.provider.budget.deposit(now_s)
        permit = entry.breaker.enter(now_s) or entry.breaker.enter_slow(now_s)
        host = entry.host.enter(now_s)
        assert permit is not None and host is not None, "nothing ran since they said so"
        entry.asked_s = now_s
        self._let_in += fare is Fare.FIRST
        entry.asked_at = self._let_in
        return Pass(entry, key, permit, host, self._slow_of_clock)

    def pay(self, target: Target, now_s: float) -> bool:
        """Whether the budget of its provider covers a try that nobody has to make; then it is paid."""
        provider = self._entries[target].provider
        paid = provider.budget.withdraw(now_s)
        if not paid:
            self._events.emit(BudgetSpent(provider.name))
        return paid

    def may_ask(self, target: Target, now_s: float) -> bool:
        """Whether `enter` would let somebody in, if need be as the last resort."""
        entry = self._entries[target]
        return entry.cool_until_s <= now_s and entry.barred(now_s, last_resort=True) is None

    def must_wait(self, targets: Iterable[Target], now_s: float) -> bool:
        """Whether nobody may be asked, and somebody could be if only its provider had room."""
        full = False
        for target in targets:
            entry = self._entries[target]
            if entry.cool_until_s <= now_s:
                barred = entry.barred(now_s, last_resort=True)
                if barred is None:
                    return False
                full = full or barred is NO_ROOM
        return full

    def on_room(self, targets: Iterable[Target], tell: Callable[[], None]) -> None:
        """`tell` is called whenever the provider of one of them has room for one more. It must not raise."""
        for target in targets:
            self._entries[target].provider.limiter.on_room = tell

    def keys(self, target: Target) -> int:
        """How many keys a target has."""
        return len(self._entries[target].keys)

    def has_free_key(self, target: Target, now_s: float) -> bool:
        """Whether one of them does not cool down."""
        return self._entries[target].cool_until_s <= now_s

    def does_well(self, target: Target, now_s: float) -> bool:
        """Whether a failure of it is likely to be a blink."""
        entry = self._entries[target]
        return entry.is_closed and not self.is_suspect(target) and not entry.record.degraded(now_s)

    def probe_due(self, target: Target, now_s: float) -> bool:
        """Whether whoever goes there now finds out if it is back."""
        return self._entries[target].probe_due(now_s)

    def is_suspect(self, target: Target) -> bool:
        """Whether it lacks proofs that it is well."""
        entry = self._entries[target]
        return entry.breaker.suspect or entry.host.suspect

    def on_ramp(self, target: Target, now_s: float) -> bool:
        """Whether it recovered a moment ago, and is spared."""
        entry = self._entries[target]
        return entry.breaker.on_ramp(now_s) or entry.host.on_ramp(now_s)

    def standing(self, target: Target, now_s: float) -> Standing:
        """What the router wants to know. A target that is due for a probe, or fails a little and was not asked for a
        while, stands where a healthy one would, or nobody would ever find out that it is back."""
        entry = self._entries[target]
        rank = 0 if entry.probe_due(now_s) else _RANK[entry.health(now_s)]
        if rank == _RANK[Health.DEGRADED] and self._trial_due(entry, now_s):
            rank = 0
        return Standing(rank, entry.first_token.at(now_s) * (entry.in_flight + 1))

    def _trial_due(self, entry: Entry, now_s: float) -> bool:
        """Whether nobody has asked it for a while; with little traffic every request would be after one."""
        idle_s = now_s - entry.asked_s
        return idle_s >= self._options.health.trial_s and (
            self._let_in - entry.asked_at >= TRIAL_EVERY or idle_s >= TRIAL_S_MAX
        )

    def wait_s(self, target: Target, now_s: float) -> float:
        """How long nobody may ask it, as far as that can be known."""
        entry = self._entries[target]
        return ISOLATED_S if entry.breaker.state is State.ISOLATED else entry.wait_s(now_s)

    def state(self, target: Target, now_s: float) -> TargetState:
        """How a target stands."""
        entry = self._entries[target]
        worse = max((entry.breaker, entry.host), key=lambda b: _SEVERITY[b.state])
        return TargetState(
            target.name,
            target.provider,
            entry.health(now_s),
            worse.state,
            cooling_s=max(0.0, entry.cool_until_s - now_s),
            wait_s=entry.wait_s(now_s),
            in_flight=entry.in_flight,
            probing=entry.breaker.probing + entry.host.probing,
            probe_due=entry.probe_due(now_s),
            limit=int(entry.provider.limiter.limit),
            provider_in_flight=entry.provider.limiter.in_flight,
        )

    def states(self, now_s: float) -> list[TargetState]:
        """Every target, in the order of settings."""
        return [self.state(target, now_s) for target in self._entries]

    def forgotten(self, now_s: float, idle_s: float) -> list[Target]:
        """Who is due for a probe, and has not been asked for so long."""
        return [
            target
            for target, entry in self._entries.items()
            if entry.probe_due(now_s) and entry.due_since_s + idle_s <= now_s
        ]
