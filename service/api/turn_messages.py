"""What conversations send: JSON objects, and the messages of a turn's stream (protocol dub5.v1).

    accepted  the turn is open          begin  who answers; the commit point
    delta     a piece of the answer     end    how it ended; without one the answer is not whole
    error     in place of `end`

`seq` is the position in the answer up to which a client has read with this message, in bytes of UTF-8: that
of a delta is the one before and the size of its text.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from dub5.service.api.errors import error_body
from dub5.service.conversation.conversations import ConversationPage, TurnPage
from dub5.service.conversation.live_turn import Begun, Failed, Finished, Opened, TurnListener, TurnStep
from dub5.service.conversation.model import Conversation, Pruned, TokenCount, Turn
from dub5.service.errors import GatewayError
from dub5.service.grounding.model import GroundingReport

PROTOCOL = "dub5.v1"
PROTOCOL_HEADER = "x-dub5-protocol"
LOST = "lost"


class Accepted(Struct, tag="accepted", frozen=True):
    """The turn is open. `id`: the client's own id of the question.

    `remaining`: the questions that the tightest rate limit leaves, where there is one.
    """

    turn: str
    id: str
    conversation: str
    kept: bool
    flags: tuple[str, ...]
    remaining: int | UnsetType = UNSET


class Begin(Struct, tag="begin", frozen=True):
    """The answer begins, at `seq`. `memory`: "lost" if it is given without what was said before."""

    turn: str
    seq: int
    route: str
    target: str | None
    trail: str
    degraded: str | UnsetType = UNSET
    pruned: Pruned | UnsetType = UNSET
    memory: str | UnsetType = UNSET


class DeltaMessage(Struct, tag="delta", frozen=True):
    """A piece of the answer."""

    turn: str
    seq: int
    text: str


class Tokens(Struct, frozen=True):
    """The tokens of a turn, and who counted them."""

    question: int
    answer: int
    question_source: str
    answer_source: str


class EndMessage(Struct, tag="end", frozen=True):
    """The answer is over. `kept`: the turn is in the database."""

    turn: str
    seq: int
    outcome: str
    finish: str | None
    tokens: Tokens
    kept: bool
    grounding: GroundingReport | UnsetType = UNSET


class ErrorMessage(Struct, tag="error", frozen=True):
    """The answer is not whole, or there is none. `error`: as every error of the service.

    Without `turn`, a question or another message was refused: `id` is that of the question.
    """

    error: Raw
    turn: str | UnsetType = UNSET
    seq: int | UnsetType = UNSET
    id: str | UnsetType = UNSET


class Text(Struct, frozen=True):
    """A text and its tokens."""

    text: str
    tokens: int
    tokens_source: str


class TurnObject(Struct, frozen=True):
    """A turn, as JSON."""

    id: str
    object: str
    conversation: str
    asked_as: str
    question: Text
    answer: Text | None
    state: str
    outcome: str | None
    finish: str | None
    target: str | None
    model: str
    flags: tuple[str, ...]
    asked_at: float
    ended_at: float | None
    kept: bool
    degraded: str | UnsetType = UNSET
    grounding: GroundingReport | UnsetType = UNSET
    pruned: Pruned | UnsetType = UNSET
    memory: str | UnsetType = UNSET


class ConversationObject(Struct, frozen=True):
    """A conversation, as JSON."""

    id: str
    object: str
    title: str
    model: str
    created_at: float
    used_at: float
    kept: bool
    document: str | UnsetType = UNSET
    turns: list[TurnObject] | UnsetType = UNSET
    has_more: bool | UnsetType = UNSET


TurnMessage = Accepted | Begin | DeltaMessage | EndMessage | ErrorMessage
_ENCODE = msgspec.json.Encoder().encode


def messages_of(listener: TurnListener, steps: Iterable[TurnStep]) -> Iterator[tuple[TurnMessage, int]]:
    """Yield the message of each step that a listener has just read, and its position."""
    id_ = listener.live.id
    for step in steps:
        match step:
            case str():
                yield DeltaMessage(id_, listener.seq, step), listener.seq
            case Opened():
                yield Accepted(id_, step.asked_as, step.conversation, step.kept, step.flags), listener.start
            case Begun():
                yield _begin(id_, step, listener.start), listener.start
            case Finished():
                yield _end(step.view, listener.seq), listener.seq
            case Failed():
                yield error_message(step.error, step.request_id, turn=id_, seq=listener.seq), listener.seq


def error_message(
    error: GatewayError,
    request_id: str,
    *,
    turn: str | UnsetType = UNSET,
    seq: int | UnsetType = UNSET,
    id_: str | UnsetType = UNSET,
) -> ErrorMessage:
    """Return the message of an error; with `turn`, nothing more of that turn is sent."""
    return ErrorMessage(Raw(_ENCODE(error_body(error, request_id)["error"])), turn, seq, id_)


def _begin(turn: str, begun: Begun, seq: int) -> Begin:
    return Begin(
        turn,
        seq,
        begun.route,
        begun.target,
        begun.trail,
        begun.degraded or UNSET,
        begun.pruned or UNSET,
        LOST if begun.memory_lost else UNSET,
    )


def _end(turn: Turn, seq: int) -> EndMessage:
    assert turn.outcome is not None, "it has ended"
    grounding = turn.grounding or UNSET
    return EndMessage(turn.id, seq, turn.outcome, turn.finish, tokens_of(turn), turn.kept, grounding)


def sse(message: TurnMessage, seq: int) -> bytes:
    """Return a message as a server-sent event."""
    name = str(message.__struct_config__.tag).encode()
    return b"event: %s\nid: %d\ndata: %s\n\n" % (name, seq, _ENCODE(message))


def tokens_of(turn: Turn) -> Tokens:
    """Return the tokens of a turn."""
    asked, answered = turn.question_count, turn.answer_count
    return Tokens(asked.tokens, answered.tokens, asked.source, answered.source)


def turn_object(turn: Turn, pruned: Pruned | None = None, *, memory_lost: bool = False) -> TurnObject:
    """Return a turn, as JSON."""
    answer = None if turn.answer is None else _text(turn.answer, turn.answer_count)
    return TurnObject(
        id=turn.id,
        object="turn",
        conversation=turn.conversation,
        asked_as=turn.asked_as,
        question=_text(turn.question, turn.question_count),
        answer=answer,
        state="ended" if turn.ended else "open",
        outcome=turn.outcome,
        finish=turn.finish,
        target=turn.target,
        model=turn.model,
        flags=turn.flags,
        asked_at=turn.asked_at,
        ended_at=turn.ended_at,
        kept=turn.kept,
        degraded=turn.degraded or UNSET,
        grounding=turn.grounding or UNSET,
        pruned=pruned or UNSET,
        memory=LOST if memory_lost else UNSET,
    )


def conversation_object(conversation: Conversation, page: TurnPage | None = None) -> ConversationObject:
    """Return a conversation, with the turns of a page if there is one."""
    return ConversationObject(
        conversation.id,
        "conversation",
        conversation.title,
        conversation.model,
        conversation.made_at,
        conversation.used_at,
        conversation.kept,
        conversation.document or UNSET,
        UNSET if page is None else [turn_object(turn) for turn in page.turns],
        UNSET if page is None else page.has_more,
    )


def list_object(page: ConversationPage) -> dict[str, Any]:
    """Return a list of conversations."""
    data = [conversation_object(one) for one in page.conversations]
    return {"object": "list", "data": data, "has_more": page.has_more}


def _text(text: str, count: TokenCount) -> Text:
    return Text(text, count.tokens, count.source)
