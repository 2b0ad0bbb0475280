"""One try at one target, from the pass to its end; and the stream that may come of it.

Try.open          encode, send, read up to the COMMIT POINT: the first content, or the whole JSON answer
Streaming.read    pump: chunks as they are ready; the end is honest or it is a StreamCut
Streaming.aclose  always called: gives the pass back, closes the connection, writes the trail
"""

from dub5.service import clock
from dub5.service.errors import StreamCut, StreamStalled
from dub5.service.events import AttemptEnded
from dub5.service.failover.body import Body
from dub5.service.failover.context import Means, Task, Whole
from dub5.service.failover.rejected_content import JUDGED_CHARS, JUDGED_S, beginning_of, beginning_of_reply
from dub5.service.model import Attempt, Chunk, EmbedRequest, Target, Usage
from dub5.service.providers.base import ProviderFault, StreamReader, Unsupported, call_of, reply_of
from dub5.service.providers.features import Feature, fits
from dub5.service.providers.usage import prompt_only
from dub5.service.resilience.classify import Blame, Then, Verdict, classify
from dub5.service.resilience.permit import Pass
from dub5.service.timeouts import ClockRanOut, Watch
from dub5.service.wire.base import WireFailure, WireRequest

WHOLE_BYTES_MAX = 4 * 1024 * 1024  # of a stream that is held to its end
TAIL_S = 1.0  # how long a provider may take to end a stream whose answer is already whole

BROKEN = (WireFailure, ProviderFault, ClockRanOut, Unsupported)
CANCELLED = Verdict(Then.GIVE_UP, Blame.NOBODY, "cancelled", maybe_billed=True)
OUTRUN = Verdict(Then.GIVE_UP, Blame.NOBODY, "outrun", maybe_billed=True)  # another target was faster


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
        self.body: Body | None = None
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
        response = await self.means.wire.send(wire_request)
        self.body = body = Body(response)
        self.status = response.status
        dialect = self._upstream.dialect
        if response.status != 200:
            raise dialect.fault(response.status, response.headers, await body.beginning())
        request = self.task.request
        if isinstance(request, EmbedRequest) or not request.stream:
            return Whole(
                self.target, reply_of(dialect, request, await body.whole(self.means.answer_bytes_max))
            )
        if response.headers.get("content-type", "").startswith(("text/html", "application/json")):
            raise ProviderFault("not_a_stream")
        self.reader = dialect.stream(request, self.target.model)
        held = await self._until_content(body, self.reader)
        return Streaming(self, body, self.reader, held)

    async def _until_content(self, body: Body, reader: StreamReader) -> list[Chunk]:
        """What came before and with the first content. A finish without any is `empty_answer`."""
        held: list[Chunk] = []
        size = 0
        while True:
            data = await body.read()
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
        if self.body is not None:
            await self.body.close(self.watch if at_end else None)


class Streaming:
    """An answer past its commit point."""

    def __init__(self, attempt: Try, body: Body, reader: StreamReader, held: list[Chunk]) -> None:
        self.target = attempt.target
        self.started_s = attempt.started_s - attempt.task.started_s
        self._attempt = attempt
        self._body = body
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
        data = await self._body.read_within(limit_s)
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
                data = await attempt.watch.guard("between_tokens", limit_s, self._body.read())
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


Found = Whole | Streaming
