"""State of one target: its circuit breakers, keys, error rate and detectors, and why it may not be called.

fleet.py finds the state and reads it; permit.py reports how an attempt ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dub5.service.config.options import BudgetOptions, LimiterOptions
from dub5.service.events import Events, HealthChanged
from dub5.service.model import Caller, Target, Usage
from dub5.service.resilience.caller_failures import CallerFailures
from dub5.service.resilience.circuit_breaker import CLOSED, Breaker, BreakerState
from dub5.service.resilience.classify import CooldownReason
from dub5.service.resilience.concurrency_limit import Limiter
from dub5.service.resilience.ewma import PeakEwma
from dub5.service.resilience.health import ErrorRateWindow, Health
from dub5.service.resilience.provider_keys import KeyState, ProviderKey, RestCause
from dub5.service.resilience.queue_delay import QueueDelayDetector
from dub5.service.resilience.refusals import Refusals
from dub5.service.resilience.retry_budget import RetryBudget


@dataclass(frozen=True, slots=True)
class NotPermitted:
    """Why a target may not be called now. `usable_as_last_resort`: it may, if no other target is left."""

    reason: str
    usable_as_last_resort: bool = False


NO_ROOM = NotPermitted("provider_full")
BREAKER_OPEN, CALLER_BREAKER_OPEN = NotPermitted("breaker_open"), NotPermitted("caller_breaker_open")
NEEDS_WEIGHT = 0.2  # of the newest answer
MUTE_MIN = 10  # attempts, each of which had at least an even chance to be answered by now
PROVIDER_FULL = NO_ROOM.reason
HEALTHY = Health.HEALTHY  # it takes twice as long to read a member from its class


class ProviderState:
    """The state that all targets of one provider share."""

    def __init__(self, name: str, origin: str, limiter: LimiterOptions, budget: BudgetOptions) -> None:
        self.name = name
        self.origin = origin
        self.limiter = Limiter(limiter)
        self.budget = RetryBudget(budget)


class TargetState:
    """The state of one target."""

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
        self.refusals = Refusals()
        self.breaker = breaker
        self.error_rate = error_rate
        self.caller_failures: CallerFailures  # set by the fleet; a reload forgets them
        self.events = events
        self.first_token = PeakEwma()
        self.stream_delay, self.whole_delay = QueueDelayDetector(), QueueDelayDetector()
        self.reported_health = HEALTHY
        # What a request needs of each limit; of tokens, as the last answers took them.
        self.usual_needs = {"requests": 1.0, "tokens": 1.0, "input_tokens": 1.0, "output_tokens": 1.0}
        self.in_flight = 0
        self.waiting = 0  # attempts for whose answer it is not too late yet
        # When each attempt began that has waited for longer than usual, and its caller.
        self.overdue: list[tuple[float, str]] = []
        self.newest_answered_s = 0.0  # when the newest attempt began that was answered
        self._mute_since_s = -1.0
        self._mute_to = ""  # the only caller that it does not answer; "": it answers nobody
        self.answered_s = 0.0  # when an answer came, or the first content of one
        self.last_asked_s = 0.0  # when it was called last,
        self.count_when_asked = 0  # and how many first attempts all targets had received by then

    @property
    def cooldown_until_s(self) -> float:
        """The time from which one of its keys may be used."""
        if len(self.keys) == 1:
            return self.keys[0].cooldown_until_s
        return min(key.cooldown_until_s for key in self.keys)

    @property
    def is_closed(self) -> bool:
        """Whether its own breaker and that of its host are closed."""
        return self.breaker.state is CLOSED and self.host_breaker.state is CLOSED

    def note_recovery(self, now_s: float) -> None:
        """Begin anew if the breakers, which were not both closed, are closed now."""
        if self.is_closed:
            self.error_rate.clear()
            self.caller_failures.note_recovery(now_s)

    def count_withheld(self, now_s: float) -> None:
        """Count the failures that have counted against their callers alone so far."""
        for _ in range(self.breaker.count_withheld(now_s)):
            self.error_rate.add(True, now_s)

    def usable_from_s(self) -> float:
        """Return the time from which one of its keys may be used as the last resort."""
        return min(key.usable_from_s() for key in self.keys)

    def set_keys(self, states: Sequence[KeyState]) -> None:
        """Use these keys from now on. Keys that stay keep their cool-down, except one that is no limit's."""
        for key in self.keys:
            if key.cooldown_reason is CooldownReason.WAITING:
                key.lift(RestCause.CALL)
        known = {key.reveal(): key for key in self.keys}
        keys = [known.get(state.secret.reveal() if state.secret else None) for state in states]
        self.keys = tuple(key or ProviderKey(state) for key, state in zip(keys, states, strict=True))
        for key, state in zip(self.keys, states, strict=True):
            key.state = state
            state.at_targets.append(key)

    def not_permitted(self, now_s: float, *, last_resort: bool) -> NotPermitted | None:
        """Return why the target may not be called now, or None if it may. Its keys are not considered."""
        steady = now_s >= self.breaker.steady_from_s and now_s >= self.host_breaker.steady_from_s
        if not steady and (not_permitted := self._refused_by_breakers(now_s, last_resort)):
            return not_permitted
        return None if self.provider.limiter.has_room(now_s) else NO_ROOM

    def not_permitted_to(self, caller: Caller, now_s: float) -> NotPermitted | None:
        """Return why this caller may not call the target, though others may."""
        breaker, failures = self.breaker, self.caller_failures
        if not failures.would_permit(caller, now_s):
            return CALLER_BREAKER_OPEN
        is_probe = breaker.state is not CLOSED and not breaker.slow
        if is_probe and not failures.may_probe(caller, breaker.opened_until_s, now_s):
            return BREAKER_OPEN
        return None

    def _refused_by_breakers(self, now_s: float, last_resort: bool) -> NotPermitted | None:
        """Return why the breakers do not permit a call, or None if they do."""
        breaker, host_breaker = self.breaker, self.host_breaker
        if breaker.state is BreakerState.ISOLATED:
            return NotPermitted("isolated")
        if not host_breaker.would_permit(now_s):
            return NotPermitted("host_breaker_open")
        if not breaker.would_permit(now_s) and not (breaker.slow and last_resort):
            return NotPermitted(BREAKER_OPEN.reason, usable_as_last_resort=breaker.slow)
        if not (last_resort or (breaker.passes_slow_start(now_s) and host_breaker.passes_slow_start(now_s))):
            return NotPermitted("slow_start", usable_as_last_resort=True)
        return None

    def note_usage(self, usage: Usage) -> None:
        """Record the tokens that an answer took."""
        needs, prompt, completion = self.usual_needs, usage.prompt_tokens, usage.completion_tokens
        needs["input_tokens"] += NEEDS_WEIGHT * (prompt - needs["input_tokens"])
        needs["output_tokens"] += NEEDS_WEIGHT * (completion - needs["output_tokens"])
        needs["tokens"] = needs["input_tokens"] + needs["output_tokens"]

    def note_answer(self, began_s: float, now_s: float) -> None:
        """Record that an attempt that began then is answered, or begins to be."""
        self.answered_s = now_s
        if began_s > self.newest_answered_s:
            self.newest_answered_s = began_s

    def is_mute_to(self, caller: Caller, now_s: float, interval_s: float) -> bool:
        """Return whether it has stopped to answer this caller, though many attempts are overdue.

        The caller with the most overdue attempts may be the only one that it does not answer, so those do
        not count for other callers.
        """
        if self._mute_since_s > self.newest_answered_s and self._mute_to in ("", caller.key):
            return True
        if len(self.overdue) < MUTE_MIN:
            return False
        busiest = self.caller_failures.busiest([key for _, key in self.overdue])
        if self._answers_none_of([at_s for at_s, key in self.overdue if key != busiest], now_s, interval_s):
            self._mute_to = ""
        elif busiest == caller.key and self._answers_none_of(
            [at_s for at_s, _ in self.overdue], now_s, interval_s
        ):
            self._mute_to = busiest
        else:
            return False
        self._mute_since_s = max(self.overdue)[0]
        return True

    def _answers_none_of(self, began_s: Sequence[float], now_s: float, interval_s: float) -> bool:
        """Return whether it has answered nobody for `interval_s`, or none that began after the last answered.

        `began_s`: when each of the overdue attempts began.
        """
        if len(began_s) < MUTE_MIN:
            return False
        newer = sum(at_s > self.newest_answered_s for at_s in began_s)
        return newer >= MUTE_MIN or now_s >= self.answered_s + interval_s

    @property
    def is_mute_to_all(self) -> bool:
        """Whether `is_mute_to` was true last for all callers."""
        return not self._mute_to

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until the target may be called again, as far as that is known."""
        cooling_s = self.cooldown_until_s - now_s
        return max(0.0, cooling_s, _open_s(self.breaker, now_s), _open_s(self.host_breaker, now_s))

    @property
    def due_since_s(self) -> float:
        """The time since which a probe would have been permitted, but none was made."""
        return max(
            self.last_asked_s,
            self.breaker.opened_until_s,
            self.host_breaker.opened_until_s,
            self.cooldown_until_s,
        )

    def probe_due(self, now_s: float) -> bool:
        """Return whether the next call would be a probe."""
        return (
            not self.is_closed
            and self.cooldown_until_s <= now_s
            and self.breaker.would_permit(now_s)
            and self.host_breaker.would_permit(now_s)
        )

    def health(self, now_s: float) -> Health:
        """Return the health of the target. Emits HealthChanged where it has changed."""
        states = () if self.is_closed else (self.breaker.state, self.host_breaker.state)
        if self.cooldown_until_s > now_s or BreakerState.OPEN in states or BreakerState.ISOLATED in states:
            health = Health.UNHEALTHY
        elif states or self.error_rate.degraded(now_s):
            health = Health.DEGRADED
        else:
            health = HEALTHY
        if health is not self.reported_health:
            before, self.reported_health = self.reported_health, health
            self.events.emit(HealthChanged(self.target.name, before, health))
        return health


def _open_s(breaker: Breaker, now_s: float) -> float:
    return max(0.0, breaker.opened_until_s - now_s) if breaker.state is BreakerState.OPEN else 0.0
