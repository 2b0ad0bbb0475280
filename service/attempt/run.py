"""One answer from many tries: the only loop over targets, and the only owner of an upstream connection.

    run: for each target, in order
           enter     a pass from the guards, or the next target
           open      encode, send, read up to the COMMIT POINT: the first content, or the whole JSON answer
           failed    classify once; the guards, the trail and this loop all take that verdict
    Streaming.read   pump: chunks as they are ready; the end is honest or it is a StreamCut
    Streaming.aclose always called: gives the pass back, closes the connection, writes the trail

Before the commit point nothing has been sent to the client and any target may still answer. After it, none may.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service import clock
from service.attempt.classify import Blame, Rest, Then, Verdict, classify
from service.attempt.clocks import ClockRanOut, Watch
from service.attempt.notice import JUDGED_CHARS, JUDGED_S, Notices, beginning_of, beginning_of_reply
from service.chat import Asked, Attempt, Chunk, EmbedRequest, Reply, Target, Usage
from service.errors import (
    AllTargetsDown,
    AllTargetsLimited,
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    ProviderRefused,
    StreamCut,
    StreamStalled,
    TooLarge,
)
from service.events import AttemptEnded, Events
from service.options import Clocks
from service.providers.base import Dialect, ProviderFault, StreamReader, Unsupported, call_of, reply_of
from service.routing.health import Barred, Fleet, Pass
from service.wire.base import Wire, WireFailure, WireRequest, WireResponse

ATTEMPT_MIN_S = 0.05  # with less time left than this, no try can bring an answer
ERROR_BYTES_MAX = 64 * 1024
ERROR_BODY_S = 1.0
LINGER_S = 0.05
TAIL_S = 1.0  # how long a provider may take to end a stream whose answer is already whole

BROKEN = (WireFailure, ProviderFault, ClockRanOut, Unsupported)
LIMITED = frozenset({"http_429", Rest.LIMITED, Rest.QUOTA})
CANCELLED = Verdict(Then.GIVE_UP, Blame.NOBODY, "cancelled", maybe_billed=True)


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a target is and how it speaks."""

    dialect: Dialect
    base_url: str


@dataclass(slots=True)
class Task:
    """One request on its way: who asks what, until when, and the trail so far. Times are loop seconds."""

    request: Asked
    route: str
    clocks: Clocks
    notices: Notices
    watch: Watch
    started_s: float
    trail: list[Attempt] = field(default_factory=list)
    upstream_ns: int = 0  # spent on providers before the commit point


@dataclass(frozen=True, slots=True)
class Whole:
    """A JSON answer, all of it."""

    target: Target
    reply: Reply


