"""The commands of a page of the documentation, run as they stand there."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.conversing import Person, ServiceProcess, client
from tests.support.machine import program
from tests.support.slow_provider import slow_provider


def commands_of(page: Path) -> list[str]:
    """Return the blocks of a page that are for a shell, in their order."""
    return re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


async def output_of(command: str, variables: dict[str, str]) -> str:
    """Run a command with these variables; return what it writes."""
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    environ = {"PATH": os.environ["PATH"]} | variables
    process = await asyncio.create_subprocess_exec("sh", "-c", command, env=environ, **pipes)
    said, _ = await process.communicate()
    return said.decode(errors="replace")


@asynccontextmanager
async def asked_service(folder: Path) -> AsyncIterator[tuple[ServiceProcess, str]]:
    """Run a service over a real SQLite that has been asked a question. Yield it, and the turn's id."""
    program("curl")
    async with slow_provider(("Blue.",)) as provider, client() as http:
        service = ServiceProcess(folder, "service", f"sqlite:///{folder}/kept.db", provider.url)
        provider.say(1)
        try:
            await service.start()
            person = Person(http, service.url, 1)
            await person.begin()
            yield service, (await person.ask(stream=True))["turn"]
        finally:
            service.kill()


def assert_shown(said: Sequence[str], expected: Sequence[str]) -> None:
    """Check what each command has written, by a pattern each."""
    for text, pattern in zip(said, expected, strict=True):
        assert re.search(pattern, text, re.MULTILINE), text


def assert_variables(block: str, values: dict[str, str]) -> None:
    """Check that the first block of a page sets these variables, in this order."""
    assert re.findall(r"^(\w+)=", block, re.MULTILINE) == list(values)
