"""What a turn asks of its database, by the database's own library alone: three calls, one after another.

    read    the last exchanges      insert    the question      update    the answer

A turn waits for its database as often as that, and each wait lets the processor's caches grow cold. So its
cost is compared with these calls and the gateway's request, and not with a request that never waits.

A reading of a history is compared with one such call, which reads as many exchanges, and writes them as JSON.
"""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import msgspec

EXCHANGES = 100
CONNECTIONS = 10  # as a service has
TABLE = "CREATE TABLE bare (id {key}, question TEXT NOT NULL, answer TEXT)"
READ = "SELECT id, question, answer FROM bare ORDER BY id DESC LIMIT 10"
READ_ALL = "SELECT id, question, answer FROM bare ORDER BY id DESC LIMIT 100"
SQLITE = "INSERT INTO bare (question) VALUES (?) RETURNING id", "UPDATE bare SET answer = ? WHERE id = ?"
POSTGRES = "INSERT INTO bare (question) VALUES ($1) RETURNING id", "UPDATE bare SET answer = $1 WHERE id = $2"


class BareDatabase(Protocol):
    """A database with one table."""

    async def open(self) -> None: ...

    async def turn(self, text: str) -> None: ...

    async def reading(self) -> bytes: ...

    async def aclose(self) -> None: ...


def bare_database(url: str) -> BareDatabase:
    """Return the database at a URL, with a table of its own; SQLite's is another file beside it."""
    scheme, _, path = url.partition(":///")
    return BareSqlite(Path(path).with_suffix(".bare")) if scheme == "sqlite" else BarePostgres(url)


class BareSqlite:
    """SQLite on a thread, as safe as the service's: it survives the loss of power."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(1)

    async def open(self) -> None:
        await self._run(self._open)

    async def turn(self, text: str) -> None:
        await self._run(lambda: self._connection.execute(READ).fetchall())
        ((id_,),) = await self._run(lambda: self._write(SQLITE[0], text))
        await self._run(lambda: self._write(SQLITE[1], text, id_))

    async def reading(self) -> bytes:
        return msgspec.json.encode(await self._run(lambda: self._connection.execute(READ_ALL).fetchall()))

    async def aclose(self) -> None:
        await self._run(self._connection.close)
        self._thread.shutdown()

    def _open(self) -> None:
        self._connection = sqlite3.connect(self._file, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(TABLE.format(key="INTEGER PRIMARY KEY"))
        for _ in range(EXCHANGES):
            self._write(
                "INSERT INTO bare (question, answer) VALUES (?, ?)", "a question" * 20, "an answer" * 20
            )

    def _write(self, sql: str, *values: Any) -> list[Any]:
        self._connection.execute("BEGIN")
        rows = self._connection.execute(sql, values).fetchall()
        self._connection.execute("COMMIT")
        return rows

    async def _run(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class BarePostgres:
    """PostgreSQL through a pool that resets nothing, as the service's."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(self._url, min_size=1, max_size=CONNECTIONS, reset=_keep)
        await self._pool.execute(TABLE.format(key="BIGSERIAL PRIMARY KEY"))
        exchange = ["a question" * 20, "an answer" * 20]
        await self._pool.executemany(
            "INSERT INTO bare (question, answer) VALUES ($1, $2)", [exchange] * EXCHANGES
        )

    async def turn(self, text: str) -> None:
        await self._pool.fetch(READ)
        id_ = await self._pool.fetchval(POSTGRES[0], text)
        await self._pool.execute(POSTGRES[1], text, id_)

    async def reading(self) -> bytes:
        return msgspec.json.encode([tuple(row) for row in await self._pool.fetch(READ_ALL)])

    async def aclose(self) -> None:
        await self._pool.close()


async def _keep(connection: Any) -> None:
    """Leave a connection as it is."""
