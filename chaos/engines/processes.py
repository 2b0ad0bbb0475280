"""Child processes that end with their parent. Each runs under supervise.py, prints when it is ready, and has
a log."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

SUPERVISOR = Path(__file__).with_name("supervise.py")
READY_S = 20.0
STOP_S = 12.0  # longer than supervise.py waits between TERM and KILL
TAIL_CHARS = 1500

T = TypeVar("T")
PrintLine = Callable[[str], None]


class NotStarted(Exception):
    """A process ended, or printed nothing, before it was ready. The message has its last output."""


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

    async def until_ready(self, is_ready: Callable[[str], bool]) -> None:
        """Read its output up to the line that `is_ready` accepts. Raises NotStarted."""
        stdout = self._process.stdout
        assert stdout is not None, "started with a pipe"
        try:
            async with asyncio.timeout(READY_S):
                while line := (await stdout.readline()).decode("utf-8", "replace").strip():
                    self._note(line)
                    if is_ready(line):
                        self.ready_line = line
                        self._drain = asyncio.create_task(self._rest(stdout), name=f"output of {self.name}")
                        return
        except TimeoutError:
            raise NotStarted(f"{self.name} was not ready after {READY_S:g} s.\n{self.log_tail()}") from None
        raise NotStarted(f"{self.name} ended before it was ready.\n{self.log_tail()}")

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
) -> AsyncIterator[Child]:
    """Run a process that is ready and ends with the block. Its log is `folder/name.log`. Raises
    NotStarted."""
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
        await running.until_ready(is_ready)
        yield running
    finally:
        await asyncio.shield(running.stop())


def run_until_stopped(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` like `asyncio.run`. SIGTERM and SIGHUP end it as Ctrl-C does, with KeyboardInterrupt."""
    return asyncio.run(_with_signals(main))


async def _with_signals(main: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signal.raise_signal, signal.SIGINT)
    return await main
