"""Attempt: one call of one target, from its permit to its end; and the stream that it may bring.

Attempt.open           encode, send, read up to the COMMIT POINT: the first content, or the whole JSON answer
StreamedAnswer.read    chunks as they are ready; the end is an honest end, or it is a StreamCut
StreamedAnswer.aclose  always called: releases the permit, closes the connection, completes the trail
"""

from collections.abc import Awaitable, Callable

import msgspec

from dub5.service import clock
from dub5.service.errors import StreamCut, StreamStalled
from dub5.service.events import AttemptEnded
from dub5.service.failover.account_words import without_key
from dub5.service.failover.body import ResponseBody
from dub5.service.failover.context import BufferedAnswer, Dependencies, RequestContext
from dub5.service.failover.hedging import first_look_s, silent_after_s, slow_after_s
from dub5.service.failover.rejected_content import JUDGED_CHARS, JUDGED_S, reply_text, text_so_far
from dub5.service.model import AnyRequest, AttemptRecord, ChatRequest, Chunk, EmbedRequest, Target, Usage
from dub5.service.providers.base import (
    BLANK,
    EncodedRequest,
    ProviderFault,
    StreamReader,
    Unsupported,
    decode_reply,
    encode_large,
    encode_request,
    may_end_empty,
    refusal_or,
)
from dub5.service.providers.features import Feature, fits
from dub5.service.providers.finish import FILTERED
from dub5.service.providers.json_prompt import FIELD as JSON_MODE
from dub5.service.providers.json_prompt import with_json_prompt
from dub5.service.providers.quota_left import REMAINING
from dub5.service.providers.slices import finish, in_turns
from dub5.service.providers.sse import is_json_lines
from dub5.service.providers.usage import estimate_prompt
from dub5.service.resilience.classify import Blame, Classification, Then, classify
from dub5.service.resilience.permit import Permit
from dub5.service.timeouts import NEVER, TimedOut, Timeouts
from dub5.service.wire.base import WireFailure, WireRequest

WHOLE_BYTES_MAX = 4 * 1024 * 1024  # of a stream that is held to its end
UNREADABLE = "The provider sent something unreadable before the answer was whole."
CUT_MESSAGES = {
    "truncated": "The provider ended the answer before it was whole.",
    "error_event": "The provider reported an error before the answer was whole.",
    **dict.fromkeys(("garbled", "not_json", "event_too_long", "body_protocol"), UNREADABLE),
}
NO_EVENTS = (b"{", b"[", b"<")  # how JSON and HTML begin
PLAIN = "plain"  # kind of an attempt without the fields of our own, after a refusal that names one
PROBE_MAX_S = 120.0  # of a probe's first token, where it is not known what is usual
ATTEMPT_MIN_S = 0.05  # an attempt with less time left cannot bring an answer
LOOK_AGAIN_S = 1.0  # at an attempt that is overdue
TAIL_S = 1.0  # how long a provider may take to end a stream whose answer is already whole

ATTEMPT_ERRORS = (WireFailure, ProviderFault, TimedOut, Unsupported)
NOBODY = Blame.NOBODY
CANCELLED = Classification(Then.GIVE_UP, NOBODY, "cancelled", maybe_billed=True)
# Another target was faster.
SUPERSEDED = Classification(Then.GIVE_UP, NOBODY, "hedge_lost", maybe_billed=True)


def has_time(timeouts: Timeouts, now_s: float, wait_s: float = 0.0) -> bool:
    """Return whether an attempt that begins after `wait_s` may still bring an answer."""
    return timeouts.deadline_s - now_s >= wait_s + ATTEMPT_MIN_S


