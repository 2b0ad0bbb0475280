import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.errors import Internal, Overloaded
from dub5.service.events import (
    Crashed,
    JobStepEnded,
    MigrationEnded,
    RequestEnded,
    StepResult,
    WritesForgotten,
)
from dub5.service.model import AttemptRecord, Outcome
from dub5.service.telemetry import problem_rows
from dub5.service.telemetry.problem_rows import DELETE_OLD, READ
from dub5.service.telemetry.problems import (
    CRASHES_MAX,
    NOW_S,
    PEOPLE_MAX,
    PROBLEMS_MAX,
    REQUESTS_MAX,
    SHOWN_MAX,
    Problems,
    count_people,
    person_bit,
)
from dub5.simulators.virtual import run
from dub5.simulators.virtual.database import DatabaseFault, VirtualDatabase
from tests.support.conversation_world import ConversationWorld, schema
from tests.support.databases import opened
from tests.support.world import ServiceWorld, healthy, status

DOWN = AttemptRecord("one/m", 0.0, 0.1, "http_503", status=503)
STOPPED = AttemptRecord("two/m", 0.1, 0.2, "cancelled")
Told = Callable[..., RequestEnded]


@pytest.fixture
def told(request_ended: Told) -> Told:
    """Return a request that failed at its last target; keywords change it."""
    failed = request_ended(outcome=Outcome.FAILED, code="all_targets_down", target=None, attempts=(DOWN,))
    return lambda **changes: replace(failed, **changes)


def worst(problems: Problems) -> list[dict[str, Any]]:
    return list(problems.snapshot()["worst"])


async def test_groups(told: Told) -> None:
    """Equal errors are one group, which knows how often, by how many people, and the last requests."""
    problems = Problems()
    for number in range(12):
        problems.note(told(request_id=f"r-{number}", session=f"s-{number % 3}"))
    problems.note(told(request_id="nobody", caller="anonymous"))
    problems.note(told(request_id="key", caller="c0ffee"))
    problems.note(told(outcome=Outcome.CUT, code="stream_cut", attempts=(DOWN, STOPPED)))
    first, second = worst(problems)
    assert (first["what"], first["code"], first["reason"]) == ("failed", "all_targets_down", "http_503")
    assert (first["route"], first["target"], first["count"]) == ("chat", "one/m", 14)
    assert (first["people"], first["more_people"], first["anonymous"]) == (4, False, 1)
    assert first["requests"] == ["key", "nobody", "r-11", "r-10", "r-9"]
    assert (second["what"], second["reason"], second["count"]) == ("cut", "http_503", 1)
    assert json.loads(json.dumps(problems.snapshot())) == problems.snapshot()


async def test_what_is_a_problem(told: Told) -> None:
    """Failed, cut, degraded and shed requests, crashes and lost writes are; a client's own fault is not."""
    problems = Problems()
    problems.note(told(outcome=Outcome.COMPLETE, code=None, attempts=(DOWN,)))
    problems.note(told(outcome=Outcome.REFUSED, code="invalid_request", attempts=()))
    problems.note(told(outcome=Outcome.REFUSED, code="rate_limited", attempts=()))
    problems.note(told(outcome=Outcome.CANCELLED, code=None, attempts=(DOWN,)))
    problems.note(MigrationEnded(7, "0007_problems", True, 1.0))
    problems.note(JobStepEnded("deck", "job-1", 3, StepResult.RETRY, 1.0, 1))
    assert problems.snapshot() == {"now": 0, "over": 0, "worst": []}
    problems.note(JobStepEnded("deck", "job-1", 3, StepResult.FAILED, 1.0, 5))
    problems.note(told(outcome=Outcome.DEGRADED, code=None, degraded="stale"))
    problems.note(told(outcome=Outcome.REFUSED, code=Overloaded.code, attempts=()))
    problems.note(WritesForgotten(7, "the outbox is full"))
    problems.note(MigrationEnded(7, "0007_problems", False, 1.0, "no"))
    seen = {(one["what"], one["code"], one["reason"], one["count"]) for one in worst(problems)}
    assert seen == {
        ("degraded", "degraded_stale", "http_503", 1),
        ("refused", "overloaded", "", 1),
        ("writes_forgotten", "", "the outbox is full", 7),
        ("migration_failed", "", "0007_problems", 1),
        ("job_failed", "", "deck", 1),
    }


