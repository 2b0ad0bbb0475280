"""All targets, and who may be asked: every guard is asked here, in one place, and told here how it went.

enter(target) -> Pass(key) -> commit, end(verdict)     one per try, always ended
              -> Barred(reason)                        leave it alone

    scope      guards
    key        cool-down (Retry-After, quota, refused)
    host       breaker of resolve, connect and edge failures
    target     breaker, ramp, burst of bad requests, record of the last 30 s, time to first token
    provider   limiter, retry budget

A fleet of new settings takes over what the one `before` knows of targets that have kept their address: the objects
themselves, so that a try that is still out gives back what it holds, whichever of the two let it in.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from random import Random

from service.attempt.backlog import Backlog
from service.attempt.backoff import Fare
from service.attempt.breaker import Breaker, End, Permit, State
from service.attempt.budget import Budget
from service.attempt.burst import Burst
from service.attempt.classify import FILTER_CODES, Blame, Rest, Then, Verdict
from service.attempt.limiter import Limiter, Load
from service.chat import Target
from service.events import BreakerChanged, BudgetSpent, Events, HealthChanged, LimitLowered
from service.options import BreakerOptions, BudgetOptions, HealthOptions, LimiterOptions
from service.routing.ewma import PeakEwma
from service.routing.health import Health, Record, Standing, TargetState
from service.settings import Secret

FULL = "provider_full"
ISOLATED_S = 60.0  # when to look again whether an operator has let go
BAD_REQUEST = frozenset({400, 422})
GAVE_UP = frozenset({"cancelled", "deadline_timeout"})  # the client did
_RANK = {Health.HEALTHY: 0, Health.DEGRADED: 1, Health.UNHEALTHY: 2}
_SEVERITY = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2, State.ISOLATED: 3}


@dataclass(frozen=True, slots=True)
class Barred:
    """Why a target is passed over. `soft`: it is still better than nobody."""

    reason: str
    soft: bool = False


NO_ROOM = Barred("provider_full")


@dataclass(frozen=True, slots=True)
class Guards:
    """The options of all of them."""

    breaker: BreakerOptions
    budget: BudgetOptions
    limiter: LimiterOptions
    health: HealthOptions


class _Provider:
    """What all targets of one provider share."""

    def __init__(self, name: str, origin: str, options: Guards) -> None:
        self.name = name
        self.origin = origin
        self.limiter = Limiter(options.limiter)
        self.budget = Budget(options.budget)


class _Key:
    """One of a provider's keys, as one target takes it."""

    __slots__ = ("cool_until_s", "rest", "secret")

    def __init__(self, secret: Secret | None) -> None:
        self.secret = secret
        self.cool_until_s = 0.0
        self.rest = Rest.LIMITED  # why it cools

    def reveal(self) -> str | None:
        return self.secret.reveal() if self.secret else None


_COOL_UNTIL_S = attrgetter("cool_until_s")


