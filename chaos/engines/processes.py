"""Child processes that end with their parent. Each runs under supervise.py, prints when it is ready, and has
a log."""

import asyncio
import logging
import multiprocessing
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dub5.simulators.virtual import VirtualLoop

SUPERVISOR = Path(__file__).with_name("supervise.py")
STILL_WAITING_S = 20.0  # between two lines that tell of a wait
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_S = 12.0  # longer than supervise.py waits between TERM and KILL
TAIL_CHARS = 1500

T = TypeVar("T")
PrintLine = Callable[[str], None]


def print_error(text: str) -> None:
    """Print a line that is not a result."""
    print(text, file=sys.stderr, flush=True)


class NotStarted(Exception):
    """A process ended before it was ready. The message has its last output."""


class HarnessFailed(Exception):
    """A run failed because of the harness: it says nothing about the service."""


class Child:
    """A running process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.ready_line = ""
        self._process = process
        self._log = log
        self._drain: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def until_ready(self, is_ready: Callable[[str], bool], print_line: PrintLine) -> None:
        """Read its output up to the line that `is_ready` accepts, for as long as it lives.

        A slow machine is no failure: the wait is told through `print_line`. Raises NotStarted.
        """
        stdout = self._process.stdout
        assert stdout is not None, "started with a pipe"
        waiting = asyncio.create_task(self._tell_of_the_wait(print_line), name=f"wait for {self.name}")
        try:
            while line := (await stdout.readline()).decode("utf-8", "replace").strip():
                self._note(line)
                if is_ready(line):
                    self.ready_line = line
                    self._drain = asyncio.create_task(self._rest(stdout), name=f"output of {self.name}")
                    return
        finally:
            waiting.cancel()
        raise NotStarted(f"{self.name} ended before it was ready.\n{self.log_tail()}")

    async def _tell_of_the_wait(self, print_line: PrintLine) -> None:
        began_s = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(STILL_WAITING_S)
            waited_s = asyncio.get_running_loop().time() - began_s
            print_line(
                f"{self.name} is not ready after {waited_s:.0f} s, but it lives: still waiting. Ctrl-C: end."
            )

    def log_tail(self) -> str:
        """Return the end of its output."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARS:].strip()

    async def stop(self) -> None:
        """Terminate it and wait until it has ended."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._drain is not None:
            await self._drain

    def _note(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    async def _rest(self, stdout: asyncio.StreamReader) -> None:
        while line := await stdout.readline():
            self._note(line.decode("utf-8", "replace").rstrip())


@asynccontextmanager
async def child(
    name: str,
    command: Sequence[str],
    folder: Path,
    is_ready: Callable[[str], bool],
    environ: Mapping[str, str],
    print_line: PrintLine = print_error,
) -> AsyncIterator[Child]:
    """Run a process that is ready and ends with the block. Its log is `folder/name.log`.

    `print_line` tells of a long start. Raises NotStarted.
    """
    log = folder / f"{name}.log"
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(SUPERVISOR), *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environ,
            start_new_session=True,
        )
    running = Child(name, process, log)
    try:
        await running.until_ready(is_ready, print_line)
        yield running
    finally:
        await asyncio.shield(running.stop())


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGTERM, SIGHUP and SIGINT end the block with KeyboardInterrupt, as Ctrl-C does.

    A shell ignores SIGINT for a command in the background (`command &` in a script), and Python then keeps it
    ignored: here it ends the block all the same. A SIGHUP that `nohup` ignores stays ignored.
    """
    before = {
        number: signal.getsignal(number)
        for number in ENDINGS
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until_stopped(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` like `asyncio.run`. A signal of `ended_by_signals` cancels it: raises KeyboardInterrupt."""
    with ended_by_signals():
        try:
            return asyncio.run(_with_signals(main))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _with_signals(main: Coroutine[Any, Any, T]) -> T:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "run by asyncio.run"

    def on_signal() -> None:
        if task.cancelling():
            _interrupt()  # a second signal does not wait for the end of the first one
        task.cancel()

    for number in ENDINGS:
        if signal.getsignal(number) is _interrupt:
            loop.add_signal_handler(number, on_signal)
    return await main


def _interrupt(*_: object) -> None:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks that end unread are no news now
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise KeyboardInterrupt from None
    if not isinstance(loop, VirtualLoop):
        raise KeyboardInterrupt
    loop.interrupt()


def end_workers() -> None:
    """End the worker processes of this process at once, in the middle of their work."""
    for worker in multiprocessing.active_children():
        worker.terminate()
