"""A question that came over a WebSocket: the exchange of a turn, without a request of its own."""

import hashlib
from typing import Any

import msgspec
from msgspec import Struct

from dub5.service import clock
from dub5.service.admission.sessions import Session
from dub5.service.api.chat import ApiDependencies
from dub5.service.api.peer import RequestHeaders
from dub5.service.api.socket_handshake import PATH
from dub5.service.api.socket_messages import Ask
from dub5.service.api.turn_body import TurnBody, owner_of
from dub5.service.api.turns import TurnExchange
from dub5.service.conversation.conversations import not_found
from dub5.service.conversation.turns import Turns
from dub5.service.ids import id_of, is_id
from dub5.service.model import Caller

REMAINING = "x-ratelimit-remaining-requests"


class SocketClient(Struct, frozen=True):
    """Who is at the other end, as the handshake has shown. `address`: as ASGI has it."""

    caller: Caller
    session: Session | None
    address: Any

    @property
    def owner(self) -> str:
        """Whose conversations the client has. Raises SessionRequired."""
        return owner_of(self.caller, self.session)


class SocketExchange(TurnExchange):
    """One question. Without a conversation it begins one, once the question has passed all limits.

    That has an id which is made of its owner and the id of the question: sent twice, they open one. Raises
    ConversationNotFound for what is no id of a conversation.
    """

    def __init__(self, deps: ApiDependencies, turns: Turns, client: SocketClient, asked: Ask) -> None:
        conversation = asked.conversation
        if conversation is None:
            digest = hashlib.sha256(f"{client.owner}\n{asked.id}".encode()).digest()
            conversation = id_of(int.from_bytes(digest[:16]))
        elif not is_id(conversation):
            raise not_found()
        super().__init__(deps, turns, conversation, (client.caller, client.session))
        self._client = client
        self._asked = asked

    @property
    def remaining(self) -> int | None:
        """The questions that the tightest rate limit leaves."""
        text = self.more_headers.get(REMAINING)
        return None if text is None else int(text)

    async def answer(self) -> None:
        """Answer the question, as a task of the process."""
        asked, headers = self._asked, [(b"content-type", b"application/json")]
        if asked.deadline_ms is not None:
            headers.append((b"x-deadline-ms", str(asked.deadline_ms).encode()))
        scope: Any = {"type": "http", "path": PATH, "headers": headers, "client": self._client.address}
        body = {"text": asked.text, "id": asked.id, "stream": True}
        if asked.model is not None:
            body["model"] = asked.model
        await self.serve(scope, RequestHeaders(headers), _Asked(msgspec.json.encode(body)))

    def _find_conversation(self, owner: str, asked: TurnBody) -> None:
        """Begin a conversation, unless the client has named one."""
        if self._asked.conversation is None:
            conversations = self._turns.conversations
            model = asked.model or conversations.usual_model
            conversations.begin(owner, self._conversation, "", model, clock.wall())


class _Asked:
    """A client whose body is here, and who neither leaves nor is sent anything: a listener does and is."""

    response_started = False

    def __init__(self, body: bytes) -> None:
        self._body = body

    def whole_body(self) -> bytes:
        return self._body

    async def read(self) -> tuple[bytes, bool]:
        return self._body, False

    def watch(self, on_leave: object) -> None: ...

    def unwatch(self) -> None: ...

    def start(self, status: int, headers: object, data: bytes, *, more: bool) -> None: ...

    def write(self, data: bytes, *, more: bool) -> None: ...
