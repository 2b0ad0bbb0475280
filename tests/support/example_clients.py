"""The programs of docs/use/examples/, as people run them: as processes, whose output is read as it comes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.conversing import KEY
from tests.support.machine import program
from tests.support.source import ROOT

FOLDER = ROOT / "docs" / "use" / "examples"
NAMES = ("chat_events.mjs", "chat_events.py", "chat_websocket.mjs", "chat_websocket.py")
PATIENCE_S = 30.0


class ExampleClient:
    """One running program. `said`: the answer as it was printed; `noted`: what it tells beside."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.said = self.noted = ""
        self._process = process
        self._more = asyncio.Condition()
        assert process.stdout is not None
        assert process.stderr is not None
        streams = {"said": process.stdout, "noted": process.stderr}
        self._reading = [asyncio.create_task(self._read(*each)) for each in streams.items()]

    async def until(self, *, said: str = "", noted: str = "") -> None:
        """Wait until the program has printed this."""
        async with asyncio.timeout(PATIENCE_S), self._more:
            await self._more.wait_for(lambda: said in self.said and noted in self.noted)

    async def end(self) -> int:
        """Wait for the end of the program. Return its exit code."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._reading)
            return await self._process.wait()

    def interrupt(self) -> None:
        """Do as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End the program, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()

    async def _read(self, name: str, stream: asyncio.StreamReader) -> None:
        data = b""
        while piece := await stream.read(64 * 1024):
            data += piece
            async with self._more:
                setattr(self, name, data.decode(errors="ignore"))
                self._more.notify_all()


def command_of(path: Path) -> list[str]:
    """Return the command that runs an example. Node 20 has WebSockets behind a flag."""
    if path.suffix == ".py":
        return [sys.executable, str(path)]
    return [program("node"), "--experimental-websocket", "--no-warnings", str(path)]


def _take_interrupts() -> None:
    """Let Ctrl-C work: what a shell runs in the background, as these tests may be, begins with it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def example_clients(url: str, question: str) -> AsyncIterator[list[ExampleClient]]:
    """Run all programs at one time; each asks the question."""
    environ = os.environ | {"DUB5_URL": url, "DUB5_KEY": KEY}
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    clients = []
    try:
        for name in NAMES:
            command = [*command_of(FOLDER / name), question]
            process = await asyncio.create_subprocess_exec(
                *command, env=environ, **pipes, preexec_fn=_take_interrupts
            )
            clients.append(ExampleClient(name, process))
        yield clients
    finally:
        for client in clients:
            client.kill()
            await client.end()
