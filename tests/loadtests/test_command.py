import asyncio
import importlib.util
import json
from pathlib import Path

import msgspec
import pytest

from dub5.loadtests import command
from dub5.loadtests.sample import Sample, SampleOutcome
from dub5.loadtests.stack import PERSONALITIES, settings
from dub5.service.config.load import load

PROVIDERS = {
    "one": {"url": "http://127.0.0.1:9001", "persona": "openai"},
    "two": {"url": "http://127.0.0.1:9002", "persona": "mistral"},
    "three": {"url": "http://127.0.0.1:9003", "persona": "anthropic"},
}


def test_the_service_takes_its_settings(tmp_path: Path) -> None:
    """The service accepts the settings file written for it: all three dialects, and conversations."""
    path = tmp_path / "service.toml"
    path.write_text(settings(PROVIDERS, tmp_path / "load.db"))
    loaded = load(path, {}).settings
    assert loaded.conversation is not None and loaded.route[0].personalities == PERSONALITIES
    assert loaded.route[0].targets == ("one/gpt-sim", "two/mistral-sim", "three/claude-sim")
    assert [provider.base_url for provider in loaded.provider][-1] == "http://127.0.0.1:9003"


def test_without_locust(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without Locust the command says how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main([]) == 2
    assert "pip install" in capsys.readouterr().err


def test_a_mix_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown mix is answered with the valid names."""
    assert command.main(["--mix", "nonsense"]) == 2
    assert "chat, added" in capsys.readouterr().err


def test_a_mix_that_asks_a_provider_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A mix with direct requests over a running service needs --direct."""
    assert command.main(["--mix", "added", "--url", "http://127.0.0.1:1"]) == 2
    assert "--direct URL" in capsys.readouterr().err


class Ended:
    """A Locust that has ended well."""

    returncode = 0

    async def wait(self) -> int:
        return 0


@pytest.mark.parametrize(("outcome", "code"), [(SampleOutcome.COMPLETE, 0), (SampleOutcome.DISHONEST, 1)])
def test_the_verdict(
    outcome: SampleOutcome,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code is the verdict; table and report name the objectives that did not hold."""
    sample = Sample("stream", True, outcome, "a reason", 0.0, 0.0, 0.02, 0.05, 0.02, "one/m", cached=True)
    turn = msgspec.structs.replace(
        sample, outcome=SampleOutcome.COMPLETE, carrier="sse", resumed=1, resume_s=0.01, kept=True
    )

    async def run(*words: str, **_: object) -> object:
        path = Path(words[words.index("--samples") + 1])
        lines = [
            msgspec.json.encode(line) for line in ({"planned": 2, "unsent": 0, "ended_s": 1.0}, sample, turn)
        ]
        path.write_bytes(b"\n".join(lines))
        return Ended()

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(asyncio, "create_subprocess_exec", run)
    url = ["--url", "http://127.0.0.1:1", "--mix", "chat", "--reports", str(tmp_path)]
    assert command.main(url) == code
    assert ("NOT HELD" in capsys.readouterr().out) == bool(code)
    report = json.loads((tmp_path / "load.json").read_text())
    held = {row["name"]: row["held"] for row in report["objectives"]}
    assert held["outcomes.dishonest_max"] is (code == 0)
    page = (tmp_path / "load.html").read_text()
    assert all(name in page for name in held) and "first token" in page
    assert ("DID NOT HOLD" in page) == (">not held<" in page) == bool(code)


def test_key_and_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locust is told the model, and the name of the variable with the key; the key is on no command line."""
    seen: list[str] = []

    async def run(*words: str, **_: object) -> object:
        seen.extend(words)
        return Ended()

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(asyncio, "create_subprocess_exec", run)
    monkeypatch.setenv("A_KEY", "sk-secret")
    url = ["--url", "http://127.0.0.1:1", "--reports", str(tmp_path)]
    assert command.main([*url, "--model", "gpt", "--key-env", "A_KEY"]) == 2  # this Locust wrote no samples
    assert seen[seen.index("--model") + 1] == "gpt" and seen[seen.index("--key-env") + 1] == "A_KEY"
    assert "sk-secret" not in seen


def test_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    """A variable that is not set is told before anything is started."""
    assert command.main(["--url", "http://127.0.0.1:1", "--key-env", "NOT_SET"]) == 2
    assert "'NOT_SET'" in capsys.readouterr().err
