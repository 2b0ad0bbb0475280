"""Rows of the database, as conversations and turns. The columns are those of statements.py."""

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from dub5.service.conversation.history import PastExchange
from dub5.service.conversation.model import Conversation, CountedBy, TokenCount, Turn
from dub5.service.grounding.model import GroundingReport
from dub5.service.model import Outcome
from dub5.service.store.base import Row

CONVERSATION_COLUMNS = 6
TURN_COLUMNS = 21
HISTORY_COLUMNS = 5  # before those of the turn
_REPORT = msgspec.json.Decoder(GroundingReport)
COUNTED_BY: Mapping[str | None, CountedBy] = {each.value: each for each in CountedBy}


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
        grounding=None if values[20] is None else _REPORT.decode(values[20]),
    )


class RememberedTurn(Struct, frozen=True):
    """A turn that is asked with. `prompt_tokens`: the provider's count of its whole prompt."""

    exchange: PastExchange
    asked_at: float
    ended_at: float
    prompt_tokens: int | None
    target: str | None
    model: str


class History(Struct, frozen=True):
    """What is remembered of a conversation: `turns` are the newest of `turns_count`, the oldest first.

    `equal`: the id of the turn that has the question's own id. `document`: that of the conversation.
    """

    model: str
    turns_count: int
    tokens: int
    equal: str | None
    document: str | None
    turns: list[RememberedTurn]


def history_of(rows: list[Row]) -> History:
    """Return the history that the rows of HISTORY hold."""
    head = cast(tuple[str, int, int, str | None, str | None], rows[0][:HISTORY_COLUMNS])
    turns = [_remembered(row[HISTORY_COLUMNS:]) for row in reversed(rows) if row[HISTORY_COLUMNS] is not None]
    return History(*head, turns)


def _remembered(row: Row) -> RememberedTurn:
    values: Any = row
    question, q_tokens, q_source, answer, a_tokens, a_source, *rest = values
    exchange = PastExchange(question, answer, _count(q_tokens, q_source), _count(a_tokens, a_source))
    return RememberedTurn(exchange, *rest)


def _count(tokens: int | None, source: str | None) -> TokenCount:
    return TokenCount(tokens or 0, COUNTED_BY.get(source, CountedBy.ESTIMATE))
