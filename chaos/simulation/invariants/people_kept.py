"""What is kept: the database against what people were told and read.

rule           says
kept_is_kept    a conversation, a question or an end that was told to be kept is in the database from then
                on, whatever dies, until its owner deletes the conversation
kept_whole      an end that was told to be kept is there as its client read it: the outcome, all of the text
kept_in_the_end what could not be kept at once is kept once the database is back, unless the process has died
half_no_answer  no turn is complete in the database with less than its provider said; of others the text is
                the beginning of one provider's answer
"""

from dub5.chaos.simulation.invariants.people_record import ConversationRecord, PeopleRecord, TurnRequest
from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.simulators.answers import Proof, judge
from dub5.simulators.virtual import VirtualStorage

CONVERSATION = "SELECT title FROM conversation WHERE id = $1"
TURN = "SELECT conversation, question, state, outcome, answer FROM turn WHERE id = $1"
EQUAL = "SELECT id, state, outcome, answer FROM turn WHERE conversation = $1 AND asked_as = $2"
ENDED = "SELECT id, question, outcome, answer FROM turn WHERE state = 'ended'"
ABANDONED = "cut"  # what the turn of a process that died is, also while nobody has written it


def check_told(
    record: RunRecord, people: PeopleRecord, storage: VirtualStorage, told: TurnRequest | ConversationRecord
) -> None:
    """Check that what has just been told to be kept is in the database now."""
    if isinstance(told, ConversationRecord):
        _check_conversation(record, storage, told)
    else:
        _check_turn(record, people, storage, told)


def check_kept(record: RunRecord, people: PeopleRecord, storage: VirtualStorage) -> None:
    """Check all that was ever told to be kept, and all that is in the database."""
    for conversation in people.conversations.values():
        _check_conversation(record, storage, conversation)
    for turn in people.turns:
        _check_turn(record, people, storage, turn)
    for id_, question, outcome, answer in storage.rows(ENDED):
        text, asked = str(answer or ""), str(question)
        if outcome == "complete" and judge(text, asked) is not Proof.WHOLE:
            record.violated("half_no_answer", f"turn {id_} is complete with {text[:200]!r}")
        if outcome in ("cut", "cancelled", "failed") and text and judge(text, asked) not in _BEGINNING:
            record.violated("half_no_answer", f"turn {id_} is {outcome} with {text[:200]!r}")


_BEGINNING = (Proof.WHOLE, Proof.CUT)


def check_kept_later(record: RunRecord, people: PeopleRecord, storage: VirtualStorage, life: int) -> None:
    """Check that what the last process told not to be kept is in the database at the end."""
    for conversation in people.conversations.values():
        is_due = conversation.life == life and not conversation.deleted
        if is_due and not storage.rows(CONVERSATION, conversation.id):
            record.violated("kept_in_the_end", f"conversation {conversation.id} is not in the database")
    for turn in people.turns:
        conversation = people.conversation(turn)
        there = conversation.owner == turn.owner and (conversation.kept or conversation.life == life)
        if turn.life != life or not turn.outcome or turn.ended_kept or not there or conversation.deleted:
            continue
        equal = storage.rows(EQUAL, turn.conversation, turn.asked_as)
        record.sometimes["sent by the outbox after an outage"] += bool(equal)
        ended = ("ended", turn.outcome, turn.text or None)
        if not equal or (equal[0][0] == turn.turn and equal[0][1:] != ended):
            number = turn.request.plan.number
            record.violated("kept_in_the_end", f"#{number} read {turn.outcome} {turn.text!r}: {equal}")


def _check_conversation(record: RunRecord, storage: VirtualStorage, conversation: ConversationRecord) -> None:
    if conversation.kept and not conversation.deleted and not storage.rows(CONVERSATION, conversation.id):
        record.violated("kept_is_kept", f"conversation {conversation.id} is not in the database")


def _check_turn(record: RunRecord, people: PeopleRecord, storage: VirtualStorage, turn: TurnRequest) -> None:
    number = turn.request.plan.number
    conversation = people.conversations.get(turn.conversation)
    if not (turn.accepted_kept or turn.ended_kept) or conversation is None or conversation.deleted:
        return
    found = storage.rows(TURN, turn.turn)
    if not found or found[0][:2] != (turn.conversation, turn.question):
        record.violated("kept_is_kept", f"#{number} is told that turn {turn.turn} is kept: {found}")
        return
    _, _, state, outcome, answer = found[0]
    if not turn.ended_kept or (turn.outcome == ABANDONED and turn.request.plan.again and not turn.text):
        return
    if state != "ended":
        record.violated("kept_is_kept", f"#{number} is told that the end of turn {turn.turn} is kept")
    elif (outcome, answer or "") != (turn.outcome, turn.text):
        record.violated(
            "kept_whole", f"#{number} read {turn.outcome} {turn.text!r}, kept is {outcome} {answer!r}"
        )
