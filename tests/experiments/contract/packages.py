"""The packages in their versions, each in an environment of its own under .nox/contract-packages."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(".nox/contract-packages")
CHILD = Path(__file__).parent / "child" / "probe.py"
NEW = {"openai": "3.52.0", "anthropic": "2.11.0", "mistralai": "3.7.0"}
OLD = {"openai": "2.54.0", "anthropic": "0.125.0", "mistralai": "1.12.4"}
THREADS = 12
PATIENCE_S = 30.0


class ProgramFailed(Exception):
    """A program failed; the message has the end of its output."""


@dataclass(frozen=True)
class Column:
    """A package in a version. `age`: old or new, as measured before, or newest at the time of the run."""

    package: str
    age: str
    wanted: str = ""  # "": the newest

    @property
    def name(self) -> str:
        """A name that is unique among all columns."""
        return f"{self.package}-{self.age}"

    @property
    def python(self) -> Path:
        """The interpreter of the column's environment."""
        return FOLDER / f"{self.package}-{self.wanted or 'newest'}" / "bin" / "python"


COLUMNS = tuple(
    column
    for package in NEW
    for column in (
        Column(package, "new", NEW[package]),
        Column(package, "newest"),
        Column(package, "old", OLD[package]),
    )
)


async def installed(column: Column) -> str:
    """Make the column's environment, or keep it.

    Return the version. Raises ProgramFailed if it is not available.
    """
    if not column.python.exists():
        await run("uv", "venv", "--quiet", "--python", sys.executable, column.python.parent.parent)
    pin = f"{column.package}=={column.wanted}" if column.wanted else column.package
    fresh = () if column.wanted else ("--upgrade-package", column.package)
    await run("uv", "pip", "install", "--quiet", "--python", column.python, *fresh, pin)
    code = f"import importlib.metadata; print(importlib.metadata.version({column.package!r}))"
    return (await run(column.python, "-c", code)).strip()


async def asked(
    column: Column, cases: Sequence[Mapping[str, Any]], patience_s: float = PATIENCE_S
) -> dict[str, dict[str, Any]]:
    """Return what the package does in each case, by the case's name.

    `patience_s`: time limit without progress.
    """
    task = json.dumps(
        {"package": column.package, "threads": THREADS, "cases": cases, "patience_s": patience_s}
    )
    lines = (await run(column.python, CHILD, stdin=task, proxies=False)).splitlines()
    return {seen["name"]: seen for seen in map(json.loads, lines)}


async def run(*command: object, stdin: str = "", proxies: bool = True) -> str:
    """Return what a program prints. Raises ProgramFailed."""
    environment = {k: v for k, v in os.environ.items() if proxies or not k.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        out, complaint = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise ProgramFailed(complaint.decode(errors="replace").strip()[-800:])
    return out.decode()
