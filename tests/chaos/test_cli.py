"""The `dub5` command rejects impossible arguments before it starts anything."""

import html
import shlex
from pathlib import Path

import pytest

from dub5.chaos.cli import DID_NOT_RUN, HELD, UNUSABLE
from dub5.chaos.scenario.model import Topology
from dub5.chaos.scenario.parse import INCIDENTS, names
from dub5.chaos.scenario.service_config import settings
from dub5.cli import main
from dub5.service.config.load import load


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chaos", "--runs", "0", "demo"), "must be 1 or more"),
        (("chaos", "--runs", "-1", "demo"), "must be 1 or more"),
        (("playground", "--port", "99999"), "must be a port from 0 to 65535"),
        (("chaos", "--engine", "none"), "invalid choice"),
    ],
    ids=" ".join,
)
def test_numbers_that_make_no_sense(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments that would run nothing are rejected with exit code 2, so a run of nothing is never green."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == UNUSABLE
    assert said in capsys.readouterr().err


def test_the_list_mentions_the_incidents(capsys: pytest.CaptureFixture[str]) -> None:
    """`dub5 chaos --list` lists the scenarios, then says how many incidents there are and how to run one."""
    assert main(["chaos", "--list"]) == HELD
    said = capsys.readouterr().out
    assert "http-530: " in said
    assert f"and {len(names(INCIDENTS))} incidents" in said and "dub5 chaos anthropic-2026-03-02" in said


def test_reports_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reports folder that cannot be written is rejected before the run, not after it."""
    taken = tmp_path / "file"
    taken.touch()
    assert main(["chaos", "demo", "--engine", "virtual", "--reports", str(taken)]) == DID_NOT_RUN
    assert "name another folder with --reports" in capsys.readouterr().err


def test_compatible_personas(tmp_path: Path) -> None:
    """Personas that speak another dialect get settings that the service can load."""
    personas = {"one": "openrouter", "two": "groq", "three": "anthropic"}
    file = tmp_path / "dub5.toml"
    file.write_text(
        settings(Topology(personas, {"total_s": 30}), dict.fromkeys(personas, "http://127.0.0.1:1"))
    )
    dialects = [provider.dialect for provider in load(file, {}).settings.provider]
    assert dialects == ["openai", "openai", "anthropic"]


NEVER_HOLDS = """
title = "t"
why = "w"
[workload]
seconds = 1
[expect]
happened = ["stream_cut"]
"""


@pytest.mark.parametrize("name", ["mine.toml", "a b/it's [mine] :smile: $HOME.toml", "-x.toml", "demo.toml"])
def test_the_printed_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed command, pasted into a shell, runs the same file again, whatever its name; the report has
    the same one."""
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(NEVER_HOLDS)
    assert main(["chaos", "--engine", "virtual", "--seed", "7", "--", name]) != HELD
    said = capsys.readouterr().out
    command = said.split("Run it again: ")[1].split("\n")[0]
    words = shlex.split(command)
    assert words[0] == "dub5"
    assert main(words[1:]) != HELD
    assert command in capsys.readouterr().out
    (report,) = {html.unescape(page.read_text()).count(command) for page in Path("reports").glob("*.html")}
    assert report == 1
