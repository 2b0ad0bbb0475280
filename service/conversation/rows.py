"""Rows of the database, as conversations and turns. The columns are those of statements.py."""

from typing import Any

from dub5.service.conversation.model import Conversation, CountedBy, TokenCount, Turn
from dub5.service.model import Outcome
from dub5.service.store.base import Row

CONVERSATION_COLUMNS = 5


def conversation_of(row: Row) -> Conversation:
    """Return the conversation in the first columns of a row."""
    values: Any = row[:CONVERSATION_COLUMNS]
    return Conversation(*values)


def turn_of(row: Row, conversation: str) -> Turn:
    """Return the turn that the columns of `_TURN` hold. What a worker that is gone left open is cut."""
    values: Any = row
    alive, ended = bool(values[18]), values[6] == "ended"
    outcome = None if values[13] is None else Outcome(values[13])
    if not alive:
        ended, outcome = True, Outcome.CUT
    return Turn(
        id=values[0],
        conversation=conversation,
        asked_as=values[1],
        question=values[2],
        question_count=_count(values[3], values[4]),
        flags=tuple(values[5].split(",")) if values[5] else (),
        ended=ended,
        model=values[7],
        asked_at=values[8],
        answer=values[9],
        answer_count=_count(values[10], values[11]),
        prompt_tokens=values[12],
        outcome=outcome,
        finish=values[14],
        target=values[15],
        degraded=values[16],
        ended_at=values[17],
        alive=alive,
        worker=values[19],
    )


def _count(tokens: int | None, source: str | None) -> TokenCount:
    return TokenCount(tokens or 0, CountedBy(source) if source else CountedBy.ESTIMATE)
