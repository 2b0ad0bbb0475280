"""One try at one target, from the pass to its end; and the stream that may come of it.

Try.open          encode, send, read up to the COMMIT POINT: the first content, or the whole JSON answer
Streaming.read    pump: chunks as they are ready; the end is honest or it is a StreamCut
Streaming.aclose  always called: gives the pass back, closes the connection, writes the trail
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from service import clock
from service.attempt.classify import Blame, Then, Verdict, classify
from service.attempt.clocks import ClockRanOut, Watch
from service.attempt.hedge import Hedges
from service.attempt.notice import JUDGED_CHARS, JUDGED_S, Notices, beginning_of, beginning_of_reply
from service.chat import Asked, Attempt, Chunk, EmbedRequest, Price, Reply, Target, Usage
from service.errors import StreamCut, StreamStalled
from service.events import AttemptEnded, Events
from service.options import Clocks
from service.providers.base import Dialect, ProviderFault, StreamReader, Unsupported, call_of, reply_of
from service.providers.features import Feature, fits, needed
from service.providers.usage import prompt_only
from service.routing.leave import Pass
from service.wire.base import Wire, WireFailure, WireRequest, WireResponse

ERROR_BYTES_MAX = 64 * 1024
ERROR_BODY_S = 1.0
LINGER_S = 0.05
WHOLE_BYTES_MAX = 4 * 1024 * 1024  # of a stream that is held to its end
TAIL_S = 1.0  # how long a provider may take to end a stream whose answer is already whole

BROKEN = (WireFailure, ProviderFault, ClockRanOut, Unsupported)
CANCELLED = Verdict(Then.GIVE_UP, Blame.NOBODY, "cancelled", maybe_billed=True)
OUTRUN = Verdict(Then.GIVE_UP, Blame.NOBODY, "outrun", maybe_billed=True)  # another target was faster


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a target is, how it speaks, and what it costs."""

    dialect: Dialect
    base_url: str
    price: Price | None = None
    lacks: Mapping[Feature, str] = field(default_factory=dict)
    context_tokens: int | None = None

    def carries(self, request: Asked) -> bool:
        """Whether this target has all that the request needs, as far as that can be told without asking it."""
        if self.context_tokens is not None and not fits(request, self.context_tokens):
            return False
        return not self.lacks or not needed(request) & self.lacks.keys()


@dataclass(slots=True)
class Task:
    """One request on its way: who asks what, until when, and the trail so far. Times are loop seconds."""

    request: Asked
    route: str
    clocks: Clocks
    notices: Notices
    watch: Watch
    started_s: float
    whole: bool = False  # a stream is held to its end, so that it can fail over until then
    trail: list[Attempt] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)  # on those that were tried
    given_up: bool = False  # nobody else would do better
    stand_in: bool = False  # there is something to say at once where nobody but a probe could answer
    upstream_ns: int = 0  # spent on providers before the commit point
    shared: bool = False  # its tries are counted with another request, which shares its answer


class Whole(Struct, frozen=True):
    """A JSON answer, all of it."""

    target: Target
    reply: Reply


@dataclass(frozen=True, slots=True)
class Means:
    """What every try needs."""

    wire: Wire
    upstreams: dict[Target, Upstream]
    events: Events
    answer_bytes_max: int
    hedges: Hedges
    asked_for: dict[Target, str] = field(default_factory=dict)  # the operation that each was last asked for


