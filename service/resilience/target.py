"""One target's standing: its guards, its keys, and what it shares with others; why it may not be asked.

fleet.py finds the entry and asks; leave.py tells it how a try went.
"""

from collections.abc import Collection
from dataclasses import dataclass

from dub5.service.config.options import BudgetOptions, LimiterOptions
from dub5.service.config.settings import Secret
from dub5.service.events import Events, HealthChanged
from dub5.service.model import Target
from dub5.service.resilience.bad_request_burst import Burst
from dub5.service.resilience.circuit_breaker import Breaker, State
from dub5.service.resilience.classify import Rest
from dub5.service.resilience.concurrency_limit import Limiter
from dub5.service.resilience.ewma import PeakEwma
from dub5.service.resilience.health import Health, Record
from dub5.service.resilience.queue_delay import Backlog
from dub5.service.resilience.retry_budget import Budget


@dataclass(frozen=True, slots=True)
class Barred:
    """Why a target is passed over. `soft`: it is still better than nobody."""

    reason: str
    soft: bool = False


NO_ROOM = Barred("provider_full")
FULL = NO_ROOM.reason


class Provider:
    """What all targets of one provider share."""

    def __init__(self, name: str, origin: str, limiter: LimiterOptions, budget: BudgetOptions) -> None:
        self.name = name
        self.origin = origin
        self.limiter = Limiter(limiter)
        self.budget = Budget(budget)


class Key:
    """One of a provider's keys, as one target takes it."""

    __slots__ = ("cool_until_s", "rest", "secret")

    def __init__(self, secret: Secret | None) -> None:
        self.secret = secret
        self.cool_until_s = 0.0
        self.rest = Rest.LIMITED  # why it cools

    def reveal(self) -> str | None:
        """What is sent."""
        return self.secret.reveal() if self.secret else None


class Entry:
    """One target's standing."""

    def __init__(
        self,
        target: Target,
        provider: Provider,
        host: Breaker,
        breaker: Breaker,
        record: Record,
        events: Events,
    ) -> None:
        self.target = target
        self.provider = provider
        self.host = host
        self.keys: tuple[Key, ...] = ()
        self.burst = Burst()
        self.breaker = breaker
        self.record = record
        self.events = events
        self.first_token = PeakEwma()
        self.streams, self.whole = Backlog(), Backlog()
        self.told = Health.HEALTHY
        self.in_flight = 0
        self.asked_s = 0.0  # when somebody was let in last,
        self.asked_at = 0  # and how many had been by then, here or elsewhere

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
        self.keys = tuple(known.get(secret.reveal()) or Key(secret) for secret in secrets) or (
            known.get(None) or Key(None),
        )

    def barred(self, now_s: float, *, last_resort: bool) -> Barred | None:
        """Why nobody may be sent there now, its keys apart."""
        steady = self.breaker.is_steady(now_s) and self.host.is_steady(now_s)
        if not steady and (barred := self._troubled(now_s, last_resort)):
            return barred
        return None if self.provider.limiter.has_room(now_s) else NO_ROOM

    def _troubled(self, now_s: float, last_resort: bool) -> Barred | None:
        """What its breakers say."""
        breaker, host = self.breaker, self.host
        if breaker.state is State.ISOLATED:
            return Barred("isolated")
        if not host.may_enter(now_s):
            return Barred("host_breaker_open")
        if not breaker.may_enter(now_s) and not (breaker.slow and last_resort):
            return Barred("breaker_open", soft=breaker.slow)
        if not (last_resort or (breaker.ramped(now_s) and host.ramped(now_s))):
            return Barred("slow_start", soft=True)
        return None

    def wait_s(self, now_s: float) -> float:
        """How long nobody may ask it, as far as that can be known."""
        cooling_s = self.cool_until_s - now_s
        return max(0.0, cooling_s, _open_s(self.breaker, now_s), _open_s(self.host, now_s))

    @property
    def due_since_s(self) -> float:
        """Since when a probe of it would have been let in, or asked last."""
        return max(self.asked_s, self.breaker.opened_until_s, self.host.opened_until_s, self.cool_until_s)

    def probe_due(self, now_s: float) -> bool:
        """Whether the next call would find out if it is back."""
        breaker, host = self.breaker, self.host
        if breaker.state is State.CLOSED and host.state is State.CLOSED:
            return False
        return self.cool_until_s <= now_s and breaker.may_enter(now_s) and host.may_enter(now_s)

    def health(self, now_s: float) -> Health:
        """How well it does; a change is told."""
        states = (self.breaker.state, self.host.state)
        if State.OPEN in states or State.ISOLATED in states or self.cool_until_s > now_s:
            health = Health.UNHEALTHY
        elif State.HALF_OPEN in states or self.record.degraded(now_s):
            health = Health.DEGRADED
        else:
            health = Health.HEALTHY
        if health is not self.told:
            before, self.told = self.told, health
            self.events.emit(HealthChanged(self.target.name, before, health))
        return health


def _open_s(breaker: Breaker, now_s: float) -> float:
    return max(0.0, breaker.opened_until_s - now_s) if breaker.state is State.OPEN else 0.0
