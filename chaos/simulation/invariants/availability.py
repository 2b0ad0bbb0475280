"""At least 99.5 % are complete where somebody could answer: while a target is healthy throughout, and after the rest."""

from collections.abc import Collection

from dub5.chaos.simulation.invariants.record import Books, Case
from dub5.chaos.simulation.invariants.recovery import HOST_SOON_S, Recovery
from dub5.chaos.simulation.world.healthy import healthy_throughout, needed_s, sound
from dub5.chaos.simulation.world.model import World
from dub5.service.model import Outcome

SHARE = 0.995
JSON_MODE = 1  # asks.PROGRAMS: not every dialect has it
GIVEN_UP = frozenset({"provider_refused", "request_too_large"})


def wholeness(world: World, books: Books, recovery: Recovery) -> None:
    """Looks at all requests that could be answered."""
    healthy = {t for p in world.providers if healthy_throughout(world, p) for t in p.targets}
    sound_ones = [(p, t) for p in world.providers if sound(world, p) for t in p.targets]
    recovered = {t for p, t in sound_ones if recovery.rests_until_s(p, t, world.end_s) < world.end_s}
    could = [case for case in books.cases.values() if not case.ask.last and _could(world, case, healthy)]
    _judge(books, "with a healthy target", could)
    if all(tuning.probe.enabled for tuning in world.tunings) and world.end_s - world.heal_s > HOST_SOON_S:
        last = [case for case in books.cases.values() if case.ask.last and _could(world, case, recovered)]
        _judge(books, "after the rest", last)


def _judge(books: Books, when: str, cases: list[Case]) -> None:
    failed = [case for case in cases if case.ended is None or case.ended.outcome is not Outcome.COMPLETE]
    books.sometimes[f"asked {when}"] += len(cases)
    books.measured(f"share not complete {when}", len(failed) / len(cases) if cases else 0.0)
    if len(failed) > (1 - SHARE) * len(cases):
        case = failed[0]
        said = case.ended.code if case.ended else "nothing"
        books.violated(
            "complete", f"{len(failed)} of {len(cases)} failed {when}: #{case.ask.number} with {said}"
        )


def _could(world: World, case: Case, targets: Collection[str]) -> bool:
    """Whether one of these targets could have answered it: it had the time, and nothing final came from another."""
    ask, ended = case.ask, case.ended
    route, tuning = world.route(ask.route), world.tunings[case.generation]
    time_s = min(ask.deadline_s, tuning.clocks.total_s)
    if route.degraded.enabled:
        time_s = min(time_s, route.degraded.answer_within_s or time_s)
    needs_s = needed_s(tuning, route.targets, stream=ask.stream, whole=ask.whole)
    if not set(route.targets) & set(targets) or time_s < needs_s or ask.program == JSON_MODE:
        return False
    if case.left_s is not None or ask.pause_s or (world.drain and ask.at_s + time_s > world.drain.at_s):
        return False
    if ended is None or ended.outcome is Outcome.COMPLETE:
        return True
    elsewhere = {trial.target for trial in case.lead.trials} - set(targets)
    committed = (
        not ask.whole and ended.outcome is Outcome.CUT and ended.target in elsewhere
    )  # by then it was too late
    return not committed and not (ended.code in GIVEN_UP and elsewhere)
