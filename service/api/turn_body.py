"""Bodies of conversations: strict, small, and cleaned. And whose a conversation is."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from dub5.service.admission.sanitize import clean
from dub5.service.admission.sessions import Session
from dub5.service.api.schema import read_json
from dub5.service.conversation.open_turn import OpenTurn
from dub5.service.errors import InvalidRequest, QuestionTooLong, SessionRequired
from dub5.service.model import ANONYMOUS, Caller

BODY_BYTES_MAX = 64 * 1024
TITLE_CHARS_MAX = 200
DEPTH_MAX = 8

ClientId = Annotated[str, Meta(pattern=r"^[!-~]{1,64}\Z")]
Model = Annotated[str, Meta(min_length=1, max_length=200)]


class TurnBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A question. `id`: the client's own: sent twice, it is asked once."""

    text: str
    id: ClientId | None = None
    model: Model | None = None
    stream: bool | None = None


class ConversationBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What can be said of a conversation. `document`: what it asks about, for all of its time."""

    title: str | None = None
    model: Model | None = None
    document: str | None = None


_TURN = msgspec.json.Decoder(TurnBody)
_CONVERSATION = msgspec.json.Decoder(ConversationBody)


def parse_turn(headers: Mapping[str, str], body: bytes, chars_max: int) -> TurnBody:
    """Return a question with clean text. Raises InvalidRequest, QuestionTooLong, CompressedBody."""
    turn, _ = read_json(headers, body, DEPTH_MAX, _TURN)
    text = clean(turn.text)
    if not text.strip():
        raise InvalidRequest("text: must hold a question.", param="text")
    if len(text) > chars_max:
        raise QuestionTooLong(
            f"The question has {len(text):,} characters; {chars_max:,} are taken here.", param="text"
        )
    return msgspec.structs.replace(turn, text=text)


def parse_conversation(headers: Mapping[str, str], body: bytes) -> ConversationBody:
    """Return a title and a model, each None if it is not given. Raises InvalidRequest, CompressedBody.

    An empty body says nothing, whatever its content type.
    """
    if not body:
        return ConversationBody()
    given, _ = read_json(headers, body, DEPTH_MAX, _CONVERSATION)
    if given.title is None:
        return given
    title = " ".join(clean(given.title).split())
    if len(title) > TITLE_CHARS_MAX:
        raise InvalidRequest(f"title: must have at most {TITLE_CHARS_MAX} characters.", param="title")
    return msgspec.structs.replace(given, title=title)


def owner_of(caller: Caller, session: Session | None) -> str:
    """Return whose the conversations of a request are. Raises SessionRequired."""
    if caller.key != ANONYMOUS.key:
        return f"caller:{caller.key}"
    if session is None:
        raise SessionRequired("Conversations belong to a session or an API key, and the request has neither.")
    return f"session:{session.id}"


def chat_body(turn: OpenTurn, *, stream: bool) -> bytes:
    """Return the body of the chat request that asks the question, after what was said before."""
    messages: list[dict[str, str]] = []
    for one in turn.history:
        messages.append({"role": "user", "content": one.question})
        messages.append({"role": "assistant", "content": one.answer})
    messages.append({"role": "user", "content": turn.question.text})
    body: dict[str, Any] = {"model": turn.model, "messages": messages, "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(body)
