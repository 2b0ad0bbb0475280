"""Modules of ours as processes of their own, ended with the block."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def child(*arguments: str, log: IO[str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """Run a module of ours. `log`: where its errors go; by default to those of this process."""
    command = [sys.executable, "-m", *arguments]
    environ = os.environ | {"DUB5_TEST_KEY": "a-key-for-a-simulator"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    with subprocess.Popen(command, env=environ, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def serving(
    config: Path, port: int = 0, log: IO[str] | None = None
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run the service with these settings; yield its address. Port 0 is any free one."""
    with child("service", "serve", "--config", str(config), "--port", str(port), log=log) as process:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("listening on ").strip(), process
