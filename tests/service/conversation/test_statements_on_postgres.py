"""Every statement of conversations on a real PostgreSQL: it is taken, and does what it does on SQLite."""

from collections.abc import Iterator

import pytest

from dub5.service.store.base import BoundStatement, Row, Statement
from dub5.simulators.virtual.database import VirtualStorage
from tests.support.conversation_statements import FILLING, ME, STRANGER, TABLES, VALUES, statements
from tests.support.conversation_world import schema
from tests.support.databases import opened
from tests.support.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.real_sockets

CONTENT = tuple(Statement(table, f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Start a server for this module."""
    with postgres_server() as started:
        yield started


async def on_postgres(url: str, bound: BoundStatement) -> tuple[list[Row], list[list[Row]]]:
    """Execute a statement on filled tables; return its rows, and then all rows."""
    async with opened(url) as database:
        await database.write(FILLING)
        (rows,) = await database.write([bound])
        return rows, [await database.read(one.bind()) for one in CONTENT]


def on_sqlite(bound: BoundStatement) -> tuple[list[Row], list[list[Row]]]:
    """Do the same on SQLite."""
    storage = VirtualStorage(schema())
    *_, rows = [storage.rows(one.statement.sql, *one.values) for one in (*FILLING, bound)]
    return rows, [storage.rows(one.sql) for one in CONTENT]


@pytest.mark.parametrize("name", VALUES)
async def test_same(server: PostgresServer, name: str) -> None:
    """For its owner and for a stranger, a statement returns and leaves the same rows on both engines."""
    for owner in (ME, STRANGER):
        bound = statements()[name].bind(owner, *VALUES[name])
        assert await on_postgres(server.new_database(), bound) == on_sqlite(bound)
