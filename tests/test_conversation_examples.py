"""The examples of docs/use/conversations.md, as they stand there: in a shell, in Python and in JavaScript."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dub5.simulators.server.thread import SimulatorThread
from tests.support.child_processes import serving
from tests.support.machine import program
from tests.support.one_route import one_route
from tests.support.source import ROOT

PAGE = (ROOT / "docs" / "use" / "conversations.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"
SETTINGS = (
    one_route("{provider}/v1")
    + """
[session]
[conversation]
[database]
url = "sqlite:///{file}"
patience_s = 5.0
keep_s = 5.0
"""
)


def example(language: str) -> str:
    """Return the page's only example in a language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(block)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the service with conversations."""
    folder, thread = tmp_path_factory.mktemp("examples"), SimulatorThread()
    provider = thread.start("openai", (), {"words": 8, "models": ["m"]})
    config = folder / "dub5.toml"
    config.write_text(SETTINGS.format(provider=provider.url, file=folder / "kept.db"), encoding="utf-8")
    with serving(config) as (url, _):
        yield url
    provider.close()
    thread.close()


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_shell(address: str, tmp_path: Path) -> None:
    """The commands begin a conversation, ask twice, read both turns and delete them."""
    told = run([program("sh"), "-ec", example("sh").replace(ADDRESS, address)], tmp_path)
    assert told.count('"object":"turn"') == 3, told
    assert "event: accepted" in told
    assert "event: end" in told
    assert '"question":{"text":"And in the evening?"' in told


def test_python(address: str, tmp_path: Path) -> None:
    """The program asks twice, as JSON and as a stream; both answers are kept."""
    told = run([sys.executable, "-c", example("python").replace(ADDRESS, address)], tmp_path)
    assert re.search(r"^complete True \S", told), told
    assert "kept: True" in told


def test_javascript(address: str, tmp_path: Path) -> None:
    """The program reads the stream of an answer that is kept."""
    file = tmp_path / "example.mjs"
    file.write_text(example("js").replace(ADDRESS, address), encoding="utf-8")
    told = run([program("node"), str(file)], tmp_path)
    assert "kept: true" in told, told
