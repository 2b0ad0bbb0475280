"""POST /v1/chat/completions: one exchange, from the first byte read to the last byte sent.

read body -> parse -> gateway.answer -> JSON, or head + events (api/stream)
the client leaves, the drain ends it, a clock runs out: the task is cancelled once, and knows by whom
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from litestar.types import HTTPResponseStartEvent, Receive, Scope, Send

from dub5.service import clock
from dub5.service.admission.admission import Admission, Callers
from dub5.service.api.errors import ClientGone, error_body, error_headers, report_crashes
from dub5.service.api.schema import deadline_s, delivery, parse_chat
from dub5.service.api.stream import DONE, HEARTBEAT, HEARTBEAT_S, SSE_HEADERS, error_event, trail_header
from dub5.service.config.settings import ServerSettings
from dub5.service.errors import GatewayError, InvalidRequest, ShuttingDown, StreamStalled, TooLarge
from dub5.service.events import Events, RequestEnded
from dub5.service.failover.context import RequestContext
from dub5.service.gateway import Answer, Gateway, Route
from dub5.service.model import AnyRequest, Caller, ChatRequest, Outcome, Usage
from dub5.service.timeouts import TimedOut, Timeouts

T = TypeVar("T")
UPLOAD_S = 300.0
FINAL_ERROR_S = 2.0  # for an error's own bytes, whatever clock has run out before
PIECE_BYTES = 64 * 1024
SPARE_UPLOAD_S = 0.2  # for the body of a request without a place
SPARE_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class ApiDependencies:
    """What every exchange needs."""

    gateway: Gateway
    admission: Admission
    callers: Callers
    events: Events
    server: ServerSettings
    new_id: Callable[[], str]


@dataclass(slots=True)
class _LogFields:
    """What the log will say of this exchange."""

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
    context: RequestContext | None = field(default=None, repr=False)


class Exchange:
    """One chat request, as an ASGI application."""

    operation = ChatRequest.operation

    def __init__(self, deps: ApiDependencies) -> None:
        self.deps = deps
        self.id = deps.new_id()
        self.started_s = clock.now()
        self._started_ns = clock.tick_ns()
        self._log = _LogFields()
        self._timeouts = Timeouts(self.started_s + UPLOAD_S)  # until the request says which deadline it has
        self._task = asyncio.current_task()
        self._left = self._drained = self._head_sent = self._streaming = self._telling = self._over = False
        self._refusal: GatewayError | None = None  # there was no place: nobody may be asked
        self._began = False  # some of the answer was sent
        self._all_sent = (
            False  # from then on nothing can be cut: what looks like a client that left is the end
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher: asyncio.Task[None] | None = None
        outcome = Outcome.FAILED
        try:
            self._refusal = self._admit()
            headers = _headers(scope, self.deps.server.headers_max)
            caller = self.deps.callers.identify(headers.get("authorization", ""))
            self._log.caller = caller.key
            body = await self._read_body(receive)
            self._started_ns = clock.tick_ns()  # a slow upload is not our overhead
            watcher = asyncio.create_task(self._wait_for_disconnect(receive), name=f"disconnect {self.id}")
            await report_crashes(self._handle(headers, caller, body, send), self.id, self.deps.events)
            outcome = Outcome.DEGRADED if self._log.degraded else Outcome.COMPLETE
        except GatewayError as error:
            outcome = await self._send_error(error, send)
        except ClientGone:
            outcome = Outcome.CANCELLED
        except asyncio.CancelledError:
            outcome = await self._cancelled(send)
        finally:
            self._over = True
            if self._left or self._drained:
                self._uncancel()
            self._timeouts.close()
            if watcher is not None:
                watcher.cancel()
            self.deps.admission.release(self)
            self._emit_request_ended(outcome)

    def cut_for_drain(self) -> None:
        """The process ends: an honest error now."""
        if not (self._over or self._all_sent or self._drained or self._telling):
            self._drained = True
            self._cancel()

    async def _handle(self, headers: Mapping[str, str], caller: Caller, body: bytes, send: Send) -> None:
        deps, log = self.deps, self._log
        request = self._parse(headers, caller, body)
        route = deps.gateway.route(request.body.model)
        log.route, log.stream = route.settings.name, request.stream
        timeout_options = route.settings.timeouts
        self._timeouts.deadline_s = self.started_s + min(
            timeout_options.total_s, deadline_s(headers) or timeout_options.total_s
        )
        how = delivery(headers) or route.settings.delivery
        log.context = context = RequestContext(
            request, log.route, timeout_options, route.reject_patterns, self._timeouts, self.started_s
        )
        context.deliver_whole = request.stream and how == "whole"
        heartbeat = (
            asyncio.create_task(self._heartbeat(send), name=f"heartbeat {self.id}")
            if context.deliver_whole
            else None
        )
        try:
            answer = await self._ask_gateway(context, route)
        finally:
            if heartbeat is not None:
                heartbeat.cancel()
                await asyncio.wait({heartbeat})
        log.target, log.cached, log.degraded = answer.target, answer.cached, answer.degraded
        if answer.degraded is not None:  # the time may be up: that is why
            self._timeouts.deadline_s = max(self._timeouts.deadline_s, clock.now() + FINAL_ERROR_S)
        if answer.stream is None:
            await self._send_json(answer, send)
        else:
            try:
                await self._send_stream(answer, send)
            finally:
                log.usage = answer.stream.usage
                await answer.stream.aclose()

    def _admit(self) -> GatewayError | None:
        return self.deps.admission.acquire(self, spare=self.deps.gateway.has_fallbacks)

    def _parse(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> AnyRequest:
        return parse_chat(self.id, caller, headers, body, self.deps.server.json_depth_max)

    async def _ask_gateway(self, context: RequestContext, route: Route) -> Answer:
        if self._refusal is not None:
            return await self.deps.gateway.answer_without_providers(self._refusal, context, route)
        return await self.deps.gateway.answer(context, route)

    async def _send_json(self, answer: Answer, send: Send) -> None:
        assert answer.reply is not None, "an answer is a stream or a reply"
        body, self._log.usage = answer.reply.body, answer.reply.usage
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        await self._send_head(200, headers | self._response_headers(answer), send)
        self._began = True
        # In pieces, so that a client that does not read is noticed before all of it lies in our memory.
        for at in range(0, len(body), PIECE_BYTES):
            more = at + PIECE_BYTES < len(body)
            await self._send_body(body[at : at + PIECE_BYTES], send, more=more)

    async def _send_stream(self, answer: Answer, send: Send) -> None:
        stream = answer.stream
        assert stream is not None, "an answer is a stream or a reply"
        chunks = await stream.read()
        headers = self._response_headers(answer)
        if not self._head_sent:
            await self._send_head(200, SSE_HEADERS | headers, send)
        self._streaming = True
        self._began = True
        while chunks:
            if data := b"".join([chunk.raw for chunk in chunks]):
                await self._within_client_stall(
                    send({"type": "http.response.body", "body": data, "more_body": True})
                )
            chunks = await stream.read()
        await self._send_body(DONE, send, more=False)

    async def _heartbeat(self, send: Send) -> None:
        """Keeps a client patient whose answer is held until it is whole: a comment now and then. The first one commits
        the status."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                async with asyncio.timeout(self.deps.server.client_stall_s):
                    if not self._head_sent:
                        self._head_sent = self._streaming = True
                        await send(
                            _response_start(
                                200, SSE_HEADERS | {"x-request-id": self.id, "x-dub5-route": self._log.route}
                            )
                        )
                    await send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
            except TimeoutError:
                self._left = True
                self._cancel()
                return

    def _response_headers(self, answer: Answer) -> dict[str, str]:
        """The headers that say who answered, after what."""
        log = self._log
        assert log.context is not None, "there is a task before there is an answer"
        log.first_token_s = clock.now() - self.started_s
        log.overhead_s = (clock.tick_ns() - self._started_ns - log.context.upstream_ns) / 1e9
        headers = {
            "x-request-id": self.id,
            "x-dub5-route": log.route,
            "x-dub5-target": answer.target,
            "x-dub5-trail": trail_header(log.context.trail, answer, log.first_token_s),
        }
        if answer.cache is not None:
            headers["x-dub5-cache"] = answer.cache
        if answer.degraded is not None:
            headers["x-dub5-degraded"] = answer.degraded
        if answer.shared:
            headers["x-dub5-shared"] = "true"
        return headers

    async def _send_error(self, error: GatewayError, send: Send, outcome: Outcome | None = None) -> Outcome:
        """The error, as the head still allows: a status and JSON, or a last event."""
        self._telling = True
        self._log.code = error.code
        self._timeouts.deadline_s = clock.now() + FINAL_ERROR_S
        body = msgspec.json.encode(error_body(error, self.id))
        try:
            if not self._head_sent:
                headers = error_headers(error, self.id) | {"content-length": str(len(body))}
                await self._send_head(error.status, headers, send)
                await self._send_body(body, send, more=False)
                return outcome or Outcome(error.outcome)
            if self._streaming:
                await self._send_body(error_event(body), send, more=False)
            if not self._began:  # only heartbeats so far: it is no cut answer, it is none
                return outcome or Outcome(error.outcome)
        except (ClientGone, StreamStalled):
            return Outcome.CANCELLED
        except asyncio.CancelledError:
            if not self._left:
                raise
            return Outcome.CANCELLED
        return (
            Outcome.CUT
        )  # inside a JSON body nothing can be said: it ends too short, which its length shows

    async def _cancelled(self, send: Send) -> Outcome:
        """By the client, by the drain, or by whoever runs us; only the last one wants the cancellation back."""
        if self._left:
            return Outcome.CANCELLED
        if not self._drained:
            raise asyncio.CancelledError
        self._uncancel()  # or the sending below would be cancelled as well
        attempts = self._log.context.trail if self._log.context else ()
        how = "the answer is not whole" if self._head_sent else "no provider had answered yet"
        error = ShuttingDown(f"This instance is shutting down; {how}.", retry_after_s=1.0, attempts=attempts)
        return await self._send_error(error, send, Outcome.FAILED)

    async def _send_head(self, status: int, headers: dict[str, str], send: Send) -> None:
        await self._within_client_stall(send(_response_start(status, headers)))
        self._head_sent = True

    async def _send_body(self, data: bytes, send: Send, *, more: bool) -> None:
        await self._within_client_stall(send({"type": "http.response.body", "body": data, "more_body": more}))
        self._all_sent = not more

    async def _within_client_stall(self, exchange: Awaitable[T]) -> T:
        """Waits for a client that does not read, or does not write, but not for ever. Raises ClientGone."""
        try:
            return await self._timeouts.run("client_stall", self.deps.server.client_stall_s, exchange)
        except TimedOut as timed_out:
            if timed_out.timeout == "client_stall" or not self._streaming:
                raise ClientGone from None
            raise StreamStalled("The time allowed ran out before the answer was whole.") from None

    async def _read_body(self, receive: Receive) -> bytes:
        """The body. That of a request without a place is small and soon here. Raises TooLarge, ClientGone, the refusal."""
        bytes_max = self.deps.server.request_bytes_max
        if self._refusal is None:
            return await self._read_bounded(receive, bytes_max)
        try:
            async with asyncio.timeout(SPARE_UPLOAD_S):
                return await self._read_bounded(receive, min(bytes_max, SPARE_BYTES_MAX))
        except (TimeoutError, TooLarge):
            raise self._refusal from None

    async def _read_bounded(self, receive: Receive, bytes_max: int) -> bytes:
        """The whole body, bounded in size and in patience. Raises TooLarge, ClientGone."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._within_client_stall(receive())
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message["body"]  # type: ignore[typeddict-item]
            size += len(part)
            if size > bytes_max:
                raise TooLarge(f"The body is larger than {bytes_max:,} bytes.")
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not (self._over or self._all_sent):
            self._left = True
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _uncancel(self) -> None:
        while self._task is not None and self._task.cancelling():
            self._task.uncancel()

    def _emit_request_ended(self, outcome: Outcome) -> None:
        log = self._log
        self.deps.events.emit(
            RequestEnded(
                request_id=self.id,
                caller=log.caller,
                route=log.route,
                outcome=outcome,
                code=log.code,
                target=log.target,
                stream=log.stream,
                cached=log.cached,
                degraded=log.degraded,
                first_token_s=log.first_token_s,
                total_s=clock.now() - self.started_s,
                overhead_s=log.overhead_s,
                usage=log.usage,
                attempts=tuple(log.context.trail) if log.context else (),
                operation=self.operation,
                shared=bool(log.context and log.context.shared),
            )
        )


def _response_start(status: int, headers: Mapping[str, str]) -> HTTPResponseStartEvent:
    raw = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


def _headers(scope: Scope, headers_max: int) -> dict[str, str]:
    raw = list(scope["headers"])
    if len(raw) > headers_max:
        raise InvalidRequest(f"The request has more than {headers_max} headers.")
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}