class _Entry:
    """One target's standing."""

    def __init__(
        self,
        target: Target,
        provider: _Provider,
        host: Breaker,
        breaker: Breaker,
        record: Record,
    ) -> None:
        self.target = target
        self.provider = provider
        self.host = host
        self.keys: tuple[_Key, ...] = ()
        self.burst = Burst()
        self.breaker = breaker
        self.record = record
        self.first_token = PeakEwma()
        self.streams, self.whole = Backlog(), Backlog()
        self.told = Health.HEALTHY
        self.in_flight = 0
        self.asked_s = 0.0  # when somebody was let in last

    @property
    def cool_until_s(self) -> float:
        """When the first of its keys may be used."""
        if len(self.keys) == 1:
            return self.keys[0].cool_until_s
        return min(key.cool_until_s for key in self.keys)

    @property
    def is_closed(self) -> bool:
        """Whether no breaker has anything against it."""
        return self.breaker.state is State.CLOSED and self.host.state is State.CLOSED

    def note_recovery(self) -> None:
        """It was not closed. If it is now, what failed before is no news any more."""
        if self.is_closed:
            self.record.clear()

    def use(self, secrets: Collection[Secret]) -> None:
        """These keys from now on; what is known of those that stay is kept."""
        known = {key.reveal(): key for key in self.keys}
        self.keys = tuple(known.get(secret.reveal()) or _Key(secret) for secret in secrets) or (
            known.get(None) or _Key(None),
        )


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
        self._providers: dict[str, _Provider] = {}
        self._entries: dict[Target, _Entry] = {}
        if before is not None:
            self._take_over(before, origins)
        for target, origin in origins.items():
            self._entries[target] = entry = self._entries.pop(target, None) or self._new(target, origin)
            entry.use(keys.get(target.provider, ()))

    def _new(self, target: Target, origin: str) -> _Entry:
        options = self._options
        if origin not in self._hosts:
            self._hosts[origin] = self._breaker(origin, options.breaker.host_open_max_s)
        if target.provider not in self._providers:
            self._providers[target.provider] = _Provider(target.provider, origin, options)
        return _Entry(
            target,
            self._providers[target.provider],
            self._hosts[origin],
            self._breaker(target.name, options.breaker.open_max_s),
            Record(options.health),
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
    ) -> "Pass | Barred":
        """Leave to ask a target once, with one of its keys; or why not.
        `last_resort`: there is nobody else, so being slow or just recovered is no reason to be left alone."""
        entry = self._entries[target]
        key = entry.keys[0] if len(entry.keys) == 1 else min(entry.keys, key=_COOL_UNTIL_S)
        if key.cool_until_s > now_s:
            return Barred(key.rest)
        if barred := self._barred(entry, now_s, last_resort):
            return barred
        if fare is Fare.PAID and not self.pay(target, now_s):
            return Barred("retry_budget_spent")
        if fare is Fare.FIRST:
            entry.provider.budget.deposit(now_s)
        permit = entry.breaker.enter(now_s) or entry.breaker.enter_slow(now_s)
        host = entry.host.enter(now_s)
        assert permit is not None and host is not None, "nothing ran since they said so"
        entry.asked_s = now_s
        return Pass(self, entry, key, permit, host)

    def _barred(self, entry: _Entry, now_s: float, last_resort: bool) -> Barred | None:
        steady = entry.breaker.is_steady(now_s) and entry.host.is_steady(now_s)
        if not steady and (barred := _troubled(entry, now_s, last_resort)):
            return barred
        return None if entry.provider.limiter.has_room(now_s) else NO_ROOM

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
        return entry.cool_until_s <= now_s and self._barred(entry, now_s, last_resort=True) is None

    def must_wait(self, targets: Iterable[Target], now_s: float) -> bool:
        """Whether nobody may be asked, and somebody could be if only its provider had room."""
        full = False
        for target in targets:
            entry = self._entries[target]
            if entry.cool_until_s <= now_s:
                barred = self._barred(entry, now_s, last_resort=True)
                if barred is None:
                    return False
                full = full or barred.reason == FULL
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
        rank = 0 if self._probe_due(entry, now_s) else _RANK[self._health(entry, now_s)]
        if rank == _RANK[Health.DEGRADED] and now_s - entry.asked_s >= self._options.health.trial_s:
            rank = 0
        return Standing(rank, entry.first_token.at(now_s) * (entry.in_flight + 1))

    def wait_s(self, target: Target, now_s: float) -> float:
        """How long nobody may ask it, as far as that can be known."""
        entry = self._entries[target]
        return ISOLATED_S if entry.breaker.state is State.ISOLATED else self._wait_s(entry, now_s)

    def _wait_s(self, entry: _Entry, now_s: float) -> float:
        cooling_s = entry.cool_until_s - now_s
        return max(0.0, cooling_s, _open_s(entry.breaker, now_s), _open_s(entry.host, now_s))

    def state(self, target: Target, now_s: float) -> TargetState:
        """How a target stands."""
        entry = self._entries[target]
        worse = max((entry.breaker, entry.host), key=lambda b: _SEVERITY[b.state])
        return TargetState(
            target.name,
            target.provider,
            self._health(entry, now_s),
            worse.state,
            cooling_s=max(0.0, entry.cool_until_s - now_s),
            wait_s=self._wait_s(entry, now_s),
            in_flight=entry.in_flight,
            probing=entry.breaker.probing + entry.host.probing,
            probe_due=self._probe_due(entry, now_s),
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
            if self._probe_due(entry, now_s) and self._due_since_s(entry) + idle_s <= now_s
        ]

    def _due_since_s(self, entry: _Entry) -> float:
        return max(entry.asked_s, entry.breaker.opened_until_s, entry.host.opened_until_s, entry.cool_until_s)

    def _probe_due(self, entry: _Entry, now_s: float) -> bool:
        breaker, host = entry.breaker, entry.host
        if breaker.state is State.CLOSED and host.state is State.CLOSED:
            return False
        return entry.cool_until_s <= now_s and breaker.may_enter(now_s) and host.may_enter(now_s)

    def _health(self, entry: _Entry, now_s: float) -> Health:
        states = (entry.breaker.state, entry.host.state)
        if State.OPEN in states or State.ISOLATED in states or entry.cool_until_s > now_s:
            health = Health.UNHEALTHY
        elif State.HALF_OPEN in states or entry.record.degraded(now_s):
            health = Health.DEGRADED
        else:
            health = Health.HEALTHY
        if health is not entry.told:
            before, entry.told = entry.told, health
            self._events.emit(HealthChanged(entry.target.name, before, health))
        return health


