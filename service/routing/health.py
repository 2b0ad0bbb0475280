"""What is known of every target: its breaker, its host's breaker, its keys' cool-downs.

enter(target) -> Pass(key) -> end(verdict)       one per attempt, always ended
              -> Barred(reason)                  leave it alone
state(target) -> healthy | degraded | unhealthy  all the router reads
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from service.attempt.breaker import Breaker, End, Permit, State
from service.attempt.burst import Burst
from service.attempt.classify import Blame, Rest, Then, Verdict
from service.chat import Target
from service.events import BreakerChanged, Events
from service.options import BreakerOptions
from service.settings import Secret


class Health(StrEnum):
    """How well a target does."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # may be asked, but another one is better
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class TargetState:
    """A target at one moment; `wait_s` is how long nobody may ask it. `probe_due`: the next call would find out
    whether it is back."""

    name: str
    provider: str
    health: Health
    breaker: str
    cooling_s: float
    wait_s: float
    in_flight: int
    probe_due: bool


@dataclass(frozen=True, slots=True)
class Barred:
    """Why a target is passed over."""

    reason: str


class _Entry:
    """One target's standing."""

    def __init__(
        self, target: Target, origin: str, keys: tuple[Secret | None, ...], breaker: Breaker
    ) -> None:
        self.target = target
        self.origin = origin
        self.keys = keys
        self.cool_until_s = [0.0] * len(keys)
        self.rest = [Rest.LIMITED] * len(keys)  # why it cools
        self.burst = Burst()
        self.breaker = breaker
        self.in_flight = 0


class Fleet:
    """All targets, and who may be asked."""

    def __init__(
        self,
        origins: Mapping[Target, str],
        keys: Mapping[str, tuple[Secret, ...]],
        options: BreakerOptions,
        dice: Random,
        events: Events,
    ) -> None:
        def breaker(scope: str) -> Breaker:
            def tell(before: State, after: State, why: str) -> None:
                events.emit(BreakerChanged(scope, before, after, why))

            return Breaker(options, dice, tell)

        self._hosts = {origin: breaker(origin) for origin in sorted(set(origins.values()))}
        self._entries = {
            target: _Entry(target, origin, tuple(keys.get(target.provider) or (None,)), breaker(target.name))
            for target, origin in origins.items()
        }

    def enter(self, target: Target, now_s: float) -> "Pass | Barred":
        """Leave to ask a target once, with one of its keys; or why not."""
        entry = self._entries[target]
        host = self._hosts[entry.origin]
        key = min(range(len(entry.keys)), key=lambda i: entry.cool_until_s[i])
        if entry.cool_until_s[key] > now_s:
            return Barred(entry.rest[key])
        if not host.may_enter(now_s):
            return Barred("host_breaker_open")
        permit = entry.breaker.enter(now_s)
        if permit is None:
            return Barred("breaker_open")
        host_permit = host.enter(now_s)
        assert host_permit is not None, "may_enter said so, and nothing ran in between"
        return Pass(entry, key, permit, host_permit)

    def keys(self, target: Target) -> int:
        """How many keys a target has."""
        return len(self._entries[target].keys)

    def state(self, target: Target, now_s: float) -> TargetState:
        """How a target stands."""
        entry = self._entries[target]
        host = self._hosts[entry.origin]
        worse = max((entry.breaker, host), key=lambda b: _SEVERITY[b.state])
        cooling_s = max(0.0, min(entry.cool_until_s) - now_s)
        wait_s = max(cooling_s, _open_s(entry.breaker, now_s), _open_s(host, now_s))
        if worse.state is State.OPEN or cooling_s > 0:
            health = Health.UNHEALTHY
        else:
            health = Health.HEALTHY if worse.state is State.CLOSED else Health.DEGRADED
        return TargetState(
            target.name,
            target.provider,
            health,
            worse.state,
            cooling_s,
            wait_s,
            entry.in_flight,
            probe_due=worse.state is not State.CLOSED
            and cooling_s == 0
            and entry.breaker.may_enter(now_s)
            and host.may_enter(now_s),
        )

    def states(self, now_s: float) -> list[TargetState]:
        """Every target, in the order of settings."""
        return [self.state(target, now_s) for target in self._entries]


_SEVERITY = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


def _open_s(breaker: Breaker, now_s: float) -> float:
    return max(0.0, breaker.opened_until_s - now_s) if breaker.state is State.OPEN else 0.0


class Pass:
    """Leave for one attempt. `end` must be called once it is over, whatever happened."""

    __slots__ = ("_entry", "_host", "_index", "_target")

    def __init__(self, entry: _Entry, index: int, target: Permit, host: Permit) -> None:
        self._entry = entry
        self._index = index
        self._target = target
        self._host = host
        entry.in_flight += 1

    @property
    def key(self) -> str | None:
        """The provider key to use."""
        secret = self._entry.keys[self._index]
        return secret.reveal() if secret else None

    def commit(self, now_s: float) -> None:
        """The first content came."""
        self._host.end(End.SUCCESS, now_s)
        self._target.commit(now_s)

    def end(self, verdict: Verdict | None, now_s: float, *, reached: bool) -> None:
        """The attempt is over: None if it gave its whole answer, else what went wrong. `reached`: the provider sent
        at least a status, so its host is up."""
        self._entry.in_flight -= 1
        not_before_s = now_s + verdict.cool_s if verdict else 0.0
        self._target.end(_target_end(verdict), now_s, not_before_s)
        self._host.end(_host_end(verdict, reached), now_s, not_before_s)
        if verdict is None:
            self._entry.burst.record(refused=False, now_s=now_s)
        elif verdict.cool_s > 0:
            # Two refusals may cross: the later end of the cool-down holds.
            cool = self._entry.cool_until_s
            cool[self._index] = max(cool[self._index], not_before_s)
            self._entry.rest[self._index] = verdict.rest

    def reconsider(self, verdict: Verdict, now_s: float) -> Verdict:
        """The verdict, or another one if this target refuses what it took a minute ago."""
        if verdict.then is not Then.GIVE_UP or verdict.status not in BAD_REQUEST:
            return verdict
        if self._entry.burst.record(refused=True, now_s=now_s):
            return replace(verdict, then=Then.NEXT, blame=Blame.TARGET)
        return verdict


BAD_REQUEST = frozenset({400, 422})


def _target_end(verdict: Verdict | None) -> End:
    """A caller's own 400 proves that the target is alive; a client that left proves nothing."""
    if verdict is None or (verdict.blame is Blame.NOBODY and verdict.status is not None):
        return End.SUCCESS
    return End.FAILURE if verdict.blame is Blame.TARGET else End.IGNORED


def _host_end(verdict: Verdict | None, reached: bool) -> End:
    """Whoever sent a status is up, whatever it said, unless an edge in front said that its host is not."""
    if verdict is not None and verdict.blame is Blame.HOST:
        return End.FAILURE
    return End.SUCCESS if reached else End.IGNORED
