"""Turns that are read on: after a lost connection, over two at one time, after a crash, by strangers.

rule             says
read_on_exactly  whoever reads a turn on reads each piece once: no gap, nothing twice; all that anybody reads
                 of it is the same text; a turn that is answered, or ended within 60 s, is found, whatever the
                 database does
"""

from collections import defaultdict

from dub5.chaos.run.judge import HONEST
from dub5.chaos.simulation.invariants.people_database import UNAVAILABLE
from dub5.chaos.simulation.invariants.people_owners import NOT_THERE, REMEMBERED_S
from dub5.chaos.simulation.invariants.people_record import PeopleRecord, TurnReading, TurnRequest
from dub5.chaos.simulation.invariants.record import RunRecord


def check_readings(record: RunRecord, people: PeopleRecord) -> None:
    """Check every connection that read a turn on, and that all have read the same."""
    for reading in people.readings:
        if reading.own and reading.ended_s is not None:
            _check_reading(record, people, reading, _over_s(people, reading))
    read: dict[str, list[TurnRequest | TurnReading]] = defaultdict(list)
    for asked in people.turns:
        read[asked.turn].append(asked)
    for reading in people.readings:
        read[reading.asked.turn].append(reading)
    for turn, readers in read.items():
        longest = max((reader.text for reader in readers), key=len)
        for reader in readers:
            if turn and not longest.startswith(reader.text):
                _violated(record, f"of turn {turn} one has read {longest!r}, another one {reader.text!r}")
            if turn and reader.outcome == "complete" and reader.text != longest:
                _violated(record, f"turn {turn} is complete with {reader.text!r}, but was {longest!r}")


def _over_s(people: PeopleRecord, reading: TurnReading) -> float | None:
    """Return when the turn ended in the process that reads it; None: it has not, or was in another one."""
    asked = reading.asked
    same = [
        one
        for one in people.turns
        if (one.life, one.owner, one.asked_as) == (reading.life, asked.owner, asked.asked_as)
    ]
    ended = [one.request for one in same if one.request.attempts] or [one.request for one in same]
    return ended[0].ended_s if ended and ended[0].ended is not None else None


def _check_reading(
    record: RunRecord, people: PeopleRecord, reading: TurnReading, over_s: float | None
) -> None:
    asked, ending, began_s = reading.asked, reading.ending, reading.began_s
    assert ending is not None, "it has ended"
    name = f"{asked.asked_as} by {reading.by} at {began_s:.3f} s"
    if ending.outcome not in HONEST:
        _violated(record, f"{name}: {ending.outcome}, {ending.reason}")
    if people.conversation(asked).deleted:
        return
    here = reading.life == asked.life
    remembered = here and (over_s is None or began_s < over_s + REMEMBERED_S)
    if reading.code in (NOT_THERE, UNAVAILABLE) and remembered:
        _violated(record, f"{name} is not found: {reading.code}")
    if reading.start is None:
        return
    live = over_s is None or began_s < over_s
    audience = asked.request.audience
    given_up = reading.outcome == "cancelled" and audience is not None and audience.stopped_s is None
    record.sometimes["resumed live"] += here and live
    record.sometimes["resumed from memory"] += remembered and not live
    record.sometimes["resumed from the database"] += here and not remembered
    record.sometimes["resumed after a crash"] += not here
    record.sometimes["came back in time"] += reading.was_missed and not given_up
    record.sometimes["came back too late"] += given_up and not live
    record.sometimes[f"resumed by {reading.by}"] += 1
    record.sometimes["resumed in mid-answer"] += bool(reading.before) and reading.text != reading.before


def _violated(record: RunRecord, what: str) -> None:
    record.violated("read_on_exactly", what)
