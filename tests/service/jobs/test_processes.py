"""Jobs by real processes: many at once on PostgreSQL, one that is killed, one that is ended."""

import asyncio
import signal
import time
from collections import Counter
from contextlib import ExitStack
from subprocess import Popen
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.jobs.statements import CREATE
from dub5.service.store.base import BoundStatement, Database, Statement
from tests.support.child_processes import child
from tests.support.databases import opened
from tests.support.job_process import KIND, TABLE

pytestmark = pytest.mark.real_sockets

STEPS, PROCESSES = 3, 4
OWNER = "session:owner"
STATES = Statement("states", "SELECT state, COUNT(*) FROM job GROUP BY state")
ROWS = Statement("rows", "SELECT job, step FROM result")
WITHIN_S = 60.0


def working(stack: ExitStack, url: str, *, step_s: float = 0.0, lease_s: float = 30.0) -> "Popen[str]":
    """Start a process that does jobs, and return it when it does."""
    process = stack.enter_context(child("tests.support.job_process", url, str(step_s), str(lease_s)))
    return process


def ready(process: "Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"working on jobs of the kind {KIND}, at most 8 at one time\n"


async def make(database: Database, count: int, steps: int) -> None:
    creations: list[BoundStatement] = [
        CREATE.bind(OWNER, f"job-{number}", KIND, f"subject-{number}", steps, clock.wall())
        for number in range(count)
    ]
    await database.write([Statement("table", TABLE).bind()])
    await database.write(creations)


async def counts(database: Database, statement: Statement) -> Any:
    return await database.read(statement.bind())


async def until_done(database: Database, count: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while dict(await counts(database, STATES)).get("done") != count:
            await asyncio.sleep(0.05)  # what other processes do has no event


@pytest.mark.parametrize("jobs", [200, pytest.param(1_000, marks=pytest.mark.thorough)])
async def test_many(postgres: Any, jobs: int) -> None:
    """Four processes do many jobs of three steps: all end, and no step is done twice."""
    url = postgres.new_database()
    async with opened(url) as database:
        with ExitStack() as stack:
            await make(database, jobs, STEPS)
            processes = [working(stack, url) for _ in range(PROCESSES)]
            for process in processes:
                ready(process)
            await until_done(database, jobs)
        rows = Counter(await counts(database, ROWS))
        assert len(rows) == jobs * STEPS
        assert set(rows.values()) == {1}


async def test_killed(postgres: Any) -> None:
    """A process that is killed in mid-job leaves it to another one, which ends it."""
    url = postgres.new_database()
    async with opened(url) as database:
        with ExitStack() as stack:
            await make(database, 4, 6)
            first = working(stack, url, step_s=0.3, lease_s=1.5)
            ready(first)
            while len(await counts(database, ROWS)) < 6:
                await asyncio.sleep(0.02)
            first.kill()
            first.wait()
            ready(working(stack, url, step_s=0.05, lease_s=1.5))
            await until_done(database, 4)
        steps = Counter(await counts(database, ROWS))
        assert len(steps) == 4 * 6
        assert set(steps.values()) == {1}, "a step is kept with its position, or not at all"


async def test_ended(sqlite_url: str) -> None:
    """SIGTERM gives the jobs back within a second, and another process goes on with them within two."""
    url = sqlite_url
    async with opened(url) as database:
        with ExitStack() as stack:
            await make(database, 2, 2)
            first = working(stack, url, step_s=60.0)
            ready(first)
            while dict(await counts(database, STATES)).get("running") != 2:
                await asyncio.sleep(0.02)
            ready(working(stack, url, step_s=0.05))
            began_s = time.monotonic()
            first.send_signal(signal.SIGTERM)
            await until_done(database, 2)
            assert time.monotonic() - began_s < 3.0  # two for taking over, and the steps
            assert first.wait() == 0
