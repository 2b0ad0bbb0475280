"""A command that is ended from outside ends in silence: its output is read only in part, or Ctrl-C."""

import subprocess
import sys
from pathlib import Path

import pytest

from dub5.cli import main
from dub5.service.closed_output import CLOSED, INTERRUPTED, ends_with_its_reader

MANY = "".join(
    f'[[provider]]\nname = "p{i}"\ndialect = "openai"\nbase_url = "http://h{i}/v1"\n'
    f'[[route]]\nname = "r{i}"\ntargets = ["p{i}/m"]\n'
    for i in range(1_000)
)


@pytest.mark.parametrize(
    "words",
    [
        ("dub5", "check"),
        ("dub5.service", "check"),
        ("dub5", "--help"),
        ("dub5", "chaos", "http-530", "--engine", "virtual"),
        ("dub5", "simulate", "--seeds", "1", "--jobs", "1"),
    ],
    ids=" ".join,
)
def test_a_reader_that_leaves(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A command whose reader leaves after a line, as `head -1` does, prints no traceback."""
    (tmp_path / "dub5.toml").write_text(MANY)
    with subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() in (0, 1, CLOSED)


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends a command without a traceback, whether it runs or its modules are still imported."""

    def pressed(*_: object) -> int:
        raise KeyboardInterrupt

    assert ends_with_its_reader(pressed)() == INTERRUPTED
    monkeypatch.setattr("dub5.cli.importlib.import_module", pressed)
    assert main(["verify", "https://dub5.example"]) == INTERRUPTED
    assert capsys.readouterr() == ("", "")
