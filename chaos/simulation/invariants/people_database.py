"""A database in trouble: it costs milliseconds and a label, never an answer.

rule                says
database_not_needed no request for a turn or a new conversation fails because the database is lost, and none
                    waits longer for it than its patience before the answer and `keep_s` after it; 5 s after
                    every trouble of the database turns are kept, and nothing is refused for it
"""

from dub5.chaos.simulation.invariants.people_record import PeopleRecord, TurnRequest
from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.people import People

BACK_S = 5.0  # until a database that has recovered is used again
EPSILON_S = 0.02
STALL_S = 10.0  # for so long a stall of the event loop may look like a lost database
UNAVAILABLE = "storage_unavailable"
NEVER_REFUSED = ("create", "session")


def check_database(world: World, record: RunRecord, people: PeopleRecord) -> None:
    """Check all requests of people against the troubles of the database."""
    assert world.people is not None, "there are people"
    options = world.people
    for other in people.others:
        took_s = record.ran_s(other.began_s, other.ended_s)
        record.measured("wait of a request for the database", took_s)
        if took_s > options.patience_s + options.keep_s + EPSILON_S:
            _violated(record, f"{other.what} took {took_s:.3f} s")
        if other.code == UNAVAILABLE and (
            other.what in NEVER_REFUSED or not disturbed(world, record, other.began_s, other.ended_s)
        ):
            _violated(record, f"{other.what} at {other.began_s:.3f} s is refused with {other.code}")
    for turn in people.turns:
        _check_turn(world, record, people, options, turn)
    for reading in people.readings:
        ended_s = reading.ended_s
        if reading.code == UNAVAILABLE and ended_s and not disturbed(world, record, reading.began_s, ended_s):
            _violated(record, f"{reading.asked.asked_as} cannot be read at {reading.began_s:.3f} s")


def _check_turn(
    world: World, record: RunRecord, people: PeopleRecord, options: People, turn: TurnRequest
) -> None:
    request, number = turn.request, turn.request.plan.number
    record.sometimes["memory lost"] += turn.memory_lost
    if turn.ended_s is None or request.ended is None or people.conversation(turn).owner != turn.owner:
        return
    if request.ended.code == UNAVAILABLE and not request.plan.again:
        _violated(record, f"#{number} failed for it")
    if request.attempts and not request.waits and not request.plan.again:
        waited_s = record.ran_s(request.began_s, request.attempts[0].began_s)
        record.measured("wait of a turn for the database, before", waited_s)
        if waited_s > options.patience_s + EPSILON_S:
            _violated(record, f"#{number} waited {waited_s:.3f} s before it was asked")
    answered = [a.ended_s for a in request.attempts if a.reported and a.reported.ok]
    if answered and turn.outcome == "complete" and request.left_s is None and not request.plan.again:
        waited_s = record.ran_s(max(answered), turn.ended_s)
        record.measured("wait of a turn for the database, after", waited_s)
        if waited_s > options.keep_s + EPSILON_S:
            _violated(record, f"#{number} waited {waited_s:.3f} s after its answer")
    answered_now = turn.outcome in ("complete", "degraded")  # else it may be told while the end is written
    if answered_now and not disturbed(world, record, turn.began_s, turn.ended_s):
        in_time = request.deadline_s - turn.ended_s > EPSILON_S  # else nobody waits for the database any more
        if in_time and (not turn.ended_kept or turn.accepted_kept is False):
            _violated(record, f"#{number} is not kept, and nothing is wrong with the database")
        first_s = min(one.began_s for one in people.turns if _is_same(one, turn))
        if turn.memory_lost and not disturbed(world, record, first_s, turn.ended_s):
            _violated(record, f"#{number} has lost its memory, and nothing is wrong with the database")


def _is_same(one: TurnRequest, other: TurnRequest) -> bool:
    """Say whether two requests ask one turn: the second may be told what became of the first."""
    return (one.conversation, one.asked_as) == (other.conversation, other.asked_as)


def has_memory(world: World, record: RunRecord, turn: TurnRequest) -> bool:
    """Say whether a turn was asked with its history: as it was told, or else as nothing was in the way."""
    if turn.has_begun:
        return not turn.memory_lost
    return not disturbed(world, record, turn.began_s, turn.ended_s or turn.began_s)


def disturbed(world: World, record: RunRecord, from_s: float, to_s: float) -> bool:
    """Say whether anything was wrong with the database in this time or shortly before it."""
    troubles = [(fault.at_s, fault.at_s + fault.for_s) for fault in world.database]
    if world.crash is not None:
        troubles.append((world.crash.at_s, world.crash.at_s))
    return record.stalled_s(from_s - STALL_S, to_s) > 0.0 or any(
        at_s < to_s and from_s < until_s + BACK_S for at_s, until_s in troubles
    )


def _violated(record: RunRecord, what: str) -> None:
    record.violated("database_not_needed", what)
