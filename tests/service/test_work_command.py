"""`dub5 work` says why it has nothing to do."""

import json
import signal
from pathlib import Path

import pytest

from dub5.cli import main
from tests.support.child_processes import child
from tests.support.one_route import ONE_ROUTE


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ("", "Add a [conversation] table."),
        ("[session]\n[conversation]\n", "no part of these settings has background work"),
        ("[jobs]\nworkers = 17\n", "jobs.workers: "),
    ],
)
def test_nothing_to_do(
    tables: str,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Settings without background work, or with invalid values, end it with 2 and a sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dub5.toml").write_text(ONE_ROUTE + tables)
    assert main(["work"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.real_sockets
def test_command(tmp_path: Path) -> None:
    """It says in a line when it works, and on what; SIGTERM ends it with 0, and its log is in JSON lines."""
    config, log = tmp_path / "dub5.toml", tmp_path / "log"
    tables = f'[session]\n[conversation]\n[documents]\n[database]\nurl = "sqlite:///{tmp_path}/d.db"\n'
    config.write_text(ONE_ROUTE + tables)
    with log.open("w") as errors, child("dub5", "work", "--config", str(config), log=errors) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "working on jobs of the kind deck, at most 1 at one time\n", log.read_text()
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events[0] == "migration"
    assert {"started", "settings"} <= set(events)


def test_workers(capsys: pytest.CaptureFixture[str]) -> None:
    """A number of workers out of bounds is refused."""
    with pytest.raises(SystemExit):
        main(["work", "--workers", "17"])
    assert "must be a number from 1 to 16" in capsys.readouterr().err
