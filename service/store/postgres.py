"""PostgreSQL by asyncpg: a pool that connects when it is first asked.

A cancelled call ends its connection at once. To hand it back, asyncpg would first wait for the server to
answer: seconds, where the server has stopped without closing its connections.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import asyncpg
from asyncpg.exceptions import ClientConfigurationError, InterfaceError, InternalClientError, PostgresError

from dub5.service.store.base import (
    BoundStatement,
    DatabaseBusy,
    DatabaseLost,
    NotMigrated,
    Row,
    StatementRefused,
    Value,
)
from dub5.service.store.url import describe, parse_url

T = TypeVar("T")

CONNECT_S = 2.0
STATEMENT_S = 2.0
IDLE_IN_TRANSACTION_S = 10.0
CLOSE_S = 2.0
MIGRATION_S = 300.0
MIGRATION_LOCK_S = 5.0
MIGRATION_LOCK_KEY = 0x64756235  # "dub5"
LOOK_S = 0.2  # how often a process asks for the lock of migrations

ERRORS = (PostgresError, InterfaceError, InternalClientError, OSError, TimeoutError, EOFError)
BUSY = ("55P03", "55006")  # lock_not_available, object_in_use
OLD_SCHEMA = ("42P01", "42703", "3F000")  # undefined table, column, schema
# Beginnings of SQLSTATE -> what a person can do. The first that fits counts.
LOST = {
    "08": "the connection failed",
    "0A000": "the pooler in front of it keeps no prepared statements; add ?pgbouncer=true to the URL",
    "25006": "it only reads; name the primary server",
    "26": "the pooler in front of it keeps no prepared statements; add ?pgbouncer=true to the URL",
    "28": "it refuses this user or password",
    "3D000": "there is no such database on this server; create it",
    "40": "it undid a transaction that collided with another one",
    "42501": "this user lacks the right; grant it",
    "42P05": "the pooler in front of it keeps no prepared statements; add ?pgbouncer=true to the URL",
    "53100": "its disk is full; free some space",
    "53300": "it has too many connections; lower database.pool_max, or raise its max_connections",
    "53": "it lacks resources",
    "55": "it is in use",
    "57014": "a statement took too long",
    "57": "it is starting or shutting down",
    "58": "its system reports an error",
    "XX": "it reports an internal error; see its log",
}


class PostgresDatabase:
    """A Database on a PostgreSQL server, for several instances of the service."""

    def __init__(self, url: str, pool_max: int) -> None:
        self._url, self._place = parse_url(url), describe(url)
        self._pool_max = pool_max
        self._pool: asyncpg.Pool | None = None
        self._closed = False

    async def read(self, bound: BoundStatement) -> list[Row]:
        """Do as Database says."""
        return await self._on_connection(lambda connection: _fetch(connection, bound))

    async def write(self, bounds: list[BoundStatement]) -> list[list[Row]]:
        """Do as Database says. A write whose caller is cancelled may have been committed."""
        return await self._on_connection(lambda connection: _transaction(connection, bounds))

    def pool(self) -> dict[str, int] | None:
        """Return how many connections are open, idle, and at most allowed; None before the first call."""
        if self._pool is None:
            return None
        return {"open": self._pool.get_size(), "idle": self._pool.get_idle_size(), "max": self._pool_max}

    async def aclose(self) -> None:
        """Close the connections; end those that are still in use after some seconds."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await pool.close()
        except ERRORS:
            pool.terminate()

    async def _on_connection(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Return what `work` makes of a connection. Raises DatabaseLost, StatementRefused."""
        if self._closed:
            raise DatabaseLost(f"{self._place}: the database is closed")
        try:
            pool = await self._connected()
            connection = await pool.acquire(timeout=CONNECT_S)
            try:
                return await work(connection)
            except (PostgresError, InterfaceError):
                raise
            except BaseException:  # cancelled, or without an answer: what it is still sent is unknown
                connection.terminate()
                raise
            finally:
                await pool.release(connection)
        except ERRORS as error:
            raise understood(error, self._place) from None

    async def _connected(self) -> asyncpg.Pool:
        if self._pool is None:
            pool = asyncpg.create_pool(
                self._url.address,
                min_size=0,
                max_size=self._pool_max,
                timeout=CONNECT_S,
                command_timeout=STATEMENT_S,
                statement_cache_size=0 if self._url.pooled else 100,
                reset=_nothing,
                server_settings=_session_settings(self._url.pooled, STATEMENT_S, STATEMENT_S),
            )
            self._pool = pool
            await pool  # which makes no connection yet
        return self._pool


class PostgresSession:
    """One connection, for migrations: it begins and ends transactions by itself."""

    engine: Literal["postgresql"] = "postgresql"

    def __init__(self, url: str) -> None:
        self._url, self._place = parse_url(url), describe(url)
        self._connection: Any = None

    async def run(self, sql: str, *values: Value) -> list[Row]:
        """Execute one statement. Raises DatabaseLost, DatabaseBusy, StatementRefused."""
        try:
            connection = await self._connected()
            if values:
                return [tuple(row) for row in await connection.fetch(sql, *values)]
            if sql.lstrip()[:6].upper() == "SELECT":
                return [tuple(row) for row in await connection.fetch(sql)]
            await connection.execute(sql)  # without a prepared statement, as CONCURRENTLY wants it
            return []
        except ERRORS as error:
            raise understood(error, self._place) from None

    async def version(self) -> str:
        """Return the name and the version of the server. Raises DatabaseLost."""
        ((version,),) = await self.run("SELECT current_setting('server_version')")
        return f"PostgreSQL {version!s}"

    async def lock(self, wait_s: float) -> None:
        """Take the lock of migrations, which the end of the connection gives back.

        Asked for again and again: a statement that waits for it would stand in the way of an index that is
        made CONCURRENTLY. Raises DatabaseBusy after `wait_s`.
        """
        try:
            async with asyncio.timeout(wait_s):
                while (await self.run("SELECT pg_try_advisory_lock($1)", MIGRATION_LOCK_KEY))[0][0] is False:
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise DatabaseBusy(f"{self._place}: another process has migrated for {wait_s:g} s") from None

    async def aclose(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=CLOSE_S)
            except ERRORS:
                connection.terminate()

    async def _connected(self) -> Any:
        if self._connection is None:
            self._connection = await asyncpg.connect(
                self._url.address,
                timeout=CONNECT_S,
                command_timeout=MIGRATION_S + 10.0,
                statement_cache_size=0,
                server_settings=_session_settings(self._url.pooled, MIGRATION_S, MIGRATION_LOCK_S),
            )
        return self._connection


async def _fetch(connection: Any, bound: BoundStatement) -> list[Row]:
    return [tuple(row) for row in await connection.fetch(bound.statement.sql, *bound.values)]


async def _transaction(connection: Any, bounds: list[BoundStatement]) -> list[list[Row]]:
    if len(bounds) == 1:
        return [await _fetch(connection, bounds[0])]
    await connection.execute("BEGIN")
    try:
        rows = [await _fetch(connection, bound) for bound in bounds]
        await connection.execute("COMMIT")
    except (PostgresError, InterfaceError):  # what else happens ends the connection, and so the transaction
        await connection.execute("ROLLBACK")
        raise
    return rows


async def _nothing(connection: Any) -> None:
    """Leave the connection as it is: no statement of ours changes a session."""


def _session_settings(pooled: bool, statement_s: float, lock_s: float) -> dict[str, str]:
    """Return what a connection says at its start. PgBouncer refuses most of it."""
    if pooled:
        return {"application_name": "dub5"}
    return {
        "application_name": "dub5",
        "statement_timeout": f"{statement_s * 1_000:.0f}",
        "lock_timeout": f"{lock_s * 1_000:.0f}",
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S * 1_000:.0f}",
    }


def understood(error: BaseException, place: str) -> DatabaseLost | StatementRefused:
    """Return what an error of asyncpg means. It shows no value of a statement and no password."""
    if isinstance(error, PostgresError):
        return _answered(error, place)
    if isinstance(error, ClientConfigurationError):  # its text may hold parts of the URL
        return DatabaseLost(f"{place}: an option of its URL cannot be used; check what follows the '?'")
    if isinstance(error, ValueError) or "the server expects" in str(error):  # the values do not fit
        return StatementRefused(f"{type(error).__name__}: a value, or their number, does not fit")
    if isinstance(error, TimeoutError):
        return DatabaseLost(f"{place}: it did not answer in time")
    if isinstance(error, OSError):
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__
        return DatabaseLost(f"{place}: it cannot be reached ({reason})")
    return DatabaseLost(f"{place}: the connection was lost ({type(error).__name__})")


def _answered(error: PostgresError, place: str) -> DatabaseLost | StatementRefused:
    state = error.sqlstate or "XX000"
    told = f"SQLSTATE {state}, {type(error).__name__}"
    if state in OLD_SCHEMA:
        return NotMigrated(f"{place}: {told}: its migrations have not run; run `dub5 db up`")
    if state in BUSY:
        return DatabaseBusy(f"{place}: another process holds it locked ({told})")
    for beginning, words in LOST.items():
        if state.startswith(beginning):
            return DatabaseLost(f"{place}: {words} ({told})")
    constraint = getattr(error, "constraint_name", None)
    return StatementRefused(f"{told}{f', {constraint}' if constraint else ''}")
