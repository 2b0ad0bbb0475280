"""The safety rules, held at every event: each try is looked at as it goes out, each fact as it is told.

                 S4 S5 S6 S7 S8                       S10
    service -----sent-------> seam <------closed----- service
            --AttemptEnded, BreakerChanged, ...-->  S1 S11, and what the checks above must know

The rules keep books of their own; of the service's insides they read one number, the limit of a provider.
"""

import asyncio
from collections.abc import Callable

import msgspec

from dub5.chaos.simulation.invariants.breakers import Guards
from dub5.chaos.simulation.invariants.cache_and_sharing import Sharing
from dub5.chaos.simulation.invariants.record import ASKED, HEARD_OUT, Books, Case, Trial, Wait
from dub5.chaos.simulation.invariants.trail_headers import goes_on, has_answer, wait_s
from dub5.chaos.simulation.world.build import keys
from dub5.chaos.simulation.world.model import Reload, World
from dub5.service.events import (
    AttemptEnded,
    BreakerChanged,
    BudgetSpent,
    CacheLooked,
    Crashed,
    Event,
    HealthChanged,
    Hedged,
    LimitLowered,
    QueueLeft,
    RequestEnded,
    SettingsReloaded,
    Shared,
)
from dub5.service.failover.final_error import UNSUPPORTED
from dub5.service.model import Attempt
from dub5.service.wire.base import WireRequest, WireResponse

LEAVE_S = 0.1  # so soon a provider sees that the client has left
EPSILON_S = 1e-6
FINAL = frozenset({400, 404, 405, 413, 422})  # to send it there again cannot help
KEY_REFUSED = frozenset({401, 402, 403})
SAID_WAIT = frozenset({429, 498, 500, 502, 503, 504, 529})


class _Model(msgspec.Struct):
    model: str


