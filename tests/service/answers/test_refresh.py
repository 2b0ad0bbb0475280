"""A stale answer is given at once, and asked for anew behind it: the whole service, in virtual time."""

import asyncio

from service.options import CacheOptions
from simulators.script import Respond
from tests.service.world import World, healthy, in_turn, status, text_of

ROUTE = {"cache": CacheOptions(enabled=True, ttl_s=10.0, stale_while_revalidate_s=60.0)}
OLD, NEW = healthy(words=("old",)), healthy(words=("new",))


def world(*answers: Respond) -> World:
    return World(one=in_turn(*answers), route=ROUTE)


async def test_stale_at_once_then_new() -> None:
    """Nobody waits for the new answer, one call brings it, and then it is what is given."""
    async with world(OLD, NEW) as served:
        await served.ask(temperature=0)
        await asyncio.sleep(20)
        stale = await asyncio.gather(*(served.ask(temperature=0) for _ in range(5)))
        await asyncio.sleep(1)
        fresh = await served.ask(temperature=0)
    assert {answer.headers["x-dub5-cache"] for answer in stale} == {"stale"}
    assert {answer.json()["choices"][0]["message"]["content"] for answer in stale} == {"old"}
    assert fresh.headers["x-dub5-cache"] == "hit"
    assert fresh.json()["choices"][0]["message"]["content"] == "new"
    assert len(served.asked["one"]) == 2


async def test_a_stream_is_refreshed_as_well() -> None:
    """The call behind a stale stream is read to its end, though nobody listens."""
    async with world(OLD, NEW) as served:
        await served.ask(stream=True, temperature=0)
        await asyncio.sleep(20)
        stale = await served.ask(stream=True, temperature=0)
        await asyncio.sleep(1)
        fresh = await served.ask(stream=True, temperature=0)
    assert (text_of(stale.body), text_of(fresh.body)) == ("old", "new")


async def test_a_refresh_that_fails() -> None:
    """The old answer is given on, and the next request tries again."""
    async with world(OLD, *[status(500, b"{}")] * 3, NEW) as served:
        await served.ask(temperature=0)
        await asyncio.sleep(20)
        answers = []
        for _ in range(3):
            answers.append(await served.ask(temperature=0))
            await asyncio.sleep(2)
    said = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert said == ["old", "old", "new"]


async def test_the_end_of_the_process() -> None:
    """A refresh that is under way ends with the service: nothing is left behind."""
    async with world(OLD, healthy(first_s=50.0)) as served:
        await served.ask(temperature=0)
        await asyncio.sleep(20)
        await served.ask(temperature=0)
