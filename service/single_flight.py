"""Single flight: equal requests that are in flight at one time share one call to a provider.

    first  --+
    second --+-- subscribers --> SharedCall --fetch--> provider   one call in its own task, while it has any
    third  --+                     |
                                   +-- the chunks so far: each subscriber reads at its own position and pace
                                   +-- or one error, the same for all

No subscriber leads: the one that began the call may leave like any other. The last one to leave ends the
call. Its cost is counted with one request: the oldest subscriber when the call ends. As Go's `singleflight`,
with streams.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

from msgspec import structs

from dub5.service import clock
from dub5.service.errors import DeadlineExceeded, GatewayError, StreamStalled
from dub5.service.events import Events, Shared
from dub5.service.failover.context import Progress, RequestContext
from dub5.service.model import AttemptRecord, Chunk, Chunks, Usage
from dub5.service.timeouts import NEVER, TimedOut, Timeouts

KEPT_BYTES_MAX = 1024 * 1024  # of a stream, for later subscribers; a longer stream takes no new ones
AHEAD_BYTES_MAX = 256 * 1024  # of a stream are read ahead of its fastest reader
PIECE_BYTES_MAX = 64 * 1024  # go to a reader at one time, so that a client that does not read is noticed
LAST_S = 0.1  # for the last bytes of a connection, or a deadline that ends the call by itself


class SharedAnswer(Protocol):
    """An answer: whole, or a stream that began `began_s` seconds after its request."""

    @property
    def stream(self) -> Chunks | None: ...

    @property
    def began_s(self) -> float: ...


G = TypeVar("G", bound=SharedAnswer)
Fetch = Callable[[RequestContext], Awaitable[G]]


class SharedCalls(Generic[G]):
    """The calls in flight. `bytes_max`: how far the slowest reader of a stream may be behind."""

    def __init__(self, events: Events, bytes_max: int) -> None:
        self._events = events
        self._bytes_max = bytes_max
        self._open: dict[Hashable, SharedCall[G]] = {}

    async def join(self, key: Hashable, context: RequestContext, fetch: Fetch[G]) -> "CallSubscriber[G]":
        """Subscribe to the call in flight for this key, or to a new one, and wait for its answer.

        The caller closes the subscriber if the answer is a stream. Raises GatewayError.
        """
        while True:
            subscriber = self._subscribe(key, context, fetch)
            try:
                await subscriber.wait_for_answer()
                break
            except DeadlineExceeded:
                await subscriber.aclose()
                if not subscriber.may_ask_again:
                    raise
            except BaseException:
                await subscriber.aclose()
                raise
        if subscriber.answer.stream is None:
            await subscriber.aclose()
        return subscriber

    def _subscribe(self, key: Hashable, context: RequestContext, fetch: Fetch[G]) -> "CallSubscriber[G]":
        request = context.request
        kind = (key, request.stream, getattr(request, "wants_usage", False), context.deliver_whole)
        call = self._open.get(kind)
        if call is not None and call.deadline_s <= clock.now():
            call = None  # its deadline passes at this very moment
        joined = call is not None
        if call is None:
            call = self._open[kind] = SharedCall(
                context, fetch, self._events, self._bytes_max, lambda ended: self._close(kind, ended)
            )
        else:
            self._events.emit(Shared(request.id, context.route, "joined"))
        return call.subscribe(context, joined)

    def _close(self, kind: Hashable, call: "SharedCall[G]") -> None:
        """Take no new subscribers. A newer call for the same key may be there since the first time."""
        if self._open.get(kind) is call:
            del self._open[kind]


class SharedCall(Generic[G]):
    """One call and its subscribers."""

    def __init__(
        self,
        first: RequestContext,
        fetch: Fetch[G],
        events: Events,
        bytes_max: int,
        close: Callable[["SharedCall[G]"], None],
    ) -> None:
        self.answer: G | None = None
        self.answered_s = 0.0
        self.error: GatewayError | None = None
        self.ended = False  # no more chunks will come
        self.whole = False  # it has ended with its whole answer
        self.subscribers: list[CallSubscriber[G]] = []  # the oldest one first
        self.counted_with: CallSubscriber[G] | None = None
        self.context = structs.replace(first, progress=Progress())
        self.first_deadline_s = self.deadline_s = first.timeouts.deadline_s
        self._timeouts: Timeouts | None = None
        self._events = events
        self._bytes_max = bytes_max
        self._close = close
        self.count = 0  # of all chunks, dropped ones included
        self._chunks: list[Chunk] = []
        self._dropped = 0  # chunks that every subscriber has read
        self._bytes = 0  # of all chunks, dropped ones included
        self._may_be_ahead_bytes = 0  # at so many bytes it has to be seen how far everybody has read
        self._waiting: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self.task = asyncio.create_task(self._run(fetch), name=f"flight {first.request.id}")

    def subscribe(self, context: RequestContext, joined: bool) -> "CallSubscriber[G]":
        """Add a subscriber."""
        subscriber = CallSubscriber(self, context, joined)
        self.subscribers.append(subscriber)
        self._may_be_ahead_bytes = 0
        self.extend_deadline(context.timeouts.deadline_s)
        return subscriber

    def extend_deadline(self, until_s: float) -> None:
        """Give the call the latest deadline of its subscribers."""
        if until_s > self.deadline_s:
            self.deadline_s = until_s
            if self._timeouts is not None:
                self._timeouts.extend(until_s)

    async def unsubscribe(self, subscriber: "CallSubscriber[G]") -> None:
        """Remove a subscriber. The last one waits for the end of the call."""
        was_first = self.subscribers[0] is subscriber
        self.subscribers.remove(subscriber)
        self._make_room()
        if self.subscribers:
            if was_first and not self.ended:
                self._events.emit(
                    Shared(subscriber.context.request.id, subscriber.context.route, "handed_over")
                )
            return
        if not self.ended:
            self._close(self)
            self.counted_with = subscriber
            self.task.cancel()
        try:
            await asyncio.wait({self.task}, timeout=LAST_S)
        finally:
            if not self.task.done() and not self.task.cancelling():
                self.task.cancel()
            await asyncio.wait({self.task})

    def next_change(self) -> asyncio.Future[None]:
        """Return a future that is done when the call has something new."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        return waiter

    def take(self, subscriber: "CallSubscriber[G]") -> list[Chunk]:
        """Return the chunks that the subscriber has not read yet, up to PIECE_BYTES_MAX."""
        taken = self._chunks[subscriber.chunks_read - self._dropped :]
        size = _size(taken)
        while size > PIECE_BYTES_MAX and len(taken) > 1:
            taken = taken[: len(taken) // 2]
            size = _size(taken)
        subscriber.chunks_read += len(taken)
        subscriber.bytes_read += size
        if self._room is not None:
            self._make_room()
        return taken

    async def _run(self, fetch: Fetch[G]) -> None:
        self._timeouts = self.context.timeouts = Timeouts(self.deadline_s)
        try:
            self.answer = answer = await fetch(self.context)
            self.answered_s = clock.now()
            if answer.stream is None:
                self._end(whole=True)
            else:
                self._wake()
                await self._relay(answer.stream)
        except GatewayError as error:
            self.error = error
        finally:
            self._end(whole=False)
            self._timeouts.close()

    async def _relay(self, stream: Chunks) -> None:
        try:
            while chunks := await stream.read():
                self._chunks += chunks
                self.count += len(chunks)
                self._bytes += _size(chunks)
                if self._bytes > KEPT_BYTES_MAX:
                    self._forget()
                self._wake()
                while self._bytes > self._may_be_ahead_bytes and self._is_far_ahead():
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
            self._end(whole=True)
        finally:
            await stream.aclose()

    def _forget(self) -> None:
        """Drop what every subscriber of a long stream has read."""
        if self.subscribers:
            self._close(self)
            read = min(subscriber.chunks_read for subscriber in self.subscribers)
            del self._chunks[: read - self._dropped]
            self._dropped = read

    def _is_far_ahead(self) -> bool:
        if not self.subscribers:
            return False
        read = [subscriber.bytes_read for subscriber in self.subscribers]
        self._may_be_ahead_bytes = min(read) + min(AHEAD_BYTES_MAX, self._bytes_max)
        return self._bytes - max(read) > AHEAD_BYTES_MAX or self._bytes - min(read) > self._bytes_max

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done() and not self._is_far_ahead():
            self._room.set_result(None)

    def _end(self, *, whole: bool) -> None:
        """End the call. Only the first time counts."""
        if self.ended:
            return
        self.ended, self.whole = True, whole
        self._close(self)
        if self.subscribers:
            self.counted_with = self.subscribers[0]
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class CallSubscriber(Generic[G]):
    """One request that shares a call: its position in the answer, and its deadline.

    It is a stream of chunks.
    """

    def __init__(self, call: SharedCall[G], context: RequestContext, joined: bool) -> None:
        self.context = context
        self.joined = joined  # another request had begun the call
        self.chunks_read = 0
        self.bytes_read = 0
        self._call = call
        self._left = False

    @property
    def answer(self) -> G:
        """The answer of the call. Its stream belongs to the call; read the subscriber instead."""
        assert self._call.answer is not None, "it is asked for when it is there"
        return self._call.answer

    @property
    def began_s(self) -> float:
        """When the stream began, in seconds after this request, which may be younger than the call."""
        call = self._call
        took_s = call.answered_s - call.context.started_s - self.answer.began_s
        return clock.now() - self.context.started_s - took_s

    @property
    def usage(self) -> Usage | None:
        """The tokens used, at the end or so far."""
        stream = self.answer.stream
        return stream.usage if stream is not None else None

    @property
    def may_ask_again(self) -> bool:
        """Whether the call ended at the shorter deadline of the request that began it."""
        until_s = self.context.timeouts.deadline_s
        return self._call.first_deadline_s < until_s and clock.now() < until_s

    async def wait_for_answer(self) -> None:
        """Wait until there is an answer, or the beginning of a stream. Raises GatewayError."""
        call, before_ns = self._call, clock.tick_ns()
        while call.answer is None:
            await self._wait_for_more()
        self._copy_trail()
        waited_ns = clock.tick_ns() - before_ns
        self.context.progress.upstream_ns += waited_ns if self.joined else call.context.progress.upstream_ns

    async def read(self) -> list[Chunk]:
        """Return the chunks that are ready, at least one; none at the honest end. Raises GatewayError."""
        call, timeouts = self._call, self.context.timeouts
        # The deadline may be later than it was before the commit point.
        call.extend_deadline(timeouts.deadline_s)
        while True:
            if self.chunks_read < call.count:
                return call.take(self)
            if call.whole:
                return []
            await self._wait_for_more()

    async def aclose(self) -> None:
        """Leave the call: the client is gone, or has the whole answer."""
        if not self._left:
            self._left = True
            await self._call.unsubscribe(self)
            self._copy_trail()

    async def _wait_for_more(self) -> None:
        """Wait for more. Raises the error of the call, or that of this request's own deadline."""
        call, context = self._call, self.context
        if not call.ended:
            try:
                await context.timeouts.run("shared", NEVER, call.next_change())
                return
            except TimedOut:
                if context.timeouts.deadline_s >= call.deadline_s:  # the call ends now by itself
                    await asyncio.wait({call.task}, timeout=LAST_S)
                await self.aclose()
        too_late = call.answer is not None and not self.chunks_read  # it came at this very moment
        if call.error is not None and not too_late:
            raise _copy_error(call.error, self._copy_trail())
        if call.ended and not self._left:
            await asyncio.wait({call.task})
            call.task.result()  # a defect of ours is raised
        if call.answer is None or too_late:
            raise DeadlineExceeded("No provider answered before the deadline.", attempts=self._copy_trail())
        raise StreamStalled("The deadline passed before the answer was whole.", attempts=self._copy_trail())

    def _copy_trail(self) -> list[AttemptRecord]:
        """Copy the call's trail, in this request's time; omit its cost if another one pays it."""
        call, context = self._call, self.context
        context.shared = call.counted_with is not self and (self.joined or self._left)
        later_s = call.context.started_s - context.started_s
        ours, theirs = context.progress, call.context.progress
        ours.trail[:] = [_shift(attempt, later_s, context.shared) for attempt in theirs.trail]
        ours.classifications, ours.given_up = theirs.classifications, theirs.given_up
        return ours.trail


def _size(chunks: list[Chunk]) -> int:
    return len(chunks[0].raw) if len(chunks) == 1 else sum([len(chunk.raw) for chunk in chunks])


def _shift(attempt: AttemptRecord, later_s: float, shared: bool) -> AttemptRecord:
    if later_s == 0.0 and not shared:
        return attempt
    first_s = attempt.first_token_s
    moved = structs.replace(
        attempt,
        started_s=attempt.started_s + later_s,
        ended_s=attempt.ended_s + later_s,
        first_token_s=None if first_s is None else first_s + later_s,
    )
    return structs.replace(moved, usage=None, cost_usd=None) if shared else moved


def _copy_error(error: GatewayError, attempts: list[AttemptRecord]) -> GatewayError:
    """Copy the error: one exception raised by several tasks would collect their tracebacks."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.attempts = tuple(attempts)
    return copy
