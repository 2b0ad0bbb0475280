"""The settings of conversations and their database: what is refused, what is never shown, what waits for a
restart."""

from pathlib import Path

import pytest

from dub5.service.command import main
from dub5.service.config.load import load
from dub5.service.config.settings import LoadedSettings, SettingsProblems
from tests.support.one_route import ONE_ROUTE

ON = "[session]\n[conversation]\n"
SECRET = "s3cret-pass-word"
ENVIRONMENT = {
    "DATAONE_ROUTE_URL": f"postgresql://dub5:{SECRET}@db.test:5432/dub5",
    "SQLITE_URL": "sqlite:///kept/here.db",
    "EXAMPLE_URL": "postgresql://user:your_password_here@db.test/dub5",
    "NO_URL": f"http://{SECRET}@db.test",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dub5.toml"


def read(
    file: Path, more: str, running: LoadedSettings | None = None, environ: dict[str, str] | None = None
) -> LoadedSettings:
    file.write_text(ONE_ROUTE + more)
    return load(file, ENVIRONMENT | (environ or {}), running=running and running.settings)


def test_no_conversations_no_database(file: Path) -> None:
    """Without a [conversation] table there is no database, and settings of one are a warning."""
    assert read(file, "").database_url is None
    loaded = read(file, "[database]\npool_max = 3\n")
    assert loaded.database_url is None
    assert any("database: has no effect" in warning for warning in loaded.warnings)


def test_the_default_is_a_file(file: Path) -> None:
    """An empty [conversation] table is enough: conversations are kept in data/dub5.db."""
    loaded = read(file, ON)
    assert loaded.database_url and loaded.database_url.reveal() == "sqlite:///data/dub5.db"


def test_a_url_by_a_variable(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL with a password comes from a variable, and neither `repr` nor `check` shows the password."""
    loaded = read(file, ON + '[database]\nurl_env = "DATAONE_ROUTE_URL"\n')
    assert loaded.database_url and loaded.database_url.reveal() == ENVIRONMENT["DATAONE_ROUTE_URL"]
    assert SECRET not in repr(loaded)
    monkeypatch.setenv("DATAONE_ROUTE_URL", ENVIRONMENT["DATAONE_ROUTE_URL"])
    assert main(["check", "--env", "--config", str(file)]) == 0
    said = capsys.readouterr().out
    assert SECRET not in said
    assert "conversations: in PostgreSQL, dub5@db.test:5432/dub5" in said
    assert "database.url_env" in said


REFUSED = {
    "both": ('[database]\nurl = "sqlite:///a.db"\nurl_env = "SQLITE_URL"\n', {}, "are both set"),
    "a password in the file": (
        f'[database]\nurl = "postgresql://u:{SECRET}@h/d"\n',
        {},
        "must hold no password",
    ),
    "no known database": (
        f'[database]\nurl = "mysql://{SECRET}@h/d"\n',
        {},
        "names no database that is known",
    ),
    "no address": (f'[database]\nurl = "postgresql://{SECRET}@[h/d"\n', {}, "is not a URL"),
    "none in the variable": ('[database]\nurl_env = "NO_URL"\n', {}, "what NO_URL holds names no database"),
    "an example": ('[database]\nurl_env = "EXAMPLE_URL"\n', {}, "holds what an example writes"),
    "an example of a host": ('[database]\nurl = "postgresql://u@your_host_here/d"\n', {}, "what an example"),
    "Vercel": ("", {"VERCEL": "1"}, "each instance has its own disk"),
    "a file on Vercel": (
        '[database]\nurl_env = "SQLITE_URL"\n',
        {"VERCEL": "1"},
        "each instance has its own",
    ),
    "no room": ("[conversation]\nanswer_tokens = 8_000\n", {}, "leaves no room"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, file: Path) -> None:
    """Each problem is a sentence, which shows no part of the URL."""
    more, environ, sentence = REFUSED[name]
    with pytest.raises(SettingsProblems) as found:
        read(file, (ON if "[conversation]" not in more else "[session]\n") + more, environ=environ)
    assert len(found.value.problems) == 1
    assert sentence in found.value.problems[0]
    assert SECRET not in found.value.report()


def test_somebody_must_own_them(file: Path) -> None:
    """Conversations without sessions and without callers would be nobody's."""
    with pytest.raises(SettingsProblems, match="belongs to a session or to a caller"):
        read(file, "[conversation]\n")
    keys = '[server]\ncaller_keys_env = ["CALLER"]\n'
    assert read(file, keys + "[conversation]\n", environ={"CALLER": "caller-1"}).database_url


def test_a_file_on_a_network(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of SQLite on a network file system is refused, the default one, too."""
    monkeypatch.setattr("dub5.service.store.url.network_file_system", lambda path: "nfs4")
    for more in ("", '[database]\nurl_env = "SQLITE_URL"\n', '[database]\nurl = "sqlite:///a.db"\n'):
        with pytest.raises(SettingsProblems, match=r"network file system \(nfs4\)"):
            read(file, ON + more)


def test_a_reload(file: Path) -> None:
    """The database, and whether there are conversations, need a restart; other values of them do not."""
    running = read(file, ON)
    loaded = read(file, ON + 'keep_days = 7\n[database]\nurl = "sqlite:///b.db"\n', running)
    assert loaded.settings.database == running.settings.database
    assert loaded.settings.conversation and loaded.settings.conversation.keep_days == 7
    assert "database: needs a restart; the old values stay." in loaded.warnings
    loaded = read(file, "[session]\n", running)
    assert loaded.settings.conversation == running.settings.conversation
    assert "conversation: needs a restart to end." in loaded.warnings
    loaded = read(file, ON, read(file, "[session]\n"))
    assert loaded.settings.conversation is None
    assert loaded.database_url is None
    assert "conversation: needs a restart to begin." in loaded.warnings