async def test_a_crash_is_one_problem(told: Told) -> None:
    """A request that crashed is counted with its crash, by place; who asked it is counted there, too."""
    problems = Problems()
    for number in range(3):
        problems.note(Crashed(f"r-{number}", "KeyError at gateway.py:12"))
        problems.note(told(request_id=f"r-{number}", code=Internal.code, session=f"s-{number}", attempts=()))
    problems.note(Crashed("r-9", "KeyError at chat.py:3"))
    first, second = worst(problems)
    assert (first["what"], first["reason"], first["count"], first["people"]) == (
        *("crash", "KeyError at gateway.py:12"),
        *(3, 3),
    )
    assert (second["reason"], second["count"]) == ("KeyError at chat.py:3", 1)
    for number in range(2 * CRASHES_MAX):
        problems.note(Crashed(f"never-{number}", "KeyError at chat.py:3"))
    assert len(problems._crashes) == CRASHES_MAX


async def test_bounded(told: Told) -> None:
    """At most 500 groups are held, the least recent is forgotten, and /status shows the worst of them."""
    problems = Problems()
    for number in range(3 * PROBLEMS_MAX):
        problems.note(told(route=f"chat-{number}"))
        problems.note(told(route="the-first"))
    assert len(problems.own()) == PROBLEMS_MAX
    seen = problems.snapshot()
    assert seen["now"] == PROBLEMS_MAX and len(seen["worst"]) == SHOWN_MAX
    assert seen["worst"][0]["route"] == "the-first" and seen["worst"][0]["count"] == 3 * PROBLEMS_MAX
    assert len(seen["worst"][0]["requests"]) == REQUESTS_MAX


def test_now_or_over(told: Told) -> None:
    """What was not seen for five minutes is over, and stands after what is there now."""

    async def play() -> list[tuple[str, bool]]:
        problems = Problems()
        for _ in range(3):
            problems.note(told(route="old"))
        await asyncio.sleep(NOW_S + 1)
        problems.note(told(route="new"))
        assert problems.counts() == {"now": 1, "over": 1}
        return [(one["route"], one["now"]) for one in worst(problems)]

    assert run(play()) == [("new", True), ("old", False)]


def test_how_many_people() -> None:
    """People are counted without their labels: a few exactly, up to a thousand within 5 %, then no more."""
    rng = random.Random(3)
    for people in (0, 1, 2, 5, 50, 300, 900):
        bits = 0
        for _ in range(people):
            bits |= 1 << person_bit(f"{rng.getrandbits(64):x}")
        assert abs(count_people(bits) - people) <= max(0, 0.05 * people)
    assert count_people((1 << 4096) - 1) == PEOPLE_MAX


async def test_odd_text(told: Told) -> None:
    """What a caller wrote as a model name goes into a group bounded, and printable: a database takes it."""
    problems = Problems()
    problems.note(told(route="x\0\ud800\n" * 1_000))
    (row,) = worst(problems)
    assert (len(row["route"]) == 200 and row["route"].isprintable()) or row["route"].count(" ")
    assert "\0" not in row["route"] and row["route"].encode()


async def test_status() -> None:
    """/status shows the problems and what is degraded, and a route that answers has none."""
    async with ServiceWorld(one=status(503)) as world:
        assert (await world.ask()).status == 503
        seen = (await world.client.request("GET", "/status")).json()
        assert seen["degraded"] == []
        assert seen["problems"]["now"] == 1
        (problem,) = seen["problems"]["worst"]
        assert (problem["what"], problem["count"], problem["target"]) == ("failed", 1, "one/m")
        text = (await world.client.request("GET", "/metrics")).body.decode()
        assert 'gateway_problems{state="now"} 1.0' in text
        assert 'gateway_route_degraded{route="chat",what="not_whole"} 0.0' in text
    async with ServiceWorld(one=healthy()) as world:
        assert (await world.ask()).status == 200
        assert (await world.client.request("GET", "/status")).json()["problems"]["worst"] == []


