"""Spending in each engine: a row per process, day and key, which only grows."""

import pytest

from dub5.service.store.spending import ADD, FORGET, OTHERS
from tests.support.databases import opened

pytestmark = pytest.mark.real_sockets


async def test_only_grows(url: str) -> None:
    """A write that is sent twice or late changes nothing; processes add up; old days are forgotten."""
    async with opened(url) as database:

        async def add(day: int, worker: str, usd: float) -> None:
            await database.write([ADD.bind(day, worker, "one", "k1", usd)])

        await add(5, "a", 1.5)
        await add(5, "a", 2.5)
        await add(5, "a", 1.5)
        await add(5, "b", 1.0)
        await add(4, "b", 9.0)
        assert await database.read(OTHERS.bind(5, "c")) == [("one", "k1", 3.5)]
        assert await database.read(OTHERS.bind(5, "a")) == [("one", "k1", 1.0)]
        await database.write([FORGET.bind(5)])
        assert await database.read(OTHERS.bind(4, "c")) == []