_MODEL = msgspec.json.Decoder(_Model)


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
        self.guards = Guards(world, books)
        self.cool_until_s: dict[tuple[str, str], float] = {}  # by key and target
        self._lowered_s: dict[str, float] = {}
        self._sharing = Sharing(world, books, now)

    # at the seam

    def sent(self, request: WireRequest) -> Trial:
        """A try goes out."""
        now_s, origin = self._now(), request.origin
        provider = origin.removeprefix("http://").partition(".")[0]
        target = f"{provider}/{_MODEL.decode(request.body).model}"
        key = request.headers.get("authorization") or request.headers.get("x-api-key", "")
        trial = Trial(ASKED.get(), target, key, now_s)
        self._books.tell(f"#{trial.number} -> {target}")
        if trial.number is None:
            self._books.probes.append(trial)
        else:
            self._of_its_request(trial, self._books.cases[trial.number], now_s)
        self.guards.passed(trial, origin, now_s)
        self._within_its_limit(trial, now_s)
        until_s = self.cool_until_s.get((key, target), 0.0)
        if now_s < until_s - EPSILON_S:
            self._books.violated(
                "S7", f"#{trial.number} asks {target} {until_s - now_s:.3f} s before its Retry-After"
            )
        if self._world.reload is not None:
            self._by_its_settings(trial, self._world.reload, now_s)
        owner = self._owner(trial.number)
        if (owner, target) in self._open:
            self._books.violated("S3", f"#{trial.number} asks {target} twice at one time")
        self._open[owner, target] = trial
        return trial

    def _by_its_settings(self, trial: Trial, reload: Reload, now_s: float) -> None:
        """Whoever comes after the settings have changed is asked for with the new keys."""
        since_s = now_s if trial.number is None else self._books.cases[trial.number].began_s
        if trial.provider not in reload.rotated or since_s <= reload.at_s:
            return
        self._books.sometimes["asked with a new key"] += 1
        if trial.key.removeprefix("Bearer ") not in keys(self._world.provider(trial.provider), rotated=True):
            self._books.violated("S17", f"#{trial.number} asks {trial.target} with a key that was taken away")

    def answered(self, trial: Trial, response: WireResponse) -> None:
        """Status and headers are here."""
        trial.head_s, trial.status = self._now(), response.status
        if response.status in SAID_WAIT:
            trial.retry_after_s = wait_s(response.headers)

    def closed(self, trial: Trial) -> None:
        """Its connection is free, or closed."""
        if trial.closed_s is not None:
            return
        trial.closed_s = now_s = self._now()
        self._books.tell(f"#{trial.number} -| {trial.target}")
        if trial.number is None:
            return
        case = self._books.cases[trial.number]
        clocks = self._world.tunings[case.generation].clocks
        gone_s = case.gone_s()
        if case.hedged.get(trial.target) in HEARD_OUT and has_answer(case, trial):
            until_s = max(
                case.until_s(clocks.total_s), trial.began_s + clocks.connect_s + clocks.first_token_s
            )
            if now_s > until_s + LEAVE_S:
                self._books.violated("S10", f"#{trial.number}: {trial.target} was heard out for too long")
        elif gone_s is not None and now_s > gone_s + LEAVE_S:
            self._books.violated(
                "S10", f"#{trial.number}: {trial.target} went on {now_s - gone_s:.3f} s after the client left"
            )

    def _of_its_request(self, trial: Trial, case: Case, now_s: float) -> None:
        self._sharing.asks(case, now_s)
        case.trials.append(trial)
        if now_s > case.until_s(self._world.tunings[case.generation].clocks.total_s) + EPSILON_S:
            self._books.violated("S4", f"#{trial.number} asks {trial.target} after its deadline")
        gone_s = case.gone_s()
        if case.over() and not goes_on(case, trial):
            self._books.violated("S4", f"#{trial.number} asks {trial.target} after it has ended")
        elif not case.over() and gone_s is not None and now_s > gone_s + LEAVE_S:
            self._books.violated("S4", f"#{trial.number} asks {trial.target} after its client has left")
        if case.waits and case.waits[-1].how not in ("served", "left"):
            self._books.violated("S13", f"#{trial.number} asks {trial.target}, and was {case.waits[-1].how}")
        if {(trial.target, ""), (trial.target, trial.key)} & case.refused_by:
            self._books.violated(
                "S8", f"#{trial.number} asks {trial.target} again, which has refused it for good"
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
            case CacheLooked(result=result):
                self._sharing.looked(self._of(ASKED.get()), result)
            case Shared(what=what):
                self._sharing.shared(self._of(ASKED.get()), what)
            case QueueLeft():
                self._queue_left(event)
            case SettingsReloaded():
                self._books.tell("other settings")
                self._books.sometimes["settings reloaded"] += 1
            case BreakerChanged():
                self._books.tell(f"breaker {event.scope}: {event.before} -> {event.after} ({event.why})")
                self.guards.changed(event, self._now())
            case LimitLowered(provider=provider, before=was, after=now):
                self._books.tell(f"limit of {provider}: {was} -> {now}")
                self._lowered_s[provider] = self._now()
                self._books.sometimes["limit lowered"] += 1
            case HealthChanged(target=target, before=before, after=after):
                self._books.tell(f"health of {target}: {after}")
                self._books.sometimes[f"health {before} -> {after}"] += 1
            case BudgetSpent(provider=provider):
                self._books.tell(f"budget of {provider} is spent")
                self._books.told["budget_spent"] += 1
                self._books.sometimes["budget spent"] += 1
            case Hedged(target=target, why=why):
                number = ASKED.get()
                self._books.tell(f"#{number} hedges {target}: {why}")
                self._books.sometimes[f"hedged: {why}"] += 1
                self._books.told["hedged"] += 1
                if number is not None:
                    self._hedged(self._books.cases[number], target, why)
            case Crashed(where=where):
                self._books.violated("S1", f"a defect inside the service: {where}")

    def _hedged(self, case: Case, target: str, why: str) -> None:
        case.hedged[target] = why
        if why == "slow":
            self._books.hedges.append((self._now(), case.generation))

    def _queue_left(self, event: QueueLeft) -> None:
        case, now_s, how = self._of(ASKED.get()), self._now(), event.how
        self._books.tell(f"#{case.ask.number} {how} after {event.waited_s:.3f} s in line")
        self._sharing.waited(case)
        case.waits.append(Wait(now_s - event.waited_s, now_s, how))
        self._books.told["queued"] += 1
        self._books.sometimes[f"queue: {how}"] += 1
        if how not in ("served", "left"):
            self._books.told[f"shed_{how}"] += 1

    def _of(self, number: int | None) -> Case:
        assert number is not None, "only requests look into the cache, share and stand in line"
        return self._books.cases[number]

    def _attempt(self, event: AttemptEnded) -> None:
        number, attempt = ASKED.get(), event.attempt
        self._books.tell(f"#{number} <- {attempt.target} {attempt.kind} {attempt.reason}")
        trial = self._open.pop((self._owner(number), attempt.target), None)
        if trial is None and attempt.reason.startswith(UNSUPPORTED):
            self._books.unsent.append((attempt.target.partition("/")[0], self._now()))
            return  # nothing was sent
        if trial is None:
            self._books.violated(
                "S11", f"#{number}: a try at {attempt.target} is told of that was not made, or twice"
            )
            return
        trial.attempt, trial.ended_s = attempt, self._now()
        if attempt.ok and number is not None:
            self._sharing.kept(self._books.cases[number], trial.ended_s)
        self.in_flight[trial.provider] -= 1
        self.guards.ended(trial)
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
        self.guards.last_resort(case, event)
        self._sharing.ended(case)

    def _owner(self, number: int | None) -> object:
        """Who makes a try: a request, or the task of a probe."""
        return asyncio.current_task() if number is None else number

    def left_open(self) -> list[Trial]:
        """Tries whose end was never told."""
        return list(self._open.values())
