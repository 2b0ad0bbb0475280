"""The virtual event loop: time is a number, so hours pass in milliseconds and equal seeds give equal runs.

    callbacks ready?  yes -> shuffle them by the seed, run each, on_step(ns, name)
                      no  -> jump to the next timer;  no timer either -> Deadlock
    stalls            the loop stands still now and then, where they are planned (stalls.py)

The loop is closed to the outside: sockets, threads, processes and signals raise Escaped.
"""

import asyncio
import contextvars
import gc
import heapq
import itertools
import random
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from dub5.simulators.virtual.stalls import Stalls

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TURNS_MAX = 100_000  # an instant with more turns than this spins: time moves on all the same
COLLECT_EVERY_STEPS = 50_000  # the garbage collector must not run when allocation says so
EPOCH_S = 1_700_000_000

OUTSIDE = {
    "sockets": """getaddrinfo getnameinfo create_connection create_server create_datagram_endpoint
        create_unix_connection create_unix_server connect_accepted_socket sock_recv sock_recv_into
        sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto sock_connect sock_accept sock_sendfile
        sendfile start_tls add_reader add_writer remove_reader remove_writer connect_read_pipe
        connect_write_pipe""",
    "threads": "run_in_executor set_default_executor",
    "subprocesses": "subprocess_shell subprocess_exec",
    "signals": "add_signal_handler remove_signal_handler",
}


class Escaped(BaseException):
    """Code used something outside the loop. A BaseException, so that no `except Exception` hides it."""


class Deadlock(BaseException):
    """All tasks wait and no timer is scheduled. The message names each task and where it waits."""


class _Future(asyncio.Future[Any]):
    """A future hashed by a number: asyncio keeps futures in sets, whose order would follow memory addresses.

    The number is assigned at the first hash, since few futures are ever hashed.
    """

    number = 0

    def __hash__(self) -> int:
        if not self.number:
            loop = self.get_loop()
            assert isinstance(loop, VirtualLoop), "the loop's create_future made it"
            self.number = next(loop._numbers)
        return self.number


