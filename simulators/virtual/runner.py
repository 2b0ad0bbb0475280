"""The runner of virtual time: `run(main())` is `asyncio.run` on a virtual loop, with a check for leaks."""

import asyncio
import gc
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from dub5.simulators.virtual.loop import VirtualLoop, where
from dub5.simulators.virtual.stalls import Stalls

T = TypeVar("T")

SETTLE_TURNS = 100


class Leaked(AssertionError):
    """The main coroutine returned but left tasks behind, or errors that were never retrieved."""


class Trace:
    """An `on_step` that hashes every step: equal runs have equal digests. `last` holds the last steps."""

    def __init__(self, keep: int = 200) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.last: deque[tuple[int, str]] = deque(maxlen=keep)

    def __call__(self, at_ns: int, name: str) -> None:
        self._hash.update(f"{at_ns} {name}\n".encode())
        self.last.append((at_ns, name))

    def digest(self) -> str:
        return self._hash.hexdigest()


def run(
    main: Coroutine[Any, Any, T],
    *,
    seed: int | None = 0,
    on_step: Callable[[int, str], None] | None = None,
    debug: bool = False,
    leaks: bool = False,
    stalls: Stalls | None = None,
) -> T:
    """Run `main` in virtual time and return its result. Raises what `main` raises, Deadlock and Escaped.

    Tasks that `main` left behind, and that do not end at the same instant, are cancelled and raise Leaked;
    `leaks` allows them. `stalls`: when the loop stands still.
    """
    loop = VirtualLoop(seed, on_step=on_step, stalls=stalls)
    loop.set_debug(debug)
    collecting = gc.isenabled()
    gc.disable()
    leaked: list[str] = []
    try:
        task = loop.create_task(main, name="main")
        result: T = loop.run_until_complete(task)
        loop.run_until_complete(_settle(loop))
        leaked = [f"{task.get_name()}: {where(task)}" for task in loop.unfinished()]
    finally:
        _close(loop)
        if collecting:
            gc.enable()
    gc.collect(0)  # a task reports an error that was never retrieved when it is deleted
    if (leaked and not leaks) or loop.complaints:
        raise Leaked("\n".join(["left behind:", *leaked, *loop.complaints]))
    return result


async def _settle(loop: VirtualLoop) -> None:
    """Run the tasks that end without time passing."""
    for _ in range(SETTLE_TURNS):
        if len(loop.unfinished()) == 1:
            return
        await asyncio.sleep(0)


def _close(loop: VirtualLoop) -> None:
    loop.on_step = None
    try:
        loop.run_until_complete(_cancel(loop))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _cancel(loop: VirtualLoop) -> None:
    """Cancel the leftover tasks, oldest first; what they raise goes to the loop's complaints."""
    leftovers = [task for task in loop.unfinished() if task is not asyncio.current_task()]
    for task in leftovers:
        task.cancel()
    if leftovers:
        await asyncio.wait(leftovers)
