"""S15: a stream that is held until it is whole is whole when its first word goes out, and its client is kept patient."""

from dub5.chaos.simulation.invariants.record import Books, Case
from dub5.chaos.simulation.world.model import World
from dub5.service.api.stream import HEARTBEAT_S
from dub5.service.model import Outcome

LATE_S = 0.1


def delivery(world: World, books: Books) -> None:
    """Looks at every stream that was to be held."""
    for case in books.cases.values():
        if case.ask.whole and case.ended is not None:
            _whole(world, books, case)


def _whole(world: World, books: Books, case: Case) -> None:
    number, ended = case.ask.number, case.ended
    assert ended is not None, "asked above"
    streamed = case.headers.get("content-type", "").startswith("text/event-stream")
    books.sometimes["heartbeat"] += streamed and "x-dub5-target" not in case.headers
    if not case.ask.pause_s:
        books.measured("a held stream said nothing for", case.silent_s)
        if case.silent_s > HEARTBEAT_S + LATE_S:
            books.violated("S15", f"#{number} heard nothing for {case.silent_s:.3f} s")
        if ended.outcome is Outcome.CUT and not _drained(world, case):
            books.violated("S15", f"#{number} was to come whole, and was cut: {ended.code}")
    if case.content_s and not (ended.cached or ended.degraded):
        tries = [trial for trial in case.lead.trials if trial.attempt is not None and trial.attempt.ok]
        if not any(trial.ended_s <= case.content_s for trial in tries):
            books.violated("S15", f"#{number} read its first word before the provider had said the last")
    failed = [
        t for t in case.trials if t.attempt and not t.attempt.ok and t.attempt.first_token_s is not None
    ]
    if ended.outcome is Outcome.COMPLETE and any(
        t.attempt and t.attempt.reason not in ("outrun", "cancelled") for t in failed
    ):
        books.sometimes["whole: failed over after content"] += 1


def _drained(world: World, case: Case) -> bool:
    return world.drain is not None and case.ended_s >= world.drain.at_s
