"""S13: the line before full providers. Who is dropped costs nothing and hears of it at once; a higher class goes first."""

from collections import defaultdict
from collections.abc import Hashable

from dub5.chaos.simulation.invariants.record import Books, Case, Wait
from dub5.chaos.simulation.world.model import World

REFUSED_S = 0.05  # from the decision to the refusal
TICK_S = 0.05  # how often those who wait are looked at
EPSILON_S = 1e-6
RANKS = {"high": 0, "normal": 1, "low": 2}


def waiting(world: World, books: Books) -> None:
    """Looks at all waits together."""
    lines: dict[Hashable, list[tuple[Case, Wait]]] = defaultdict(list)
    for case in books.cases.values():
        for wait in case.waits:
            lines[case.ask.route, case.generation].append((case, wait))
            _in_time(world, books, case, wait)
    for line in lines.values():
        for case, wait in line:
            if wait.how == "served":
                _in_order(world, books, case, wait, line)


def _in_time(world: World, books: Books, case: Case, wait: Wait) -> None:
    """Nobody waits past the deadline, and who is refused is told so within 50 ms."""
    number, until_s = case.ask.number, case.until_s(world.tunings[case.generation].clocks.total_s)
    if wait.to_s > until_s + TICK_S + EPSILON_S:
        books.violated("S13", f"#{number} was {wait.how} {wait.to_s - until_s:.3f} s after its deadline")
    refused = wait.how not in ("served", "left") and not case.refreshes
    if not refused or case.ask.pause_s or case.left_s is not None:
        return
    late_s = case.ended_s - wait.to_s
    books.measured("refusal after its decision", late_s)
    if late_s > REFUSED_S:
        books.violated("S13", f"#{number} was {wait.how}, and heard of it {late_s:.3f} s later")
    if case.ended is not None and case.ended.code == "overloaded" and "retry-after" not in case.headers:
        books.violated("S13", f"#{number} was turned away, and not told when to come back")


def _in_order(world: World, books: Books, case: Case, wait: Wait, line: list[tuple[Case, Wait]]) -> None:
    """Whoever got a place did not overtake a higher class."""
    for other, others in line:
        if (
            _rank(world, other) < _rank(world, case)
            and others.from_s < wait.to_s - EPSILON_S
            and others.to_s > wait.to_s + EPSILON_S
        ):
            books.violated(
                "S13", f"#{case.ask.number} overtakes #{other.ask.number}, whose caller goes first"
            )
            return


def _rank(world: World, case: Case) -> int:
    return RANKS["normal" if case.ask.caller is None else world.callers[case.ask.caller]]