class Attempt:
    """One attempt at one target. `timeouts` bound its waits; `kind` is its name in the trail."""

    _tells_quota = False  # its response says what is left of limits
    _silent_at_s: float  # known where `_on_wait` will be called

    def __init__(
        self,
        dependencies: Dependencies,
        context: RequestContext,
        target: Target,
        permit: Permit,
        timeouts: Timeouts,
        kind: str = "first",
    ) -> None:
        self.dependencies = dependencies
        self.context = context
        self.target = target
        self.timeouts = timeouts
        self.kind = kind
        self.started_s = clock.now()
        self.first_token_s: float | None = None
        self.status: int | None = None
        self.dropped: tuple[str, ...] = ()
        self.reader: StreamReader | None = None
        self.usage: Usage | None = None
        self._permit = permit
        permit.streams = context.request.stream
        self._latency = dependencies.hedges.history(target, context.latency_class)
        permit.usual_s = self._latency.usual_s
        self.on_silence: Callable[[], None] | None = None
        self._upstream = dependencies.upstreams[target]
        dependencies.last_operations[target] = context.request.operation
        self.body: ResponseBody | None = None
        self._ended = False

    async def open(self, fresh: bool) -> "BufferedAnswer | StreamedAnswer":
        """Call the target, and return its answer at the commit point. Raises one of ATTEMPT_ERRORS."""
        context, options = self.context, self.context.timeout_options
        call = await self._encode_in_steps() if context.request.large else None
        wire_request = self._request(fresh, call)
        if self._permit.streams:
            name, limit_s = "first_token", options.first_token_s
        else:
            name, limit_s = "whole_answer", options.whole_answer_s
        silent_s = silent_after_s(self._permit.usual_s, options)
        if self._permit.probe:  # probes that hang must not heap up
            limit_s = min(limit_s, PROBE_MAX_S if self._permit.usual_s is None else silent_s)
        if silent_s < limit_s:
            self._silent_at_s = self.started_s + silent_s
            look_at_s = self.started_s + first_look_s(self._permit.usual_s, options)
            self.timeouts.notify_at(look_at_s, self._on_wait)
        try:
            answer = await self.timeouts.run(name, limit_s, self._answer(wire_request))
        finally:
            self.timeouts.notice = None
        if context.reject_patterns:
            await self._reject_by_content(answer)
        now_s = clock.now()
        self.first_token_s = now_s - context.started_s
        took_s = now_s - self.started_s
        self._latency.add(took_s, now_s)
        if isinstance(answer, BufferedAnswer):
            self.usage = answer.reply.usage
            self.end(None, now_s)
            await self.close()
        else:
            slow_s = limit_s
            if silent_s < limit_s:
                slow_s = slow_after_s(self._permit.usual_s, options)
            self._permit.commit(now_s, took_s, slow_s, usual_counts=silent_s < limit_s)
            if context.deliver_whole:
                await answer.hold_all()
        return answer

    def _on_wait(self) -> None:
        """See whether the target is silent; if not yet, look again soon.

        Until `hedge_after_s` it is silent only if it has stopped to answer at all; no failure yet.
        """
        now_s, options = clock.now(), self.context.timeout_options
        interval_s = options.hedge_after_s
        mute = self._permit.note_wait(now_s, interval_s)
        if (left_s := self.started_s + interval_s - now_s) > 0.0:
            again_s = left_s if mute else min(left_s, LOOK_AGAIN_S)
            self.timeouts.notify_at(now_s + again_s, self._on_wait)
            if mute:
                self._permit.note_mute(now_s)
                if self.on_silence is not None:
                    self.on_silence()
            return
        if not mute and now_s < self._silent_at_s:
            self.timeouts.notify_at(min(now_s + interval_s, self._silent_at_s), self._on_wait)
            return
        late = self._latency.is_stalled(now_s - self.started_s)
        self._permit.note_silence(now_s, late=late, mute=mute)
        if self.on_silence is not None:
            self.on_silence()

    async def _answer(self, wire_request: WireRequest) -> "BufferedAnswer | StreamedAnswer":
        response = await self.dependencies.wire.send(wire_request)
        self.body = body = ResponseBody(response)
        self.status = response.status
        dialect = self._upstream.dialect
        if response.status != 200:
            raise dialect.fault(response.status, response.headers, await body.beginning())
        if not REMAINING.isdisjoint(response.headers) and self.dependencies.quota_headers:
            self._tells_quota = True
            self._permit.note_quota(dialect.quota_headers, response.headers, clock.now())
        request = self.context.request
        if isinstance(request, EmbedRequest) or not self._permit.streams:
            return BufferedAnswer(
                self.target,
                decode_reply(dialect, request, await body.whole(self.dependencies.answer_bytes_max)),
            )
        self.reader = dialect.stream(request, self.target.model)
        other = response.headers.get("content-type", "").startswith(("text/html", "application/json"))
        held = await self._read_until_content(body, self.reader, other)
        return StreamedAnswer(self, body, self.reader, held)

    async def _read_until_content(self, body: ResponseBody, reader: StreamReader, other: bool) -> list[Chunk]:
        """Return the chunks up to the first content. `other`: the content type is of something else.

        Raises ProviderFault, as `empty_answer` without any content.
        """
        held: list[Chunk] = []
        size = 0
        while True:
            data = await body.read()
            if other and (beginning := data.lstrip(BLANK)):
                if beginning[:1] in NO_EVENTS and not is_json_lines(beginning):
                    raise refusal_or("not_a_stream", await body.beginning(beginning))
                other = False
            chunks = reader.feed(data) if data else reader.end()
            if reader.fault is not None:
                raise reader.fault
            held += chunks if data else []  # the answer itself reads its end again
            size += len(data)
            if any(chunk.has_content or chunk.finish_reason == FILTERED for chunk in chunks):
                return held
            if size > self.dependencies.answer_bytes_max:
                raise ProviderFault("answer_too_long")
            if reader.ended or not data:  # only now: an early finish reason may be in every chunk
                if any(may_end_empty(chunk.finish_reason, self.context.request) for chunk in held):
                    return held
                raise ProviderFault("empty_answer")

    async def _reject_by_content(self, answer: "BufferedAnswer | StreamedAnswer") -> None:
        """Hold the beginning of an answer back until it can be judged. Raises ProviderFault."""
        reject_patterns = self.context.reject_patterns
        if isinstance(answer, BufferedAnswer):
            if reject_patterns.match(reply_text(answer.reply.body)):
                raise ProviderFault("rejected_content")
            return
        until_s = clock.now() + JUDGED_S
        while True:
            beginning = text_so_far(answer.held)
            if reject_patterns.match(beginning):
                raise ProviderFault("rejected_content")
            if len(beginning) >= JUDGED_CHARS:
                return
            more = answer.hold_more(until_s - clock.now())
            if not await self.timeouts.run("judging", NEVER, more):  # the deadline applies here too
                return

    def _request(self, fresh: bool, call: EncodedRequest | None) -> WireRequest:
        timeout_options, upstream = self.context.timeout_options, self._upstream
        if call is None:
            request = self._request_to_encode()
            if request.json_by_prompt and isinstance(request, ChatRequest):
                request = finish(with_json_prompt(request))
            call = encode_request(upstream.dialect, request, self.target.model, self._permit.key)
        left_out = call.dropped if call.answer_tokens_max is None else call.left_out
        self.dropped = (JSON_MODE, *left_out) if self.context.request.json_by_prompt else left_out
        return WireRequest(
            "POST",
            upstream.base_url + call.path,
            call.headers,
            call.body,
            pool_s=timeout_options.pool_s,
            connect_s=timeout_options.connect_s,
            fresh=fresh,
        )

    async def _encode_in_steps(self) -> EncodedRequest:
        request = self._request_to_encode()
        if request.json_by_prompt and isinstance(request, ChatRequest):
            request = await in_turns(with_json_prompt(request))
        return await encode_large(self._upstream.dialect, request, self.target.model, self._permit.key)

    def _request_to_encode(self) -> AnyRequest:
        request = self.context.request
        context_tokens = self._upstream.context_tokens
        if context_tokens is not None and not fits(request, context_tokens):
            raise Unsupported(Feature.LONG_CONTEXT)
        plain_targets = self.dependencies.plain_targets
        plain = self.kind == PLAIN or (plain_targets and self.target in plain_targets)
        if plain and isinstance(request, ChatRequest):
            request = msgspec.structs.replace(request, plain=True)
        return request

    def end(self, classification: Classification | None, now_s: float | None = None) -> None:
        """End the attempt. None: it brought its whole answer. Only the first call counts.

        `now_s`: the time, where it has just been read.
        """
        if self._ended:
            return
        self._ended = True
        now_s, context = clock.now() if now_s is None else now_s, self.context
        if classification is SUPERSEDED and self.first_token_s is None:
            # Or only quick answers would be observed.
            waited_s = now_s - self.started_s
            if not self._permit.stalled:
                self._latency.add_loser(waited_s)
        self._permit.end(classification, now_s, reached=self.status is not None)
        usage, price = self._usage_so_far(classification), self._upstream.price
        record = AttemptRecord(
            target=self.target.name,
            started_s=self.started_s - context.started_s,
            ended_s=now_s - context.started_s,
            reason=classification.reason if classification else "ok",
            status=self.status,
            code=classification.code if classification else "",
            first_token_s=self.first_token_s,
            maybe_billed=bool(classification and classification.maybe_billed),
            dropped=self.dropped,
            kind=self.kind,
            usage=usage,
            cost_usd=price.of(usage) if price and usage else None,
        )
        context.progress.trail.append(record)
        if usage is not None:
            if self._tells_quota and classification is None:
                self._permit.note_usage(usage)
            if record.cost_usd and self.dependencies.spending is not None:
                self.dependencies.spending.note(self._permit.key_state, record.cost_usd, clock.wall(), now_s)
        blame = classification.blame if classification else NOBODY
        self.dependencies.events.emit(
            AttemptEnded(
                context.request.id,
                context.route,
                self.target.provider,
                record,
                blame,
                context.request.operation,
                classification is not None and classification.refuses_key,
            )
        )

    def _usage_so_far(self, classification: Classification | None) -> Usage | None:
        """Return the tokens that were billed, or may have been; None if there are none."""
        if self.usage is not None:
            return self.usage
        if self.reader is not None:
            return self.reader.usage_so_far()
        return (
            estimate_prompt(self.context.request)
            if classification is not None and classification.maybe_billed
            else None
        )

    def classified(self, error: Exception) -> Classification:
        """Return what the error means, without the key that was sent. Raises any other error again."""
        return without_key(classify(error), self._permit.key)

    async def close(self, *, at_end: bool = False) -> None:
        """Release the connection.

        `at_end`: the answer is over; only the last bytes of its framing may be missing. When they are read,
        the connection can be used again.
        """
        if self.body is not None:
            await self.body.close(self.timeouts if at_end else None)


