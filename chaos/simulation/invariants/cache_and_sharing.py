"""S9: what one caller was told is told to no other; and equal questions of one caller are asked once.

    place   a caller, a route, a question     what was kept there, and when
    kind    a place, as a stream or not, ..   the call that is under way

What the service looks up is held against these books: a hit without an answer before it is a violation, and so is a
call beside another one for the same.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable

from dub5.chaos.simulation.invariants.record import HEARD_OUT, Books, Case
from dub5.chaos.simulation.world.model import World

CLAIM_S = 30.0  # whoever asks anew for a stale answer is believed to be at it for so long
NEVER = float("inf")
EPSILON_S = 1e-6


class Sharing:
    """Hears of looks into the cache, of shared calls, and of each try."""

    def __init__(self, world: World, books: Books, now: Callable[[], float]) -> None:
        self._world = world
        self._books = books
        self._now = now
        self._kept_s: dict[Hashable, list[float]] = defaultdict(list)
        self._surely_s: dict[Hashable, float] = {}
        self._calls: dict[Hashable, Case] = {}
        self._beside: dict[
            int, Case
        ] = {}  # by request: the call that was there when it came, and that it may join
        self._again: dict[Hashable, list[Case]] = defaultdict(list)  # had joined before
        self._refreshing: dict[Hashable, Case] = {}

    def kept(self, case: Case, now_s: float) -> None:
        """A whole answer came, for a request whose answer may be kept. One that was raced may be nobody's."""
        if case.ask.cacheable:
            self._kept_s[_place(case)].append(now_s)
            self._refreshing.pop(_place(case), None)
            if not case.hedged:
                self._surely_s[_place(case)] = now_s

    def looked(self, case: Case, result: str) -> None:
        """The cache was asked: first what it has, then, when nobody could answer, whether it has anything at all."""
        self._books.tell(f"#{case.ask.number} looks: {result}")
        if result != "miss":
            self._books.told[f"cache_{result}"] += 1
        options, now_s = self._world.route(case.ask.route).cache, self._now()
        ages_s = [now_s - at_s for at_s in self._kept_s[_place(case)]]
        if case.looked:
            self._allowed(case, ages_s, f"{result} at last", options.ttl_s + options.stale_if_error_s)
            return
        case.looked, case.looked_s = result, now_s
        self._books.sometimes[f"cache: {result}"] += 1
        if not case.ask.cacheable:
            self._books.violated("S9", f"#{case.ask.number} is looked up, and may not be kept")
        if result == "hit":
            self._allowed(case, ages_s, result, options.ttl_s)
        elif result == "stale":
            self._allowed(case, ages_s, result, options.ttl_s + options.stale_while_revalidate_s)
        if result != "hit":
            age_s = now_s - self._surely_s.get(_place(case), -NEVER)
            if 0.0 < age_s < options.ttl_s - EPSILON_S:
                self._books.violated("S9", f"#{case.ask.number} is a {result}, and a fresh answer was kept")
        if result == "miss" and options.share:
            self._comes(case)

    def _comes(self, case: Case) -> None:
        """It joins the call that is there, or begins another one."""
        kind = _kind(case)
        if (before := self._calls.get(kind)) is not None:
            self._beside[case.ask.number] = before
        self._calls[kind] = case

    def _allowed(self, case: Case, ages_s: list[float], result: str, age_max_s: float) -> None:
        if not any(age_s < age_max_s + EPSILON_S for age_s in ages_s):
            self._books.violated(
                "S9",
                f"#{case.ask.number} of caller {case.ask.caller} is a {result}, and nothing was kept for it",
            )

    def shared(self, case: Case, what: str) -> None:
        """It takes part in the call of another one, or leaves its own to the others."""
        self._books.tell(f"#{case.ask.number} {what}")
        self._books.told["shared" if what == "joined" else what] += 1
        self._books.sometimes[f"shared call: {what}"] += 1
        if what == "renewed" and self._world.route(case.ask.route).cache.share:
            self._comes(case)
        if what != "joined":
            return
        kind = _kind(case)
        if case.leader is not None:
            self._again[kind].append(case)
            return
        leader = self._beside.pop(case.ask.number, None)
        if leader is None:
            self._books.violated("S9", f"#{case.ask.number} joins a call that nobody made for its caller")
            return
        self._calls[kind] = leader
        case.leader = leader
        leader.sharers.append(case)

    def ended(self, case: Case) -> None:
        """Who was sent away at the door has neither asked nor joined: the call that was there is there still."""
        kind, before = _kind(case), self._beside.pop(case.ask.number, None)
        at_the_door = case.leader is None and not case.trials and not case.waits
        if before is not None and at_the_door and self._calls.get(kind) is case:
            self._calls[kind] = before

    def waited(self, case: Case) -> None:
        """It stood in line itself."""
        if case.leader is not None:
            self._apart(case, case.leader, self._now())

    def asks(self, case: Case, now_s: float) -> None:
        """A try goes out for it: is it the one who asks?"""
        number = case.ask.number
        if case.looked == "hit":
            self._books.violated("S9", f"#{number} has its answer from the cache, and asks all the same")
        elif case.refreshes:
            other = self._refreshing.setdefault(_place(case), case)
            if other is not case and now_s < other.looked_s + CLAIM_S and _is_out(other, now_s):
                self._books.violated("S9", f"#{number} asks anew, and #{other.ask.number} is at it")
            self._refreshing[_place(case)] = case
            if case.leader is not None:
                self._apart(case, case.leader, now_s)
        elif case.leader is not None:
            self._apart(case, case.leader, now_s)
        elif not case.trials and (before := self._beside.pop(number, None)) is not None:
            self._alone(case, before, now_s)

    def _alone(self, case: Case, before: Case, now_s: float) -> None:
        """It asks, and did not join the call that was there when it came."""
        if _is_out(before, now_s) and not before.over():
            self._books.violated("S9", f"#{case.ask.number} asks what #{before.ask.number} is asking")

    def _apart(self, case: Case, leader: Case, now_s: float) -> None:
        """It shared a call that had too little time, and asks by itself now, for whoever has come along."""
        route = self._world.route(leader.ask.route)
        within_s = route.degraded.answer_within_s if route.degraded.enabled else None
        until_s = (
            leader.deadline_s if within_s is None else min(leader.deadline_s, leader.looked_s + within_s)
        )
        dropped = bool(leader.waits) and leader.waits[-1].how == "expired"
        if now_s < until_s - EPSILON_S and not dropped:
            self._books.violated(
                "S9", f"#{case.ask.number} asks what #{leader.ask.number} is asking for both"
            )
        self._books.sometimes["asked again, with more time"] += 1
        leader.sharers.remove(case)
        case.leader = None
        kind = _kind(case)
        self._calls[kind] = case
        ended_s = leader.waits[-1].to_s if dropped else until_s
        again = self._again.pop(kind, [])
        for other in list(leader.sharers):
            if other in again or other.looked_s > ended_s:
                leader.sharers.remove(other)
                other.leader = case
                case.sharers.append(other)


def _place(case: Case) -> Hashable:
    return case.ask.caller, case.ask.route, case.ask.prompt


def _kind(case: Case) -> Hashable:
    return _place(case), case.ask.stream, case.ask.whole and not case.refreshes, case.generation


def _is_out(case: Case, now_s: float) -> bool:
    """Whether its call has surely not ended: a try is out that it waits for."""
    return any(
        trial.attempt is None and trial.began_s < now_s and case.hedged.get(trial.target) not in HEARD_OUT
        for trial in case.trials
    )
