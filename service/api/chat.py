"""POST /v1/chat/completions: one exchange, from the first byte read to the last byte sent.

read body -> parse -> intake, where the route has one -> gateway.answer -> ResponseWriter (response.py)
the client is a Peer (peer.py): `serve` has one, and a call makes one of an ASGI server's
`_cancel` cancels the task when the client leaves, or when a drain cuts the exchange; `_ended_by` says which
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from litestar.types import Receive, Scope, Send
from msgspec import Struct
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.admission.admission import Admission
from dub5.service.admission.intake import Intake
from dub5.service.admission.rate_limit_gate import RateLimitGate
from dub5.service.admission.sessions import Session
from dub5.service.api.browser_sessions import BrowserSessions
from dub5.service.api.client_address import scope_address
from dub5.service.api.errors import ClientGone, report_crashes, request_id
from dub5.service.api.key_guard import GuardedCallers
from dub5.service.api.peer import AsgiPeer, Peer, RequestHeaders
from dub5.service.api.response import ResponseWriter, Sent
from dub5.service.api.schema import deadline_s, delivery, parse_chat, parse_large_chat
from dub5.service.api.stream import HEARTBEAT_S, trail_header
from dub5.service.config.settings import ServerSettings
from dub5.service.conversation.turns import Turns
from dub5.service.documents.documents import Documents
from dub5.service.errors import (
    GatewayError,
    InvalidRequest,
    RequestTimeout,
    ShuttingDown,
    StreamStalled,
    TooLarge,
)
from dub5.service.events import Events, RequestEnded, SecurityKind, SecurityNoted
from dub5.service.failover.context import RequestContext
from dub5.service.fallback.fallback import FallbackSource
from dub5.service.feedback.feedback import Feedback
from dub5.service.gateway import Answer, Gateway, Route
from dub5.service.jobs.jobs import Jobs
from dub5.service.model import AnyRequest, Caller, ChatRequest, Chunks, Outcome, Usage
from dub5.service.providers.slices import LARGE_BYTES, finish, in_turns
from dub5.service.study.decks import Decks
from dub5.service.timeouts import TimedOut, Timeouts

if TYPE_CHECKING:  # loaded by name, where a document is asked about
    from dub5.service.grounding.grounding import GroundedQuestion, Grounding

UPLOAD_S = 300.0
FINAL_ERROR_S = 2.0  # for the bytes of an error, whatever timeout has fired before
SPARE_UPLOAD_S = 0.2  # for the body of a request that no provider may be asked for
SPARE_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class ApiDependencies:
    """What every exchange needs."""

    gateway: Gateway
    admission: Admission
    callers: GuardedCallers
    events: Events
    server: ServerSettings
    new_id: Callable[[], str]
    feedback: Feedback
    sessions: BrowserSessions | None = None  # none: not configured
    gate: RateLimitGate | None = None  # none: nothing is limited
    turns: Turns | None = None  # none: conversations are not kept
    documents: Documents | None = None  # none: not configured
    jobs: Jobs | None = None  # none: there is no database
    decks: Decks | None = None  # none: there are no documents

    def identify(self, scope: Scope, headers: Mapping[str, str]) -> tuple[Caller, Session | None]:
        """Return who asks. Raises Unauthorized, RateLimited, CsrfRefused."""
        caller = self.callers.identify(headers.get("authorization", ""), scope)
        return caller, None if self.sessions is None else self.sessions.identify(scope, headers)


class _LogFields(Struct):
    """What the log says of an exchange."""

    caller: str = "anonymous"
    route: str = ""
    target: str | None = None
    stream: bool = False
    cached: bool = False
    degraded: str | None = None
    first_token_s: float | None = None
    overhead_s: float = 0.0
    code: str | None = None
    usage: Usage | None = None
    context: RequestContext | None = None
    flags: tuple[str, ...] = ()  # of a prompt injection that the request may be


class Phase(Enum):
    """Where an exchange is."""

    ANSWERING = auto()
    FAILING = auto()  # its error is being sent
    OVER = auto()


class EndedBy(Enum):
    """Who has cancelled an exchange."""

    CLIENT = auto()
    DRAIN = auto()


class Exchange:
    """One chat request, also as an ASGI application."""

    operation = ChatRequest.operation
    writer = ResponseWriter
    _document: "Grounding | None" = None  # what it is about, in place of the route's own document
    _grounded: "GroundedQuestion | None" = None  # the check of its answer

    def __init__(self, deps: ApiDependencies) -> None:
        self.deps = deps
        self.id = deps.new_id()
        self.started_s = clock.now()
        self._started_ns = 0  # when the body was there: a slow upload is not our overhead
        self._log = _LogFields()
        self._phase = Phase.ANSWERING
        self._ended_by: EndedBy | None = None
        self._session: Session | None = None
        self._refusal: GatewayError | None = None  # admission refused it: no provider may be asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.serve(scope, RequestHeaders.of_asgi(scope), AsgiPeer(receive, send))

    async def serve(self, scope: Scope, headers: RequestHeaders, peer: Peer) -> None:
        """Answer the request of this client. `headers`: those of the scope."""
        outcome = Outcome.FAILED
        self._timeouts = Timeouts(self.started_s + UPLOAD_S)  # until the request says which deadline it has
        self._response = self.writer(self.id, peer, self._timeouts, self.deps.server.client_stall_s)
        try:
            if headers.count > self.deps.server.headers_max:
                headers_max = self.deps.server.headers_max
                raise InvalidRequest(f"The request has more than {headers_max} headers.")
            self.id = self._response.request_id = request_id(headers, self.id)
            self._refusal = self._admit()
            caller = self._identify(scope, headers)
            self._log.caller = caller.key
            if self.deps.gate is not None:
                await self._pass_gate(self.deps.gate, scope, caller)
            body = await self._read_body(peer)
            self._started_ns = clock.tick_ns()
            peer.watch(self._on_leave)
            await report_crashes(self._handle(headers, caller, body), self.id, self.deps.events)
            outcome = Outcome.DEGRADED if self._log.degraded else Outcome.COMPLETE
        except GatewayError as error:
            outcome = await self._fail(error)
        except ClientGone:
            outcome = Outcome.CANCELLED
        except asyncio.CancelledError:
            outcome = await self._cancelled()
        finally:
            self._phase = Phase.OVER
            if self._ended_by is not None:
                self._uncancel()
            self._timeouts.close()
            peer.unwatch()
            self.deps.admission.release(self)
            self._emit_request_ended(outcome)

    def _identify(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        """Return the caller, and note the session. Raises Unauthorized, RateLimited, CsrfRefused."""
        caller, self._session = self.deps.identify(scope, headers)
        return caller

    async def _pass_gate(self, gate: RateLimitGate, scope: Scope, caller: Caller) -> None:
        """Count the request against the rate limits. Raises RateLimited."""
        passage = await gate.admit(scope_address(scope), self._session, caller)
        self._response.more_headers = passage.headers
        if passage.refusal is not None:
            raise passage.refusal

    def cut_for_drain(self) -> None:
        """End the exchange with an honest error: the process ends."""
        if self._ended_by is None and self._phase is Phase.ANSWERING:
            self._cancel(EndedBy.DRAIN)

    def _cancel(self, by: EndedBy) -> None:
        """Cancel the exchange, unless it is over or all of the response is out."""
        if self._phase is not Phase.OVER and self._response.sent is not Sent.ALL:
            self._ended_by = by
            self._timeouts.task.cancel()

    def _uncancel(self) -> None:
        while self._timeouts.task.cancelling():
            self._timeouts.task.uncancel()

    async def _handle(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> None:
        log, timeouts = self._log, self._timeouts
        if len(body) > LARGE_BYTES:
            request = await self._parse_large(headers, caller, body)
        else:
            request = self._parse(headers, caller, body)
        route = self.deps.gateway.route(request.body.model)
        log.route, log.stream = route.settings.name, request.stream
        if route.intake is not None:
            request = await self._take_in(request, route.intake)
        document = self._document or route.grounding
        if document is not None:
            request = self._ground(request, document)
        total_s = route.settings.timeouts.total_s
        timeouts.deadline_s = self.started_s + min(total_s, deadline_s(headers) or total_s)
        how = delivery(headers) or route.settings.delivery
        whole = request.stream and how == "whole"
        context = self.deps.gateway.new_context(request, route, timeouts, self.started_s, deliver_whole=whole)
        log.context = context
        heartbeat = asyncio.create_task(self._heartbeat(), name=f"heartbeat {self.id}") if whole else None
        try:
            answer = await self._ask(context, route)
        except BaseException:
            if heartbeat is not None:
                await end_task(heartbeat)
            raise
        try:
            if heartbeat is not None:  # it could send in the middle of the answer
                await end_task(heartbeat)
            await self._send(answer)
        finally:
            if answer.stream is not None:
                log.usage = answer.stream.usage
                await answer.stream.aclose()

    async def _take_in(self, request: AnyRequest, intake: Intake) -> AnyRequest:
        """Return the request as the route sends it on.

        Raises InvalidRequest, QuestionTooLong, TooLarge, SuspiciousInput.
        """
        if not isinstance(request, ChatRequest):
            return request
        steps = intake.take(request)
        request, self._log.flags = await in_turns(steps) if request.large else finish(steps)
        if self._log.flags:
            self._note_flags(self._log.route)
            intake.refuse(self._log.flags)
        return request

    def _ground(self, request: AnyRequest, document: "Grounding") -> AnyRequest:
        """Return the request with the passages of the document. Raises InvalidRequest."""
        if isinstance(request, ChatRequest):
            request, self._grounded = document.ask(request)
        return request

    def _note_flags(self, where: str) -> None:
        who = self._log.caller if self._session is None else self._session.label
        self.deps.events.emit(SecurityNoted(SecurityKind.INJECTION_FLAGGED, who, where))

    def _send(self, answer: Answer) -> Awaitable[None]:
        log, timeouts = self._log, self._timeouts
        log.target, log.cached, log.degraded = answer.target, answer.cached, answer.degraded
        if answer.degraded is not None:  # the deadline may be why; the fallback answer still has to go out
            timeouts.deadline_s = max(timeouts.deadline_s, clock.now() + FINAL_ERROR_S)
        if self._grounded is not None:
            if answer.degraded in (None, FallbackSource.STALE):
                return self._send_grounded(answer, self._grounded)
            self._grounded = None  # a text of our own, which is labelled
        return self._send_json(answer) if answer.stream is None else self._send_stream(answer.stream, answer)

    async def _send_grounded(self, answer: Answer, question: "GroundedQuestion") -> None:
        """Send what of the answer its document supports."""
        if answer.stream is not None:
            await self._send_stream(question.stream(answer.stream), answer)
            return
        assert answer.reply is not None, "an answer is a stream or a reply"
        await self._send_json(replace(answer, reply=await question.reply(answer.reply)))

    async def _send_stream(self, stream: Chunks, answer: Answer) -> None:
        chunks = await stream.read()
        await self._response.send_stream(self._headers_of(answer), chunks, stream)

    def _admit(self) -> GatewayError | None:
        return self.deps.admission.acquire(self, spare=self.deps.gateway.has_fallbacks)

    def _parse(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> AnyRequest:
        return parse_chat(self.id, caller, headers, body, self.deps.server.json_depth_max)

    async def _parse_large(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> AnyRequest:
        return await in_turns(
            parse_large_chat(self.id, caller, headers, body, self.deps.server.json_depth_max)
        )

    async def _ask(self, context: RequestContext, route: Route) -> Answer:
        if self._refusal is not None:
            return await self.deps.gateway.answer_without_providers(self._refusal, context, route)
        return await self.deps.gateway.answer(context, route)

    async def _heartbeat(self) -> None:
        """Send a comment now and then, to a client whose answer is held until it is whole."""
        headers = {"x-request-id": self.id}
        if self._log.route:
            headers["x-dub5-route"] = self._log.route
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self._response.send_heartbeat(headers)
            except TimeoutError:
                self._cancel(EndedBy.CLIENT)
                return

    async def _send_json(self, answer: Answer) -> None:
        assert answer.reply is not None, "an answer is a stream or a reply"
        body, self._log.usage = answer.reply.body, answer.reply.usage
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        await self._response.send_json(200, headers | self._headers_of(answer), body)

    def _headers_of(self, answer: Answer) -> dict[str, str]:
        """Return the headers that say which target answered, and after which attempts."""
        log = self._log
        assert log.context is not None, "there is a context before there is an answer"
        progress = log.context.progress
        log.first_token_s = clock.now() - self.started_s
        log.overhead_s = (clock.tick_ns() - self._started_ns - progress.upstream_ns) / 1e9
        headers = {
            "x-request-id": self.id,
            "x-dub5-route": log.route,
            "x-dub5-target": answer.target,
            "x-dub5-trail": trail_header(progress.trail, answer, log.first_token_s),
        }
        if answer.cache is not None:
            headers["x-dub5-cache"] = answer.cache
        if answer.degraded is not None:
            headers["x-dub5-degraded"] = answer.degraded
        if answer.shared:
            headers["x-dub5-shared"] = "true"
        if log.flags:
            headers["x-dub5-flags"] = ",".join(log.flags)
        return headers

    async def _fail(self, error: GatewayError, outcome: Outcome | None = None) -> Outcome:
        """Send the error. Return the outcome: `cut` if some of the answer was out before."""
        self._phase = Phase.FAILING
        self._log.code = error.code
        self._timeouts.deadline_s = clock.now() + FINAL_ERROR_S
        begun = self._response.sent in (Sent.EVENTS, Sent.JSON)
        try:
            await self._response.send_error(error)
        except (ClientGone, StreamStalled):
            return Outcome.CANCELLED
        except asyncio.CancelledError:
            if self._ended_by is not EndedBy.CLIENT:
                raise
            return Outcome.CANCELLED
        return Outcome.CUT if begun else outcome or Outcome(error.outcome)

    async def _cancelled(self) -> Outcome:
        """Return the outcome of a cancelled exchange.

        Raises CancelledError if the server has cancelled it.
        """
        if self._ended_by is EndedBy.CLIENT:
            return Outcome.CANCELLED
        if self._ended_by is None:
            raise asyncio.CancelledError
        self._uncancel()  # or the sending below would be cancelled as well
        attempts = self._log.context.progress.trail if self._log.context else ()
        error = ShuttingDown(
            f"This instance is shutting down; {self._how_far()}.", retry_after_s=1.0, attempts=attempts
        )
        return await self._fail(error, Outcome.FAILED)

    def _how_far(self) -> str:
        """Return how far the exchange has come, for who is told that it is cut."""
        return "the answer is not whole" if self._has_begun() else "no provider had answered yet"

    def _has_begun(self) -> bool:
        return self._response.sent is not Sent.NOTHING

    async def _read_body(self, peer: Peer) -> bytes:
        """Return the body; a refused request has little room and time for it.

        Raises TooLarge, ClientGone, or the refusal.
        """
        bytes_max = self.deps.server.request_bytes_max
        if self._refusal is None:
            return await self._read_bounded(peer, bytes_max)
        try:
            async with asyncio.timeout(SPARE_UPLOAD_S):
                return await self._read_bounded(peer, min(bytes_max, SPARE_BYTES_MAX))
        except (TimeoutError, TooLarge):
            raise self._refusal from None

    async def _read_bounded(self, peer: Peer, bytes_max: int) -> bytes:
        """Return the whole body, bounded in size; each wait is bounded, too.

        Raises TooLarge, Overloaded, RequestTimeout, ClientGone.
        """
        whole = peer.whole_body()
        if whole is not None:
            self._hold(len(whole), bytes_max)
            return whole
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            part, more = await self._next_part(peer)
            size += len(part)
            self._hold(size, bytes_max)
            parts.append(part)
        return b"".join(parts)

    def _hold(self, size: int, bytes_max: int) -> None:
        """Count what has come of the body. Raises TooLarge, Overloaded."""
        if size > bytes_max:
            raise TooLarge(f"The body is larger than {bytes_max:,} bytes.")
        self.deps.admission.hold_body(self, size)

    async def _next_part(self, peer: Peer) -> tuple[bytes, bool]:
        stall_s = self.deps.server.client_stall_s
        try:
            return await self._timeouts.run("client_stall", stall_s, peer.read())
        except TimedOut:
            raise RequestTimeout(
                f"The body did not arrive in time: {stall_s:g} s may pass between two parts of it,"
                f" and {UPLOAD_S:g} s until its end.",
                retry_after_s=1.0,
            ) from None

    def _on_leave(self) -> None:
        """End the exchange: its client has left."""
        self._cancel(EndedBy.CLIENT)

    def _emit_request_ended(self, outcome: Outcome) -> None:
        log = self._log
        self.deps.events.emit(
            RequestEnded(  # four by position: a call with more than 15 names makes Python build a dictionary
                self.id,
                log.caller,
                log.route,
                outcome,
                code=log.code,
                target=log.target,
                stream=log.stream,
                cached=log.cached,
                degraded=log.degraded,
                first_token_s=log.first_token_s,
                total_s=clock.now() - self.started_s,
                overhead_s=log.overhead_s,
                usage=log.usage,
                attempts=tuple(log.context.progress.trail) if log.context else (),
                operation=self.operation,
                shared=bool(log.context and log.context.shared),
                session=self._session.label if self._session else None,
            )
        )


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has ended."""
    task.cancel()
    await asyncio.wait({task})
