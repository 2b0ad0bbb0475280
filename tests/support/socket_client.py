"""A client of the WebSocket of conversations, in virtual time: what it sends and hears, as JSON."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from dub5.simulators.virtual import AppSocket, Closed
from tests.support.conversation_world import ConversationWorld

PATH = "/v1/ws"
PROTOCOL = "dub5.v1"


class Talk:
    """A connection. `ready` is the first message that came."""

    def __init__(self, socket: AppSocket) -> None:
        self.socket = socket
        self.ready: Any = None

    async def say(self, type_: str, **fields: Any) -> None:
        """Send a message."""
        await self.socket.send(json.dumps({"type": type_, **fields}))

    async def ask(self, id_: str, text: str = "Hi", **fields: Any) -> None:
        """Send a question."""
        await self.say("ask", id=id_, text=text, **fields)

    async def hear(self) -> Any:
        """Return the next message, or the code of the end."""
        heard = await self.socket.receive()
        return heard.code if isinstance(heard, Closed) else json.loads(heard)

    async def until(self, *types: str) -> list[Any]:
        """Return the next messages up to one of these types, or to the end."""
        heard = [await self.hear()]
        while isinstance(heard[-1], dict) and heard[-1]["type"] not in types:
            heard.append(await self.hear())
        return heard


@asynccontextmanager
async def talking(
    world: ConversationWorld, who: str = "me", headers: Mapping[str, str] = {}, **more: Any
) -> AsyncIterator[Talk]:
    """Connect as the page of a visitor, and hear what comes first."""
    async with world.client.socket(
        PATH, headers=world.signed(who, headers), subprotocols=more.pop("subprotocols", [PROTOCOL]), **more
    ) as socket:
        talk = Talk(socket)
        if socket.status == 101:
            talk.ready = await talk.hear()
        yield talk


def text_of(messages: list[Any]) -> str:
    """Return the text of a turn's messages, whose positions fit together."""
    text, seq = "", 0
    for message in messages:
        if message["type"] == "begin":
            seq = message["seq"]
        elif message["type"] == "delta":
            text, seq = text + message["text"], seq + len(message["text"].encode())
        if message["type"] in ("begin", "delta", "end"):
            assert message["seq"] == seq, messages
    return text
