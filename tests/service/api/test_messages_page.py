"""docs/use/messages.md against the code: it has every message, field, close code and bound, and no other."""

import re
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
import pytest
from msgspec import NODEFAULT, Raw, Struct, UnsetType

from dub5.service.api import socket, socket_messages, turn_messages
from dub5.service.api.stream import HEARTBEAT_S
from dub5.service.config.settings import ConversationSettings, ServerSettings
from dub5.service.conversation.live_turn import LISTENERS_MAX
from dub5.service.conversation.live_turns import REMEMBER_S
from dub5.service.conversation.turns import ANSWER_BYTES_MAX
from dub5.service.events import CloseCode
from dub5.service.socket_protocol import MESSAGES_AHEAD_MAX
from tests.support.source import ROOT

PAGE = (ROOT / "docs" / "use" / "messages.md").read_text(encoding="utf-8")
GREETINGS = (socket_messages.Ready, socket_messages.Pong, socket_messages.Bye)
SENT_BY = {
    "From the client": get_args(socket_messages.ClientMessage),
    "From the service": (*get_args(turn_messages.TurnMessage), *GREETINGS),
}
WORDS = {str: "string", int: "integer", float: "number", bool: "boolean", Raw: "object"}


def part(title: str, level: str = "##") -> str:
    """Return the text of a section of the page."""
    (found,) = re.findall(rf"^{level} {title}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table, without its head."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def type_words(kind: Any) -> str:
    """Return a type as the page writes it."""
    if get_origin(kind) is Annotated:
        return type_words(get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, Struct):
        return "object"
    if get_origin(kind) is tuple:
        return f"list of {type_words(get_args(kind)[0])}s"
    if get_origin(kind) in (Union, UnionType):
        kinds = [each for each in get_args(kind) if each is not UnsetType]
        named = [type_words(each) for each in kinds if each is not type(None)]
        return " or ".join([*named, "null"] if type(None) in kinds else named)
    return WORDS[kind]


def fields_of(message: type[Struct]) -> dict[str, str]:
    """Return the fields of a message, each with its type as the page writes it."""
    found = {}
    for field in msgspec.structs.fields(message):
        words = type_words(field.type)
        if field.default is not NODEFAULT:
            words = f"{words.removesuffix(' or null')}, optional"
        found[field.name] = words
    return found


@pytest.mark.parametrize("title", SENT_BY)
def test_messages(title: str) -> None:
    """Each message of a side has its section there, and no other."""
    after = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    tags = sorted(str(each.__struct_config__.tag) for each in SENT_BY[title])
    assert sorted(re.findall(r"^### (\w+)$", after, re.MULTILINE)) == tags


@pytest.mark.parametrize(
    "message", [each for kinds in SENT_BY.values() for each in kinds], ids=lambda kind: kind.__name__
)
def test_fields(message: type[Struct]) -> None:
    """The table of a message has its fields with their types, and no other."""
    told = {row[0].strip("`"): row[1] for row in rows(part(str(message.__struct_config__.tag), "###"))}
    assert told == fields_of(message)


def test_tokens_and_pruned() -> None:
    """What the objects in `end` and `begin` hold is named."""
    for message, field, inner in (
        ("end", "tokens", turn_messages.Tokens),
        ("begin", "pruned", turn_messages.Pruned),
    ):
        (meaning,) = [row[2] for row in rows(part(message, "###")) if row[0] == f"`{field}`"]
        assert set(re.findall(r"`(\w+)`", meaning)) == {each.name for each in msgspec.structs.fields(inner)}


def test_close_codes() -> None:
    """The table has every code with which the service closes, or which it logs."""
    assert [int(row[0]) for row in rows(part("Close codes"))] == sorted(CloseCode)


def test_exchange() -> None:
    """The messages of the page are messages, and the positions of its answer follow each other."""
    from_client = msgspec.json.Decoder(socket_messages.ClientMessage)
    tags = {str(each.__struct_config__.tag): each for each in SENT_BY["From the service"]}
    shown = re.findall(r"^([<>]) (.*)$", part("An exchange"), re.MULTILINE)
    position = 0
    for side, text in [each for each in shown if "..." not in each[1] and '"mood"' not in each[1]]:
        if side == ">":
            from_client.decode(text)
            continue
        sent = msgspec.json.decode(text)
        kind: Any = tags[sent["type"]]
        message = msgspec.convert(sent, kind)
        assert msgspec.json.decode(msgspec.json.encode(message)) == sent
        position += len(sent.get("text", "").encode())
        assert sent.get("seq", position) == position
    assert len(shown) > 10


def test_bounds() -> None:
    """Each bound is what the code has."""
    conversation, server = ConversationSettings(), ServerSettings()
    bounds = (
        conversation.question_chars_max,
        socket_messages.MESSAGE_BYTES_MAX,
        socket_messages.FRAME_BYTES_MAX,
        socket.TURNS_MAX,
        LISTENERS_MAX,
        conversation.sockets_max,
        socket.BAD_MESSAGES_MAX,
        MESSAGES_AHEAD_MAX,
        conversation.linger_s,
        socket.IDLE_S,
        server.client_stall_s,
        socket_messages.PING_S,
        HEARTBEAT_S,
        REMEMBER_S,
        ANSWER_BYTES_MAX,
    )
    assert [row[1] for row in rows(part("Bounds"))] == [f"{bound:,.0f}" for bound in bounds]
