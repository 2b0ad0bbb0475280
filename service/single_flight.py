"""Equal questions that are under way at one time share one call to a provider.

    first  --+
    second --+-- seats --> Flight --ask--> provider       one call, in a task of its own, for as long as anybody is there
    third  --+               |
                             +-- the chunks so far, for each seat to read from its own place, at its own pace
                             +-- or one error, the same for all

Nobody leads: who began it may leave like any other. The last to leave ends the call. What it cost is counted with one
request: the one that has been there longest when the call ends.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from msgspec import structs

from dub5.service import clock
from dub5.service.errors import DeadlineExceeded, GatewayError, StreamStalled
from dub5.service.events import Events, Shared
from dub5.service.failover.context import Task
from dub5.service.model import Attempt, Chunk, Chunks, Usage
from dub5.service.timeouts import NEVER, ClockRanOut, Watch

KEPT_BYTES_MAX = 1024 * 1024  # of a stream, for those who come later; to a longer one nobody comes any more
AHEAD_BYTES_MAX = 256 * 1024  # of a stream are read before its fastest reader wants them
PIECE_BYTES_MAX = 64 * 1024  # go to a reader at one time, so that one who does not read is noticed
LAST_S = 0.1  # for the last bytes of a connection, or a deadline that ends the call by itself


class Given(Protocol):
    """An answer: whole, or as a stream that began `began_s` after its request."""

    @property
    def stream(self) -> Chunks | None: ...

    @property
    def began_s(self) -> float: ...


G = TypeVar("G", bound=Given)
Ask = Callable[[Task], Awaitable[G]]


class Flights(Generic[G]):
    """The calls that are under way. `bytes_max`: how far a stream's slowest reader may be behind."""

    def __init__(self, events: Events, bytes_max: int) -> None:
        self._events = events
        self._bytes_max = bytes_max
        self._open: dict[Hashable, Flight[G]] = {}

    async def join(self, key: Hashable, task: Task, ask: Ask[G]) -> "Seat[G]":
        """An answer, from the call that is under way for this key, or from a new one. Raises GatewayError. Who gets a
        stream closes the seat."""
        while True:
            seat = self._seat(key, task, ask)
            try:
                await seat.answered()
                break
            except DeadlineExceeded:
                await seat.aclose()
                if not seat.may_ask_again:
                    raise
            except BaseException:
                await seat.aclose()
                raise
        if seat.answer.stream is None:
            await seat.aclose()
        return seat

    def _seat(self, key: Hashable, task: Task, ask: Ask[G]) -> "Seat[G]":
        request = task.request
        kind = (key, request.stream, getattr(request, "wants_usage", False), task.whole)
        flight = self._open.get(kind)
        if flight is not None and flight.deadline_s <= clock.now():
            flight = None  # its time is over in this very moment
        joined = flight is not None
        if flight is None:
            flight = self._open[kind] = Flight(
                task, ask, self._events, self._bytes_max, lambda ended: self._close(kind, ended)
            )
        else:
            self._events.emit(Shared(request.id, task.route, "joined"))
        return flight.take_seat(task, joined)

    def _close(self, kind: Hashable, flight: "Flight[G]") -> None:
        """Nobody joins it any more. Another one may have begun since it was told so the first time."""
        if self._open.get(kind) is flight:
            del self._open[kind]


