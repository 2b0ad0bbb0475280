"""The process that benchmarks/instructions.py runs under callgrind: it sends requests, and calls kernels.

    instructions_requests.py, instructions_kernels.py -> one case after another -> `dub5` of any checkout

    python -P benchmarks/instructions_driver.py CHECKOUT FILE      PYTHONPATH says where `dub5` is

callgrind cuts its profile at each `os.getppid`, a call without effect: before the counted calls of a case,
and after them. FILE gets the names of all cases, in this order; for one that CHECKOUT lacks, with the reason.
"""

import asyncio
import gc
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import TypeVarTuple

import dub5.service
from benchmarks.instructions_kernels import KERNELS, Kernel
from benchmarks.instructions_requests import REQUEST_CASES, RequestCase, served
from benchmarks.memory_server import MemoryClient
from dub5.service.config.settings import SettingsProblems

REQUESTS, KERNEL_CALLS = 40, 200  # of each case; as many before them, after which Python has specialised
REASON_CHARS_MAX = 300
QUIET_S = 1.0  # without a call from a thread: a database has then done what a start asks of it
# What older code does with what it does not have: a name, a parameter, a setting, such an answer.
NOT_THERE = (ImportError, AttributeError, TypeError, ValueError, RuntimeError, SettingsProblems)
Arguments = TypeVarTuple("Arguments")
RunCase = Callable[[int], Awaitable[None]]  # runs it so many times


class SteadyLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can stand still: no timer is due then, and no second of a window is over."""

    def __init__(self) -> None:
        super().__init__()
        self._stands_at_s: float | None = None
        self._heard_s = 0.0  # when a thread has last called

    def time(self) -> float:
        """Return the time of the loop, in seconds."""
        return super().time() if self._stands_at_s is None else self._stands_at_s

    def call_soon_threadsafe(
        self, callback: Callable[[*Arguments], object], *arguments: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        """Call back for another thread."""
        self._heard_s = self.time()
        return super().call_soon_threadsafe(callback, *arguments, context=context)

    async def settle(self) -> None:
        """Wait until the threads have done what a start asks of them."""
        while self.time() - self._heard_s < QUIET_S:
            await asyncio.sleep(QUIET_S / 4)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop the clock for as long as the block takes."""
        self._stands_at_s = self.time()
        try:
            yield
        finally:
            self._stands_at_s = None


class Counter:
    """Runs cases. `reasons`: all cases in order, each with the reason why it was not counted, or nothing."""

    def __init__(self, loop: SteadyLoop) -> None:
        self.reasons: dict[str, str] = {}
        self._loop = loop

    async def count(self, name: str, prepare: Callable[[], RunCase], times: int) -> None:
        """Run a case to warm up, and once more between two cuts."""
        self.reasons[name] = ""
        try:
            run = prepare()
            with self._loop.standing_still():
                await run(times)
                os.getppid()
                await run(times)
                os.getppid()
        except NOT_THERE as error:
            self.reasons[name] = reason(error)

    async def count_all(self, begin: Callable[[], None]) -> None:
        """Count all cases. `begin` is called when the services have started."""
        async with AsyncExitStack() as services:
            clients = {}
            for settings, cases in REQUEST_CASES.items():
                try:
                    clients[settings] = await services.enter_async_context(served(settings))
                except NOT_THERE as error:
                    self.reasons |= {case.name: reason(error) for case in cases}
            await self._loop.settle()
            begin()
            for settings, client in clients.items():
                for case in REQUEST_CASES[settings]:
                    await self.count(case.name, partial(sender, case, client), REQUESTS)
        for name, kernel in KERNELS.items():
            await self.count(name, partial(caller, kernel), KERNEL_CALLS)


def sender(case: RequestCase, client: MemoryClient) -> RunCase:
    """Return what sends so many requests one after another. It raises RuntimeError for another answer."""
    request = case.request()

    async def run(count: int) -> None:
        for _ in range(count):
            answer = await client.exchange(request)
        if not answer.startswith(b"HTTP/1.1 200 ") or case.proof not in answer:
            raise RuntimeError(f"no answer with {case.proof!r}: {answer!r}")

    return run


def caller(kernel: Kernel) -> RunCase:
    """Return what calls a kernel so many times."""
    call = kernel()

    async def run(count: int) -> None:
        for _ in range(count):
            call()

    return run


def reason(error: Exception) -> str:
    """Return why a case was not counted."""
    return f"{type(error).__name__}: {error}"[:REASON_CHARS_MAX]


def begin() -> None:
    """Let callgrind count from now on, if it is there: a start under it takes as long as all the rest."""
    if vgdb := os.environ.get("VGDB"):
        told = (vgdb, f"--pid={os.getpid()}", "instrumentation", "on")
        subprocess.run(told, check=True, stdout=subprocess.DEVNULL)


def main(checkout: Path, file: Path) -> None:
    """Count all cases, and write which of them were counted."""
    source = Path(inspect.getfile(dub5.service)).resolve()
    if not source.is_relative_to(checkout.resolve()):
        raise ImportError(f"{source} is not of the checkout {checkout}")
    gc.disable()
    loop = SteadyLoop()
    counter = Counter(loop)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(counter.count_all(begin))
    file.write_text(json.dumps(counter.reasons), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
