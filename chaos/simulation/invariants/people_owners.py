"""Owners and repeated questions.

rule          says
owners_apart  nobody reads or changes what another owner has: a stranger is told that it is not there, and
              nothing of it is in the conversation
asked_once    a question with the client's own id is asked of providers once, whatever was sent again: while
              the first is open and for 60 s after, and as far as it was kept and the database could be asked
"""

from collections import defaultdict
from itertools import pairwise

from dub5.chaos.run.judge import LEFT
from dub5.chaos.simulation.invariants.people_database import UNAVAILABLE, has_memory
from dub5.chaos.simulation.invariants.people_record import PeopleRecord, TurnReading, TurnRequest
from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.planned_people import STOLEN
from dub5.simulators.virtual import VirtualStorage

OWNERS = "SELECT id, owner, title FROM conversation"
TURNS = "SELECT conversation, question FROM turn"
NOT_THERE = "conversation_not_found"
REMEMBERED_S = 60.0


def check_owners(record: RunRecord, people: PeopleRecord, storage: VirtualStorage) -> None:
    """Check that owners are kept apart, in what strangers were told and in the database."""
    for other in people.others:
        if not other.own and other.status < 400:
            record.violated("owners_apart", f"a stranger's {other.what} is answered with {other.status}")
        record.sometimes["stranger refused"] += not other.own and other.code == NOT_THERE
        if other.own and other.kept and other.code == NOT_THERE and other.what != "create":
            record.violated("kept_is_kept", f"{other.what} does not find a conversation that was kept")
    for turn in people.turns:
        conversation = people.conversation(turn)
        own, code = conversation.owner == turn.owner, turn.request.ended.code if turn.request.ended else ""
        record.sometimes["stranger refused"] += not own and code == NOT_THERE
        if own and code == NOT_THERE and conversation.kept and not conversation.deleted:
            record.violated(
                "kept_is_kept", f"#{turn.request.plan.number} finds no conversation, which was kept"
            )
        if not own and (turn.ended_kept or turn.accepted_kept):
            record.violated("owners_apart", f"#{turn.request.plan.number} is a stranger's, and was kept")
    for reading in people.readings:
        _check_reading(record, people, reading)
    asked_by = defaultdict(set)
    for turn in people.turns:
        asked_by[turn.question].add(turn.owner)
    for id_, question in storage.rows(TURNS):
        known = people.conversations.get(str(id_))
        if known is not None and known.owner not in asked_by[str(question)]:
            record.violated("owners_apart", f"{question!r} is in a conversation of {known.owner}")
    names: dict[str, set[object]] = defaultdict(set)
    for id_, owner, title in storage.rows(OWNERS):
        if title == STOLEN:
            record.violated("owners_apart", f"a stranger has renamed conversation {id_}")
        if (known := people.conversations.get(str(id_))) is not None:
            names[known.owner].add(owner)
    for name, owners in names.items():
        if len(owners) > 1:
            record.violated("owners_apart", f"{name} is several owners in the database: {owners}")


def _check_reading(record: RunRecord, people: PeopleRecord, reading: TurnReading) -> None:
    """Check that a stranger reads nothing, and that the owner finds what was kept."""
    asked, conversation = reading.asked, people.conversation(reading.asked)
    if reading.own:
        kept = (asked.accepted_kept or asked.ended_kept) and not conversation.deleted
        if reading.code == NOT_THERE and kept:
            record.violated("kept_is_kept", f"{asked.asked_as} is not found, and was kept")
        return
    refused = reading.code in (NOT_THERE, UNAVAILABLE)
    if reading.start is not None or not (refused or reading.ended_s is None or reading.ending == LEFT):
        record.violated("owners_apart", f"a stranger reads {asked.asked_as}: {reading.ending}")
    record.sometimes["stranger refused on a socket"] += refused and reading.by == "resume"


def check_asked_once(world: World, record: RunRecord, people: PeopleRecord) -> None:
    """Check that equal questions were asked of providers once."""
    equal: dict[tuple[str, str], list[TurnRequest]] = defaultdict(list)
    for turn in people.turns:
        equal[turn.owner, turn.asked_as].append(turn)
    for turns in equal.values():
        record.sometimes["turn asked twice"] += sum(not t.request.attempts and bool(t.outcome) for t in turns)
        asked = [turn for turn in turns if turn.request.attempts]
        for first, second in pairwise(asked):
            if _remembers(first, second) or (has_memory(world, record, second) and _must_know(first, second)):
                record.violated(
                    "asked_once",
                    f"#{second.request.plan.number} was asked again, as #{first.request.plan.number} before",
                )


def _remembers(first: TurnRequest, second: TurnRequest) -> bool:
    """Say whether the process knows the first one when the second one comes, whatever the database does."""
    here, ended = first.life == second.life, first.request.ended is not None
    return here and (not ended or second.request.began_s < first.request.ended_s + REMEMBERED_S)


def _must_know(first: TurnRequest, second: TurnRequest) -> bool:
    """Say whether the service had to know from the database that the first had been asked."""
    return bool(first.accepted_kept or first.ended_kept) if first.life == second.life else first.was_there
