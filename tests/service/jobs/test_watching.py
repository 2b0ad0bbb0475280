"""Jobs over HTTP: read, watched and stopped by their owner, whichever process does them."""

import asyncio
import json
import random
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.config.settings import JobsSettings
from dub5.service.events import JobEnded, JobStepEnded
from dub5.service.jobs import jobs
from dub5.service.jobs.model import Job
from dub5.service.store.base import BoundStatement, Row
from dub5.simulators.virtual.database import DatabaseFault
from tests.support.job_world import ASK_S, JobWorld, NumberKind, job_database
from tests.support.world import ServiceWorld, healthy

NOBODY = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


async def mine(world: JobWorld, steps: int = 3) -> Job:
    """Make a job of the visitor "me"."""
    begun = await world.client.request("POST", "/v1/conversations", headers=world.signed("me"))
    conversation = begun.json()["id"]
    ((owner,),) = world.storage.rows("SELECT owner FROM conversation WHERE id = $1", conversation)
    return await world.make(steps, owner)


async def asked(world: JobWorld, method: str, path: str, who: str = "me") -> Any:
    return await world.client.request(method, f"/v1/jobs/{path}", headers=world.signed(who))


async def watched(
    world: JobWorld, job: Job, at: list[float] | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Watch a job to the end of the stream; return its events."""
    text = ""
    async with world.client.stream("GET", f"/v1/jobs/{job.id}/events", headers=world.signed("me")) as stream:
        assert stream.status == 200
        while piece := await stream.read():
            text += piece.decode()
            if at is not None:
                at.append(clock.now())
    found = []
    for event in text.split("\n\n")[:-1]:
        if not event.startswith(":"):
            name, data = event.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def world(**more: Any) -> JobWorld:
    return JobWorld(**{"database": job_database(random.Random(1))} | more)


async def test_read() -> None:
    """A job is read with its position; what is nobody's, and what is another owner's, is not there."""
    async with world() as one:
        job = await mine(one)
        await asyncio.sleep(ASK_S * 1.5)
        found = (await asked(one, "GET", job.id)).json()
        made_at = found.pop("created_at")
        assert found == {
            "id": job.id,
            "object": "job",
            "kind": "number",
            "subject": job.subject,
            "state": "running",
            "done": 1,
            "steps": 3,
            "problem": None,
            "ended_at": None,
        }
        assert made_at == job.made_at
        for path in (NOBODY, "no-id", f"{NOBODY}/events"):
            reply = await asked(one, "GET", path)
            assert (reply.status, reply.json()["error"]["code"]) == (404, "job_not_found")
        for method, path in (("GET", job.id), ("GET", f"{job.id}/events"), ("POST", f"{job.id}/stop")):
            assert (await asked(one, method, path, "you")).status == 404
        await one.until_over(job)
        assert (await asked(one, "GET", job.id)).json()["state"] == "done"


async def test_watch() -> None:
    """Who watches is told at once of each step that this process does, and last of the end."""
    async with world() as one:
        job, at = await mine(one), list[float]()
        events = await watched(one, job, at)
        assert [name for name, _ in events] == [*["progress"] * (len(events) - 1), "end"]
        assert [event["done"] for _, event in events[-5:]] == [0, 1, 2, 3, 3]
        assert events[-1][1]["state"] == "done"
        ended_at = one.storage.rows("SELECT ended_at FROM job")[0][0]
        assert clock.wall() - ended_at < 0.05
        assert [name for name, _ in await watched(one, job)] == ["progress", "end"]


async def test_watch_elsewhere() -> None:
    """Who watches at another process than that of the job is told within about a second."""
    storage = job_database(random.Random(1))
    idle = {"jobs": JobsSettings(workers=0)}
    async with (
        world(database=storage, options=idle) as here,
        world(database=storage.reopen(), seed="o") as other,
    ):
        job = await mine(here)
        events = await watched(here, job)
        assert [event["done"] for _, event in events[-3:]] == [2, 3, 3]
        assert other.of(JobEnded)
        assert not here.of(JobStepEnded)
        assert clock.wall() - here.storage.rows("SELECT ended_at FROM job")[0][0] < 1.1


async def test_watch_with_a_lost_database() -> None:
    """A stream goes on, with heartbeats, while the database is lost; a new one is refused meanwhile."""
    fault = DatabaseFault(kind="lost", at_s=1.0, for_s=40.0)
    async with world(database=job_database(random.Random(1), (fault,))) as one:
        job = await mine(one)
        watching = asyncio.create_task(watched(one, job))
        await asyncio.sleep(20.0)
        reply = await asked(one, "GET", job.id)
        assert (reply.status, reply.json()["error"]["code"]) == (503, "storage_unavailable")
        assert (await asked(one, "POST", f"{job.id}/stop")).status == 503
        assert (await watching)[-1][0] == "end"


async def test_watch_and_drain() -> None:
    """A drain ends the stream without `end`, so nobody takes the job for over."""
    async with world() as one:
        job = await mine(one, 100)
        watching = asyncio.create_task(watched(one, job))
        await asyncio.sleep(5.0)
        began_s = clock.now()
        await one.service.drain()
        events = await watching
        assert clock.now() - began_s < 2.0
        assert {name for name, _ in events} == {"progress"}


@pytest.mark.parametrize("away", [False, True])
async def test_stop(*, away: bool) -> None:
    """A job that is stopped is over at once; its step is cancelled, also in another process."""
    storage = job_database(random.Random(1))
    options = {"jobs": JobsSettings(workers=0 if away else 1)}
    slow = NumberKind([], ask_s=1_000.0)
    async with (
        world(database=storage, options=options, kind=slow) as here,
        world(database=storage.reopen(), seed="other", kind=slow) as other,
    ):
        job = await mine(here)
        while here.row(job)[0] != "running":
            await asyncio.sleep(0.1)
        reply = await asked(here, "POST", f"{job.id}/stop")
        found = reply.json()
        assert (reply.status, found["state"], found["problem"]) == (200, "failed", "It was stopped.")
        assert (await asked(here, "POST", f"{job.id}/stop")).json() == found
        await asyncio.sleep(11.0)
        assert [event.result for event in [*here.of(JobStepEnded), *other.of(JobStepEnded)]] == ["lost"]
        assert not slow.paid
        assert [name for name, _ in await watched(here, job)] == ["progress", "end"]


async def test_watchers_work() -> None:
    """Where nothing runs between requests, whoever watches a job does its steps, once, and gives it back."""
    options = {"jobs": JobsSettings(workers=0, watchers_work=True)}
    async with world(options=options) as one:
        job = await mine(one)
        await asyncio.sleep(60.0)
        assert one.row(job)[0] == "ready", "nobody watches"
        path = f"/v1/jobs/{job.id}/events"
        async with one.client.stream("GET", path, headers=one.signed("me")):
            await asyncio.sleep(1.5 * ASK_S)
        await asyncio.sleep(0.1)
        assert one.row(job)[:3] == ("ready", 1, 0)
        await asyncio.sleep(60.0)
        assert one.row(job)[:2] == ("ready", 1), "nobody watches any more"
        both = await asyncio.gather(watched(one, job), watched(one, job))
        assert [events[-1][0] for events in both] == ["end", "end"]
        assert one.results(job) == [0, 1, 2]
        assert [step for _, step in one.kind.asked] == [0, 1, 1, 2]


async def test_how_many_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many jobs are watched at one time: each of them asks the database. Who leaves makes room."""
    monkeypatch.setattr(jobs, "WATCHED_MAX", 2)
    async with world(options={"jobs": JobsSettings(workers=0)}) as one:
        all_jobs = [await mine(one) for _ in range(3)]
        paths = [f"/v1/jobs/{job.id}/events" for job in all_jobs]
        async with (
            one.client.stream("GET", paths[0], headers=one.signed("me")),
            one.client.stream("GET", paths[0], headers=one.signed("me")),
        ):
            async with one.client.stream("GET", paths[1], headers=one.signed("me")):
                async with asyncio.timeout(5.0):
                    refused = await asked(one, "GET", f"{all_jobs[2].id}/events")
                assert (refused.status, refused.json()["error"]["code"]) == (503, "overloaded")
            async with one.client.stream("GET", paths[2], headers=one.signed("me")) as stream:
                assert stream.status == 200


async def test_watcher_leaves_in_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves while the job is being taken for them leaves it to the next one, who need not wait."""
    options = {"jobs": JobsSettings(workers=0, watchers_work=True)}
    async with world(options=options) as one:
        job, store = await mine(one), one.service.store
        assert store is not None
        write_once = store.write_once

        async def late(bounds: list[BoundStatement]) -> list[list[Row]]:
            rows = await write_once(bounds)
            await asyncio.sleep(1.0)
            return rows

        monkeypatch.setattr(store, "write_once", late)
        path = f"/v1/jobs/{job.id}/events"
        async with one.client.stream("GET", path, headers=one.signed("me")):
            await asyncio.sleep(0.5)
            assert one.row(job)[:3] == ("running", 0, 1)
        await asyncio.sleep(0.1)
        assert one.row(job)[:3] == ("ready", 0, 0)
        began_s = clock.now()
        assert [name for name, _ in await watched(one, job)][-1] == "end"
        assert clock.now() - began_s < 3 * ASK_S + 2.0


async def test_no_database() -> None:
    """Without a database the paths do not exist."""
    async with ServiceWorld(one=healthy()) as one:
        reply = await one.client.request("GET", f"/v1/jobs/{NOBODY}")
        assert reply.json()["error"]["code"] == "not_found"