class Try:
    """One try at one target. `watch` guards its waits; `kind` is how the trail names it."""

    def __init__(
        self, means: Means, task: Task, target: Target, leave: Pass, watch: Watch, kind: str = "first"
    ) -> None:
        self.means = means
        self.task = task
        self.target = target
        self.watch = watch
        self.kind = kind
        self.started_s = clock.now()
        self.first_token_s: float | None = None
        self.status: int | None = None
        self.dropped: tuple[str, ...] = ()
        self.reader: StreamReader | None = None
        self.usage: Usage | None = None
        self._leave = leave
        leave.streams = task.request.stream
        self._upstream = means.upstreams[target]
        means.asked_for[target] = task.request.operation
        self._response: WireResponse | None = None
        self._reading: asyncio.Future[bytes] | None = None
        self._ended = False

    async def open(self, fresh: bool) -> "Whole | Streaming":
        """Up to the commit point. Raises one of BROKEN."""
        task, request = self.task, self.task.request
        wire_request = self._request(fresh)
        limit_s = task.clocks.first_token_s if request.stream else task.clocks.whole_answer_s
        name = "first_token" if request.stream else "whole_answer"
        answer = await self.watch.guard(name, limit_s, self._answer(wire_request))
        if task.notices:
            await self._refuse_notices(answer)
        now_s = clock.now()
        self.first_token_s = now_s - task.started_s
        self._tell_hedges(now_s)
        if isinstance(answer, Whole):
            self.usage = answer.reply.usage
            self.end(None)
            await self.close()
        else:
            self._leave.commit(now_s, now_s - self.started_s, limit_s)
            if task.whole:
                await answer.hold_all()
        return answer

    async def _answer(self, wire_request: WireRequest) -> "Whole | Streaming":
        self._response = response = await self.means.wire.send(wire_request)
        self.status = response.status
        dialect = self._upstream.dialect
        if response.status != 200:
            raise dialect.fault(response.status, response.headers, await self._error_body())
        request = self.task.request
        if isinstance(request, EmbedRequest) or not request.stream:
            return Whole(self.target, reply_of(dialect, request, await self._whole_body()))
        if response.headers.get("content-type", "").startswith(("text/html", "application/json")):
            raise ProviderFault("not_a_stream")
        self.reader = dialect.stream(request, self.target.model)
        held = await self._until_content(self.reader)
        return Streaming(self, self.reader, held)

    async def _until_content(self, reader: StreamReader) -> list[Chunk]:
        """What came before and with the first content. A finish without any is `empty_answer`."""
        held: list[Chunk] = []
        size = 0
        while True:
            data = await self.read()
            chunks = reader.feed(data) if data else reader.end()
            if reader.fault is not None:
                raise reader.fault
            held += chunks
            size += len(data)
            if any(chunk.has_content or chunk.finish_reason == "content_filter" for chunk in chunks):
                return held
            if size > self.means.answer_bytes_max:
                raise ProviderFault("answer_too_long")
            if reader.finished or reader.ended or not data:
                raise ProviderFault("empty_answer")

    async def _refuse_notices(self, answer: "Whole | Streaming") -> None:
        """Holds the beginning of an answer back until it can be judged. Raises ProviderFault("notice")."""
        notices = self.task.notices
        if isinstance(answer, Whole):
            if notices.match(beginning_of_reply(answer.reply.body)):
                raise ProviderFault("notice")
            return
        until_s = clock.now() + JUDGED_S
        while True:
            beginning = beginning_of(answer.held)
            if notices.match(beginning):
                raise ProviderFault("notice")
            if len(beginning) >= JUDGED_CHARS or not await answer.hold_more(until_s - clock.now()):
                return

    def read(self) -> Awaitable[bytes]:
        """The next bytes of the body; none at its end."""
        assert self._response is not None, "nothing is read before the wire answered"
        if self._reading is not None:
            reading, self._reading = self._reading, None
            return reading
        return self._response.read()

    async def read_within(self, limit_s: float) -> bytes | None:
        """The next bytes if they come in time. A read that is cancelled closes the connection, so one that does not
        come is left for the next `read`."""
        assert self._response is not None, "nothing is read before the wire answered"
        reading = self._reading = asyncio.ensure_future(self._response.read())
        await asyncio.wait({reading}, timeout=max(0.0, limit_s))
        return await self.read() if reading.done() else None

    async def _whole_body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            size += len(data)
            if size > self.means.answer_bytes_max:
                raise ProviderFault("answer_too_long")
            parts.append(data)
        return b"".join(parts)

    async def _error_body(self) -> bytes:
        """As much of an error's body as can be read soon: the status alone already says that it is one."""
        body = b""
        try:
            async with asyncio.timeout(ERROR_BODY_S):
                while len(body) < ERROR_BYTES_MAX and (data := await self.read()):
                    body += data
        except (TimeoutError, WireFailure):
            pass
        return body

    def _request(self, fresh: bool) -> WireRequest:
        clocks, upstream = self.task.clocks, self._upstream
        if not fits(self.task.request, upstream.context_tokens):
            raise Unsupported(Feature.LONG_CONTEXT)
        call = call_of(upstream.dialect, self.task.request, self.target.model, self._leave.key)
        self.dropped = call.dropped
        return WireRequest(
            "POST",
            upstream.base_url + call.path,
            call.headers,
            call.body,
            pool_s=clocks.pool_s,
            connect_s=clocks.connect_s,
            fresh=fresh,
        )

    def end(self, verdict: Verdict | None) -> None:
        """The try is over; None: it gave its whole answer. Only the first call counts."""
        if self._ended:
            return
        self._ended = True
        now_s, task = clock.now(), self.task
        if verdict is OUTRUN and self.first_token_s is None:
            self._tell_hedges(now_s)  # or only the quick ones would ever be counted
        self._leave.end(verdict, now_s, reached=self.status is not None)
        usage, price = self._spent(verdict), self._upstream.price
        attempt = Attempt(
            target=self.target.name,
            started_s=self.started_s - task.started_s,
            ended_s=now_s - task.started_s,
            reason=verdict.reason if verdict else "ok",
            status=self.status,
            code=verdict.code if verdict else "",
            first_token_s=self.first_token_s,
            maybe_billed=bool(verdict and verdict.maybe_billed),
            dropped=self.dropped,
            kind=self.kind,
            usage=usage,
            cost_usd=price.of(usage) if price and usage else None,
        )
        task.trail.append(attempt)
        blame = verdict.blame if verdict else Blame.NOBODY
        self.means.events.emit(
            AttemptEnded(
                task.request.id, task.route, self.target.provider, attempt, blame, task.request.operation
            )
        )

    def _tell_hedges(self, now_s: float) -> None:
        request = self.task.request
        self.means.hedges.observe(self.target.name, request.stream, request.size, now_s - self.started_s)

    def _spent(self, verdict: Verdict | None) -> Usage | None:
        """The tokens that were used, or may have been; None where there is nothing to pay."""
        if self.usage is not None:
            return self.usage
        if self.reader is not None:
            return self.reader.so_far()
        return prompt_only(self.task.request) if verdict is not None and verdict.maybe_billed else None

    async def close(self, *, at_end: bool = False) -> None:
        """Lets the connection go; `at_end`: the answer is over, and the last bytes of its framing may still be on
        their way. With them read, the connection can be used again."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._response is None:
            return
        if at_end:
            with contextlib.suppress(ClockRanOut, WireFailure):
                while await self.watch.guard("linger", LINGER_S, self.read()):
                    pass
        await self._response.aclose()


class Streaming:
    """An answer past its commit point."""

    def __init__(self, attempt: Try, reader: StreamReader, held: list[Chunk]) -> None:
        self.target = attempt.target
        self.started_s = attempt.started_s - attempt.task.started_s
        self._attempt = attempt
        self._reader = reader
        self.held = held
        self._waited_s = 0.0
        self._at_end = False  # there are no more bytes
        self._over = False

    @property
    def usage(self) -> Usage | None:
        """The tokens, at the end or so far."""
        return self._attempt.usage or self._reader.so_far()

    def move_to(self, watch: Watch) -> None:
        """From now on another task reads it."""
        self._attempt.watch = watch

    @property
    def dropped(self) -> tuple[str, ...]:
        """The fields of the request that this target's dialect has no word for."""
        return self._attempt.dropped

    async def read(self) -> list[Chunk]:
        """The chunks that are ready, at least one; none at the answer's proper end. Raises StreamCut."""
        if self.held:
            chunks, self.held = self.held, []
            return self._seen(chunks)
        while not self._over:
            try:
                chunks = await self._more()
            except BROKEN as error:
                raise self._cut(classify(error)) from None
            if chunks:
                return chunks
        self._attempt.end(None)
        return []

    async def hold_all(self) -> None:
        """Reads to the answer's proper end, and keeps all of it for `read`: the commit point is moved there. Raises one
        of BROKEN."""
        size = 0
        while not self._over:
            chunks = await self._more()
            self.held += chunks
            size += sum(len(chunk.raw) for chunk in chunks)
            if size > WHOLE_BYTES_MAX:
                raise ProviderFault("answer_too_long")
        self._attempt.end(None)

    async def hold_more(self, limit_s: float) -> bool:
        """Reads on before the commit point; false when there is no more, or not in time. Raises ProviderFault."""
        if self._reader.ended or self._reader.finished:
            return False
        data = await self._attempt.read_within(limit_s)
        self._at_end = data == b""
        if not data:
            return False
        self.held += self._reader.feed(data)
        if self._reader.fault is not None:
            raise self._reader.fault
        return True

    async def aclose(self, verdict: Verdict = CANCELLED) -> None:
        """The client left, or the answer is over; or it is not wanted, as `verdict` says."""
        self._attempt.end(verdict)
        wanted = verdict is not OUTRUN  # else nothing is waited for: the watch is of a task that has ended
        await self._attempt.close(at_end=wanted and self._over and self._reader.ended)

    async def _more(self) -> list[Chunk]:
        """One read, or the last words of an answer that is whole though its ending was bad. The clock between tokens
        runs only while we wait, and only content sets it back. Raises one of BROKEN."""
        reader, attempt, data = self._reader, self._attempt, b""
        try:
            if reader.fault is not None:
                raise reader.fault
            if not (reader.ended or self._at_end):
                before_s = clock.now()
                limit_s = TAIL_S if reader.finished else attempt.task.clocks.between_tokens_s
                limit_s -= self._waited_s
                data = await attempt.watch.guard("between_tokens", limit_s, attempt.read())
                self._waited_s += clock.now() - before_s
            self._over = not data
            chunks = reader.feed(data) if data else reader.end()
        except BROKEN:
            if not reader.finished:
                raise
            self._over = True
            chunks = reader.end()
        return self._seen(chunks)

    def _seen(self, chunks: list[Chunk]) -> list[Chunk]:
        for chunk in chunks:
            if chunk.has_content or chunk.finish_reason is not None:
                self._waited_s = 0.0
            if chunk.usage is not None:
                self._attempt.usage = chunk.usage
        return chunks

    def _cut(self, verdict: Verdict) -> StreamCut:
        self._attempt.end(verdict)
        trail = self._attempt.task.trail
        if verdict.reason.endswith("_timeout"):
            return StreamStalled("The answer stopped coming before it was whole.", attempts=trail)
        return StreamCut("The provider ended the answer before it was whole.", attempts=trail)