class StreamedAnswer:
    """A streamed answer from its commit point on."""

    def __init__(self, attempt: Attempt, body: ResponseBody, reader: StreamReader, held: list[Chunk]) -> None:
        self.target = attempt.target
        self.started_s = attempt.started_s - attempt.context.started_s
        self._attempt = attempt
        self._body = body
        self._reader = reader
        self.held = held
        self._between_tokens_s = attempt.context.timeout_options.between_tokens_s
        self._waited_s = 0.0  # since the last content
        self._at_end = False  # the body has no more bytes
        self._done = False

    @property
    def usage(self) -> Usage | None:
        """The tokens used, at the end or so far."""
        return self._reader.usage_so_far()

    def move_to(self, timeouts: Timeouts) -> None:
        """Let another task read the answer, under its own timeouts."""
        self._attempt.timeouts = timeouts

    @property
    def dropped(self) -> tuple[str, ...]:
        """The fields of the request that this target's dialect does not have."""
        return self._attempt.dropped

    async def read(self) -> list[Chunk]:
        """Return the chunks that are ready, at least one; none at the honest end.

        Raises StreamCut, StreamStalled.
        """
        if self.held:
            chunks, self.held = self.held, []
            return chunks
        while not self._done:
            try:
                waiting = self._next_bytes()
                chunks = self._decode(b"" if waiting is None else await waiting)
            except ATTEMPT_ERRORS as error:
                if not self._reader.finished:
                    raise self._cut_error(self._attempt.classified(error)) from None
                chunks = self._decode(b"")  # the answer is whole; its framing broke
            if chunks:
                return chunks
        self._attempt.end(None)
        return []

    async def hold_all(self) -> None:
        """Read to the honest end and keep all chunks for `read`: the commit point moves to the end.

        Raises one of ATTEMPT_ERRORS.
        """
        size = 0
        while not self._done:
            try:
                waiting = self._next_bytes()
                chunks = self._decode(b"" if waiting is None else await waiting)
            except ATTEMPT_ERRORS:
                if not self._reader.finished:
                    raise
                chunks = self._decode(b"")
            self.held += chunks
            size += sum(len(chunk.raw) for chunk in chunks)
            if size > WHOLE_BYTES_MAX:
                raise ProviderFault("answer_too_long")
        self._attempt.end(None)

    async def hold_more(self, limit_s: float) -> bool:
        """Read on before the commit point. Return whether more came in time. Raises ProviderFault."""
        if self._reader.ended or self._reader.finished:
            return False
        data = await self._body.read_within(limit_s)
        if data is None:
            return False
        if not data:
            self._at_end = True
            self._reader.end()  # raises where the answer is cut: none of it is out
            return False
        self.held += self._reader.feed(data)
        if self._reader.fault is not None:
            raise self._reader.fault
        return True

    async def aclose(self, classification: Classification = CANCELLED) -> None:
        """Release the answer: it is over, the client left, or `classification` says why it is not wanted."""
        self._attempt.end(classification)
        # Else nothing is waited for: the timeouts are of a task that has ended.
        wanted = classification is not SUPERSEDED
        await self._attempt.close(at_end=wanted and self._done and self._reader.ended)

    def _next_bytes(self) -> Awaitable[bytes] | None:
        """Return a wait for the next bytes; None if no more are to come.

        The timeout between tokens runs only while we wait, and only content resets it. Raises the fault that
        followed the last good chunk; the wait raises TimedOut, WireFailure.
        """
        reader = self._reader
        if reader.fault is not None:
            raise reader.fault
        if reader.ended or self._at_end:
            return None
        limit_s = TAIL_S if reader.finished else self._between_tokens_s
        return self._attempt.timeouts.run("between_tokens", limit_s - self._waited_s, self._body.read())

    def _decode(self, data: bytes) -> list[Chunk]:
        """Return the chunks of the next bytes, or the last ones. Raises ProviderFault if they are cut off."""
        if not data:
            self._done = True
            return self._reader.end()
        chunks = self._reader.feed(data)
        for chunk in chunks:
            if chunk.has_content or chunk.finish_reason is not None:
                self._waited_s = 0.0
                return chunks
        self._waited_s += clock.now() - self._attempt.timeouts.began_s
        return chunks

    def _cut_error(self, classification: Classification) -> StreamCut:
        self._attempt.end(classification)
        trail = self._attempt.context.progress.trail
        if classification.reason.endswith("_timeout"):
            return StreamStalled("The answer stopped coming before it was whole.", attempts=trail)
        return StreamCut(CUT_MESSAGES.get(classification.reason, CUT_MESSAGES["truncated"]), attempts=trail)


ProviderAnswer = BufferedAnswer | StreamedAnswer
