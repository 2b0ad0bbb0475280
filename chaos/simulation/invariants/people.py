"""People and their conversations: calls all invariants about them, when the process dies and at the end."""

from dub5.chaos.simulation.invariants.people_database import check_database, disturbed
from dub5.chaos.simulation.invariants.people_kept import check_kept, check_kept_later
from dub5.chaos.simulation.invariants.people_owners import check_asked_once, check_owners
from dub5.chaos.simulation.invariants.people_prompts import check_prompts
from dub5.chaos.simulation.invariants.people_readings import check_readings
from dub5.chaos.simulation.invariants.people_record import PeopleRecord
from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.simulators.virtual import VirtualStorage

IS_THERE = "SELECT state FROM turn WHERE conversation = $1 AND asked_as = $2"


def check_crash(record: RunRecord, people: PeopleRecord, storage: VirtualStorage) -> None:
    """Check what is kept at the moment in which the process dies, and note which questions are."""
    check_kept(record, people, storage)
    for turn in people.turns:
        found = storage.rows(IS_THERE, turn.conversation, turn.asked_as)
        turn.was_there = bool(found)
        record.sometimes["crashed with an open turn"] += found == [("open",)] and turn.ended_s is None


def check_people(
    world: World, record: RunRecord, people: PeopleRecord, storage: VirtualStorage, life: int, now_s: float
) -> None:
    """Check a whole run. `life`: the last process."""
    check_kept(record, people, storage)
    if not disturbed(world, record, now_s, now_s):
        check_kept_later(record, people, storage, life)
    check_owners(record, people, storage)
    check_asked_once(world, record, people)
    check_database(world, record, people)
    check_prompts(world, record, people)
    check_readings(record, people)
    record.sometimes["unsure write repeated"] += storage.repeated
