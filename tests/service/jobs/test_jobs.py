"""Jobs end, whatever happens to the process: each step is kept once, and asked again only after a crash."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.config.settings import JobsSettings
from dub5.service.errors import AllTargetsDown
from dub5.service.events import Crashed, JobEnded, JobStepEnded
from dub5.service.jobs import job_run, worker
from dub5.service.jobs.after_step import PAUSE_MAX_S, TRIES_MAX, GiveUp, Retry, after_error
from dub5.service.jobs.model import Job, JobFailed
from dub5.service.jobs.statements import AHEAD_MAX_S, CREATE
from dub5.service.store.base import BoundStatement, DatabaseLost, Row
from dub5.service.store.store import StoreLost
from dub5.simulators.virtual.database import DatabaseFault, VirtualDatabase
from tests.support.job_world import ASK_S, OWNER, JobWorld, NumberKind, job_database

STEPS = 4


def database(*faults: DatabaseFault) -> VirtualDatabase:
    return job_database(random.Random(1), faults)


def results_of_steps(world: JobWorld) -> list[str]:
    return [event.result for event in world.of(JobStepEnded)]


async def test_job() -> None:
    """A job does its steps in order, each once, and is done."""
    async with JobWorld(database=database()) as world:
        job = await world.make(STEPS)
        assert await world.until_over(job) == "done"
        assert world.kind.asked == [(job.id, step) for step in range(STEPS)]
        assert world.results(job) == list(range(STEPS))
        assert results_of_steps(world) == ["kept"] * STEPS
        (ended,) = world.of(JobEnded)
        assert (ended.kind, ended.state) == ("number", "done")
        assert STEPS * ASK_S < ended.took_s < STEPS * ASK_S + 0.1


@pytest.mark.parametrize("at_s", [0.5 + number * 1.0 for number in range(9)])
async def test_crash(at_s: float) -> None:
    """A process that dies in any step leaves a job that the next one ends: one step is asked twice."""
    asked, storage = list[tuple[str, int]](), database()
    first = JobWorld(database=storage, kind=NumberKind(asked))
    await first.__aenter__()
    job = await first.make(STEPS)
    await asyncio.sleep(at_s)
    left = await first.die()
    async with JobWorld(database=left, kind=NumberKind(asked), seed="next") as second:
        assert await second.until_over(job) == "done"
        assert second.results(job) == list(range(STEPS))
    counts = Counter(step for _, step in asked)
    assert sorted(counts) == list(range(STEPS))
    assert max(counts.values()) <= 2
    assert counts.total() <= STEPS + 1, "only the step that was under way is asked again"


async def test_killed_again_and_again() -> None:
    """A job whose processes all die in one step fails, with a problem that its owner can read."""
    asked, storage = list[tuple[str, int]](), database()
    for number in range(TRIES_MAX):
        world = JobWorld(database=storage, kind=NumberKind(asked), seed=f"life {number}")
        await world.__aenter__()
        if not number:
            job = await world.make(1)
        while len(asked) == number:
            await asyncio.sleep(1.0)
        storage = await world.die()
    async with JobWorld(database=storage, kind=NumberKind(asked), seed="last") as world:
        assert await world.until_over(job) == "failed"
        assert "the process ended each time" in world.row(job)[3]
    assert len(asked) == TRIES_MAX


async def test_two_workers() -> None:
    """Of two processes with three workers each, no two ever do one job, and each step is asked once."""
    asked, at_work = list[tuple[str, int]](), Counter[str]()

    async def watched(job: Job) -> None:
        at_work[job.id] += 1
        assert at_work[job.id] == 1, "two have it"
        await asyncio.sleep(0.3)
        at_work[job.id] -= 1

    storage, options = database(), {"jobs": JobsSettings(workers=3)}
    kind = NumberKind(asked, watched)
    async with (
        JobWorld(database=storage, kind=kind, options=options) as one,
        JobWorld(database=storage.reopen(), kind=kind, options=options, seed="other") as other,
    ):
        jobs = [await (one, other)[number % 2].make(STEPS) for number in range(12)]
        for job in jobs:
            assert await one.until_over(job) == "done"
            assert one.results(job) == list(range(STEPS))
        assert set(Counter(asked).values()) == {1}
        assert one.of(JobStepEnded), "both have worked"
        assert other.of(JobStepEnded), "both have worked"


@contextmanager
def renewals_lost() -> Iterator[None]:
    """Let no lease be renewed: the process hangs, or its clock is wrong."""
    with mock.patch.object(job_run, "RENEW_S", 10_000.0):
        yield


async def test_lease_lost() -> None:
    """Who has lost the lease in mid-step changes no position; who has it now does the step and the rest."""
    asked, storage = list[tuple[str, int]](), database()
    slow = NumberKind(asked, ask_s=100.0)
    with renewals_lost():
        async with JobWorld(database=storage, kind=slow, seed="slow") as one:
            job = await one.make(2)
            await asyncio.sleep(1.0)
            async with JobWorld(database=storage.reopen(), kind=NumberKind(asked), seed="quick") as other:
                assert await other.until_over(job) == "done"
            assert clock.now() < 60.0
            await asyncio.sleep(120.0)
            assert results_of_steps(one) == ["lost"]
            assert one.row(job)[:2] == ("done", 2)
            assert not one.of(JobEnded)


async def test_lease_lost_is_noticed() -> None:
    """A step whose lease is another one's is cancelled when the lease is to be renewed."""
    storage = database()
    slow = NumberKind([], ask_s=1_000.0)
    async with JobWorld(database=storage, kind=slow) as one:
        job = await one.make(1)
        await asyncio.sleep(1.0)
        storage.storage.rows("UPDATE job SET lease = 'of another one' WHERE id = $1", job.id)
        await asyncio.sleep(job_run.RENEW_S + 1.0)
        assert results_of_steps(one) == ["lost"]
        assert not slow.paid


