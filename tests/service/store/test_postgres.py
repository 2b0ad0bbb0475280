"""PostgreSQL that is silent, gone, full, only reads, or refuses us."""

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from dub5.service.store import migrate, postgres
from dub5.service.store.base import DatabaseLost, Statement, StatementRefused
from tests.support.database_statements import TURN, WORKER, WORKERS, talk
from tests.support.databases import opened
from tests.support.postgres import PASSWORD, PostgresServer, postgres_server

pytestmark = pytest.mark.real_sockets

SLEEP = Statement("sleep", "SELECT pg_sleep(30)::text")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Start a server that the tests of this module stop and start."""
    with postgres_server() as started:
        yield started


async def test_silent_server(server: PostgresServer) -> None:
    """A call that is given 0.3 s comes back within 1 s although the server has stopped; then all is well."""
    async with opened(server.new_database()) as database:
        await database.write([WORKER.bind("w", 1.0)])
        loop = asyncio.get_running_loop()
        server.pause()
        try:
            for bounds in ([WORKER.bind("a", 1.0)], [talk("c"), TURN.bind("t", "c", "?", 1)]):
                for call in (lambda: database.read(WORKERS.bind()), lambda each=bounds: database.write(each)):
                    began_s = loop.time()
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.3):
                            await call()
                    assert loop.time() - began_s < 1.0
        finally:
            server.resume()
        assert ("w", 1.0) in await database.read(WORKERS.bind())


async def test_crash(server: PostgresServer) -> None:
    """While the server is down calls fail at once and say so; after its start the first one works."""
    async with opened(server.new_database()) as database:
        await database.write([WORKER.bind("w", 1.0)])
        server.stop("immediate")
        try:
            for _ in range(3):
                with pytest.raises(DatabaseLost):
                    await database.read(WORKERS.bind())
            with pytest.raises(DatabaseLost, match=r"cannot be reached \(Connection refused\)"):
                await database.write([WORKER.bind("v", 1.0)])
        finally:
            server.start()
        assert await database.read(WORKERS.bind()) == [("w", 1.0)]


async def test_ended_connections(server: PostgresServer) -> None:
    """After an operator has ended all connections, at most one call for each of them is lost."""
    async with opened(server.new_database(), pool_max=1) as database:
        await database.read(WORKERS.bind())
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dub5'")
        try:
            await database.read(WORKERS.bind())
        except DatabaseLost:
            pass
        assert await database.read(WORKERS.bind()) == []


async def test_no_reset(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection goes back to the pool without a round trip: a read sends its own statement alone."""
    sent: list[str] = []
    execute = asyncpg.Connection.execute

    async def noting(connection: asyncpg.Connection, sql: str, *values: object, **options: float) -> str:
        sent.append(sql)
        return await execute(connection, sql, *values, **options)

    async with opened(server.new_database(), pool_max=1) as database:
        monkeypatch.setattr(asyncpg.Connection, "execute", noting)
        for _ in range(3):
            assert await database.read(WORKERS.bind()) == []
    assert sent == []


async def test_slow_statement(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that takes too long is ended by the server, and the connection serves on."""
    monkeypatch.setattr(postgres, "STATEMENT_S", 0.2)
    async with opened(server.new_database(), pool_max=1) as database:
        with pytest.raises(DatabaseLost, match=r"too long|in time"):
            await database.read(SLEEP.bind())
        assert await database.read(WORKERS.bind()) == []


async def test_no_connection_free(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that finds all connections in use waits for a time, and is then lost, not refused."""
    monkeypatch.setattr(postgres, "CONNECT_S", 0.2)
    async with opened(server.new_database(), pool_max=1) as database:
        slow = asyncio.ensure_future(database.read(SLEEP.bind()))
        with pytest.raises(DatabaseLost, match="in time"):
            while not slow.done():
                await database.read(WORKERS.bind())
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        assert await database.read(WORKERS.bind()) == []


async def test_refused_by_the_server(server: PostgresServer) -> None:
    """A wrong password, a missing database, and a server that only reads are said, without the password."""
    url = server.new_database()
    name = urlsplit(url).path[1:]
    await migrate.up(url)
    server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    for address, words in (
        (url, "only reads"),
        (url.replace(PASSWORD, "secret-and-wrong"), "refuses this user or password"),
        (url.replace(name, "missing"), "no such database"),
        (url.replace("127.0.0.1", "host.invalid"), "cannot be reached"),
        (f"{url}?sslmode=maybe", "option of its URL"),
    ):
        async with opened(address, migrated=False) as database:
            with pytest.raises(DatabaseLost, match=words) as caught:
                await database.write([WORKER.bind("w", 1.0)])
        assert PASSWORD not in str(caught.value) and "secret" not in str(caught.value)


async def test_refused_values_are_not_shown(server: PostgresServer) -> None:
    """What is refused names the rule that it broke, and shows nothing of the text."""
    async with opened(server.new_database()) as database:
        bounds = [talk("c"), TURN.bind("t", "c", "a secret", 1), TURN.bind("t", "c", "a secret", 1)]
        with pytest.raises(StatementRefused, match="turn_pkey") as caught:
            await database.write(bounds)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "state, kind",
    [
        ("53100", DatabaseLost),
        ("53300", DatabaseLost),
        ("57P01", DatabaseLost),
        ("40P01", DatabaseLost),
        ("22P02", StatementRefused),
        ("23514", StatementRefused),
        ("42601", StatementRefused),
    ],
)
async def test_states(state: str, kind: type[Exception]) -> None:
    """What the server's state causes is lost, and may be sent again; what is wrong in itself is refused."""
    error = postgres.PostgresError.new({"C": state, "M": "a secret value"})
    assert type(postgres.understood(error, "here")) is kind
    assert "secret" not in str(postgres.understood(error, "here"))


async def test_pooled(server: PostgresServer) -> None:
    """Behind PgBouncer no statement is prepared under a name, and nothing is said that it would refuse."""
    name = Statement(
        "prepared", "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE '\\_\\_asyncpg%'"
    )
    timeout = Statement("timeout", "SELECT current_setting('statement_timeout')")
    url = server.new_database()
    async with opened(url, pool_max=1) as plain, opened(f"{url}?pgbouncer=true", pool_max=1) as pooled:
        for _ in range(2):
            await plain.read(WORKERS.bind())
            await pooled.read(WORKERS.bind())
        assert await pooled.read(name.bind()) == [(0,)]
        assert await plain.read(name.bind()) != [(0,)]
        assert await plain.read(timeout.bind()) == [("2s",)]
        assert await pooled.read(timeout.bind()) == [("0",)]


async def test_socket_file(server: PostgresServer) -> None:
    """A server is also reached by its socket file."""
    url = server.new_database()
    await migrate.up(url)
    by_file = f"{url.replace(f'127.0.0.1:{server.port}', '')}?host={server.folder}&port={server.port}"
    async with opened(by_file, migrated=False) as database:
        assert await database.read(WORKERS.bind()) == []
