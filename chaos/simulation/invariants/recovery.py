"""Recovery: the service notices that a target is healthy again, with traffic or without.

rule              says
recovery_noticed  a recovered target is called again within 15 s, one whose host had failed within 60 s, of
                  its recovery or of the end of its Retry-After, whichever is later; at the end its breakers
                  are closed
"""

from collections.abc import Iterator, Sequence

from dub5.chaos.simulation.invariants.online import OnlineInvariants
from dub5.chaos.simulation.invariants.record import ObservedAttempt, RunRecord
from dub5.chaos.simulation.world.build import keys_at, url
from dub5.chaos.simulation.world.healthy import is_sound
from dub5.chaos.simulation.world.model import World, WorldProvider
from dub5.service.wire.base import origin_of

SOON_S = 15.0
HOST_SOON_S = 60.0
LIMITED_S = 5.0  # cool-down of a 429 without a Retry-After
KEY_S = 60.0  # cool-down of a refused key


class RecoveryInvariants:
    """Checks one run after its end."""

    def __init__(self, world: World, record: RunRecord, invariants: OnlineInvariants) -> None:
        self._world = world
        self._record = record
        self._invariants = invariants
        self._attempts: dict[str, list[ObservedAttempt]] = {}
        for attempt in record.attempts():
            self._attempts.setdefault(attempt.target, []).append(attempt)

    def check(self, now_s: float) -> None:
        """Check every recovery that lasted long enough to be judged."""
        world = self._world
        if world.drain is not None or not all(tuning.probe.enabled for tuning in world.tunings):
            return
        for provider in world.providers:
            if not is_sound(world, provider):
                continue
            for healthy_s, until_s in _recoveries(world, provider):
                for target in provider.targets:
                    self._check_noticed(provider, target, healthy_s, min(until_s, now_s))
            for target in provider.targets:
                self._check_closed(provider, target, now_s)

    def _check_noticed(self, provider: WorldProvider, target: str, healthy_s: float, until_s: float) -> None:
        """Check that a recovered target was called in time, or that nothing kept it from being called."""
        scopes = (target, origin_of(url(provider.name)))
        if all(self._state(scope, healthy_s) == "closed" for scope in scopes):
            return
        host_failed = self._state(scopes[1], healthy_s) != "closed"
        cooled_s = max(healthy_s, self.cooldown_until_s(provider, target, healthy_s))
        due_s = cooled_s + (HOST_SOON_S if host_failed else SOON_S)
        if due_s > until_s:
            return
        called_s = next(
            (attempt.began_s for attempt in self._attempts.get(target, ()) if attempt.began_s >= healthy_s),
            until_s,
        )
        free_s = next(
            s
            for s in (*self._moves(scopes, healthy_s), called_s)
            if s >= called_s or self._is_free(scopes, s)
        )
        late_s = self._record.ran_s(cooled_s, min(called_s, free_s))
        self._record.measured(
            "called again after its host had failed" if host_failed else "called again", late_s
        )
        self._record.sometimes["recovery noticed"] += 1
        if late_s > due_s - cooled_s:
            self._record.violated(
                "recovery_noticed",
                f"{target} was healthy at {healthy_s:.1f} s, cooled down at {cooled_s:.1f} s, "
                f"and was called {late_s:.1f} s later",
            )

    def _moves(self, scopes: Sequence[str], from_s: float) -> list[float]:
        """Return when one of these breakers changed its state."""
        moves = [at_s for scope in scopes for at_s, _ in self._invariants.breakers.of(scope).history]
        return sorted(at_s for at_s in moves if at_s >= from_s)

    def _is_free(self, scopes: Sequence[str], at_s: float) -> bool:
        """Say whether both breakers are closed: a probe of another target of the host may have closed one."""
        return all(self._state(scope, at_s) == "closed" for scope in scopes)

    def _check_closed(self, provider: WorldProvider, target: str, now_s: float) -> None:
        """Check that every breaker of a healthy target is closed at the end."""
        if (
            self.cooldown_until_s(provider, target, now_s) + HOST_SOON_S > now_s
            or now_s < self._world.heal_s + HOST_SOON_S
        ):
            return
        for scope in (target, origin_of(url(provider.name))):
            if (state := self._state(scope, now_s)) != "closed":
                self._record.violated(
                    "recovery_noticed",
                    f"the breaker of {scope} is still {state} although {target} is healthy",
                )

    def _state(self, scope: str, at_s: float) -> str:
        return self._invariants.breakers.of(scope).state_at(at_s)

    def cooldown_until_s(self, provider: WorldProvider, target: str, at_s: float) -> float:
        """Return until when every key of a target cools down, by the attempts that began before `at_s`."""
        until_s = dict.fromkeys(keys_at(self._world, provider, at_s), 0.0) or {"": 0.0}
        for attempt in self._attempts.get(target, ()):
            if attempt.began_s < at_s and attempt.head_s is not None:
                key = attempt.key.removeprefix("Bearer ")
                if key in until_s:
                    until_s[key] = max(until_s[key], attempt.head_s + _cooldown_s(attempt))
        return min(until_s.values())


def _cooldown_s(attempt: ObservedAttempt) -> float:
    if attempt.status in (401, 402, 403):
        return KEY_S
    if attempt.retry_after_s is not None:
        return attempt.retry_after_s
    return LIMITED_S if attempt.status == 429 else 0.0


def _recoveries(world: World, provider: WorldProvider) -> Iterator[tuple[float, float]]:
    """Yield (from, until) of each time in which a provider was healthy after a fault."""
    windows = [window for window in world.troubles if window.provider == provider.name]
    ends = sorted({window.until_s for window in windows})
    for end_s in ends:
        if not any(window.at_s <= end_s < window.until_s for window in windows):
            yield (
                end_s,
                min((attempt.at_s for attempt in windows if attempt.at_s > end_s), default=float("inf")),
            )