class Runner:
    """Asks targets until one answers."""

    def __init__(
        self,
        wire: Wire,
        upstreams: Mapping[Target, Upstream],
        fleet: Fleet,
        events: Events,
        answer_bytes_max: int,
    ) -> None:
        self.wire = wire
        self.upstreams = upstreams
        self.fleet = fleet
        self.events = events
        self.answer_bytes_max = answer_bytes_max

    async def run(self, task: Task, targets: Sequence[Target]) -> "Whole | Streaming":
        """The first answer to be had. Raises GatewayError; the trail in `task` says what was tried."""
        verdicts: list[Verdict] = []
        for target in targets:
            if task.watch.deadline_s - clock.now() < ATTEMPT_MIN_S:
                break
            outcome = await self._ask(task, target)
            if not isinstance(outcome, Verdict):
                return outcome
            verdicts.append(outcome)
            if outcome.then is Then.GIVE_UP:
                break
        raise self._why_not(task, targets, verdicts)

    async def _ask(self, task: Task, target: Target) -> "Whole | Streaming | Verdict":
        """One target: an answer, or the verdict on why not. Each of its keys may be tried; a stale connection earns
        one more try, unless the provider may have acted on the request already."""
        verdict = await self._try(task, target, fresh=False)
        for _ in range(self.fleet.keys(target) - 1):
            if isinstance(verdict, Verdict) and verdict.blame is Blame.KEY:
                verdict = await self._try(task, target, fresh=False)
        if (
            isinstance(verdict, Verdict)
            and verdict.then is Then.FRESH
            and not (task.request.stored and verdict.maybe_billed)
        ):
            verdict = await self._try(task, target, fresh=True)
        return verdict

    async def _try(self, task: Task, target: Target, *, fresh: bool) -> "Whole | Streaming | Verdict":
        leave = self.fleet.enter(target, clock.now())
        if isinstance(leave, Barred):
            at_s = clock.now() - task.started_s
            task.trail.append(Attempt(target.name, at_s, at_s, leave.reason, tried=False))
            return Verdict(Then.NEXT, Blame.NOBODY, leave.reason)
        attempt = Try(self, task, target, leave)
        try:
            return await attempt.open(fresh)
        except BROKEN as error:
            verdict = leave.reconsider(classify(error), clock.now())
            attempt.end(verdict)
            await attempt.close()
            return verdict
        except BaseException:  # cancelled, or a defect of ours: what was taken goes back all the same
            attempt.end(CANCELLED)
            await attempt.close()
            raise

    def _why_not(self, task: Task, targets: Sequence[Target], verdicts: Sequence[Verdict]) -> GatewayError:
        """The honest error for a request that nobody answered."""
        trail, now_s = task.trail, clock.now()
        refusal = verdicts[-1] if verdicts else None
        if refusal is not None and (refusal.then is Then.GIVE_UP or all(map(_at_fault, verdicts))):
            if refusal.status == TooLarge.status:
                return TooLarge(
                    "The request is too large for every provider behind this model.", attempts=trail
                )
            said = refusal.message or "A provider found the request at fault."
            return ProviderRefused(said, 422 if refusal.status == 422 else 400, attempts=trail)
        if task.watch.deadline_s - now_s < ATTEMPT_MIN_S:
            return DeadlineExceeded(
                "No provider answered within the time allowed.",
                attempts=trail,
            )
        unsupported = [
            a.reason.removeprefix("unsupported_") for a in trail if a.reason.startswith("unsupported_")
        ]
        if unsupported and len(unsupported) == len(trail):
            return InvalidRequest(
                f"No model behind {task.route!r} can carry the field {unsupported[0]!r}.",
                param=unsupported[0],
                attempts=trail,
            )
        wait_s = max(1.0, min(self.fleet.state(target, now_s).wait_s for target in targets))
        if all(a.reason in LIMITED for a in trail):
            return AllTargetsLimited(
                "Every provider behind this model has reached a rate limit.",
                retry_after_s=wait_s,
                attempts=trail,
            )
        return AllTargetsDown(
            "No provider behind this model can answer at the moment.", retry_after_s=wait_s, attempts=trail
        )


def _at_fault(verdict: Verdict) -> bool:
    """Whether a provider found the request itself at fault: too long for it, say."""
    return verdict.blame is Blame.NOBODY and verdict.status is not None


