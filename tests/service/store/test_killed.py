"""What was acknowledged is there after kill -9, of the service's process and of the server."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dub5.service.store import migrate
from dub5.service.store.base import Statement
from dub5.service.store.url import parse_url
from tests.support.databases import opened
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.source import ROOT

pytestmark = pytest.mark.real_sockets

BOTH = Statement("both", "SELECT turn.id FROM turn JOIN conversation ON conversation.id = turn.conversation")
CONVERSATIONS = Statement("conversations", "SELECT count(*) FROM conversation")
TURNS = Statement("turns", "SELECT count(*) FROM turn")
ACKNOWLEDGED = 150  # in each round, before the kill


async def test_killed_writer(url: str) -> None:
    """Nothing that was acknowledged is lost, and no write is half there, when the process is killed."""
    await _kill_and_look(url, 5)


@pytest.mark.thorough
async def test_killed_writer_often(url: str) -> None:
    """The same, 20 times."""
    await _kill_and_look(url, 20)


async def test_crashed_server() -> None:
    """Nothing that was acknowledged is lost when the server crashes, twice, and starts again."""
    with postgres_server() as server:
        url = server.new_database()
        await migrate.up(url)
        acknowledged: set[str] = set()
        for number in range(2):
            acknowledged |= _round(url, f"r{number}", lambda: _restart(server))
        await _look(url, acknowledged)


async def _kill_and_look(url: str, rounds: int) -> None:
    await migrate.up(url)
    acknowledged: set[str] = set()
    for number in range(rounds):
        acknowledged |= _round(url, f"r{number}", lambda: None)
    await _look(url, acknowledged)
    if (parsed := parse_url(url)).engine == "sqlite":
        connection = sqlite3.connect(parsed.path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


def _round(url: str, prefix: str, meanwhile: Callable[[], None]) -> set[str]:
    """Let a process write, kill it, and return what it had acknowledged until then."""
    command = [sys.executable, "-m", "tests.support.row_writer", url, prefix]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = [process.stdout.readline() for _ in range(ACKNOWLEDGED)]
            meanwhile()
            said += [process.stdout.readline() for _ in range(ACKNOWLEDGED)]
        finally:
            process.kill()
        said += process.stdout.readlines()
    assert all(line.endswith("\n") for line in said)
    return {line.strip() for line in said}


def _restart(server: PostgresServer) -> None:
    server.stop("immediate")
    server.start()


async def _look(url: str, acknowledged: set[str]) -> None:
    async with opened(url, migrated=False) as database:
        kept = {str(row[0]) for row in await database.read(BOTH.bind())}
        assert not acknowledged - kept
        assert (
            await database.read(CONVERSATIONS.bind()) == await database.read(TURNS.bind()) == [(len(kept),)]
        )
    assert len(acknowledged) >= 2 * ACKNOWLEDGED


def test_interpreter_ends(tmp_path: Path) -> None:
    """A program that forgets to close the database ends all the same, with its writes done."""
    code = (
        "import asyncio; from dub5.service.config.settings import DatabaseSettings as S;"
        "from dub5.service.store import migrate; from dub5.service.store.url import open_database;"
        "from tests.support.database_statements import WORKER, WORKERS\n"
        f"url = 'sqlite:///{tmp_path}/a.db'\n"
        "async def main():\n"
        "    await migrate.up(url)\n"
        "    database = open_database(url, S())\n"
        "    await database.write([WORKER.bind('w', 1.0)]); await database.read(WORKERS.bind())\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True, timeout=60)
    connection = sqlite3.connect(tmp_path / "a.db")
    assert connection.execute("SELECT id FROM worker").fetchall() == [("w",)]
    connection.close()
