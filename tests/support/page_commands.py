"""The commands of a page of the documentation, run as they stand there."""

import asyncio
import os
import re
from pathlib import Path


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