@pytest.mark.parametrize("kind", ["lost", "unsure", "silent", "full"])
@pytest.mark.parametrize("for_s", [3.0, 45.0])
async def test_database_lost(kind: Any, for_s: float) -> None:
    """A paid step is not lost when the database is away in mid-step, even for longer than the lease."""
    asked, storage = list[tuple[str, int]](), database(DatabaseFault(kind=kind, at_s=1.0, for_s=for_s))
    other = JobWorld(database=storage.reopen(), kind=NumberKind(asked), seed="other")
    async with JobWorld(database=storage, kind=NumberKind(asked)) as world, other:
        job = await world.make(STEPS)
        assert await world.until_over(job) == "done"
        assert world.results(job) == list(range(STEPS))
        assert asked == [(job.id, step) for step in range(STEPS)]


class LateDatabase(VirtualDatabase):
    """A connection that is lost for a second longer than the database is."""

    async def _call(self, bounds: list[BoundStatement], *, write: bool) -> list[list[Row]]:
        if 1.0 < clock.now() < 46.99:
            raise DatabaseLost("the network is not back yet")
        return await super()._call(bounds, write=write)


async def test_results_come_first() -> None:
    """After a loss of the database, other processes leave a job to who had it until its result is kept."""
    asked, storage = list[tuple[str, int]](), database(DatabaseFault(kind="lost", at_s=1.0, for_s=45.0))
    late = LateDatabase(storage.storage, random.Random(2))
    other = JobWorld(database=storage, kind=NumberKind(asked), seed="other")
    async with JobWorld(database=late, kind=NumberKind(asked)) as world, other:
        other.jobs.worker.options = JobsSettings(workers=0)
        await asyncio.sleep(0.5)  # a look may be under way
        job = await world.make(1)
        await asyncio.sleep(1.0)
        other.jobs.worker.options = JobsSettings()
        assert await world.until_over(job) == "done"
        assert asked == [(job.id, 0)]


async def test_slow_step_keeps_its_lease() -> None:
    """A step that takes longer than the lease is not taken by another process meanwhile."""
    asked, storage = list[tuple[str, int]](), database()
    slow = NumberKind(asked, ask_s=5 * job_run.LEASE_S)
    async with (
        JobWorld(database=storage, kind=slow) as one,
        JobWorld(database=storage.reopen(), kind=slow, seed="other"),
    ):
        job = await one.make(1)
        assert await one.until_over(job) == "done"
        assert asked == [(job.id, 0)]


