"""One target's state: its guards, its keys, and what it shares with others; why it may not be called.

fleet.py finds the state and asks it; permit.py reports how an attempt went.
"""

from collections.abc import Collection
from dataclasses import dataclass

from dub5.service.config.options import BudgetOptions, LimiterOptions
from dub5.service.config.settings import Secret
from dub5.service.events import Events, HealthChanged
from dub5.service.model import Target
from dub5.service.resilience.bad_request_burst import BadRequestBurst
from dub5.service.resilience.circuit_breaker import Breaker, BreakerState
from dub5.service.resilience.classify import CooldownReason
from dub5.service.resilience.concurrency_limit import Limiter
from dub5.service.resilience.ewma import PeakEwma
from dub5.service.resilience.health import ErrorRateWindow, Health
from dub5.service.resilience.queue_delay import QueueDelayDetector
from dub5.service.resilience.retry_budget import RetryBudget


@dataclass(frozen=True, slots=True)
class NotPermitted:
    """Why a target is passed over. `usable_as_last_resort`: it is still better than nobody."""

    reason: str
    usable_as_last_resort: bool = False


NO_ROOM = NotPermitted("provider_full")
PROVIDER_FULL = NO_ROOM.reason


class ProviderState:
    """What all targets of one provider share."""

    def __init__(self, name: str, origin: str, limiter: LimiterOptions, budget: BudgetOptions) -> None:
        self.name = name
        self.origin = origin
        self.limiter = Limiter(limiter)
        self.budget = RetryBudget(budget)


class ProviderKey:
    """One of a provider's keys, as one target takes it."""

    __slots__ = ("cooldown_reason", "cooldown_until_s", "secret")

    def __init__(self, secret: Secret | None) -> None:
        self.secret = secret
        self.cooldown_until_s = 0.0
        self.cooldown_reason = CooldownReason.LIMITED  # why it cools

    def reveal(self) -> str | None:
        """What is sent."""
        return self.secret.reveal() if self.secret else None


class TargetState:
    """One target's state."""

    def __init__(
        self,
        target: Target,
        provider: ProviderState,
        host_breaker: Breaker,
        breaker: Breaker,
        error_rate: ErrorRateWindow,
        events: Events,
    ) -> None:
        self.target = target
        self.provider = provider
        self.host_breaker = host_breaker
        self.keys: tuple[ProviderKey, ...] = ()
        self.bad_request_burst = BadRequestBurst()
        self.breaker = breaker
        self.error_rate = error_rate
        self.events = events
        self.first_token = PeakEwma()
        self.stream_delay, self.whole_delay = QueueDelayDetector(), QueueDelayDetector()
        self.reported_health = Health.HEALTHY
        self.in_flight = 0
        self.last_asked_s = 0.0  # when somebody was let in last,
        self.count_when_asked = 0  # and how many had been by then, here or elsewhere

    @property
    def cooldown_until_s(self) -> float:
        """When the first of its keys may be used."""
        if len(self.keys) == 1:
            return self.keys[0].cooldown_until_s
        return min(key.cooldown_until_s for key in self.keys)

    @property
    def is_closed(self) -> bool:
        """Whether no breaker has anything against it."""
        return self.breaker.state is BreakerState.CLOSED and self.host_breaker.state is BreakerState.CLOSED

    def note_recovery(self) -> None:
        """It was not closed. If it is now, what failed before is no news any more."""
        if self.is_closed:
            self.error_rate.clear()

    def set_keys(self, secrets: Collection[Secret]) -> None:
        """These keys from now on; what is known of those that stay is kept."""
        known = {key.reveal(): key for key in self.keys}
        self.keys = tuple(known.get(secret.reveal()) or ProviderKey(secret) for secret in secrets) or (
            known.get(None) or ProviderKey(None),
        )

    def not_permitted(self, now_s: float, *, last_resort: bool) -> NotPermitted | None:
        """Why nobody may be sent there now, its keys apart."""
        steady = self.breaker.is_steady(now_s) and self.host_breaker.is_steady(now_s)
        if not steady and (not_permitted := self._refused_by_breakers(now_s, last_resort)):
            return not_permitted
        return None if self.provider.limiter.has_room(now_s) else NO_ROOM

    def _refused_by_breakers(self, now_s: float, last_resort: bool) -> NotPermitted | None:
        """What its breakers say."""
        breaker, host_breaker = self.breaker, self.host_breaker
        if breaker.state is BreakerState.ISOLATED:
            return NotPermitted("isolated")
        if not host_breaker.would_permit(now_s):
            return NotPermitted("host_breaker_open")
        if not breaker.would_permit(now_s) and not (breaker.slow and last_resort):
            return NotPermitted("breaker_open", usable_as_last_resort=breaker.slow)
        if not (last_resort or (breaker.passes_slow_start(now_s) and host_breaker.passes_slow_start(now_s))):
            return NotPermitted("slow_start", usable_as_last_resort=True)
        return None

    def wait_s(self, now_s: float) -> float:
        """How long nobody may ask it, as far as that can be known."""
        cooling_s = self.cooldown_until_s - now_s
        return max(0.0, cooling_s, _open_s(self.breaker, now_s), _open_s(self.host_breaker, now_s))

    @property
    def due_since_s(self) -> float:
        """Since when a probe of it would have been let in, or asked last."""
        return max(
            self.last_asked_s,
            self.breaker.opened_until_s,
            self.host_breaker.opened_until_s,
            self.cooldown_until_s,
        )

    def probe_due(self, now_s: float) -> bool:
        """Whether the next call would find out if it is back."""
        breaker, host_breaker = self.breaker, self.host_breaker
        if breaker.state is BreakerState.CLOSED and host_breaker.state is BreakerState.CLOSED:
            return False
        return (
            self.cooldown_until_s <= now_s
            and breaker.would_permit(now_s)
            and host_breaker.would_permit(now_s)
        )

    def health(self, now_s: float) -> Health:
        """How well it does; a change is told."""
        states = (self.breaker.state, self.host_breaker.state)
        if BreakerState.OPEN in states or BreakerState.ISOLATED in states or self.cooldown_until_s > now_s:
            health = Health.UNHEALTHY
        elif BreakerState.HALF_OPEN in states or self.error_rate.degraded(now_s):
            health = Health.DEGRADED
        else:
            health = Health.HEALTHY
        if health is not self.reported_health:
            before, self.reported_health = self.reported_health, health
            self.events.emit(HealthChanged(self.target.name, before, health))
        return health


def _open_s(breaker: Breaker, now_s: float) -> float:
    return max(0.0, breaker.opened_until_s - now_s) if breaker.state is BreakerState.OPEN else 0.0
