"""Starts what a load run needs, each as a process of its own: simulated providers, then the service over them.

with Stack() as stack: stack.url      both end with the block, the service by its own drain
"""

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
STOP_S = 40.0  # longer than a drain
PERSONAS = {"one": "openai", "two": "mistral", "three": "anthropic"}
MODELS = {"openai": "gpt-sim", "mistral": "mistral-sim", "anthropic": "claude-sim"}


class NotStarted(Exception):
    """A process did not say that it is ready."""


class Stack:
    """Three providers of one `latency` and one service, on free ports of this machine. `url` is the service, `direct`
    the provider that speaks as the service does."""

    def __init__(self, latency: str = "quick") -> None:
        self.url = self.direct = ""
        self._latency = latency
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        try:
            folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="dub5-load-")))
            providers = self._providers(folder)
            self.direct = providers["one"]["url"]
            config = folder / "service.toml"
            config.write_text(settings(providers), encoding="utf-8")
            said = self._start(folder, "service", "serve", "--config", str(config), "--port", "0")
            self.url = said.removeprefix("listening on ").strip()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def _providers(self, folder: Path) -> dict[str, Any]:
        named = [word for name, persona in PERSONAS.items() for word in ("--provider", f"{name}={persona}")]
        said = json.loads(self._start(folder, "simulators", *named, "--latency", self._latency, "--leash"))
        providers: dict[str, Any] = said["providers"]
        return providers

    def _start(self, folder: Path, module: str, *arguments: str) -> str:
        """The first line that it prints. Raises NotStarted with its last words."""
        errors = folder / f"{module}.log"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._exits.callback(_stop, process)
        assert process.stdout is not None, "it was asked for"
        line = process.stdout.readline()
        if not line:
            raise NotStarted(f"python -m {module} did not start:\n{errors.read_text()[-2000:]}")
        return line


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def settings(providers: dict[str, Any]) -> str:
    """The service's settings file: one route over all providers, its cache on."""
    lines = []
    for name, provider in providers.items():
        dialect = provider["persona"]
        base = provider["url"] + ("" if dialect == "anthropic" else "/v1")
        lines += ["[[provider]]", f'name = "{name}"', f'dialect = "{dialect}"', f'base_url = "{base}"', ""]
    targets = [f"{name}/{MODELS[provider['persona']]}" for name, provider in providers.items()]
    lines += [
        "[[route]]",
        'name = "chat"',
        f"targets = {json.dumps(targets)}",
        "[route.cache]",
        "enabled = true",
        "",
    ]
    return "\n".join(lines)
