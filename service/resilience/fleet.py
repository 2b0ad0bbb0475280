"""Fleet: the registry of all targets. It alone says whether a target may be called, and how healthy it is.

try_acquire(target) -> Permit(key) -> commit, end(classification)   one per attempt, always ended (permit.py)
                    -> NotPermitted(reason)                         the target may not be called (target.py)

    scope      resilience state
    key        cool-down (Retry-After, quota, refused); what is known of it (provider_keys.py)
    host       circuit breaker for resolve, connect and edge failures
    target     circuit breaker, slow start, refusals, error rate of the last 30 s, time to first token
    caller     at a target: circuit breaker and error rate of its own (caller_failures.py)
    provider   concurrency limit, retry budget

When settings are reloaded, the new fleet takes over the state of targets that have kept their address from
the fleet `before` it. It takes the objects themselves, so that an attempt in flight releases what it holds,
whichever of the two fleets permitted it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from random import Random

from dub5.service.config.options import BreakerOptions, BudgetOptions, HealthOptions, LimiterOptions
from dub5.service.config.settings import Secret
from dub5.service.events import BreakerChanged, BudgetSpent, CallerBarred, Events
from dub5.service.model import ANONYMOUS, Caller, Target
from dub5.service.resilience.caller_failures import CallerFailures, OwnRecord
from dub5.service.resilience.circuit_breaker import SUCCESSES_REQUIRED, Breaker, BreakerState
from dub5.service.resilience.classify import CooldownReason
from dub5.service.resilience.health import ErrorRateWindow, Health, RoutingScore, TargetSnapshot
from dub5.service.resilience.permit import Permit, permit_call
from dub5.service.resilience.provider_keys import KeyState, ProviderKey
from dub5.service.resilience.retry import BudgetCharge
from dub5.service.resilience.retry_budget import RetryBudget
from dub5.service.resilience.target import NO_ROOM, NotPermitted, ProviderState, TargetState

ISOLATED_S = 60.0  # the wait that is reported for an isolated target
# Requests between two canary requests to a degraded target, and the longest time between them.
CANARY_EVERY, CANARY_S_MAX = 5, 60.0
_RANK = {Health.HEALTHY: 0, Health.DEGRADED: 1, Health.UNHEALTHY: 2}
_SEVERITY = {
    BreakerState.CLOSED: 0,
    BreakerState.HALF_OPEN: 1,
    BreakerState.OPEN: 2,
    BreakerState.ISOLATED: 3,
}


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """The options of the circuit breakers, retry budgets, concurrency limits and error rates.

    `callers_told_apart`: there are several callers with keys.
    """

    breaker: BreakerOptions
    budget: BudgetOptions
    limiter: LimiterOptions
    health: HealthOptions
    callers_told_apart: bool = False


_COOLDOWN_UNTIL_S = attrgetter("cooldown_until_s")
DEPOSIT = BudgetCharge.DEPOSIT  # it takes twice as long to read a member from its class


class Fleet:
    """The registry of all targets and their resilience state. Times are loop seconds."""

    def __init__(
        self,
        origins: Mapping[Target, str],
        keys: Mapping[str, tuple[Secret, ...]],
        options: GuardOptions,
        rng: Random,
        events: Events,
        before: "Fleet | None" = None,
    ) -> None:
        self._events = events
        self._rng = rng
        self._options = options
        self._slow_share = options.breaker.slow_of_timeout
        self._hosts: dict[str, Breaker] = {}
        self._providers: dict[str, ProviderState] = {}
        self._states: dict[Target, TargetState] = {}
        self._keys: dict[str, dict[str | None, KeyState]] = {}  # by provider and key
        self._first_attempts: int = before._first_attempts if before else 0  # of all targets together
        if before is not None:
            self._take_over(before, origins)
        for known in self.key_states:
            known.at_targets.clear()
        for target, origin in origins.items():
            self._states[target] = state = self._states.pop(target, None) or self._new(target, origin)
            state.set_keys(self._key_states(target.provider, keys.get(target.provider, ())))
            state.caller_failures = CallerFailures(
                partial(self._new_record, target.name), told_apart=options.callers_told_apart
            )
        if before is not None:
            kept = set(self.key_states)
            for known in before.key_states:
                if known not in kept:
                    known.retire()

    def _key_states(self, provider: str, secrets: tuple[Secret, ...]) -> list[KeyState]:
        """Return what is known of each key, of which each target of the provider gets the same object."""
        known = self._keys.setdefault(provider, {})
        wanted: tuple[Secret | None, ...] = secrets or (None,)
        for secret in wanted:
            key = secret.reveal() if secret else None
            known[key] = known.get(key) or KeyState(provider, secret, self._events)
        self._keys[provider] = kept = {key: known[key] for key in (s.reveal() if s else None for s in wanted)}
        return list(kept.values())

    def _new(self, target: Target, origin: str) -> TargetState:
        options = self._options
        if origin not in self._hosts:
            self._hosts[origin] = self._breaker(origin, options.breaker.host_open_max_s)
        if target.provider not in self._providers:
            self._providers[target.provider] = ProviderState(
                target.provider, origin, options.limiter, options.budget
            )
        return TargetState(
            target,
            self._providers[target.provider],
            self._hosts[origin],
            self._breaker(target.name, options.breaker.open_max_s),
            ErrorRateWindow(options.health),
            self._events,
        )

    def _new_record(self, target: str, caller: str, on_open: Callable[[], None]) -> OwnRecord:
        """Return the record of a caller at one target."""
        events, options = self._events, self._options

        def on_change(before: BreakerState, after: BreakerState, why: str) -> None:
            if after is BreakerState.OPEN:
                on_open()
            if after is BreakerState.OPEN and before is BreakerState.CLOSED:
                events.emit(CallerBarred(target, caller, why))

        breaker = Breaker(options.breaker, options.breaker.open_max_s, self._rng, on_change)
        return OwnRecord(breaker, ErrorRateWindow(options.health))

    def _breaker(self, scope: str, open_max_s: float) -> Breaker:
        events = self._events

        def on_change(before: BreakerState, after: BreakerState, why: str) -> None:
            events.emit(BreakerChanged(scope, before, after, why))

        return Breaker(self._options.breaker, open_max_s, self._rng, on_change)

    def _take_over(self, before: "Fleet", origins: Mapping[Target, str]) -> None:
        """Take over the state of hosts, providers and targets that are still there, at the same address."""
        addresses = {target.provider: origin for target, origin in origins.items()}
        self._hosts = {origin: b for origin, b in before._hosts.items() if origin in addresses.values()}
        self._providers = {
            name: provider
            for name, provider in before._providers.items()
            if addresses.get(name) == provider.origin
        }
        self._keys = {name: dict(keys) for name, keys in before._keys.items() if name in self._providers}
        self._states = {
            target: state
            for target, state in before._states.items()
            if target in origins and target.provider in self._providers
        }
        self._reconfigure(before._options)

    def _reconfigure(self, old: GuardOptions) -> None:
        """Use the new options where they differ from the old ones; their counts begin at zero."""
        new = self._options
        if new.breaker != old.breaker:
            for host_breaker in self._hosts.values():
                host_breaker.reconfigure(new.breaker, new.breaker.host_open_max_s)
            for state in self._states.values():
                state.breaker.reconfigure(new.breaker, new.breaker.open_max_s)
        if new.health != old.health:
            for state in self._states.values():
                state.error_rate = ErrorRateWindow(new.health)
        for provider in self._providers.values():
            if new.limiter != old.limiter:
                provider.limiter.reconfigure(new.limiter)
            if new.budget != old.budget:
                provider.budget = RetryBudget(new.budget)

    def isolate(self, providers: Collection[str], now_s: float) -> None:
        """Isolate these providers, which permits no calls to them; end the isolation of all others."""
        for target, state in self._states.items():
            state.breaker.isolate(target.provider in providers, now_s)

    def try_acquire(
        self,
        target: Target,
        now_s: float,
        charge: BudgetCharge = DEPOSIT,
        *,
        last_resort: bool = False,
        doubted: Sequence[Permit] = (),
        caller: Caller = ANONYMOUS,
    ) -> Permit | NotPermitted:
        """Return a permit to call a target once, with one of its keys, or the reason why not.

        `last_resort`: no other target is left, so a slow or just recovered target is permitted, too.
        `doubted`: earlier permits of the request, whose keys were refused: another key is used.
        `caller`: who sent the request; its own breaker must permit the call, too.
        """
        state = self._states[target]
        keys: Sequence[ProviderKey] = state.keys
        if doubted:
            tried = [permit.doubted_key for permit in doubted]
            keys = [key for key in keys if key not in tried]
            if not keys:
                return NotPermitted(CooldownReason.REFUSED)
        key = keys[0] if len(keys) == 1 else min(keys, key=_COOLDOWN_UNTIL_S)
        if key.cooldown_until_s > now_s:
            reason, key = key.cooldown_reason, min(keys, key=lambda key: key.doubts(now_s))
            if key.usable_from_s() > now_s:
                return NotPermitted(reason)
            if not last_resort:
                return NotPermitted(reason, usable_as_last_resort=True)
        if not_permitted := state.not_permitted(now_s, last_resort=last_resort):
            return not_permitted
        failures = state.caller_failures
        if failures.any and (not_permitted := state.not_permitted_to(caller, now_s)):
            return not_permitted
        if charge is DEPOSIT:
            state.provider.budget.deposit(now_s)
            self._first_attempts += 1
        elif charge is BudgetCharge.WITHDRAW and not self.withdraw(target, now_s):
            return NotPermitted("retry_budget_spent")
        breaker_permit = state.breaker.try_acquire(now_s) or state.breaker.try_acquire_last_resort(now_s)
        host_permit = state.host_breaker.try_acquire(now_s)
        assert breaker_permit is not None and host_permit is not None, "`not_permitted` has just been asked"
        state.last_asked_s = now_s
        state.count_when_asked = self._first_attempts
        own = failures.try_acquire(caller, now_s) if failures.any else None
        return permit_call(state, key, breaker_permit, host_permit, own, caller, self._slow_share)

    def withdraw(self, target: Target, now_s: float) -> bool:
        """Charge a retry or hedge to its provider's retry budget. Return whether the budget covers it."""
        provider = self._states[target].provider
        withdrawn = provider.budget.withdraw(now_s)
        if not withdrawn:
            self._events.emit(BudgetSpent(provider.name))
        return withdrawn

    def may_ask(self, target: Target, now_s: float, caller: Caller = ANONYMOUS) -> bool:
        """Return whether `try_acquire` would return a permit, if need be as the last resort."""
        state = self._states[target]
        if state.cooldown_until_s > now_s and state.usable_from_s() > now_s:
            return False
        if state.not_permitted(now_s, last_resort=True) is not None:
            return False
        return not (state.caller_failures.any and state.not_permitted_to(caller, now_s))

    def may_ask_any(self, targets: Iterable[Target], now_s: float, caller: Caller = ANONYMOUS) -> bool:
        """Return whether this caller can ask one of these targets now."""
        return any(self.may_ask(target, now_s, caller) for target in targets)

    def must_wait(self, targets: Iterable[Target], now_s: float) -> bool:
        """Return whether no target may be called now, and at least one for lack of capacity alone."""
        states = self._states
        for target in targets:
            if not states[target].provider.limiter.has_room(now_s):
                break
        else:  # as nearly always
            return False
        no_room = False
        for target in targets:
            state = states[target]
            if state.cooldown_until_s <= now_s or state.usable_from_s() <= now_s:
                not_permitted = state.not_permitted(now_s, last_resort=True)
                if not_permitted is None:
                    return False
                no_room = no_room or not_permitted is NO_ROOM
        return no_room

    def on_room(self, targets: Iterable[Target], on_room: Callable[[], None]) -> None:
        """Call `on_room` whenever the provider of a target can take one more request. It must not raise."""
        for target in targets:
            self._states[target].provider.limiter.on_room = on_room

    @property
    def key_states(self) -> Iterable[KeyState]:
        """The keys of all providers; one without a secret stands for a provider that needs no key."""
        return [state for states in self._keys.values() for state in states.values()]

    def limit(self, provider: str) -> int:
        """Return the concurrency limit of a provider: how many requests it may have in flight."""
        return int(self._providers[provider].limiter.limit)

    def keys(self, target: Target) -> int:
        """Return how many keys a target has."""
        return len(self._states[target].keys)

    def has_free_key(self, target: Target, now_s: float) -> bool:
        """Return whether at least one key of a target is not cooling down."""
        return self._states[target].cooldown_until_s <= now_s

    def has_key_in_reserve(self, target: Target, now_s: float) -> bool:
        """Return whether no key is free, but one of them rests for a forecast alone."""
        state = self._states[target]
        return state.cooldown_until_s > now_s and state.usable_from_s() <= now_s

    def is_healthy(self, target: Target, now_s: float) -> bool:
        """Return whether a target is healthy, so that a failure of it is likely to be transient.

        Both breakers are closed, there is no probation, and the error rate is low. Cool-downs are left out,
        unlike in `TargetState.health`: a rate-limited target works, so `decide_retry` may wait for it.
        """
        state = self._states[target]
        return state.is_closed and not self.on_probation(target) and not state.error_rate.degraded(now_s)

    def probe_due(self, target: Target, now_s: float) -> bool:
        """Return whether the next call to a target would be a probe."""
        return self._states[target].probe_due(now_s)

    def on_probation(self, target: Target) -> bool:
        """Return whether a target or its host is on probation."""
        state = self._states[target]
        return state.breaker.on_probation or state.host_breaker.on_probation

    def is_crowded(self, target: Target) -> bool:
        """Return whether a target on probation has enough attempts out to show whether it answers."""
        return self._states[target].waiting >= SUCCESSES_REQUIRED and self.on_probation(target)

    def in_slow_start(self, target: Target, now_s: float) -> bool:
        """Return whether a target or its host recovered a moment ago: it may refuse the next call."""
        state = self._states[target]
        return state.breaker.in_slow_start(now_s) or state.host_breaker.in_slow_start(now_s)

    def score(self, target: Target, now_s: float, caller: Caller = ANONYMOUS) -> RoutingScore:
        """Return the routing score of a target for this caller.

        A target that is due for a probe or a canary request ranks as a healthy one: otherwise no request
        would ever find out that it has recovered.
        """
        state = self._states[target]
        rank = 0 if state.probe_due(now_s) else _RANK[state.health(now_s)]
        if state.caller_failures.any and state.caller_failures.degraded(caller, now_s):
            rank = max(rank, _RANK[Health.DEGRADED])
        if rank == _RANK[Health.DEGRADED] and self._canary_due(state, now_s):
            rank = 0
        return RoutingScore(rank, state.first_token.at(now_s) * (state.in_flight + 1))

    def _canary_due(self, state: TargetState, now_s: float) -> bool:
        """Return whether a degraded target is due for a canary request.

        The count of requests keeps the share of canaries small with little traffic, when every request comes
        after a long pause.
        """
        idle_s = now_s - state.last_asked_s
        return idle_s >= self._options.health.canary_interval_s and (
            self._first_attempts - state.count_when_asked >= CANARY_EVERY or idle_s >= CANARY_S_MAX
        )

    def answered_since(self, target: Target, since_s: float) -> bool:
        """Return whether a target has answered anybody since then."""
        return self._states[target].answered_s > since_s

    def wait_s(self, target: Target, now_s: float, caller: Caller = ANONYMOUS) -> float:
        """Return the seconds until this caller may call a target again, as far as that is known."""
        state = self._states[target]
        if state.breaker.state is BreakerState.ISOLATED:
            return ISOLATED_S
        return max(state.wait_s(now_s), state.caller_failures.wait_s(caller, now_s))

    def snapshot(self, target: Target, now_s: float) -> TargetSnapshot:
        """Return the state of a target at this moment."""
        state = self._states[target]
        worse = max((state.breaker, state.host_breaker), key=lambda b: _SEVERITY[b.state])
        return TargetSnapshot(
            target.name,
            target.provider,
            state.health(now_s),
            worse.state,
            cooling_s=max(0.0, state.cooldown_until_s - now_s),
            wait_s=state.wait_s(now_s),
            in_flight=state.in_flight,
            probing=state.breaker.probing + state.host_breaker.probing,
            probe_due=state.probe_due(now_s),
            limit=int(state.provider.limiter.limit),
            provider_in_flight=state.provider.limiter.in_flight,
        )

    def snapshots(self, now_s: float) -> list[TargetSnapshot]:
        """Return the state of every target, in the order of the settings."""
        return [self.snapshot(target, now_s) for target in self._states]

    def probes_due(self, now_s: float, idle_s: float) -> list[Target]:
        """Return the targets that have been due for a probe for at least `idle_s`."""
        return [
            target
            for target, state in self._states.items()
            if state.probe_due(now_s) and state.due_since_s + idle_s <= now_s
        ]

    def take_doubts(self, now_s: float) -> list[Target]:
        """Return the targets of which a probe must show whether they fail, or one caller's requests do."""
        return [
            target
            for target, state in self._states.items()
            if state.caller_failures.take_doubt(now_s) and state.is_closed
        ]