class _Task(asyncio.Task[Any]):
    """A task hashed by its number: a TaskGroup keeps its children in a set and cancels them in its order."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
        self.number = number  # before super().__init__, which puts the task into a set
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time: whole nanoseconds, from 0.

    `seed` orders the callbacks of one turn and sets the date; None keeps asyncio's own order.
    `on_step(at_ns, name)` is called after each callback: for traces, and for invariants, which may raise.
    `stalls`: when it stands still.
    """

    def __init__(
        self,
        seed: int | None = 0,
        *,
        on_step: Callable[[int, str], None] | None = None,
        stalls: Stalls | None = None,
    ) -> None:
        super().__init__()
        self.on_step = on_step
        self.stalls = stalls
        self._ready: deque[asyncio.Handle]  # is the base class's
        self._stopping: bool
        self._debug: bool
        self._closed: bool
        self._thread_id: int | None
        self._check_closed: Callable[[], None]
        self._asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]]
        self._now_ns = 0
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._cancelled_timers = 0
        self._numbers = itertools.count(1)
        self._order = None if seed is None else random.Random(f"{seed}:order")
        date_s = 0 if seed is None else random.Random(f"{seed}:wall").randrange(10**8)
        self._epoch_s = float(EPOCH_S + date_s)
        self._generators: weakref.WeakKeyDictionary[AsyncGenerator[Any, Any], int] = (
            weakref.WeakKeyDictionary()
        )
        self._threads = set(threading.enumerate())
        self._turns = self._steps = 0
        self._escaped: BaseException | None = None
        self.complaints: list[str] = []

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt between two turns. Within a step it would leave a future half set."""
        self._escaped = KeyboardInterrupt()

    # time

    def time(self) -> float:
        """Return the seconds since the loop began."""
        return self._now_ns / 1e9

    def time_ns(self) -> int:
        """Return the nanoseconds since the loop began."""
        return self._now_ns

    def wall(self) -> float:
        """Return the wall clock in epoch seconds; its date is drawn from the seed."""
        return self._epoch_s + self._now_ns / 1e9

    def jump_wall(self, s: float) -> None:
        """Set the wall clock forwards or back by `s` seconds. The loop's time goes on as before."""
        self._epoch_s += s

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        # A delay above zero takes at least a nanosecond: a remainder lost in rounding would be waited for for
        # ever.
        delay_ns = round(delay * 1e9)
        return self._at_ns(self._now_ns + (delay_ns or int(delay > 0)), callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        when_ns = round(when * 1e9)
        if when > self.time():
            when_ns = max(when_ns, self._now_ns + 1)
        return self._at_ns(when_ns, callback, args, context)

    def _at_ns(
        self, when_ns: int, callback: Callable[..., object], args: Any, context: contextvars.Context | None
    ) -> asyncio.TimerHandle:
        self._check_closed()
        handle = asyncio.TimerHandle(when_ns / 1e9, callback, args, self, context)
        heapq.heappush(self._timers, (when_ns, next(self._numbers), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._cancelled_timers += 1
        if self._cancelled_timers > 1000 and self._cancelled_timers > len(self._timers) // 2:
            self._timers = [timer for timer in self._timers if not timer[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    # turns

    def _run_once(self) -> None:
        if self._escaped:
            escaped, self._escaped = self._escaped, None
            raise escaped
        self._turns += 1
        ready = self._ready
        if (not ready or self._turns > TURNS_MAX) and not self._stopping:
            self._jump()
        if self.stalls is not None:
            self._now_ns = self.stalls.next_turn(self._now_ns)
        timers, now_ns = self._timers, self._now_ns
        while timers and timers[0][0] <= now_ns:
            timer = heapq.heappop(timers)[2]
            if timer._cancelled:
                self._cancelled_timers -= 1
            else:
                ready.append(timer)
        if len(ready) > 1 and self._order is not None:
            turn = list(ready)
            self._order.shuffle(turn)
            ready.clear()
            ready.extend(turn)
        on_step, steps = self.on_step, len(ready)
        for _ in range(steps):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if on_step is None:
                handle._run()
            else:
                name = _name(handle)
                handle._run()
                on_step(self._now_ns, name)
        self._steps += steps
        if self._steps >= COLLECT_EVERY_STEPS:
            self._steps = 0
            gc.collect(1)

    def _drop_cancelled_timers(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
            self._cancelled_timers -= 1

    def _jump(self) -> None:
        self._turns = 0
        self._drop_cancelled_timers()
        if not self._timers:
            raise self._stuck("spins" if self._ready else "waits")
        self._now_ns = max(self._now_ns, self._timers[0][0])
        if self.stalls is not None:
            self._now_ns = self.stalls.wake_up(self._now_ns)

    def _stuck(self, how: str) -> BaseException:
        threads = sorted(thread.name for thread in set(threading.enumerate()) - self._threads)
        if threads:
            return Escaped(f"threads were started: {', '.join(threads)}; virtual time does not wait for them")
        lines = [f"  {task.get_name()}: {where(task)}" for task in self.unfinished()]
        return Deadlock("\n".join([f"at {self.time()} s everything {how} and nothing is scheduled:", *lines]))

    def _process_events(self, event_list: object) -> None: ...

    def _write_to_self(self) -> None: ...

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        if self._debug or self._closed:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        if self.is_running() and self._thread_id != threading.get_ident():
            name = threading.current_thread().name
            self._escaped = Escaped(f"thread {name} called into the loop; virtual time does not wait for it")
            raise self._escaped
        return self.call_soon(callback, *args, context=context)

    # tasks, numbered in the order of their creation

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def create_task(  # type: ignore[override]  # newer Pythons pass more keywords
        self, coro: Coroutine[Any, Any, T], *, name: object = None, **kwargs: Any
    ) -> asyncio.Task[T]:
        self._check_closed()
        number = next(self._numbers)
        title = getattr(coro, "__qualname__", type(coro).__name__)
        return _Task(number, coro, loop=self, name=name or f"{title}#{number}", **kwargs)

    def unfinished(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended, oldest first."""
        return sorted(asyncio.all_tasks(self), key=hash)

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._generators[agen] = next(self._numbers)
        super()._asyncgen_firstiter_hook(agen)  # type: ignore[misc]

    async def shutdown_asyncgens(self) -> None:
        self._asyncgens_shutdown_called = True
        for generator in sorted(self._asyncgens, key=lambda generator: self._generators[generator]):
            await generator.aclose()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context['message']}: {context.get('exception')!r}")
        super().call_exception_handler(context)


def _name(handle: asyncio.Handle) -> str:
    """Return the name of the task that a callback resumes, else of the function."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return owner.get_name()
    return str(getattr(callback, "__qualname__", None) or type(callback).__qualname__)


def where(task: asyncio.Task[Any]) -> str:
    """Return where a task waits, innermost frame last: its own functions, then the one that suspends."""
    places = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = next(
            (
                getattr(awaited, kind)
                for kind in ("cr_frame", "ag_frame", "gi_frame")
                if hasattr(awaited, kind)
            ),
            None,
        )
        if frame is not None:
            places.append(f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})")
        awaited = next(
            (
                getattr(awaited, kind)
                for kind in ("cr_await", "ag_await", "gi_yieldfrom")
                if hasattr(awaited, kind)
            ),
            None,
        )
    return " > ".join(places) or "not started"


def _forbid(name: str, what: str) -> Callable[..., NoReturn]:
    def escaped(self: VirtualLoop, *args: object, **kwargs: object) -> NoReturn:
        raise Escaped(f"{name}: there are no {what} in virtual time")

    return escaped


for _what, _names in OUTSIDE.items():
    for _method in _names.split():
        setattr(VirtualLoop, _method, _forbid(_method, _what))
