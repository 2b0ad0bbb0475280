"""Answers in a real Redis: shared, invalidated and asked for once by several processes; nothing else is taken
for one."""

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Self

import pytest
from redis.asyncio import Redis

from dub5.service.cache.cache import AnswerCache, Selection, Stored
from dub5.service.cache.factory import open_cache
from dub5.service.cache.key import CacheKey
from dub5.service.cache.storage import VERSION, CacheEntry, encode_entry
from dub5.service.config.options import CacheBounds, CacheOptions, RedisOptions
from dub5.service.config.settings import Secret
from dub5.service.events import Events
from tests.support.questions import MARK, ON, EventRecorder, request
from tests.support.redis_server import RedisServer, redis_server

ANSWER = Stored(b"\xff an answer", "one/m")
UNHURRIED = RedisOptions(url="redis://", timeout_s=2.0)  # a busy machine makes it slow, not wrong

pytestmark = pytest.mark.real_sockets


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


class CacheProcess:
    """A cache of its own over the one Redis, as another process has it."""

    def __init__(self, server: RedisServer, prefix: str, options: RedisOptions = UNHURRIED) -> None:
        self.heard = EventRecorder()
        redis = RedisOptions(
            url=server.url, prefix=prefix, timeout_s=options.timeout_s, claim_wait_s=options.claim_wait_s
        )
        self.cache: AnswerCache = open_cache(
            CacheBounds(redis=redis), Secret(server.url), Events(self.heard), Random()
        )

    def key(self, name: str = "q", caller: str = "a", options: CacheOptions = ON) -> CacheKey:
        key = self.cache.key(request(caller, name=name), options, MARK)
        assert key is not None
        return key

    async def lookup(self, name: str = "q", caller: str = "a") -> bytes | None:
        found = await self.cache.lookup(self.key(name, caller), "chat", ON)
        return found and found.stored.body

    async def ask(self, name: str = "q", stored: Stored = ANSWER) -> None:
        key = self.key(name)
        await self.cache.lookup(key, "chat", ON)
        await self.cache.keep(key, stored, ON)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.cache.aclose()


async def test_processes_share_answers(server: RedisServer) -> None:
    """Processes share the answers of the same caller; another caller finds none."""
    async with CacheProcess(server, "share") as one, CacheProcess(server, "share") as two:
        await one.ask()
        assert await two.lookup() == ANSWER.body
        assert await two.lookup(caller="b") is None
        assert two.heard.results == ["hit", "miss"]


async def test_another_prefix_is_another_cache(server: RedisServer) -> None:
    """Two services with different prefixes in one Redis share nothing."""
    async with CacheProcess(server, "this") as one, CacheProcess(server, "that") as two:
        await one.ask()
        assert await two.lookup() is None


async def test_invalidated_everywhere_at_once(server: RedisServer) -> None:
    """An invalidation reaches a process that has the answer, and an answer on its way there."""
    async with CacheProcess(server, "gone") as one, CacheProcess(server, "gone") as two:
        await one.ask("kept")
        assert await two.lookup("kept")
        on_its_way = two.key("asked")
        assert await two.cache.lookup(on_its_way, "chat", ON) is None
        await one.cache.invalidate(Selection(route="chat"))
        await two.cache.keep(on_its_way, ANSWER, ON)
        assert [await each.lookup(name) for each in (one, two) for name in ("kept", "asked")] == [None] * 4
        await two.ask("kept")
        assert await one.lookup("kept")
        await one.cache.invalidate(Selection(caller="somebody else"))
        assert await two.lookup("kept")


@pytest.mark.parametrize("lost", ["version", "generations"])
async def test_a_redis_that_forgot_what_was_invalid(server: RedisServer, lost: str) -> None:
    """Evicted or flushed: rather is everything asked anew than something given that was taken back."""
    async with (
        CacheProcess(server, lost) as one,
        CacheProcess(server, lost) as two,
        Redis(port=server.port) as redis,
    ):
        await one.ask()
        await one.cache.invalidate(Selection(route="chat"))
        await redis.delete(f"{lost}:{lost}")
        assert await two.lookup() is None
        await two.ask()
        assert await one.lookup() == await two.lookup() == ANSWER.body


async def test_a_stampede_is_one_question(server: RedisServer) -> None:
    """Three processes with twenty requests each, all for one answer: one asks the provider."""
    asked = 0

    async def answer(process: CacheProcess) -> bytes:
        nonlocal asked
        key = process.key()
        found = await process.cache.lookup(key, "chat", ON) or await process.cache.wait_for_claim(
            key, "chat", ON
        )
        if found is not None:
            return found.stored.body
        asked += 1
        await asyncio.sleep(0.2)
        await process.cache.keep(key, ANSWER, ON)
        return ANSWER.body

    patient = RedisOptions(url="redis://", timeout_s=5.0, claim_wait_s=5.0)
    async with (
        CacheProcess(server, "herd", patient) as one,
        CacheProcess(server, "herd", patient) as two,
        CacheProcess(server, "herd", patient) as three,
    ):
        answers = await asyncio.gather(*[answer(each) for each in (one, two, three) for _ in range(20)])
    assert set(answers) == {ANSWER.body}
    assert asked == 1