def _troubled(entry: _Entry, now_s: float, last_resort: bool) -> Barred | None:
    """What its breakers say."""
    breaker, host = entry.breaker, entry.host
    if breaker.state is State.ISOLATED:
        return Barred("isolated")
    if not host.may_enter(now_s):
        return Barred("host_breaker_open")
    if not breaker.may_enter(now_s) and not (breaker.slow and last_resort):
        return Barred("breaker_open", soft=breaker.slow)
    if not (last_resort or (breaker.ramped(now_s) and host.ramped(now_s))):
        return Barred("slow_start", soft=True)
    return None


def _open_s(breaker: Breaker, now_s: float) -> float:
    return max(0.0, breaker.opened_until_s - now_s) if breaker.state is State.OPEN else 0.0


class Pass:
    """Leave for one try. `end` must be called when it is over, whatever happened; only the first call counts."""

    __slots__ = (
        "_busy",
        "_committed",
        "_entered_s",
        "_entry",
        "_fleet",
        "_host",
        "_key",
        "_limit_era",
        "_over",
        "_slow",
        "_target",
        "probe",
        "streams",
    )

    def __init__(self, fleet: Fleet, entry: _Entry, key: _Key, target: Permit, host: Permit) -> None:
        self.probe = target.probe or host.probe
        self._fleet = fleet
        self._entry = entry
        self._key = key
        self._target = target
        self._host = host
        self._slow = self._over = self._committed = False
        self.streams = False  # the answer is to come as a stream
        self._entered_s = entry.asked_s
        self._limit_era = entry.provider.limiter.enter()
        self._busy = entry.provider.limiter.in_flight
        entry.in_flight += 1

    @property
    def key(self) -> str | None:
        """The provider key to use."""
        return self._key.reveal()

    def commit(self, now_s: float, first_token_s: float, clock_s: float) -> None:
        """The first content of a stream came, after so long; its clock would have waited for `clock_s`."""
        self._slow = first_token_s > clock_s * self._fleet._slow_of_clock
        self._entry.first_token.observe(first_token_s, now_s)
        self._entry.provider.limiter.taken()
        self._committed = True
        self._note_backlog(now_s)
        was_well = self._entry.is_closed
        self._host.end(End.SUCCESS, now_s)
        self._target.commit(End.SLOW if self._slow else End.SUCCESS, now_s)
        if not was_well:
            self._entry.note_recovery()

    def end(self, verdict: Verdict | None, now_s: float, *, reached: bool) -> None:
        """The try is over: None if it gave its whole answer, else what went wrong. `reached`: the provider sent
        at least a status, so its host is up."""
        if self._over:
            return
        self._over = True
        entry = self._entry
        entry.in_flight -= 1
        not_before_s = now_s + verdict.cool_s if verdict else 0.0
        if verdict is None:
            entry.burst.record(refused=False, now_s=now_s)
        elif verdict.cool_s > 0 and not_before_s >= self._key.cool_until_s:
            # Two refusals may cross: the later end of the cool-down holds, and its reason.
            self._key.cool_until_s = not_before_s
            self._key.rest = verdict.rest
        if verdict is None or verdict.blame in (Blame.TARGET, Blame.HOST):
            entry.record.add(verdict is not None, now_s)
        was_well = entry.is_closed
        # A trial that had begun to answer, and whose answer nobody needs: it is well all the same.
        began = self._committed and not self.probe and verdict is not None and verdict.reason == "outrun"
        self._target.end(_target_end(None if began else verdict, self._slow), now_s, not_before_s)
        self._host.end(_host_end(verdict, reached), now_s, not_before_s)
        if not was_well:
            entry.note_recovery()
        self._leave_limiter(verdict, now_s)
        if verdict is not None or entry.told is not Health.HEALTHY:
            self._fleet._health(entry, now_s)  # tells of a change

    def _note_backlog(self, now_s: float, *, in_vain: bool = False) -> None:
        """Its answer is here, or begins, or was waited for in vain. If it was sent before the limit was lowered last it
        waited in the line of then: no news."""
        entry, limiter = self._entry, self._entry.provider.limiter
        backlog, took_s = entry.streams if self.streams else entry.whole, now_s - self._entered_s
        if self._limit_era == limiter.era and backlog.note(took_s, self._busy, now_s, in_vain=in_vain):
            before = int(limiter.limit)
            if limiter.lower(limiter.in_flight, now_s):
                name, after = entry.provider.name, int(limiter.limit)
                self._fleet._events.emit(LimitLowered(name, before, after, "backlog"))

    def _leave_limiter(self, verdict: Verdict | None, now_s: float) -> None:
        limiter = self._entry.provider.limiter
        if verdict is None:
            load = Load.UNKNOWN if self._committed else Load.TAKEN  # a stream was taken when it began
            if not self._committed:
                self._note_backlog(now_s)
        else:
            if not self._committed and verdict.reason in GAVE_UP:
                self._note_backlog(now_s, in_vain=True)
            load = Load.DROPPED if verdict.overload else Load.UNKNOWN
        before = int(limiter.limit)
        if limiter.leave(self._limit_era, load, now_s):
            why = verdict.reason if verdict else ""
            self._fleet._events.emit(LimitLowered(self._entry.provider.name, before, int(limiter.limit), why))

    def reconsider(self, verdict: Verdict, now_s: float) -> Verdict:
        """The verdict, or another one if this target refuses what it took a minute ago."""
        if verdict.then is not Then.GIVE_UP or verdict.status not in BAD_REQUEST:
            return verdict
        if verdict.code in FILTER_CODES:
            return verdict  # never routed around
        if self._entry.burst.record(refused=True, now_s=now_s):
            return replace(verdict, then=Then.NEXT, blame=Blame.TARGET)
        return verdict


def _target_end(verdict: Verdict | None, slow: bool) -> End:
    """A caller's own 400 proves that the target is alive; a client that left proves nothing."""
    if verdict is None or (verdict.blame is Blame.NOBODY and verdict.status is not None):
        return End.SLOW if slow else End.SUCCESS
    return End.FAILURE if verdict.blame is Blame.TARGET else End.IGNORED


def _host_end(verdict: Verdict | None, reached: bool) -> End:
    """Whoever sent a status is up, whatever it said, unless an edge in front said that its host is not."""
    if verdict is not None and verdict.blame is Blame.HOST:
        return End.FAILURE
    return End.SUCCESS if reached else End.IGNORED