async def _fail(world: ConversationWorld, times: int) -> None:
    for _ in range(times):
        assert (await world.ask()).status == 503


async def _problems(world: ConversationWorld) -> list[dict[str, Any]]:
    return list((await world.client.request("GET", "/status")).json()["problems"]["worst"])


async def _count(world: ConversationWorld) -> int:
    return sum(row["count"] for row in await _problems(world))


async def test_a_restart_forgets_nothing() -> None:
    """With a database, problems survive a restart: they are read at the start, and counted on."""
    database = VirtualDatabase(schema(), random.Random(1))
    async with ConversationWorld(database=database, one=status(503)) as world:
        await _fail(world, 1)
        (before,) = await _problems(world)
    again = database.reopen()
    async with ConversationWorld(database=again, seed="other", one=status(503)) as world:
        await asyncio.sleep(1.0)
        (kept,) = await _problems(world)
        assert (kept["count"], kept["first"]) == (1, before["first"])
        await _fail(world, 1)
        (row,) = await _problems(world)
        assert row["count"] == 2 and row["first"] == before["first"] and row["last"] > before["last"]
        assert len(row["requests"]) == 2
        await asyncio.sleep(100.0)
        assert await _count(world) == 2, "rows that are read again are not counted again"


async def test_processes_of_one_database() -> None:
    """Processes over one database show the sum of what they have seen, however often they save it."""
    database = VirtualDatabase(schema(), random.Random(1))
    async with (
        ConversationWorld(database=database, seed="a", one=status(503)) as one,
        ConversationWorld(database=database.reopen(), seed="b", one=status(503)) as two,
    ):
        for _ in range(4):
            await _fail(one, 2)
            await _fail(two, 3)
            await asyncio.sleep(65.0)
        assert (await _count(one), await _count(two)) == (20, 20)


async def test_a_lost_database() -> None:
    """Writes whose answer is lost are made again, and the rows are right in the end; nothing waits."""
    database = VirtualDatabase(schema(), random.Random(1))
    async with ConversationWorld(database=database, one=status(503)) as world:
        await asyncio.sleep(5.0)
        at_s = clock.now()
        database.storage.faults = (
            DatabaseFault(kind="unsure", at_s=at_s, for_s=200.0, share=0.5),
            DatabaseFault(kind="lost", at_s=at_s + 200.0, for_s=200.0),
        )
        for _ in range(30):
            await _fail(world, 2)
            await asyncio.sleep(20.0)
        assert database.storage.rows("SELECT SUM(count) FROM problem") == [(60,)]
        assert await _count(world) == 60


@pytest.mark.real_sockets
async def test_old_rows_go(url: str) -> None:
    """Each engine takes the statements: rows are read by others, and deleted when they are old."""
    values = ("chat", "one/m", 1, 0, "1f", "a b", 1.0, 2.0)
    save = problem_rows.SAVE
    async with opened(url) as database:
        for saved_at in (100.0, 200.0, 200.0, 150.0):  # an older one comes late
            await database.write(
                [save.bind("w", 1, "failed", "c", "r", *values[:2], int(saved_at), *values[3:], saved_at)]
            )
        await database.write([save.bind("v", 1, "failed", "c", "r", *values, 50.0)])
        assert [row[0] for row in await database.read(READ.bind(0.0, "other", 10))] == ["w", "v"]
        assert [row[0] for row in await database.read(READ.bind(0.0, "w", 10))] == ["v"]
        (mine,) = await database.read(READ.bind(60.0, "v", 10))
        assert mine[7] == 200
        await database.write([DELETE_OLD.bind(60.0, 10)])
        assert [row[0] for row in await database.read(READ.bind(0.0, "other", 10))] == ["w"]
