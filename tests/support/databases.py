"""Databases for the tests: opened with their tables, asked for the plan of a statement."""

import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from dub5.service.config.settings import DatabaseSettings
from dub5.service.store import migrate
from dub5.service.store.base import Database, Statement
from dub5.service.store.sqlite import question_marks
from dub5.service.store.url import open_database, parse_url

LARGE = ("turn", "conversation", "job", "document")  # the tables that grow with what people ask
SAMPLES = {"int8": 1, "int4": 1, "float8": 1.0}  # by type of parameter; else a text


@asynccontextmanager
async def opened(url: str, *, pool_max: int = 5, migrated: bool = True) -> AsyncIterator[Database]:
    """Open the database of a URL, and close it at the end."""
    if migrated:
        await migrate.up(url)
    database = open_database(url, DatabaseSettings(pool_max=pool_max))
    try:
        yield database
    finally:
        await database.aclose()


async def scans(url: str, statement: Statement) -> list[str]:
    """Return the steps of a statement's plan that read a large table from end to end."""
    parsed = parse_url(url)
    names = {
        alias or table
        for table, alias in re.findall(rf"\b({'|'.join(LARGE)})\b(?:\s+AS\s+(\w+))?", statement.sql)
    } | set(LARGE)
    if parsed.engine == "sqlite":
        count = max((int(number) for number in re.findall(r"\$(\d+)", statement.sql)), default=0)
        with sqlite3.connect(parsed.path) as connection:
            sql = f"EXPLAIN QUERY PLAN {question_marks(statement.sql)}"
            steps = [str(row[3]) for row in connection.execute(sql, (None,) * count)]
        connection.close()
        return [step for step in steps if step.startswith("SCAN") and step.split()[1] in names]
    connection = await asyncpg.connect(parsed.address)
    try:
        await connection.execute("SET enable_seqscan = off")  # tables are small here: it would be right
        prepared = await connection.prepare(statement.sql)
        values = [SAMPLES.get(kind.name, "x") for kind in prepared.get_parameters()]
        plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *values)
    finally:
        await connection.close()
    return _scans(json.loads(plan)[0]["Plan"])


def _scans(node: dict[str, object]) -> list[str]:
    kind, table = str(node["Node Type"]), node.get("Relation Name")
    whole = kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node)
    found = [f"{kind} of {table}"] if whole and table in LARGE else []
    for inner in node.get("Plans", ()):  # type: ignore[attr-defined]
        found += _scans(inner)
    return found
