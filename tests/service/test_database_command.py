"""`dub5 db`: what it says, what it changes, and how it ends."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dub5.cli import main
from dub5.service.database_command import ACTIONS
from tests.support.one_route import ONE_ROUTE
from tests.support.postgres import postgres_server
from tests.support.source import ROOT

MIGRATIONS = list((ROOT / "service" / "store" / "migrations").glob("*.sql"))
SETTINGS = f"""{ONE_ROUTE}
[database]
url = "sqlite:///data/of-the-settings.db"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_life(capsys: pytest.CaptureFixture[str]) -> None:
    """From no file to all tables and back: each step says what it did, and what is left to do."""
    url = ("--url", "sqlite:///data/a.db")
    steps = [
        (("status",), 1, "does not exist yet"),
        (("check",), 1, "does not exist yet"),
        (("down", "--to", "0"), 1, "does not exist yet"),
        (("up",), 0, "0001_conversations: applied in"),
        (("up",), 0, "Nothing was pending."),
        (("status",), 0, "applied  0001_conversations"),
        (("check",), 0, "0 problems."),
        (("down", "--to", "9999"), 0, "Nothing above 9999 is applied."),
        (("down", "--to", "0"), 1, "conversation (0 rows)"),
        (("status",), 0, "applied  0001_conversations"),
        (("down", "--to", "0", "--yes"), 0, "0001_conversations: undone"),
        (("status",), 1, "pending  0001_conversations"),
        (("check",), 0, f"{len(MIGRATIONS)} pending, 0 problems."),
    ]
    for arguments, code, words in steps:
        assert main(["db", *arguments, *url]) == code, arguments
        assert words in capsys.readouterr().out, arguments


def test_newer_than_the_release(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`down` of a release that does not know what is applied refuses at once, not only with --yes."""
    url = ("--url", "sqlite:///data/a.db")
    main(["db", "up", *url])
    with sqlite3.connect(folder / "data" / "a.db") as connection:
        connection.execute("INSERT INTO migration VALUES (9999, 'later', 'sum', 1.0, 1, '9.9.9')")
    connection.close()
    for more in ((), ("--yes",)):
        assert main(["db", "down", "--to", "0", *more, *url]) == 1
        assert "9999_later: undo this with the release that applied it" in capsys.readouterr().err
    assert main(["db", "status", *url]) == 0
    assert "newer    9999_later" in capsys.readouterr().out


def test_looking_makes_nothing(folder: Path) -> None:
    """`status` and `check` make no file."""
    for action in ("status", "check"):
        main(["db", action, "--url", "sqlite:///data/a.db"])
    assert not list(folder.iterdir())


def test_where_the_url_comes_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings name the database; --url and --url-env name another one."""
    (folder / "dub5.toml").write_text(SETTINGS)
    monkeypatch.setenv("OF_THE_ENVIRONMENT", "sqlite:///data/of-the-environment.db")
    assert main(["db", "up"]) == 0
    assert main(["db", "up", "--url", "sqlite:///data/of-the-line.db"]) == 0
    assert main(["db", "up", "--url-env", "OF_THE_ENVIRONMENT"]) == 0
    names = {path.name for path in (folder / "data").iterdir()}
    assert names >= {"of-the-settings.db", "of-the-line.db", "of-the-environment.db"}


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["status"], 2, "--config FILE"),
        (["status", "--url-env", "NOT_SET"], 2, "--url-env: the environment variable NOT_SET is not set"),
        (["up", "--url", "mysql://u:secret@h/n"], 2, "names no database that is known"),
        (["up", "--url", "postgresql://u:secret@127.0.0.1:1/n"], 1, "cannot be reached"),
        (["up", "--config", "missing.toml"], 2, "missing.toml"),
        (["up", "--url", "sqlite:///text"], 1, "no SQLite database"),
    ],
)
def test_unusable(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    """What cannot be used or reached is said, without a password, and by the exit code."""
    (folder / "text").write_text("no database " * 100)
    assert main(["db", *arguments]) == code
    said = capsys.readouterr()
    assert words in said.err and "secret" not in said.out + said.err and "Traceback" not in said.err


@pytest.mark.parametrize("arguments", [["down"], ["down", "--to", "-1"], ["down", "--to", "x"], ["sideways"]])
def test_wrong_arguments(arguments: list[str]) -> None:
    """A number that is missing or none is refused before anything is opened."""
    with pytest.raises(SystemExit) as ended:
        main(["db", *arguments, "--url", "sqlite:///a.db"])
    assert ended.value.code == 2


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Each action explains itself, with examples and exit codes."""
    for action in ACTIONS:
        with pytest.raises(SystemExit):
            main(["db", action, "--help"])
        said = capsys.readouterr().out
        assert "examples:" in said and "exit codes:" in said and "dub5 db up" in said


def test_postgresql(capsys: pytest.CaptureFixture[str]) -> None:
    """The same on PostgreSQL, where `check` also looks for rights."""
    with postgres_server() as server:
        url = server.new_database()
        name = url.rpartition("/")[2]
        for action, code in (("check", 0), ("up", 0), ("status", 0), ("check", 0)):
            assert main(["db", action, "--url", url]) == code
        server.sql("CREATE ROLE weak LOGIN PASSWORD 'weak'")
        server.sql(f"ALTER ROLE weak IN DATABASE {name} SET default_transaction_read_only = on")
        server.sql("GRANT SELECT ON migration TO weak", name)
        weak = url.replace(url[len("postgresql://") : url.index("@")], "weak:weak")
        assert main(["db", "check", "--url", weak]) == 1
    said = capsys.readouterr().out
    assert "answers: PostgreSQL" in said
    assert "may not create tables" in said and "only reads" in said


def test_only_what_is_chosen_is_imported() -> None:
    """Neither engine is imported before a database is opened."""
    code = (
        "import sys, dub5.service.store.migrate, dub5.service.store.url as u;"
        "u.url_problems('sqlite:///a.db');"
        "sys.exit(str({'sqlite3', 'asyncpg', 'dub5.service.store.sqlite'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