async def test_retried() -> None:
    """A step whose providers are down is tried again after pauses that grow, and then works."""
    down = AllTargetsDown("No provider answered.")
    began: list[float] = []

    def ask(job: Job) -> None:
        began.append(clock.now())
        if len(began) < 4:
            raise down

    async with JobWorld(database=database(), kind=NumberKind([], ask)) as world:
        job = await world.make(1)
        assert await world.until_over(job) == "done"
        first, second, third = (b - a for a, b in pairwise(began))
        assert 3.75 <= first <= 6.0 < 11.25 <= second <= 16.0 < 33.75 <= third <= 46.0
        assert results_of_steps(world) == ["retry", "retry", "retry", "kept"]
        assert not world.of(Crashed)


@pytest.mark.parametrize(
    ("error", "words", "asked", "crashes"),
    [
        (AllTargetsDown("No provider answered."), "No provider answered.", TRIES_MAX, 0),
        (ValueError("secret"), "An internal error occurred.", TRIES_MAX, TRIES_MAX),
        (JobFailed("The document is empty."), "The document is empty.", 1, 0),
        (StoreLost("lost"), "The database did not answer.", TRIES_MAX, 0),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_failed(error: Exception, words: str, asked: int, crashes: int) -> None:
    """A job whose step never works fails, after five tries or at once, and says why, without a secret."""

    def ask(job: Job) -> None:
        raise error

    kind = NumberKind([], ask)
    async with JobWorld(database=database(), kind=kind) as world:
        job = await world.make(2)
        assert await world.until_over(job) == "failed"
        assert world.row(job)[3].endswith(words)
        assert len(kind.asked) == asked
        assert len(world.of(Crashed)) == crashes
        assert [event.state for event in world.of(JobEnded)] == ["failed"]


async def test_result_refused() -> None:
    """A step whose result the database refuses is tried again, and the job fails in the end."""

    class Wrong(NumberKind):
        async def step(self, job: Job) -> list[Any]:
            (put,) = await super().step(job)
            return [put.statement.bind(job.id, None)]

    async with JobWorld(database=database(), kind=Wrong([])) as world:
        job = await world.make(2)
        assert await world.until_over(job) == "failed"
        assert (world.row(job)[1], world.results(job)) == (0, [])


async def test_drain() -> None:
    """A process that ends gives its job back within a second; another one goes on with that very step."""
    asked, storage = list[tuple[str, int]](), database()
    async with JobWorld(database=storage, kind=NumberKind(asked, ask_s=20.0)) as one:
        job = await one.make(2)
        await asyncio.sleep(5.0)
        async with JobWorld(database=storage.reopen(), kind=NumberKind(asked), seed="other") as other:
            began_s = clock.now()
            await one.service.drain()
            while len(asked) < 2:
                await asyncio.sleep(0.01)
            assert clock.now() - began_s < 2.0
            assert results_of_steps(one) == ["given_back"]
            assert other.row(job)[2] == 1, "it was no try"
            assert await other.until_over(job) == "done"


async def test_drain_waits_for_what_is_nearly_done() -> None:
    """A step that ends within half a second of a drain is kept, and no other step is begun."""
    async with JobWorld(database=database()) as world:
        job = await world.make(3)
        await asyncio.sleep(2 * ASK_S - 0.3)
        await world.service.drain()
        assert world.row(job)[:3] == ("ready", 2, 0)
        assert len(world.kind.asked) == 2


async def test_shared_worker() -> None:
    """A long job leaves its worker to another one after a while: nobody waits for all of its steps."""
    async with JobWorld(database=database()) as world:
        long, short = await world.make(200), await world.make(1, owner="session:somebody")
        assert await world.until_over(short, within_s=30.0) == "done"
        assert world.row(long)[0] == "ready" or world.row(long)[1] > 5
        assert await world.until_over(long) == "done"
        assert len(set(world.kind.asked)) == len(world.kind.asked) == 201


async def test_no_kind() -> None:
    """A job whose kind is not known here is left to others."""
    async with JobWorld(database=database()) as world:
        world.jobs.kinds["other"] = NumberKind([])
        job = world.jobs.new(OWNER, "number", "subject", 1)
        del world.jobs.kinds["number"]
        await asyncio.sleep(0.5)  # a look for the kinds of before may be under way
        world.storage.rows(CREATE.sql, *world.jobs.creation(job).values)
        await asyncio.sleep(10.0)
        assert world.row(job)[0] == "ready"


async def test_without_leases() -> None:
    """Ablation: the job of a killed process is running until its lease runs out."""
    storage = database()
    with mock.patch.multiple(job_run, LEASE_S=650.0), mock.patch.multiple(worker, LEASE_S=650.0):
        first = JobWorld(database=storage)
        await first.__aenter__()
        job = await first.make(STEPS)
        await asyncio.sleep(3.0)
        async with JobWorld(database=await first.die(), seed="next") as second:
            await asyncio.sleep(600.0)
            assert second.row(job)[0] == "running"
            assert await second.until_over(job, 100.0) == "done"


async def test_claim_unsure() -> None:
    """A claim whose answer is lost is taken back, and counts as no try: each job is done, and asked once."""
    fault = DatabaseFault(kind="unsure", at_s=1.0, for_s=1.0)
    async with JobWorld(database=database(fault)) as world:
        await asyncio.sleep(0.5)
        jobs = [world.jobs.new(OWNER, "number", f"subject {number}", 1) for number in range(3)]
        for job in jobs:
            world.storage.rows(CREATE.sql, *world.jobs.creation(job).values)
        await asyncio.sleep(1.4)
        assert not world.kind.asked
        began_s = clock.now()
        for job in jobs:
            assert await world.until_over(job) == "done"
        assert clock.now() - began_s < worker.RETURN_S + 3 * ASK_S + 2.0
        assert sorted(Counter(world.kind.asked).values()) == [1, 1, 1]


async def test_claims_that_nobody_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost answers of claims do not use up the tries of a step that was never begun."""
    async with JobWorld(database=database()) as world:
        await asyncio.sleep(0.5)  # the first look is over
        store, lost = world.service.store, list[str]()
        assert store is not None
        write_once = store.write_once

        async def unheard(bounds: list[BoundStatement]) -> list[list[Row]]:
            rows = await write_once(bounds)
            if bounds[0].statement.name == "job_claim" and rows[0] and len(lost) <= TRIES_MAX:
                lost.append("a claim")
                raise StoreLost("the answer is lost")
            return rows

        monkeypatch.setattr(store, "write_once", unheard)
        job = await world.make(1)
        assert await world.until_over(job) == "done"
        assert len(lost) == TRIES_MAX + 1 and world.kind.asked == [(job.id, 0)]


@pytest.mark.parametrize("back_s", [60.0, 86_400.0])
@pytest.mark.parametrize("workers", [0, 1])
async def test_clock_set_back(monkeypatch: pytest.MonkeyPatch, back_s: float, workers: int) -> None:
    """A clock that is set back delays a job by minutes at most, whether it waits or a dead process has it."""
    first = JobWorld(database=database(), options={"jobs": JobsSettings(workers=workers)})
    await first.__aenter__()
    job = await first.make(STEPS)
    await asyncio.sleep(1.0)
    assert first.row(job)[0] == ("running" if workers else "ready")
    left, wall = await first.die(), clock.wall
    monkeypatch.setattr(clock, "wall", lambda: wall() - back_s)
    async with JobWorld(database=left, seed="next") as second:
        assert await second.until_over(job, AHEAD_MAX_S) == "done"


def test_a_pause_is_within_what_is_believed() -> None:
    """No pause and no lease is so long that it is taken for one of a clock that was set back."""
    assert max(PAUSE_MAX_S, job_run.LEASE_S) + 60.0 <= AHEAD_MAX_S


async def test_old_jobs() -> None:
    """A job is deleted `keep_days` after it was made, and no sooner."""
    async with JobWorld(database=database()) as world:
        old, young = (world.jobs.new(OWNER, "number", "subject", 1) for _ in range(2))
        for job, days in ((old, 30.1), (young, 29.9)):
            created = replace(job, made_at=job.made_at - days * 86_400)
            world.storage.rows(CREATE.sql, *world.jobs.creation(created).values)
        await asyncio.sleep(3_700.0)
        assert world.storage.rows("SELECT id FROM job") == [(young.id,)]


def test_pauses() -> None:
    """Pauses grow threefold from 5 s, spread by a quarter, and are no shorter than a provider asks for."""
    down = AllTargetsDown("Down.")
    pauses = [after_error(down, tries, 0.0) for tries in range(1, TRIES_MAX)]
    assert pauses == [Retry(5.0), Retry(15.0), Retry(45.0), Retry(135.0)]
    assert after_error(down, 1, 1.0) == Retry(3.75)
    assert after_error(AllTargetsDown("Down.", retry_after_s=100.0), 1, 1.0) == Retry(100.0)
    assert isinstance(after_error(down, TRIES_MAX, 0.0), GiveUp)
