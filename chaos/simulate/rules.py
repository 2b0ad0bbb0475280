"""The safety rules, held at every event: each try is looked at as it goes out, each fact as it is told.

                 S4 S5 S6 S7 S8                       S10
    service -----sent-------> seam <------closed----- service
            --AttemptEnded, BreakerChanged, ...-->  S1 S11, and what the checks above must know

The rules keep books of their own; of the service's insides they read one number, the limit of a provider.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from chaos.simulate.books import ASKED, Books, Case, Trial
from chaos.simulate.world import World
from service.chat import Attempt
from service.events import (
    AttemptEnded,
    BreakerChanged,
    BudgetSpent,
    Crashed,
    Event,
    HealthChanged,
    Hedged,
    LimitLowered,
    RequestEnded,
)
from service.wire.base import WireRequest, WireResponse

LEAVE_S = 0.1  # so soon a provider sees that the client has left
EPSILON_S = 1e-6
FINAL = frozenset({400, 404, 405, 413, 422})  # to send it there again cannot help
KEY_REFUSED = frozenset({401, 402, 403})
SAID_WAIT = frozenset({429, 498, 500, 502, 503, 504, 529})
NUMBER = re.compile(r"\d+(\.\d+)?")


class _Model(msgspec.Struct):
    model: str


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


class Rules:
    """Looks on at the seam, and hears the events. `limit`: how many requests a provider is given at one time."""

    def __init__(
        self, world: World, books: Books, now: Callable[[], float], limit: Callable[[str], int]
    ) -> None:
        self._world = world
        self._books = books
        self._now = now
        self._limit = limit
        self._open: dict[tuple[object, str], Trial] = {}
        self.in_flight = dict.fromkeys((p.name for p in world.providers), 0)
        self.guards: dict[str, Guard] = {}
        self.cool_until_s: dict[tuple[str, str], float] = {}  # by key and target
        self._lowered_s: dict[str, float] = {}

    # at the seam

    def sent(self, request: WireRequest) -> Trial:
        """A try goes out."""
        now_s, origin = self._now(), request.origin
        provider = origin.removeprefix("http://").partition(".")[0]
        target = f"{provider}/{msgspec.json.decode(request.body, type=_Model).model}"
        key = request.headers.get("authorization") or request.headers.get("x-api-key", "")
        trial = Trial(ASKED.get(), target, key, now_s)
        self._books.tell(f"#{trial.number} -> {target}")
        if trial.number is None:
            self._books.probes.append(trial)
        else:
            self._of_its_request(trial, self._books.cases[trial.number], now_s)
        self._past_its_guards(trial, origin, now_s)
        self._within_its_limit(trial, now_s)
        until_s = self.cool_until_s.get((key, target), 0.0)
        if now_s < until_s - EPSILON_S:
            self._books.violated(
                "S7", f"#{trial.number} asks {target} {until_s - now_s:.3f} s before its Retry-After"
            )
        owner = self._owner(trial.number)
        if (owner, target) in self._open:
            self._books.violated("S3", f"#{trial.number} asks {target} twice at one time")
        self._open[owner, target] = trial
        return trial

    def answered(self, trial: Trial, response: WireResponse) -> None:
        """Status and headers are here."""
        trial.head_s, trial.status = self._now(), response.status
        if response.status in SAID_WAIT:
            trial.retry_after_s = _wait_s(response.headers)

    def closed(self, trial: Trial) -> None:
        """Its connection is free, or closed."""
        if trial.closed_s is not None:
            return
        trial.closed_s = now_s = self._now()
        self._books.tell(f"#{trial.number} -| {trial.target}")
        if trial.number is None:
            return
        case = self._books.cases[trial.number]
        kind = trial.attempt.kind if trial.attempt else "?"
        if kind == "probe":
            until_s = max(case.deadline_s, trial.began_s + self._world.tuning.clocks.first_token_s)
            if now_s > until_s + LEAVE_S:
                self._books.violated(
                    "S10", f"#{trial.number}: the probe of {trial.target} was heard out for too long"
                )
        elif case.left_s is not None and now_s > case.left_s + LEAVE_S:
            late_s = now_s - case.left_s
            self._books.violated(
                "S10", f"#{trial.number}: {trial.target} went on {late_s:.3f} s after the client left"
            )

    def _of_its_request(self, trial: Trial, case: Case, now_s: float) -> None:
        case.trials.append(trial)
        if now_s > case.deadline_s + EPSILON_S:
            self._books.violated("S4", f"#{trial.number} asks {trial.target} after its deadline")
        if case.ended is not None:
            self._books.violated("S4", f"#{trial.number} asks {trial.target} after it has ended")
        if case.left_s is not None and now_s > case.left_s + LEAVE_S:
            self._books.violated("S4", f"#{trial.number} asks {trial.target} after its client has left")
        if {(trial.target, ""), (trial.target, trial.key)} & case.refused_by:
            self._books.violated(
                "S8", f"#{trial.number} asks {trial.target} again, which has refused it for good"
            )

    def _past_its_guards(self, trial: Trial, origin: str, now_s: float) -> None:
        for scope in (trial.target, origin):
            guard = self.guards.setdefault(scope, Guard())
            if guard.changed_s == now_s and guard.state == "open":
                continue  # it was let in a moment ago, within this instant
            if guard.state == "half_open" and len(guard.probes) < self._world.tuning.breaker.probes_max:
                guard.probes[trial] = None
            elif guard.state != "closed" and guard.slow and scope == trial.target:
                trial.slow_open = True
            elif guard.state == "half_open":
                self._books.violated("S5", f"#{trial.number} is one probe too many of {scope}")
            elif guard.state != "closed":
                self._books.violated(
                    "S4", f"#{trial.number} asks {trial.target}: the breaker of {scope} is {guard.state}"
                )

    def _within_its_limit(self, trial: Trial, now_s: float) -> None:
        name = trial.provider
        self.in_flight[name] += 1
        limit = self._limit(name)
        if self.in_flight[name] > limit and self._lowered_s.get(name) != now_s:
            self._books.violated(
                "S6", f"{self.in_flight[name]} requests are out at {name}, which is given {limit}"
            )

    # facts

    def heard(self, event: Event) -> None:
        """The subscriber of the service's events."""
        match event:
            case AttemptEnded():
                self._attempt(event)
            case RequestEnded():
                self._request(event)
            case BreakerChanged(scope=scope, before=before, after=after, why=why):
                self._books.tell(f"breaker {scope}: {before} -> {after} ({why})")
                self.guards.setdefault(scope, Guard()).change(after, why, self._now())
                self._breaker(scope, before, after, why)
            case LimitLowered(provider=provider, before=was, after=now):
                self._books.tell(f"limit of {provider}: {was} -> {now}")
                self._lowered_s[provider] = self._now()
                self._books.sometimes["limit lowered"] += 1
            case HealthChanged(target=target, before=before, after=after):
                self._books.tell(f"health of {target}: {after}")
                self._books.sometimes[f"health {before} -> {after}"] += 1
            case BudgetSpent(provider=provider):
                self._books.tell(f"budget of {provider} is spent")
                self._books.sometimes["budget spent"] += 1
            case Hedged(target=target):
                self._books.tell(f"#{ASKED.get()} hedges {target}")
                self._books.sometimes["probe hedged"] += 1
            case Crashed(where=where):
                self._books.violated("S1", f"a defect inside the service: {where}")

    def _breaker(self, scope: str, before: str, after: str, why: str) -> None:
        sometimes, host = self._books.sometimes, "host " if "://" in scope else ""
        sometimes[f"{host}breaker {before} -> {after}"] += 1
        if after == "open" and "slow" in why:
            sometimes["breaker open for slowness"] += 1
        if "did not come back" in why:
            sometimes["probe lost"] += 1
        if after == "closed" and ASKED.get() is None:
            sometimes["breaker closed by an active probe"] += 1

    def _attempt(self, event: AttemptEnded) -> None:
        number, attempt = ASKED.get(), event.attempt
        self._books.tell(f"#{number} <- {attempt.target} {attempt.kind} {attempt.reason}")
        trial = self._open.pop((self._owner(number), attempt.target), None)
        if trial is None:
            self._books.violated(
                "S11", f"#{number}: a try at {attempt.target} is told of that was not made, or twice"
            )
            return
        trial.attempt = attempt
        self.in_flight[trial.provider] -= 1
        for guard in self.guards.values():
            guard.probes.pop(trial, None)
        if attempt.reason in ("cancelled", "outrun"):
            return
        if trial.retry_after_s is not None and trial.head_s is not None:
            place = trial.key, trial.target
            until_s = trial.head_s + trial.retry_after_s
            self.cool_until_s[place] = max(until_s, self.cool_until_s.get(place, 0.0))
            self._books.sometimes["a Retry-After to heed"] += 1
        if number is not None and attempt.status is not None:
            self._refused(self._books.cases[number], trial, attempt)

    def _refused(self, case: Case, trial: Trial, attempt: Attempt) -> None:
        if attempt.status in FINAL:
            case.refused_by.add((trial.target, ""))
        elif attempt.status in KEY_REFUSED:
            case.refused_by.add((trial.target, trial.key))

    def _request(self, event: RequestEnded) -> None:
        number = ASKED.get()
        self._books.tell(f"#{number} ended {event.outcome} {event.code}")
        if number is None:
            self._books.violated("S1", "a request ended that nobody had sent")
            return
        case = self._books.cases[number]
        if case.ended is not None:
            self._books.violated("S1", f"#{number} has ended twice")
        case.ended, case.ended_s = event, self._now()
        self._last_resort(case, event)

    def _last_resort(self, case: Case, event: RequestEnded) -> None:
        """Whoever is open for slowness alone is asked when there is nobody else; and only then."""
        number = case.ask.number
        route = next(route for route in self._world.routes if route.name == case.ask.route)
        last = {attempt.target: attempt for attempt in event.attempts}
        for trial in case.trials:
            if trial.slow_open and trial.attempt is not None:
                others = {a.target for a in event.attempts if a.started_s <= trial.attempt.started_s}
                others |= {other.target for other in case.trials if other.began_s <= trial.began_s}
                if missing := set(route.targets) - others:
                    self._books.violated(
                        "S4", f"#{number} asks {trial.target}, open for slowness, before {missing}"
                    )
                self._books.sometimes["last resort used"] += 1
        if event.code != "all_targets_down":
            return
        for target in route.targets:
            guard = self.guards.get(target, Guard())
            left = target in last and not last[target].tried and last[target].reason == "breaker_open"
            if left and guard.slow and guard.slow_since_s < case.ended_s - event.total_s:
                self._books.violated("S12", f"#{number} is turned away while {target} is only slow")

    def _owner(self, number: int | None) -> object:
        """Who makes a try: a request, or the task of a probe."""
        return asyncio.current_task() if number is None else number

    def left_open(self) -> list[Trial]:
        """Tries whose end was never told."""
        return list(self._open.values())


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """What a reply says in so many words; milliseconds before seconds. Dates and nonsense are left to the service."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if NUMBER.fullmatch(said := headers.get(name, "")):
            return float(said) * unit_s
    return None
