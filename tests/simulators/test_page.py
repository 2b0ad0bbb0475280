"""The examples of docs/prove/simulators.md work as they stand."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dub5.simulators.faults.answers import KINDS, parse_fault
from dub5.simulators.faults.connections import HOWS, Unreachable
from dub5.simulators.latency import PRESETS
from dub5.simulators.limits.concurrency import Capacity
from dub5.simulators.limits.rate import Limits
from dub5.simulators.personas import PERSONAS
from dub5.simulators.personas.edges import EDGE_PAGES, EDGES
from dub5.simulators.provider import make
from dub5.simulators.settings import build
from tests.support.play import play, post, provider
from tests.support.source import ROOT

PAGE = (ROOT / "docs" / "prove" / "simulators.md").read_text()
SHORT = sorted(set(re.findall(r"`([a-z]+:[a-z0-9_:]*)`", PAGE)))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_file() -> None:
    """The file shown is valid."""
    (file,) = blocks("toml")
    providers, _ = make(build(tomllib.loads(file)), now=lambda: 0.0)
    assert [p.persona.name for p in providers.values()] == ["openai", "groq", "free", "anthropic"]
    assert [len(p.faults) for p in providers.values()] == [1, 1, 1, 0]


@pytest.mark.parametrize("said", [*SHORT, *filter(None, "".join(blocks("json")).splitlines())])
def test_faults(said: str) -> None:
    """Every fault shown can be set, and played, streamed or not."""
    fault = parse_fault(json.loads(said) if said.startswith("{") else said)
    for stream in (True, False):
        play(provider("openai", fault)(post("openai", {"model": "m", "messages": [{}], "stream": stream})))


def test_nothing_is_missing() -> None:
    """Every kind of fault, persona, edge, preset and limit is on the page."""
    for name in (*KINDS, *PERSONAS, *EDGES, *PRESETS):
        assert re.search(rf"\b{name}\b", PAGE), name
    for name in Limits.__struct_fields__:
        assert re.search(rf"`{name}|`_{name.rpartition('_')[2]}`", PAGE), name
    for name in (
        *Capacity.__struct_fields__,
        *Unreachable.__struct_fields__,
        *(how for h in HOWS.values() for how in h),
    ):
        assert re.search(rf"\b{name}\b", PAGE), name
    assert len(SHORT) > 25
    for body in re.findall(r"`((?:cloudflare|nginx|vercel)_[0-9a-z_]+)`", PAGE):
        assert body in EDGE_PAGES


def test_fixture(tmp_path: Path) -> None:
    """The test shown passes."""
    (test,) = blocks("python")
    (tmp_path / "test_shown.py").write_text(test)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "dub5.simulators.pytest_plugin",
        "-p",
        "no:cacheprovider",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr
