"""What a WebSocket carries beside the messages of turns (turn_messages.py): what clients send, and greetings.

ask      a question                       ready    the first message: what holds here
resume   a turn, from a position on       pong     the answer to `ping`
stop     end a turn                       bye      the connection will be closed: reconnect
ping     is anybody there?
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dub5.service.api.structure import check_structure
from dub5.service.api.turn_body import DEPTH_MAX, ClientId, Model
from dub5.service.config.decode_messages import field_path, validation_message
from dub5.service.errors import InvalidRequest

MESSAGE_BYTES_MAX = 64 * 1024
FRAME_BYTES_MAX = 128 * 1024  # what is larger is not read to its end, and gets no `error`
PARTS_MAX = 1000
PING_S = 20.0  # between two pings of the server, and until the answer to one


class Ask(Struct, tag="ask", tag_field="type", frozen=True, forbid_unknown_fields=True):
    """A question. Without `conversation` one begins; `id`, sent twice, is asked once."""

    id: ClientId
    text: str
    conversation: str | None = None
    model: Model | None = None
    deadline_ms: Annotated[int, Meta(ge=1)] | None = None


class Resume(Struct, tag="resume", tag_field="type", frozen=True, forbid_unknown_fields=True):
    """A turn, read on from the position `after`."""

    turn: str
    after: Annotated[int, Meta(ge=0)] = 0


class StopTurn(Struct, tag="stop", tag_field="type", frozen=True, forbid_unknown_fields=True):
    """The end of a turn."""

    turn: str


class Ping(Struct, tag="ping", tag_field="type", frozen=True, forbid_unknown_fields=True):
    """A question whether anybody is there."""


class Ready(Struct, tag="ready", frozen=True):
    """What holds here. `session`: its name in logs; `resume_s`: how long a turn that ended is in memory."""

    protocol: str
    session: str | None
    linger_s: float
    resume_s: float
    question_chars_max: int
    turns_max: int


class Pong(Struct, tag="pong", frozen=True):
    """The answer to `ping`."""


class Bye(Struct, tag="bye", frozen=True):
    """The connection will be closed. `why`: "drain" or "idle"; another one is taken after `retry_after_s`."""

    why: str
    retry_after_s: float


ClientMessage = Ask | Resume | StopTurn | Ping
_DECODE = msgspec.json.Decoder(ClientMessage)
_ENCODE = msgspec.json.Encoder().encode


def read_message(text: str) -> ClientMessage:
    """Return a client's message. Raises InvalidRequest."""
    try:
        data = text.encode()
        check_structure(data, DEPTH_MAX, PARTS_MAX)
        message: ClientMessage = _DECODE.decode(data)
        return message
    except msgspec.ValidationError as error:
        path = field_path(error)
        raise InvalidRequest(
            f"{path or 'The message'}: {validation_message(error)}.", param=path or None
        ) from None
    except (msgspec.DecodeError, UnicodeError):
        raise InvalidRequest("The message is not JSON.") from None


def as_text(message: Struct) -> str:
    """Return a message of ours as it is sent."""
    return _ENCODE(message).decode()
