"""A service with sessions and conversations, in virtual time, over a database that may fail."""

import asyncio
import json
import random
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from msgspec.structs import replace

from dub5.service.app import Service
from dub5.service.config.settings import ConversationSettings, Secret, SessionSettings
from dub5.service.events import Event
from dub5.simulators.script import Data, End, Head, Respond, Script, SimRequest, Wait
from dub5.simulators.virtual import AppClient, AppResponse
from dub5.simulators.virtual.asgi import AppStream
from dub5.simulators.virtual.database import VirtualDatabase
from tests.support.source import ROOT
from tests.support.world import SSE, ServiceWorld, chunk, healthy, reply

SECRET = "a-secret-of-the-service-of-this-test"
PAGE = {"sec-fetch-site": "same-origin"}
PATH = "/v1/conversations"
MIGRATIONS = ROOT / "service" / "store" / "migrations"


def schema() -> str:
    """Return the tables, as SQLite takes them."""
    files = [file.read_text().partition("-- undo")[0] for file in sorted(MIGRATIONS.glob("*.sql"))]
    return "".join(files).replace("{real}", "REAL")


class ConversationWorld(ServiceWorld):
    """A service whose pages have conversations: `async with ConversationWorld() as world`.

    `events` holds what it emitted. Two visitors have sessions: "me" and "you".
    """

    def __init__(
        self,
        conversation: ConversationSettings | None = None,
        database: Any = None,
        seed: str = "test",
        service_options: Mapping[str, Any] = {},
        **more: Any,
    ) -> None:
        tables = {"session": SessionSettings(), "conversation": conversation or ConversationSettings()}
        options = {"options": tables | more.pop("options", {}), "session_secrets": (SECRET,)}
        self.database = database or VirtualDatabase(schema(), random.Random(1))
        super().__init__(**({"one": healthy()} | options | more))
        self.loaded = replace(self.loaded, database_url=Secret("sqlite:///unused"))
        self.service = Service(
            self.loaded, wire=self.wire, seed=seed, database=self.database, **service_options
        )
        self.client = AppClient(self.service.asgi)
        self.events: list[Event] = []
        self.service.events.subscribe(self.events.append)
        self.cookies: dict[str, str] = {}

    async def die(self) -> VirtualDatabase:
        """Be a process that is killed. Return the connection of the next one to what it has left.

        All tasks but the test itself are taken for its own.
        """
        self.database.kill()
        own = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        while own:
            for task in own:
                task.cancel()
            _, own = await asyncio.wait(own, timeout=0.001)
        reopened: VirtualDatabase = self.database.reopen()
        return reopened

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for who in () if self.loaded.caller_keys else ("me", "you"):
            begun = await self.client.request("POST", "/v1/session", headers=PAGE)
            self.cookies[who] = begun.headers["set-cookie"].partition(";")[0]
        return self

    async def send(
        self, method: str, path: str = "", *, who: str = "me", headers: Mapping[str, str] = {}, **more: Any
    ) -> AppResponse:
        """Send a request to the routes of conversations, as the page of a visitor does."""
        return await self.client.request(method, f"{PATH}{path}", headers=self.signed(who, headers), **more)

    def signed(self, who: str, headers: Mapping[str, str] = {}) -> dict[str, str]:
        """Return the headers of a visitor's page."""
        cookie = {"cookie": self.cookies[who]} if who in self.cookies else {}
        return PAGE | cookie | dict(headers)

    async def begin(self, who: str = "me", **given: Any) -> str:
        """Begin a conversation and return its id."""
        begun = await self.send("POST", who=who, json=given)
        assert begun.status == 201, begun.body
        return str(begun.json()["id"])

    async def turn(self, conversation: str, text: str, **more: Any) -> Any:
        """Ask a question and return the turn."""
        answered = await self.ask_in(conversation, text, **more)
        assert answered.status == 200, answered.body
        return answered.json()

    async def ask_in(
        self, conversation: str, text: str, who: str = "me", headers: Mapping[str, str] = {}, **fields: Any
    ) -> AppResponse:
        """Ask a question and return the whole reply."""
        return await self.send(
            "POST", f"/{conversation}/turns", who=who, headers=headers, json={"text": text, **fields}
        )

    def asking(
        self, conversation: str, text: str, who: str = "me", headers: Mapping[str, str] = {}, **fields: Any
    ) -> AbstractAsyncContextManager[AppStream]:
        """Ask a question over a stream, which is left with the block."""
        path, body = f"{PATH}/{conversation}/turns", {"text": text, "stream": True, **fields}
        return self.client.stream("POST", path, headers=self.signed(who, headers), json=body)

    async def read(self, conversation: str, who: str = "me", query: str = "") -> Any:
        """Return a conversation with its turns."""
        found = await self.send("GET", f"/{conversation}{query}", who=who)
        assert found.status == 200, found.body
        return found.json()

    def of(self, kind: type) -> list[Any]:
        """Return the events of a kind so far."""
        return [event for event in self.events if type(event) is kind]

    def prompts(self, provider: str = "one") -> list[list[dict[str, str]]]:
        """Return the messages of each request to a provider."""
        return [json.loads(request.body)["messages"] for request in self.asked[provider]]


def messages(data: bytes) -> list[dict[str, Any]]:
    """Return the messages of a stream; each is named and numbered as its event is."""
    found = []
    for event in data.decode().split("\n\n")[:-1]:
        if event.startswith(":"):
            continue
        name, id_, text = event.split("\n")
        message = json.loads(text.removeprefix("data: "))
        assert name == f"event: {message['type']}"
        assert id_ == f"id: {message.get('seq')}" or message["type"] == "accepted"
        found.append(message)
    return found


def said(data: bytes) -> str:
    """Return the text of a stream, whose numbers have no gap: each one counts the bytes so far."""
    text = ""
    for message in messages(data):
        text += message.get("text", "")
        assert message.get("seq", 0) == len(text.encode()), message
    return text


def counting(
    text: str = "hello big world", *, prompt: int, answer: int, reasoning: int = 0, wait_s: float = 0.1
) -> Respond:
    """Answer with this text and this usage, as JSON or as a stream."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }

    def respond(request: SimRequest) -> Script:
        yield Wait(wait_s)
        if json.loads(request.body).get("stream"):
            yield Head(200, SSE)
            yield chunk({"content": text})
            yield chunk({}, "stop")
            last = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
            yield Data(b"data: " + json.dumps({**last, "usage": usage}).encode() + b"\n\n")
            yield Data(b"data: [DONE]\n\n")
            yield End()
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        whole = {"id": "c", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        yield from reply(200, json.dumps(whole).encode())

    return respond
