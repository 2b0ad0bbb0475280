"""Breakers, as their events tell of them: who may be asked, how many probes may be out, who is better than nobody."""

from dataclasses import dataclass, field

from dub5.chaos.simulation.invariants.record import ASKED, Books, Case, Trial
from dub5.chaos.simulation.world.model import World
from dub5.service.events import BreakerChanged, RequestEnded

AGAIN = ("retry", "key", "fresh")  # at a target that opened meanwhile: nobody else could be asked


@dataclass
class Guard:
    """A breaker, as its events tell of it."""

    state: str = "closed"
    slow: bool = False  # it opened last for slowness alone
    changed_s: float = -1.0
    slow_since_s: float = 0.0
    history: list[tuple[float, str]] = field(default_factory=list)
    probes: dict[Trial, None] = field(default_factory=dict)

    def change(self, after: str, why: str, now_s: float) -> None:
        """It moved."""
        slow = after == "open" and "slow" in why
        if slow and not self.slow:
            self.slow_since_s = now_s
        self.slow = slow or (self.slow and after == "half_open")
        self.state, self.changed_s = after, now_s
        self.history.append((now_s, after))
        self.probes.clear()

    def state_at(self, at_s: float) -> str:
        """Where it was then."""
        return next((state for since_s, state in reversed(self.history) if since_s <= at_s), "closed")


class Guards:
    """All of them, by scope: a target's name, or a host's origin."""

    def __init__(self, world: World, books: Books) -> None:
        self._world = world
        self._books = books
        self._guards: dict[str, Guard] = {}

    def of(self, scope: str) -> Guard:
        """One of them; closed as long as nothing was told of it."""
        return self._guards.setdefault(scope, Guard())

    def ended(self, trial: Trial) -> None:
        """A try is over, and the place of a probe is free."""
        for guard in self._guards.values():
            guard.probes.pop(trial, None)

    def passed(self, trial: Trial, origin: str, now_s: float) -> None:
        """A try goes out past these two: S4, S5."""
        for scope in (trial.target, origin):
            guard = self.of(scope)
            if guard.changed_s == now_s and guard.state == "open":
                continue  # it was let in a moment ago, within this instant
            probes_max = self._world.tuning_at(now_s).breaker.probes_max
            if guard.state == "half_open" and len(guard.probes) < probes_max:
                guard.probes[trial] = None
            elif guard.state != "closed" and guard.slow and scope == trial.target:
                trial.slow_open = True
            elif guard.state == "half_open":
                self._books.violated("S5", f"#{trial.number} is one probe too many of {scope}")
            elif guard.state != "closed":
                self._books.violated(
                    "S4", f"#{trial.number} asks {trial.target}: the breaker of {scope} is {guard.state}"
                )

    def changed(self, event: BreakerChanged, now_s: float) -> None:
        """One of them moved."""
        scope, after, why = event.scope, event.after, event.why
        self.of(scope).change(after, why, now_s)
        self._books.moves[after] += 1
        sometimes, host = self._books.sometimes, "host " if "://" in scope else ""
        sometimes[f"{host}breaker {event.before} -> {after}"] += 1
        if after == "open" and "slow" in why:
            sometimes["breaker open for slowness"] += 1
        if "did not come back" in why:
            sometimes["probe lost"] += 1
        if after == "closed" and ASKED.get() is None:
            sometimes["breaker closed by an active probe"] += 1

    def last_resort(self, case: Case, event: RequestEnded) -> None:
        """Whoever is open for slowness alone is asked when there is nobody else; and only then."""
        number = case.ask.number
        route, since_s = self._world.route(case.ask.route), case.lead.began_s
        last = {attempt.target: attempt for attempt in event.attempts}
        for trial in case.trials:
            if trial.slow_open and trial.attempt is not None and trial.attempt.kind not in AGAIN:
                others = {a.target for a in event.attempts if a.started_s <= trial.attempt.started_s}
                others |= {other.target for other in case.trials if other.began_s <= trial.began_s}
                if missing := set(route.targets) - others:
                    self._books.violated(
                        "S4", f"#{number} asks {trial.target}, open for slowness, before {sorted(missing)}"
                    )
                self._books.sometimes["last resort used"] += 1
        if event.code != "all_targets_down":
            return
        for target in route.targets:
            guard = self.of(target)
            left = target in last and not last[target].tried and last[target].reason == "breaker_open"
            if left and guard.slow and guard.slow_since_s < since_s:
                self._books.violated("S12", f"#{number} is turned away while {target} is only slow")
