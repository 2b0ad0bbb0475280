"""500 writers on a pool of 10 connections to a real PostgreSQL, which stands still for a while."""

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.store_writers import WRITERS, measure
from tests.support.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.real_sockets


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


async def test_many_writers_few_connections(postgres: PostgresServer) -> None:
    """None of 500 writers fails for want of a connection, none starves, and what they were told is true.

    While the server stands still for a second they wait; then they go on, at once.
    """
    url = await asyncio.to_thread(postgres.new_database)
    report = await measure(url, seconds=3.0, stall=postgres._server())
    print(*report.lines(), sep="\n")
    assert report.acknowledged >= WRITERS  # in turns: each wrote at least once
    assert report.forgotten == 0
    assert report.found == report.acknowledged + report.given_up
    assert report.results["refused"] == 0
    assert report.recovery_s is not None and report.recovery_s <= 5.0
