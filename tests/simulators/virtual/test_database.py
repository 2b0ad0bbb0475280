"""The database in virtual time: transactions, waits, and every fault."""

import asyncio
import random
from collections.abc import Awaitable

import pytest

from dub5.service.store.base import BoundStatement, DatabaseLost, Row, Statement, StatementRefused
from dub5.simulators.virtual import DatabaseFault, Trace, VirtualDatabase, run

SCHEMA = "CREATE TABLE note(id TEXT PRIMARY KEY, said TEXT NOT NULL);"
PUT = Statement("put", "INSERT INTO note(id, said) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING id")
PUT_ONCE = Statement("put_once", "INSERT INTO note(id, said) VALUES ($1, $2)")
ALL = Statement("all", "SELECT id, said FROM note ORDER BY id")
PATIENCE_S = 60.0


def opened(*faults: DatabaseFault, seed: int = 0) -> VirtualDatabase:
    return VirtualDatabase(SCHEMA, random.Random(seed), faults)


def kept(database: VirtualDatabase) -> list[Row]:
    return database.storage.rows(ALL.sql)


async def said(call: Awaitable[object]) -> str:
    """Return how a call ended, and after how many ms."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        async with asyncio.timeout(PATIENCE_S):
            await call
        how = "answered"
    except DatabaseLost:
        how = "lost"
    except TimeoutError:
        how = "silent"
    took_s = loop.time() - began_s
    return f"{how} {'at once' if took_s == 0 else 'soon' if took_s < 0.01 else 'late'}"


def test_a_transaction_is_kept_whole_or_not_at_all() -> None:
    """If one statement of a transaction is refused, none of it is kept."""

    async def main() -> None:
        database = opened()
        assert await database.write([PUT.bind("a", "1"), PUT.bind("b", "2")]) == [[("a",)], [("b",)]]
        assert await database.write([PUT.bind("a", "other")]) == [[]]
        with pytest.raises(StatementRefused):
            await database.write([PUT.bind("c", "3"), PUT_ONCE.bind("a", "4")])
        assert await database.read(ALL.bind()) == [("a", "1"), ("b", "2")]

    run(main())


@pytest.mark.parametrize(
    ("fault", "write", "read", "rows"),
    [
        (DatabaseFault(kind="lost"), "lost at once", "lost at once", 0),
        (DatabaseFault(kind="slow", wait_s=2.0), "answered late", "answered late", 1),
        (DatabaseFault(kind="unsure"), "lost soon", "answered soon", 1),
        (DatabaseFault(kind="full"), "lost soon", "answered soon", 0),
        (DatabaseFault(kind="lost", share=0.0), "answered soon", "answered soon", 1),
    ],
    ids=lambda value: value.kind if isinstance(value, DatabaseFault) else "",
)
def test_each_fault_does_what_it_says(fault: DatabaseFault, write: str, read: str, rows: int) -> None:
    """A fault says how writes and reads end, and whether the write is kept."""

    async def main() -> None:
        database = opened(fault)
        assert await said(database.write([PUT.bind("a", "1")])) == write
        assert await said(database.read(ALL.bind())) == read
        assert len(kept(database)) == rows

    run(main())


def test_a_silent_database_may_have_committed() -> None:
    """Of the writes without an answer some are kept and some are not; reads get no answer either."""

    async def main() -> None:
        database = opened(DatabaseFault(kind="silent"))
        assert await said(database.read(ALL.bind())) == "silent late"
        for i in range(20):
            assert await said(database.write([PUT.bind(f"{i}", "1")])) == "silent late"
        assert 0 < len(kept(database)) < 20

    run(main())


def test_an_outage_cuts_what_is_under_way() -> None:
    """Of the writes under way when an outage begins, some are kept and some are not; after it all are."""

    async def main() -> None:
        database = opened(DatabaseFault(kind="lost", at_s=0.0007, for_s=1.0))
        ends = await asyncio.gather(*(said(database.write([PUT.bind(f"{i}", "1")])) for i in range(100)))
        lost = sum(end.startswith("lost") for end in ends)
        assert 0 < 100 - lost < len(kept(database)) < 100
        await asyncio.sleep(1.0)
        assert await said(database.write([PUT.bind("after", "1")])) == "answered soon"

    run(main())


def test_what_a_killed_process_sends_goes_nowhere() -> None:
    """After `kill` nothing arrives or is answered; another process finds what was committed before."""

    async def main() -> None:
        database = opened()
        await database.write([PUT.bind("a", "1")])
        under_way = asyncio.create_task(said(database.write([PUT.bind("b", "2")])))
        await asyncio.sleep(0)
        database.kill()
        assert await said(database.write([PUT.bind("c", "3")])) == "silent late"
        assert await under_way == "silent late"
        assert await database.reopen().read(ALL.bind()) == [("a", "1")]

    run(main())


def test_a_process_that_is_killed_learns_nothing_of_what_it_has_committed() -> None:
    """A write that is committed when the process is killed is kept, and is not answered."""

    async def main(after_s: float) -> tuple[str, int]:
        database = opened()
        under_way = asyncio.create_task(said(database.write([PUT.bind("a", "1")])))
        await asyncio.sleep(after_s)
        database.kill()
        return await under_way, len(kept(database))

    ends = {run(main(i / 20_000)) for i in range(40)}
    assert ends == {("silent late", 0), ("silent late", 1), ("answered soon", 1)}


def test_a_closed_connection_is_lost() -> None:
    """A call after `aclose` is lost at once."""

    async def main() -> None:
        database = opened()
        await database.aclose()
        assert await said(database.read(ALL.bind())) == "lost at once"

    run(main())


def test_a_write_may_be_cancelled_at_every_await() -> None:
    """A cancelled write is kept whole or not at all, and the next call works."""
    pair: list[BoundStatement] = [PUT.bind("a", "1"), PUT.bind("b", "2")]

    async def main(after_s: float) -> int:
        database = opened()
        task = asyncio.create_task(database.write(pair))
        await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.wait([task])
        rows = kept(database)
        await database.write([PUT.bind("c", "3")])
        assert len(kept(database)) == len(rows) + 1
        return len(rows)

    assert {run(main(i / 20_000)) for i in range(40)} == {0, 2}


def digest(seed: int) -> str:
    async def main() -> None:
        database = opened(DatabaseFault(kind="lost", at_s=0.001, for_s=0.001, share=0.5), seed=seed)
        await asyncio.gather(*(said(database.write([PUT.bind(f"{i}", "1")])) for i in range(50)))

    trace = Trace()
    run(main(), on_step=trace)
    return trace.digest()


def test_equal_seeds_give_equal_runs() -> None:
    """The same seed gives the same steps at the same times; another seed gives others."""
    assert digest(1) == digest(1) != digest(2)
