"""POST /v1/conversations/{id}/turns: an exchange that is remembered.

read the question -> open its turn -> the exchange of a chat with the history -> write the end -> say the end

The gateway sees a chat request. Whatever becomes of it, the turn is ended in `_emit_request_ended`.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar

import msgspec
from litestar.types import Receive
from msgspec import Raw

from dub5.service import clock
from dub5.service.admission.injection import scan_in_steps
from dub5.service.admission.intake import Intake
from dub5.service.api.chat import ApiDependencies, Exchange, end_task
from dub5.service.api.response import ResponseWriter
from dub5.service.api.schema import deadline_s, delivery
from dub5.service.api.turn_answer import TurnAnswer
from dub5.service.api.turn_body import BODY_BYTES_MAX, chat_body, owner_of, parse_turn
from dub5.service.api.turn_messages import (
    LOST,
    PROTOCOL,
    PROTOCOL_HEADER,
    ErrorMessage,
    sse,
    turn_object,
)
from dub5.service.api.turn_stream import TurnStream, repeated
from dub5.service.conversation.model import NewQuestion, Turn, TurnEnd, estimated
from dub5.service.conversation.open_turn import OpenTurn
from dub5.service.conversation.turns import Turns
from dub5.service.errors import DeadlineExceeded, SuspiciousInput
from dub5.service.events import TurnEnded
from dub5.service.gateway import Answer
from dub5.service.model import AnyRequest, Caller, Chunks, Outcome
from dub5.service.providers.slices import in_turns
from dub5.service.timeouts import NEVER, TimedOut

T = TypeVar("T")
_ERROR = msgspec.json.Decoder(dict[str, Raw])
WHERE = "conversations"  # in security events
TOO_LATE = "The deadline passed before the question was asked: the same one may still be being answered."


class TurnWriter(ResponseWriter):
    """Sends the messages of a turn. `seq` is the number of the last one."""

    done = b""
    turn = ""
    seq = 0

    def error_event(self, body: bytes) -> bytes:
        """Return the message `error`."""
        self.seq += 1
        return sse(ErrorMessage(self.turn, self.seq, _ERROR.decode(body)["error"]), self.seq)


class TurnExchange(Exchange):
    """One question of a conversation, as an ASGI application."""

    writer = TurnWriter
    _response: TurnWriter

    def __init__(self, deps: ApiDependencies, turns: Turns, conversation: str) -> None:
        super().__init__(deps)
        self._turns = turns
        self._conversation = conversation
        self._turn: OpenTurn | None = None
        self._equal: Turn | None = None  # the same question, asked before
        self._said = TurnAnswer()

    async def _read_bounded(self, receive: Receive, bytes_max: int) -> bytes:
        return await super()._read_bounded(receive, min(bytes_max, BODY_BYTES_MAX))

    async def _handle(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> None:
        settings = self._turns.conversations.settings
        asked = parse_turn(headers, body, settings.question_chars_max)
        owner = owner_of(caller, self._session)
        if asked.model is not None:
            self.deps.gateway.route(asked.model)
        await self._look_for_injection(asked.text)
        question = NewQuestion(
            asked.text,
            asked.id or "",
            asked.model or "",
            self._log.flags,
            self.id,
            estimated(asked.text),
        )
        stream = self._log.stream = bool(asked.stream)
        how = self._set_deadline(headers, owner, question)
        heartbeat: asyncio.Task[None] | None = None
        if stream and how == "whole":  # an equal question may take as long as its answer
            self._name_protocol()
            heartbeat = asyncio.create_task(self._heartbeat(), name=f"heartbeat {self.id}")
        try:
            turn = await self._until_deadline(self._open(owner, question))
        finally:
            if heartbeat is not None:
                await end_task(heartbeat)
        if turn is None:
            await self._send_equal(stream)
            return
        self._response.turn = turn.id
        if stream:
            self._name_protocol()
        await super()._handle(headers, caller, chat_body(turn, stream=stream))

    async def _look_for_injection(self, text: str) -> None:
        """Note the flags of the text. Raises SuspiciousInput where the settings block them."""
        action = self._turns.conversations.settings.injection
        if action == "off":
            return
        self._log.flags = await in_turns(scan_in_steps(text))
        if self._log.flags:
            self._note_flags(WHERE)
            if action == "block":
                flags = ", ".join(self._log.flags)
                raise SuspiciousInput(f"The question looks like a prompt injection ({flags}).", param="text")

    def _name_protocol(self) -> None:
        self._response.more_headers = {**(self._response.more_headers or {}), PROTOCOL_HEADER: PROTOCOL}

    def _set_deadline(self, headers: Mapping[str, str], owner: str, question: NewQuestion) -> str | None:
        """Bound the wait for an equal question; the exchange sets the deadline of the answer.

        Return how the answer is to be delivered.
        """
        model = question.model or self._turns.conversations.model_of(owner, self._conversation)
        route = self.deps.gateway.routes.get(model)
        total_s = route.settings.timeouts.total_s if route else NEVER
        limit_s = min(total_s, deadline_s(headers) or total_s)
        self._timeouts.deadline_s = min(self._timeouts.deadline_s, self.started_s + limit_s)
        return delivery(headers) or (route.settings.delivery if route else None)

    async def _until_deadline(self, work: Awaitable[T]) -> T:
        try:
            return await self._timeouts.run("equal", NEVER, work)
        except TimedOut:
            raise DeadlineExceeded(TOO_LATE) from None

    async def _open(self, owner: str, question: NewQuestion) -> OpenTurn | None:
        """Open the turn; None: the same question was asked before. Raises ConversationNotFound."""
        if question.asked_as:
            self._equal = await self._turns.wait_for_equal(owner, self._conversation, question.asked_as)
            if self._equal is not None:
                return None
        self._turn = turn = self._turns.claim(owner, self._conversation, question)
        self._equal = await self._turns.open(turn)
        return turn if self._equal is None else None

    async def _take_in(self, request: AnyRequest, intake: Intake) -> AnyRequest:
        flags = self._log.flags
        request = await super()._take_in(request, intake)
        self._log.flags = tuple(sorted({*flags, *self._log.flags}))
        return request

    def _headers_of(self, answer: Answer) -> dict[str, str]:
        headers, turn = super()._headers_of(answer), self._open_turn
        if turn.pruned is not None:
            headers["x-dub5-pruned"] = f"turns={turn.pruned.turns};tokens={turn.pruned.tokens}"
        if turn.memory_lost:
            headers["x-dub5-memory"] = LOST
        return headers

    async def _send_json(self, answer: Answer) -> None:
        assert answer.reply is not None, "an answer is a stream or a reply"
        self._log.usage = answer.reply.usage
        self._said.add(answer.reply.body)
        headers, turn = self._headers_of(answer), self._open_turn
        view = await self.end(answer)
        await self._send_object(turn_object(view, turn.pruned, memory_lost=turn.memory_lost), headers)

    async def _send_object(self, value: object, headers: Mapping[str, str]) -> None:
        body = msgspec.json.encode(value)
        known = {"content-type": "application/json", "content-length": str(len(body))}
        await self._response.send_json(200, {**known, **headers}, body)

    async def _send_stream(self, stream: Chunks, answer: Answer) -> None:
        chunks = await stream.read()
        headers = self._headers_of(answer)
        messages = TurnStream(stream, self._open_turn, self._said, self._response, lambda: self.end(answer))
        first = messages.begin(self._log.route, answer, headers["x-dub5-trail"], chunks)
        await self._response.send_stream(headers, first, messages)

    async def _send_equal(self, stream: bool) -> None:
        """Send the end of the turn that had this question."""
        assert self._equal is not None, "there is one"
        self._log.route = self._equal.model
        headers = {"x-request-id": self.id, "x-dub5-route": self._equal.model}
        if not stream:
            await self._send_object(turn_object(self._equal), headers)
            return
        messages = repeated(self._equal, self._response)
        headers[PROTOCOL_HEADER] = PROTOCOL
        await self._response.send_stream(headers, await messages.read(), messages)

    @property
    def _open_turn(self) -> OpenTurn:
        assert self._turn is not None, "it is opened before an answer is looked for"
        return self._turn

    async def end(self, answer: Answer) -> Turn:
        """Write the end of a whole answer."""
        outcome = Outcome.COMPLETE if answer.degraded is None else Outcome.DEGRADED
        left_s = self._timeouts.deadline_s - clock.now()
        return await self._turns.end_kept(self._open_turn, self._end_of(self._open_turn, outcome), left_s)

    def _end_of(self, turn: OpenTurn, outcome: Outcome) -> TurnEnd:
        said, log = self._said, self._log
        target = log.target or ""
        return TurnEnd(
            outcome,
            log.route or turn.model,
            said.text,
            said.count(),
            said.question_count(turn, target),
            said.prompt_tokens,
            said.finish,
            log.target,
            log.degraded,
        )

    def _emit_request_ended(self, outcome: Outcome) -> None:
        turn = self._turn
        if turn is not None:
            if turn.view is None and not turn.unknown:
                self._turns.end(turn, self._end_of(turn, outcome))
            self._turns.release(turn)
        if (ended := self._equal or (turn.view if turn else None)) is not None:
            self.deps.events.emit(
                TurnEnded(
                    self.id,
                    ended.model,
                    ended.outcome or outcome,
                    ended.kept,
                    turn.memory_lost if turn else False,
                    self._equal is not None,
                    ended.conversation,
                    ended.id,
                    self._session.label if self._session else None,
                )
            )
        super()._emit_request_ended(outcome)
