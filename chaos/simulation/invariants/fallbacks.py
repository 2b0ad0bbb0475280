"""S16: a labelled substitute comes only where the route wants one, a person reads it, and nobody could answer; and then
it always comes."""

from dub5.chaos.run.judge import Outcome
from dub5.chaos.simulation.invariants.record import Books, Case
from dub5.chaos.simulation.world.model import World
from dub5.service.model import Outcome as Told

NOBODY_COULD = frozenset({"all_targets_down", "all_targets_limited", "deadline_exceeded", "overloaded"})
LATE_S = 0.1
AT_ONCE_S = 0.3  # where nobody has to be asked


def substitutes(world: World, books: Books) -> None:
    """Looks at every end."""
    for case in books.cases.values():
        if case.ended is None or case.ending is None:
            continue
        if case.ended.degraded:
            _given(world, books, case)
        elif _may(world, case) and case.ended.code in NOBODY_COULD and case.ended.route:
            books.violated(
                "S16", f"#{case.ask.number} failed with {case.ended.code}, and its route has substitutes"
            )


def _may(world: World, case: Case) -> bool:
    return world.route(case.ask.route).degraded.enabled and case.ask.program is None


def _given(world: World, books: Books, case: Case) -> None:
    number, ended, ending = case.ask.number, case.ended, case.ending
    assert ended is not None and ending is not None and ended.degraded is not None, "asked above"
    if ended.outcome is Told.DEGRADED:  # else its client left while it came
        books.sometimes[f"degraded: {ended.degraded}"] += 1
        books.told[f"degraded_{ended.degraded}"] += 1
    tell = books.violated
    if not _may(world, case):
        tell("S16", f"#{number} was given a substitute, and must never be")
    if ending.outcome is Outcome.DEGRADED and ending.reason != ended.degraded:
        tell("S16", f"#{number} reads {ending.reason}, and the events say {ended.degraded}")
    said = case.headers.get("x-dub5-degraded")
    if "x-dub5-target" in case.headers and said != ended.degraded:
        tell("S16", f"#{number} has the label {said} in its headers, not {ended.degraded}")
    if any(t.attempt is not None and t.attempt.ok and t.ended_s < case.ended_s for t in case.lead.trials):
        tell("S16", f"#{number} was given a substitute, and a provider had answered")
    within_s = world.route(case.ask.route).degraded.answer_within_s
    took_s = ended.first_token_s or ended.total_s
    if within_s is not None and took_s > within_s + LATE_S:
        tell("S16", f"#{number} was given a substitute after {took_s:.3f} s")
    if not (case.lead.trials or case.lead.waits) and took_s > AT_ONCE_S:
        tell("S16", f"#{number} waited {took_s:.3f} s for a substitute, and nobody was asked")
