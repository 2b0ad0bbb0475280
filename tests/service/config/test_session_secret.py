"""The secret of sessions that is kept beside the SQLite database, where none is configured."""

import errno
import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import quote

import pytest

from dub5.service.config import session_secret
from dub5.service.config.session_secret import keep_session_secret, secret_file, secret_plan
from dub5.service.config.settings import LoadedSettings, Secret, SessionSettings, Settings

OTHER = "the-secret-that-another-process-has-made"
AT_ONCE = 8
NO_SECRET = SessionSettings()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def settings(url: str | None, session: SessionSettings | None = NO_SECRET) -> LoadedSettings:
    """Return settings with this database, and sessions without a configured secret."""
    database_url = None if url is None else Secret(url)
    return LoadedSettings(Settings(provider=(), route=(), session=session), {}, (), database_url=database_url)


def in_folder(folder: Path) -> LoadedSettings:
    return settings(f"sqlite:///{folder / 'dub5.db'}")


def kept(loaded: LoadedSettings) -> str:
    """Keep the secret; return it. No warning may come of it."""
    loaded = keep_session_secret(loaded)
    (secret,) = loaded.session_secrets
    assert loaded.warnings == ()
    return secret.reveal()


def test_made_once(folder: Path) -> None:
    """The first start makes the secret, for its user only; the next ones read it."""
    first = kept(in_folder(folder))
    assert len(first) >= 32
    assert (folder / "session.secret").read_text() == f"{first}\n"
    assert stat.S_IMODE((folder / "session.secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert kept(in_folder(folder)) == first


def test_beside_the_database(tmp_path: Path) -> None:
    """The file is where the database is, whatever has to be encoded in its URL."""
    loaded = settings(f"sqlite:///{quote(str(tmp_path / 'a b%?' / 'dub5.db'))}")
    assert secret_file(loaded) == tmp_path / "a b%?" / "session.secret"


def test_one_for_all(folder: Path) -> None:
    """Processes that start at once have one secret."""
    barrier = Barrier(AT_ONCE)

    def start(_: int) -> str:
        barrier.wait()
        return kept(in_folder(folder))

    with ThreadPoolExecutor(AT_ONCE) as pool:  # a lock is of an open file: threads wait as processes do
        assert len(set(pool.map(start, range(AT_ONCE)))) == 1


def test_locked_until_it_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can have the file between its making and the end of its writing."""
    synced: list[int] = []

    def fsync(written: Any) -> None:
        with (folder / "session.secret").open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        synced.append(written.fileno())

    monkeypatch.setattr(session_secret.os, "fsync", fsync)
    kept(in_folder(folder))
    assert len(synced) == 1


def test_another_was_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited for the lock takes the secret that is there by then."""
    lock = fcntl.flock

    def flock(waiting: Any, operation: int) -> None:
        (folder / "session.secret").write_text(OTHER)
        lock(waiting, operation)

    monkeypatch.setattr(session_secret.fcntl, "flock", flock)
    assert kept(in_folder(folder)) == OTHER


def test_an_empty_file_is_filled(folder: Path) -> None:
    """A start that was killed before it wrote leaves an empty file: the next start fills it."""
    folder.mkdir()
    (folder / "session.secret").touch()
    assert kept(in_folder(folder)) == (folder / "session.secret").read_text().strip() != ""


@pytest.mark.parametrize("content", ["short", "x" * 20 + " " + "x" * 20, "\0" * 43])
def test_what_is_no_secret(folder: Path, content: str) -> None:
    """A file that holds something else is left alone, and said; the service starts all the same."""
    folder.mkdir()
    (folder / "session.secret").write_text(content)
    loaded = keep_session_secret(in_folder(folder))
    assert loaded.session_secrets == ()
    assert ["holds no secret of 32 characters" in warning for warning in loaded.warnings] == [True]
    assert (folder / "session.secret").read_text() == content


def test_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written the secret lives as long as the process, and that is said."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(session_secret.os, "open", refuse)
    loaded = keep_session_secret(in_folder(folder))
    assert loaded.session_secrets == ()
    (warning,) = loaded.warnings
    assert "cannot be kept in" in warning and "(Read-only file system): a restart ends" in warning


def test_read_only_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is there needs no right to write."""
    known = kept(in_folder(folder))
    monkeypatch.setattr(session_secret.os, "open", None)
    assert kept(in_folder(folder)) == known


@pytest.mark.parametrize(
    ("url", "session"),
    [
        (None, SessionSettings()),
        ("postgresql://db.example/dub5", SessionSettings()),
        ("sqlite:///data/dub5.db", None),
        ("sqlite:///data/dub5.db", SessionSettings(secret_env=("SECRET",))),
    ],
    ids=["no database", "PostgreSQL", "no sessions", "configured"],
)
def test_no_file(
    url: str | None, session: SessionSettings | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a SQLite file, or a secret to keep, nothing is read or made."""
    monkeypatch.chdir(tmp_path)
    loaded = settings(url, session)
    assert (secret_file(loaded), secret_plan(loaded)) == (None, None)
    assert keep_session_secret(loaded) is loaded
    assert list(tmp_path.iterdir()) == []


def test_plan(folder: Path) -> None:
    """`check` says what a start would do, and does nothing."""
    assert "will be made at the first start" in (secret_plan(in_folder(folder)) or "")
    assert not folder.exists()
    kept(in_folder(folder))
    assert secret_plan(in_folder(folder)) == f"sessions: their secret is kept in {folder / 'session.secret'}"