async def test_who_waits_too_long_asks(server: RedisServer) -> None:
    """A process that waits too long for a claim asks by itself, and lets the next one ask at once."""
    hasty = RedisOptions(url="redis://", timeout_s=2.0, claim_wait_s=0.1)
    async with CacheProcess(server, "dead", hasty) as one, CacheProcess(server, "dead", hasty) as two:
        first, second, third = one.key(), two.key(), two.key()
        for process, key in ((one, first), (two, second), (two, third)):
            await process.cache.lookup(key, "chat", ON)
        assert await one.cache.wait_for_claim(first, "chat", ON) is None
        assert await two.cache.wait_for_claim(second, "chat", ON) is None
        assert first.claimed_by and not second.claimed_by
        await one.cache.release(first)
        assert await two.cache.wait_for_claim(third, "chat", ON) is None
        assert third.claimed_by


async def test_a_claim_is_its_owners(server: RedisServer) -> None:
    """A late process cannot end the claim of a later owner."""
    async with CacheProcess(server, "claim") as one, CacheProcess(server, "claim") as two:
        late, current = one.key(), two.key()
        assert await one.cache.claim(late)
        async with Redis(port=server.port) as redis:
            await redis.delete(f"claim:claim:{late.digest}")
        assert await two.cache.claim(current)
        await one.cache.release(late)
        assert not await one.cache.claim(one.key())


PLACE = "0" * 64
FOREIGN = {
    "nothing": b"",
    "garbage": b"\x00\xff garbage",
    "text": "ü".encode(),
    "another's JSON": b'{"choices": []}',
    "another version": b"\x98\x02"
    + encode_entry(CacheEntry(VERSION, "p", "r", "c", "t", 0.0, "s", b"b"))[2:],
    "half an entry": encode_entry(CacheEntry(VERSION, "p", "r", "c", "t", 0.0, "s", b"b"))[:-2],
    "another place's": encode_entry(CacheEntry(VERSION, PLACE, "chat", "a", "one/m", 1e12, "x", b"stolen")),
    "nested a thousand times": b"\x91" * 1_000_000,
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
async def test_what_we_did_not_write_is_a_miss(server: RedisServer, foreign: bytes) -> None:
    """An entry that the service did not write is a miss."""
    async with CacheProcess(server, "foreign") as one, Redis(port=server.port) as redis:
        await redis.set(f"foreign:answer:{one.key().digest}", foreign)
        assert await one.lookup() is None
        assert one.heard.results == ["miss"]
        await one.ask()
        assert await one.lookup() == ANSWER.body


async def test_an_answer_in_a_wrong_place_is_a_miss(server: RedisServer) -> None:
    """A valid answer to another caller's question is a miss."""
    async with CacheProcess(server, "moved") as one, Redis(port=server.port) as redis:
        await one.ask()
        there, here = one.key(caller="a").digest, one.key(caller="b").digest
        assert await redis.copy(f"moved:answer:{there}", f"moved:answer:{here}")
        assert await one.lookup(caller="a") == ANSWER.body
        assert await one.lookup(caller="b") is None


async def test_our_keys_in_other_hands(server: RedisServer) -> None:
    """Keys of another kind than ours, even the tokens: an error that is counted, and nobody's answer."""
    async with CacheProcess(server, "hands") as one, Redis(port=server.port) as redis:
        await redis.rpush(f"hands:answer:{one.key().digest}", "a list")
        assert await one.lookup() is None
        await redis.delete("hands:generations")
        await redis.mset({"hands:version": "not ours", "hands:generations": "no hash"})
        assert await one.lookup("other") is None
        assert one.heard.results == ["miss", "error"]


async def test_an_answer_ends_by_itself(server: RedisServer) -> None:
    """Redis drops an answer when it may not be served any more."""
    options = CacheOptions(enabled=True, ttl_s=60.0, stale_while_revalidate_s=30.0, stale_if_error_s=600.0)
    async with CacheProcess(server, "ends") as one, Redis(port=server.port) as redis:
        key = one.key(options=options)
        await one.cache.lookup(key, "chat", options)
        await one.cache.keep(key, ANSWER, options)
        assert 650 < await redis.ttl(f"ends:answer:{key.digest}") <= 660


async def test_keys_and_callers_are_hashes(server: RedisServer) -> None:
    """What is found in Redis names no key of a caller and no question."""
    async with CacheProcess(server, "hash") as one, Redis(port=server.port) as redis:
        await one.ask("a secret question")
        names = [name.decode() async for name in redis.scan_iter("hash:*")]
        everything = b"".join([(await redis.get(name)) or b"" for name in names if "generations" not in name])
        assert b"secret" not in everything
        assert sorted(name.rsplit(":", 1)[0] for name in names) == ["hash", "hash", "hash:answer"]