class Flight(Generic[G]):
    """One call, and who waits for it."""

    def __init__(
        self,
        first: Task,
        ask: Ask[G],
        events: Events,
        bytes_max: int,
        close: Callable[["Flight[G]"], None],
    ) -> None:
        self.answer: G | None = None
        self.answered_s = 0.0
        self.error: GatewayError | None = None
        self.ended = False  # nothing more will come
        self.whole = False  # because all of it has come
        self.seats: list[Seat[G]] = []  # who was there first comes first
        self.counted_with: Seat[G] | None = None
        self.own = replace(first, trail=[], verdicts=[], given_up=False, upstream_ns=0)
        self.first_deadline_s = self.deadline_s = first.watch.deadline_s
        self._watch: Watch | None = None
        self._events = events
        self._bytes_max = bytes_max
        self._close = close
        self._chunks: list[Chunk] = []
        self._dropped = 0  # chunks that everybody has read, and nobody else is to
        self._bytes = 0  # of all chunks, also of those
        self._waiting: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self.task = asyncio.create_task(self._fly(ask), name=f"flight {first.request.id}")

    def take_seat(self, task: Task, joined: bool) -> "Seat[G]":
        """One more."""
        seat = Seat(self, task, joined)
        self.seats.append(seat)
        self.allow(task.watch.deadline_s)
        return seat

    def allow(self, until_s: float) -> None:
        """The call may take as long as the most patient of them."""
        if until_s > self.deadline_s:
            self.deadline_s = until_s
            if self._watch is not None:
                self._watch.extend(until_s)

    async def leave(self, seat: "Seat[G]") -> None:
        """One less. The last one sees the call end."""
        was_first = self.seats[0] is seat
        self.seats.remove(seat)
        self._make_room()
        if self.seats:
            if was_first and not self.ended:
                self._events.emit(Shared(seat.task.request.id, seat.task.route, "handed_over"))
            return
        if not self.ended:
            self._close(self)
            self.counted_with = seat
            self.task.cancel()
        try:
            await asyncio.wait({self.task}, timeout=LAST_S)
        finally:
            if not self.task.done() and not self.task.cancelling():
                self.task.cancel()
            await asyncio.wait({self.task})

    def change(self) -> asyncio.Future[None]:
        """Done when there is more to see."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        return waiter

    def take(self, seat: "Seat[G]") -> list[Chunk]:
        """What this one has not read yet, or a piece of it."""
        taken = self._chunks[seat.chunks_read - self._dropped :]
        size = sum([len(chunk.raw) for chunk in taken])
        while size > PIECE_BYTES_MAX and len(taken) > 1:
            taken = taken[: len(taken) // 2]
            size = sum([len(chunk.raw) for chunk in taken])
        seat.chunks_read += len(taken)
        seat.bytes_read += size
        self._make_room()
        return taken

    async def _fly(self, ask: Ask[G]) -> None:
        self._watch = self.own.watch = Watch(self.deadline_s)
        try:
            self.answer = answer = await ask(self.own)
            self.answered_s = clock.now()
            if answer.stream is None:
                self._end(whole=True)
            else:
                self._tell()
                await self._relay(answer.stream)
        except GatewayError as error:
            self.error = error
        finally:
            self._end(whole=False)
            self._watch.close()

    async def _relay(self, stream: Chunks) -> None:
        try:
            while chunks := await stream.read():
                self._chunks += chunks
                self._bytes += sum([len(chunk.raw) for chunk in chunks])
                self._forget()
                self._tell()
                while self._is_far_ahead():
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
            self._end(whole=True)
        finally:
            await stream.aclose()

    def _forget(self) -> None:
        """Of a long stream only what somebody here has not read."""
        if self._bytes > KEPT_BYTES_MAX and self.seats:
            self._close(self)
            read = min(seat.chunks_read for seat in self.seats)
            del self._chunks[: read - self._dropped]
            self._dropped = read

    def _is_far_ahead(self) -> bool:
        if not self.seats:
            return False
        read = [seat.bytes_read for seat in self.seats]
        return self._bytes - max(read) > AHEAD_BYTES_MAX or self._bytes - min(read) > self._bytes_max

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done() and not self._is_far_ahead():
            self._room.set_result(None)

    def _end(self, *, whole: bool) -> None:
        """Only the first call counts."""
        if self.ended:
            return
        self.ended, self.whole = True, whole
        self._close(self)
        if self.seats:
            self.counted_with = self.seats[0]
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class Seat(Generic[G]):
    """One request's place: how far it has read, and how long it waits. It is a stream, where the answer is one."""

    def __init__(self, flight: Flight[G], task: Task, joined: bool) -> None:
        self.task = task
        self.joined = joined  # a call that another request had begun
        self.chunks_read = 0
        self.bytes_read = 0
        self._flight = flight
        self._left = False

    @property
    def answer(self) -> G:
        """The answer as the call gave it. Its stream is the call's, not ours."""
        assert self._flight.answer is not None, "it is asked for when it is there"
        return self._flight.answer

    @property
    def began_s(self) -> float:
        """As the answer's, for a request that may have come later: its first content took as long as it took."""
        flight = self._flight
        took_s = flight.answered_s - flight.own.started_s - self.answer.began_s
        return clock.now() - self.task.started_s - took_s

    @property
    def usage(self) -> Usage | None:
        """The tokens, at the end or so far."""
        stream = self.answer.stream
        return stream.usage if stream is not None else None

    @property
    def may_ask_again(self) -> bool:
        """Whether who began the call had too little time, and we have more."""
        until_s = self.task.watch.deadline_s
        return self._flight.first_deadline_s < until_s and clock.now() < until_s

    async def answered(self) -> None:
        """Returns when there is an answer, or the beginning of one. Raises GatewayError."""
        flight, before_ns = self._flight, clock.tick_ns()
        while flight.answer is None:
            await self._progress()
        self._note()
        waited_ns = clock.tick_ns() - before_ns
        self.task.upstream_ns += waited_ns if self.joined else flight.own.upstream_ns

    async def read(self) -> list[Chunk]:
        """The chunks that are ready, at least one; none at the answer's proper end. Raises GatewayError."""
        flight = self._flight
        flight.allow(self.task.watch.deadline_s)  # which may be later than it was before the commit point
        while True:
            if chunks := flight.take(self):
                return chunks
            if flight.whole:
                return []
            await self._progress()

    async def aclose(self) -> None:
        """The client left, or has all of it."""
        if not self._left:
            self._left = True
            await self._flight.leave(self)
            self._note()

    async def _progress(self) -> None:
        """Waits for more. Raises what ended the call, or that our own time is over."""
        flight, task = self._flight, self.task
        if not flight.ended:
            try:
                await task.watch.guard("shared", NEVER, flight.change())
                return
            except ClockRanOut:
                if task.watch.deadline_s >= flight.deadline_s:  # it ends now by itself, and tells how
                    await asyncio.wait({flight.task}, timeout=LAST_S)
                await self.aclose()
        if flight.error is not None:
            raise _retold(flight.error, self._note())
        if flight.ended and not self._left:
            await asyncio.wait({flight.task})
            flight.task.result()  # a defect of ours is raised
        if flight.answer is None or not self.chunks_read:  # it may have come in this very moment: too late
            raise DeadlineExceeded("No provider answered within the time allowed.", attempts=self._note())
        raise StreamStalled("The time allowed ran out before the answer was whole.", attempts=self._note())

    def _note(self) -> list[Attempt]:
        """The call's trail so far, as ours: in our time, and without its cost if that is counted with another one."""
        flight, task = self._flight, self.task
        task.shared = flight.counted_with is not self and (self.joined or self._left)
        later_s = flight.own.started_s - task.started_s
        task.trail[:] = [_seen(attempt, later_s, task.shared) for attempt in flight.own.trail]
        task.verdicts, task.given_up = flight.own.verdicts, flight.own.given_up
        return task.trail


def _seen(attempt: Attempt, later_s: float, shared: bool) -> Attempt:
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


def _retold(error: GatewayError, attempts: list[Attempt]) -> GatewayError:
    """The same error for another request: exceptions that several tasks raise would grow each other's traceback."""
    told = type(error).__new__(type(error), *error.args)
    told.__dict__.update(error.__dict__)
    told.attempts = tuple(attempts)
    return told
