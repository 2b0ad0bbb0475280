"""The exchange of a turn: the exchange of a chat, remembered. It writes to a LiveTurn, and to no connection.

read the question -> open its turn -> the exchange of a chat with the history -> write the end -> say the end

The gateway sees a chat request. Whatever becomes of it, the turn is ended in `_emit_request_ended`. A client
that leaves ends nothing: the turn goes on for `linger_s` without a listener.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from litestar.types import Scope

from dub5.service import clock
from dub5.service.admission.injection import scan_in_steps
from dub5.service.admission.intake import Intake
from dub5.service.admission.sessions import Session
from dub5.service.api.chat import ApiDependencies, EndedBy, Exchange, Phase
from dub5.service.api.peer import Peer, RequestHeaders
from dub5.service.api.schema import deadline_s, delivery
from dub5.service.api.turn_answer import TurnAnswer
from dub5.service.api.turn_body import BODY_BYTES_MAX, TurnBody, chat_body, owner_of, parse_turn
from dub5.service.api.turn_messages import LOST
from dub5.service.conversation.live_turn import (
    Begun,
    Failed,
    Finished,
    LiveTurn,
    Opened,
    TurnListener,
    TurnStep,
)
from dub5.service.conversation.model import NewQuestion, Turn, TurnEnd, estimated
from dub5.service.conversation.open_turn import OpenTurn
from dub5.service.conversation.turns import Turns
from dub5.service.errors import DeadlineExceeded, GatewayError, InvalidRequest, SuspiciousInput
from dub5.service.events import TurnEnded
from dub5.service.gateway import Answer
from dub5.service.model import AnyRequest, Caller, Chunks, Outcome
from dub5.service.providers.slices import in_turns
from dub5.service.timeouts import NEVER, TimedOut

T = TypeVar("T")
WHERE = "conversations"  # in security events
POSITION_DIGITS_MAX = 10
TOO_LATE = "The deadline passed before the question was asked: the same one may still be being answered."


class TurnExchange(Exchange):
    """One question of a conversation. Run it as a task of the process: `Turns.live.run`.

    `listener` is that of its client, once the question is open: of this turn, or of the one that had the
    same id. It raises the GatewayError of a question that is refused. `known`: who asks, where that was found
    out before.
    """

    def __init__(
        self,
        deps: ApiDependencies,
        turns: Turns,
        conversation: str,
        known: tuple[Caller, Session | None] | None = None,
    ) -> None:
        super().__init__(deps)
        self.listener: asyncio.Future[TurnListener] = asyncio.get_running_loop().create_future()
        self.is_held = False  # the answer is to be sent once it is whole
        self.begin_by_s = NEVER  # until when the client waits for the beginning of an equal question
        self._turns = turns
        self._conversation = conversation
        self._known = known
        self._turn: OpenTurn | None = None
        self._equal: LiveTurn | None = None  # the same question, asked before
        self._failed: Failed | None = None
        self._said = TurnAnswer()
        self._has_started = False
        self._linger_task: asyncio.Task[None] | None = None

    @property
    def more_headers(self) -> Mapping[str, str]:
        """The headers of an HTTP response, whatever it is."""
        return self._response.more_headers or {}

    @property
    def stream(self) -> bool:
        """Whether the client wants a stream; known once `listener` is done."""
        return self._log.stream

    @property
    def is_over(self) -> bool:
        """Whether the question was refused, or its turn has ended."""
        found = self.listener
        if not found.done():
            return False
        return found.cancelled() or found.exception() is not None or found.result().live.over is not None

    async def serve(self, scope: Scope, headers: RequestHeaders, peer: Peer) -> None:
        """Answer the question. Nothing is sent to `peer`."""
        self._has_started = True
        try:
            await super().serve(scope, headers, peer)
            await self._wait_until_kept()
        finally:
            self._close()

    def _identify(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        if self._known is None:
            return super()._identify(scope, headers)
        caller, self._session = self._known
        return caller

    async def _read_bounded(self, peer: Peer, bytes_max: int) -> bytes:
        return await super()._read_bounded(peer, min(bytes_max, BODY_BYTES_MAX))

    def _on_leave(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Note that the client is gone: it listens no more, nor to a turn that opens later.

        A turn that is not its own is not waited for.
        """
        if not self.listener.done():
            self.listener.add_done_callback(lambda _: self.leave())
        elif not self.listener.cancelled() and self.listener.exception() is None:
            self.listener.result().leave()
        if self._has_started and not self.is_over and (self._turn is None or self._turn.unknown):
            self._cancel(EndedBy.CLIENT)

    def _cancel(self, by: EndedBy) -> None:
        """Cancel the exchange, unless the answer is whole: its end is being written."""
        if self._turn is None or self._turn.view is None:
            super()._cancel(by)

    async def _handle(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> None:
        asked = parse_turn(headers, body, self._turns.conversations.settings.question_chars_max)
        after = parse_position(headers.get("last-event-id") or "0")
        owner = owner_of(caller, self._session)
        if asked.model is not None:
            self.deps.gateway.route(asked.model)
        self._find_conversation(owner, asked)
        await self._look_for_injection(asked.text)
        self._log.stream = bool(asked.stream)
        question = self._question(asked)
        self._set_deadline(headers, owner, question)
        if question.asked_as:
            equal = self._turns.find(owner, self._conversation, question.asked_as)
            if equal is not None:
                await self._join(equal, after)
                return
        self._turn = turn = self._turns.claim(owner, self._conversation, question)
        before = await self._until_deadline(self._turns.open(turn))
        if before is not None:
            self._turns.release(turn)
            turn.live.repeat(before)
            await self._join(turn.live, after)
            return
        live = turn.live
        live.stop = lambda: self._cancel(EndedBy.CLIENT)
        live.unheard, live.heard = self._begin_to_linger, self._end_lingering
        live.open(Opened(turn.asked_as, turn.conversation, turn.kept, question.flags))
        self.listener.set_result(live.listen())
        self._document = turn.grounding
        await super()._handle(headers, caller, chat_body(turn, stream=self._log.stream))

    def _find_conversation(self, owner: str, asked: TurnBody) -> None:
        """Do nothing: the client has named one."""

    def _question(self, asked: TurnBody) -> NewQuestion:
        count = estimated(asked.text)
        return NewQuestion(asked.text, asked.id or "", asked.model or "", self._log.flags, self.id, count)

    async def _join(self, equal: LiveTurn, after: int) -> None:
        """Let the client listen to the turn that has this question, and wait for its end."""
        self._equal = equal
        self.begin_by_s = self._timeouts.deadline_s
        self.listener.set_result(equal.listen(after))
        await equal.wait_until_over()
        if isinstance(equal.over, Finished):
            self._log.route = equal.over.view.model

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

    def _set_deadline(self, headers: Mapping[str, str], owner: str, question: NewQuestion) -> None:
        """Bound the wait for an equal question; the exchange sets the deadline of the answer."""
        model = question.model or self._turns.conversations.model_of(owner, self._conversation)
        route = self.deps.gateway.routes.get(model)
        total_s = route.settings.timeouts.total_s if route else NEVER
        limit_s = min(total_s, deadline_s(headers) or total_s)
        self._timeouts.deadline_s = min(self._timeouts.deadline_s, self.started_s + limit_s)
        how = delivery(headers) or (route.settings.delivery if route else None)
        self.is_held = self._log.stream and how == "whole"

    async def _until_deadline(self, work: Awaitable[T]) -> T:
        try:
            return await self._timeouts.run("equal", NEVER, work)
        except TimedOut:
            raise DeadlineExceeded(TOO_LATE) from None

    async def _heartbeat(self) -> None:
        """Do nothing: who carries the answer to the client sends heartbeats."""

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

    def _begin(self, answer: Answer) -> LiveTurn:
        """Say who answers: the commit point."""
        headers, turn = self._headers_of(answer), self._open_turn
        trail = headers["x-dub5-trail"]
        route, target = self._log.route, answer.target
        turn.live.begin(Begun(route, target, trail, answer.degraded, turn.pruned, turn.memory_lost, headers))
        return turn.live

    async def _send_json(self, answer: Answer) -> None:
        assert answer.reply is not None, "an answer is a stream or a reply"
        self._log.usage = answer.reply.usage
        text = self._said.add(answer.reply.body)
        live = self._begin(answer)
        if text:
            live.add(text)
        await self._end(answer)

    async def _send_stream(self, stream: Chunks, answer: Answer) -> None:
        chunks = await stream.read()
        live = self._begin(answer)
        while chunks:
            if text := self._said.add_events(chunk.raw for chunk in chunks):
                live.add(text)
            chunks = await stream.read()
        await self._end(answer)

    @property
    def _open_turn(self) -> OpenTurn:
        assert self._turn is not None, "it is opened before an answer is looked for"
        return self._turn

    async def _end(self, answer: Answer) -> None:
        """Write the end of a whole answer, and say it."""
        outcome = Outcome.COMPLETE if answer.degraded is None else Outcome.DEGRADED
        left_s, turn = self._timeouts.deadline_s - clock.now(), self._open_turn
        turn.live.end(Finished(await self._turns.end_kept(turn, self._end_of(turn, outcome), left_s)))

    def _end_of(self, turn: OpenTurn, outcome: Outcome) -> TurnEnd:
        said, log = self._said, self._log
        target = log.target or ""
        return TurnEnd(
            outcome,
            log.route or turn.model,
            said.text,
            said.count() if self._grounded is None else estimated(said.text),
            said.question_count(turn, target),
            said.prompt_tokens,
            said.finish,
            log.target,
            log.degraded,
            None if self._grounded is None else self._grounded.report,
        )

    async def _fail(self, error: GatewayError, outcome: Outcome | None = None) -> Outcome:
        self._phase = Phase.FAILING
        self._log.code = error.code
        if not self.listener.done():
            self.listener.set_exception(error)
            self.listener.exception()  # a client that is gone does not ask for it
        self._failed = Failed(error, self.id)
        return Outcome.CUT if self._has_begun() else outcome or Outcome(error.outcome)

    def _has_begun(self) -> bool:
        return self._turn is not None and self._turn.live.begun is not None

    def _begin_to_linger(self) -> None:
        self._linger_task = asyncio.create_task(self._linger(), name=f"linger {self.id}")

    def _end_lingering(self) -> None:
        if self._linger_task is not None:
            self._linger_task.cancel()
            self._linger_task = None

    async def _linger(self) -> None:
        """Wait for a listener; then end the turn, and so tell the provider."""
        linger_s = self._turns.conversations.settings.linger_s
        await asyncio.sleep(linger_s)
        while linger_s and await self._turns.is_watched(self._open_turn.live):
            await asyncio.sleep(linger_s)
        self._cancel(EndedBy.CLIENT)

    def _emit_request_ended(self, outcome: Outcome) -> None:
        turn = self._turn
        if turn is not None and turn.view is None and not turn.unknown:
            self._turns.end(turn, self._end_of(turn, outcome))
        if turn is not None and self._failed is not None:
            turn.live.end(self._failed)
        super()._emit_request_ended(outcome)

    async def _wait_until_kept(self) -> None:
        """Wait whether a turn is kept that was cancelled, before its end is said."""
        turn = self._turn
        if turn is not None and turn.view is not None and turn.live.over is None:
            turn.view = await self._turns.kept(turn, turn.view)

    def _close(self) -> None:
        """Say the end, whatever it is, and let the turn be found for a while."""
        self._end_lingering()
        if not self.listener.done():
            self.listener.cancel()
        turn, equal = self._turn, self._equal
        if turn is not None and equal is None:
            if turn.view is not None:
                turn.live.end(Finished(turn.view))
            self._turns.release(turn)
        ended = turn.view if turn is not None and equal is None else _view_of(equal)
        if ended is not None:
            self._emit_turn_ended(ended)

    def _emit_turn_ended(self, ended: Turn) -> None:
        self.deps.events.emit(
            TurnEnded(
                self.id,
                ended.model,
                ended.outcome or Outcome.FAILED,
                ended.kept,
                self._turn.memory_lost if self._turn else False,
                self._equal is not None,
                ended.conversation,
                ended.id,
                self._session.label if self._session else None,
            )
        )


def parse_position(text: str) -> int:
    """Return the number of a message. Raises InvalidRequest."""
    if text.isascii() and text.isdigit() and len(text) <= POSITION_DIGITS_MAX:
        return int(text)
    raise InvalidRequest("after: must be the `seq` of a message, a whole number.", param="after")


async def read_by(listener: TurnListener, until_s: float) -> list[TurnStep]:
    """Return what a listener hears. Raises DeadlineExceeded if that is nothing by then."""
    if until_s == NEVER:
        return await listener.read()
    try:
        async with asyncio.timeout_at(until_s):
            return await listener.read()
    except TimeoutError:
        raise DeadlineExceeded(TOO_LATE) from None


def _view_of(live: LiveTurn | None) -> Turn | None:
    return live.over.view if live is not None and isinstance(live.over, Finished) else None
