"""The processes of a load run: simulated providers, then the service over them.

async with stack(latency) as up: up.url, up.direct      they end with the block, or with this process
"""

import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dub5.chaos.engines.processes import child
from dub5.service.config.load import ENV_PREFIX

PERSONAS = {"one": "openai", "two": "mistral", "three": "anthropic"}
MODELS = {"openai": "gpt-sim", "mistral": "mistral-sim", "anthropic": "claude-sim"}
PERSONALITIES = ("assistant", "tutor", "short")  # shipped ones, by name
LISTENING = "listening on "


@dataclass(frozen=True, slots=True)
class LoadStack:
    """URLs of a running stack: `url` of the service, `direct` of an OpenAI-compatible provider behind it."""

    url: str
    direct: str


@asynccontextmanager
async def stack(latency: str) -> AsyncIterator[LoadStack]:
    """Start three providers of this latency and one service, on free ports.

    Raises dub5.chaos.engines.processes.NotStarted.
    """
    python = (sys.executable, "-m")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    named = [word for name, persona in PERSONAS.items() for word in ("--provider", f"{name}={persona}")]
    providers = [*python, "dub5.simulators", *named, "--latency", latency]
    with tempfile.TemporaryDirectory(prefix="dub5-load-") as name:
        folder = Path(name)
        async with child("simulators", providers, folder, is_ready("{"), environ) as simulators:
            ready = json.loads(simulators.ready_line)["providers"]
            config = folder / "service.toml"
            config.write_text(settings(ready, folder / "load.db"), encoding="utf-8")
            serve = [*python, "dub5.service", "serve", "--config", str(config), "--port", "0"]
            async with child("service", serve, folder, is_ready(LISTENING), environ) as service:
                yield LoadStack(service.ready_line.removeprefix(LISTENING), ready["one"]["url"])


def is_ready(beginning: str) -> Callable[[str], bool]:
    """Return a test for the line that a process prints once it is ready."""
    return lambda line: line.startswith(beginning)


def settings(providers: Mapping[str, Any], database: Path) -> str:
    """Return the service's settings file: one route over all providers, with its cache and conversations."""
    lines = []
    for name, provider in providers.items():
        dialect = provider["persona"]
        base = provider["url"] + ("" if dialect == "anthropic" else "/v1")
        lines += ["[[provider]]", f'name = "{name}"', f'dialect = "{dialect}"', f'base_url = "{base}"', ""]
    targets = [f"{name}/{MODELS[provider['persona']]}" for name, provider in providers.items()]
    lines += ["[[route]]", 'name = "chat"', f"targets = {json.dumps(targets)}"]
    lines += [f"personalities = {json.dumps(PERSONALITIES)}"]
    lines += ["[route.cache]", "enabled = true", ""]
    lines += ["[session]", "[conversation]", "[database]", f'url = "sqlite:///{database}"', ""]
    return "\n".join(lines)
