"""Recovery is noticed: a target that is well again is asked again within 15 s, one whose host was gone within 60 s, of
its recovery or of the end of its Retry-After, whichever is later. With traffic or without."""

from collections.abc import Iterator, Sequence

from dub5.chaos.simulation.invariants.online import Rules
from dub5.chaos.simulation.invariants.record import Books, Trial
from dub5.chaos.simulation.world.build import keys_at, url
from dub5.chaos.simulation.world.healthy import sound
from dub5.chaos.simulation.world.model import Provider, World
from dub5.service.wire.base import origin_of

SOON_S = 15.0
HOST_SOON_S = 60.0
LIMITED_S = 5.0  # a limit that does not say how long it lasts
KEY_S = 60.0  # a key that was refused


class Recovery:
    """Looks at one run, when it is over."""

    def __init__(self, world: World, books: Books, rules: Rules) -> None:
        self._world = world
        self._books = books
        self._rules = rules
        self._trials: dict[str, list[Trial]] = {}
        for trial in books.trials():
            self._trials.setdefault(trial.target, []).append(trial)

    def check(self, now_s: float) -> None:
        """Every recovery of every target that lasted long enough to be judged."""
        world = self._world
        if world.drain is not None or not all(tuning.probe.enabled for tuning in world.tunings):
            return
        for provider in world.providers:
            if not sound(world, provider):
                continue
            for well_s, until_s in _well(world, provider):
                for target in provider.targets:
                    self._noticed(provider, target, well_s, min(until_s, now_s))
            for target in provider.targets:
                self._closed(provider, target, now_s)

    def _noticed(self, provider: Provider, target: str, well_s: float, until_s: float) -> None:
        """Asked in time, or nothing kept it from being asked."""
        scopes = (target, origin_of(url(provider.name)))
        if all(self._state(scope, well_s) == "closed" for scope in scopes):
            return
        host = self._state(scopes[1], well_s) != "closed"
        rested_s = max(well_s, self.rests_until_s(provider, target, well_s))
        due_s = rested_s + (HOST_SOON_S if host else SOON_S)
        if due_s > until_s:
            return
        asked_s = next((t.began_s for t in self._trials.get(target, ()) if t.began_s >= well_s), until_s)
        free_s = next(
            s for s in (*self._moves(scopes, well_s), asked_s) if s >= asked_s or self._free(scopes, s)
        )
        late_s = min(asked_s, free_s) - rested_s
        self._books.measured("asked again, host gone" if host else "asked again", late_s)
        self._books.sometimes["recovery noticed"] += 1
        if min(asked_s, free_s) > due_s:
            self._books.violated(
                "recovery",
                f"{target} was well at {well_s:.1f} s, free at {rested_s:.1f} s, asked {late_s:.1f} s later",
            )

    def _moves(self, scopes: Sequence[str], from_s: float) -> list[float]:
        """When one of these breakers moved."""
        moves = [at_s for scope in scopes for at_s, _ in self._rules.guards.of(scope).history]
        return sorted(at_s for at_s in moves if at_s >= from_s)

    def _free(self, scopes: Sequence[str], at_s: float) -> bool:
        """Whether nothing keeps it from being asked: a probe of another target of its host may have freed it."""
        return all(self._state(scope, at_s) == "closed" for scope in scopes)

    def _closed(self, provider: Provider, target: str, now_s: float) -> None:
        """At the end of the rest every breaker of a target that is well is closed."""
        if (
            self.rests_until_s(provider, target, now_s) + HOST_SOON_S > now_s
            or now_s < self._world.heal_s + HOST_SOON_S
        ):
            return
        for scope in (target, origin_of(url(provider.name))):
            if (state := self._state(scope, now_s)) != "closed":
                self._books.violated(
                    "recovery", f"the breaker of {scope} is still {state}, though all is well"
                )

    def _state(self, scope: str, at_s: float) -> str:
        return self._rules.guards.of(scope).state_at(at_s)

    def rests_until_s(self, provider: Provider, target: str, at_s: float) -> float:
        """Until when every key was told to wait, by tries that began before."""
        until_s = dict.fromkeys(keys_at(self._world, provider, at_s), 0.0) or {"": 0.0}
        for trial in self._trials.get(target, ()):
            if trial.began_s < at_s and trial.head_s is not None:
                key = trial.key.removeprefix("Bearer ")
                if key in until_s:
                    until_s[key] = max(until_s[key], trial.head_s + _rest_s(trial))
        return min(until_s.values())


def _rest_s(trial: Trial) -> float:
    if trial.status in (401, 402, 403):
        return KEY_S
    if trial.retry_after_s is not None:
        return trial.retry_after_s
    return LIMITED_S if trial.status == 429 else 0.0


def _well(world: World, provider: Provider) -> Iterator[tuple[float, float]]:
    """From when to when it was well again after a trouble."""
    troubles = [trouble for trouble in world.troubles if trouble.provider == provider.name]
    ends = sorted({trouble.until_s for trouble in troubles})
    for end_s in ends:
        if not any(trouble.at_s <= end_s < trouble.until_s for trouble in troubles):
            yield end_s, min((t.at_s for t in troubles if t.at_s > end_s), default=float("inf"))
