"""Database URLs: what they name, what is wrong with them, and that no password is shown."""

from pathlib import Path
from typing import Any

import pytest

from dub5.service.config.settings import DatabaseSettings
from dub5.service.store import url as url_module
from dub5.service.store.base import DatabaseLost
from dub5.service.store.url import (
    describe,
    network_file_system,
    open_database,
    parse_url,
    url_problems,
)

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/export /mnt/with\\040space nfs4 rw 0 0
//host/share /mnt/share cifs rw 0 0
tmpfs /mnt/share/local tmpfs rw 0 0
me@host: /home/me/remote fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    "url, path",
    [
        ("sqlite:///data/dub5.db", "data/dub5.db"),
        ("sqlite:////var/lib/dub5.db", "/var/lib/dub5.db"),
        ("sqlite+aiosqlite:///data/dub5.db", "data/dub5.db"),
        ("sqlite:///with%20space.db", "with space.db"),
    ],
)
def test_files(url: str, path: str) -> None:
    """Relative and absolute paths, and the spelling of another tool, name a file."""
    assert parse_url(url).path == Path(path)
    assert describe(url) == f"SQLite, {path}"


@pytest.mark.parametrize(
    "url, address, pooled",
    [
        ("postgresql://u:p@h/n", "postgresql://u:p@h/n", False),
        ("postgres://u:p@h:6543/n", "postgresql://u:p@h:6543/n", False),
        ("postgresql+asyncpg://u@h/n?sslmode=require", "postgresql://u@h/n?sslmode=require", False),
        ("postgres://u@h/n?pgbouncer=true&sslmode=require", "postgresql://u@h/n?sslmode=require", True),
        ("postgres://u@ep-x-pooler.eu.example/n", "postgresql://u@ep-x-pooler.eu.example/n", True),
        ("postgres://u@a-pooler.example/n?pgbouncer=false", "postgresql://u@a-pooler.example/n", False),
        ("postgresql:///n?host=/var/run/postgresql", "postgresql:///n?host=/var/run/postgresql", False),
    ],
)
def test_servers(url: str, address: str, pooled: bool) -> None:
    """All spellings name the same server, and whether a pooler stands before it."""
    parsed = parse_url(url)
    assert (parsed.engine, parsed.address, parsed.pooled) == ("postgresql", address, pooled)


@pytest.mark.parametrize(
    "url, words",
    [
        ("", "names no database that is known"),
        ("data/dub5.db", "names no database that is known"),
        ("mysql://u:secret@h/n", "names no database that is known"),
        ("postgresql+psycopg://u:secret@h/n", "driver 'psycopg'"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h:port/n", "is not a URL"),
        ("postgresql://[u:secret@h/n", "is not a URL"),
        ("sqlite://data/dub5.db", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///data/", "names no file"),
        ("sqlite:///a.db?mode=ro", "names no file"),
        ("sqlite:///:memory:", "lost at each start"),
        ("sqlite+pysqlite:///a.db", "driver 'pysqlite'"),
    ],
)
def test_wrong(url: str, words: str) -> None:
    """What is wrong is said in a sentence, without the password."""
    (problem,) = url_problems(url)
    assert words in problem and problem.endswith(".") and "secret" not in problem
    assert "secret" not in describe(url)


def test_describe_shows_no_password() -> None:
    """A server is described by user, host, port and name."""
    assert describe("postgres://u:secret@h:1/n?password=secret") == "PostgreSQL, u@h:1/n"
    assert describe("postgresql:///n?host=/run/pg") == "PostgreSQL, /run/pg/n"


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/var/lib/dub5.db", None),
        ("/mnt/with space/dub5.db", "nfs4"),
        ("/mnt/share/dub5.db", "cifs"),
        ("/mnt/share/local/dub5.db", None),
        ("/mnt/shared/dub5.db", None),
        ("/home/me/remote/data/dub5.db", "fuse.sshfs"),
    ],
)
def test_network_file_systems(tmp_path: Path, path: str, kind: str | None) -> None:
    """The mount point that is nearest above a file says whether it lies on another machine."""
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert network_file_system(Path(path), mounts) == kind
    assert network_file_system(Path(path), tmp_path / "missing") is None


def test_network_file_system_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of SQLite on another machine is refused."""
    monkeypatch.setattr(url_module, "network_file_system", lambda path: "nfs4")
    assert "loses writes" in url_problems(f"sqlite:///{tmp_path}/a.db")[0]


def test_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asyncpg the settings say what to install, and SQLite needs nothing."""

    def missing(name: str) -> Any:
        raise ModuleNotFoundError("asyncpg")

    monkeypatch.setattr(url_module, "load_part", missing)
    assert url_problems("postgres://u@h/n") == [
        "cannot be used yet. PostgreSQL needs one more package: pip install 'dub5[postgres]'."
    ]
    with pytest.raises(DatabaseLost, match=r"dub5\[postgres\]"):
        open_database("postgres://u@h/n", DatabaseSettings())
    assert url_problems("sqlite:///a.db") == []
