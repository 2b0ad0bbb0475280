"""The `dub5` command runs the product and its harness; the bare package is enough for the product."""

import subprocess
import sys
from pathlib import Path

import pytest

from dub5.cli import VERBS, main
from tests.support.one_route import ONE_ROUTE


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every verb has a help of its own, which says what it does."""
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"usage: dub5 {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["serve", "check", "work"])
def test_no_settings(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a settings file the exit code is 2, and the message names what to try instead."""
    monkeypatch.chdir(tmp_path)
    assert main([verb]) == 2
    assert "dub5 playground" in capsys.readouterr().err


def test_default_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file `dub5.toml` of the current folder needs no option."""
    (tmp_path / "dub5.toml").write_text(ONE_ROUTE)
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 0
    assert "one: openai at http://127.0.0.1:9" in capsys.readouterr().out


def test_no_extras(tmp_path: Path) -> None:
    """Without the harness's packages `check` works, and `chaos` names the extra to install."""
    (tmp_path / "dub5.toml").write_text(ONE_ROUTE)
    code = "import sys; sys.modules |= dict.fromkeys(('rich', 'toxiproxy', 'requests', 'redis', 'pytest')); "
    code += "from dub5.cli import main; sys.exit(10 * main(['check']) + main(['chaos', '--list']))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, "pip install 'dub5[chaos]'" in ended.stderr) == (2, True), ended.stderr


def test_nothing_is_loaded_for_nobody(tmp_path: Path) -> None:
    """A service with the native wire and no Redis loads no package that only others use."""
    (tmp_path / "dub5.toml").write_text(ONE_ROUTE)
    code = (
        "import sys; from pathlib import Path; from dub5.service.command import Service, load\n"
        "Service(load(Path('dub5.toml'))); print(*sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.partition(".")[0] for name in ended.stdout.split()}
    assert {"litestar", "aiohttp"} <= loaded
    others = {
        "httpx",
        "itsdangerous",
        "redis",
        "aiocache",
        "pydantic",
        "rich",
        "jinja2",
        "toxiproxy",
        "locust",
        "websockets",
    }
    assert loaded & others == set()
