"""Recovery is noticed: a target that is well again is asked again within 15 s, one whose host was gone within 60 s, of
its recovery or of the end of its Retry-After, whichever is later. With traffic or without."""

from collections.abc import Iterator, Sequence

from dub5.chaos.simulation.invariants.online import OnlineInvariants
from dub5.chaos.simulation.invariants.record import ObservedAttempt, RunRecord
from dub5.chaos.simulation.world.build import keys_at, url
from dub5.chaos.simulation.world.healthy import is_sound
from dub5.chaos.simulation.world.model import World, WorldProvider
from dub5.service.wire.base import origin_of

SOON_S = 15.0
HOST_SOON_S = 60.0
LIMITED_S = 5.0  # a limit that does not say how long it lasts
KEY_S = 60.0  # a key that was refused


class RecoveryInvariants:
    """Looks at one run, when it is over."""

    def __init__(self, world: World, record: RunRecord, invariants: OnlineInvariants) -> None:
        self._world = world
        self._record = record
        self._invariants = invariants
        self._attempts: dict[str, list[ObservedAttempt]] = {}
        for attempt in record.attempts():
            self._attempts.setdefault(attempt.target, []).append(attempt)

    def check(self, now_s: float) -> None:
        """Every recovery of every target that lasted long enough to be judged."""
        world = self._world
        if world.drain is not None or not all(tuning.probe.enabled for tuning in world.tunings):
            return
        for provider in world.providers:
            if not is_sound(world, provider):
                continue
            for well_s, until_s in _recoveries(world, provider):
                for target in provider.targets:
                    self._check_noticed(provider, target, well_s, min(until_s, now_s))
            for target in provider.targets:
                self._check_closed(provider, target, now_s)

    def _check_noticed(self, provider: WorldProvider, target: str, well_s: float, until_s: float) -> None:
        """Asked in time, or nothing kept it from being asked."""
        scopes = (target, origin_of(url(provider.name)))
        if all(self._state(scope, well_s) == "closed" for scope in scopes):
            return
        host = self._state(scopes[1], well_s) != "closed"
        rested_s = max(well_s, self.rests_until_s(provider, target, well_s))
        due_s = rested_s + (HOST_SOON_S if host else SOON_S)
        if due_s > until_s:
            return
        asked_s = next((t.began_s for t in self._attempts.get(target, ()) if t.began_s >= well_s), until_s)
        free_s = next(
            s for s in (*self._moves(scopes, well_s), asked_s) if s >= asked_s or self._is_free(scopes, s)
        )
        late_s = min(asked_s, free_s) - rested_s
        self._record.measured("asked again, host gone" if host else "asked again", late_s)
        self._record.sometimes["recovery noticed"] += 1
        if min(asked_s, free_s) > due_s:
            self._record.violated(
                "recovery_noticed",
                f"{target} was well at {well_s:.1f} s, free at {rested_s:.1f} s, asked {late_s:.1f} s later",
            )

    def _moves(self, scopes: Sequence[str], from_s: float) -> list[float]:
        """When one of these breakers moved."""
        moves = [at_s for scope in scopes for at_s, _ in self._invariants.breakers.of(scope).history]
        return sorted(at_s for at_s in moves if at_s >= from_s)

    def _is_free(self, scopes: Sequence[str], at_s: float) -> bool:
        """Whether nothing keeps it from being asked: a probe of another target of its host may have freed it."""
        return all(self._state(scope, at_s) == "closed" for scope in scopes)

    def _check_closed(self, provider: WorldProvider, target: str, now_s: float) -> None:
        """At the end of the rest every breaker of a target that is well is closed."""
        if (
            self.rests_until_s(provider, target, now_s) + HOST_SOON_S > now_s
            or now_s < self._world.heal_s + HOST_SOON_S
        ):
            return
        for scope in (target, origin_of(url(provider.name))):
            if (state := self._state(scope, now_s)) != "closed":
                self._record.violated(
                    "recovery_noticed", f"the breaker of {scope} is still {state}, though all is well"
                )

    def _state(self, scope: str, at_s: float) -> str:
        return self._invariants.breakers.of(scope).state_at(at_s)

    def rests_until_s(self, provider: WorldProvider, target: str, at_s: float) -> float:
        """Until when every key was told to wait, by tries that began before."""
        until_s = dict.fromkeys(keys_at(self._world, provider, at_s), 0.0) or {"": 0.0}
        for attempt in self._attempts.get(target, ()):
            if attempt.began_s < at_s and attempt.head_s is not None:
                key = attempt.key.removeprefix("Bearer ")
                if key in until_s:
                    until_s[key] = max(until_s[key], attempt.head_s + _rest_s(attempt))
        return min(until_s.values())


def _rest_s(attempt: ObservedAttempt) -> float:
    if attempt.status in (401, 402, 403):
        return KEY_S
    if attempt.retry_after_s is not None:
        return attempt.retry_after_s
    return LIMITED_S if attempt.status == 429 else 0.0


def _recoveries(world: World, provider: WorldProvider) -> Iterator[tuple[float, float]]:
    """From when to when it was well again after a trouble."""
    troubles = [window for window in world.troubles if window.provider == provider.name]
    ends = sorted({window.until_s for window in troubles})
    for end_s in ends:
        if not any(window.at_s <= end_s < window.until_s for window in troubles):
            yield end_s, min((t.at_s for t in troubles if t.at_s > end_s), default=float("inf"))
