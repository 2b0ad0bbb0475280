"""What every Database promises, as functions that take one whose migrations have run.

`CONTRACT` lists them. A test of an engine is parametrised by it: SQLite, PostgreSQL, the simulation's.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dub5.service.store.base import Database, DatabaseLost, Statement, StatementRefused
from tests.support.database_statements import DELETE, RENEW, TURN, TURNS, WORKER, WORKERS, talk

INT_MAX = 2**63 - 1
ODD_TEXT = "Zoë \U0001f600 \t\r\n ' \" \\ ; -- $1 ?1 %s {x} \x01 \u200b"

Promise = Callable[[Database], Awaitable[None]]


async def values_come_back(database: Database) -> None:
    """Text of any kind, 64 bits, fractions and NULL come back as they were given."""
    await database.write([talk("c"), TURN.bind("t", "c", ODD_TEXT, INT_MAX)])
    assert await database.read(TURNS.bind("c")) == [("t", ODD_TEXT, INT_MAX, 1.5, None, None)]
    assert await database.read(TURNS.bind("other")) == []


async def rows_of_each_statement(database: Database) -> None:
    """A write returns the rows of each of its statements, and a later one sees what an earlier one did."""
    rows = await database.write(
        [WORKER.bind("w", 1.0), RENEW.bind("w", 2.0), WORKER.bind("w", 3.0), talk("c")]
    )
    assert rows == [[("w", 1.0)], [(2.0,)], [], []]


async def all_or_none(database: Database) -> None:
    """Nothing stays of a write of which one statement is refused."""
    for bad in (WORKER.bind("b", None), TURN.bind("t", "no such conversation", "?", 1)):
        with pytest.raises(StatementRefused):
            await database.write([WORKER.bind("a", 1.0), bad, WORKER.bind("c", 1.0)])
    assert await database.read(WORKERS.bind()) == []


async def refused_alone(database: Database) -> None:
    """Of many writes at the same time, those that are refused do not harm the others."""
    writes = [database.write([WORKER.bind(f"{i:02}", None if i % 5 == 0 else 1.0)]) for i in range(30)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [i for i, result in enumerate(results) if isinstance(result, StatementRefused)] == [
        *range(0, 30, 5)
    ]
    assert len(await database.read(WORKERS.bind())) == 24


async def repeatable(database: Database) -> None:
    """A write that is sent twice, even at the same time, has the effect of one."""
    first, second = await asyncio.gather(*(database.write([WORKER.bind("w", 1.0)]) for _ in range(2)))
    assert sorted([first, second]) == [[[]], [[("w", 1.0)]]]
    assert await database.write([RENEW.bind("w", 5.0)]) == [[(5.0,)]]
    assert await database.write([RENEW.bind("w", 5.0)]) == [[]]


async def cascade(database: Database) -> None:
    """The turns of a conversation go with it."""
    await database.write([talk("c"), talk("d"), TURN.bind("t", "c", "?", 1), TURN.bind("u", "d", "?", 1)])
    await database.write([DELETE.bind("c", "owner")])
    assert await database.read(TURNS.bind("c")) == []
    assert [row[0] for row in await database.read(TURNS.bind("d"))] == ["u"]


async def bad_values(database: Database) -> None:
    """Values that no column can hold are refused, and the next write works."""
    await database.write([talk("c")])
    for question, tokens in (("a\0b", 1), ("\ud800", 1), ("?", 2**63), ("?", -(2**63) - 1), (None, 1)):
        with pytest.raises(StatementRefused):
            await database.write([TURN.bind("t", "c", question, tokens)])
    with pytest.raises(StatementRefused):
        await database.read(TURNS.bind("\ud800"))
    await database.write([TURN.bind("t", "c", "?", 1)])


async def bad_statements(database: Database) -> None:
    """Wrong SQL and a wrong number of values are refused; nothing of a value stands in the message."""
    wrong = [
        Statement("typo", "SELEC id FROM turn").bind(),
        TURNS.bind(),
        TURNS.bind("c", "a secret of a user"),
    ]
    for bound in wrong:
        with pytest.raises(StatementRefused) as caught:
            await database.read(bound)
        assert "secret" not in str(caught.value)
    assert await database.read(TURNS.bind("c")) == []


async def unknown_table(database: Database) -> None:
    """A table that a later release brings is a matter of migrations, and said so."""
    for call in (
        database.read(Statement("later", "SELECT id FROM of_a_later_release").bind()),
        database.write([Statement("later", "DELETE FROM of_a_later_release").bind()]),
        database.read(Statement("later", "SELECT of_a_later_release FROM turn").bind()),
    ):
        with pytest.raises(DatabaseLost, match="dub5 db up"):
            await call


async def cancelled(database: Database) -> None:
    """A write that is cancelled at any moment is whole or absent, and whoever comes next is served."""
    for steps in range(12):
        name = f"c{steps:02}"
        write = asyncio.ensure_future(database.write([talk(name), TURN.bind(f"t{steps:02}", name, "?", 1)]))
        read = asyncio.ensure_future(database.read(TURNS.bind(name)))
        for _ in range(steps):
            await asyncio.sleep(0)
        for call in (write, read):
            call.cancel()
        await asyncio.gather(write, read, return_exceptions=True)
        await database.write([WORKER.bind("w", 1.0)])
    conversations = await database.read(Statement("ids", "SELECT id FROM conversation").bind())
    turns = await database.read(Statement("of", "SELECT conversation FROM turn").bind())
    assert sorted(conversations) == sorted(turns)


async def many_at_once(database: Database) -> None:
    """Hundreds of calls at the same time are all answered, each with its own rows."""
    writes = [database.write([WORKER.bind(f"{i:03}", float(i))]) for i in range(200)]
    assert await asyncio.gather(*writes) == [[[(f"{i:03}", float(i))]] for i in range(200)]
    one = Statement("one", "SELECT until FROM worker WHERE id = $1")
    reads = [database.read(one.bind(f"{i:03}")) for i in range(200)]
    assert await asyncio.gather(*reads) == [[(float(i),)] for i in range(200)]


async def closed(database: Database) -> None:
    """What was sent before the end is kept; afterwards the database is lost; it may be closed twice."""
    await database.write([WORKER.bind("w", 1.0)])
    await database.aclose()
    await database.aclose()
    for call in (database.read(WORKERS.bind()), database.write([WORKER.bind("v", 1.0)])):
        with pytest.raises(DatabaseLost):
            await call


CONTRACT: tuple[Promise, ...] = (
    values_come_back,
    rows_of_each_statement,
    all_or_none,
    refused_alone,
    repeatable,
    cascade,
    bad_values,
    bad_statements,
    unknown_table,
    cancelled,
    many_at_once,
    closed,
)
