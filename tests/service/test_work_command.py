"""`dub5 work` says why it has nothing to do."""

from pathlib import Path

import pytest

from dub5.cli import main
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


def test_workers(capsys: pytest.CaptureFixture[str]) -> None:
    """A number of workers out of bounds is refused."""
    with pytest.raises(SystemExit):
        main(["work", "--workers", "17"])
    assert "must be a number from 1 to 16" in capsys.readouterr().err