class Try:
    """One try at one target, from the pass to its end."""

    def __init__(self, runner: Runner, task: Task, target: Target, leave: Pass) -> None:
        self.runner = runner
        self.task = task
        self.target = target
        self.started_s = clock.now()
        self._started_ns = clock.tick_ns()
        self.first_token_s: float | None = None
        self.status: int | None = None
        self.dropped: tuple[str, ...] = ()
        self._leave = leave
        self._upstream = runner.upstreams[target]
        self._response: WireResponse | None = None
        self._reading: asyncio.Future[bytes] | None = None
        self._ended = False

    async def open(self, fresh: bool) -> "Whole | Streaming":
        """Up to the commit point. Raises one of BROKEN."""
        task, request = self.task, self.task.request
        wire_request = self._request(fresh)
        limit_s = task.clocks.first_token_s if request.stream else task.clocks.whole_answer_s
        name = "first_token" if request.stream else "whole_answer"
        answer = await task.watch.guard(name, limit_s, self._answer(wire_request))
        if task.notices:
            await self._refuse_notices(answer)
        now_s = clock.now()
        self.first_token_s = now_s - task.started_s
        task.upstream_ns += clock.tick_ns() - self._started_ns
        if isinstance(answer, Whole):
            self.end(None)
            await self.close()
        else:
            self._leave.commit(now_s)
        return answer

    async def _answer(self, wire_request: WireRequest) -> "Whole | Streaming":
        self._response = response = await self.runner.wire.send(wire_request)
        self.status = response.status
        dialect = self._upstream.dialect
        if response.status != 200:
            raise dialect.fault(response.status, response.headers, await self._error_body())
        request = self.task.request
        if isinstance(request, EmbedRequest) or not request.stream:
            return Whole(self.target, reply_of(dialect, request, await self._whole_body()))
        if response.headers.get("content-type", "").startswith(("text/html", "application/json")):
            raise ProviderFault("not_a_stream")
        reader = dialect.stream(request, self.target.model)
        held = await self._until_content(reader)
        return Streaming(self, reader, held)

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
            if size > self.runner.answer_bytes_max:
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

    async def read(self) -> bytes:
        """The next bytes of the body; none at its end."""
        assert self._response is not None, "nothing is read before the wire answered"
        if self._reading is not None:
            reading, self._reading = self._reading, None
            return await reading
        return await self._response.read()

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
            if size > self.runner.answer_bytes_max:
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
        self._leave.end(verdict, now_s, reached=self.status is not None)
        if self.first_token_s is None:
            task.upstream_ns += clock.tick_ns() - self._started_ns
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
        )
        task.trail.append(attempt)
        blame = verdict.blame if verdict else Blame.NOBODY
        self.runner.events.emit(
            AttemptEnded(
                task.request.id, task.route, self.target.provider, attempt, blame, task.request.operation
            )
        )

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
                while await self.task.watch.guard("linger", LINGER_S, self.read()):
                    pass
        await self._response.aclose()


class Streaming:
    """An answer past its commit point."""

    def __init__(self, attempt: Try, reader: StreamReader, held: list[Chunk]) -> None:
        self.target = attempt.target
        self.usage: Usage | None = None
        self._attempt = attempt
        self._reader = reader
        self.held = held
        self._waited_s = 0.0
        self._at_end = False  # there are no more bytes
        self._over = False

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
                chunks = await self._next()
            except BROKEN as error:
                if self._reader.finished:  # the answer is whole; only the ending was bad
                    chunks, self._over = self._reader.end(), True
                else:
                    raise self._cut(classify(error)) from None
            if chunks:
                return self._seen(chunks)
        self._attempt.end(None)
        return []

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

    async def aclose(self) -> None:
        """The client left, or the answer is over."""
        self._attempt.end(CANCELLED)
        await self._attempt.close(at_end=self._over and self._reader.ended)

    async def _next(self) -> list[Chunk]:
        """One read. The clock between tokens runs only while we wait, and only content sets it back."""
        if self._reader.fault is not None:
            raise self._reader.fault
        if self._reader.ended:
            self._over = True
            return self._reader.end()
        clocks, before_s = self._attempt.task.clocks, clock.now()
        limit_s = (TAIL_S if self._reader.finished else clocks.between_tokens_s) - self._waited_s
        data = b""
        if not self._at_end:
            data = await self._attempt.task.watch.guard("between_tokens", limit_s, self._attempt.read())
        self._waited_s += clock.now() - before_s
        if not data:
            self._over = True
            return self._reader.end()
        return self._reader.feed(data)

    def _seen(self, chunks: list[Chunk]) -> list[Chunk]:
        for chunk in chunks:
            if chunk.has_content or chunk.finish_reason is not None:
                self._waited_s = 0.0
            if chunk.usage is not None:
                self.usage = chunk.usage
        return chunks

    def _cut(self, verdict: Verdict) -> StreamCut:
        self._attempt.end(verdict)
        trail = self._attempt.task.trail
        if verdict.reason.endswith("_timeout"):
            return StreamStalled("The answer stopped coming before it was whole.", attempts=trail)
        return StreamCut("The provider ended the answer before it was whole.", attempts=trail)
