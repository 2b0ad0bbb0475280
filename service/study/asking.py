"""A chat request that no client waits for: asked through the gateway as any other, with a low priority.

admission -> intake of the route -> gateway.answer -> the text; RequestEnded, whatever becomes of it

It is counted once among the requests in flight, and a drain may cut it. It takes no fallback answer and none
from the cache: a text that stands in for an answer is of no use here.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw, Struct

from dub5.service import clock
from dub5.service.admission.admission import Admission
from dub5.service.admission.sessions import Session
from dub5.service.errors import GatewayError, ShuttingDown
from dub5.service.events import Events, RequestEnded, SecurityKind, SecurityNoted
from dub5.service.failover.context import RequestContext
from dub5.service.gateway import Gateway, Route
from dub5.service.model import (
    ANONYMOUS,
    Caller,
    ChatBody,
    ChatRequest,
    Chunks,
    Message,
    Outcome,
    Priority,
    StreamOptions,
    Usage,
)
from dub5.service.providers.openai import sse_payload
from dub5.service.providers.slices import in_turns
from dub5.service.providers.usage import texts_of
from dub5.service.timeouts import Timeouts

TEXT_CHARS_MAX = 256 * 1024  # kept of an answer
CALLER, SESSION = "caller:", "session:"  # what owners begin with


class BackgroundQuestion(Struct, frozen=True):
    """What is asked, for whom, and how long an answer may take: until its first token, and as a whole."""

    owner: str
    model: str
    messages: list[dict[str, str]]
    first_s: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class Asker:
    """What asks in the background."""

    gateway: Gateway
    admission: Admission
    events: Events
    new_id: Callable[[], str]

    async def ask(self, question: BackgroundQuestion) -> str:
        """Return the text of the answer. Raises GatewayError."""
        return await _BackgroundRequest(self, question).run()


class _BackgroundRequest:
    """One request on its way."""

    def __init__(self, asker: Asker, question: BackgroundQuestion) -> None:
        self.id = asker.new_id()
        self._asker = asker
        self._question = question
        self._caller, self._session = _who(question.owner)
        self._started_s, self._started_ns = clock.now(), clock.tick_ns()
        self._timeouts = Timeouts(self._started_s + question.first_s)
        self._route = ""
        self._context: RequestContext | None = None
        self._target: str | None = None
        self._usage: Usage | None = None
        self._first_token_s: float | None = None
        self._overhead_s = 0.0
        self._cut = False

    async def run(self) -> str:
        """Return the text of the answer. Raises GatewayError."""
        outcome, code = Outcome.FAILED, None
        try:
            self._asker.admission.acquire(self)
            text = await self._answer()
            outcome = Outcome.COMPLETE
            return text
        except GatewayError as error:
            outcome = Outcome.CUT if self._first_token_s is not None else Outcome(error.outcome)
            code = error.code
            raise
        except asyncio.CancelledError:
            if not self._cut:
                outcome = Outcome.CANCELLED
                raise
            self._timeouts.task.uncancel()
            code = ShuttingDown.code
            raise ShuttingDown("This instance is shutting down.", retry_after_s=1.0) from None
        finally:
            self._timeouts.close()
            self._asker.admission.release(self)
            self._emit_request_ended(outcome, code)

    def cut_for_drain(self) -> None:
        """End with an error: the process ends."""
        if not self._cut:
            self._cut = True
            self._timeouts.task.cancel()

    async def _answer(self) -> str:
        gateway, question = self._asker.gateway, self._question
        route = gateway.route(question.model)
        self._route = route.settings.name
        request = await self._taken_in(_chat_request(self.id, self._caller, question), route)
        total_s = route.settings.timeouts.total_s
        self._timeouts.deadline_s = self._started_s + min(question.first_s, total_s)
        context = gateway.new_context(request, route, self._timeouts, self._started_s)
        context.has_fallback = False
        self._context = context
        answer = await gateway.answer(context, route)
        self._target = answer.target
        self._first_token_s = clock.now() - self._started_s
        took_ns = clock.tick_ns() - self._started_ns
        self._overhead_s = (took_ns - context.progress.upstream_ns) / 1e9
        self._timeouts.extend(self._started_s + min(question.whole_s, total_s))
        assert answer.stream is not None, "a stream was asked for"
        return await self._read(answer.stream)

    async def _taken_in(self, request: ChatRequest, route: Route) -> ChatRequest:
        """Return the request as the route sends it on. Raises InvalidRequest, SuspiciousInput."""
        if route.intake is None:
            return request
        request, flags = await in_turns(route.intake.take(request, by_caller=False))
        if flags:
            who = self._caller.key if self._session is None else self._session.label
            self._asker.events.emit(SecurityNoted(SecurityKind.INJECTION_FLAGGED, who, self._route))
            route.intake.refuse(flags)
        return request

    async def _read(self, stream: Chunks) -> str:
        texts: list[str] = []
        chars = 0
        try:
            while chunks := await stream.read():
                for chunk in chunks:
                    if chunk.raw and chars < TEXT_CHARS_MAX:
                        texts += (said := _texts_of_event(sse_payload(chunk.raw)))
                        chars += sum(map(len, said))
            return "".join(texts)
        finally:
            self._usage = stream.usage
            await stream.aclose()

    def _emit_request_ended(self, outcome: Outcome, code: str | None) -> None:
        context = self._context
        self._asker.events.emit(
            RequestEnded(
                request_id=self.id,
                caller=self._caller.key,
                route=self._route,
                outcome=outcome,
                code=code,
                target=self._target,
                stream=True,
                cached=False,
                first_token_s=self._first_token_s,
                total_s=clock.now() - self._started_s,
                overhead_s=self._overhead_s,
                usage=self._usage,
                attempts=tuple(context.progress.trail) if context else (),
                session=self._session.label if self._session else None,
            )
        )


def _who(owner: str) -> tuple[Caller, Session | None]:
    """Return the caller and the session that an owner is."""
    if owner.startswith(CALLER):
        return Caller(owner.removeprefix(CALLER), Priority.LOW), None
    return Caller(ANONYMOUS.key, Priority.LOW), Session(owner.removeprefix(SESSION))


def _chat_request(id_: str, caller: Caller, question: BackgroundQuestion) -> ChatRequest:
    fields: dict[str, Any] = {
        "model": question.model,
        "messages": question.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    messages = [Message(one["role"], one["content"]) for one in question.messages]
    body = ChatBody(question.model, messages, stream=True, stream_options=StreamOptions(include_usage=True))
    raw = {name: Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    return ChatRequest(id_, caller, body, raw, cache_allowed=False)


def _texts_of_event(payload: bytes) -> list[str]:
    """Return the text in an event of a stream; none in what cannot be read."""
    try:
        event = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    found: list[str] = []
    for choice in _list_in(event, "choices"):
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict):
            found += texts_of(delta.get("content"))
    return found


def _list_in(value: Any, name: str) -> Iterable[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, list) else ()
